//! Asking what each replica holds of a key.

use http::Method;

use super::request::key_path;
use super::{Client, ClientError, ExplainView, Options, Sent};

impl Client {
    /// What each replica holds of `key`, and what reads would return now. Of the options, `r`, `w`
    /// and `timeout` count.
    pub async fn explain(&self, key: &str, options: &Options) -> Result<ExplainView, ClientError> {
        let path = key_path("/v1/explain/", key)?;
        Ok(self.json(Sent::new(Method::GET, path, options)?).await?.0)
    }
}

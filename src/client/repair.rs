//! Having a node's replicas repaired, and asking how far that is.

use http::Method;

use super::{Client, ClientError, Options, RepairView, Sent};

const PATH: &str = "/v1/cluster/repair";

impl Client {
    /// Has the node that is asked compared with every other one; answered at once. Leaderless mode.
    pub async fn start_repair(&self) -> Result<RepairView, ClientError> {
        let request = Sent::new(Method::POST, PATH.to_owned(), &Options::default())?;
        Ok(self.json(request).await?.0)
    }

    /// How far the node's repair is, or what the last one came to.
    pub async fn repair_status(&self) -> Result<RepairView, ClientError> {
        let request = Sent::new(Method::GET, PATH.to_owned(), &Options::default())?;
        Ok(self.json(request).await?.0)
    }
}

//! Asking who leads, and for another leader.

use bytes::Bytes;
use http::{HeaderValue, Method, header};

use super::{Client, ClientError, LeaderView, Options, Sent};
use crate::types::NodeId;

const PATH: &str = "/v1/cluster/leader";

impl Client {
    /// Who leads, as the node that is asked sees it.
    pub async fn leader(&self) -> Result<LeaderView, ClientError> {
        let request = Sent::new(Method::GET, PATH.to_owned(), &Options::default())?;
        Ok(self.json(request).await?.0)
    }

    /// Has leadership handed over to `to`, or to the voter that has caught up furthest. Of the
    /// options, `timeout` and `never_forward` count.
    pub async fn transfer(
        &self,
        to: Option<NodeId>,
        options: &Options,
    ) -> Result<LeaderView, ClientError> {
        let mut request = Sent::new(Method::POST, PATH.to_owned(), options)?;
        if let Some(to) = to {
            request.body = Bytes::from(format!("{{\"to\":{to}}}"));
            let json = HeaderValue::from_static("application/json");
            request.headers.insert(header::CONTENT_TYPE, json);
        }
        Ok(self.json(request).await?.0)
    }
}

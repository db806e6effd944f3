//! Asking who is of the cluster, and changing it.

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};

use super::{Client, ClientError, MembersView, Options, Sent};
use crate::types::NodeId;

const PATH: &str = "/v1/cluster/members";

/// Every change is answered with who is of the cluster then, and may be asked for again: what is so
/// already stays as it is. Of the options, `timeout` and `never_forward` count.
impl Client {
    /// Who is of the cluster, as the node that is asked sees it.
    pub async fn members(&self) -> Result<MembersView, ClientError> {
        let request = Sent::new(Method::GET, PATH.to_owned(), &Options::default())?;
        Ok(self.json(request).await?.0)
    }

    /// Adds a node, whose peers reach it at `peer`, as a learner.
    pub async fn add_member(
        &self,
        node: NodeId,
        peer: &str,
        options: &Options,
    ) -> Result<MembersView, ClientError> {
        let body = json!({ "id": node, "peer": peer });
        self.change_members(Method::POST, String::new(), Some(body), options).await
    }

    /// Gives a learner a vote.
    pub async fn promote_member(
        &self,
        node: NodeId,
        options: &Options,
    ) -> Result<MembersView, ClientError> {
        self.change_members(Method::POST, format!("/{node}/promote"), None, options).await
    }

    /// Removes a node for good.
    pub async fn remove_member(
        &self,
        node: NodeId,
        options: &Options,
    ) -> Result<MembersView, ClientError> {
        self.change_members(Method::DELETE, format!("/{node}"), None, options).await
    }

    /// Gives the vote of `node`, which is removed, to the learner `with`.
    pub async fn replace_member(
        &self,
        node: NodeId,
        with: NodeId,
        options: &Options,
    ) -> Result<MembersView, ClientError> {
        let body = json!({ "with": with });
        self.change_members(Method::POST, format!("/{node}/replace"), Some(body), options).await
    }

    async fn change_members(
        &self,
        method: Method,
        below: String,
        body: Option<Value>,
        options: &Options,
    ) -> Result<MembersView, ClientError> {
        let mut request = Sent::new(method, format!("{PATH}{below}"), options)?;
        if let Some(body) = body {
            request.body = Bytes::from(body.to_string());
            let json = HeaderValue::from_static("application/json");
            request.headers.insert(header::CONTENT_TYPE, json);
        }
        Ok(self.json(request).await?.0)
    }
}

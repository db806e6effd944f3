//! Asking which nodes hold which partitions, what a change would move, and for it.

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use serde_json::json;

use super::{Client, ClientError, LayoutNodeView, LayoutPlanView, LayoutView, Options, Sent};

const PATH: &str = "/v1/cluster/layout";

impl Client {
    /// Which nodes hold which partitions. Leaderless mode.
    pub async fn layout(&self) -> Result<LayoutView, ClientError> {
        let request = Sent::new(Method::GET, PATH.to_owned(), &Options::default())?;
        Ok(self.json(request).await?.0)
    }

    /// What would move if the partitions were spread over these nodes; of each its id, weight and zone
    /// count. Nothing changes.
    pub async fn plan_layout(
        &self,
        nodes: &[LayoutNodeView],
    ) -> Result<LayoutPlanView, ClientError> {
        let request = Sent::new(Method::POST, format!("{PATH}/plan"), &Options::default())?;
        Ok(self.json(naming(request, nodes)).await?.0)
    }

    /// Begins to spread the partitions over these nodes; of each its id, weight and zone count. Answered
    /// once that is decided, not once it is done.
    pub async fn apply_layout(&self, nodes: &[LayoutNodeView]) -> Result<LayoutView, ClientError> {
        let request = Sent::new(Method::POST, PATH.to_owned(), &Options::default())?;
        Ok(self.json(naming(request, nodes)).await?.0)
    }

    /// Goes back to the layout that stood before the change that is under way.
    pub async fn cancel_layout(&self) -> Result<LayoutView, ClientError> {
        let request = Sent::new(Method::POST, format!("{PATH}/cancel"), &Options::default())?;
        Ok(self.json(request).await?.0)
    }
}

/// The request with the nodes in its body.
fn naming(mut request: Sent, nodes: &[LayoutNodeView]) -> Sent {
    let node =
        |node: &LayoutNodeView| json!({ "id": node.id, "weight": node.weight, "zone": node.zone });
    let body = json!({ "nodes": nodes.iter().map(node).collect::<Vec<_>>() });
    request.body = Bytes::from(body.to_string());
    request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

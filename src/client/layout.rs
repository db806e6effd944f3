//! Asking which nodes hold which partitions, and what a change would move.

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
        let mut request = Sent::new(Method::POST, format!("{PATH}/plan"), &Options::default())?;
        let node = |node: &LayoutNodeView| json!({ "id": node.id, "weight": node.weight, "zone": node.zone });
        let body = json!({ "nodes": nodes.iter().map(node).collect::<Vec<_>>() });
        request.body = Bytes::from(body.to_string());
        let json = HeaderValue::from_static("application/json");
        request.headers.insert(header::CONTENT_TYPE, json);
        Ok(self.json(request).await?.0)
    }
}

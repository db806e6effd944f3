//! Handing leadership over: `POST /v1/cluster/leader`.

use std::num::NonZeroU16;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;

use crate::types::NodeId;

use super::body;
use super::cluster::LeaderView;
use super::counters::Operation;
use super::failure::{BodyError, Failure, Invalid};
use super::query::Parameters;
use super::shared::{Call, Shared, json};

/// The longest body, in bytes: it names one node.
const MAX_BODY_BYTES: usize = 1 << 10;

/// The body, where there is one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// No node has the id 0.
    to: Option<NonZeroU16>,
}

/// `POST /v1/cluster/leader`.
pub async fn transfer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Transfer);
    let result = hand_over(&shared, &call, request).await;
    shared.finish(&call, result)
}

async fn hand_over(shared: &Shared, call: &Call, request: Request) -> Result<Response, Failure> {
    let longest = shared.api.settings.limits.request_timeout;
    let parameters = Parameters::parse_passed_on(request.uri().query(), longest)?;
    let options = shared.options(call, &parameters);
    let what = "the name of the next leader";
    let runtime = &shared.api.runtime;
    let body = body::read(runtime, request.into_body(), what, MAX_BODY_BYTES, options.deadline);
    let body = body.await.map_err(Invalid::Body)?;
    let to = wanted(&body).map_err(Invalid::Body)?;
    shared.api.replicator.transfer(to, options).await?;
    Ok(json(&LeaderView::from(shared.api.replicator.status())))
}

fn wanted(body: &[u8]) -> Result<Option<NodeId>, BodyError> {
    if body.is_empty() {
        return Ok(None);
    }
    let wanted: Result<Wanted, _> = serde_json::from_slice(body);
    wanted.map(|wanted| wanted.to.map(|id| NodeId(id.get()))).map_err(|error| {
        BodyError::Malformed {
            problem: format!("{error}: expected {{\"to\": 2}} with a node's id, or nothing"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_a_node_or_nothing_and_what_else_it_says_is_refused() {
        assert_eq!(wanted(b""), Ok(None));
        assert_eq!(wanted(b"{}"), Ok(None));
        assert_eq!(wanted(b"{\"to\": 2}"), Ok(Some(NodeId(2))));
        for bad in ["{\"to\": 0}", "{\"to\": -1}", "{\"too\": 2}", "2", "{\"to\": \"2\"}", "{"] {
            let refused = wanted(bad.as_bytes());
            assert!(matches!(refused, Err(BodyError::Malformed { .. })), "{bad}: {refused:?}");
        }
    }
}

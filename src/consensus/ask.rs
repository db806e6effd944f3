//! Asking the leader for something that only it can do: one hop, since whoever does not lead then
//! says so.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;
use crate::peer::{Lane, PeerError, Request, Service, Transport};
use crate::runtime::Instant;
use crate::types::NodeId;

/// Why there is no answer.
pub(super) enum AskError {
    /// It was not asked: nothing happened.
    NotAsked(String),
    /// It may have been asked, and may have done what it was asked for.
    Unknown(String),
}

/// Asks `leader`, and waits for its answer until `deadline`.
pub(super) async fn ask<Q: Serialize, A: DeserializeOwned>(
    transport: &dyn Transport,
    leader: NodeId,
    service: Service,
    question: &Q,
    deadline: Instant,
) -> Result<A, AskError> {
    let body = codec::encode(question).map_err(|error| AskError::NotAsked(error.to_string()))?;
    let lane = Lane::Control;
    let request = Request { to: leader, lane, service, epoch: None, deadline, body };
    match transport.call(request).await {
        Ok(answer) => codec::decode("the leader's answer", &answer)
            .map_err(|error| AskError::Unknown(error.to_string())),
        Err(error @ (PeerError::NotSent { .. } | PeerError::Refused { .. })) => {
            Err(AskError::NotAsked(error.to_string()))
        }
        Err(error @ PeerError::NoAnswer { .. }) => Err(AskError::Unknown(error.to_string())),
    }
}

//! Links between the nodes of a test, with a fate for each message.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::world::World;
use crate::peer::{Answer, Inbound, PeerError, PeerView, Reply, Request, Transport};
use crate::types::NodeId;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFate {
    /// It arrives, and so does its answer.
    Deliver,
    NotSent,
    Refused,
    /// It never arrives, and the caller hears nothing.
    Lost,
    /// It arrives; its answer does not.
    AnswerLost,
    /// The caller is told at once that the link broke; the message arrives after this long.
    BrokenButArrives(Duration),
}

/// One node's end.
pub struct Wires {
    pub from: NodeId,
    pub world: Weak<World>,
}

impl Transport for Wires {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (from, to, deadline) = (self.from, request.to, request.deadline);
        let Some(world) = self.world.upgrade() else {
            return futures_util::future::pending().boxed();
        };
        let fate = world.wire_fate(from, &request);
        let delay = world.delay();
        let no_answer = |why: &str| PeerError::NoAnswer { to, reason: why.to_owned() };
        let (answered, answer) = oneshot::channel();
        let deliver = |world: &Arc<World>, after: Duration| {
            let (carrier, back) = (world.clone(), delay);
            let runtime = world.runtime.clone();
            let Request { service, epoch, body, .. } = request;
            world.runtime.spawn(async move {
                carrier.runtime.sleep(after).await;
                let reply = Reply::new(move |answer| {
                    runtime.clone().spawn(async move {
                        runtime.sleep(back).await;
                        let _ = answered.send(answer);
                    });
                });
                carrier.deliver(to, Inbound { from, service, epoch, deadline, body, reply });
            });
        };
        match fate {
            WireFate::NotSent => {
                let reason = "no connection".to_owned();
                return async move { Err(PeerError::NotSent { to, reason }) }.boxed();
            }
            WireFate::Refused => {
                let reason = "it would not".to_owned();
                return async move { Err(PeerError::Refused { to, reason }) }.boxed();
            }
            WireFate::BrokenButArrives(after) => {
                deliver(&world, after);
                let error = no_answer("the link broke");
                return async move { Err(error) }.boxed();
            }
            WireFate::Deliver | WireFate::AnswerLost => deliver(&world, delay),
            WireFate::Lost => {}
        }
        let silent = matches!(fate, WireFate::Lost | WireFate::AnswerLost);
        let late = no_answer("the deadline passed");
        let runtime = world.runtime.clone();
        async move {
            if silent {
                runtime.sleep_until(deadline).await;
                return Err(late);
            }
            match runtime.deadline(deadline, answer).await {
                Some(Ok(Answer::Body(body))) => Ok(body),
                Some(Ok(Answer::Refused(reason))) => Err(PeerError::Refused { to, reason }),
                _ => Err(late),
            }
        }
        .boxed()
    }

    fn peer(&self, node: NodeId) -> Option<PeerView> {
        let client_address = Some(format!("client-of-{node}"));
        Some(PeerView { connected: true, suspected: false, client_address, incarnation: None })
    }

    fn link(&self, _node: NodeId, _address: &str) {
        unreachable!("leader mode itself changes no links");
    }

    fn unlink(&self, _node: NodeId) {
        unreachable!("leader mode itself changes no links");
    }
}

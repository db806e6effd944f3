//! The layout that this node goes by: taken from the control plane or from another node, stored, and
//! then gone by.
//!
//! **Guarantees.** The epoch that a node goes by never falls, also not over a restart: a layout is in the
//! commit log before any request is served under it. What is done while an epoch is held ([`Core::hold`])
//! is over before another one is gone by. Once [`Core::settled_epoch`] is that of the layout, everything
//! that this node took under an earlier one is in its table.
//!
//! **How it gets around.** The control plane's group tells every member. Beside that, whoever is asked
//! for something under another epoch than its own asks for the newer layout, or tells it: so nodes agree
//! also while the group has no leader. What was committed once is true wherever it comes from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Core;
use super::collection::Waiting;
use super::compare::{decode, encode};
use super::horizons::Horizon;
use super::messages::encode_writes;
use super::replica::ReplicaError;
use super::transfer::Progress;
use super::view::View;
use crate::peer::{Inbound, Lane, PeerError, Request, Service};
use crate::planted::{self, Bug};
use crate::runtime::Instant;
use crate::storage::log::{CommitLog, Kind, LogError, NewRecord};
use crate::types::{Epoch, LayoutState, NodeId, Partition};

/// How a refusal for another epoch begins: whoever is refused so may ask again under the newer one.
pub(super) const OTHER_EPOCH: &str = "another epoch";

/// How long another node is waited for that is asked for its layout.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a node that knows no layout asks others for it.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How long to wait where the replica's queue is full.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

/// What nodes say to each other about the layout.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Ask,
    Tell(LayoutState),
}

/// What is answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    /// `None` where no layout is known.
    pub state: Option<LayoutState>,
    /// How far this node is with the step under way.
    pub progress: Option<Progress>,
}

/// See the module.
pub(super) struct Active {
    view: RwLock<Arc<View>>,
    settled: AtomicU64,
    /// Held while a layout is stored and until it is gone by.
    storing: tokio::sync::Mutex<()>,
    /// The newest that was heard of, where it is newer than what is gone by.
    heard: Mutex<Option<LayoutState>>,
    news: Notify,
    /// Told whenever the layout that is gone by is settled.
    pub changed: Notify,
    /// Nodes that are being asked or told.
    asking: Mutex<BTreeSet<NodeId>>,
}

impl Active {
    /// Goes by a layout that is stored, or by none.
    pub fn new(state: Option<LayoutState>) -> Active {
        let view = state.map_or_else(View::unknown, View::of);
        Active {
            settled: AtomicU64::new(view.epoch.0),
            view: RwLock::new(Arc::new(view)),
            storing: tokio::sync::Mutex::default(),
            heard: Mutex::default(),
            news: Notify::new(),
            changed: Notify::new(),
            asking: Mutex::default(),
        }
    }

    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// Says what layout somebody knows; what is no news is nothing.
    pub fn hear(&self, state: LayoutState) {
        let known = self.view().epoch;
        let mut heard = self.heard.lock();
        let newest = heard.as_ref().map_or(known, |heard| heard.epoch.max(known));
        if state.epoch > newest {
            *heard = Some(state);
            self.news.notify_one();
        }
    }
}

/// Puts a layout into the commit log, and waits until it is durable.
async fn store(log: &CommitLog, state: &LayoutState) -> Result<(), LogError> {
    let payload =
        encode(state).map_err(|problem| LogError::from(std::io::Error::other(problem)))?;
    log.append_durably(vec![NewRecord { kind: Kind::Layout, payload }]).await.map(|_| ())
}

/// Reads the payload of a [`Kind::Layout`] record back.
pub(super) fn decode_state(payload: &[u8]) -> Result<LayoutState, String> {
    decode(payload)
}

/// Whether a request failed since the other node goes by another epoch.
pub(super) fn is_other_epoch(error: &PeerError) -> bool {
    matches!(error, PeerError::Refused { reason, .. } if reason.starts_with(OTHER_EPOCH))
}

impl Core {
    /// The layout that this node goes by now.
    pub(super) fn view(&self) -> Arc<View> {
        self.active.view()
    }

    /// Keeps this node going by an epoch, where it does, for as long as what is given back is held. Whoever
    /// holds it must not wait, and not ask for the view.
    pub(super) fn hold(&self, epoch: Epoch) -> Result<RwLockReadGuard<'_, Arc<View>>, String> {
        let view = self.active.view.read();
        if view.epoch != epoch && !planted::is(Bug::EpochNotChecked) {
            return Err(other_epoch(view.epoch, epoch));
        }
        Ok(view)
    }

    /// Refuses where this node does not go by an epoch any more.
    pub(super) fn still_under(&self, epoch: Epoch) -> Result<(), String> {
        self.hold(epoch).map(drop)
    }

    /// The epoch of which everything that was taken under an earlier one is in the table.
    pub(super) fn settled_epoch(&self) -> Epoch {
        Epoch(self.active.settled.load(Ordering::Acquire))
    }

    /// Follows the layout for as long as the node runs; ends where the log fails.
    pub(super) async fn follow_layout(self: Arc<Core>) -> LogError {
        let mut told = self.control.watch_layout();
        let mut ask_at = self.runtime.now();
        loop {
            if let Some(state) = told.borrow_and_update().clone() {
                self.active.hear(LayoutState::clone(&state));
            }
            let news = self.active.heard.lock().take();
            if let Some(state) = news.filter(|state| state.epoch > self.view().epoch) {
                if let Err(error) = self.go_by(state).await {
                    return error;
                }
                continue;
            }
            let lost = self.view().state().is_none();
            if lost && self.runtime.now() >= ask_at {
                self.ask_around().await;
                ask_at = self.runtime.now() + ASK_AGAIN;
            }
            tokio::select! {
                biased;
                changed = told.changed() => {
                    if changed.is_err() {
                        // The control plane has stopped; other nodes still tell.
                        self.active.news.notified().await;
                    }
                }
                () = self.active.news.notified() => {}
                () = self.runtime.sleep_until(ask_at), if lost => {}
            }
        }
    }

    /// Stores a layout and goes by it.
    async fn go_by(self: &Arc<Core>, state: LayoutState) -> Result<(), LogError> {
        let view = Arc::new(View::of(state.clone()));
        let known = self.view();
        let gained: Vec<Partition> =
            view.held_by(self.node).filter(|it| !known.holds(self.node, *it)).collect();
        // Before the layout in the log, so that it is not gone by without: see `horizons`.
        while !gained.is_empty() && !self.forget_horizons(&gained).await? {
            self.runtime.sleep(FULL_QUEUE_PAUSE).await;
        }
        {
            let _storing = self.active.storing.lock().await;
            store(&self.log, &state).await?;
            self.peers.know(view.nodes.iter().copied().filter(|node| *node != self.node));
            tracing::info!(node = %self.node, epoch = %view.epoch, "goes by another layout");
            *self.active.view.write() = view.clone();
        }
        // After that: nothing is dropped any more of what the tree is to be of.
        view.held_by(self.node).for_each(|partition| self.replica.build_tree(partition));
        while !self.took_all_before().await? {
            self.runtime.sleep(FULL_QUEUE_PAUSE).await;
        }
        self.active.settled.store(view.epoch.0, Ordering::Release);
        self.active.changed.notify_waiters();
        Ok(())
    }

    /// Waits until whatever the replica has taken by now is in the table: it is before this in its queue.
    /// False where the queue has no room even for that.
    async fn took_all_before(&self) -> Result<bool, LogError> {
        let (merged, wait) = tokio::sync::oneshot::channel();
        let nothing = encode_writes(std::iter::empty());
        // Whoever waits may be gone, where the node stops.
        let done = Box::new(move |result: Result<Vec<_>, ReplicaError>| {
            drop(merged.send(result.map(drop)));
        });
        self.replica.submit(nothing, Vec::new(), done);
        self.was_taken(wait).await
    }

    /// Says of partitions that are new to this node that it does not know what their replicas promised.
    async fn forget_horizons(&self, gained: &[Partition]) -> Result<bool, LogError> {
        let unknown = |_| Some(Horizon::UNKNOWN);
        self.was_taken(self.change_horizons(gained, unknown).1).await
    }

    /// False where the queue had no room for it.
    async fn was_taken(&self, wait: Waiting) -> Result<bool, LogError> {
        match wait.await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(ReplicaError::NotTaken(_))) if self.replica.failure().is_none() => Ok(false),
            Ok(Err(_)) | Err(_) => Err(LogError::Closed),
        }
    }

    /// Stores the layout once more, so that the log can be cut before this.
    pub(super) async fn store_layout_again(&self) -> Result<(), LogError> {
        // Not beside a newer one that is stored and not gone by yet: that one's record must stay.
        let _storing = self.active.storing.lock().await;
        match self.view().state() {
            Some(state) => store(&self.log, state).await,
            None => Ok(()),
        }
    }

    /// Asks every node that is connected what layout it has.
    async fn ask_around(&self) {
        let members = self.control.status().members;
        let others: BTreeSet<NodeId> =
            members.nodes.keys().chain(self.peer_addresses.keys()).copied().collect();
        let asked = others.into_iter().filter(|node| *node != self.node);
        let asked = asked.filter(|node| self.peers.is_connected(*node));
        for answer in join_all(asked.map(|node| self.ask_for_layout(node))).await {
            if let Ok(Answer { state: Some(state), .. }) = answer {
                self.active.hear(state);
            }
        }
    }

    /// Asks a node what layout it has, and how far it is.
    pub(super) async fn ask_for_layout(&self, node: NodeId) -> Result<Answer, String> {
        self.exchange(node, &Message::Ask).await
    }

    async fn exchange(&self, node: NodeId, message: &Message) -> Result<Answer, String> {
        let deadline: Instant = self.runtime.now() + ASK_TIMEOUT;
        let call = self.transport.call(Request {
            to: node,
            lane: Lane::Control,
            service: Service::Layout,
            epoch: None,
            deadline,
            body: encode(message)?,
        });
        let answer = self.runtime.deadline(deadline, call).await.ok_or("no answer in time")?;
        decode(&answer.map_err(|error| error.to_string())?)
    }

    /// Has the one of two nodes whose layout is older told of the newer; `theirs` is the epoch of what
    /// `node` asked for.
    fn reconcile(self: &Arc<Core>, node: NodeId, theirs: Epoch) {
        let view = self.view();
        if theirs == view.epoch || !self.active.asking.lock().insert(node) {
            return;
        }
        let message = match view.state() {
            Some(state) if theirs < view.epoch => Message::Tell(state.clone()),
            _ => Message::Ask,
        };
        let core = self.clone();
        self.runtime.spawn(async move {
            // Where it fails, the next request finds it so again.
            if let Ok(Answer { state: Some(state), .. }) = core.exchange(node, &message).await {
                core.active.hear(state);
            }
            core.active.asking.lock().remove(&node);
        });
    }

    /// Refuses a request of another epoch; whichever of the two is behind is told.
    pub(super) fn refuse_epoch(self: &Arc<Core>, inbound: Inbound) {
        let ours = self.view().epoch;
        let theirs = inbound.epoch.unwrap_or(ours);
        self.reconcile(inbound.from, theirs);
        inbound.reply.refuse(other_epoch(ours, theirs));
    }

    /// Answers a node that asks for the layout, or tells it.
    pub(super) fn serve_layout(&self, inbound: Inbound) {
        let Inbound { body, reply, .. } = inbound;
        match decode::<Message>(&body) {
            Ok(Message::Ask) => {}
            Ok(Message::Tell(state)) => self.active.hear(state),
            Err(problem) => return reply.refuse(problem),
        }
        let answer =
            Answer { state: self.view().state().cloned(), progress: self.progress.lock().clone() };
        match encode(&answer) {
            Ok(body) => reply.send(body),
            Err(problem) => reply.refuse(problem),
        }
    }
}

fn other_epoch(ours: Epoch, theirs: Epoch) -> String {
    format!("{OTHER_EPOCH}: the layout here has epoch {ours}, the request {theirs}")
}

/// Bytes of a state, for a test that puts one into a log.
#[cfg(test)]
pub(super) fn encoded(state: &LayoutState) -> bytes::Bytes {
    encode(state).expect("bytes")
}

//! Raising the collection horizons: what decides that deletions may be forgotten.
//!
//! **How.** Of the replicas of a partition, the one with the lowest id raises its horizon, now and then:
//! 1. It chooses a time that lies `leaderless.tombstone_grace_ms` back.
//! 2. Every replica promises to take nothing any more that a client wrote then or before. Its answer comes
//!    once the promise is durable, and whatever it took before is in its table.
//! 3. It compares with every replica, everything that differs, and then once more: the first time it is
//!    brought what any of them has, the second time each is brought what it has by then.
//! 4. Every replica is told that the horizon is reached, and drops the deletions from then or before.
//!
//! **Why that is enough.** After the second comparison each replica has, of every record from then or
//! before that any had when the first began, that or something newer. Nothing else from then can come: no
//! replica takes it from a client or a hint any more, repairs are copies of what replicas have, and a repair
//! from before is refused by what it has survived (see [`super::horizons`]).
//!
//! **When it does not.** It needs every replica; while one is away, or the layout changes, or a node has
//! something left to bring to others, deletions stay. A replica makes no promise for a time that its own
//! clock says is less than half the grace ago, and so promises less where its clock is behind, or that of
//! the one that asks ahead: clocks must not have writes refused that come through it. The horizon is then
//! what all have promised.
//!
//! **Costs.** Nothing where nothing is to be collected, but one message a peer and round. Else a promise and
//! a word a replica and chunk of partitions, and two comparisons.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::Core;
use super::compare::{decode, encode};
use super::comparison::{Comparison, Scope};
use super::horizons::{Horizon, Late};
use super::replica::ReplicaError;
use super::tally::Taken;
use super::view::View;
use crate::peer::{Inbound, Lane, Request, Service};
use crate::planted::{self, Bug};
use crate::storage::rows;
use crate::storage::table::{Table, TableError, just_after};
use crate::types::{Epoch, NodeId, PARTITIONS, Partition};

/// How often horizons are raised: four times a grace, and within these bounds.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
const MOST_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// How long a replica may take for a promise, or to take in that a horizon is reached.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Partitions whose horizon is raised together: where that fails, it fails for all of them.
const TOGETHER: usize = 32;

/// How soon a node that is new to partitions asks again what the others promised.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Rows looked at in one go to find one that may be collected.
const PAGE_ROWS: usize = 512;

/// What a node asks of a replica, of some partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    /// What are their horizons?
    Horizons(Vec<u8>),
    /// Take nothing from then or before any more, in milliseconds since 1970; or from before, by a clock that
    /// is behind.
    Promise(Vec<u8>, u64),
    /// Every replica has everything from then or before.
    Reached(Vec<u8>, u64),
}

impl Message {
    fn partitions(&self) -> Vec<Partition> {
        let (Message::Horizons(named) | Message::Promise(named, _) | Message::Reached(named, _)) =
            self;
        named.iter().copied().map(Partition).collect()
    }
}

/// Raises horizons for as long as the node runs.
pub(super) async fn run(core: Arc<Core>) {
    let grace = core.settings.tombstone_grace;
    if grace.is_zero() {
        return;
    }
    let interval = (grace / 4).clamp(LEAST_INTERVAL, MOST_INTERVAL);
    loop {
        // Apart by chance, so that nodes that started together do not all begin at once.
        let chance = core.runtime.random_below(1 + interval.as_millis() as u64 / 8);
        core.runtime.sleep(interval + Duration::from_millis(chance)).await;
        let view = core.view();
        if !view.stands() || core.settled_epoch() != view.epoch || core.is_departing(&view) {
            continue;
        }
        for (replicas, partitions) in own_groups(&view, core.node) {
            let peers = replicas.into_iter().filter(|node| *node != core.node).collect();
            let round = Round { core: &core, epoch: view.epoch, peers };
            if let Err(reason) = round.run(&partitions).await {
                tracing::debug!(%reason, "no horizon was raised; it is tried again");
            }
        }
    }
}

/// The partitions whose horizon a node raises, by their replicas.
fn own_groups(view: &View, node: NodeId) -> BTreeMap<BTreeSet<NodeId>, Vec<Partition>> {
    let mut groups = BTreeMap::<BTreeSet<NodeId>, Vec<Partition>>::new();
    for partition in Partition::all() {
        let replicas: BTreeSet<NodeId> = view.old_replicas(partition).iter().copied().collect();
        if replicas.first() == Some(&node) {
            groups.entry(replicas).or_default().push(partition);
        }
    }
    groups
}

/// Raising the horizon of partitions that have the same replicas.
struct Round<'a> {
    core: &'a Arc<Core>,
    epoch: Epoch,
    peers: Vec<NodeId>,
}

impl Round<'_> {
    async fn run(&self, partitions: &[Partition]) -> Result<(), String> {
        let grace_ms = self.core.settings.tombstone_grace.as_millis() as u64;
        let at_ms = self.core.ceiling.now().millis().saturating_sub(grace_ms);
        let wanted = self.wanted(partitions, at_ms).await?;
        let mut raised = Ok(());
        for some in wanted.chunks(TOGETHER) {
            // Also after one that failed: it may fail for long.
            raised = self.raise(some, at_ms).await.and(raised);
        }
        raised
    }

    /// The partitions that have something to collect, or that not all replicas have reached the same of.
    async fn wanted(&self, of: &[Partition], at_ms: u64) -> Result<Vec<Partition>, String> {
        let mut wanted = self.core.collectable(of, at_ms).await.map_err(|it| it.to_string())?;
        for peer in &self.peers {
            let theirs = self.core.ask_horizons(*peer, self.epoch, of).await?;
            let differ = of.iter().zip(theirs).filter(|(partition, theirs)| {
                theirs.reached_ms != self.core.replica.horizon(**partition).reached_ms
            });
            wanted.extend(differ.map(|(partition, _)| *partition));
        }
        Ok(wanted.into_iter().collect())
    }

    async fn raise(&self, partitions: &[Partition], at_ms: u64) -> Result<(), String> {
        let named: Vec<u8> = partitions.iter().map(|partition| partition.0).collect();
        let promised_ms = self.promises(&named, at_ms).await?;
        if !planted::is(Bug::CollectedWithoutProof) {
            for _ in 0..2 {
                self.compare(partitions).await?;
            }
        }
        let reached = Message::Reached(named, promised_ms);
        let told = self.tell_peers(&reached).await;
        // Also where one of the others did not hear it: it was proven.
        self.core.do_as_told(&reached, self.epoch).await?;
        told.map(drop)
    }

    /// Has every replica promise, and gives what all have promised: that is earlier than it was asked for where
    /// a clock is behind, and later where they promised more before.
    async fn promises(&self, named: &[u8], at_ms: u64) -> Result<u64, String> {
        let least = |told: Vec<Vec<Horizon>>| {
            told.into_iter().flatten().map(|horizon| horizon.promised_ms).min()
        };
        let theirs = self.tell_peers(&Message::Promise(named.to_vec(), at_ms)).await?;
        let theirs_ms = least(theirs).unwrap_or(at_ms);
        // Last, and no more than the others do: this node's clock may run ahead of all of theirs.
        let promise = Message::Promise(named.to_vec(), at_ms.min(theirs_ms));
        let own = self.core.do_as_told(&promise, self.epoch).await?;
        Ok(least(vec![own]).unwrap_or(theirs_ms).min(theirs_ms))
    }

    /// Compares with every other replica, everything that differs.
    async fn compare(&self, partitions: &[Partition]) -> Result<(), String> {
        for peer in &self.peers {
            let comparison = Comparison::new(self.core, *peer, false)
                .of(partitions.iter().copied().collect(), self.epoch)
                .everything();
            if comparison.run(&mut BTreeMap::new()).await? == Scope::Part {
                return Err(format!("what node {peer} has could not all be compared"));
            }
        }
        Ok(())
    }

    /// Tells every other replica, and gives the horizons of each; an error where one does not do it.
    async fn tell_peers(&self, message: &Message) -> Result<Vec<Vec<Horizon>>, String> {
        let asked =
            self.peers.iter().map(|peer| self.core.ask_to_collect(*peer, self.epoch, message));
        join_all(asked).await.into_iter().collect()
    }
}

impl Core {
    /// Whether a node has something left of partitions that it held, and may yet bring it to others. One that
    /// is no member any more brings nothing.
    fn is_departing(&self, view: &View) -> bool {
        let told = self.control.watch_layout().borrow().clone();
        // Under one epoch they only become fewer.
        let Some(state) = told.as_deref().filter(|state| state.epoch == view.epoch) else {
            // What the control plane knows may be older than the layout: so may its members.
            return view.state().is_none_or(|state| !state.departing.is_empty());
        };
        let members = self.control.status().members;
        state.departing.iter().any(|node| members.nodes.contains_key(node))
    }

    /// The partitions in which this node's replica has a deletion from then or before.
    async fn collectable(
        &self,
        partitions: &[Partition],
        at_ms: u64,
    ) -> Result<BTreeSet<Partition>, TableError> {
        let (table, partitions) = (self.table.clone(), partitions.to_vec());
        let look = move || {
            let mut found = BTreeSet::new();
            for partition in partitions {
                if has_collectable(&*table, partition, at_ms)? {
                    found.insert(partition);
                }
            }
            Ok(found)
        };
        self.runtime.blocking(look).await
    }

    /// What another replica's horizons are, in the order of the partitions.
    async fn ask_horizons(
        &self,
        peer: NodeId,
        epoch: Epoch,
        partitions: &[Partition],
    ) -> Result<Vec<Horizon>, String> {
        let named = partitions.iter().map(|partition| partition.0).collect();
        let horizons = self.ask_to_collect(peer, epoch, &Message::Horizons(named)).await?;
        match horizons.len() == partitions.len() {
            true => Ok(horizons),
            false => Err(format!("node {peer} does not tell the horizon of each partition")),
        }
    }

    async fn ask_to_collect(
        &self,
        peer: NodeId,
        epoch: Epoch,
        message: &Message,
    ) -> Result<Vec<Horizon>, String> {
        let deadline = self.runtime.now() + TIMEOUT;
        let call = self.transport.call(Request {
            to: peer,
            lane: Lane::Bulk,
            service: Service::Collect,
            epoch: Some(epoch),
            deadline,
            body: encode(message)?,
        });
        let answer = self.runtime.deadline(deadline, call).await;
        let body = answer.ok_or("no answer in time")?.map_err(|error| error.to_string())?;
        decode(&body)
    }

    /// Answers a peer that asks, on a task of its own: the log is waited for.
    pub(super) fn serve_collection(self: &Arc<Core>, inbound: Inbound, epoch: Epoch) {
        let Inbound { body, reply, .. } = inbound;
        let message: Message = match decode(&body) {
            Ok(message) => message,
            Err(problem) => return reply.refuse(problem),
        };
        if message.partitions().len() > PARTITIONS {
            return reply.refuse(format!("there are {PARTITIONS} partitions"));
        }
        let core = self.clone();
        self.runtime.spawn(async move {
            let horizons = core.do_as_told(&message, epoch).await;
            match horizons.and_then(|horizons| encode(&horizons)) {
                Ok(body) => reply.send(body),
                Err(reason) => reply.refuse(reason),
            }
        });
    }

    /// Promises, or takes in that a horizon is reached, and gives the horizons; an error where this node's
    /// replica does not.
    async fn do_as_told(&self, message: &Message, epoch: Epoch) -> Result<Vec<Horizon>, String> {
        let partitions = message.partitions();
        let done = {
            // Held until it is in the replica's queue: see `active`.
            let view = self.hold(epoch)?;
            let asked = match message {
                Message::Horizons(_) => None,
                Message::Promise(_, at_ms) => Some((*at_ms, true)),
                Message::Reached(_, at_ms) => Some((*at_ms, false)),
            };
            asked.map(|(at_ms, promise)| self.raise_own(&view, &partitions, at_ms, promise))
        };
        let Some(changed) = done else {
            return Ok(partitions.iter().map(|it| self.replica.horizon(*it)).collect());
        };
        // Not as they are by then: later changes may not be durable.
        let (horizons, done) = changed?;
        let done = done.await.map_err(|_| "the replica stops".to_owned())?;
        done.map(|()| horizons).map_err(|error| error.to_string())
    }

    fn raise_own(
        &self,
        view: &View,
        partitions: &[Partition],
        at_ms: u64,
        promise: bool,
    ) -> Result<(Vec<Horizon>, Waiting), String> {
        if !view.stands() {
            return Err("the layout changes".to_owned());
        }
        if !partitions.iter().all(|partition| view.holds(self.node, *partition)) {
            return Err("it does not hold all of these partitions".to_owned());
        }
        let grace_ms = self.settings.tombstone_grace.as_millis() as u64;
        if grace_ms == 0 {
            return Err("it keeps deletions for ever".to_owned());
        }
        let latest_ms = self.ceiling.now().millis().saturating_sub(grace_ms / 2);
        let at_ms = if promise { at_ms.min(latest_ms) } else { at_ms };
        let raise = move |horizon: Horizon| match promise {
            true => (!horizon.is_unknown())
                .then(|| Horizon { promised_ms: horizon.promised_ms.max(at_ms), ..horizon }),
            false => (!horizon.is_unknown() && horizon.promised_ms >= at_ms)
                .then(|| Horizon { reached_ms: horizon.reached_ms.max(at_ms), ..horizon }),
        };
        Ok(self.change_horizons(partitions, raise))
    }

    /// Has horizons changed; what is given back says what they will be, and when that is durable.
    pub(super) fn change_horizons(
        &self,
        partitions: &[Partition],
        change: impl Fn(Horizon) -> Option<Horizon>,
    ) -> (Vec<Horizon>, Waiting) {
        let (merged, wait) = tokio::sync::oneshot::channel();
        // Whoever waits may be gone, where the node stops.
        let done = Box::new(move |result: Result<Vec<Result<Taken, Late>>, ReplicaError>| {
            drop(merged.send(result.map(drop)));
        });
        (self.replica.change_horizons(partitions, change, done), wait)
    }

    /// Learns from the old replicas what they promised of the partitions that this node is new to; until then
    /// it takes no client's write of them. Any of them knows: a horizon is reached only when all promised.
    pub(super) async fn learn_horizons(&self, view: &View) {
        while self.view().epoch == view.epoch {
            let is_unknown = |it: &Partition| self.replica.horizon(*it).is_unknown();
            let unknown: Vec<Partition> = view.held_by(self.node).filter(is_unknown).collect();
            if unknown.is_empty() {
                return;
            }
            let others = view.nodes.iter().copied().filter(|node| *node != self.node);
            for peer in others.filter(|node| self.peers.is_connected(*node)) {
                let knows = |it: &&Partition| view.old_replicas(**it).contains(&peer);
                let of_peer: Vec<Partition> = unknown.iter().filter(knows).copied().collect();
                match self.ask_horizons(peer, view.epoch, &of_peer).await {
                    Ok(horizons) => self.learn(&of_peer, &horizons).await,
                    Err(reason) => tracing::debug!(%peer, %reason, "it does not say its horizons"),
                }
            }
            if view.held_by(self.node).any(|it| is_unknown(&it)) {
                self.runtime.sleep(ASK_AGAIN).await;
            }
        }
    }

    async fn learn(&self, partitions: &[Partition], horizons: &[Horizon]) {
        let learnt = partitions.iter().zip(horizons).map(|(partition, theirs)| {
            let learns = move |own: Horizon| {
                let knows = own.is_unknown() && !theirs.is_unknown();
                knows.then_some(Horizon { promised_ms: theirs.promised_ms, ..own })
            };
            self.change_horizons(&[*partition], learns).1
        });
        // Together, for one sync. What fails is asked for again.
        join_all(learnt.collect::<Vec<_>>()).await;
    }
}

/// Until a change of horizons is durable.
pub(super) type Waiting = tokio::sync::oneshot::Receiver<Result<(), ReplicaError>>;

fn has_collectable(
    table: &dyn Table,
    partition: Partition,
    at_ms: u64,
) -> Result<bool, TableError> {
    let (mut from, to) = rows::collectable_range(partition);
    loop {
        let page = table.scan(&from, &to, PAGE_ROWS)?;
        let is_due = |due: &[u8]| due.try_into().is_ok_and(|due| u64::from_be_bytes(due) <= at_ms);
        if page.iter().any(|(_, due)| is_due(due)) {
            return Ok(true);
        }
        match page.last().filter(|_| page.len() == PAGE_ROWS) {
            Some((last, _)) => from = just_after(last).into(),
            None => return Ok(false),
        }
    }
}

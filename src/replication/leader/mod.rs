//! Leader mode: the leader orders every write, any node takes requests.
//!
//! **Why it exists.** A client may ask any node. Writes go through the `pump` into the Raft log,
//! from wherever they arrive; reads pass the `gate` and are then served from this node's own
//! table, so that followers carry their share.
//!
//! **Guarantees.** Writes are linearizable; so are reads and lists, unless they ask for `local`; at
//! `lease` as long as no clock runs twice as fast as another. A
//! write that is answered *not applied* never shows up, and one that is answered *unknown* shows up
//! wholly and once, or not at all. A request crosses one peer link at most.
//!
//! **Does not guarantee** that a page of a list shows one moment: see [`fold`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::explain::Explanation;
use super::{
    ClusterStatus, Cost, List, ListAnswer, ReadAnswer, Replicator, RequestOptions, WriteAnswer,
    fold,
};
use crate::consensus::{Consensus, Submission};
use crate::error::{LeadershipError, MembershipError, ReadError, Refusal, WriteError};
use crate::peer::{Inbound, Service, SharedTransport};
use crate::planted::{self, Bug};
use crate::runtime::{Runtime, Task};
use crate::storage::encoding;
use crate::storage::rows;
use crate::storage::table::{Table, TableError, on_a_task};
use crate::telemetry::Metrics;
use crate::types::{EffectiveLevel, Key, Level, MemberChange, Mode, NodeId, Record, Write};

mod asks;
mod context;
mod expirer;
mod explain;
mod flight;
mod forward;
mod freshness;
mod gate;
mod group;
mod list;
mod pump;
mod queue;
mod reads;
mod slot;
#[cfg(test)]
mod tests;
mod vouches;

pub use self::group::Group;

use self::context::Context;
use self::forward::{ReadIndexRequest, Verdict, Vouching, decode, encode};
use self::freshness::Freshness;
use self::gate::ReadGate;
use self::list::TableRows;
use self::pump::Pump;
use self::queue::{NotQueued, Pending, Queue, Remote, write_bytes};
use self::slot::{Leaving, Settled, slot};
use self::vouches::Vouches;

/// How long stopping waits for writes that are under way.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// How long a checkpoint may take.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(60);

/// How far the clock of a node that forwards a write may run ahead of the leader's before its
/// proposed time is cut, in milliseconds: versions never go back, so one broken clock would push
/// them ahead for good. A clock that is behind counts as the leader's.
const MAX_CLOCK_LEAD_MS: u64 = 500;

/// What a node's part in leader mode is made of.
pub struct LeaderOptions<G = Consensus> {
    pub runtime: Runtime,
    pub node: NodeId,
    /// How often the data directory was opened, this time included.
    pub boot: u64,
    /// Every node of the cluster with its peer address.
    pub peers: BTreeMap<NodeId, String>,
    /// Where clients reach this node.
    pub advertise: String,
    pub group: Arc<G>,
    pub table: Arc<dyn Table>,
    pub transport: SharedTransport,
    pub metrics: Metrics,
    /// While the oldest write has waited its turn for longer than this, more are refused.
    pub max_queue_wait: Duration,
    /// How long this node's reads, while it leads, wait for a follower's question to vouch for them.
    pub read_patience: Duration,
}

/// A read that may look at the table.
struct Admitted {
    level: EffectiveLevel,
    cost: Cost,
    /// For [`Context::still_whole`], afterwards.
    installs: u64,
}

/// Leader mode on one node.
pub struct Leader<G = Consensus> {
    context: Arc<Context<G>>,
    gate: Arc<ReadGate<G>>,
    /// The gate of reads at `lease`.
    lease_gate: Arc<ReadGate<G>>,
    pump_task: Mutex<Option<Task<()>>>,
    gate_tasks: [Task<()>; 2],
    expirer_task: Task<()>,
    /// The end of the log at the start; [`Replicator::ready`] waits until it is applied.
    caught_up_index: u64,
    caught_up: AtomicBool,
}

impl<G: Group> Leader<G> {
    /// Starts the node's part; the group must run.
    pub fn start(options: LeaderOptions<G>) -> Leader<G> {
        let caught_up_index = options.group.status().last_log_index;
        let vouches = Vouches::new(options.runtime.random_u64(), options.read_patience);
        let context = Arc::new(Context {
            runtime: options.runtime,
            node: options.node,
            peers: options.peers,
            advertise: options.advertise,
            group: options.group,
            table: options.table,
            transport: options.transport,
            metrics: options.metrics,
            queue: Queue::new(options.max_queue_wait),
            freshness: Freshness::default(),
            vouches,
        });
        let boot = if planted::is(Bug::BootNumberReused) { 1 } else { options.boot };
        let pump = Pump::new(context.clone(), boot);
        let gate = Arc::new(ReadGate::new(context.clone(), Vouching::Confirmed));
        let lease_gate = Arc::new(ReadGate::new(context.clone(), Vouching::ByLease));
        let run = |gate: &Arc<ReadGate<G>>| context.runtime.spawn(gate.clone().run());
        Leader {
            pump_task: Mutex::new(Some(context.runtime.spawn(pump.run()))),
            gate_tasks: [run(&gate), run(&lease_gate)],
            expirer_task: context.runtime.spawn(expirer::run(context.clone())),
            caught_up_index,
            caught_up: AtomicBool::new(false),
            gate,
            lease_gate,
            context,
        }
    }

    async fn write(
        &self,
        mut write: Write,
        options: RequestOptions,
    ) -> Result<WriteAnswer, WriteError> {
        check_write_level(&options)?;
        let context = &self.context;
        if planted::is(Bug::ConditionCheckedAtProposal)
            && let Some(condition) = write.condition.take()
        {
            let row = context.table.get(&rows::data_row(&write.key)).ok().flatten();
            let held = row.and_then(|row| encoding::peek(&row).ok());
            let current = held.filter(|(_, tombstone)| !tombstone).map(|(version, _)| version);
            if !condition.holds(current) {
                return Err(WriteError::PreconditionFailed { current });
            }
        }
        context.may_serve(options.may_forward)?;
        let (slot, mut waiter) = slot();
        let now = context.runtime.now();
        let pending = Pending::new(write, slot, now, options.deadline, options.may_forward);
        context.queue.push_write(pending).map_err(|reason| {
            if matches!(reason, NotQueued::Slow { .. }) {
                context.metrics.writes_refused_as_slow.inc();
            }
            Refusal::from(reason)
        })?;
        let settled = context.runtime.deadline(options.deadline, &mut waiter).await;
        let left = settled.map_or_else(|| waiter.leave(), Leaving::Settled);
        match left {
            Leaving::Settled(Settled { result, forwarded }) => Ok(WriteAnswer {
                version: result?,
                superseded_by: None,
                level: EffectiveLevel::Linearizable,
                cost: context.write_cost(forwarded),
            }),
            Leaving::Unknown if !planted::is(Bug::UnknownSaidNotApplied) => {
                let detail = "the leader gave no answer in time".to_owned();
                Err(WriteError::Unknown { detail })
            }
            Leaving::NotApplied | Leaving::Unknown => {
                let detail = context.no_leader(context.group.leader());
                Err(Refusal::NoLeader { detail }.into())
            }
        }
    }

    async fn read(&self, key: Key, options: RequestOptions) -> Result<ReadAnswer, ReadError> {
        let Admitted { level, cost, installs } = self.admit(&options).await?;
        let table = &*self.context.table;
        let row = on_a_task(table, || table.get(&rows::data_row(&key))).map_err(table_refusal)?;
        self.context.still_whole(installs)?;
        let record = row.as_ref().map(encoding::decode).transpose();
        let mut record = record.map_err(|error| damaged(&key, &error))?;
        if planted::is(Bug::ExpiryByOwnClock) {
            record = record.map(|record| record.as_of(self.context.runtime.wall_ms()));
        }
        Ok(ReadAnswer { record, level, cost })
    }

    async fn list(&self, list: List, options: RequestOptions) -> Result<ListAnswer, ReadError> {
        let asked_at = self.context.runtime.now();
        let Admitted { level, cost, installs } = self.admit(&options).await?;
        let mut source = TableRows::new(&self.context.runtime, &self.context.table, &list.prefix);
        // A record whose time is over is there until the log says so, whatever this node's clock does.
        let now_ms = 0;
        let page = fold::fold(&mut source, &list, now_ms);
        let waited = options.deadline.saturating_duration_since(asked_at);
        let page = self.context.runtime.deadline(options.deadline, page).await;
        let page = page.ok_or(ReadError::TimedOut { waited })??;
        self.context.still_whole(installs)?;
        Ok(ListAnswer { items: page.items, prefixes: page.prefixes, next: page.next, level, cost })
    }

    /// Takes another node's submission; one hop at most, so it is never passed on.
    fn take_forwarded(&self, inbound: Inbound) {
        let leader = self.context.group.leader();
        if leader != Some(self.context.node) {
            let reason = "this node does not lead".to_owned();
            return match encode(&Verdict::NotTaken { leader, reason }) {
                Ok(body) => inbound.reply.send(body),
                Err(reason) => inbound.reply.refuse(reason),
            };
        }
        let mut submission: Submission = match decode(&inbound.body) {
            Ok(submission) => submission,
            Err(problem) => return inbound.reply.refuse(format!("not a submission: {problem}")),
        };
        if submission.session.origin != inbound.from {
            return inbound.reply.refuse("a submission of another node");
        }
        // Nor behind it: a time to live counts from the version, and ends by the leader's clock.
        let now_ms = self.context.runtime.wall_ms();
        let latest = (now_ms + MAX_CLOCK_LEAD_MS) << 16;
        submission.proposed_time = submission.proposed_time.clamp(now_ms << 16, latest);
        let bytes = submission.writes.iter().map(write_bytes).sum();
        let Inbound { deadline, reply, .. } = inbound;
        let remote = Remote { submission, bytes, deadline, reply };
        if let Err(remote) = self.context.queue.push_remote(remote) {
            remote.reply.refuse("the leader's write queue is full, or it is stopping");
        }
    }

    async fn stop(&self) {
        self.expirer_task.abort();
        self.context.queue.close();
        self.gate.close();
        self.lease_gate.close();
        let task = self.pump_task.lock().take();
        if let Some(mut task) = task {
            let grace = self.context.runtime.now() + SHUTDOWN_GRACE;
            if self.context.runtime.deadline(grace, &mut task).await.is_none() {
                task.abort();
            }
        }
        self.context.queue.drain();
        self.gate_tasks.iter().for_each(Task::abort);
    }
}

impl<G> Drop for Leader<G> {
    fn drop(&mut self) {
        let task = self.pump_task.get_mut().take();
        task.iter().chain(&self.gate_tasks).for_each(Task::abort);
    }
}

impl<G: Group> Replicator for Leader<G> {
    fn read(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ReadAnswer, ReadError>> {
        Box::pin(Leader::read(self, key, options))
    }

    fn write(
        &self,
        write: Write,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<WriteAnswer, WriteError>> {
        Box::pin(Leader::write(self, write, options))
    }

    fn list(
        &self,
        list: List,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ListAnswer, ReadError>> {
        Box::pin(Leader::list(self, list, options))
    }

    fn explain(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<Explanation, ReadError>> {
        Box::pin(self.explain_key(key, options))
    }

    fn status(&self) -> ClusterStatus {
        self.context.cluster_status()
    }

    fn transfer(
        &self,
        to: Option<NodeId>,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<NodeId, LeadershipError>> {
        Box::pin(async move {
            self.context.may_serve(options.may_forward)?;
            Ok(self.context.group.transfer(to, options.deadline).await?)
        })
    }

    fn change_members(
        &self,
        change: MemberChange,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<(), MembershipError>> {
        Box::pin(async move {
            self.context.may_serve(options.may_forward)?;
            Ok(self.context.group.change_members(change, options.deadline).await?)
        })
    }

    fn ready(&self) -> Result<(), String> {
        let status = self.context.group.status();
        if let Some(reason) = status.stopped {
            return Err(format!("the Raft group has stopped on this node: {reason}"));
        }
        if status.installing {
            return Err("a snapshot is being installed".to_owned());
        }
        if status.leader.is_none() {
            return Err("no leader is known".to_owned());
        }
        if status.cluster.is_none() {
            return Err("the cluster is not named yet".to_owned());
        }
        if !status.members.nodes.contains_key(&self.context.node) {
            return Err("this node is not a member of the cluster yet".to_owned());
        }
        // The end of the log may never commit, and be replaced by a shorter one: then the whole of
        // what is there now will do.
        let applied = status.applied_index;
        if applied >= self.caught_up_index.min(status.last_log_index) {
            self.caught_up.store(true, Ordering::Relaxed);
        }
        if self.caught_up.load(Ordering::Relaxed) {
            return Ok(());
        }
        let end = self.caught_up_index;
        Err(format!("the log is being applied: at entry {applied} of {end}"))
    }

    fn handle(&self, inbound: Inbound) {
        match inbound.service {
            Service::Forward => self.take_forwarded(inbound),
            Service::Inspect => self.take_inspect(inbound),
            Service::ReadIndex => match decode(&inbound.body) {
                Ok(ReadIndexRequest { vouching: Vouching::Confirmed, word }) => {
                    asks::take(&self.context, &self.gate, word, inbound);
                }
                Ok(ReadIndexRequest { vouching: Vouching::ByLease, .. }) => {
                    self.lease_gate.take(inbound);
                }
                Err(problem) => {
                    inbound.reply.refuse(format!("no request for a read index: {problem}"));
                }
            },
            other => {
                inbound.reply.refuse(format!("{} is no service of leader mode", other.as_str()));
            }
        }
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.context.group.compact(CHECKPOINT_TIMEOUT))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.stop())
    }
}

fn check_write_level(options: &RequestOptions) -> Result<(), Refusal> {
    refuse_replica_counts(options)?;
    if options.max_staleness.is_some() {
        return Err(reads::staleness_without_local());
    }
    match options.level {
        None | Some(Level::Linearizable) => Ok(()),
        Some(level @ (Level::Quorum | Level::Lease | Level::Local)) => {
            let (mode, allowed) = (Mode::Leader, "linearizable");
            Err(Refusal::LevelNotOffered { level, mode, allowed })
        }
    }
}

/// `r` and `w` choose replicas to wait for; here a majority always decides.
fn refuse_replica_counts(options: &RequestOptions) -> Result<(), Refusal> {
    let given = [("r", options.r), ("w", options.w)];
    match given.into_iter().find(|(_, count)| count.is_some()) {
        None => Ok(()),
        Some((parameter, _)) => {
            let problem = "leader mode always waits for a majority: leave it out".to_owned();
            Err(Refusal::BadParameter { parameter, problem })
        }
    }
}

fn table_refusal(error: TableError) -> ReadError {
    Refusal::Storage { detail: error.to_string() }.into()
}

fn damaged(key: &Key, error: &encoding::DecodeError) -> ReadError {
    Refusal::Storage { detail: format!("the row of key '{key}' is damaged: {error}") }.into()
}

/// A row as a record, for lists.
fn record_of(key: &Key, row: &bytes::Bytes) -> Result<Record, ReadError> {
    encoding::decode(row).map_err(|error| damaged(key, &error))
}

//! Applying entries: what the log says, turned into one batch of rows.
//!
//! **Guarantees.** The outcome depends on the entries and the table alone, so it is the same on
//! every node. Within a batch a later entry sees what an earlier one did. Versions strictly rise in
//! log order. The rows, the sessions and the applied position change in one atomic batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use super::codec;
use super::expiry;
use super::idempotency::{self, Memory, Recall};
use super::raft_types::{Entry, LogId, StoredMembership};
use super::roster::Roster;
use super::sessions::{Origin, Verdict};
use super::{Applied, Command, Control, Submission, SubmissionResult, WriteResult};
use crate::planted::{self, Bug};
use crate::storage::table::{Table, TableBatch, just_after};
use crate::storage::{encoding, rows};
use crate::telemetry::Metrics;
use crate::types::{
    ClusterId, Content, Epoch, LayoutCommand, LayoutRefusal, LayoutState, Members, NodeId, Record,
    Version, Write,
};

/// Sessions read at once when the state is loaded.
const SESSIONS_A_SCAN: usize = 64;

/// The row that says what was applied.
pub(super) const GROUP_ROW: &str = "raft.group";

/// What the state machine knows beside the rows; itself a row, changed with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupState {
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    /// The clock reading of the last version given.
    pub(super) last_time: u64,
    pub(super) cluster: Option<ClusterId>,
    pub(super) roster: Roster,
    /// Which nodes hold which partitions, in leaderless mode once that was founded.
    pub(super) layout: Option<Arc<LayoutState>>,
}

impl GroupState {
    /// Who is of the group.
    pub(super) fn members(&self) -> Members {
        self.roster.members(&self.membership)
    }

    /// Changes whenever [`GroupState::members`] does.
    pub(super) fn members_version(&self) -> (Option<LogId>, usize) {
        (*self.membership.log_id(), self.roster.introduced())
    }

    /// Changes whenever the layout does.
    pub(super) fn layout_version(&self) -> Option<(Epoch, usize, usize)> {
        let done = |state: &Arc<LayoutState>| state.change.as_ref().map_or(0, |it| it.done.len());
        self.layout.as_ref().map(|state| (state.epoch, done(state), state.departing.len()))
    }

    fn change_layout(&mut self, command: LayoutCommand) -> Result<Epoch, LayoutRefusal> {
        let begins = matches!(command, LayoutCommand::Begin { .. });
        if begins && self.membership.membership().get_joint_config().len() > 1 {
            return Err(LayoutRefusal::MembersChange);
        }
        let is_member = |node: NodeId| self.membership.get_node(&node).is_some();
        let changed = LayoutState::take(self.layout.as_deref(), command, is_member)?;
        let epoch = changed.epoch;
        self.layout = Some(Arc::new(changed));
        Ok(epoch)
    }
}

/// All of the state machine's state that is in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct MachineState {
    pub(super) group: GroupState,
    pub(super) sessions: BTreeMap<NodeId, Origin>,
    pub(super) retries: Memory,
    pub(super) expiries: expiry::Order,
}

impl MachineState {
    /// Reads the state back from the table.
    pub(super) fn load(table: &dyn Table) -> io::Result<MachineState> {
        let group = match table.get(&rows::meta_row(GROUP_ROW)).map_err(io::Error::other)? {
            Some(row) => codec::decode("the applied position in the table", &row)?,
            None => GroupState::default(),
        };
        let (mut from, to) = rows::session_range();
        let mut sessions = BTreeMap::new();
        loop {
            let page = table.scan(&from, &to, SESSIONS_A_SCAN).map_err(io::Error::other)?;
            let Some((last, _)) = page.last() else { break };
            from = just_after(last).into();
            for (row, value) in page {
                let origin = rows::parse_session_row(&row)
                    .ok_or_else(|| codec::invalid("a session row", format!("{row:?}")))?;
                sessions.insert(NodeId(origin), codec::decode("a session in the table", &value)?);
            }
        }
        let (retries, expiries) = (Memory::load(table)?, expiry::Order::load(table)?);
        Ok(MachineState { group, sessions, retries, expiries })
    }
}

/// What is known of a value that a row holds.
#[derive(Clone, Copy)]
struct Holding {
    version: Version,
    expires_at_ms: Option<u64>,
}

/// Entries being applied: their effects, until they become one batch of the table.
pub(super) struct Applying<'a> {
    state: &'a mut MachineState,
    table: &'a dyn Table,
    metrics: &'a Metrics,
    batch: TableBatch,
    /// What the rows changed so far now hold, if they hold a value.
    changed: HashMap<Bytes, Option<Holding>>,
    touched: BTreeSet<NodeId>,
    retries: idempotency::Changes,
    expiries: expiry::Changes,
}

impl<'a> Applying<'a> {
    /// Starts a batch. Where it fails, neither the table nor `state` may be used any more.
    pub(super) fn new(
        state: &'a mut MachineState,
        table: &'a dyn Table,
        metrics: &'a Metrics,
    ) -> Applying<'a> {
        Applying {
            state,
            table,
            metrics,
            batch: TableBatch::default(),
            changed: HashMap::new(),
            touched: BTreeSet::new(),
            retries: idempotency::Changes::default(),
            expiries: expiry::Changes::default(),
        }
    }

    /// Whether an entry was applied before.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let applied = self.state.group.applied;
        applied.is_some_and(|applied| entry.log_id.index <= applied.index)
    }

    /// Applies an entry.
    pub(super) fn entry(&mut self, entry: &Entry) -> io::Result<Applied> {
        let applied = match &entry.payload {
            EntryPayload::Blank => Applied::Nothing,
            EntryPayload::Membership(membership) => {
                let now = StoredMembership::new(Some(entry.log_id), membership.clone());
                let group = &mut self.state.group;
                group.roster.change(&group.membership, &now);
                group.membership = now;
                Applied::Nothing
            }
            EntryPayload::Normal(proposal) => {
                let command = proposal.decode().map_err(|e| codec::invalid("a log entry", e))?;
                self.command(command)?
            }
        };
        self.state.group.applied = Some(entry.log_id);
        Ok(applied)
    }

    /// Applies all rows at once, the sessions and the position with them.
    pub(super) fn commit(mut self) -> io::Result<()> {
        for origin in &self.touched {
            if let Some(session) = self.state.sessions.get(origin) {
                self.batch.put(rows::session_row(origin.0), codec::encode(session)?);
            }
        }
        self.batch.put(rows::meta_row(GROUP_ROW), codec::encode(&self.state.group)?);
        self.table.apply(self.batch).map_err(io::Error::other)
    }

    fn command(&mut self, command: Command) -> io::Result<Applied> {
        match command {
            Command::Control(Control::MintCluster { cluster }) => {
                self.state.group.cluster.get_or_insert(cluster);
                Ok(Applied::Nothing)
            }
            Command::Control(Control::Introduce { node, incarnation }) => {
                let group = &mut self.state.group;
                if !planted::is(Bug::MembersNotIntroduced) {
                    group.roster.introduce(&group.membership, node, incarnation);
                }
                Ok(Applied::Nothing)
            }
            Command::Control(Control::Layout(command)) => {
                Ok(Applied::Layout(self.state.group.change_layout(command)))
            }
            Command::Data(submissions) => {
                let results = submissions.into_iter().map(|submission| self.submission(submission));
                Ok(Applied::Data(results.collect::<io::Result<_>>()?))
            }
            Command::Expire { now_ms } => {
                self.expire(now_ms)?;
                Ok(Applied::Nothing)
            }
        }
    }

    fn submission(&mut self, submission: Submission) -> io::Result<SubmissionResult> {
        let session = submission.session;
        self.touched.insert(session.origin);
        match self.state.sessions.entry(session.origin).or_default().admit(session) {
            _ if planted::is(Bug::SessionLostOnApply) => {}
            Verdict::Settled => {
                self.metrics.writes_deduplicated.inc_by(submission.writes.len() as u64);
                return Ok(SubmissionResult::Settled);
            }
            Verdict::Known(results) => {
                self.metrics.writes_deduplicated.inc_by(submission.writes.len() as u64);
                return Ok(SubmissionResult::Applied(results));
            }
            Verdict::Fresh => {}
        }
        let mut results = Vec::with_capacity(submission.writes.len());
        for write in submission.writes {
            results.push(self.write(write, submission.proposed_time, session.origin)?);
        }
        if let Some(origin) = self.state.sessions.get_mut(&session.origin) {
            origin.keep(session.sequence, results.clone());
        }
        Ok(SubmissionResult::Applied(results))
    }

    fn write(
        &mut self,
        mut write: Write,
        proposed_time: u64,
        origin: NodeId,
    ) -> io::Result<WriteResult> {
        self.sweep()?;
        let retry = write.retry.take().filter(|_| !planted::is(Bug::IdempotencyKeyIgnored));
        let Some(retry) = retry else {
            return self.write_once(write, proposed_time, origin);
        };
        // Also where nothing is written, so that log time goes on and keys expire.
        self.next_time(proposed_time);
        let now_ms = self.log_time_ms();
        let recalled = self.retries.recall(&self.state.retries, self.table, now_ms, &retry)?;
        if let Recall::Decided(result) = recalled {
            match result {
                WriteResult::KeyReused | WriteResult::KeysFull => {
                    self.metrics.idempotency_keys_refused.inc();
                }
                WriteResult::Written { .. } | WriteResult::PreconditionFailed { .. } => {
                    self.metrics.writes_remembered.inc();
                }
            }
            return Ok(result);
        }
        let result = self.write_once(write, proposed_time, origin)?;
        let (memory, kept) = (&mut self.state.retries, result.clone());
        self.retries.remember(memory, self.table, &mut self.batch, now_ms, retry, kept)?;
        Ok(result)
    }

    /// Forgets a few idempotency keys whose time is over.
    fn sweep(&mut self) -> io::Result<()> {
        let now_ms = self.log_time_ms();
        self.retries.sweep(&mut self.state.retries, self.table, &mut self.batch, now_ms)
    }

    /// The time that the log has reached, by the versions given.
    fn log_time_ms(&self) -> u64 {
        self.state.group.last_time >> 16
    }

    fn next_time(&mut self, proposed_time: u64) -> u64 {
        let mut time = self.state.group.last_time.saturating_add(1).max(proposed_time);
        if planted::is(Bug::VersionFromWallClock) {
            time = proposed_time;
        }
        self.state.group.last_time = time;
        time
    }

    fn write_once(
        &mut self,
        write: Write,
        proposed_time: u64,
        origin: NodeId,
    ) -> io::Result<WriteResult> {
        let row = rows::data_row(&write.key);
        if let Some(condition) = write.condition {
            let current = self.current(&row)?.map(|held| held.version);
            if !condition.holds(current) {
                return Ok(WriteResult::PreconditionFailed { current });
            }
        }
        let mut version = Version::new(self.next_time(proposed_time), origin);
        if planted::is(Bug::WriteAppliedTwiceAtOnce) {
            let record = write.change.clone().into_record(version);
            self.batch.put(row.clone(), encoding::encode(&record));
            version = Version::new(self.next_time(proposed_time), origin);
        }
        let record = write.change.into_record(version);
        let expires_at_ms = record.expires_at_ms();
        // Where the order is empty, nothing that is held expires, and what was written over is not read.
        if self.state.expiries.next_ms().is_some()
            && !planted::is(Bug::ExpiresWhateverIsThere)
            && let Some(at_ms) = self.current(&row)?.and_then(|held| held.expires_at_ms)
        {
            self.expiries.remove(&mut self.batch, at_ms, &write.key);
        }
        if let Some(at_ms) = expires_at_ms {
            let order = &mut self.state.expiries;
            self.expiries.add(order, &mut self.batch, at_ms, (&write.key, version));
        }
        let holding = Holding { version, expires_at_ms };
        self.changed.insert(row.clone(), (!record.is_tombstone()).then_some(holding));
        self.batch.put(row, encoding::encode(&record));
        Ok(WriteResult::Written { version })
    }

    /// Makes what is due tombstones, unless something was written over it.
    fn expire(&mut self, now_ms: u64) -> io::Result<()> {
        let order = &mut self.state.expiries;
        for due in self.expiries.take_due(order, self.table, &mut self.batch, now_ms)? {
            let row = rows::data_row(&due.key);
            let current = self.current(&row)?.map(|held| held.version);
            if current != Some(due.version) && !planted::is(Bug::ExpiresWhateverIsThere) {
                continue;
            }
            let tombstone = Record { version: due.version, content: Content::Tombstone };
            self.changed.insert(row.clone(), None);
            self.batch.put(row, encoding::encode(&tombstone));
            self.metrics.records_expired.inc();
        }
        Ok(())
    }

    /// What is known of the value at a row, this batch's changes counted.
    fn current(&self, row: &Bytes) -> io::Result<Option<Holding>> {
        if let Some(changed) = self.changed.get(row) {
            return Ok(*changed);
        }
        let Some(bytes) = self.table.get(row).map_err(io::Error::other)? else { return Ok(None) };
        let (version, tombstone) = encoding::peek(&bytes).map_err(io::Error::other)?;
        let expires_at_ms = encoding::peek_expiry(&bytes).map_err(io::Error::other)?;
        Ok((!tombstone).then_some(Holding { version, expires_at_ms }))
    }
}

//! openraft's state machine over the table.
//!
//! **Guarantees.** What was applied is in the table before anyone is told. Entries that are ready
//! together share one atomic batch. A snapshot that openraft was told of is durable: a checkpoint was
//! taken after its last entry was applied. While a snapshot is installed, [`Machine::is_installing`]
//! says so and the table is incomplete (see `replacing`).
//!
//! **Waiting.** A table may wait for its disk while a batch is applied. That holds up no other task:
//! neither one that would have run on the same thread, nor one that asks what was applied.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{FutureExt, Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::apply::{Applying, GroupState, MachineState};
use super::codec;
use super::installation;
use super::pins::Pins;
use super::raft_types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use super::snapshot::{self, Incoming, Manifest};
use super::turns::Turns;
use crate::planted::{self, Bug};
use crate::runtime::flag::Flag;
use crate::runtime::watch;
use crate::runtime::{Instant, Runtime};
use crate::storage::disk::Disk;
use crate::storage::encoding;
use crate::storage::table::{Table, TableView, on_a_task};
use crate::telemetry::Metrics;
use crate::types::{ClusterId, LayoutState, MemberChange, Members, NodeId};

/// How much is applied as one batch at most: entries, and bytes of them. More makes readers wait
/// longer for the first of them and saves nothing.
const MAX_BATCH_ENTRIES: usize = 256;
const MAX_BATCH_BYTES: usize = 1 << 20;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// The state machine; shared by openraft, the snapshot sender and the readers of its state.
pub(super) struct Machine {
    pub(super) runtime: Runtime,
    pub(super) table: Arc<dyn Table>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) metrics: Metrics,
    /// Whether the group's state includes the user rows: false in leaderless mode, where they
    /// belong to the replica.
    pub(super) orders_data: bool,
    /// Held while a batch is applied, for as long as the table takes.
    pub(super) state: Mutex<MachineState>,
    /// What others ask for; held for a moment only.
    pub(super) seen: Mutex<Seen>,
    pub(super) applied: watch::Sender<u64>,
    pub(super) members: watch::Sender<Members>,
    /// Which nodes hold which partitions, as it is applied here.
    pub(super) layout: watch::Sender<Option<Arc<LayoutState>>>,
    /// Installations begun and ended, both counted: odd while one is under way.
    pub(super) installs: AtomicU64,
    /// Held while a batch is applied, and for as long as the rows are being replaced.
    pub(super) rows: AsyncMutex<()>,
    /// Whether a batch to be applied waits for them.
    pub(super) rows_awaited: Flag,
    /// Whether a snapshot is being laid into the table that openraft has not been told of yet.
    pub(super) untold: Flag,
    /// The last checkpoint, as openraft was told of it.
    checkpoint: watch::Sender<Option<SnapshotMeta>>,
    /// How much of a snapshot is sent, and installed, a second.
    pub(super) snapshot_bytes_per_s: u64,
    /// One snapshot is sent at a time.
    pub(super) sending: Turns,
    /// Whether the group waits for those that are sent one, as the leader sees it.
    pub(super) haste: Flag,
    /// What the snapshots being sent keep from being purged.
    pub(super) pins: Arc<Pins>,
}

/// The parts of the group's state that are asked for while a batch is applied: as they were before it.
#[derive(Clone, Default)]
pub(super) struct Seen {
    applied: Option<LogId>,
    cluster: Option<ClusterId>,
    membership: Option<LogId>,
    strangers: Vec<NodeId>,
    next_expiry_ms: Option<u64>,
}

impl Seen {
    pub(super) fn of(state: &MachineState) -> Seen {
        let group = &state.group;
        Seen {
            next_expiry_ms: state.expiries.next_ms(),
            applied: group.applied,
            cluster: group.cluster,
            membership: *group.membership.log_id(),
            strangers: group.roster.strangers(&group.membership),
        }
    }
}

/// What openraft hands around as a snapshot.
#[derive(Clone)]
pub(super) enum SnapshotData {
    /// The table of this machine, as it is when the snapshot is sent.
    Live(Arc<Machine>),
    /// The file that was received, and what it holds.
    Received(Manifest),
}

/// A consistent picture of the rows, and the state that belongs to it.
pub(super) struct Capture {
    pub(super) group: GroupState,
    /// `None` where the group has no rows.
    pub(super) view: Option<Box<dyn TableView>>,
}

/// What [`Machine::open`] needs.
pub(super) struct MachineOptions {
    pub(super) runtime: Runtime,
    pub(super) table: Arc<dyn Table>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) metrics: Metrics,
    pub(super) orders_data: bool,
    pub(super) snapshot_bytes_per_s: u64,
}

impl Machine {
    /// Finishes an interrupted install and reads the state back. Blocking.
    pub(super) fn open(options: MachineOptions) -> io::Result<Machine> {
        let MachineOptions { runtime, table, disk, metrics, orders_data, .. } = options;
        installation::recover(&table, &disk, orders_data)?;
        let mut state = MachineState::load(&*table)?;
        if planted::is(Bug::ReplaySkipsOne) {
            state.group.applied.iter_mut().for_each(|applied| applied.index += 1);
        }
        Ok(Machine {
            pins: Arc::new(Pins::new(runtime.clone())),
            runtime,
            table,
            disk,
            metrics,
            orders_data,
            applied: watch::Sender::new(index_of(&state.group)),
            members: watch::Sender::new(state.group.members()),
            layout: watch::Sender::new(state.group.layout.clone()),
            seen: Mutex::new(Seen::of(&state)),
            state: Mutex::new(state),
            installs: AtomicU64::new(0),
            rows: AsyncMutex::new(()),
            rows_awaited: Flag::default(),
            untold: Flag::default(),
            checkpoint: watch::Sender::new(None),
            snapshot_bytes_per_s: options.snapshot_bytes_per_s,
            sending: Turns::default(),
            haste: Flag::default(),
        })
    }

    /// The index of the last entry applied, as it changes; 0 also where none was.
    pub(super) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Who is of the group, as it changes.
    pub(super) fn watch_members(&self) -> watch::Receiver<Members> {
        self.members.subscribe()
    }

    /// Waits until `change` is applied here, or until `deadline`.
    pub(super) async fn see(&self, change: &MemberChange, deadline: Instant) {
        let mut members = self.watch_members();
        let seen = async { members.wait_for(|members| members.show(change)).await.is_ok() };
        // Whoever asked is told that it is done either way.
        let _ = self.runtime.deadline(deadline, seen).await;
    }

    /// How many voters and learners there are.
    pub(super) fn nodes(&self) -> usize {
        self.members.borrow().nodes.len()
    }

    /// The entry that the membership is of.
    pub(super) fn membership_log_id(&self) -> Option<LogId> {
        self.seen.lock().membership
    }

    /// The members of whom no incarnation is known.
    pub(super) fn strangers(&self) -> Vec<NodeId> {
        self.seen.lock().strangers.clone()
    }

    /// When the first record expires, or earlier, in milliseconds since 1970.
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        self.seen.lock().next_expiry_ms
    }

    /// The last checkpoint, as it changes.
    pub(super) fn watch_checkpoint(&self) -> watch::Receiver<Option<SnapshotMeta>> {
        self.checkpoint.subscribe()
    }

    /// The last entry applied.
    pub(super) fn applied(&self) -> Option<LogId> {
        self.seen.lock().applied
    }

    /// The cluster's name, once it was minted.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.seen.lock().cluster
    }

    /// Whether the table is incomplete.
    pub(super) fn is_installing(&self) -> bool {
        self.installs().is_none()
    }

    /// See [`super::Consensus::installs`].
    pub(super) fn installs(&self) -> Option<u64> {
        let count = self.installs.load(Ordering::SeqCst);
        count.is_multiple_of(2).then_some(count / 2)
    }

    /// Takes a view together with the state it belongs to. Blocking.
    pub(super) fn capture(&self) -> io::Result<Capture> {
        let state = self.state.lock();
        if self.is_installing() {
            return Err(io::Error::other("a snapshot is being installed here"));
        }
        let view = match self.orders_data {
            true => Some(self.table.view().map_err(io::Error::other)?),
            false => None,
        };
        Ok(Capture { group: state.group.clone(), view })
    }

    fn meta(&self) -> SnapshotMeta {
        Runtime::wait_here(|| snapshot::meta(&self.state.lock().group))
    }

    /// Makes the table durable and remembers what it held.
    pub(super) async fn take_checkpoint(&self) -> io::Result<()> {
        self.checkpoint_of(self.meta()).await
    }

    /// Makes the table durable, and remembers that it holds what `meta` names, or more.
    async fn checkpoint_of(&self, meta: SnapshotMeta) -> io::Result<()> {
        let table = self.table.clone();
        let checkpoint = move || table.checkpoint().map_err(io::Error::other);
        self.runtime.blocking(checkpoint).await?;
        self.metrics.checkpoints.inc();
        self.note_checkpoint(meta);
        Ok(())
    }

    /// Remembers a checkpoint, unless a later one is known: one that began before a snapshot was
    /// installed may end after it.
    pub(super) fn note_checkpoint(&self, meta: SnapshotMeta) {
        self.checkpoint.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|it| it.last_log_id <= meta.last_log_id);
            if newer {
                *known = Some(meta);
            }
            newer
        });
    }

    /// Blocking.
    fn apply_batch(&self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut answers: Vec<(ApplyResponder<TypeConfig>, super::Applied)> = Vec::new();
        let (index, members, layout) = {
            let mut state = self.state.lock();
            let before = state.group.members_version();
            let layout_before = state.group.layout_version();
            let mut applying = Applying::new(&mut state, &*self.table, &self.metrics);
            for (entry, responder) in batch {
                if applying.has(&entry) {
                    // A snapshot was laid into the table before openraft heard of it. It is a
                    // follower then, and nobody waits for these entries.
                    continue;
                }
                let applied = applying.entry(&entry)?;
                answers.extend(responder.map(|responder| (responder, applied)));
            }
            applying.commit()?;
            let changed = state.group.members_version() != before;
            let mut seen = self.seen.lock();
            if changed || seen.cluster != state.group.cluster {
                *seen = Seen::of(&state);
            } else {
                seen.applied = state.group.applied;
                seen.next_expiry_ms = state.expiries.next_ms();
            }
            drop(seen);
            let moved = state.group.layout_version() != layout_before;
            let layout = moved.then(|| state.group.layout.clone());
            (index_of(&state.group), changed.then(|| state.group.members()), layout)
        };
        if let Some(layout) = layout {
            self.layout.send_replace(layout);
        }
        if let Some(members) = members {
            self.members.send_replace(members);
        }
        self.applied.send_replace(index);
        answers.into_iter().for_each(|(responder, applied)| responder.send(applied));
        Ok(())
    }
}

pub(super) fn index_of(group: &GroupState) -> u64 {
    group.applied.map_or(0, |applied| applied.index)
}

/// Writes a machine's snapshot to another's file, page by page. Blocking.
pub(super) fn copy(source: &Machine, disk: Arc<dyn Disk>) -> io::Result<Manifest> {
    let mut capture = source.capture()?;
    let mut file = Incoming::create(disk)?;
    while let Some(page) = next_page(&mut capture)? {
        file.append(&page)?;
    }
    let manifest = file.manifest(capture.group);
    file.finish(&manifest)?;
    Ok(manifest)
}

/// The next page of a capture; `None` at the end. Blocking.
pub(super) fn next_page(capture: &mut Capture) -> io::Result<Option<bytes::Bytes>> {
    let Some(view) = &mut capture.view else { return Ok(None) };
    loop {
        let mut rows = view.next_page(snapshot::PAGE_BYTES).map_err(io::Error::other)?;
        if rows.is_empty() {
            return Ok(None);
        }
        rows.retain(|(row, _)| snapshot::is_replicated(row));
        if planted::is(Bug::SnapshotMissesDeletes) {
            rows.retain(|(_, row)| !encoding::peek(row).is_ok_and(|(_, tombstone)| tombstone));
        }
        if !rows.is_empty() {
            return snapshot::encode_page(&rows).map(Some);
        }
    }
}

/// openraft's handle of a [`Machine`].
pub(super) struct StateMachine(pub(super) Arc<Machine>);

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.0.state.lock();
        Ok((state.group.applied, state.group.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // The inner loop may meet the end, and the outer one then asks again.
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            let first = first?;
            let mut bytes = size_of_entry(&first.0);
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH_ENTRIES && bytes < MAX_BATCH_BYTES {
                // Only what is ready: nothing waits for more to come.
                let Some(Some(next)) = entries.next().now_or_never() else { break };
                let next = next?;
                bytes += size_of_entry(&next.0);
                batch.push(next);
            }
            let _rows = self.0.hold_rows().await;
            self.0.check_whole()?;
            // Whoever takes a view has the state meanwhile, and waits for the table too.
            match self.0.state.is_locked() {
                true => Runtime::wait_here(|| self.0.apply_batch(batch))?,
                false => on_a_task(&*self.0.table, || self.0.apply_batch(batch))?,
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        // A table that is being replaced is made durable by whoever replaces it; and openraft must not
        // hear of a checkpoint that is ahead of all that it knows.
        let busy = self.0.is_installing() || self.0.untold.is_set();
        (force || !busy).then(|| Builder::new(&self.0))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder::new(&self.0)
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let manifest = match snapshot {
            SnapshotData::Received(manifest) => manifest,
            SnapshotData::Live(source) => {
                let disk = self.0.disk.clone();
                self.0.runtime.blocking(move || copy(&source, disk)).await?
            }
        };
        if manifest.group.applied < meta.last_log_id {
            return Err(codec::invalid("a snapshot", "it is older than it was said to be"));
        }
        self.0.install(manifest, &Flag::raised()).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        // Before the first checkpoint openraft would take what is named here for durable. Later it
        // only asks in order to send a snapshot, and notes its name as what the follower has: the
        // last checkpoint would be older than what is sent, and soon purged beyond.
        if self.0.checkpoint.borrow().is_none() {
            return Ok(None);
        }
        let meta = self.0.meta();
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::Live(self.0.clone()) }))
    }
}

fn size_of_entry(entry: &Entry) -> usize {
    codec::weight(entry)
}

/// Takes a checkpoint, which is all that a snapshot needs.
pub(super) struct Builder {
    machine: Arc<Machine>,
    /// What the table held when openraft asked: by the time it is built a snapshot may have been laid
    /// into it that openraft was not told of.
    meta: SnapshotMeta,
}

impl Builder {
    fn new(machine: &Arc<Machine>) -> Builder {
        Builder { machine: machine.clone(), meta: machine.meta() }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.machine.checkpoint_of(self.meta.clone()).await?;
        let snapshot = SnapshotData::Live(self.machine.clone());
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}

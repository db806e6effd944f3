//! The group's handle: proposing, confirming reads, watching, compacting.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError,
    RaftError,
};
use openraft::{BasicNode, LinearizerOption, ReadPolicy, ServerState};

use super::inbound::Inbox;
use super::keeper::Keeper;
use super::leadership::{self, Leadership};
use super::lease::{self, StartGuard};
use super::log_index::LogIndex;
use super::log_store::LogStore;
use super::membership::Membership;
use super::network::Network;
use super::raft_types::{LogId, Proposal, Raft, TypeConfig};
use super::state_machine::{Machine, MachineOptions, StateMachine};
use super::{
    Applied, Command, ConsensusOptions, ConsensusStatus, ProposeError, ReadIndexError, settings,
};
use crate::error::StartError;
use crate::peer::{Inbound, MAX_MESSAGE_BYTES};
use crate::planted::{self, Bug};
use crate::runtime::watch;
use crate::runtime::{Instant, Runtime, Task};
use crate::telemetry::Metrics;
use crate::types::NodeId;

/// The longest command, in bytes: with its head it must fit a message.
const MAX_COMMAND_BYTES: usize = MAX_MESSAGE_BYTES - (64 << 10);

/// After how long a checkpoint that is still wanted is asked for again: openraft ignores the request
/// while it takes one already, which may be too early, and says nothing.
const CHECKPOINT_RETRY: Duration = Duration::from_millis(100);

/// The Raft group on this node. Share it in an `Arc`.
pub struct Consensus {
    runtime: Runtime,
    pub(super) node: NodeId,
    pub(super) raft: Raft,
    pub(super) machine: Arc<Machine>,
    pub(super) log: LogStore,
    keep_entries: u64,
    keep_log_bytes: u64,
    inbox: Inbox,
    pub(super) leadership: Arc<Leadership>,
    pub(super) membership: Arc<Membership>,
    leader: watch::Receiver<Option<NodeId>>,
    lease: Duration,
    /// Set once the group has stopped, and why.
    stopped: watch::Receiver<Option<String>>,
    tasks: Vec<Task<()>>,
}

impl Consensus {
    /// Starts the group; returns once it runs, not once it has a leader.
    pub async fn start(options: ConsensusOptions) -> Result<Consensus, StartError> {
        // In a task of the node, so that openraft's own tasks belong to it too.
        let runtime = options.runtime.clone();
        let started = runtime.spawn(start(options)).await;
        started.unwrap_or_else(|error| Err(StartError::Other(format!("the start broke: {error}"))))
    }

    /// Proposes a command. Only the leader can; does not wait longer than `deadline`.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        let refuse = |reason: String| ProposeError::NotAppended { leader: self.leader(), reason };
        let proposal = Proposal::encode(&command).map_err(|error| refuse(error.to_string()))?;
        if proposal.0.len() > MAX_COMMAND_BYTES {
            let len = proposal.0.len();
            return Err(refuse(format!("{len} bytes, at most {MAX_COMMAND_BYTES} are allowed")));
        }
        if self.runtime.now() >= deadline {
            return Err(refuse("the deadline has passed".to_owned()));
        }
        propose(&self.runtime, &self.raft, proposal, deadline).await
    }

    /// Confirms with a majority that this node leads, and gives the index that a linearizable read
    /// asked for before this call must wait for. One round a call: callers share it.
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, ReadIndexError> {
        if planted::is(Bug::StaleReadByPausedLeader) && self.leader() == Some(self.node) {
            return Ok(self.machine.applied().map_or(0, |applied| applied.index));
        }
        let wait = deadline.saturating_duration_since(self.runtime.now());
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(wait);
        let confirmed = self.raft.get_read_linearizer(option);
        let confirmed = match self.runtime.deadline(deadline, confirmed).await {
            Some(confirmed) => confirmed,
            None => {
                let reason = "no majority answered in time".to_owned();
                return Err(ReadIndexError { leader: self.leader(), reason });
            }
        };
        match confirmed {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadIndexError { leader: forward.leader_id, reason: why(&forward) })
            }
            Err(error) => Err(ReadIndexError { leader: self.leader(), reason: error.to_string() }),
        }
    }

    /// Where this node holds the leader's lease, the index that a read asked for before this call must
    /// wait for; nobody is asked. See `lease`.
    pub async fn lease_index(&self) -> Option<u64> {
        let confirmed = self.raft.get_read_linearizer(lease::by_lease(self.lease)).await;
        confirmed.ok().map(|linearizer| linearizer.read_log_id().index())
    }

    /// Waits until the entry at `index` is applied here; false where it was not by `deadline`.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        let mut applied = self.machine.watch_applied();
        if *applied.borrow_and_update() >= index {
            return true;
        }
        let reached = async { applied.wait_for(|applied| *applied >= index).await.is_ok() };
        self.runtime.deadline(deadline, reached).await.unwrap_or(false)
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        *self.leader.borrow()
    }

    /// Waits until the leader is another than `than`, or until `deadline`; gives who leads then.
    pub async fn leader_change(&self, than: Option<NodeId>, deadline: Instant) -> Option<NodeId> {
        let mut leader = self.leader.clone();
        let changed = async { leader.wait_for(|leader| *leader != than).await.is_ok() };
        // Either way, what is known now is the answer.
        let _ = self.runtime.deadline(deadline, changed).await;
        self.leader()
    }

    /// When the first record expires here, or earlier, in milliseconds since 1970; `None` where none will.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.machine.next_expiry_ms()
    }

    /// How many snapshots were installed here since the start; `None` while one is, and the table is
    /// incomplete. Between two equal answers no installation was under way.
    pub fn installs(&self) -> Option<u64> {
        self.machine.installs()
    }

    /// The group as this node sees it.
    pub fn status(&self) -> ConsensusStatus {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        ConsensusStatus {
            leader: self.leader(),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: self.machine.applied().map_or(0, |applied| applied.index),
            fixed_leader: self.leadership.fixed,
            members: self.machine.watch_members().borrow().clone(),
            cluster: self.machine.cluster(),
            installing: self.machine.is_installing(),
            stopped: self.stopped.borrow().clone(),
        }
    }

    /// Takes a peer's request of one of the Raft services. Must not block.
    pub fn handle(&self, inbound: Inbound) {
        self.inbox.handle(inbound);
    }

    /// Makes the table durable, lets the group forget entries behind it (all but `keep_entries`),
    /// and releases the log that it needs no more.
    pub async fn compact(&self, timeout: Duration) -> Result<(), String> {
        self.compact_within(timeout, true).await
    }

    /// As [`Consensus::compact`], where the table was just made durable by another: takes no
    /// checkpoint unless the group applied something since its last.
    pub async fn release_log(&self, timeout: Duration) -> Result<(), String> {
        self.compact_within(timeout, false).await
    }

    async fn compact_within(&self, timeout: Duration, always: bool) -> Result<(), String> {
        let deadline = self.runtime.now() + timeout;
        self.runtime
            .deadline(deadline, self.compact_now(always))
            .await
            .unwrap_or_else(|| Err(format!("no checkpoint within {} ms", timeout.as_millis())))
    }

    async fn compact_now(&self, always: bool) -> Result<(), String> {
        let wanted = self.machine.applied();
        let mut checkpoint = self.machine.watch_checkpoint();
        let covers = |log_id| log_id >= wanted;
        let covered = wanted.is_none()
            || checkpoint.borrow_and_update().as_ref().is_some_and(|it| covers(it.last_log_id));
        if covered {
            // Nothing new for the group, but others use the table too.
            if always {
                self.machine.take_checkpoint().await.map_err(|error| error.to_string())?;
            }
        } else {
            while checkpoint.borrow_and_update().as_ref().is_none_or(|it| !covers(it.last_log_id)) {
                if self.machine.is_installing() {
                    return Err(
                        "a snapshot is being installed, which ends with a checkpoint".into()
                    );
                }
                self.raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
                let again = self.runtime.now() + CHECKPOINT_RETRY;
                if let Some(changed) = self.runtime.deadline(again, checkpoint.changed()).await {
                    changed.map_err(|error| error.to_string())?;
                }
            }
        }
        let covered = checkpoint.borrow().as_ref().and_then(|it| it.last_log_id);
        self.purge_behind(covered).await?;
        self.log.release().await.map_err(|error| error.to_string())
    }

    /// Has openraft forget the entries that a checkpoint covers, but those that a follower may well
    /// need. A leader keeps what is on its way to a follower until it arrived or failed.
    async fn purge_behind(&self, checkpoint: Option<LogId>) -> Result<(), String> {
        let Some(checkpoint) = checkpoint else { return Ok(()) };
        let upto = self.log.purgeable(checkpoint.index, self.keep_entries, self.keep_log_bytes);
        let Some(upto) = upto else { return Ok(()) };
        let upto = self.machine.pins.lowest().map_or(upto, |needed| upto.min(needed));
        // openraft hears of the checkpoint after this node does, and purges nothing before. Where
        // that takes long, the next checkpoint purges it.
        let heard = self.raft.wait(Some(CHECKPOINT_RETRY));
        let heard = heard.metrics(|it| it.snapshot >= Some(checkpoint), "the checkpoint is known");
        if let Err(error) = heard.await {
            tracing::debug!(%error, "the log is purged later");
        }
        self.raft.trigger().purge_log(upto).await.map_err(|error| error.to_string())
    }

    /// Waits until the group has stopped for good by itself (a storage failure), and says why.
    pub async fn stopped(&self) -> String {
        let mut stopped = self.stopped.clone();
        let reason = stopped.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // Shut down in peace.
            None => std::future::pending().await,
        }
    }

    /// Stops the group.
    pub async fn shutdown(&self) {
        self.tasks.iter().for_each(Task::abort);
        self.inbox.close();
        // It may have stopped by itself; then there is nothing left to do.
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(node = %self.node, %error, "consensus did not stop in order");
        }
    }
}

/// The Raft log over the commit log, as it was recovered.
fn log_store(options: &ConsensusOptions, index: LogIndex) -> LogStore {
    LogStore::new(
        options.log.clone(),
        options.runtime.clone(),
        index,
        options.log_cache_bytes,
        options.metrics.raft_log_truncations.clone(),
        options.settings.fixed_leader.is_some(),
    )
}

async fn start(mut options: ConsensusOptions) -> Result<Consensus, StartError> {
    let broken = |error: std::io::Error| StartError::DataDirectory(error.to_string());
    let recovered = std::mem::take(&mut options.recovered);
    let index = recovered.index.finish().map_err(StartError::DataDirectory)?;
    let keep_entries = options.settings.keep_entries;
    let machine_options = MachineOptions {
        runtime: options.runtime.clone(),
        table: options.table.clone(),
        disk: options.disk.clone(),
        metrics: options.metrics.clone(),
        orders_data: options.orders_data,
        snapshot_bytes_per_s: options.settings.snapshot_bytes_per_s,
    };
    let runtime = options.runtime.clone();
    let machine = runtime.blocking(move || Machine::open(machine_options)).await.map_err(broken)?;
    let machine = Arc::new(machine);
    check_recovered(&machine, &index)?;

    // A vote in the log: this node may have promised a leader its lease before this start. Without
    // data in the group nobody reads by a lease.
    let lease = options.settings.election_timeout_max;
    let may_have_promised = options.orders_data && index.vote.is_some();
    let guard = Arc::new(StartGuard::new(may_have_promised, lease));
    let config = settings::config(&options.settings, options.node, !guard.is_active())
        .map_err(|error| StartError::Other(format!("the leader settings: {error}")))?;
    let network = Network::new(runtime.clone(), options.transport.clone(), &options.settings);
    let log = log_store(&options, index);
    let state_machine = StateMachine(machine.clone());
    let raft = Raft::new(options.node, Arc::new(config), network, log.clone(), state_machine)
        .await
        .map_err(|error| StartError::Other(format!("consensus does not start: {error}")))?;
    if options.initialise {
        initialise(&raft, options.peers.clone()).await?;
    }

    let (leader, watch_leader) = watch::channel(None);
    let (stop, watch_stop) = watch::channel(None);
    let leadership = leadership::leadership(&options, raft.clone(), watch_leader.clone());
    let watching = watch_group(raft.clone(), options.metrics.clone(), leader, stop);
    let membership = Arc::new(Membership::new(leadership.clone(), machine.clone()));
    let keeper = Keeper {
        leadership: leadership.clone(),
        membership: membership.clone(),
        machine: machine.clone(),
        incarnation: options.incarnation,
    };
    let guarding = guard.clone().run(runtime.clone(), leadership.clone());
    let tasks = vec![runtime.spawn(watching), runtime.spawn(keeper.run()), runtime.spawn(guarding)];
    Ok(Consensus {
        node: options.node,
        inbox: Inbox::new(machine.clone(), leadership.clone(), membership.clone(), guard),
        leadership,
        membership,
        runtime,
        raft,
        lease,
        machine,
        log,
        keep_entries,
        keep_log_bytes: options.keep_log_bytes,
        leader: watch_leader,
        stopped: watch_stop,
        tasks,
    })
}

/// Refuses a table and a log that cannot be of one moment.
fn check_recovered(machine: &Machine, index: &LogIndex) -> Result<(), StartError> {
    if machine.applied() < index.purged {
        return Err(StartError::DataDirectory(format!(
            "the table ends at entry {} but the log begins after entry {}: the table is older than \
             the log; restore this node's data directory whole, or replace the node",
            machine.applied().map_or(0, |applied| applied.index),
            index.purged.map_or(0, |purged| purged.index),
        )));
    }

    // Entry 0 comes from initialising the group, before any vote; all others were applied for a
    // leader that this node had voted for or followed, and recorded as such first.
    if index.vote.is_none()
        && let Some(applied) = machine.applied().filter(|applied| applied.index > 0)
    {
        return Err(StartError::DataDirectory(format!(
            "the table holds what entry {} did, but the log has no vote: the log is gone, and with \
             it what this node promised to others; restore this node's data directory whole, or \
             replace the node",
            applied.index,
        )));
    }
    Ok(())
}

async fn initialise(
    raft: &Raft,
    peers: std::collections::BTreeMap<NodeId, String>,
) -> Result<(), StartError> {
    let members: std::collections::BTreeMap<NodeId, BasicNode> =
        peers.into_iter().map(|(node, address)| (node, BasicNode::new(address))).collect();
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        // It was before: the first boot may have ended before it was counted.
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Other(format!("the group is not initialised: {error}"))),
    }
}

pub(super) async fn propose(
    runtime: &Runtime,
    raft: &Raft,
    proposal: Proposal,
    deadline: Instant,
) -> Result<Applied, ProposeError> {
    let unknown = |reason: String| Err(ProposeError::Unknown { reason });
    // Boxed: openraft's future is large, and proposals are many.
    let Some(written) = runtime.deadline(deadline, raft.client_write(proposal).boxed()).await
    else {
        return unknown("the deadline passed".to_owned());
    };
    match written {
        Ok(response) => Ok(response.data),
        Err(RaftError::APIError(error)) => match error {
            ClientWriteError::ForwardToLeader(forward) => {
                Err(ProposeError::NotAppended { leader: forward.leader_id, reason: why(&forward) })
            }
            ClientWriteError::LogEntryDiscarded(_) => {
                unknown("another leader took over and discarded the entry here".to_owned())
            }
            // Neither can happen to a plain proposal; should one, nothing is assumed.
            ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_) => unknown(error.to_string()),
        },
        Err(RaftError::Fatal(fatal)) => unknown(fatal.to_string()),
    }
}

fn why(forward: &ForwardToLeader<TypeConfig>) -> String {
    match (forward.reason, forward.leader_id) {
        (ForwardReason::LeadershipTransfer, _) => "leadership is being handed over".to_owned(),
        (ForwardReason::LeaseExpired, _) => "no majority confirmed this leader lately".to_owned(),
        (ForwardReason::NotLeader, Some(leader)) => format!("node {leader} leads"),
        (ForwardReason::NotLeader, None) => "no leader is known".to_owned(),
    }
}

/// Says who leads, counts elections, and says when openraft stopped by itself.
async fn watch_group(
    raft: Raft,
    metrics: Metrics,
    leader: watch::Sender<Option<NodeId>>,
    stopped: watch::Sender<Option<String>>,
) {
    let mut server = raft.server_metrics();
    let mut led = false;
    loop {
        let (current, leads) = {
            let now = server.borrow_and_update();
            (now.current_leader, now.state == ServerState::Leader)
        };
        if leads && !led {
            metrics.elections_won.inc();
        }
        led = leads;
        leader.send_if_modified(|known| std::mem::replace(known, current) != current);
        if server.changed().await.is_err() {
            break;
        }
    }
    leader.send_replace(None);
    let reason = match &raft.metrics().borrow_watched().running_state {
        Ok(()) => "consensus ended without a reason".to_owned(),
        Err(fatal) => fatal.to_string(),
    };
    tracing::error!(%reason, "consensus stopped");
    stopped.send_replace(Some(reason));
    // The senders stay, so that those who wait are told and not cut off.
    std::future::pending::<()>().await;
}

//! Receiving a snapshot: pages into a file, then the file into the table.
//!
//! Guarantees: a message that comes again, as its answer was lost, changes nothing and is answered as
//! the first was; so a transfer goes on after a link was cut. A process that restarts knows of no
//! transfer, and is sent another. Installing holds up no message: whoever asks is told of it, and no other
//! transfer begins meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{mpsc, oneshot};

use super::codec;
use super::inbound::answer;
use super::messages::{SnapshotAnswer, SnapshotMessage};
use super::raft_types::{Raft, TypeConfig, Vote};
use super::snapshot::{Incoming, Manifest};
use super::state_machine::{Machine, SnapshotData};
use crate::peer::Inbound;
use crate::runtime::Task;
use crate::runtime::flag::Flag;

/// How often it is looked whether an election is over.
const LEADER_POLL: Duration = Duration::from_millis(50);

/// Takes snapshot messages, one after the other.
pub(super) struct Receiver {
    raft: Raft,
    machine: Arc<Machine>,
    transfer: Option<Transfer>,
    installing: Option<Installing>,
    /// The last transfer that was installed, and this node's vote then, or why it was not.
    ended: Option<(u64, Result<Vote, String>)>,
}

/// A transfer that arrived, and is being installed until its task ends.
struct Installing {
    id: u64,
    haste: Flag,
    ended: oneshot::Receiver<Result<Vote, String>>,
    task: Task<()>,
}

impl Drop for Installing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The transfer under way.
struct Transfer {
    id: u64,
    vote: Vote,
    file: Incoming,
}

impl Receiver {
    pub(super) fn new(raft: Raft, machine: Arc<Machine>) -> Receiver {
        Receiver { raft, machine, transfer: None, installing: None, ended: None }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Inbound>) {
        while let Some(inbound) = self.next(&mut queue).await {
            if inbound.deadline < self.machine.runtime.now() {
                inbound.reply.refuse("it came too late");
                continue;
            }
            match codec::decode("a snapshot message", &inbound.body) {
                Ok(message) => answer(inbound.reply, &self.take(message).await),
                Err(error) => inbound.reply.refuse(error.to_string()),
            }
        }
    }

    /// The next message; meanwhile an installation may come to its end.
    async fn next(&mut self, queue: &mut mpsc::Receiver<Inbound>) -> Option<Inbound> {
        loop {
            let Some(installing) = &mut self.installing else { return queue.recv().await };
            tokio::select! {
                biased;
                ended = &mut installing.ended => {
                    let ended = ended.unwrap_or_else(|_| Err("installing it was broken off".to_owned()));
                    self.ended = Some((installing.id, ended));
                    self.installing = None;
                }
                inbound = queue.recv() => return inbound,
            }
        }
    }

    pub(super) async fn take(&mut self, message: SnapshotMessage) -> SnapshotAnswer {
        let taken = match message {
            SnapshotMessage::Begin { transfer, vote, in_haste } => {
                self.begin(transfer, vote, in_haste).await
            }
            SnapshotMessage::Page { transfer, number, checksum, page } => {
                self.page(transfer, number, checksum, page).await
            }
            SnapshotMessage::End { transfer, vote, manifest, in_haste } => {
                self.end(transfer, vote, manifest, in_haste).await
            }
        };
        taken.unwrap_or_else(|error| {
            // The file is of no use any more; the table was not touched.
            self.transfer = None;
            SnapshotAnswer::Rejected(error.to_string())
        })
    }

    /// The answer to a transfer that is over.
    fn over(&self, id: u64) -> Option<SnapshotAnswer> {
        let (_, ended) = self.ended.as_ref().filter(|(ended, _)| *ended == id)?;
        Some(match ended {
            Ok(vote) => SnapshotAnswer::Installed(*vote),
            Err(reason) => SnapshotAnswer::Rejected(reason.clone()),
        })
    }

    async fn begin(&mut self, id: u64, vote: Vote, in_haste: bool) -> io::Result<SnapshotAnswer> {
        if let Some(over) = self.over(id) {
            return Ok(over);
        }
        let known = self.raft.metrics().borrow_watched().vote;
        // Where installing failed the node is about to stop, and finishes from the file at its next
        // start: no other transfer may take its place.
        if self.installing.is_some() || self.machine.is_installing() {
            let is_of_the_leader = vote >= known;
            if let Some(installing) = self.installing.as_ref().filter(|_| is_of_the_leader) {
                installing.haste.set(in_haste);
            }
            return Ok(SnapshotAnswer::Installing);
        }
        if self.transfer.as_ref().is_some_and(|transfer| transfer.id == id) {
            return Ok(SnapshotAnswer::Taken);
        }
        let under_way = self.transfer.as_ref().map(|transfer| transfer.vote);
        for other in [Some(known), under_way].into_iter().flatten() {
            if other > vote {
                return Ok(SnapshotAnswer::HigherVote(other));
            }
        }
        let disk = self.machine.disk.clone();
        let file = self.machine.runtime.blocking(move || Incoming::create(disk)).await?;
        self.transfer = Some(Transfer { id, vote, file });
        Ok(SnapshotAnswer::Taken)
    }

    /// The transfer with this id, out of its place while it is worked on. Another one stays where it
    /// is: a leader that was deposed may still send pages.
    fn under_way(&mut self, id: u64) -> Result<Transfer, SnapshotAnswer> {
        let transfer = self.transfer.take_if(|transfer| transfer.id == id);
        let gone = || SnapshotAnswer::Rejected("this transfer is not under way".to_owned());
        transfer.ok_or_else(gone)
    }

    async fn page(
        &mut self,
        id: u64,
        number: u64,
        checksum: u32,
        page: Bytes,
    ) -> io::Result<SnapshotAnswer> {
        if let Some(over) = self.over(id) {
            return Ok(over);
        }
        if crc32c::crc32c(&page) != checksum {
            return Err(codec::invalid("a page", "its checksum is wrong"));
        }
        let mut transfer = match self.under_way(id) {
            Ok(transfer) => transfer,
            Err(gone) => return Ok(gone),
        };
        let taken = transfer.file.pages();
        if number != taken {
            self.transfer = Some(transfer);
            let again = number < taken;
            return Ok(if again { SnapshotAnswer::Taken } else { SnapshotAnswer::Has(taken) });
        }
        if transfer.file.will_sync(page.len()) {
            self.sync_takes_time().await;
        }
        let append = move || transfer.file.append(&page).map(|()| transfer);
        self.transfer = Some(self.machine.runtime.blocking(append).await?);
        Ok(SnapshotAnswer::Taken)
    }

    /// In a simulated world, as long as a sync takes there.
    async fn sync_takes_time(&self) {
        let delay = self.machine.disk.simulated_sync_delay();
        if !delay.is_zero() {
            self.machine.runtime.sleep(delay).await;
        }
    }

    async fn end(
        &mut self,
        id: u64,
        vote: Vote,
        manifest: Manifest,
        in_haste: bool,
    ) -> io::Result<SnapshotAnswer> {
        if let Some(over) = self.over(id) {
            return Ok(over);
        }
        if let Some(installing) = &self.installing {
            if installing.id == id {
                installing.haste.set(in_haste);
            }
            return Ok(SnapshotAnswer::Installing);
        }
        let transfer = match self.under_way(id) {
            Ok(transfer) => transfer,
            Err(gone) => return Ok(gone),
        };
        self.sync_takes_time().await;
        let received = manifest.clone();
        let runtime = &self.machine.runtime;
        runtime.blocking(move || transfer.file.finish(&received)).await?;
        let haste = Flag::default();
        haste.set(in_haste);
        let (tell, ended) = oneshot::channel();
        let install =
            install(self.raft.clone(), self.machine.clone(), vote, manifest, haste.clone());
        let task = runtime.spawn(async move {
            // Where nobody asks any more, the node is stopping.
            let _ = tell.send(install.await.map_err(|error| error.to_string()));
        });
        self.installing = Some(Installing { id, haste, ended, task });
        Ok(SnapshotAnswer::Installing)
    }
}

/// Installs what was received, and gives this node's vote then.
async fn install(
    raft: Raft,
    machine: Arc<Machine>,
    mut vote: Vote,
    manifest: Manifest,
    haste: Flag,
) -> io::Result<Vote> {
    let goes_first = goes_before_openraft(&raft, vote, &manifest);
    // Until it ends, openraft knows nothing of what is laid into the table.
    let _untold = goes_first.then(|| machine.untold.raise());
    if goes_first {
        // Where this fails, openraft is refused the same, and stops for good.
        if let Err(error) = machine.install(manifest.clone(), &haste).await {
            tracing::error!(%error, "a snapshot was not installed");
        }
    }
    loop {
        let snapshot = openraft::alias::SnapshotOf::<TypeConfig, SnapshotData> {
            meta: manifest.meta(),
            snapshot: SnapshotData::Received(manifest.clone()),
        };
        let installed = raft.install_full_snapshot(vote, snapshot).await;
        let known = installed.map_err(|error| io::Error::other(error.to_string()))?.vote;
        if known <= vote {
            return Ok(known);
        }
        // Another leader was elected meanwhile. What the table holds is as committed for that one.
        let (elected, has_log) = elected(&raft, &machine, &manifest).await;
        if goes_first && has_log {
            // It sent the log instead: openraft comes to what the table has by applying it.
            return Ok(elected);
        }
        vote = elected;
    }
}

/// The vote of the leader that is in office, once one is, and whether the log goes as far as the
/// snapshot then.
async fn elected(raft: &Raft, machine: &Machine, manifest: &Manifest) -> (Vote, bool) {
    let covers = manifest.group.applied.map(|last| last.index);
    loop {
        {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.vote.committed {
                return (metrics.vote, metrics.last_log_index >= covers);
            }
        }
        machine.runtime.sleep(LEADER_POLL).await;
    }
}

/// Whether the rows may be replaced before openraft knows; see [`super::replacing`].
fn goes_before_openraft(raft: &Raft, vote: Vote, manifest: &Manifest) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    // The vote is durable here: no earlier leader can append anything that contradicts the snapshot.
    let follows = metrics.vote == vote;
    let covers = manifest.group.applied.map(|last| last.index);
    follows && metrics.last_log_index < covers
}

//! Receiving a snapshot: pages into a file, then the file into the table.
//!
//! Guarantees: a message that comes again, as its answer was lost, changes nothing and is answered as
//! the first was; so a transfer goes on after a link was cut. A process that restarts knows of no
//! transfer, and is sent another.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::mpsc;

use super::codec;
use super::inbound::answer;
use super::messages::{SnapshotAnswer, SnapshotMessage};
use super::raft_types::{Raft, TypeConfig, Vote};
use super::snapshot::{Incoming, Manifest};
use super::state_machine::{Machine, SnapshotData};
use crate::peer::Inbound;

/// Takes snapshot messages, one after the other.
pub(super) struct Receiver {
    raft: Raft,
    machine: Arc<Machine>,
    transfer: Option<Transfer>,
    /// The last transfer that was installed, and what was answered.
    installed: Option<(u64, Vote)>,
}

/// The transfer under way.
struct Transfer {
    id: u64,
    vote: Vote,
    file: Incoming,
}

impl Receiver {
    pub(super) fn new(raft: Raft, machine: Arc<Machine>) -> Receiver {
        Receiver { raft, machine, transfer: None, installed: None }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Inbound>) {
        while let Some(inbound) = queue.recv().await {
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

    async fn take(&mut self, message: SnapshotMessage) -> SnapshotAnswer {
        let taken = match message {
            SnapshotMessage::Begin { transfer, vote } => self.begin(transfer, vote).await,
            SnapshotMessage::Page { transfer, number, checksum, page } => {
                self.page(transfer, number, checksum, page).await
            }
            SnapshotMessage::End { transfer, vote, manifest } => {
                self.end(transfer, vote, manifest).await
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
        let (_, vote) = self.installed.filter(|(installed, _)| *installed == id)?;
        Some(SnapshotAnswer::Installed(vote))
    }

    async fn begin(&mut self, id: u64, vote: Vote) -> io::Result<SnapshotAnswer> {
        if let Some(over) = self.over(id) {
            return Ok(over);
        }
        if self.transfer.as_ref().is_some_and(|transfer| transfer.id == id) {
            return Ok(SnapshotAnswer::Taken);
        }
        let known = self.raft.metrics().borrow_watched().vote;
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

    /// The transfer with this id, out of its place while it is worked on.
    fn under_way(&mut self, id: u64) -> io::Result<Transfer> {
        let transfer = self.transfer.take_if(|transfer| transfer.id == id);
        transfer.ok_or_else(|| codec::invalid("a snapshot", "this transfer is not under way"))
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
        let mut transfer = self.under_way(id)?;
        let taken = transfer.file.pages();
        if number != taken {
            self.transfer = Some(transfer);
            let again = number < taken;
            return Ok(if again { SnapshotAnswer::Taken } else { SnapshotAnswer::Has(taken) });
        }
        let append = move || transfer.file.append(&page).map(|()| transfer);
        self.transfer = Some(self.machine.runtime.blocking(append).await?);
        Ok(SnapshotAnswer::Taken)
    }

    async fn end(&mut self, id: u64, vote: Vote, manifest: Manifest) -> io::Result<SnapshotAnswer> {
        if let Some(over) = self.over(id) {
            return Ok(over);
        }
        let transfer = self.under_way(id)?;
        let runtime = &self.machine.runtime;
        let delay = self.machine.disk.simulated_sync_delay();
        if !delay.is_zero() {
            runtime.sleep(delay).await;
        }
        let received = manifest.clone();
        runtime.blocking(move || transfer.file.finish(&received)).await?;
        let snapshot = openraft::alias::SnapshotOf::<TypeConfig, SnapshotData> {
            meta: manifest.meta(),
            snapshot: SnapshotData::Received(manifest),
        };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let response = installed.map_err(|error| io::Error::other(error.to_string()))?;
        self.installed = Some((id, response.vote));
        Ok(SnapshotAnswer::Installed(response.vote))
    }
}

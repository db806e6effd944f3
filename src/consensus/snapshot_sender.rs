//! Sending a snapshot: a view of the table, page by page.
//!
//! **Why a newer snapshot than the one asked for is safe.** openraft names a snapshot by the log id
//! applied when it asked, and notes for the follower that it has everything up to there. What is
//! sent is the table a little later, applied up to the same or a later, committed log id. The follower installs
//! it under that id; it then has more than was noted, never less. The next entries it is sent
//! overlap with what it has: a follower accepts a previous log id at or below what it knows to be
//! committed, and skips entries that it has. They are not purged before they are sent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt};
use openraft::errors::{NetworkError, StreamingError};
use openraft::raft::SnapshotResponse;
use openraft::{ErrorSubject, ErrorVerb, StorageError};

use super::codec;
use super::messages::{SnapshotAnswer, SnapshotMessage};
use super::network::{Link, rpc_error};
use super::pins::Pin;
use super::raft_types::{TypeConfig, Vote};
use super::snapshot::Manifest;
use super::state_machine::{Capture, Machine, next_page};
use crate::peer::{Lane, Service};
use crate::storage::table::TableError;

/// Pages on their way at once: enough to fill a link, and little to hold in memory.
const PAGE_WINDOW: usize = 4;

/// How long a follower may take to write down a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a follower may take to replace its whole table. A broken link is told at once.
pub(super) const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);

type Failure = StreamingError<TypeConfig>;

/// What one step of a transfer gave.
enum Step {
    Taken,
    /// The transfer is over, and this is the receiver's vote.
    Over(Vote),
}

/// One attempt to send a snapshot.
pub(super) struct Sender<'a> {
    link: &'a Link,
    machine: Arc<Machine>,
    vote: Vote,
    transfer: u64,
    /// Keeps what the follower needs next.
    _pin: Pin,
}

impl<'a> Sender<'a> {
    /// `named` is the index that openraft names the snapshot by.
    pub(super) fn new(link: &'a Link, machine: Arc<Machine>, vote: Vote, named: u64) -> Sender<'a> {
        let transfer = machine.runtime.random_u64();
        let pin = machine.pins.pin(named);
        Sender { link, machine, vote, transfer, _pin: pin }
    }

    /// Sends the table as it is now. Where the view is overrun by writes, or the follower asks for
    /// it, openraft tries again with another.
    pub(super) async fn send(self) -> Result<SnapshotResponse<TypeConfig>, Failure> {
        let one_at_a_time = self.machine.sending.lock().await;
        let begin = SnapshotMessage::Begin { transfer: self.transfer, vote: self.vote };
        if let Step::Over(vote) = self.tell(&begin, PAGE_TIMEOUT)?.await? {
            return Ok(SnapshotResponse::new(vote));
        }
        let machine = self.machine.clone();
        let capture = self.machine.runtime.blocking(move || machine.capture()).await;
        let mut capture = capture.map_err(|error| network_error(&error))?;
        let (mut pages, mut checksum) = (0, 0);
        let mut answers = FuturesOrdered::new();
        loop {
            let (taken, page) = self.next_page(capture).await?;
            capture = taken;
            let Some(page) = page else { break };
            checksum = crc32c::crc32c_append(checksum, &page);
            let message = SnapshotMessage::Page {
                transfer: self.transfer,
                number: pages,
                checksum: crc32c::crc32c(&page),
                page,
            };
            pages += 1;
            answers.push_back(self.tell(&message, PAGE_TIMEOUT)?);
            while answers.len() >= PAGE_WINDOW {
                if let Some(Step::Over(vote)) = answers.next().await.transpose()? {
                    return Ok(SnapshotResponse::new(vote));
                }
            }
        }
        while let Some(answer) = answers.next().await {
            if let Step::Over(vote) = answer? {
                return Ok(SnapshotResponse::new(vote));
            }
        }
        // Installing takes the follower long; the view and the turn are for the others.
        let Capture { group, view } = capture;
        drop(view);
        drop(one_at_a_time);
        self.end(Manifest { group, pages, checksum }).await
    }

    async fn end(&self, manifest: Manifest) -> Result<SnapshotResponse<TypeConfig>, Failure> {
        let end = SnapshotMessage::End { transfer: self.transfer, vote: self.vote, manifest };
        match self.tell(&end, INSTALL_TIMEOUT)?.await? {
            Step::Over(vote) => {
                self.machine.metrics.snapshots_sent.inc();
                Ok(SnapshotResponse::new(vote))
            }
            Step::Taken => Err(NetworkError::from_string("the snapshot was not installed").into()),
        }
    }

    async fn next_page(&self, mut capture: Capture) -> Result<(Capture, Option<Bytes>), Failure> {
        let read = move || {
            let page = next_page(&mut capture);
            (capture, page)
        };
        let (capture, page) = self.machine.runtime.blocking(read).await;
        match page {
            Ok(page) => Ok((capture, page)),
            Err(error) if is_final(&error) => {
                let subject = ErrorSubject::Snapshot(None);
                Err(StorageError::from_io_error(subject, ErrorVerb::Read, error).into())
            }
            Err(error) => Err(network_error(&error)),
        }
    }

    /// Queues a message at once; gives what waits for the answer.
    fn tell(
        &self,
        message: &SnapshotMessage,
        timeout: Duration,
    ) -> Result<impl Future<Output = Result<Step, Failure>> + use<>, Failure> {
        let body = codec::encode(message).map_err(|error| network_error(&error))?;
        let answer = self.link.call(Lane::Bulk, Service::RaftSnapshot, body, timeout);
        Ok(async move {
            let answer = answer.await.map_err(rpc_error)?;
            let answer = codec::decode("an answer to a snapshot", &answer);
            match answer.map_err(|error| network_error(&error))? {
                SnapshotAnswer::Taken => Ok(Step::Taken),
                SnapshotAnswer::HigherVote(vote) | SnapshotAnswer::Installed(vote) => {
                    Ok(Step::Over(vote))
                }
                SnapshotAnswer::Rejected(reason) => Err(NetworkError::from_string(reason).into()),
            }
        })
    }
}

fn network_error(error: &io::Error) -> Failure {
    NetworkError::new(error).into()
}

/// Whether the table itself failed; a view that ended can be taken again.
fn is_final(error: &io::Error) -> bool {
    let table = error.get_ref().and_then(|source| source.downcast_ref::<TableError>());
    matches!(table, Some(TableError::Io(_) | TableError::Damaged(_)))
}

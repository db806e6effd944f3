//! Sending a snapshot: a view of the table, page by page.
//!
//! Guarantees: a transfer outlives a cut link and lost answers, for a bounded time, without starting
//! again; the view is let go once all pages were taken. A follower that cannot be reached does not
//! keep the others from catching up: where one waits for its turn, that time is shorter. Pages leave at
//! a bounded rate, which the settings give: a table that goes over as fast as it can takes the processor
//! and the links from requests. Where the group waits for the follower, pages leave as fast as they can.
//!
//! **Why a newer snapshot than the one asked for is safe.** openraft names a snapshot by the log id
//! applied when it asked, and notes for the follower that it has everything up to there. What is
//! sent is the table a little later, applied up to the same or a later, committed log id. The follower installs
//! it under that id; it then has more than was noted, never less. The next entries it is sent
//! overlap with what it has: a follower accepts a previous log id at or below what it knows to be
//! committed, and skips entries that it has. They are not purged before they are sent.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
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
use crate::peer::{Lane, PeerError, Service};
use crate::runtime::Instant;
use crate::runtime::pace::Pace;
use crate::storage::table::TableError;

/// Pages on their way at once: enough to fill a link, and little to hold in memory.
const PAGE_WINDOW: usize = 4;

/// How long the answer to a message is waited for before it is sent again. Longer than a slow disk
/// takes for a page; a repeated message that was only slow is answered as the first.
const PAGE_TIMEOUT: Duration = Duration::from_secs(3);

/// For so long a transfer goes on where nothing gets through; then openraft begins another.
pub(super) const RESUME_WITHIN: Duration = Duration::from_secs(30);

/// The same where another follower waits for its turn and nothing at all got through in this one: longer
/// than one answer is waited for, and short enough that a follower that is gone holds up nobody for long.
/// One that had begun is only out of reach, and would have to begin anew.
const YIELD_WITHIN: Duration = Duration::from_secs(5);

/// How often the rate is doubled at most: a thousandfold is as fast as it can.
const MAX_DOUBLINGS: u32 = 10;

/// The pause before a message is sent again.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// How often a follower that installs is asked whether it is done. It takes as long as it takes; what is
/// bounded is its silence.
const INSTALL_POLL: Duration = Duration::from_millis(250);

type Failure = StreamingError<TypeConfig>;

/// What one step of a transfer gave.
enum Step {
    Taken,
    /// The transfer is over, and this is the receiver's vote.
    Over(Vote),
}

/// Why a message has no answer.
enum Undelivered {
    /// It, or its answer, was lost: it may be sent again.
    Lost(PeerError),
    /// The answer cannot be understood.
    Nonsense(io::Error),
}

type Answer = BoxFuture<'static, Result<SnapshotAnswer, Undelivered>>;

/// How sending the pages ended.
enum Sent {
    All(Manifest),
    /// The transfer is over, and this is the receiver's vote.
    Over(Vote),
}

/// The pages that were not answered yet, and what waits for their answers.
#[derive(Default)]
struct Window {
    pages: VecDeque<(u64, Bytes)>,
    answers: FuturesOrdered<Answer>,
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
        let one_at_a_time = self.machine.sending.take().await;
        let begin = SnapshotMessage::Begin {
            transfer: self.transfer,
            vote: self.vote,
            in_haste: self.machine.haste.is_set(),
        };
        if let Step::Over(vote) = self.deliver(&begin, |since| self.may_begin(since)).await? {
            return Ok(SnapshotResponse::new(vote));
        }
        let machine = self.machine.clone();
        let capture = self.machine.runtime.blocking(move || machine.capture()).await;
        let capture = capture.map_err(|error| network_error(&error))?;
        let manifest = match self.send_pages(capture).await? {
            Sent::All(manifest) => manifest,
            Sent::Over(vote) => return Ok(SnapshotResponse::new(vote)),
        };
        // Installing takes the follower long; the turn is for the others, as is the view by now.
        drop(one_at_a_time);
        self.end(manifest).await
    }

    /// Sends every page, some on their way at once. Where one was lost, with the link or alone, it
    /// is sent again with all that followed: go-back-N (Tanenbaum, "Computer Networks", 3.4.2).
    async fn send_pages(&self, mut capture: Capture) -> Result<Sent, Failure> {
        let runtime = &self.machine.runtime;
        let mut window = Window::default();
        let (mut pages, mut checksum, mut more) = (0, 0, true);
        let mut pace = Pace::new(self.rate(), runtime.now());
        let mut silent_since = runtime.now();
        loop {
            let may_send = more && window.pages.len() < PAGE_WINDOW;
            let answer = tokio::select! {
                biased;
                Some(answer) = window.answers.next() => answer,
                () = pace.rest(runtime, || self.machine.haste.is_set()), if may_send => {
                    let (taken, page) = self.next_page(capture).await?;
                    capture = taken;
                    let Some(page) = page else {
                        more = false;
                        continue;
                    };
                    if window.pages.is_empty() {
                        silent_since = runtime.now();
                    }
                    checksum = crc32c::crc32c_append(checksum, &page);
                    pace.charge(page.len() as u64, runtime.now());
                    window.pages.push_back((pages, page));
                    pages += 1;
                    self.send_last(&mut window)?;
                    continue;
                }
                else => break,
            };
            match answer {
                Ok(SnapshotAnswer::Taken) => {
                    window.pages.pop_front();
                    silent_since = runtime.now();
                }
                Ok(SnapshotAnswer::Has(_)) | Err(Undelivered::Lost(_))
                    if self.is_within(silent_since, RESUME_WITHIN) =>
                {
                    self.resend(&mut window).await?;
                }
                other => match step(other)? {
                    Step::Over(vote) => return Ok(Sent::Over(vote)),
                    Step::Taken => {}
                },
            }
        }
        self.machine.sending.note_whole();
        Ok(Sent::All(Manifest { group: capture.group, pages, checksum }))
    }

    /// What the settings give, doubled for each of the last attempts whose view was overrun by writes:
    /// a rate at which a snapshot never ends helps nobody.
    fn rate(&self) -> u64 {
        let overruns = self.machine.sending.overruns();
        self.machine.snapshot_bytes_per_s.saturating_mul(1 << overruns.min(MAX_DOUBLINGS))
    }

    /// Whether a transfer that has had its turn since then, and of which nothing got through, goes on.
    fn may_begin(&self, since: Instant) -> bool {
        let is_awaited = self.machine.sending.is_awaited();
        self.is_within(since, if is_awaited { YIELD_WITHIN } else { RESUME_WITHIN })
    }

    fn is_within(&self, since: Instant, within: Duration) -> bool {
        self.machine.runtime.now() < since + within
    }

    /// Sends the last page of the window.
    fn send_last(&self, window: &mut Window) -> Result<(), Failure> {
        if let Some((number, page)) = window.pages.back() {
            window.answers.push_back(self.tell_page(*number, page)?);
        }
        Ok(())
    }

    /// Sends every page of the window again, after a pause.
    async fn resend(&self, window: &mut Window) -> Result<(), Failure> {
        self.machine.metrics.snapshots_resumed.inc();
        window.answers = FuturesOrdered::new();
        self.machine.runtime.sleep(RESUME_PAUSE).await;
        for (number, page) in &window.pages {
            window.answers.push_back(self.tell_page(*number, page)?);
        }
        Ok(())
    }

    fn tell_page(&self, number: u64, page: &Bytes) -> Result<Answer, Failure> {
        let message = SnapshotMessage::Page {
            transfer: self.transfer,
            number,
            checksum: crc32c::crc32c(page),
            page: page.clone(),
        };
        self.tell(&message, PAGE_TIMEOUT)
    }

    /// Sends a message, again and again where its answer is lost, while it may go on: that is asked
    /// with the moment of the first try.
    async fn deliver(
        &self,
        message: &SnapshotMessage,
        may_go_on: impl Fn(Instant) -> bool,
    ) -> Result<Step, Failure> {
        let runtime = &self.machine.runtime;
        let since = runtime.now();
        loop {
            match self.tell(message, PAGE_TIMEOUT)?.await {
                Err(Undelivered::Lost(_)) if may_go_on(since) => {
                    self.machine.metrics.snapshots_resumed.inc();
                    runtime.sleep(RESUME_PAUSE).await;
                }
                answer => return step(answer),
            }
        }
    }

    /// Has the follower install what it was sent, and waits for that.
    async fn end(&self, manifest: Manifest) -> Result<SnapshotResponse<TypeConfig>, Failure> {
        let runtime = &self.machine.runtime;
        let mut silent_since = runtime.now();
        loop {
            let end = SnapshotMessage::End {
                transfer: self.transfer,
                vote: self.vote,
                manifest: manifest.clone(),
                in_haste: self.machine.haste.is_set(),
            };
            match self.tell(&end, PAGE_TIMEOUT)?.await {
                Ok(SnapshotAnswer::Installing) => {
                    runtime.sleep(INSTALL_POLL).await;
                    silent_since = runtime.now();
                }
                Err(Undelivered::Lost(_)) if self.is_within(silent_since, RESUME_WITHIN) => {
                    self.machine.metrics.snapshots_resumed.inc();
                    runtime.sleep(RESUME_PAUSE).await;
                }
                answer => match step(answer)? {
                    Step::Over(vote) => {
                        self.machine.metrics.snapshots_sent.inc();
                        return Ok(SnapshotResponse::new(vote));
                    }
                    Step::Taken => return Err(problem("the snapshot was not installed")),
                },
            }
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
            Err(error) => {
                if is_overrun(&error) {
                    self.machine.sending.note_overrun();
                }
                Err(network_error(&error))
            }
        }
    }

    /// Queues a message at once; gives what waits for the answer.
    fn tell(&self, message: &SnapshotMessage, timeout: Duration) -> Result<Answer, Failure> {
        let body = codec::encode(message).map_err(|error| network_error(&error))?;
        let answer = self.link.call(Lane::Bulk, Service::RaftSnapshot, body, timeout);
        Ok(Box::pin(async move {
            let answer = answer.await.map_err(Undelivered::Lost)?;
            codec::decode("an answer to a snapshot", &answer).map_err(Undelivered::Nonsense)
        }))
    }
}

/// What an answer means for the transfer.
fn step(answer: Result<SnapshotAnswer, Undelivered>) -> Result<Step, Failure> {
    match answer {
        Ok(SnapshotAnswer::Taken) => Ok(Step::Taken),
        Ok(SnapshotAnswer::HigherVote(vote) | SnapshotAnswer::Installed(vote)) => {
            Ok(Step::Over(vote))
        }
        Ok(SnapshotAnswer::Has(taken)) => {
            Err(problem(&format!("only {taken} pages of the snapshot arrived in time")))
        }
        Ok(SnapshotAnswer::Installing) => Err(problem("another snapshot is being installed there")),
        Ok(SnapshotAnswer::Rejected(reason)) => Err(problem(&reason)),
        Err(Undelivered::Lost(error)) => Err(rpc_error(error).into()),
        Err(Undelivered::Nonsense(error)) => Err(network_error(&error)),
    }
}

fn problem(text: &str) -> Failure {
    NetworkError::from_string(text).into()
}

fn network_error(error: &io::Error) -> Failure {
    NetworkError::new(error).into()
}

/// Whether the table itself failed; a view that ended can be taken again.
fn is_final(error: &io::Error) -> bool {
    matches!(table_error(error), Some(TableError::Io(_) | TableError::Damaged(_)))
}

fn is_overrun(error: &io::Error) -> bool {
    matches!(table_error(error), Some(TableError::ViewOverrun { .. }))
}

fn table_error(error: &io::Error) -> Option<&TableError> {
    error.get_ref().and_then(|source| source.downcast_ref::<TableError>())
}

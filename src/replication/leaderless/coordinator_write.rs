//! Coordinating a write: stamp, send to all N replicas at once, answer when W have it.
//!
//! **Guarantees.** A write is refused only where no replica has it and none will. Once any replica
//! may have it, too few answers by the deadline are `unknown`. It is stamped once: where replicas go by
//! another layout by now, the same record is sent again under that one, never under another version.
//! While a layout changes, a quorum of the old replicas and one of the new must have it. The slower
//! replicas finish in the background, bounded.

use std::time::Duration;

use super::Core;
use super::active::is_other_epoch;
use super::gather::{Arrival, Gathering, Slot};
use super::horizons::Late;
use super::messages::StoredWrite;
use super::peers::WriteItem;
use super::quorums::{self, Quorums};
use super::replica::ReplicaError;
use super::tally::{Heard, Taken, Tallies, Tally, Verdict};
use super::view::View;
use crate::error::{Refusal, WriteError};
use crate::peer::PeerError;
use crate::planted::{self, Bug};
use crate::replication::{Cost, RequestOptions, WriteAnswer};
use crate::runtime::Instant;
use crate::storage::encoding;
use crate::types::{Epoch, NodeId, Version, Write};

/// When to try again where too many replica writes are finishing in the background.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How long a request waits before it is sent again under the layout that stands by then: what it takes
/// a node to store a layout, some times over.
pub(super) const EPOCH_PAUSE: Duration = Duration::from_millis(20);

/// A write that was stamped: sent as it is, however often.
struct Stamped {
    write: StoredWrite,
    version: Version,
}

/// A write that is on its way to its replicas.
struct Sent<'a> {
    gathering: &'a Gathering<Taken>,
    to: &'a [NodeId],
    quorums: Quorums,
    version: Version,
    deadline: Instant,
}

/// What came of sending it once.
struct Attempt {
    answer: Result<WriteAnswer, WriteError>,
    /// Whether a replica refused it since it goes by another layout.
    other_epoch: bool,
}

impl Core {
    pub(super) async fn write(
        &self,
        write: Write,
        options: RequestOptions,
    ) -> Result<WriteAnswer, WriteError> {
        self.check_running()?;
        let view = self.view();
        let quorums = quorums::for_write(view.usual(), self.settings.read_repair, &options)?;
        if write.condition.is_some() {
            return Err(quorums::not_yet("a conditional write (If-Match, If-None-Match)").into());
        }
        if write.retry.is_some() {
            return Err(quorums::not_yet("a safe retry (Idempotency-Key)").into());
        }
        self.check_reachable(&view, &write, quorums)?;
        self.check_stragglers()?;
        let deadline = options.deadline;
        let version = self.ceiling.stamp(deadline).await?;
        let again = planted::is(Bug::RetriedUnderNewVersion).then(|| write.clone());
        let Write { key, change, .. } = write;
        let record = encoding::encode(&change.into_record(version));
        let sent = StoredWrite { key, record, survived_ms: None };
        let answer = self.send_stamped(Stamped { write: sent, version }, &options).await;
        match (again, &answer) {
            (Some(write), Err(WriteError::Unknown { .. })) if self.runtime.now() < deadline => {
                // A pause, so that the retries until the deadline are few.
                self.runtime.sleep(Duration::from_millis(50)).await;
                Box::pin(self.write(write, options)).await.or(answer)
            }
            _ => answer,
        }
    }

    /// Refuses, before it is stamped, what too few replicas can be reached for.
    fn check_reachable(&self, view: &View, write: &Write, quorums: Quorums) -> Result<(), Refusal> {
        for set in view.write_sets(write.key.partition()).iter() {
            let w = quorums.of_set(view.usual(), set.len()).w;
            let up = set.iter().filter(|node| self.is_up(**node)).count();
            if up < usize::from(w) {
                if planted::is(Bug::RefusedWriteHinted) {
                    self.hint_anyway(set, write);
                }
                return Err(too_few(w, up, "the others are not connected"));
            }
        }
        Ok(())
    }

    /// Sends a write until its quorums have it, or it is known that they will not; again where replicas
    /// went by another layout meanwhile.
    async fn send_stamped(
        &self,
        write: Stamped,
        options: &RequestOptions,
    ) -> Result<WriteAnswer, WriteError> {
        let mut left_traces = None;
        loop {
            let view = self.view();
            let quorums = quorums::for_write(view.usual(), self.settings.read_repair, options);
            let quorums = match (quorums, left_traces.take()) {
                (Ok(quorums), traces) => {
                    left_traces = traces;
                    quorums
                }
                // With fewer replicas, what was asked for may make no sense any more.
                (Err(_), Some(traces)) => return Err(traces),
                (Err(refusal), None) => return Err(refusal.into()),
            };
            let Attempt { answer, other_epoch } =
                self.send_once(&write, &view, quorums, options.deadline).await;
            match &answer {
                Ok(_) => return answer,
                Err(unknown @ WriteError::Unknown { .. }) => left_traces = Some(unknown.clone()),
                Err(_) => {}
            }
            let resend_at = self.runtime.now() + EPOCH_PAUSE;
            if !other_epoch || resend_at >= options.deadline {
                // What an earlier attempt left behind may yet show.
                return left_traces.map_or(answer, Err);
            }
            self.runtime.sleep_until(resend_at).await;
        }
    }

    async fn send_once(
        &self,
        write: &Stamped,
        view: &View,
        quorums: Quorums,
        deadline: Instant,
    ) -> Attempt {
        let sets = view.write_sets(write.write.key.partition());
        // A replica that is known to be away is not sent to; a hint is kept for it.
        let (up, mut missed): (Vec<NodeId>, Vec<NodeId>) =
            sets.union().into_iter().partition(|node| self.is_up(*node));
        let tallies = Tallies::new(sets.iter().map(|set| {
            let sent_to = set.iter().filter(|node| up.contains(node)).count() as u16;
            (set, Tally::new(sent_to, quorums.of_set(view.usual(), set.len()).w))
        }));
        let gathering = Gathering::new(Some(self.stragglers.clone()));
        for node in &up {
            let slot = gathering.slot(*node);
            self.send_write(write.write.clone(), view.epoch, deadline, slot);
        }
        let sent =
            Sent { gathering: &gathering, to: &up, quorums, version: write.version, deadline };
        let attempt = self.await_quorum(sent, tallies, &mut missed).await;
        if attempt.answer.is_ok() {
            self.keep_hints(&gathering, missed, write.write.clone());
        }
        attempt
    }

    fn hint_anyway(&self, replicas: &[NodeId], write: &Write) {
        let record = encoding::encode(&write.change.clone().into_record(self.ceiling.now()));
        let missed = replicas.iter().filter(|node| !self.is_up(**node));
        missed.for_each(|node| self.hints.note(*node, &write.key, &record));
    }

    /// Keeps hints for the replicas that have missed an acknowledged write, or will. One that was not
    /// acknowledged is left as it is: a write that was refused must never show up.
    fn keep_hints(&self, gathering: &Gathering<Taken>, missed: Vec<NodeId>, write: StoredWrite) {
        if self.settings.hint_bytes == 0 {
            return;
        }
        let (hints, own) = (self.hints.clone(), self.node);
        let note = move |node: NodeId| {
            // Where the own replica fails, the node stops.
            if node != own {
                hints.note(node, &write.key, &write.record);
            }
        };
        missed.into_iter().for_each(&note);
        gathering.acknowledged(note);
    }

    /// Sends a record to one replica, which may be this node's own.
    pub(super) fn send_write(
        &self,
        write: StoredWrite,
        epoch: Epoch,
        deadline: Instant,
        slot: Slot<Taken>,
    ) {
        if slot.node() != self.node {
            return self.peers.write(WriteItem { write, epoch, deadline, slot });
        }
        if planted::is(Bug::OwnWriteCountedBeforeSync) {
            slot.fill(Ok(Taken::Newest));
            return self.replica.write(write, Box::new(drop));
        }
        let to = self.node;
        // Held until it is in the replica's queue: see `active`.
        let _held = match self.hold(epoch) {
            Ok(held) => held,
            Err(reason) => return slot.fill(Err(PeerError::Refused { to, reason })),
        };
        let done = move |result: Result<Vec<Result<Taken, Late>>, ReplicaError>| {
            let nothing = || PeerError::NoAnswer { to, reason: "it gave no result".to_owned() };
            slot.fill(match result {
                Ok(taken) => match taken.first() {
                    Some(taken) => taken.map_err(|late| late.refusal(to)),
                    None => Err(nothing()),
                },
                Err(ReplicaError::NotTaken(reason)) => Err(PeerError::Refused { to, reason }),
                Err(ReplicaError::Unknown(reason)) => Err(PeerError::NoAnswer { to, reason }),
            });
        };
        self.replica.write(write, Box::new(done));
    }

    /// Refuses new work while too many replica writes finish in the background.
    pub(super) fn check_stragglers(&self) -> Result<(), Refusal> {
        if self.stragglers.is_full() {
            let what = "the queue of replica writes that finish in the background";
            return Err(Refusal::Overloaded { what, retry_after: RETRY_AFTER });
        }
        Ok(())
    }

    async fn await_quorum(
        &self,
        sent: Sent<'_>,
        mut tallies: Tallies<'_>,
        missed: &mut Vec<NodeId>,
    ) -> Attempt {
        let mut failures = Vec::new();
        let mut other_epoch = false;
        let mut messages = sent.to.iter().filter(|node| **node != self.node).count() as u32;
        while tallies.verdict() == Verdict::Pending {
            let next = sent.gathering.next(usize::from(tallies.missing()));
            let Some(arrived) = self.runtime.deadline(sent.deadline, next).await else {
                failures.push("the deadline passed".to_owned());
                break;
            };
            for Arrival { node, result } in arrived {
                messages += u32::from(node != self.node && result.is_ok());
                tallies.count(node, heard(&result));
                missed.extend(result.is_err().then_some(node));
                if let Err(error) = result {
                    other_epoch |= is_other_epoch(&error);
                    failures.push(error.to_string());
                }
            }
        }
        let answer = match tallies.verdict() {
            Verdict::Reached => Ok(self.reached(&sent, &tallies, messages)),
            Verdict::NotApplied => Err(too_few(sent.quorums.w, 0, &failures.join("; ")).into()),
            Verdict::Unknown | Verdict::Pending => Err(unknown(&tallies, sent.quorums, &failures)),
        };
        Attempt { answer, other_epoch }
    }

    fn reached(&self, sent: &Sent<'_>, tallies: &Tallies<'_>, messages: u32) -> WriteAnswer {
        let superseded_by = tallies.superseded_by();
        let told = superseded_by.filter(|_| !planted::is(Bug::SupersededNotTold));
        if let Some(newer) = superseded_by {
            self.metrics.writes_superseded.inc();
            self.observe(newer);
        }
        let cost = Cost { messages, acks: tallies.acks() };
        let (version, level) = (sent.version, sent.quorums.level());
        WriteAnswer { version, superseded_by: told, level, cost }
    }
}

/// What a replica's answer says about the write.
fn heard(result: &Result<Taken, PeerError>) -> Heard {
    match result {
        Ok(taken) => Heard::Ack(*taken),
        Err(error) if error.may_have_been_handled() => Heard::Unknown,
        Err(_) => Heard::NotApplied,
    }
}

fn unknown(tally: &Tallies<'_>, quorums: Quorums, failures: &[String]) -> WriteError {
    let (acks, w) = (tally.acks(), quorums.w);
    if planted::is(Bug::UnknownSaidNotApplied) {
        return too_few(w, acks.into(), &failures.join("; ")).into();
    }
    let detail =
        format!("{acks} of the {w} replicas needed took it in time ({})", failures.join("; "));
    WriteError::Unknown { detail }
}

/// The refusal where too few replicas can be reached.
pub(super) fn too_few(needed: u16, answered: usize, detail: &str) -> Refusal {
    Refusal::NotEnoughReplicas { needed, answered: answered as u16, detail: detail.to_owned() }
}

//! Coordinating a write: stamp, send to all N replicas at once, answer when W have it.
//!
//! **Guarantees.** A write is refused only where no replica has it and none will. Once any replica
//! may have it, too few answers by the deadline are `unknown`. It is sent once, under one version:
//! never again under another. The slower replicas finish in the background, bounded.

use std::time::Duration;

use bytes::Bytes;

use super::Core;
use super::gather::{Arrival, Gathering, Slot};
use super::peers::WriteItem;
use super::quorums::{self, Quorums};
use super::replica::ReplicaError;
use super::tally::{Heard, Taken, Tally, Verdict};
use crate::error::{Refusal, WriteError};
use crate::peer::PeerError;
use crate::planted::{self, Bug};
use crate::replication::{Cost, RequestOptions, WriteAnswer};
use crate::runtime::Instant;
use crate::storage::encoding;
use crate::types::{Key, NodeId, Version, Write};

/// When to try again where too many replica writes are finishing in the background.
const RETRY_AFTER: Duration = Duration::from_millis(100);

impl Core {
    pub(super) async fn write(
        &self,
        write: Write,
        options: RequestOptions,
    ) -> Result<WriteAnswer, WriteError> {
        let n = self.layout.replicas();
        let quorums = quorums::for_write(&self.settings, n, &options)?;
        if write.condition.is_some() {
            return Err(quorums::not_yet("a conditional write (If-Match, If-None-Match)").into());
        }
        if write.retry.is_some() {
            return Err(quorums::not_yet("a safe retry (Idempotency-Key)").into());
        }
        self.check_running()?;
        let replicas = self.layout.replicas_of(write.key.partition());
        // A replica that is known to be away is not sent to; a hint is kept for it.
        let (up, mut missed): (Vec<NodeId>, Vec<NodeId>) =
            replicas.iter().partition(|node| self.is_up(**node));
        if up.len() < usize::from(quorums.w) {
            if planted::is(Bug::RefusedWriteHinted) {
                self.hint_anyway(&missed, &write);
            }
            return Err(too_few(quorums.w, up.len(), "the others are not connected").into());
        }
        self.check_stragglers()?;
        let version = self.ceiling.stamp(options.deadline).await?;
        let again = planted::is(Bug::RetriedUnderNewVersion).then(|| write.clone());
        let Write { key, change, .. } = write;
        let record = encoding::encode(&change.into_record(version));
        let gathering = Gathering::new(Some(self.stragglers.clone()));
        for node in &up {
            self.send_write(&key, &record, options.deadline, gathering.slot(*node));
        }
        let await_quorum =
            self.await_quorum(&gathering, &up, quorums, version, options.deadline, &mut missed);
        let answer = await_quorum.await;
        if answer.is_ok() {
            self.keep_hints(&gathering, missed, key, record);
        }
        drop(gathering);
        match (again, &answer) {
            (Some(write), Err(WriteError::Unknown { .. }))
                if self.runtime.now() < options.deadline =>
            {
                // A pause, so that the retries until the deadline are few.
                self.runtime.sleep(Duration::from_millis(50)).await;
                Box::pin(self.write(write, options)).await.or(answer)
            }
            _ => answer,
        }
    }

    fn hint_anyway(&self, missed: &[NodeId], write: &Write) {
        let record = encoding::encode(&write.change.clone().into_record(self.ceiling.now()));
        missed.iter().for_each(|node| self.hints.note(*node, &write.key, &record));
    }

    /// Keeps hints for the replicas that have missed an acknowledged write, or will. One that was not
    /// acknowledged is left as it is: a write that was refused must never show up.
    fn keep_hints(
        &self,
        gathering: &Gathering<Taken>,
        missed: Vec<NodeId>,
        key: Key,
        record: Bytes,
    ) {
        if self.settings.hint_bytes == 0 {
            return;
        }
        let (hints, own) = (self.hints.clone(), self.node);
        let note = move |node: NodeId| {
            // Where the own replica fails, the node stops.
            if node != own {
                hints.note(node, &key, &record);
            }
        };
        missed.into_iter().for_each(&note);
        gathering.acknowledged(note);
    }

    /// Sends a record to one replica, which may be this node's own.
    pub(super) fn send_write(
        &self,
        key: &Key,
        record: &Bytes,
        deadline: Instant,
        slot: Slot<Taken>,
    ) {
        if slot.node() != self.node {
            let (key, record) = (key.clone(), record.clone());
            return self.peers.write(WriteItem { key, record, deadline, slot });
        }
        if planted::is(Bug::OwnWriteCountedBeforeSync) {
            slot.fill(Ok(Taken::Newest));
            return self.replica.write(key, record, Box::new(drop));
        }
        let to = self.node;
        let done = move |result: Result<Vec<Taken>, ReplicaError>| {
            let nothing = || PeerError::NoAnswer { to, reason: "it gave no result".to_owned() };
            slot.fill(match result {
                Ok(taken) => taken.first().copied().ok_or_else(nothing),
                Err(ReplicaError::NotTaken(reason)) => Err(PeerError::Refused { to, reason }),
                Err(ReplicaError::Unknown(reason)) => Err(PeerError::NoAnswer { to, reason }),
            });
        };
        self.replica.write(key, record, Box::new(done));
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
        gathering: &Gathering<Taken>,
        sent_to: &[NodeId],
        quorums: Quorums,
        version: Version,
        deadline: Instant,
        missed: &mut Vec<NodeId>,
    ) -> Result<WriteAnswer, WriteError> {
        let mut tally = Tally::new(sent_to.len() as u16, quorums.w);
        let mut failures = Vec::new();
        let mut messages = sent_to.iter().filter(|node| **node != self.node).count() as u32;
        while tally.verdict() == Verdict::Pending {
            let next = gathering.next(usize::from(tally.missing()));
            let Some(arrived) = self.runtime.deadline(deadline, next).await else {
                failures.push("the deadline passed".to_owned());
                return Err(unknown(&tally, quorums, &failures));
            };
            for Arrival { node, result } in arrived {
                messages += u32::from(node != self.node && result.is_ok());
                tally.count(heard(&result));
                missed.extend(result.is_err().then_some(node));
                failures.extend(result.err().map(|error| error.to_string()));
            }
        }
        match tally.verdict() {
            Verdict::Reached => {
                let superseded_by = tally.superseded_by();
                let told = superseded_by.filter(|_| !planted::is(Bug::SupersededNotTold));
                if let Some(newer) = superseded_by {
                    self.metrics.writes_superseded.inc();
                    self.observe(newer);
                }
                let cost = Cost { messages, acks: tally.acks() };
                Ok(WriteAnswer { version, superseded_by: told, level: quorums.level(), cost })
            }
            Verdict::NotApplied => Err(too_few(quorums.w, 0, &failures.join("; ")).into()),
            Verdict::Unknown | Verdict::Pending => Err(unknown(&tally, quorums, &failures)),
        }
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

fn unknown(tally: &Tally, quorums: Quorums, failures: &[String]) -> WriteError {
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

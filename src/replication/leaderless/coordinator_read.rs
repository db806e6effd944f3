//! Coordinating a read: ask R replicas, take the newest, repair who is stale or missing, answer.
//!
//! **Guarantees.** Where R + W > N and repair is on, what a read returns is held by a write quorum
//! before it is answered, so that no later quorum read returns anything older; where too few
//! replicas can be brought there the read fails instead. A replica without a record is stale.
//!
//! **Does not guarantee** linearizability: a read beside an unfinished write may return either.
//!
//! One read in [`ASK_ALL_ONE_IN`] asks all N, so that reads alone find every stale replica.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::Core;
use super::coordinator_write::too_few;
use super::gather::{Arrival, Gathering};
use super::peers::ReadItem;
use super::quorums::{self, Quorums, ReadPlan};
use super::resolve::{Held, Resolution, resolve};
use super::tally::Taken;
use crate::error::{ReadError, Refusal};
use crate::planted::{self, Bug};
use crate::replication::{Cost, ReadAnswer, RequestOptions};
use crate::runtime::Instant;
use crate::storage::encoding;
use crate::types::{EffectiveLevel, Key, NodeId, Record};

/// One quorum read in this many asks all replicas.
const ASK_ALL_ONE_IN: u64 = 10;

/// How long a read waits for the replicas that it asked, before it asks the others as well, where too
/// little is known of them: well above what a healthy replica takes, well below what a person notices.
pub(super) const HEDGE_DELAY: Duration = Duration::from_millis(20);

/// How long a read waits at least: what is quicker than that is not worth another message.
const MIN_HEDGE_DELAY: Duration = Duration::from_millis(2);

/// How long a read waits at most before it asks others: a replica that hangs shows as slow too.
const MAX_HEDGE_DELAY: Duration = Duration::from_millis(200);

/// Reads whose late answers are still looked at in the background, at most.
const MAX_LATE_CHECKS: usize = 256;

/// What a coordinator has found of a key so far.
struct Round<'a> {
    core: &'a Core,
    key: &'a Key,
    deadline: Instant,
    gathering: Gathering<Option<Bytes>>,
    /// The replicas not asked yet, the slowest first.
    unasked: Vec<NodeId>,
    /// Those asked and not heard from.
    awaited: Vec<NodeId>,
    held: Vec<Held>,
    failures: Vec<String>,
    messages: u32,
}

impl Core {
    pub(super) async fn read(
        self: &Arc<Core>,
        key: Key,
        options: RequestOptions,
    ) -> Result<ReadAnswer, ReadError> {
        let n = self.layout.replicas();
        let plan = quorums::for_read(&self.settings, n, &options)?;
        self.check_running()?;
        match plan {
            ReadPlan::Quorum(quorums) if planted::is(Bug::LocalReadAtQuorum) => {
                let local = self.local_read(&key, options.deadline).await?;
                Ok(ReadAnswer { level: quorums.level(), ..local })
            }
            ReadPlan::Quorum(quorums) => {
                self.quorum_read(&key, quorums, options.deadline).await.map_err(ReadError::from)
            }
            ReadPlan::Local => self.local_read(&key, options.deadline).await,
        }
    }

    /// The nearest replica's record, which is this node's own where it has one.
    async fn local_read(&self, key: &Key, deadline: Instant) -> Result<ReadAnswer, ReadError> {
        let (newest, messages) = if self.layout.holds(self.node, key.partition()) {
            (self.read_own(key)?, 0)
        } else {
            let mut round = Round::new(self, key, deadline);
            round.hear(1).await?;
            (round.held.swap_remove(0).record, round.messages)
        };
        let cost = Cost { messages, acks: 1 };
        let record = newest.map(|bytes| self.as_it_counts(key, &bytes)).transpose()?;
        Ok(ReadAnswer { record, level: EffectiveLevel::Local, cost })
    }

    async fn quorum_read(
        self: &Arc<Core>,
        key: &Key,
        quorums: Quorums,
        deadline: Instant,
    ) -> Result<ReadAnswer, Refusal> {
        let mut round = Round::new(self, key, deadline);
        let ask_all = self.runtime.random_below(ASK_ALL_ONE_IN) == 0;
        if ask_all {
            round.ask(usize::from(quorums.n))?;
        }
        round.hear(usize::from(quorums.r)).await?;
        if planted::is(Bug::ExpiredFilteredBeforeMerging) {
            self.forget_expired(&mut round.held);
        }
        let resolution = resolve(&round.held).map_err(|error| damaged(key, &error))?;
        let mut cost = Cost { messages: round.messages, acks: round.held.len() as u16 };
        cost.messages += self.settle(key, &resolution, quorums, deadline).await?;
        if ask_all && !round.awaited.is_empty() && self.repairs() {
            let Round { gathering, held, .. } = round;
            self.check_late(key.clone(), gathering, held, quorums, deadline);
        }
        let record = resolution.newest.map(|bytes| self.as_it_counts(key, &bytes)).transpose()?;
        Ok(ReadAnswer { record, level: quorums.level(), cost })
    }

    /// A stored record as it counts now.
    fn as_it_counts(&self, key: &Key, bytes: &Bytes) -> Result<Record, Refusal> {
        let record = decoded(key, bytes)?;
        // The clock is read where that counts: most records never expire.
        Ok(match record.expires_at_ms() {
            None => record,
            Some(_) => record.as_of(self.expiry_now_ms()),
        })
    }

    /// What a reader would do that forgot that an expired record is a tombstone.
    fn forget_expired(&self, held: &mut [Held]) {
        let now_ms = self.expiry_now_ms();
        let is_over = |record: &Bytes| {
            encoding::peek_expiry(record).is_ok_and(|at| at.is_some_and(|at_ms| at_ms <= now_ms))
        };
        for held in held {
            held.record = held.record.take().filter(|record| !is_over(record));
        }
    }

    /// What expiry is judged by, in milliseconds since 1970: never less than before, as long as the node
    /// runs, so that what a coordinator showed as expired it does not show again.
    pub(super) fn expiry_now_ms(&self) -> u64 {
        let now_ms = self.ceiling.now().millis();
        self.expiry_judged_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }

    /// How long to wait for these replicas before others are asked as well: what 95 of a hundred answers
    /// of the slowest of them took of late, so that one read in twenty asks more. Where all are slow
    /// because all are busy, it waits longer by itself.
    pub(super) fn hedge_delay(&self, asked: &[NodeId]) -> Duration {
        hedge_delay(asked, MIN_HEDGE_DELAY, |node| self.peers.read_p95_us(node))
    }

    /// The same for writes, which take a sync: too little is known of one alone to hurry it.
    fn write_hedge_delay(&self, sent_to: &[NodeId]) -> Duration {
        hedge_delay(sent_to, HEDGE_DELAY, |node| self.peers.write_p95_us(node))
    }

    /// Brings what is newest to a write quorum, and to every replica known to be behind; waits for
    /// the quorum alone. Gives how many messages it took.
    pub(super) async fn settle(
        &self,
        key: &Key,
        resolution: &Resolution,
        quorums: Quorums,
        deadline: Instant,
    ) -> Result<u32, Refusal> {
        let (Some(newest), Some(version)) = (&resolution.newest, resolution.version) else {
            return Ok(0);
        };
        self.observe(version);
        let holders = resolution.holders.len();
        let missing = match quorums.is_strong() {
            true if planted::is(Bug::ReadAnswersBeforeRepair) => 0,
            true => usize::from(quorums.w).saturating_sub(holders),
            false => 0,
        };
        let wants_repair = !resolution.behind.is_empty() && self.repairs();
        if missing == 0 && (!wants_repair || self.stragglers.is_full()) {
            return Ok(0);
        }
        self.check_stragglers()?;
        let mut repair = Repair {
            core: self,
            key,
            newest,
            deadline,
            gathering: Gathering::new(Some(self.stragglers.clone())),
            sent_to: Vec::new(),
            acks: 0,
            messages: 0,
        };
        repair.send(&resolution.behind);
        if missing > 0 {
            let known = |node: &NodeId| {
                resolution.holders.contains(node) || resolution.behind.contains(node)
            };
            let replicas = self.layout.replicas_of(key.partition());
            let others = replicas.iter().copied().filter(|node| !known(node)).collect();
            repair.await_acks(missing, others, quorums.w, holders).await?;
        }
        Ok(repair.messages)
    }

    /// Waits in the background for the replicas that were asked and are slow, and repairs them.
    fn check_late(
        self: &Arc<Core>,
        key: Key,
        gathering: Gathering<Option<Bytes>>,
        mut held: Vec<Held>,
        quorums: Quorums,
        deadline: Instant,
    ) {
        if self.late_checks.fetch_add(1, Ordering::Relaxed) >= MAX_LATE_CHECKS {
            self.late_checks.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let core = self.clone();
        self.runtime.spawn(async move {
            let all = usize::MAX;
            while gathering.outstanding() > 0 {
                let Some(late) = core.runtime.deadline(deadline, gathering.next(all)).await else {
                    break;
                };
                take_held(late, &mut held, &mut Vec::new());
            }
            take_held(gathering.take(), &mut held, &mut Vec::new());
            if let Ok(resolution) = resolve(&held) {
                // Nobody waits for this: a repair that fails is left to the next read.
                let _ = core.settle(&key, &resolution, quorums, deadline).await;
            }
            core.late_checks.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn hedge_delay(
    nodes: &[NodeId],
    least: Duration,
    p95_us: impl Fn(NodeId) -> Option<u64>,
) -> Duration {
    let usual = |node: &NodeId| p95_us(*node).map_or(HEDGE_DELAY, Duration::from_micros);
    nodes.iter().map(usual).max().unwrap_or(HEDGE_DELAY).clamp(least, MAX_HEDGE_DELAY)
}

impl<'a> Round<'a> {
    fn new(core: &'a Core, key: &'a Key, deadline: Instant) -> Round<'a> {
        Round {
            core,
            key,
            deadline,
            gathering: Gathering::new(None),
            unasked: core.slowest_first(core.layout.replicas_of(key.partition())),
            awaited: Vec::new(),
            held: Vec::new(),
            failures: Vec::new(),
            messages: 0,
        }
    }

    /// Asks up to `count` replicas more, the quickest first. The own replica answers at once.
    fn ask(&mut self, count: usize) -> Result<(), Refusal> {
        for _ in 0..count {
            let Some(node) = self.unasked.pop() else { break };
            if node == self.core.node {
                let record = self.core.read_own(self.key)?;
                self.held.push(Held { node, record });
                continue;
            }
            self.messages += 1;
            self.awaited.push(node);
            let slot = self.gathering.slot(node);
            let (key, deadline) = (self.key.clone(), self.deadline);
            self.core.peers.read(ReadItem { key, deadline, slot });
        }
        Ok(())
    }

    /// Waits until `needed` replicas have answered, asking others where one fails or is slow.
    async fn hear(&mut self, needed: usize) -> Result<(), Refusal> {
        let runtime = &self.core.runtime;
        self.ask(needed.saturating_sub(self.held.len() + self.awaited.len()))?;
        let hedge_delay = self.core.hedge_delay(&self.awaited);
        let mut hedge_at = Some(runtime.now() + hedge_delay);
        while self.held.len() < needed {
            self.ask(needed.saturating_sub(self.held.len() + self.awaited.len()))?;
            if self.awaited.is_empty() && self.held.len() < needed {
                return Err(self.short_of(needed));
            }
            let until = hedge_at.map_or(self.deadline, |at| at.min(self.deadline));
            let next = self.gathering.next(needed.saturating_sub(self.held.len()));
            match runtime.deadline(until, next).await {
                Some(arrived) => self.take(arrived),
                None if until == self.deadline => {
                    self.failures.push("the deadline passed".to_owned());
                    return Err(self.short_of(needed));
                }
                None => {
                    hedge_at = None;
                    // One that hangs is known by it, however quick it was before.
                    let waited_us = hedge_delay.max(HEDGE_DELAY).as_micros() as u64;
                    self.awaited
                        .iter()
                        .for_each(|node| self.core.peers.note_slow(*node, waited_us));
                    self.ask(self.unasked.len())?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, arrived: Vec<Arrival<Option<Bytes>>>) {
        let heard = |node: &NodeId| arrived.iter().any(|arrival| arrival.node == *node);
        self.awaited.retain(|node| !heard(node));
        let answered_before = self.held.len();
        take_held(arrived, &mut self.held, &mut self.failures);
        self.messages += (self.held.len() - answered_before) as u32;
    }

    fn short_of(&self, needed: usize) -> Refusal {
        too_few(needed as u16, self.held.len(), &self.failures.join("; "))
    }
}

fn take_held(
    arrived: Vec<Arrival<Option<Bytes>>>,
    held: &mut Vec<Held>,
    failures: &mut Vec<String>,
) {
    for Arrival { node, result } in arrived {
        match result {
            Ok(record) => held.push(Held { node, record }),
            Err(error) => failures.push(error.to_string()),
        }
    }
}

/// Writing a record back to replicas that do not have it.
struct Repair<'a> {
    core: &'a Core,
    key: &'a Key,
    newest: &'a Bytes,
    deadline: Instant,
    gathering: Gathering<Taken>,
    sent_to: Vec<NodeId>,
    acks: usize,
    messages: u32,
}

impl Repair<'_> {
    fn send(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.core.metrics.read_repairs.inc();
            self.sent_to.push(*node);
            self.messages += u32::from(*node != self.core.node);
            let slot = self.gathering.slot(*node);
            self.core.send_write(self.key, self.newest, self.deadline, slot);
        }
    }

    /// Waits for `missing` acknowledgements; turns to the `others`, whose record is not known,
    /// where those written to are too few, fail or are slow. Also a replica that has something
    /// newer by now acknowledges: no later read returns anything older through it.
    async fn await_acks(
        &mut self,
        missing: usize,
        mut others: Vec<NodeId>,
        w: u16,
        holders: usize,
    ) -> Result<(), Refusal> {
        let runtime = &self.core.runtime;
        let mut failures = Vec::new();
        let hedge_at = runtime.now() + self.core.write_hedge_delay(&self.sent_to);
        if self.sent_to.len() < missing {
            self.send(&std::mem::take(&mut others));
        }
        while self.acks < missing {
            if self.gathering.outstanding() == 0 && others.is_empty() {
                self.take(self.gathering.take(), &mut failures);
                if self.acks >= missing {
                    break;
                }
                return Err(too_few(w, holders + self.acks, &failures.join("; ")));
            }
            let until = if others.is_empty() { self.deadline } else { hedge_at };
            let next = self.gathering.next(missing - self.acks);
            let arrived = runtime.deadline(until.min(self.deadline), next).await;
            let turn_to_others = match arrived {
                Some(arrived) => self.take(arrived, &mut failures) > 0,
                None if runtime.now() >= self.deadline => {
                    failures.push("the deadline passed".to_owned());
                    return Err(too_few(w, holders + self.acks, &failures.join("; ")));
                }
                None => true,
            };
            if turn_to_others {
                self.send(&std::mem::take(&mut others));
            }
        }
        Ok(())
    }

    /// Takes answers in, and says how many of them failed.
    fn take(&mut self, arrived: Vec<Arrival<Taken>>, failures: &mut Vec<String>) -> usize {
        let mut failed = 0;
        for Arrival { node, result } in arrived {
            match result {
                Ok(taken) => {
                    self.acks += 1;
                    self.messages += u32::from(node != self.core.node);
                    if let Taken::SupersededBy(newer) = taken {
                        self.core.observe(newer);
                    }
                }
                Err(error) => {
                    failed += 1;
                    failures.push(error.to_string());
                }
            }
        }
        failed
    }
}

/// The record in bytes that a replica stored.
pub(super) fn decoded(key: &Key, bytes: &Bytes) -> Result<Record, Refusal> {
    encoding::decode(bytes).map_err(|error| damaged(key, &error))
}

pub(super) fn damaged(key: &Key, error: &encoding::DecodeError) -> Refusal {
    Refusal::Storage { detail: format!("what a replica holds of key '{key}' is {error}") }
}

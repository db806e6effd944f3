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
use super::coordinator_write::EPOCH_PAUSE;
use super::gather::{Arrival, Gathering};
use super::messages::Found;
use super::peers::ReadItem;
use super::quorums::{self, Quorums, ReadPlan};
use super::resolve::{Held, resolve};
use super::settle::{Failed, Failures};
use super::view::View;
use crate::error::{ReadError, Refusal};
use crate::peer::PeerError;
use crate::planted::{self, Bug};
use crate::replication::{Cost, ReadAnswer, RequestOptions};
use crate::runtime::Instant;
use crate::storage::encoding;
use crate::types::{EffectiveLevel, Epoch, Key, NodeId, Record};

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
    epoch: Epoch,
    deadline: Instant,
    /// The sets of replicas, and of how many of each an answer is needed.
    needs: Vec<(&'a [NodeId], usize)>,
    gathering: Gathering<Found>,
    /// The replicas not asked yet, the slowest first.
    unasked: Vec<NodeId>,
    /// Those asked and not heard from.
    awaited: Vec<NodeId>,
    held: Vec<Held>,
    failures: Failures,
    messages: u32,
}

impl Core {
    pub(super) async fn read(
        self: &Arc<Core>,
        key: Key,
        options: RequestOptions,
    ) -> Result<ReadAnswer, ReadError> {
        loop {
            self.check_running()?;
            let view = self.view();
            let plan = quorums::for_read(view.usual(), self.settings.read_repair, &options)?;
            let answer = match plan {
                ReadPlan::Quorum(quorums) if planted::is(Bug::LocalReadAtQuorum) => {
                    let local = self.local_read(&view, &key, options.deadline).await;
                    local.map(|answer| ReadAnswer { level: quorums.level(), ..answer })
                }
                ReadPlan::Quorum(quorums) => {
                    self.quorum_read(&view, &key, quorums, options.deadline).await
                }
                ReadPlan::Local => self.local_read(&view, &key, options.deadline).await,
            };
            let ask_again_at = self.runtime.now() + EPOCH_PAUSE;
            match answer {
                // The layout changes: what it was asked under stands no more.
                Err(failed) if failed.other_epoch && ask_again_at < options.deadline => {
                    self.runtime.sleep_until(ask_again_at).await;
                }
                answer => return answer.map_err(|failed| failed.refusal.into()),
            }
        }
    }

    /// The nearest replica's record, which is this node's own where it has one.
    async fn local_read(
        &self,
        view: &View,
        key: &Key,
        deadline: Instant,
    ) -> Result<ReadAnswer, Failed> {
        let partition = key.partition();
        let (newest, messages) = if view.reads_from(self.node, partition) {
            (self.read_own(key)?.record, 0)
        } else {
            let mut round = Round::new(self, view, key, deadline);
            round.needs = vec![(view.old_replicas(partition), 1)];
            round.unasked.retain(|node| view.reads_from(*node, partition));
            round.hear().await?;
            (round.held.swap_remove(0).record, round.messages)
        };
        let cost = Cost { messages, acks: 1 };
        let record = newest.map(|bytes| self.as_it_counts(key, &bytes)).transpose()?;
        Ok(ReadAnswer { record, level: EffectiveLevel::Local, cost })
    }

    async fn quorum_read(
        self: &Arc<Core>,
        view: &Arc<View>,
        key: &Key,
        quorums: Quorums,
        deadline: Instant,
    ) -> Result<ReadAnswer, Failed> {
        let mut round = Round::new(self, view, key, deadline);
        let sets = view.read_sets(key.partition());
        let of_set = |set: &[NodeId]| usize::from(quorums.of_set(view.usual(), set.len()).r);
        round.needs = sets.iter().map(|set| (set, of_set(set))).collect();
        let ask_all = self.runtime.random_below(ASK_ALL_ONE_IN) == 0;
        if ask_all {
            round.ask_all()?;
        }
        round.hear().await?;
        if planted::is(Bug::ExpiredFilteredBeforeMerging) {
            self.forget_expired(&mut round.held);
        }
        let resolution = resolve(&round.held).map_err(|error| damaged(key, &error))?;
        let mut cost = Cost { messages: round.messages, acks: round.held.len() as u16 };
        cost.messages += self.settle(view, key, &resolution, quorums, deadline).await?;
        if ask_all && !round.awaited.is_empty() && self.repairs() {
            let Round { gathering, held, .. } = round;
            let late = Late { view: view.clone(), key: key.clone(), gathering, held, quorums };
            self.check_late(late, deadline);
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

    /// Waits in the background for the replicas that were asked and are slow, and repairs them.
    fn check_late(self: &Arc<Core>, late: Late, deadline: Instant) {
        if self.late_checks.fetch_add(1, Ordering::Relaxed) >= MAX_LATE_CHECKS {
            self.late_checks.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let core = self.clone();
        let Late { view, key, gathering, mut held, quorums } = late;
        self.runtime.spawn(async move {
            let all = usize::MAX;
            while gathering.outstanding() > 0 {
                let Some(late) = core.runtime.deadline(deadline, gathering.next(all)).await else {
                    break;
                };
                take_held(late, &mut held, &mut Failures::default());
            }
            take_held(gathering.take(), &mut held, &mut Failures::default());
            if let Ok(resolution) = resolve(&held) {
                // Nobody waits for this: a repair that fails is left to the next read.
                let _ = core.settle(&view, &key, &resolution, quorums, deadline).await;
            }
            core.late_checks.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// A read that is answered, and of which some replicas are still to answer.
struct Late {
    view: Arc<View>,
    key: Key,
    gathering: Gathering<Found>,
    held: Vec<Held>,
    quorums: Quorums,
}

pub(super) fn hedge_delay(
    nodes: &[NodeId],
    least: Duration,
    p95_us: impl Fn(NodeId) -> Option<u64>,
) -> Duration {
    let usual = |node: &NodeId| p95_us(*node).map_or(HEDGE_DELAY, Duration::from_micros);
    nodes.iter().map(usual).max().unwrap_or(HEDGE_DELAY).clamp(least, MAX_HEDGE_DELAY)
}

impl<'a> Round<'a> {
    /// Asks nobody yet, and needs nobody's answer.
    fn new(core: &'a Core, view: &'a View, key: &'a Key, deadline: Instant) -> Round<'a> {
        Round {
            core,
            key,
            epoch: view.epoch,
            deadline,
            needs: Vec::new(),
            gathering: Gathering::new(None),
            unasked: core.slowest_first(&view.read_sets(key.partition()).union()),
            awaited: Vec::new(),
            held: Vec::new(),
            failures: Failures::default(),
            messages: 0,
        }
    }

    /// Asks every replica that was not asked.
    fn ask_all(&mut self) -> Result<(), Refusal> {
        while let Some(node) = self.unasked.pop() {
            self.ask(node)?;
        }
        Ok(())
    }

    /// Asks so many replicas of each set more as are needed and not asked, the quickest first.
    fn ask_lacking(&mut self) -> Result<(), Refusal> {
        for (set, needed) in self.needs.clone() {
            let counts = |node: &NodeId| set.contains(node);
            loop {
                let heard = self.held.iter().filter(|held| counts(&held.node)).count();
                let awaited = self.awaited.iter().filter(|node| counts(node)).count();
                if heard + awaited >= needed {
                    break;
                }
                let Some(next) = self.unasked.iter().rposition(counts) else { break };
                let node = self.unasked.remove(next);
                self.ask(node)?;
            }
        }
        Ok(())
    }

    /// Asks a replica. The own one answers at once.
    fn ask(&mut self, node: NodeId) -> Result<(), Refusal> {
        let (key, epoch, deadline) = (self.key.clone(), self.epoch, self.deadline);
        if node == self.core.node {
            let _held = match self.core.hold(epoch) {
                Ok(held) => held,
                Err(reason) => {
                    self.failures.add(&PeerError::Refused { to: node, reason });
                    return Ok(());
                }
            };
            let Found { record, reached_ms } = self.core.read_own(self.key)?;
            self.held.push(Held { node, record, reached_ms });
            return Ok(());
        }
        self.messages += 1;
        self.awaited.push(node);
        let slot = self.gathering.slot(node);
        self.core.peers.read(ReadItem { key, epoch, deadline, slot });
        Ok(())
    }

    /// How many answers the set that lacks most of them lacks.
    fn lacking(&self) -> usize {
        let lacks = |(set, needed): &(&[NodeId], usize)| {
            let heard = self.held.iter().filter(|held| set.contains(&held.node)).count();
            needed.saturating_sub(heard)
        };
        self.needs.iter().map(lacks).max().unwrap_or(0)
    }

    /// Waits until so many replicas have answered as are needed, asking others where one fails or is slow.
    async fn hear(&mut self) -> Result<(), Failed> {
        let runtime = &self.core.runtime;
        self.ask_lacking()?;
        let hedge_delay = self.core.hedge_delay(&self.awaited);
        let mut hedge_at = Some(runtime.now() + hedge_delay);
        while self.lacking() > 0 {
            self.ask_lacking()?;
            if self.awaited.is_empty() && self.lacking() > 0 {
                return Err(self.short());
            }
            let until = hedge_at.map_or(self.deadline, |at| at.min(self.deadline));
            let next = self.gathering.next(self.lacking());
            match runtime.deadline(until, next).await {
                Some(arrived) => self.take(arrived),
                None if until == self.deadline => {
                    self.failures.note("the deadline passed");
                    return Err(self.short());
                }
                None => {
                    hedge_at = None;
                    // One that hangs is known by it, however quick it was before.
                    let waited_us = hedge_delay.max(HEDGE_DELAY).as_micros() as u64;
                    self.awaited
                        .iter()
                        .for_each(|node| self.core.peers.note_slow(*node, waited_us));
                    self.ask_all()?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, arrived: Vec<Arrival<Found>>) {
        let heard = |node: &NodeId| arrived.iter().any(|arrival| arrival.node == *node);
        self.awaited.retain(|node| !heard(node));
        let answered_before = self.held.len();
        take_held(arrived, &mut self.held, &mut self.failures);
        self.messages += (self.held.len() - answered_before) as u32;
    }

    fn short(&self) -> Failed {
        let needed = self.needs.iter().map(|(_, needed)| *needed).max().unwrap_or(0);
        self.failures.too_few(needed, self.held.len())
    }
}

fn take_held(arrived: Vec<Arrival<Found>>, held: &mut Vec<Held>, failures: &mut Failures) {
    for Arrival { node, result } in arrived {
        match result {
            Ok(Found { record, reached_ms }) => held.push(Held { node, record, reached_ms }),
            Err(error) => failures.add(&error),
        }
    }
}

/// The record in bytes that a replica stored.
pub(super) fn decoded(key: &Key, bytes: &Bytes) -> Result<Record, Refusal> {
    encoding::decode(bytes).map_err(|error| damaged(key, &error))
}

pub(super) fn damaged(key: &Key, error: &encoding::DecodeError) -> Refusal {
    Refusal::Storage { detail: format!("what a replica holds of key '{key}' is {error}") }
}

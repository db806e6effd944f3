//! Settling what a read found: the newest record is brought to a write quorum before it is answered.
//!
//! **Guarantees.** Once a record is settled, every later quorum read finds it or something newer. Where too
//! few replicas can be brought there, that is a failure, and the read fails with it. While a layout's last
//! step checks the new replicas, a quorum of them has it too.

use super::Core;
use super::active::is_other_epoch;
use super::coordinator_read::{HEDGE_DELAY, hedge_delay};
use super::coordinator_write::too_few;
use super::gather::{Arrival, Gathering};
use super::horizons::{is_deletion, is_too_old};
use super::messages::StoredWrite;
use super::quorums::Quorums;
use super::resolve::Resolution;
use super::tally::Taken;
use super::view::View;
use crate::error::Refusal;
use crate::peer::PeerError;
use crate::planted::{self, Bug};
use crate::runtime::Instant;
use crate::types::{Epoch, Key, NodeId};

use std::time::Duration;

/// Why replicas did not do what they were asked for.
#[derive(Default)]
pub struct Failures {
    reasons: Vec<String>,
    /// Whether one goes by another layout: it is worth asking again.
    other_epoch: bool,
}

impl Failures {
    pub fn add(&mut self, error: &PeerError) {
        self.other_epoch |= is_other_epoch(error);
        self.reasons.push(error.to_string());
    }

    pub fn note(&mut self, reason: &str) {
        self.reasons.push(reason.to_owned());
    }

    pub fn too_few(&self, needed: usize, answered: usize) -> Failed {
        let refusal = too_few(needed as u16, answered, &self.reasons.join("; "));
        Failed { refusal, other_epoch: self.other_epoch }
    }
}

/// Why a read has no answer under the layout that it was tried under.
pub struct Failed {
    pub refusal: Refusal,
    /// Whether the layout changes: it is worth asking again.
    pub other_epoch: bool,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Failed {
        Failed { refusal, other_epoch: false }
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Refusal {
        failed.refusal
    }
}

impl Core {
    /// The same for writes, which take a sync: too little is known of one alone to hurry it.
    fn write_hedge_delay(&self, sent_to: &[NodeId]) -> Duration {
        hedge_delay(sent_to, HEDGE_DELAY, |node| self.peers.write_p95_us(node))
    }

    /// Brings what is newest to a write quorum of each set that is read, and to every replica known to be
    /// behind; waits for the quorums alone. Gives how many messages it took.
    pub(super) async fn settle(
        &self,
        view: &View,
        key: &Key,
        resolution: &Resolution,
        quorums: Quorums,
        deadline: Instant,
    ) -> Result<u32, Failed> {
        let (Some(newest), Some(version)) = (&resolution.newest, resolution.version) else {
            return Ok(0);
        };
        self.observe(version);
        let sets = view.read_sets(key.partition());
        let missing = |set: &[NodeId]| match quorums.is_strong() {
            true if planted::is(Bug::ReadAnswersBeforeRepair) => 0,
            true => {
                let w = usize::from(quorums.of_set(view.usual(), set.len()).w);
                w.saturating_sub(set.iter().filter(|it| resolution.holders.contains(it)).count())
            }
            false => 0,
        };
        let needs: Vec<(&[NodeId], usize)> = sets.iter().map(|set| (set, missing(set))).collect();
        let must_wait = needs.iter().any(|(_, missing)| *missing > 0);
        let wants_repair = !resolution.behind.is_empty() && self.repairs();
        if !must_wait && (!wants_repair || self.stragglers.is_full()) {
            return Ok(0);
        }
        self.check_stragglers()?;
        let mut repair = Repair {
            core: self,
            write: StoredWrite {
                key: key.clone(),
                record: newest.clone(),
                survived_ms: Some(resolution.survived_ms),
            },
            epoch: view.epoch,
            deadline,
            gathering: Gathering::new(Some(self.stragglers.clone())),
            // A horizon tells the time where the clock here is behind.
            is_deletion: is_deletion(
                newest,
                self.ceiling.now().millis().max(resolution.reached_ms),
            ),
            needs,
            sent_to: Vec::new(),
            acks: 0,
            messages: 0,
        };
        repair.send(&resolution.behind);
        if must_wait {
            let known = |node: &NodeId| {
                resolution.holders.contains(node) || resolution.behind.contains(node)
            };
            let others = sets.union().into_iter().filter(|node| !known(node)).collect();
            repair.await_acks(others, quorums.w, resolution.holders.len()).await?;
        }
        Ok(repair.messages)
    }
}

/// Writing a record back to replicas that do not have it.
struct Repair<'a> {
    core: &'a Core,
    write: StoredWrite,
    is_deletion: bool,
    epoch: Epoch,
    deadline: Instant,
    gathering: Gathering<Taken>,
    /// The sets of replicas, and how many of each still have to take it.
    needs: Vec<(&'a [NodeId], usize)>,
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
            self.core.send_write(self.write.clone(), self.epoch, self.deadline, slot);
        }
    }

    fn missing(&self) -> usize {
        self.needs.iter().map(|(_, missing)| *missing).max().unwrap_or(0)
    }

    /// Whether a set needs more than were written to.
    fn is_short(&self) -> bool {
        let sent_to = |set: &[NodeId]| set.iter().filter(|it| self.sent_to.contains(it)).count();
        self.needs.iter().any(|(set, missing)| sent_to(set) < *missing)
    }

    /// Waits for the acknowledgements that are missing; turns to the `others`, whose record is not known,
    /// where those written to are too few, fail or are slow. Also a replica that has something
    /// newer by now acknowledges: no later read returns anything older through it.
    async fn await_acks(
        &mut self,
        mut others: Vec<NodeId>,
        w: u16,
        holders: usize,
    ) -> Result<(), Failed> {
        let runtime = &self.core.runtime;
        let mut failures = Failures::default();
        let hedge_at = runtime.now() + self.core.write_hedge_delay(&self.sent_to);
        if self.is_short() {
            self.send(&std::mem::take(&mut others));
        }
        while self.missing() > 0 {
            if self.gathering.outstanding() == 0 && others.is_empty() {
                self.take(self.gathering.take(), &mut failures);
                if self.missing() == 0 {
                    break;
                }
                return Err(failures.too_few(usize::from(w), holders + self.acks));
            }
            let until = if others.is_empty() { self.deadline } else { hedge_at };
            let next = self.gathering.next(self.missing());
            let arrived = runtime.deadline(until.min(self.deadline), next).await;
            let turn_to_others = match arrived {
                Some(arrived) => self.take(arrived, &mut failures) > 0,
                None if runtime.now() >= self.deadline => {
                    failures.note("the deadline passed");
                    return Err(failures.too_few(usize::from(w), holders + self.acks));
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
    fn take(&mut self, arrived: Vec<Arrival<Taken>>, failures: &mut Failures) -> usize {
        let mut failed = 0;
        for Arrival { node, result } in arrived {
            match result {
                Ok(taken) => {
                    self.acknowledge(node);
                    if let Taken::SupersededBy(newer) = taken {
                        self.core.observe(newer);
                    }
                }
                // It has collected it, and this one's holder has not yet.
                Err(error) if self.is_deletion && is_too_old(&error) => self.acknowledge(node),
                Err(error) => {
                    failed += 1;
                    failures.add(&error);
                }
            }
        }
        failed
    }

    fn acknowledge(&mut self, node: NodeId) {
        self.acks += 1;
        self.messages += u32::from(node != self.core.node);
        for (set, missing) in &mut self.needs {
            *missing = missing.saturating_sub(usize::from(set.contains(&node)));
        }
    }
}

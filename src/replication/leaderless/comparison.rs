//! One comparison of this node's replicas with those of another, and what it repairs.
//!
//! **How.** It looks twice at the leaves that differ, [`SECOND_LOOK`] apart, and repairs a key that still
//! differs where its newer version is from before the first look, or where the comparison before found
//! it just so: a write that is under way is neither.
//!
//! **Guarantees.** Whatever one of the two holds that the other lacks is brought there by a
//! comparison that runs to its end, or by the next, whatever clocks say. It goes the way of any
//! other write: through the commit log, and the newest wins.
//!
//! **Bounds.** [`UNDER_WAY_KEYS`] keys and about [`UNDER_WAY_BYTES`] of records under way, and
//! `leaderless.repair_bytes_per_s`. What it keeps in memory is the names of one partition's keys and of
//! [`MAX_REMEMBERED`] more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::Core;
use super::compare::{self, Held, Question, Told, Wanted};
use super::gather::{Arrival, Gathering};
use super::hash_tree::FAN_OUT;
use super::horizons::{is_deletion, is_too_old};
use super::messages::{Found, StoredWrite};
use super::peers::ReadItem;
use super::tally::Taken;
use crate::peer::{Lane, PeerError, Request, Service};
use crate::planted::{self, Bug};
use crate::replication::repair::PeerRepair;
use crate::runtime::Instant;
use crate::types::{Epoch, Key, NodeId, Partition, Version};

/// How long after the first look the leaves that differ are looked at again: what most writes take to
/// reach all replicas, many times over.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// How long a replica may take for an answer or a record.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys, and about how many bytes of records, that are repaired at once: a part of what may queue for a
/// peer, so that clients' requests keep their place.
const UNDER_WAY_KEYS: usize = 256;
const UNDER_WAY_BYTES: usize = 4 << 20;

/// What a record that is still to be fetched is taken to have before any was, in bytes.
const UNKNOWN_RECORD_BYTES: usize = 256 << 10;

/// Rows of the own replica read at a time.
const PAGE_ROWS: usize = 1_024;

/// Keys that were too new to be repaired and are remembered for the next comparison with a peer.
const MAX_REMEMBERED: usize = 4_096;

/// A key that two replicas hold differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    key: Key,
    ours: Option<Held>,
    theirs: Option<Held>,
}

/// How much a comparison could look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Whole,
    /// Some hash trees are not built yet, here or there, or some keys were not taken.
    Part,
}

/// See the module.
pub(super) struct Comparison<'a> {
    core: &'a Arc<Core>,
    peer: NodeId,
    /// What this node's clock said before the first look.
    newest: Version,
    /// Whether somebody asked for it, and is told how far it is.
    told: bool,
    /// How long records were that were fetched, about; 0 where none was.
    record_bytes: AtomicUsize,
    /// The layout that it is made under, and of which partitions it is.
    epoch: Epoch,
    partitions: BTreeSet<Partition>,
    /// Whether keys are repaired also where they may be under way.
    takes_everything: bool,
    /// Whether only the peer is brought something.
    gives_alone: bool,
    records_moved: AtomicU64,
    bytes_moved: AtomicU64,
}

impl<'a> Comparison<'a> {
    /// Of all partitions that both hold now.
    pub(super) fn new(core: &'a Arc<Core>, peer: NodeId, told: bool) -> Comparison<'a> {
        let view = core.view();
        Comparison {
            core,
            peer,
            newest: core.ceiling.now(),
            told,
            record_bytes: AtomicUsize::new(0),
            epoch: view.epoch,
            partitions: view.shared(core.node, peer),
            takes_everything: false,
            gives_alone: false,
            records_moved: AtomicU64::new(0),
            bytes_moved: AtomicU64::new(0),
        }
    }

    /// Of these partitions alone, under this layout.
    pub(super) fn of(self, partitions: BTreeSet<Partition>, epoch: Epoch) -> Comparison<'a> {
        Comparison { partitions, epoch, ..self }
    }

    /// Also of keys that may be under way: once it has ended, each side that is brought something has all
    /// that the other had when it began.
    pub(super) fn everything(self) -> Comparison<'a> {
        Comparison { takes_everything: true, ..self }
    }

    /// Brings the peer what it lacks, and this node nothing.
    pub(super) fn giving_alone(self) -> Comparison<'a> {
        Comparison { gives_alone: true, ..self }
    }

    /// How many records, and how many bytes of them, it has brought to either.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.records_moved.load(Ordering::Relaxed), self.bytes_moved.load(Ordering::Relaxed))
    }

    /// Compares; `too_new` are the keys that the comparison before found and did not repair, and
    /// afterwards those that this one did not.
    pub(super) async fn run(
        &self,
        too_new: &mut BTreeMap<Key, Difference>,
    ) -> Result<Scope, String> {
        let before = std::mem::take(too_new);
        let ended = self.compare(&before, too_new).await;
        if ended.is_err() {
            // Not looked at again, so that the next may still find them just so.
            before.into_iter().for_each(|(key, found)| {
                too_new.entry(key).or_insert(found);
            });
        }
        ended
    }

    async fn compare(
        &self,
        before: &BTreeMap<Key, Difference>,
        too_new: &mut BTreeMap<Key, Difference>,
    ) -> Result<Scope, String> {
        let (roots, mut scope) = self.roots().await?;
        let branches = self.branches(roots).await?;
        if !branches.is_empty() {
            let first: BTreeSet<_> = self.leaves(&branches).await?.into_iter().collect();
            self.core.runtime.sleep(SECOND_LOOK).await;
            let again = self.leaves(&branches).await?;
            let mut leaves = BTreeMap::<u8, BTreeSet<u16>>::new();
            for (partition, leaf) in again.into_iter().filter(|leaf| first.contains(leaf)) {
                leaves.entry(partition).or_default().insert(leaf);
            }
            self.tell(|told| (told.differing, told.compared) = (leaves.len() as u64, 0));
            for (partition, leaves) in leaves {
                if !self.partition(partition, &leaves, before, too_new).await? {
                    scope = Scope::Part;
                }
                self.tell(|told| told.compared += 1);
            }
        }
        self.core.metrics.comparisons.inc();
        Ok(scope)
    }

    fn tell(&self, change: impl FnOnce(&mut PeerRepair)) {
        if self.told {
            self.core.repairs.note(self.peer, change);
        }
    }

    /// The partitions that differ, of those whose trees are there.
    async fn roots(&self) -> Result<(Vec<u8>, Scope), String> {
        let partitions: Vec<u8> = self.partitions.iter().map(|partition| partition.0).collect();
        let (mut differ, mut scope) = (Vec::new(), Scope::Whole);
        for asked in partitions.chunks(compare::MAX_NAMED) {
            let question = Question::Roots(asked.to_vec());
            let (Told::Roots(theirs), Told::Roots(ours)) = self.both(question).await? else {
                continue;
            };
            if theirs.iter().chain(&ours).any(Option::is_none) {
                scope = Scope::Part;
            }
            let pairs = asked.iter().zip(theirs.into_iter().zip(ours));
            differ.extend(pairs.filter(|(_, sums)| is_different(sums)).map(|(asked, _)| *asked));
        }
        Ok((differ, scope))
    }

    /// The branches of these partitions that differ.
    async fn branches(&self, partitions: Vec<u8>) -> Result<Vec<(u8, u8)>, String> {
        let mut differ = Vec::new();
        for asked in partitions.chunks(compare::MAX_NAMED / 8) {
            let question = Question::Branches(asked.to_vec());
            let (Told::Branches(theirs), Told::Branches(ours)) = self.both(question).await? else {
                continue;
            };
            for (partition, sums) in asked.iter().zip(theirs.into_iter().zip(ours)) {
                let mut found = different(sums)?;
                found.retain(|branch| {
                    *branch < FAN_OUT / 2 || !planted::is(Bug::ComparisonSkipsBranches)
                });
                differ.extend(found.into_iter().map(|branch| (*partition, branch as u8)));
            }
        }
        Ok(differ)
    }

    /// The leaves under these branches that differ: partition, and leaf of the whole tree.
    async fn leaves(&self, branches: &[(u8, u8)]) -> Result<Vec<(u8, u16)>, String> {
        let mut differ = Vec::new();
        for asked in branches.chunks(compare::MAX_NAMED) {
            let question = Question::Leaves(asked.to_vec());
            let (Told::Leaves(theirs), Told::Leaves(ours)) = self.both(question).await? else {
                continue;
            };
            for ((partition, branch), sums) in asked.iter().zip(theirs.into_iter().zip(ours)) {
                let first = usize::from(*branch) * FAN_OUT;
                let found = different(sums)?.into_iter();
                differ.extend(found.map(|leaf| (*partition, (first + leaf) as u16)));
            }
        }
        Ok(differ)
    }

    /// Finds and repairs the keys of a partition's leaves that differ; whether all were taken.
    async fn partition(
        &self,
        partition: u8,
        leaves: &BTreeSet<u16>,
        before: &BTreeMap<Key, Difference>,
        too_new: &mut BTreeMap<Key, Difference>,
    ) -> Result<bool, String> {
        let (mut after, mut all) = (None, true);
        loop {
            let reached_ms = self.core.replica.horizon(Partition(partition)).reached_ms;
            let (leaves, after_key) = (leaves.clone(), after.clone());
            let mut wanted = Wanted { partition, leaves, after: after_key, reached_ms };
            let Told::Entries(theirs) = self.ask(&Question::Entries(wanted.clone())).await? else {
                return Ok(all);
            };
            wanted.reached_ms = reached_ms.max(theirs.reached_ms);
            let ours = self.own_entries(wanted, theirs.up_to.as_deref()).await?;
            let mut found = differences(ours, theirs.held)?;
            found.retain(|found| !self.gives_alone || found.ours > found.theirs);
            let (repairs, fresh): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| {
                self.takes_everything
                    || before.get(&found.key) == Some(found)
                    || found.is_from_before(self.newest)
            });
            let room = MAX_REMEMBERED.saturating_sub(too_new.len());
            too_new.extend(fresh.into_iter().take(room).map(|found| (found.key.clone(), found)));
            all &= self.repair(&repairs).await?;
            after = theirs.up_to;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// What this node holds of what is wanted, up to a key.
    async fn own_entries(
        &self,
        mut wanted: Wanted,
        up_to: Option<&str>,
    ) -> Result<Vec<(String, Held)>, String> {
        let mut held = Vec::new();
        loop {
            let page = self.core.entries(wanted.clone(), PAGE_ROWS).await?;
            let within = |key: &str| up_to.is_none_or(|up_to| key <= up_to);
            held.extend(page.held.into_iter().filter(|(key, _)| within(key)));
            wanted.after = page.up_to;
            match &wanted.after {
                Some(key) if within(key) => tokio::task::yield_now().await,
                _ => return Ok(held),
            }
        }
    }

    /// Brings the newer record of each key to whoever lacks it, some at a time. Whether all were taken;
    /// an error where not one was.
    async fn repair(&self, found: &[Difference]) -> Result<bool, String> {
        self.core.begin_repair();
        let (mut under_way, mut bytes_under_way) = (FuturesUnordered::new(), 0);
        let (mut bytes, mut taken, mut failure) = (0, 0, None);
        let mut left = found.iter();
        loop {
            let room = under_way.len() < UNDER_WAY_KEYS && bytes_under_way < UNDER_WAY_BYTES;
            if let Some(next) = room.then(|| left.next()).flatten() {
                let weight = self.weight(next);
                bytes_under_way += weight;
                under_way.push(async move { (weight, self.repair_one(next).await) });
                continue;
            }
            let Some((weight, repaired)) = under_way.next().await else { break };
            bytes_under_way -= weight;
            match repaired {
                Ok(record_bytes) => {
                    taken += 1;
                    bytes += record_bytes as u64;
                }
                Err(reason) => failure = Some(reason),
            }
        }
        self.core.rest_for(bytes).await;
        match failure {
            Some(reason) if taken == 0 => Err(reason),
            failure => Ok(failure.is_none()),
        }
    }

    /// About how many bytes the repair of a key has under way.
    fn weight(&self, found: &Difference) -> usize {
        let known = self.record_bytes.load(Ordering::Relaxed);
        let key_bytes = found.key.as_str().len();
        key_bytes + if known == 0 { UNKNOWN_RECORD_BYTES } else { 2 * known }
    }

    /// Gives how many bytes the record took.
    async fn repair_one(&self, found: &Difference) -> Result<usize, String> {
        let (core, key) = (self.core, &found.key);
        let deadline = core.runtime.now() + ASK_TIMEOUT;
        let (held, to) = match found.ours > found.theirs {
            true => {
                let own = core.replica.read(key).map_err(|error| error.to_string())?;
                (own, self.peer)
            }
            false => (self.read(key, deadline).await?, core.node),
        };
        // Collected meanwhile, as a deletion may be.
        let Found { record: Some(record), reached_ms } = held else { return Ok(0) };
        let known = self.record_bytes.load(Ordering::Relaxed);
        self.record_bytes.store((known + record.len()).div_ceil(2).max(1), Ordering::Relaxed);
        let gathering = Gathering::<Taken>::new(None);
        let bytes = record.len() + key.as_str().len();
        let is_deletion = is_deletion(&record, core.ceiling.now().millis());
        let write = StoredWrite { key: key.clone(), record, survived_ms: Some(reached_ms) };
        core.send_write(write, self.epoch, deadline, gathering.slot(to));
        match one_answer(core.runtime.deadline(deadline, gathering.next(1)).await)? {
            // It was collected there before it is here.
            Err(error) if is_deletion && is_too_old(&error) => return Ok(0),
            taken => taken.map_err(|error| error.to_string())?,
        };
        core.metrics.comparison_repairs.inc();
        self.tell(|told| told.repaired += 1);
        self.records_moved.fetch_add(1, Ordering::Relaxed);
        self.bytes_moved.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    async fn read(&self, key: &Key, deadline: Instant) -> Result<Found, String> {
        let gathering = Gathering::new(None);
        let slot = gathering.slot(self.peer);
        let (key, epoch) = (key.clone(), self.epoch);
        self.core.peers.read(ReadItem { key, epoch, deadline, slot });
        let found = one_answer(self.core.runtime.deadline(deadline, gathering.next(1)).await)?;
        found.map_err(|error| error.to_string())
    }

    /// What the peer tells, and what this node does.
    async fn both(&self, question: Question) -> Result<(Told, Told), String> {
        let theirs = self.ask(&question).await?;
        Ok((theirs, self.core.tell(&question).await?))
    }

    async fn ask(&self, question: &Question) -> Result<Told, String> {
        let deadline = self.core.runtime.now() + ASK_TIMEOUT;
        let call = self.core.transport.call(Request {
            to: self.peer,
            lane: Lane::Bulk,
            service: Service::Compare,
            epoch: Some(self.epoch),
            deadline,
            body: compare::encode(question)?,
        });
        let answer = self.core.runtime.deadline(deadline, call).await;
        let body = answer.ok_or("no answer in time")?.map_err(|error| error.to_string())?;
        let told = compare::decode(&body)?;
        question.check(&told)?;
        Ok(told)
    }
}

impl Difference {
    #[cfg(test)]
    pub(super) fn of_nothing(key: &str) -> Difference {
        let key = Key::new(key, usize::MAX).expect("a key");
        Difference { key, ours: None, theirs: None }
    }

    /// Whether the newer of the two was written before `newest`, as far as clocks agree.
    fn is_from_before(&self, newest: Version) -> bool {
        self.ours.max(self.theirs).is_some_and(|(version, _)| version <= newest)
    }
}

/// The one answer of a gathering that asked one.
fn one_answer<T>(arrived: Option<Vec<Arrival<T>>>) -> Result<Result<T, PeerError>, String> {
    let arrival = arrived.and_then(|mut arrived| arrived.pop());
    Ok(arrival.ok_or("no answer in time")?.result)
}

/// Whether two sums differ, where both are known.
fn is_different(sums: &(Option<u64>, Option<u64>)) -> bool {
    matches!(sums, (Some(one), Some(other)) if one != other)
}

/// Where two lists of sums differ. Both were known when the roots were asked for.
fn different(sums: (Option<Vec<u64>>, Option<Vec<u64>>)) -> Result<Vec<usize>, String> {
    let (Some(one), Some(other)) = sums else {
        return Err("a hash tree was forgotten meanwhile".to_owned());
    };
    let pairs = one.iter().zip(&other).enumerate();
    Ok(pairs.filter(|(_, (one, other))| one != other).map(|(index, _)| index).collect())
}

/// The keys that two replicas hold differently, in order.
fn differences(
    ours: Vec<(String, Held)>,
    theirs: Vec<(String, Held)>,
) -> Result<Vec<Difference>, String> {
    let mut both = BTreeMap::<String, (Option<Held>, Option<Held>)>::new();
    ours.into_iter().for_each(|(key, held)| both.entry(key).or_default().0 = Some(held));
    theirs.into_iter().for_each(|(key, held)| both.entry(key).or_default().1 = Some(held));
    let differing = both.into_iter().filter(|(_, (ours, theirs))| ours != theirs);
    let difference = |(text, (ours, theirs)): (String, _)| {
        let key = Key::new(&text, usize::MAX).map_err(|error| error.to_string())?;
        Ok(Difference { key, ours, theirs })
    };
    differing.map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(time: u64) -> Held {
        (Version::new(time, NodeId(1)), time)
    }

    fn named(keys: &[(&str, u64)]) -> Vec<(String, Held)> {
        keys.iter().map(|(key, time)| ((*key).to_owned(), held(*time))).collect()
    }

    #[test]
    fn only_keys_that_differ_are_found_on_either_side() {
        let ours = named(&[("a", 1), ("b", 2), ("c", 3)]);
        let theirs = named(&[("a", 1), ("c", 4), ("d", 5)]);
        let found = differences(ours, theirs).expect("keys");
        let shown: Vec<_> =
            found.iter().map(|found| (found.key.as_str(), found.ours, found.theirs)).collect();
        let expected = [
            ("b", Some(held(2)), None),
            ("c", Some(held(3)), Some(held(4))),
            ("d", None, Some(held(5))),
        ];
        assert_eq!(shown, expected);
        assert!(found[0].is_from_before(held(2).0) && !found[1].is_from_before(held(3).0));
    }

    #[test]
    fn trees_that_are_not_built_say_nothing() {
        assert!(!is_different(&(None, Some(1))) && !is_different(&(Some(1), None)));
        assert!(is_different(&(Some(2), Some(1))) && !is_different(&(Some(1), Some(1))));
        assert!(different((None, Some(vec![1]))).is_err(), "it was there for the roots");
        assert_eq!(different((Some(vec![1, 2, 3]), Some(vec![1, 5, 4]))), Ok(vec![1, 2]));
    }
}

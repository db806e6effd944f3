//! Anti-entropy: replicas compare what they hold, and bring each other what they lack.
//!
//! **Why it exists.** Reads repair what is read. What nobody reads must become equal too: the writes
//! that a replica missed while it was away, cut off or slow. Demers et al., "Epidemic Algorithms for
//! Replicated Database Maintenance" (1987), section 1.3, with the trees of [`super::hash_tree`].
//!
//! **How.** Of two nodes, the one with the lower id compares, every `leaderless.compare_interval_ms`
//! and as soon as the other comes back. It looks twice at the leaves that differ, [`SECOND_LOOK`]
//! apart, and repairs a key that still differs where its newer version is from before the first
//! look, or where the comparison before found it just so: a write that is under way is neither.
//!
//! **Guarantees.** Whatever one of the two holds that the other lacks is brought there by a
//! comparison that runs to its end, or by the next, whatever clocks say. It goes the way of any
//! other write: through the commit log, and the newest wins.
//!
//! **Bounds.** One comparison at a time a node, [`CHUNK_KEYS`] keys of it under way, and
//! `leaderless.repair_bytes_per_s` of records. What it keeps in memory is the names of one chunk and of
//! [`MAX_REMEMBERED`] keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::Core;
use super::compare::{self, Held, Question, Told};
use super::gather::Gathering;
use super::hash_tree::FAN_OUT;
use super::layout::STATIC_EPOCH;
use super::peers::ReadItem;
use super::tally::Taken;
use crate::peer::{Lane, Request, Service};
use crate::planted::{self, Bug};
use crate::replication::repair::{PeerRepair, RepairState};
use crate::runtime::Instant;
use crate::types::{Key, NodeId, Partition, Version};

/// How often a node looks whether a comparison is due.
const LOOK: Duration = Duration::from_millis(250);

/// How long after the first look the leaves that differ are looked at again: what most writes take to
/// reach all replicas, many times over.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// How soon after one that failed, or that left keys to another look, the next comparison begins.
const RETRY: Duration = Duration::from_secs(2);

/// How long a replica may take for an answer or a record.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys that are repaired at once: a part of what may queue for a peer, so that clients' requests
/// keep their place.
const CHUNK_KEYS: usize = 256;

/// Keys that were too new to be repaired and are remembered for the next comparison with a peer.
const MAX_REMEMBERED: usize = 4_096;

/// A key that two replicas hold differently.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    key: Key,
    ours: Option<Held>,
    theirs: Option<Held>,
}

/// What comparisons with a peer left to the next.
#[derive(Default)]
struct PeerState {
    was_connected: bool,
    due: Option<Instant>,
    /// Keys that differed and were too new, as they were.
    too_new: BTreeMap<Key, Difference>,
}

/// How often a repair that was asked for looks again at what was too new, or not built, before.
const MAX_ROUNDS: usize = 60;

/// Compares with every peer of a higher id, and with all where that is asked for, for as long as the
/// node runs.
pub(super) async fn run(core: Arc<Core>) {
    let others = core.nodes.iter().copied().filter(|node| *node > core.node);
    let mut peers: BTreeMap<NodeId, PeerState> =
        others.map(|node| (node, PeerState::default())).collect();
    loop {
        tokio::select! {
            biased;
            () = core.repairs.wanted() => repair_all(&core).await,
            () = core.runtime.sleep(LOOK) => {}
        }
        if core.settings.compare_interval.is_zero() {
            continue;
        }
        for (peer, state) in &mut peers {
            let connected = core.peers.is_connected(*peer);
            // What hints bring need not be compared.
            let hinted = connected && core.hints.bytes_for(*peer) > 0;
            if !hinted && state.is_due(connected, core.runtime.now()) {
                run_one(&core, *peer, state).await;
            }
        }
    }
}

/// Does the repair that was asked for.
async fn repair_all(core: &Arc<Core>) {
    while let Some(peer) = core.repairs.next() {
        core.repairs.note(peer, |it| it.state = RepairState::Running);
        let ended = repair_one_peer(core, peer).await;
        core.repairs.note(peer, |it| {
            it.state = if ended.is_ok() { RepairState::Done } else { RepairState::Failed };
            it.error = ended.err();
        });
    }
    core.repairs.end();
}

/// Compares with one peer until nothing is left that was too new, or whose tree was not built.
async fn repair_one_peer(core: &Arc<Core>, peer: NodeId) -> Result<(), String> {
    let mut too_new = BTreeMap::new();
    for _ in 0..MAX_ROUNDS {
        let newest = core.ceiling.now();
        let comparison = Comparison { core, peer, newest, told: true };
        let scope = comparison.run(&mut too_new).await?;
        if scope == Scope::Whole && too_new.is_empty() {
            return Ok(());
        }
        core.runtime.sleep(RETRY).await;
    }
    match too_new.len() {
        0 => Err("its hash trees, or the own ones, are still being built: try again".to_owned()),
        left => Err(format!("{left} keys changed whenever they were looked at: try again")),
    }
}

impl PeerState {
    /// Whether it is time; a peer that came back is compared with at once.
    fn is_due(&mut self, connected: bool, now: Instant) -> bool {
        let was_connected = std::mem::replace(&mut self.was_connected, connected);
        let came_back = connected && !was_connected;
        connected && (came_back || self.due.is_none_or(|due| due <= now))
    }
}

async fn run_one(core: &Arc<Core>, peer: NodeId, state: &mut PeerState) {
    let interval = core.settings.compare_interval;
    let newest = core.ceiling.now();
    let comparison = Comparison { core, peer, newest, told: false };
    let wait = match comparison.run(&mut state.too_new).await {
        Ok(Scope::Whole) if state.too_new.is_empty() => interval,
        Ok(_) => RETRY.min(interval),
        Err(reason) => {
            tracing::debug!(%peer, %reason, "a comparison of replicas was not finished");
            RETRY.min(interval)
        }
    };
    // Apart by chance, so that nodes that started together do not all compare at once.
    let chance = core.runtime.random_below(1 + wait.as_millis() as u64 / 8);
    state.due = Some(core.runtime.now() + wait + Duration::from_millis(chance));
}

/// How much a comparison could look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Whole,
    /// Some hash trees are not built yet, here or there.
    Part,
}

struct Comparison<'a> {
    core: &'a Arc<Core>,
    peer: NodeId,
    /// What this node's clock said before the first look.
    newest: Version,
    /// Whether somebody asked for it, and is told how far it is.
    told: bool,
}

impl Comparison<'_> {
    async fn run(&self, too_new: &mut BTreeMap<Key, Difference>) -> Result<Scope, String> {
        let before = std::mem::take(too_new);
        let (roots, scope) = self.roots().await?;
        let branches = self.branches(roots).await?;
        if !branches.is_empty() {
            let first: BTreeSet<_> = self.leaves(&branches).await?.into_iter().collect();
            self.core.runtime.sleep(SECOND_LOOK).await;
            let again = self.leaves(&branches).await?;
            let mut leaves = BTreeMap::<u8, BTreeSet<u16>>::new();
            for (partition, leaf) in again.into_iter().filter(|leaf| first.contains(leaf)) {
                leaves.entry(partition).or_default().insert(leaf);
            }
            self.tell(|told| told.differing += leaves.len() as u64);
            for (partition, leaves) in leaves {
                self.partition(partition, &leaves, &before, too_new).await?;
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
        let layout = &self.core.layout;
        let shared = Partition::all()
            .filter(|p| layout.holds(self.core.node, *p) && layout.holds(self.peer, *p));
        let partitions: Vec<u8> = shared.map(|partition| partition.0).collect();
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
                let mut found = different(sums);
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
                let found = different(sums).into_iter();
                differ.extend(found.map(|leaf| (*partition, (first + leaf) as u16)));
            }
        }
        Ok(differ)
    }

    /// Finds and repairs the keys of a partition's leaves that differ.
    async fn partition(
        &self,
        partition: u8,
        leaves: &BTreeSet<u16>,
        before: &BTreeMap<Key, Difference>,
        too_new: &mut BTreeMap<Key, Difference>,
    ) -> Result<(), String> {
        let mut after = None;
        loop {
            let question =
                Question::Entries { partition, leaves: leaves.clone(), after: after.clone() };
            let Told::Entries(theirs) = self.ask(&question).await? else { return Ok(()) };
            let range = (after.as_deref(), theirs.up_to.as_deref());
            let ours = self.own_entries(Partition(partition), leaves, range).await?;
            let differences = differences(ours, theirs.held)?;
            let mut chunk = Vec::new();
            for difference in differences {
                let seen = before.get(&difference.key) == Some(&difference);
                if seen || difference.is_from_before(self.newest) {
                    chunk.push(difference);
                } else if too_new.len() < MAX_REMEMBERED {
                    too_new.insert(difference.key.clone(), difference);
                }
                if chunk.len() == CHUNK_KEYS {
                    self.repair(std::mem::take(&mut chunk)).await?;
                }
            }
            self.repair(chunk).await?;
            after = theirs.up_to;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// What this node holds in these leaves, above the first key and up to the second.
    async fn own_entries(
        &self,
        partition: Partition,
        leaves: &BTreeSet<u16>,
        (after, up_to): (Option<&str>, Option<&str>),
    ) -> Result<Vec<(String, Held)>, String> {
        let (mut held, mut from) = (Vec::new(), after.map(str::to_owned));
        loop {
            let page = self.core.entries(partition, leaves, from.as_deref(), CHUNK_KEYS)?;
            let within = |key: &str| up_to.is_none_or(|up_to| key <= up_to);
            held.extend(page.held.into_iter().filter(|(key, _)| within(key)));
            from = page.up_to;
            match &from {
                Some(key) if within(key) => tokio::task::yield_now().await,
                _ => return Ok(held),
            }
        }
    }

    /// Brings the newer record of each key to whoever lacks it, and waits as long as that may take.
    async fn repair(&self, chunk: Vec<Difference>) -> Result<(), String> {
        if chunk.is_empty() {
            return Ok(());
        }
        let deadline = self.core.runtime.now() + ASK_TIMEOUT;
        let repairs = chunk.iter().map(|difference| self.repair_one(difference, deadline));
        let mut bytes = 0;
        for repaired in join_all(repairs).await {
            bytes += repaired? as u64;
        }
        let rate = self.core.settings.repair_bytes_per_s.max(1);
        self.core.runtime.sleep(Duration::from_micros(bytes * 1_000_000 / rate)).await;
        Ok(())
    }

    /// Gives how many bytes the record took.
    async fn repair_one(&self, found: &Difference, deadline: Instant) -> Result<usize, String> {
        let (core, key) = (self.core, &found.key);
        let (record, to) = match found.ours > found.theirs {
            true => {
                let own = core.replica.read(key).map_err(|error| error.to_string())?;
                (own, self.peer)
            }
            false => (self.read(key, deadline).await?, core.node),
        };
        // Collected meanwhile, as a tombstone may be.
        let Some(record) = record else { return Ok(0) };
        let gathering = Gathering::<Taken>::new(None);
        core.send_write(key, &record, deadline, gathering.slot(to));
        finished(core.runtime.deadline(deadline, gathering.next(1)).await)?;
        core.metrics.comparison_repairs.inc();
        self.tell(|told| told.repaired += 1);
        Ok(record.len() + key.as_str().len())
    }

    async fn read(&self, key: &Key, deadline: Instant) -> Result<Option<Bytes>, String> {
        let gathering = Gathering::new(None);
        let slot = gathering.slot(self.peer);
        self.core.peers.read(ReadItem { key: key.clone(), deadline, slot });
        finished(self.core.runtime.deadline(deadline, gathering.next(1)).await)
    }

    /// What the peer tells, and what this node does.
    async fn both(&self, question: Question) -> Result<(Told, Told), String> {
        let theirs = self.ask(&question).await?;
        Ok((theirs, self.core.tell(&question)?))
    }

    async fn ask(&self, question: &Question) -> Result<Told, String> {
        let deadline = self.core.runtime.now() + ASK_TIMEOUT;
        let call = self.core.transport.call(Request {
            to: self.peer,
            lane: Lane::Bulk,
            service: Service::Compare,
            epoch: Some(STATIC_EPOCH),
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
    /// Whether the newer of the two was written before `newest`, as far as clocks agree.
    fn is_from_before(&self, newest: Version) -> bool {
        self.ours.max(self.theirs).is_some_and(|(version, _)| version <= newest)
    }
}

/// The one answer of a gathering that asked one.
fn finished<T>(arrived: Option<Vec<super::gather::Arrival<T>>>) -> Result<T, String> {
    let arrival = arrived.and_then(|mut arrived| arrived.pop());
    arrival.ok_or("no answer in time")?.result.map_err(|error| error.to_string())
}

/// Whether two sums differ, where both are known.
fn is_different(sums: &(Option<u64>, Option<u64>)) -> bool {
    matches!(sums, (Some(one), Some(other)) if one != other)
}

/// Where two lists of sums differ, where both are known.
fn different((one, other): (Option<Vec<u64>>, Option<Vec<u64>>)) -> Vec<usize> {
    let (Some(one), Some(other)) = (one, other) else { return Vec::new() };
    let pairs = one.iter().zip(&other).enumerate();
    pairs.filter(|(_, (one, other))| one != other).map(|(index, _)| index).collect()
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
        assert_eq!(different((None, Some(vec![1]))), Vec::<usize>::new());
        assert_eq!(different((Some(vec![1, 2, 3]), Some(vec![1, 5, 4]))), [1, 2]);
    }

    #[test]
    fn a_peer_that_came_back_is_compared_with_at_once() {
        let now = crate::runtime::Runtime::real().now();
        let mut state = PeerState::default();
        assert!(!state.is_due(false, now));
        assert!(state.is_due(true, now), "it came");
        state.due = Some(now + Duration::from_secs(10));
        assert!(!state.is_due(true, now));
        assert!(!state.is_due(false, now + Duration::from_secs(20)), "it is away");
        state.due = Some(now + Duration::from_secs(90));
        assert!(state.is_due(true, now + Duration::from_secs(21)), "it came back");
        assert!(state.is_due(true, now + Duration::from_secs(90)));
    }
}

//! Anti-entropy: when replicas are compared.
//!
//! **Why it exists.** Reads repair what is read. What nobody reads must become equal too: the writes
//! that a replica missed while it was away, cut off or slow. Demers et al., "Epidemic Algorithms for
//! Replicated Database Maintenance" (1987), section 1.3, with the trees of [`super::hash_tree`].
//!
//! **When.** Of two nodes, the one with the lower id compares, every `leaderless.compare_interval_ms` and
//! as soon as the other comes back, hints first; and with every other node where an operator asks for
//! it. A hash tree is built anew from its rows every [`REBUILD_EVERY`], each partition's in turn, which
//! finds rows that changed by themselves.
//!
//! **Bounds.** One comparison at a time a node: what is asked for meanwhile waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::comparison::{Comparison, Difference, Scope};
use crate::replication::repair::RepairState;
use crate::runtime::Instant;
use crate::types::{Key, NodeId, Partition};

/// How often a node looks whether a comparison is due.
const LOOK: Duration = Duration::from_millis(250);

/// How soon after one that failed, or that left keys to another look, the next comparison begins.
const RETRY: Duration = Duration::from_secs(2);

/// How many intervals hints may put a comparison off for: some may come without end.
const HINTS_FIRST: u32 = 3;

/// How often the tree of one partition is built anew: all of them within a day.
const REBUILD_EVERY: Duration = Duration::from_secs(300);

/// How often a repair that was asked for looks again at what was too new, or not built, before.
const MAX_ROUNDS: usize = 60;

/// What comparisons with a peer left to the next.
#[derive(Default)]
struct PeerState {
    was_connected: bool,
    due: Option<Instant>,
    /// Since when hints for it put a comparison off that is due.
    put_off_since: Option<Instant>,
    /// Whether the last comparison came sooner than others, for what the one before left.
    hurried: bool,
    /// Keys that differed and were too new, as they were.
    too_new: BTreeMap<Key, Difference>,
}

/// Compares, and has trees built anew, for as long as the node runs.
pub(super) async fn run(core: Arc<Core>) {
    let mut peers = BTreeMap::<NodeId, PeerState>::new();
    let mut rebuilds = Partition::all().collect::<Vec<_>>().into_iter().cycle();
    let mut rebuild_at = core.runtime.now() + REBUILD_EVERY;
    loop {
        tokio::select! {
            biased;
            () = core.repairs.wanted() => repair_all(&core).await,
            () = core.runtime.sleep(LOOK) => {}
        }
        if core.runtime.now() >= rebuild_at {
            let view = core.view();
            let held = |partition: &Partition| view.holds(core.node, *partition);
            rebuilds.by_ref().take(256).find(held).into_iter().for_each(|partition| {
                core.replica.rebuild_tree(partition);
            });
            rebuild_at = core.runtime.now() + REBUILD_EVERY;
        }
        if core.settings.compare_interval.is_zero() {
            continue;
        }
        let view = core.view();
        peers.retain(|peer, _| view.nodes.contains(peer));
        for peer in view.nodes.iter().filter(|peer| **peer > core.node) {
            let state = peers.entry(*peer).or_default();
            let (connected, now) = (core.peers.is_connected(*peer), core.runtime.now());
            let hinted = core.hints.bytes_for(*peer) > 0;
            let longest = core.settings.compare_interval * HINTS_FIRST;
            if state.is_due(connected, now) && !state.is_put_off(hinted, longest, now) {
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
        let scope = Comparison::new(core, peer, true).run(&mut too_new).await?;
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
        if connected && !was_connected {
            self.due = Some(now);
        }
        connected && self.due.is_none_or(|due| due <= now)
    }

    /// Whether hints are on their way first: what they bring need not be compared.
    fn is_put_off(&mut self, hinted: bool, longest: Duration, now: Instant) -> bool {
        let since = *self.put_off_since.get_or_insert(now);
        let is_put_off = hinted && now < since + longest;
        if !is_put_off {
            self.put_off_since = None;
        }
        is_put_off
    }

    /// How long until the next comparison.
    fn wait(&mut self, ended: Result<Scope, String>, interval: Duration) -> Duration {
        let soon = match ended {
            Ok(Scope::Part) | Err(_) => true,
            // Once: a key that changes all the time is too new whenever it is looked at.
            Ok(Scope::Whole) => !self.too_new.is_empty() && !self.hurried,
        };
        self.hurried = soon;
        if soon { RETRY.min(interval) } else { interval }
    }
}

async fn run_one(core: &Arc<Core>, peer: NodeId, state: &mut PeerState) {
    let comparison = Comparison::new(core, peer, false);
    let ended = comparison.run(&mut state.too_new).await;
    if let Err(reason) = &ended {
        tracing::debug!(%peer, %reason, "a comparison of replicas was not finished");
    }
    let wait = state.wait(ended, core.settings.compare_interval);
    // Apart by chance, so that nodes that started together do not all compare at once.
    let chance = core.runtime.random_below(1 + wait.as_millis() as u64 / 8);
    state.due = Some(core.runtime.now() + wait + Duration::from_millis(chance));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        crate::runtime::Runtime::real().now()
    }

    #[test]
    fn a_peer_that_came_back_is_compared_with_at_once() {
        let now = now();
        let mut state = PeerState::default();
        assert!(!state.is_due(false, now));
        assert!(state.is_due(true, now), "it came");
        state.due = Some(now + Duration::from_secs(10));
        assert!(!state.is_due(true, now));
        assert!(!state.is_due(false, now + Duration::from_secs(20)), "it is away");
        state.due = Some(now + Duration::from_secs(90));
        assert!(state.is_due(true, now + Duration::from_secs(21)), "it came back");
        assert!(state.is_due(true, now + Duration::from_secs(21)), "and waits to be compared with");
    }

    #[test]
    fn hints_come_first_and_not_for_ever() {
        let (now, longest) = (now(), Duration::from_secs(30));
        let mut state = PeerState::default();
        assert!(state.is_put_off(true, longest, now));
        assert!(state.is_put_off(true, longest, now + Duration::from_secs(29)));
        assert!(!state.is_put_off(true, longest, now + Duration::from_secs(30)));
        assert!(
            state.is_put_off(true, longest, now + Duration::from_secs(31)),
            "from then on anew"
        );
        assert!(!state.is_put_off(false, longest, now + Duration::from_secs(32)));
    }

    #[test]
    fn a_key_that_always_changes_does_not_hurry_every_comparison() {
        let interval = Duration::from_secs(10);
        let mut state = PeerState::default();
        assert_eq!(state.wait(Ok(Scope::Whole), interval), interval);
        state.too_new.insert(Key::new("a", 8).expect("a key"), Difference::of_nothing("a"));
        assert_eq!(state.wait(Ok(Scope::Whole), interval), RETRY);
        assert_eq!(state.wait(Ok(Scope::Whole), interval), interval);
        assert_eq!(state.wait(Ok(Scope::Part), interval), RETRY);
        assert_eq!(state.wait(Err("it is down".to_owned()), interval), RETRY);
    }
}

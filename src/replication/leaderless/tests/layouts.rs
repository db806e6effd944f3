//! Changing the layout while clients write and read: nothing is lost, reads never go back, nodes come to
//! know of it whoever tells them, and what is held no longer is dropped.

use parking_lot::Mutex;

use super::super::active;
use super::*;
use crate::planted::{self, Bug};
use crate::types::{FOUNDING_EPOCH, Share, Spread, Step};

/// Random schedules tried.
const SEEDS: u64 = 12;

/// Keys that clients write and read all the while, and others that are only there.
const BUSY_KEYS: usize = 6;
pub(super) const STILL_KEYS: usize = 60;

/// How long a change may take in these worlds.
const CHANGED_WITHIN: Duration = Duration::from_secs(90);

pub(super) fn shares(nodes: &[u16]) -> BTreeMap<NodeId, Share> {
    let share = Share { weight: 1, zone: None };
    nodes.iter().map(|id| (NodeId(*id), share.clone())).collect()
}

impl Cluster {
    /// Begins to spread the partitions over these nodes.
    pub(super) async fn begin(&self, through: u16, nodes: &[u16]) {
        let node = self.node(through).leaderless.clone();
        let begun = node.apply_layout(shares(nodes), self.options()).await;
        begun.expect("a change that begins");
    }

    /// Waits until every node goes by a layout that stands, of these nodes.
    pub(super) async fn stands(&self, nodes: &[u16]) {
        let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        let until = self.clock.now() + CHANGED_WITHIN;
        loop {
            let stands = |it: &Running| {
                let view = it.leaderless.core.view();
                view.stands() && view.nodes == nodes
            };
            if self.running.values().all(stands) {
                return;
            }
            let shown = || {
                let show = |(id, it): (&NodeId, &Running)| {
                    let core = &it.leaderless.core;
                    format!("{id}: {:?} {:?}", core.view().epoch, core.progress.lock())
                };
                self.running.iter().map(show).collect::<Vec<_>>()
            };
            assert!(self.clock.now() < until, "the layout does not change: {:#?}", shown());
            self.sleep_ms(50).await;
        }
    }

    /// How many of these keys a node has rows of.
    pub(super) fn rows(&self, id: u16, keys: impl Iterator<Item = String>) -> usize {
        keys.filter(|text| self.held(id, text).is_some()).count()
    }

    pub(super) fn holds(&self, id: u16, text: &str) -> bool {
        self.node(id).leaderless.core.view().holds(NodeId(id), key(text).partition())
    }
}

pub(super) fn still() -> impl Iterator<Item = String> + Clone {
    (0..STILL_KEYS).map(|number| format!("still-{number}"))
}

/// The highest version of each key that was acknowledged or returned so far.
type Floors = Arc<Mutex<BTreeMap<String, Version>>>;

/// Writes and reads busy keys through one node until told to stop.
async fn client(
    node: Arc<Leaderless>,
    clock: Runtime,
    floors: Floors,
    until: crate::runtime::Instant,
    own: u64,
) -> u64 {
    let mut done = 0;
    let mut number = own;
    while clock.now() < until {
        number += 1;
        let text = format!("busy-{}", (number * 7 + own) % BUSY_KEYS as u64);
        let options = RequestOptions {
            level: None,
            max_staleness: None,
            r: None,
            w: None,
            may_forward: true,
            deadline: clock.now() + REQUEST_TIMEOUT,
        };
        let raise = |version: Option<Version>| {
            if let Some(version) = version {
                let mut floors = floors.lock();
                let floor = floors.entry(text.clone()).or_insert(version);
                *floor = version.max(*floor);
            }
        };
        if number.is_multiple_of(2) {
            if let Ok(answer) = node.write(put(&text, &format!("{own}-{number}")), options).await {
                raise(Some(answer.version));
                done += 1;
            }
        } else {
            let floor = floors.lock().get(&text).copied();
            if let Ok(answer) = node.read(key(&text), options).await {
                let version = answer.record.map(|record| record.version);
                assert!(version >= floor, "{text}: {floor:?} was seen, and then {version:?}");
                raise(version);
                done += 1;
            }
        }
        clock.sleep(Duration::from_millis(clock.random_below(15))).await;
    }
    done
}

/// Reads the keys that nobody changes: whatever is answered must have them.
async fn still_there(cluster: &Cluster, id: u16) {
    let reads = still().map(|text| async move { (cluster.try_get(id, &text).await, text) });
    for (answer, text) in futures_util::future::join_all(reads).await {
        if let Ok(answer) = answer {
            assert_eq!(shown(answer.record).as_deref(), Some("still"), "{text} through {id}");
        }
    }
}

/// A world in which three nodes become five, and then three others, under load and bad links.
async fn grows_and_shrinks(seed: u64) {
    let mut cluster = Cluster::start(3, seed).await;
    for text in still() {
        cluster.put(1, &text, "still").await;
    }
    cluster.join(4);
    cluster.join(5);
    cluster.settle().await;
    let floors: Floors = Arc::default();
    let until = cluster.clock.now() + Duration::from_secs(12);
    let clients: Vec<_> = (1..=5)
        .map(|id| {
            let node = cluster.node(id).leaderless.clone();
            let (clock, floors) = (cluster.clock.clone(), floors.clone());
            cluster.clock.spawn(client(node, clock, floors, until, u64::from(id) * 1_000))
        })
        .collect();
    for from in 1..=5_u16 {
        for to in (1..=5).filter(|to| *to != from) {
            let jitter = Duration::from_millis(cluster.clock.random_below(40));
            let drop_answers_per_mille = cluster.clock.random_below(6) as u16;
            let fault = Fault { jitter, drop_answers_per_mille, ..Fault::default() };
            cluster.plan.set(NodeId(from), NodeId(to), fault);
        }
    }
    cluster.sleep_ms(cluster.clock.random_below(1_000)).await;
    cluster.begin(1 + (seed % 5) as u16, &[1, 2, 3, 4, 5]).await;
    cluster.stands(&[1, 2, 3, 4, 5]).await;
    still_there(&cluster, 4).await;
    cluster.begin(1 + (seed % 5) as u16, &[3, 4, 5]).await;
    cluster.stands(&[3, 4, 5]).await;
    still_there(&cluster, 5).await;
    let mut done = 0;
    for client in clients {
        done += client.await.expect("a client that ends");
    }
    assert!(done > 300, "seed {seed}: {done} requests were answered");
    cluster.plan.heal();
    cluster.settle().await;
    // Those that left are gone, and all is where it should be.
    cluster.crash(1);
    cluster.crash(2);
    let floors = floors.lock().clone();
    for (text, floor) in floors {
        let answer = cluster.try_get(3, &text).await.expect("an answer");
        let version = answer.record.map(|record| record.version);
        assert!(version >= Some(floor), "seed {seed}: {text} was at {floor:?}, is at {version:?}");
    }
    for text in still() {
        assert_eq!(cluster.get(4, &text).await.as_deref(), Some("still"), "seed {seed} {text}");
    }
}

#[test]
fn nothing_is_lost_and_reads_never_go_back_while_nodes_come_and_go() {
    for seed in 0..SEEDS {
        in_a_paused_world(grows_and_shrinks(seed));
    }
}

#[test]
fn a_node_that_the_control_plane_does_not_reach_learns_the_layout_from_others() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 42).await;
        cluster.join(4);
        cluster.settle().await;
        cluster.control.deaf.lock().insert(NodeId(3));
        cluster.begin(1, &[1, 2, 3, 4]).await;
        cluster.put(3, "a", "1").await;
        cluster.stands(&[1, 2, 3, 4]).await;
        assert_eq!(cluster.get(3, "a").await.as_deref(), Some("1"));
    });
}

#[test]
fn a_node_that_joins_serves_once_it_knows_the_layout() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 43).await;
        cluster.put(1, "a", "1").await;
        cluster.join(4);
        let early = cluster.try_put(4, "b", "2").await.expect_err("it knows nothing yet");
        assert!(early.to_string().contains("joins"), "{early}");
        assert!(cluster.node(4).leaderless.ready().is_err());
        cluster.settle().await;
        assert_eq!(cluster.node(4).leaderless.ready(), Ok(()));
        assert_eq!(cluster.get(4, "a").await.as_deref(), Some("1"), "it coordinates");
        assert_eq!(cluster.rows(4, std::iter::once("a".to_owned())), 0, "and holds nothing");
        let status = cluster.node(4).leaderless.status();
        assert_eq!(status.epoch, FOUNDING_EPOCH);
    });
}

#[test]
fn a_node_that_joins_and_crashes_before_it_was_told_founds_nothing() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 50).await;
        cluster.disks.insert(NodeId(4), SimDisk::new(5_004));
        cluster.plan.partition(&[NodeId(4)], &[1, 2, 3].map(NodeId));
        cluster.control.deaf.lock().insert(NodeId(4));
        for _ in 0..2 {
            cluster.start_node(4);
            cluster.settle().await;
            let alone = cluster.try_put(4, "a", "alone").await.expect_err("it knows nobody");
            assert!(alone.to_string().contains("joins"), "{alone}");
            cluster.crash(4);
        }
    });
}

#[test]
fn a_write_that_left_traces_before_there_were_fewer_replicas_is_unknown() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 51).await;
        // Nodes 1 and 2 take it; node 3 goes by another layout already, in which there are two.
        let spread = |nodes: &[u16]| {
            let nodes = nodes.iter().copied().map(NodeId);
            layout::founding(nodes, &cluster.node(1).leaderless.core.settings)
        };
        let two = Spread { write_quorum: 2, read_quorum: 2, ..spread(&[1, 2]) };
        let options = RequestOptions { w: Some(3), ..cluster.options() };
        let core = cluster.node(1).leaderless.core.clone();
        let later = LayoutState::standing(Epoch(9), two);
        cluster.node(3).leaderless.core.active.hear(later.clone());
        cluster.sleep_ms(50).await;
        let write = core.write(put("a", "1"), options);
        let told = async {
            // After the first attempt, and before the second.
            cluster.sleep_ms(15).await;
            core.active.hear(later);
        };
        let (answer, ()) = futures_util::future::join(write, told).await;
        let error = answer.expect_err("there are no three replicas any more");
        assert!(matches!(error, WriteError::Unknown { .. }), "{error:?}");
    });
}

#[test]
fn the_epoch_outlives_a_crash_and_a_checkpoint() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 45).await;
        cluster.join(4);
        cluster.settle().await;
        cluster.begin(1, &[1, 2, 4]).await;
        cluster.stands(&[1, 2, 4]).await;
        let epoch = cluster.node(1).leaderless.core.view().epoch;
        assert_eq!(epoch, Epoch(4), "two steps and the end");
        for number in 0..300 {
            cluster.put(1, &format!("key-{number}"), "a value").await;
        }
        let began = cluster.node(1).leaderless.core.log.start();
        Replicator::checkpoint(&*cluster.node(1).leaderless).await.expect("a checkpoint");
        assert!(cluster.node(1).leaderless.core.log.start() > began, "nothing was cut");
        cluster.control.deaf.lock().extend([1, 2, 4].map(NodeId));
        for id in [1, 2, 4] {
            cluster.crash(id);
            cluster.start_node(id);
            assert_eq!(cluster.node(id).leaderless.core.view().epoch, epoch, "node {id}");
        }
    });
}

#[test]
fn what_was_taken_under_the_old_layout_is_there_before_it_is_compared() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 46).await;
        cluster.put(1, "first", "so that versions need no ceiling").await;
        let core = &cluster.node(1).leaderless.core;
        let spread: Spread = core.view().state().expect("founded").current.clone();
        let state = LayoutState::standing(Epoch(7), spread);
        // The log takes a while: what is in its queue is not in the table.
        cluster.disks[&NodeId(1)].set_sync_delay(Duration::from_millis(300));
        let write = cluster.try_put(1, "a", "1");
        tokio::pin!(write);
        assert!((&mut write).now_or_never().is_none(), "it is under way");
        core.active.hear(state);
        let until = cluster.clock.now() + SETTLE;
        while core.view().epoch != Epoch(7) {
            assert!(cluster.clock.now() < until, "it goes by what it heard");
            cluster.sleep_ms(10).await;
        }
        while core.settled_epoch() != Epoch(7) {
            assert!(cluster.clock.now() < until, "it settles");
            cluster.sleep_ms(10).await;
        }
        assert!(cluster.held(1, "a").is_some(), "it is in the table by then");
    });
}

#[test]
fn a_layout_that_is_old_is_no_news_and_nonsense_is_refused() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 47).await;
        let core = &cluster.node(1).leaderless.core;
        let spread = core.view().state().expect("founded").current.clone();
        core.active.hear(LayoutState::standing(Epoch(0), spread.clone()));
        cluster.sleep_ms(100).await;
        assert_eq!(core.view().epoch, FOUNDING_EPOCH);
        let payload = active::encoded(&LayoutState::standing(Epoch(3), spread));
        assert_eq!(active::decode_state(&payload).map(|state| state.epoch), Ok(Epoch(3)));
        assert!(active::decode_state(b"nonsense").is_err());
    });
}

#[test]
fn progress_is_shown_of_every_node_that_is_waited_for() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 48).await;
        cluster.join(4);
        cluster.settle().await;
        cluster.isolate(2);
        cluster.settle().await;
        cluster.begin(1, &[1, 2, 3, 4]).await;
        cluster.sleep_ms(5_000).await;
        let status = cluster.node(3).leaderless.core.layout_status().await.expect("a layout");
        let change = status.change.expect("under way");
        assert_eq!(change.step, Step::Copying);
        let of = |id| change.nodes.iter().find(|it| it.node == NodeId(id)).expect("waited for");
        assert!(of(4).done && of(4).proven == of(4).partitions && of(4).partitions > 0);
        assert!(!of(2).done && of(2).waits_for.is_some(), "it is away");
        cluster.plan.heal();
        cluster.stands(&[1, 2, 3, 4]).await;
        let status = cluster.node(3).leaderless.core.layout_status().await.expect("a layout");
        assert_eq!((status.epoch, status.change), (Epoch(4), None));
    });
}

/// Writes keys while the new replicas have proven what they have and the change is not over; whether all
/// of them are found when it is.
async fn late_writes_are_found() -> bool {
    let mut cluster = Cluster::start(3, 49).await;
    cluster.join(4);
    cluster.join(5);
    cluster.settle().await;
    cluster.begin(1, &[3, 4, 5]).await;
    let until = cluster.clock.now() + CHANGED_WITHIN;
    while cluster.node(3).leaderless.core.view().epoch < Epoch(3) {
        assert!(cluster.clock.now() < until, "it is copied");
        cluster.sleep_ms(5).await;
    }
    // Node 3 cannot prove what it has: it is waited for.
    cluster.plan.partition(&[NodeId(3)], &[NodeId(1), NodeId(2)]);
    cluster.settle().await;
    assert_eq!(cluster.node(1).leaderless.core.view().epoch, Epoch(3), "it waits");
    for text in still() {
        cluster.put(1, &text, "late").await;
    }
    cluster.plan.heal();
    cluster.stands(&[3, 4, 5]).await;
    let reads = still().map(|text| {
        let cluster = &cluster;
        async move { cluster.get(4, &text).await }
    });
    let found = futures_util::future::join_all(reads).await;
    found.iter().all(|value| value.as_deref() == Some("late"))
}

#[test]
fn what_is_written_between_the_proof_and_the_end_is_at_the_new_replicas() {
    assert!(in_a_paused_world(late_writes_are_found()));
    let found =
        planted::with(Bug::MovedWritesToOldAlone, || in_a_paused_world(late_writes_are_found()));
    assert!(!found, "it was not planted");
}

/// A node that was cut off while its partitions went to others writes, through one that still holds them;
/// whether a quorum read misses what it was acknowledged.
async fn a_quorum_is_made_of_two_layouts() -> bool {
    let mut cluster = Cluster::start(3, 52).await;
    cluster.join(4);
    cluster.join(5);
    cluster.settle().await;
    cluster.control.deaf.lock().insert(NodeId(1));
    cluster.isolate(1);
    cluster.settle().await;
    cluster.begin(2, &[3, 4, 5]).await;
    let until = cluster.clock.now() + CHANGED_WITHIN;
    while cluster.node(3).leaderless.core.view().epoch < Epoch(4) {
        assert!(cluster.clock.now() < until, "it goes without node 1");
        cluster.sleep_ms(50).await;
    }
    cluster.plan.heal();
    cluster.plan.partition(&[NodeId(1)], &[2, 4, 5].map(NodeId));
    cluster.settle().await;
    let acknowledged = cluster.try_put(1, "a", "1").await.is_ok();
    cluster.plan.partition(&[NodeId(3)], &[1, 4, 5].map(NodeId));
    cluster.settle().await;
    acknowledged && cluster.get(4, "a").await.is_none()
}

#[test]
fn no_quorum_is_made_of_two_layouts() {
    assert!(!in_a_paused_world(a_quorum_is_made_of_two_layouts()));
    let is_made =
        planted::with(
            Bug::EpochNotChecked,
            || in_a_paused_world(a_quorum_is_made_of_two_layouts()),
        );
    assert!(is_made, "it was not planted");
}

#[test]
fn the_schedules_notice_a_change_without_a_proof() {
    let notices = |seed| {
        let world = || in_a_paused_world(grows_and_shrinks(seed));
        planted::with(Bug::MovedWithoutProof, || std::panic::catch_unwind(world).is_err())
    };
    assert!((0..SEEDS).any(notices));
}

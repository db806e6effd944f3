//! Which writes share an entry or a message, and which wait for one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use super::world::{Fate, World, forwards, in_a_world, ms, put, write};
use crate::consensus::{Session, Submission};
use crate::peer::{Inbound, Reply, Service};
use crate::replication::Cost;
use crate::replication::leader::forward::encode;
use crate::replication::leader::pump::{
    ENOUGH_BYTES, ENOUGH_WRITES, MAX_ENTRIES_IN_FLIGHT, MAX_FORWARDS_IN_FLIGHT, PATIENCE,
};
use crate::runtime::Instant;
use crate::types::{EffectiveLevel, NodeId};

#[test]
fn a_lone_write_waits_for_nobody() {
    in_a_world(1, async |world| {
        let before = world.runtime.now();
        let answer = write(&world, 1, "v").await.expect("is written");
        assert_eq!(world.runtime.now() - before, ms(2), "more than the commit itself");
        assert_eq!(answer.level, EffectiveLevel::Linearizable);
        assert_eq!(answer.cost, Cost { messages: 4, acks: 2 });
        assert_eq!(answer.version.node(), NodeId(1));
        assert_eq!(world.applications("v"), 1);
    });
}

#[test]
fn writes_that_arrive_together_share_few_entries() {
    in_a_world(2, async |world| {
        let values: Vec<String> = (0..64).map(|n| format!("v{n}")).collect();
        let all = join_all(values.iter().map(|value| write(&world, 1, value))).await;
        assert!(all.iter().all(Result::is_ok));
        assert!(world.entries().len() <= MAX_ENTRIES_IN_FLIGHT, "{}", world.entries().len());
        assert!(values.iter().all(|value| world.applications(value) == 1));
    });
}

#[test]
fn a_steady_load_keeps_a_bounded_number_of_entries_in_flight_and_fills_them() {
    in_a_world(3, async |world| {
        let client = async |client: usize| {
            world.runtime.sleep(ms(client as u64 % 7)).await;
            for n in 0..20 {
                let node = 1 + (client % 3) as u16;
                write(&world, node, &format!("{client}-{n}")).await.expect("is written");
            }
        };
        join_all((0..64).map(client)).await;
        assert!(world.most_proposing.load(Ordering::Relaxed) <= MAX_ENTRIES_IN_FLIGHT);
        let entries = world.entries();
        let writes: usize = entries.iter().flatten().map(|s| s.writes.len()).sum();
        assert_eq!(writes, 64 * 20);
        assert!(entries.len() * 5 < writes, "{} entries", entries.len());
        let shared = entries
            .iter()
            .filter(|entry| entry.iter().any(|s| s.session.origin != entry[0].session.origin));
        assert!(shared.count() > 0, "no entry holds submissions of several nodes");
    });
}

/// A write that arrives at a node a millisecond from now, and when it was answered.
async fn write_soon(world: &Arc<World>, node: u16, value: &str) -> Instant {
    world.runtime.sleep(ms(1)).await;
    write(world, node, value).await.expect("is written");
    world.runtime.now()
}

/// Writes these soon through a node, while a slow entry is under way; how long each took from its start.
async fn beside_a_slow_entry(world: &Arc<World>, node: u16, values: &[String]) -> Vec<Duration> {
    world.fates.lock().extend([Fate::Commit(ms(900))]);
    let began = world.runtime.now();
    let soon = join_all(values.iter().map(|value| write_soon(world, node, value)));
    let (slow, soon) = tokio::join!(write(world, 1, "slow"), soon);
    assert!(slow.is_ok());
    soon.into_iter().map(|at| at - began).collect()
}

/// As many as are worth an entry.
fn enough() -> Vec<String> {
    (0..ENOUGH_WRITES).map(|n| format!("v{n}")).collect()
}

#[test]
fn few_writes_wait_for_the_entry_under_way_and_share_the_next() {
    in_a_world(31, async |world| {
        world.fates.lock().extend([Fate::Commit(ms(4))]);
        let (first, second, third) = tokio::join!(
            write(&world, 1, "1"),
            write_soon(&world, 1, "2"),
            write_soon(&world, 1, "3")
        );
        assert!(first.is_ok() && second == third);
        let sizes: Vec<usize> =
            world.entries().iter().map(|e| e.iter().map(|s| s.writes.len()).sum()).collect();
        assert_eq!(sizes, [1, 2]);
        assert_eq!(world.most_proposing.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn an_entry_that_takes_long_is_not_waited_for() {
    in_a_world(32, async |world| {
        let took = beside_a_slow_entry(&world, 1, &["soon".to_owned()]).await[0];
        assert!(took >= PATIENCE && took < PATIENCE + ms(5), "{took:?}");
    });
}

#[test]
fn writes_that_are_worth_an_entry_wait_for_none() {
    in_a_world(33, async |world| {
        let took = beside_a_slow_entry(&world, 1, &enough()).await;
        assert!(took.iter().all(|took| *took < PATIENCE), "{:?}", took[0]);
    });
}

#[test]
fn forwards_of_other_nodes_make_an_entry_worth_it_too() {
    in_a_world(34, async |world| {
        let took = beside_a_slow_entry(&world, 2, &enough()).await;
        assert!(took.iter().all(|took| *took < ms(500)), "they wait for the slow entry");
    });
}

#[test]
fn large_writes_are_worth_an_entry_though_they_are_few() {
    in_a_world(35, async |world| {
        let took = beside_a_slow_entry(&world, 1, &["x".repeat(ENOUGH_BYTES)]).await[0];
        assert!(took < PATIENCE, "{took:?}");
    });
}

#[test]
fn no_more_entries_than_the_bound_are_under_way_however_long_they_take() {
    in_a_world(36, async |world| {
        world.fates.lock().extend([Fate::Hang; MAX_ENTRIES_IN_FLIGHT]);
        let began = world.runtime.now();
        let values: Vec<String> = (0..MAX_ENTRIES_IN_FLIGHT + 2).map(|n| format!("v{n}")).collect();
        let all = join_all(values.iter().zip(0u32..).map(async |(value, number)| {
            world.runtime.sleep(PATIENCE * 2 * number).await;
            write(&world, 1, value).await
        }));
        let look = async {
            world.runtime.sleep_until(began + PATIENCE * 20).await;
            world.proposing.load(Ordering::Relaxed)
        };
        let (under_way, _) = tokio::join!(look, all);
        assert_eq!(under_way, MAX_ENTRIES_IN_FLIGHT);
    });
}

#[test]
fn the_clock_of_who_forwards_counts_within_bounds_of_the_leader_s() {
    in_a_world(37, async |world| {
        let now_ms = world.runtime.wall_ms();
        let off_ms = 600_000;
        for (sequence, clock_ms) in [(1, now_ms - off_ms), (2, now_ms + off_ms), (3, now_ms + 100)]
        {
            let session = Session { origin: NodeId(2), boot: 1, sequence, settled: 0 };
            let writes = vec![put("a", &format!("v{sequence}"))];
            let submission = Submission { session, proposed_time: clock_ms << 16, writes };
            let inbound = Inbound {
                from: NodeId(2),
                service: Service::Forward,
                epoch: None,
                deadline: world.runtime.now() + ms(5_000),
                body: encode(&submission).expect("encoded"),
                reply: Reply::new(|_| ()),
            };
            world.deliver(NodeId(1), inbound);
            world.runtime.sleep(ms(20)).await;
        }
        let times =
            world.entries().iter().flatten().map(|it| it.proposed_time >> 16).collect::<Vec<_>>();
        let [behind, ahead, near] = times[..] else { panic!("{times:?}") };
        assert!((now_ms..now_ms + 20).contains(&behind), "a time to live would be over already");
        assert!(ahead <= now_ms + 600 && ahead >= now_ms + 400, "{ahead}");
        assert_eq!(near, now_ms + 100);
    });
}

#[test]
fn a_follower_forwards_what_arrives_together_as_few_submissions() {
    in_a_world(4, async |world| {
        let values: Vec<String> = (0..64).map(|n| format!("v{n}")).collect();
        let all = join_all(values.iter().map(|value| write(&world, 2, value))).await;
        let costs = all.iter().map(|one| one.as_ref().expect("is written").cost);
        assert!(costs.into_iter().all(|cost| cost == Cost { messages: 6, acks: 2 }));
        assert!(forwards(&world) <= MAX_FORWARDS_IN_FLIGHT);
        assert!(values.iter().all(|value| world.applications(value) == 1));
        assert_eq!(world.node(2).context.metrics.writes_forwarded.get(), 64);
    });
}

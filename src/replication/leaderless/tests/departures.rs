//! What moves is sent once, and what a node holds no longer is brought along and dropped.

use super::layouts::{STILL_KEYS, shares, still};
use super::*;
use crate::planted::{self, Bug};

#[test]
fn what_moves_is_sent_once_and_dropped_where_it_lay() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 40).await;
        for text in still() {
            cluster.put(1, &text, "still").await;
        }
        cluster.join(4);
        cluster.settle().await;
        cluster.begin(2, &[1, 2, 3, 4]).await;
        cluster.stands(&[1, 2, 3, 4]).await;
        let expected = still().filter(|text| cluster.holds(4, text)).count();
        assert!(expected > STILL_KEYS / 2, "node 4 is to hold three quarters: {expected}");
        assert_eq!(cluster.rows(4, still()), expected);
        let repairs: u64 =
            cluster.running.values().map(|it| it.metrics.comparison_repairs.get()).sum();
        assert_eq!(repairs as usize, expected, "each record was sent once");
        cluster.settle().await;
        for id in 1..=3 {
            let strays = still().filter(|text| !cluster.holds(id, text));
            assert!(strays.clone().count() > 0);
            assert_eq!(cluster.rows(id, strays), 0, "node {id} keeps what it holds no longer");
        }
    });
}

#[test]
fn what_one_old_replica_alone_has_is_brought_along_before_it_is_dropped() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 41).await;
        cluster.join(4);
        cluster.settle().await;
        // Node 1 alone has it, while nobody looks; it is to hold nothing any more.
        cluster.isolate(1);
        cluster.settle().await;
        let options = RequestOptions { w: Some(1), ..cluster.options() };
        let alone = cluster.node(1).leaderless.write(put("alone", "w=1"), options).await;
        alone.expect("one replica is enough");
        cluster.begin(2, &[2, 3, 4]).await;
        cluster.sleep_ms(8_000).await;
        assert_eq!(cluster.held(2, "alone"), None, "nobody heard of it");
        assert!(cluster.node(2).leaderless.core.view().stands(), "it goes without node 1");
        cluster.plan.heal();
        cluster.stands(&[2, 3, 4]).await;
        // Links are dialled again, and each of three nodes is brought what it lacks.
        cluster.sleep_ms(10_000).await;
        for id in 2..=4 {
            assert_eq!(shown(cluster.held(id, "alone")).as_deref(), Some("w=1"), "node {id}");
        }
        assert_eq!(cluster.held(1, "alone"), None, "it was dropped where it lay");
    });
}

#[test]
fn a_change_is_taken_back_and_what_was_copied_is_dropped() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 44).await;
        for text in still() {
            cluster.put(1, &text, "still").await;
        }
        cluster.join(4);
        cluster.settle().await;
        // Node 4 is brought what it lacks, and cannot prove it: two of three are away.
        cluster.plan.partition(&[NodeId(4)], &[NodeId(2), NodeId(3)]);
        cluster.settle().await;
        cluster.begin(1, &[1, 2, 3, 4]).await;
        cluster.sleep_ms(4_000).await;
        let view = cluster.node(1).leaderless.core.view();
        assert!(!view.stands() && view.nodes.len() == 4, "it waits");
        assert!(cluster.rows(4, still()) > 0);
        let again = cluster.node(2).leaderless.apply_layout(shares(&[1, 2]), cluster.options());
        let again = again.await.expect_err("one at a time");
        assert!(again.to_string().contains("under way"), "{again}");
        let cancelled = cluster.node(2).leaderless.cancel_layout(cluster.options()).await;
        assert_eq!(cancelled.expect("taken back").change, None);
        cluster.plan.heal();
        cluster.stands(&[1, 2, 3]).await;
        cluster.settle().await;
        assert_eq!(cluster.rows(4, still()), 0, "it holds nothing after all");
        for text in still() {
            assert_eq!(cluster.get(4, &text).await.as_deref(), Some("still"));
        }
        let nothing = cluster.node(2).leaderless.cancel_layout(cluster.options()).await;
        assert!(nothing.expect_err("it stands").to_string().contains("no change"));
    });
}

async fn drop_that_a_crash_leaves_dropped() {
    let mut cluster = Cluster::start(3, 45).await;
    for text in still() {
        cluster.put(1, &text, "still").await;
    }
    cluster.join(4);
    cluster.settle().await;
    cluster.begin(2, &[2, 3, 4]).await;
    cluster.stands(&[2, 3, 4]).await;
    let is_over = || {
        let told = cluster.node(2).leaderless.core.control.watch_layout().borrow().clone();
        told.is_some_and(|state| state.departing.is_empty())
    };
    while !is_over() {
        cluster.sleep_ms(100).await;
    }
    // Whoever was asked to wait for node 1 waits no more.
    cluster.crash(1);
    cluster.start_node(1);
    assert_eq!(cluster.rows(1, still()), 0, "a crash brought them back");
}

#[test]
fn nothing_that_was_dropped_comes_back_once_others_were_told() {
    in_a_paused_world(drop_that_a_crash_leaves_dropped());
    let world = || in_a_paused_world(drop_that_a_crash_leaves_dropped());
    assert!(planted::with(Bug::DroppedForNow, || std::panic::catch_unwind(world).is_err()));
}

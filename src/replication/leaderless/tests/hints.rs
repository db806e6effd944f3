//! Hints: what a replica that was away has soon after its return, without a comparison or a read.

use super::*;

fn hints_alone(settings: &mut Settings) {
    settings.leaderless.hint_bytes = 1 << 20;
}

fn total(cluster: &Cluster, count: fn(&Metrics) -> u64) -> u64 {
    cluster.running.values().map(|node| count(&node.metrics)).sum()
}

#[test]
fn a_replica_that_was_away_has_what_it_missed_soon_after_it_is_back() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start_with(3, 1, hints_alone).await;
        cluster.put(1, "deleted", "old").await;
        cluster.crash(3);
        cluster.sleep_ms(100).await;
        for number in 0..600 {
            cluster.put(1 + number % 2, &format!("key-{number}"), "value").await;
        }
        cluster.delete(2, "deleted").await;
        cluster.start_node(3);
        cluster.settle().await;
        for number in 0..600 {
            let held = shown(cluster.held(3, &format!("key-{number}")));
            assert_eq!(held, Some("value".to_owned()), "key-{number}");
        }
        assert!(cluster.held(3, "deleted").is_some_and(|record| record.is_tombstone()));
        assert_eq!(total(&cluster, |metrics| metrics.hints_sent.get()), 601);
        assert_eq!(cluster.node(1).metrics.hint_bytes.get(), 0, "none is left");
    });
}

#[test]
fn a_write_that_a_replica_took_too_late_or_not_at_all_is_hinted_too() {
    in_a_paused_world(async {
        let cluster = Cluster::start_with(3, 2, hints_alone).await;
        // The link stands, and nothing arrives: the coordinator learns of it at the deadline.
        cluster.lose_requests(1, 3);
        cluster.put(1, "a", "new").await;
        cluster.settle().await;
        assert_eq!(cluster.held(3, "a"), None);
        cluster.plan.heal();
        cluster.clock.sleep(SETTLE * 4).await;
        assert_eq!(shown(cluster.held(3, "a")), Some("new".to_owned()));
    });
}

#[test]
fn a_write_that_was_refused_is_never_hinted() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start_with(3, 3, hints_alone).await;
        cluster.crash(2);
        cluster.crash(3);
        cluster.sleep_ms(100).await;
        cluster.try_put(1, "a", "new").await.expect_err("too few replicas");
        assert_eq!(total(&cluster, |metrics| metrics.hints_kept.get()), 0);
        cluster.start_node(2);
        cluster.start_node(3);
        cluster.clock.sleep(SETTLE * 4).await;
        for id in 1..=3 {
            assert_eq!(cluster.held(id, "a"), None);
        }
    });
}

#[test]
fn hints_outlive_a_clean_restart_of_the_coordinator_and_replace_nothing_newer() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start_with(3, 4, hints_alone).await;
        cluster.crash(3);
        cluster.sleep_ms(100).await;
        cluster.put(1, "a", "old").await;
        cluster.put(1, "b", "old").await;
        cluster.settle().await;
        cluster.node(1).leaderless.checkpoint().await.expect("a checkpoint");
        cluster.crash(1);
        cluster.start_node(3);
        cluster.settle().await;
        cluster.put(2, "b", "newer").await;
        cluster.start_node(1);
        cluster.clock.sleep(SETTLE * 2).await;
        assert_eq!(shown(cluster.held(3, "a")), Some("old".to_owned()));
        assert_eq!(shown(cluster.held(3, "b")), Some("newer".to_owned()));
    });
}

#[test]
fn hints_beyond_their_room_are_dropped_and_no_write_fails_for_it() {
    in_a_paused_world(async {
        fn little_room(settings: &mut Settings) {
            settings.leaderless.hint_bytes = 500;
        }
        let mut cluster = Cluster::start_with(3, 5, little_room).await;
        cluster.crash(3);
        cluster.sleep_ms(100).await;
        for number in 0..50 {
            cluster.put(1, &format!("key-{number}"), "value").await;
        }
        let metrics = &cluster.node(1).metrics;
        assert!(metrics.hints_dropped.get() >= 35 && metrics.hints_kept.get() >= 5);
        assert!(metrics.hint_bytes.get() <= 500);
    });
}

//! Records past their expiry: tombstones of their version, by the coordinator's clock.

use super::*;

/// Puts for `ttl_ms` through a node.
async fn put_for(cluster: &Cluster, id: u16, text: &str, value: &str, ttl_ms: u64) {
    let change = Change::put(Bytes::copy_from_slice(value.as_bytes()), None, Some(ttl_ms));
    let write = Write { change, ..put(text, value) };
    let answer = cluster.node(id).leaderless.write(write, cluster.options()).await;
    answer.expect("an acknowledged put");
}

#[test]
fn a_record_past_its_expiry_is_gone_at_every_level_and_from_lists() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 71).await;
        put_for(&cluster, 1, "a", "1", 2_000).await;
        put_for(&cluster, 1, "b", "1", 60_000).await;
        cluster.sleep_ms(1_000).await;
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await.as_deref(), Some("1"));
            assert_eq!(cluster.keys(id, list()).await, ["a", "b"]);
        }
        cluster.sleep_ms(1_500).await;
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await, None);
            let local = RequestOptions { level: Some(Level::Local), ..cluster.options() };
            let read = cluster.node(id).leaderless.read(key("a"), local).await;
            assert_eq!(shown(read.expect("an answered read").record), None);
            assert_eq!(cluster.keys(id, list()).await, ["b"]);
        }
    });
}

#[test]
fn an_expired_record_still_wins_over_older_ones_and_loses_to_newer() {
    in_a_paused_world(async {
        fn reads_alone(settings: &mut Settings) {
            settings.leaderless.hint_bytes = 0;
            settings.leaderless.compare_interval = Duration::ZERO;
        }
        let cluster = Cluster::start_with(3, 72, reads_alone).await;
        cluster.put(1, "a", "old").await;
        cluster.settle().await;
        cluster.isolate(3);
        put_for(&cluster, 2, "a", "short", 500).await;
        cluster.sleep_ms(1_000).await;
        cluster.plan.heal();
        cluster.settle().await;
        assert_eq!(shown(cluster.held(3, "a")).as_deref(), Some("old"), "it missed the other");
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await, None, "what it replaced does not come back");
        }
        cluster.put(3, "a", "new").await;
        cluster.sleep_ms(5_000).await;
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await.as_deref(), Some("new"));
        }
    });
}

#[test]
fn a_coordinator_whose_clock_is_set_back_shows_nothing_that_had_expired() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 73).await;
        put_for(&cluster, 1, "a", "1", 1_000).await;
        cluster.sleep_ms(1_500).await;
        assert_eq!(cluster.get(2, "a").await, None);
        cluster.set_skew_ms(2, -1_200);
        assert_eq!(cluster.get(2, "a").await, None);
    });
}

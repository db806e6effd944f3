//! Comparing replicas: what they come to without a single read, and what that costs.

use super::*;
use crate::telemetry::ServiceLabel;

fn comparing(settings: &mut Settings) {
    settings.leaderless.compare_interval = Duration::from_secs(10);
}

/// Long enough for hash trees to be built and for a comparison to begin and end.
const A_COMPARISON: Duration = Duration::from_secs(15);

/// Writes `count` keys, each through a node of its own turn.
async fn put_many(cluster: &Cluster, through: &[u16], from: usize, count: usize) {
    for number in from..from + count {
        let node = through[number % through.len()];
        cluster.put(node, &format!("key-{number}"), "value").await;
    }
}

/// What nodes hold differently, of the first `count` keys.
fn differing(cluster: &Cluster, count: usize) -> Vec<String> {
    let held = |id: u16, text: &str| cluster.held(id, text);
    let named = (0..count).map(|number| format!("key-{number}"));
    let differs = |text: &String| {
        let ids: Vec<u16> = cluster.running.keys().map(|node| node.0).collect();
        let holders = ids.into_iter().filter(|id| {
            cluster.node(*id).leaderless.core.view().holds(NodeId(*id), key(text).partition())
        });
        let all: Vec<_> = holders.map(|id| held(id, text)).collect();
        all.windows(2).any(|pair| pair[0] != pair[1])
    };
    named.filter(differs).collect()
}

fn sum(cluster: &Cluster, count: fn(&Metrics) -> u64) -> u64 {
    cluster.running.values().map(|node| count(&node.metrics)).sum()
}

fn repairs(cluster: &Cluster) -> u64 {
    sum(cluster, |metrics| metrics.comparison_repairs.get())
}

fn questions(cluster: &Cluster) -> u64 {
    sum(cluster, |metrics| {
        let label = ServiceLabel { service: Service::Compare.as_str() };
        metrics.peer_messages_sent.get_or_create(&label).get()
    })
}

#[test]
fn a_replica_that_was_cut_off_becomes_equal_without_a_read() {
    in_a_paused_world(async {
        let cluster = Cluster::start_with(3, 1, comparing).await;
        put_many(&cluster, &[1, 2, 3], 0, 100).await;
        cluster.isolate(3);
        cluster.sleep_ms(2_500).await;
        put_many(&cluster, &[1, 2], 50, 300).await;
        for number in 0..20 {
            cluster.delete(1, &format!("key-{number}")).await;
        }
        assert!(differing(&cluster, 350).len() >= 300);
        cluster.plan.heal();
        cluster.clock.sleep(A_COMPARISON).await;
        assert_eq!(differing(&cluster, 350), Vec::<String>::new());
        assert_eq!(sum(&cluster, |metrics| metrics.read_repairs.get()), 0, "no read helped");
        assert_eq!(cluster.get(3, "key-7").await, None, "what was deleted stays so");
        assert_eq!(cluster.get(3, "key-349").await, Some("value".to_owned()));
    });
}

#[test]
fn what_only_the_replica_that_was_cut_off_has_comes_to_the_others() {
    in_a_paused_world(async {
        for alone in [1, 3] {
            let cluster = Cluster::start_with(3, 2, comparing).await;
            for other in (1..=3).filter(|other| *other != alone) {
                cluster.lose_requests(alone, other);
            }
            cluster.try_put(alone, "key-0", "new").await.expect_err("an unknown outcome");
            cluster.plan.heal();
            cluster.clock.sleep(A_COMPARISON).await;
            assert_eq!(differing(&cluster, 1), Vec::<String>::new(), "node {alone}");
            assert_eq!(shown(cluster.held(2, "key-0")), Some("new".to_owned()));
        }
    });
}

#[test]
fn a_few_keys_among_many_are_found_with_few_messages() {
    in_a_paused_world(async {
        let cluster = Cluster::start_with(3, 3, comparing).await;
        put_many(&cluster, &[1, 2, 3], 0, 3_000).await;
        cluster.clock.sleep(A_COMPARISON).await;
        let equal = questions(&cluster);
        cluster.clock.sleep(Duration::from_secs(60)).await;
        let idle = questions(&cluster) - equal;
        // Three pairs, a question and an answer each time.
        assert!((20..=44).contains(&idle), "{idle} messages in a minute of comparing equals");
        cluster.lose_requests(1, 2);
        cluster.lose_requests(3, 2);
        for number in [5, 600, 2_999] {
            cluster.put(1, &format!("key-{number}"), "newer").await;
        }
        cluster.plan.heal();
        let before = questions(&cluster);
        cluster.clock.sleep(A_COMPARISON * 2).await;
        assert_eq!(differing(&cluster, 3_000), Vec::<String>::new());
        let spent = questions(&cluster) - before;
        assert!(spent <= 2 * 40, "{spent} messages for three keys");
        assert!((3..=6).contains(&repairs(&cluster)), "{} repairs", repairs(&cluster));
    });
}

#[test]
fn writes_under_way_cause_no_repair() {
    in_a_paused_world(async {
        fn often(settings: &mut Settings) {
            settings.leaderless.compare_interval = Duration::from_millis(1_000);
        }
        let cluster = Cluster::start_with(3, 4, often).await;
        for round in 0..600 {
            let node = 1 + round % 3;
            cluster.put(node, &format!("key-{}", round % 40), &format!("{round}")).await;
            cluster.sleep_ms(20).await;
        }
        assert!(sum(&cluster, |metrics| metrics.comparisons.get()) >= 10, "it compared all along");
        assert_eq!(repairs(&cluster), 0);
    });
}

#[test]
fn clocks_that_disagree_delay_a_repair_and_do_not_prevent_it() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start_with(3, 5, comparing).await;
        // What node 3 stamps is from the future, to both others, and too far to be taken for the time.
        cluster.set_skew_ms(3, 3_600_000);
        cluster.lose_requests(3, 1);
        cluster.put(3, "key-0", "new").await;
        cluster.sleep_ms(2_500).await;
        cluster.plan.heal();
        let ahead = cluster.held(3, "key-0").expect("it has it").version;
        assert!(ahead > cluster.node(1).leaderless.core.ceiling.now(), "it would be no test");
        cluster.clock.sleep(A_COMPARISON * 2).await;
        assert_eq!(differing(&cluster, 1), Vec::<String>::new());
    });
}

#[test]
fn large_records_are_repaired_without_filling_the_queue_to_the_peer() {
    in_a_paused_world(async {
        for (gives, lacks) in [(1, 3), (3, 1)] {
            let cluster = Cluster::start_with(3, 8, comparing).await;
            cluster.isolate(lacks);
            cluster.sleep_ms(100).await;
            let value = "x".repeat(500_000);
            for number in 0..100 {
                cluster.put(gives, &format!("key-{number}"), &value).await;
            }
            cluster.plan.heal();
            cluster.clock.sleep(A_COMPARISON * 2).await;
            assert_eq!(differing(&cluster, 100), Vec::<String>::new(), "node {lacks}");
        }
    });
}

#[test]
fn a_row_that_changed_by_itself_is_counted_within_a_day() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 9).await;
        let first = (0..).map(|number| format!("key-{number}"));
        let mut first = first.filter(|text| key(text).partition() == Partition(0));
        let text = first.next().expect("a key of the first partition");
        cluster.put(1, &text, "good").await;
        cluster.settle().await;
        let core = &cluster.node(2).leaderless.core;
        let held = cluster.held(2, &text).expect("a record");
        let content = Content::Value {
            bytes: Bytes::from_static(b"rots"),
            content_type: None,
            expires_at_ms: None,
        };
        let mut rotten = crate::storage::table::TableBatch::default();
        let record = encoding::encode(&Record { version: held.version, content });
        rotten.put(rows::data_row(&key(&text)), record);
        core.table.apply(rotten).expect("applies");
        cluster.clock.sleep(Duration::from_secs(330)).await;
        assert_eq!(cluster.node(2).metrics.damaged_partitions.get(), 1);
        assert_eq!(cluster.node(1).metrics.damaged_partitions.get(), 0);
    });
}

#[test]
fn a_node_that_was_down_is_brought_up_to_date_soon_after_its_start() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start_with(5, 6, comparing).await;
        put_many(&cluster, &[1, 2, 3], 0, 200).await;
        cluster.crash(4);
        cluster.sleep_ms(100).await;
        put_many(&cluster, &[1, 2, 3, 5], 100, 300).await;
        cluster.start_node(4);
        cluster.clock.sleep(Duration::from_secs(8)).await;
        assert_eq!(differing(&cluster, 400), Vec::<String>::new());
    });
}

#[test]
fn replicas_that_are_not_to_be_compared_are_not() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 7).await;
        cluster.lose_requests(1, 3);
        cluster.put(1, "key-0", "new").await;
        cluster.plan.heal();
        cluster.clock.sleep(A_COMPARISON * 4).await;
        assert_eq!(differing(&cluster, 1), ["key-0"]);
        assert_eq!(questions(&cluster), 0);
    });
}

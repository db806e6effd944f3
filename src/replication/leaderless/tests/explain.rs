//! Explaining a key: what it tells of replicas, and that it changes none of them.

use super::*;
use crate::replication::explain::Explanation;

async fn explain(cluster: &Cluster, id: u16, text: &str) -> Explanation {
    let node = &cluster.node(id).leaderless;
    node.explain(key(text), cluster.options()).await.expect("an explanation")
}

fn behind(told: &Explanation) -> Vec<Option<bool>> {
    told.replicas.iter().map(|view| told.is_behind(view)).collect()
}

#[test]
fn a_replica_that_missed_a_write_is_named_and_left_as_it_is() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 1).await;
        cluster.put(1, "a", "old").await;
        cluster.sleep_ms(100).await;
        cluster.lose_requests(1, 3);
        cluster.put(1, "a", "new").await;
        cluster.sleep_ms(2_500).await;
        cluster.plan.heal();
        cluster.settle().await;
        let before = cluster.held(3, "a");
        for asked in 1..=3 {
            let told = explain(&cluster, asked, "a").await;
            assert_eq!(behind(&told), [Some(false), Some(false), Some(true)], "node {asked}");
            assert!(told.lag_ms(&told.replicas[2]).is_some_and(|lag| lag >= 100));
            let newest = told.newest().map(|head| head.version);
            // Two of three have it: every quorum meets it.
            assert_eq!(told.reads[0].may_return, [newest]);
            let own = told.replicas[usize::from(asked) - 1].holding.clone().expect("its own");
            assert_eq!(told.reads[1].may_return, [own.head.map(|head| head.version)]);
        }
        assert_eq!(cluster.held(3, "a"), before, "nothing is repaired by it");
    });
}

#[test]
fn what_one_replica_alone_has_may_or_may_not_be_read() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 2).await;
        cluster.lose_requests(1, 2);
        cluster.lose_requests(1, 3);
        cluster.try_put(1, "a", "new").await.expect_err("an unknown outcome");
        cluster.plan.heal();
        cluster.settle().await;
        let told = explain(&cluster, 2, "a").await;
        let newest = told.newest().map(|head| head.version);
        assert_eq!(told.reads[0].may_return, [newest, None]);
        assert_eq!(told.reads[1].may_return, [None], "node 2 has nothing");
    });
}

#[test]
fn a_replica_that_is_down_is_named_with_the_reason() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 3).await;
        cluster.put(1, "a", "1").await;
        cluster.sleep_ms(100).await;
        cluster.crash(2);
        cluster.sleep_ms(50).await;
        let told = explain(&cluster, 1, "a").await;
        assert_eq!(behind(&told), [Some(false), None, Some(false)]);
        assert!(told.replicas[1].holding.as_ref().is_err_and(|error| error.contains("node 2")));
        assert_eq!(told.reads[0].error, None, "two are enough");
        cluster.crash(3);
        cluster.sleep_ms(50).await;
        let told = explain(&cluster, 1, "a").await;
        let error = told.reads[0].error.clone().expect("too few");
        assert_eq!(error, "1 of the 2 replicas needed answer");
        assert_eq!(told.reads[1].error, None, "its own replica is there");
    });
}

#[test]
fn a_node_without_a_replica_asks_those_that_have_one() {
    in_a_paused_world(async {
        let cluster = Cluster::start(5, 4).await;
        cluster.put(1, "a", "1").await;
        cluster.sleep_ms(100).await;
        for asked in 1..=5 {
            let told = explain(&cluster, asked, "a").await;
            assert_eq!(told.replicas.len(), 3, "node {asked}");
            assert_eq!(behind(&told), [Some(false); 3]);
            assert_eq!(told.reads[1].error, None);
        }
    });
}

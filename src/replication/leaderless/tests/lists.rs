//! Lists: pages of all replicas, merged.

use super::*;

fn named(number: u32) -> String {
    format!("key-{number:04}")
}

#[test]
fn a_list_shows_every_live_key_once_in_order_through_every_node() {
    in_a_paused_world(async {
        let cluster = Cluster::start(5, 1).await;
        for number in 0..120 {
            cluster.put((number % 5 + 1) as u16, &named(number), "v").await;
        }
        for number in (0..120).step_by(3) {
            cluster.delete((number % 4 + 1) as u16, &named(number)).await;
        }
        let live: Vec<String> = (0..120).filter(|number| number % 3 != 0).map(named).collect();
        for id in 1..=5 {
            let (mut seen, mut from, mut pages) = (Vec::new(), Bound::Start, 0);
            loop {
                let page = List { from, limit: 7, ..list() };
                let options = cluster.options();
                let page = cluster.node(id).leaderless.list(page, options).await.expect("a page");
                assert_eq!(page.level, EffectiveLevel::Quorum { r: 2, w: 2, n: 3 });
                seen.extend(page.items.iter().map(|(key, _)| key.as_str().to_owned()));
                pages += 1;
                let Some(next) = page.next else { break };
                from = next;
            }
            assert_eq!(seen, live, "through node {id}");
            assert!(pages >= 80 / 7);
        }
    });
}

#[test]
fn a_list_shows_what_a_replica_that_was_away_does_not_have_and_repairs_it() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 2).await;
        for number in 0..40 {
            cluster.put(1, &named(number), "old").await;
        }
        cluster.sleep_ms(100).await;
        cluster.crash(3);
        cluster.sleep_ms(50).await;
        for number in 0..10 {
            cluster.delete(1, &named(number)).await;
        }
        for number in 40..80 {
            cluster.put(2, &named(number), "new").await;
        }
        cluster.start_node(3);
        cluster.settle().await;
        // Node 3 is first to answer itself, and has none of what it missed.
        let expected: Vec<String> = (10..80).map(named).collect();
        assert_eq!(cluster.keys(3, list()).await, expected);
        cluster.sleep_ms(100).await;
        for number in 40..80 {
            let held = cluster.held(3, &named(number));
            assert_eq!(shown(held), Some("new".to_owned()), "{number} is repaired");
        }
        assert!(cluster.held(3, &named(0)).expect("a row").is_tombstone());
    });
}

#[test]
fn a_list_settles_what_only_one_replica_has_before_it_shows_it() {
    in_a_paused_world(async {
        for seed in 0..5 {
            let mut cluster = Cluster::start(3, seed).await;
            cluster.put(1, "a", "everywhere").await;
            cluster.lose_requests(1, 2);
            cluster.lose_requests(1, 3);
            cluster.try_put(1, "b", "on one").await.expect_err("an unknown outcome");
            cluster.plan.heal();
            cluster.settle().await;
            assert_eq!(cluster.keys(1, list()).await, ["a", "b"]);
            cluster.crash(1);
            cluster.sleep_ms(50).await;
            assert_eq!(cluster.keys(2, list()).await, ["a", "b"], "seed {seed}");
        }
    });
}

#[test]
fn a_list_needs_r_replicas_of_every_partition_and_says_where_there_are_fewer() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(5, 3).await;
        cluster.put(1, "a", "one").await;
        cluster.crash(5);
        cluster.sleep_ms(50).await;
        assert_eq!(cluster.keys(1, list()).await, ["a"]);
        cluster.crash(4);
        cluster.crash(3);
        cluster.sleep_ms(50).await;
        let error = cluster.node(1).leaderless.list(list(), cluster.options()).await;
        let error = error.expect_err("two of five nodes do not cover two of three replicas");
        assert!(matches!(error, ReadError::Refused(Refusal::NotEnoughReplicas { .. })));
    });
}

#[test]
fn a_local_list_shows_the_own_rows_alone() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 4).await;
        cluster.lose_requests(1, 3);
        cluster.put(1, "a", "one").await;
        cluster.delete(1, "b").await;
        cluster.plan.heal();
        let options = || RequestOptions { level: Some(Level::Local), ..cluster.options() };
        let page = cluster.node(1).leaderless.list(list(), options()).await.expect("a page");
        assert_eq!((page.items.len(), page.level), (1, EffectiveLevel::Local));
        let page = cluster.node(3).leaderless.list(list(), options()).await.expect("a page");
        assert!(page.items.is_empty());
    });
}

#[test]
fn folded_prefixes_and_bounds_work_over_merged_pages() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 5).await;
        for text in ["a/1", "a/2", "b", "c/1", "d"] {
            cluster.put(1, text, "v").await;
        }
        cluster.delete(2, "c/1").await;
        let folded = List { delimiter: Some("/".to_owned()), ..list() };
        let node = &cluster.node(2).leaderless;
        let page = node.list(folded, cluster.options()).await.expect("a page");
        assert_eq!(page.prefixes, ["a/"]);
        let keys: Vec<&str> = page.items.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["b", "d"]);
        assert_eq!(cluster.keys(3, List { prefix: "a/".to_owned(), ..list() }).await.len(), 2);
        let after = List { from: Bound::AfterPrefix("a/".to_owned()), ..list() };
        assert_eq!(cluster.keys(1, after).await, ["b", "d"]);
    });
}

#[test]
fn pages_are_cut_by_bytes_and_lose_nothing() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 6).await;
        let large = "x".repeat(700 << 10);
        for number in 0..12 {
            cluster.put(1, &named(number), &large).await;
        }
        let core = &cluster.node(1).leaderless.core;
        let request =
            messages::ListRequest { prefix: String::new(), from: Bound::Start, limit: 1_000 };
        let page = core.own_page(request).await.expect("a page");
        assert_eq!((page.rows.len(), page.end), (6, false), "4 MiB and no whole row more");
        let (mut seen, mut from) = (0, Bound::Start);
        loop {
            let page = List { from, ..list() };
            let node = &cluster.node(2).leaderless;
            let page = node.list(page, cluster.options()).await.expect("a page");
            seen += page.items.len();
            let Some(next) = page.next else { break };
            from = next;
        }
        assert_eq!(seen, 12);
    });
}

#[test]
fn a_local_list_on_a_node_without_some_partitions_shows_their_keys_too() {
    in_a_paused_world(async {
        let cluster = Cluster::start(5, 30).await;
        let names: Vec<String> = (0..60).map(named).collect();
        for name in &names {
            cluster.put(1, name, "v").await;
        }
        cluster.sleep_ms(1_000).await;
        assert!(names.iter().any(|name| cluster.held(2, name).is_none()));
        let options = RequestOptions { level: Some(Level::Local), ..cluster.options() };
        let page = cluster.node(2).leaderless.list(list(), options).await.expect("a page");
        let seen: Vec<&str> = page.items.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(seen, names);
        assert_eq!(page.level, EffectiveLevel::Local);
    });
}

//! Reads: what they repair before they answer, and what they say where they cannot.

use super::*;

#[test]
fn a_replica_that_hangs_is_asked_last_however_quick_it_was() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 91).await;
        for number in 0..60 {
            cluster.put(1, &format!("known-{number}"), "1").await;
        }
        let core = &cluster.node(1).leaderless.core;
        let last_asked = || core.slowest_first(&[NodeId(1), NodeId(2), NodeId(3)])[0];
        let standing = |id: u16| {
            let members = cluster.node(1).leaderless.status().members;
            members.iter().find(|member| member.id == NodeId(id)).expect("a member").standing
        };
        // By what answers took alone, the third comes before the second.
        core.peers.learn_read(NodeId(2), 900);
        core.peers.learn_read(NodeId(3), 100);
        assert_eq!((last_asked(), standing(3)), (NodeId(2), Standing::Normal));
        cluster.node(3).runtime.pause();
        cluster.put(1, "asked", "1").await;
        cluster.sleep_ms(200).await;
        assert_eq!((last_asked(), standing(3)), (NodeId(3), Standing::Suspected));
        cluster.node(3).runtime.resume();
        cluster.sleep_ms(200).await;
        assert_eq!((last_asked(), standing(3)), (NodeId(2), Standing::Normal));
    });
}

fn at(cluster: &Cluster, r: Option<u16>, w: Option<u16>) -> RequestOptions {
    RequestOptions { r, w, ..cluster.options() }
}

/// Puts `value` where only the replica of node 1 has it.
async fn put_on_one_alone(cluster: &Cluster, text: &str, value: &str) {
    cluster.lose_requests(1, 2);
    cluster.lose_requests(1, 3);
    cluster.try_put(1, text, value).await.expect_err("an unknown outcome");
    cluster.plan.heal();
    cluster.settle().await;
}

#[test]
fn a_replica_that_missed_a_write_is_repaired_before_the_read_is_answered() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 1).await;
        cluster.put(1, "stale", "old").await;
        cluster.sleep_ms(100).await;
        cluster.lose_requests(1, 3);
        cluster.put(1, "stale", "new").await;
        cluster.put(1, "missing", "new").await;
        cluster.sleep_ms(2_500).await;
        assert_eq!(shown(cluster.held(3, "stale")), Some("old".to_owned()));
        assert_eq!(cluster.held(3, "missing"), None);
        for text in ["stale", "missing"] {
            // Node 3 asks itself first, so its own replica is among those found behind.
            assert_eq!(cluster.get(3, text).await, Some("new".to_owned()));
            assert_eq!(shown(cluster.held(3, text)), Some("new".to_owned()), "{text}");
        }
        assert_eq!(cluster.node(3).metrics.read_repairs.get(), 2);
    });
}

#[test]
fn what_a_read_returned_survives_the_only_replica_that_had_it() {
    in_a_paused_world(async {
        for seed in 0..10 {
            let mut cluster = Cluster::start(3, seed).await;
            cluster.put(2, "a", "old").await;
            put_on_one_alone(&cluster, "a", "new").await;
            assert_eq!(cluster.get(1, "a").await, Some("new".to_owned()));
            cluster.crash(1);
            cluster.sleep_ms(50).await;
            assert_eq!(cluster.get(2, "a").await, Some("new".to_owned()), "seed {seed}");
            assert_eq!(cluster.get(3, "a").await, Some("new".to_owned()), "seed {seed}");
        }
    });
}

#[test]
fn a_read_that_cannot_bring_its_value_to_a_write_quorum_fails_instead() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 2).await;
        put_on_one_alone(&cluster, "a", "new").await;
        // The others answer reads, but their disks take no write within a request's time.
        for id in [2, 3] {
            cluster.disks[&NodeId(id)].set_sync_delay(Duration::from_secs(60));
        }
        let error = cluster.try_get(1, "a").await.expect_err("no write quorum holds it");
        assert!(matches!(
            error,
            ReadError::Refused(Refusal::NotEnoughReplicas { needed: 2, answered: 1, .. })
        ));
        // A client that asks for less is told that it got less.
        let node = &cluster.node(1).leaderless;
        let read = node.read(key("a"), at(&cluster, Some(1), Some(1))).await.expect("a read");
        assert_eq!(shown(read.record), Some("new".to_owned()));
        assert_eq!(read.level, EffectiveLevel::Eventual { r: 1, w: 1, n: 3 });
    });
}

#[test]
fn with_repair_off_reads_repair_nothing_and_say_so() {
    in_a_paused_world(async {
        let cluster =
            Cluster::start_with(3, 3, |s| s.leaderless.read_repair = ReadRepair::Off).await;
        put_on_one_alone(&cluster, "a", "new").await;
        for _ in 0..50 {
            let read = cluster.try_get(1, "a").await.expect("a read");
            assert_eq!(shown(read.record), Some("new".to_owned()));
            assert_eq!(read.level, EffectiveLevel::Eventual { r: 2, w: 2, n: 3 });
        }
        cluster.sleep_ms(1_000).await;
        assert_eq!(cluster.held(2, "a"), None);
        assert_eq!(cluster.node(1).metrics.read_repairs.get(), 0);
    });
}

#[test]
fn a_replica_that_was_away_does_not_bring_a_deleted_key_back() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 4).await;
        cluster.put(1, "a", "one").await;
        cluster.sleep_ms(100).await;
        cluster.crash(3);
        cluster.sleep_ms(50).await;
        let deleted = cluster.delete(1, "a").await;
        cluster.start_node(3);
        cluster.settle().await;
        assert_eq!(shown(cluster.held(3, "a")), Some("one".to_owned()));
        assert_eq!(cluster.get(3, "a").await, None);
        let tombstone = Record { version: deleted.version, content: Content::Tombstone };
        assert_eq!(cluster.held(3, "a"), Some(tombstone));
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await, None);
        }
    });
}

#[test]
fn reads_alone_find_every_stale_replica() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 5).await;
        cluster.lose_requests(1, 3);
        cluster.put(1, "a", "one").await;
        cluster.plan.heal();
        let mut reads = 0;
        while cluster.held(3, "a").is_none() {
            assert_eq!(cluster.get(1, "a").await, Some("one".to_owned()));
            cluster.sleep_ms(20).await;
            reads += 1;
            assert!(reads < 200, "one read in ten asks all replicas");
        }
    });
}

#[test]
fn a_silent_replica_delays_a_read_by_the_hedge_alone_and_only_at_first() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 6).await;
        cluster.put(1, "a", "one").await;
        for silent in [2, 3] {
            cluster.plan.heal();
            cluster.lose_requests(1, silent);
            let mut slow = 0;
            for _ in 0..20 {
                let began = cluster.clock.now();
                assert_eq!(cluster.get(1, "a").await, Some("one".to_owned()));
                let took = cluster.clock.now().duration_since(began);
                assert!(took < Duration::from_millis(100), "{took:?}");
                slow += u32::from(took > Duration::from_millis(15));
            }
            assert!(slow <= 3, "{slow} of 20 reads waited for the silent node {silent}");
        }
    });
}

#[test]
fn the_level_of_a_read_follows_its_quorums_and_too_few_replicas_are_an_error() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 7).await;
        cluster.put(1, "a", "one").await;
        let expected = [
            (1, 1, EffectiveLevel::Eventual { r: 1, w: 1, n: 3 }),
            (2, 1, EffectiveLevel::Eventual { r: 2, w: 1, n: 3 }),
            // Others write to two replicas: one read need not meet them.
            (1, 3, EffectiveLevel::Eventual { r: 1, w: 3, n: 3 }),
            // One replica is enough for the answer, and others may be read from next.
            (3, 1, EffectiveLevel::Eventual { r: 3, w: 1, n: 3 }),
            (3, 3, EffectiveLevel::Quorum { r: 3, w: 3, n: 3 }),
            (2, 2, EffectiveLevel::Quorum { r: 2, w: 2, n: 3 }),
        ];
        for (r, w, level) in expected {
            let node = &cluster.node(1).leaderless;
            let read = node.read(key("a"), at(&cluster, Some(r), Some(w))).await.expect("a read");
            assert_eq!((shown(read.record), read.level), (Some("one".to_owned()), level));
            assert!(read.cost.acks >= r);
        }
        cluster.crash(2);
        cluster.sleep_ms(50).await;
        let node = &cluster.node(1).leaderless;
        let error =
            node.read(key("a"), at(&cluster, Some(3), None)).await.expect_err("one is down");
        assert!(matches!(
            error,
            ReadError::Refused(Refusal::NotEnoughReplicas { needed: 3, answered: 2, .. })
        ));
        for (r, w, name) in [(Some(4), None, "r"), (Some(0), None, "r"), (None, Some(9), "w")] {
            let error = node.read(key("a"), at(&cluster, r, w)).await.expect_err("bad");
            let ReadError::Refused(Refusal::BadParameter { parameter, .. }) = error else {
                panic!("{error:?}");
            };
            assert_eq!(parameter, name);
        }
    });
}

#[test]
fn levels_that_leaderless_mode_does_not_have_are_refused_and_never_imitated() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 8).await;
        let node = &cluster.node(1).leaderless;
        let asked = |level| RequestOptions { level: Some(level), ..cluster.options() };
        let error = node.read(key("a"), asked(Level::Linearizable)).await.expect_err("501");
        assert!(matches!(error, ReadError::Refused(Refusal::NotImplemented { .. })));
        let error = node.list(list(), asked(Level::Linearizable)).await.expect_err("501");
        assert!(matches!(error, ReadError::Refused(Refusal::NotImplemented { .. })));
        let error = node.read(key("a"), asked(Level::Lease)).await.expect_err("400");
        assert!(matches!(error, ReadError::Refused(Refusal::LevelNotOffered { .. })));
    });
}

#[test]
fn a_local_read_shows_the_own_replica_and_elsewhere_the_nearest() {
    in_a_paused_world(async {
        let cluster = Cluster::start(5, 9).await;
        cluster.put(1, "a", "one").await;
        cluster.sleep_ms(100).await;
        let replicas =
            layout::Layout::new((1..=5).map(NodeId), 3).replicas_of(key("a").partition()).to_vec();
        for id in 1..=5 {
            let own = replicas.contains(&NodeId(id));
            assert_eq!(cluster.held(id, "a").is_some(), own, "node {id}");
            let options = RequestOptions { level: Some(Level::Local), ..cluster.options() };
            let read = cluster.node(id).leaderless.read(key("a"), options).await.expect("a read");
            assert_eq!(shown(read.record), Some("one".to_owned()));
            assert_eq!((read.level, read.cost.acks), (EffectiveLevel::Local, 1));
            assert_eq!(read.cost.messages, if own { 0 } else { 2 });
            assert_eq!(cluster.get(id, "a").await, Some("one".to_owned()));
        }
    });
}

#[test]
fn status_tells_of_members_and_the_control_plane() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 10).await;
        cluster.crash(3);
        cluster.sleep_ms(50).await;
        let status = cluster.node(1).leaderless.status();
        assert_eq!((status.epoch, status.node), (FOUNDING_EPOCH, NodeId(1)));
        assert_eq!((status.leader, status.term), (Some(NodeId(1)), 3));
        let standings: Vec<Standing> =
            status.members.iter().map(|member| member.standing).collect();
        assert_eq!(standings, [Standing::Normal, Standing::Normal, Standing::Unreachable]);
        assert_eq!(status.members[1].client_address.as_deref(), Some("client-2"));
        assert!(status.members.iter().all(|member| member.role == "replica"));
    });
}

#[test]
fn a_hedge_waits_for_what_the_slowest_that_was_asked_usually_takes() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 41).await;
        let core = &cluster.node(1).leaderless.core;
        let asked = [NodeId(2), NodeId(3)];
        assert_eq!(core.hedge_delay(&asked), coordinator_read::HEDGE_DELAY, "nothing is known");
        let learn = |node, took_us| {
            (0..20_000).for_each(|_| core.peers.learn_read(NodeId(node), took_us));
        };
        learn(2, 5_000);
        learn(3, 90_000);
        let waits = |asked: &[NodeId]| core.hedge_delay(asked).as_millis();
        assert!((90..=113).contains(&waits(&asked)));
        assert!((5..=6).contains(&waits(&asked[..1])));
        learn(2, 10);
        learn(3, 5_000_000);
        assert_eq!((waits(&asked[..1]), waits(&asked)), (2, 200));
    });
}

#[test]
fn repair_in_the_background_answers_first_and_repairs_all_the_same() {
    in_a_paused_world(async {
        let cluster =
            Cluster::start_with(3, 3, |s| s.leaderless.read_repair = ReadRepair::Background).await;
        put_on_one_alone(&cluster, "a", "new").await;
        let read = cluster.try_get(1, "a").await.expect("a read");
        assert_eq!(shown(read.record), Some("new".to_owned()));
        assert_eq!(read.level, EffectiveLevel::Eventual { r: 2, w: 2, n: 3 });
        for _ in 0..50 {
            cluster.try_get(1, "a").await.expect("a read");
            cluster.sleep_ms(20).await;
        }
        for id in 1..=3 {
            assert_eq!(shown(cluster.held(id, "a")), Some("new".to_owned()), "node {id}");
        }
    });
}

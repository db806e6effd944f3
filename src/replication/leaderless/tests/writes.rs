//! Writes: what their answers promise.

use super::*;
use crate::types::Outcome;

fn refusal(error: WriteError) -> Refusal {
    match error {
        WriteError::Refused(refusal) => refusal,
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[test]
fn any_node_takes_a_write_and_any_other_shows_it() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 1).await;
        let answer = cluster.put(1, "a", "one").await;
        assert_eq!(answer.level, EffectiveLevel::Quorum { r: 2, w: 2, n: 3 });
        assert_eq!((answer.superseded_by, answer.cost.acks), (None, 2));
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await, Some("one".to_owned()));
        }
        let newer = cluster.put(2, "a", "two").await;
        assert!(newer.version > answer.version);
        assert_eq!(cluster.get(3, "a").await, Some("two".to_owned()));
        let deleted = cluster.delete(3, "a").await;
        let read = cluster.try_get(1, "a").await.expect("a read");
        let tombstone = Record { version: deleted.version, content: Content::Tombstone };
        assert_eq!(read.record, Some(tombstone));
        assert_eq!(cluster.try_get(1, "never").await.expect("a read").record, None);
    });
}

#[test]
fn reads_and_writes_go_on_while_one_node_is_down_whichever_it_is() {
    in_a_paused_world(async {
        for down in 1..=3 {
            let mut cluster = Cluster::start(3, 2).await;
            cluster.put(down, "before", "here").await;
            cluster.crash(down);
            cluster.sleep_ms(50).await;
            for id in (1..=3).filter(|id| *id != down) {
                assert_eq!(cluster.get(id, "before").await, Some("here".to_owned()));
                cluster.put(id, "during", "too").await;
            }
            cluster.start_node(down);
            cluster.settle().await;
            assert_eq!(cluster.get(down, "during").await, Some("too".to_owned()));
        }
    });
}

#[test]
fn where_too_few_replicas_are_connected_the_write_is_refused_and_never_shows_up() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 3).await;
        cluster.isolate(1);
        let error = cluster.try_put(1, "a", "one").await.expect_err("too few replicas");
        assert_eq!(error.outcome(), Outcome::NotApplied);
        let expected = |refusal: &Refusal| {
            matches!(refusal, Refusal::NotEnoughReplicas { needed: 2, answered: 1, .. })
        };
        assert!(expected(&refusal(error)));
        assert!(cluster.node(1).leaderless.ready().is_err());
        cluster.put(2, "b", "the others go on").await;
        cluster.plan.heal();
        cluster.settle().await;
        assert!(cluster.node(1).leaderless.ready().is_ok());
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await, None);
            assert_eq!(cluster.held(id, "a"), None);
        }
    });
}

#[test]
fn where_replicas_fall_silent_the_outcome_is_unknown_and_the_write_shows_whole_or_not_at_all() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 4).await;
        cluster.lose_requests(1, 2);
        cluster.lose_requests(1, 3);
        let error = cluster.try_put(1, "a", "one").await.expect_err("silence");
        assert_eq!(error.outcome(), Outcome::Unknown);
        cluster.plan.heal();
        cluster.settle().await;
        assert_eq!(cluster.get(1, "a").await, Some("one".to_owned()));
        // Once one reader has seen it, all do.
        assert_eq!(cluster.get(2, "a").await, Some("one".to_owned()));
        assert_eq!(cluster.get(3, "a").await, Some("one".to_owned()));
    });
}

#[test]
fn where_every_replica_dies_with_the_write_under_way_the_outcome_is_unknown() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(5, 15).await;
        let replicas =
            layout::Layout::new((1..=5).map(NodeId), 3).replicas_of(key("a").partition()).to_vec();
        let coordinator = (1..=5).find(|id| !replicas.contains(&NodeId(*id))).expect("one of two");
        cluster.put(coordinator, "warm", "up").await;
        for node in &replicas {
            cluster.disks[node].set_sync_delay(Duration::from_millis(200));
        }
        let node = cluster.node(coordinator).leaderless.clone();
        let options = cluster.options();
        let write = cluster.clock.spawn(async move { node.write(put("a", "one"), options).await });
        cluster.sleep_ms(50).await;
        let began = cluster.clock.now();
        replicas.iter().for_each(|node| cluster.crash(node.0));
        let error = write.await.expect("no panic").expect_err("nobody answered");
        assert_eq!(error.outcome(), Outcome::Unknown);
        let waited = cluster.clock.now().duration_since(began);
        assert!(waited < Duration::from_secs(1), "said by broken links, not by the deadline");
    });
}

#[test]
fn a_write_through_a_slow_clock_is_told_that_it_was_superseded_and_the_next_one_wins() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 5).await;
        cluster.set_skew_ms(1, 400);
        cluster.lose_requests(1, 2);
        let ahead = cluster.put(1, "a", "ahead").await;
        cluster.plan.heal();
        let lost = cluster.put(2, "a", "lost").await;
        assert_eq!(lost.superseded_by, Some(ahead.version));
        assert_eq!(cluster.node(2).metrics.writes_superseded.get(), 1);
        assert_eq!(cluster.get(3, "a").await, Some("ahead".to_owned()));
        let next = cluster.put(2, "a", "next").await;
        assert_eq!(next.superseded_by, None);
        assert!(next.version > ahead.version);
        assert_eq!(cluster.get(1, "a").await, Some("next".to_owned()));
    });
}

#[test]
fn the_slower_replica_is_written_in_the_background() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 6).await;
        let slow = Fault { delay: Duration::from_millis(500), ..Fault::default() };
        cluster.plan.set(NodeId(1), NodeId(3), slow);
        let answer = cluster.put(1, "a", "one").await;
        assert_eq!(answer.cost.acks, 2);
        let stragglers = &cluster.node(1).leaderless.core.stragglers;
        assert_eq!((cluster.held(3, "a"), stragglers.count()), (None, 1));
        cluster.sleep_ms(700).await;
        assert!(cluster.held(3, "a").is_some());
        assert_eq!(stragglers.count(), 0);
        assert_eq!(cluster.node(1).metrics.stragglers_finished.get(), 1);
    });
}

#[test]
fn a_write_whose_client_goes_away_runs_to_its_end_at_every_replica() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 7).await;
        // The first write stores the ceiling, so that the second one is sent at its first poll.
        cluster.put(1, "warm", "up").await;
        cluster.sleep_ms(100).await;
        let write = cluster.node(1).leaderless.write(put("a", "one"), cluster.options());
        assert!(write.now_or_never().is_none(), "it has to wait for replicas");
        assert_eq!(cluster.node(1).leaderless.core.stragglers.count(), 3);
        cluster.sleep_ms(100).await;
        for id in 1..=3 {
            assert!(cluster.held(id, "a").is_some(), "node {id}");
        }
        assert_eq!(cluster.node(1).leaderless.core.stragglers.count(), 0);
    });
}

#[test]
fn too_many_stragglers_refuse_new_writes_until_they_end() {
    in_a_paused_world(async {
        let cluster = Cluster::start_with(3, 8, |s| s.leaderless.max_stragglers = 2).await;
        cluster.lose_requests(1, 3);
        cluster.put(1, "a", "one").await;
        cluster.put(1, "b", "two").await;
        let error = cluster.try_put(1, "c", "three").await.expect_err("too many stragglers");
        assert!(matches!(refusal(error), Refusal::Overloaded { .. }));
        cluster.sleep_ms(2_500).await;
        assert_eq!(cluster.node(1).metrics.stragglers_failed.get(), 2);
        cluster.put(1, "c", "three").await;
    });
}

#[test]
fn no_version_is_given_twice_when_the_clock_is_set_back_during_a_restart() {
    in_a_paused_world(async {
        for seed in 0..20 {
            let mut cluster = Cluster::start(3, seed).await;
            let mut given = Vec::new();
            for number in 0..50 {
                given.push(cluster.put(1, "a", &number.to_string()).await.version);
            }
            let elapsed = cluster.clock.random_below(40);
            cluster.sleep_ms(elapsed).await;
            cluster.crash(1);
            cluster.skews_ms.insert(NodeId(1), -(90 + seed as i64));
            cluster.start_node(1);
            // Not by replicas that tell it what they have: those links are not up yet.
            let restarted = &cluster.node(1).leaderless.core;
            let deadline = cluster.options().deadline;
            let mut next = restarted.ceiling.stamp(deadline).await;
            while next.is_err() {
                cluster.sleep_ms(50).await;
                next = restarted.ceiling.stamp(deadline).await;
            }
            let next = next.expect("a version");
            assert!(given.iter().all(|old| *old < next), "seed {seed}: {next}");
            given.push(next);
            given.sort();
            given.dedup();
            assert_eq!(given.len(), 51);
        }
    });
}

#[test]
fn a_clock_that_was_set_far_back_refuses_fresh_writes_and_nothing_else() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 9).await;
        cluster.put(1, "a", "one").await;
        cluster.set_skew_ms(1, -60_000);
        let error = cluster.try_put(1, "a", "two").await.expect_err("a broken clock");
        assert!(matches!(refusal(error), Refusal::ClockDrift { .. }));
        assert_eq!(cluster.get(1, "a").await, Some("one".to_owned()));
        cluster.put(2, "a", "three").await;
        cluster.sleep_ms(100).await;
        assert_eq!(shown(cluster.held(1, "a")), Some("three".to_owned()));
    });
}

#[test]
fn an_idle_node_stores_nothing() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 10).await;
        cluster.put(1, "a", "one").await;
        cluster.sleep_ms(1_000).await;
        let stored = cluster.node(1).metrics.log_records.get();
        cluster.sleep_ms(60_000).await;
        assert_eq!(cluster.node(1).metrics.log_records.get(), stored);
    });
}

#[test]
fn a_node_whose_disk_fails_takes_nothing_more_and_the_others_go_on() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 11).await;
        cluster.put(1, "a", "one").await;
        cluster.disks[&NodeId(1)].fail_next_sync();
        // Its own replica fails, the two others make the quorum.
        cluster.put(1, "a", "two").await;
        cluster.sleep_ms(50).await;
        let error = cluster.try_put(1, "a", "three").await.expect_err("a failed disk");
        assert!(matches!(refusal(error), Refusal::Storage { .. }));
        assert!(cluster.node(1).leaderless.ready().is_err());
        assert!(cluster.try_get(1, "a").await.is_err());
        assert_eq!(cluster.get(2, "a").await, Some("two".to_owned()));
        cluster.put(3, "a", "four").await;
    });
}

#[test]
fn a_node_that_stops_finishes_what_it_took_and_refuses_the_rest() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 12).await;
        cluster.put(1, "warm", "up").await;
        let taken = cluster.node(1).leaderless.write(put("a", "one"), cluster.options());
        assert!(taken.now_or_never().is_none());
        Replicator::shutdown(&*cluster.node(1).leaderless).await;
        Replicator::checkpoint(&*cluster.node(1).leaderless).await.expect("a last checkpoint");
        let error = cluster.try_put(1, "b", "two").await.expect_err("it stops");
        assert!(matches!(refusal(error), Refusal::NotReady { .. }));
        cluster.crash(1);
        cluster.start_node(1);
        assert_eq!(shown(cluster.held(1, "a")), Some("one".to_owned()));
    });
}

#[test]
fn what_a_write_cannot_be_is_said() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 13).await;
        let node = &cluster.node(1).leaderless;
        let options = cluster.options();
        let at = |level| RequestOptions { level: Some(level), ..options.clone() };
        let linearizable = node.write(put("a", "1"), at(Level::Linearizable)).await;
        let conditional = Write { condition: Some(Condition::Absent), ..put("a", "1") };
        let conditional = node.write(conditional, options.clone()).await;
        let mut named = put("a", "1");
        let name = "one".to_owned();
        named.retry = Some(crate::types::RetryKey::of(
            name,
            &named.key,
            &named.change,
            None,
            Duration::from_secs(1),
        ));
        let named = node.write(named, options.clone()).await;
        for result in [linearizable, conditional, named] {
            let refusal = refusal(result.expect_err("not implemented"));
            assert!(matches!(refusal, Refusal::NotImplemented { .. }), "{refusal:?}");
        }
        for level in [Level::Lease, Level::Local] {
            let error = node.write(put("a", "1"), at(level)).await.expect_err("not offered");
            assert!(matches!(refusal(error), Refusal::LevelNotOffered { .. }));
        }
        let bad = [(Some(1), None, "r"), (None, Some(0), "w"), (None, Some(4), "w")];
        for (r, w, name) in bad {
            let asked = RequestOptions { r, w, ..options.clone() };
            let error = node.write(put("a", "1"), asked).await.expect_err("a bad parameter");
            let refusal = refusal(error);
            assert!(
                matches!(refusal, Refusal::BadParameter { parameter, .. } if parameter == name)
            );
        }
        assert_eq!(cluster.held(1, "a"), None);
    });
}

#[test]
fn the_answer_names_the_quorums_that_were_waited_for() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 14).await;
        let node = &cluster.node(1).leaderless;
        let expected = [
            (1, EffectiveLevel::Eventual { r: 2, w: 1, n: 3 }),
            (2, EffectiveLevel::Quorum { r: 2, w: 2, n: 3 }),
            (3, EffectiveLevel::Quorum { r: 2, w: 3, n: 3 }),
        ];
        for (w, level) in expected {
            let options = RequestOptions { w: Some(w), ..cluster.options() };
            let answer = node.write(put("a", "1"), options).await.expect("a write");
            assert_eq!(answer.level, level);
            assert!(answer.cost.acks >= w);
        }
    });
}

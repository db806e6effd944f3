//! Reads at `lease`, and local reads that bound how stale they may be.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::reads::{asked, read_at, rounds, value, write};
use super::world::{World, at_level, in_a_world, ms, put, within};
use crate::error::{ReadError, Refusal, WriteError};
use crate::peer::Service;
use crate::planted::{self, Bug};
use crate::replication::{Cost, ReadAnswer, Replicator, RequestOptions};
use crate::types::{EffectiveLevel, Level};

async fn by_lease(world: &Arc<World>, node: u16) -> ReadAnswer {
    read_at(world, node, at_level(world, Level::Lease)).await.expect("is answered")
}

fn bounded(world: &Arc<World>, bound: Duration) -> RequestOptions {
    RequestOptions { max_staleness: Some(bound), ..at_level(world, Level::Local) }
}

fn is_too_stale(answer: &Result<ReadAnswer, ReadError>) -> bool {
    matches!(answer, Err(ReadError::Refused(Refusal::TooStale { .. })))
}

#[test]
fn a_leader_with_a_lease_asks_nobody() {
    in_a_world(41, async |world| {
        write(&world, 1, "a", "v").await;
        world.lease.store(true, Ordering::Relaxed);
        let read = by_lease(&world, 1).await;
        assert_eq!((read.level, read.cost), (EffectiveLevel::Lease, Cost { messages: 0, acks: 1 }));
        assert_eq!(value(&Ok(read)).as_deref(), Some("v"));
        assert_eq!((rounds(&world), asked(&world)), (0, 0));
    });
}

#[test]
fn a_leader_shows_by_its_lease_what_a_follower_may_have_shown_before_it_has_applied_it_itself() {
    in_a_world(48, async |world| {
        write(&world, 1, "a", "old").await;
        world.lease.store(true, Ordering::Relaxed);
        world.set_apply_lag(1, ms(100));
        // Applied by another node first: what is committed may be shown anywhere.
        world.commit_elsewhere(2, "a", "new");
        let shown = read_at(&world, 2, at_level(&world, Level::Linearizable)).await;
        assert_eq!(value(&shown).as_deref(), Some("new"));
        assert_eq!(value(&Ok(by_lease(&world, 1).await)).as_deref(), Some("new"));
    });
}

#[test]
fn a_follower_asks_the_leader_s_lease_alone_and_waits_until_it_has_applied_as_much() {
    in_a_world(42, async |world| {
        world.set_apply_lag(2, ms(200));
        write(&world, 1, "a", "v").await;
        world.lease.store(true, Ordering::Relaxed);
        let read = by_lease(&world, 2).await;
        assert_eq!((read.level, read.cost), (EffectiveLevel::Lease, Cost { messages: 2, acks: 1 }));
        assert_eq!(value(&Ok(read)).as_deref(), Some("v"));
        assert_eq!((rounds(&world), asked(&world)), (0, 1));
    });
}

#[test]
fn without_a_lease_a_majority_confirms_and_the_answer_says_so() {
    in_a_world(43, async |world| {
        write(&world, 1, "a", "v").await;
        for node in 1..=2 {
            let read = by_lease(&world, node).await;
            assert_eq!(read.level, EffectiveLevel::Linearizable, "through node {node}");
            assert_eq!(value(&Ok(read)).as_deref(), Some("v"));
        }
        assert_eq!(rounds(&world), 2);
    });
}

#[test]
fn a_read_that_allows_more_than_the_node_lags_asks_nobody() {
    in_a_world(44, async |world| {
        write(&world, 1, "a", "v").await;
        world.lease.store(true, Ordering::Relaxed);
        let first = read_at(&world, 2, bounded(&world, ms(500))).await.expect("is answered");
        assert_eq!(first.level, EffectiveLevel::LocalWithin { staleness_ms: 0 });
        assert_eq!(asked(&world), 1);
        world.runtime.sleep(ms(300)).await;
        let second = read_at(&world, 2, bounded(&world, ms(500))).await.expect("is answered");
        assert!(matches!(second.level, EffectiveLevel::LocalWithin { staleness_ms: 300..=310 }));
        assert_eq!((asked(&world), second.cost.messages), (1, 0));
        world.runtime.sleep(ms(300)).await;
        let third = read_at(&world, 2, bounded(&world, ms(500))).await.expect("is answered");
        assert_eq!(
            (third.level, asked(&world)),
            (EffectiveLevel::LocalWithin { staleness_ms: 0 }, 2)
        );
    });
}

/// A follower that applies late is read with a bound that what it lacks is older than.
fn a_bounded_read_of_a_node_that_lags() -> Option<String> {
    let shown = std::cell::RefCell::new(None);
    in_a_world(45, async |world| {
        world.set_apply_lag(2, ms(200));
        world.lease.store(true, Ordering::Relaxed);
        write(&world, 1, "a", "old").await;
        world.runtime.sleep(ms(500)).await;
        write(&world, 1, "a", "new").await;
        world.runtime.sleep(ms(100)).await;
        // The first finds the bound exceeded and asks; the second comes while that waits.
        let first = read_at(&world, 2, bounded(&world, ms(50)));
        let second = async {
            world.runtime.sleep(ms(30)).await;
            read_at(&world, 2, bounded(&world, ms(50))).await
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!(value(&first).as_deref(), Some("new"));
        shown.replace(value(&second));
    });
    shown.into_inner()
}

#[test]
fn a_node_is_as_fresh_as_what_it_has_applied_and_not_as_what_it_has_heard_of() {
    assert_eq!(a_bounded_read_of_a_node_that_lags().as_deref(), Some("new"));
    let bug = Bug::StalenessTimedBeforeApplied;
    let stale = planted::with(bug, a_bounded_read_of_a_node_that_lags);
    assert_eq!(stale.as_deref(), Some("old"), "the bug was not planted, or this shows nothing");
}

#[test]
fn a_node_that_may_lag_further_than_is_allowed_refuses() {
    in_a_world(46, async |world| {
        write(&world, 1, "a", "v").await;
        world.elect(None);
        let refused = read_at(&world, 2, bounded(&world, ms(500))).await;
        assert!(is_too_stale(&refused), "{refused:?}");
        let unbounded = read_at(&world, 2, at_level(&world, Level::Local)).await;
        assert_eq!(value(&unbounded).as_deref(), Some("v"));
        // One that lags for too long refuses too, though it hears from the leader.
        world.elect(Some(1));
        world.set_apply_lag(3, ms(5_000));
        write(&world, 1, "a", "w").await;
        let refused = read_at(&world, 3, bounded(&world, ms(500))).await;
        assert!(is_too_stale(&refused), "{refused:?}");
        assert_eq!(world.node(3).context.metrics.stale_reads_refused.get(), 1);
    });
}

#[test]
fn a_bound_belongs_to_local_reads() {
    in_a_world(47, async |world| {
        let is_refused = |error: Refusal| {
            matches!(error, Refusal::BadParameter { parameter: "max_staleness", .. })
        };
        for level in [None, Some(Level::Linearizable), Some(Level::Lease), Some(Level::Quorum)] {
            let options = RequestOptions { level, ..bounded(&world, ms(500)) };
            match read_at(&world, 1, options).await {
                Err(ReadError::Refused(error)) if is_refused(error.clone()) => {}
                other => panic!("{level:?}: {other:?}"),
            }
        }
        let part = world.node(1);
        let options = RequestOptions { max_staleness: Some(ms(1)), ..within(&world, ms(100)) };
        match Replicator::write(&*part, put("a", "v"), options).await {
            Err(WriteError::Refused(error)) if is_refused(error.clone()) => {}
            other => panic!("{other:?}"),
        }
        assert!(!world.sent.lock().iter().any(|(_, _, service)| *service == Service::ReadIndex));
    });
}

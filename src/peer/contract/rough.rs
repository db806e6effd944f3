//! What the fault decorator does that is harsher than links: copies, disorder, silence and waiting.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{ONE, TWO, World, echo, over_memory_with_a_plan};
use crate::peer::fault::{Fault, FaultPlan, MAX_HELD_REQUESTS};
use crate::peer::{Lane, PeerError};
use crate::types::NodeId;

fn plan(world: &World) -> FaultPlan {
    world.plan.clone().expect("the world has a plan")
}

fn numbered(count: u32) -> Vec<Bytes> {
    (0..count).map(|number| Bytes::from(number.to_string())).collect()
}

#[test]
fn a_duplicated_request_is_handled_twice_and_answered_once() {
    over_memory_with_a_plan(|world| async move {
        let (one, two) = world.pair(echo()).await;
        plan(&world).set(ONE, TWO, Fault { duplicate_per_mille: 1_000, ..Fault::default() });
        let answer = one.transport.call(world.request(TWO, Lane::Bulk, "twice")).await;
        assert_eq!(answer, Ok(Bytes::from("twice")));
        world.until("the copy is handled", || two.bodies_seen().len() == 2).await;
        assert_eq!(plan(&world).counts().requests_duplicated, 1);
        // One of the two was not handled, the other may have been: that is what is said.
        plan(&world).set(TWO, ONE, Fault::MUTE);
        let request = world.request_within(Duration::from_millis(50), TWO, Lane::Bulk, "mute");
        let answer = one.transport.call(request).await;
        assert!(matches!(answer, Err(PeerError::NoAnswer { .. })), "got {answer:?}");
        assert_eq!(two.bodies_seen().len(), 4);
    });
}

#[test]
fn reordered_requests_overtake_each_other_and_all_arrive() {
    let run = || {
        let (sender, handled) = std::sync::mpsc::channel();
        over_memory_with_a_plan(|world| async move {
            let (one, two) = world.pair(echo()).await;
            let fault = Fault {
                reorder_per_mille: 300,
                reorder_by: Duration::from_millis(50),
                delay: Duration::from_millis(5),
                ..Fault::default()
            };
            plan(&world).set(ONE, TWO, fault);
            let calls = numbered(200)
                .into_iter()
                .map(|body| one.transport.call(world.request(TWO, Lane::Bulk, body)));
            assert!(join_all(calls).await.iter().all(Result::is_ok));
            let reordered = plan(&world).counts().requests_reordered;
            assert!((30..100).contains(&reordered), "{reordered} of 200");
            sender.send(two.bodies_seen()).expect("the test waits");
        });
        handled.recv().expect("it was sent")
    };
    let seen = run();
    assert_ne!(seen, numbered(200), "nothing was overtaken");
    let mut sorted = seen.clone();
    sorted.sort_by_key(|body| {
        std::str::from_utf8(body).ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
    });
    assert_eq!(sorted, numbered(200));
    assert_eq!(seen, run());
}

#[test]
fn held_requests_wait_and_go_at_once_in_order_when_released() {
    over_memory_with_a_plan(|world| async move {
        let (one, two) = world.pair(echo()).await;
        plan(&world).set(ONE, TWO, Fault::HOLD);
        let calls: Vec<_> = numbered(50)
            .into_iter()
            .map(|body| one.transport.call(world.request(TWO, Lane::Bulk, body)))
            .collect();
        let time = Duration::from_millis(100);
        let hopeless = one.transport.call(world.request_within(time, TWO, Lane::Bulk, "late"));
        let before = world.runtime.now();
        assert!(matches!(hopeless.await, Err(PeerError::NoAnswer { .. })));
        assert_eq!(world.runtime.now() - before, time, "it waits for its deadline, no longer");
        world.runtime.sleep(Duration::from_secs(1)).await;
        assert!(two.bodies_seen().is_empty());
        assert!(one.is_linked(TWO), "nobody can know");
        // Another fault that holds as well releases nothing.
        plan(&world).set(ONE, TWO, Fault { delay: Duration::from_millis(1), ..Fault::HOLD });
        world.runtime.sleep(Duration::from_secs(1)).await;
        assert!(two.bodies_seen().is_empty());
        plan(&world).clear(ONE, TWO);
        let before = world.runtime.now();
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        assert!(world.runtime.now() - before < Duration::from_millis(20), "all go at once");
        assert_eq!(two.bodies_seen(), numbered(50), "in order, without the one that was late");
        assert_eq!(plan(&world).counts().held, 51);
    });
}

#[test]
fn held_answers_wait_for_the_release() {
    over_memory_with_a_plan(|world| async move {
        let (one, two) = world.pair(echo()).await;
        plan(&world).set(TWO, ONE, Fault::HOLD);
        let call = world.runtime.spawn(one.transport.call(world.request(TWO, Lane::Bulk, "?")));
        world.runtime.sleep(Duration::from_secs(1)).await;
        assert!(!call.is_finished());
        assert_eq!(two.bodies_seen().len(), 1, "the request got through");
        plan(&world).heal();
        assert_eq!(call.await.expect("joins"), Ok(Bytes::from("?")));
    });
}

#[test]
fn no_more_are_held_than_there_is_room_for_and_late_ones_make_room() {
    over_memory_with_a_plan(|world| async move {
        let (one, _two) = world.pair(echo()).await;
        plan(&world).set(ONE, TWO, Fault::HOLD);
        let time = Duration::from_millis(100);
        let call = || one.transport.call(world.request_within(time, TWO, Lane::Bulk, ""));
        // The first may have left the queue already, to wait for its release.
        for _ in 0..=MAX_HELD_REQUESTS {
            drop(call());
            if world.runtime.random_below(1_000) == 0 {
                tokio::task::yield_now().await;
            }
        }
        let answer = call().await;
        assert!(matches!(answer, Err(PeerError::NotSent { .. })), "got {answer:?}");
        world.runtime.sleep(time).await;
        let answer = call().await;
        assert!(matches!(answer, Err(PeerError::NoAnswer { .. })), "got {answer:?}");
    });
}

#[test]
fn a_slow_link_takes_time_by_the_byte_one_request_after_the_other() {
    over_memory_with_a_plan(|world| async move {
        let (one, two) = world.pair(echo()).await;
        plan(&world).set(ONE, TWO, Fault { bytes_per_ms: Some(100), ..Fault::default() });
        let body = || Bytes::from(vec![7; 2_000]);
        let before = world.runtime.now();
        let calls = (0..10).map(|_| one.transport.call(world.request(TWO, Lane::Bulk, body())));
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        let took = (world.runtime.now() - before).as_millis();
        assert!((200..220).contains(&took), "10 of 20 ms each took {took} ms");
        // The other lane has its own time; answers take theirs.
        plan(&world).heal();
        plan(&world).set(TWO, ONE, Fault { bytes_per_ms: Some(100), ..Fault::default() });
        let before = world.runtime.now();
        let answer = one.transport.call(world.request(TWO, Lane::Control, body())).await;
        assert!(answer.is_ok());
        let took = (world.runtime.now() - before).as_millis();
        assert!((20..35).contains(&took), "the answer took {took} ms");
        assert_eq!((plan(&world).counts().slowed, two.bodies_seen().len()), (11, 11));
    });
}

#[test]
fn on_a_mute_link_requests_and_answers_vanish_and_only_deadlines_tell() {
    over_memory_with_a_plan(|world| async move {
        let (one, two) = world.pair(echo()).await;
        for (from, to, handled) in [(ONE, TWO, 0), (TWO, ONE, 1)] {
            plan(&world).heal();
            plan(&world).one_way(&[from], &[to]);
            let time = Duration::from_millis(100);
            let before = world.runtime.now();
            let answer = one.transport.call(world.request_within(time, TWO, Lane::Bulk, "?")).await;
            assert!(matches!(answer, Err(PeerError::NoAnswer { .. })), "got {answer:?}");
            assert_eq!(world.runtime.now() - before, time);
            assert_eq!(two.bodies_seen().len(), handled);
            assert!(one.is_linked(TWO) && one.transport.is_connected(TWO), "nobody can know");
        }
        assert_eq!(plan(&world).counts().muted, 2);
        plan(&world).heal();
        assert!(one.transport.call(world.request(TWO, Lane::Bulk, "?")).await.is_ok());
    });
}

/// Which of the nodes can ask which, by the plan.
fn reachable(plan: &FaultPlan) -> Vec<(u16, u16)> {
    let mut pairs = Vec::new();
    for (from, to) in (1..=5).flat_map(|from| (1..=5).map(move |to| (from, to))) {
        if from < to && !plan.is_cut(NodeId(from), NodeId(to)) {
            pairs.push((from, to));
        }
    }
    pairs
}

#[test]
fn partitions_have_the_shapes_that_their_names_say() {
    over_memory_with_a_plan(|world| async move {
        let ids: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let shape = plan(&world);
        assert_eq!(reachable(&shape).len(), 10);
        shape.isolate(ids[1], &ids);
        assert_eq!(reachable(&shape), [(1, 3), (1, 4), (1, 5), (3, 4), (3, 5), (4, 5)]);
        shape.heal();
        shape.bridge(&ids[..3], &ids[2..], ids[2]);
        assert_eq!(reachable(&shape), [(1, 2), (1, 3), (2, 3), (3, 4), (3, 5), (4, 5)]);
        shape.heal();
        shape.ring(&ids);
        assert_eq!(reachable(&shape), [(1, 2), (1, 5), (2, 3), (3, 4), (4, 5)]);
        shape.heal();
        shape.ring(&ids[..3]);
        assert_eq!(reachable(&shape).len(), 10, "a ring of three is whole");
        shape.partition(&ids[..2], &ids[2..]);
        assert_eq!(reachable(&shape), [(1, 2), (3, 4), (3, 5), (4, 5)]);
    });
}

#[test]
fn what_happened_is_counted_by_name() {
    over_memory_with_a_plan(|world| async move {
        let (one, _two) = world.pair(echo()).await;
        let faults = [
            ("cut", Fault::CUT),
            ("muted", Fault::MUTE),
            ("requests_dropped", Fault { drop_requests_per_mille: 1_000, ..Fault::default() }),
            ("requests_duplicated", Fault { duplicate_per_mille: 1_000, ..Fault::default() }),
            ("requests_reordered", Fault { reorder_per_mille: 1_000, ..Fault::default() }),
            ("held", Fault::HOLD),
            ("delayed", Fault { delay: Duration::from_millis(3), ..Fault::default() }),
            ("slowed", Fault { bytes_per_ms: Some(1), ..Fault::default() }),
        ];
        for (name, fault) in faults {
            let before = plan(&world).counts().named();
            plan(&world).set(ONE, TWO, fault);
            let time = Duration::from_millis(50);
            let _ = one.transport.call(world.request_within(time, TWO, Lane::Bulk, "?")).await;
            for ((counted, before), (_, after)) in before.iter().zip(plan(&world).counts().named())
            {
                assert_eq!(after - before, u64::from(*counted == name), "{counted} under {name}");
            }
        }
        plan(&world).heal();
        plan(&world).set(TWO, ONE, Fault { drop_answers_per_mille: 1_000, ..Fault::default() });
        let time = Duration::from_millis(50);
        let _ = one.transport.call(world.request_within(time, TWO, Lane::Bulk, "?")).await;
        assert_eq!(plan(&world).counts().answers_dropped, 1);
    });
}

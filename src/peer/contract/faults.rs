//! What the fault decorator does, over the simulated wires.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{ONE, TWO, World, echo, over_memory_with_a_plan};
use crate::peer::fault::{Fault, FaultPlan};
use crate::peer::{Lane, PeerError};

fn plan(world: &World) -> FaultPlan {
    world.plan.clone().expect("the world has a plan")
}

#[test]
fn a_cut_link_fails_at_once_and_works_again_once_healed() {
    over_memory_with_a_plan(|world| async move {
        let (one, two) = world.pair(echo()).await;
        plan(&world).partition(&[ONE], &[TWO]);
        let before = world.runtime.now();
        let answer = one.transport.call(world.request(TWO, Lane::Bulk, "?")).await;
        assert!(matches!(answer, Err(PeerError::NotSent { .. })), "got {answer:?}");
        assert_eq!(world.runtime.now(), before);
        assert!(!one.is_linked(TWO) && !two.is_linked(ONE));
        plan(&world).heal();
        let answer = one.transport.call(world.request(TWO, Lane::Bulk, "?")).await;
        assert_eq!(answer, Ok(Bytes::from("?")));
        assert_eq!(two.bodies_seen().len(), 1);
    });
}

#[test]
fn a_dropped_request_is_never_handled_and_a_dropped_answer_was() {
    over_memory_with_a_plan(|world| async move {
        let (one, two) = world.pair(echo()).await;
        let requests = Fault { drop_requests_per_mille: 1_000, ..Fault::default() };
        let answers = Fault { drop_answers_per_mille: 1_000, ..Fault::default() };
        for (from, to, fault, handled) in [(ONE, TWO, requests, 0), (TWO, ONE, answers, 1)] {
            plan(&world).heal();
            plan(&world).set(from, to, fault);
            let request = world.request(TWO, Lane::Bulk, "?");
            let deadline = request.deadline;
            let answer = one.transport.call(request).await;
            assert!(matches!(answer, Err(PeerError::NoAnswer { .. })), "got {answer:?}");
            assert!(world.runtime.now() >= deadline);
            assert_eq!(two.bodies_seen().len(), handled);
        }
    });
}

#[test]
fn about_the_share_that_was_asked_for_is_dropped_and_the_same_with_the_same_seed() {
    let run = || {
        let (sender, handled) = std::sync::mpsc::channel();
        over_memory_with_a_plan(|world| async move {
            let (one, two) = world.pair(echo()).await;
            let fault = Fault { drop_requests_per_mille: 300, ..Fault::default() };
            plan(&world).set(ONE, TWO, fault);
            let calls = (0..1_000u32).map(|number| {
                one.transport.call(world.request(TWO, Lane::Bulk, number.to_string()))
            });
            join_all(calls).await;
            sender.send(two.bodies_seen()).expect("the test waits");
        });
        handled.recv().expect("it was sent")
    };
    let handled = run();
    assert!((600..800).contains(&handled.len()), "{} of 1000 were handled", handled.len());
    assert_eq!(handled, run());
}

#[test]
fn delayed_requests_keep_their_order_and_a_later_undelayed_one_does_not_overtake() {
    over_memory_with_a_plan(|world| async move {
        let (one, two) = world.pair(echo()).await;
        let slow = Fault {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(200),
            ..Fault::default()
        };
        plan(&world).set_between(ONE, TWO, slow);
        let before = world.runtime.now();
        let mut calls = Vec::new();
        for number in 0..100u32 {
            if number == 80 {
                plan(&world).heal();
            }
            calls.push(one.transport.call(world.request(TWO, Lane::Bulk, number.to_string())));
        }
        let answers = join_all(calls).await;
        let expected: Vec<_> = (0..100u32).map(|number| Bytes::from(number.to_string())).collect();
        assert!(answers.iter().zip(&expected).all(|(got, body)| got.as_ref() == Ok(body)));
        assert_eq!(two.bodies_seen(), expected);
        assert!(world.runtime.now() >= before + Duration::from_millis(20));
        // With nothing held back any more, requests are not slowed down.
        let before = world.runtime.now();
        let answer = one.transport.call(world.request(TWO, Lane::Bulk, "fast")).await;
        assert_eq!(answer, Ok(Bytes::from("fast")));
        assert!(world.runtime.now() < before + Duration::from_millis(20));
    });
}

#[test]
fn a_delay_beyond_the_deadline_ends_at_the_deadline_and_is_not_handled_later() {
    over_memory_with_a_plan(|world: Arc<World>| async move {
        let (one, two) = world.pair(echo()).await;
        let delay = Duration::from_millis(500);
        plan(&world).set(ONE, TWO, Fault { delay, ..Fault::default() });
        let time = Duration::from_millis(100);
        let request = world.request_within(time, TWO, Lane::Bulk, "?");
        let deadline = request.deadline;
        let answer = one.transport.call(request).await;
        assert!(matches!(answer, Err(PeerError::NoAnswer { .. })), "got {answer:?}");
        assert!(world.runtime.now() < deadline + Duration::from_millis(10));
        world.runtime.sleep(Duration::from_secs(2)).await;
        assert!(two.bodies_seen().is_empty());
    });
}

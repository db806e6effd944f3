//! The behaviours that every transport has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::{Behaviour, ONE, PATIENCE, TWO, World, echo, hello};
use crate::peer::{Hello, Inbound, Lane, MAX_MESSAGE_BYTES, PeerError, Rejection, Service};
use crate::types::{ClusterId, Epoch, Incarnation, Mode, NodeId};

/// Makes a test of each behaviour for each transport.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod tcp {
            $(#[test] fn $name() { crate::peer::contract::over_tcp(super::$name); })*
        }
        mod memory {
            $(#[test] fn $name() { crate::peer::contract::over_memory(super::$name); })*
        }
        mod memory_with_a_plan_without_faults {
            $(#[test] fn $name() {
                crate::peer::contract::over_memory_with_a_plan(super::$name);
            })*
        }
    };
}

contract! {
    an_answer_reaches_its_caller,
    requests_of_a_lane_are_handled_in_the_order_of_the_calls,
    concurrent_calls_get_their_own_answers,
    a_long_message_crosses_both_ways,
    a_message_over_the_limit_is_not_sent,
    an_answer_over_the_limit_is_no_answer,
    an_unanswered_call_ends_at_its_deadline,
    a_dropped_reply_is_no_answer,
    a_refusal_is_told,
    a_peer_that_is_down_is_not_asked,
    a_call_under_way_when_the_peer_goes_has_no_answer,
    a_peer_that_restarts_is_asked_again,
    a_full_lane_refuses_more,
    another_incarnation_is_refused_and_told,
    another_mode_is_refused_and_told,
    another_cluster_is_refused_and_told,
    messages_are_counted,
}

async fn an_answer_reaches_its_caller(world: Arc<World>) {
    let (one, two) = world.pair(echo()).await;
    for lane in [Lane::Bulk, Lane::Control] {
        let answer = one.transport.call(world.request(TWO, lane, "hello")).await;
        assert_eq!(answer, Ok(Bytes::from("hello")));
    }
    let seen = two.handler.seen.lock().clone();
    let expected = (ONE, Service::Forward, Some(Epoch(3)), Bytes::from("hello"));
    assert_eq!(seen, [expected.clone(), expected]);
    let view = one.transport.peer(TWO).expect("a peer");
    assert_eq!(view.client_address.as_deref(), Some("client-2:7000"));
    assert_eq!(one.transport.peer(ONE), None);
}

async fn requests_of_a_lane_are_handled_in_the_order_of_the_calls(world: Arc<World>) {
    let (one, two) = world.pair(echo()).await;
    // Long ones among short ones, and the futures awaited in the opposite order.
    let body = |number: u32| {
        let mut body = number.to_le_bytes().to_vec();
        body.resize(if number % 50 == 7 { 600_000 } else { 4 + number as usize % 90 }, 1);
        Bytes::from(body)
    };
    let calls: Vec<_> = (0..300)
        .map(|number| one.transport.call(world.request(TWO, Lane::Bulk, body(number))))
        .collect();
    let answers = join_all(calls.into_iter().rev()).await;
    assert!(answers.iter().rev().enumerate().all(|(at, got)| *got == Ok(body(at as u32))));
    assert_eq!(two.bodies_seen(), (0..300).map(body).collect::<Vec<_>>());
}

async fn concurrent_calls_get_their_own_answers(world: Arc<World>) {
    // Answers go back in another order than the requests came: each waits for a partner.
    let waiting: Mutex<Vec<Inbound>> = Mutex::default();
    let behaviour = move |inbound: Inbound| {
        let mut waiting = waiting.lock();
        waiting.push(inbound);
        if waiting.len() == 10 {
            for inbound in waiting.drain(..).rev() {
                let body = inbound.body.clone();
                inbound.reply.send(body);
            }
        }
    };
    let (one, _two) = world.pair(Box::new(behaviour)).await;
    let calls = (0..100u32)
        .map(|number| one.transport.call(world.request(TWO, Lane::Control, number.to_string())));
    let answers = join_all(calls).await;
    assert!(answers.iter().enumerate().all(|(at, got)| *got == Ok(Bytes::from(at.to_string()))));
}

async fn a_long_message_crosses_both_ways(world: Arc<World>) {
    let (one, _two) = world.pair(echo()).await;
    for bytes in [10 << 20, MAX_MESSAGE_BYTES] {
        let body: Bytes = (0..bytes).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
        let answer = one.transport.call(world.request(TWO, Lane::Bulk, body.clone())).await;
        assert!(answer == Ok(body), "the bytes came back changed");
    }
}

async fn a_message_over_the_limit_is_not_sent(world: Arc<World>) {
    let (one, two) = world.pair(echo()).await;
    let body = vec![0; MAX_MESSAGE_BYTES + 1];
    let answer = one.transport.call(world.request(TWO, Lane::Bulk, body)).await;
    let Err(PeerError::NotSent { to: TWO, reason }) = answer else { panic!("got {answer:?}") };
    assert!(reason.contains("16777216"), "{reason}");
    assert!(two.bodies_seen().is_empty());
}

async fn an_answer_over_the_limit_is_no_answer(world: Arc<World>) {
    let too_long: Behaviour =
        Box::new(|inbound| inbound.reply.send(vec![0; MAX_MESSAGE_BYTES + 1]));
    let (one, _two) = world.pair(too_long).await;
    let answer = one.transport.call(world.request(TWO, Lane::Bulk, "long, please")).await;
    let Err(PeerError::NoAnswer { to: TWO, reason }) = answer else { panic!("got {answer:?}") };
    assert!(reason.contains("16777216"), "{reason}");
}

async fn an_unanswered_call_ends_at_its_deadline(world: Arc<World>) {
    let kept: Mutex<Vec<Inbound>> = Mutex::default();
    let (one, two) = world.pair(Box::new(move |inbound| kept.lock().push(inbound))).await;
    let time = Duration::from_millis(200);
    let deadline = world.runtime.now() + time;
    let answer = one.transport.call(world.request_within(time, TWO, Lane::Bulk, "?")).await;
    assert!(matches!(answer, Err(PeerError::NoAnswer { to: TWO, .. })), "got {answer:?}");
    assert!(world.runtime.now() >= deadline);
    assert_eq!(two.bodies_seen().len(), 1);
    assert!(one.is_linked(TWO), "a slow handler must not cost the link");
}

async fn a_dropped_reply_is_no_answer(world: Arc<World>) {
    let (one, _two) = world.pair(Box::new(drop)).await;
    let before = world.runtime.now();
    let answer = one.transport.call(world.request(TWO, Lane::Bulk, "?")).await;
    let Err(PeerError::NoAnswer { to: TWO, reason }) = answer else { panic!("got {answer:?}") };
    assert!(reason.contains("given up"), "{reason}");
    assert!(world.runtime.now() < before + PATIENCE, "the caller was told, not left to wait");
}

async fn a_refusal_is_told(world: Arc<World>) {
    let refuse: Behaviour = Box::new(|inbound| inbound.reply.refuse("no room"));
    let (one, _two) = world.pair(refuse).await;
    let answer = one.transport.call(world.request(TWO, Lane::Bulk, "?")).await;
    assert_eq!(answer, Err(PeerError::Refused { to: TWO, reason: "no room".to_owned() }));
}

async fn a_peer_that_is_down_is_not_asked(world: Arc<World>) {
    let (one, two) = world.pair(echo()).await;
    world.stop(&two).await;
    world.until("the link is down", || !one.is_linked(TWO)).await;
    let answer = one.transport.call(world.request(TWO, Lane::Bulk, "?")).await;
    assert!(matches!(answer, Err(PeerError::NotSent { to: TWO, .. })), "got {answer:?}");
    let stranger = one.transport.call(world.request(NodeId(9), Lane::Bulk, "?")).await;
    assert!(matches!(stranger, Err(PeerError::NotSent { .. })), "got {stranger:?}");
}

async fn a_call_under_way_when_the_peer_goes_has_no_answer(world: Arc<World>) {
    let kept: Mutex<Vec<Inbound>> = Mutex::default();
    let (one, two) = world.pair(Box::new(move |inbound| kept.lock().push(inbound))).await;
    let before = world.runtime.now();
    let call = one.transport.call(world.request(TWO, Lane::Bulk, "?"));
    world.until("it is handled", || !two.bodies_seen().is_empty()).await;
    world.stop(&two).await;
    let answer = call.await;
    assert!(matches!(answer, Err(PeerError::NoAnswer { to: TWO, .. })), "got {answer:?}");
    assert!(world.runtime.now() < before + PATIENCE, "the caller was told, not left to wait");
}

async fn a_peer_that_restarts_is_asked_again(world: Arc<World>) {
    let (one, mut two) = world.pair(echo()).await;
    for round in 0..3 {
        world.stop(&two).await;
        world.until("the link is down", || !one.is_linked(TWO)).await;
        two = world.start(hello(TWO), echo()).await;
        world.until("the link is up", || one.is_linked(TWO) && two.is_linked(ONE)).await;
        for (from, to) in [(&one, TWO), (&two, ONE)] {
            let answer = from.transport.call(world.request(to, Lane::Bulk, "again")).await;
            assert_eq!(answer, Ok(Bytes::from("again")), "round {round}");
        }
    }
}

async fn a_full_lane_refuses_more(world: Arc<World>) {
    let (one, _two) = world.pair(echo()).await;
    let body = Bytes::from(vec![1; 15 << 20]);
    // Queued without ever letting the writer run to the end: 300 MB do not fit anywhere.
    let calls: Vec<_> =
        (0..20).map(|_| one.transport.call(world.request(TWO, Lane::Bulk, body.clone()))).collect();
    let answers = join_all(calls).await;
    let refused = |answer: &Result<Bytes, PeerError>| match answer {
        Err(PeerError::NotSent { reason, .. }) => reason.contains("already wait"),
        _ => false,
    };
    let full = answers.iter().filter(|answer| refused(answer)).count();
    let done = answers.iter().filter(|answer| **answer == Ok(body.clone())).count();
    assert_eq!(full + done, answers.len(), "neither done nor refused for want of room");
    assert!(full > 0 && done >= 4, "{full} refused, {done} done");
}

/// `stranger` dials a node of which `known` was seen first; gives what the stranger was told.
async fn told_to(world: &World, stranger: Hello) -> Rejection {
    let (one, two) = world.pair(echo()).await;
    world.stop(&two).await;
    world.until("the link is down", || !one.is_linked(TWO)).await;
    let stranger = world.start(stranger, echo()).await;
    world.until("it is told", || !stranger.greeter.rejections().is_empty()).await;
    assert!(!stranger.is_linked(ONE) && !one.is_linked(TWO));
    let answer = stranger.transport.call(world.request(ONE, Lane::Bulk, "let me in")).await;
    assert!(matches!(answer, Err(PeerError::NotSent { .. })), "got {answer:?}");
    assert!(one.bodies_seen().is_empty() && stranger.bodies_seen().is_empty());
    let (by, rejection) = stranger.greeter.rejections()[0].clone();
    assert_eq!(by, ONE);
    rejection
}

async fn another_incarnation_is_refused_and_told(world: Arc<World>) {
    let wiped = Hello { incarnation: Incarnation(999), ..hello(TWO) };
    let (known, offered) = (hello(TWO).incarnation, Incarnation(999));
    let expected = Rejection::OtherIncarnation { node: TWO, known, offered };
    assert_eq!(told_to(&world, wiped).await, expected);
}

async fn another_mode_is_refused_and_told(world: Arc<World>) {
    let leaderless = Hello { mode: Mode::Leaderless, ..hello(TWO) };
    let expected = Rejection::OtherMode { ours: Mode::Leader, theirs: Mode::Leaderless };
    assert_eq!(told_to(&world, leaderless).await, expected);
}

async fn another_cluster_is_refused_and_told(world: Arc<World>) {
    let other = Hello { cluster: Some(ClusterId(8)), ..hello(TWO) };
    let expected = Rejection::OtherCluster { ours: ClusterId(7), theirs: ClusterId(8) };
    assert_eq!(told_to(&world, other).await, expected);
}

async fn messages_are_counted(world: Arc<World>) {
    let (one, two) = world.pair(echo()).await;
    for _ in 0..5 {
        let answer = one.transport.call(world.request(TWO, Lane::Bulk, "count me")).await;
        assert_eq!(answer, Ok(Bytes::from("count me")));
    }
    for node in [&one, &two] {
        let text = node.metrics.encode();
        let line = "quorate_peer_messages_sent_total{service=\"forward\"} 5";
        assert!(text.lines().any(|found| found == line), "{text}");
        assert!(node.metrics.peer_bytes_sent.get() > 5 * 8);
        assert_eq!(node.metrics.peer_protocol_errors.get(), 0);
    }
}

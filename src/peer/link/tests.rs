//! What a link tells its callers when calls wait, expire or break.

use std::time::Duration;

use super::*;
use crate::peer::Lane;

const PEER: NodeId = NodeId(2);

fn in_a_paused_world<F: Future<Output = ()>>(test: impl FnOnce(Runtime) -> F) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(async { test(Runtime::simulated(1, 0)).await });
}

fn call(link: &Arc<Link>, runtime: &Runtime, time_ms: u64) -> Result<Call, PeerError> {
    let deadline = runtime.now() + Duration::from_millis(time_ms);
    let body = Bytes::from("body");
    let (lane, service) = (Lane::Bulk, Service::Forward);
    link.call(runtime, Request { to: PEER, lane, service, epoch: None, deadline, body })
}

/// What a writer would take now.
fn taken(link: &Link, runtime: &Runtime) -> Vec<u64> {
    let mut batch = Vec::new();
    link.take(runtime, &mut batch);
    batch
        .iter()
        .map(|message| match message {
            Outgoing::Request { id, .. } | Outgoing::Answer { id, .. } => *id,
            Outgoing::Ping | Outgoing::Pong => 0,
        })
        .collect()
}

#[test]
fn a_request_whose_deadline_passed_in_the_queue_was_not_sent_and_never_is() {
    in_a_paused_world(|runtime| async move {
        let link = Link::new(PEER);
        let late = call(&link, &runtime, 100).expect("queued");
        let error = late.wait().await.expect_err("nobody answers");
        assert!(matches!(error, PeerError::NotSent { .. }), "{error}");
        let in_time = call(&link, &runtime, 100).expect("queued");
        assert_eq!(taken(&link, &runtime), [2], "the late one is skipped");
        let error = in_time.wait().await.expect_err("nobody answers");
        assert!(matches!(error, PeerError::NoAnswer { .. }), "{error}");
    });
}

#[test]
fn a_late_request_that_the_writer_finds_first_was_not_sent_either() {
    in_a_paused_world(|runtime| async move {
        let link = Link::new(PEER);
        let late = call(&link, &runtime, 100).expect("queued");
        runtime.sleep(Duration::from_millis(200)).await;
        assert!(taken(&link, &runtime).is_empty());
        let error = late.wait().await.expect_err("nobody answers");
        assert!(matches!(error, PeerError::NotSent { .. }), "{error}");
    });
}

#[test]
fn the_end_of_a_link_tells_calls_that_were_handed_over_from_those_that_were_not() {
    in_a_paused_world(|runtime| async move {
        let link = Link::new(PEER);
        let sent = call(&link, &runtime, 100).expect("queued");
        assert_eq!(taken(&link, &runtime), [1]);
        let unsent = call(&link, &runtime, 100).expect("queued");
        link.close("it broke");
        link.close("a later reason");
        let reason = "it broke".to_owned();
        let no_answer = PeerError::NoAnswer { to: PEER, reason: reason.clone() };
        let not_sent = PeerError::NotSent { to: PEER, reason };
        assert_eq!(sent.wait().await, Err(no_answer));
        assert_eq!(unsent.wait().await, Err(not_sent.clone()));
        assert_eq!(call(&link, &runtime, 100).err(), Some(not_sent));
        assert!(taken(&link, &runtime).is_empty());
    });
}

#[test]
fn an_answer_that_nobody_waits_for_any_more_is_dropped_and_nothing_is_kept() {
    in_a_paused_world(|runtime| async move {
        let link = Link::new(PEER);
        drop(call(&link, &runtime, 100).expect("queued"));
        let waiting = call(&link, &runtime, 100).expect("queued");
        assert_eq!(taken(&link, &runtime), [1, 2], "dropping a call stops the waiting alone");
        assert_eq!(link.inner.lock().calls.len(), 1);
        let answer = |text: &'static str| WireAnswer::Body(Bytes::from(text));
        let mut answers = vec![(2, answer("two")), (1, answer("one")), (99, answer("what?"))];
        link.settle(runtime.now(), &mut answers);
        assert_eq!(waiting.wait().await, Ok(Bytes::from("two")));
        assert!(link.inner.lock().calls.is_empty());
        assert!(answers.is_empty());
    });
}

#[test]
fn calls_that_wait_are_bounded_and_so_are_queued_bytes() {
    in_a_paused_world(|runtime| async move {
        let link = Link::new(PEER);
        let mut calls = Vec::new();
        let refused = loop {
            match call(&link, &runtime, 100) {
                Ok(call) => calls.push(call),
                Err(error) => break error,
            }
        };
        assert_eq!(calls.len(), MAX_CALLS_WAITING);
        assert!(matches!(refused, PeerError::NotSent { .. }), "{refused}");

        let link = Link::new(PEER);
        let reason = "x".repeat(MAX_MESSAGE_BYTES);
        for id in 0..10 {
            link.answer(id, Service::Forward, Answer::Refused(reason.clone()));
        }
        let closed = link.closed().expect("a peer that takes no answers loses the link");
        assert!(closed.contains("not taken"), "{closed}");
    });
}

#[test]
fn a_sign_of_life_goes_first_and_once() {
    in_a_paused_world(|runtime| async move {
        let link = Link::new(PEER);
        let _call = call(&link, &runtime, 100).expect("queued");
        link.sign_of_life(Outgoing::Ping);
        link.sign_of_life(Outgoing::Ping);
        assert_eq!(taken(&link, &runtime), [0, 1]);
        assert_eq!(link.inner.lock().queued_bytes, 0);
    });
}

#[test]
fn the_writer_takes_about_a_batch_at_a_time() {
    in_a_paused_world(|runtime| async move {
        let link = Link::new(PEER);
        for id in 0..100 {
            let body = Bytes::from(vec![0; WRITE_BATCH_BYTES / 10]);
            link.answer(id, Service::Forward, Answer::Body(body));
        }
        let mut all = Vec::new();
        for _ in 0..10 {
            let batch = taken(&link, &runtime);
            assert_eq!(batch.len(), 10);
            all.extend(batch);
        }
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn an_answer_that_does_not_fit_is_given_up_and_the_link_stays() {
    let link = Link::new(PEER);
    let long = Bytes::from(vec![0; MAX_MESSAGE_BYTES]);
    // With their heads, one fewer fits than their lengths say.
    let answers = MAX_QUEUED_BYTES / MAX_MESSAGE_BYTES;
    for id in 0..answers as u64 {
        link.answer(id, Service::ReplicaList, Answer::Body(long.clone()));
    }
    assert_eq!(link.closed(), None);
    in_a_paused_world(|runtime| async move {
        let mut batch = Vec::new();
        for _ in 0..answers {
            link.take(&runtime, &mut batch);
        }
        let given_up = |message: &Outgoing| {
            matches!(message, Outgoing::Answer { answer: WireAnswer::GivenUp(_), .. })
        };
        assert_eq!(batch.len(), answers);
        assert_eq!(batch.iter().filter(|message| given_up(message)).count(), 1);
    });
}

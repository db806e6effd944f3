//! Limits: sizes, time, and how much at once.

use std::sync::atomic::Ordering;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use quorate::types::Mode;

use crate::world::{build, in_a_limited_world};

fn small(limits: &mut quorate::config::Limits) {
    limits.max_value_bytes = 10;
    limits.max_requests_in_flight = 2;
}

fn in_pieces(pieces: Vec<&'static str>) -> Body {
    let frames =
        stream::iter(pieces).map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece))));
    Body::new(StreamBody::new(frames))
}

#[test]
fn a_value_over_the_limit_is_refused_whether_or_not_its_length_is_named() {
    in_a_limited_world(Mode::Leader, small, |world| async move {
        for body in [Body::from("01234567890"), in_pieces(vec!["01234", "56789", "0"])] {
            let answer = world.put("/v1/kv/a", body).await;
            assert_eq!(answer.problem(), (413, "too-large".to_owned()));
            assert_eq!(answer.json()["outcome"], "not_applied");
            let detail = answer.json()["detail"].to_string();
            assert!(detail.contains("10 bytes"), "{detail}");
        }
        assert_eq!(world.fake.requests(), 0);
        world.store("a", in_pieces(vec!["01234", "", "56789"])).await;
        assert_eq!(world.get("/v1/kv/a").await.body, "0123456789");
    });
}

#[test]
fn a_body_that_stops_short_is_given_up_and_one_that_breaks_is_told() {
    in_a_limited_world(Mode::Leader, small, |world| async move {
        let started = tokio::time::Instant::now();
        let first = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from("0")))]);
        let stalled = Body::new(StreamBody::new(first.chain(stream::pending())));
        let answer = world.put("/v1/kv/a?timeout=300ms", stalled).await;
        assert_eq!(answer.problem(), (408, "body-timed-out".to_owned()));
        assert_eq!(answer.json()["outcome"], "not_applied");
        assert_eq!(started.elapsed().as_millis(), 300, "on the paused clock");
        let broken = stream::iter([Err::<Frame<Bytes>, _>(std::io::Error::other("cut"))]);
        let answer = world.put("/v1/kv/a", Body::new(StreamBody::new(broken))).await;
        assert_eq!(answer.problem(), (400, "body-broken".to_owned()));
        assert_eq!(world.fake.requests(), 0);
    });
}

#[test]
fn more_requests_at_once_than_allowed_are_refused_and_status_is_not() {
    in_a_limited_world(Mode::Leader, small, |world| async move {
        world.fake.is_held.store(true, Ordering::SeqCst);
        let mut held = vec![
            world.put("/v1/kv/a", "1").boxed_local(),
            world.put("/v1/kv/b", "1").boxed_local(),
        ];
        for request in &mut held {
            assert!(request.now_or_never().is_none());
        }
        for uri in ["/v1/kv/c", "/v1/kv"] {
            let refused = world.get(uri).await;
            assert_eq!(refused.problem(), (429, "overloaded".to_owned()), "{uri}");
            assert_eq!(refused.header("retry-after"), Some("1"));
        }
        let refused = world.put("/v1/kv/c", "1").await;
        assert_eq!(refused.json()["outcome"], "not_applied");
        for uri in ["/healthz", "/readyz", "/metrics", "/v1/cluster", "/v1/node"] {
            assert_eq!(world.get(uri).await.status, 200, "{uri}");
        }
        // A client that goes away gives its room back.
        drop(held.pop());
        assert_eq!(world.metrics.requests_in_flight.get(), 1);
        world.fake.gate.add_permits(2);
        assert_eq!(held.remove(0).await.status, 204);
        assert_eq!(world.get("/v1/kv/a").await.status, 200);
        assert_eq!(world.metrics.requests_in_flight.get(), 0);
    });
}

#[test]
fn an_unread_body_of_a_refused_request_is_not_waited_for() {
    in_a_limited_world(Mode::Leader, small, |world| async move {
        let never = || stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
        let body = || Body::new(StreamBody::new(never()));
        let request = build("PUT", "/v1/kv/a?x=1", &[], body());
        assert_eq!(world.send(request).await.problem().0, 400);
        let request = build("DELETE", "/v1/kv/a", &[], body());
        assert_eq!(world.send(request).await.status, 204);
    });
}

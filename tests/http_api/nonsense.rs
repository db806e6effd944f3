//! Whatever a client sends is answered in the API's own terms: never a panic, never a 500.

use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, Uri};
use proptest::prelude::*;
use quorate::types::Mode;

use crate::world::in_a_world;

/// Paths near the ones that exist, with anything behind them.
fn path() -> impl Strategy<Value = String> {
    let start = prop_oneof![
        6 => Just("/v1/kv/"),
        2 => Just("/v1/kv"),
        1 => Just("/v1/batch"),
        1 => Just("/v1/cluster/"),
        1 => Just("/v1/explain/"),
        1 => Just("/"),
    ];
    (start, "[a-z%/.+~0-9A-F]{0,12}").prop_map(|(start, rest)| format!("{start}{rest}"))
}

fn query() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("consistency"),
        Just("r"),
        Just("w"),
        Just("timeout"),
        Just("forward"),
        Just("limit"),
        Just("cursor"),
        Just("prefix"),
        Just("delimiter"),
        Just("values"),
        Just(""),
        Just("x"),
    ];
    let value = prop_oneof![
        Just("local".to_owned()),
        Just("1".to_owned()),
        Just("1s".to_owned()),
        Just("true".to_owned()),
        Just("never".to_owned()),
        Just("AQFh".to_owned()),
        "[a-zA-Z0-9%+=._-]{0,8}",
    ];
    let pair = (name, value).prop_map(|(name, value)| format!("{name}={value}"));
    prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

fn header() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = prop_oneof![
        Just("if-match"),
        Just("if-none-match"),
        Just("if-range"),
        Just("range"),
        Just("content-type"),
        Just("content-range"),
        Just("content-encoding"),
        Just("quorate-trace"),
        Just("content-length"),
    ];
    let value = prop_oneof![
        "(W/)?\"[0-9a-f]{16}-[0-9]\"".prop_map(String::into_bytes),
        "bytes=[0-9]{0,20}-[0-9]{0,20}".prop_map(String::into_bytes),
        prop::collection::vec(prop_oneof![Just(b'\t'), 32..=126u8, 128..=255u8], 0..24),
        Just(b"*".to_vec()),
        Just(b"1".to_vec()),
    ];
    (name, value).prop_filter_map("no header value", |(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value).ok()?))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_client_sends_is_answered_with_a_panic_or_a_500(
        method in prop_oneof![
            Just("GET"), Just("HEAD"), Just("PUT"), Just("DELETE"), Just("POST"), Just("PATCH"),
        ],
        path in path(),
        query in query(),
        headers in prop::collection::vec(header(), 0..4),
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let Ok(uri) = format!("{path}?{query}").parse::<Uri>() else { return Ok(()) };
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        in_a_world(Mode::Leader, |world| async move {
            world.store("a", "0123456789").await;
            let answer = world.send(request).await;
            let status = answer.status.as_u16();
            if (400..600).contains(&status) && method != "HEAD" {
                answer.problem();
            }
            // Without faults in the replicator, the one server error is what is not there yet.
            assert!(status < 500 || status == 501, "{answer:?}");
            assert_eq!(answer.header("quorate-node"), Some("2"));
            assert_eq!(world.metrics.requests_in_flight.get(), 0);
        });
    }

    #[test]
    fn a_batch_of_any_bytes_is_answered(body in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..128),
        concat!(
            r#"\{"operations":\[(\{"(op|key)":"(get|put|a)""#,
            r#"(,"(value|ttl|key)":"?[a-z0-9]*"?)?\},?){0,3}\]\}"#,
        )
            .prop_map(String::into_bytes),
    ]) {
        in_a_world(Mode::Leader, |world| async move {
            let status = world.post("/v1/batch", body).await.status.as_u16();
            assert!(status == 200 || status == 400, "{status}");
        });
    }
}

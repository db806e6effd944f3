//! Batches: a result each, in order, and nothing done where the request makes no sense.

use quorate::types::Mode;
use serde_json::{Value, json};

use crate::world::{build, in_a_limited_world, in_a_world};

#[test]
fn each_operation_has_a_result_in_its_place() {
    in_a_world(Mode::Leader, |world| async move {
        let etag = world.store("there", "1").await;
        let bytes = world.store("bytes", vec![0xff]).await;
        let long = "x".repeat(4_097);
        let batch = json!({"operations": [
            {"op": "get", "key": "there"},
            {"op": "put", "key": "new", "value": "grün", "content_type": "text/plain"},
            {"op": "get", "key": "none"},
            {"op": "delete", "key": "gone"},
            {"op": "put", "key": "b64", "value_base64": "/wA="},
            {"op": "get", "key": "bytes"},
            {"op": "put", "key": "", "value": "1"},
            {"op": "get", "key": long},
            {"op": "put", "key": "bad-ttl", "value": "1", "ttl": "30 s"},
            {"op": "put", "key": "ttl", "value": "1", "ttl": "30s"},
            {"op": "put", "key": "type", "value": "1", "content_type": "a\nb"},
        ]});
        let traced = [("quorate-trace", "1")];
        let request = build("POST", "/v1/batch?timeout=2s", &traced, batch.to_string().into());
        let answer = world.send(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("quorate-consistency"), Some("linearizable"));
        // Seven operations were served, four messages each.
        assert_eq!(answer.header("quorate-messages"), Some("28"));
        assert_eq!(answer.header("quorate-acks"), Some("2"));
        let results = answer.json()["results"].as_array().expect("results").clone();
        let found = json!({"status": 200, "value": "1", "etag": etag, "content_type": null});
        assert_eq!(results[0], found);
        assert_eq!(results[1]["status"], 204);
        let failed = |result: &Value| {
            assert!(result["detail"].is_string());
            (result["status"].as_u64(), result["code"].as_str().map(str::to_owned))
        };
        assert_eq!(failed(&results[2]), (Some(404), Some("no-such-key".to_owned())));
        assert_eq!(results[2]["outcome"], Value::Null);
        assert_eq!((&results[3]["status"], &results[4]["status"]), (&json!(204), &json!(204)));
        let found =
            json!({"status": 200, "value_base64": "/w==", "etag": bytes, "content_type": null});
        assert_eq!(results[5], found);
        assert_eq!(failed(&results[6]), (Some(400), Some("key-empty".to_owned())));
        assert_eq!(results[6]["outcome"], "not_applied");
        assert_eq!(failed(&results[7]), (Some(400), Some("key-too-long".to_owned())));
        assert_eq!(failed(&results[8]), (Some(400), Some("bad-header".to_owned())));
        assert_eq!(results[9]["status"], 204);
        assert_eq!(failed(&results[10]), (Some(400), Some("bad-header".to_owned())));
        let new = world.get("/v1/kv/new").await;
        assert_eq!(new.header("etag"), results[1]["etag"].as_str());
        assert_eq!(new.header("content-type"), Some("text/plain"));
        assert_eq!(world.get("/v1/kv/b64").await.body, vec![0xff, 0x00]);
        assert_eq!(world.get("/v1/kv/bad-ttl").await.status, 404);
        assert!(world.get("/v1/kv/ttl").await.header("quorate-expires").is_some());
    });
}

#[test]
fn a_batch_that_makes_no_sense_does_nothing() {
    in_a_world(Mode::Leader, |world| async move {
        let good = r#"{"op":"put","key":"a","value":"1"}"#;
        let many = vec![good; 129].join(",");
        for (operations, said) in [
            (r#"{"op":"increment","key":"a"}"#, "operations[1]: op 'increment'"),
            (r#"{"op":"put","key":"a"}"#, "operations[1]: a put needs a value"),
            (r#"{"op":"get","key":"a","value":"1"}"#, "operations[1]: a get takes a key"),
            (r#"{"op":"delete","key":"a","ttl":"1s"}"#, "operations[1]: a delete takes a key"),
            (r#"{"op":"put","key":"a","value_base64":"?"}"#, "not base64"),
            (r#"{"op":"put","key":"a","value":"1","value_base64":""}"#, "exclude"),
            (r#"{"op":"put","key":"a","value":"1","if_match":"*"}"#, "if_match"),
            (r#"{"op":"put","key":"a","value":1}"#, "line 1"),
            (many.as_str(), "more than 128 operations"),
            ("[", "line 1"),
        ] {
            let batch = format!("{{\"operations\":[{good},{operations}]}}");
            let answer = world.post("/v1/batch", batch).await;
            assert_eq!(answer.problem(), (400, "bad-body".to_owned()), "{said}");
            let json = answer.json();
            assert!(json["detail"].as_str().expect("a detail").contains(said), "{said}: {json}");
            assert_eq!(json["outcome"], "not_applied");
        }
        assert_eq!(world.post("/v1/batch?limit=1", "{}").await.problem().0, 400);
        assert_eq!(world.get("/v1/batch").await.header("allow"), Some("POST"));
        assert_eq!(world.fake.requests(), 0);
        let none = world.post("/v1/batch", r#"{"operations":[]}"#).await;
        assert_eq!(none.json(), json!({"results": []}));
    });
}

#[test]
fn a_batch_keeps_to_the_limits() {
    let limit = |limits: &mut quorate::config::Limits| {
        limits.max_batch_bytes = 200;
        limits.max_value_bytes = 3;
        limits.max_requests_in_flight = 2;
    };
    in_a_limited_world(Mode::Leader, limit, |world| async move {
        let put = |value: &str| json!({"op": "put", "key": "a", "value": value});
        let batch = json!({"operations": [put("1234"), put("123")]});
        let results = world.post("/v1/batch", batch.to_string()).await.json()["results"].clone();
        assert_eq!(
            (&results[0]["status"], &results[0]["code"]),
            (&json!(413), &json!("too-large"))
        );
        assert_eq!(results[1]["status"], 204);
        let three = json!({"operations": [put("1"), put("2"), put("3")]});
        let refused = world.post("/v1/batch", three.to_string()).await;
        assert_eq!(refused.problem(), (429, "overloaded".to_owned()));
        assert_eq!(world.metrics.requests_in_flight.get(), 0);
        let large = world.post("/v1/batch", " ".repeat(201)).await;
        assert_eq!(large.problem(), (413, "too-large".to_owned()));
    });
}

#[test]
fn the_operations_of_a_batch_run_at_once() {
    in_a_world(Mode::Leader, |world| async move {
        world.fake.is_held.store(true, std::sync::atomic::Ordering::SeqCst);
        let operations = vec![json!({"op": "get", "key": "a"}); 128];
        let batch = json!({"operations": operations}).to_string();
        let posted = world.post("/v1/batch", batch);
        let released = async {
            while world.fake.requests() < 128 {
                tokio::task::yield_now().await;
            }
            assert_eq!(world.metrics.requests_in_flight.get(), 128);
            world.fake.gate.add_permits(128);
        };
        let (answer, ()) = tokio::join!(posted, released);
        assert_eq!(answer.json()["results"].as_array().map(Vec::len), Some(128));
        assert_eq!(world.metrics.requests_in_flight.get(), 0);
    });
}

//! Status, health, metrics, and what is not there.

use quorate::types::Mode;
use serde_json::json;

use crate::world::in_a_world;

#[test]
fn the_cluster_is_told_whole_and_in_parts() {
    in_a_world(Mode::Leader, |world| async move {
        let members = json!([
            {"id": 1, "peer": "127.0.0.1:8001", "client": "127.0.0.1:7001", "role": "voter", "vote": true,
             "state": "normal"},
            {"id": 2, "peer": "127.0.0.1:8002", "client": "127.0.0.1:7002", "role": "voter", "vote": true,
             "state": "normal"},
            {"id": 3, "peer": "127.0.0.1:8003", "client": null, "role": "voter", "vote": true,
             "state": "unreachable"},
        ]);
        let whole = json!({
            "cluster_id": "0000000000000abc", "mode": "leader", "epoch": 1, "node": 2,
            "leader": 1, "term": 3, "applied_index": 17, "members": members,
        });
        assert_eq!(world.get("/v1/cluster").await.json(), whole);
        let part = json!({"members": members, "removed": [9]});
        assert_eq!(world.get("/v1/cluster/members").await.json(), part);
        let leader =
            json!({"fixed_leader": null, "leader": 1, "term": 3, "client": "127.0.0.1:7001"});
        assert_eq!(world.get("/v1/cluster/leader").await.json(), leader);
        let mode = json!({"mode": "leader", "epoch": 1});
        assert_eq!(world.get("/v1/cluster/mode").await.json(), mode);
        for uri in ["/v1/cluster", "/v1/node", "/healthz", "/readyz", "/metrics"] {
            let answer = world.get(&format!("{uri}?verbose=1")).await;
            assert_eq!(answer.problem(), (400, "unknown-parameter".to_owned()), "{uri}");
            let posted = world.post(uri, "").await;
            assert_eq!(posted.problem(), (405, "method-not-allowed".to_owned()), "{uri}");
            assert_eq!(posted.header("allow"), Some("GET, HEAD"));
        }
    });
}

#[test]
fn a_node_tells_its_state_and_whether_it_can_serve() {
    in_a_world(Mode::Leaderless, |world| async move {
        let node = world.get("/v1/node").await.json();
        let expected = json!({
            "node": 2, "mode": "leaderless", "version": env!("CARGO_PKG_VERSION"),
            "engine": "sled", "incarnation": "000000000000001f", "boot": 4,
            "started_ms": 4_000, "uptime_ms": 1_000, "health": "normal", "ready": true,
            "not_ready_because": null, "activity": "idle", "works_on": [],
            "queues": {"requests_in_flight": 0, "max_requests_in_flight": 4_096},
            "log": {"first_position": 7, "next_position": 9},
        });
        assert_eq!(node, expected);
        assert_eq!(world.get("/readyz").await.body, "ok\n");
        *world.fake.not_ready.lock().unwrap() = Some("no leader yet".to_owned());
        let unready = world.get("/readyz").await;
        assert_eq!(unready.problem(), (503, "not-ready".to_owned()));
        assert_eq!(unready.json()["detail"], "no leader yet");
        assert_eq!(world.get("/v1/node").await.json()["not_ready_because"], "no leader yet");
        assert_eq!(world.get("/healthz").await.status, 200, "alive all the same");
        *world.failure.lock().unwrap() = Some("the disk failed".to_owned());
        let failed = world.get("/v1/node").await.json();
        assert_eq!((&failed["health"], &failed["ready"]), (&json!("failed"), &json!(false)));
        assert_eq!(failed["not_ready_because"], "the disk failed");
    });
}

#[test]
fn what_is_not_there_yet_says_so() {
    for mode in Mode::ALL {
        in_a_world(mode, |world| async move {
            let txn = world.post("/v1/txn", "{}").await;
            assert_eq!(txn.problem(), (501, "not-implemented".to_owned()));
            assert_eq!(txn.json()["outcome"], "not_applied");
            let answer = world.get("/v1/watch?prefix=a").await;
            assert_eq!(answer.problem(), (501, "not-implemented".to_owned()));
            let detail = answer.json()["detail"].to_string();
            assert!(detail.contains(mode.as_str()), "{detail}");
        });
    }
}

#[test]
fn unknown_paths_say_where_to_look() {
    in_a_world(Mode::Leader, |world| async move {
        for uri in ["/", "/v1", "/v1/", "/v1/kvs", "/V1/kv/a", "/v1/cluster/", "/ui/", "//v1/kv/a"]
        {
            for method in ["GET", "PUT"] {
                let answer = world.ask(method, uri, &[]).await;
                assert_eq!(answer.problem(), (404, "unknown-path".to_owned()), "{uri}");
                let detail = answer.json()["detail"].to_string();
                assert!(detail.contains("/v1/kv/{key}"), "{detail}");
            }
        }
    });
}

#[test]
fn requests_are_counted_by_operation_and_status() {
    in_a_world(Mode::Leader, |world| async move {
        for _ in 0..3 {
            world.store("a", "1").await;
        }
        world.get("/v1/kv/a").await;
        world.get("/v1/kv/none").await;
        world.get("/v1/kv/a?x=1").await;
        world.get("/nowhere").await;
        world.post("/v1/batch", r#"{"operations":[]}"#).await;
        let answer = world.get("/metrics").await;
        assert!(answer.header("content-type").is_some_and(|kind| kind.contains("openmetrics")));
        let text = String::from_utf8(answer.body.to_vec()).expect("text");
        for line in [
            "quorate_requests_total{operation=\"put\",status=\"204\"} 3",
            "quorate_requests_total{operation=\"get\",status=\"200\"} 1",
            "quorate_requests_total{operation=\"get\",status=\"404\"} 1",
            "quorate_requests_total{operation=\"get\",status=\"400\"} 1",
            "quorate_requests_total{operation=\"other\",status=\"404\"} 1",
            "quorate_requests_total{operation=\"batch\",status=\"200\"} 1",
            "quorate_requests_in_flight 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    });
}

//! `GET /v1/explain/{key}`.

use quorate::types::Mode;
use serde_json::json;

use super::world::in_a_world;

#[test]
fn each_replica_is_told_of_with_who_is_behind_and_what_reads_return() {
    in_a_world(Mode::Leader, |world| async move {
        world.store("img/a%20b", "four").await;
        let etag = world.get("/v1/kv/img/a%20b").await.headers["etag"].clone();
        let etag = etag.to_str().unwrap();
        let answer = world.get("/v1/explain/img/a%20b").await;
        assert_eq!(answer.status, 200);
        let told = answer.json();
        assert_eq!(told["key"], "img/a b");
        assert!(told["partition"].is_u64());
        let holder = json!({
            "node": 1, "etag": etag, "tombstone": false, "size": 4, "expires_at_ms": null,
            "behind": false, "lag_ms": 0, "lag_entries": 0, "error": null,
        });
        let lacking = json!({
            "node": 2, "etag": null, "tombstone": null, "size": null, "expires_at_ms": null,
            "behind": true, "lag_ms": null, "lag_entries": 1, "error": null,
        });
        let down = json!({
            "node": 3, "etag": null, "tombstone": null, "size": null, "expires_at_ms": null,
            "behind": null, "lag_ms": null, "lag_entries": null, "error": "it is down",
        });
        assert_eq!(told["replicas"], json!([holder, lacking, down]));
        let read = json!({
            "consistency": "linearizable", "may_return": [etag, null], "error": null,
        });
        assert_eq!(told["reads"], json!([read]));
    });
}

#[test]
fn what_it_asks_for_is_passed_on_and_nonsense_is_named() {
    in_a_world(Mode::Leaderless, |world| async move {
        assert_eq!(world.get("/v1/explain/a?r=1&w=3&timeout=300ms").await.status, 200);
        let options = world.fake.last_options();
        assert_eq!((options.r, options.w), (Some(1), Some(3)));
        for (uri, code) in [
            ("/v1/explain/a?consistency=local", "unknown-parameter"),
            ("/v1/explain/a?r=x", "bad-parameter"),
            ("/v1/explain/%ff", "bad-key"),
        ] {
            let (status, given) = world.get(uri).await.problem();
            assert_eq!(status, 400, "{uri}: {given}");
            assert!(given.contains(code) || code == "bad-key", "{uri}: {given}");
        }
        assert_eq!(world.ask("PUT", "/v1/explain/a", &[]).await.status, 405);
    });
}

//! `/v1/cluster/layout`: shown, planned, changed, and taken back.

use quorate::types::Mode;

use super::world::in_a_world;

#[test]
fn where_every_member_holds_all_data_there_is_no_layout() {
    in_a_world(Mode::Leader, |world| async move {
        let shown = world.get("/v1/cluster/layout").await;
        assert_eq!(shown.problem(), (501, "not-implemented".to_owned()));
        let body = r#"{"nodes":[{"id":1}]}"#;
        for (path, body) in [("/plan", body), ("", body), ("/cancel", "")] {
            let answer = world.post(&format!("/v1/cluster/layout{path}"), body).await;
            assert_eq!(answer.problem(), (501, "not-implemented".to_owned()), "{path}");
        }
    });
}

#[test]
fn nonsense_is_refused_with_what_was_expected() {
    in_a_world(Mode::Leaderless, |world| async move {
        for body in ["", "{}", r#"{"nodes":[{"id":0}]}"#, r#"{"nodes":[{"id":1},{"id":1}]}"#] {
            for path in ["/v1/cluster/layout/plan", "/v1/cluster/layout"] {
                let answer = world.post(path, body).await;
                assert_eq!(answer.status, 400, "{path} {body}");
                let detail = answer.json()["detail"].to_string();
                assert!(detail.contains("nodes"), "{detail}");
            }
        }
        let answer = world.post("/v1/cluster/layout/cancel", "{}").await;
        assert_eq!(answer.problem(), (400, "bad-body".to_owned()));
        assert_eq!(answer.json()["outcome"], "not_applied");
        assert_eq!(world.get("/v1/cluster/layout/cancel").await.status, 405);
        assert_eq!(world.get("/v1/cluster/layout/plan").await.status, 405);
        assert_eq!(world.get("/v1/cluster/layout?x=1").await.status, 400);
    });
}

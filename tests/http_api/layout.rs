//! `GET /v1/cluster/layout` and `POST /v1/cluster/layout/plan`.

use quorate::types::Mode;

use super::world::in_a_world;

#[test]
fn where_every_member_holds_all_data_there_is_no_layout() {
    in_a_world(Mode::Leader, |world| async move {
        let shown = world.get("/v1/cluster/layout").await;
        assert_eq!(shown.problem(), (501, "not-implemented".to_owned()));
        let body = r#"{"nodes":[{"id":1}]}"#;
        let planned = world.post("/v1/cluster/layout/plan", body).await;
        assert_eq!(planned.problem(), (501, "not-implemented".to_owned()));
    });
}

#[test]
fn a_plan_of_nonsense_is_refused_with_what_was_expected() {
    in_a_world(Mode::Leaderless, |world| async move {
        for body in ["", "{}", r#"{"nodes":[{"id":0}]}"#, r#"{"nodes":[{"id":1},{"id":1}]}"#] {
            let answer = world.post("/v1/cluster/layout/plan", body).await;
            assert_eq!(answer.status, 400, "{body}");
            let detail = answer.json()["detail"].to_string();
            assert!(detail.contains("nodes"), "{detail}");
        }
        assert_eq!(world.get("/v1/cluster/layout/plan").await.status, 405);
        assert_eq!(world.get("/v1/cluster/layout?x=1").await.status, 400);
    });
}

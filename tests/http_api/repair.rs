//! `GET` and `POST /v1/cluster/repair`.

use quorate::replication::repair::{PeerRepair, RepairState, RepairStatus};
use quorate::types::{Mode, NodeId};
use serde_json::json;

use super::world::in_a_world;

#[test]
fn a_repair_is_started_and_followed() {
    in_a_world(Mode::Leaderless, |world| async move {
        let peer = PeerRepair {
            node: NodeId(3),
            state: RepairState::Failed,
            differing: 4,
            compared: 1,
            repaired: 20,
            error: Some("it is down".to_owned()),
        };
        let status = RepairStatus { running: true, peers: vec![peer] };
        *world.fake.repair.lock().unwrap() = Some(status);
        let expected = json!({
            "node": 2, "running": true,
            "peers": [{
                "node": 3, "state": "failed", "differing_partitions": 4, "compared_partitions": 1,
                "repaired_records": 20, "error": "it is down",
            }],
        });
        for (method, code) in [("POST", 202), ("GET", 200)] {
            let answer = world.ask(method, "/v1/cluster/repair", &[]).await;
            assert_eq!((answer.status.as_u16(), answer.json()), (code, expected.clone()));
            let answer = world.ask(method, "/v1/cluster/repair?x=1", &[]).await;
            assert_eq!(answer.problem(), (400, "unknown-parameter".to_owned()));
        }
        assert_eq!(world.ask("PUT", "/v1/cluster/repair", &[]).await.status, 405);
    });
}

#[test]
fn where_a_log_brings_every_node_what_it_lacks_there_is_nothing_to_repair() {
    in_a_world(Mode::Leader, |world| async move {
        for method in ["POST", "GET"] {
            let answer = world.ask(method, "/v1/cluster/repair", &[]).await;
            assert_eq!(answer.problem(), (501, "not-implemented".to_owned()));
        }
    });
}

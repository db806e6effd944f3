//! Which nodes hold which partitions: shown, planned, and changed in clusters of real processes, under load.

use std::process::Output;

use quorate::lab::load::read_back;
use quorate::lab::workload::keys;
use quorate::types::Mode;
use serde_json::{Value, json};

use super::load::Load;
use super::trial::Trial;

/// Writes acknowledged in each stage: many more than requests are under way at a time.
const WRITES: u64 = 100;

fn layout(trial: &Trial, arguments: &[&str]) -> Output {
    trial.command(1, &[&["cluster", "layout"], arguments].concat())
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test]
async fn a_layout_is_shown_and_a_change_is_planned_and_nothing_moves() {
    let trial = Trial::start(Mode::Leaderless, &[]).await;
    let before = json(&layout(&trial, &["show"]));
    assert_eq!(before["partitions"].as_array().map(Vec::len), Some(256));
    assert_eq!(before["nodes"][2]["holds"], 256, "three nodes hold all");
    let plan = json(&layout(&trial, &["plan", "--add", "4,5", "--weight", "5=2"]));
    assert_eq!(plan["replicas"], 3);
    let planned = |index: usize, name: &str| plan["nodes"][index][name].as_u64().expect("a count");
    // 768 places over the weights 1, 1, 1, 1 and 2; a node holds no partition twice.
    let holds: Vec<u64> = (0..5).map(|index| planned(index, "will_hold")).collect();
    assert_eq!(holds, [128, 128, 128, 128, 256]);
    assert_eq!(plan["moves"], 128 + 256, "what the new ones get, and nothing else");
    let refused = layout(&trial, &["plan", "--remove", "9"]);
    assert_eq!(refused.status.code(), Some(64), "no such node");
    // Programs are told on standard output.
    assert!(String::from_utf8_lossy(&refused.stdout).contains("node 9"));
    assert_eq!(json(&layout(&trial, &["show"])), before);
}

impl Trial {
    /// Has the partitions spread over these nodes, and waits until they are.
    async fn spread(&self, through: usize, nodes: &[u16]) {
        let named: Vec<Value> = nodes.iter().map(|id| json!({ "id": id })).collect();
        let body = json!({ "nodes": named }).to_string();
        let begun = self.call(through, "POST", "/v1/cluster/layout", &body).await;
        assert_eq!(begun.status, 200, "{}", begun.body);
        self.until(&format!("{nodes:?} hold all"), async || {
            let layout = self.layout(through).await;
            let held: Vec<u64> = layout["nodes"]
                .as_array()
                .map(|nodes| nodes.iter().filter_map(|node| node["id"].as_u64()).collect())
                .unwrap_or_default();
            layout["change"].is_null() && held.iter().map(|id| *id as u16).eq(nodes.iter().copied())
        })
        .await;
    }

    async fn layout(&self, through: usize) -> Value {
        let answer = self.call(through, "GET", "/v1/cluster/layout", "").await;
        serde_json::from_str(&answer.body).unwrap_or_default()
    }
}

#[tokio::test]
async fn three_leaderless_nodes_become_five_and_three_again_under_load_and_no_promise_breaks() {
    let mut trial = Trial::start(Mode::Leaderless, &[]).await;
    let joining: Vec<usize> =
        (0..2).map(|through| trial.cluster.prepare_to_join(through).expect("room")).collect();
    let scene = trial.scene();
    let keys = keys("spread", 12).expect("keys");
    let load = Load::start(&scene, &keys);
    load.acknowledge(WRITES, "with three").await;
    for index in &joining {
        trial.join(*index).await;
    }
    trial.spread(joining[0], &[1, 2, 3, 4, 5]).await;
    load.acknowledge(WRITES, "with five").await;
    let held = trial.change(joining[0], "DELETE", "/1", "").await;
    assert!(held.status == 409 && held.body.contains("holds-partitions"), "{held:?}");
    trial.spread(joining[1], &[3, 4, 5]).await;
    load.acknowledge(WRITES, "with three others").await;
    for index in [0, 1] {
        let id = trial.cluster.ids()[index];
        let answer = trial.change(joining[0], "DELETE", &format!("/{id}"), "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        trial.ends_removed(index).await;
        load.acknowledge(WRITES, "with one process less").await;
    }
    let mut ops = load.stop().await;
    ops.extend(read_back(&scene, &keys).await);
    trial.assert_promises_held("layout-changes", ops);
}

//! Which nodes hold which partitions, and what a change would move, asked of a running cluster.

use std::process::Output;

use quorate::types::Mode;
use serde_json::Value;

use super::trial::Trial;

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

//! Leadership handed over: by a call, by a leader that is told to stop, and never by a fixed one.

use quorate::history::{Ended, Op};
use quorate::lab::load::read_back;
use quorate::lab::workload::keys;
use quorate::types::Mode;

use super::load::Load;
use super::trial::{PATIENCE, Trial};

/// Writes acknowledged in each stage: many more than requests are under way at a time.
const WRITES: u64 = 100;

#[tokio::test]
async fn a_rolling_restart_costs_clients_no_write_whose_fate_they_do_not_know() {
    let mut trial = Trial::start(Mode::Leader, &[]).await;
    let scene = trial.scene();
    let keys = keys("roll", 40).expect("keys");
    let load = Load::start(&scene, &keys);
    let mut hand_overs = 0;
    for _ in 0..3 {
        load.acknowledge(WRITES, "with all nodes").await;
        // The leader each time: the others cost nothing.
        let leader = trial.leader().await;
        trial.cluster.terminate(leader).expect("told");
        let (status, log) = trial.cluster.ended(leader, PATIENCE).await.expect("it ends");
        assert_eq!(status.code(), Some(0), "{log}");
        hand_overs += log.matches("handed leadership over before stopping").count();
        load.acknowledge(WRITES, "with one node stopped").await;
        trial.restart(leader).await;
    }
    load.acknowledge(WRITES, "at the end").await;
    let mut ops = load.stop().await;
    eprintln!("the longest gap between two answers: {} ms", longest_gap_us(&ops) / 1_000);
    let unsafe_to_retry: Vec<_> = ops.iter().filter(|op| op.ended == Ended::Unknown).collect();
    assert!(unsafe_to_retry.is_empty(), "{unsafe_to_retry:#?}");
    assert!(hand_overs > 0, "no leader handed over, and this shows nothing");
    ops.extend(read_back(&scene, &keys).await);
    trial.assert_promises_held("rolling-restart", ops);
}

/// The longest time in which no request was answered well; for people, never asserted.
fn longest_gap_us(ops: &[Op]) -> u64 {
    let answered = ops.iter().filter(|op| op.ended == Ended::Ok);
    let mut at: Vec<u64> = answered.map(|op| op.answered_us).collect();
    at.sort_unstable();
    at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

#[tokio::test]
async fn any_node_takes_a_call_to_hand_leadership_over() {
    let trial = Trial::start(Mode::Leader, &[]).await;
    trial.put_patiently(0, "a", "1").await;
    for through in 0..3 {
        for target in 0..3 {
            let id = trial.cluster.ids()[target];
            let body = format!("{{\"to\": {id}}}");
            let mut answer = trial.call(through, "POST", "/v1/cluster/leader", &body).await;
            // A machine that is busy may keep a heartbeat waiting; then nothing happened.
            while answer.status == 503 {
                answer = trial.call(through, "POST", "/v1/cluster/leader", &body).await;
            }
            assert_eq!(answer.status, 200, "{}", answer.body);
            let view: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
            assert_eq!(view["leader"], id, "{}", answer.body);
            trial.put_patiently(through, "a", &format!("{through}{target}")).await;
        }
    }
    let leader = trial.leader().await;
    let other = (leader + 1) % 3;
    let answer = trial.call(other, "POST", "/v1/cluster/leader?forward=never", "").await;
    assert!(answer.status == 421 && answer.body.contains("not-leader"), "{answer:?}");
    let answer = trial.call(other, "POST", "/v1/cluster/leader", "{\"to\": 77}").await;
    assert!(answer.status == 404 && answer.body.contains("unknown-node"), "{answer:?}");
    let answer = trial.call(other, "POST", "/v1/cluster/leader", "{\"to\": []}").await;
    assert!(answer.status == 400 && answer.body.contains("bad-body"), "{answer:?}");
}

#[tokio::test]
async fn leaderless_mode_has_no_leadership_to_hand_over() {
    let trial = Trial::start(Mode::Leaderless, &[]).await;
    let answer = trial.call(1, "POST", "/v1/cluster/leader", "").await;
    assert!(answer.status == 501 && answer.body.contains("not-implemented"), "{answer:?}");
}

#[tokio::test]
async fn a_fixed_leader_leads_again_after_it_was_killed_and_is_never_handed_over() {
    let mut trial = Trial::start(Mode::Leader, &["--fixed-leader", "2"]).await;
    trial.put_patiently(0, "a", "1").await;
    assert_eq!(trial.leader().await, 1);
    let answer = trial.call(0, "POST", "/v1/cluster/leader", "{\"to\": 1}").await;
    assert!(answer.status == 409 && answer.body.contains("leader-is-fixed"), "{answer:?}");
    trial.cluster.kill(1).expect("killed");
    trial.restart(1).await;
    trial.put_patiently(2, "a", "2").await;
    assert_eq!(trial.leader().await, 1);
    for index in [0, 2] {
        assert_eq!(trial.counter(index, "elections_won").await, 0);
    }
}

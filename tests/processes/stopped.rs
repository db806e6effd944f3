//! SIGTERM: a node finishes what is under way, takes a checkpoint and ends with exit code 0.

use quorate::lab::load::read_back;
use quorate::lab::workload::keys;
use quorate::types::Mode;

use super::load::Load;
use super::trial::{LOG_BEGINS, PATIENCE, Trial};

/// Writes acknowledged in each stage.
const WRITES: u64 = 100;
/// Segments so short that a few hundred writes fill many; the log is not cut by growth alone.
const SHORT_SEGMENTS: [&str; 4] =
    ["--set", "storage.log_segment_bytes=64KiB", "--set", "leader.keep_entries=50"];

#[tokio::test]
async fn leader_mode_stops_cleanly_on_sigterm_and_starts_again() {
    nodes_stop_cleanly(Mode::Leader).await;
}

#[tokio::test]
async fn leaderless_mode_stops_cleanly_on_sigterm_and_starts_again() {
    nodes_stop_cleanly(Mode::Leaderless).await;
}

async fn nodes_stop_cleanly(mode: Mode) {
    let mut trial = Trial::start(mode, &SHORT_SEGMENTS).await;
    for number in 0..40 {
        trial.put(0, "large", &format!("{number:08192}"), "").await;
    }
    for index in 0..3 {
        assert_eq!(trial.log_start(index).await, LOG_BEGINS, "nothing has cut the log yet");
    }
    let scene = trial.scene();
    let keys = keys("stop", 20).expect("keys");
    let load = Load::start(&scene, &keys);
    load.acknowledge(WRITES, "with all nodes").await;
    // One, under load: the others go on.
    stop(&mut trial, &[0]).await;
    load.acknowledge(WRITES, "with one node stopped").await;
    trial.restart(0).await;
    load.acknowledge(WRITES, "with all nodes again").await;
    // All at once, under load.
    stop(&mut trial, &[0, 1, 2]).await;
    let mut ops = load.stop().await;
    for index in 0..3 {
        trial.cluster.restart(index).expect("the process starts");
    }
    trial.cluster.wait_until_ready().await.expect("all nodes are ready again");
    for index in 0..3 {
        let start = trial.log_start(index).await;
        assert!(start > LOG_BEGINS, "node index {index} took no checkpoint when it stopped");
        assert_eq!(trial.counter(index, "log_torn_tails").await, 0);
        let large = trial.get(index, "large", "").await;
        assert_eq!(large, Some(format!("{:08192}", 39)), "through node index {index}");
    }
    ops.extend(read_back(&scene, &keys).await);
    trial.assert_promises_held("stopped", ops);
}

/// Tells nodes to stop, all at once, and sees each end with exit code 0.
async fn stop(trial: &mut Trial, indexes: &[usize]) {
    for index in indexes {
        trial.cluster.terminate(*index).expect("told");
    }
    for index in indexes {
        let (status, log) = trial.cluster.ended(*index, PATIENCE).await.expect("it ends");
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.lines().last().is_some_and(|line| line.contains("stopped")), "{log}");
    }
}

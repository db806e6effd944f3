//! Every node is killed at once, again and again, and comes back with all that was acknowledged: what
//! the log was cut up to is in the table's files, and the rest is in the log.

use quorate::config::Engine;
use quorate::lab::load::read_back;
use quorate::lab::workload::keys;
use quorate::types::Mode;

use super::load::Load;
use super::trial::{LOG_BEGINS, LOOK_EVERY, Trial};

/// Writes acknowledged in each stage.
const WRITES: u64 = 100;

/// How often all are killed.
const ROUNDS: u32 = 3;

/// Large values of each round, in rows that are never written again: 3 MiB, so that a checkpoint cuts
/// the log and only the table has the first of them.
const LARGE_ROWS: u32 = 48;
const LARGE_BYTES: usize = 64 << 10;

const SMALL_LOG: [&str; 6] = [
    "--set",
    "storage.checkpoint_log_bytes=1MiB",
    "--set",
    "storage.log_segment_bytes=64KiB",
    "--set",
    "leader.keep_entries=10",
];

#[tokio::test]
async fn sled_in_leader_mode_keeps_every_acknowledged_write_when_all_nodes_are_killed() {
    all_nodes_are_killed(Engine::Sled, Mode::Leader).await;
}

#[tokio::test]
async fn fjall_in_leader_mode_keeps_every_acknowledged_write_when_all_nodes_are_killed() {
    all_nodes_are_killed(Engine::Fjall, Mode::Leader).await;
}

#[tokio::test]
async fn fjall_in_leaderless_mode_keeps_every_acknowledged_write_when_all_nodes_are_killed() {
    all_nodes_are_killed(Engine::Fjall, Mode::Leaderless).await;
}

async fn all_nodes_are_killed(engine: Engine, mode: Mode) {
    let mut trial = Trial::start_with(engine, mode, &SMALL_LOG).await;
    let scene = trial.scene();
    let keys = keys("together", 20).expect("keys");
    let mut ops = Vec::new();
    let mut rows = 0;
    for _ in 0..ROUNDS {
        let load = Load::start(&scene, &keys);
        load.acknowledge(WRITES, "with all nodes").await;
        for _ in 0..LARGE_ROWS {
            put_large(&trial, &mut rows).await;
        }
        load.acknowledge(WRITES, "after large values").await;
        ops.extend(load.stop().await);
        // Killed right after a checkpoint, before another write would push out what it should have.
        let begins = trial.log_start(0).await;
        assert!(begins > LOG_BEGINS, "nothing has cut the log yet");
        while trial.log_start(0).await == begins {
            put_large(&trial, &mut rows).await;
            trial.runtime.sleep(LOOK_EVERY).await;
        }
        for index in 0..3 {
            trial.cluster.kill(index).expect("killed");
        }
        for index in 0..3 {
            trial.cluster.restart(index).expect("the process starts");
        }
        trial.cluster.wait_until_ready().await.expect("all nodes are ready again");
        for row in 0..rows {
            let value = trial.get((row % 3) as usize, &format!("large-{row}"), "").await;
            assert!(value == Some(large(row)), "row {row} is not what was acknowledged");
        }
    }
    ops.extend(read_back(&scene, &keys).await);
    trial.assert_promises_held("killed-together", ops);
}

async fn put_large(trial: &Trial, rows: &mut u32) {
    let (node, key) = ((*rows % 3) as usize, format!("large-{rows}"));
    trial.put_patiently(node, &key, &large(*rows)).await;
    *rows += 1;
}

fn large(row: u32) -> String {
    format!("{row:04}/").repeat(LARGE_BYTES / 5)
}

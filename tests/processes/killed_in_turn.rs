//! Each node is killed in turn under load and comes back, and nothing that was acknowledged is gone.

use quorate::lab::load::read_back;
use quorate::lab::workload::keys;
use quorate::types::Mode;

use super::load::Load;
use super::trial::Trial;

/// Writes acknowledged in each stage: many more than requests are under way at a time.
const WRITES: u64 = 100;

#[tokio::test]
async fn leader_mode_keeps_every_acknowledged_write_while_each_node_is_killed_in_turn() {
    each_node_is_killed_in_turn(Mode::Leader).await;
}

#[tokio::test]
async fn leaderless_mode_keeps_every_acknowledged_write_while_each_node_is_killed_in_turn() {
    each_node_is_killed_in_turn(Mode::Leaderless).await;
}

async fn each_node_is_killed_in_turn(mode: Mode) {
    let mut trial = Trial::start(mode, &[]).await;
    let scene = trial.scene();
    let keys = keys("turn", 40).expect("keys");
    let load = Load::start(&scene, &keys);
    let mut victims = vec![0, 1, 2];
    if mode == Mode::Leader {
        // The leader first, so that one is killed for certain.
        let leader = trial.leader().await;
        victims.sort_by_key(|index| *index != leader);
    }
    for victim in victims {
        load.acknowledge(WRITES, "with all nodes").await;
        trial.cluster.kill(victim).expect("killed");
        load.acknowledge(WRITES, "with one node killed").await;
        trial.restart(victim).await;
    }
    load.acknowledge(WRITES, "at the end").await;
    let mut ops = load.stop().await;
    ops.extend(read_back(&scene, &keys).await);
    trial.assert_promises_held("killed-in-turn", ops);
    for index in 0..3 {
        assert_eq!(trial.counter(index, "version_collisions").await, 0);
    }
}

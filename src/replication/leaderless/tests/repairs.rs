//! A repair that was asked for.

use super::*;
use crate::replication::repair::{RepairState, RepairStatus};

async fn until_ended(cluster: &Cluster, id: u16) -> RepairStatus {
    for _ in 0..400 {
        let status = cluster.node(id).leaderless.repair_status().expect("a status");
        if !status.running {
            return status;
        }
        cluster.sleep_ms(500).await;
    }
    panic!("it does not end");
}

#[test]
fn a_repair_brings_all_replicas_together_and_says_what_it_did() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 1).await;
        cluster.lose_requests(1, 3);
        for number in 0..40 {
            cluster.put(1, &format!("key-{number}"), "value").await;
        }
        // What waits to be sent to node 3 is given up by then.
        cluster.sleep_ms(2_500).await;
        cluster.plan.heal();
        cluster.settle().await;
        let before = cluster.node(2).leaderless.repair_status().expect("a status");
        assert_eq!(before, RepairStatus::default());
        // Node 2 has all of it, so that it is node 2 that gives.
        let started = cluster.node(2).leaderless.start_repair().expect("started");
        assert!(started.running);
        let ended = until_ended(&cluster, 2).await;
        let nodes: Vec<u16> = ended.peers.iter().map(|peer| peer.node.0).collect();
        assert_eq!(nodes, [1, 3]);
        assert!(ended.peers.iter().all(|peer| peer.state == RepairState::Done), "{ended:?}");
        assert_eq!(ended.peers.iter().map(|peer| peer.repaired).sum::<u64>(), 40);
        assert_eq!(ended.peers[1].compared, ended.peers[1].differing);
        for number in 0..40 {
            let held = shown(cluster.held(3, &format!("key-{number}")));
            assert_eq!(held, Some("value".to_owned()), "key-{number}");
        }
    });
}

#[test]
fn a_repair_names_the_node_that_it_could_not_compare_with() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 2).await;
        cluster.crash(3);
        cluster.sleep_ms(100).await;
        cluster.node(1).leaderless.start_repair().expect("started");
        let ended = until_ended(&cluster, 1).await;
        assert_eq!(ended.peers[0].state, RepairState::Done);
        assert_eq!(ended.peers[1].state, RepairState::Failed);
        assert!(ended.peers[1].error.as_deref().is_some_and(|error| error.contains("node 3")));
        cluster.start_node(3);
        cluster.settle().await;
        cluster.node(1).leaderless.start_repair().expect("started again");
        let ended = until_ended(&cluster, 1).await;
        assert!(ended.peers.iter().all(|peer| peer.state == RepairState::Done), "{ended:?}");
    });
}

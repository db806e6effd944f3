//! Reads by the leader's lease, and local reads that bound how stale they may be.

use quorate::types::Mode;

use super::trial::Trial;

const LEASE: &str = "/v1/kv/a?consistency=lease";

#[tokio::test]
async fn every_node_reads_by_the_leader_s_lease() {
    let trial = Trial::start(Mode::Leader, &[]).await;
    trial.put_patiently(0, "a", "1").await;
    for index in 0..3 {
        // A busy machine may keep a heartbeat waiting; then a majority confirms, and it is said.
        trial
            .until("the lease vouches for a read", async || {
                let answer = trial.call(index, "GET", LEASE, "").await;
                assert_eq!((answer.status, answer.body.as_str()), (200, "1"));
                answer.level.as_deref() == Some("lease")
            })
            .await;
    }
    assert!(trial.counter(trial.leader().await, "lease_reads").await > 0);
    let answer = trial.call(0, "PUT", LEASE, "2").await;
    assert!(answer.status == 400 && answer.body.contains("level-not-offered"), "{answer:?}");
}

#[tokio::test]
async fn a_node_that_is_left_alone_refuses_local_reads_with_a_bound_and_serves_those_without() {
    let mut trial = Trial::start(Mode::Leader, &[]).await;
    trial.put_patiently(0, "a", "1").await;
    let bounded = "/v1/kv/a?consistency=local&max_staleness=500ms";
    for index in 0..3 {
        trial
            .until("a node is fresh enough", async || {
                let answer = trial.call(index, "GET", bounded, "").await;
                let level = answer.level.unwrap_or_default();
                answer.status == 200 && level.starts_with("local; staleness_ms=")
            })
            .await;
    }
    for index in 1..3 {
        trial.cluster.kill(index).expect("killed");
    }
    trial
        .until("the node that is left refuses", async || {
            let answer = trial.call(0, "GET", bounded, "").await;
            answer.status == 503 && answer.body.contains("too-stale")
        })
        .await;
    assert_eq!(trial.get(0, "a", "?consistency=local").await.as_deref(), Some("1"));
    let misplaced = trial.call(0, "GET", "/v1/kv/a?max_staleness=1s", "").await;
    assert!(misplaced.status == 400 && misplaced.body.contains("max_staleness"), "{misplaced:?}");
}

#[tokio::test]
async fn leaderless_mode_has_neither() {
    let trial = Trial::start(Mode::Leaderless, &[]).await;
    let lease = trial.call(0, "GET", LEASE, "").await;
    assert!(lease.status == 400 && lease.body.contains("level-not-offered"), "{lease:?}");
    let bounded = trial.call(0, "GET", "/v1/kv/a?consistency=local&max_staleness=1s", "").await;
    assert!(bounded.status == 400 && bounded.body.contains("leader mode"), "{bounded:?}");
}

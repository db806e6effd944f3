//! Values that hold for a while only, through the command line, in both modes.

use quorate::types::Mode;

use super::trial::Trial;

/// Puts a value for a second and one for good, and waits until the first is gone everywhere.
async fn a_value_expires(mode: Mode) -> Trial {
    let trial = Trial::start(mode, &[]).await;
    trial.put_patiently(0, "stays", "1").await;
    let long = trial.command(1, &["put", "holds", "1", "--ttl", "1h"]);
    assert!(long.status.success(), "{}", String::from_utf8_lossy(&long.stderr));
    let put = trial.command(1, &["put", "goes", "1", "--ttl", "1s"]);
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let held = trial.command(2, &["get", "holds"]);
    let held: serde_json::Value = serde_json::from_slice(&held.stdout).expect("JSON");
    assert!(held["expires"].as_str().is_some_and(|at| at.ends_with("GMT")), "{held}");
    for index in 0..3 {
        trial
            .until("the value is gone", async || trial.get(index, "goes", "").await.is_none())
            .await;
        for name in ["stays", "holds"] {
            assert_eq!(trial.get(index, name, "").await.as_deref(), Some("1"));
        }
    }
    let listed = trial.call(2, "GET", "/v1/kv?prefix=", "").await;
    assert!(listed.body.contains("stays") && !listed.body.contains("goes"), "{}", listed.body);
    // It holds nothing, and so may be put anew, for good.
    trial.put_patiently(2, "goes", "2").await;
    assert_eq!(trial.get(0, "goes", "").await.as_deref(), Some("2"));
    trial
}

#[tokio::test]
async fn in_leader_mode_a_value_expires_by_the_log_and_once() {
    let trial = a_value_expires(Mode::Leader).await;
    for index in 0..3 {
        let expired = async || trial.counter(index, "records_expired").await == 1;
        trial.until("every node has applied it", expired).await;
    }
}

#[tokio::test]
async fn in_leaderless_mode_a_value_expires_at_every_coordinator() {
    let trial = a_value_expires(Mode::Leaderless).await;
    let refused = trial.command(1, &["put", "goes", "1", "--ttl", "0s"]);
    assert_eq!(refused.status.code(), Some(64), "a time is expected");
}

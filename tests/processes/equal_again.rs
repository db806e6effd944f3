//! A leaderless replica that was away becomes equal without a read, and the commands that tell of it.

use quorate::types::Mode;
use serde_json::Value;

use super::trial::Trial;

/// Keys written while a node is away.
const KEYS: usize = 60;

impl Trial {
    /// Whether some replica of a key is known to be behind, or is not known.
    fn differs(&self, key: &str) -> bool {
        let output = self.command(0, &["explain", key]);
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let replicas = told["replicas"].as_array().expect("replicas");
        assert_eq!(replicas.len(), 3, "{told}");
        replicas.iter().any(|replica| replica["behind"] != Value::Bool(false))
    }

    async fn all_equal(&self) {
        for number in 0..KEYS {
            let key = format!("away/{number}");
            self.until(&format!("{key} is equal everywhere"), async || !self.differs(&key)).await;
        }
    }
}

/// Writes while the third node is killed, and starts it again.
async fn written_while_one_was_away(flags: &[&str]) -> Trial {
    let mut trial = Trial::start(Mode::Leaderless, flags).await;
    trial.put_patiently(0, "away/0", "old").await;
    trial.cluster.kill(2).expect("killed");
    for number in 0..KEYS {
        trial.put_patiently(number % 2, &format!("away/{number}"), "new").await;
    }
    trial.restart(2).await;
    trial
}

#[tokio::test]
async fn hints_alone_bring_a_node_that_was_killed_what_it_missed() {
    let trial = written_while_one_was_away(&["--set", "leaderless.compare_interval_ms=0"]).await;
    trial.all_equal().await;
    let sent = trial.counter(0, "hints_sent").await + trial.counter(1, "hints_sent").await;
    assert!(sent > 0, "nothing was hinted");
}

#[tokio::test]
async fn a_comparison_alone_brings_a_node_that_was_killed_what_it_missed() {
    let trial = written_while_one_was_away(&["--set", "leaderless.hint_bytes=0"]).await;
    trial.all_equal().await;
    let mut repairs = 0;
    for index in 0..3 {
        repairs += trial.counter(index, "comparison_repairs").await;
        assert_eq!(trial.counter(index, "damaged_partitions").await, 0);
    }
    assert!(repairs > 0, "nothing was repaired");
}

#[tokio::test]
async fn a_repair_that_is_asked_for_does_it_where_nothing_else_does() {
    let nothing = ["--set", "leaderless.hint_bytes=0", "--set", "leaderless.compare_interval_ms=0"];
    let trial = written_while_one_was_away(&nothing).await;
    let stale = trial.command(0, &["explain", "away/7"]);
    let told: Value = serde_json::from_slice(&stale.stdout).expect("JSON");
    assert_eq!(told["replicas"][2]["behind"], true, "{told}");
    let output = trial.command(0, &["cluster", "repair"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let nodes: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(nodes.len(), 3, "{said}");
    let repaired = |node: &Value| {
        let peers = node["peers"].as_array().expect("peers").clone();
        peers.iter().map(|peer| peer["repaired_records"].as_u64().expect("a count")).sum::<u64>()
    };
    assert!(nodes.iter().map(repaired).sum::<u64>() > 0, "{said}");
    trial.all_equal().await;
}

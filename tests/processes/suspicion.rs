//! A node that hangs is suspected by those that ask it, long before its links are given up.

use quorate::types::Mode;
use serde_json::Value;

use super::trial::Trial;

impl Trial {
    /// What one node thinks of another.
    async fn thinks(&self, index: usize, of: u16) -> String {
        let answer = self.call(index, "GET", "/v1/cluster", "").await;
        let told: Value = serde_json::from_str(&answer.body).expect("JSON");
        let members = told["members"].as_array().expect("members");
        let member = members.iter().find(|member| member["id"] == of).expect("it is a member");
        member["state"].as_str().expect("a state").to_owned()
    }

    /// What each node thinks of another, as `quorate cluster status` tells.
    fn seen_by(&self, of: usize) -> Value {
        let output = self.command(0, &["cluster", "status"]);
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        told["members"][of]["seen_by"].clone()
    }
}

#[tokio::test]
async fn a_node_that_hangs_is_suspected_and_is_normal_again_once_it_answers() {
    let trial = Trial::start(Mode::Leaderless, &[]).await;
    // So that it is known how long answers take.
    for number in 0..120 {
        trial.put_patiently(number % 3, &format!("known/{number}"), "1").await;
    }
    let all_normal = serde_json::json!({"1": "normal", "2": "normal"});
    trial.until("both find it normal", async || trial.seen_by(2) == all_normal).await;
    trial.cluster.pause(2).expect("paused");
    for index in 0..2 {
        trial.put_patiently(index, "asks", "1").await;
        // Before the three seconds after which the link ends: then it is unreachable.
        trial.until("it is suspected", async || trial.thinks(index, 3).await == "suspected").await;
    }
    let silent = serde_json::json!({"2": "normal", "3": null});
    trial.until("it does not answer", async || trial.seen_by(0) == silent).await;
    trial.cluster.resume(2).expect("resumed");
    for index in 0..2 {
        trial.until("it is normal", async || trial.thinks(index, 3).await == "normal").await;
    }
}

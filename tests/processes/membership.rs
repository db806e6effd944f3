//! Members come, leave and are replaced in clusters of real processes, under load.

use std::fs;

use quorate::lab::load::read_back;
use quorate::lab::workload::keys;
use quorate::types::Mode;
use serde_json::Value;

use super::load::Load;
use super::trial::{Answer, PATIENCE, Trial};

/// Writes acknowledged in each stage: many more than requests are under way at a time.
const WRITES: u64 = 100;

impl Trial {
    /// Starts one more node, and waits until it is a voter.
    pub async fn join(&mut self, index: usize) {
        self.cluster.restart(index).expect("the process starts");
        let id = self.cluster.ids()[index];
        self.until(&format!("node {id} is a voter"), async || {
            self.role(id).await.as_deref() == Some("voter")
        })
        .await;
    }

    /// What a node is, as the first that answers says.
    async fn role(&self, id: u16) -> Option<String> {
        for (index, pid) in self.cluster.pids().into_iter().enumerate() {
            let Some(view) = self.ask_members(index).await.filter(|_| pid != 0) else { continue };
            let members = view["members"].as_array().expect("members");
            let member = members.iter().find(|member| member["id"] == id)?;
            return member["role"].as_str().map(str::to_owned);
        }
        None
    }

    async fn ask_members(&self, index: usize) -> Option<Value> {
        let mut connection = self.connection(index);
        let answer = connection.call("GET", "/v1/cluster/members", b"").await.ok()?;
        serde_json::from_slice(answer.body).ok()
    }

    /// Changes the members; again while the cluster says that it cannot now.
    pub async fn change(&self, index: usize, method: &str, below: &str, body: &str) -> Answer {
        let target = format!("/v1/cluster/members{below}");
        loop {
            let answer = self.call(index, method, &target, body).await;
            if answer.status != 503 && answer.status != 504 {
                return answer;
            }
        }
    }

    /// A removed node says that it was, and ends.
    pub async fn ends_removed(&mut self, index: usize) {
        let id = self.cluster.ids()[index];
        let (status, log) = self.cluster.ended(index, PATIENCE).await.expect("it ends");
        assert_eq!(status.code(), Some(1), "{log}");
        let said = log.lines().rfind(|line| line.starts_with("quorate: ")).unwrap_or_default();
        assert!(said.contains(&format!("node {id} was removed")), "{said}");
    }
}

#[tokio::test]
async fn three_nodes_become_five_and_three_again_under_load_and_no_promise_breaks() {
    let mut trial = Trial::start(Mode::Leader, &[]).await;
    let joining: Vec<usize> =
        (0..2).map(|through| trial.cluster.prepare_to_join(through).expect("room")).collect();
    let scene = trial.scene();
    let keys = keys("grow", 12).expect("keys");
    let load = Load::start(&scene, &keys);
    load.acknowledge(WRITES, "with three").await;
    for index in &joining {
        trial.join(*index).await;
        load.acknowledge(WRITES, "with one more").await;
    }
    // The leader, and one that was there from the start: five nodes are three again.
    let leader = trial.leader().await;
    let other = if leader == 0 { 1 } else { 0 };
    for index in [leader, other] {
        let id = trial.cluster.ids()[index];
        let answer = trial.change(joining[0], "DELETE", &format!("/{id}"), "").await;
        if index != joining[0] {
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        trial.ends_removed(index).await;
        load.acknowledge(WRITES, "with one less").await;
    }
    let mut ops = load.stop().await;
    ops.extend(read_back(&scene, &keys).await);
    trial.assert_promises_held("members-change", ops);
}

#[tokio::test]
async fn a_removed_node_never_comes_back_and_what_would_lose_the_quorum_is_refused() {
    let mut trial = Trial::start(Mode::Leader, &[]).await;
    trial.put_patiently(0, "a", "1").await;
    let refused = trial.change(0, "DELETE", "/77", "").await;
    assert!(refused.status == 404 && refused.body.contains("unknown-node"), "{refused:?}");
    let bad = trial.change(0, "DELETE", "/zero", "").await;
    assert!(bad.status == 400 && bad.body.contains("\"id\""), "{bad:?}");
    let bad = trial.change(0, "POST", "", "{\"id\": 4}").await;
    assert!(bad.status == 400 && bad.body.contains("bad-body"), "{bad:?}");

    // The third is down while it is removed, and hears of it when it comes back.
    trial.cluster.kill(2).expect("killed");
    let removed = trial.change(0, "DELETE", "/3", "").await;
    assert_eq!(removed.status, 200, "{}", removed.body);
    let again = trial.change(1, "DELETE", "/3", "").await;
    assert_eq!(again.status, 200, "asked for again: {}", again.body);
    trial.cluster.restart(2).expect("the process starts");
    trial.ends_removed(2).await;
    // It remembers, and does not even try.
    trial.cluster.restart(2).expect("the process starts");
    trial.ends_removed(2).await;
    // Nor with a new directory under the old id.
    fs::remove_dir_all(trial.cluster.data_dir(2)).expect("removed");
    let used = trial.change(0, "POST", "", "{\"id\": 3, \"peer\": \"127.0.0.1:9\"}").await;
    assert!(used.status == 409 && used.body.contains("id-was-used"), "{used:?}");

    // Of two, neither can go without the other's consent.
    let leader = trial.leader().await;
    let other = 1 - leader;
    trial.cluster.kill(other).expect("killed");
    let (id, target) = (trial.cluster.ids()[leader], "/v1/cluster/members");
    trial
        .until("the leader misses the other", async || {
            let answer = trial.call(leader, "DELETE", &format!("{target}/{id}"), "").await;
            answer.status == 409 && answer.body.contains("would-lose-quorum")
        })
        .await;
    trial.restart_one(other).await;
    trial.put_patiently(other, "a", "2").await;
}

impl Trial {
    /// Starts a node that is down, and waits until it is ready, whatever the others do.
    async fn restart_one(&mut self, index: usize) {
        self.cluster.restart(index).expect("the process starts");
        self.until("the node is ready again", async || {
            let mut connection = self.connection(index);
            connection.call("GET", "/readyz", b"").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
}

#[tokio::test]
async fn a_learner_replaces_a_node_that_is_gone_and_keeps_its_place_over_a_restart() {
    let mut trial = Trial::start(Mode::Leader, &["--join-as", "learner"]).await;
    for number in 0..50 {
        trial.put_patiently(0, &format!("key-{number}"), "value").await;
    }
    let index = trial.cluster.prepare_to_join(0).expect("room");
    trial.cluster.restart(index).expect("the process starts");
    trial
        .until("node 4 is a learner", async || trial.role(4).await.as_deref() == Some("learner"))
        .await;
    trial.cluster.kill(2).expect("killed");
    let replaced = trial.change(1, "POST", "/3/replace", "{\"with\": 4}").await;
    assert_eq!(replaced.status, 200, "{}", replaced.body);
    let view: Value = serde_json::from_str(&replaced.body).expect("JSON");
    assert_eq!(view["removed"], serde_json::json!([3]), "{view}");
    assert_eq!(trial.role(4).await.as_deref(), Some("voter"));
    // What it knows of the cluster it now knows by itself.
    trial.cluster.kill(index).expect("killed");
    trial.restart_one(index).await;
    trial
        .until("it has everything", async || {
            trial.local_items(index, "key-").await.is_some_and(|items| items.len() == 50)
        })
        .await;
    trial.put_patiently(index, "last", "value").await;
}

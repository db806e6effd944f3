//! Nodes that missed writes: a follower catches up through a snapshot, a replica is repaired by
//! reads.

use std::collections::BTreeMap;

use quorate::client::ListItem;
use quorate::types::Mode;

use super::trial::{LOG_BEGINS, Trial};

/// How many writes the follower misses, and on how many keys.
const MISSED_WRITES: usize = 20_000;
const KEYS: usize = 8_000;
/// Connections that write; each key has one of them, so that its last write is known.
const WRITERS: usize = 4;
/// Operations in a batch: what is allowed by default.
const BATCH: usize = 128;

/// A log that is cut every few hundred kilobytes, behind few entries; and deadlines that a busy
/// machine does not miss, since here every write must be acknowledged.
const SMALL_LOG: [&str; 8] = [
    "--set",
    "storage.checkpoint_log_bytes=1MiB",
    "--set",
    "storage.log_segment_bytes=256KiB",
    "--set",
    "leader.keep_entries=50",
    "--set",
    "limits.request_timeout_ms=60000",
];

type Model = BTreeMap<String, String>;

/// The write with this number: every tenth is a delete, the others put a value of their own.
fn write(number: usize) -> (String, Option<String>) {
    let key = format!("missed-{:05}", number % KEYS);
    (key, (!number.is_multiple_of(10)).then(|| format!("{number:0200}")))
}

fn apply(model: &mut Model, number: usize) {
    match write(number) {
        (key, Some(value)) => drop(model.insert(key, value)),
        (key, None) => drop(model.remove(&key)),
    }
}

fn batch(numbers: &[usize]) -> String {
    let operation = |number: &usize| match write(*number) {
        (key, Some(value)) => serde_json::json!({"op": "put", "key": key, "value": value}),
        (key, None) => serde_json::json!({"op": "delete", "key": key}),
    };
    let operations: Vec<_> = numbers.iter().map(operation).collect();
    serde_json::json!({ "operations": operations }).to_string()
}

/// Writes all of `numbers` in batches through the nodes `through`, each acknowledged.
async fn write_all(trial: &Trial, through: &[usize], numbers: std::ops::Range<usize>) {
    let writer = |writer: usize| {
        let mine: Vec<usize> =
            numbers.clone().filter(|number| number % WRITERS == writer).collect();
        let mut connection = trial.connection(through[writer % through.len()]);
        trial.runtime.spawn(async move {
            for numbers in mine.chunks(BATCH) {
                let body = batch(numbers);
                let answer = connection.call("POST", "/v1/batch", body.as_bytes()).await;
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(answer.body));
                let body: serde_json::Value = serde_json::from_slice(answer.body).expect("JSON");
                let results = body["results"].as_array().expect("results");
                assert_eq!(results.len(), numbers.len());
                for result in results {
                    assert_eq!(result["status"], 204, "{result}");
                }
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(writer).collect();
    for writer in writers {
        writer.await.expect("every write is acknowledged");
    }
}

/// Whether a node's own copy of the keys written is what was written.
async fn has_all(trial: &Trial, index: usize, model: &Model) -> bool {
    let Some(items) = trial.local_items(index, "missed-").await else { return false };
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let pair = |item: ListItem| (item.key.clone(), text(item.bytes().expect("bytes")));
    items.into_iter().map(pair).collect::<Model>() == *model
}

#[tokio::test]
async fn a_follower_that_missed_20000_writes_catches_up_through_a_snapshot() {
    let mut trial = Trial::start(Mode::Leader, &SMALL_LOG).await;
    let leader = trial.leader().await;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    // Something to be overwritten and deleted while the follower is away.
    let mut model = Model::new();
    (1..1_000).for_each(|number| apply(&mut model, number));
    write_all(&trial, &[leader], 1..1_000).await;
    let has_all_now = async || has_all(&trial, follower, &model).await;
    trial.until("the follower has it all", has_all_now).await;

    trial.cluster.kill(follower).expect("killed");
    let missed = 1_000..1_000 + MISSED_WRITES;
    missed.clone().for_each(|number| apply(&mut model, number));
    write_all(&trial, &[leader, other], missed).await;
    trial.until("the log is cut", async || trial.log_start(leader).await > LOG_BEGINS).await;

    trial.restart(follower).await;
    let caught_up = async || has_all(&trial, follower, &model).await;
    trial.until("the follower has caught up", caught_up).await;
    assert!(trial.counter(follower, "snapshots_installed").await >= 1, "it got a snapshot");
    assert!(trial.counter(leader, "snapshots_sent").await >= 1, "the leader sent it");

    // What was installed is as durable as what was written.
    trial.cluster.kill(follower).expect("killed");
    trial.restart(follower).await;
    let caught_up = async || has_all(&trial, follower, &model).await;
    trial.until("it has it all after a crash", caught_up).await;

    // It counts as a voter that has everything: without it there is no majority now.
    trial.cluster.kill(leader).expect("killed");
    trial.put_patiently(follower, "after", "all").await;
    assert_eq!(trial.get(other, "after", "").await.as_deref(), Some("all"));
    assert!(has_all(&trial, follower, &model).await);
}

#[tokio::test]
async fn a_replica_that_was_down_is_repaired_by_quorum_reads() {
    const LOCAL: &str = "?consistency=local";
    // Reads alone: nothing is brought to it by itself.
    let by_reads_alone =
        ["--set", "leaderless.hint_bytes=0", "--set", "leaderless.compare_interval_ms=0"];
    let mut trial = Trial::start(Mode::Leaderless, &by_reads_alone).await;
    let names = |kind: &str| (0..10).map(|n| format!("{kind}-{n}")).collect::<Vec<_>>();
    let (stale, missing, deleted, elsewhere) =
        (names("stale"), names("missing"), names("deleted"), names("elsewhere"));
    let old = stale.iter().chain(&deleted).chain(&elsewhere);
    // A node is ready before its last link is up, which a write to all replicas needs.
    let is_connected = async || trial.call(0, "PUT", "/v1/kv/first?w=3", "x").await.status == 204;
    trial.until("node 1 reaches every replica", is_connected).await;
    for key in old.clone() {
        trial.put(0, key, "old", "?w=3").await;
    }
    trial.cluster.kill(2).expect("killed");
    for key in stale.iter().chain(&missing).chain(&elsewhere) {
        trial.put(1, key, "new", "").await;
    }
    for key in &deleted {
        let answer = trial.call(0, "DELETE", &format!("/v1/kv/{key}"), "").await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
    trial.restart(2).await;

    // Nobody has told it yet, and local reads say so.
    for key in old {
        assert_eq!(trial.get(2, key, LOCAL).await.as_deref(), Some("old"), "{key}");
    }
    for key in &missing {
        assert_eq!(trial.get(2, key, LOCAL).await, None, "{key}");
    }

    // One read through it brings each key up to date.
    let want = |key: &String| (!key.starts_with("deleted")).then(|| "new".to_owned());
    let read_through_it: Vec<_> = stale.iter().chain(&missing).chain(&deleted).collect();
    for key in &read_through_it {
        assert_eq!(trial.get(2, key, "").await, want(key), "{key}");
    }
    assert!(trial.counter(2, "read_repairs").await >= read_through_it.len() as u64);
    for key in &read_through_it {
        let repaired = async || trial.get(2, key, LOCAL).await == want(key);
        trial.until(&format!("{key} is right on its own"), repaired).await;
    }

    // Reads through other nodes find it stale in the end, too: some of them ask all replicas.
    for key in &elsewhere {
        let repaired = async || {
            assert_eq!(trial.get(0, key, "").await, want(key), "{key}");
            trial.get(2, key, LOCAL).await == want(key)
        };
        trial.until(&format!("{key} is repaired through another node"), repaired).await;
    }
    for key in stale.iter().chain(&missing).chain(&elsewhere) {
        let target = format!("/v1/kv/{key}{LOCAL}");
        let etags =
            [trial.call(0, "GET", &target, "").await, trial.call(2, "GET", &target, "").await];
        assert!(etags[0].etag.is_some() && etags[0].etag == etags[1].etag, "{key}: {etags:?}");
    }
}

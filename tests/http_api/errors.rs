//! Every failure of a replicator, and what clients are told.

use std::time::Duration;

use quorate::error::{ReadError, Refusal, WriteError};
use quorate::types::{Level, Mode, NodeId, Version};

use crate::world::{World, in_a_world};

/// Every refusal, with the status and the code that are promised for it.
fn refusals() -> Vec<(Refusal, u16, &'static str)> {
    let detail = || "because".to_owned();
    let mode = Mode::Leader;
    vec![
        (
            Refusal::LevelNotOffered { level: Level::Lease, mode, allowed: "quorum" },
            400,
            "level-not-offered",
        ),
        (Refusal::NotImplemented { what: detail(), mode }, 501, "not-implemented"),
        (Refusal::BadParameter { parameter: "r", problem: detail() }, 400, "bad-parameter"),
        (Refusal::NoLeader { detail: detail() }, 503, "no-leader"),
        (
            Refusal::NotLeader { leader: NodeId(3), client_address: "10.0.0.3:7001".to_owned() },
            421,
            "not-leader",
        ),
        (
            Refusal::NotEnoughReplicas { needed: 2, answered: 1, detail: detail() },
            503,
            "not-enough-replicas",
        ),
        (Refusal::ClockDrift { detail: detail() }, 503, "clock-drift"),
        (
            Refusal::Overloaded { what: "the queue", retry_after: Duration::from_millis(1_001) },
            429,
            "overloaded",
        ),
        (Refusal::NotReady { detail: detail() }, 503, "not-ready"),
        (Refusal::Storage { detail: detail() }, 503, "storage-failed"),
    ]
}

async fn read_fails(world: &World, error: ReadError, status: u16, code: &str) {
    *world.fake.fail_reads.lock().unwrap() = Some(error.clone());
    for uri in ["/v1/kv/a", "/v1/kv"] {
        let answer = world.get(uri).await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{uri}");
        assert_eq!(answer.json()["outcome"], serde_json::Value::Null, "reads have no outcome");
        assert_eq!(answer.json()["detail"], error.to_string());
    }
}

async fn write_fails(world: &World, error: WriteError, status: u16, code: &str, outcome: &str) {
    *world.fake.fail_writes.lock().unwrap() = Some(error.clone());
    for method in ["PUT", "DELETE"] {
        let answer = world.ask(method, "/v1/kv/a", &[]).await;
        assert_eq!(answer.problem(), (status, code.to_owned()));
        assert_eq!(answer.json()["outcome"], outcome);
        assert_eq!(answer.json()["detail"], error.to_string());
    }
    let batch = r#"{"operations":[{"op":"put","key":"a","value":"1"}]}"#;
    let result = world.post("/v1/batch", batch).await.json()["results"][0].clone();
    assert_eq!(result["status"], status);
    assert_eq!(result["code"], code);
    assert_eq!(result["outcome"], outcome);
}

#[test]
fn every_refusal_of_a_read_and_of_a_write_is_told_as_promised() {
    in_a_world(Mode::Leader, |world| async move {
        for (refusal, status, code) in refusals() {
            read_fails(&world, ReadError::Refused(refusal.clone()), status, code).await;
            let error = WriteError::Refused(refusal);
            write_fails(&world, error, status, code, "not_applied").await;
        }
    });
}

#[test]
fn only_an_unknown_outcome_is_a_504_of_a_write() {
    in_a_world(Mode::Leader, |world| async move {
        let unknown = WriteError::Unknown { detail: "sent".to_owned() };
        write_fails(&world, unknown, 504, "unknown-outcome", "unknown").await;
        let failed = WriteError::PreconditionFailed { current: None };
        write_fails(&world, failed, 412, "precondition-failed", "not_applied").await;
        let reused = WriteError::IdempotencyKeyReused;
        write_fails(&world, reused, 422, "idempotency-key-reused", "not_applied").await;
        let current = Version::new(5 << 16, NodeId(1));
        let failed = WriteError::PreconditionFailed { current: Some(current) };
        write_fails(&world, failed, 412, "precondition-failed", "not_applied").await;
        let answer = world.put("/v1/kv/a", "1").await;
        assert_eq!(answer.header("etag"), Some(current.etag().as_str()));
        let slow = ReadError::TimedOut { waited: Duration::from_millis(70) };
        read_fails(&world, slow, 504, "timed-out").await;
    });
}

#[test]
fn refusals_say_whom_to_ask_and_when() {
    in_a_world(Mode::Leader, |world| async move {
        for (refusal, status, _) in refusals() {
            *world.fake.fail_reads.lock().unwrap() = Some(ReadError::Refused(refusal));
            let answer = world.ask("GET", "/v1/kv/a", &[("quorate-trace", "1")]).await;
            assert_eq!(answer.header("quorate-mode"), Some("leader"));
            assert_eq!(answer.header("quorate-node"), Some("2"));
            assert!(answer.header("server-timing").is_some());
            let retry_after = (status == 429).then_some("2");
            assert_eq!(answer.header("retry-after"), retry_after);
            let leader = (status == 421).then_some("10.0.0.3:7001");
            assert_eq!(answer.json()["leader"].as_str(), leader);
            assert_eq!(answer.json()["leader_node"].as_u64(), leader.map(|_| 3));
        }
    });
}

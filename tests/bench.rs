//! `quorate bench` as a user runs it: a node of its own, a short load, and what is written down.
//!
//! What is asserted never depends on how fast the machine is.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .arg("bench")
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn json_of(output: &Output) -> Value {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{complaint}");
    serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
}

fn positive(value: &Value, names: &[&str]) {
    for name in names {
        let found = name.split('.').fold(value, |inner, part| &inner[part]);
        assert!(found.as_f64().is_some_and(|number| number > 0.0), "{name}: {value:#}");
    }
}

/// A cluster of one node in memory, as small and short as it gets.
fn small<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["--nodes", "1", "--engine", "memory", "--data-dir", data, "--keys", "50"];
    args.extend(["--connections", "2", "--value-size", "100", "--output", "json"]);
    args.extend(more);
    args
}

fn left_behind(data: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(data).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn a_short_bench_of_one_node_counts_measures_charges_and_leaves_its_report_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let out = dir.path().join("out");
    let (data_text, out_text) = (data.to_str().expect("text"), out.to_str().expect("text"));
    let length = ["--duration", "1s", "--warmup", "100ms", "--load", "--mix", "put,get,50/50"];
    let place = ["--out", out_text, "--watch", "200ms"];
    let found = json_of(&bench(&small(data_text, &[&length[..], &place[..]].concat())));

    assert_eq!((&found["format"], &found["ended_early"]), (&Value::from(1), &Value::Null));
    assert_eq!(found["setup"]["engine"], "memory");
    let rows = found["rows"].as_array().expect("rows");
    for row in rows {
        let samples = row["samples"].as_array().expect("samples");
        assert!(samples.len() >= 3, "both ends and some between: {samples:?}");
        positive(&samples[0], &["resident_bytes", "log_bytes"]);
        assert_eq!(row["elections"], 0, "a node alone is elected once, before");
    }
    let mixes: Vec<_> = rows.iter().map(|row| row["mix"].as_str()).collect();
    assert_eq!(mixes, [Some("put"), Some("get"), Some("50/50")]);
    for row in rows {
        positive(row, &["operations.done", "per_second", "seconds", "peak_resident_bytes"]);
        positive(row, &["latency.p50_us", "latency.p999_us", "latency.max_us"]);
        assert_eq!(row["latency"]["count"], row["operations"]["done"]);
        assert_eq!((&row["connections"], &row["value_bytes"]), (&2.into(), &100.into()));
        assert!(row["costs"]["cpu_us"].is_number() && row["client_cpu_us"].is_number(), "{row:#}");
        assert!(row["costs"]["peer_bytes"].is_number() && row["offered"].is_null(), "{row:#}");
    }
    positive(&rows[0], &["costs.syncs", "costs.log_bytes"]);
    assert_eq!(rows[1]["not_found"], 0, "the keys were loaded");
    positive(&rows[2], &["put_latency.count", "get_latency.count"]);

    let written = std::fs::read_to_string(out.join("bench.json")).expect("bench.json");
    assert_eq!(serde_json::from_str::<Value>(&written).expect("JSON"), found);
    let page = std::fs::read_to_string(out.join("bench.md")).expect("bench.md");
    assert!(page.contains("| leader, put, 100 B, 2 at a time |"), "{page}");
    assert!(left_behind(&data).is_empty(), "{:?}", left_behind(&data));
}

#[test]
fn an_open_loop_a_kill_and_restarts_of_one_node_account_for_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let open = ["--rate", "100", "--duration", "1s", "--warmup", "0", "--mode", "leaderless"];
    let found = json_of(&bench(&small(data, &open)));
    let row = &found["rows"][0];
    assert_eq!(row["offered"], 100, "{row:#}");
    let counted: u64 = ["done", "failed", "unknown"]
        .iter()
        .map(|ended| row["operations"][ended].as_u64().expect("a count"))
        .sum();
    assert_eq!(counted + row["missed"].as_u64().expect("a count"), 100, "{row:#}");

    let events = ["--kill-leader", "1", "--stop-leader", "1", "--restart", "--rate", "200"];
    let found = json_of(&bench(&small(data, &events)));
    assert_eq!(found["rows"].as_array().map(Vec::len), Some(0));
    let kills = &found["kills"][0];
    positive(kills, &["acknowledged_writes", "gap.max_ms", "load.operations.done"]);
    assert_eq!((&kills["lost_writes"], &kills["unread_keys"]), (&0.into(), &0.into()));
    positive(&kills["kills"][0], &["first_write_ms", "longest_gap_ms", "ready_ms"]);
    let ended = [0, 1].map(|kills| found["kills"][kills]["ended"].as_str());
    assert_eq!(ended, [Some("killed"), Some("stopped")]);
    let restarts = found["restarts"][0]["restarts"].as_array().expect("restarts");
    let ended: Vec<_> = restarts.iter().map(|restart| restart["ended"].as_str()).collect();
    assert_eq!(ended, [Some("stopped"), Some("killed")]);
    restarts.iter().for_each(|restart| positive(restart, &["ready_ms", "first_read_ms"]));
    assert!(left_behind(dir.path()).is_empty(), "{:?}", left_behind(dir.path()));
}

#[test]
fn a_node_that_is_paused_costs_no_acknowledged_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let mut args = vec!["--mode", "leaderless", "--engine", "memory", "--data-dir", data];
    args.extend(["--keys", "50", "--connections", "4", "--value-size", "100", "--output", "json"]);
    args.extend(["--pause-follower", "1", "--rate", "100"]);
    let found = json_of(&bench(&args));
    let kills = &found["kills"][0];
    assert_eq!((&kills["ended"], &kills["victims"]), (&"paused".into(), &"node".into()));
    positive(kills, &["acknowledged_writes", "gap.max_ms", "load.operations.done"]);
    assert_eq!((&kills["lost_writes"], &kills["unread_keys"]), (&0.into(), &0.into()));
    // What was with it waited for it to go on.
    let longest_us = kills["load"]["latency"]["max_us"].as_u64().expect("a latency");
    assert!(longest_us > 1_000_000, "it was stopped for two seconds: {longest_us} µs");
    assert!(left_behind(dir.path()).is_empty(), "{:?}", left_behind(dir.path()));
}

/// A log that is cut soon, so that few keys need to be written again.
const SMALL_LOG: [&str; 3] = [
    "storage.checkpoint_log_bytes=1MiB",
    "storage.log_segment_bytes=1MiB",
    "leader.keep_entries=100",
];

#[test]
fn a_follower_that_is_sent_a_snapshot_is_measured_before_meanwhile_and_after() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let mut args = vec!["--snapshot", "--engine", "memory", "--data-dir", data, "--keys", "2000"];
    for setting in SMALL_LOG {
        args.extend(["--set", setting]);
    }
    args.extend(["--connections", "2", "--value-size", "100", "--output", "json"]);
    args.extend(["--rate", "100", "--duration", "1s", "--warmup", "100ms"]);
    let found = json_of(&bench(&args));
    let snapshot = &found["snapshots"][0];
    positive(snapshot, &["node", "installed_ms"]);
    let parts = snapshot["parts"].as_array().expect("parts");
    let names: Vec<_> = parts.iter().map(|part| part["name"].as_str()).collect();
    assert_eq!(names, [Some("before"), Some("without"), Some("while"), Some("after")]);
    for part in parts {
        positive(&part["row"], &["operations.done", "latency.p99_us", "seconds"]);
        assert_eq!(part["row"]["operations"]["failed"], 0, "{part:#}");
    }
    assert!(left_behind(dir.path()).is_empty(), "{:?}", left_behind(dir.path()));
}

#[test]
fn a_replica_that_was_away_is_measured_until_its_copy_equals_the_others_in_both_modes() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let mut args = vec!["--away", "2500", "--mode", "both", "--engine", "memory"];
    args.extend(["--data-dir", data, "--connections", "2", "--value-size", "100"]);
    args.extend(["--output", "json", "--rate", "100", "--duration", "1s", "--warmup", "100ms"]);
    let found = json_of(&bench(&args));
    let absences = found["absences"].as_array().expect("absences");
    let modes: Vec<_> = absences.iter().map(|absent| absent["mode"].as_str()).collect();
    assert_eq!(modes, [Some("leader"), Some("leaderless")]);
    for absent in absences {
        positive(absent, &["node", "equal_ms"]);
        assert_eq!(absent["writes"], 2_500);
        let parts = absent["parts"].as_array().expect("parts");
        let names: Vec<_> = parts.iter().map(|part| part["name"].as_str()).collect();
        assert_eq!(names, [Some("before"), Some("without"), Some("while"), Some("after")]);
        for part in parts {
            positive(&part["row"], &["operations.done", "latency.p99_us", "seconds"]);
        }
    }
    assert!(left_behind(dir.path()).is_empty(), "{:?}", left_behind(dir.path()));
}

#[test]
fn partitions_that_move_to_nodes_that_join_and_back_are_counted_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let mut args = vec!["--grow", "--mode", "leaderless", "--engine", "memory", "--keys", "2k"];
    args.extend(["--data-dir", data, "--connections", "2", "--value-size", "100"]);
    args.extend(["--mix", "50/50", "--output", "json", "--rate", "100"]);
    args.extend(["--duration", "1s", "--warmup", "100ms"]);
    let found = json_of(&bench(&args));
    let growth = &found["growths"][0];
    let changes = growth["changes"].as_array().expect("changes");
    let held: Vec<_> = changes.iter().map(|moved| moved["nodes"].to_string()).collect();
    assert_eq!(held, ["[1,2,3,4,5]", "[1,2,3]"]);
    for moved in changes {
        let count = |name: &str| moved[name].as_u64().expect("a count");
        assert!(count("least_records") > 1_000, "{moved:#}");
        // What is written meanwhile needs not be brought.
        assert!(count("records") > count("least_records") / 2, "{moved:#}");
    }
    let parts = growth["parts"].as_array().expect("parts");
    let names: Vec<_> = parts.iter().map(|part| part["name"].as_str()).collect();
    assert_eq!(names, [Some("before"), Some("growing"), Some("shrinking"), Some("after")]);
    positive(growth, &["acknowledged_writes"]);
    assert_eq!((&growth["lost_writes"], &growth["unread_keys"]), (&json!(0), &json!(0)));
    assert!(left_behind(dir.path()).is_empty(), "{:?}", left_behind(dir.path()));
}

#[test]
fn a_bench_that_makes_no_sense_is_refused_in_one_line_before_anything_starts() {
    for (args, parts) in [
        (&["--connections", "0"][..], &["--connections 0", "1 to 4096"][..]),
        (&["--mix", "puts"], &["--mix", "'puts'", "50/50"]),
        (&["--mode", "leaderless", "--kill-leader", "3"], &["--kill-leader 3", "--kill-follower"]),
        (&["--rate", "-1"], &["--rate -1", "1 to 1000000"]),
    ] {
        let output = bench(args);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(parts.iter().all(|part| complaint.contains(part)), "{args:?}: {complaint}");
    }
}

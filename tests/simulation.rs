//! Simulated worlds from the command line: no promise is broken, the same seed gives the same bytes
//! in two processes, seeds differ, and a mistake in the arguments is explained.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .arg("sim")
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn replays(mode: &str) {
    let run = |seed| sim(&["--mode", mode, "--seed", seed, "--trace"]);
    let mut traces = Vec::new();
    for seed in ["11", "12"] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.status.code(), Some(0), "seed {seed}: {}", said(&first));
        assert!(first.stdout == second.stdout, "seed {seed} in {mode} mode does not replay");
        traces.push(String::from_utf8_lossy(&first.stdout).into_owned());
    }
    let worlds: Vec<_> = traces.iter().map(|trace| trace.lines().nth(1)).collect();
    assert_ne!(worlds[0], worlds[1], "two seeds give one world");
    assert!(traces.iter().all(|trace| trace.contains("what happened: ")), "{}", traces[0]);
}

#[test]
fn leader_mode_replays() {
    replays("leader");
}

#[test]
fn leaderless_mode_replays() {
    replays("leaderless");
}

#[test]
fn a_few_worlds_of_both_modes_keep_every_promise_and_replay() {
    let output = sim(&["--seeds", "1..2", "--twice", "--counts"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{printed}\n{}", said(&output));
    assert!(printed.contains("4 of 4 worlds gave the same trace twice"), "{printed}");
    assert!(printed.contains("recovery: election won"), "{printed}");
}

#[test]
fn a_history_that_a_world_writes_is_one_that_can_be_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("history.jsonl");
    let path = file.to_str().expect("a path");
    let output = sim(&["--mode", "leaderless", "--seed", "2", "--history", path]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let file = std::io::BufReader::new(std::fs::File::open(file).expect("a history"));
    let history = quorate::history::History::read(file).expect("a history");
    assert!(history.ops.len() > 500, "{} operations", history.ops.len());
}

#[test]
fn seeds_that_make_no_sense_are_refused() {
    for seeds in ["5..1", "x..3", "7", "1..18446744073709551615", "-1..3"] {
        let output = sim(&["--seeds", seeds]);
        assert_eq!(output.status.code(), Some(64), "{seeds}");
        assert!(said(&output).contains("such as 1..500") || seeds == "-1..3", "{}", said(&output));
    }
    let output = sim(&["--seed", "1", "--seeds", "1..2"]);
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
}

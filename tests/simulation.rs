//! Simulated worlds: a node crashes and comes back, no promise is broken, and the same seed gives
//! the same bytes in two processes.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

fn run(mode: &str, seed: u64) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["sim", "--mode", mode, "--seed", &seed.to_string(), "--trace"])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn replays(mode: &str) {
    let mut traces = Vec::new();
    for seed in [11, 12] {
        let (first, second) = (run(mode, seed), run(mode, seed));
        let said = String::from_utf8_lossy(&first.stderr).into_owned();
        assert_eq!(first.status.code(), Some(0), "seed {seed}: {said}");
        assert!(first.stdout == second.stdout, "seed {seed} in {mode} mode does not replay");
        let trace = String::from_utf8_lossy(&first.stdout).into_owned();
        assert!(trace.contains("crashes") && trace.contains("boot 2"), "nothing crashed: {trace}");
        traces.push(trace);
    }
    assert_ne!(traces[0].lines().nth(8), traces[1].lines().nth(8), "two seeds give one world");
}

#[test]
fn leader_mode_replays_through_a_crash() {
    replays("leader");
}

#[test]
fn leaderless_mode_replays_through_a_crash() {
    replays("leaderless");
}

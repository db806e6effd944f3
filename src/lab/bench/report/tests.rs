//! What the tables say, and what follows from the figures.

use std::path::Path;

use super::*;
use crate::lab::bench::results::{BenchVerdict, FORMAT, GapSummary, Kill, Sample, Setup};
use crate::lab::process::Machine;
use crate::lab::readings::Costs;
use crate::lab::results::Counts;
use crate::types::Mode;

fn row() -> Row {
    let latency = Percentiles {
        count: 900,
        p50_us: 1_240,
        p90_us: 2_000,
        p99_us: 3_000,
        p999_us: 4_000,
        max_us: 5_000,
    };
    Row {
        mode: Mode::Leader,
        mix: "50/50".to_owned(),
        level: Some("linearizable".to_owned()),
        value_bytes: 256,
        connections: 16,
        rate_per_second: Some(500),
        seconds: 2.0,
        offered: Some(1_000),
        missed: 98,
        operations: Counts { done: 900, failed: 1, unknown: 1 },
        errors: [("no-leader".to_owned(), 2)].into(),
        not_found: 7,
        superseded: 0,
        per_second: 450.0,
        latency: Some(latency),
        put_latency: Some(latency),
        get_latency: None,
        start_delay: Some(latency),
        costs: Costs { cpu_us: Some(127.0), syncs: Some(0.2), ..Costs::default() },
        client_cpu_us: None,
        checkpoints: Some(0),
        peak_resident_bytes: Some(200 << 20),
        elections: Some(0),
        samples: Vec::new(),
    }
}

fn kills(lost_writes: u64) -> Kills {
    let kill = Kill {
        node: 2,
        first_write_ms: Some(340.0),
        longest_gap_ms: 341.0,
        ready_ms: 200.0,
        failed: 3,
        unknown: 4,
    };
    Kills {
        mode: Mode::Leader,
        victims: "leader".to_owned(),
        ended: "stopped".to_owned(),
        kills: vec![kill],
        gap: Some(GapSummary { count: 1, p50_ms: 340.0, p99_ms: 340.0, max_ms: 340.0 }),
        load: row(),
        kept: ReadBack {
            acknowledged_writes: 1_234,
            lost_writes,
            unread_keys: 0,
            examples: (0..lost_writes).map(|number| format!("key number {number}")).collect(),
            evidence: None,
        },
    }
}

fn results() -> BenchResults {
    BenchResults {
        format: FORMAT,
        quorate_version: "0".to_owned(),
        started_wall_ms: 0,
        seconds: 1.0,
        seed: 42,
        machine: Machine::facts(Path::new("/")),
        setup: Setup {
            targets: Vec::new(),
            nodes: 3,
            engine: Some("sled".to_owned()),
            settings: Vec::new(),
            keys: 10_000,
            loaded: false,
            duration_s: 2.0,
            warm_up_s: 1.0,
            timeout_ms: 10_000,
            max_in_flight: None,
        },
        rows: vec![row()],
        kills: Vec::new(),
        restarts: Vec::new(),
        snapshots: Vec::new(),
        absences: Vec::new(),
        growths: Vec::new(),
        ended_early: None,
    }
}

#[test]
fn the_tables_say_what_was_measured_what_was_not_and_what_went_wrong() {
    let text = terminal(&results());
    for part in [
        "leader, 50/50 (linearizable), 256 B, 500 a second over 16",
        "1.24 ms",
        "127 µs",
        "200.00 MiB",
        "2 no-leader",
        "7 reads found nothing; --load",
        "started them: 3 ms.",
        "3 nodes, sled engine, 10,000 keys, 2 s a row after 1 s",
    ] {
        assert!(text.contains(part), "'{part}' is not in:\n{text}");
    }
    let head = text.lines().find(|line| line.contains("p99.9")).expect("a head");
    assert!(head.ends_with("missed"), "{head}");
    let costs = text.lines().find(|line| line.contains("127 µs")).expect("costs");
    assert!(costs.contains("  -  "), "what was not measured is no number: {costs}");
}

#[test]
fn a_watched_row_shows_both_ends_and_few_of_many_samples_and_elections_are_said() {
    let mut results = results();
    assert!(!terminal(&results).contains("on disk"), "nothing was watched");
    assert!(!terminal(&results).contains("election"), "there was none");
    let sample = |number: u64| Sample {
        at_s: number as f64,
        resident_bytes: (100 << 20) + number,
        log_bytes: number << 20,
        table_bytes: 7 << 20,
    };
    results.rows[0].samples = (0..=100).map(sample).collect();
    results.rows[0].elections = Some(2);
    let text = terminal(&results);
    let watched: Vec<&str> = text.lines().filter(|line| line.contains("7.00 MiB")).collect();
    assert_eq!(watched.len(), MOST_SAMPLES, "{text}");
    assert!(watched[0].contains("100.00 MiB") && watched[0].contains(" 0 B "), "{text}");
    let end = watched[MOST_SAMPLES - 1];
    assert!(end.starts_with("100 s ") && end.ends_with(" 7.00 MiB"), "{text}");
    assert!(text.contains("2 elections meanwhile: heartbeats came too late, or"), "{text}");
    results.rows[0].samples.truncate(1);
    assert_eq!(terminal(&results).matches("7.00 MiB").count(), 1, "one is shown once");
}

#[test]
fn a_lost_write_fails_the_bench_and_is_shown() {
    let mut results = results();
    results.kills = vec![kills(0)];
    assert_eq!(results.verdict(), BenchVerdict::Done);
    assert!(terminal(&results).contains("of those lost: 0;"));
    assert!(terminal(&results).contains("leader 2 stopped"));
    results.kills = vec![kills(2)];
    let BenchVerdict::Failed(problems) = results.verdict() else { panic!("it lost writes") };
    assert_eq!(problems, ["leader mode lost 2 acknowledged writes"]);
    assert!(terminal(&results).contains("LOST: key number 1"));
}

#[test]
fn what_was_never_done_and_what_could_not_be_read_back_is_no_success() {
    let mut unread = results();
    unread.kills = vec![kills(0)];
    unread.kills[0].kept.unread_keys = 3;
    assert!(matches!(unread.verdict(), BenchVerdict::Unknown(_)));
    let mut silent = results();
    silent.rows[0].operations.done = 0;
    let BenchVerdict::Failed(problems) = silent.verdict() else { panic!("nothing was done") };
    assert_eq!(problems, ["no 50/50 was done in leader mode: no-leader"]);
}

#[test]
fn a_bench_that_ended_early_says_so_on_its_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let results = BenchResults { ended_early: Some("a node ended".to_owned()), ..results() };
    write(&results, dir.path()).expect("written");
    let page = std::fs::read_to_string(dir.path().join("bench.md")).expect("bench.md");
    assert!(page.contains("Not all of it was measured: a node ended"), "{page}");
    let json = std::fs::read_to_string(dir.path().join("bench.json")).expect("bench.json");
    assert_eq!(serde_json::from_str::<BenchResults>(&json).expect("reads back"), results);
}

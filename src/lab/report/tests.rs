//! Reports of made-up results: whole, well-formed, offline, and holding the figures.

use super::*;
use crate::check::Finding;
use crate::history::Action;
use crate::lab::contestant::Contestant;
use crate::lab::process::Machine;
use crate::lab::results::{
    Bucket, CheckedHistory, ContestantResults, Counts, FORMAT, Idle, KilledNode, Load, Section,
    StalePoint, StaleReads, Throughput,
};
use crate::lab::stats::Percentiles;
use crate::types::{Level, Mode};

fn load(action: Action, connections: usize, per_second: f64) -> Load {
    Load {
        action,
        connections,
        seconds: 4.0,
        counts: Counts { done: 4_000, failed: 0, unknown: 0 },
        per_second,
        latency: Some(Percentiles {
            count: 4_000,
            p50_us: 1_310,
            p90_us: 2_000,
            p99_us: 4_870,
            p999_us: 9_000,
            max_us: 12_000,
        }),
        cpu_us_per_op: Some(87.0),
        syncs_per_op: Some(0.375),
        messages_per_op: Some(2.25),
        peer_bytes_per_op: None,
        resident_bytes: Some(50 << 20),
    }
}

fn killed_node() -> KilledNode {
    KilledNode {
        node: 2,
        was_leader: true,
        clients: 24,
        rate_per_second: 400.0,
        timeout_ms: 1_000,
        killed_ms: 3_000.0,
        restarted_ms: 8_000.0,
        ready_again_ms: 8_400.0,
        ended_ms: 12_000.0,
        bucket_ms: 100,
        buckets: vec![Bucket { done: 40, failed: 3, unknown: 2 }; 120],
        writes: Counts { done: 2_000, failed: 17, unknown: 5 },
        reads: Counts { done: 2_100, failed: 21, unknown: 0 },
        skipped: 4,
        first_write_ms: Some(1_234.0),
        longest_write_gap_ms: 1_567.0,
        longest_read_gap_ms: 1_111.0,
        usual_write_gap_ms: 9.0,
    }
}

fn stale_reads(level: &str) -> StaleReads {
    let point = |level: &str, delay_ms, missed| StalePoint {
        level: level.to_owned(),
        served: None,
        promised: level != "local",
        delay_ms,
        real_delay_ms: Some(delay_ms as f64 + 0.4),
        reads: 320,
        missed,
        no_verdict: 1,
    };
    let points =
        vec![point(level, 0, 0), point(level, 20, 0), point("local", 0, 34), point("local", 20, 0)];
    StaleReads { readers: 16, points }
}

fn measured(contestant: Contestant) -> ContestantResults {
    let mode = contestant.mode;
    let level = Level::default_for(mode).to_string();
    let finding = Finding {
        check: "lost-write".to_owned(),
        looks_for: "an acknowledged write that is gone <&>".to_owned(),
        level: level.clone(),
        promised: true,
        examined: 600,
        found: 0,
        unverified: 0,
        ..Finding::default()
    };
    ContestantResults {
        name: contestant.to_string(),
        contestant,
        default_level: level.clone(),
        served_level: (mode == Mode::Leaderless).then(|| "quorum; r=2; w=2; n=3".to_owned()),
        command: Some(format!("quorate serve --mode {mode}")),
        throughput: Section::Done {
            figures: Throughput {
                value_bytes: 256,
                keys: 1_000,
                loads: vec![
                    load(Action::Put, 1, 700.0),
                    load(Action::Put, 64, 12_345.0),
                    load(Action::Get, 1, 900.0),
                    load(Action::Get, 64, 23_456.0),
                ],
                idle: Some(Idle {
                    seconds: 3.0,
                    cpu_us_per_second: Some(4_321.0),
                    syncs_per_second: Some(0.0),
                    messages_per_second: Some(40.0),
                    peer_bytes_per_second: None,
                }),
            },
        },
        killed_node: Section::Done { figures: killed_node() },
        stale_reads: Section::Done { figures: stale_reads(&level) },
        checked: vec![CheckedHistory {
            experiment: "killed-node".to_owned(),
            file: format!("histories/{contestant}-killed-node.jsonl"),
            operations: 4_200,
            acknowledged_writes: 2_000,
            superseded_writes: 3,
            findings: vec![finding],
        }],
    }
}

fn results() -> Results {
    Results {
        format: FORMAT,
        quorate_version: "0.1.0".to_owned(),
        seed: 4_242,
        quick: true,
        started_wall_ms: 1_700_000_000_000,
        duration_s: 98.0,
        interrupted: false,
        machine: Machine {
            cores: 2,
            cpu: "A <processor> & co".to_owned(),
            memory_bytes: 8 << 30,
            kernel: "6.1.0".to_owned(),
            data_filesystem: "ext4".to_owned(),
            load_before: Some(1.75),
            cpu_tick_us: 10_000,
        },
        nodes: 3,
        engine: "sled".to_owned(),
        contestants: Contestant::DEFAULT.map(measured).to_vec(),
    }
}

/// Walks the tags of a page and panics where they do not nest.
fn assert_well_formed(html: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').expect("every tag ends") + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if tag.starts_with('!') || tag.ends_with('/') {
            continue;
        }
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap_or_default();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "before {}", &rest[..rest.len().min(80)]);
        } else {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

fn page(results: &Results) -> String {
    html::render(&title(results), &document(results))
}

#[test]
fn the_page_is_well_formed_needs_no_scripts_and_fetches_nothing() {
    let html = page(&results());
    assert_well_formed(&html);
    for word in
        ["http://", "https://", "<script", "<link", "<img", "src=", "@import", "NaN", "inf "]
    {
        assert!(!html.contains(word), "the page has {word}");
    }
    assert!(html.contains("A &lt;processor&gt; &amp; co"), "what was measured is escaped");
    assert!(html.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_figures_are_on_the_page_in_both_forms_and_on_the_terminal() {
    let results = results();
    let (html, text) = (page(&results), markdown::render(&title(&results), &document(&results)));
    let figures = [
        "12,345",
        "23,456",
        "1.31 ms",
        "4.87 ms",
        "1.57 s",
        "1.23 s",
        "38 requests",
        "5 writes",
        "10.6 %",
        "0.38 disk syncs",
        "87 µs",
        "2.25 messages",
        "4242",
        "quorum; r=2; w=2; n=3",
        "1.75 tasks",
        "histories/leader-killed-node.jsonl",
        "ext4",
        "3 writes",
    ];
    for figure in figures {
        assert!(html.contains(figure), "the page lacks {figure}");
        assert!(text.contains(figure), "the Markdown lacks {figure}");
    }
    let terminal = terminal::render(&results, Path::new("out"));
    for figure in ["12,345", "1.57 s", "10.6 %", "out/report.html", "1 ×", "38", "not linearizable"]
    {
        assert!(terminal.contains(figure), "the terminal lacks {figure}: {terminal}");
    }
    assert!(terminal.contains("Every promise that was checked held."));
}

#[test]
fn what_was_not_measured_is_said_and_not_filled_in() {
    let mut results = results();
    let leaderless = &mut results.contestants[1];
    leaderless.killed_node = Section::Failed { reason: "node 3 never came back".to_owned() };
    leaderless.throughput = Section::Skipped;
    let html = page(&results);
    assert_well_formed(&html);
    assert!(html.contains("Not measured: it failed: node 3 never came back."));
    assert!(html.contains("Not measured: it was not run."));
    assert!(html.contains("not everything could be checked"));
    assert!(!html.contains("In short: When"), "nothing is compared with nothing");
    assert!(matches!(results.verdict(), Verdict::Unknown(_)));
}

#[test]
fn nothing_measured_at_all_still_makes_a_page() {
    let mut results = results();
    for contestant in &mut results.contestants {
        contestant.throughput = Section::Skipped;
        contestant.killed_node = Section::Skipped;
        contestant.stale_reads = Section::Skipped;
        contestant.checked.clear();
    }
    results.interrupted = true;
    assert_well_formed(&page(&results));
    assert!(terminal::render(&results, Path::new("out")).contains("interrupted"));
}

#[test]
fn a_broken_promise_is_the_first_thing_on_the_page() {
    let mut results = results();
    let finding = &mut results.contestants[0].checked[0].findings[0];
    (finding.found, finding.examples) = (2, vec!["client 3 read nothing of k-1".to_owned()]);
    assert!(matches!(results.verdict(), Verdict::Broken(_)));
    let html = page(&results);
    let banner = html.find("Promises were broken").expect("said");
    assert!(banner < html.find("<table").expect("a table"));
    assert!(html.contains("client 3 read nothing of k-1") && html.contains("BROKEN: 2"));
    assert!(terminal::render(&results, Path::new("out")).contains("PROMISES WERE BROKEN"));
}

/// The default contestants and a fixed leader between them, without which nothing was written until
/// it was back.
fn results_with_a_fixed_leader() -> Results {
    let mut results = results();
    let mut fixed = measured(Contestant::FIXED);
    let run = KilledNode {
        node: 1,
        first_write_ms: Some(5_678.0),
        longest_write_gap_ms: 5_690.0,
        ..killed_node()
    };
    fixed.killed_node = Section::Done { figures: run };
    results.contestants.insert(1, fixed);
    results
}

#[test]
fn writes_that_came_back_only_with_the_killed_node_are_told_apart_everywhere() {
    let results = results_with_a_fixed_leader();
    let (html, text) = (page(&results), markdown::render(&title(&results), &document(&results)));
    assert_well_formed(&html);
    // 8,000 - 3,000 ms down, and 3,000 + 5,678 - 8,000 ms after the restart.
    let waited = "writes did not come back until the node did: of those asked for after the kill none \
                  was done in the 5 s until it \
                  was started again, and the first 678 ms after that";
    let terminal = terminal::render(&results, Path::new("out"));
    for (what, said) in [("page", &html), ("Markdown", &text), ("terminal", &terminal)] {
        assert!(said.contains(waited), "the {what} lacks it: {said}");
    }
    let in_short = "writes paused for 1.57 s in leader mode; for 5.69 s in leader mode with a \
                    fixed leader, until that node was back; for 1.57 s in leaderless mode.";
    assert!(text.contains(in_short), "{text}");
    let row = "| Writes came back | without the node | only with the node | without the node |";
    assert!(text.contains(row), "{text}");
    for part in
        ["While node 1 is down, which alone may lead", "histories/fixed-leader-killed-node.jsonl"]
    {
        assert!(text.contains(part), "the Markdown lacks {part}");
    }
    assert!(html.contains("class=\"c2\"") && html.contains("<polygon"), "a third style");
    let plain = self::results();
    assert!(!page(&plain).contains("did not come back"), "of nobody else");
}

#[test]
fn writes_that_never_came_back_are_not_said_to_have_come_with_the_node() {
    let mut results = results_with_a_fixed_leader();
    let run = KilledNode { first_write_ms: None, ..killed_node() };
    results.contestants[1].killed_node = Section::Done { figures: run };
    let text = markdown::render(&title(&results), &document(&results));
    assert!(text.contains("writes did not come back, not even once the node was back"), "{text}");
    assert!(!text.contains("until the node did"), "{text}");
    assert!(text.contains("| Writes came back | without the node | never |"), "{text}");
}

#[test]
fn contestants_of_one_mode_are_not_said_to_promise_different_things() {
    let mut results = results_with_a_fixed_leader();
    results.contestants.truncate(2);
    let terminal = terminal::render(&results, Path::new("out"));
    assert!(!terminal.contains("do not promise the same"), "{terminal}");
    assert!(terminal.contains("fixed-leader / leader"), "{terminal}");
    assert!(!page(&results).contains("do not promise the same"));
    results.contestants.truncate(1);
    assert!(!page(&results).contains("In short"), "one alone is compared with nothing");
}

#[test]
fn one_contestant_alone_is_not_spoken_of_as_one_of_several() {
    for (contestant, says) in [
        (
            Contestant::DEFAULT[0],
            "The store, run with an elected leader that orders every write (leader)",
        ),
        (Contestant::DEFAULT[1], "The store, run without a leader"),
        (Contestant::FIXED, "of a majority, the leader's own first (fixed leader)"),
    ] {
        let mut results = results();
        results.contestants = vec![measured(contestant)];
        let (html, text) =
            (page(&results), markdown::render(&title(&results), &document(&results)));
        assert_well_formed(&html);
        assert!(text.contains(says), "{text}");
        let terminal = terminal::render(&results, Path::new("out"));
        for said in [&text, &terminal] {
            for word in [
                "each contestant",
                "each mode",
                "What each",
                "Same program",
                " first, then ",
                "where there is one",
                "In short",
            ] {
                assert!(!said.contains(word), "{contestant} alone, and it says {word}: {said}");
            }
            let other = if contestant.mode == Mode::Leader { "eaderless" } else { "(leader)" };
            assert!(!said.contains(other), "{contestant} alone, and it says {other}: {said}");
        }
    }
    let several = markdown::render(&title(&results()), &document(&results()));
    for said in
        ["for each contestant", "The same store, once with", "the leader where there is one"]
    {
        assert!(several.contains(said), "{several}");
    }
}

#[test]
fn the_results_name_each_contestant_its_mode_and_its_fixed_leader() {
    let results = results_with_a_fixed_leader();
    let json = serde_json::to_value(&results).expect("JSON");
    let told: Vec<String> = json["contestants"]
        .as_array()
        .expect("contestants")
        .iter()
        .map(|c| format!("{} {} {}", c["name"], c["mode"], c["fixed_leader"]))
        .collect();
    let want = [
        r#""leader" "leader" null"#,
        r#""fixed-leader" "leader" 1"#,
        r#""leaderless" "leaderless" null"#,
    ];
    assert_eq!(told, want);
    assert_eq!(serde_json::from_value::<Results>(json).expect("reads back"), results);
}

//! `quorate check` as a process: what it says of good, bad, undecided and nonsensical files, and
//! which exit code says it.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const HEADER: &str = r#"{"what":"quorate-history","format":1,"mode":"leader","experiment":"by hand","seed":1,"nodes":3}"#;

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .arg("check")
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A put of `1-<seq>` or a get that shows it, from `from_us` to `to_us`.
fn op(action: &str, client: u32, seq: u32, from_us: u64, to_us: u64) -> String {
    format!(
        r#"{{"client":{client},"op":"{action}","key":"k","value":"1-{seq}","invoked_us":{from_us},"answered_us":{to_us},"outcome":"ok","node":1,"level":"linearizable","version":"{seq:016x}-1","status":200}}"#
    )
}

fn readback(seq: u32) -> String {
    op("get", 9, seq, 900, 905).replace('}', r#","readback":true}"#)
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a directory"))
    }

    fn write(&self, name: &str, lines: &[String]) -> String {
        let path = self.path(name);
        std::fs::write(&path, lines.join("\n")).expect("a file");
        path.to_str().expect("a path").to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.0.path(), name)
    }
}

fn good() -> Vec<String> {
    vec![HEADER.to_owned(), op("put", 1, 1, 10, 20), op("get", 2, 1, 30, 40), readback(1)]
}

/// A value is seen, and then the one before it.
fn inverted() -> Vec<String> {
    vec![
        HEADER.to_owned(),
        op("put", 1, 1, 10, 20),
        op("put", 1, 2, 30, 500),
        op("get", 2, 2, 40, 50),
        op("get", 3, 1, 60, 70),
        op("get", 4, 2, 600, 610),
        readback(2),
    ]
}

#[test]
fn a_good_history_keeps_its_promises() {
    let files = Files::new();
    let output = check(&[&files.write("good.jsonl", &good())]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    for part in ["leader mode, by hand, seed 1, 3 nodes, 3 operations", "linearizability"] {
        assert!(said.contains(part), "'{part}' is not in:\n{said}");
    }
    assert!(said.ends_with("Every promise that was checked held.\n"), "{said}");
}

#[test]
fn a_broken_promise_is_explained_shortened_and_drawn() {
    let files = Files::new();
    let file = files.write("bad.jsonl", &inverted());
    let svg = files.path("bad.svg");
    let output = check(&[&file, "--svg", svg.to_str().expect("a path")]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("BROKEN: linearizability at linearizable"), "{said}");
    assert!(said.contains("client 3 read value 1-1"), "{said}");
    assert!(said.ends_with("1 promises are BROKEN.\n"), "{said}");
    let (_, shortest) = said.split_once("that shows linearizability:\n").expect("a short history");
    let (shortest, _) = shortest.split_once("\n\n").expect("an end");
    let lines: Vec<String> = shortest.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 5, "{shortest}");
    // What it prints is a history that it finds the same in.
    let again = check(&[&files.write("short.jsonl", &lines)]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stdout));
    let drawn = std::fs::read_to_string(svg).expect("a drawing");
    assert!(drawn.starts_with("<svg") && drawn.contains("get → 1-1"), "{drawn}");
}

#[test]
fn json_says_the_same() {
    let files = Files::new();
    let (bad, good) = (files.write("bad.jsonl", &inverted()), files.write("good.jsonl", &good()));
    let output = check(&[&good, &bad, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["files"][0]["verdict"], "kept");
    assert_eq!(said["files"][1]["verdict"], "broken");
    assert_eq!(said["files"][1]["shortest"][0]["check"], "linearizability");
    assert_eq!(said["files"][1]["shortest"][0]["operations"].as_array().map(Vec::len), Some(4));
}

#[test]
fn what_could_not_be_verified_is_neither_kept_nor_broken() {
    let files = Files::new();
    let mut unread = good();
    unread.pop();
    let output = check(&[&files.write("unread.jsonl", &unread)]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("not all could be checked"), "{said}");
    let undecided = check(&["--budget", "1", &files.write("good.jsonl", &good())]);
    assert_eq!(undecided.status.code(), Some(2), "{}", text(&undecided.stdout));
}

#[test]
fn the_worst_of_several_files_is_the_exit_code() {
    let files = Files::new();
    let (bad, good) = (files.write("bad.jsonl", &inverted()), files.write("good.jsonl", &good()));
    assert_eq!(check(&[&good, &good]).status.code(), Some(0));
    assert_eq!(check(&[&bad, &good]).status.code(), Some(1));
    assert_eq!(check(&[&good, &bad, "/nowhere.jsonl"]).status.code(), Some(64));
}

#[test]
fn nonsense_is_refused_with_its_line() {
    let files = Files::new();
    let complains = |lines: &[&str], part: &str| {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let file = files.write("nonsense.jsonl", &lines);
        let output = check(&[&file]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(part) && said.contains("nonsense.jsonl"), "'{part}': {said}");
    };
    complains(&[], "empty");
    complains(&["hello"], "line 1 is not the header");
    complains(&[HEADER, "{\"client\":1}"], "line 2 is not an operation");
    complains(&[HEADER, "", "[]"], "line 3 is not an operation");
    let put = op("put", 1, 1, 10, 20);
    complains(&[HEADER, &put, &put], "line 3: value 1-1 was written in line 2");
    complains(&[HEADER, &op("put", 1, 1, 20, 10)], "line 2: answered at 10 µs, before");
    complains(&[&HEADER.replace("\"format\":1", "\"format\":9")], "format 9");
    for (args, part) in [
        (&[][..], "FILE"),
        (&["/nowhere.jsonl"], "/nowhere.jsonl: cannot be opened"),
        (&["--budget", "0", "x"], "--budget"),
        (&["--output", "xml", "x"], "xml"),
    ] {
        let output = check(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: '{part}' is not in: {said}");
    }
}

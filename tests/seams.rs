//! The seams of DESIGN section 3, enforced: what runs in a node reaches time, randomness, threads, the
//! disk and the network through `runtime`, `storage::disk` and `peer` alone, so that a simulated world
//! replays. What iterates in an order of its own is kept out as well.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// What only a seam may name.
const FORBIDDEN: [&str; 16] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "tokio::fs",
    "tokio::net",
    "tokio::time",
    "tokio::sync::watch",
    "rand::",
    "getrandom",
    "HashMap",
    "HashSet",
    "RandomState",
    "Runtime::real",
];

/// Names imported like this would be hidden from the search.
const HIDING: [&str; 4] = ["use std::{", "use tokio::{", "use std::time::*", "use tokio::*"];

/// These never run in a simulated node: they drive nodes from outside, or are the command line.
const OUTSIDE: [&str; 7] = ["lab", "cli", "client", "main", "history", "check", "sim"];

/// Who may name what, and why. A trailing slash stands for a folder.
const ALLOWED: [(&str, &str, &str); 19] = [
    ("runtime.rs", "Runtime::real", "the seam itself"),
    ("runtime.rs", "SystemTime", "the seam: the only wall clock"),
    ("runtime.rs", "UNIX_EPOCH", "the seam: the only wall clock"),
    ("runtime.rs", "tokio::time", "the seam: the only timers"),
    ("runtime.rs", "rand::", "the seam: the only randomness"),
    ("runtime.rs", "std::thread", "the seam: the only threads"),
    ("consensus/runtime.rs", "rand::", "openraft asks for a generator; seeded from the runtime"),
    ("consensus/runtime.rs", "Runtime::real", "for openraft's tasks outside a simulated node"),
    ("consensus/apply.rs", "HashMap", "looked up by row, never iterated"),
    ("peer/tcp.rs", "std::net", "the seam: real links"),
    ("peer/tcp.rs", "tokio::net", "the seam: real links"),
    ("peer/memory/", "rand::", "the seam: simulated links, from a seed"),
    ("peer/fault.rs", "rand::", "the seam: faults of links, from a seed"),
    ("api/server.rs", "tokio::net", "the seam to clients; simulated ones call the router"),
    ("api/headers.rs", "UNIX_EPOCH", "a date is counted from it; no clock is read"),
    ("storage/disk/", "rand::", "the seam: a simulated disk, from a seed"),
    ("storage/disk/real.rs", "std::fs", "the seam: real files"),
    ("storage/log/", "std::thread", "joins its writer's thread, and asks whether it panics"),
    ("storage/table/sled.rs", "std::fs", "syncs sled's own files, which a simulated world has not"),
];

/// More of the same.
const ALLOWED_TOO: [(&str, &str, &str); 10] = [
    ("storage/table/sled.rs", "Runtime::real", "the thread that checks sled's rows"),
    ("storage/table/sled/boot.rs", "std::fs", "a file beside sled's own, and the kernel's boot id"),
    ("storage/table/sled.rs", "std::thread", "waits for sled's lock before the node starts"),
    ("storage/table/write_behind.rs", "std::thread", "its thread stands before sled alone"),
    ("storage/table/write_behind.rs", "Runtime::real", "its thread stands before sled alone"),
    ("storage/table/fjall.rs", "std::fs", "syncs fjall's folders, which a simulated world has not"),
    ("storage/table/fjall.rs", "std::thread", "waits while fjall is behind with its files"),
    ("storage/table/fjall/", "std::fs", "fjall's journals, and a file beside its own"),
    ("replication/leaderless/replica.rs", "std::thread", "asks whether it panics"),
    ("node.rs", "Runtime::real", "a real process's world"),
];

fn allowed() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    ALLOWED.into_iter().chain(ALLOWED_TOO)
}

#[test]
fn a_node_reaches_the_world_through_the_seams_alone() {
    let mut wrong = Vec::new();
    for (path, text) in node_sources() {
        for (line, name) in named(&text) {
            if !allowed().any(|(place, what, _)| what == name && is_in(&path, place)) {
                wrong.push(format!("src/{path}:{line} names {name}"));
            }
        }
    }
    let wrong = wrong.join("\n");
    assert!(wrong.is_empty(), "go through a seam, or say in this test why not:\n{wrong}");
}

#[test]
fn every_exception_is_still_needed() {
    let sources = node_sources();
    for (place, what, reason) in allowed() {
        let mut places = sources.iter().filter(|(path, _)| is_in(path, place));
        let used = places.any(|(_, text)| named(text).iter().any(|(_, name)| *name == what));
        assert!(used, "nothing in {place} names {what} any more ({reason}): remove the exception");
    }
}

#[test]
fn the_search_sees_what_it_should() {
    let text = "//! std::fs in a comment\nuse std::time::{Duration, Instant};\n\
                let x = std::fs::read(path); // tokio::net\nuse std::{fs, io};\n\
                use std::time::Duration;\nlet brand::New = HashMap::new();\n\
                use std::{\n    fs,\n};\n\
                #[cfg(test)]\nmod tests {\n    use std::net::TcpStream;\n}\n";
    let expected = [
        (2, "std::time::Instant"),
        (3, "std::fs"),
        (4, "use std::{"),
        (6, "HashMap"),
        (7, "use std::{"),
    ];
    assert_eq!(named(text), expected);
}

/// The source files that run in a node, by their path under `src`, without tests.
fn node_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of src") {
            let path = entry.expect("an entry").path();
            let relative = path.strip_prefix(&root).expect("it is below src");
            let name = relative.to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !is_outside(&name) && !is_test(&name) {
                files.push((name, fs::read_to_string(&path).expect("a source file")));
            }
        }
    }
    assert!(files.len() > 80, "only {} sources were found", files.len());
    files.sort();
    files
}

fn is_outside(path: &str) -> bool {
    let module = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    OUTSIDE.contains(&module)
}

fn is_test(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    parts.iter().any(|part| matches!(*part, "tests" | "contract") || part.ends_with("_tests"))
}

fn is_in(path: &str, place: &str) -> bool {
    path == place || (place.ends_with('/') && path.starts_with(place))
}

/// What is forbidden and named in a file's code, with line numbers.
fn named(text: &str) -> Vec<(usize, &'static str)> {
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let mut found = Vec::new();
    for (index, line) in production.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        let is_grouped = code.contains("std::time::{") && code.contains("Instant");
        let spelled = FORBIDDEN.into_iter().filter(|name| names(code, name));
        let grouped = is_grouped.then_some("std::time::Instant");
        let hidden = HIDING.into_iter().filter(|import| code.trim_start().starts_with(import));
        found.extend(spelled.chain(grouped).chain(hidden).map(|name| (index + 1, name)));
    }
    found
}

/// Whether the code names it, and not only something that ends like it.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

//! The built binary, fed nonsense: each mistake gets one clear line and the right exit code, and
//! nothing is half done.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn quorate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// Runs a command that must fail, and gives its exit code and what it complained.
fn fails(args: &[&str]) -> (i32, String) {
    let output = quorate(args);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("an exit code"), complaint)
}

#[track_caller]
fn assert_complains(args: &[&str], code: i32, parts: &[&str]) {
    let (exit, complaint) = fails(args);
    assert_eq!(exit, code, "{args:?}: {complaint}");
    for part in parts {
        assert!(complaint.contains(part), "{args:?}: '{part}' is not in: {complaint}");
    }
}

#[test]
fn settings_mistakes_are_usage_errors_that_name_the_setting_and_what_is_allowed() {
    assert_complains(&["serve"], 64, &["id is not set", "--id", "QUORATE_ID"]);
    assert_complains(&["serve", "--id", "0"], 64, &["id = '0' (from --id)", "1 to 65535"]);
    assert_complains(
        &["serve", "--id", "1", "--mode", "leeder"],
        64,
        &["'leeder'", "'leaderless'"],
    );
    assert_complains(
        &["serve", "--id", "1", "--peers", "1=a:1,1=b:2"],
        64,
        &["peers", "id 1 is given twice"],
    );
    assert_complains(
        &["serve", "--id", "4", "--peers", "1=a:1,2=b:2"],
        64,
        &["not among the peers"],
    );
    assert_complains(&["serve", "--id", "1", "--engine", "rocks"], 64, &["engine", "sled"]);
    assert_complains(&["serve", "--id", "1", "--set", "leader.hartbeat_ms=1"], 64, &["no such"]);
    assert_complains(&["serve", "--id", "1", "--set", "log=,=,"], 64, &["log filter"]);
    assert_complains(&["serve", "--id", "1", "--config", "/nowhere.toml"], 64, &["/nowhere.toml"]);
    assert_complains(&["nonsense"], 64, &["nonsense"]);
    assert_complains(&["serve", "--flag-that-is-not"], 64, &["--flag-that-is-not"]);
}

#[test]
fn a_settings_file_with_a_mistake_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("bad.toml");
    let path = file.to_str().expect("a path");
    for (text, part) in [
        ("id = 1\nmod = \"leader\"", "mod (from"),
        ("id = 1\n[leader]\nheartbeat_ms = \"soon\"", "leader.heartbeat_ms = 'soon'"),
        ("id = [1]", "id is array"),
        ("id = ", "not valid TOML"),
    ] {
        std::fs::write(&file, text).expect("a file");
        assert_complains(&["config", "check", "--config", path], 64, &[part, path]);
    }
}

#[test]
fn the_shipped_settings_files_are_valid_and_differ_in_the_mode() {
    for mode in ["leader", "leaderless"] {
        let file = format!("{}/config/{mode}.toml", env!("CARGO_MANIFEST_DIR"));
        let output = quorate(&["config", "print", "--config", &file, "--id", "2"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        let value = |name: &str| {
            let line =
                text.lines().find(|line| line.split('=').next().map(str::trim) == Some(name));
            line.expect(name).to_owned()
        };
        assert!(value("mode").contains(&format!("= {mode} ")), "{}", value("mode"));
        assert!(value("listen").contains("127.0.0.1:7002"));
        assert!(value("data_dir").contains(&format!("data/{mode}/2")));
    }
}

/// Starts a node that must not start, and gives its exit code and complaint.
fn refused(args: &[&str]) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let patience = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("a status").is_none() {
        if Instant::now() > patience {
            child.kill().expect("killed");
            panic!("{args:?} started, but must be refused");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("output");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A port of the loopback interface that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// The flags of a cluster of one node on free ports over `dir`.
fn single(dir: &Path, extra: &[&str]) -> Vec<String> {
    let (client, peer) = (free_port(), free_port());
    let mut args = vec![
        "serve".to_owned(),
        format!("--listen=127.0.0.1:{client}"),
        format!("--peer-listen=127.0.0.1:{peer}"),
        format!("--data-dir={}", dir.display()),
    ];
    if !extra.iter().any(|arg| arg.starts_with("--id")) {
        args.push("--id=1".to_owned());
        args.push(format!("--peers=1=127.0.0.1:{peer}"));
    }
    args.extend(extra.iter().map(|arg| (*arg).to_owned()));
    args
}

/// A cluster of one node, ready; ended with SIGKILL when dropped.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn start(dir: &Path, extra: &[&str]) -> Running {
        let args = single(dir, extra);
        let child = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(&args)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let address = args[1].trim_start_matches("--listen=").to_owned();
        let running = Running { child, address };
        let patience = Instant::now() + Duration::from_secs(60);
        while quorate(&["health", "--node", &running.address]).status.code() != Some(0) {
            assert!(Instant::now() < patience, "the node is not ready after a minute");
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }

    /// Runs a client command against the node: exit code, standard output, standard error.
    fn ask(&self, args: &[&str]) -> (i32, String, String) {
        let node = ["--node", &self.address];
        let output = quorate(&[args, &node[..]].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().expect("an exit code");
        (code, text(&output.stdout), text(&output.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a node, waits until it is ready, and stops it with SIGKILL.
fn run_once(dir: &Path, extra: &[&str]) {
    drop(Running::start(dir, extra));
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let flag = format!("--listen={address}");
    let args = single(dir.path(), &[]);
    let args: Vec<&str> = strs(&args)
        .into_iter()
        .filter(|arg| !arg.starts_with("--listen"))
        .chain([&*flag])
        .collect();
    let (code, complaint) = refused(&args);
    assert_eq!(code, 1, "{complaint}");
    assert!(complaint.contains(&address) && complaint.contains("clients"), "{complaint}");
    assert!(std::fs::read_dir(dir.path()).expect("listed").next().is_none(), "nothing was made");
}

#[test]
fn a_data_directory_of_another_node_mode_engine_or_format_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    run_once(dir.path(), &[]);
    let refusal = |extra: &[&str]| {
        let (code, complaint) = refused(&strs(&single(dir.path(), extra)));
        assert_eq!(code, 1, "{complaint}");
        complaint
    };
    let port = free_port();
    let peers = format!("--peers=2=127.0.0.1:{port}");
    let other_node = refusal(&["--id=2", &peers]);
    assert!(other_node.contains("node 1") && other_node.contains("node 2"), "{other_node}");
    let other_mode = refusal(&["--mode=leaderless"]);
    assert!(other_mode.contains("leader mode") || other_mode.contains("mode"), "{other_mode}");
    for other in ["--engine=memory", "--engine=fjall"] {
        let other_engine = refusal(&[other]);
        assert!(other_engine.contains("made with engine sled"), "{other_engine}");
    }
    let identity = dir.path().join("identity.json");
    let text = std::fs::read_to_string(&identity).expect("an identity");
    let spoiled = text.replace("\"format\": 4", "\"format\": 999");
    assert_ne!(spoiled, text, "another format than was looked for");
    std::fs::write(&identity, spoiled).expect("written");
    let other_format = refusal(&[]);
    assert!(other_format.contains("format"), "{other_format}");
    std::fs::write(&identity, text).expect("restored");
    run_once(dir.path(), &[]);
}

#[test]
fn a_damaged_log_is_refused_naming_file_and_byte() {
    let dir = tempfile::tempdir().expect("a directory");
    run_once(dir.path(), &[]);
    let segment = std::fs::read_dir(dir.path().join("log"))
        .expect("a log")
        .map(|entry| entry.expect("an entry").path())
        .min()
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("a segment");
    // The kind of the first record, just behind the segment's header and the record's length.
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let (code, complaint) = refused(&strs(&single(dir.path(), &[])));
    assert_eq!(code, 1, "{complaint}");
    assert!(complaint.contains("damaged") && complaint.contains(".log"), "{complaint}");
}

#[test]
fn client_commands_say_what_happened_and_exit_accordingly() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Running::start(dir.path(), &[]);
    let (code, said, _) = node.ask(&["put", "a/b", "one"]);
    assert_eq!(code, 0);
    let etag = said.split('"').nth(1).expect("an entity tag").to_owned();
    // A pipe gets the value alone.
    assert_eq!(node.ask(&["get", "a/b"]), (0, "one".to_owned(), String::new()));
    let (code, json, _) = node.ask(&["get", "a/b", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, json["value"].as_str()), (0, Some("one")));
    assert_eq!(json["etag"].as_str(), Some(format!("\"{etag}\"").as_str()));

    let (code, _, complaint) = node.ask(&["get", "nothing"]);
    assert_eq!(code, 4, "not found: {complaint}");
    let (code, _, complaint) = node.ask(&["put", "a/b", "two", "--if-none-match", "*"]);
    assert_eq!(code, 3, "precondition failed: {complaint}");
    assert_eq!(node.ask(&["put", "a/b", "two", "--if-match", &etag]).0, 0);
    let (code, _, complaint) = node.ask(&["put", "a/b", "x", "--consistency", "local"]);
    assert_eq!(code, 64, "usage: {complaint}");
    assert!(complaint.contains("linearizable"), "{complaint}");
    assert_eq!(node.ask(&["get", "a/b", "--consistency", "strong"]).0, 64);

    let fresh = ["get", "a/b", "--consistency", "local", "--max-staleness", "2s"];
    assert_eq!(node.ask(&fresh), (0, "two".to_owned(), String::new()));
    let (code, _, complaint) = node.ask(&["get", "a/b", "--max-staleness", "2s"]);
    assert!(code == 64 && complaint.contains("max_staleness"), "{complaint}");
    let named = ["put", "a/b", "two", "--idempotency-key", "once"];
    assert_eq!((node.ask(&named).0, node.ask(&named).0), (0, 0));
    let (code, _, complaint) = node.ask(&["put", "a/b", "3", "--idempotency-key", "once"]);
    assert!(code == 1 && complaint.contains("Idempotency-Key"), "{code} {complaint}");

    assert_eq!(node.ask(&["put", "a/c", "three"]).0, 0);
    assert_eq!(node.ask(&["list", "a/"]).1, "a/b\na/c\n");
    assert_eq!(node.ask(&["list", "--delimiter", "/"]).1, "a/\n");
    assert_eq!(node.ask(&["delete", "a/b"]).0, 0);
    assert_eq!(node.ask(&["list", "a/"]).1, "a/c\n");
    let (code, status, _) = node.ask(&["cluster", "status"]);
    assert_eq!(code, 0);
    assert!(status.contains("leader") && status.contains("node 1"), "{status}");
}

#[test]
fn a_nemesis_that_makes_no_sense_is_refused_before_anything_starts() {
    for (args, named) in [
        (&["--mode", "leeder"][..], "leaderless"),
        (&["--faults", "kill,earthquake"], "earthquake"),
        (&["--faults", ""], "drip"),
        (&["--engine", "rocks"], "rocks"),
        (&["--cycles", "0"], "--cycles 0"),
        (&["--attach", "nowhere"], "nowhere"),
    ] {
        let out = std::env::temp_dir().join("quorate-nemesis-that-never-was");
        let out = out.to_string_lossy().into_owned();
        let mut all = vec!["nemesis", "--out", &out];
        all.extend(args);
        let (code, complaint) = fails(&all);
        assert_eq!(code, 64, "{args:?}: {complaint}");
        assert!(complaint.contains(named), "{args:?}: {complaint}");
        assert!(!std::path::Path::new(&out).exists());
    }
}

#[test]
fn a_comparison_that_makes_no_sense_is_refused_before_anything_starts() {
    for (contestants, named) in [
        ("leeder", "'leeder' is not a contestant: expected one or more of leader, fixed-leader"),
        ("", "'' is not a contestant"),
        ("leader,,leaderless", "'' is not a contestant"),
        ("fixed-leader,leader,fixed-leader", "'fixed-leader' is named twice"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("out").display().to_string();
        let (code, complaint) = fails(&["compare", "--out", &out, "--contestants", contestants]);
        assert_eq!(code, 64, "{contestants}: {complaint}");
        assert!(complaint.contains("--contestants") && complaint.contains(named), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(!dir.path().join("out").exists(), "{contestants}");
    }
}

#[test]
fn an_answer_that_never_comes_is_unknown_for_a_write_and_a_failure_for_a_read() {
    // Takes connections and ends them unanswered, as a node that dies does.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let silent = std::thread::Builder::new();
    silent
        .spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                let _ = std::io::Read::read(&mut connection, &mut [0; 1024]);
            }
        })
        .expect("a thread");
    let (code, complaint) = fails(&["put", "a", "one", "--node", &address]);
    assert_eq!(code, 2, "{complaint}");
    let (code, complaint) = fails(&["get", "a", "--node", &address]);
    assert_eq!(code, 1, "{complaint}");
    let nobody = format!("127.0.0.1:{}", free_port());
    let (code, complaint) = fails(&["put", "a", "one", "--node", &nobody]);
    assert_eq!(code, 1, "nothing was sent: {complaint}");
    assert!(complaint.contains(&nobody), "{complaint}");
}

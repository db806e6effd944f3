//! Whole comparisons against a stand-in for the server, with and without planted faults.
//!
//! The stand-in is this test program itself, started through a script as the `quorate` executable
//! would be: real processes, real ports, real kills. Its nodes share one directory under a lock, so
//! that it is linearizable in every mode unless told to misbehave. What is proven here is the lab:
//! that a faultless store passes, that planted faults are found, and that nothing is left behind.

use std::fs;
use std::io::{BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::bench::{
    BenchOptions, BenchResults, BenchVerdict, Events, StartedNodes, Subject, bench,
};
use super::compare::{CompareOptions, compare_with};
use super::contestant::Contestant;
use super::experiments::{Plan, killed_node, stale_reads, throughput};
use super::progress::Progress;
use super::report;
use super::results::{Results, Section, Verdict, WritesReturned};
use crate::check;
use crate::history::{Action, History};
use crate::types::{NodeId, Version};

/// Set by the script: the arguments that the server would have been given.
const ARGUMENTS: &str = "FAKE_NODE_ARGUMENTS";
const FAULT: &str = "FAKE_NODE_FAULT";

#[derive(Clone)]
struct Fake {
    shared: PathBuf,
    mode: String,
    fault: String,
    /// Where the fixed leader listens for peers: without it nothing is written.
    fixed_leader: Option<String>,
}

impl Fake {
    fn file(&self, key: &str) -> PathBuf {
        self.shared.join(key.replace('/', "_"))
    }

    /// The key's older and newer contents under the lock that all nodes share.
    fn put(&self, key: &str, value: &[u8]) -> Version {
        let lock = fs::File::options().create(true).append(true).open(self.shared.join(".lock"));
        let mut lock = lock.expect("the lock file");
        lock.lock().expect("locked");
        // Every write appends a byte: the length of the file is the version.
        lock.write_all(b".").expect("appended");
        let version = Version::new(lock.metadata().expect("a length").len(), NodeId(1));
        let dropped = self.fault == "lose" && version.time().is_multiple_of(7);
        if !dropped {
            let file = self.file(key);
            let _ = fs::rename(&file, file.with_extension("older"));
            let new = file.with_extension("new");
            fs::write(&new, [version.to_string().as_bytes(), b"\n", value].concat())
                .expect("written");
            fs::rename(&new, &file).expect("renamed");
        }
        version
    }

    fn get(&self, key: &str, stale: bool) -> Option<(String, Vec<u8>)> {
        let lock = fs::File::open(self.shared.join(".lock")).ok()?;
        lock.lock_shared().ok()?;
        let file = self.file(key);
        let older = file.with_extension("older");
        let stored = fs::read(if stale && older.exists() { older } else { file }).ok()?;
        let end = stored.iter().position(|byte| *byte == b'\n')?;
        Some((String::from_utf8_lossy(&stored[..end]).into_owned(), stored[end + 1..].to_vec()))
    }
}

async fn fake_put(
    State(fake): State<Fake>,
    UrlPath(key): UrlPath<String>,
    value: Bytes,
) -> Response {
    if let Some(leader) = &fake.fixed_leader
        && tokio::net::TcpStream::connect(leader).await.is_err()
    {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let version = fake.put(&key, &value);
    (StatusCode::NO_CONTENT, [("etag", version.etag())]).into_response()
}

async fn fake_get(
    State(fake): State<Fake>,
    UrlPath(key): UrlPath<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let weak = query.is_some_and(|query| query.contains("local") || query.contains("r=1"));
    let stale = (fake.fault == "stale" && !weak) || (fake.fault == "stale-when-weak" && weak);
    let level = match (weak, fake.mode.as_str()) {
        (true, _) => "local",
        (false, "leader") => "linearizable",
        (false, _) => "quorum; r=2; w=2; n=3",
    };
    let level = ("quorate-consistency", level.to_owned());
    match fake.get(&key, stale) {
        Some((version, value)) => {
            ([("etag", format!("\"{version}\"")), level], value).into_response()
        }
        None => (StatusCode::NOT_FOUND, [level]).into_response(),
    }
}

/// Not a test of anything: the body of the stand-in server. It does nothing unless a script
/// started it.
#[tokio::test]
async fn fake_node() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| *argument == flag).expect("the flag");
        arguments[at + 1].to_owned()
    };
    let shared = PathBuf::from(after("--data-dir")).with_file_name("shared");
    fs::create_dir_all(&shared).expect("a directory");
    let fixed = arguments.iter().find_map(|argument| argument.strip_prefix("--fixed-leader="));
    let leader = fixed.unwrap_or("2");
    let peers = after("--peers");
    let peer = |id: &str| peers.split(',').find_map(|peer| peer.strip_prefix(&format!("{id}=")));
    let fake = Fake {
        shared,
        mode: after("--mode"),
        fault: std::env::var(FAULT).unwrap_or_default(),
        fixed_leader: fixed.map(|id| peer(id).expect("a peer").to_owned()),
    };
    let status = format!(r#"{{"mode":"leader","leader":{leader}}}"#);
    // Bound and never served: that it takes connections is all that the others look at.
    let _peers = tokio::net::TcpListener::bind(after("--peer-listen")).await.expect("the port");
    let metrics = "# TYPE quorate_log_syncs counter\nquorate_log_syncs_total 5\n\
                   quorate_peer_messages_sent_total{service=\"raft\"} 2\n\
                   quorate_peer_messages_sent_total{service=\"read\"} 1\n# EOF\n";
    let app = Router::new()
        .route("/readyz", get(|| async { "ok" }))
        .route("/v1/cluster", get(move || async move { status }))
        .route("/metrics", get(move || async move { metrics }))
        .route("/v1/kv/{*key}", get(fake_get).put(fake_put))
        .with_state(fake);
    let listener = tokio::net::TcpListener::bind(after("--listen")).await.expect("the port");
    axum::serve(listener, app).await.expect("served");
}

/// A comparison in a directory of its own, against a stand-in with a fault.
struct Trial {
    folder: tempfile::TempDir,
    options: CompareOptions,
}

impl Trial {
    fn new(fault: &str, only: &[&str]) -> Trial {
        let own = std::env::current_exe().expect("a path").display().to_string();
        Trial::of_script(
            &format!(
                "{FAULT}={fault} {ARGUMENTS}=\"$*\" exec '{own}' --exact lab::tests::fake_node \
                 --nocapture"
            ),
            only,
        )
    }

    fn of_script(script: &str, only: &[&str]) -> Trial {
        let folder = tempfile::tempdir().expect("a directory");
        let binary = folder.path().join("fake-quorate");
        fs::write(&binary, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("executable");
        let mut options = CompareOptions::new(binary);
        options.out = folder.path().join("out");
        options.only = only.iter().map(|name| (*name).to_owned()).collect();
        Trial { folder, options }
    }

    fn run(&self) -> Results {
        let results = compare_with(&self.options, &tiny(), &Progress::quiet());
        results.expect("a comparison reports failures of experiments, and does not fail itself")
    }

    fn out(&self) -> &Path {
        &self.options.out
    }
}

fn tiny() -> Plan {
    let ms = Duration::from_millis;
    Plan {
        throughput: throughput::Plan {
            keys: 20,
            warm_up: ms(20),
            alone: ms(60),
            together: ms(60),
            connections: 4,
            idle: ms(50),
        },
        killed_node: killed_node::Plan {
            keys: 10,
            clients: 4,
            rate_per_second: 100,
            before: ms(300),
            down: ms(300),
            after: ms(300),
            settle: ms(10),
        },
        stale_reads: stale_reads::Plan { readers: 4, trials: 5, delays_ms: vec![0, 2] },
    }
}

#[test]
fn a_faultless_store_passes_and_everything_is_written_down_and_nothing_left_behind() {
    let trial = Trial::new("none", &[]);
    let results = trial.run();
    assert_eq!(results.verdict(), Verdict::Kept);
    for contestant in &results.contestants {
        let speeds = contestant.throughput.figures().expect("measured");
        assert_eq!(speeds.loads.len(), 4);
        assert!(speeds.loads.iter().all(|load| load.counts.done > 0), "{speeds:#?}");
        assert!(speeds.load(Action::Put, 4).expect("measured").syncs_per_op.is_some());
        let killed = contestant.killed_node.figures().expect("measured");
        assert_eq!(killed.was_leader, contestant.name == "leader");
        if killed.was_leader {
            assert_eq!(killed.node, 2, "the node that calls itself the leader");
        }
        assert!(killed.writes.done > 0 && killed.first_write_ms.is_some(), "{killed:#?}");
        let stale = contestant.stale_reads.figures().expect("measured");
        assert!(stale.points.iter().all(|point| point.missed == 0 && point.reads > 0));
        assert_eq!(contestant.checked.len(), 3);
        for checked in &contestant.checked {
            // The files alone are enough to come to the same findings.
            let file = fs::File::open(trial.out().join(&checked.file)).expect("the history");
            let history = History::read(BufReader::new(file)).expect("reads back");
            assert_eq!(history.ops.len() as u64, checked.operations);
            assert_eq!(check::check(&history), checked.findings);
        }
    }
    let json = fs::read_to_string(trial.out().join("results.json")).expect("written");
    let read_back: Results = serde_json::from_str(&json).expect("reads back");
    assert_eq!(read_back.contestants.len(), 2);
    assert!(trial.out().join("report.html").exists() && trial.out().join("report.md").exists());
    assert!(!trial.out().join("data").exists() && !trial.out().join("logs").exists());
    assert_nobody_lives(&trial);
}

/// No process names the trial's directory in its arguments any more.
fn assert_nobody_lives(trial: &Trial) {
    let folder = trial.folder.path().display().to_string();
    for process in fs::read_dir("/proc").expect("procfs").flatten() {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        assert!(!environment.contains(&folder), "{:?} is still running", process.path());
    }
}

#[test]
fn a_stale_read_where_freshness_is_promised_is_found_and_breaks_the_verdict() {
    let results = Trial::new("stale", &["stale-reads"]).run();
    let Verdict::Broken(reasons) = results.verdict() else { panic!("{:?}", results.verdict()) };
    for mode in ["leader", "leaderless"] {
        let found = reasons
            .iter()
            .any(|reason| reason.starts_with(&format!("{mode}, stale-reads: stale-read")));
        assert!(found, "{mode}: {reasons:#?}");
    }
    let stale = results.contestants[0].stale_reads.figures().expect("measured");
    assert!(stale.point("linearizable", 0).expect("a point").missed > 0);
    assert_eq!(stale.point("local", 0).expect("a point").missed, 0);
    assert_eq!(results.contestants[0].throughput, Section::Skipped);
}

#[test]
fn a_fixed_leader_is_killed_and_waited_for_and_that_is_a_result_and_no_failure() {
    let mut trial = Trial::new("none", &["killed-node"]);
    trial.options.contestants = vec![Contestant::FIXED, Contestant::LEADER];
    let results = trial.run();
    assert_eq!(results.verdict(), Verdict::Kept);
    let [fixed, elected] = results.contestants.as_slice() else { panic!("{results:#?}") };
    let run = fixed.killed_node.figures().expect("measured");
    assert_eq!((run.node, run.was_leader), (1, true));
    assert_eq!(run.writes_returned(), WritesReturned::WithTheNode, "{run:#?}");
    assert!(run.longest_write_gap_ms >= run.restarted_ms - run.killed_ms, "{run:#?}");
    assert!(fixed.command.as_ref().is_some_and(|command| command.contains("--fixed-leader=1")));
    let run = elected.killed_node.figures().expect("measured");
    assert_eq!(run.writes_returned(), WritesReturned::WithoutTheNode, "{run:#?}");
    assert!(elected.command.as_ref().is_some_and(|command| !command.contains("fixed-leader")));
    for name in ["fixed-leader", "leader"] {
        assert!(trial.out().join(format!("histories/{name}-killed-node.jsonl")).exists());
    }
    let page = fs::read_to_string(trial.out().join("report.md")).expect("written");
    assert!(page.contains("fixed-leader: writes did not come back until the node did"), "{page}");
    assert!(!page.contains("\n- leader: writes did not come back"), "{page}");
    assert_nobody_lives(&trial);
}

#[test]
fn stale_reads_at_weak_levels_are_counted_and_break_nothing() {
    let results = Trial::new("stale-when-weak", &["stale-reads"]).run();
    assert_eq!(results.verdict(), Verdict::Kept);
    let stale = results.contestants[1].stale_reads.figures().expect("measured");
    assert!(stale.point("local", 0).expect("a point").missed > 0);
    assert!(stale.point("quorum r=1", 2).expect("a point").missed > 0);
}

#[test]
fn an_acknowledged_write_that_was_dropped_is_found() {
    let results = Trial::new("lose", &["killed-node"]).run();
    let Verdict::Broken(reasons) = results.verdict() else { panic!("{:?}", results.verdict()) };
    assert!(reasons.iter().any(|reason| reason.contains("lost-write")), "{reasons:#?}");
}

#[test]
fn a_server_that_does_not_start_is_reported_with_its_last_words_and_its_log_kept() {
    let trial = Trial::of_script("echo 'no such engine' >&2; exit 3", &["throughput"]);
    let results = trial.run();
    let Verdict::Unknown(reasons) = results.verdict() else { panic!("{:?}", results.verdict()) };
    assert!(reasons.iter().all(|reason| reason.contains("no such engine")), "{reasons:#?}");
    let log = trial.out().join("logs/leader-throughput-node-1.log");
    assert!(fs::read_to_string(log).expect("kept").contains("no such engine"));
    let page = fs::read_to_string(trial.out().join("report.md")).expect("written all the same");
    assert!(page.contains("no such engine"));
    assert!(report::terminal::render(&results, trial.out()).contains("no such engine"));
}

/// A bench that kills one node of a stand-in with a fault.
fn bench_with_a_kill(fault: &str) -> BenchResults {
    let trial = Trial::new(fault, &[]);
    let started = StartedNodes {
        binary: trial.options.binary.clone(),
        modes: vec![crate::types::Mode::Leader],
        nodes: 3,
        engine: trial.options.engine,
        settings: Vec::new(),
        data_dir: trial.folder.path().to_owned(),
    };
    let options = BenchOptions {
        subject: Subject::Started(started),
        connections: vec![4],
        value_bytes: vec![64],
        keys: 50,
        mixes: vec!["put".parse().expect("a mix")],
        level: None,
        rate_per_second: Some(100),
        max_in_flight: 1_000,
        duration: Duration::from_secs(1),
        warm_up: Duration::ZERO,
        load: false,
        seed: 1,
        events: Events { kill_follower: 1, ..Events::default() },
        watch: None,
        out: None,
    };
    options.validate().expect("it makes sense");
    let results = bench(&options).expect("it runs");
    assert_eq!(results.ended_early, None);
    assert!(results.kills[0].kept.acknowledged_writes > 0);
    assert_nobody_lives(&trial);
    results
}

#[test]
fn a_bench_finds_acknowledged_writes_that_were_dropped_and_none_where_none_was() {
    let kept = bench_with_a_kill("none");
    assert_eq!((kept.kills[0].kept.lost_writes, kept.verdict()), (0, BenchVerdict::Done));
    let lost = bench_with_a_kill("lose");
    assert!(lost.kills[0].kept.lost_writes > 0, "{:#?}", lost.kills);
    assert!(matches!(lost.verdict(), BenchVerdict::Failed(_)));
}

#[test]
fn wrong_options_are_refused_by_name() {
    let mut options = CompareOptions::new(PathBuf::from("quorate"));
    options.only = vec!["speed".to_owned()];
    let refused = options.validate().expect_err("no such experiment").to_string();
    assert!(refused.contains("'speed'") && refused.contains("stale-reads"), "{refused}");
    options.only.clear();
    options.contestants = vec![Contestant::LEADER, Contestant::LEADER];
    let refused = options.validate().expect_err("twice").to_string();
    assert!(refused.contains("'leader' is named twice"), "{refused}");
    options.contestants = Contestant::ALL.to_vec();
    assert!(options.validate().is_ok());
    options.nodes = 0;
    assert!(options.validate().expect_err("no nodes").to_string().contains("--nodes"));
}

mod processes {
    use super::*;
    use crate::lab::cluster::{Cluster, ClusterSpec};
    use crate::runtime::Runtime;
    use crate::types::Mode;

    fn spec(trial: &Trial) -> ClusterSpec {
        ClusterSpec {
            binary: trial.options.binary.clone(),
            mode: Mode::Leader,
            nodes: 2,
            engine: trial.options.engine,
            name: "by-hand".to_owned(),
            data_dir: trial.out().join("data"),
            logs_dir: trial.out().join("logs"),
            flags: Vec::new(),
        }
    }

    #[tokio::test]
    async fn nodes_are_killed_paused_restarted_and_measured() {
        let trial = Trial::new("none", &[]);
        let mut cluster = Cluster::start(&Runtime::real(), spec(&trial)).await.expect("starts");
        assert_eq!(cluster.leader().await.expect("answers"), Some(1));
        let counters = cluster.counters().await.expect("scraped");
        assert_eq!(counters.get("peer_messages_sent"), Some(6.0), "labels and nodes summed");
        assert_eq!(cluster.cpu_times().expect("read").len(), 2);
        cluster.pause(0).expect("paused");
        cluster.resume(0).expect("resumed");
        cluster.kill(0).expect("killed");
        assert_eq!(cluster.resident_bytes().expect("read").len(), 1);
        assert!(cluster.kill(0).is_err() && cluster.pause(0).is_err(), "it is gone");
        assert!(cluster.restart(1).is_err(), "it still runs");
        cluster.restart(0).expect("restarted");
        cluster.wait_until_ready().await.expect("ready on its old port");
        drop(cluster);
        assert_nobody_lives(&trial);
    }
}

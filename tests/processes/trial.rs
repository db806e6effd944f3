//! A cluster for one test, and how the test talks to it.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use quorate::check::check;
use quorate::client::{Client, ClientError, ListItem, ListRequest, Options};
use quorate::config::Engine;
use quorate::history::{Header, History, Op};
use quorate::lab::cluster::{Cluster, ClusterSpec};
use quorate::lab::http::Connection;
use quorate::lab::load::Scene;
use quorate::lab::readings::Counters;
use quorate::runtime::Runtime;
use quorate::types::{Level, Mode};
use tempfile::TempDir;

/// How long anything may take before it is taken for something that never happens.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often something that is waited for is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Where a commit log begins that was never cut.
pub const LOG_BEGINS: u64 = 1;
/// Clients give up on an answer after this: later than nodes, which answer after 5 s at most, so
/// that what a test concludes is what a node said.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The seed of every choice that clients make.
const SEED: u64 = 42;
/// How much of each node's log a failed test shows.
const LOG_LINES: usize = 30;

/// Three nodes and the directory they live in; both are gone once this is dropped.
pub struct Trial {
    // Dropped first: the processes end before their directory goes.
    pub cluster: Cluster,
    pub runtime: Runtime,
    pub mode: Mode,
    dir: TempDir,
}

/// What a node answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    /// The level that was served.
    pub level: Option<String>,
    pub body: String,
}

impl Trial {
    /// Three ready nodes, with `flags` beside the usual ones.
    pub async fn start(mode: Mode, flags: &[&str]) -> Trial {
        Trial::start_with(Engine::Sled, mode, flags).await
    }

    /// The same with another table engine.
    pub async fn start_with(engine: Engine, mode: Mode, flags: &[&str]) -> Trial {
        let dir = TempDir::new().expect("a directory");
        let runtime = Runtime::real();
        let spec = ClusterSpec {
            binary: env!("CARGO_BIN_EXE_quorate").into(),
            mode,
            nodes: 3,
            engine,
            name: mode.to_string(),
            data_dir: dir.path().join("data"),
            logs_dir: dir.path().join("logs"),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        let cluster = Cluster::start(&runtime, spec).await.expect("the cluster starts");
        Trial { cluster, runtime, mode, dir }
    }

    /// What clients with a history share.
    pub fn scene(&self) -> Arc<Scene> {
        let nodes = self.cluster.ids().into_iter().zip(self.cluster.addresses()).collect();
        Scene::new(&self.runtime, self.mode, nodes, CLIENT_TIMEOUT, 64, SEED)
    }

    /// Starts a node that is down, and waits until all are ready.
    pub async fn restart(&mut self, index: usize) {
        self.cluster.restart(index).expect("the node starts");
        self.cluster.wait_until_ready().await.expect("the node is ready again");
    }

    /// The index of the leader.
    pub async fn leader(&self) -> usize {
        let deadline = self.runtime.now() + PATIENCE;
        loop {
            if let Some(leader) = self.cluster.leader().await.expect("a status") {
                return leader;
            }
            assert!(self.runtime.now() < deadline, "no node names a leader");
            self.runtime.sleep(LOOK_EVERY).await;
        }
    }

    /// A connection to a node's client port.
    pub fn connection(&self, index: usize) -> Connection {
        let address = self.cluster.addresses()[index];
        Connection::new(self.runtime.clone(), address, PATIENCE)
    }

    /// The answer of one node.
    pub async fn call(&self, index: usize, method: &str, target: &str, body: &str) -> Answer {
        let mut connection = self.connection(index);
        let answer = connection.call(method, target, body.as_bytes()).await;
        let answer = answer.unwrap_or_else(|failure| panic!("{method} {target}: {failure}"));
        Answer {
            status: answer.status,
            etag: answer.header("etag").map(str::to_owned),
            level: answer.header("quorate-consistency").map(str::to_owned),
            body: String::from_utf8_lossy(answer.body).into_owned(),
        }
    }

    /// Puts, and wants it acknowledged at once. `query` is empty or begins with `?`.
    pub async fn put(&self, index: usize, key: &str, value: &str, query: &str) {
        let answer = self.call(index, "PUT", &format!("/v1/kv/{key}{query}"), value).await;
        assert_eq!(answer.status, 204, "PUT {key}: {}", answer.body);
    }

    /// Puts, again where it was not acknowledged, since a leader may have to be elected first.
    pub async fn put_patiently(&self, index: usize, key: &str, value: &str) {
        let target = format!("/v1/kv/{key}");
        self.until(&format!("node index {index} acknowledges PUT {key}"), async || {
            self.call(index, "PUT", &target, value).await.status == 204
        })
        .await;
    }

    /// The value of a key; `None` where it has none.
    pub async fn get(&self, index: usize, key: &str, query: &str) -> Option<String> {
        let answer = self.call(index, "GET", &format!("/v1/kv/{key}{query}"), "").await;
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            status => panic!("GET {key}{query}: {status} {}", answer.body),
        }
    }

    /// A node's own copy of every key that begins with `prefix`, in order; `None` where the node
    /// says that it cannot serve yet.
    pub async fn local_items(&self, index: usize, prefix: &str) -> Option<Vec<ListItem>> {
        let client = Client::new([self.cluster.addresses()[index].to_string()]).expect("a client");
        let options = Options { level: Some(Level::Local), ..Options::default() };
        let mut items = Vec::new();
        let mut cursor = None;
        loop {
            let request = ListRequest {
                prefix: prefix.to_owned(),
                limit: Some(1_000),
                cursor,
                with_values: true,
                ..ListRequest::default()
            };
            let page = match client.list(&request, &options).await {
                Ok((page, _)) => page,
                Err(ClientError::Refused(problem)) if problem.code == "not-ready" => return None,
                Err(error) => panic!("a page of keys: {error}"),
            };
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Some(items);
            }
        }
    }

    /// Runs a command of `quorate` against one node, and has it answer in JSON.
    pub fn command(&self, index: usize, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(arguments)
            .arg("--node")
            .arg(self.cluster.addresses()[index].to_string())
            .args(["--output", "json"])
            .output()
            .expect("the command runs")
    }

    /// A counter of one node, by its name without prefix and suffix.
    pub async fn counter(&self, index: usize, name: &str) -> u64 {
        let page = self.call(index, "GET", "/metrics", "").await;
        let mut counters = Counters::default();
        counters.add_page(&page.body);
        counters.get(name).unwrap_or_else(|| panic!("no counter {name}")) as u64
    }

    /// Where a node's commit log begins: later than [`LOG_BEGINS`] once it was cut.
    pub async fn log_start(&self, index: usize) -> u64 {
        let answer = self.call(index, "GET", "/v1/node", "").await;
        let node: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        node["log"]["first_position"].as_u64().expect("a position")
    }

    /// Waits until `happened` says so.
    pub async fn until(&self, what: &str, mut happened: impl AsyncFnMut() -> bool) {
        let deadline = self.runtime.now() + PATIENCE;
        while !happened().await {
            assert!(self.runtime.now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
            self.runtime.sleep(LOOK_EVERY).await;
        }
    }

    /// Every promise held, as far as these operations show, and each could be looked at.
    pub fn assert_promises_held(&self, what: &str, ops: Vec<Op>) {
        let history = History::new(Header::new(self.mode, what, SEED, 3), ops);
        let findings = check(&history);
        let broken: Vec<_> =
            findings.iter().filter(|found| found.is_broken() || found.is_unverified()).collect();
        assert!(broken.is_empty(), "promises broken: {broken:#?}");
        for name in ["lost-write", "value-from-nowhere", "stale-read", "read-went-back"] {
            let examined: u64 =
                findings.iter().filter(|found| found.check == name).map(|f| f.examined).sum();
            assert!(examined > 0, "nothing to check for {name}");
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // The nodes' side of the story, which goes with the directory.
        let Ok(entries) = std::fs::read_dir(self.dir.path().join("logs")) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            eprintln!("--- the end of {}\n{last}", path.display());
        }
    }
}

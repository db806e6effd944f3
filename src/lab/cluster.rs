//! Clusters of real processes on this machine: started, killed, paused, restarted and measured.
//!
//! Guarantees: every process that was started is gone, and its data with it, once the [`Cluster`]
//! is dropped, however the experiment ended. Every node gets the same flags but for its id,
//! addresses and directory, and no `QUORATE_*` setting of the surrounding shell reaches it.
//!
//! Does not imitate power loss: a killed process leaves what it wrote in the page cache of the
//! kernel, synced or not.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::http::Connection;
use super::process;
use super::proxy::Links;
use super::readings::Counters;
use crate::config::Engine;
use crate::runtime::Runtime;
use crate::types::Mode;

mod joining;

/// A node must be ready this long after it was started. One that ended is noticed at once; this is
/// for one that hangs, and must not take a busy machine for one.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A question to a node that is not part of a load must be answered within this time.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// How often a node that is not ready yet is asked again.
const ASK_EVERY: Duration = Duration::from_millis(25);
/// How often, and with which pause, nodes are asked for their leader.
const LEADER_TRIES: usize = 50;
const LEADER_PAUSE: Duration = Duration::from_millis(100);
/// Ports are drawn from below the range that the kernel gives to outgoing connections (32768 and
/// up), so that no load connection takes the port of a node that is about to be restarted.
const PORTS: std::ops::Range<u16> = 15_000..32_000;
/// How often a free port is looked for.
const PORT_TRIES: usize = 1_000;
/// How many of a failed node's last lines an error repeats.
const LOG_LINES: usize = 5;

/// What kind of cluster to start, and where.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// The `quorate` executable.
    pub binary: PathBuf,
    pub mode: Mode,
    pub nodes: u16,
    pub engine: Engine,
    /// Names this cluster's directories and log files.
    pub name: String,
    /// Data directories are made here, and removed in the end.
    pub data_dir: PathBuf,
    /// The nodes' log files are made here.
    pub logs_dir: PathBuf,
    /// Further flags of every node.
    pub flags: Vec<String>,
}

/// Running processes; killed when dropped.
pub struct Cluster {
    runtime: Runtime,
    spec: ClusterSpec,
    members: Vec<Member>,
    /// What the nodes reach each other through, where that is to be broken.
    links: Option<Links>,
    keep_logs: bool,
    keep_data: bool,
}

struct Member {
    id: u16,
    listen: SocketAddr,
    peer_listen: SocketAddr,
    data: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts every node and waits until all are ready.
    pub async fn start(runtime: &Runtime, spec: ClusterSpec) -> anyhow::Result<Cluster> {
        Cluster::launch_all(runtime, spec, false).await
    }

    /// The same with a proxy in each directed link between two nodes: [`Cluster::links`].
    pub async fn start_linked(runtime: &Runtime, spec: ClusterSpec) -> anyhow::Result<Cluster> {
        Cluster::launch_all(runtime, spec, true).await
    }

    async fn launch_all(
        runtime: &Runtime,
        spec: ClusterSpec,
        linked: bool,
    ) -> anyhow::Result<Cluster> {
        std::fs::create_dir_all(&spec.data_dir)
            .with_context(|| format!("cannot make {}", spec.data_dir.display()))?;
        std::fs::create_dir_all(&spec.logs_dir)
            .with_context(|| format!("cannot make {}", spec.logs_dir.display()))?;
        let ports = free_ports(runtime, usize::from(spec.nodes) * 2)?;
        let links = match linked {
            true => Some(Links::open(runtime, &peer_addresses(&spec, &ports)).await?),
            false => None,
        };
        let members = members(&spec, &ports, links.as_ref());
        let mut cluster = Cluster {
            runtime: runtime.clone(),
            spec,
            members,
            links,
            keep_logs: true,
            keep_data: false,
        };
        for index in 0..cluster.members.len() {
            cluster.launch(index, &[])?;
        }
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// How a node is started: the flags of the first, for the report.
    pub fn command(&self) -> String {
        let arguments = self.members.first().map(|m| m.arguments.join(" ")).unwrap_or_default();
        format!("quorate {arguments}")
    }

    /// Where clients reach each node.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.listen).collect()
    }

    /// Where the other nodes reach each node.
    pub fn peer_addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.peer_listen).collect()
    }

    /// The links between the nodes; `None` where the nodes reach each other directly.
    pub fn links(&self) -> Option<&Links> {
        self.links.as_ref()
    }

    /// The data directory of a node.
    pub fn data_dir(&self, index: usize) -> &Path {
        &self.members[index].data
    }

    /// Node ids, in the order of [`Cluster::addresses`].
    pub fn ids(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.id).collect()
    }

    /// The process of each node that runs, in the order of [`Cluster::addresses`]; 0 where none does.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|m| m.child.as_ref().map_or(0, Child::id)).collect()
    }

    /// Waits until every node says that it is ready.
    pub async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = self.runtime.now() + READY_WITHIN;
        for index in 0..self.members.len() {
            while !self.is_ready(index).await {
                self.must_be_running(index)?;
                if self.runtime.now() >= deadline {
                    bail!(
                        "node {} was not ready within {} s; its log: {}",
                        self.members[index].id,
                        READY_WITHIN.as_secs(),
                        self.members[index].log.display()
                    );
                }
                self.runtime.sleep(ASK_EVERY).await;
            }
        }
        Ok(())
    }

    async fn is_ready(&self, index: usize) -> bool {
        self.ask(index, "/readyz").await.is_ok()
    }

    /// The body of a 200 answer.
    async fn ask(&self, index: usize, target: &str) -> anyhow::Result<Vec<u8>> {
        let member = &self.members[index];
        let mut connection = Connection::new(self.runtime.clone(), member.listen, ASK_WITHIN);
        let answer = connection
            .call("GET", target, b"")
            .await
            .with_context(|| format!("node {}: GET {target}", member.id))?;
        ensure!(answer.status == 200, "node {}: GET {target}: {}", member.id, answer.status);
        Ok(answer.body.to_vec())
    }

    fn must_be_running(&mut self, index: usize) -> anyhow::Result<()> {
        let member = &mut self.members[index];
        let Some(child) = &mut member.child else { bail!("node {} is not running", member.id) };
        if let Some(status) = child.try_wait()? {
            member.child = None;
            let log = std::fs::read_to_string(&member.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            bail!("node {} ended ({status}): {last}", member.id);
        }
        Ok(())
    }

    /// The index of the node that the others call leader; `None` where none is known.
    pub async fn leader(&self) -> anyhow::Result<Option<usize>> {
        for index in 0..self.members.len() {
            let Ok(body) = self.ask(index, "/v1/cluster").await else { continue };
            let status: serde_json::Value =
                serde_json::from_slice(&body).context("/v1/cluster is not JSON")?;
            if let Some(leader) = status.get("leader").and_then(serde_json::Value::as_u64) {
                return Ok(self.members.iter().position(|m| u64::from(m.id) == leader));
            }
        }
        Ok(None)
    }

    /// The same, once one is known: a cluster that has just started, or lost its leader, may need
    /// a moment.
    pub async fn known_leader(&self) -> anyhow::Result<usize> {
        for _ in 0..LEADER_TRIES {
            if let Some(leader) = self.leader().await? {
                return Ok(leader);
            }
            self.runtime.sleep(LEADER_PAUSE).await;
        }
        Err(anyhow!("no node names a leader"))
    }

    /// Ends a node at once, as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        let member = &mut self.members[index];
        let mut child =
            member.child.take().ok_or_else(|| anyhow!("node {} is not running", member.id))?;
        child.kill().with_context(|| format!("cannot kill node {}", member.id))?;
        child.wait()?;
        Ok(())
    }

    /// Asks a node to stop, as SIGTERM does; [`Cluster::ended`] says how it took it.
    pub fn terminate(&self, index: usize) -> anyhow::Result<()> {
        self.signal(index, Signal::TERM)
    }

    /// Waits until a node's process has ended by itself: its exit status, and all that it logged
    /// since the cluster was started.
    pub async fn ended(
        &mut self,
        index: usize,
        within: Duration,
    ) -> anyhow::Result<(ExitStatus, String)> {
        let deadline = self.runtime.now() + within;
        let member = &mut self.members[index];
        let child =
            member.child.as_mut().ok_or_else(|| anyhow!("node {} is not running", member.id))?;
        loop {
            if let Some(status) = child.try_wait()? {
                member.child = None;
                return Ok((status, std::fs::read_to_string(&member.log)?));
            }
            if self.runtime.now() >= deadline {
                bail!("node {} still runs after {} s", member.id, within.as_secs());
            }
            self.runtime.sleep(ASK_EVERY).await;
        }
    }

    /// Whether a node's process runs, paused or not. One that ended by itself is noticed here.
    pub fn is_running(&mut self, index: usize) -> anyhow::Result<bool> {
        let member = &mut self.members[index];
        let Some(child) = &mut member.child else { return Ok(false) };
        if child.try_wait()?.is_some() {
            member.child = None;
        }
        Ok(member.child.is_some())
    }

    /// What the nodes' logs say of panics since the cluster was started, a line each. A task that
    /// panics need not end its process.
    pub fn panics(&self) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for Member { id, log, .. } in &self.members {
            let text = std::fs::read(log).with_context(|| format!("{}", log.display()))?;
            let text = String::from_utf8_lossy(&text);
            let lines = text.lines().filter(|line| line.contains("panicked at"));
            found.extend(lines.map(|line| format!("node {id}: {line}")));
        }
        Ok(found)
    }

    /// Stops a node's process without ending it.
    pub fn pause(&self, index: usize) -> anyhow::Result<()> {
        self.signal(index, Signal::STOP)
    }

    /// Lets a paused node go on.
    pub fn resume(&self, index: usize) -> anyhow::Result<()> {
        self.signal(index, Signal::CONT)
    }

    fn signal(&self, index: usize, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.pid(index)?, signal)
            .with_context(|| format!("cannot signal node {}", self.members[index].id))
    }

    fn pid(&self, index: usize) -> anyhow::Result<Pid> {
        let member = &self.members[index];
        let id = member.child.as_ref().map(|child| child.id() as i32);
        id.and_then(Pid::from_raw).ok_or_else(|| anyhow!("node {} is not running", member.id))
    }

    /// Starts a node that was killed, over its old data.
    pub fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        self.restart_with(index, &[])
    }

    /// The same with further flags, for this time only.
    pub fn restart_with(&mut self, index: usize, flags: &[String]) -> anyhow::Result<()> {
        ensure!(self.members[index].child.is_none(), "the node is still running");
        self.launch(index, flags)
    }

    fn launch(&mut self, index: usize, flags: &[String]) -> anyhow::Result<()> {
        let member = &mut self.members[index];
        let open = File::options().create(true).append(true).open(&member.log);
        let log = open.with_context(|| format!("cannot write {}", member.log.display()))?;
        let mut command = Command::new(&self.spec.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        // A process group of its own: Ctrl-C reaches this program, which then ends the nodes.
        command.args(&member.arguments).args(flags).process_group(0).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.spec.binary.display()))?;
        member.child = Some(child);
        Ok(())
    }

    /// CPU time used so far by each running node.
    pub fn cpu_times(&self) -> anyhow::Result<Vec<Duration>> {
        self.running().map(process::cpu_time).collect()
    }

    /// The most memory that each running node had resident since [`Cluster::forget_peaks`], or
    /// since it was started where the kernel does not forget, in bytes.
    pub fn peak_resident_bytes(&self) -> anyhow::Result<Vec<u64>> {
        self.running().map(process::peak_resident_bytes).collect()
    }

    /// Begins to look for the most resident memory anew, where the kernel allows that.
    pub fn forget_peaks(&self) {
        for pid in self.running() {
            process::forget_peak(pid);
        }
    }

    /// Resident memory of each running node, in bytes.
    pub fn resident_bytes(&self) -> anyhow::Result<Vec<u64>> {
        self.running().map(process::resident_bytes).collect()
    }

    fn running(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter_map(|member| member.child.as_ref().map(Child::id))
    }

    /// The sum of all running nodes' counters.
    pub async fn counters(&self) -> anyhow::Result<Counters> {
        let running = self.members.iter().filter(|member| member.child.is_some());
        let addresses: Vec<SocketAddr> = running.map(|member| member.listen).collect();
        Counters::of(&self.runtime, &addresses).await
    }

    /// Says that something went wrong: the nodes' data stays where it is. Gives the directory.
    pub fn keep_data(&mut self) -> PathBuf {
        self.keep_data = true;
        data_root(&self.spec)
    }

    /// Says that all went well: the nodes' logs are not kept.
    pub fn forget_logs(&mut self) {
        self.keep_logs = false;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may have ended by itself; either way it is reaped.
                let _ = child.kill();
                let _ = child.wait();
            }
            if !self.keep_logs {
                let _ = std::fs::remove_file(&member.log);
            }
        }
        if !self.keep_data {
            let _ = std::fs::remove_dir_all(data_root(&self.spec));
        }
    }
}

fn data_root(spec: &ClusterSpec) -> PathBuf {
    spec.data_dir.join(&spec.name)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The id of each node and where it listens for peers. The first half of `ports` is for clients.
fn peer_addresses(spec: &ClusterSpec, ports: &[u16]) -> Vec<(u16, SocketAddr)> {
    let (_, peer_ports) = ports.split_at(usize::from(spec.nodes));
    (1..).zip(peer_ports).map(|(id, port)| (id, address(*port))).collect()
}

fn members(spec: &ClusterSpec, ports: &[u16], links: Option<&Links>) -> Vec<Member> {
    let (client_ports, peer_ports) = ports.split_at(usize::from(spec.nodes));
    let all = peer_addresses(spec, ports);
    let member = |(id, (client, peer)): (u16, (&u16, &u16))| {
        let data = data_root(spec).join(format!("node-{id}"));
        let reached_at = |(to, direct): &(u16, SocketAddr)| {
            let link = links.and_then(|links| links.address(id, *to));
            format!("{to}={}", link.unwrap_or(*direct))
        };
        let peers: Vec<String> = all.iter().map(reached_at).collect();
        let arguments = [
            "serve",
            "--id",
            &id.to_string(),
            "--mode",
            spec.mode.as_str(),
            "--listen",
            &address(*client).to_string(),
            "--peer-listen",
            &address(*peer).to_string(),
            "--peers",
            &peers.join(","),
            "--data-dir",
            &data.display().to_string(),
            "--engine",
            spec.engine.as_str(),
        ];
        Member {
            id,
            listen: address(*client),
            peer_listen: address(*peer),
            data,
            arguments: arguments.map(str::to_owned).into_iter().chain(spec.flags.clone()).collect(),
            log: log_path(spec, id),
            child: None,
        }
    };
    (1..).zip(client_ports.iter().zip(peer_ports)).map(member).collect()
}

fn log_path(spec: &ClusterSpec, id: u16) -> PathBuf {
    Path::new(&spec.logs_dir).join(format!("{}-node-{id}.log", spec.name))
}

/// Ports of 127.0.0.1 on which nobody listens now.
fn free_ports(runtime: &Runtime, count: usize) -> anyhow::Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..PORT_TRIES {
        if held.len() == count {
            break;
        }
        let offset = runtime.random_below(u64::from(PORTS.end - PORTS.start)) as u16;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, PORTS.start + offset)) {
            held.push(listener);
        }
    }
    ensure!(held.len() == count, "no {count} free ports of 127.0.0.1 in {PORTS:?}");
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

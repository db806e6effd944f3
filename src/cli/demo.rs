//! `quorate demo`: a throw-away cluster, its addresses, and lines to paste.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, complain, modes, tokio_runtime};
use crate::config::Engine;
use crate::lab::cluster::{Cluster, ClusterSpec};
use crate::runtime::Runtime;
use crate::types::Mode;

/// More nodes than this on one machine show nothing but its limits.
const MAX_NODES: u16 = 9;

#[derive(Args)]
pub(super) struct DemoArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    nodes: u16,
    /// leader, leaderless or both
    #[arg(long, default_value = "leader")]
    mode: String,
}

pub(super) fn run(args: &DemoArgs) -> Exit {
    let modes = match modes(&args.mode) {
        Ok(modes) => modes,
        Err(exit) => return exit,
    };
    if !(1..=MAX_NODES).contains(&args.nodes) {
        complain(format!("--nodes {}: expected 1 to {MAX_NODES}", args.nodes));
        return Exit::Usage;
    }
    let tokio = match tokio_runtime() {
        Ok(tokio) => tokio,
        Err(exit) => return exit,
    };
    match tokio.block_on(demo(args.nodes, &modes)) {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(format!("{error:#}"));
            Exit::Failed
        }
    }
}

async fn demo(nodes: u16, modes: &[Mode]) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let dir = std::env::temp_dir().join(format!("quorate-demo-{}", std::process::id()));
    let runtime = Runtime::real();
    let mut clusters = Vec::new();
    for mode in modes {
        eprintln!("starting {nodes} nodes in {mode} mode ...");
        let spec = ClusterSpec {
            binary: std::env::current_exe()?,
            mode: *mode,
            nodes,
            engine: Engine::Sled,
            name: format!("demo-{mode}"),
            data_dir: dir.join("data"),
            logs_dir: dir.join("logs"),
            flags: Vec::new(),
        };
        let cluster = tokio::select! {
            biased;
            cluster = Cluster::start(&runtime, spec) => cluster?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        introduce(*mode, &cluster);
        clusters.push(cluster);
    }
    println!("Ctrl-C ends the demo and removes its data ({}).", dir.display());
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(clusters);
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}

/// Says where the nodes are, and gives lines that work as they stand.
fn introduce(mode: Mode, cluster: &Cluster) {
    let addresses = cluster.addresses();
    let at = |index: usize| addresses[index % addresses.len()];
    println!("\n{mode} mode");
    for ((id, address), pid) in cluster.ids().iter().zip(&addresses).zip(cluster.pids()) {
        println!("  node {id}  http://{address}  (process {pid})");
    }
    println!("\nTry:");
    println!("  curl -i -X PUT http://{}/v1/kv/greeting -d hello", at(0));
    println!("  curl -i http://{}/v1/kv/greeting", at(1));
    println!("  curl 'http://{}/v1/kv?prefix=gre'", at(2));
    println!("  curl http://{}/v1/cluster", at(0));
    println!("  kill -9 {}     # a node dies: what do the others do?", cluster.pids()[0]);
    println!("  curl -i http://{}/v1/kv/greeting\n", at(1));
}

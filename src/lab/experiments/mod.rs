//! The experiments. Each starts from a fresh cluster, leaves figures, and hands over its history.

pub mod killed_node;
pub mod stale_reads;
pub mod throughput;

use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;
use super::contestant::Contestant;
use super::load::Scene;
use super::progress::Progress;
use crate::history::Op;
use crate::runtime::Runtime;

/// The names of the experiments, as `--only` takes them.
pub const NAMES: [&str; 3] = ["throughput", "killed-node", "stale-reads"];

/// How long a value is, in bytes, in every experiment.
pub const VALUE_BYTES: usize = 256;

/// How much of everything to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub throughput: throughput::Plan,
    pub killed_node: killed_node::Plan,
    pub stale_reads: stale_reads::Plan,
}

impl Plan {
    /// Two contestants in under three minutes on two cores.
    pub fn quick() -> Plan {
        Plan {
            throughput: throughput::Plan {
                keys: 1_000,
                warm_up: Duration::from_millis(500),
                alone: Duration::from_secs(3),
                together: Duration::from_secs(4),
                connections: 64,
                idle: Duration::from_secs(3),
            },
            killed_node: killed_node::Plan {
                keys: 200,
                clients: 24,
                rate_per_second: 400,
                before: Duration::from_secs(3),
                down: Duration::from_secs(5),
                after: Duration::from_secs(4),
                settle: Duration::from_secs(1),
            },
            stale_reads: stale_reads::Plan {
                readers: 16,
                trials: 20,
                delays_ms: vec![0, 1, 5, 20, 100],
            },
        }
    }

    /// The same with more of everything, for steadier figures.
    pub fn full() -> Plan {
        let quick = Plan::quick();
        Plan {
            throughput: throughput::Plan {
                keys: 10_000,
                warm_up: Duration::from_secs(2),
                alone: Duration::from_secs(10),
                together: Duration::from_secs(15),
                idle: Duration::from_secs(10),
                ..quick.throughput
            },
            killed_node: killed_node::Plan {
                before: Duration::from_secs(5),
                down: Duration::from_secs(10),
                after: Duration::from_secs(10),
                settle: Duration::from_secs(3),
                ..quick.killed_node
            },
            stale_reads: stale_reads::Plan { trials: 100, ..quick.stale_reads },
        }
    }
}

/// What an experiment works with.
pub struct Stage<'a> {
    pub runtime: &'a Runtime,
    pub contestant: Contestant,
    pub seed: u64,
    pub cluster: &'a mut Cluster,
    pub progress: &'a Progress,
}

impl Stage<'_> {
    /// A scene for this stage's cluster.
    pub fn scene(&self, timeout: Duration) -> Arc<Scene> {
        let nodes = self.cluster.ids().into_iter().zip(self.cluster.addresses()).collect();
        Scene::new(self.runtime, self.contestant.mode, nodes, timeout, VALUE_BYTES, self.seed)
    }
}

/// What an experiment leaves behind.
pub struct Outcome<T> {
    pub figures: T,
    pub ops: Vec<Op>,
}

//! What one part of a bench works with: some nodes, and what to do to them.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;

use super::options::{BenchOptions, Mix};
use super::worker::{Ground, Shape, Tally};
use crate::lab::cluster::Cluster;
use crate::lab::progress::Progress;
use crate::lab::readings::Readings;
use crate::lab::stats::Latencies;
use crate::runtime::Runtime;
use crate::types::{Level, Mode};

use super::results::Row;

/// The nodes and the options.
pub struct Stage<'a> {
    pub runtime: &'a Runtime,
    pub options: &'a BenchOptions,
    pub progress: &'a Progress,
    pub mode: Mode,
    pub nodes: Vec<(u16, SocketAddr)>,
    /// Absent where somebody else started the nodes.
    pub cluster: Option<Cluster>,
}

/// One load of a stage.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub mix: Mix,
    pub value_bytes: usize,
    pub connections: usize,
    pub rate_per_second: Option<u64>,
}

impl Stage<'_> {
    /// Does something to the nodes, which must be bench's own.
    pub async fn with_cluster<T>(
        &mut self,
        something: impl AsyncFnOnce(&Stage<'_>, &mut Cluster) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut cluster = self.cluster.take().context("the nodes are not bench's own")?;
        let done = something(self, &mut cluster).await;
        self.cluster = Some(cluster);
        done
    }

    /// What the nodes have used so far.
    pub async fn readings(&self) -> anyhow::Result<Readings> {
        match &self.cluster {
            Some(cluster) => Readings::of_cluster(cluster).await,
            None => {
                let addresses: Vec<SocketAddr> =
                    self.nodes.iter().map(|(_, address)| *address).collect();
                Readings::of_nodes(self.runtime, &addresses).await
            }
        }
    }

    /// The ground of a load on these nodes.
    pub fn ground(&self, load: Load, keeps_writes: bool) -> anyhow::Result<Arc<Ground>> {
        let shape = Shape {
            nodes: &self.nodes,
            keys: self.options.keys,
            value_bytes: load.value_bytes,
            writes_percent: load.mix.writes_percent,
            level: self.options.level_of(load.mix),
            connections: load.connections,
            seed: self.options.seed,
            keeps_writes,
        };
        Ground::new(self.runtime, &shape)
    }

    /// The row of a load, with what was counted; what it cost is not in it yet.
    pub fn row(&self, load: Load, tally: &Tally, seconds: f64) -> anyhow::Result<Row> {
        let mut all = Latencies::new()?;
        all.add(&tally.puts)?;
        all.add(&tally.gets)?;
        let mixed = load.mix.reads() && load.mix.writes();
        let of_one = |one: &Latencies| one.percentiles().filter(|_| mixed);
        let level = self.options.level_of(load.mix).unwrap_or(Level::default_for(self.mode));
        Ok(Row {
            mode: self.mode,
            mix: load.mix.to_string(),
            level: load.mix.reads().then(|| level.to_string()),
            value_bytes: load.value_bytes,
            connections: load.connections,
            rate_per_second: load.rate_per_second,
            seconds,
            offered: None,
            missed: 0,
            operations: tally.counts,
            errors: tally.errors.clone(),
            not_found: tally.not_found,
            superseded: tally.superseded,
            per_second: if seconds > 0.0 { tally.counts.done as f64 / seconds } else { 0.0 },
            latency: all.percentiles(),
            put_latency: of_one(&tally.puts),
            get_latency: of_one(&tally.gets),
            start_delay: None,
            costs: Default::default(),
            client_cpu_us: None,
            checkpoints: None,
            peak_resident_bytes: None,
            elections: None,
            samples: Vec::new(),
        })
    }
}

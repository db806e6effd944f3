//! What the nodes have used so far: their own counters, and the CPU time that the kernel charges.
//!
//! Costs are differences of two readings, for each operation that was done between them. The
//! load generator's own work is not in them, but it shares the cores.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::http::Connection;
use crate::runtime::Runtime;

/// A node's metrics page must come within this time, also under full load.
const PAGE_WITHIN: Duration = Duration::from_secs(10);

/// Sums of the nodes' counters, by their names in `/metrics`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters(BTreeMap<String, f64>);

impl Counters {
    /// Adds what one node's metrics page says; labels are summed up.
    pub fn add_page(&mut self, page: &str) {
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let name = name.split_once('{').map_or(name, |(name, _)| name);
            if let Ok(value) = value.parse::<f64>() {
                *self.0.entry(name.to_owned()).or_default() += value;
            }
        }
    }

    /// Asks every node of `addresses` for its metrics page, and sums them up.
    pub async fn of(runtime: &Runtime, addresses: &[SocketAddr]) -> anyhow::Result<Counters> {
        let mut counters = Counters::default();
        for address in addresses {
            let mut connection = Connection::new(runtime.clone(), *address, PAGE_WITHIN);
            let answer = connection.call("GET", "/metrics", b"").await;
            let answer = answer.with_context(|| format!("{address}: GET /metrics"))?;
            ensure!(answer.status == 200, "{address}: GET /metrics: {}", answer.status);
            counters.add_page(&String::from_utf8_lossy(answer.body));
        }
        Ok(counters)
    }

    /// The counter `name`, without prefix and suffix; `None` where no node has it.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(&format!("quorate_{name}_total")).copied()
    }

    /// How much the counter `name` grew since `earlier`; `None` where no node has it.
    pub fn since(&self, earlier: &Counters, name: &str) -> Option<f64> {
        // A family without any label yet is not on the page: that is zero.
        self.get(name).map(|now| now - earlier.get(name).unwrap_or(0.0))
    }
}

/// Everything that is read before and after a load.
#[derive(Clone, Debug)]
pub struct Readings {
    /// Of all nodes together; absent where their processes are not known.
    pub cpu: Option<Duration>,
    pub counters: Counters,
}

impl Readings {
    /// The readings of a cluster of one's own.
    pub async fn of_cluster(cluster: &Cluster) -> anyhow::Result<Readings> {
        let counters = cluster.counters().await?;
        Ok(Readings { cpu: Some(cluster.cpu_times()?.iter().sum()), counters })
    }

    /// The readings of nodes that somebody else started.
    pub async fn of_nodes(runtime: &Runtime, addresses: &[SocketAddr]) -> anyhow::Result<Readings> {
        Ok(Readings { cpu: None, counters: Counters::of(runtime, addresses).await? })
    }
}

/// What the nodes used, all of them together, for each of some units: operations, or seconds.
/// Absent where it could not be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    pub cpu_us: Option<f64>,
    pub syncs: Option<f64>,
    pub messages: Option<f64>,
    pub peer_bytes: Option<f64>,
    pub log_bytes: Option<f64>,
}

impl Costs {
    /// What was used between two readings, over `units`; nothing where there was none of them.
    pub fn between(before: &Readings, after: &Readings, units: f64) -> Costs {
        if units <= 0.0 {
            return Costs::default();
        }
        let grown = |name| after.counters.since(&before.counters, name).map(|grown| grown / units);
        let cpu = after.cpu.zip(before.cpu).map(|(after, before)| after.saturating_sub(before));
        Costs {
            cpu_us: cpu.map(|used| used.as_micros() as f64 / units),
            syncs: grown("log_syncs"),
            messages: grown("peer_messages_sent"),
            peer_bytes: grown("peer_bytes_sent"),
            log_bytes: grown("log_bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(page: &str, cpu_ms: u64) -> Readings {
        let mut counters = Counters::default();
        counters.add_page(page);
        Readings { cpu: Some(Duration::from_millis(cpu_ms)), counters }
    }

    #[test]
    fn a_counter_that_no_node_has_is_absent_and_one_that_is_new_began_at_zero() {
        let before = readings("quorate_log_syncs_total 5\n", 0).counters;
        let after = "quorate_log_syncs_total 7\nquorate_peer_bytes_sent_total 9\n";
        let after = readings(after, 0).counters;
        assert_eq!(after.since(&before, "log_syncs"), Some(2.0));
        assert_eq!(after.since(&before, "peer_bytes_sent"), Some(9.0));
        assert_eq!(after.since(&before, "read_repairs"), None);
    }

    #[test]
    fn costs_are_what_was_used_in_between_for_each_unit() {
        let page = |syncs, bytes| {
            format!("quorate_log_syncs_total {syncs}\nquorate_log_bytes_total {bytes}\n")
        };
        let before = readings(&page(5, 1_000), 30);
        let after = readings(&page(15, 3_000), 50);
        let costs = Costs::between(&before, &after, 20.0);
        assert_eq!((costs.cpu_us, costs.syncs), (Some(1_000.0), Some(0.5)));
        assert_eq!((costs.log_bytes, costs.messages), (Some(100.0), None));
        assert_eq!(Costs::between(&before, &after, 0.0), Costs::default());
        let elsewhere = Readings { cpu: None, ..after };
        assert_eq!(Costs::between(&before, &elsewhere, 20.0).cpu_us, None);
    }
}

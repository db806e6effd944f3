//! Counting requests by operation and status, without a lock on the hot path.

use std::sync::OnceLock;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;

use crate::telemetry::{Metrics, RequestLabel};

/// What a request was for, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Get,
    Head,
    Put,
    Delete,
    List,
    Batch,
    Transaction,
    Watch,
    Explain,
    Cluster,
    Transfer,
    Members,
    Repair,
    Layout,
    ChangeLayout,
    Node,
    Health,
    Ready,
    Metrics,
    /// Unknown paths, and methods that are not offered.
    Other,
}

impl Operation {
    const COUNT: usize = Operation::Other as usize + 1;

    const fn as_str(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::Put => "put",
            Operation::Delete => "delete",
            Operation::List => "list",
            Operation::Batch => "batch",
            Operation::Transaction => "txn",
            Operation::Watch => "watch",
            Operation::Explain => "explain",
            Operation::Cluster => "cluster",
            Operation::Transfer => "transfer",
            Operation::Members => "members",
            Operation::Repair => "repair",
            Operation::Layout => "layout",
            Operation::ChangeLayout => "change_layout",
            Operation::Node => "node",
            Operation::Health => "health",
            Operation::Ready => "ready",
            Operation::Metrics => "metrics",
            Operation::Other => "other",
        }
    }

    /// Whether it changes data, so that its failures say an outcome.
    pub const fn is_write(self) -> bool {
        match self {
            Operation::Put
            | Operation::Delete
            | Operation::Batch
            | Operation::Transaction
            | Operation::Transfer
            | Operation::Members
            | Operation::ChangeLayout => true,
            Operation::Get
            | Operation::Head
            | Operation::List
            | Operation::Watch
            | Operation::Explain
            | Operation::Cluster
            | Operation::Repair
            | Operation::Layout
            | Operation::Node
            | Operation::Health
            | Operation::Ready
            | Operation::Metrics
            | Operation::Other => false,
        }
    }
}

/// The statuses that answers have; one that is missing here is counted all the same, more slowly.
const STATUSES: [u16; 20] = [
    200, 202, 204, 206, 304, 400, 404, 405, 408, 409, 412, 413, 415, 416, 421, 422, 429, 501, 503,
    504,
];

/// Counters that were used before, by operation and status.
pub struct Counters {
    metrics: Metrics,
    cells: [[OnceLock<Counter>; STATUSES.len()]; Operation::COUNT],
}

impl Counters {
    /// Counts into `metrics`.
    pub fn new(metrics: Metrics) -> Counters {
        let cells = std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new()));
        Counters { metrics, cells }
    }

    /// Counts one answered request.
    pub fn count(&self, operation: Operation, status: StatusCode) {
        let status = status.as_u16();
        let found = || {
            let label = RequestLabel { operation: operation.as_str(), status };
            self.metrics.requests.get_or_create(&label).clone()
        };
        match STATUSES.iter().position(|&known| known == status) {
            Some(column) => self.cells[operation as usize][column].get_or_init(found).inc(),
            None => found().inc(),
        };
    }
}

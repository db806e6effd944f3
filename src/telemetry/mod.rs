//! Metrics and logs. One [`Metrics`] a node: a process that simulates three nodes has three.
//!
//! Counters are named once, here; `api` serves them at `/metrics` in the Prometheus text format.

mod logging;

pub use logging::{check_filter, start as start_logging};

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of a peer message: what it carried.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServiceLabel {
    pub service: &'static str,
}

/// Labels of an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    pub operation: &'static str,
    pub status: u16,
}

/// Makes [`Metrics`] of a list of counters: each is a field, and its sentence the help text at `/metrics`.
macro_rules! metrics {
    ($($name:ident: $help:literal,)*) => {
        /// Everything a node counts; cheap to clone.
        #[derive(Clone)]
        pub struct Metrics {
            registry: Arc<Registry>,
            /// Messages handed to a peer link, requests and answers alike.
            pub peer_messages_sent: Family<ServiceLabel, Counter>,
            /// Records that shared a sync.
            pub log_batch_records: Histogram,
            /// HTTP requests answered.
            pub requests: Family<RequestLabel, Counter>,
            /// HTTP requests being served.
            pub requests_in_flight: Gauge,
            /// Bytes of hints kept now.
            pub hint_bytes: Gauge,
            $(#[doc = $help] pub $name: Counter,)*
        }

        impl Metrics {
            /// Fresh counters, all zero.
            pub fn new() -> Metrics {
                let mut metrics = Metrics {
                    registry: Arc::default(),
                    peer_messages_sent: Family::default(),
                    log_batch_records: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
                    requests: Family::default(),
                    requests_in_flight: Gauge::default(),
                    hint_bytes: Gauge::default(),
                    $($name: Counter::default(),)*
                };
                let mut registry = Registry::with_prefix("quorate");
                metrics.register_others(&mut registry);
                $(registry.register(stringify!($name), $help, metrics.$name.clone());)*
                metrics.registry = Arc::new(registry);
                metrics
            }
        }
    };
}

metrics! {
    peer_bytes_sent: "Bytes written to peer links, frame headers included",
    peer_protocol_errors: "Connections dropped as a peer sent what is no frame, or broke the handshake",
    log_syncs: "Syncs of the commit log",
    log_records: "Records appended to the commit log",
    log_bytes: "Bytes appended to the commit log",
    log_torn_tails: "Torn tails cut off when a commit log was opened",
    checkpoints: "Checkpoints taken",
    read_index_rounds: "Rounds that confirmed the leader for reads; each may serve many",
    read_indexes_by_word: "Read indexes that a leader gave on the asking follower's word",
    read_rounds_by_word: "Rounds of a leader's own reads that a follower's question vouched for",
    lease_reads: "Reads answered from the lease alone",
    stale_reads_refused: "Local reads refused as their max_staleness could not be kept",
    writes_refused_as_slow: "Writes refused as they would have waited too long for the log",
    elections_won: "Times this node became the leader",
    leadership_transfers: "Times this node handed leadership over",
    hand_overs_at_stop: "Times this node handed leadership over before it stopped",
    membership_changes: "Changes of the members that this node made as their leader",
    raft_log_truncations: "Times the consensus log lost its end to another leader's",
    snapshots_sent: "Snapshots sent to followers",
    snapshots_resumed: "Times that messages of a snapshot were sent again, as none of them was answered",
    snapshots_installed: "Snapshots installed",
    records_expired: "Records whose time was over, removed",
    writes_forwarded: "Writes passed on to the leader",
    writes_deduplicated: "Second arrivals of forwarded writes, discarded",
    writes_remembered: "Writes sent again under their Idempotency-Key and answered as the first time",
    idempotency_keys_refused: "Writes refused as their Idempotency-Key is another request's, or one too many",
    writes_superseded: "Acknowledged writes that lost to a newer version already there",
    read_repairs: "Replicas that a read found stale or missing, and wrote to",
    stragglers_finished: "Replica writes that finished after the client had its answer",
    stragglers_failed: "Replica writes that were given up after the client had its answer",
    version_collisions: "Two different records under one version: must stay 0",
    damaged_partitions: "Partitions whose rows are other than what was written: must stay 0",
    hints_kept: "Hints kept for replicas that could not be written to",
    hints_dropped: "Hints for which there was no room, or that nobody needs any more",
    hints_sent: "Hints that a replica took",
    comparisons: "Comparisons of this node's replicas with those of another, finished",
    comparison_repairs: "Records that comparisons wrote to a replica that lacked them",
    deletions_collected: "Tombstones and expired records dropped, as every replica had them",
    writes_too_late: "Replica writes refused as they were stamped before the collection horizon",
    clock_drift_ignored: "Versions from elsewhere that ran too far ahead to be taken in",
}

impl Metrics {
    /// Registers what is no counter, or has labels.
    fn register_others(&self, registry: &mut Registry) {
        let sent = self.peer_messages_sent.clone();
        registry.register("peer_messages_sent", "Messages handed to peer links", sent);
        registry.register("requests", "HTTP requests answered", self.requests.clone());
        let in_flight = self.requests_in_flight.clone();
        registry.register("requests_in_flight", "HTTP requests being served", in_flight);
        let kept = self.hint_bytes.clone();
        registry.register("hint_bytes", "Bytes of hints kept", kept);
        let batches = self.log_batch_records.clone();
        registry.register("log_batch_records", "Records that shared a sync", batches);
    }

    /// The counters in the Prometheus text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail; an empty page would show if it ever did.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

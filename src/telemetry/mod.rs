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

/// Everything a node counts; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Messages handed to a peer link, requests and answers alike.
    pub peer_messages_sent: Family<ServiceLabel, Counter>,
    /// Bytes written to peer links, frame headers included.
    pub peer_bytes_sent: Counter,
    /// Connections dropped because a peer sent what is no frame, or broke the handshake.
    pub peer_protocol_errors: Counter,
    /// Syncs of the commit log.
    pub log_syncs: Counter,
    /// Records appended to the commit log.
    pub log_records: Counter,
    /// Bytes appended to the commit log.
    pub log_bytes: Counter,
    /// Torn tails cut off when a commit log was opened.
    pub log_torn_tails: Counter,
    /// Records that shared a sync.
    pub log_batch_records: Histogram,
    /// Checkpoints taken.
    pub checkpoints: Counter,
    /// HTTP requests answered.
    pub requests: Family<RequestLabel, Counter>,
    /// HTTP requests being served.
    pub requests_in_flight: Gauge,
    /// Rounds that confirmed the leader for reads; each may serve many.
    pub read_index_rounds: Counter,
    /// Read indexes that a leader gave on the asking follower's word.
    pub read_indexes_by_word: Counter,
    /// Rounds of a leader's own reads that a follower's question vouched for.
    pub read_rounds_by_word: Counter,
    pub lease_reads: Counter,
    pub stale_reads_refused: Counter,
    pub writes_refused_as_slow: Counter,
    /// Times this node became the leader.
    pub elections_won: Counter,
    /// Times this node handed leadership over, and of those the ones before it stopped.
    pub leadership_transfers: Counter,
    pub hand_overs_at_stop: Counter,
    /// Changes of the members that this node made as their leader.
    pub membership_changes: Counter,
    /// Times the consensus log lost its end to another leader's.
    pub raft_log_truncations: Counter,
    /// Snapshots sent and installed.
    pub snapshots_sent: Counter,
    pub snapshots_resumed: Counter,
    pub snapshots_installed: Counter,
    pub records_expired: Counter,
    /// Writes this node passed on to the leader.
    pub writes_forwarded: Counter,
    /// Duplicates of forwarded writes that the state machine discarded.
    pub writes_deduplicated: Counter,
    /// Writes sent again under their idempotency key, of which this node's state machine remembered
    /// what became.
    pub writes_remembered: Counter,
    /// Writes that this node's state machine refused for their idempotency key: it is remembered for
    /// another request, or no more can be remembered.
    pub idempotency_keys_refused: Counter,
    /// Acknowledged writes that lost to a newer version already there.
    pub writes_superseded: Counter,
    /// Replicas that a read found stale or missing, and wrote to.
    pub read_repairs: Counter,
    /// Replica writes that finished, or were given up, after the client had its answer.
    pub stragglers_finished: Counter,
    pub stragglers_failed: Counter,
    /// Two different records under one version: must stay 0.
    pub version_collisions: Counter,
    /// Partitions whose rows were found to be other than what was written: must stay 0.
    pub damaged_partitions: Counter,
    /// Hints kept for replicas that could not be written to, and those for which there was no room.
    pub hints_kept: Counter,
    pub hints_dropped: Counter,
    /// Hints that a replica took.
    pub hints_sent: Counter,
    /// Bytes of hints kept now.
    pub hint_bytes: Gauge,
    /// Comparisons of this node's replicas with those of another, finished.
    pub comparisons: Counter,
    /// Records that comparisons wrote to a replica that lacked them.
    pub comparison_repairs: Counter,
    /// Versions from elsewhere that ran too far ahead to be taken in.
    pub clock_drift_ignored: Counter,
}

impl Metrics {
    /// Fresh counters, all zero.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("quorate");
        let r = &mut registry;
        let mut metrics = Metrics {
            peer_messages_sent: family(r, "peer_messages_sent", "Messages handed to peer links"),
            peer_bytes_sent: counter(r, "peer_bytes_sent", "Bytes written to peer links"),
            peer_protocol_errors: counter(r, "peer_protocol_errors", "Peer connections dropped"),
            log_syncs: counter(r, "log_syncs", "Syncs of the commit log"),
            log_records: counter(r, "log_records", "Records appended to the commit log"),
            log_bytes: counter(r, "log_bytes", "Bytes appended to the commit log"),
            log_torn_tails: counter(r, "log_torn_tails", "Torn tails cut at start"),
            log_batch_records: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            checkpoints: counter(r, "checkpoints", "Checkpoints taken"),
            requests: Family::default(),
            requests_in_flight: Gauge::default(),
            read_index_rounds: counter(r, "read_index_rounds", "Leader confirmations for reads"),
            read_indexes_by_word: counter(r, "read_indexes_by_word", "Questions answered at once"),
            read_rounds_by_word: counter(r, "read_rounds_by_word", "Rounds on a follower's word"),
            lease_reads: counter(r, "lease_reads", "Reads answered from the lease alone"),
            writes_refused_as_slow: counter(r, "writes_refused_as_slow", "Refused: long waits"),
            stale_reads_refused: counter(r, "stale_reads_refused", "Refused by max_staleness"),
            elections_won: counter(r, "elections_won", "Times this node became the leader"),
            leadership_transfers: counter(r, "leadership_transfers", "Leadership handed over"),
            hand_overs_at_stop: counter(r, "hand_overs_at_stop", "Hand-overs before a stop"),
            membership_changes: counter(r, "membership_changes", "Changes of the members made"),
            raft_log_truncations: counter(r, "raft_log_truncations", "Log ends given up"),
            snapshots_sent: counter(r, "snapshots_sent", "Snapshots sent to followers"),
            snapshots_resumed: counter(
                r,
                "snapshots_resumed",
                "Times that messages of a snapshot were sent again, as none of them was answered",
            ),
            snapshots_installed: counter(r, "snapshots_installed", "Snapshots installed"),
            records_expired: counter(r, "records_expired", "Records whose time was over, removed"),
            writes_forwarded: counter(r, "writes_forwarded", "Writes passed on to the leader"),
            writes_deduplicated: counter(r, "writes_deduplicated", "Second arrivals discarded"),
            writes_remembered: counter(
                r,
                "writes_remembered",
                "Writes sent again under their Idempotency-Key and answered as the first time",
            ),
            idempotency_keys_refused: counter(
                r,
                "idempotency_keys_refused",
                "Writes refused as their Idempotency-Key is another request's, or one too many",
            ),
            writes_superseded: counter(r, "writes_superseded", "Acknowledged writes that lost"),
            read_repairs: counter(r, "read_repairs", "Replicas repaired by reads"),
            stragglers_finished: counter(r, "stragglers_finished", "Late replica writes done"),
            stragglers_failed: counter(r, "stragglers_failed", "Late replica writes given up"),
            version_collisions: counter(r, "version_collisions", "Two records, one version"),
            damaged_partitions: counter(r, "damaged_partitions", "Partitions with damaged rows"),
            hints_kept: counter(r, "hints_kept", "Hints kept for replicas that were away"),
            hints_dropped: counter(r, "hints_dropped", "Hints for which there was no room"),
            hints_sent: counter(r, "hints_sent", "Hints that a replica took"),
            hint_bytes: Gauge::default(),
            comparisons: counter(r, "comparisons", "Comparisons of replicas, finished"),
            comparison_repairs: counter(r, "comparison_repairs", "Records that comparisons wrote"),
            clock_drift_ignored: counter(r, "clock_drift_ignored", "Versions too far ahead"),
            registry: Arc::new(Registry::default()),
        };
        metrics.register_kept(r);
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// Registers what was made before it was registered.
    fn register_kept(&self, registry: &mut Registry) {
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

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn family(registry: &mut Registry, name: &str, help: &str) -> Family<ServiceLabel, Counter> {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

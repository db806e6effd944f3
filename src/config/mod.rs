//! Settings: raw as people write them, validated as the node uses them.
//!
//! Settings come from defaults, then a TOML file, then `QUORATE_*`, then flags. [`Settings`] is what
//! comes out: every value checked, every limit named with its unit.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::types::{ClusterId, Mode, NodeId};

mod keys;
mod resolve;

pub use keys::{KEYS, Key, address as check_address};
pub use resolve::{Origin, RawSettings, Resolved, SettingsError};

/// Which table engine holds the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// sled 0.34: the default.
    Sled,
    /// fjall 3.
    Fjall,
    /// Everything in memory, written out whole at each checkpoint: for tests and small data.
    Memory,
}

impl Engine {
    /// The word for the engine in flags and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Engine::Sled => "sled",
            Engine::Fjall => "fjall",
            Engine::Memory => "memory",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sled" => Ok(Engine::Sled),
            "fjall" => Ok(Engine::Fjall),
            "memory" => Ok(Engine::Memory),
            _ => Err(format!("'{text}' is not an engine: expected 'sled', 'fjall' or 'memory'")),
        }
    }
}

/// When replicas that a quorum read found stale or missing are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadRepair {
    /// Before the read is answered: the default, and what makes quorum reads hold their promise.
    Blocking,
    /// After the read is answered; the effective level of reads then says `eventual`.
    Background,
    /// Never; the effective level of reads then says `eventual`.
    Off,
}

impl ReadRepair {
    /// The word for it in settings and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReadRepair::Blocking => "blocking",
            ReadRepair::Background => "background",
            ReadRepair::Off => "off",
        }
    }
}

/// What a node that joins a running cluster becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinAs {
    /// A learner first, and given a vote once it has caught up.
    Voter,
    /// A learner, until somebody promotes it.
    Learner,
}

impl JoinAs {
    /// The word for it in settings and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            JoinAs::Voter => "voter",
            JoinAs::Learner => "learner",
        }
    }
}

impl FromStr for JoinAs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "voter" => Ok(JoinAs::Voter),
            "learner" => Ok(JoinAs::Learner),
            _ => Err(format!("'{text}' is not valid: expected 'voter' or 'learner'")),
        }
    }
}

/// A node's settings, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node_id: NodeId,
    pub mode: Mode,
    /// Where clients are listened for, `host:port`.
    pub listen: String,
    /// Where peers are listened for, `host:port`.
    pub peer_listen: String,
    /// The address that other nodes and redirected clients are told; `listen` unless set.
    pub advertise: String,
    /// Every node of a new cluster, this one included, with its peer address; of a running one, those
    /// that this node was told of.
    pub peers: BTreeMap<NodeId, String>,
    /// The client address of a member of the running cluster that this node is to join.
    pub join: Option<String>,
    /// What a node that joins becomes.
    pub join_as: JoinAs,
    /// The cluster that this node joins, once a member has named it; no setting of its own.
    pub joins: Option<ClusterId>,
    pub data_dir: PathBuf,
    pub engine: Engine,
    pub leader: LeaderSettings,
    pub leaderless: LeaderlessSettings,
    pub storage: StorageSettings,
    pub limits: Limits,
    pub testing: Testing,
    /// A `tracing` filter, such as `info` or `quorate=debug`.
    pub log: String,
}

/// Timing and batching of the Raft group.
#[derive(Clone, Debug)]
pub struct LeaderSettings {
    pub heartbeat: Duration,
    pub election_timeout_min: Duration,
    pub election_timeout_max: Duration,
    /// How many entries stay in the log behind a checkpoint, for followers that lag a little.
    pub keep_entries: u64,
    /// The node that leads for ever; `None`: whoever is elected.
    pub fixed_leader: Option<NodeId>,
    /// How long an idempotency key is remembered, in log time.
    pub idempotency_expiry: Duration,
    /// How much of a snapshot is sent, and installed by who receives it, a second.
    pub snapshot_bytes_per_s: u64,
    /// How long a leader's reads wait for a follower's question that vouches for them, where one is
    /// expected, before a majority is asked.
    pub read_patience: Duration,
}

/// Replication factor and quorums.
#[derive(Clone, Debug)]
pub struct LeaderlessSettings {
    /// N: replicas a key.
    pub replicas: u16,
    /// R: replicas a read waits for, unless the request says otherwise.
    pub read_quorum: u16,
    /// W: replicas a write waits for, unless the request says otherwise.
    pub write_quorum: u16,
    pub read_repair: ReadRepair,
    /// How many replica writes may be finishing in the background, a node.
    pub max_stragglers: usize,
    /// How often the replicas of two nodes are compared; zero: never.
    pub compare_interval: Duration,
    /// How much is kept for replicas that are away; 0: nothing.
    pub hint_bytes: u64,
    /// How fast hints and comparisons write records to replicas that lack them.
    pub repair_bytes_per_s: u64,
    /// How long tombstones and expired records stay at least; zero: for ever.
    pub tombstone_grace: Duration,
    /// How far versions may run ahead of the wall clock before fresh writes are refused.
    pub max_clock_drift: Duration,
}

/// Sizes of what lies on disk and of its caches, in bytes.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// A log segment is closed once it is this long.
    pub log_segment_bytes: u64,
    /// A checkpoint is taken once the log grew by this much since the last.
    pub checkpoint_log_bytes: u64,
    /// Recent log entries kept in memory for followers.
    pub log_cache_bytes: u64,
    /// The table engine's page cache.
    pub table_cache_bytes: u64,
    /// Old rows kept for a view while writes go on; a view that needs more fails and is retried.
    pub view_overlay_bytes: u64,
}

/// What a client may ask for, and how much at once.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_key_bytes: usize,
    pub max_value_bytes: usize,
    pub max_batch_operations: usize,
    /// The body of a batch request.
    pub max_batch_bytes: usize,
    /// Keys on a page of a list.
    pub max_list_items: usize,
    pub max_requests_in_flight: usize,
    /// While the oldest write has waited its turn for longer than this, more are refused.
    pub max_queue_wait: Duration,
    pub max_connections: usize,
    /// A request that took this long is answered with what is known then.
    pub request_timeout: Duration,
}

/// Settings for tests alone: a cluster that is to be relied on leaves them as they are.
#[derive(Clone, Debug)]
pub struct Testing {
    /// How far this node's wall clock is made to be off, in milliseconds.
    pub wall_clock_offset_ms: i64,
}

impl Settings {
    /// The defaults for one node of `peers`, before a file, the environment or flags change them.
    pub fn defaults(node_id: NodeId, mode: Mode, peers: BTreeMap<NodeId, String>) -> Settings {
        let replicas = peers.len().clamp(1, 3) as u16;
        let majority = replicas / 2 + 1;
        Settings {
            node_id,
            mode,
            listen: "127.0.0.1:7001".to_owned(),
            peer_listen: "127.0.0.1:8001".to_owned(),
            advertise: "127.0.0.1:7001".to_owned(),
            peers,
            join: None,
            join_as: JoinAs::Voter,
            joins: None,
            data_dir: PathBuf::from("data"),
            engine: Engine::Sled,
            leader: LeaderSettings {
                heartbeat: Duration::from_millis(100),
                election_timeout_min: Duration::from_millis(250),
                election_timeout_max: Duration::from_millis(400),
                keep_entries: 10_000,
                fixed_leader: None,
                // Long enough for a client that crashed between its tries to come back, short enough
                // that a thousand new keys a second fit.
                idempotency_expiry: Duration::from_secs(15 * 60),
                // A fraction of what a disk or a core does, so that requests hardly notice.
                snapshot_bytes_per_s: 16 << 20,
                // Several round trips of one machine room, and less than a disk's sync.
                read_patience: Duration::from_millis(2),
            },
            leaderless: LeaderlessSettings {
                replicas,
                read_quorum: majority,
                write_quorum: majority,
                read_repair: ReadRepair::Blocking,
                max_stragglers: 16_384,
                // Ten seconds: a comparison of replicas that are equal costs one message, so that it
                // can be frequent; a replica that comes back does not wait for it.
                compare_interval: Duration::from_secs(10),
                // What a busy node writes in some minutes; who is away for longer is compared with.
                hint_bytes: 256 << 20,
                repair_bytes_per_s: 16 << 20,
                // Clocks may be apart by half of it before writes are refused for it; hints and late
                // messages are mostly younger.
                tombstone_grace: Duration::from_secs(60 * 60),
                max_clock_drift: Duration::from_millis(500),
            },
            storage: StorageSettings {
                log_segment_bytes: 32 << 20,
                checkpoint_log_bytes: 64 << 20,
                log_cache_bytes: 32 << 20,
                table_cache_bytes: 128 << 20,
                view_overlay_bytes: 64 << 20,
            },
            limits: Limits {
                max_key_bytes: 4 << 10,
                max_value_bytes: 1 << 20,
                max_batch_operations: 128,
                max_batch_bytes: 8 << 20,
                max_list_items: 1_000,
                max_requests_in_flight: 4_096,
                // Longer than an election, which must cost no refusals, and well below the timeout.
                max_queue_wait: Duration::from_secs(1),
                max_connections: 4_096,
                request_timeout: Duration::from_secs(5),
            },
            testing: Testing { wall_clock_offset_ms: 0 },
            log: "info".to_owned(),
        }
    }
}

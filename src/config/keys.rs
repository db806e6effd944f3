//! Every setting there is: its name, what it means, how it is read and how it is shown.
//!
//! One table serves the TOML file, the environment, the flags, `config check` and `config print`,
//! so that a setting cannot exist in one of them and be unknown to another.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{JoinAs, ReadRepair, Settings};
use crate::types::NodeId;

/// One setting.
pub struct Key {
    /// As in the file: `section.name`. In the environment: `QUORATE_SECTION_NAME`.
    pub name: &'static str,
    /// One line that says what it is, with its unit.
    pub help: &'static str,
    pub(super) set: fn(&mut Settings, &str) -> Result<(), String>,
    pub(super) get: fn(&Settings) -> String,
}

impl Key {
    /// The name of the environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("QUORATE_{}", self.name.replace('.', "_").to_uppercase())
    }
}

/// The settings that decide the defaults of the others; `resolve` reads them first.
pub const FIRST: [&str; 3] = ["id", "mode", "peers"];

/// A whole number from `min` to `max`.
fn number<T: FromStr + PartialOrd + std::fmt::Display>(
    text: &str,
    min: T,
    max: T,
) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(number) if number >= min && number <= max => Ok(number),
        _ => Err(format!("expected a whole number from {min} to {max}")),
    }
}

/// A number of bytes: `1048576`, `1024KiB` or `1MiB`.
fn bytes(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let scale: Option<u64> = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let value = digits.parse::<u64>().ok().zip(scale).and_then(|(n, scale)| n.checked_mul(scale));
    match value {
        Some(value) if value >= min && value <= max => Ok(value),
        _ => Err(format!(
            "expected a number of bytes from {} to {}, such as 65536, 64KiB or 1MiB",
            show_bytes(min),
            show_bytes(max)
        )),
    }
}

/// Bytes with the largest unit that divides them.
fn show_bytes(value: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| value >= 1 << shift && value.is_multiple_of(1 << shift))
        .map_or_else(|| value.to_string(), |(unit, shift)| format!("{}{unit}", value >> shift))
}

fn millis(text: &str, min: u64, max: u64) -> Result<Duration, String> {
    number(text, min, max).map(Duration::from_millis)
}

/// How long deletions are kept: for ever, or long enough that no request is under way for as long.
fn grace(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => millis(text, 4_000, 365 * 86_400_000).map_err(|problem| format!("{problem}, or 0")),
    }
}

/// `host:port`, where the host may be a name.
pub fn address(text: &str) -> Result<String, String> {
    let valid = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if valid { Ok(text.to_owned()) } else { Err("expected host:port".to_owned()) }
}

macro_rules! key {
    ($name:literal, $help:literal, $($field:ident).+ = |$text:ident| $parse:expr, $show:expr) => {
        Key {
            name: $name,
            help: $help,
            set: |settings, $text| {
                settings.$($field).+ = $parse?;
                Ok(())
            },
            get: |settings| {
                let show = $show;
                show(&settings.$($field).+)
            },
        }
    };
}

fn show<T: std::fmt::Display>(value: &T) -> String {
    value.to_string()
}

fn ms(value: &Duration) -> String {
    value.as_millis().to_string()
}

fn size(value: &u64) -> String {
    show_bytes(*value)
}

fn usize_size(value: &usize) -> String {
    show_bytes(*value as u64)
}

/// A test may set a node's wall clock off by a day at most, in milliseconds.
const MAX_CLOCK_OFFSET_MS: i64 = 86_400_000;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The settings that follow `FIRST`.
pub const KEYS: &[Key] = &[
    key!("listen", "host:port where clients are listened for", listen = |t| address(t), show),
    key!(
        "peer_listen",
        "host:port where peers are listened for",
        peer_listen = |t| address(t),
        show
    ),
    key!(
        "advertise",
        "host:port that clients are sent to when this node leads",
        advertise = |t| address(t),
        show
    ),
    key!(
        "join",
        "client host:port of a node of the running cluster to join; none: be of a new one",
        join = |t| match t {
            "none" => Ok(None),
            at => address(at).map(Some).map_err(|problem| format!("{problem}, or none")),
        },
        |at: &Option<String>| at.clone().unwrap_or_else(|| "none".to_owned())
    ),
    key!(
        "join_as",
        "what a node that joins becomes: voter (once it has caught up) or learner",
        join_as = |t| t.parse(),
        |role: &JoinAs| role.as_str().to_owned()
    ),
    key!(
        "data_dir",
        "the data directory of this node",
        data_dir = |t| match t {
            "" => Err("expected a path".to_owned()),
            path => Ok(PathBuf::from(path)),
        },
        |path: &PathBuf| path.display().to_string()
    ),
    key!("engine", "the table engine: sled, fjall or memory", engine = |t| t.parse(), show),
    key!(
        "log",
        "what is logged: error, warn, info, debug, trace or a tracing filter",
        log = |t| crate::telemetry::check_filter(t),
        show
    ),
    key!(
        "leader.heartbeat_ms",
        "milliseconds between heartbeats of the leader",
        leader.heartbeat = |t| millis(t, 5, 10_000),
        ms
    ),
    key!(
        "leader.election_timeout_min_ms",
        "shortest silence of the leader, in milliseconds, before a node stands for election",
        leader.election_timeout_min = |t| millis(t, 10, 60_000),
        ms
    ),
    key!(
        "leader.election_timeout_max_ms",
        "longest silence of the leader, in milliseconds, before a node stands for election",
        leader.election_timeout_max = |t| millis(t, 10, 120_000),
        ms
    ),
    key!(
        "leader.keep_entries",
        "log entries kept behind a checkpoint for followers that lag a little",
        leader.keep_entries = |t| number(t, 0, 100_000_000),
        show
    ),
    key!(
        "leader.fixed_leader",
        "the node that leads for ever, the same on every node; none: whoever is elected",
        leader.fixed_leader = |t| match t {
            "none" => Ok(None),
            id => id.parse().map(Some).map_err(|_| "expected a node's id, or none".to_owned()),
        },
        |fixed: &Option<NodeId>| fixed.map_or("none".to_owned(), |id| id.to_string())
    ),
    key!(
        "leader.idempotency_expiry_ms",
        "milliseconds of log time for which an Idempotency-Key is remembered",
        leader.idempotency_expiry = |t| millis(t, 1_000, 7 * 86_400_000),
        ms
    ),
    key!(
        "leader.snapshot_bytes_per_s",
        "bytes a second of a snapshot being sent, and of one being installed, while a majority does without",
        leader.snapshot_bytes_per_s = |t| bytes(t, 1 << 20, 1024 * GIB),
        size
    ),
    key!(
        "leader.read_patience_ms",
        "milliseconds that a leader's reads wait for a follower's question to vouch for them; 0 never",
        leader.read_patience = |t| millis(t, 0, 200),
        ms
    ),
    key!(
        "leaderless.replicas",
        "N: replicas of each key",
        leaderless.replicas = |t| number(t, 1, 255),
        show
    ),
    key!(
        "leaderless.read_quorum",
        "R: replicas a read waits for",
        leaderless.read_quorum = |t| number(t, 1, 255),
        show
    ),
    key!(
        "leaderless.write_quorum",
        "W: replicas a write waits for",
        leaderless.write_quorum = |t| number(t, 1, 255),
        show
    ),
    key!(
        "leaderless.read_repair",
        "whether reads repair replicas before they answer, after it, or not: blocking, background or off",
        leaderless.read_repair = |t| match t {
            "blocking" => Ok(ReadRepair::Blocking),
            "background" => Ok(ReadRepair::Background),
            "off" => Ok(ReadRepair::Off),
            _ => Err("expected 'blocking', 'background' or 'off'".to_owned()),
        },
        |repair: &ReadRepair| repair.as_str().to_owned()
    ),
    key!(
        "leaderless.max_stragglers",
        "replica writes that may be finishing in the background",
        leaderless.max_stragglers = |t| number(t, 1, 1_000_000),
        show
    ),
    key!(
        "leaderless.compare_interval_ms",
        "milliseconds between two comparisons of the replicas of two nodes; 0: they are not compared",
        leaderless.compare_interval = |t| millis(t, 0, 86_400_000),
        ms
    ),
    key!(
        "leaderless.hint_bytes",
        "bytes of writes kept for replicas that are away; 0: none are",
        leaderless.hint_bytes = |t| bytes(t, 0, 1024 * GIB),
        size
    ),
    key!(
        "leaderless.repair_bytes_per_s",
        "bytes a second that hints and comparisons write to replicas that lack them",
        leaderless.repair_bytes_per_s = |t| bytes(t, 1 << 20, 1024 * GIB),
        size
    ),
    key!(
        "leaderless.tombstone_grace_ms",
        "milliseconds that deletions are kept at least before all replicas forget them; 0: for ever",
        leaderless.tombstone_grace = |t| grace(t),
        ms
    ),
    key!(
        "leaderless.max_clock_drift_ms",
        "milliseconds that versions may run ahead of the wall clock",
        leaderless.max_clock_drift = |t| millis(t, 500, 3_600_000),
        ms
    ),
    key!(
        "storage.log_segment_bytes",
        "length of a commit log segment",
        storage.log_segment_bytes = |t| bytes(t, 64 << 10, GIB),
        size
    ),
    key!(
        "storage.checkpoint_log_bytes",
        "growth of the commit log after which a checkpoint is taken",
        storage.checkpoint_log_bytes = |t| bytes(t, 64 << 10, 64 * GIB),
        size
    ),
    key!(
        "storage.log_cache_bytes",
        "recent log entries kept in memory for followers",
        storage.log_cache_bytes = |t| bytes(t, 64 << 10, 16 * GIB),
        size
    ),
    key!(
        "storage.table_cache_bytes",
        "page cache of the table engine",
        storage.table_cache_bytes = |t| bytes(t, MIB, 1024 * GIB),
        size
    ),
    key!(
        "storage.view_overlay_bytes",
        "old rows kept for a view while writes go on",
        storage.view_overlay_bytes = |t| bytes(t, MIB, 64 * GIB),
        size
    ),
    key!(
        "limits.max_key_bytes",
        "longest key",
        limits.max_key_bytes = |t| bytes(t, 1, 64 << 10).map(|n| n as usize),
        usize_size
    ),
    key!(
        "limits.max_value_bytes",
        "longest value",
        limits.max_value_bytes = |t| bytes(t, 1, 4 * MIB).map(|n| n as usize),
        usize_size
    ),
    key!(
        "limits.max_batch_operations",
        "operations in one batch request",
        limits.max_batch_operations = |t| number(t, 1, 10_000),
        show
    ),
    key!(
        "limits.max_batch_bytes",
        "body of one batch request",
        limits.max_batch_bytes = |t| bytes(t, 1024, 64 * MIB).map(|n| n as usize),
        usize_size
    ),
    key!(
        "limits.max_list_items",
        "items on one page of a list",
        limits.max_list_items = |t| number(t, 1, 10_000),
        show
    ),
    key!(
        "limits.max_requests_in_flight",
        "requests served at a time; more are answered 429",
        limits.max_requests_in_flight = |t| number(t, 1, 1_000_000),
        show
    ),
    key!(
        "limits.max_queue_wait_ms",
        "milliseconds that writes may wait their turn; while they wait longer, more are answered 429",
        limits.max_queue_wait = |t| millis(t, 10, 600_000),
        ms
    ),
    key!(
        "limits.max_connections",
        "client connections held at a time",
        limits.max_connections = |t| number(t, 1, 1_000_000),
        show
    ),
    key!(
        "limits.request_timeout_ms",
        "milliseconds after which a request is answered with what is known",
        limits.request_timeout = |t| millis(t, 10, 600_000),
        ms
    ),
    key!(
        "testing.wall_clock_offset_ms",
        "for tests only: milliseconds that this node's wall clock is made to be off, either way",
        testing.wall_clock_offset_ms = |t| number(t, -MAX_CLOCK_OFFSET_MS, MAX_CLOCK_OFFSET_MS),
        show
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_show_with_units() {
        assert_eq!(bytes("64KiB", 0, GIB), Ok(65_536));
        assert_eq!(bytes("17", 0, GIB), Ok(17));
        for bad in ["", "x", "64kb", "-1", "99999999999GiB", "2GiB"] {
            assert!(bytes(bad, 0, GIB).is_err(), "{bad}");
        }
        assert_eq!(show_bytes(65_536), "64KiB");
        assert_eq!(show_bytes(65_537), "65537");
    }

    #[test]
    fn every_default_is_one_that_its_own_key_accepts() {
        let peers = [(crate::types::NodeId(1), "127.0.0.1:8001".to_owned())].into();
        let settings =
            Settings::defaults(crate::types::NodeId(1), crate::types::Mode::Leader, peers);
        for key in KEYS {
            let mut copy = settings.clone();
            let shown = (key.get)(&settings);
            assert_eq!((key.set)(&mut copy, &shown), Ok(()), "{} = {shown}", key.name);
            assert_eq!((key.get)(&copy), shown, "{}", key.name);
        }
    }
}

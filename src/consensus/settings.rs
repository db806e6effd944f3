//! Every openraft setting, each with its reason: a default that changes, or that is wrong here,
//! must not slip in.

use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy, StepDownPolicy};

use crate::config::LeaderSettings;
use crate::planted::{self, Bug};
use crate::types::NodeId;

/// Entries in one message to a follower; the reader bounds its bytes, see
/// [`super::log_reader::MAX_READ_BYTES`].
const MAX_ENTRIES_A_MESSAGE: u64 = 4_096;

/// Requests, notifications and state machine commands that may wait for the core, each.
const CORE_QUEUE: u64 = 16_384;

/// Retries to a node that cannot be reached: quick at first, for a process that restarts, and
/// never slower than what a client would notice.
const BACKOFF: &str = "20ms 40ms 80ms ...300ms";

/// openraft's configuration for these settings on one node, which stands in elections from the start
/// on or, where it `stands` not yet, later (see [`super::lease`]).
pub(super) fn config(
    settings: &LeaderSettings,
    node: NodeId,
    stands: bool,
) -> Result<Config, ConfigError> {
    let ms = |duration: Duration| duration.as_millis() as u64;
    #[allow(deprecated, reason = "every field is named, the retired one too")]
    let config = Config {
        // Only shown in openraft's own logs.
        cluster_name: "quorate".to_owned(),
        election_timeout_min: ms(settings.election_timeout_min),
        election_timeout_max: ms(settings.election_timeout_max),
        heartbeat_interval: ms(settings.heartbeat),
        // Heartbeats are never left out because data flows: they have a lane of their own, and ten
        // a second cost nothing.
        heartbeat_min_interval: Some(0),
        // The snapshot transfer has timeouts of its own, see `snapshot_sender`; openraft only
        // hands this one through.
        install_snapshot_timeout: ms(super::snapshot_sender::RESUME_WITHIN),
        // Retired in openraft.
        send_snapshot_timeout: 0,
        max_payload_entries: MAX_ENTRIES_A_MESSAGE,
        // Appends that queued are merged into one; the commit log merges their syncs anyway.
        max_append_entries: Some(4_096),
        // Used only to call a learner "up to date" while it is added; a snapshot is sent where the
        // log is purged, and nowhere else.
        replication_lag_threshold: 5_000,
        // `Consensus::compact` decides, by bytes of log; a count of entries says little about them.
        snapshot_policy: SnapshotPolicy::Never,
        // Snapshots are streamed in pages of our own.
        snapshot_max_chunk_size: super::snapshot::PAGE_BYTES as u64,
        // By openraft's own policy nothing is purged: `Consensus::compact` says what, by count and by
        // bytes, and spares what a snapshot being sent needs.
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        api_channel_size: Some(CORE_QUEUE),
        // Proposals that queued are appended together ...
        api_batch_capacity: 4_096,
        // ... and none waits for others to come.
        api_batch_linger_ms: 0,
        notification_channel_size: Some(CORE_QUEUE),
        state_machine_channel_size: Some(CORE_QUEUE),
        // Statistics that are not compiled in.
        log_stage_capacity: None,
        // Followers are told once the loop has taken what queued: fewer, larger messages.
        broadcast_submitted_on_append: Some(false),
        enable_tick: true,
        enable_heartbeat: true,
        // Beside a fixed leader nobody else stands.
        enable_elect: stands && super::leadership::may_stand(settings.fixed_leader, node),
        removed_leader_step_down: StepDownPolicy::After(ms(settings.election_timeout_min)),
        // A leader without a majority refuses proposals and reads already, as its lease is over.
        quorum_loss_probe_interval: None,
        // A node that was cut off must not raise the term when it comes back.
        enable_pre_vote: Some(!planted::is(Bug::NoPreVote)),
        backoff: BACKOFF.to_owned(),
        reset_backoff_on_transfer_leader: Some(true),
        // A follower whose log went back has lost what it promised: never paper over it.
        allow_log_reversion: Some(false),
        // On by default, and unsafe here: a leader replicates before its own sync, is killed, comes
        // back in the same term and gives the same log ids to other entries.
        enable_leader_restore: Some(planted::is(Bug::LeaderRestoredInOldTerm)),
    };
    config.validate()
}

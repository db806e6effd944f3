//! The bugs that can be planted, and what is known of each: one entry a bug, in the order of the
//! table in `docs/testing.md`.

use super::{About, CaughtBy};
use crate::types::Mode;

/// Makes the enum and the table out of one list: what goes wrong, the variant, its name, the modes,
/// what must catch it, and who made the mistake.
macro_rules! bugs {
    ($(
        $(#[doc = $sentence:literal])+
        $bug:ident $name:literal [$($mode:ident)+] $caught_by:ident $shipped_by:literal
    )+) => {
        /// A mistake that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $sentence])+ $bug,)+
        }

        impl Bug {
            /// Every bug, in the order of the table in `docs/testing.md`.
            pub const ALL: &[Bug] = &[$(Bug::$bug),+];

            pub(super) fn about(self) -> &'static About {
                &TABLE[self as usize]
            }
        }

        const TABLE: [About; Bug::ALL.len()] = [$(About {
            name: $name,
            sentence: concat!($($sentence),+),
            modes: &[$(Mode::$mode),+],
            caught_by: CaughtBy::$caught_by,
            shipped_by: $shipped_by,
        }),+];
    };
}

bugs! {
    // What a node keeps, in both modes.

    /// A write is acknowledged once it is queued, before the commit log has synced it.
    AckBeforeSync "ack-before-sync" [Leader Leaderless] Simulator
        "ZooKeeper, whose followers acknowledged a new leader before their log was synced \
         (ZOOKEEPER-4646)"

    /// A sync that failed counts as done: what it should have kept is acknowledged.
    FailedSyncIgnored "failed-sync-ignored" [Leader Leaderless] Simulator
        "PostgreSQL before 11.2, which took the second try of a failed fsync for a success \
         (\"fsyncgate\", 2018)"

    /// A new segment's name is not synced: after a power cut the file may be gone, and with it what
    /// was synced into it.
    DirectoryNotSynced "directory-not-synced" [Leader Leaderless] Simulator
        "a classic: Pillai et al., \"All File Systems Are Not Created Equal\" (OSDI 2014)"

    /// A small file is renamed over the old one before its contents are synced: after a power cut
    /// it is empty or torn.
    RenameBeforeSync "rename-before-sync" [Leader Leaderless] Simulator
        "many programs that met ext4's delayed allocation (2009), and left empty files behind"

    /// Replay after a restart leaves out the first record after the applied position.
    ReplaySkipsOne "replay-skips-one" [Leader Leaderless] Simulator
        "a classic: off by one between \"last applied\" and \"first to apply\""

    /// A last record that a crash cut short is taken for a record.
    TornTailAccepted "torn-tail-accepted" [Leader Leaderless] RealFiles
        "a classic: Pillai et al., \"All File Systems Are Not Created Equal\" (OSDI 2014), on \
         appends that are not atomic"

    /// Damage in the middle of the last segment is cut off like a torn tail, and the acknowledged
    /// records after it with it.
    DamagedMiddleCut "damaged-middle-cut" [Leader Leaderless] RealFiles
        "the systems in Alagappan et al., \"Protocol-Aware Recovery for Consensus-Based Storage\" \
         (FAST 2018), that truncate at a bad checksum"

    /// A record's length is believed unchecked: one flipped bit makes it reach past the end, and
    /// the records from there on are cut off like a torn tail.
    LengthNotChecked "length-not-checked" [Leader Leaderless] RealFiles
        "the crates raft-log and chunked-wal, measured for the decision on the commit log"

    /// A node whose data directory was wiped is let in again under its old id, and votes.
    WipedNodeLetIn "wiped-node-let-in" [Leader Leaderless] Simulator
        "ZooKeeper (ZOOKEEPER-261: reinitialised servers should not participate in leader election)"

    /// A write that may have happened is answered as definitely not applied.
    UnknownSaidNotApplied "unknown-said-not-applied" [Leader Leaderless] Simulator
        "jetcd 0.8.2, in which transactions seemed to fail and were applied (Jepsen, 2024)"

    // Leader mode.

    /// A vote is given before it is on stable storage; it gets there with the next entries only.
    VoteNotDurable "vote-not-durable" [Leader] Simulator
        "a classic: Ongaro, Ousterhout, \"In Search of an Understandable Consensus Algorithm\" \
         (2014), figure 2, persistent state"

    /// A follower that does not answer counts as having the entries that were sent to it.
    CommitWithoutQuorum "commit-without-quorum" [Leader] Simulator
        "Kafka 0.8, whose leader went on alone when no follower kept up (Jepsen, 2013)"

    /// A leader gives a read index without asking a majority whether it still leads.
    StaleReadByPausedLeader "stale-read-by-paused-leader" [Leader] Simulator
        "etcd 0.4 and Consul 0.3 (Jepsen, 2014)"

    /// A read that arrives while a confirmation is under way takes that confirmation's index.
    ReadJoinsDepartedRound "read-joins-departed-round" [Leader] Simulator
        "a classic: Ongaro, \"Consensus: Bridging Theory and Practice\" (2014), section 6.4"

    /// A follower's question vouches for reads that came to the leader after it was sent.
    WordForLaterReads "word-for-later-reads" [Leader] Simulator
        "a classic: Ongaro, \"Consensus: Bridging Theory and Practice\" (2014), section 6.4, step 2, \
         where the confirmation is one that was already on its way"
    /// A leader takes a follower's word without looking whom it stands by.
    WordOfAnyTerm "word-of-any-term" [Leader] ConsensusTests
        "a classic: Ongaro, \"Consensus: Bridging Theory and Practice\" (2014), section 6.4, step 2, \
         without the look at the term in what came back"
    /// A node serves a linearizable read before it has applied the read index.
    ReadBeforeApplied "read-before-applied" [Leader] Simulator
        "a classic: Ongaro, \"Consensus: Bridging Theory and Practice\" (2014), section 6.4, step 4"

    /// A submission whose answer was lost is sent again under a new sequence, and applied twice.
    ForwardTriedTwice "forward-tried-twice" [Leader] Simulator
        "jetcd 0.8.2, which retried what may have been applied (Jepsen, 2024)"

    /// The state machine does not look whether it has applied a submission already.
    SessionLostOnApply "session-lost-on-apply" [Leader] Simulator
        "a classic: Ongaro, \"Consensus: Bridging Theory and Practice\" (2014), section 6.3"

    /// A write is applied twice in one go, and answered with the second version: no answer can show
    /// the first.
    WriteAppliedTwiceAtOnce "write-applied-twice-at-once" [Leader] Simulator
        "a classic: a duplicate that nobody happened to look at before it was overwritten"

    /// A snapshot is sent without the sessions, and a node that installs it applies a retry anew.
    SessionsMissingFromSnapshot "sessions-missing-from-snapshot" [Leader] Simulator
        "a classic: Ongaro, \"Consensus: Bridging Theory and Practice\" (2014), sections 5 and 6.3"

    /// The state machine does not look whether a write came under an idempotency key before, and
    /// applies a client's retry anew.
    IdempotencyKeyIgnored "idempotency-key-ignored" [Leader] Simulator
        "a classic: a header that is documented, and read by nobody"

    /// A client's retry is recognised by its idempotency key and its digest, and applied anew all the same.
    IdempotentRetryAppliedAnew "idempotent-retry-applied-anew" [Leader] Simulator
        "a classic: a duplicate filter that looks, and does not answer from what it remembers"

    /// A write under a known idempotency key is answered as the first one was, whatever it asks for:
    /// another request is acknowledged, and never done.
    IdempotencyKeyMatchesAnyRequest "idempotency-key-matches-any-request" [Leader] Simulator
        "a classic: the IETF's draft on the Idempotency-Key header (2021), on fingerprints of \
         requests"

    /// A snapshot is sent without the idempotency keys, and a node that installs it applies a
    /// client's retry anew.
    IdempotencyKeysMissingFromSnapshot "idempotency-keys-missing-from-snapshot" [Leader] Simulator
        "a classic: Ongaro, \"Consensus: Bridging Theory and Practice\" (2014), sections 5 and 6.3"

    /// A node begins its sessions anew after a restart, and its new submissions are taken for old.
    BootNumberReused "boot-number-reused" [Leader] Simulator
        "a classic: Birrell, Nelson, \"Implementing Remote Procedure Calls\" (1984), on \
         conversation identifiers"

    /// A leader that was killed before its own sync comes back as the leader of the same term, and
    /// gives the same log ids to other entries.
    LeaderRestoredInOldTerm "leader-restored-in-old-term" [Leader] Simulator
        "openraft, by default (databendlabs/openraft#1511)"

    /// A snapshot leaves the deletes out and is laid over what the follower has: deleted keys come
    /// back there.
    SnapshotMissesDeletes "snapshot-misses-deletes" [Leader] Simulator
        "a classic: Ongaro, Ousterhout, \"In Search of an Understandable Consensus Algorithm\" \
         (extended, 2014), figure 13, step 8"

    /// An installed snapshot is not made durable before the log before it is forgotten.
    SnapshotNotDurable "snapshot-not-durable" [Leader] Simulator
        "etcd, which recorded what a snapshot covered before it had saved it (etcd-io/etcd#10219)"

    /// A truncation of the log is forgotten at a restart: entries that were void come back.
    LogTruncationForgotten "log-truncation-forgotten" [Leader] Simulator
        "Kafka before KIP-101 (0.11), whose logs diverged over what was truncated after restarts"

    /// A write's version is its proposer's wall clock alone: versions go back in log order.
    VersionFromWallClock "version-from-wall-clock" [Leader] Simulator
        "Cassandra, whose order of writes is that of wall clocks (Jepsen, 2013)"

    /// A transfer of leadership is answered once it is asked for, before the target leads.
    TransferAnsweredAtOnce "transfer-answered-at-once" [Leader] Simulator
        "a classic: answering for what was begun, not for what was done"

    /// A node stands for election without asking first whether anybody would vote for it.
    NoPreVote "no-pre-vote" [Leader] ConsensusTests
        "etcd before 3.4, in which a node that came back from a partition deposed the leader"

    /// A leader trusts the whole of its lease by its own clock, which may run slower than the voters'.
    LeaseUnderClockDrift "lease-under-clock-drift" [Leader] ConsensusTests
        "a classic: Ongaro's dissertation warns of it (section 6.4.1)"

    /// A node votes at once after its start, and has forgotten whom it promised not to.
    VoteWithinLeaseOfStart "vote-within-lease-of-start" [Leader] ConsensusTests
        "a classic: leases live in memory, and votes on the disk"

    /// A node calls its table as fresh as the index that it asked the leader for, before it has applied
    /// what the index covers.
    StalenessTimedBeforeApplied "staleness-timed-before-applied" [Leader] Simulator
        "a classic: having heard of a write is not having it"

    /// Nodes other than the fixed leader stand for election, and are voted for.
    OthersStandBesideFixedLeader "others-stand-beside-fixed-leader" [Leader] Simulator
        "a classic: a setting that each node reads for itself"

    /// The id of a node that was removed is given to another.
    RemovedIdTakenAgain "removed-id-taken-again" [Leader] ConsensusTests
        "etcd before 3.0 and others, where ids were names that operators chose again"

    /// Members are removed, and learners promoted, though too few of the voters are left that
    /// answer.
    QuorumGivenAway "quorum-given-away" [Leader] ConsensusTests
        "etcd before strict-reconfig-check (2016): a member added beside a dead one stops the \
         cluster"

    /// A node that was removed goes on as if it were a member.
    RemovedNodeServesOn "removed-node-serves-on" [Leader] Simulator
        "a classic: a member that left still answers its clients from what it knew"

    /// The group does not agree on which data directory a member's id means.
    MembersNotIntroduced "members-not-introduced" [Leader] ConsensusTests
        "a classic: a node that joined later cannot tell a wiped node from the one it replaced"

    /// A condition is decided on the node that takes the write, before the log has ordered it.
    ConditionCheckedAtProposal "condition-checked-at-proposal" [Leader] Simulator
        "a classic: the lost update of Berenson et al., \"A Critique of ANSI SQL Isolation \
         Levels\" (1995)"

    // Leaderless mode.

    /// The applied position counts writes that are in the log but not in the table yet.
    AppliedPositionAhead "applied-position-ahead" [Leaderless] Simulator
        "a classic: Mohan et al., \"ARIES\" (1992), on what a page's LSN must say"

    /// A checkpoint cuts the log up to its end, and with it writes that are not in the table yet.
    CheckpointCutsTooFar "checkpoint-cuts-too-far" [Leaderless] Simulator
        "a classic: Mohan et al., \"ARIES\" (1992), on where recovery must begin"

    /// A replica that has nothing counts as one that agrees.
    MissingCountsAsAgreement "missing-counts-as-agreement" [Leaderless] Simulator
        "Riak, by its default notfound_ok=true"

    /// A read answers with what too few replicas hold, and repairs afterwards.
    ReadAnswersBeforeRepair "read-answers-before-repair" [Leaderless] Simulator
        "Riak, whose read repair follows the answer; Attiya, Bar-Noy, Dolev (1995) has the phase \
         that is missing"

    /// R + W = N passes for R + W > N: by default a read asks one replica too few.
    QuorumOffByOne "quorum-off-by-one" [Leaderless] Simulator
        "a classic: Gifford, \"Weighted Voting for Replicated Data\" (1979)"

    /// A quorum read is answered from the coordinator's own replica.
    LocalReadAtQuorum "local-read-at-quorum" [Leaderless] Simulator
        "etcd 0.4, where any node answered from what it had (Jepsen, 2014)"

    /// A read drops tombstones before it chooses the newest: a deleted value wins again.
    TombstoneFilteredBeforeMerging "tombstone-filtered-before-merging" [Leaderless] Simulator
        "Dynamo's shopping carts, in which deleted items resurface (SOSP 2007, section 4.4)"

    /// A read of leader mode judges whether a record has expired by its own node's clock.
    ExpiryByOwnClock "expiry-by-own-clock" [Leader] Simulator
        "Redis before 3.2, whose replicas and master judged each by itself"

    /// A write leaves what it replaces in the order of expiry, and what falls due takes whatever is there.
    ExpiresWhateverIsThere "expires-whatever-is-there" [Leader] Simulator
        "a classic: a timer that is not cancelled when the key is written again"

    /// A snapshot is sent without the order of expiry: what it holds never expires where it is installed.
    ExpiriesMissingFromSnapshot "expiries-missing-from-snapshot" [Leader] Simulator
        "a classic: what is derived from the rows is taken for granted by whoever installs them"

    /// A replica's records past their expiry are dropped before the newest is chosen: what they replaced
    /// wins again.
    ExpiredFilteredBeforeMerging "expired-filtered-before-merging" [Leaderless] Simulator
        "Cassandra-like stores whose reads filter expired cells before reconciling"

    /// What a batch of entries itself put does not expire with a later entry of the batch.
    ExpirySeesTableAlone "expiry-sees-table-alone" [Leader] Simulator
        "a classic: state machines whose results depend on how entries were batched"

    /// A replica removes a deleted key's row instead of storing the tombstone.
    TombstoneNotStored "tombstone-not-stored" [Leaderless] Simulator
        "Riak with delete_mode=immediate"

    /// Once W replicas have a write, what was not sent to the others yet is dropped.
    StragglersCancelled "stragglers-cancelled" [Leaderless] Simulator
        "a classic: cancelling what is left of a fan-out once its quorum is reached"

    /// After a restart a coordinator begins at its wall clock, not at the ceiling that it stored.
    VersionReusedAfterRestart "version-reused-after-restart" [Leaderless] Simulator
        "CockroachDB by default, whose server.clock.persist_upper_bound_interval is 0"

    /// A replica refuses a record whose version is ahead of its own clock.
    DriftRefusedInApply "drift-refused-in-apply" [Leaderless] Simulator
        "a classic: what was accepted once must be taken everywhere, whatever the clocks say"

    /// A replica keeps what arrived last, not what is newest.
    LastArrivalWins "last-arrival-wins" [Leaderless] Simulator
        "Riak with last_write_wins=true, which overwrites without looking"

    /// A comparison of replicas never looks at the second half of a hash tree.
    ComparisonSkipsBranches "comparison-skips-branches" [Leaderless] Simulator
        "a classic: off by one in a range that is only walked in the background, where nobody looks"

    /// A hint is kept for a write that was refused, too: it shows up once the replicas are back.
    RefusedWriteHinted "refused-write-hinted" [Leaderless] Simulator
        "a classic: what helps an acknowledged write along must not help one that was refused"

    /// A client whose write lost to a newer one is not told.
    SupersededNotTold "superseded-not-told" [Leaderless] Simulator
        "Cassandra, whose last write wins in silence (Jepsen, 2013)"

    /// A write is acknowledged when one replica fewer than W has it.
    AckedAtWMinusOne "acked-at-w-minus-one" [Leaderless] Simulator
        "MongoDB 2.4 by default, which acknowledged before a majority had it (Jepsen, 2013)"

    /// A coordinator counts its own replica before that one's sync.
    OwnWriteCountedBeforeSync "own-write-counted-before-sync" [Leaderless] Simulator
        "a classic: Ongaro, \"Consensus: Bridging Theory and Practice\" (2014), section 10.2.1, on \
         when a node may count itself"

    /// A write that too few replicas answered is tried again under a new version, and so applied
    /// twice.
    RetriedUnderNewVersion "retried-under-new-version" [Leaderless] Simulator
        "DataStax's Java driver before 3.1, which retried what was not idempotent"

    /// A list believes a replica's keys past the last key of the shortest page: keys are missed, or
    /// shown as they were.
    ListTrustsTooFar "list-trusts-too-far" [Leaderless] Simulator
        "Cassandra's short reads (CASSANDRA-13595)"

    /// A replica takes requests of another layout than its own: a quorum is made of two.
    EpochNotChecked "epoch-not-checked" [Leaderless] LeaderlessTests
        "Cassandra before 6, whose coordinators and replicas need not agree on the ring (CEP-21)"

    /// A node says that it has what a change of the layout gives it, without looking.
    MovedWithoutProof "moved-without-proof" [Leaderless] Simulator
        "Cassandra, whose bootstrap may end with ranges that were not streamed (CASSANDRA-8838)"

    /// While a layout changes, writes go to the old replicas alone.
    MovedWritesToOldAlone "moved-writes-to-old-alone" [Leaderless] LeaderlessTests
        "a classic: pending ranges that coordinators forget (CASSANDRA-833)"

    /// Tombstones are collected by a timer, whether or not every replica has them.
    CollectedWithoutProof "collected-without-proof" [Leaderless] Simulator
        "Cassandra, whose `gc_grace_seconds` asks no replica"

    /// A replica takes a write or a hint that is older than the tombstones it has collected.
    LateWriteTaken "late-write-taken" [Leaderless] LeaderlessTests
        "Cassandra, whose replayed batches undid deletes (CASSANDRA-5314)"

    /// A repair is taken whatever was collected since its record was read.
    StaleRepairTaken "stale-repair-taken" [Leaderless] LeaderlessTests
        "Cassandra, whose read repair brought back collected data (CASSANDRA-11427)"

    /// A node says that it has dropped what it holds no longer before that is on stable storage.
    DroppedForNow "dropped-for-now" [Leaderless] LeaderlessTests
        "a classic: what is told to others before it is durable is taken back by a crash"
}

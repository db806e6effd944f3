//! What a seed picks: the cluster, the load and the faults of one world.
//!
//! Every world uses a different subset of the faults, at different rates: a world with few kinds of
//! faults goes deeper into what those do together than one that has them all. Groce, Zhang, Eide,
//! Chen, Regehr, "Swarm Testing" (ISSTA 2012).

use std::fmt;
use std::time::Duration;

use crate::history::Seeded;
use crate::types::Mode;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    // Links.
    Delay,
    Drop,
    DropAnswers,
    Duplicate,
    Reorder,
    Mute,
    Cut,
    Hold,
    SlowLink,
    Reset,
    IsolateOne,
    IsolateLeader,
    SplitMajority,
    Bridge,
    Ring,
    // Processes.
    Crash,
    Kill,
    PowerCut,
    Pause,
    PauseLeader,
    RollingRestart,
    WrongDisk,
    Transfer,
    // Disks.
    FailedSync,
    FullDisk,
    FlippedBit,
    SlowDisk,
    // Clocks.
    Skew,
    ClockRate,
    ClockJump,
    // Members.
    Grow,
    Shrink,
    Replace,
}

/// Faults that are scheduled together: one of each group at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Links,
    Processes,
    Disks,
    Clocks,
    Members,
}

impl Group {
    pub const ALL: [Group; 5] =
        [Group::Links, Group::Processes, Group::Disks, Group::Clocks, Group::Members];
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 33] = [
        Fault::Delay,
        Fault::Drop,
        Fault::DropAnswers,
        Fault::Duplicate,
        Fault::Reorder,
        Fault::Mute,
        Fault::Cut,
        Fault::Hold,
        Fault::SlowLink,
        Fault::Reset,
        Fault::IsolateOne,
        Fault::IsolateLeader,
        Fault::SplitMajority,
        Fault::Bridge,
        Fault::Ring,
        Fault::Crash,
        Fault::Kill,
        Fault::PowerCut,
        Fault::Pause,
        Fault::PauseLeader,
        Fault::RollingRestart,
        Fault::WrongDisk,
        Fault::FailedSync,
        Fault::FullDisk,
        Fault::FlippedBit,
        Fault::SlowDisk,
        Fault::Skew,
        Fault::ClockRate,
        Fault::ClockJump,
        // Last, so that what a seed picked before it was there stays.
        Fault::Transfer,
        Fault::Grow,
        Fault::Shrink,
        Fault::Replace,
    ];

    /// The fault in words, for traces and the table of what happened.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Delay => "link: delay",
            Fault::Drop => "link: drop requests",
            Fault::DropAnswers => "link: drop answers",
            Fault::Duplicate => "link: duplicate",
            Fault::Reorder => "link: reorder",
            Fault::Mute => "link: one way silent",
            Fault::Cut => "link: cut both ways",
            Fault::Hold => "link: hold and release",
            Fault::SlowLink => "link: slow",
            Fault::Reset => "link: reset",
            Fault::IsolateOne => "partition: one node",
            Fault::IsolateLeader => "partition: the leader",
            Fault::SplitMajority => "partition: majority and minority",
            Fault::Bridge => "partition: bridge",
            Fault::Ring => "partition: ring",
            Fault::Crash => "process: crash at any await",
            Fault::Kill => "process: kill, page cache kept",
            Fault::PowerCut => "process: all crash at once",
            Fault::Pause => "process: pause",
            Fault::PauseLeader => "process: pause the leader",
            Fault::RollingRestart => "process: rolling restart",
            Fault::WrongDisk => "process: restart with an empty disk",
            Fault::Transfer => "process: leadership handed over",
            Fault::FailedSync => "disk: a sync fails",
            Fault::FullDisk => "disk: full",
            Fault::FlippedBit => "disk: a bit flips",
            Fault::SlowDisk => "disk: slow",
            Fault::Skew => "clock: skewed",
            Fault::ClockRate => "clock: fast or slow",
            Fault::ClockJump => "clock: jumps",
            Fault::Grow => "members: one more",
            Fault::Shrink => "members: one less",
            Fault::Replace => "members: one replaced",
        }
    }

    /// The group it is scheduled in.
    pub const fn group(self) -> Group {
        match self {
            Fault::Delay
            | Fault::Drop
            | Fault::DropAnswers
            | Fault::Duplicate
            | Fault::Reorder
            | Fault::Mute
            | Fault::Cut
            | Fault::Hold
            | Fault::SlowLink
            | Fault::Reset
            | Fault::IsolateOne
            | Fault::IsolateLeader
            | Fault::SplitMajority
            | Fault::Bridge
            | Fault::Ring => Group::Links,
            Fault::Crash
            | Fault::Kill
            | Fault::PowerCut
            | Fault::Pause
            | Fault::PauseLeader
            | Fault::RollingRestart
            | Fault::WrongDisk
            | Fault::Transfer => Group::Processes,
            Fault::FailedSync | Fault::FullDisk | Fault::FlippedBit | Fault::SlowDisk => {
                Group::Disks
            }
            Fault::Skew | Fault::ClockRate | Fault::ClockJump => Group::Clocks,
            Fault::Grow | Fault::Shrink | Fault::Replace => Group::Members,
        }
    }

    /// Whether it loses nothing, see [`Plan::gentle`].
    fn is_gentle(self) -> bool {
        matches!(
            self,
            Fault::Delay | Fault::Duplicate | Fault::Reorder | Fault::SlowLink | Fault::SlowDisk
        )
    }

    /// How many nodes it takes: a ring of three cuts nothing.
    fn least_nodes(self) -> u16 {
        match self {
            Fault::Ring => 4,
            Fault::WrongDisk | Fault::Transfer => 2,
            _ if self.group() == Group::Links => 2,
            _ => 1,
        }
    }

    /// Whether it can happen in this mode.
    pub fn applies_to(self, mode: Mode) -> bool {
        let needs_leader =
            matches!(self, Fault::IsolateLeader | Fault::PauseLeader | Fault::Transfer);
        mode == Mode::Leader || !needs_leader
    }
}

/// How often a world has a given kind of fault at all, in percent.
const KIND_PERCENT: u64 = 30;

/// One world in this many has no fault at all: what breaks there is broken in fair weather.
const FAIR_ONE_IN: u64 = 40;

/// One world of leader mode in this many has a fixed leader.
const FIXED_ONE_IN: u64 = 8;

/// One world of leader mode in this many has monotonic clocks that drift. The slowest and the fastest
/// are just less than a factor of two apart, which is what leases bear; one node that is slow among
/// fast ones is the worst that can happen to a lease.
const DRIFT_ONE_IN: usize = 3;
const SLOW_PPM: i64 = -330_000;
const FAST_PPM: i64 = 330_000;

/// One world in this many, of those with more than one node, changes its members.
const MEMBERS_ONE_IN: u64 = 5;

/// Of worlds that change their members, one in this many flips bits, and one in this many wipes
/// disks, beside those that do so anyway.
const LOSE_DISKS_ONE_IN: usize = 3;

/// One world in this many is gentle, and has each gentle kind of fault so often, in percent.
const GENTLE_ONE_IN: u64 = 12;
const GENTLE_KIND_PERCENT: u64 = 70;

/// How long clients are at work, in milliseconds: with the healing after it, at least a minute.
const LOAD_MS: std::ops::Range<u64> = 48_000..56_000;

/// Operations of a world, all clients taken together, that the pauses between them aim at.
const OPERATIONS: std::ops::Range<u64> = 700..1_400;

/// A busy world has so many times more, for what only goes wrong when writes crowd.
const BUSY: u64 = 5;

/// Everything about a world that is decided before it begins.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub mode: Mode,
    /// Whether nothing in this world loses a message, ends a process or a client, or takes so long
    /// that a write's time is over: replicas must become equal by what writes themselves send.
    pub gentle: bool,
    pub nodes: u16,
    /// N: replicas a key, in leaderless mode.
    pub replicas: u16,
    pub clients: u32,
    pub keys: u64,
    /// How many of a hundred requests read one key.
    pub read_percent: u64,
    /// Values have up to this many bytes.
    pub value_bytes: usize,
    pub load: Duration,
    /// A client's mean pause between two requests.
    pub pause: Duration,
    /// How many of a hundred requests go to the node that the client holds on to.
    pub sticky_percent: u64,
    pub faults: Vec<Fault>,
    /// The mean time between two faults of a group.
    pub gap: Duration,
    /// The mean time that a fault lasts.
    pub lasting: Duration,
    /// How long a sync takes on a disk that is not slow.
    pub sync: Duration,
    pub segment_bytes: u64,
    pub checkpoint_bytes: u64,
    pub keep_entries: u64,
    /// How long a leader's reads wait for a follower's question. Not drawn, so that what a seed drew before
    /// it was there stays.
    pub read_patience: Duration,
    pub max_stragglers: usize,
    pub max_requests: usize,
    /// The node that leads for ever, in some worlds of leader mode.
    pub fixed_leader: Option<u16>,
    pub background: Background,
    /// How much faster or slower than time each node's monotonic clock runs, in parts per million;
    /// none in most worlds. Nodes that join run at time's own rate.
    pub timer_rates_ppm: Vec<i64>,
}

fn read_patience(seed: u64) -> Duration {
    Duration::from_millis([0, 2, 50, 200][(seed % 4) as usize])
}

impl Plan {
    /// The plan of the world that `seed` names.
    pub fn of(mode: Mode, seed: u64) -> Plan {
        let mut random = Seeded::derived(seed, mode.as_str(), 0);
        let mut between = |range: std::ops::Range<u64>| {
            range.start + random.below((range.end - range.start) as usize) as u64
        };
        // Replicas hide what one node loses: some worlds have none.
        let (nodes, replicas) = match between(0..20) {
            0 | 1 => (1, 1),
            2..=4 => (5, 3),
            5 => (3, 1),
            6 => (3, 2),
            _ => (3, 3),
        };
        let clients = between(3..8) as u32;
        let load = Duration::from_millis(between(LOAD_MS));
        let busy = if between(0..3) == 0 { BUSY } else { 1 };
        let operations = between(OPERATIONS) * busy;
        let pause = load * clients / operations as u32;
        let keys = if between(0..8) == 0 { 150 } else { between(1..9) };
        let read_percent = [5, 40, 70][between(0..3) as usize];
        let value_bytes = [24, 64, 200, 1_500, 40_000][between(0..5) as usize];
        let sticky_percent = [0, 60, 95][between(0..3) as usize];
        let gap = Duration::from_millis(between(300..4_000));
        let lasting = Duration::from_millis(between(200..3_500));
        let sync = Duration::from_millis([1, 4, 15, 40][between(0..4) as usize]);
        let checkpoint_bytes = [12, 32, 128][between(0..3) as usize] << 10;
        let segment_bytes = [4, 16, 64][between(0..3) as usize] << 10;
        let keep_entries = [10, 50, 1_000][between(0..3) as usize];
        let max_stragglers = [2, 1_000][between(0..2) as usize];
        let max_requests = if between(0..8) == 0 { 3 } else { 4_096 };
        let (fair, gentle) = (between(0..FAIR_ONE_IN) == 0, between(0..GENTLE_ONE_IN) == 0);
        let percent = if gentle { GENTLE_KIND_PERCENT } else { KIND_PERCENT };
        let mut faults: Vec<Fault> = Fault::ALL
            .into_iter()
            .filter(|fault| fault.applies_to(mode) && fault.group() != Group::Members)
            .filter(|_| between(0..100) < percent && !fair)
            .filter(|fault| nodes >= fault.least_nodes())
            .filter(|fault| !gentle || fault.is_gentle())
            .collect();
        let (read_percent, value_bytes, max_stragglers) =
            if gentle { (0, 200, 1_000) } else { (read_percent, value_bytes, max_stragglers) };
        let fixed = mode == Mode::Leader && between(0..FIXED_ONE_IN) == 0;
        let fixed_leader = fixed.then(|| between(1..u64::from(nodes) + 1) as u16);
        // Without the fixed leader's disk nobody ever leads again, and nothing is promised.
        faults.retain(|fault| *fault != Fault::FlippedBit || !fixed);
        let may_change = nodes > 1 && !gentle;
        let changes = may_change && between(0..MEMBERS_ONE_IN) == 0;
        Plan {
            mode,
            gentle,
            nodes,
            replicas,
            clients,
            keys,
            read_percent,
            value_bytes,
            load,
            pause,
            sticky_percent,
            faults: with_members(faults, changes, seed, fixed),
            gap,
            lasting,
            sync,
            segment_bytes,
            checkpoint_bytes,
            keep_entries,
            read_patience: read_patience(seed),
            max_stragglers,
            max_requests,
            fixed_leader,
            background: Background::of(mode, seed, gentle),
            timer_rates_ppm: timer_rates(mode, seed, nodes),
        }
    }

    /// Whether members change in this world.
    pub fn changes_members(&self) -> bool {
        self.faults.iter().any(|fault| fault.group() == Group::Members)
    }

    /// Whether a disk may be gone for good. Without the fixed leader's nobody ever leads again, and
    /// where members do not change nobody ever takes the place of who lost one.
    pub fn loses_disks_for_good(&self) -> bool {
        self.changes_members() && self.fixed_leader.is_none()
    }

    /// The faults of one group.
    pub fn of_group(&self, group: Group) -> Vec<Fault> {
        self.faults.iter().copied().filter(|fault| fault.group() == group).collect()
    }
}

/// What replicas of leaderless mode are brought without being asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Background {
    /// How often replicas are compared; zero: never.
    pub compare_interval: Duration,
    /// How much is kept for replicas that are away; 0: nothing.
    pub hint_bytes: u64,
    /// How long deletions stay at least; zero: for ever.
    pub tombstone_grace: Duration,
}

impl Background {
    /// Reads alone must do in one world of three, and writes in a gentle one.
    fn of(mode: Mode, seed: u64, gentle: bool) -> Background {
        let mut random = Seeded::derived(seed, "background", 0);
        let tombstone_grace = grace(mode, seed);
        if mode == Mode::Leader || gentle || random.below(3) == 0 {
            return Background { tombstone_grace, ..Background::default() };
        }
        let interval_ms = [1_000, 3_000, 10_000][random.below(3)];
        let hint_bytes = [0, 2 << 10, 256 << 20][random.below(3)];
        let compare_interval = Duration::from_millis(interval_ms);
        Background { compare_interval, hint_bytes, tombstone_grace }
    }
}

/// In two worlds of three deletions are collected: so soon that it happens while faults do.
fn grace(mode: Mode, seed: u64) -> Duration {
    let mut random = Seeded::derived(seed, "collection", 0);
    match mode {
        Mode::Leader => Duration::ZERO,
        Mode::Leaderless => Duration::from_millis([0, 4_000, 8_000][random.below(3)]),
    }
}

/// How the monotonic clocks of a world run.
fn timer_rates(mode: Mode, seed: u64, nodes: u16) -> Vec<i64> {
    let mut random = Seeded::derived(seed, "timers", 0);
    if mode == Mode::Leaderless || random.below(DRIFT_ONE_IN) != 0 {
        return Vec::new();
    }
    let slow = random.below(usize::from(nodes));
    let rate = |node| if node == slow { SLOW_PPM } else { FAST_PPM };
    (0..usize::from(nodes)).map(rate).collect()
}

/// The faults of a world that may change its members. Disks are lost in half of these worlds, since
/// who lost one is whom an operator replaces.
fn with_members(mut faults: Vec<Fault>, changes: bool, seed: u64, fixed: bool) -> Vec<Fault> {
    if !changes {
        return faults;
    }
    faults.extend([Fault::Grow, Fault::Shrink, Fault::Replace]);
    let mut random = Seeded::derived(seed, "disks of members", 0);
    for lost in [Fault::FlippedBit, Fault::WrongDisk] {
        let too = random.below(LOSE_DISKS_ONE_IN) == 0 && !(fixed && lost == Fault::FlippedBit);
        if too && !faults.contains(&lost) {
            faults.push(lost);
        }
    }
    faults
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes, {} replicas, {} clients, {} keys, values up to {} bytes, {} ms of load, \
             faults every {} ms for {} ms:",
            self.nodes,
            self.replicas,
            self.clients,
            self.keys,
            self.value_bytes,
            self.load.as_millis(),
            self.gap.as_millis(),
            self.lasting.as_millis()
        )?;
        match self.faults.as_slice() {
            [] => write!(f, " none"),
            faults => faults.iter().try_for_each(|fault| write!(f, " [{}]", fault.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn worlds_differ_and_together_have_every_fault() {
        for mode in Mode::ALL {
            let plans: Vec<Plan> = (0..200).map(|seed| Plan::of(mode, seed)).collect();
            let subsets: BTreeSet<_> = plans.iter().map(|plan| plan.faults.clone()).collect();
            assert!(subsets.len() > 180, "{} subsets", subsets.len());
            let all: BTreeSet<_> = plans.iter().flat_map(|plan| plan.faults.clone()).collect();
            let possible: BTreeSet<_> =
                Fault::ALL.into_iter().filter(|fault| fault.applies_to(mode)).collect();
            assert_eq!(all, possible);
            assert!(plans.iter().any(|plan| plan.faults.is_empty()), "no fair world");
        }
    }
}

//! Faults on links, as a decorator of any transport: the same in a simulated world and live.
//!
//! **Why it exists.** What a cluster promises is promised for bad networks too. A [`FaultPlan`] is
//! shared by all nodes of a world and can be changed while they run; each node's transport is
//! wrapped in a [`FaultyTransport`] that does what the plan says.
//!
//! **Guarantees.** A plan without faults changes nothing. Delayed, held and slowed requests of a lane
//! keep their order. What a caller is told stays true: a request that vanished ends as `NoAnswer` at
//! its deadline, like any silence, and `NotSent` means that it was not sent. The same seed and the
//! same calls in the same order meet the same faults.
//!
//! **Harsher than links.** Duplicated and reordered requests break what [`super::Transport`] promises:
//! at most once, in order. That is on purpose. A link may be remade between two requests, a caller may
//! ask again, and nothing above may rely for *safety* on what only one TCP connection gives. One
//! exception: of a Raft append only the copy is reordered. The consensus library sends appends in a
//! pipeline and takes an answer that contradicts an earlier one for a follower that lost its log
//! (`allow_log_reversion`); on a link in order that is what it is.
//!
//! **Does not do** damaged bytes: the transports below keep those from callers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Request, Service};
use crate::runtime::watch;
use crate::types::NodeId;

mod counts;
mod transport;

pub use counts::FaultCounts;
pub use transport::{FaultyTransport, MAX_HELD_REQUESTS};

/// What is wrong with what travels from one node to another: its requests, and its answers to the
/// other's requests. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Nothing gets through, and the sender knows: requests fail at once. An answer to an earlier
    /// request is lost.
    pub cut: bool,
    /// Nothing gets through, and the sender does not know: requests and answers vanish, and only
    /// deadlines tell.
    pub mute: bool,
    /// Nothing gets through for now: requests and answers wait, in order, until a fault without this
    /// is set, or until their deadlines.
    pub hold: bool,
    /// How many of a thousand requests vanish.
    pub drop_requests_per_mille: u16,
    /// How many of a thousand answers vanish.
    pub drop_answers_per_mille: u16,
    /// How many of a thousand requests arrive twice. The caller gets the first answer.
    pub duplicate_per_mille: u16,
    /// How many of a thousand requests (copies among them) leave their lane's order, to arrive up to
    /// `reorder_by` later than they would at once.
    pub reorder_per_mille: u16,
    pub reorder_by: Duration,
    /// How long everything takes at least, on top of what the link takes.
    pub delay: Duration,
    /// How much longer, at most; drawn anew each time.
    pub jitter: Duration,
    /// How many bytes cross in a millisecond, at least 1: requests take the lane's time one after the
    /// other, and an answer, which has no place in an order, its own.
    pub bytes_per_ms: Option<u64>,
}

impl Fault {
    /// A link that is cut, and known to be.
    pub const CUT: Fault = Fault { cut: true, ..Fault::NONE };
    /// A link on which everything vanishes.
    pub const MUTE: Fault = Fault { mute: true, ..Fault::NONE };
    /// A link on which everything waits.
    pub const HOLD: Fault = Fault { hold: true, ..Fault::NONE };
    /// Nothing is wrong, as in the default.
    pub const NONE: Fault = Fault {
        cut: false,
        mute: false,
        hold: false,
        drop_requests_per_mille: 0,
        drop_answers_per_mille: 0,
        duplicate_per_mille: 0,
        reorder_per_mille: 0,
        reorder_by: Duration::ZERO,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        bytes_per_ms: None,
    };

    /// How long so many bytes take on a slow link.
    fn crossing(&self, bytes: usize) -> Duration {
        self.bytes_per_ms.map_or(Duration::ZERO, |rate| {
            Duration::from_micros((bytes as u64).saturating_mul(1_000) / rate.max(1))
        })
    }
}

/// The faults of a world's links, by direction; cheap to clone, all clones are one plan.
#[derive(Clone)]
pub struct FaultPlan(Arc<Shared>);

struct Shared {
    plan: Mutex<Plan>,
    /// Counts the changes, for those who wait for one.
    changes: watch::Sender<u64>,
}

struct Plan {
    random: StdRng,
    faults: BTreeMap<(NodeId, NodeId), Fault>,
    counts: FaultCounts,
}

/// What happens to a message.
enum Fate {
    /// It does not get through, and its sender knows.
    Cut,
    /// It does not get through.
    Vanishes,
    Passes(Passage),
}

/// How a message gets through.
#[derive(Clone, Copy, Default)]
struct Passage {
    delay: Duration,
    /// How long it takes the lane to itself.
    crossing: Duration,
    /// It leaves the lane's order, for this long.
    astray: Option<Duration>,
    held: bool,
    duplicated: bool,
}

impl FaultPlan {
    /// A plan without faults; `seed` decides which messages later faults hit.
    pub fn new(seed: u64) -> FaultPlan {
        let random = StdRng::seed_from_u64(seed);
        let counts = FaultCounts::default();
        let plan = Mutex::new(Plan { random, faults: BTreeMap::new(), counts });
        FaultPlan(Arc::new(Shared { plan, changes: watch::Sender::new(0) }))
    }

    /// Sets what is wrong from one node to another, from now on, in place of what was.
    pub fn set(&self, from: NodeId, to: NodeId, fault: Fault) {
        self.change(|faults| {
            faults.insert((from, to), fault);
        });
    }

    /// Sets what is wrong between two nodes, both ways.
    pub fn set_between(&self, one: NodeId, other: NodeId, fault: Fault) {
        self.set(one, other, fault);
        self.set(other, one, fault);
    }

    /// Cuts every link between two groups of nodes, both ways.
    pub fn partition(&self, some: &[NodeId], others: &[NodeId]) {
        for one in some {
            for other in others.iter().filter(|other| *other != one) {
                self.set_between(*one, *other, Fault::CUT);
            }
        }
    }

    /// Cuts a node off from others, both ways.
    pub fn isolate(&self, node: NodeId, others: &[NodeId]) {
        self.partition(&[node], others);
    }

    /// Cuts two groups off from each other, and leaves a bridge that both see.
    pub fn bridge(&self, some: &[NodeId], others: &[NodeId], bridge: NodeId) {
        let without = |group: &[NodeId]| -> Vec<NodeId> {
            group.iter().copied().filter(|node| *node != bridge).collect()
        };
        self.partition(&without(some), &without(others));
    }

    /// Cuts links so that each node sees only the one before it and the one after it.
    pub fn ring(&self, nodes: &[NodeId]) {
        for (index, one) in nodes.iter().enumerate() {
            for (further, other) in nodes.iter().enumerate().skip(index + 2) {
                let closes_the_ring = index == 0 && further == nodes.len() - 1;
                if !closes_the_ring {
                    self.set_between(*one, *other, Fault::CUT);
                }
            }
        }
    }

    /// Lets everything vanish that travels from some nodes to others; the other way is left alone.
    pub fn one_way(&self, from: &[NodeId], to: &[NodeId]) {
        for one in from {
            for other in to.iter().filter(|other| *other != one) {
                self.set(*one, *other, Fault::MUTE);
            }
        }
    }

    /// Ends what is wrong from one node to another.
    pub fn clear(&self, from: NodeId, to: NodeId) {
        self.change(|faults| {
            faults.remove(&(from, to));
        });
    }

    /// Ends every fault.
    pub fn heal(&self) {
        self.change(BTreeMap::clear);
    }

    /// How often each fault happened so far.
    pub fn counts(&self) -> FaultCounts {
        self.0.plan.lock().counts
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<(NodeId, NodeId), Fault>)) {
        change(&mut self.0.plan.lock().faults);
        self.0.changes.send_if_modified(|changes| {
            *changes += 1;
            true
        });
    }

    pub(super) fn is_cut(&self, one: NodeId, other: NodeId) -> bool {
        let plan = self.0.plan.lock();
        [(one, other), (other, one)]
            .iter()
            .any(|way| plan.faults.get(way).is_some_and(|fault| fault.cut))
    }

    fn is_held(&self, from: NodeId, to: NodeId) -> bool {
        self.0.plan.lock().faults.get(&(from, to)).is_some_and(|fault| fault.hold)
    }

    /// Waits until nothing is held from one node to another.
    async fn released(&self, from: NodeId, to: NodeId) {
        if !self.is_held(from, to) {
            return;
        }
        let mut changes = self.0.changes.subscribe();
        while self.is_held(from, to) && changes.changed().await.is_ok() {}
    }

    /// Decides on a request of so many bytes.
    fn judge_request(&self, from: NodeId, request: &Request) -> Fate {
        let (to, bytes) = (request.to, request.body.len());
        let plan = &mut *self.0.plan.lock();
        let Some(fault) = plan.faults.get(&(from, to)).copied() else {
            return Fate::Passes(Passage::default());
        };
        let duplicated = plan.one_of(fault.duplicate_per_mille);
        let fate = plan.judge(&fault, fault.drop_requests_per_mille, bytes);
        match fate {
            Fate::Vanishes if !fault.mute => plan.counts.requests_dropped += 1,
            Fate::Passes(_) if duplicated => plan.counts.requests_duplicated += 1,
            _ => {}
        }
        match fate {
            Fate::Passes(passage) => {
                let stays = request.service == Service::RaftAppend;
                let astray = if stays { None } else { plan.astray(&fault) };
                Fate::Passes(Passage { duplicated, astray, ..passage })
            }
            other => other,
        }
    }

    /// Decides anew whether a request that passes leaves its order, for its copy.
    fn judge_copy(&self, from: NodeId, to: NodeId, passage: Passage) -> Passage {
        let plan = &mut *self.0.plan.lock();
        let fault = plan.faults.get(&(from, to)).copied().unwrap_or_default();
        Passage { astray: plan.astray(&fault), ..passage }
    }

    /// Decides on an answer of so many bytes.
    fn judge_answer(&self, from: NodeId, to: NodeId, bytes: usize) -> Fate {
        let plan = &mut *self.0.plan.lock();
        let Some(fault) = plan.faults.get(&(from, to)).copied() else {
            return Fate::Passes(Passage::default());
        };
        let fate = plan.judge(&fault, fault.drop_answers_per_mille, bytes);
        if matches!(fate, Fate::Vanishes) && !fault.mute {
            plan.counts.answers_dropped += 1;
        }
        fate
    }
}

impl Plan {
    /// Draws also where nothing can come of it, so that a rate does not shift what else is drawn.
    fn one_of(&mut self, per_mille: u16) -> bool {
        self.random.next_u64() % 1_000 < u64::from(per_mille)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.next_u64() % (most.as_micros() as u64 + 1))
    }

    /// Decides what requests and answers have in common, and counts it.
    fn judge(&mut self, fault: &Fault, drop_per_mille: u16, bytes: usize) -> Fate {
        let drop = self.one_of(drop_per_mille);
        let delay = fault.delay + self.up_to(fault.jitter);
        if fault.cut {
            self.counts.cut += 1;
            return Fate::Cut;
        }
        if fault.mute || drop {
            self.counts.muted += u64::from(fault.mute);
            return Fate::Vanishes;
        }
        let crossing = fault.crossing(bytes);
        self.counts.delayed += u64::from(!delay.is_zero());
        self.counts.slowed += u64::from(!crossing.is_zero());
        self.counts.held += u64::from(fault.hold);
        let held = fault.hold;
        Fate::Passes(Passage { delay, crossing, held, ..Passage::default() })
    }

    fn astray(&mut self, fault: &Fault) -> Option<Duration> {
        let astray = self.one_of(fault.reorder_per_mille);
        let by = self.up_to(fault.reorder_by);
        self.counts.requests_reordered += u64::from(astray);
        astray.then_some(by)
    }
}

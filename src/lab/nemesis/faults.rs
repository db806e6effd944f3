//! What a nemesis can do to a cluster, in words and numbers.
//!
//! A fault names its victims by what they are (`the leader`, `node index 2`), so that a schedule
//! can be drawn from a seed before anything runs; who that is shows when it strikes.

use std::fmt;
use std::str::FromStr;

/// A kind of fault, as `--faults` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Kill,
    Pause,
    Roll,
    Cut,
    Delay,
    Drip,
    Reset,
    Clock,
    Disk,
}

impl Family {
    /// Every family there is.
    pub const ALL: [Family; 9] = [
        Family::Kill,
        Family::Pause,
        Family::Roll,
        Family::Cut,
        Family::Delay,
        Family::Drip,
        Family::Reset,
        Family::Clock,
        Family::Disk,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::Kill => "kill",
            Family::Pause => "pause",
            Family::Roll => "roll",
            Family::Cut => "cut",
            Family::Delay => "delay",
            Family::Drip => "drip",
            Family::Reset => "reset",
            Family::Clock => "clock",
            Family::Disk => "disk",
        }
    }

    /// Whether it breaks links and leaves processes alone: such a fault goes with any other.
    pub const fn is_of_links(self) -> bool {
        matches!(self, Family::Cut | Family::Delay | Family::Drip | Family::Reset)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Family::ALL.into_iter().find(|family| family.as_str() == text).ok_or_else(|| {
            let all = Family::ALL.map(Family::as_str).join(", ");
            format!("'{text}' is not a kind of fault: expected all, or some of {all}")
        })
    }
}

/// Whom a fault strikes. A node that another fault of the same cycle holds already is passed over
/// for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The node with this index.
    Index(usize),
    /// Whoever leads at that moment; the first node where nobody is known to.
    Leader,
}

/// How the links between nodes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One node from all others.
    Isolate(Who),
    /// What the others tell one node does not arrive; what it tells them does.
    Deaf(Who),
    /// What one node tells the others does not arrive; what they tell it does.
    Mute(Who),
    /// Two nodes from each other; both see everybody else. With three nodes that is a bridge.
    Pair(Who),
    /// The nodes up to one from the nodes after it; the one between sees both sides.
    Bridge,
    /// Each node sees only its two neighbours.
    Ring,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to this many nodes at once, beginning with this one; later they are started again.
    Kill { first: Who, nodes: usize },
    /// SIGSTOP, and SIGCONT later.
    Pause(Who),
    /// Each node in turn is told to stop with SIGTERM, and started again.
    Roll,
    /// Links carry nothing: silently, or with every connection reset and refused.
    Cut { shape: Shape, loud: bool },
    /// Everything to and from one node, or between all, is late.
    Delay { who: Option<Who>, delay_ms: u64, jitter_ms: u64 },
    /// Everything to and from one node comes slowly.
    Drip { who: Who, bytes_per_second: u32 },
    /// Every connection to and from one node is reset, now and again at the end.
    Reset(Who),
    /// SIGKILL, and a start with the wall clock off by so much; in the end another, with it right.
    Clock { who: Who, offset_ms: i64 },
    /// The disk of the node that has a small one is filled up; later there is room again.
    FullDisk,
}

impl Fault {
    /// The family it is of.
    pub const fn family(&self) -> Family {
        match self {
            Fault::Kill { .. } => Family::Kill,
            Fault::Pause(_) => Family::Pause,
            Fault::Roll => Family::Roll,
            Fault::Cut { .. } => Family::Cut,
            Fault::Delay { .. } => Family::Delay,
            Fault::Drip { .. } => Family::Drip,
            Fault::Reset(_) => Family::Reset,
            Fault::Clock { .. } => Family::Clock,
            Fault::FullDisk => Family::Disk,
        }
    }

    /// What it is, without numbers: what a summary counts it as.
    pub fn kind(&self) -> String {
        let whom = |who: &Who| match who {
            Who::Index(_) => "a node",
            Who::Leader => "the leader",
        };
        match self {
            Fault::Kill { first, nodes: 1 } => format!("kill {}", whom(first)),
            Fault::Kill { nodes, .. } => format!("kill {nodes} nodes at once"),
            Fault::Pause(who) => format!("pause {}", whom(who)),
            Fault::Roll => "restart each node in turn".to_owned(),
            Fault::Cut { shape, loud } => {
                let how = if *loud { "with resets" } else { "silently" };
                match shape {
                    Shape::Isolate(who) => format!("cut off {} {how}", whom(who)),
                    Shape::Deaf(who) => format!("cut all words to {}", whom(who)),
                    Shape::Mute(who) => format!("cut all words of {}", whom(who)),
                    Shape::Pair(who) => format!("cut {} from one other {how}", whom(who)),
                    Shape::Bridge => format!("cut into a bridge {how}"),
                    Shape::Ring => format!("cut into a ring {how}"),
                }
            }
            Fault::Delay { who: None, .. } => "delay all links".to_owned(),
            Fault::Delay { who: Some(who), .. } => format!("delay the links of {}", whom(who)),
            Fault::Drip { who, .. } => format!("slow down the links of {}", whom(who)),
            Fault::Reset(who) => format!("reset the links of {}", whom(who)),
            Fault::Clock { offset_ms, .. } if *offset_ms < 0 => "a clock behind".to_owned(),
            Fault::Clock { .. } => "a clock ahead".to_owned(),
            Fault::FullDisk => "a full disk".to_owned(),
        }
    }
}

/// Faults that strike together, one after another, are held for a while, and then end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    pub faults: Vec<Fault>,
    pub hold_ms: u64,
}

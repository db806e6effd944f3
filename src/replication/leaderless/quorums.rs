//! What a request asks of how many replicas: `consistency`, `r=` and `w=`, checked.

use super::view::Usual;
use crate::config::ReadRepair;
use crate::error::Refusal;
use crate::planted::{self, Bug};
use crate::replication::RequestOptions;
use crate::types::{EffectiveLevel, Level, Mode};

/// How many replicas a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    pub r: u16,
    pub w: u16,
    pub n: u16,
    /// What the cluster's writes wait for where they do not say otherwise.
    pub usual_w: u16,
    pub repair: ReadRepair,
}

/// How a read is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPlan {
    Quorum(Quorums),
    Local,
}

impl Quorums {
    /// Whether reads repair what they find, and this request's quorums meet the usual ones: what it
    /// writes or settles is held by a usual write quorum at least, and its reads meet every one.
    /// One request's larger W says nothing about the writes of others.
    pub fn is_strong(&self) -> bool {
        self.w >= self.usual_w
            && self.r + self.usual_w + u16::from(planted::is(Bug::QuorumOffByOne)) > self.n
            && self.repair == ReadRepair::Blocking
    }

    /// The same of a set of `n` replicas, which may be others than now: what was not asked for is what is
    /// usual there.
    pub fn of_set(&self, usual: Usual, n: usize) -> Quorums {
        let n = n as u16;
        let within = |asked: u16, usual: u16| match asked == usual.clamp(1, self.n.max(1)) {
            true => usual.clamp(1, n.max(1)),
            false => asked.clamp(1, n.max(1)),
        };
        Quorums {
            r: within(self.r, usual.r),
            w: within(self.w, usual.w),
            n,
            usual_w: usual.w.clamp(1, n.max(1)),
            repair: self.repair,
        }
    }

    /// What an answer says was served.
    pub fn level(&self) -> EffectiveLevel {
        let Quorums { r, w, n, .. } = *self;
        match self.is_strong() {
            true => EffectiveLevel::Quorum { r, w, n },
            false => EffectiveLevel::Eventual { r, w, n },
        }
    }
}

/// The quorums of a write.
pub fn for_write(
    usual: Usual,
    repair: ReadRepair,
    options: &RequestOptions,
) -> Result<Quorums, Refusal> {
    no_staleness_bound(options)?;
    match options.level {
        None | Some(Level::Quorum) => {}
        Some(Level::Linearizable) => return Err(not_yet("a linearizable write")),
        Some(level @ (Level::Lease | Level::Local)) => {
            let mode = Mode::Leaderless;
            return Err(Refusal::LevelNotOffered { level, mode, allowed: "quorum" });
        }
    }
    if options.r.is_some() {
        return Err(bad("r", "it belongs to reads; a write takes w".to_owned()));
    }
    quorums(usual, repair, options)
}

/// How a read, or a list, is served.
pub fn for_read(
    usual: Usual,
    repair: ReadRepair,
    options: &RequestOptions,
) -> Result<ReadPlan, Refusal> {
    no_staleness_bound(options)?;
    match options.level {
        None | Some(Level::Quorum) => quorums(usual, repair, options).map(ReadPlan::Quorum),
        Some(Level::Linearizable) => Err(not_yet("a linearizable read")),
        Some(level @ Level::Lease) => {
            let mode = Mode::Leaderless;
            Err(Refusal::LevelNotOffered { level, mode, allowed: "quorum or local" })
        }
        Some(Level::Local) => match (options.r, options.w) {
            (None, None) => Ok(ReadPlan::Local),
            (Some(_), _) => Err(bad("r", "a local read asks one replica".to_owned())),
            (None, Some(_)) => Err(bad("w", "a local read asks one replica".to_owned())),
        },
    }
}

/// No node knows how far it lags where nobody orders the writes.
fn no_staleness_bound(options: &RequestOptions) -> Result<(), Refusal> {
    match options.max_staleness {
        None => Ok(()),
        Some(_) => {
            let problem =
                "belongs to leader mode: without a leader no replica knows how far it lags";
            Err(bad("max_staleness", problem.to_owned()))
        }
    }
}

/// What exists in leader mode alone so far, and is never imitated.
pub fn not_yet(what: &str) -> Refusal {
    let what = format!("{what}, which needs consensus per key,");
    Refusal::NotImplemented { what, mode: Mode::Leaderless }
}

fn quorums(usual: Usual, repair: ReadRepair, options: &RequestOptions) -> Result<Quorums, Refusal> {
    let n = usual.n;
    let within = |parameter, asked: Option<u16>, default: u16| match asked {
        // A default from settings fits N, which `Settings` checked; fewer nodes than N do not.
        None => Ok(default.clamp(1, n.max(1))),
        Some(count) if (1..=n).contains(&count) => Ok(count),
        Some(count) => {
            Err(bad(parameter, format!("{count} replicas: expected a number from 1 to {n}")))
        }
    };
    Ok(Quorums {
        r: within("r", options.r, usual.r - u16::from(planted::is(Bug::QuorumOffByOne)))?,
        w: within("w", options.w, usual.w)?,
        n,
        usual_w: usual.w.clamp(1, n.max(1)),
        repair,
    })
}

fn bad(parameter: &'static str, problem: String) -> Refusal {
    Refusal::BadParameter { parameter, problem }
}

//! A steady load through some nodes while something is done to the cluster: what its requests cost in each
//! part of that.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::options::STEADY_RATE;
use super::pace::{Offered, open, stop};
use super::results::Part;
use super::schedule::Schedule;
use super::stage::{Load, Stage};
use super::worker::{Ground, Kept};
use crate::runtime::Instant;

/// The load, and what it was like since the last part ended.
pub struct Steady<'a> {
    /// The nodes through which it goes.
    pub stage: &'a Stage<'a>,
    pub load: Load,
    pub ground: Arc<Ground>,
}

impl<'a> Steady<'a> {
    /// A load at its own rate, or at [`STEADY_RATE`]. Where it keeps writes, [`Steady::end`] hands them over.
    pub fn new(stage: &'a Stage<'a>, load: Load, keeps_writes: bool) -> anyhow::Result<Steady<'a>> {
        let rate_per_second = Some(load.rate_per_second.unwrap_or(STEADY_RATE));
        let load = Load { rate_per_second, ..load };
        Ok(Steady { stage, load, ground: stage.ground(load, keeps_writes)? })
    }

    /// Does something while the load goes on, which ends with it however it went. Also gives what was offered.
    pub async fn during<T>(
        &self,
        something: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Offered)> {
        let (stop, stopped) = stop();
        let workers = self.ground.workers(self.load.connections);
        let schedule = Schedule::new(self.load.rate_per_second.unwrap_or(STEADY_RATE), u64::MAX);
        let done = async {
            let done = something.await;
            drop(stop);
            done
        };
        let offered = open(workers, schedule, self.stage.options.max_in_flight, stopped);
        let (done, offered) = tokio::join!(biased; done, offered);
        Ok((done?, offered?.1))
    }

    /// Forgets what was counted so far.
    pub fn begin(&self) -> anyhow::Result<(Instant, u64)> {
        self.ground.take_tally()?;
        Ok((self.stage.runtime.now(), self.ground.now_us()))
    }

    /// What was counted since it began then, and what it kept.
    pub fn end(&self, name: &str, began_us: u64) -> anyhow::Result<(Part, Kept)> {
        let seconds = (self.ground.now_us() - began_us) as f64 / 1e6;
        let mut tally = self.ground.take_tally()?;
        let row = self.stage.row(self.load, &tally, seconds)?;
        Ok((Part { name: name.to_owned(), row }, tally.kept.take().unwrap_or_default()))
    }

    /// A part of so long.
    pub async fn part(&self, name: &str, length: Duration) -> anyhow::Result<(Part, Kept)> {
        let (_, began_us) = self.begin()?;
        self.stage.runtime.sleep(length).await;
        self.end(name, began_us)
    }
}

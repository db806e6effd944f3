//! Plain rows: one load each, warmed up, measured, and charged for.

use std::time::Duration;

use super::pace::{Offered, closed, open, stop};
use super::results::Row;
use super::schedule::Schedule;
use super::stage::{Load, Stage};
use super::watch::watched;
use super::worker::Worker;
use crate::lab::process;
use crate::lab::readings::Costs;

/// Measures one load. The warm-up and the measured part use the same connections; between them
/// nothing is asked, so that the readings belong to one of them.
pub async fn measure(stage: &Stage<'_>, load: Load) -> anyhow::Result<Row> {
    let ground = stage.ground(load, false)?;
    let workers = ground.workers(load.connections);
    let (workers, _) = run(stage, load, workers, stage.options.warm_up).await?;
    ground.take_tally()?;
    if let Some(cluster) = &stage.cluster {
        cluster.forget_peaks();
    }
    let before = stage.readings().await?;
    let running = async {
        let own_before = process::cpu_time(std::process::id())?;
        let began_us = ground.now_us();
        let (_workers, offered) = run(stage, load, workers, stage.options.duration).await?;
        let seconds = (ground.now_us() - began_us) as f64 / 1e6;
        let own = process::cpu_time(std::process::id())?.saturating_sub(own_before);
        anyhow::Ok((offered, seconds, own))
    };
    let (ran, samples) = match (stage.options.watch, &stage.cluster) {
        (Some(every), Some(cluster)) => watched(stage.runtime, cluster, every, running).await?,
        _ => (running.await, Vec::new()),
    };
    let (offered, seconds, own) = ran?;
    let after = stage.readings().await?;

    let mut row = stage.row(load, &ground.take_tally()?, seconds)?;
    let done = row.operations.done as f64;
    row.costs = Costs::between(&before, &after, done);
    row.client_cpu_us = (done > 0.0).then(|| own.as_micros() as f64 / done);
    let checkpoints = after.counters.since(&before.counters, "checkpoints");
    row.checkpoints = checkpoints.map(|taken| taken as u64);
    let elections = after.counters.since(&before.counters, "elections_won");
    row.elections = elections.map(|won| won as u64);
    row.samples = samples;
    let peaks = stage.cluster.as_ref().and_then(|cluster| cluster.peak_resident_bytes().ok());
    row.peak_resident_bytes = peaks.map(|nodes| nodes.iter().sum());
    if let Some(offered) = offered {
        offered.note(&mut row);
    }
    Ok(row)
}

async fn run(
    stage: &Stage<'_>,
    load: Load,
    workers: Vec<Worker>,
    length: Duration,
) -> anyhow::Result<(Vec<Worker>, Option<Offered>)> {
    let Some(rate_per_second) = load.rate_per_second else {
        return Ok((closed(workers, length).await?, None));
    };
    let schedule = Schedule::new(rate_per_second, length.as_micros() as u64);
    // Kept until the schedule has come to its end.
    let (_stop, stopped) = stop();
    let max_in_flight = stage.options.max_in_flight;
    let (workers, offered) = open(workers, schedule, max_in_flight, stopped).await?;
    Ok((workers, Some(offered)))
}

impl Offered {
    /// Writes down what was offered.
    pub fn note(self, row: &mut Row) {
        row.offered = Some(self.arrivals);
        row.missed = self.missed;
        row.start_delay = self.late;
    }
}

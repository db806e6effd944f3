//! Nodes ended one after the other under a steady load: how long writes stop, and whether one is
//! lost.
//!
//! The load is an open loop, so that it is as steady while a node is down as before. Each end is a
//! SIGKILL, or a SIGTERM, after which a leader hands over before it stops, or a SIGSTOP, which ends nothing;
//! the node is started again over its data, or goes on, a while later, and the next one follows once every
//! node is ready. In the end every key
//! that was written is read through every node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;

use super::gaps::{Gap, Struck, gaps};
use super::reading_back::read_all_back;
use super::results::{GapSummary, Kill, Kills};
use super::stage::{Load, Stage};
use super::steady::Steady;
use super::worker::{Ground, Kept};
use crate::history::{Ended, Seeded};
use crate::lab::cluster::Cluster;
use crate::lab::stats::nearest_rank;
use crate::types::Mode;

/// The load runs undisturbed for this long before each kill, and after the last restart.
const STEADY_FOR: Duration = Duration::from_millis(1_500);
/// A killed node stays down for this long.
const DOWN_FOR: Duration = Duration::from_secs(2);

/// A node that was asked to stop must have ended within this time.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// Whom to end, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    Leader,
    /// The leader, asked to stop as SIGTERM does instead of killed.
    StoppedLeader,
    /// One that does not lead; any node where none leads.
    Follower,
    /// The same, stopped for a while without ending: its links stay open, and nothing comes over them.
    PausedFollower,
}

impl Victims {
    fn as_str(self, mode: Mode) -> &'static str {
        match (self, mode) {
            (Victims::Leader | Victims::StoppedLeader, _) => "leader",
            (Victims::Follower | Victims::PausedFollower, Mode::Leader) => "follower",
            (Victims::Follower | Victims::PausedFollower, Mode::Leaderless) => "node",
        }
    }

    /// How they end, in words.
    fn ended(self) -> &'static str {
        match self {
            Victims::StoppedLeader => "stopped",
            Victims::PausedFollower => "paused",
            Victims::Leader | Victims::Follower => "killed",
        }
    }
}

/// A kill, with its times on the load's clock.
struct Strike {
    node: u16,
    struck: Struck,
    ready_us: u64,
}

/// Kills `times` nodes.
pub async fn run(
    stage: &mut Stage<'_>,
    load: Load,
    victims: Victims,
    times: u32,
) -> anyhow::Result<Kills> {
    stage
        .with_cluster(async |stage, cluster| {
            let steady = Steady::new(stage, load, true)?;
            let striking = strike_in_turn(stage, cluster, &steady.ground, (victims, times));
            let (strikes, offered) = steady.during(striking).await?;
            let mut kills = judge(cluster, &steady, victims, strikes).await?;
            offered.note(&mut kills.load);
            Ok(kills)
        })
        .await
}

async fn strike_in_turn(
    stage: &Stage<'_>,
    cluster: &mut Cluster,
    ground: &Arc<Ground>,
    (victims, times): (Victims, u32),
) -> anyhow::Result<Vec<Strike>> {
    let mut strikes = Vec::new();
    let mut random = Seeded::derived(stage.options.seed, "bench-victim", 0);
    let (who, ended) = (victims.as_str(stage.mode), victims.ended());
    for number in 1..=times {
        stage.runtime.sleep(STEADY_FOR).await;
        let victim = choose(stage, cluster, victims, &mut random).await?;
        let node = stage.nodes[victim].0;
        stage
            .progress
            .step(&format!("{}: {who} {node} is {ended} ({number} of {times})", stage.mode));
        let killed_us = ground.now_us();
        if victims == Victims::StoppedLeader {
            cluster.terminate(victim)?;
            let (status, log) = cluster.ended(victim, STOPPED_WITHIN).await?;
            let last = log.lines().last().unwrap_or_default();
            ensure!(
                status.success(),
                "node {node} was asked to stop, and failed ({status}): {last}"
            );
        } else if victims == Victims::PausedFollower {
            cluster.pause(victim)?;
        } else {
            cluster.kill(victim)?;
        }
        let gone_us = ground.now_us();
        stage.runtime.sleep(DOWN_FOR).await;
        let restarted_us = ground.now_us();
        match victims {
            Victims::PausedFollower => cluster.resume(victim)?,
            _ => cluster.restart(victim)?,
        }
        cluster.wait_until_ready().await?;
        let ready_us = ground.now_us() - restarted_us;
        ground.returns.fetch_add(1, Ordering::Relaxed);
        strikes.push(Strike { node, struck: Struck { killed_us, gone_us }, ready_us });
    }
    stage.runtime.sleep(STEADY_FOR).await;
    Ok(strikes)
}

async fn choose(
    stage: &Stage<'_>,
    cluster: &Cluster,
    victims: Victims,
    random: &mut Seeded,
) -> anyhow::Result<usize> {
    let nodes = stage.nodes.len();
    if stage.mode == Mode::Leaderless {
        return Ok(random.below(nodes));
    }
    let leader = cluster.known_leader().await?;
    if matches!(victims, Victims::Leader | Victims::StoppedLeader) {
        return Ok(leader);
    }
    ensure!(nodes > 1, "there is no follower");
    Ok((leader + 1 + random.below(nodes - 1)) % nodes)
}

async fn judge(
    cluster: &mut Cluster,
    steady: &Steady<'_>,
    victims: Victims,
    strikes: Vec<Strike>,
) -> anyhow::Result<Kills> {
    let stage = steady.stage;
    let ended_us = steady.ground.now_us();
    let mut tally = steady.ground.take_tally()?;
    let row = stage.row(steady.load, &tally, ended_us as f64 / 1e6)?;
    let kept = tally.kept.take().unwrap_or_default();
    cluster.wait_until_ready().await?;
    let kills = kills(&strikes, &kept, ended_us);
    Ok(Kills {
        mode: stage.mode,
        victims: victims.as_str(stage.mode).to_owned(),
        ended: victims.ended().to_owned(),
        gap: summary(&kills, victims),
        kills,
        load: row,
        kept: read_all_back(stage, cluster, steady.load, &kept.written).await?,
    })
}

fn kills(strikes: &[Strike], kept: &Kept, ended_us: u64) -> Vec<Kill> {
    let struck: Vec<Struck> = strikes.iter().map(|strike| strike.struck).collect();
    let found = gaps(&kept.acknowledged, &struck, ended_us);
    let until = |index: usize| struck.get(index + 1).map_or(ended_us, |next| next.killed_us);
    let kill = |(index, (strike, gap)): (usize, (&Strike, &Gap))| {
        let window = strike.struck.killed_us..until(index);
        let undone = |ended| {
            let of_kind = kept.undone.iter().filter(|(_, how)| *how == ended);
            of_kind.filter(|(at_us, _)| window.contains(at_us)).count() as u64
        };
        Kill {
            node: strike.node,
            first_write_ms: gap.first_write_us.map(in_ms),
            longest_gap_ms: in_ms(gap.longest_us),
            ready_ms: in_ms(strike.ready_us),
            failed: undone(Ended::Failed),
            unknown: undone(Ended::Unknown),
        }
    };
    strikes.iter().zip(&found).enumerate().map(kill).collect()
}

fn in_ms(time_us: u64) -> f64 {
    time_us as f64 / 1e3
}

/// Of a node that was killed, how long it took until writes were served again; of one that was asked to
/// stop, which goes on serving for a while, the longest time without a write.
fn summary(kills: &[Kill], victims: Victims) -> Option<GapSummary> {
    let gap_ms = |kill: &Kill| match victims {
        Victims::StoppedLeader => Some(kill.longest_gap_ms),
        Victims::Leader | Victims::Follower | Victims::PausedFollower => kill.first_write_ms,
    };
    let gaps_us: Vec<u64> =
        kills.iter().filter_map(gap_ms).map(|gap_ms| (gap_ms * 1e3).round() as u64).collect();
    let at = |share| nearest_rank(&gaps_us, share).map(in_ms);
    Some(GapSummary { count: gaps_us.len(), p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: at(1.0)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(first_write_ms: Option<f64>) -> Kill {
        let (longest_gap_ms, ready_ms) = (0.0, 0.0);
        Kill { node: 1, first_write_ms, longest_gap_ms, ready_ms, failed: 0, unknown: 0 }
    }

    #[test]
    fn gaps_are_summed_up_without_those_that_never_ended() {
        let kills: Vec<Kill> =
            [Some(300.0), None, Some(100.5), Some(200.0)].into_iter().map(kill).collect();
        let gap = summary(&kills, Victims::Leader).expect("some ended");
        assert_eq!((gap.count, gap.p50_ms, gap.p99_ms, gap.max_ms), (3, 200.0, 300.0, 300.0));
        assert_eq!(summary(&[kill(None)], Victims::Follower), None);
        // Its first write after it was gone says how long it took to stop, and nothing of a gap.
        let stopped = Kill { longest_gap_ms: 40.0, ..kill(Some(900.0)) };
        let gap = summary(&[stopped], Victims::StoppedLeader).expect("it ended");
        assert_eq!((gap.count, gap.max_ms), (1, 40.0));
    }

    #[test]
    fn what_was_not_done_counts_for_the_kill_before_it() {
        let strike = |killed_us| Strike {
            node: 2,
            struck: Struck { killed_us, gone_us: killed_us },
            ready_us: 5_000,
        };
        let undone = vec![(50, Ended::Failed), (150, Ended::Unknown), (250, Ended::Failed)];
        let kept = Kept { undone, ..Kept::default() };
        let found = kills(&[strike(100), strike(200)], &kept, 1_000);
        let counts: Vec<_> = found.iter().map(|kill| (kill.failed, kill.unknown)).collect();
        assert_eq!(counts, [(0, 1), (1, 0)]);
        assert_eq!(found[0].ready_ms, 5.0);
    }
}

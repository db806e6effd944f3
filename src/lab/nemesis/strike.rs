//! Faults applied to a running cluster, and taken back.
//!
//! Guarantees: [`undo`] takes back all that [`strike`] did, in the opposite order. Only processes
//! that the cluster started are ever signalled. A node that ends by itself under any fault but a
//! full disk is not started again: waiting for it to be ready then says how it ended.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::disk::SmallDisk;
use super::faults::{Cycle, Fault, Shape, Who};
use super::marks::Marks;
use crate::lab::cluster::Cluster;
use crate::lab::proxy::Links;
use crate::runtime::Runtime;

/// A node that was told to stop must have ended within this time.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
/// How long a node may take to notice that its disk is full, while it is written to. One that was
/// not written to goes on.
const NOTICES_FULL_DISK_WITHIN: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The cluster, and what can be done to it.
pub struct Field {
    pub runtime: Runtime,
    pub cluster: Cluster,
    /// Of the last node.
    pub(super) disk: Option<SmallDisk>,
}

/// How to take a fault back.
enum Undo {
    Restart(Vec<usize>),
    Resume(usize),
    HealLinks,
    ResetAgain(usize),
    RightClock(usize),
    FreeDisk(usize),
}

/// Faults that were struck, and what that touched.
#[derive(Default)]
pub struct Struck {
    undos: Vec<Undo>,
    taken: BTreeSet<usize>,
}

/// Begins every fault of a cycle.
pub async fn strike(field: &mut Field, cycle: &Cycle, marks: &Marks) -> anyhow::Result<Struck> {
    let mut struck = Struck::default();
    for fault in &cycle.faults {
        let begun = begin(field, fault, &mut struck, marks).await;
        begun.with_context(|| fault.kind())?;
    }
    Ok(struck)
}

/// Ends every fault, the last one first. Does not wait for the nodes to be ready again.
pub async fn undo(field: &mut Field, struck: Struck, marks: &Marks) -> anyhow::Result<()> {
    for undo in struck.undos.into_iter().rev() {
        take_back(field, undo, marks).await?;
    }
    Ok(())
}

async fn begin(
    field: &mut Field,
    fault: &Fault,
    struck: &mut Struck,
    marks: &Marks,
) -> anyhow::Result<()> {
    match fault {
        Fault::Kill { first, nodes } => {
            let first = resolve(field, *first, &struck.taken).await?;
            let free = (0..field.cluster.ids().len()).map(|n| first + n);
            let free = free.map(|index| index % field.cluster.ids().len());
            let victims: Vec<usize> =
                free.filter(|index| !struck.taken.contains(index)).take(*nodes).collect();
            for victim in &victims {
                field.must_run(*victim)?;
                field.cluster.kill(*victim)?;
                struck.taken.insert(*victim);
            }
            marks.note(fault, &field.ids(&victims));
            struck.undos.push(Undo::Restart(victims));
        }
        Fault::Pause(who) => {
            let victim = resolve(field, *who, &struck.taken).await?;
            field.cluster.pause(victim)?;
            struck.taken.insert(victim);
            marks.note(fault, &field.ids(&[victim]));
            struck.undos.push(Undo::Resume(victim));
        }
        Fault::Roll => roll(field, fault, marks).await?,
        Fault::Clock { who, offset_ms } => {
            let victim = resolve(field, *who, &struck.taken).await?;
            field.must_run(victim)?;
            let flag = format!("testing.wall_clock_offset_ms={offset_ms}");
            field.cluster.kill(victim)?;
            field.cluster.restart_with(victim, &["--set".to_owned(), flag])?;
            struck.taken.insert(victim);
            marks.note(fault, &field.ids(&[victim]));
            struck.undos.push(Undo::RightClock(victim));
        }
        Fault::FullDisk => {
            let victim = field.cluster.ids().len() - 1;
            let disk = field.disk.as_ref().context("no node has a small disk")?;
            disk.fill()?;
            struck.taken.insert(victim);
            marks.note(fault, &field.ids(&[victim]));
            struck.undos.push(Undo::FreeDisk(victim));
        }
        Fault::Cut { .. } | Fault::Delay { .. } | Fault::Drip { .. } | Fault::Reset(_) => {
            let undo = break_links(field, fault, marks).await?;
            struck.undos.push(undo);
        }
    }
    Ok(())
}

async fn take_back(field: &mut Field, undo: Undo, marks: &Marks) -> anyhow::Result<()> {
    match undo {
        Undo::Restart(victims) => {
            for victim in &victims {
                field.cluster.restart(*victim)?;
            }
            marks.healed("started again", &field.ids(&victims));
        }
        Undo::Resume(victim) => {
            field.cluster.resume(victim)?;
            marks.healed("resumed", &field.ids(&[victim]));
        }
        Undo::HealLinks => {
            links(field)?.heal();
            marks.healed("links healed", &[]);
        }
        Undo::ResetAgain(victim) => {
            reset_all(field, victim)?;
            marks.healed("links reset once more", &field.ids(&[victim]));
        }
        Undo::RightClock(victim) => {
            field.must_run(victim)?;
            field.cluster.kill(victim)?;
            field.cluster.restart(victim)?;
            marks.healed("clock set right", &field.ids(&[victim]));
        }
        Undo::FreeDisk(victim) => {
            // A node that took writes in this time has stopped, as it should: it may be started
            // again once there is room.
            let deadline = field.runtime.now() + NOTICES_FULL_DISK_WITHIN;
            while field.cluster.is_running(victim)? && field.runtime.now() < deadline {
                field.runtime.sleep(LOOK_EVERY).await;
            }
            let disk = field.disk.as_ref().context("no node has a small disk")?;
            disk.free()?;
            let stopped = !field.cluster.is_running(victim)?;
            if stopped {
                field.cluster.restart(victim)?;
            }
            let how = if stopped { "room again, started again" } else { "room again, it went on" };
            marks.healed(how, &field.ids(&[victim]));
        }
    }
    Ok(())
}

async fn roll(field: &mut Field, fault: &Fault, marks: &Marks) -> anyhow::Result<()> {
    for index in 0..field.cluster.ids().len() {
        marks.note(fault, &field.ids(&[index]));
        field.cluster.terminate(index)?;
        let (status, log) = field.cluster.ended(index, STOPS_WITHIN).await?;
        let last = log.lines().last().unwrap_or_default();
        ensure!(status.success(), "node {} ended ({status}) on SIGTERM: {last}", index + 1);
        field.cluster.restart(index)?;
        field.cluster.wait_until_ready().await?;
        marks.healed("started again", &field.ids(&[index]));
    }
    Ok(())
}

async fn break_links(field: &Field, fault: &Fault, marks: &Marks) -> anyhow::Result<Undo> {
    let none = BTreeSet::new();
    let links = links(field)?;
    let ids = field.cluster.ids();
    let at = async |who: Who| resolve(field, who, &none).await;
    match fault {
        Fault::Cut { shape, loud } => {
            let victims = cut(field, *shape, *loud).await?;
            marks.note(fault, &field.ids(&victims));
            Ok(Undo::HealLinks)
        }
        Fault::Delay { who, delay_ms, jitter_ms } => {
            let victim = match who {
                Some(who) => Some(at(*who).await?),
                None => None,
            };
            let late = (Duration::from_millis(*delay_ms), Duration::from_millis(*jitter_ms));
            for (from, to) in pairs(ids.len(), victim) {
                links.toward(ids[from], ids[to], |flow| (flow.delay, flow.jitter) = late);
            }
            marks.note(fault, &field.ids(victim.as_slice()));
            Ok(Undo::HealLinks)
        }
        Fault::Drip { who, bytes_per_second } => {
            let victim = at(*who).await?;
            for (from, to) in pairs(ids.len(), Some(victim)) {
                let rate = Some(*bytes_per_second);
                links.toward(ids[from], ids[to], |flow| flow.bytes_per_second = rate);
            }
            marks.note(fault, &field.ids(&[victim]));
            Ok(Undo::HealLinks)
        }
        Fault::Reset(who) => {
            let victim = at(*who).await?;
            reset_all(field, victim)?;
            marks.note(fault, &field.ids(&[victim]));
            Ok(Undo::ResetAgain(victim))
        }
        other => anyhow::bail!("'{}' does not break links", other.kind()),
    }
}

/// Cuts links; gives the indexes of the nodes that it is about.
async fn cut(field: &Field, shape: Shape, loud: bool) -> anyhow::Result<Vec<usize>> {
    let none = BTreeSet::new();
    let (links, ids) = (links(field)?, field.cluster.ids());
    let count = ids.len();
    let others = |victim: usize| (0..count).filter(move |other| *other != victim);
    let cut_pair = |one: usize, other: usize| match loud {
        true => links.cut_loudly(ids[one], ids[other]),
        false => links.cut_silently(ids[one], ids[other]),
    };
    match shape {
        Shape::Isolate(who) => {
            let victim = resolve(field, who, &none).await?;
            others(victim).for_each(|other| cut_pair(victim, other));
            Ok(vec![victim])
        }
        Shape::Deaf(who) | Shape::Mute(who) => {
            let victim = resolve(field, who, &none).await?;
            let deaf = matches!(shape, Shape::Deaf(_));
            for other in others(victim) {
                let (from, to) = if deaf { (other, victim) } else { (victim, other) };
                links.toward(ids[from], ids[to], |flow| flow.held = true);
            }
            Ok(vec![victim])
        }
        Shape::Pair(who) => {
            let victim = resolve(field, who, &none).await?;
            let other = (victim + 1) % count;
            if other != victim {
                cut_pair(victim, other);
            }
            Ok(vec![victim, other])
        }
        Shape::Bridge => {
            let middle = count / 2;
            for one in 0..middle {
                (middle + 1..count).for_each(|other| cut_pair(one, other));
            }
            Ok(vec![middle])
        }
        Shape::Ring => {
            for one in 0..count {
                let not_next = (one + 2..count).filter(|other| (other + 1) % count != one);
                not_next.for_each(|other| cut_pair(one, other));
            }
            Ok((0..count).collect())
        }
    }
}

/// The directed pairs of nodes that one is part of; all of them where no one is named.
fn pairs(count: usize, victim: Option<usize>) -> impl Iterator<Item = (usize, usize)> {
    (0..count)
        .flat_map(move |from| (0..count).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .filter(move |(from, to)| victim.is_none_or(|victim| victim == *from || victim == *to))
}

fn reset_all(field: &Field, victim: usize) -> anyhow::Result<()> {
    let (links, ids) = (links(field)?, field.cluster.ids());
    for other in ids.iter().filter(|other| **other != ids[victim]) {
        links.reset(ids[victim], *other);
    }
    Ok(())
}

fn links(field: &Field) -> anyhow::Result<&Links> {
    field.cluster.links().context("the nodes reach each other directly: no link can be broken")
}

/// The index of a node that is not taken.
async fn resolve(field: &Field, who: Who, taken: &BTreeSet<usize>) -> anyhow::Result<usize> {
    let index = match who {
        Who::Index(index) => index,
        Who::Leader => field.cluster.leader().await?.unwrap_or(0),
    };
    let count = field.cluster.ids().len();
    let free = (0..count).map(|n| (index + n) % count).find(|index| !taken.contains(index));
    free.context("every node is struck already")
}

impl Field {
    /// A node that has ended by itself must not be taken for one that was killed.
    fn must_run(&mut self, index: usize) -> anyhow::Result<()> {
        let runs = self.cluster.is_running(index)?;
        ensure!(runs, "node {} had ended by itself", self.cluster.ids()[index]);
        Ok(())
    }

    fn ids(&self, indexes: &[usize]) -> Vec<u16> {
        let ids = self.cluster.ids();
        indexes.iter().filter_map(|index| ids.get(*index).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_all_links_or_those_of_one_node() {
        assert_eq!(pairs(3, None).count(), 6);
        let of_one: Vec<_> = pairs(3, Some(1)).collect();
        assert_eq!(of_one, [(0, 1), (1, 0), (1, 2), (2, 1)]);
    }
}

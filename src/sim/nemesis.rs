//! The nemesis: begins and ends faults while clients work.
//!
//! Faults of one group follow one another; those of different groups overlap. A minority of the
//! disks may rot, since promises are made for a majority that keeps its disks; everything else may
//! happen to any node, and to all.

use std::collections::BTreeMap;
use std::time::Duration;

use super::machine::{Ending, Machine};
use super::members;
use super::plan::{Fault, Group};
use super::transfer;
use super::world::{Shared, World};
use crate::peer::fault::{Fault as LinkFault, FaultCounts};
use crate::runtime::Instant;
use crate::types::NodeId;

/// The cluster has this long to form before disks are replaced or rot: a node that never was a
/// member cannot be told from a new one.
const FORMING: Duration = Duration::from_millis(5_000);

/// A crash at any await: it comes within so many polls of the node's tasks.
const CRASH_WITHIN_POLLS: u64 = 400;

/// How far a clock may be off, in milliseconds: some of it within the drift that is allowed.
const SKEWS_MS: [i64; 6] = [-3_000, -450, -60, 60, 450, 3_000];

/// How fast or slow a clock may run, in parts per million.
const RATES_PPM: [i64; 4] = [-200_000, -20_000, 20_000, 200_000];

/// When each group's next fault begins, or its present one ends.
#[derive(Default)]
pub(super) struct Nemesis {
    groups: BTreeMap<Group, (Instant, Option<Undo>)>,
    begun: Option<Instant>,
    /// The fault that is on the links, and what they had done before it.
    on_links: Option<(Fault, FaultCounts)>,
}

/// How a fault ends.
enum Undo {
    HealLinks,
    Resume(usize),
    FreeDisk(usize),
    SpeedUpDisk(usize),
    SteadyClock(usize),
    RollOn(usize),
    Nothing,
}

impl Nemesis {
    pub fn new(shared: &Shared) -> Nemesis {
        let now = shared.runtime.now();
        let first = |group| {
            let delay = Duration::from_millis(shared.runtime.random_below(4_000));
            (group, (now + delay, None))
        };
        let groups = Group::ALL.into_iter().map(first).collect();
        Nemesis { groups, begun: Some(now), on_links: None }
    }

    /// Begins and ends what is due.
    pub fn step(&mut self, world: &mut World) {
        let now = world.shared.runtime.now();
        for group in Group::ALL {
            let Some((due, undo)) = self.groups.get_mut(&group) else { continue };
            if *due > now {
                continue;
            }
            let undo = undo.take();
            if group == Group::Links {
                self.count_on_links(world);
            }
            let (next, undo) = match undo {
                Some(undo) => match end(world, undo) {
                    Some(more) => (around(world, world.shared.plan.lasting), Some(more)),
                    None => (around(world, world.shared.plan.gap), None),
                },
                None => (around(world, world.shared.plan.lasting), self.begin_one_of(world, group)),
            };
            self.groups.insert(group, (now + next, undo));
        }
    }

    /// Ends every fault, and has every node started that can be.
    pub fn heal(&mut self, world: &mut World) {
        self.count_on_links(world);
        for (_, undo) in self.groups.values_mut() {
            let mut undo = undo.take();
            while let Some(one) = undo {
                undo = match one {
                    Undo::RollOn(_) => None,
                    other => end(world, other),
                };
            }
        }
        self.groups.clear();
        world.wires.faults.heal();
        let now = world.shared.runtime.now();
        for machine in &mut world.machines {
            machine.heal(now);
        }
    }

    /// A fault of links happened where a message met it: a partition that nobody talked across
    /// tried nothing.
    fn count_on_links(&mut self, world: &World) {
        if let Some((fault, before)) = self.on_links.take()
            && world.wires.faults.counts() != before
        {
            world.shared.happened(fault.name());
        }
    }

    fn begin_one_of(&mut self, world: &mut World, group: Group) -> Option<Undo> {
        let faults = world.shared.plan.of_group(group);
        let count = faults.len() as u64;
        let fault = *faults.get(world.shared.runtime.random_below(count) as usize)?;
        let node = world.shared.runtime.random_below(world.machines.len() as u64) as usize;
        let before = world.wires.faults.counts();
        let undo = self.begin(world, fault, node)?;
        match group {
            // A reset needs no message: it breaks connections at once.
            Group::Links if fault != Fault::Reset => self.on_links = Some((fault, before)),
            _ => world.shared.happened(fault.name()),
        }
        Some(undo)
    }

    /// Begins a fault; `None` where it cannot be now.
    fn begin(&self, world: &mut World, fault: Fault, node: usize) -> Option<Undo> {
        match fault.group() {
            Group::Links => begin_on_links(world, fault, node),
            Group::Processes => self.begin_on_processes(world, fault, node),
            Group::Disks => self.begin_on_disks(world, fault, node),
            Group::Clocks => begin_on_clocks(world, fault, node),
            Group::Members => members::begin(world, fault).then_some(Undo::Nothing),
        }
    }

    fn formed(&self, world: &World) -> bool {
        self.begun.is_some_and(|begun| world.shared.runtime.now() >= begun + FORMING)
    }

    fn begin_on_processes(&self, world: &mut World, fault: Fault, node: usize) -> Option<Undo> {
        let (shared, wires) = (world.shared.clone(), world.wires.clone());
        let back = shared.runtime.now() + around(world, shared.plan.lasting);
        let id = world.machines[node].id();
        let say = |what: &str| shared.say(format_args!("node {id}: {what}"));
        match fault {
            Fault::Crash => {
                let polls = shared.runtime.random_below(CRASH_WITHIN_POLLS);
                let running = world.machines[node].running()?;
                running.runtime.resume();
                running.runtime.kill_after_polls(polls);
                say(&format!("will crash after {polls} polls"));
            }
            Fault::Kill => {
                world.machines[node].running()?;
                say("is killed");
                world.machines[node].end(&shared, &wires, Ending::Exit, Some(back));
            }
            Fault::PowerCut => {
                shared.say(format_args!("power fails everywhere"));
                for machine in &mut world.machines {
                    let up_at = shared.runtime.now() + jitter(&shared, 600);
                    machine.end(&shared, &wires, Ending::PowerCut, Some(up_at));
                }
            }
            Fault::Pause | Fault::PauseLeader => {
                let node = if fault == Fault::Pause { node } else { leader(world)? };
                let machine = &world.machines[node];
                machine.running()?.runtime.pause();
                shared.say(format_args!("node {} is paused", machine.id()));
                return Some(Undo::Resume(node));
            }
            Fault::RollingRestart => {
                world.machines[0].stop(&shared);
                return Some(Undo::RollOn(1));
            }
            Fault::Transfer => {
                let to = shared.runtime.random_below(2 * world.machines.len() as u64) as usize;
                let to = world.machines.get(to).map(Machine::id);
                transfer::ask(&shared, id, world.machines[node].running()?, to);
            }
            Fault::WrongDisk => {
                if !self.formed(world) || !wipe(world, node, back) {
                    return None;
                }
            }
            _ => return None,
        }
        Some(Undo::Nothing)
    }

    fn begin_on_disks(&self, world: &mut World, fault: Fault, node: usize) -> Option<Undo> {
        let shared = world.shared.clone();
        let formed = self.formed(world);
        let machine = &mut world.machines[node];
        let id = machine.id();
        match fault {
            Fault::FailedSync => {
                machine.running()?;
                machine.disk.fail_next_sync();
                shared.say(format_args!("node {id}: the next sync fails"));
                Some(Undo::Nothing)
            }
            Fault::FullDisk => {
                machine.excuses.full = true;
                machine.disk.fill_after_bytes(shared.runtime.random_below(4_000));
                shared.say(format_args!("node {id}: the disk is about to be full"));
                Some(Undo::FreeDisk(node))
            }
            Fault::SlowDisk => {
                let ms = |value| Duration::from_millis(value);
                machine.disk.set_sync_delay_range(ms(5), ms(20 + shared.runtime.random_below(400)));
                shared.say(format_args!("node {id}: the disk is slow"));
                Some(Undo::SpeedUpDisk(node))
            }
            Fault::FlippedBit => {
                // One that is flipped already may have a second; a wiped one has nothing to lose.
                if !formed || machine.own_disk.is_some() || machine.is_removed() {
                    return None;
                }
                let already = shared.losses().is_lost(id);
                if !shared.losses().lose(id) {
                    return None;
                }
                let Some((path, byte, bit)) = flip(machine, &shared) else {
                    if !already {
                        shared.losses().find(id);
                    }
                    return None;
                };
                count_loss(&shared, id);
                let name = path.rsplit('/').next().unwrap_or(&path);
                machine.excuses.damaged.insert(name.to_owned());
                shared.say(format_args!("node {id}: bit {bit} of byte {byte} of {path} flips"));
                Some(Undo::Nothing)
            }
            _ => None,
        }
    }
}

/// Whether a machine's disk must not be replaced now.
fn is_out(machine: &Machine) -> bool {
    machine.running().is_none() || machine.own_disk.is_some() || !machine.excuses.damaged.is_empty()
}

/// Cuts a machine's power, and brings it back with an empty disk; false where it may not be now.
fn wipe(world: &mut World, node: usize, back: Instant) -> bool {
    let shared = world.shared.clone();
    let id = world.machines[node].id();
    // One that joined is known to the others by its disk once it has a vote.
    let known = !shared.plan.changes_members() || members::has_a_vote(world, id);
    if is_out(&world.machines[node]) || !known || !shared.losses().lose(id) {
        return false;
    }
    let for_good = shared.plan.loses_disks_for_good() && shared.runtime.random_below(2) == 0;
    let seed = shared.runtime.random_u64();
    let machine = &mut world.machines[node];
    machine.end(&shared, &world.wires, Ending::PowerCut, Some(back));
    machine.put_empty_disk(&shared.plan, seed, for_good);
    let own = if for_good { "is gone" } else { "is not" };
    shared.say(format_args!("node {id}: comes back with an empty disk, its own {own}"));
    count_loss(&shared, id);
    true
}

/// Counts a disk that is lost where members change.
fn count_loss(shared: &Shared, id: NodeId) {
    if shared.plan.changes_members() {
        let votes = shared.losses().may_vote(id);
        shared.happened(match votes {
            true => "members: a voter lost its disk",
            false => "members: a learner lost its disk",
        });
    }
}

/// Flips a bit of what was synced. Not in the newest segment of the log: a record at its very end
/// that does not read right cannot be told from one that was never synced.
fn flip(machine: &Machine, shared: &Shared) -> Option<(String, usize, u8)> {
    let mut paths = machine.disk.paths();
    let newest = paths.iter().filter(|path| path.starts_with("log/")).max().cloned();
    paths.retain(|path| Some(path) != newest.as_ref());
    let path = paths.get(shared.runtime.random_below(paths.len() as u64) as usize)?;
    machine.disk.flip_random_bit_in(path)
}

fn around(world: &World, mean: Duration) -> Duration {
    let mean_ms = mean.as_millis() as u64;
    Duration::from_millis(1 + world.shared.runtime.random_below(2 * mean_ms))
}

fn jitter(shared: &Shared, most_ms: u64) -> Duration {
    Duration::from_millis(shared.runtime.random_below(most_ms))
}

/// The node that most nodes take for the leader.
fn leader(world: &World) -> Option<usize> {
    let mut votes: BTreeMap<NodeId, usize> = BTreeMap::new();
    for machine in &world.machines {
        if let Some(running) = machine.running()
            && let Some(leader) = running.node.replicator().status().leader
        {
            *votes.entry(leader).or_default() += 1;
        }
    }
    let (leader, _) = votes.into_iter().max_by_key(|(node, votes)| (*votes, *node))?;
    world.machines.iter().position(|machine| machine.id() == leader)
}

fn begin_on_links(world: &World, fault: Fault, node: usize) -> Option<Undo> {
    let shared = &world.shared;
    let below = |bound: u64| shared.runtime.random_below(bound);
    let ids: Vec<NodeId> = world.machines.iter().map(Machine::id).collect();
    let one = ids[node];
    let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != one).collect();
    let other = others[below(others.len() as u64) as usize];
    let faults = &world.wires.faults;
    let ms = Duration::from_millis;
    let per_mille = 20 + below(400) as u16;
    let wrong = match fault {
        Fault::Delay => {
            LinkFault { delay: ms(below(60)), jitter: ms(1 + below(300)), ..LinkFault::default() }
        }
        Fault::Drop => LinkFault { drop_requests_per_mille: per_mille, ..LinkFault::default() },
        Fault::DropAnswers => {
            let per_mille = if below(3) == 0 { 1_000 } else { per_mille };
            LinkFault { drop_answers_per_mille: per_mille, ..LinkFault::default() }
        }
        Fault::Duplicate => LinkFault { duplicate_per_mille: per_mille, ..LinkFault::default() },
        Fault::Reorder => LinkFault {
            reorder_per_mille: per_mille,
            reorder_by: ms(1 + below(200)),
            ..LinkFault::default()
        },
        Fault::Mute => LinkFault { mute: true, ..LinkFault::default() },
        Fault::Cut => LinkFault { cut: true, ..LinkFault::default() },
        Fault::Hold => LinkFault { hold: true, ..LinkFault::default() },
        Fault::SlowLink => {
            let least = if shared.plan.gentle { 20 } else { 1 };
            LinkFault { bytes_per_ms: Some(least + below(200)), ..LinkFault::default() }
        }
        _ => LinkFault::default(),
    };
    match fault {
        Fault::Reset => world.wires.network.reset(one, other),
        Fault::IsolateOne => faults.isolate(one, &others),
        Fault::IsolateLeader => {
            let place = leader(world)?;
            let rest: Vec<NodeId> = ids.iter().copied().filter(|id| *id != ids[place]).collect();
            faults.isolate(ids[place], &rest);
            shared.say(format_args!("the leader, node {}, is cut off", ids[place]));
            return Some(Undo::HealLinks);
        }
        Fault::SplitMajority => {
            let (minority, majority) = ids.split_at((ids.len() - 1) / 2);
            faults.partition(minority, majority);
        }
        Fault::Bridge => {
            let (some, rest) = others.split_at(others.len() / 2);
            faults.bridge(some, rest, one);
        }
        Fault::Ring => faults.ring(&ids),
        Fault::Mute => faults.set(one, other, wrong),
        _ if below(3) == 0 => {
            others.iter().for_each(|other| faults.set_between(one, *other, wrong));
        }
        _ if below(2) == 0 => faults.set_between(one, other, wrong),
        _ => faults.set(one, other, wrong),
    }
    shared.say(format_args!("{} at node {one} (and {other})", fault.name()));
    Some(Undo::HealLinks)
}

fn begin_on_clocks(world: &mut World, fault: Fault, node: usize) -> Option<Undo> {
    let shared = world.shared.clone();
    let choice = shared.runtime.random_u64() as usize;
    let machine = &mut world.machines[node];
    match fault {
        Fault::Skew | Fault::ClockJump => machine.skew_ms = SKEWS_MS[choice % SKEWS_MS.len()],
        Fault::ClockRate => machine.rate_ppm = RATES_PPM[choice % RATES_PPM.len()],
        _ => return None,
    }
    machine.set_clock();
    shared.say(format_args!(
        "node {}: clock off by {} ms, rate off by {} ppm",
        machine.id(),
        machine.skew_ms,
        machine.rate_ppm
    ));
    // A skewed clock stays so until the end; one that jumped jumps back.
    Some(if fault == Fault::Skew { Undo::Nothing } else { Undo::SteadyClock(node) })
}

/// Ends a fault; gives what follows it.
fn end(world: &mut World, undo: Undo) -> Option<Undo> {
    let shared = world.shared.clone();
    match undo {
        Undo::HealLinks => world.wires.faults.heal(),
        Undo::Resume(node) => {
            if let Some(running) = world.machines[node].running() {
                running.runtime.resume();
                shared.say(format_args!("node {} goes on", world.machines[node].id()));
            }
        }
        Undo::FreeDisk(node) => {
            let machine = &mut world.machines[node];
            machine.free_disk();
            let failing = machine.running().is_some_and(|one| one.node.failure().is_some());
            machine.excuses.full &= failing;
        }
        Undo::SpeedUpDisk(node) => world.machines[node].speed_up_disk(),
        Undo::SteadyClock(node) => {
            let machine = &mut world.machines[node];
            (machine.skew_ms, machine.rate_ppm) = (0, 0);
            machine.set_clock();
        }
        Undo::RollOn(node) => {
            let machine = world.machines.get_mut(node)?;
            machine.stop(&shared);
            return Some(Undo::RollOn(node + 1));
        }
        Undo::Nothing => {}
    }
    None
}

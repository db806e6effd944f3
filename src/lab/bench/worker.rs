//! One connection of the load, and what all of them count together.
//!
//! The load shares the machine with the nodes, so a request costs no allocation and one lock that
//! nobody else holds: everything runs on one thread. Answers are counted as they come and not kept,
//! but for writes where a later check needs them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::gaps::Acknowledged;
use super::ledger::Written;
use crate::history::{Ended, Seeded, ValueId};
use crate::lab::answers::{code_of, code_of_failure, write_ended, write_failed};
use crate::lab::http::{Answer, Connection, Failure};
use crate::lab::results::Counts;
use crate::lab::stats::Latencies;
use crate::lab::workload::write_key;
use crate::runtime::{Instant, Runtime};
use crate::types::{Level, Version};

/// A request is given up after this time: later than nodes give up, so that an error is what a
/// node said.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a value tells it from every other, in bytes.
const STAMP_BYTES: usize = 16;

/// What the connections of one load share.
pub struct Ground {
    pub runtime: Runtime,
    start: Instant,
    pub nodes: Vec<SocketAddr>,
    pub prefix: String,
    pub keys: usize,
    pub value_bytes: usize,
    pub writes_percent: u8,
    /// The level that reads ask for; `None` where they name none.
    pub level: Option<Level>,
    pub seed: u64,
    /// Fewer connections than nodes ask every node in turn.
    pub in_turn: bool,
    pub tally: Mutex<Tally>,
    /// How often a node has come back: connections then return to the node they began with.
    pub returns: AtomicU64,
}

/// What a load is like, beside its pace.
pub struct Shape<'a> {
    pub nodes: &'a [(u16, SocketAddr)],
    pub keys: usize,
    pub value_bytes: usize,
    pub writes_percent: u8,
    pub level: Option<Level>,
    pub connections: usize,
    pub seed: u64,
    /// Whether every acknowledged write and every failure is kept.
    pub keeps_writes: bool,
}

impl Ground {
    /// A load whose clock starts now.
    pub fn new(runtime: &Runtime, shape: &Shape<'_>) -> anyhow::Result<Arc<Ground>> {
        Ok(Arc::new(Ground {
            runtime: runtime.clone(),
            start: runtime.now(),
            nodes: shape.nodes.iter().map(|(_, address)| *address).collect(),
            prefix: prefix(shape.value_bytes),
            keys: shape.keys,
            value_bytes: shape.value_bytes,
            writes_percent: shape.writes_percent,
            level: shape.level,
            seed: shape.seed,
            in_turn: shape.connections < shape.nodes.len(),
            tally: Mutex::new(Tally::new(shape.keeps_writes)?),
            returns: AtomicU64::new(0),
        }))
    }

    /// Microseconds on the load's clock.
    pub fn now_us(&self) -> u64 {
        self.runtime.now().duration_since(self.start).as_micros() as u64
    }

    /// Begins to count anew, and gives what was counted so far.
    pub fn take_tally(&self) -> anyhow::Result<Tally> {
        let mut tally = self.tally.lock();
        let keeps_writes = tally.kept.is_some();
        Ok(std::mem::replace(&mut tally, Tally::new(keeps_writes)?))
    }

    /// The load's connections, opened when they are needed.
    pub fn workers(self: &Arc<Ground>, count: usize) -> Vec<Worker> {
        (0..count).map(|number| Worker::new(self, number)).collect()
    }
}

/// What the keys of values of this size begin with.
pub fn prefix(value_bytes: usize) -> String {
    format!("bench-{value_bytes}")
}

/// What was counted.
pub struct Tally {
    pub counts: Counts,
    /// Latencies of what was done, from the intended start.
    pub puts: Latencies,
    pub gets: Latencies,
    /// Reads that found nothing; they count as done.
    pub not_found: u64,
    /// Acknowledged writes whose answer said that a newer version was already there.
    pub superseded: u64,
    pub errors: BTreeMap<String, u64>,
    /// What later checks need; `None` where there are none.
    pub kept: Option<Kept>,
}

/// What is kept of each write, and of each request that was not done.
#[derive(Default)]
pub struct Kept {
    pub written: Vec<Written>,
    pub acknowledged: Vec<Acknowledged>,
    /// When, and how.
    pub undone: Vec<(u64, Ended)>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(keeps_writes: bool) -> anyhow::Result<Tally> {
        Ok(Tally {
            counts: Counts::default(),
            puts: Latencies::new()?,
            gets: Latencies::new()?,
            not_found: 0,
            superseded: 0,
            errors: BTreeMap::new(),
            kept: keeps_writes.then(Kept::default),
        })
    }

    fn count(&mut self, asked: &Asked, reply: Reply, answered_us: u64) {
        match reply.ended {
            Ended::Ok => self.counts.done += 1,
            Ended::Failed => self.counts.failed += 1,
            Ended::Unknown => self.counts.unknown += 1,
        }
        if let Some(code) = reply.error {
            *self.errors.entry(code).or_default() += 1;
        }
        if reply.ended == Ended::Ok {
            let latencies = if asked.is_write { &mut self.puts } else { &mut self.gets };
            latencies.record(answered_us.saturating_sub(asked.intended_us));
            self.not_found += u64::from(reply.not_found);
            self.superseded += u64::from(reply.superseded);
        }
        let Some(kept) = &mut self.kept else { return };
        if reply.ended != Ended::Ok {
            kept.undone.push((answered_us, reply.ended));
        } else if let Some(version) = reply.version.filter(|_| asked.is_write) {
            kept.written.push(Written { key: asked.key, version });
            kept.acknowledged.push(Acknowledged { invoked_us: asked.invoked_us, answered_us });
        }
    }
}

struct Asked {
    is_write: bool,
    key: u32,
    intended_us: u64,
    invoked_us: u64,
}

/// An answer, as far as it is counted.
struct Reply {
    ended: Ended,
    version: Option<Version>,
    not_found: bool,
    superseded: bool,
    error: Option<String>,
    lost_connection: bool,
}

/// One connection: one request at a time.
pub struct Worker {
    ground: Arc<Ground>,
    home: usize,
    node: usize,
    returns: u64,
    connections: Vec<Connection>,
    random: Seeded,
    target: String,
    value: Vec<u8>,
    stamp: u64,
}

impl Worker {
    fn new(ground: &Arc<Ground>, number: usize) -> Worker {
        let connect =
            |address: &SocketAddr| Connection::new(ground.runtime.clone(), *address, TIMEOUT);
        let mut random = Seeded::derived(ground.seed, "bench", number as u64);
        let mut value = Vec::new();
        ValueId { client: number as u32, seq: 0 }.fill(ground.value_bytes, &mut value);
        value.truncate(ground.value_bytes);
        Worker {
            ground: ground.clone(),
            home: number,
            node: number,
            returns: 0,
            connections: ground.nodes.iter().map(connect).collect(),
            stamp: random.next(),
            random,
            target: String::new(),
            value,
        }
    }

    /// The load it belongs to.
    pub fn ground(&self) -> &Arc<Ground> {
        &self.ground
    }

    /// Asks once, and counts what became of it; whether it was done. The latency counts from
    /// `intended_us`.
    pub async fn ask(&mut self, intended_us: u64) -> bool {
        let ground = self.ground.clone();
        let key = self.random.below(ground.keys);
        let is_write = self.random.below(100) < usize::from(ground.writes_percent);
        self.set_target(key, is_write);
        let index = self.next_node();
        let invoked_us = ground.now_us();
        let reply = if is_write {
            self.stamp();
            let called = self.connections[index].call("PUT", &self.target, &self.value).await;
            of_write(called)
        } else {
            of_read(self.connections[index].call("GET", &self.target, b"").await)
        };
        let answered_us = ground.now_us();
        let done = reply.ended == Ended::Ok;
        if reply.lost_connection {
            self.node += 1;
        }
        let asked = Asked { is_write, key: key as u32, intended_us, invoked_us };
        ground.tally.lock().count(&asked, reply, answered_us);
        done
    }

    fn next_node(&mut self) -> usize {
        let returns = self.ground.returns.load(Ordering::Relaxed);
        if self.returns != returns {
            self.returns = returns;
            self.node = self.home;
        }
        let index = self.node % self.connections.len();
        if self.ground.in_turn {
            self.node += 1;
        }
        index
    }

    fn set_target(&mut self, key: usize, is_write: bool) {
        self.target.clear();
        self.target.push_str("/v1/kv/");
        write_key(&mut self.target, &self.ground.prefix, key);
        if let Some(level) = self.ground.level.filter(|_| !is_write) {
            self.target.push_str("?consistency=");
            self.target.push_str(level.as_str());
        }
    }

    /// Makes the value one that was not written before.
    fn stamp(&mut self) {
        self.stamp = self.stamp.wrapping_add(1);
        for (place, byte) in self.value.iter_mut().take(STAMP_BYTES).enumerate() {
            *byte = b'a' + ((self.stamp >> (4 * place)) & 0xf) as u8;
        }
    }
}

fn of_write(called: Result<Answer<'_>, Failure>) -> Reply {
    let answer = match called {
        Ok(answer) => answer,
        Err(failure) => return unanswered(&failure, write_failed(&failure)),
    };
    let version = answer.header("etag").and_then(|text| text.trim_matches('"').parse().ok());
    let ended = match write_ended(answer.status, answer.body) {
        // Without a readable version it cannot be checked: nobody knows what was written.
        Ended::Ok if version.is_none() => Ended::Unknown,
        ended => ended,
    };
    Reply {
        ended,
        version,
        not_found: false,
        superseded: answer.header("quorate-superseded").is_some(),
        error: (ended != Ended::Ok).then(|| code_of(answer.status, answer.body)),
        lost_connection: false,
    }
}

fn of_read(called: Result<Answer<'_>, Failure>) -> Reply {
    let answer = match called {
        Ok(answer) => answer,
        Err(failure) => return unanswered(&failure, Ended::Failed),
    };
    let done = matches!(answer.status, 200 | 404);
    Reply {
        ended: if done { Ended::Ok } else { Ended::Failed },
        version: None,
        not_found: answer.status == 404,
        superseded: false,
        error: (!done).then(|| code_of(answer.status, answer.body)),
        lost_connection: false,
    }
}

fn unanswered(failure: &Failure, ended: Ended) -> Reply {
    Reply {
        ended,
        version: None,
        not_found: false,
        superseded: false,
        error: Some(code_of_failure(failure).to_owned()),
        lost_connection: true,
    }
}

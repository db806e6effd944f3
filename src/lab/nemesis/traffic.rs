//! What clients do while the nemesis is at work.
//!
//! Puts, gets, deletes and lists through every node, writes under a condition in leader mode, and
//! reads at `local`; every fourth client gives up so early that many of its writes end as unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;

use crate::history::{Ended, Op};
use crate::lab::load::{Ask, Condition, LabClient, Scene, Told};
use crate::runtime::Task;
use crate::types::{Key, Level, Mode, Version};

/// How many clients ask at a time.
const CLIENTS: u32 = 8;
/// The pause between two requests of a client: the load is to be broad, not as much as goes.
const PAUSE: Duration = Duration::from_millis(12);
/// Every so many clients one is impatient, and this is its patience.
const IMPATIENT_EACH: u32 = 4;
const IMPATIENCE: Duration = Duration::from_millis(40);
/// The first so many keys get most of the requests; all others together one in so many.
pub const HOT_KEYS: usize = 24;
const COLD_EACH: usize = 5;
/// How many keys a list asks for: not all of them, so that lists end early too.
const LIST_LIMIT: usize = 40;
/// Every node must have acknowledged a write this long after faults have ended.
const SERVES_WITHIN: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Clients at work.
pub struct Traffic {
    scene: Arc<Scene>,
    shared: Arc<Shared>,
    clients: Vec<Task<Vec<Op>>>,
}

struct Shared {
    keys: Vec<Key>,
    prefix: Key,
    /// Writes acknowledged by each node.
    acknowledged: Vec<AtomicU64>,
    stop: AtomicBool,
}

impl Traffic {
    /// Starts clients that work on `keys`, which all begin with `prefix`.
    pub fn start(scene: &Arc<Scene>, keys: &[Key], prefix: &Key) -> Traffic {
        let shared = Arc::new(Shared {
            keys: keys.to_vec(),
            prefix: prefix.clone(),
            acknowledged: scene.nodes.iter().map(|_| AtomicU64::new(0)).collect(),
            stop: AtomicBool::new(false),
        });
        let client = |number: u32| {
            let impatient = number % IMPATIENT_EACH == IMPATIENT_EACH - 1;
            let timeout = if impatient { IMPATIENCE } else { scene.timeout };
            let client = Client {
                client: scene.client_with(timeout),
                scene: scene.clone(),
                shared: shared.clone(),
                known: BTreeMap::new(),
            };
            scene.runtime.spawn(client.work())
        };
        let clients = (0..CLIENTS).map(client).collect();
        Traffic { scene: scene.clone(), shared, clients }
    }

    /// Waits until every node has acknowledged a write that it had not when this was called.
    pub async fn until_every_node_serves(&self) -> anyhow::Result<()> {
        let read = || -> Vec<u64> {
            self.shared.acknowledged.iter().map(|one| one.load(Ordering::Relaxed)).collect()
        };
        let runtime = &self.scene.runtime;
        let (before, deadline) = (read(), runtime.now() + SERVES_WITHIN);
        loop {
            let idle = read().iter().zip(&before).position(|(now, before)| now == before);
            let Some(idle) = idle else { return Ok(()) };
            if runtime.now() >= deadline {
                bail!(
                    "node {} has acknowledged no write for {} s after every fault had ended",
                    self.scene.nodes[idle].0,
                    SERVES_WITHIN.as_secs()
                );
            }
            runtime.sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the load; every operation with what became of it.
    pub async fn stop(self) -> anyhow::Result<Vec<Op>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut ops = Vec::new();
        for client in self.clients {
            ops.extend(client.await?);
        }
        Ok(ops)
    }
}

struct Client {
    client: LabClient,
    scene: Arc<Scene>,
    shared: Arc<Shared>,
    /// What it last knew of each key: the conditions of its writes.
    known: BTreeMap<Key, Option<Version>>,
}

impl Client {
    async fn work(mut self) -> Vec<Op> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.ask_once().await;
            self.scene.runtime.sleep(PAUSE).await;
        }
        self.client.ops
    }

    async fn ask_once(&mut self) {
        let default = Ask::default_for(self.scene.mode);
        let node = self.client.random.below(self.scene.nodes.len());
        let key = self.draw_key();
        let dice = self.client.random.below(100);
        match dice {
            0..40 => {
                let told = self.client.put(node, &key).await;
                self.learn(node, key, told, true);
            }
            40..50 => {
                // Compare-and-set needs consensus, which leaderless mode does not have yet.
                let condition = match (self.scene.mode, self.known.get(&key)) {
                    (Mode::Leaderless, _) | (_, None) => None,
                    (Mode::Leader, Some(None)) => Some(Condition::Absent),
                    (Mode::Leader, Some(Some(version))) => Some(Condition::Holds(*version)),
                };
                let told = self.client.put_where(node, &key, condition).await;
                self.learn(node, key, told, true);
            }
            50..60 => {
                let told = self.client.delete(node, &key, None).await;
                let gone = Told { version: None, ..told };
                self.learn(node, key, gone, true);
            }
            60..88 => {
                let told = self.client.get(node, &key, default).await;
                self.learn(node, key, told, false);
            }
            88..94 => {
                self.client.get(node, &key, Ask::level(Level::Local)).await;
            }
            _ => {
                self.client.list(node, &self.shared.prefix, LIST_LIMIT, default).await;
            }
        }
    }

    fn draw_key(&mut self) -> Key {
        let (keys, random) = (&self.shared.keys, &mut self.client.random);
        let hot = HOT_KEYS.min(keys.len());
        let index = match random.below(COLD_EACH) {
            0 if keys.len() > hot => hot + random.below(keys.len() - hot),
            _ => random.below(hot),
        };
        keys[index].clone()
    }

    fn learn(&mut self, node: usize, key: Key, told: Told, write: bool) {
        if told.ended != Ended::Ok {
            return;
        }
        self.known.insert(key, told.version);
        if write {
            self.shared.acknowledged[node].fetch_add(1, Ordering::Relaxed);
        }
    }
}

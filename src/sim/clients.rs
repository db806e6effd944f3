//! Clients of a simulated world: they ask through every node, and note what they were told.
//!
//! A client has one request under way at a time. It holds on to one node most of the time, works in
//! bursts, remembers versions for its conditional writes, and sometimes leaves in the middle of a
//! request and never comes back: another client, with another id, takes its place. In leader mode
//! some give their writes keys, and send them again where they do not know the outcome (`retries`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Request};

mod retries;

use retries::Keys;

use super::batches;
use super::ending::LEAST_OPERATIONS;
use super::request::{Page, Patience, read_answer, request_of, send, send_nonsense};
use super::world::Shared;
use crate::api::cursor;
use crate::history::{Action, Ended, Op, ValueId};
use crate::storage::rows::Bound;
use crate::types::{Key, Level, Mode, NodeId, Version};

/// The prefix of every key that clients use.
pub(super) const PREFIX: &str = "k/";

/// Bytes of the longest key.
const MAX_KEY_BYTES: usize = 64;

/// The shares of what clients do beside reading, in percent; the rest are puts.
const DELETES: u64 = 8;
const LISTS: u64 = 6;
const CONDITIONAL: u64 = 14;
const NONSENSE: u64 = 1;

/// One put in so many is to hold for a while only.
const TTL_ONE_IN: usize = 9;
const TTLS_MS: [u64; 5] = [1, 40, 300, 1_500, 3_600_000];

/// In a history, whoever deletes what expires.
const EXPIRIES: u32 = u32::MAX;
const BATCHES: u64 = 4;

/// How many of a hundred local reads bound how stale they may be, and by how much, in milliseconds.
const BOUNDED: u64 = 60;
const STALENESS_BOUNDS_MS: [u64; 4] = [0, 10, 100, 1_000];

/// How many of a hundred lists go on where the client's last page ended, where it did not show all.
const LATER_PAGES: u64 = 70;

/// Operations of the largest batch.
const LARGEST_BATCH: u64 = 5;

/// How many of a hundred requests a client leaves in the middle, never to come back.
const LEAVES: u64 = 2;

/// A node's time for a request, in milliseconds, and how much longer a patient client waits.
const TIMEOUTS_MS: [u64; 4] = [100, 400, 1_000, 2_000];
const GRACE_MS: u64 = 500;

/// A world in which too little was asked goes on for so much longer at most.
const LONGER: Duration = Duration::from_secs(60);

/// One client of leader mode in so many writes under idempotency keys.
const KEYED_ONE_IN: u64 = 3;

/// How long a client's burst or rest lasts, in requests.
const SPELL: u64 = 12;

/// Every key of a world with `count` keys.
pub(super) fn keys(count: u64) -> Result<Vec<Key>, String> {
    let key = |number| Key::new(&format!("{PREFIX}{number:02}"), MAX_KEY_BYTES);
    (0..count).map(|number| key(number).map_err(|error| error.to_string())).collect()
}

/// Gives every client its id.
#[derive(Default)]
pub(super) struct Ids(AtomicU32);

impl Ids {
    pub fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// One seat at the table: a client, and whoever takes its place when it leaves.
pub(super) async fn run(shared: Shared, ids: Arc<Ids>, seat: u32, keys: Arc<Vec<Key>>) {
    let end = shared.runtime.now() + shared.plan.load;
    let goes_on = || {
        let now = shared.runtime.now();
        now < end || (now < end + LONGER && shared.operations() < LEAST_OPERATIONS)
    };
    while goes_on() {
        let mut client = Client::new(&shared, ids.next(), seat, keys.clone());
        while goes_on() && client.turn().await {}
    }
}

struct Client<'a> {
    shared: &'a Shared,
    id: u32,
    seq: u32,
    node: NodeId,
    keys: Arc<Vec<Key>>,
    /// The newest version the client saw of each key, for conditions.
    seen: BTreeMap<Key, Version>,
    /// Where the client's last list goes on.
    cursor: Option<String>,
    /// Requests left of this spell, and whether it is a burst.
    spell: (u64, bool),
    /// The idempotency keys that the client used, where it is one that does.
    retries: Option<Keys>,
}

/// A request that was decided on.
struct Turn {
    op: Op,
    body: Vec<u8>,
    w: Option<u16>,
    ttl_ms: Option<u64>,
    page: Page,
}

impl<'a> Client<'a> {
    fn new(shared: &'a Shared, id: u32, seat: u32, keys: Arc<Vec<Key>>) -> Client<'a> {
        let node = NodeId(1 + (seat % u32::from(shared.plan.nodes)) as u16);
        let (seen, cursor) = (BTreeMap::new(), None);
        // Leaderless mode has no keys, and its worlds draw nothing for them.
        let keyed =
            shared.plan.mode == Mode::Leader && shared.runtime.random_below(KEYED_ONE_IN) == 0;
        let retries = keyed.then(Keys::default);
        Client { shared, id, seq: 0, node, keys, seen, cursor, spell: (0, false), retries }
    }

    fn below(&self, bound: u64) -> u64 {
        self.shared.runtime.random_below(bound)
    }

    fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Pauses, and makes one request; false where the client left for ever.
    async fn turn(&mut self) -> bool {
        self.pause().await;
        let any = self.any_node();
        let node = if self.chance(self.shared.plan.sticky_percent) { self.node } else { any };
        if self.chance(NONSENSE) {
            if let Err(problem) = send_nonsense(self.shared, node).await {
                self.shared.broken("nonsense-accepted", problem);
            }
            self.shared.happened("client: nonsense");
            return true;
        }
        if self.return_to_a_key(node).await {
            return true;
        }
        let leaves = self.chance(LEAVES) && !self.shared.plan.gentle;
        if self.keys.len() > 1 && self.chance(BATCHES) {
            self.batch(node, leaves).await;
        } else {
            let turn = self.decide(node);
            let keyed = self.retries.is_some() && turn.op.action.is_write() && !leaves;
            let op = match keyed {
                true => self.ask_under_a_key(turn).await,
                false => self.ask(turn, leaves).await,
            };
            self.remember(&op);
            self.shared.record(op);
        }
        if leaves {
            self.shared.happened("client: leaves in the middle");
        }
        !leaves
    }

    fn any_node(&self) -> NodeId {
        NodeId(1 + self.below(u64::from(self.shared.nodes())) as u16)
    }

    async fn pause(&mut self) {
        if self.spell.0 == 0 {
            self.spell = (1 + self.below(SPELL), self.chance(50));
        }
        self.spell.0 -= 1;
        let mean_ms = self.shared.plan.pause.as_millis() as u64;
        // Bursts make up for the rests: the mean over both is the plan's.
        let longest_ms = if self.spell.1 { mean_ms / 8 + 2 } else { mean_ms * 4 };
        self.shared.runtime.sleep(Duration::from_millis(self.below(longest_ms))).await;
    }

    fn decide(&mut self, node: NodeId) -> Turn {
        let key = self.keys[self.below(self.keys.len() as u64) as usize].clone();
        let mode = self.shared.plan.mode;
        let choice = self.below(100);
        let mut max_staleness_ms = None;
        let (action, level, r) = if choice < self.shared.plan.read_percent {
            let (level, r) = self.read_level();
            if mode == Mode::Leader && level == Level::Local && self.chance(BOUNDED) {
                let bound = self.below(STALENESS_BOUNDS_MS.len() as u64) as usize;
                max_staleness_ms = Some(STALENESS_BOUNDS_MS[bound]);
            }
            (Action::Get, level, r)
        } else if choice < self.shared.plan.read_percent + LISTS {
            let (level, _) = self.read_level();
            (Action::List, level, None)
        } else if choice < self.shared.plan.read_percent + LISTS + DELETES {
            (Action::Delete, Level::default_for(mode), None)
        } else {
            (Action::Put, Level::default_for(mode), None)
        };
        let now_us = self.shared.stamp_us();
        let op = Op::begun(self.id, action, key, node.0, level, now_us);
        let mut turn = Turn {
            op: Op { r, max_staleness_ms, ..op },
            body: Vec::new(),
            w: None,
            ttl_ms: None,
            page: Page::default(),
        };
        match action {
            Action::List => self.prepare_list(&mut turn),
            Action::Put | Action::Delete => self.prepare_write(&mut turn),
            Action::Get => {}
        }
        turn
    }

    /// Mostly the mode's default; weaker ones now and then.
    fn read_level(&self) -> (Level, Option<u16>) {
        let choice = self.below(100);
        match self.shared.plan.mode {
            Mode::Leader if choice < 55 => (Level::Linearizable, None),
            Mode::Leader if choice < 60 => (Level::Quorum, None),
            Mode::Leader if choice < 82 => (Level::Lease, None),
            Mode::Leaderless if choice < 70 => (Level::Quorum, None),
            Mode::Leaderless if choice < 78 => (Level::Quorum, Some(self.shared.plan.replicas)),
            Mode::Leaderless if choice < 86 => (Level::Quorum, Some(1)),
            Mode::Leader | Mode::Leaderless => (Level::Local, None),
        }
    }

    fn prepare_list(&mut self, turn: &mut Turn) {
        if let Ok(prefix) = Key::new(PREFIX, MAX_KEY_BYTES) {
            turn.op.key = prefix;
        }
        turn.page.limit = 1 + self.below(self.keys.len() as u64 + 2) as usize;
        let goes_on = self.chance(LATER_PAGES);
        turn.page.cursor = self.cursor.take().filter(|_| goes_on);
        let bound = turn.page.cursor.as_deref().and_then(cursor::decode);
        if let Some(Bound::After(key)) = bound {
            turn.op.after = Key::new(&key, MAX_KEY_BYTES).ok();
            self.shared.happened("client: later page of a list");
        }
    }

    /// Gives a put a value of its own.
    fn fill(&mut self, op: &mut Op, body: &mut Vec<u8>) {
        if op.action == Action::Put {
            let value = ValueId { client: self.id, seq: self.seq };
            self.seq += 1;
            value.fill(self.below(self.shared.plan.value_bytes as u64) as usize, body);
            op.value = Some(crate::history::Value::Named(value));
        }
    }

    fn prepare_write(&mut self, turn: &mut Turn) {
        self.fill(&mut turn.op, &mut turn.body);
        turn.ttl_ms = self.ttl_ms(&turn.op);
        match self.shared.plan.mode {
            Mode::Leader if self.chance(CONDITIONAL) => match self.seen.get(&turn.op.key) {
                Some(version) if self.chance(80) => turn.op.if_match = Some(*version),
                _ => turn.op.if_absent = turn.op.action == Action::Put,
            },
            Mode::Leaderless if self.chance(5) => turn.w = Some(self.shared.plan.replicas),
            Mode::Leader | Mode::Leaderless => {}
        }
    }

    /// Sends the request, and reads what came back.
    async fn ask(&mut self, turn: Turn, leaves: bool) -> Op {
        let Turn { mut op, body, w, ttl_ms, page } = turn;
        let (timeout, patience) = self.patience(leaves);
        match request_of(&op, body, w, timeout, &page) {
            Ok(mut request) => {
                expiring(&mut request, ttl_ms);
                let answer = send(self.shared, NodeId(op.node), request, patience).await;
                match read_answer(&mut op, &answer) {
                    Ok(cursor) => self.cursor = cursor.or(self.cursor.take()),
                    Err(problem) => self.shared.broken("contradictory-answer", problem),
                }
            }
            Err(problem) => self.shared.broken("no-request", problem),
        }
        op.answered_us = self.shared.stamp_us();
        self.note_expiry(&op, ttl_ms);
        op
    }

    /// Notes what a put with a time to live is followed by.
    fn note_expiry(&self, put: &Op, ttl_ms: Option<u64>) {
        if ttl_ms.is_some() && put.ended != Ended::Failed {
            self.shared.record(expiry_of(put));
            self.shared.happened("client: a put with a time to live");
        }
    }

    /// How long a put is to hold, where it is one of the few that name it. Drawn from nothing, so that
    /// worlds go on as they did before there were any.
    fn ttl_ms(&self, op: &Op) -> Option<u64> {
        let number = (self.seq.wrapping_mul(31) + self.id) as usize;
        let is_one = op.action == Action::Put && number.is_multiple_of(TTL_ONE_IN);
        is_one.then(|| TTLS_MS[number / TTL_ONE_IN % TTLS_MS.len()])
    }

    /// The node's time for a request, and how long the client waits for it.
    fn patience(&self, leaves: bool) -> (Duration, Patience) {
        let timeout_ms = if self.shared.plan.gentle {
            TIMEOUTS_MS[TIMEOUTS_MS.len() - 1]
        } else {
            TIMEOUTS_MS[self.below(TIMEOUTS_MS.len() as u64) as usize]
        };
        let wait_ms =
            if leaves { 1 + self.below(timeout_ms.min(60)) } else { timeout_ms + GRACE_MS };
        let patience = Patience { wait: Duration::from_millis(wait_ms), hangs_up: leaves };
        (Duration::from_millis(timeout_ms), patience)
    }

    /// Asks for several operations of different keys in one request.
    async fn batch(&mut self, node: NodeId, leaves: bool) {
        let count = 2 + self.below(LARGEST_BATCH.min(self.keys.len() as u64) - 1);
        let first = self.below(self.keys.len() as u64);
        let (mut turns, mut ttls_ms) = (Vec::new(), Vec::new());
        for number in first..first + count {
            let key = self.keys[number as usize % self.keys.len()].clone();
            let action = match self.below(100) {
                choice if choice < self.shared.plan.read_percent => Action::Get,
                choice if choice < self.shared.plan.read_percent + DELETES => Action::Delete,
                _ => Action::Put,
            };
            let level = Level::default_for(self.shared.plan.mode);
            let mut op = Op::begun(self.id, action, key, node.0, level, self.shared.stamp_us());
            let mut body = Vec::new();
            self.fill(&mut op, &mut body);
            ttls_ms.push(self.ttl_ms(&op));
            turns.push((op, body));
        }
        let (timeout, patience) = self.patience(leaves);
        match batches::request_of(&turns, &ttls_ms, timeout) {
            Ok(request) => {
                let answer = send(self.shared, node, request, patience).await;
                if let Err(problem) = batches::read_answers(&mut turns, &answer) {
                    self.shared.broken("contradictory-answer", problem);
                }
            }
            Err(problem) => self.shared.broken("no-request", problem),
        }
        self.shared.happened("client: batch");
        for ((mut op, _), ttl_ms) in turns.into_iter().zip(ttls_ms) {
            op.answered_us = self.shared.stamp_us();
            self.note_expiry(&op, ttl_ms);
            self.remember(&op);
            self.shared.record(op);
        }
    }

    fn remember(&mut self, op: &Op) {
        match (op.ended, op.version) {
            (Ended::Ok, Some(version)) if op.action == Action::Delete => {
                self.seen.remove(&op.key);
                let _ = version;
            }
            (_, Some(version)) => {
                self.seen.insert(op.key.clone(), version);
            }
            (_, None) => {}
        }
    }
}

/// Names how long the put of a request is to hold.
fn expiring(request: &mut Request<Body>, ttl_ms: Option<u64>) {
    let value = ttl_ms.and_then(|ttl_ms| HeaderValue::try_from(format!("{ttl_ms}ms")).ok());
    if let Some(value) = value {
        request.headers_mut().insert("quorate-ttl", value);
    }
}

/// What a put with a time to live is followed by, as a history knows it: a delete that may happen at any
/// time, of the version that was put alone where it is known. Clocks may run wild, so nothing is said
/// about when.
fn expiry_of(put: &Op) -> Op {
    let delete =
        Op::begun(EXPIRIES, Action::Delete, put.key.clone(), put.node, put.level, put.invoked_us);
    Op { if_match: put.version, answered_us: put.answered_us, ..delete }
}

/// Reads one key through a node, patiently, for the checks at the end.
pub(super) async fn read_back(
    shared: &Shared,
    client: u32,
    node: NodeId,
    key: &Key,
    level: Level,
) -> Op {
    let now_us = shared.stamp_us();
    let mut op = Op::begun(client, Action::Get, key.clone(), node.0, level, now_us);
    op.readback = true;
    ask_patiently(shared, op, Vec::new()).await
}

/// Writes one key through a node, for the checks at the end.
pub(super) async fn write_at_the_end(
    shared: &Shared,
    client: u32,
    seq: u32,
    node: NodeId,
    key: &Key,
) -> Op {
    let level = Level::default_for(shared.plan.mode);
    let mut op = Op::begun(client, Action::Put, key.clone(), node.0, level, shared.stamp_us());
    let (value, mut body) = (ValueId { client, seq }, Vec::new());
    value.fill(0, &mut body);
    op.value = Some(crate::history::Value::Named(value));
    ask_patiently(shared, op, body).await
}

async fn ask_patiently(shared: &Shared, mut op: Op, body: Vec<u8>) -> Op {
    let timeout = Duration::from_millis(1_000);
    let patience = Patience { wait: timeout * 2, hangs_up: true };
    match request_of(&op, body, None, timeout, &Page::default()) {
        Ok(request) => {
            let answer = send(shared, NodeId(op.node), request, patience).await;
            if let Err(problem) = read_answer(&mut op, &answer) {
                shared.broken("contradictory-answer", problem);
            }
        }
        Err(problem) => shared.broken("no-request", problem),
    }
    op.answered_us = shared.stamp_us();
    op
}

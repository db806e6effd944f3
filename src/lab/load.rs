//! Clients that ask, remember what they were told, and say what it means.
//!
//! A [`LabClient`] has one request under way at a time and records every one of them. `lab::answers`
//! decides how an answer is read as done, definitely failed or unknown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::answers::{write_ended, write_failed};
use super::http::{Answer, Connection};
use crate::history::{Action, Ended, Item, Op, Served, Value};
use crate::history::{Seeded, ValueId};
use crate::runtime::{Instant, Runtime};
use crate::types::{Key, Level, Mode, Version};

/// A key in an answered list may be this long, in bytes.
const MAX_LISTED_KEY_BYTES: usize = 4 << 10;
/// How often a read-back that got no answer is tried again, and the pause before.
const READBACK_TRIES: usize = 5;
const READBACK_PAUSE: Duration = Duration::from_millis(300);
/// How many clients read back, all nodes taken together.
const READBACK_CLIENTS: usize = 6;

/// What all clients of one experiment share.
pub struct Scene {
    pub runtime: Runtime,
    pub mode: Mode,
    /// Node ids and where their clients connect.
    pub nodes: Vec<(u16, SocketAddr)>,
    /// A request that is not answered within this time is given up.
    pub timeout: Duration,
    pub value_bytes: usize,
    pub seed: u64,
    start: Instant,
    next_client: AtomicU32,
}

impl Scene {
    /// A scene whose clock starts now.
    pub fn new(
        runtime: &Runtime,
        mode: Mode,
        nodes: Vec<(u16, SocketAddr)>,
        timeout: Duration,
        value_bytes: usize,
        seed: u64,
    ) -> Arc<Scene> {
        Arc::new(Scene {
            runtime: runtime.clone(),
            mode,
            nodes,
            timeout,
            value_bytes,
            seed,
            start: runtime.now(),
            next_client: AtomicU32::new(1),
        })
    }

    /// Microseconds since the scene began: the clock of its history.
    pub fn now_us(&self) -> u64 {
        self.runtime.now().duration_since(self.start).as_micros() as u64
    }

    /// Waits until `instant_us` on the scene's clock.
    pub async fn sleep_until_us(&self, instant_us: u64) {
        self.runtime.sleep_until(self.start + Duration::from_micros(instant_us)).await;
    }

    /// A new client, connected to nothing yet.
    pub fn client(self: &Arc<Scene>) -> LabClient {
        self.client_with(self.timeout)
    }

    /// A new client with a patience of its own.
    pub fn client_with(self: &Arc<Scene>, timeout: Duration) -> LabClient {
        let connect = |(_, address): &(u16, SocketAddr)| {
            Connection::new(self.runtime.clone(), *address, timeout)
        };
        let id = self.next_client.fetch_add(1, Ordering::Relaxed);
        LabClient {
            scene: self.clone(),
            id,
            seq: 0,
            random: Seeded::derived(self.seed, "client", u64::from(id)),
            connections: self.nodes.iter().map(connect).collect(),
            ops: Vec::new(),
            body: Vec::new(),
            scratch: Vec::new(),
            target: String::new(),
        }
    }
}

/// At which level to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub level: Level,
    pub r: Option<u16>,
}

impl Ask {
    /// The level of a request that names none.
    pub fn default_for(mode: Mode) -> Ask {
        Ask { level: Level::default_for(mode), r: None }
    }

    /// The level `level`, as it is.
    pub fn level(level: Level) -> Ask {
        Ask { level, r: None }
    }
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key holds this version: `If-Match`.
    Holds(Version),
    /// The key holds nothing: `If-None-Match: *`.
    Absent,
}

/// What a client makes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub ended: Ended,
    pub version: Option<Version>,
    /// The connection failed: a client that can choose goes to another node.
    pub lost_connection: bool,
    pub invoked_us: u64,
    pub answered_us: u64,
}

/// One client.
pub struct LabClient {
    scene: Arc<Scene>,
    id: u32,
    seq: u32,
    /// The client's own choices.
    pub random: Seeded,
    connections: Vec<Connection>,
    /// What it asked and was told so far.
    pub ops: Vec<Op>,
    body: Vec<u8>,
    scratch: Vec<u8>,
    target: String,
}

impl LabClient {
    /// Writes a new value of this client's to `key` through the node at `index`.
    pub async fn put(&mut self, index: usize, key: &Key) -> Told {
        self.put_where(index, key, None).await
    }

    /// The same, only where `condition` holds.
    pub async fn put_where(
        &mut self,
        index: usize,
        key: &Key,
        condition: Option<Condition>,
    ) -> Told {
        let id = ValueId { client: self.id, seq: self.seq };
        self.seq += 1;
        id.fill(self.scene.value_bytes, &mut self.body);
        let mut op = self.begin(Action::Put, index, key, Ask::default_for(self.scene.mode));
        op.value = Some(Value::Named(id));
        self.write(op, index, "PUT", condition).await
    }

    /// Deletes `key` through the node at `index`, only where `condition` holds.
    pub async fn delete(&mut self, index: usize, key: &Key, condition: Option<Condition>) -> Told {
        self.body.clear();
        let op = self.begin(Action::Delete, index, key, Ask::default_for(self.scene.mode));
        self.write(op, index, "DELETE", condition).await
    }

    async fn write(
        &mut self,
        mut op: Op,
        index: usize,
        method: &str,
        condition: Option<Condition>,
    ) -> Told {
        set_target(&mut self.target, &op.key, None);
        let headers = condition.map(header_of).unwrap_or_default();
        match condition {
            Some(Condition::Holds(version)) => op.if_match = Some(version),
            Some(Condition::Absent) => op.if_absent = true,
            None => {}
        }
        let connection = &mut self.connections[index];
        let ended = connection.call_with(method, &self.target, &headers, &self.body).await;
        let lost_connection = ended.is_err();
        match ended {
            Ok(answer) => {
                note_answer(&mut op, &answer);
                op.ended = write_ended(answer.status, answer.body);
            }
            Err(failure) => op.ended = write_failed(&failure),
        }
        self.told(op, lost_connection)
    }

    /// Reads `key` through the node at `index`.
    pub async fn get(&mut self, index: usize, key: &Key, ask: Ask) -> Told {
        let named = (ask != Ask::default_for(self.scene.mode)).then_some(ask);
        set_target(&mut self.target, key, named);
        let mut op = self.begin(Action::Get, index, key, ask);
        let ended = self.connections[index].call("GET", &self.target, b"").await;
        let lost_connection = ended.is_err();
        if let Ok(answer) = ended {
            note_answer(&mut op, &answer);
            match answer.status {
                // A value without a readable version cannot be checked: not an answer.
                200 if op.version.is_some() => {
                    op.ended = Ended::Ok;
                    op.value = Some(Value::of(answer.body, &mut self.scratch));
                }
                404 => (op.ended, op.version) = (Ended::Ok, None),
                _ => {}
            }
        }
        self.told(op, lost_connection)
    }

    /// Reads a page of at most `limit` keys that begin with `prefix`, with their values.
    pub async fn list(&mut self, index: usize, prefix: &Key, limit: usize, ask: Ask) -> Told {
        let default = ask == Ask::default_for(self.scene.mode);
        let level = if default { String::new() } else { format!("&consistency={}", ask.level) };
        let target = format!("/v1/kv?prefix={prefix}&limit={limit}&values=true{level}");
        let mut op = self.begin(Action::List, index, prefix, ask);
        let ended = self.connections[index].call("GET", &target, b"").await;
        let lost_connection = ended.is_err();
        if let Ok(answer) = ended {
            note_answer(&mut op, &answer);
            // A page that cannot be read cannot be checked: not an answer.
            if let Some(page) = Page::read(&answer).filter(|_| answer.status == 200) {
                op.more = page.next_cursor.is_some();
                op.items = page.items(&mut self.scratch);
                op.ended = if op.items.is_some() { Ended::Ok } else { Ended::Failed };
            }
        }
        self.told(op, lost_connection)
    }

    fn begin(&self, action: Action, index: usize, key: &Key, ask: Ask) -> Op {
        let node = self.scene.nodes[index].0;
        let op = Op::begun(self.id, action, key.clone(), node, ask.level, self.scene.now_us());
        Op { r: ask.r, ..op }
    }

    fn told(&mut self, mut op: Op, lost_connection: bool) -> Told {
        op.answered_us = self.scene.now_us();
        let told = Told {
            ended: op.ended,
            version: op.version,
            lost_connection,
            invoked_us: op.invoked_us,
            answered_us: op.answered_us,
        };
        self.ops.push(op);
        told
    }
}

/// What an answered list says, as far as histories keep it.
#[derive(serde::Deserialize)]
struct Page {
    items: Vec<PageItem>,
    next_cursor: Option<String>,
}

#[derive(serde::Deserialize)]
struct PageItem {
    key: String,
    etag: String,
    value: Option<String>,
    value_base64: Option<String>,
}

impl Page {
    fn read(answer: &Answer) -> Option<Page> {
        serde_json::from_slice(answer.body).ok()
    }

    fn items(self, scratch: &mut Vec<u8>) -> Option<Vec<Item>> {
        let mut item = |item: PageItem| {
            // The values of loads are text: another one came from elsewhere, and shows as such.
            let value = item.value.or(item.value_base64)?;
            Some(Item {
                key: Key::new(&item.key, MAX_LISTED_KEY_BYTES).ok()?,
                version: item.etag.trim_matches('"').parse().ok()?,
                value: Some(Value::of(value.as_bytes(), scratch)),
            })
        };
        self.items.into_iter().map(&mut item).collect()
    }
}

fn header_of(condition: Condition) -> String {
    match condition {
        Condition::Holds(version) => format!("If-Match: \"{version}\"\r\n"),
        Condition::Absent => "If-None-Match: *\r\n".to_owned(),
    }
}

fn set_target(target: &mut String, key: &Key, ask: Option<Ask>) {
    use std::fmt::Write as _;
    target.clear();
    // Keys of loads need no percent-encoding; writing to a string cannot fail.
    let _ = write!(target, "/v1/kv/{key}");
    match ask {
        None => {}
        Some(Ask { r: Some(r), level }) => {
            let _ = write!(target, "?consistency={level}&r={r}");
        }
        Some(Ask { r: None, level }) => {
            let _ = write!(target, "?consistency={level}");
        }
    }
}

fn note_answer(op: &mut Op, answer: &Answer) {
    op.status = answer.status;
    let version = |name| answer.header(name).and_then(|text| text.trim_matches('"').parse().ok());
    op.version = version("etag");
    op.superseded = version("quorate-superseded");
    op.served = answer.header("quorate-consistency").and_then(|text| text.parse::<Served>().ok());
}

/// Reads every key through every node at the mode's default level, once everything has settled.
pub async fn read_back(scene: &Arc<Scene>, keys: &[Key]) -> Vec<Op> {
    read_back_at(scene, keys, Ask::default_for(scene.mode)).await
}

/// The same at a level of choice.
pub async fn read_back_at(scene: &Arc<Scene>, keys: &[Key], ask: Ask) -> Vec<Op> {
    let nodes = scene.nodes.len();
    let work: Arc<Vec<(usize, Key)>> = Arc::new(
        keys.iter().flat_map(|key| (0..nodes).map(move |node| (node, key.clone()))).collect(),
    );
    let reader = |first: usize| {
        let (mut client, work, scene) = (scene.client(), work.clone(), scene.clone());
        scene.runtime.clone().spawn(async move {
            for (node, key) in work.iter().skip(first).step_by(READBACK_CLIENTS) {
                for _ in 0..READBACK_TRIES {
                    let told = client.get(*node, key, ask).await;
                    if told.ended == Ended::Ok {
                        break;
                    }
                    scene.runtime.sleep(READBACK_PAUSE).await;
                }
            }
            client.ops
        })
    };
    let readers: Vec<_> = (0..READBACK_CLIENTS).map(reader).collect();
    let mut ops = Vec::new();
    for reader in readers {
        ops.extend(reader.await.unwrap_or_default());
    }
    ops.iter_mut().for_each(|op| op.readback = true);
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_kept_with_versions_and_names_and_one_that_cannot_be_read_is_no_answer() {
        let mut value = Vec::new();
        ValueId { client: 3, seq: 4 }.fill(40, &mut value);
        let value = String::from_utf8(value).expect("text");
        let page = |text: &str| serde_json::from_str::<Page>(text).expect("a page");
        let text = format!(
            r#"{{"items":[{{"key":"a","etag":"\"0193e5f2a1b30000-1\"","value":"{value}"}},
                {{"key":"b","etag":"\"0193e5f2a1b30001-2\"","value_base64":"/w=="}}],
                "next_cursor":null}}"#
        );
        let items = page(&text).items(&mut Vec::new()).expect("readable");
        assert_eq!(items[0].value, Some(Value::Named(ValueId { client: 3, seq: 4 })));
        assert_eq!(items[1].value, Some(Value::Foreign("/w==".to_owned())));
        assert!(items[0].version < items[1].version);
        for broken in [r#"{"key":"a","etag":"old","value":"1"}"#, r#"{"key":"a","etag":"1"}"#] {
            let text = format!(r#"{{"items":[{broken}],"next_cursor":"x"}}"#);
            assert_eq!(page(&text).items(&mut Vec::new()), None, "{broken}");
        }
    }

    #[test]
    fn the_level_is_named_only_where_it_is_not_the_default() {
        let key = Key::new("load-000001", 64).expect("a key");
        let target = |ask| {
            let mut target = "old".to_owned();
            set_target(&mut target, &key, ask);
            target
        };
        assert_eq!(target(None), "/v1/kv/load-000001");
        assert_eq!(target(Some(Ask::level(Level::Local))), "/v1/kv/load-000001?consistency=local");
        assert_eq!(
            target(Some(Ask { level: Level::Quorum, r: Some(1) })),
            "/v1/kv/load-000001?consistency=quorum&r=1"
        );
    }
}

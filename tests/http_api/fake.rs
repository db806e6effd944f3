//! A replicator in memory: right by being simple, and failing as it is told to.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate::error::{ReadError, Refusal, WriteError};
use quorate::peer::Inbound;
use quorate::replication::explain::{self, Explanation, Holding, NextRead, ReplicaView};
use quorate::replication::fold::{RowSource, Rows, fold};
use quorate::replication::repair::RepairStatus;
use quorate::replication::{
    ClusterStatus, Cost, List, ListAnswer, Member, ReadAnswer, Replicator, RequestOptions,
    Standing, WriteAnswer,
};
use quorate::storage::encoding::encode;
use quorate::storage::rows::Bound;
use quorate::types::{ClusterId, EffectiveLevel, Epoch, Key, Mode, NodeId, Record, Version, Write};
use tokio::sync::Semaphore;

/// The time of the first write, in milliseconds since 1970: 14 November 2023, 22:13:20.
pub const FIRST_WRITE_MS: u64 = 1_700_000_000_000;

pub struct Fake {
    rows: Mutex<BTreeMap<Key, Record>>,
    writes: AtomicU64,
    pub mode: Mode,
    pub level: Mutex<EffectiveLevel>,
    pub fail_reads: Mutex<Option<ReadError>>,
    pub fail_writes: Mutex<Option<WriteError>>,
    pub not_ready: Mutex<Option<String>>,
    /// How far a repair is, where there is such a thing.
    pub repair: Mutex<Option<RepairStatus>>,
    pub superseded_by: Mutex<Option<Version>>,
    /// Whether requests wait for [`Fake::gate`].
    pub is_held: AtomicBool,
    pub gate: Semaphore,
    /// The options of every request that reached this far.
    pub seen: Mutex<Vec<RequestOptions>>,
    /// Every write that reached this far.
    pub seen_writes: Mutex<Vec<Write>>,
}

impl Fake {
    pub fn new(mode: Mode) -> Fake {
        let level = match mode {
            Mode::Leader => EffectiveLevel::Linearizable,
            Mode::Leaderless => EffectiveLevel::Quorum { r: 2, w: 2, n: 3 },
        };
        Fake {
            rows: Mutex::default(),
            writes: AtomicU64::new(0),
            mode,
            level: Mutex::new(level),
            fail_reads: Mutex::default(),
            fail_writes: Mutex::default(),
            not_ready: Mutex::default(),
            repair: Mutex::default(),
            superseded_by: Mutex::default(),
            is_held: AtomicBool::new(false),
            gate: Semaphore::new(0),
            seen: Mutex::default(),
            seen_writes: Mutex::default(),
        }
    }

    pub fn last_options(&self) -> RequestOptions {
        self.seen.lock().unwrap().last().expect("a request came through").clone()
    }

    pub fn last_write(&self) -> Write {
        self.seen_writes.lock().unwrap().last().expect("a write came through").clone()
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    async fn arrive(&self, options: RequestOptions) {
        self.seen.lock().unwrap().push(options);
        if self.is_held.load(Ordering::SeqCst) {
            self.gate.acquire().await.expect("an open gate").forget();
        }
    }

    fn apply(&self, write: Write) -> Result<Version, WriteError> {
        let mut rows = self.rows.lock().unwrap();
        let current = rows.get(&write.key).filter(|record| !record.is_tombstone());
        let current = current.map(|record| record.version);
        if write.condition.is_some_and(|condition| !condition.holds(current)) {
            return Err(WriteError::PreconditionFailed { current });
        }
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        let version = Version::new((FIRST_WRITE_MS + number * 1_000) << 16, NodeId(2));
        rows.insert(write.key, write.change.into_record(version));
        Ok(version)
    }
}

const COST: Cost = Cost { messages: 4, acks: 2 };

impl Replicator for Fake {
    fn read(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ReadAnswer, ReadError>> {
        async move {
            self.arrive(options).await;
            if let Some(error) = self.fail_reads.lock().unwrap().clone() {
                return Err(error);
            }
            let record = self.rows.lock().unwrap().get(&key).cloned();
            Ok(ReadAnswer { record, level: *self.level.lock().unwrap(), cost: COST })
        }
        .boxed()
    }

    fn write(
        &self,
        write: Write,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<WriteAnswer, WriteError>> {
        async move {
            self.seen_writes.lock().unwrap().push(write.clone());
            self.arrive(options).await;
            if let Some(error) = self.fail_writes.lock().unwrap().clone() {
                return Err(error);
            }
            let version = self.apply(write)?;
            let superseded_by = *self.superseded_by.lock().unwrap();
            let level = *self.level.lock().unwrap();
            Ok(WriteAnswer { version, superseded_by, level, cost: COST })
        }
        .boxed()
    }

    fn list(
        &self,
        list: List,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ListAnswer, ReadError>> {
        async move {
            self.arrive(options).await;
            if let Some(error) = self.fail_reads.lock().unwrap().clone() {
                return Err(error);
            }
            let rows = self.rows.lock().unwrap().clone();
            let mut source = Source { rows, prefix: list.prefix.clone() };
            let Ok(page) = fold(&mut source, &list, 0).await;
            let level = *self.level.lock().unwrap();
            let (items, prefixes, next) = (page.items, page.prefixes, page.next);
            Ok(ListAnswer { items, prefixes, next, level, cost: COST })
        }
        .boxed()
    }

    fn explain(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<Explanation, ReadError>> {
        async move {
            self.arrive(options).await;
            let record = self.rows.lock().unwrap().get(&key).cloned();
            let version = record.as_ref().map(|record| record.version);
            let head = record.map(|record| explain::head(&encode(&record)).expect("a record"));
            let holds = |node, head| ReplicaView {
                node: NodeId(node),
                holding: Ok(Holding { head, applied_index: Some(u64::from(20 - node)) }),
            };
            let down = ReplicaView { node: NodeId(3), holding: Err("it is down".to_owned()) };
            let level = self.level.lock().unwrap().to_string();
            let read = NextRead { level, may_return: vec![version, None], error: None };
            let replicas = vec![holds(1, head), holds(2, None), down];
            let now_ms = FIRST_WRITE_MS;
            Ok(Explanation { partition: key.partition(), replicas, reads: vec![read], now_ms })
        }
        .boxed()
    }

    fn status(&self) -> ClusterStatus {
        let member = |id: u16| Member {
            id: NodeId(id),
            peer_address: format!("127.0.0.1:800{id}"),
            client_address: (id < 3).then(|| format!("127.0.0.1:700{id}")),
            role: "voter",
            votes: true,
            standing: if id < 3 { Standing::Normal } else { Standing::Unreachable },
        };
        ClusterStatus {
            cluster: Some(ClusterId(0xabc)),
            mode: self.mode,
            epoch: Epoch(1),
            node: NodeId(2),
            leader: Some(NodeId(1)),
            fixed_leader: None,
            term: 3,
            members: (1..=3).map(member).collect(),
            removed: vec![NodeId(9)],
            applied_index: 17,
        }
    }

    fn start_repair(&self) -> Result<RepairStatus, Refusal> {
        let status = self.repair.lock().unwrap().clone();
        let (what, mode) = ("repairing".to_owned(), self.mode);
        status.ok_or(Refusal::NotImplemented { what, mode })
    }

    fn ready(&self) -> Result<(), String> {
        self.not_ready.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn handle(&self, _inbound: Inbound) {}

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

struct Source {
    rows: BTreeMap<Key, Record>,
    prefix: String,
}

impl RowSource for Source {
    type Error = std::convert::Infallible;

    async fn step(&mut self, from: &Bound, limit: usize) -> Result<Rows, Self::Error> {
        let follows = |key: &str| match from {
            Bound::Start => true,
            Bound::After(after) => key > after.as_str(),
            Bound::AfterPrefix(prefix) => key > prefix.as_str() && !key.starts_with(prefix),
        };
        let wanted = |key: &Key| key.as_str().starts_with(&self.prefix) && follows(key.as_str());
        let found = self.rows.iter().filter(|(key, _)| wanted(key)).take(limit);
        let rows = found.map(|(key, record)| (key.clone(), record.clone())).collect();
        Ok(Rows::up_to(limit, rows))
    }
}

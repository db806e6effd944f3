//! Coordinating a list: a page of every node's rows, merged.
//!
//! **Guarantees.** A list at `quorum` shows of every key what a quorum read of it would: R replicas
//! of every partition are heard, and a key on which they do not agree is settled as a read does.
//!
//! A `local` list shows what some replica of each partition holds: this node's own where it holds
//! all of them.
//!
//! **Does not guarantee** one moment for all keys of a page.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};

use super::Core;
use super::coordinator_read::{damaged, decoded};
use super::coordinator_write::EPOCH_PAUSE;
use super::gather::{Arrival, Gathering};
use super::messages::{self, ListPage, ListRequest};
use super::pages::{self, MergedKey, MergedPage};
use super::quorums::{self, Quorums, ReadPlan};
use super::settle::{Failed, Failures};
use super::view::View;
use crate::error::{ReadError, Refusal};
use crate::peer::{Lane, PeerError, Request, Service};
use crate::replication::fold::{self, RowSource, Rows};
use crate::replication::{Cost, List, ListAnswer, RequestOptions};
use crate::runtime::Instant;
use crate::storage::rows::{self, Bound};
use crate::storage::table::{Table, TableError};
use crate::types::{EffectiveLevel, Epoch, Key, NodeId, PARTITIONS, Record};

/// Rows on one page of a replica, at most.
const MAX_PAGE_ROWS: usize = 1_024;

/// About how many bytes of rows one page of a replica holds; a quarter of what a message may.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// How many rows are read from the table before their weight is known.
const FIRST_READ_ROWS: usize = 32;

/// Keys of one page that are settled at once.
const MAX_SETTLING: usize = 64;

/// The rows of every node, merged, for one list.
struct MergedRows<'a> {
    core: &'a Arc<Core>,
    prefix: &'a str,
    plan: ReadPlan,
    deadline: Instant,
    cost: Cost,
}

impl Core {
    pub(super) async fn list(
        self: &Arc<Core>,
        list: List,
        options: RequestOptions,
    ) -> Result<ListAnswer, ReadError> {
        self.check_running()?;
        let usual = self.view().usual();
        let plan = quorums::for_read(usual, self.settings.read_repair, &options)?;
        let mut source = MergedRows {
            core: self,
            prefix: &list.prefix,
            plan,
            deadline: options.deadline,
            cost: Cost::default(),
        };
        let page = fold::fold(&mut source, &list, self.expiry_now_ms()).await?;
        let level = match plan {
            ReadPlan::Quorum(quorums) => quorums.level(),
            ReadPlan::Local => EffectiveLevel::Local,
        };
        let cost = source.cost;
        let fold::Page { items, prefixes, next } = page;
        Ok(ListAnswer { items, prefixes, next, level, cost })
    }

    /// A page of this node's own rows, bounded in rows and in bytes.
    pub(super) async fn own_page(&self, request: ListRequest) -> Result<ListPage, TableError> {
        let (table, reached) = (self.table.clone(), self.horizons.reached());
        self.runtime.blocking(move || read_page(&*table, &request, &reached)).await
    }

    fn ask_for_page(
        &self,
        request: &ListRequest,
        epoch: Epoch,
        gathering: &Gathering<ListPage>,
        node: NodeId,
        deadline: Instant,
    ) {
        let slot = gathering.slot(node);
        let call = self.transport.call(Request {
            to: node,
            lane: Lane::Bulk,
            service: Service::ReplicaList,
            epoch: Some(epoch),
            deadline,
            body: messages::encode_list(request),
        });
        self.runtime.spawn(async move {
            let page = call.await.and_then(|body| {
                messages::decode_page(&body)
                    .map_err(|error| PeerError::NoAnswer { to: node, reason: error.to_string() })
            });
            slot.fill(page);
        });
    }
}

impl RowSource for MergedRows<'_> {
    type Error = ReadError;

    async fn step(&mut self, from: &Bound, limit: usize) -> Result<Rows, ReadError> {
        let limit = limit.clamp(1, MAX_PAGE_ROWS) as u32;
        let request = ListRequest { prefix: self.prefix.to_owned(), from: from.clone(), limit };
        loop {
            let view = self.core.view();
            let rows = match self.plan {
                ReadPlan::Local if view.reads_all_from(self.core.node) => {
                    self.own_rows(&request).await
                }
                ReadPlan::Local => self.any_rows(&view, &request).await,
                ReadPlan::Quorum(quorums) => self.quorum_rows(&view, &request, quorums).await,
            };
            let ask_again_at = self.core.runtime.now() + EPOCH_PAUSE;
            match rows {
                // The layout changes: what it was asked under stands no more.
                Err(failed) if failed.other_epoch && ask_again_at < self.deadline => {
                    self.core.runtime.sleep_until(ask_again_at).await;
                }
                rows => return rows.map_err(|failed| failed.refusal.into()),
            }
        }
    }
}

impl MergedRows<'_> {
    async fn own_rows(&mut self, request: &ListRequest) -> Result<Rows, Failed> {
        self.cost.acks = 1;
        let page = self.core.own_page(request.clone()).await.map_err(storage)?;
        let more = match (page.end, page.rows.last()) {
            (false, Some((key, _))) => Some(Bound::After(key.as_str().to_owned())),
            _ => None,
        };
        Ok(Rows { rows: decode_rows(page.rows)?, more })
    }

    /// Rows of some replica of every partition, where this node does not hold them all.
    async fn any_rows(&mut self, view: &View, request: &ListRequest) -> Result<Rows, Failed> {
        let pages = self.ask_nodes(view, request, |_| 1).await?;
        self.cost.acks = 1;
        Ok(rows_of(merge(view, pages)?)?)
    }

    async fn quorum_rows(
        &mut self,
        view: &View,
        request: &ListRequest,
        quorums: Quorums,
    ) -> Result<Rows, Failed> {
        let needed = |set: usize| quorums.of_set(view.usual(), set).r;
        let pages = self.ask_nodes(view, request, needed).await?;
        self.cost.acks = self.cost.acks.max(pages.len() as u16);
        let merged = merge(view, pages)?;
        self.settle_all(view, &merged.keys, quorums).await?;
        Ok(rows_of(merged)?)
    }

    /// A page of every node, as soon as enough replicas of every partition have given theirs.
    async fn ask_nodes(
        &mut self,
        view: &View,
        request: &ListRequest,
        needed: impl Fn(usize) -> u16,
    ) -> Result<Vec<(NodeId, ListPage)>, Failed> {
        let core = self.core;
        let gathering = Gathering::new(None);
        for node in view.nodes.iter().copied().filter(|node| *node != core.node) {
            self.cost.messages += 1;
            core.ask_for_page(request, view.epoch, &gathering, node, self.deadline);
        }
        let mut failures = Failures::default();
        let mut pages = BTreeMap::new();
        if view.nodes.contains(&core.node) {
            let own = core.own_page(request.clone()).await.map_err(storage)?;
            match core.still_under(view.epoch) {
                Ok(()) => drop(pages.insert(core.node, own)),
                Err(reason) => failures.add(&PeerError::Refused { to: core.node, reason }),
            }
        }
        loop {
            let heard: Vec<NodeId> = pages.keys().copied().collect();
            if pages::covers(view, &heard, &needed) {
                return Ok(pages.into_iter().collect());
            }
            let ended = gathering.outstanding() == 0;
            let arrived = match core.runtime.deadline(self.deadline, gathering.next(1)).await {
                Some(arrived) if ended && arrived.is_empty() => None,
                Some(arrived) => Some(arrived),
                None => {
                    failures.note("the deadline passed");
                    None
                }
            };
            let Some(arrived) = arrived else {
                let most = usize::from(needed(usize::from(view.usual().n)));
                return Err(failures.too_few(most, pages.len()));
            };
            for Arrival { node, result } in arrived {
                match result {
                    Ok(page) => {
                        self.cost.messages += 1;
                        pages.insert(node, page);
                    }
                    Err(error) => failures.add(&error),
                }
            }
        }
    }

    /// Settles every key that a quorum read would have to repair before it could answer.
    async fn settle_all(
        &mut self,
        view: &View,
        keys: &[MergedKey],
        quorums: Quorums,
    ) -> Result<(), Failed> {
        let (core, deadline) = (self.core, self.deadline);
        let mut unsettled: Vec<BoxFuture<'_, Result<u32, Failed>>> = Vec::new();
        for MergedKey { key, resolution } in keys {
            let is_short = view.read_sets(key.partition()).iter().any(|set| {
                let holders = set.iter().filter(|node| resolution.holders.contains(node)).count();
                holders < usize::from(quorums.of_set(view.usual(), set.len()).w)
            });
            if !resolution.behind.is_empty() || is_short {
                unsettled.push(core.settle(view, key, resolution, quorums, deadline).boxed());
            }
        }
        let mut settling = stream::iter(unsettled).buffered(MAX_SETTLING);
        while let Some(messages) = settling.next().await {
            self.cost.messages += messages?;
        }
        Ok(())
    }
}

fn merge(view: &View, pages: Vec<(NodeId, ListPage)>) -> Result<MergedPage, Refusal> {
    pages::merge(view, pages).map_err(|(key, error)| damaged(&key, &error))
}

fn rows_of(merged: MergedPage) -> Result<Rows, Refusal> {
    let rows = merged.keys.into_iter().filter_map(|merged| {
        let newest = merged.resolution.newest?;
        Some((merged.key, newest))
    });
    Ok(Rows { rows: decode_rows(rows.collect())?, more: merged.more })
}

fn storage(error: TableError) -> Refusal {
    Refusal::Storage { detail: error.to_string() }
}

fn decode_rows(rows: Vec<(Key, Bytes)>) -> Result<Vec<(Key, Record)>, Refusal> {
    let decode = |(key, bytes): (Key, Bytes)| {
        let record = decoded(&key, &bytes)?;
        Ok((key, record))
    };
    rows.into_iter().map(decode).collect()
}

/// Reads a page piece by piece, so that values of a MiB each do not come a thousand at once.
fn read_page(
    table: &dyn Table,
    request: &ListRequest,
    reached: &[u64; PARTITIONS],
) -> Result<ListPage, TableError> {
    let limit = (request.limit as usize).clamp(1, MAX_PAGE_ROWS);
    let mut page = ListPage::default();
    let mut from = request.from.clone();
    let (mut bytes, mut ask) = (0, FIRST_READ_ROWS);
    let reached_of = |key: &Key| {
        let partition = key.partition().0;
        (partition, reached[usize::from(partition)])
    };
    loop {
        let ask_now = ask.min(limit - page.rows.len());
        let found = rows::page(table, &request.prefix, &from, ask_now)?;
        let ended = found.len() < ask_now;
        for (key, record) in found {
            // One row always fits: a page without any would never end.
            if bytes >= MAX_PAGE_BYTES {
                return Ok(page);
            }
            bytes += messages::weight(&key, &record);
            let (partition, reached_ms) = reached_of(&key);
            if reached_ms > 0 {
                page.reached_ms.insert(partition, reached_ms);
            }
            page.rows.push((key, record));
        }
        page.end = ended;
        let Some((last, _)) = page.rows.last() else { return Ok(page) };
        if page.end || page.rows.len() >= limit || bytes >= MAX_PAGE_BYTES {
            return Ok(page);
        }
        from = Bound::After(last.as_str().to_owned());
        let average = (bytes / page.rows.len()).max(1);
        ask = ((MAX_PAGE_BYTES - bytes) / average).max(1);
    }
}

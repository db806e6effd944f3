//! Idempotency keys: what makes a client's own retry apply once.
//!
//! **Why it exists.** A client that got no answer, or *unknown*, must be able to send its write
//! again, to any node, without the risk that it takes effect twice. The forwarding sessions (see
//! [`super::sessions`]) only cover what a node itself sends again.
//!
//! **Guarantees.** While a key is remembered, a write under it with the same digest is applied once,
//! and gets the first application's result; one with another digest is refused. What is remembered
//! are rows of the table, written in the batch of the write itself and part of every snapshot. A key
//! is forgotten in log time, which the versions give and no node's clock, so that all nodes decide
//! alike. At most [`MAX_REMEMBERED`] keys are remembered; a write under one more is refused and not
//! applied, as forgetting an earlier one would break a promise that was made.
//!
//! **Does not guarantee** anything once the key has expired: the write is then a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{WriteResult, codec};
use crate::planted::{self, Bug};
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch, just_after};
use crate::types::RetryKey;

/// How many keys are remembered. With the longest keys their rows take about 400 MB; with the
/// default expiry of 15 minutes they are enough for 1,100 new keys a second, all the time.
pub const MAX_REMEMBERED: u64 = 1_000_000;

/// Expired keys that one write removes at most: twice what it may add, so that removal keeps up, and
/// few enough that no entry takes long to apply.
const SWEPT_A_WRITE: usize = 2;

/// What is remembered of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    digest: u128,
    /// In log time, in milliseconds.
    expires_ms: u64,
    result: WriteResult,
}

/// What is kept in memory of all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) count: u64,
    /// No key expires before this, in log time; 0 until somebody looked.
    next_expiry_ms: u64,
}

impl Memory {
    /// Reads it back from the table.
    pub(super) fn load(table: &dyn Table) -> io::Result<Memory> {
        let row = table.get(&rows::retry_count_row()).map_err(io::Error::other)?;
        let count = row.map(|row| codec::decode("the count of idempotency keys", &row));
        Ok(Memory { count: count.transpose()?.unwrap_or(0), next_expiry_ms: 0 })
    }
}

/// What to do with a write that carries a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recall {
    /// Apply it, and [`Changes::remember`] its result.
    Fresh,
    /// Do not apply it: this is its result.
    Decided(WriteResult),
}

/// What a batch of entries changes, until it is in the table.
#[derive(Default)]
pub(super) struct Changes {
    keys: BTreeMap<String, Option<Remembered>>,
    /// Rows of the order of expiry that this batch adds.
    added: BTreeSet<Bytes>,
    /// Rows of that order before this one are removed by this batch, or were never there: what
    /// expires is removed in order, and what is added expires later than all of it.
    swept_to: Option<Bytes>,
}

impl Changes {
    /// Forgets a few keys whose time is over.
    pub(super) fn sweep(
        &mut self,
        memory: &mut Memory,
        table: &dyn Table,
        batch: &mut TableBatch,
        now_ms: u64,
    ) -> io::Result<()> {
        if now_ms < memory.next_expiry_ms {
            return Ok(());
        }
        let (begin, end) = rows::retry_expiry_range();
        let from = self.swept_to.clone().unwrap_or(begin);
        let mut due = table.scan_keys(&from, &end, SWEPT_A_WRITE + 1).map_err(io::Error::other)?;
        due.extend(self.added.range(from..).take(SWEPT_A_WRITE + 1).cloned());
        due.sort();
        memory.next_expiry_ms = u64::MAX;
        for (position, row) in due.into_iter().enumerate() {
            let (expires_ms, key) = rows::parse_retry_expiry_row(&row)
                .ok_or_else(|| codec::invalid("a row of expiring keys", format!("{row:?}")))?;
            if expires_ms > now_ms || position == SWEPT_A_WRITE {
                memory.next_expiry_ms = expires_ms;
                break;
            }
            // A key that was used anew since has another row that says when it expires.
            if self.get(table, key)?.is_some_and(|kept| kept.expires_ms == expires_ms) {
                self.keys.insert(key.to_owned(), None);
                batch.remove(rows::retry_row(key));
                memory.count = memory.count.saturating_sub(1);
                batch.put(rows::retry_count_row(), codec::encode(&memory.count)?);
            }
            self.swept_to = Some(just_after(&row).into());
            batch.remove(row);
        }
        Ok(())
    }

    /// Decides on a write that carries a key.
    pub(super) fn recall(
        &self,
        memory: &Memory,
        table: &dyn Table,
        now_ms: u64,
        retry: &RetryKey,
    ) -> io::Result<Recall> {
        Ok(match self.get(table, &retry.key)? {
            Some(kept)
                if kept.digest == retry.digest && planted::is(Bug::IdempotentRetryAppliedAnew) =>
            {
                Recall::Fresh
            }
            Some(kept)
                if kept.expires_ms > now_ms
                    && (kept.digest == retry.digest
                        || planted::is(Bug::IdempotencyKeyMatchesAnyRequest)) =>
            {
                Recall::Decided(kept.result)
            }
            Some(kept) if kept.expires_ms > now_ms => Recall::Decided(WriteResult::KeyReused),
            // It takes the place of the expired one.
            Some(_) => Recall::Fresh,
            None if memory.count >= MAX_REMEMBERED => Recall::Decided(WriteResult::KeysFull),
            None => Recall::Fresh,
        })
    }

    /// Remembers what became of a write that was applied under a key.
    pub(super) fn remember(
        &mut self,
        memory: &mut Memory,
        table: &dyn Table,
        batch: &mut TableBatch,
        now_ms: u64,
        retry: RetryKey,
        result: WriteResult,
    ) -> io::Result<()> {
        if self.get(table, &retry.key)?.is_none() {
            memory.count += 1;
            batch.put(rows::retry_count_row(), codec::encode(&memory.count)?);
        }
        // Later than now, so that what is added is never behind what was swept.
        let expires_ms = now_ms.saturating_add(retry.expiry_ms.max(1));
        let kept = Remembered { digest: retry.digest, expires_ms, result };
        let order = rows::retry_expiry_row(expires_ms, &retry.key);
        batch.put(rows::retry_row(&retry.key), codec::encode(&kept)?);
        batch.put(order.clone(), Bytes::new());
        self.added.insert(order);
        self.keys.insert(retry.key, Some(kept));
        memory.next_expiry_ms = memory.next_expiry_ms.min(expires_ms);
        Ok(())
    }

    fn get(&self, table: &dyn Table, key: &str) -> io::Result<Option<Remembered>> {
        if let Some(changed) = self.keys.get(key) {
            return Ok(changed.clone());
        }
        let row = table.get(&rows::retry_row(key)).map_err(io::Error::other)?;
        row.map(|row| codec::decode("an idempotency key in the table", &row)).transpose()
    }
}

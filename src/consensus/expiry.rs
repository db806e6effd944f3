//! Records that expire, in leader mode: an order of expiry beside the user rows, and removal by the log.
//!
//! **Why by the log.** A node that judged by its own clock would show a record as gone that another,
//! asked later, still shows. So a record stays until an entry ([`Command::Expire`](super::Command))
//! says that its time is over: from then on it is a tombstone of the same version, on every node at the
//! same place of the log. The leader proposes such entries as records fall due.
//!
//! **Guarantees.** The same rows on every node, however its entries were batched. Only the version that
//! was to expire does: what was written over it stays.
//!
//! **Costs.** A row of the key and 18 bytes for each value that will expire; and, as long as there is one, that
//! every write reads what it replaces, to take that out of the order.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::codec;
use crate::planted::{self, Bug};
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch, just_after};
use crate::types::{Key, Version};

/// Records that one entry makes expire, at most: bounds the time that it takes to apply.
pub(super) const MAX_EXPIRED_AN_ENTRY: usize = 1_000;

/// What is kept in memory of the order: where it begins at the earliest, so that nobody passes over what
/// expired lately, which engines may take as long for as for rows. It may differ between nodes, and what is
/// applied does not: no row of the order lies before `from`, and there is none where `next_ms` is `None`.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    from: Bytes,
    next_ms: Option<u64>,
}

impl Order {
    /// Looks for the beginning in the table.
    pub(super) fn load(table: &dyn Table) -> io::Result<Order> {
        let (from, to) = rows::expiry_range();
        let first = table.scan_keys(&from, &to, 1).map_err(io::Error::other)?.pop();
        let next_ms = first.as_ref().map(due_ms).transpose()?;
        Ok(Order { from: first.unwrap_or(to), next_ms })
    }

    /// When the first record expires, or earlier, in milliseconds since 1970; `None` where none will.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }
}

fn due_ms(row: &Bytes) -> io::Result<u64> {
    let parsed = rows::parse_expiry_row(row);
    let (at_ms, _) = parsed.ok_or_else(|| codec::invalid("a row of expiry", format!("{row:?}")))?;
    Ok(at_ms)
}

/// What a batch of entries changes in the order of expiry, until it is in the table. `None`: removed.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<Bytes, Option<Version>>);

/// A record whose time may be over.
pub(super) struct Due {
    pub(super) key: Key,
    /// The version that was to expire.
    pub(super) version: Version,
}

impl Changes {
    /// Notes that a record will expire.
    pub(super) fn add(
        &mut self,
        order: &mut Order,
        batch: &mut TableBatch,
        at_ms: u64,
        (key, version): (&Key, Version),
    ) {
        let row = rows::expiry_row(at_ms, key.as_str().as_bytes());
        batch.put(row.clone(), version.to_bytes().to_vec());
        order.next_ms = Some(order.next_ms.map_or(at_ms, |next_ms| next_ms.min(at_ms)));
        if row < order.from {
            order.from = row.clone();
        }
        self.0.insert(row, Some(version));
    }

    /// Takes a record that was written over out of the order.
    pub(super) fn remove(&mut self, batch: &mut TableBatch, at_ms: u64, key: &Key) {
        let row = rows::expiry_row(at_ms, key.as_str().as_bytes());
        batch.remove(row.clone());
        self.0.insert(row, None);
    }

    /// Takes the first of what is due at `now_ms` out of the order.
    pub(super) fn take_due(
        &mut self,
        order: &mut Order,
        table: &dyn Table,
        batch: &mut TableBatch,
        now_ms: u64,
    ) -> io::Result<Vec<Due>> {
        let from = order.from.clone();
        let to = rows::expiry_row(now_ms.saturating_add(1), b"");
        // Some of what the table has may be removed by this batch already.
        let overlaid = || self.0.range(from.clone()..to.clone().max(from.clone()));
        let limit = MAX_EXPIRED_AN_ENTRY + overlaid().filter(|(_, now)| now.is_none()).count();
        let mut due = BTreeMap::new();
        for (row, value) in table.scan(&from, &to, limit).map_err(io::Error::other)? {
            let version = <[u8; Version::BYTES]>::try_from(&value[..]);
            let version = version.map_err(|_| codec::invalid("a row of expiry", "no version"))?;
            due.insert(row, Some(Version::from_bytes(version)));
        }
        if !planted::is(Bug::ExpirySeesTableAlone) {
            due.extend(overlaid().map(|(row, version)| (row.clone(), *version)));
        }
        let found = due.into_iter().filter_map(|(row, version)| Some((row, version?)));
        let mut taken = Vec::new();
        for (row, version) in found.take(MAX_EXPIRED_AN_ENTRY) {
            let (_, key) = rows::parse_expiry_row(&row)
                .ok_or_else(|| codec::invalid("a row of expiry", format!("{row:?}")))?;
            batch.remove(row.clone());
            order.from = just_after(&row).into();
            self.0.insert(row, None);
            taken.push(Due { key, version });
        }
        order.next_ms = self.next_ms(order, table)?;
        Ok(taken)
    }

    /// When the first is due that is left.
    fn next_ms(&self, order: &Order, table: &dyn Table) -> io::Result<Option<u64>> {
        let (_, end) = rows::expiry_range();
        let from = order.from.clone().min(end.clone());
        let removed = self.0.range(from.clone()..end.clone()).filter(|(_, now)| now.is_none());
        let limit = 1 + removed.count();
        let stored = table.scan_keys(&from, &end, limit).map_err(io::Error::other)?;
        let left = stored.into_iter().find(|row| self.0.get(row).is_none_or(Option::is_some));
        let added =
            self.0.range(from..end).find(|(_, now)| now.is_some()).map(|(row, _)| row.clone());
        let first = left.into_iter().chain(added).min();
        first.as_ref().map(due_ms).transpose()
    }
}

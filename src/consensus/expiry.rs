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
//! **Costs.** A row of the key and 18 bytes for each put with a time to live, until that time is over,
//! also where the key was written again before.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::codec;
use crate::planted::{self, Bug};
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch};
use crate::types::{Key, Version};

/// Records that one entry makes expire, at most: bounds the time that it takes to apply.
pub(super) const MAX_EXPIRED_AN_ENTRY: usize = 1_000;

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
    pub(super) fn add(&mut self, batch: &mut TableBatch, at_ms: u64, key: &Key, version: Version) {
        let row = rows::expiry_row(at_ms, key.as_str().as_bytes());
        batch.put(row.clone(), version.to_bytes().to_vec());
        self.0.insert(row, Some(version));
    }

    /// Takes the first of what is due at `now_ms` out of the order.
    pub(super) fn take_due(
        &mut self,
        table: &dyn Table,
        batch: &mut TableBatch,
        now_ms: u64,
    ) -> io::Result<Vec<Due>> {
        let from = rows::expiry_range().0;
        let to = rows::expiry_row(now_ms.saturating_add(1), b"");
        // Some of what the table has may be removed by this batch already.
        let removed = self.0.range(from.clone()..to.clone()).filter(|(_, now)| now.is_none());
        let limit = MAX_EXPIRED_AN_ENTRY + removed.count();
        let mut due = BTreeMap::new();
        for (row, value) in table.scan(&from, &to, limit).map_err(io::Error::other)? {
            let version = <[u8; Version::BYTES]>::try_from(&value[..]);
            let version = version.map_err(|_| codec::invalid("a row of expiry", "no version"))?;
            due.insert(row, Some(Version::from_bytes(version)));
        }
        if !planted::is(Bug::ExpirySeesTableAlone) {
            due.extend(self.0.range(from..to).map(|(row, version)| (row.clone(), *version)));
        }
        let found = due.into_iter().filter_map(|(row, version)| Some((row, version?)));
        let mut taken = Vec::new();
        for (row, version) in found.take(MAX_EXPIRED_AN_ENTRY) {
            let (_, key) = rows::parse_expiry_row(&row)
                .ok_or_else(|| codec::invalid("a row of expiry", format!("{row:?}")))?;
            batch.remove(row.clone());
            self.0.insert(row, None);
            taken.push(Due { key, version });
        }
        Ok(taken)
    }
}

/// When the first record expires, in milliseconds since 1970; `None` where none will.
pub fn next_expiry_ms(table: &dyn Table) -> io::Result<Option<u64>> {
    let (from, to) = rows::expiry_range();
    let first = table.scan_keys(&from, &to, 1).map_err(io::Error::other)?.pop();
    let parsed = first.map(|row| {
        let parsed = rows::parse_expiry_row(&row);
        parsed.ok_or_else(|| codec::invalid("a row of expiry", format!("{row:?}")))
    });
    Ok(parsed.transpose()?.map(|(at_ms, _)| at_ms))
}

//! Pages of rows against a model, and where rows lie.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::storage::disk::SimDisk;
use crate::storage::table::{MemoryTable, TableBatch, TableView};

/// A table in memory that counts what is read from it.
struct Counted {
    table: MemoryTable,
    scans: AtomicUsize,
    keys: AtomicUsize,
    gets: AtomicUsize,
}

impl Counted {
    fn new(keys: impl IntoIterator<Item = String>) -> Counted {
        let table = MemoryTable::open(Arc::new(SimDisk::new(0)), "t").expect("it opens");
        let mut batch = TableBatch::default();
        for text in keys {
            batch.put(data_row(&key(&text)), format!("value of {text}"));
        }
        // Neighbours that no page may show.
        for row in [meta_row("applied"), meta_row(""), session_row(0), session_row(u16::MAX)] {
            batch.put(row, "not a user row");
        }
        batch.put(Bytes::from_static(b"c\xff"), "not ours");
        batch.put(Bytes::from_static(b"e"), "not ours");
        table.apply(batch).expect("applied");
        let zero = || AtomicUsize::new(0);
        Counted { table, scans: zero(), keys: zero(), gets: zero() }
    }
}

impl Table for Counted {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.table.get(key)
    }
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        self.table.scan(from, to, limit)
    }
    fn scan_keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, TableError> {
        let keys = self.table.scan_keys(from, to, limit)?;
        self.scans.fetch_add(1, Ordering::Relaxed);
        self.keys.fetch_add(keys.len(), Ordering::Relaxed);
        Ok(keys)
    }
    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        self.table.apply(batch)
    }
    fn may_wait(&self) -> bool {
        self.table.may_wait()
    }
    fn checkpoint(&self) -> Result<(), TableError> {
        self.table.checkpoint()
    }
    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        self.table.view()
    }
}

fn key(text: &str) -> Key {
    Key::new(text, usize::MAX).expect("a key")
}

/// What a page must be, said in the plainest way.
fn expected(keys: &BTreeSet<String>, prefix: &str, from: &Bound, limit: usize) -> Vec<String> {
    let is_ahead = |key: &str| match from {
        Bound::Start => true,
        Bound::After(last) => key > last.as_str(),
        Bound::AfterPrefix(skipped) => key > skipped.as_str() && !key.starts_with(skipped),
    };
    let matching = keys.iter().filter(|key| key.starts_with(prefix) && is_ahead(key));
    matching.take(limit).cloned().collect()
}

fn keys_of(page: &[(Key, Bytes)]) -> Vec<String> {
    for (key, value) in page {
        assert_eq!(*value, format!("value of {key}"));
    }
    page.iter().map(|(key, _)| key.as_str().to_owned()).collect()
}

/// Texts that often begin with each other, with the characters whose bytes lie at the edges.
fn any_text(parts: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "/", "\0", "\u{7f}", "ÿ", "\u{10ffff}", "é"]);
    prop::collection::vec(part, parts).prop_map(|parts| parts.concat())
}

fn any_bound() -> impl Strategy<Value = Bound> {
    prop_oneof![
        Just(Bound::Start),
        any_text(0..4).prop_map(Bound::After),
        any_text(0..4).prop_map(Bound::AfterPrefix),
    ]
}

proptest! {
    #[test]
    fn a_page_is_what_sorting_all_keys_gives(
        keys in prop::collection::btree_set(any_text(1..5), 0..120),
        prefix in any_text(0..3),
        from in any_bound(),
        limit in 0usize..60,
    ) {
        let table = Counted::new(keys.iter().cloned());
        let page = page(&table, &prefix, &from, limit).expect("a page");
        prop_assert_eq!(keys_of(&page), expected(&keys, &prefix, &from, limit));
    }

    #[test]
    fn pages_one_after_the_other_show_every_key_once(
        keys in prop::collection::btree_set(any_text(1..5), 0..120),
        prefix in any_text(0..2),
        limit in 1usize..9,
    ) {
        let table = Counted::new(keys.iter().cloned());
        let (mut from, mut seen) = (Bound::Start, Vec::new());
        loop {
            let page = keys_of(&page(&table, &prefix, &from, limit).expect("a page"));
            let is_last = page.len() < limit;
            seen.extend(page);
            if is_last {
                break;
            }
            from = Bound::After(seen.last().expect("a full page has keys").clone());
        }
        prop_assert_eq!(seen, expected(&keys, &prefix, &Bound::Start, usize::MAX));
    }

    #[test]
    fn the_successor_is_the_end_of_a_prefix(
        prefix in prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x7f, 0xfe, 0xff]), 0..5),
        other in prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x7f, 0xfe, 0xff]), 0..7),
    ) {
        let with_family = |bytes: &[u8]| [&[DATA], bytes].concat();
        let (prefix, other) = (with_family(&prefix), with_family(&other));
        let end = successor(&prefix);
        let is_between = other >= prefix && other[..] < end[..];
        prop_assert_eq!(is_between, other.starts_with(&prefix));
    }
}

#[test]
fn a_page_over_a_big_table_costs_about_one_small_scan_a_partition() {
    let table = Counted::new((0..50_000).map(|i| format!("key-{i:06}")));
    for from in [Bound::Start, Bound::After("key-025000".to_owned())] {
        let counts = [&table.scans, &table.keys, &table.gets];
        counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        assert_eq!(page(&table, "key-", &from, 100).expect("a page").len(), 100);
        let [scans, keys, gets] = counts.map(|count| count.load(Ordering::Relaxed));
        assert!(scans <= 300, "{scans} scans");
        assert!(keys <= 700, "{keys} keys");
        assert_eq!(gets, 100, "a value is read only where it is in the page");
    }
}

#[test]
fn rows_never_move() {
    // These bytes are on disks: a change here is a change of format.
    assert_eq!(data_row(&key("img/cat")), &b"d\x25img/cat"[..]);
    assert_eq!(meta_row("applied"), &b"mapplied"[..]);
    assert_eq!(session_row(0x0102), &b"s\x01\x02"[..]);
    assert_eq!(parse_data_row(b"d\x25img/cat"), Some((Partition(0x25), key("img/cat"))));
    assert_eq!(parse_session_row(b"s\x01\x02"), Some(0x0102));
    for bad in [&b""[..], b"d", b"d\x25", b"d\x25\xff", b"m\x25a", b"s\x01", b"s\x01\x02\x03"] {
        assert_eq!(parse_data_row(bad), None);
        assert_eq!(parse_session_row(bad), None);
    }
}

#[test]
fn ranges_hold_their_family_and_nothing_else() {
    let is_in = |row: &Bytes, (from, to): &(Bytes, Bytes)| *row >= *from && *row < *to;
    let rows = [data_row(&key("a")), meta_row(""), session_row(u16::MAX)];
    for (at, range) in [data_range(), meta_range(), session_range()].iter().enumerate() {
        for (other, row) in rows.iter().enumerate() {
            assert_eq!(is_in(row, range), at == other, "{row:?} in {range:?}");
        }
    }
    for partition in Partition::all() {
        let range = partition_range(partition);
        let edge = data_row_bytes(partition, "\u{10ffff}".as_bytes());
        assert!(is_in(&edge, &range) && is_in(&edge, &data_range()));
        assert_eq!(is_in(&data_row(&key("a")), &range), key("a").partition() == partition);
    }
}

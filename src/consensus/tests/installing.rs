//! Installing a snapshot by difference: whatever the table held, and whatever it costs to change it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::support::*;
use crate::consensus::apply::GroupState;
use crate::consensus::installation::{Installation, Limits};
use crate::consensus::snapshot::{Incoming, Manifest, encode_page};
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::rows;
use crate::storage::table::{Hooked, Hooks, Table, TableBatch, TableError};

type Rows = BTreeMap<Bytes, Bytes>;

/// Writes these rows into the file that is installed, in pages of so many.
fn file_of(disk: &SimDisk, content: &Rows, page_rows: usize) -> Manifest {
    let mut file = Incoming::create(Arc::new(disk.clone())).expect("created");
    let all: Vec<(Bytes, Bytes)> =
        content.iter().map(|(row, value)| (row.clone(), value.clone())).collect();
    for page in all.chunks(page_rows) {
        file.append(&encode_page(page).expect("encoded")).expect("appended");
    }
    let manifest = file.manifest(GroupState::default());
    file.finish(&manifest).expect("finished");
    manifest
}

fn table_of(disk: &SimDisk, content: &Rows) -> Arc<dyn Table> {
    let table: Arc<dyn Table> = open_table(disk);
    let mut batch = TableBatch::default();
    content.iter().for_each(|(row, value)| batch.put(row.clone(), value.clone()));
    table.apply(batch).expect("applied");
    table
}

/// What a table holds of what a snapshot stands for.
fn replicated(table: &dyn Table) -> Rows {
    let ranges = [rows::data_range(), rows::expiry_range()];
    let scan = |(from, to): (Bytes, Bytes)| table.scan(&from, &to, usize::MAX).expect("readable");
    ranges.into_iter().flat_map(scan).collect()
}

fn install(table: Arc<dyn Table>, disk: &SimDisk, manifest: Manifest, limits: Limits) {
    let own: Arc<dyn Disk> = Arc::new(disk.clone());
    let work = Installation::begin(table, own, manifest, true).expect("begins").within(limits);
    work.run().expect("installs");
}

/// A row of the first or the last family, or of one that lies between and stays.
fn row(number: u16) -> Bytes {
    match number % 3 {
        0 | 1 => rows::data_row(&key(&format!("k{}", number / 3))),
        _ => rows::expiry_row(u64::from(number / 3), b"k"),
    }
}

fn content() -> impl Strategy<Value = Rows> {
    let value = (any::<u16>(), 0u8..3, 1usize..40);
    proptest::collection::vec(value, 0..60).prop_map(|drawn| {
        let one = |(number, byte, length): (u16, u8, usize)| {
            (row(number % 90), Bytes::from(vec![byte; length]))
        };
        drawn.into_iter().map(one).collect()
    })
}

proptest! {
    #[test]
    fn whatever_the_table_held_it_holds_what_the_snapshot_does_and_keeps_what_is_its_own(
        (before, after) in (content(), content()),
        page_rows in 1usize..9,
        read_rows in 1usize..9,
        load_bytes in 1u64..200,
    ) {
        let disk = SimDisk::new(1);
        let table = table_of(&disk, &before);
        let own = [rows::meta_row("own"), rows::hint_row(crate::types::NodeId(2), &key("k1"))];
        let mut batch = TableBatch::default();
        own.iter().for_each(|row| batch.put(row.clone(), "own"));
        table.apply(batch).expect("applied");
        let manifest = file_of(&disk, &after, page_rows);
        let limits = Limits { read_rows, load_bytes, checkpoint_bytes: 500 };
        install(table.clone(), &disk, manifest, limits);
        prop_assert_eq!(replicated(&*table), after);
        for row in own {
            prop_assert!(table.get(&row).expect("readable").is_some(), "{:?} is gone", row);
        }
    }
}

/// Counts the rows that are changed.
struct Counting(Arc<AtomicUsize>);

impl Hooks for Counting {
    fn before_apply(&self, batch: &TableBatch) -> Result<(), TableError> {
        self.0.fetch_add(batch.changes.len(), Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn only_rows_that_differ_are_written() {
    let disk = SimDisk::new(1);
    let name = |number: usize| rows::data_row(&key(&format!("k{number:05}")));
    let before: Rows = (0..5_000).map(|number| (name(number), Bytes::from_static(b"v"))).collect();
    let mut after = before.clone();
    after.remove(&name(17));
    after.insert(name(4_000), Bytes::from_static(b"changed"));
    after.insert(name(9_999), Bytes::from_static(b"new"));
    let changed = Arc::new(AtomicUsize::new(0));
    let table: Arc<dyn Table> =
        Arc::new(Hooked::new(table_of(&disk, &before), Counting(changed.clone())));
    let manifest = file_of(&disk, &after, 100);
    let limits = Limits { read_rows: 64, load_bytes: 1_000, checkpoint_bytes: 1 << 20 };
    install(table.clone(), &disk, manifest, limits);
    assert_eq!(replicated(&*table), after);
    // Beside the three: the marker, and at the end the group's row and the marker's removal.
    assert_eq!(changed.load(Ordering::Relaxed), 3 + 3);
}

#[test]
fn a_file_whose_keys_do_not_rise_is_refused() {
    let disk = SimDisk::new(1);
    let mut file = Incoming::create(Arc::new(disk.clone())).expect("created");
    for name in ["b", "a"] {
        let page = encode_page(&[(rows::data_row(&key(name)), Bytes::from_static(b"v"))]);
        file.append(&page.expect("encoded")).expect("appended");
    }
    // Rows lie by partition first.
    let rising = rows::data_row(&key("b")) < rows::data_row(&key("a"));
    let manifest = file.manifest(GroupState::default());
    file.finish(&manifest).expect("finished");
    let own: Arc<dyn Disk> = Arc::new(disk.clone());
    let table = table_of(&disk, &Rows::new());
    let ended = Installation::begin(table, own, manifest, true).expect("begins").run();
    assert_eq!(ended.is_ok(), rising);
}

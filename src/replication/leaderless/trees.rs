//! The hash trees of a replica: kept as its rows change, built from them in the background.
//!
//! **Guarantees.** A tree that is given out is that of the rows of its partition as some batch left
//! them. Building one holds up no write for longer than a page takes: the replica's applier, which
//! alone changes rows, reads the pages between its batches, so that a row is counted exactly once.
//! A tree that is built anew while the old one is in use finds rows that changed on the disk by
//! themselves: the two then differ.
//!
//! **Bounds.** 8 KiB a partition held, twice that while it is built anew.

use bytes::Bytes;
use parking_lot::Mutex;

use super::hash_tree::{Entry, HashTree};
use crate::storage::encoding::DecodeError;
use crate::storage::rows;
use crate::storage::table::{Table, TableError, just_after};
use crate::types::{PARTITIONS, Partition};

/// Rows read in one go to build a tree: what takes well under a millisecond from memory.
const PAGE_ROWS: usize = 512;

/// The same in bytes, about: where records are long, fewer are read.
const PAGE_BYTES: usize = 1 << 20;

/// Rows read before anything is known of their length.
const FIRST_ROWS: usize = 16;

/// A row that a batch changed.
pub struct ChangedRow {
    pub row: Bytes,
    /// What it held before; `None` where it was not there.
    pub was: Option<Bytes>,
    /// What it holds now; `None` where it is gone.
    pub now: Option<Bytes>,
}

/// The trees of the partitions that a node holds.
pub struct Trees {
    slots: Mutex<Vec<Slot>>,
}

#[derive(Default)]
struct Slot {
    /// As the rows are; `None` until it was built once.
    tree: Option<HashTree>,
    /// One that is being built.
    build: Option<Build>,
}

struct Build {
    /// Of the rows before `next`.
    tree: HashTree,
    next: Bytes,
    to: Bytes,
    /// Rows of the next page.
    rows: usize,
}

/// What a page of a build came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Built {
    /// There is more to read.
    Part,
    /// The tree of this partition is there.
    Whole(Partition),
    /// It is there, and the rows of the partition are not what was written to them.
    Differs(Partition),
}

impl Trees {
    /// None built yet, and all of `held` to be built.
    pub fn new(held: impl IntoIterator<Item = Partition>) -> Trees {
        let mut slots: Vec<Slot> = (0..PARTITIONS).map(|_| Slot::default()).collect();
        for partition in held {
            slots[usize::from(partition.0)].build = Some(Build::new(partition));
        }
        Trees { slots: Mutex::new(slots) }
    }

    /// Builds the tree of a partition anew; what is there stays in use meanwhile.
    pub fn rebuild(&self, partition: Partition) {
        let build = &mut self.slots.lock()[usize::from(partition.0)].build;
        build.get_or_insert_with(|| Build::new(partition));
    }

    /// Builds the tree of a partition, where there is none; whether there was none.
    pub fn ensure(&self, partition: Partition) -> bool {
        let slot = &mut self.slots.lock()[usize::from(partition.0)];
        let is_missing = slot.tree.is_none() && slot.build.is_none();
        if is_missing {
            slot.build = Some(Build::new(partition));
        }
        is_missing
    }

    /// Forgets the tree of a partition that the node holds no longer.
    pub fn forget(&self, partition: Partition) {
        self.slots.lock()[usize::from(partition.0)] = Slot::default();
    }

    /// Whether a tree waits to be built.
    pub fn is_building(&self) -> bool {
        self.slots.lock().iter().any(|slot| slot.build.is_some())
    }

    /// Takes in what a batch changed, which the table has by now.
    pub fn note(&self, changes: &[ChangedRow]) -> Result<(), TableError> {
        let mut slots = self.slots.lock();
        for ChangedRow { row, was, now } in changes {
            let Some((partition, key)) = rows::split_data_row(row) else { continue };
            let slot = &mut slots[usize::from(partition.0)];
            if slot.tree.is_none() && slot.build.is_none() {
                continue;
            }
            let entry = |held: &Option<Bytes>| {
                held.as_ref().map(|held| Entry::of(key, held)).transpose().map_err(damaged)
            };
            let (was, now) = (entry(was)?, entry(now)?);
            let behind = slot.build.as_mut().filter(|build| *row < build.next);
            for tree in slot.tree.iter_mut().chain(behind.map(|build| &mut build.tree)) {
                was.into_iter().for_each(|entry| tree.remove(entry));
                now.into_iter().for_each(|entry| tree.add(entry));
            }
        }
        Ok(())
    }

    /// Reads a page for a tree that waits to be built; `None` where none does. Only the applier may
    /// call it, between its batches.
    pub fn build_page(&self, table: &dyn Table) -> Result<Option<Built>, TableError> {
        let Some((partition, next, to, limit)) = self.next_page() else { return Ok(None) };
        let page = table.scan(&next, &to, limit)?;
        let mut slots = self.slots.lock();
        let slot = &mut slots[usize::from(partition.0)];
        // Forgotten meanwhile, or begun anew.
        let Some(build) = slot.build.as_mut().filter(|build| build.next == next) else {
            return Ok(Some(Built::Part));
        };
        for (row, record) in &page {
            let Some((_, key)) = rows::split_data_row(row) else {
                return Err(TableError::Damaged(format!("a row of partition {}", partition.0)));
            };
            build.tree.add(Entry::of(key, record).map_err(damaged)?);
        }
        if page.len() == limit
            && let Some((last, _)) = page.last()
        {
            let bytes: usize = page.iter().map(|(row, record)| row.len() + record.len()).sum();
            build.rows = (PAGE_BYTES * limit / bytes.max(1)).clamp(1, PAGE_ROWS);
            build.next = just_after(last).into();
            return Ok(Some(Built::Part));
        }
        let Some(build) = slot.build.take() else { return Ok(Some(Built::Part)) };
        let differs = slot.tree.as_ref().is_some_and(|tree| *tree != build.tree);
        slot.tree = Some(build.tree);
        Ok(Some(if differs { Built::Differs(partition) } else { Built::Whole(partition) }))
    }

    fn next_page(&self) -> Option<(Partition, Bytes, Bytes, usize)> {
        let slots = self.slots.lock();
        Partition::all().zip(slots.iter()).find_map(|(partition, slot)| {
            let build = slot.build.as_ref()?;
            Some((partition, build.next.clone(), build.to.clone(), build.rows))
        })
    }

    /// Something of the tree of a partition; `None` until it is built.
    pub fn with<T>(&self, partition: Partition, look: impl FnOnce(&HashTree) -> T) -> Option<T> {
        self.slots.lock()[usize::from(partition.0)].tree.as_ref().map(look)
    }
}

impl Build {
    fn new(partition: Partition) -> Build {
        let (next, to) = rows::partition_range(partition);
        Build { tree: HashTree::default(), next, to, rows: FIRST_ROWS }
    }
}

fn damaged(error: DecodeError) -> TableError {
    TableError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::storage::disk::SimDisk;
    use crate::storage::encoding::encode;
    use crate::storage::table::{MemoryTable, TableBatch};
    use crate::types::{Content, Key, NodeId, Record, Version};

    const COUNT: u64 = 1_600;

    fn memory() -> MemoryTable {
        MemoryTable::open(Arc::new(SimDisk::new(1)), "table").expect("a table")
    }

    fn record(time: u64) -> Bytes {
        encode(&Record { version: Version::new(time, NodeId(1)), content: Content::Tombstone })
    }

    /// Keys of one partition.
    fn keys() -> Vec<Key> {
        let named = (0..).map(|number| Key::new(&format!("key-{number}"), 64).expect("a key"));
        named.filter(|key| key.partition() == Partition(7)).take(COUNT as usize).collect()
    }

    /// Writes rows as the applier does: the table first, then the trees.
    fn write(table: &MemoryTable, trees: &Trees, key: &Key, now: Option<Bytes>) {
        let row = rows::data_row(key);
        let was = table.get(&row).expect("a row");
        let batch = TableBatch { changes: vec![(row.clone(), now.clone())] };
        table.apply(batch).expect("applies");
        trees.note(&[ChangedRow { row, was, now }]).expect("notes");
    }

    fn root(trees: &Trees) -> Option<u64> {
        trees.with(Partition(7), HashTree::root)
    }

    fn built(table: &MemoryTable) -> Option<u64> {
        let trees = Trees::new([Partition(7)]);
        while trees.build_page(table).expect("a page").is_some() {}
        root(&trees)
    }

    #[test]
    fn rows_that_change_while_a_tree_is_built_are_counted_once() {
        let table = memory();
        let keys = keys();
        let trees = Trees::new([Partition(7)]);
        for key in &keys {
            write(&table, &trees, key, Some(record(1)));
        }
        assert_eq!(root(&trees), None, "not built yet");
        let mut step = 0;
        while trees.build_page(&table).expect("a page").is_some() {
            // Before the cursor, after it, and gone altogether.
            for key in keys.iter().skip(step).step_by(37) {
                write(&table, &trees, key, Some(record(2 + step as u64)));
            }
            write(&table, &trees, &keys[step * 3], None);
            write(&table, &trees, &keys[keys.len() - 1 - step], None);
            step += 1;
        }
        assert!(step >= 3, "several pages");
        assert!(root(&trees).is_some());
        assert_eq!(root(&trees), built(&table));
        write(&table, &trees, &keys[5], Some(record(99)));
        assert_eq!(root(&trees), built(&table), "and ever after");
    }

    #[test]
    fn a_row_that_changed_by_itself_is_found_when_the_tree_is_built_anew() {
        let table = memory();
        let keys = keys();
        let trees = Trees::new([Partition(7)]);
        keys.iter().for_each(|key| write(&table, &trees, key, Some(record(1))));
        let build = |trees: &Trees| loop {
            match trees.build_page(&table).expect("a page").expect("more") {
                Built::Part => {}
                whole => return whole,
            }
        };
        assert_eq!(build(&trees), Built::Whole(Partition(7)));
        trees.rebuild(Partition(7));
        write(&table, &trees, &keys[1], Some(record(5)));
        assert_eq!(build(&trees), Built::Whole(Partition(7)), "a write is no damage");
        let rotten = TableBatch { changes: vec![(rows::data_row(&keys[9]), Some(record(7)))] };
        table.apply(rotten).expect("applies");
        trees.rebuild(Partition(7));
        assert_eq!(build(&trees), Built::Differs(Partition(7)));
        assert_eq!(root(&trees), built(&table), "the tree is that of the rows from then on");
    }

    #[test]
    fn partitions_that_are_not_held_have_no_tree() {
        let table = memory();
        let trees = Trees::new([Partition(3)]);
        keys().iter().for_each(|key| write(&table, &trees, key, Some(record(1))));
        while trees.build_page(&table).expect("a page").is_some() {}
        assert_eq!(root(&trees), None);
        assert_eq!(trees.with(Partition(3), HashTree::root), Some(0), "empty, and known to be");
        trees.forget(Partition(3));
        assert_eq!(trees.with(Partition(3), HashTree::root), None);
        assert!(!trees.is_building());
    }
}

//! What every table engine must do: one suite, run by each of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::storage::disk::{Disk, SimDisk};

mod behind;
mod engines;
mod fjall;

/// An engine under test, with a place of its own to keep its files.
trait Engine {
    /// Opens the table, or opens it again after it was dropped.
    fn open(&self) -> Box<dyn Table>;

    /// What a crash right now would leave, opened beside the table that is open: of the machine for
    /// the simulated disk, of the process for sled and fjall.
    fn open_after_crash(&self) -> Box<dyn Table>;
}

struct Memory(SimDisk);

impl Memory {
    fn new() -> Memory {
        Memory(SimDisk::new(7))
    }
}

impl Engine for Memory {
    fn open(&self) -> Box<dyn Table> {
        let disk = Arc::new(self.0.clone());
        Box::new(MemoryTable::open(disk, "tables/main").expect("the table opens"))
    }

    fn open_after_crash(&self) -> Box<dyn Table> {
        self.0.crash();
        self.open()
    }
}

struct Sled {
    dir: tempfile::TempDir,
    crashed: tempfile::TempDir,
}

impl Sled {
    fn new() -> Sled {
        let dir = || tempfile::tempdir().expect("a temporary directory");
        Sled { dir: dir(), crashed: dir() }
    }

    fn open_with(&self, overlay_bytes: u64) -> SledTable {
        SledTable::open(&self.dir.path().join("table"), 16 << 20, overlay_bytes)
            .expect("the table opens")
    }
}

impl Engine for Sled {
    fn open(&self) -> Box<dyn Table> {
        Box::new(self.open_with(1 << 20))
    }

    fn open_after_crash(&self) -> Box<dyn Table> {
        let copies = std::fs::read_dir(self.crashed.path()).expect("it exists").count();
        let copy = self.crashed.path().join(copies.to_string());
        copy_dir(&self.dir.path().join("table"), &copy);
        Box::new(SledTable::open(&copy, 16 << 20, 1 << 20).expect("the copy opens"))
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the copy's directory");
    for entry in std::fs::read_dir(from).expect("the directory to copy") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copied file");
        }
    }
}

/// The memory engine under hooks that do nothing.
struct UnderHooks(Memory);

struct Nothing;

impl Hooks for Nothing {}

impl Engine for UnderHooks {
    fn open(&self) -> Box<dyn Table> {
        Box::new(Hooked::new(Arc::from(self.0.open()), Nothing))
    }

    fn open_after_crash(&self) -> Box<dyn Table> {
        Box::new(Hooked::new(Arc::from(self.0.open_after_crash()), Nothing))
    }
}

/// Every case, for every engine.
macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod memory_passes {
            $(#[test] fn $case() { super::$case(&super::Memory::new()); })*
        }
        mod memory_under_hooks_passes {
            $(#[test] fn $case() {
                super::$case(&super::UnderHooks(super::Memory::new()));
            })*
        }
        mod sled_passes {
            $(#[test] fn $case() { super::$case(&super::Sled::new()); })*
        }
        mod fjall_passes {
            $(#[test] fn $case() { super::$case(&super::fjall::Fjall::new()); })*
        }
        mod fjall_behind_layers_of_a_node_passes {
            $(#[test] fn $case() { super::$case(&super::behind::FjallBehind::of_a_node()); })*
        }
        mod sled_behind_small_layers_passes {
            $(#[test] fn $case() { super::$case(&super::behind::Behind::small()); })*
        }
        mod sled_behind_layers_of_a_node_passes {
            $(#[test] fn $case() { super::$case(&super::behind::Behind::of_a_node()); })*
        }
    };
}

suite!(
    rows_are_put_got_and_removed,
    scans_are_ordered_and_bounded,
    later_changes_of_a_batch_win,
    empty_and_big_rows_are_rows,
    many_rows_stay_in_order,
    random_batches_match_a_model,
    a_checkpoint_keeps_everything,
    a_crash_leaves_whole_batches_up_to_the_checkpoint_or_later,
    a_view_is_the_picture_at_its_start,
    a_view_shows_whole_batches_while_a_writer_runs,
    a_second_view_ends_the_first,
    a_table_opens_again_right_after_a_close_also_while_a_view_is_held,
);

type Rows = BTreeMap<Bytes, Bytes>;

const END: &[u8] = &[0xff; 8];

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

fn batch(changes: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) -> TableBatch {
    TableBatch { changes: changes.into_iter().collect() }
}

fn put_all(table: &dyn Table, rows: impl IntoIterator<Item = (Bytes, Bytes)>) {
    let changes = rows.into_iter().map(|(key, value)| (key, Some(value)));
    table.apply(batch(changes)).expect("applied");
}

fn all(table: &dyn Table) -> Rows {
    table.scan(b"", END, usize::MAX).expect("scanned").into_iter().collect()
}

fn rest_of(view: &mut dyn TableView, page_bytes: usize) -> Vec<(Bytes, Bytes)> {
    let mut rows = Vec::new();
    loop {
        let page = view.next_page(page_bytes).expect("a page");
        if page.is_empty() {
            return rows;
        }
        rows.extend(page);
    }
}

fn rows_are_put_got_and_removed(engine: &dyn Engine) {
    let table = engine.open();
    assert_eq!(table.get(b"a").expect("got"), None);
    put_all(&*table, [(bytes("a"), bytes("1")), (bytes("b"), bytes("2"))]);
    put_all(&*table, [(bytes("a"), bytes("3"))]);
    assert_eq!(table.get(b"a").expect("got"), Some(bytes("3")));
    table.apply(batch([(bytes("a"), None), (bytes("never"), None)])).expect("applied");
    assert_eq!(table.get(b"a").expect("got"), None);
    assert_eq!(table.get(b"b").expect("got"), Some(bytes("2")));
    table.apply(TableBatch::default()).expect("an empty batch is a batch");
}

fn scans_are_ordered_and_bounded(engine: &dyn Engine) {
    let table = engine.open();
    let keys: [&[u8]; 6] = [b"a", b"a\0", b"ab", b"b", b"b\xff", b"c"];
    put_all(&*table, keys.iter().rev().map(|key| (bytes(key), bytes("v"))));
    let scan = |from: &[u8], to: &[u8], limit| -> Vec<Vec<u8>> {
        let rows = table.scan(from, to, limit).expect("scanned");
        rows.into_iter().map(|(key, _)| key.to_vec()).collect()
    };
    assert_eq!(scan(b"", END, usize::MAX), keys);
    assert_eq!(scan(b"a", b"c", usize::MAX), keys[..5]);
    assert_eq!(scan(b"a\0", b"b\xff", 9), keys[1..4]);
    assert_eq!(scan(b"", END, 2), keys[..2]);
    assert!(scan(b"", END, 0).is_empty());
    assert!(scan(b"b", b"b", 9).is_empty());
    assert!(scan(b"c", b"a", 9).is_empty());
    assert!(scan(b"d", END, 9).is_empty());
}

fn later_changes_of_a_batch_win(engine: &dyn Engine) {
    let table = engine.open();
    let mut changes = TableBatch::default();
    changes.put("twice", "1");
    changes.put("gone", "1");
    changes.remove("back");
    changes.put("twice", "2");
    changes.remove("gone");
    changes.put("back", "2");
    table.apply(changes).expect("applied");
    let expected = [(bytes("back"), bytes("2")), (bytes("twice"), bytes("2"))];
    assert_eq!(all(&*table), Rows::from(expected));
}

fn empty_and_big_rows_are_rows(engine: &dyn Engine) {
    let table = engine.open();
    let big = Bytes::from((0..1 << 20).map(|i: u32| (i % 251) as u8).collect::<Vec<u8>>());
    let rows = Rows::from([
        (bytes(""), bytes("the empty key")),
        (bytes("an empty value"), bytes("")),
        (bytes(vec![b'k'; 4 << 10]), bytes("a long key")),
        (bytes("big 1"), big.clone()),
        (bytes("big 2"), big.slice(1..)),
        (bytes("big 3"), big.slice(2..)),
    ]);
    put_all(&*table, rows.clone());
    assert_eq!(table.get(b"").expect("got"), Some(bytes("the empty key")));
    assert_eq!(table.get(b"an empty value").expect("got"), Some(bytes("")));
    assert!(all(&*table) == rows);
    let mut view = table.view().expect("a view");
    assert!(rest_of(&mut *view, 1).into_iter().collect::<Rows>() == rows);
    table.checkpoint().expect("a checkpoint");
    drop((table, view));
    assert!(all(&*engine.open()) == rows);
}

fn many_rows_stay_in_order(engine: &dyn Engine) {
    const ROWS: u32 = 5_000;
    let table = engine.open();
    // 7919 is prime to 5000, so that this visits every row once, out of order.
    let numbers: Vec<u32> = (0..ROWS).map(|i| i * 7919 % ROWS).collect();
    let row = |i: u32| (Bytes::copy_from_slice(&i.to_be_bytes()), bytes(i.to_string()));
    for chunk in numbers.chunks(250) {
        put_all(&*table, chunk.iter().map(|i| row(*i)));
    }
    let expected: Vec<_> = (0..ROWS).map(row).collect();
    assert_eq!(table.scan(b"", END, usize::MAX).expect("scanned"), expected);
    let middle = table.scan(&1_000u32.to_be_bytes(), &4_000u32.to_be_bytes(), 100);
    assert_eq!(middle.expect("scanned"), expected[1_000..1_100]);
    let mut view = table.view().expect("a view");
    assert_eq!(rest_of(&mut *view, 1_000), expected);
}

/// A key among few, so that random changes meet.
fn any_key() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(0u8..4, 0..4).prop_map(Bytes::from)
}

fn any_changes() -> impl Strategy<Value = Vec<(Bytes, Option<Bytes>)>> {
    let value = proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let change = (any_key(), proptest::option::weighted(0.7, value));
    proptest::collection::vec(change, 0..12)
}

fn apply_to_model(model: &mut Rows, changes: &[(Bytes, Option<Bytes>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

/// Runs a property over one table that keeps its rows from case to case, beside a model of them.
fn for_random<S: Strategy>(cases: u32, strategy: S, mut property: impl FnMut(S::Value)) {
    use proptest::test_runner::{Config, TestRunner};
    let property = std::cell::RefCell::new(&mut property);
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    TestRunner::new(config)
        .run(&strategy, |input| {
            (property.borrow_mut())(input);
            Ok(())
        })
        .expect("the property holds");
}

fn random_batches_match_a_model(engine: &dyn Engine) {
    let table = engine.open();
    let mut model = Rows::new();
    let strategy = (any_changes(), any_key(), any_key(), 0usize..20);
    for_random(200, strategy, |(changes, from, to, limit)| {
        apply_to_model(&mut model, &changes);
        table.apply(batch(changes)).expect("applied");
        assert_eq!(all(&*table), model);
        assert_eq!(table.get(&from).expect("got"), model.get(&from).cloned());
        let rows = model.iter().map(|(key, value)| (key.clone(), value.clone()));
        let expected: Vec<_> =
            rows.filter(|(key, _)| *key >= from && *key < to).take(limit).collect();
        assert_eq!(table.scan(&from, &to, limit).expect("scanned"), expected);
        let keys: Vec<_> = expected.into_iter().map(|(key, _)| key).collect();
        assert_eq!(table.scan_keys(&from, &to, limit).expect("scanned"), keys);
    });
}

fn a_checkpoint_keeps_everything(engine: &dyn Engine) {
    let mut model = Rows::new();
    for round in 0..4 {
        let table = engine.open();
        assert_eq!(all(&*table), model, "after {round} checkpoints");
        for i in 0..50 {
            let rows = [(bytes(format!("{round}/{i}")), bytes(format!("value {i}")))];
            model.extend(rows.clone());
            put_all(&*table, rows);
        }
        table.checkpoint().expect("a checkpoint");
        assert_eq!(all(&*engine.open_after_crash()), model);
    }
}

/// What batch `number` changes: its own row, the row of an older batch, and the position.
fn numbered(number: u32) -> Vec<(Bytes, Option<Bytes>)> {
    let mut changes = vec![
        (bytes("position"), Some(bytes(number.to_string()))),
        (bytes(format!("row {:03}", number % 40)), Some(bytes(format!("{number}").repeat(50)))),
    ];
    if number.is_multiple_of(3) {
        changes.push((bytes(format!("row {:03}", number / 2 % 40)), None));
    }
    changes
}

fn a_crash_leaves_whole_batches_up_to_the_checkpoint_or_later(engine: &dyn Engine) {
    let table = engine.open();
    let mut pictures = vec![Rows::new()];
    let mut checkpointed = 0;
    for number in 1..=300u32 {
        let mut model = pictures.last().cloned().unwrap_or_default();
        apply_to_model(&mut model, &numbered(number));
        pictures.push(model);
        table.apply(batch(numbered(number))).expect("applied");
        if number.is_multiple_of(70) {
            table.checkpoint().expect("a checkpoint");
            checkpointed = number;
        }
        if number.is_multiple_of(25) {
            let left = all(&*engine.open_after_crash());
            let position = left.get(&b"position"[..]).map_or(0, |text| {
                std::str::from_utf8(text).expect("digits").parse::<u32>().expect("a number")
            });
            assert!(position >= checkpointed, "{position} of {number}, synced {checkpointed}");
            assert_eq!(left, pictures[position as usize], "at {position} of {number}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(Bytes, Option<Bytes>)>),
    Page(usize),
}

fn a_view_is_the_picture_at_its_start(engine: &dyn Engine) {
    let table = engine.open();
    let mut model = Rows::new();
    let step = prop_oneof![
        2 => any_changes().prop_map(Step::Apply),
        1 => (0usize..150).prop_map(Step::Page),
    ];
    for_random(200, proptest::collection::vec(step, 0..12), |steps| {
        let mut view = table.view().expect("a view");
        let (at_start, mut seen) = (model.clone(), Vec::new());
        for step in steps {
            match step {
                Step::Apply(changes) => {
                    apply_to_model(&mut model, &changes);
                    table.apply(batch(changes)).expect("applied");
                }
                Step::Page(max_bytes) => seen.extend(view.next_page(max_bytes).expect("a page")),
            }
        }
        seen.extend(rest_of(&mut *view, 20));
        assert_eq!(seen, at_start.into_iter().collect::<Vec<_>>());
        assert_eq!(all(&*table), model);
    });
}

fn a_view_shows_whole_batches_while_a_writer_runs(engine: &dyn Engine) {
    const ROWS: u32 = 64;
    const BATCHES: u32 = 400;
    let table = engine.open();
    let numbered = |number: u32| {
        (0..ROWS).map(move |row| (bytes(format!("{row:02}")), bytes(number.to_string())))
    };
    put_all(&*table, numbered(0));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 1..=BATCHES {
                put_all(&*table, numbered(number));
            }
        });
        let mut last = 0;
        while last < BATCHES {
            let mut view = table.view().expect("a view");
            let rows = rest_of(&mut *view, 8);
            let number = rows[0].1.clone();
            assert_eq!(rows.len(), ROWS as usize);
            assert!(rows.iter().all(|(_, value)| *value == number), "{rows:?}");
            let number: u32 = std::str::from_utf8(&number).expect("digits").parse().expect("one");
            assert!(number >= last, "a later view is not older");
            last = number;
            if writer.is_finished() {
                break;
            }
        }
    });
    assert!(table.get(b"00").expect("got") == Some(bytes(BATCHES.to_string())));
}

fn a_second_view_ends_the_first(engine: &dyn Engine) {
    let table = engine.open();
    let row = |i: u8| (bytes([i]), bytes("v"));
    put_all(&*table, (0..9).map(row));
    let mut first = table.view().expect("a view");
    assert_eq!(first.next_page(1).expect("a page"), [row(0)]);
    let mut second = table.view().expect("a view");
    assert!(matches!(first.next_page(1), Err(TableError::ViewEnded)));
    put_all(&*table, [row(9)]);
    drop(first);
    put_all(&*table, [row(10)]);
    assert_eq!(rest_of(&mut *second, 1), (0..9).map(row).collect::<Vec<_>>());
    assert!(second.next_page(1).expect("still at the end").is_empty());
}

fn a_table_opens_again_right_after_a_close_also_while_a_view_is_held(engine: &dyn Engine) {
    let (mut kept, mut held) = (Rows::new(), None);
    for round in 0..10u32 {
        let table = engine.open();
        let late = (bytes("late"), bytes(round.to_string()));
        let found = all(&*table);
        // Closing need not make durable what came after the last checkpoint.
        let with_late = found.get(&late.0).map(|value| (late.0.clone(), value.clone()));
        assert_eq!(found, kept.clone().into_iter().chain(with_late).collect(), "round {round}");
        let row = (bytes(format!("{round:02}")), bytes("v"));
        kept.extend([row.clone()]);
        put_all(&*table, [row]);
        table.checkpoint().expect("a checkpoint");
        put_all(&*table, [late]);
        let picture = all(&*table);
        let mut view = table.view().expect("a view");
        drop(table);
        match view.next_page(1 << 20) {
            Ok(page) => assert_eq!(page.into_iter().collect::<Rows>(), picture, "round {round}"),
            Err(error) => assert!(matches!(error, TableError::ViewEnded), "{error}"),
        }
        // Over the next round's opening, until it closes.
        drop(held.replace(view));
    }
}

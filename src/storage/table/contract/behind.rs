//! The layers in front of sled: the suite over them, and what they do by themselves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::storage::table::write_behind::Limits;

const NEVER: Duration = Duration::from_secs(3_600);

/// Flushes every few rows, so that a test's rows are in all layers at once.
const SMALL: Limits = Limits {
    flush_rows: 3,
    flush_bytes: 1 << 10,
    max_rows: 8,
    max_bytes: 4 << 10,
    idle_flush: Duration::from_millis(1),
};

/// Flushes only when it is asked to.
const BY_HAND: Limits = Limits {
    flush_rows: usize::MAX,
    flush_bytes: usize::MAX,
    max_rows: usize::MAX,
    max_bytes: usize::MAX,
    idle_flush: NEVER,
};

/// What a test does to an inner table, and sees of it.
#[derive(Clone, Default)]
struct Hand {
    /// Whoever holds it holds up what is applied.
    gate: Arc<Mutex<()>>,
    fails: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
    /// The rows after each batch, and how many changes it had.
    history: Arc<Mutex<Vec<(usize, Rows)>>>,
}

struct Inner<T> {
    table: T,
    hand: Hand,
    keeps_history: bool,
}

impl<T: Table> Table for Inner<T> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
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
        self.table.scan_keys(from, to, limit)
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        let _open = self.hand.gate.lock();
        assert!(!self.hand.panics.load(Ordering::SeqCst), "the engine is told to panic");
        if self.hand.fails.load(Ordering::SeqCst) {
            return Err(TableError::Damaged("the engine is told to fail".to_owned()));
        }
        let changes = batch.changes.len();
        self.table.apply(batch)?;
        if self.keeps_history {
            self.hand.history.lock().push((changes, all(&self.table)));
        }
        Ok(())
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

/// sled behind layers, as an engine of the suite.
pub(super) struct Behind {
    sled: Sled,
    limits: Limits,
    hand: Hand,
}

impl Behind {
    pub(super) fn small() -> Behind {
        Behind { sled: Sled::new(), limits: SMALL, hand: Hand::default() }
    }

    pub(super) fn of_a_node() -> Behind {
        Behind { sled: Sled::new(), limits: Limits::SLED, hand: Hand::default() }
    }
}

impl Engine for Behind {
    fn open(&self) -> Box<dyn Table> {
        let table = self.sled.open_with(1 << 20);
        let inner = Inner { table, hand: self.hand.clone(), keeps_history: false };
        Box::new(WriteBehind::with_limits(inner, self.limits).expect("a thread"))
    }

    fn open_after_crash(&self) -> Box<dyn Table> {
        // Files copied one after another while sled writes to them are not what a crash leaves.
        let _no_flush = self.hand.gate.lock();
        self.sled.open_after_crash()
    }
}

/// fjall behind the layers of a node, as an engine of the suite.
pub(super) struct FjallBehind {
    fjall: super::fjall::Fjall,
    hand: Hand,
}

impl FjallBehind {
    pub(super) fn of_a_node() -> FjallBehind {
        FjallBehind { fjall: super::fjall::Fjall::new(), hand: Hand::default() }
    }
}

impl Engine for FjallBehind {
    fn open(&self) -> Box<dyn Table> {
        let table = self.fjall.table();
        let inner = Inner { table, hand: self.hand.clone(), keeps_history: false };
        Box::new(WriteBehind::new(inner).expect("a thread"))
    }

    fn open_after_crash(&self) -> Box<dyn Table> {
        // As above.
        let _no_flush = self.hand.gate.lock();
        self.fjall.open_after_crash()
    }
}

/// A memory table behind layers, and the hand on it.
fn in_memory(limits: Limits) -> (WriteBehind<Inner<MemoryTable>>, Hand) {
    let hand = Hand::default();
    let table = MemoryTable::open(Arc::new(SimDisk::new(1)), "table").expect("it opens");
    let inner = Inner { table, hand: hand.clone(), keeps_history: true };
    (WriteBehind::with_limits(inner, limits).expect("a thread"), hand)
}

/// Waits for what another thread brings about sooner or later.
fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        thread::yield_now();
    }
}

fn row(i: u32) -> Bytes {
    bytes(format!("{i:04}"))
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(Bytes, Option<Bytes>)>),
    /// Freezes what there is, and leaves it frozen.
    Freeze,
    Flush,
}

#[test]
fn reads_see_active_over_frozen_over_inner() {
    let (table, hand) = in_memory(BY_HAND);
    let mut model = Rows::new();
    let mut in_all_three = 0;
    let step = prop_oneof![
        2 => any_changes().prop_map(Step::Apply),
        1 => Just(Step::Freeze),
        1 => Just(Step::Flush),
    ];
    let read = (any_key(), any_key(), 0usize..20);
    let strategy = proptest::collection::vec((step, read), 0..20);
    for_random(200, strategy, |steps| {
        let mut gate = None;
        for (step, (from, to, limit)) in steps {
            match step {
                Step::Apply(changes) => {
                    apply_to_model(&mut model, &changes);
                    table.apply(batch(changes)).expect("applied");
                }
                Step::Freeze if gate.is_none() => {
                    table.checkpoint().expect("nothing is frozen after it");
                    table.apply(batch([(bytes([1, 2]), None)])).expect("applied");
                    model.remove(&bytes([1, 2]));
                    gate = Some(hand.gate.lock());
                    table.begin_flush();
                }
                Step::Freeze | Step::Flush => {
                    gate = None;
                    table.checkpoint().expect("a checkpoint");
                }
            }
            let (active, frozen) = table.layer_rows();
            let inner = hand.history.lock().last().map_or(0, |(_, rows)| rows.len());
            in_all_three += usize::from(active > 0 && frozen > 0 && inner > 0);
            assert_eq!(all(&table), model);
            assert_eq!(table.get(&from).expect("got"), model.get(&from).cloned());
            let rows = model.iter().map(|(key, value)| (key.clone(), value.clone()));
            let expected: Vec<_> =
                rows.filter(|(key, _)| *key >= from && *key < to).take(limit).collect();
            assert_eq!(table.scan(&from, &to, limit).expect("scanned"), expected);
            let keys: Vec<_> = expected.into_iter().map(|(key, _)| key).collect();
            assert_eq!(table.scan_keys(&from, &to, limit).expect("scanned"), keys);
        }
    });
    assert!(in_all_three > 100, "only {in_all_three} reads had rows in every layer");
}

#[test]
fn scans_pass_over_long_runs_of_removed_and_new_rows() {
    let (table, hand) = in_memory(BY_HAND);
    let mut model = Rows::new();
    let mut apply = |changes: Vec<(Bytes, Option<Bytes>)>| {
        apply_to_model(&mut model, &changes);
        table.apply(batch(changes)).expect("applied");
    };
    apply((0..4_000).map(|i| (row(i), Some(bytes("inner")))).collect());
    table.checkpoint().expect("all of it is in the inner table");
    // Runs longer than a scan looks at in one go: removed in the frozen layer, then in the active.
    apply((0..1_500).map(|i| (row(i), None)).collect());
    apply((2_000..3_500).map(|i| (row(i), Some(bytes("frozen")))).collect());
    let gate = hand.gate.lock();
    table.begin_flush();
    apply((1_500..1_900).chain(2_100..2_300).map(|i| (row(i), None)).collect());
    apply((1_000..1_100).step_by(7).map(|i| (row(i), Some(bytes("active")))).collect());
    apply((3_990..4_200).map(|i| (row(i), Some(bytes("active")))).collect());
    assert_eq!(table.layer_rows(), (400 + 200 + 15 + 210, 3_000));
    for from in [0, 1, 999, 1_001, 1_499, 1_899, 2_050, 3_499, 3_989, 4_199, 4_200] {
        for limit in [1, 2, 63, 64, 65, 700, 1_024, 1_025, usize::MAX] {
            let expected: Vec<_> = model
                .range(row(from)..)
                .take(limit)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let rows = table.scan(&row(from), END, limit).expect("scanned");
            assert!(rows == expected, "{limit} from {from}");
            let keys = table.scan_keys(&row(from), END, limit).expect("scanned");
            assert!(keys.iter().eq(expected.iter().map(|(key, _)| key)), "{limit} from {from}");
        }
    }
    drop(gate);
}

#[test]
fn the_inner_table_is_always_a_prefix_of_whole_batches() {
    let (table, hand) = in_memory(SMALL);
    let mut pictures = vec![Rows::new()];
    for number in 1..=600 {
        let mut model = pictures.last().cloned().unwrap_or_default();
        apply_to_model(&mut model, &numbered(number));
        pictures.push(model);
        table.apply(batch(numbered(number))).expect("applied");
    }
    table.checkpoint().expect("a checkpoint");
    let history = hand.history.lock();
    let mut last = 0;
    for (_, rows) in &*history {
        let position = std::str::from_utf8(&rows[&b"position"[..]]).expect("digits");
        let position: usize = position.parse().expect("a number");
        assert!(position > last, "{position} after {last}");
        assert_eq!(*rows, pictures[position], "at {position}");
        last = position;
    }
    assert_eq!(last, 600, "a checkpoint leaves nothing behind");
    assert!(history.len() > 10, "small layers are flushed often");
}

#[test]
fn changes_of_one_row_reach_the_inner_table_as_one() {
    let (table, hand) = in_memory(BY_HAND);
    for i in 0..100u32 {
        put_all(&table, [(bytes("row"), bytes(i.to_string()))]);
    }
    assert_eq!(hand.history.lock().len(), 0);
    table.checkpoint().expect("a checkpoint");
    let expected = Rows::from([(bytes("row"), bytes("99"))]);
    assert_eq!(*hand.history.lock(), [(1, expected)]);
}

#[test]
fn a_layer_that_waits_is_flushed_without_being_asked() {
    let idle_flush = Duration::from_millis(1);
    let (table, _) = in_memory(Limits { idle_flush, ..BY_HAND });
    for i in 0..3 {
        put_all(&table, [(row(i), bytes("v"))]);
        until(|| table.layer_rows() == (0, 0));
    }
    assert_eq!(all(&table).len(), 3);
}

#[test]
fn a_layer_is_flushed_for_its_rows_or_for_its_bytes() {
    let by_rows = Limits { flush_rows: 3, ..BY_HAND };
    let by_bytes = Limits { flush_bytes: 3_000, ..BY_HAND };
    for limits in [by_rows, by_bytes] {
        let (table, hand) = in_memory(limits);
        put_all(&table, [(row(1), bytes([7; 1_000])), (row(2), bytes([7; 1_000]))]);
        // The same rows again are no more.
        put_all(&table, [(row(1), bytes([8; 1_000])), (row(2), bytes([8; 1_000]))]);
        put_all(&table, [(row(3), bytes([7; 1_000]))]);
        until(|| !hand.history.lock().is_empty());
        assert_eq!(hand.history.lock()[0].0, 3);
    }
}

#[test]
fn a_long_flush_may_be_waited_for_from_before_it_begins_until_it_has_ended() {
    let (table, hand) = in_memory(BY_HAND);
    put_all(&table, (0..10).map(|i| (row(i), bytes("v"))));
    assert!(!table.may_wait(), "a short one is soon over");
    put_all(&table, (0..2_000).map(|i| (row(i), bytes("v"))));
    assert!(table.may_wait());
    let gate = hand.gate.lock();
    table.begin_flush();
    put_all(&table, [(row(1), bytes("w"))]);
    assert!(table.may_wait(), "it is under way");
    drop(gate);
    until(|| table.layer_rows() == (1, 0));
    assert!(!table.may_wait());
    put_all(&table, [(row(2), bytes(vec![7; 2 << 20]))]);
    assert!(table.may_wait(), "few rows, and many bytes");
}

#[test]
fn a_writer_waits_for_a_slow_flush_so_that_memory_is_bounded() {
    let (table, hand) = in_memory(Limits { idle_flush: NEVER, ..SMALL });
    let applied = AtomicUsize::new(0);
    thread::scope(|scope| {
        let gate = hand.gate.lock();
        scope.spawn(|| {
            for i in 0..200 {
                put_all(&table, [(row(i), bytes("v"))]);
                applied.fetch_add(1, Ordering::SeqCst);
            }
        });
        until(|| {
            let (active, frozen) = table.layer_rows();
            active >= SMALL.max_rows && frozen > 0
        });
        for _ in 0..1_000 {
            let (active, frozen) = table.layer_rows();
            assert!(active <= SMALL.max_rows && frozen <= SMALL.max_rows, "{active}, {frozen}");
            assert!(applied.load(Ordering::SeqCst) <= active + frozen);
            thread::yield_now();
        }
        drop(gate);
    });
    assert_eq!(all(&table).len(), 200);
}

#[test]
fn a_failed_flush_is_final_and_ends_every_wait() {
    for panics in [false, true] {
        let (table, hand) = in_memory(Limits { idle_flush: NEVER, ..SMALL });
        put_all(&table, [(bytes("row"), bytes("old"))]);
        table.checkpoint().expect("all is well yet");
        let told = if panics { &hand.panics } else { &hand.fails };
        told.store(true, Ordering::SeqCst);
        thread::scope(|scope| {
            let gate = hand.gate.lock();
            // One waits for room, the other for its rows to be flushed.
            scope.spawn(|| {
                let put = |i| table.apply(batch([(row(i), Some(bytes("new")))]));
                assert!((0..200).any(|i| put(i).is_err()), "it did not end");
            });
            until(|| table.layer_rows().0 >= SMALL.max_rows);
            scope.spawn(|| table.checkpoint().expect_err("the flush fails"));
            drop(gate);
        });
        told.store(false, Ordering::SeqCst);
        let expected = if panics { "panicked" } else { "told to fail" };
        let errors = [
            table.get(b"row").expect_err("a read"),
            table.scan(b"", END, 1).expect_err("a scan"),
            table.scan_keys(b"", END, 1).expect_err("a scan of keys"),
            table.apply(TableBatch::default()).expect_err("a batch"),
            table.checkpoint().expect_err("a checkpoint"),
            table.view().err().expect("a view"),
        ];
        assert!(errors.iter().all(|e| e.to_string().contains(expected)), "{errors:?}");
        drop(table);
        assert_eq!(hand.history.lock().len(), 1, "nothing was written after the failure");
    }
}

#[test]
fn closing_writes_what_is_left_and_lets_go_of_the_files() {
    let engine = Behind { limits: BY_HAND, ..Behind::small() };
    for round in 0..10u32 {
        let table = engine.open();
        assert_eq!(all(&*table).len(), round as usize);
        let mut view = table.view().expect("a view");
        put_all(&*table, [(row(round), bytes("v"))]);
        drop(table);
        assert!(matches!(view.next_page(1), Err(TableError::ViewEnded)));
    }
}

//! What fjall does by itself: its journals torn, flipped and lost.

use std::fs;
use std::path::PathBuf;

use super::*;

/// fjall, as an engine of the suite.
pub(super) struct Fjall {
    dir: tempfile::TempDir,
    crashed: tempfile::TempDir,
}

impl Fjall {
    pub(super) fn new() -> Fjall {
        let dir = || tempfile::tempdir().expect("a temporary directory");
        Fjall { dir: dir(), crashed: dir() }
    }

    pub(super) fn table(&self) -> FjallTable {
        open(&self.path()).expect("the table opens")
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("table")
    }

    /// A copy of its files as they are now.
    fn copy(&self) -> PathBuf {
        let copies = fs::read_dir(self.crashed.path()).expect("it exists").count();
        let copy = self.crashed.path().join(copies.to_string());
        copy_dir(&self.path(), &copy);
        copy
    }
}

fn open(path: &Path) -> Result<FjallTable, TableError> {
    FjallTable::open(path, 16 << 20)
}

impl Engine for Fjall {
    fn open(&self) -> Box<dyn Table> {
        Box::new(self.table())
    }

    fn open_after_crash(&self) -> Box<dyn Table> {
        Box::new(open(&self.copy()).expect("the copy opens"))
    }
}

/// The number of the last of [`numbered`]'s batches that `rows` show.
fn position(rows: &Rows) -> usize {
    rows.get(&b"position"[..])
        .map_or(0, |text| std::str::from_utf8(text).expect("digits").parse().expect("a number"))
}

/// The rows after each of the first `count` of [`numbered`]'s batches.
fn pictures(count: u32) -> Vec<Rows> {
    let mut pictures = vec![Rows::new()];
    for number in 1..=count {
        let mut model = pictures.last().cloned().unwrap_or_default();
        apply_to_model(&mut model, &numbered(number));
        pictures.push(model);
    }
    pictures
}

/// Applies [`numbered`]'s batches, checkpoints after one of them, and closes.
fn with_batches(count: u32, checkpointed: u32) -> Fjall {
    let engine = Fjall::new();
    let table = engine.open();
    for number in 1..=count {
        table.apply(batch(numbered(number))).expect("applied");
        if number == checkpointed {
            table.checkpoint().expect("a checkpoint");
        }
    }
    drop(table);
    // A journal takes its space ahead, which a copy would fill in.
    let journal = engine.path().join("0.jnl");
    let bytes = fs::read(&journal).expect("the journal");
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    fs::write(&journal, &bytes[..used]).expect("written");
    engine
}

/// Opens what is left of a table with `count` batches: gives how many it holds, or `None` where it is
/// refused with one clear line.
fn held(path: &Path, pictures: &[Rows]) -> Option<usize> {
    let rows = open(path).and_then(|table| {
        let rows = table.scan(b"", END, usize::MAX)?;
        // It goes on from there, and opens again.
        table.apply(batch([(bytes("after"), Some(bytes("v")))]))?;
        table.apply(batch([(bytes("after"), None)]))?;
        drop(table);
        let again = open(path)?.scan(b"", END, usize::MAX)?;
        assert_eq!(rows, again);
        Ok(rows.into_iter().collect::<Rows>())
    });
    match rows {
        Ok(rows) => {
            assert!(rows == pictures[position(&rows)], "no prefix: {rows:?}");
            Some(position(&rows))
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains('\n') && line.contains("table"), "{line}");
            assert!(!line.contains("acquire lock"), "refused for another reason: {line}");
            println!("{line}");
            None
        }
    }
}

#[test]
fn a_journal_torn_at_any_byte_of_the_last_batches_gives_the_batches_before() {
    const BATCHES: u32 = 12;
    let pictures = pictures(BATCHES);
    let engine = with_batches(BATCHES, 10);
    let whole = fs::read(engine.path().join("0.jnl")).expect("the journal");
    let mut seen = Vec::new();
    for cut in (0..whole.len()).rev() {
        // Where space was taken ahead, zeros follow.
        let zeros = if cut.is_multiple_of(7) { 100 } else { 0 };
        let copy = engine.copy();
        let journal = [&whole[..cut], &vec![0; zeros]].concat();
        fs::write(copy.join("0.jnl"), journal).expect("written");
        let held = held(&copy, &pictures);
        fs::remove_dir_all(&copy).expect("removed");
        seen.push(held);
        if held.is_none() {
            break;
        }
    }
    seen.dedup();
    assert_eq!(seen, [Some(11), Some(10), None], "each batch goes as its last byte does");
}

#[test]
fn a_torn_page_in_the_middle_of_a_batch_is_a_torn_tail() {
    let pictures = pictures(12);
    let engine = with_batches(12, 10);
    let mut bytes = fs::read(engine.path().join("0.jnl")).expect("the journal");
    // Of the last batch's long value some bytes never reached the device, while its end did.
    let len = bytes.len();
    bytes[len - 80..len - 70].fill(0);
    fs::write(engine.path().join("0.jnl"), bytes).expect("written");
    assert_eq!(held(&engine.path(), &pictures), Some(11));
}

#[test]
fn any_flipped_bit_is_refused_or_gives_what_the_checkpoint_reached() {
    const BATCHES: u32 = 4;
    let pictures = pictures(BATCHES);
    for checkpointed in [2, BATCHES] {
        let engine = with_batches(BATCHES, checkpointed);
        let copy = engine.copy();
        let (mut refused, mut cut) = (0, 0);
        for file in files_under(&engine.path()) {
            let name = file.strip_prefix(engine.path()).expect("below it");
            let whole = fs::read(&file).expect("a file");
            if checkpointed < BATCHES && name != Path::new("0.jnl") {
                continue;
            }
            // Every byte of the journal, and of the other files some.
            let step = if name == Path::new("0.jnl") { 1 } else { 11 };
            for at in (0..whole.len()).step_by(step) {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << (at % 8);
                fs::remove_dir_all(&copy).expect("removed");
                copy_dir(&engine.path(), &copy);
                fs::write(copy.join(name), bytes).expect("written");
                match held(&copy, &pictures) {
                    Some(held) if held < checkpointed as usize => {
                        panic!("{held} of {checkpointed} after a flip at {at} of {name:?}")
                    }
                    Some(held) => cut += usize::from(held < BATCHES as usize),
                    None => refused += 1,
                }
            }
        }
        assert!(refused > 50, "only {refused} were refused");
        assert_eq!(cut > 0, checkpointed < BATCHES);
    }
}

/// Sets the table in memory aside every few batches, and is closed once that is done.
fn with_sorted_files(count: u32) -> Fjall {
    const MEMORY_TABLE_BYTES: u64 = 20_000;
    let engine = Fjall::new();
    let table = FjallTable::open_with(&engine.path(), 1 << 20, MEMORY_TABLE_BYTES);
    let table = table.expect("the table opens");
    for number in 1..=count {
        table.apply(batch(numbered(number))).expect("applied");
    }
    table.checkpoint().expect("a checkpoint");
    drop(table);
    engine
}

#[test]
fn sorted_files_with_damage_are_refused_when_they_are_read() {
    const BATCHES: u32 = 200;
    let pictures = pictures(BATCHES);
    let engine = with_sorted_files(BATCHES);
    assert_eq!(held(&engine.copy(), &pictures), Some(BATCHES as usize));
    assert!(!files_under(&engine.path().join("keyspaces/1/tables")).is_empty());
    let copy = engine.copy();
    let mut refused = 0;
    for file in files_under(&engine.path().join("keyspaces/1")) {
        let name = file.strip_prefix(engine.path()).expect("below it");
        let whole = fs::read(&file).expect("a file");
        // Spread over the file, and all of its end, where it says what is where.
        let spread = (0..whole.len()).step_by(whole.len() / 15 + 1);
        for at in spread.chain((whole.len().saturating_sub(150)..whole.len()).step_by(4)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::remove_dir_all(&copy).expect("removed");
            copy_dir(&engine.path(), &copy);
            fs::write(copy.join(name), bytes).expect("written");
            match held(&copy, &pictures) {
                Some(held) => assert_eq!(held, BATCHES as usize, "a flip at {at} of {name:?}"),
                None => refused += 1,
            }
        }
    }
    assert!(refused > 50, "only {refused} were refused");
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn lost_files_are_refused_where_a_checkpoint_needs_them() {
    let pictures = pictures(12);
    for (name, is_folder) in
        [("0.jnl", false), ("version", false), ("keyspaces/1/current", false), ("keyspaces", true)]
    {
        let engine = with_batches(12, 10);
        let path = engine.path().join(name);
        if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        assert_eq!(held(&engine.path(), &pictures), None, "without {name}");
    }
    // Nothing was promised before the first checkpoint, but a table without its mark is suspect.
    let engine = with_batches(12, u32::MAX);
    fs::remove_file(engine.path().join("0.jnl")).expect("removed");
    assert_eq!(held(&engine.path(), &pictures), Some(0));
    let engine = with_batches(12, u32::MAX);
    fs::remove_file(engine.path().join("checkpointed")).expect("removed");
    assert_eq!(held(&engine.path(), &pictures), None);
}

#[test]
fn a_table_whose_making_was_interrupted_is_made_anew() {
    let pictures = pictures(1);
    let whole = Fjall::new();
    drop(whole.open());
    fs::remove_file(whole.path().join("checkpointed")).expect("removed");
    for missing in ["", "version", "keyspaces/1", "keyspaces", "0.jnl"] {
        let copy = whole.copy();
        let path = copy.join(missing);
        match (missing, path.is_dir()) {
            ("", _) => {}
            (_, true) => fs::remove_dir_all(path).expect("removed"),
            (_, false) => fs::remove_file(path).expect("removed"),
        }
        assert_eq!(held(&copy, &pictures), Some(0), "without {missing}");
    }
}

/// Batches large enough that the table in memory and the journal are set aside more than once.
fn large(number: u32) -> Vec<(Bytes, Option<Bytes>)> {
    let mut changes = numbered(number);
    changes.push((
        bytes(format!("large {:02}", number % 30)),
        Some(vec![number as u8; 1 << 20].into()),
    ));
    changes
}

#[test]
fn rows_without_a_mark_and_without_journals_are_refused_and_left_alone() {
    let engine = Fjall::new();
    let table = engine.open();
    for number in 1..=60 {
        table.apply(batch(large(number))).expect("applied");
    }
    table.checkpoint().expect("a checkpoint");
    drop(table);
    let tables =
        || fs::read_dir(engine.path().join("keyspaces/1/tables")).expect("it exists").count();
    let before = tables();
    assert!(before > 0, "nothing was written out, and this shows nothing");
    for file in files_under(&engine.path()) {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        if name == "checkpointed" || name.ends_with(".jnl") {
            fs::remove_file(file).expect("removed");
        }
    }
    let refused = open(&engine.path()).err().expect("refused").to_string();
    assert!(refused.contains("checkpoint"), "{refused}");
    assert_eq!(tables(), before);
}

#[test]
fn rows_come_back_from_sorted_files_and_journals_together() {
    const BATCHES: u32 = 150;
    let engine = Fjall::new();
    let table = engine.open();
    let mut pictures = vec![Rows::new()];
    for number in 1..=BATCHES {
        let mut model = pictures.last().cloned().unwrap_or_default();
        apply_to_model(&mut model, &large(number));
        pictures.push(model);
        table.apply(batch(large(number))).expect("applied");
        if number.is_multiple_of(30) {
            table.checkpoint().expect("a checkpoint");
        }
    }
    assert!(engine.path().join("1.jnl").exists(), "no journal was set aside");
    drop(table);
    let rows = all(&*engine.open());
    assert!(rows == pictures[BATCHES as usize]);
}

#[test]
fn a_table_that_another_has_open_is_refused_and_left_alone() {
    let engine = Fjall::new();
    let table = engine.open();
    // More than fjall holds back, so that its journal ends within a batch.
    for number in 1..=40 {
        table.apply(batch(numbered(number))).expect("applied");
    }
    let refused = open(&engine.path()).err().expect("it is locked");
    assert!(refused.to_string().contains("lock"), "{refused}");
    for number in 41..=80 {
        table.apply(batch(numbered(number))).expect("applied");
    }
    drop(table);
    assert_eq!(held(&engine.path(), &pictures(80)), Some(80));
}

#[test]
fn what_fails_in_fjalls_threads_ends_the_table() {
    let engine = Fjall::new();
    let table = FjallTable::open_with(&engine.path(), 1 << 20, 2_000).expect("the table opens");
    table.apply(batch(numbered(1))).expect("applied");
    fs::remove_dir_all(engine.path().join("keyspaces/1/tables")).expect("removed");
    // The thread that writes a sorted file finds no place for it, some time later.
    let error = (2..1_000_000).find_map(|n| table.apply(batch(numbered(n % 40))).err());
    let error = error.expect("a write is refused").to_string();
    assert!(error.contains("fjall stopped") && !error.contains('\n'), "{error}");
    for ended in [table.get(b"position").err(), table.checkpoint().err(), table.view().err()] {
        assert_eq!(ended.expect("nothing is served after it").to_string(), error);
    }
}

//! What one engine does by itself, beyond what all of them must.

use super::*;

#[test]
fn sled_bounds_what_a_view_keeps() {
    const LIMIT: u64 = 20_000;
    let engine = Sled::new();
    let table = engine.open_with(LIMIT);
    let row = |i: u32, text: &str| (bytes(format!("{i:03}")), bytes(text.repeat(100)));
    put_all(&table, (0..200).map(|i| row(i, "old")));
    let mut view = table.view().expect("a view");
    assert_eq!(view.next_page(1).expect("a page"), [row(0, "old")]);
    // Again and again the same rows: they are kept once.
    for _ in 0..100 {
        put_all(&table, (0..20).map(|i| row(i, "new")));
    }
    assert_eq!(view.next_page(1).expect("a page"), [row(1, "old")]);
    put_all(&table, (0..100).map(|i| row(i, "new")));
    for _ in 0..2 {
        let error = view.next_page(1).expect_err("too many old rows");
        assert!(matches!(error, TableError::ViewOverrun { limit_bytes: LIMIT }), "{error}");
    }
    // Another view starts afresh, and sees what it should.
    let mut view = table.view().expect("a view");
    let rows = rest_of(&mut *view, 1 << 20);
    let expected = (0..200).map(|i| row(i, if i < 100 { "new" } else { "old" }));
    assert_eq!(rows, expected.collect::<Vec<_>>());
}

#[test]
fn sled_lets_go_of_kept_rows_as_the_view_passes_them() {
    let engine = Sled::new();
    let table = engine.open_with(20_000);
    let row = |i: u32, text: &str| (bytes(format!("{i:04}")), bytes(text.repeat(50)));
    put_all(&table, (0..1_000).map(|i| row(i, "old")));
    let mut view = table.view().expect("a view");
    let mut seen = Vec::new();
    // All rows change ahead of the view, a few at a time: never more than the limit at once.
    for i in 0..1_000 {
        put_all(&table, [row(i, "new")]);
        seen.extend(view.next_page(1).expect("a page"));
    }
    assert_eq!(seen, (0..1_000).map(|i| row(i, "old")).collect::<Vec<_>>());
}

#[test]
fn sled_opens_again_right_after_a_close_also_under_a_view() {
    let engine = Sled::new();
    for round in 0..20u32 {
        let table = engine.open();
        assert_eq!(all(&*table).len(), round as usize);
        put_all(&*table, [(bytes(round.to_string()), bytes("v"))]);
        let mut view = table.view().expect("a view");
        drop(table);
        assert!(matches!(view.next_page(1), Err(TableError::ViewEnded)));
    }
}

#[test]
fn sled_waits_for_a_lock_that_is_let_go_and_no_longer() {
    let engine = Sled::new();
    drop(engine.open());
    let path = engine.dir.path().join("table");
    let lock = std::fs::File::open(path.join("db")).expect("sled's data file");
    lock.lock().expect("nobody has it");
    let refused = SledTable::open(&path, 1 << 20, 1 << 20).err().expect("it is locked");
    assert!(refused.to_string().contains("lock"), "{refused}");
    thread::scope(|scope| {
        // Lets go while the open below is most likely under way already.
        scope.spawn(move || {
            (0..1_000).for_each(|_| thread::yield_now());
            drop(lock);
        });
        engine.open();
    });
}

#[test]
fn a_damaged_checkpoint_in_memory_is_refused() {
    let disk = SimDisk::new(0);
    let open = || MemoryTable::open(Arc::new(disk.clone()), "table");
    let table = open().expect("it opens");
    put_all(&table, (0..5u8).map(|i| (bytes([i]), bytes("value"))));
    table.checkpoint().expect("a checkpoint");
    let len = disk.contents("table").expect("the checkpoint").len();
    for at in 0..len {
        assert!(disk.flip_bit("table", at, 3));
        assert!(matches!(open(), Err(TableError::Damaged(_))), "a flip at {at}");
        assert!(disk.flip_bit("table", at, 3));
    }
    assert_eq!(all(&open().expect("as good as new")), all(&table));
    for kept in (0..len as u64).rev() {
        disk.open("table").expect("the file").set_len(kept).expect("cut");
        assert!(matches!(open(), Err(TableError::Damaged(_))), "cut at {kept}");
    }
}

#[test]
fn a_checkpoint_in_memory_that_fails_leaves_the_old_or_the_new_and_is_the_last() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let open = || MemoryTable::open(Arc::new(disk.clone()), "dir/table").expect("it opens");
        let table = open();
        put_all(&table, [(bytes("row"), bytes("old"))]);
        table.checkpoint().expect("a checkpoint");
        put_all(&table, [(bytes("row"), bytes("new"))]);
        disk.fail_next_sync();
        table.checkpoint().expect_err("the sync fails");
        table.checkpoint().expect_err("nothing is known after a failed sync");
        disk.crash();
        let row = open().get(b"row").expect("got");
        assert!(row == Some(bytes("old")) || row == Some(bytes("new")), "{row:?}");
    }
}

#[test]
fn sled_files_with_damage_never_end_the_process() {
    let engine = Sled::new();
    let table = engine.open();
    for number in 1..=60 {
        table.apply(batch(numbered(number))).expect("applied");
    }
    table.checkpoint().expect("a checkpoint");
    drop(table);
    // Open once more, so that there is a snapshot file too.
    drop(engine.open());
    let mut at = 0x1234_5678_9abc_def0u64;
    let mut refused = 0;
    for round in 0..150 {
        let copy = engine.crashed.path().join(round.to_string());
        copy_dir(&engine.dir.path().join("table"), &copy);
        let names = std::fs::read_dir(&copy).expect("the copy").map(|e| e.expect("one").path());
        let mut files: Vec<_> = names.filter(|path| path.is_file()).collect();
        files.sort();
        let path = &files[round % files.len()];
        let mut bytes = std::fs::read(path).expect("the file");
        for _ in 0..3 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let len = bytes.len().clamp(1, 20_000);
            if let Some(byte) = bytes.get_mut((at >> 20) as usize % len) {
                *byte ^= (at >> 56) as u8 | 1;
            }
        }
        if round % 5 == 0 {
            bytes.truncate((at >> 24) as usize % bytes.len().max(1));
        }
        std::fs::write(path, bytes).expect("written");
        match SledTable::open(&copy, 1 << 20, 1 << 20) {
            Ok(table) => {
                let _ = table.scan(b"", END, usize::MAX);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "only {refused} of 150 were refused");
}

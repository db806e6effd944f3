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

/// Rows below and above every size at which sled or the table stores them in another way.
fn rows_of_all_sizes() -> Vec<(Bytes, Bytes)> {
    let sizes = [0, 1, 100, 4_000, 16_384, 16_385, 30_000, 100_000, 1 << 20];
    let row = |(i, size): (usize, &usize)| (bytes(format!("{i:03}")), Bytes::from(vec![7; *size]));
    sizes.iter().cycle().take(60).enumerate().map(row).collect()
}

#[test]
fn no_row_of_sled_lies_in_a_file_that_a_power_cut_takes() {
    let engine = Sled::new();
    let table = engine.open();
    let in_files = || {
        let blobs = std::fs::read_dir(engine.dir.path().join("table/blobs"));
        blobs.expect("sled's own directory").count()
    };
    put_all(&*table, rows_of_all_sizes());
    assert_eq!(in_files(), 0);
    assert_eq!(all(&*table), rows_of_all_sizes().into_iter().collect());
    // Written again and removed in turn, so that pages are rewritten whole.
    for round in 0..6 {
        for (i, (key, value)) in rows_of_all_sizes().into_iter().enumerate() {
            let change = (!(i + round).is_multiple_of(3)).then_some(value);
            table.apply(batch([(key, change)])).expect("applied");
        }
        table.checkpoint().expect("a checkpoint");
        assert_eq!(in_files(), 0, "round {round}");
    }
    // What large values were made of goes with them.
    let keys = rows_of_all_sizes().into_iter().map(|(key, _)| (key, None));
    table.apply(batch(keys)).expect("applied");
    drop(table);
    assert_eq!(raw(&engine).len(), 1, "more than the ledger is left");
}

/// sled itself, under the table.
fn raw(engine: &Sled) -> ::sled::Db {
    let config = ::sled::Config::new().path(engine.dir.path().join("table")).segment_size(2 << 20);
    (0..1_000)
        .find_map(|_| {
            thread::yield_now();
            config.open().ok()
        })
        .expect("sled opens")
}

#[test]
fn rows_that_sled_lost_in_silence_are_refused_and_no_older_row_is_served() {
    type Damage = fn(&::sled::Db, &[u8]);
    let kinds: [(&str, Damage); 3] = [
        ("a row that is missing", |db, key| drop(db.remove(key).expect("removed"))),
        ("a row that is older", |db, key| drop(db.insert(key, &b"\0old"[..]).expect("put"))),
        ("a row from nowhere", |db, _| {
            drop(db.insert(&b"\x01zzz"[..], &b"\0new"[..]).expect("put"))
        }),
    ];
    for (kind, damage) in kinds {
        let engine = Sled::new();
        let table = engine.open();
        put_all(&*table, rows_of_all_sizes());
        drop(table);
        let db = raw(&engine);
        let keys: Vec<_> = db.iter().keys().map(|key| key.expect("a key")).collect();
        damage(&db, &keys[keys.len() / 2]);
        drop(db);
        let path = engine.dir.path().join("table");
        let refused = SledTable::open(&path, 1 << 20, 1 << 20).err().expect(kind).to_string();
        assert!(refused.contains("damaged") && !refused.contains('\n'), "{kind}: {refused}");
        assert!(refused.contains(&path.display().to_string()), "{kind}: {refused}");
    }
}

#[test]
fn a_table_too_large_to_check_first_is_checked_beside_the_work() {
    let engine = Sled::new();
    let path = engine.dir.path().join("table");
    let open = || SledTable::open_checked(&path, 1 << 20, 1 << 20, 0).expect("it opens");
    let row = |i: u32| (bytes(format!("{i:05}")), bytes(format!("value {i}")));
    let table = open();
    put_all(&table, (0..3_000).map(row));
    drop(table);
    // Written to while it is checked: nothing is wrong, and nothing is found.
    let table = open();
    for i in 0..3_000 {
        table.apply(batch([(row(i).0, (i % 2 == 0).then(|| row(i + 1).1))])).expect("applied");
    }
    table.check_to_its_end().expect("all is right");
    drop(table);
    let db = raw(&engine);
    db.remove(b"\x0102998").expect("removed");
    drop(db);
    let table = open();
    put_all(&table, (0..100).map(row));
    table.check_to_its_end().expect_err("a row is missing");
    let error = table.get(b"00001").expect_err("nothing is served after that");
    assert!(error.to_string().contains("damaged"), "{error}");
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

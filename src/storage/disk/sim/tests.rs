//! What a crash does, and what it never does.

use super::*;
use std::collections::BTreeSet;

/// What `file` holds after a crash, for each of many seeds.
fn outcomes(steps: impl Fn(&SimDisk)) -> BTreeSet<Option<Vec<u8>>> {
    let after = |seed| {
        let disk = SimDisk::new(seed);
        steps(&disk);
        disk.crash();
        disk.contents("file")
    };
    (0..500).map(after).collect()
}

fn write_durably(disk: &SimDisk, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create("file").expect("creates");
    file.write_all_at(bytes, 0).expect("writes");
    file.sync().expect("syncs");
    disk.sync_dir("").expect("syncs the directory");
    file
}

#[test]
fn what_was_synced_survives_whole() {
    let seen = outcomes(|disk| drop(write_durably(disk, b"kept")));
    assert_eq!(seen, BTreeSet::from([Some(b"kept".to_vec())]));
}

#[test]
fn what_was_not_synced_is_kept_lost_or_torn_but_never_scrambled() {
    let seen = outcomes(|disk| {
        let file = write_durably(disk, b"kept");
        file.write_all_at(b"new!", 4).expect("writes");
    });
    let kept_lost_or_torn = [&b"kept"[..], b"keptn", b"keptne", b"keptnew", b"keptnew!"];
    for expected in kept_lost_or_torn {
        assert!(seen.contains(&Some(expected.to_vec())), "{expected:?} was never seen");
    }
    assert!(seen.contains(&Some(b"keptn\0\0\0".to_vec())), "zeros were never seen");
    for contents in seen {
        let contents = contents.expect("the name is durable");
        let end = contents.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        assert!(b"keptnew!".starts_with(&contents[..end]), "{contents:?}");
    }
}

#[test]
fn bytes_that_were_there_are_old_or_new_after_a_torn_write_and_never_zeros() {
    let seen = outcomes(|disk| {
        let file = write_durably(disk, b"kept");
        file.write_all_at(b"KEPT!", 0).expect("writes");
    });
    for contents in &seen {
        let contents = contents.as_ref().expect("the name is durable");
        let (there, new) = contents.split_at(4);
        assert!(there.eq_ignore_ascii_case(b"kept"), "{contents:?}");
        assert!([&b""[..], b"!", b"\0"].contains(&new), "{contents:?}");
    }
    assert!(seen.contains(&Some(b"KEpt\0".to_vec())), "a torn write and zeros were never seen");
}

#[test]
fn a_name_that_was_not_synced_may_be_gone_and_a_removed_one_may_be_back() {
    let created = outcomes(|disk| {
        disk.create("file").expect("creates").sync().expect("syncs");
    });
    assert_eq!(created, BTreeSet::from([None, Some(Vec::new())]));
    let removed = outcomes(|disk| {
        write_durably(disk, b"old");
        disk.remove("file").expect("removes");
    });
    assert_eq!(removed, BTreeSet::from([None, Some(b"old".to_vec())]));
}

#[test]
fn replacing_a_file_leaves_the_old_or_the_new_one_whole() {
    let seen = outcomes(|disk| {
        write_durably(disk, b"old");
        let file = disk.create("file.tmp").expect("creates");
        file.write_all_at(b"brand new", 0).expect("writes");
        file.sync().expect("syncs");
        disk.rename("file.tmp", "file").expect("renames");
    });
    assert_eq!(seen, BTreeSet::from([Some(b"old".to_vec()), Some(b"brand new".to_vec())]));
}

#[test]
fn a_failed_sync_loses_what_later_syncs_cannot_bring_back() {
    let seen = outcomes(|disk| {
        let file = write_durably(disk, b"kept");
        file.write_all_at(b"gone", 4).expect("writes");
        disk.fail_next_sync();
        file.sync().expect_err("was asked to fail");
        file.sync().expect("says that all is well");
        assert_eq!(disk.contents("file"), Some(b"keptgone".to_vec()));
    });
    assert_eq!(seen, BTreeSet::from([Some(b"kept".to_vec())]));
}

#[test]
fn files_that_were_open_at_a_crash_fail_from_then_on() {
    let disk = SimDisk::new(1);
    let file = write_durably(&disk, b"kept");
    disk.crash();
    assert!(file.read_exact_at(&mut [0; 4], 0).is_err());
    assert!(file.write_all_at(b"x", 0).is_err());
    assert!(file.sync().is_err());
    assert_eq!(disk.open("file").expect("opens anew").len().expect("a length"), 4);
}

#[test]
fn a_full_disk_takes_half_a_write_and_no_new_file() {
    let disk = SimDisk::new(1);
    let file = write_durably(&disk, b"kept");
    disk.set_full(true);
    let error = file.write_all_at(b"more", 4).expect_err("no room");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.contents("file"), Some(b"keptmo".to_vec()));
    assert!(disk.create("other").is_err());
    disk.set_full(false);
    disk.create("other").expect("there is room again");
}

#[test]
fn the_same_seed_loses_the_same_bytes() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        for name in 0..20 {
            let file = disk.create(&format!("dir/{name}")).expect("creates");
            file.write_all_at(&[7; 100], 0).expect("writes");
        }
        disk.crash();
        let names = disk.list("dir").expect("lists");
        let contents = names.iter().map(|name| disk.contents(&format!("dir/{name}")));
        (names.clone(), contents.collect::<Vec<_>>(), disk.counts().torn_writes)
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// What a file holds after a crash behind one unsynced write of four sectors of four bytes.
fn scattered(sector_bytes: usize) -> BTreeSet<Option<Vec<u8>>> {
    outcomes(|disk| {
        disk.set_sector_bytes(sector_bytes);
        let file = write_durably(disk, b"ke");
        file.write_all_at(b"wwAAAABBBBCCCC", 2).expect("writes");
    })
}

#[test]
fn sectors_of_one_write_survive_in_any_subset_and_each_whole() {
    let seen = scattered(4);
    for subset in 0..16 {
        let mut expected = b"ke".to_vec();
        for (sector, bytes) in [&b"keww"[..], b"AAAA", b"BBBB", b"CCCC"].into_iter().enumerate() {
            if subset & (1 << sector) != 0 {
                expected.resize((sector * 4).max(expected.len()), 0);
                expected.truncate(sector * 4);
                expected.extend_from_slice(bytes);
            }
        }
        assert!(seen.contains(&Some(expected.clone())), "{expected:?} was never seen");
    }
    let middle_lost = |bytes: &Option<Vec<u8>>| {
        bytes
            .as_ref()
            .is_some_and(|bytes| bytes.ends_with(b"CCCC") && !bytes.starts_with(b"kewwAAAABBBB"))
    };
    assert!(!scattered(0).iter().any(middle_lost), "without sectors it is a prefix");
}

#[test]
fn writes_of_one_file_survive_in_any_subset_but_in_a_sector_only_in_order() {
    let seen = outcomes(|disk| {
        disk.set_sector_bytes(4);
        let file = write_durably(disk, b"");
        for (bytes, offset) in [(b"aa", 0), (b"bb", 4), (b"cc", 1)] {
            file.write_all_at(bytes, offset).expect("writes");
        }
    });
    for expected in [&b""[..], b"aa", b"acc", b"\0\0\0\0bb", b"aa\0\0bb", b"acc\0bb"] {
        assert!(seen.contains(&Some(expected.to_vec())), "{expected:?} was never seen");
    }
    let newer_alone =
        |bytes: &&Option<Vec<u8>>| bytes.as_ref().is_some_and(|b| b.starts_with(b"\0c"));
    assert_eq!(seen.iter().find(newer_alone), None, "a page holds what was written to it before");
}

#[test]
fn a_disk_fills_after_so_many_bytes_and_can_be_freed() {
    let disk = SimDisk::new(1);
    let file = write_durably(&disk, b"kept");
    disk.fill_after_bytes(6);
    file.write_all_at(b"four", 4).expect("there is room");
    let error = file.write_all_at(b"more", 8).expect_err("there is room for two");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.contents("file"), Some(b"keptfourmo".to_vec()));
    file.write_all_at(b"x", 10).expect_err("no room");
    assert!(disk.create("other").is_err());
    assert_eq!((disk.counts().refused_as_full, disk.total_bytes()), (3, 10));
    disk.set_full(false);
    file.write_all_at(b"re", 10).expect("there is room again");
}

#[test]
fn a_wiped_disk_is_empty_and_works() {
    let disk = SimDisk::new(1);
    let file = write_durably(&disk, b"kept");
    disk.set_full(true);
    disk.fail_next_sync();
    assert_eq!((disk.paths(), disk.total_bytes()), (vec!["file".to_owned()], 4));
    disk.wipe();
    assert!(file.sync().is_err(), "it was open on the disk that is gone");
    assert_eq!((disk.paths(), disk.total_bytes()), (Vec::new(), 0));
    drop(write_durably(&disk, b"new"));
    disk.crash();
    assert_eq!(disk.contents("file"), Some(b"new".to_vec()));
    assert_eq!(disk.counts().wipes, 1);
}

#[test]
fn random_bits_flip_only_where_they_are_synced_and_for_good() {
    let mut flipped = BTreeSet::new();
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let file = write_durably(&disk, b"\0\0\0\0");
        file.write_all_at(b"\0\0", 3).expect("writes over one byte and one more");
        disk.create("file.2").expect("creates").write_all_at(b"\0", 0).expect("writes");
        disk.create("other").expect("creates");
        assert_eq!(disk.flip_random_bit_in("none"), None);
        let (path, byte, bit) = disk.flip_random_bit_in("file").expect("there are bits");
        assert_eq!(path, "file");
        flipped.insert((byte, bit));
        assert_eq!(disk.contents("file").expect("is there")[byte], 1 << bit);
        disk.crash();
        assert_eq!(disk.contents("file").expect("is there")[byte], 1 << bit);
        assert_eq!(disk.counts().bits_flipped, 1);
    }
    assert_eq!(flipped.len(), 24, "each bit of the three bytes, and no other");
}

#[test]
fn sync_delays_are_drawn_from_their_range_by_the_seed() {
    let draw = |seed| {
        let disk = SimDisk::new(seed);
        disk.set_sync_delay_range(Duration::from_millis(2), Duration::from_millis(5));
        (0..100).map(|_| disk.simulated_sync_delay()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let range = Duration::from_millis(2)..=Duration::from_millis(5);
    assert!(draw(1).iter().all(|delay| range.contains(delay)));
}

#[test]
fn what_happens_is_counted_by_name() {
    let disk = SimDisk::new(1);
    disk.set_sector_bytes(4);
    for name in 0..50 {
        let file = disk.create(&format!("dir/{name}")).expect("creates");
        disk.sync_dir("dir").expect("syncs");
        file.write_all_at(&[7; 20], 0).expect("writes");
        disk.crash();
    }
    disk.fail_next_sync();
    disk.sync_dir("dir").expect_err("was asked to fail");
    let counts = disk.counts();
    assert_eq!((counts.crashes, counts.failed_syncs, counts.syncs), (50, 1, 0));
    assert!(counts.torn_writes > 5 && counts.scattered_writes > 5, "{counts:?}");
    assert!((20..50).contains(&counts.crashes_with_losses), "{counts:?}");
    assert!(counts.named().contains(&("crashes", 50)));
}

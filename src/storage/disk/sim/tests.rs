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
        (names.clone(), contents.collect::<Vec<_>>(), disk.torn_writes())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

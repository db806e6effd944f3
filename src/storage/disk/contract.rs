//! The suite that every [`Disk`] passes.

use std::io::ErrorKind;

use super::{Disk, RealDisk, SimDisk, read_file, replace_file};

#[test]
fn real_files_keep_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    keeps_the_contract(&RealDisk::open(&directory.path().join("root")).expect("opens"));
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    keeps_the_contract(&SimDisk::new(1));
}

fn keeps_the_contract(disk: &dyn Disk) {
    names_come_and_go(disk);
    reads_and_writes_name_their_offset(disk);
    files_are_replaced_whole(disk);
    an_open_file_outlives_its_name(disk);
    paths_stay_under_the_root(disk);
}

fn kind_of<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

fn names_come_and_go(disk: &dyn Disk) {
    assert_eq!(disk.list("").expect("lists"), Vec::<String>::new());
    assert_eq!(disk.list("names").expect("a missing directory is empty"), Vec::<String>::new());
    assert_eq!(kind_of(disk.open("names/a")), ErrorKind::NotFound);
    for name in ["names/b", "names/a", "names/deep/c"] {
        disk.create(name).expect("creates");
    }
    assert_eq!(kind_of(disk.create("names/a")), ErrorKind::AlreadyExists);
    assert_eq!(disk.list("names").expect("lists"), ["a", "b"], "sorted, files alone");
    disk.rename("names/b", "names/d").expect("renames");
    assert_eq!(kind_of(disk.rename("names/b", "names/e")), ErrorKind::NotFound);
    disk.rename("names/d", "names/a").expect("replaces");
    assert_eq!(disk.list("names").expect("lists"), ["a"]);
    disk.remove("names/a").expect("removes");
    assert_eq!(kind_of(disk.remove("names/a")), ErrorKind::NotFound);
    disk.sync_dir("names").expect("syncs");
    disk.sync_dir("").expect("syncs the root");
}

fn reads_and_writes_name_their_offset(disk: &dyn Disk) {
    let file = disk.create("offsets").expect("creates");
    assert!(file.is_empty().expect("a length"));
    file.write_all_at(b"tail", 6).expect("writes past the end");
    file.write_all_at(b"head", 0).expect("writes");
    file.sync().expect("syncs");
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 0).expect("reads");
    assert_eq!(&bytes, b"head\0\0tail");
    assert_eq!(kind_of(file.read_exact_at(&mut bytes, 1)), ErrorKind::UnexpectedEof);
    assert_eq!(kind_of(file.read_exact_at(&mut bytes, 1 << 40)), ErrorKind::UnexpectedEof);
    file.set_len(3).expect("cuts");
    file.set_len(5).expect("extends");
    assert_eq!(read_file(disk, "offsets").expect("reads"), Some(b"hea\0\0".to_vec()));
    let again = disk.open("offsets").expect("opens");
    again.write_all_at(b"H", 0).expect("writes");
    assert_eq!(file.len().expect("a length"), 5);
    assert_eq!(read_file(disk, "offsets").expect("reads"), Some(b"Hea\0\0".to_vec()));
}

fn files_are_replaced_whole(disk: &dyn Disk) {
    assert_eq!(read_file(disk, "replaced/file").expect("reads"), None);
    for contents in [&b"first and longer"[..], b"second"] {
        replace_file(disk, "replaced/file", contents).expect("replaces");
        assert_eq!(read_file(disk, "replaced/file").expect("reads"), Some(contents.to_vec()));
    }
    disk.create("replaced/file.tmp").expect("left by an earlier crash");
    replace_file(disk, "replaced/file", b"third").expect("replaces all the same");
    assert_eq!(disk.list("replaced").expect("lists"), ["file"]);
}

fn an_open_file_outlives_its_name(disk: &dyn Disk) {
    let file = disk.create("unnamed").expect("creates");
    file.write_all_at(b"here", 0).expect("writes");
    disk.remove("unnamed").expect("removes");
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).expect("still reads");
    assert_eq!(&bytes, b"here");
}

fn paths_stay_under_the_root(disk: &dyn Disk) {
    for path in ["", "/etc/passwd", "../up", "a/../../up", "a//b", "./a", "a/", "a\\b"] {
        assert_eq!(kind_of(disk.create(path)), ErrorKind::InvalidInput, "create {path:?}");
        assert_eq!(kind_of(disk.open(path)), ErrorKind::InvalidInput, "open {path:?}");
        assert_eq!(kind_of(disk.remove(path)), ErrorKind::InvalidInput, "remove {path:?}");
        assert_eq!(kind_of(disk.rename("x", path)), ErrorKind::InvalidInput, "rename {path:?}");
    }
    assert_eq!(kind_of(disk.list("..")), ErrorKind::InvalidInput);
    disk.create("x").expect("creates");
    assert_eq!(kind_of(disk.rename("x", "elsewhere/x")), ErrorKind::InvalidInput);
}

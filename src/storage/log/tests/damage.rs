//! A torn tail is cut, damage is refused, and the two are told apart at every byte and bit.

use super::support::{Seen, filled, open, record, segments, simulated, try_open};
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::log::{LogError, Position};

const HEADER_BYTES: usize = 20;

/// Opens the log and expects it to be refused as damaged; gives the file and the offset named.
fn refused(disk: &SimDisk, runtime: &Runtime, what: &str) -> (String, u64) {
    match try_open(disk, runtime).err() {
        Some(LogError::Damaged { file, offset, .. }) => (file, offset),
        Some(other) => panic!("{what}: refused, but not as damaged: {other}"),
        None => panic!("{what}: opened"),
    }
}

/// Replaces the end of a file, from `offset` on, with `tail`.
fn replace_tail(disk: &SimDisk, path: &str, offset: usize, tail: &[u8]) {
    let file = disk.open(path).expect("opens");
    file.set_len(offset as u64).expect("cuts");
    file.write_all_at(tail, offset as u64).expect("writes");
    file.sync().expect("syncs");
}

fn put(disk: &SimDisk, path: &str, contents: &[u8]) {
    replace_tail(disk, path, 0, contents);
}

/// A filled log: the disk, its records, its last segment's path and contents, and where in it the
/// last record begins.
async fn filled_log(runtime: &Runtime) -> (SimDisk, Vec<Seen>, String, Vec<u8>, usize) {
    let disk = SimDisk::new(1);
    let appended = filled(&disk, runtime).await;
    let last = segments(&disk).pop().expect("a segment");
    let contents = disk.contents(&last).expect("is there");
    let record = appended.last().expect("a record").2.len() + 14;
    let begin = contents.len() - record;
    (disk, appended, last, contents, begin)
}

/// Opens the log and expects all `expected` records and nothing else; then appends one, and expects
/// it behind them at the next opening.
async fn opens_with(disk: &SimDisk, runtime: &Runtime, expected: &[Seen], torn_tails: u64) {
    let opened = open(disk, runtime);
    assert_eq!(opened.replayed, expected);
    assert_eq!(opened.metrics.log_torn_tails.get(), torn_tails);
    let end = expected.last().map_or(1, |seen| seen.0.0 + seen.2.len() as u64 + 14);
    assert_eq!(opened.log.end(), Position(end), "appends go on at the cut");
    let position = opened.log.append_durably(vec![record(b"after the cut")]).await;
    assert_eq!(position.expect("appends"), [Position(end)]);
    opened.log.close().await;
    disk.crash();
    let opened = open(disk, runtime);
    assert_eq!(opened.replayed[..expected.len()], *expected);
    assert_eq!(opened.replayed[expected.len()..].len(), 1);
    assert_eq!(opened.metrics.log_torn_tails.get(), 0, "a cut is durable");
}

#[test]
fn a_last_record_cut_short_at_any_byte_or_followed_by_zeros_is_cut_off() {
    simulated(|runtime| async move {
        let (disk, appended, last, whole, begin) = filled_log(&runtime).await;
        let (_, before) = appended.split_last().expect("records");
        for cut in begin..whole.len() {
            for zeros in [0, 1, whole.len() - cut, 5000] {
                put(&disk, &last, &whole[..cut]);
                replace_tail(&disk, &last, cut, &vec![0; zeros]);
                let torn_tails = u64::from(cut + zeros > begin);
                opens_with(&disk, &runtime, before, torn_tails).await;
                for path in segments(&disk) {
                    if path > last {
                        disk.remove(&path).expect("removes what the check began");
                    }
                }
            }
        }
    });
}

#[test]
fn zeros_after_a_whole_last_record_are_cut_off_and_the_record_stays() {
    simulated(|runtime| async move {
        let (disk, appended, last, whole, _) = filled_log(&runtime).await;
        for zeros in [1, 8, 9, 14, 100, 4096, 10_000] {
            put(&disk, &last, &whole);
            replace_tail(&disk, &last, whole.len(), &vec![0; zeros]);
            let opened = open(&disk, &runtime);
            assert_eq!(opened.replayed, appended);
            assert_eq!(opened.metrics.log_torn_tails.get(), 1);
            assert_eq!(disk.contents(&last).as_ref(), Some(&whole));
        }
    });
}

#[test]
fn every_flipped_bit_of_synced_segments_is_refused_and_its_place_is_named() {
    simulated(|runtime| async move {
        let (disk, _, _, _, _) = filled_log(&runtime).await;
        assert!(segments(&disk).len() >= 3);
        for path in segments(&disk) {
            let bytes = disk.contents(&path).expect("is there").len();
            for bit in 0..bytes * 8 {
                let (byte, bit) = (bit / 8, (bit % 8) as u8);
                assert!(disk.flip_bit(&path, byte, bit));
                let what = format!("{path}, byte {byte}, bit {bit}");
                let (file, offset) = refused(&disk, &runtime, &what);
                assert_eq!(file, path);
                assert!(offset <= byte as u64, "{what}: blamed offset {offset}");
                assert!(disk.flip_bit(&path, byte, bit));
            }
        }
        try_open(&disk, &runtime).expect("it opens once every bit is back");
    });
}

#[test]
fn any_other_byte_in_place_of_any_byte_is_refused() {
    simulated(|runtime| async move {
        let (disk, _, last, whole, _) = filled_log(&runtime).await;
        for byte in 0..whole.len() - 1 {
            for other in [0x00, 0xff, 0xa5, 0x01] {
                if whole[byte] != other {
                    let mut damaged = whole.clone();
                    damaged[byte] = other;
                    put(&disk, &last, &damaged);
                    refused(&disk, &runtime, &format!("byte {byte} is {other}"));
                }
            }
        }
    });
}

#[test]
fn a_segment_that_is_not_the_last_must_be_whole_to_the_byte() {
    simulated(|runtime| async move {
        let (disk, _, _, _, _) = filled_log(&runtime).await;
        let paths = segments(&disk);
        for path in &paths[..paths.len() - 1] {
            let whole = disk.contents(path).expect("is there");
            for cut in 0..whole.len() {
                put(&disk, path, &whole[..cut]);
                refused(&disk, &runtime, &format!("{path} cut at {cut}"));
                replace_tail(&disk, path, cut, &vec![0; whole.len() - cut]);
                refused(&disk, &runtime, &format!("{path} zeros from {cut}"));
            }
            put(&disk, path, &whole);
            replace_tail(&disk, path, whole.len(), &[0]);
            refused(&disk, &runtime, &format!("{path} and a zero"));
            put(&disk, path, &whole);
        }
        try_open(&disk, &runtime).expect("it opens once every segment is back");
    });
}

#[test]
fn a_whole_record_after_a_bad_one_is_damage_wherever_the_bad_one_is() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        let log = open(&disk, &runtime).log;
        for payload in [b"first", b"other", b"third"] {
            log.append_durably(vec![record(payload)]).await.expect("appends");
        }
        log.close().await;
        let path = segments(&disk).pop().expect("a segment");
        let whole = disk.contents(&path).expect("is there");
        // The second record wholly lost, as if its page had never reached the disk.
        let mut lost = whole.clone();
        lost[HEADER_BYTES + 19..HEADER_BYTES + 38].fill(0);
        put(&disk, &path, &lost);
        assert_eq!(refused(&disk, &runtime, "a lost record").1, HEADER_BYTES as u64 + 19);
        // The second record twice: right in itself, but not at its place.
        let mut twice = whole.clone();
        twice.copy_within(HEADER_BYTES + 19..HEADER_BYTES + 38, HEADER_BYTES + 38);
        put(&disk, &path, &twice);
        assert_eq!(refused(&disk, &runtime, "a misplaced record").1, HEADER_BYTES as u64 + 38);
    });
}

#[test]
fn a_missing_or_foreign_segment_is_damage() {
    simulated(|runtime| async move {
        let (disk, _, _, _, _) = filled_log(&runtime).await;
        let paths = segments(&disk);
        let middle = disk.contents(&paths[1]).expect("is there");
        disk.remove(&paths[1]).expect("removes");
        assert_eq!(refused(&disk, &runtime, "a missing segment"), (paths[2].clone(), 0));
        disk.create(&paths[1]).expect("creates").write_all_at(&middle, 0).expect("writes");
        // A segment under another's name.
        let third = disk.contents(&paths[2]).expect("is there");
        put(&disk, &paths[1], &third);
        assert_eq!(refused(&disk, &runtime, "a foreign segment"), (paths[1].clone(), 0));
        put(&disk, &paths[1], &middle);
        disk.create("log/12.log").expect("creates");
        assert_eq!(refused(&disk, &runtime, "a strange name").0, "log/12.log");
        disk.remove("log/12.log").expect("removes");
        disk.create("log/notes.txt").expect("creates");
        try_open(&disk, &runtime).expect("files that look like no segment are no business of ours");
        disk.create("log/18446744073709551615.log").expect("creates");
        refused(&disk, &runtime, "a position beyond all numbers");
    });
}

#[test]
fn a_segment_whose_creation_was_cut_short_is_created_again() {
    simulated(|runtime| async move {
        let (disk, appended, _, _, _) = filled_log(&runtime).await;
        let end = open(&disk, &runtime).log.end();
        let next = format!("log/{:020}.log", end.0);
        // The header that a segment there has.
        let log = open(&disk, &runtime).log;
        log.append_durably(vec![record(&[9; 100])]).await.expect("appends");
        log.close().await;
        let header = disk.contents(&next).expect("a new segment")[..HEADER_BYTES].to_vec();
        for cut in 0..HEADER_BYTES {
            for zeros in [0, 1, HEADER_BYTES - cut, 4096] {
                for path in segments(&disk).into_iter().filter(|path| *path > next) {
                    disk.remove(&path).expect("removes");
                }
                put(&disk, &next, &header[..cut]);
                replace_tail(&disk, &next, cut, &vec![0; zeros]);
                opens_with(&disk, &runtime, &appended, 1).await;
            }
        }
        for cut in [0, HEADER_BYTES - 1] {
            // Records were there, and so was the header.
            put(&disk, &next, &header[..cut]);
            replace_tail(&disk, &next, cut, &vec![0; 20 << 10]);
            assert_eq!(refused(&disk, &runtime, "an emptied segment"), (next.clone(), 0));
        }
        put(&disk, &next, b"QRLOX");
        assert_eq!(refused(&disk, &runtime, "what is no header"), (next.clone(), 0));
    });
}

#[test]
fn a_torn_batch_of_several_records_keeps_those_that_are_whole() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        let log = open(&disk, &runtime).log;
        let records = vec![record(b"aaaaa"), record(b"bbbbb"), record(b"ccccc")];
        log.append_durably(records).await.expect("appends");
        log.close().await;
        let path = segments(&disk).pop().expect("a segment");
        let whole = disk.contents(&path).expect("is there");
        for cut in HEADER_BYTES..whole.len() {
            put(&disk, &path, &whole[..cut]);
            let opened = open(&disk, &runtime);
            assert_eq!(opened.replayed.len(), (cut - HEADER_BYTES) / 19);
            put(&disk, &path, &whole);
        }
    });
}

//! The checks of real files are checked: each finds nothing wrong with the log as it is, and finds
//! the planted bug that it is there for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use super::support::record;
use crate::planted::{self, Bug};
use crate::runtime::Runtime;
use crate::storage::disk::RealDisk;
use crate::storage::log::{CommitLog, LogError, LogOptions, LogUser, Position};
use crate::telemetry::Metrics;

const HEADER_BYTES: usize = 20;
const HEAD_BYTES: usize = 9;
const TAIL_BYTES: usize = 5;

type Seen = (Position, Vec<u8>);

fn open(root: &Path) -> Result<(CommitLog, Vec<Seen>), LogError> {
    let options = LogOptions {
        disk: Arc::new(RealDisk::open(root).expect("the directory is free")),
        dir: "log".to_owned(),
        segment_bytes: 1 << 20,
        users: vec![LogUser::Raft],
        runtime: Runtime::real(),
        metrics: Metrics::new(),
    };
    let mut replayed = Vec::new();
    let log = CommitLog::open(options, &mut |record| {
        replayed.push((record.position, record.payload.to_vec()));
        Ok(())
    })?;
    Ok((log, replayed))
}

/// A directory with a log of a few acknowledged records in one segment.
struct Filled {
    root: tempfile::TempDir,
    segment: PathBuf,
    whole: Vec<u8>,
    acknowledged: Vec<Seen>,
}

impl Filled {
    fn new() -> Filled {
        let root = tempfile::tempdir().expect("a directory");
        let (log, _) = open(root.path()).expect("an empty directory");
        let mut acknowledged = Vec::new();
        for number in 1..=5_u8 {
            let payload = vec![number; 20 + usize::from(number)];
            let (sender, receiver) = mpsc::channel();
            let done = move |result| sender.send(result).expect("somebody waits");
            let positions = log.append(vec![record(&payload)], Box::new(done));
            receiver.recv().expect("an answer").expect("durable");
            acknowledged.push((positions[0], payload));
        }
        drop(log);
        let segment = root.path().join("log").join(format!("{:020}.log", 1));
        let whole = fs::read(&segment).expect("a segment");
        Filled { root, segment, whole, acknowledged }
    }

    /// Where in the segment the records begin.
    fn offsets(&self) -> Vec<usize> {
        self.acknowledged.iter().map(|(at, _)| HEADER_BYTES + at.0 as usize - 1).collect()
    }

    /// What a log whose segment holds `bytes` replays; `None` where it is refused as damaged.
    fn replayed(&self, bytes: &[u8]) -> Option<Vec<Seen>> {
        fs::write(&self.segment, bytes).expect("writes");
        match open(self.root.path()) {
            Ok((_, replayed)) => Some(replayed),
            Err(LogError::Damaged { .. }) => None,
            Err(other) => panic!("refused, but not as damaged: {other}"),
        }
    }

    /// The last record is cut short at every byte: nothing of it may be replayed.
    fn check_torn_tails(&self) -> Result<(), String> {
        let (_, before) = self.acknowledged.split_last().expect("records");
        let begin = self.offsets().pop().expect("records");
        for cut in begin..self.whole.len() {
            let replayed = self.replayed(&self.whole[..cut]);
            if replayed.as_deref() != Some(before) {
                return Err(format!("cut at {cut}: {replayed:?}"));
            }
        }
        Ok(())
    }

    /// Every bit of what was synced is flipped, from byte to byte, in records of which `within`
    /// says the bytes: the log is refused, or holds all that was acknowledged.
    fn check_flipped_bits(&self, within: std::ops::Range<usize>) -> Result<(), String> {
        for begin in self.offsets() {
            for bit in (begin + within.start) * 8..(begin + within.end) * 8 {
                let mut flipped = self.whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                match self.replayed(&flipped) {
                    Some(replayed) if replayed != self.acknowledged => {
                        return Err(format!("byte {}, bit {}: {replayed:?}", bit / 8, bit % 8));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_log_that_takes_a_torn_record_for_a_record_is_caught() {
    let filled = Filled::new();
    assert_eq!(filled.check_torn_tails(), Ok(()));
    let caught = planted::with(Bug::TornTailAccepted, || filled.check_torn_tails());
    // From the head on the length is known, and what there is of the payload is replayed.
    let first = filled.offsets()[4] + HEAD_BYTES;
    assert!(caught.expect_err("caught").starts_with(&format!("cut at {first}: ")));
}

#[test]
fn a_log_that_cuts_damage_like_a_torn_tail_is_caught() {
    let filled = Filled::new();
    let any_byte = 0..HEAD_BYTES + 21 + TAIL_BYTES;
    assert_eq!(filled.check_flipped_bits(any_byte.clone()), Ok(()));
    let caught = planted::with(Bug::DamagedMiddleCut, || filled.check_flipped_bits(any_byte));
    let first = format!("byte {HEADER_BYTES}, bit 0: []");
    assert_eq!(caught, Err(first), "the first bit of the first record, and all records are gone");
}

#[test]
fn a_log_that_believes_a_length_unchecked_is_caught() {
    let filled = Filled::new();
    let length = 0..4;
    assert_eq!(filled.check_flipped_bits(length.clone()), Ok(()));
    let caught = planted::with(Bug::LengthNotChecked, || filled.check_flipped_bits(length));
    let caught = caught.expect_err("caught");
    let reaches_past_the_end = "byte 21, ";
    assert!(caught.starts_with(reaches_past_the_end), "{caught}");
    assert!(caught.ends_with(": []"), "all records are cut off like a torn tail: {caught}");
}

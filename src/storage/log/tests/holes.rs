//! Holes in the last write, which a power cut leaves, and what only looks like them.

use std::sync::Arc;

use bytes::Bytes;

use super::support::{Answers, record, segments, simulated};
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::log::torn::SECTOR_BYTES;
use crate::storage::log::{CommitLog, Kind, LogError, LogOptions, LogUser, NewRecord, Position};
use crate::telemetry::Metrics;

const HEADER_BYTES: usize = 20;
const RECORD_OVERHEAD: usize = 14;

/// A disk with long segments, opened; and the payloads that were replayed.
fn try_open(disk: &SimDisk, runtime: &Runtime) -> Result<(CommitLog, Vec<Vec<u8>>), LogError> {
    let options = LogOptions {
        disk: Arc::new(disk.clone()),
        dir: "log".to_owned(),
        segment_bytes: 1 << 20,
        users: vec![LogUser::Raft],
        runtime: runtime.clone(),
        metrics: Metrics::new(),
    };
    let mut replayed = Vec::new();
    let log = CommitLog::open(options, &mut |record| {
        replayed.push(record.payload.to_vec());
        Ok(())
    })?;
    Ok((log, replayed))
}

/// Payloads without zeros, of lengths that put heads and tails on both sides of sectors' ends.
fn payload(runtime: &Runtime) -> Vec<u8> {
    let longest = [30, 300, 600, 3_000][runtime.random_below(4) as usize];
    let length = runtime.random_below(longest) as usize;
    vec![1 + runtime.random_below(255) as u8; length]
}

/// Appends writes of several records, the last of which is not synced when the power goes; gives
/// whether the log lost a part of that which was followed by something that stayed.
async fn power_cut(seed: u64, runtime: &Runtime) -> bool {
    let disk = SimDisk::new(seed);
    disk.set_sector_bytes(SECTOR_BYTES << (seed % 2 * 3));
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for round in 0..4 {
        let node = Runtime::simulated(seed + round, 0);
        let (log, replayed) = try_open(&disk, &node).expect("a power cut is no damage");
        assert!(replayed.len() >= kept.len(), "an acknowledged record is lost");
        assert_eq!(replayed[..kept.len()], kept);
        kept = replayed;
        for _ in 0..runtime.random_below(4) {
            let batch: Vec<_> =
                (0..1 + runtime.random_below(5)).map(|_| payload(runtime)).collect();
            let records = batch.iter().map(|payload| record(payload)).collect();
            log.append_durably(records).await.expect("appends");
            kept.extend(batch);
        }
        let last = (0..1 + runtime.random_below(8)).map(|_| record(&payload(runtime))).collect();
        log.append(last, Answers::default().completion(0));
        tokio::task::yield_now().await;
        node.kill();
        disk.crash();
    }
    disk.counts().scattered_writes > 0
}

#[test]
fn a_power_cut_that_scatters_the_last_write_is_no_damage_and_loses_nothing_acknowledged() {
    let scattered: usize = (0..400)
        .map(|seed| {
            simulated(|_| async move { power_cut(seed, &Runtime::simulated(seed, 0)).await })
        })
        .map(usize::from)
        .sum();
    assert!(scattered > 200, "only {scattered} of 400 disks scattered a write");
}

/// A log of writes of these payloads, one record each or all in one; the disk and the path.
async fn written(payloads: &[Vec<u8>], at_once: bool, runtime: &Runtime) -> (SimDisk, String) {
    let disk = SimDisk::new(1);
    let (log, _) = try_open(&disk, runtime).expect("opens");
    let records: Vec<NewRecord> = payloads.iter().map(|payload| record(payload)).collect();
    if at_once {
        log.append_durably(records).await.expect("appends");
    } else {
        for record in records {
            log.append_durably(vec![record]).await.expect("appends");
        }
    }
    log.close().await;
    let path = segments(&disk).pop().expect("a segment");
    (disk, path)
}

fn empty_sector(disk: &SimDisk, path: &str, sector: usize) {
    let file = disk.open(path).expect("opens");
    let from = (sector * SECTOR_BYTES).max(HEADER_BYTES);
    file.write_all_at(&vec![0; (sector + 1) * SECTOR_BYTES - from], from as u64).expect("writes");
    file.sync().expect("syncs");
}

#[test]
fn a_lost_sector_of_the_last_write_cuts_the_log_and_of_any_other_is_damage() {
    simulated(|runtime: Runtime| async move {
        let payloads = vec![vec![7; 700], vec![8; 1_200], vec![9; 600]];
        for (at_once, sector) in
            [(true, 0), (true, 1), (true, 2), (false, 0), (false, 1), (false, 2)]
        {
            let (disk, path) = written(&payloads, at_once, &runtime).await;
            empty_sector(&disk, &path, sector);
            let records_before = usize::from(sector == 2);
            match try_open(&disk, &runtime) {
                Ok((log, replayed)) => {
                    assert!(at_once, "sector {sector} was durable before the next write began");
                    assert_eq!(replayed, payloads[..records_before]);
                    let end = 1 + records_before * (700 + RECORD_OVERHEAD);
                    assert_eq!(log.end(), Position(end as u64), "all behind the hole is gone");
                }
                Err(LogError::Damaged { .. }) => assert!(!at_once, "sector {sector} is a hole"),
                Err(other) => panic!("{other}"),
            }
        }
    });
}

/// A head's first bytes may have a single bit set, as the length 64 has: where they alone were lost,
/// nothing would tell that from a bit that flipped. So no head lies in two sectors.
#[test]
fn whichever_sector_the_last_write_lost_at_its_beginning_it_is_no_damage() {
    simulated(|runtime: Runtime| async move {
        for (short, length) in (1..12).flat_map(|short| [64, 256, 1_024].map(|l| (short, l))) {
            let first = vec![7; SECTOR_BYTES - HEADER_BYTES - RECORD_OVERHEAD - short];
            let (disk, path) = written(std::slice::from_ref(&first), true, &runtime).await;
            let before = disk.contents(&path).expect("there");
            let (log, _) = try_open(&disk, &runtime).expect("opens");
            let second = vec![9; length];
            log.append_durably(vec![record(&second)]).await.expect("appends");
            log.close().await;
            let file = disk.open(&path).expect("opens");
            // The first sector as it was before: the record is whole if it has nothing there.
            file.write_all_at(&before[..SECTOR_BYTES - short], 0).expect("writes");
            file.write_all_at(&vec![0; short], (SECTOR_BYTES - short) as u64).expect("writes");
            file.sync().expect("syncs");
            let opened = try_open(&disk, &runtime);
            let (log, replayed) = opened.unwrap_or_else(|e| panic!("{short}, {length}: {e}"));
            let whole = short < 9;
            assert_eq!(replayed.len(), 1 + usize::from(whole), "{short} bytes short, {length}");
            log.close().await;
            empty_sector(&disk, &path, 1);
            let opened = try_open(&disk, &runtime);
            let (_, replayed) = opened.unwrap_or_else(|e| panic!("{short}, {length}: {e}"));
            assert_eq!(replayed, [first], "{short} bytes short, {length}");
        }
    });
}

#[test]
fn every_flipped_bit_of_the_last_write_is_damage_also_beside_sectors_of_zeros() {
    simulated(|runtime: Runtime| async move {
        // The second record's head begins one, two, … bytes before the end of a sector.
        for short in 1..12 {
            let first = SECTOR_BYTES - HEADER_BYTES - RECORD_OVERHEAD - short;
            let blank = [vec![5; 10], vec![0; 3 * SECTOR_BYTES], vec![6; 10]].concat();
            let payloads = vec![vec![7; first], blank, vec![9; 30]];
            let (disk, path) = written(&payloads, true, &runtime).await;
            // Where the head would not be whole in the sector, zeros fill it, and are nothing.
            let head = if short < 9 { SECTOR_BYTES } else { SECTOR_BYTES - short };
            let heads = head..head + 30;
            let tails = SECTOR_BYTES * 4 - 20..disk.contents(&path).expect("there").len();
            for byte in (HEADER_BYTES..40).chain(heads).chain(tails) {
                for bit in 0..8 {
                    assert!(disk.flip_bit(&path, byte, bit));
                    let refused = try_open(&disk, &runtime).err();
                    let named = matches!(refused, Some(LogError::Damaged { .. }));
                    assert!(named, "short {short}, byte {byte}, bit {bit}: {refused:?}");
                    assert!(disk.flip_bit(&path, byte, bit));
                }
            }
        }
    });
}

#[test]
fn a_hole_in_a_segment_of_the_first_format_is_damage_and_the_segment_goes_on() {
    simulated(|runtime: Runtime| async move {
        let (disk, path) = written(&[vec![7; 700], vec![8; 1_200]], true, &runtime).await;
        let file = disk.open(&path).expect("opens");
        let header = crate::storage::log::codec::encode_header(1, 1);
        file.write_all_at(&header, 0).expect("writes");
        file.sync().expect("syncs");
        let (log, replayed) = try_open(&disk, &runtime).expect("the first format is read");
        assert_eq!(replayed.len(), 2);
        let more = NewRecord { kind: Kind::RaftVote, payload: Bytes::from_static(b"more") };
        log.append_durably(vec![more]).await.expect("appends");
        log.close().await;
        assert_eq!(disk.contents(&path).expect("there")[..HEADER_BYTES], header);
        let contents = disk.contents(&path).expect("there");
        assert_eq!(try_open(&disk, &runtime).expect("opens").1.len(), 3);
        let file = disk.open(&path).expect("opens");
        file.set_len(contents.len() as u64 - 18).expect("takes the third record away");
        empty_sector(&disk, &path, 2);
        assert!(matches!(try_open(&disk, &runtime), Err(LogError::Damaged { .. })));
    });
}

/// Opening writes the last write again. The disk may fill up in the middle of that, and the power go.
#[test]
fn a_disk_that_fills_up_while_a_log_is_opened_and_a_power_cut_then_lose_nothing() {
    simulated(|runtime: Runtime| async move {
        let payloads = vec![vec![7; 400], vec![8; 300]];
        for seed in 0..400 {
            let disk = SimDisk::new(seed);
            let (log, _) = try_open(&disk, &runtime).expect("opens");
            for payload in &payloads {
                log.append_durably(vec![record(payload)]).await.expect("appends");
            }
            log.close().await;
            disk.fill_after_bytes(seed % 310);
            assert!(try_open(&disk, &runtime).is_err(), "a full disk takes no log");
            disk.crash();
            disk.set_full(false);
            let (_, replayed) = try_open(&disk, &runtime)
                .unwrap_or_else(|error| panic!("seed {seed}: a good log is refused: {error}"));
            assert_eq!(replayed, payloads, "seed {seed}");
        }
    });
}

//! Real data directories of every engine, after cuts, torn and lost writes, kills, full disks and
//! flipped bits: the node refuses with a clear line, or holds every acknowledged write.
//!
//! `QUORATE_REAL_FILES_SEEDS=1..20` and `QUORATE_REAL_FILES_IMAGES=500` make a campaign of it.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::env;

use quorate::config::Engine;
use quorate::lab::real_files::{self, RealFilesOptions};
use quorate::types::Mode;

/// Where a power cut took a file of sled's own that held a large row, an older row was served: of
/// sixty images of each kind, these of these seeds.
const LOST_PAGE_FILES: [(u64, usize); 2] = [(10, 262), (12, 271)];

/// Images of each kind of one recording: few, so that the ordinary tests stay short.
const IMAGES: usize = 10;

fn holds(engine: Engine, mode: Mode) {
    let seeds = env::var("QUORATE_REAL_FILES_SEEDS").unwrap_or_else(|_| "1..1".to_owned());
    let (first, last) = seeds.split_once("..").expect("QUORATE_REAL_FILES_SEEDS is FIRST..LAST");
    let number = |text: &str| text.parse::<u64>().expect("a seed is a number");
    let images = env::var("QUORATE_REAL_FILES_IMAGES")
        .map_or(IMAGES, |text| text.parse().expect("QUORATE_REAL_FILES_IMAGES is a number"));
    let options = RealFilesOptions {
        engines: vec![engine],
        modes: vec![mode],
        seeds: number(first)..=number(last),
        images,
        ..RealFilesOptions::default()
    };
    let report = real_files::run(options, &mut |line| println!("{line}")).expect("it runs");
    println!("{report}");
    for ((_, _, kind), line) in &report.refusals {
        println!("{kind}: {line}");
    }
    assert!(report.broken.is_empty(), "{report}");
    let held: usize = report.tallies.values().map(|tally| tally.held).sum();
    assert!(held * 2 > report.tried(), "most directories are refused: {report}");
}

#[test]
fn sled_in_leader_mode_holds_every_acknowledged_write() {
    holds(Engine::Sled, Mode::Leader);
}

#[test]
fn sled_in_leaderless_mode_holds_every_acknowledged_write() {
    holds(Engine::Sled, Mode::Leaderless);
}

#[test]
fn memory_in_leader_mode_holds_every_acknowledged_write() {
    holds(Engine::Memory, Mode::Leader);
}

#[test]
fn memory_in_leaderless_mode_holds_every_acknowledged_write() {
    holds(Engine::Memory, Mode::Leaderless);
}

#[test]
fn a_power_cut_that_takes_sleds_new_files_brings_no_older_row_back() {
    for (seed, image) in LOST_PAGE_FILES {
        let options = RealFilesOptions {
            engines: vec![Engine::Sled],
            modes: vec![Mode::Leaderless],
            seeds: seed..=seed,
            images: 60,
            only_image: Some(image),
            ..RealFilesOptions::default()
        };
        let report = real_files::run(options, &mut |_| ()).expect("it runs");
        assert_eq!((report.tried(), report.broken.len()), (1, 0), "{report}");
    }
}

//! Real data directories of every engine, after cuts, torn and lost writes, kills, full disks and
//! flipped bits: the node refuses with a clear line, or holds every acknowledged write.
//!
//! `quorate real-files` makes a campaign of it.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use quorate::config::Engine;
use quorate::lab::real_files::{self, RealFilesOptions};
use quorate::types::Mode;

/// Where a power cut took a file of sled's own that held a large row, an older row was served: of
/// sixty images of each kind, these of these seeds.
const LOST_PAGE_FILES: [(u64, usize); 2] = [(10, 262), (12, 271)];

/// Images of each kind of one recording: few, so that the ordinary tests stay short.
const IMAGES: usize = 10;

fn holds(engine: Engine, mode: Mode) {
    let options = RealFilesOptions {
        engines: vec![engine],
        modes: vec![mode],
        images: IMAGES,
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
fn fjall_in_leader_mode_holds_every_acknowledged_write() {
    holds(Engine::Fjall, Mode::Leader);
}

#[test]
fn fjall_in_leaderless_mode_holds_every_acknowledged_write() {
    holds(Engine::Fjall, Mode::Leaderless);
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

#[test]
fn the_command_prints_a_table_and_explains_what_it_does_not_understand() {
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_quorate");
        let mut command = std::process::Command::new(program);
        command.arg("real-files").args(arguments).output().expect("the binary runs")
    };
    let some = ["--engine", "memory", "--mode", "leaderless", "--images", "2"];
    let output = run(&some);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{printed}");
    assert!(printed.contains("a bit flipped"), "{printed}");
    for (arguments, named) in
        [(["--seeds", "3..1"], "1..500"), (["--engine", "fast"], "'sled'"), (["--mode", "x"], "x")]
    {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(named), "{said}");
    }
}

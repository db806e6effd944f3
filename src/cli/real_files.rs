//! `quorate real-files`: real data directories after accidents.

use std::io::IsTerminal as _;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;

use super::simulate::seeds;
use super::{Exit, complain, modes};
use crate::config::Engine;
use crate::lab::real_files::{self, RealFilesOptions};

#[derive(Args)]
pub(super) struct RealFilesArgs {
    /// leader, leaderless or both
    #[arg(long, default_value = "both")]
    mode: String,
    /// Only this engine [default: every one there is]
    #[arg(long)]
    engine: Option<Engine>,
    /// One recording of a node for each seed, both ends included
    #[arg(long, value_name = "FROM..TO", value_parser = seeds, default_value = "1..1")]
    seeds: RangeInclusive<u64>,
    /// Directories of each kind of accident that are made of each recording
    #[arg(long, default_value_t = 100)]
    images: usize,
    /// Only the directory with this number, to replay it
    #[arg(long, value_name = "NUMBER")]
    image: Option<usize>,
    /// Where directories are made, and broken ones kept [default: /dev/shm]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &RealFilesArgs) -> Exit {
    let modes = match modes(&args.mode) {
        Ok(modes) => modes,
        Err(exit) => return exit,
    };
    let defaults = RealFilesOptions::default();
    let options = RealFilesOptions {
        engines: args.engine.map_or(defaults.engines, |engine| vec![engine]),
        modes,
        seeds: args.seeds.clone(),
        images: args.images,
        only_image: args.image,
        directory: args.dir.clone(),
    };
    let told = std::io::stderr().is_terminal();
    let report = real_files::run(options, &mut |step| {
        if told {
            eprintln!("{step}");
        }
    });
    match report {
        Ok(report) => {
            print!("{report}");
            if report.broken.is_empty() { Exit::Done } else { Exit::Failed }
        }
        Err(error) => {
            complain(format!("{error:#}"));
            Exit::Failed
        }
    }
}

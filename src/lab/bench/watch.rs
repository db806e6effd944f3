//! How memory and disk use go on while a load runs: `--watch`.
//!
//! Bounded use is a line that stops rising, which one figure at the end cannot show. Samples are of
//! all nodes together. What a file takes on the disk is counted, not its length: a hole takes nothing.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::results::Sample;
use crate::lab::cluster::Cluster;
use crate::lab::process;
use crate::runtime::Runtime;

/// With so many samples every second one is dropped, and from then on half as many are taken.
const MAX_SAMPLES: usize = 2_000;
/// What `st_blocks` counts in, in bytes, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;

/// Where to look.
#[derive(Clone)]
struct Nodes {
    data_dirs: Vec<PathBuf>,
    pids: Vec<u32>,
}

/// Runs a load and takes a sample before it, every `every` meanwhile, and after it.
pub async fn watched<T>(
    runtime: &Runtime,
    cluster: &Cluster,
    every: Duration,
    load: impl Future<Output = T>,
) -> anyhow::Result<(T, Vec<Sample>)> {
    let indices = 0..cluster.ids().len();
    let nodes = Nodes {
        data_dirs: indices.map(|index| cluster.data_dir(index).to_owned()).collect(),
        pids: cluster.pids(),
    };
    let mut samples = vec![nodes.sample(runtime, 0.0).await?];
    let began = runtime.now();
    let elapsed_s = || runtime.now().duration_since(began).as_secs_f64();
    // On a thread of its own, beside the load, which one thread drives.
    let watching = async {
        let mut every = every;
        loop {
            runtime.sleep(every).await;
            if samples.len() >= MAX_SAMPLES {
                thin_out(&mut samples);
                every *= 2;
            }
            match nodes.sample(runtime, elapsed_s()).await {
                Ok(sample) => samples.push(sample),
                Err(error) => return error,
            }
        }
    };
    let ended = tokio::select! {
        biased;
        ended = load => ended,
        error = watching => return Err(error),
    };
    samples.push(nodes.sample(runtime, elapsed_s()).await?);
    Ok((ended, samples))
}

/// Drops every second sample.
fn thin_out(samples: &mut Vec<Sample>) {
    let mut number = 0;
    samples.retain(|_| {
        number += 1;
        number % 2 == 1
    });
}

impl Nodes {
    async fn sample(&self, runtime: &Runtime, at_s: f64) -> anyhow::Result<Sample> {
        let nodes = self.clone();
        runtime.blocking(move || nodes.look(at_s)).await
    }

    fn look(&self, at_s: f64) -> anyhow::Result<Sample> {
        let (mut log_bytes, mut table_bytes) = (0, 0);
        for directory in &self.data_dirs {
            let unreadable = || format!("cannot look at {}", directory.display());
            let log = allocated(&directory.join("log")).with_context(unreadable)?;
            log_bytes += log;
            let all = allocated(directory).with_context(unreadable)?;
            table_bytes += all.saturating_sub(log);
        }
        let resident: anyhow::Result<Vec<u64>> =
            self.pids.iter().map(|pid| process::resident_bytes(*pid)).collect();
        Ok(Sample { at_s, resident_bytes: resident?.iter().sum(), log_bytes, table_bytes })
    }
}

/// What all files below a directory take on the disk, in bytes. One that is removed meanwhile takes
/// nothing.
fn allocated(directory: &Path) -> io::Result<u64> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match std::fs::read_dir(directory) {
        Err(error) if gone(&error) => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let path = entry?.path();
        bytes += match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => allocated(&path)?,
            Ok(found) => on_disk(&found),
            Err(error) if gone(&error) => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}

fn on_disk(found: &Metadata) -> u64 {
    found.blocks() * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinned_out_the_first_stays_and_every_second_goes() {
        let sample = |number: u32| Sample {
            at_s: f64::from(number),
            resident_bytes: 0,
            log_bytes: 0,
            table_bytes: 0,
        };
        let mut samples: Vec<Sample> = (0..5).map(sample).collect();
        thin_out(&mut samples);
        assert_eq!(samples, [0, 2, 4].map(sample));
    }

    #[test]
    fn what_files_take_is_counted_in_all_directories_and_a_hole_is_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).expect("makes");
        assert_eq!(allocated(root.path()).expect("counts"), 0);
        std::fs::write(deep.join("full"), vec![1; 100_000]).expect("writes");
        let full = allocated(root.path()).expect("counts");
        assert!((100_000..150_000).contains(&full), "{full}");
        let sparse = std::fs::File::create(root.path().join("sparse")).expect("creates");
        sparse.set_len(1 << 30).expect("grows");
        assert!(allocated(root.path()).expect("counts") < full + 100_000);
        assert_eq!(allocated(&root.path().join("none")).expect("nothing there"), 0);
    }
}

//! How memory and disk use go on while a load runs: `--watch`.
//!
//! Bounded use is a line that stops rising, which one figure at the end cannot show. Samples are of
//! all nodes together. What a file takes on the disk is counted, not its length: the log writes zeros
//! ahead of itself, and sparse files are no use of anything.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::results::Sample;
use crate::lab::cluster::Cluster;
use crate::runtime::Runtime;

/// A load with as many samples as this takes no more, so that a long one needs bounded memory.
const MAX_SAMPLES: usize = 10_000;
/// What `st_blocks` counts in, in bytes, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;

/// Runs a load and takes a sample at its beginning, every `every` meanwhile, and at its end.
pub async fn watched<T>(
    runtime: &Runtime,
    cluster: &Cluster,
    every: Duration,
    load: impl Future<Output = T>,
) -> anyhow::Result<(T, Vec<Sample>)> {
    let began = runtime.now();
    let elapsed = || runtime.now().duration_since(began).as_secs_f64();
    let mut samples = vec![sample(cluster, 0.0)?];
    let mut load = std::pin::pin!(load);
    loop {
        tokio::select! {
            biased;
            ended = &mut load => {
                samples.push(sample(cluster, elapsed())?);
                return Ok((ended, samples));
            }
            () = runtime.sleep(every), if samples.len() < MAX_SAMPLES => {
                samples.push(sample(cluster, elapsed())?);
            }
        }
    }
}

fn sample(cluster: &Cluster, at_s: f64) -> anyhow::Result<Sample> {
    let (mut log_bytes, mut table_bytes) = (0, 0);
    for index in 0..cluster.ids().len() {
        let directory = cluster.data_dir(index);
        let log = allocated(&directory.join("log"))?;
        log_bytes += log;
        table_bytes += allocated(directory)?.saturating_sub(log);
    }
    let resident_bytes = cluster.resident_bytes()?.iter().sum();
    Ok(Sample { at_s, resident_bytes, log_bytes, table_bytes })
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

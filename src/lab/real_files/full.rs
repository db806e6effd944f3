//! A node on a disk that fills up, and then has space again.
//!
//! The disk is a small one in memory, mounted where the right to mount is there: only so do the
//! engines' own files meet its end too. The node must stop or refuse writes honestly; started again
//! with space, it must have every acknowledged write and none that was said not to be applied.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;

use super::node::{NoStart, Running, in_a_paused_world, open_disk, settings};
use super::session::Written;
use super::trial::{Expectation, Verdict, in_a_thread, try_directory};
use crate::config::{Engine, Settings};
use crate::history::{Seeded, ValueId};
use crate::node::World;
use crate::types::{Mode, Outcome};

/// The least size of the disk, and how much larger it may be, in bytes: small, so that it fills soon,
/// and never the same, so that its end is met at every kind of write.
const DISK_BYTES: usize = 6 << 20;
const DISK_BYTES_MORE: usize = 6 << 20;

/// The size of the disk once it has space again, in bytes.
const LARGER_DISK_BYTES: usize = 256 << 20;

/// Writes until one must have failed.
const MAX_WRITES: u32 = 3_000;

/// Writes between two checkpoints, on average, and after how many there are none any more: they cut
/// the log, and the disk has to fill.
const CHECKPOINT_EVERY: usize = 40;
const NO_CHECKPOINT_AFTER: u32 = 120;

/// Writes that are tried after one failed.
const WRITES_AFTER: u32 = 5;

const KEYS: usize = 24;

/// Fills a disk under a node. The inner error says why that cannot be tried here.
pub(super) fn fill_disk(
    engine: Engine,
    mode: Mode,
    seed: u64,
    directory: &Path,
) -> anyhow::Result<Result<(String, Verdict), String>> {
    let mut random = Seeded::derived(seed, "full", mode as u64);
    let bytes = DISK_BYTES + random.below(DISK_BYTES_MORE);
    std::fs::create_dir_all(directory)?;
    let mounted = match Mounted::new(directory, bytes) {
        Ok(mounted) => mounted,
        Err(reason) => return Ok(Err(reason)),
    };
    let settings = settings(engine, mode, &directory.join("data"));
    let filling = settings.clone();
    let filled = in_a_thread(move || in_a_paused_world(fill(&filling, seed, &mut random)))?;
    let story = format!("a disk of {bytes} bytes");
    let writes = match filled {
        Ok(writes) => writes?,
        Err(problem) => return Ok(Ok((story, Verdict::Broken(problem)))),
    };
    let writes = match writes {
        Ok(writes) => writes,
        Err(problem) => return Ok(Ok((story, Verdict::Broken(problem)))),
    };
    if let Err(reason) = mounted.enlarge(LARGER_DISK_BYTES) {
        return Ok(Err(reason));
    }
    let expected = Expectation::at(&writes, 0);
    let mut verdict = Verdict::Held;
    for start in 1..=2 {
        if verdict == Verdict::Held {
            verdict = try_directory(&settings, expected.clone(), seed, start)?;
        }
    }
    let verdict = match verdict {
        Verdict::Refused(line) => {
            Verdict::Broken(format!("refused though it has to start: {line}"))
        }
        other => other,
    };
    Ok(Ok((format!("{story}, {} writes", writes.len()), verdict)))
}

/// Writes until the disk is full, and a little longer; gives the writes that may be there. An error
/// says what was wrong with how the node took it.
async fn fill(settings: &Settings, seed: u64, random: &mut Seeded) -> Result<Vec<Written>, String> {
    let disk = open_disk(&settings.data_dir).map_err(|error| error.to_string())?;
    let open_table = World::table_of(settings, disk.clone());
    let node = match Running::start(settings.clone(), disk, open_table, seed, 0).await {
        Ok(node) => node,
        Err(NoStart::Refused(error)) => return Err(format!("no start on an empty disk: {error}")),
        Err(NoStart::Panicked(text)) => return Err(format!("no start on an empty disk: {text}")),
    };
    node.ready().await?;
    let mut writes = Vec::new();
    let mut failed = 0;
    for seq in 1..=MAX_WRITES {
        let key = format!("key/{:02}", random.below(KEYS));
        let mut value = Vec::new();
        ValueId { client: 2, seq }.fill(8 + random.below(60_000), &mut value);
        let value = Some(Bytes::from(value));
        let mut write = Written {
            key: key.clone(),
            value: value.clone(),
            version: None,
            begun: 0,
            acknowledged: usize::MAX,
        };
        match node.write(&key, value).await.map_err(|panic| format!("{panic:#}"))? {
            Ok(version) => {
                (write.version, write.acknowledged) = (Some(version), 0);
                writes.push(write);
            }
            Err(error) => {
                failed += 1;
                if error.outcome() == Outcome::Unknown {
                    writes.push(write);
                }
            }
        }
        if failed > WRITES_AFTER {
            break;
        }
        if seq <= NO_CHECKPOINT_AFTER && random.below(CHECKPOINT_EVERY) == 0 {
            // Where it fails, the node says so by stopping; the next writes show that.
            let _ = node.checkpoint().await;
        }
    }
    if failed == 0 {
        return Err(format!("{MAX_WRITES} writes fitted on the disk"));
    }
    let reason = node.failure();
    node.kill();
    match reason {
        Some(reason) if reason.contains('\n') => Err(format!("stopped without one line: {reason}")),
        Some(_) => Ok(writes),
        None => Err("writes fail, and the node neither stops nor says why".to_owned()),
    }
}

/// A disk in memory, mounted until this is dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(directory: &'a Path, bytes: usize) -> Result<Mounted<'a>, String> {
        let size = format!("size={bytes}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory))?;
        Ok(Mounted(directory))
    }

    fn enlarge(&self, bytes: usize) -> Result<(), String> {
        let options = format!("remount,size={bytes}");
        run(Command::new("mount").args(["-o", &options]).arg(self.0))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A node that hangs still has files open on it: the last of them lets it go.
        if let Err(problem) = run(Command::new("umount").arg("--lazy").arg(self.0)) {
            tracing::warn!(problem, "a disk in memory stays mounted");
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("cannot mount a small disk: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("cannot mount a small disk: {}", said.trim().replace('\n', " ")))
}

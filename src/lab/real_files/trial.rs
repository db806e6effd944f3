//! Starting a node on an image, and judging what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use super::images::Image;
use super::model::Files;
use super::node::{NoStart, Running, in_a_paused_world, open_disk};
use super::session::Written;
use crate::config::Settings;
use crate::node::World;
use crate::runtime::Runtime;
use crate::types::{Content, Record, Version};

/// How long one start of a node and the reads after it may take, in real time. Far above what a busy
/// machine needs: beyond it the node hangs.
const TRIAL_WITHIN: Duration = Duration::from_secs(120);

/// The longest refusal that still is one clear line, in bytes.
const MAX_REFUSAL_BYTES: usize = 600;

/// What a node made of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It serves, and holds everything that it must.
    Held,
    /// It does not start, or stops, with this line.
    Refused(String),
    /// It broke a promise.
    Broken(String),
}

/// What must and what may be in a directory.
#[derive(Clone, Default)]
pub(super) struct Expectation {
    keys: BTreeMap<String, KeyExpectation>,
}

#[derive(Clone, Default)]
struct KeyExpectation {
    /// The newest write that was acknowledged.
    acknowledged: Option<(Version, Written)>,
    /// Every write that had begun.
    begun: Vec<Written>,
}

impl Expectation {
    /// What must be there of these writes after `at` steps.
    pub(super) fn at(writes: &[Written], at: usize) -> Expectation {
        let mut keys: BTreeMap<String, KeyExpectation> = BTreeMap::new();
        for write in writes {
            // Keys that were never written must not be there either.
            let key = keys.entry(write.key.clone()).or_default();
            if write.begun <= at {
                key.begun.push(write.clone());
            }
            let Some(version) = write.version.filter(|_| write.acknowledged <= at) else {
                continue;
            };
            if key.acknowledged.as_ref().is_none_or(|(newest, _)| *newest < version) {
                key.acknowledged = Some((version, write.clone()));
            }
        }
        Expectation { keys }
    }
}

impl KeyExpectation {
    /// What is wrong with what was read.
    fn check(&self, key: &str, found: Option<Record>) -> Result<(), String> {
        let Some(found) = found else {
            return match &self.acknowledged {
                Some((version, Written { value: Some(_), .. })) => {
                    Err(format!("{key} is missing, though a write at {version} was acknowledged"))
                }
                _ => Ok(()),
            };
        };
        let version = found.version;
        if let Some((newest, _)) = &self.acknowledged
            && version < *newest
        {
            return Err(format!("{key} is at {version}, though {newest} was acknowledged"));
        }
        let bytes: Option<Bytes> = match found.content {
            Content::Value { bytes, .. } => Some(bytes),
            Content::Tombstone => None,
        };
        if let Some(write) = self.begun.iter().find(|write| write.version == Some(version)) {
            return match write.value == bytes {
                true => Ok(()),
                false => Err(format!("{key} at {version} has bytes that were not written")),
            };
        }
        // A write whose client was told nothing has some version, and all of its bytes.
        match self.begun.iter().any(|write| write.version.is_none() && write.value == bytes) {
            true => Ok(()),
            false => Err(format!("{key} is at {version}, which no write was given by then")),
        }
    }
}

/// Writes the files of an image into a directory that is not there yet.
pub(super) fn materialise(files: &Files, directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    for (path, bytes) in files {
        let target = directory.join(path);
        if path.ends_with('/') {
            fs::create_dir_all(target)?;
            continue;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(target, bytes)?;
    }
    Ok(())
}

/// Starts a node on an image that was put into the directory in the settings, twice, and judges it.
pub(super) fn try_image(
    settings: &Settings,
    image: &Image,
    expected: Expectation,
    seed: u64,
) -> anyhow::Result<Verdict> {
    materialise(&image.files, &settings.data_dir)?;
    let first = try_directory(settings, expected.clone(), seed, 1)?;
    let verdict = match first {
        // What the first start wrote must be good enough for a second.
        Verdict::Held => try_directory(settings, expected, seed, 2)?,
        other => other,
    };
    Ok(match verdict {
        Verdict::Refused(line) if image.kind.is_plain() => {
            Verdict::Broken(format!("refused though it has to start: {line}"))
        }
        other => other,
    })
}

/// Starts a node on a directory and judges it.
pub(super) fn try_directory(
    settings: &Settings,
    expected: Expectation,
    seed: u64,
    start: u64,
) -> anyhow::Result<Verdict> {
    let settings = settings.clone();
    let judged = in_a_thread(move || {
        in_a_paused_world(async { judge(&settings, &expected, seed, start).await })
    })?;
    Ok(match judged {
        Ok(verdict) => verdict?,
        Err(problem) => Verdict::Broken(problem),
    })
}

/// Runs work in a thread of its own; the inner error says that it panics or hangs.
pub(super) fn in_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<Result<T, String>> {
    let (sender, result) = mpsc::channel();
    let thread = Runtime::real().thread("real-files", move || {
        // Whoever waited too long has gone.
        let _ = sender.send(work());
    })?;
    match result.recv_timeout(TRIAL_WITHIN) {
        Ok(value) => match thread.join() {
            Ok(()) => Ok(Ok(value)),
            Err(_) => Ok(Err("a panic as the node closed".to_owned())),
        },
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Ok(Err("a panic outside of the node's tasks".to_owned()))
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Ok(Err(format!("the node hangs for more than {} s", TRIAL_WITHIN.as_secs())))
        }
    }
}

async fn judge(settings: &Settings, expected: &Expectation, seed: u64, start: u64) -> Verdict {
    let disk = match open_disk(&settings.data_dir) {
        Ok(disk) => disk,
        Err(error) => return Verdict::Broken(format!("the directory does not open: {error}")),
    };
    let open_table = World::table_of(settings, disk.clone());
    // Starts of the recording come before all starts of an image.
    let number = 100 + start;
    let node = match Running::start(settings.clone(), disk, open_table, seed, number).await {
        Ok(node) => node,
        Err(NoStart::Refused(error)) => return refused(settings, error.to_string()),
        Err(NoStart::Panicked(text)) => {
            return Verdict::Broken(format!("the node does not start: {text}"));
        }
    };
    let verdict = match serve(&node, expected, start).await {
        Ok(()) => Verdict::Held,
        // A node that stops says why, and its clients know that they got no answer.
        Err(problem) => match (problem, node.failure()) {
            (Problem::NoAnswer(_), Some(reason)) => refused(settings, reason),
            (Problem::NoAnswer(text) | Problem::Wrong(text), _) => Verdict::Broken(text),
        },
    };
    match (start, verdict) {
        // Once in order, once not.
        (1, Verdict::Held) => match node.stop().await {
            Ok(()) => Verdict::Held,
            Err(error) => Verdict::Broken(format!("{error:#}")),
        },
        (_, verdict) => {
            node.kill();
            verdict
        }
    }
}

enum Problem {
    /// No answer, with the error that came instead.
    NoAnswer(String),
    /// A wrong answer.
    Wrong(String),
}

async fn serve(node: &Running, expected: &Expectation, start: u64) -> Result<(), Problem> {
    node.ready()
        .await
        .map_err(|reason| Problem::NoAnswer(format!("the node does not serve: {reason}")))?;
    for (key, expectation) in &expected.keys {
        let found = read(node, key).await?;
        expectation.check(key, found).map_err(Problem::Wrong)?;
    }
    write_one_more(node, start).await
}

async fn read(node: &Running, key: &str) -> Result<Option<Record>, Problem> {
    let answer = node.read(key).await.map_err(|panic| Problem::Wrong(format!("{panic:#}")))?;
    answer.map_err(|error| Problem::NoAnswer(format!("{key} cannot be read: {error}")))
}

async fn write_one_more(node: &Running, start: u64) -> Result<(), Problem> {
    let key = format!("after/{start}");
    let value = Bytes::from(format!("written after start {start}"));
    let written = node.write(&key, Some(value.clone())).await;
    let written = written.map_err(|panic| Problem::Wrong(format!("{panic:#}")))?;
    let version =
        written.map_err(|error| Problem::NoAnswer(format!("{key} cannot be written: {error}")))?;
    let found = read(node, &key).await?;
    match found {
        Some(Record { version: found, content: Content::Value { bytes, .. } })
            if found == version && bytes == value =>
        {
            Ok(())
        }
        _ => Err(Problem::Wrong(format!("{key} does not read as it was written"))),
    }
}

/// A refusal is one line that says which directory or file it is about.
fn refused(settings: &Settings, line: String) -> Verdict {
    const FILES: [&str; 4] = ["identity.json", "peers.json", "log/", "table"];
    let directory = settings.data_dir.display().to_string();
    let names_it = line.contains(&directory) || FILES.iter().any(|file| line.contains(file));
    let one_line = !line.trim().is_empty() && !line.contains('\n');
    if names_it && one_line && line.len() <= MAX_REFUSAL_BYTES {
        Verdict::Refused(line)
    } else {
        Verdict::Broken(format!("refused, but not with one clear line: {line}"))
    }
}

//! A replica that was away while keys were written: how soon its copy equals the others' again.
//!
//! Keys of their own, which the steady load leaves alone, are written, then written again while the
//! node is away. The others' list of them says which version of each stands; the node has them all once
//! its own list, at `local`, shows the same versions.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use serde::Deserialize;

use super::course::{self, Absence, Course, LOOK_EVERY};
use super::loading::{self, Loading};
use super::results::Absent;
use super::stage::{Load, Stage};
use super::worker::TIMEOUT;
use crate::lab::cluster::Cluster;
use crate::lab::http::Connection;
use crate::runtime::Instant;

/// A replica is equal again within this time.
const EQUAL_WITHIN: Duration = Duration::from_secs(900);
/// The keys of this are no others' prefix.
const PREFIX: &str = "away";

/// Measures one absence during which `writes` keys are written.
pub async fn run(stage: &mut Stage<'_>, load: Load, writes: usize) -> anyhow::Result<Absent> {
    loading::load(stage.runtime, loading_of(stage, load, writes)).await?;
    let mut away = Away { writes, versions: Vec::new() };
    let ran = course::run(stage, load, &mut away).await?;
    Ok(Absent {
        mode: stage.mode,
        node: ran.node,
        writes,
        value_bytes: load.value_bytes,
        equal_ms: ran.back_ms,
        missed: ran.missed,
        parts: ran.parts,
    })
}

fn loading_of(stage: &Stage<'_>, load: Load, writes: usize) -> Loading {
    Loading {
        nodes: stage.nodes.clone(),
        prefix: PREFIX.to_owned(),
        keys: writes,
        value_bytes: load.value_bytes,
    }
}

/// One key and the version that stands.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Item {
    key: String,
    etag: String,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    next_cursor: Option<String>,
}

struct Away {
    writes: usize,
    /// In the order of the keys.
    versions: Vec<Item>,
}

/// How far a node's list is known to equal the others'.
#[derive(Default)]
struct Walk {
    /// So many keys do.
    equal: usize,
    /// Where the list goes on behind them.
    cursor: Option<String>,
}

impl Absence for Away {
    const WORDS: (&'static str, &'static str) = ("keys are written", "gets what it missed");

    async fn meanwhile(&mut self, course: &Course<'_>) -> anyhow::Result<()> {
        let others = course.others;
        loading::load(others.runtime, loading_of(others, course.load, self.writes)).await?;
        let mut connection = Connection::new(others.runtime.clone(), others.nodes[0].1, TIMEOUT);
        let mut cursor = None;
        loop {
            let page =
                page(&mut connection, "", cursor.as_deref()).await.map_err(|why| anyhow!(why))?;
            self.versions.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let (listed, written) = (self.versions.len(), self.writes);
        ensure!(listed == written, "{written} keys were written, and {listed} are listed");
        Ok(())
    }

    async fn until_back(
        &self,
        course: &Course<'_>,
        cluster: &mut Cluster,
        began: Instant,
    ) -> anyhow::Result<()> {
        let (stage, (node, address)) = (course.stage, course.stage.nodes[course.victim]);
        let mut connection = Connection::new(stage.runtime.clone(), address, TIMEOUT);
        let mut walk = Walk::default();
        while stage.runtime.now() < began + EQUAL_WITHIN {
            if self.is_equal(&mut connection, &mut walk).await? {
                return Ok(());
            }
            ensure!(cluster.is_running(course.victim)?, "node {node} ended instead of coming back");
            stage.runtime.sleep(LOOK_EVERY).await;
        }
        let (equal, all, seconds) = (walk.equal, self.writes, EQUAL_WITHIN.as_secs());
        bail!("node {node} has {equal} of {all} keys as the others have them after {seconds} s")
    }
}

impl Away {
    /// Walks on as far as the node has what the others have; whether that is everything.
    async fn is_equal(&self, connection: &mut Connection, walk: &mut Walk) -> anyhow::Result<bool> {
        let mut cursor = walk.cursor.clone();
        while walk.equal < self.versions.len() {
            // It cannot be asked before it listens, and may not be ready at once.
            let Ok(page) = page(connection, "&consistency=local", cursor.as_deref()).await else {
                return Ok(false);
            };
            let expected = &self.versions[walk.equal..];
            if !expected.starts_with(&page.items) {
                return Ok(false);
            }
            // What an empty page passes over may come yet: it is walked again.
            if !page.items.is_empty() {
                walk.equal += page.items.len();
                walk.cursor.clone_from(&page.next_cursor);
            }
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(walk.equal == self.versions.len()),
            }
        }
        Ok(true)
    }
}

async fn page(
    connection: &mut Connection,
    parameters: &str,
    cursor: Option<&str>,
) -> Result<Page, String> {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let target = format!("/v1/kv?prefix={PREFIX}-&limit=1000{parameters}{cursor}");
    let address = connection.address();
    let answer =
        connection.call("GET", &target, b"").await.map_err(|failure| failure.to_string())?;
    match answer.status {
        200 => {
            serde_json::from_slice(answer.body).context("not a list").map_err(|e| format!("{e:#}"))
        }
        status => Err(format!("{address} answered a list with {status}")),
    }
}

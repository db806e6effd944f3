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
#[derive(Debug, Default, PartialEq, Eq)]
struct Walk {
    /// So many keys do.
    equal: usize,
    /// Where the list goes on behind them.
    cursor: Option<String>,
}

/// What follows from a page.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The list goes on there.
    On(String),
    /// It is equal to its end.
    Equal,
    /// It is not yet.
    NotYet,
}

impl Walk {
    /// Takes the page behind the walk, or behind empty pages there.
    fn take(&mut self, expected: &[Item], page: Page) -> Step {
        let rest = expected.get(self.equal..).unwrap_or_default();
        if !rest.starts_with(&page.items) {
            // Where a key is missing before the page's, it may lie before the cursor of the walk.
            let first = |items: &[Item]| items.first().map(|item| item.key.clone());
            if first(rest) != first(&page.items) {
                *self = Walk::default();
            }
            return Step::NotYet;
        }
        match page.next_cursor {
            None if rest.len() == page.items.len() => Step::Equal,
            None => Step::NotYet,
            Some(next) => {
                // What an empty page passes over may come yet: it is walked again.
                if !page.items.is_empty() {
                    self.equal += page.items.len();
                    self.cursor = Some(next.clone());
                }
                Step::On(next)
            }
        }
    }
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
        let (mut walk, mut trouble) = (Walk::default(), None);
        while stage.runtime.now() < began + EQUAL_WITHIN {
            match self.is_equal(&mut connection, &mut walk).await {
                Ok(true) => return Ok(()),
                Ok(false) => trouble = None,
                // It cannot be asked before it listens, and may not be ready at once.
                Err(why) => trouble = Some(why),
            }
            ensure!(cluster.is_running(course.victim)?, "node {node} ended instead of coming back");
            stage.runtime.sleep(LOOK_EVERY).await;
        }
        let (equal, all, seconds) = (walk.equal, self.writes, EQUAL_WITHIN.as_secs());
        let trouble = trouble.map(|why| format!(": {why}")).unwrap_or_default();
        bail!(
            "node {node} has {equal} of {all} keys as the others have, after {seconds} s{trouble}"
        )
    }
}

impl Away {
    /// Walks on as far as the node has what the others have; whether that is everything.
    async fn is_equal(&self, connection: &mut Connection, walk: &mut Walk) -> Result<bool, String> {
        let mut cursor = walk.cursor.clone();
        loop {
            let page = page(connection, "&consistency=local", cursor.as_deref()).await?;
            match walk.take(&self.versions, page) {
                Step::On(next) => cursor = Some(next),
                Step::Equal => return Ok(true),
                Step::NotYet => return Ok(false),
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn items(of: &[(u32, &str)]) -> Vec<Item> {
        let item =
            |(key, etag): &(u32, &str)| Item { key: key.to_string(), etag: (*etag).to_owned() };
        of.iter().map(item).collect()
    }

    fn page(of: &[(u32, &str)], next: Option<&str>) -> Page {
        Page { items: items(of), next_cursor: next.map(str::to_owned) }
    }

    #[test]
    fn a_list_is_equal_once_every_version_is_the_others() {
        let expected = items(&[(1, "a"), (2, "b"), (3, "c")]);
        let mut walk = Walk::default();
        let on = |next: &str| Step::On(next.to_owned());
        assert_eq!(walk.take(&expected, page(&[(1, "old"), (2, "b")], Some("2"))), Step::NotYet);
        assert_eq!(walk, Walk::default(), "an older version");
        assert_eq!(walk.take(&expected, page(&[(1, "a"), (2, "b")], Some("2"))), on("2"));
        assert_eq!(walk.take(&expected, page(&[], Some("x"))), on("x"));
        assert_eq!(walk.cursor.as_deref(), Some("2"), "an empty page is walked again");
        assert_eq!(walk.take(&expected, page(&[(3, "old")], None)), Step::NotYet);
        assert_eq!(walk.equal, 2);
        assert_eq!(walk.take(&expected, page(&[(3, "c")], None)), Step::Equal);
    }

    #[test]
    fn a_missing_key_is_waited_for_wherever_it_is() {
        let expected = items(&[(1, "a"), (2, "b"), (3, "c")]);
        let mut walk = Walk::default();
        assert_eq!(walk.take(&expected, page(&[(1, "a"), (2, "b")], None)), Step::NotYet);
        assert_eq!(walk, Walk::default(), "the last is missing");
        assert_eq!(walk.take(&expected, page(&[(1, "a")], Some("2"))), Step::On("2".to_owned()));
        assert_eq!(walk.take(&expected, page(&[(3, "c")], None)), Step::NotYet);
        assert_eq!(walk, Walk::default(), "the second is, before the cursor");
        assert_eq!(walk.take(&expected, page(&[], None)), Step::NotYet);
    }
}

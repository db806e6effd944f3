//! Merging pages of several replicas' rows into one: pure.
//!
//! **Guarantees.** Keys are trusted only up to the smallest last key of the pages that were cut: past
//! it, a replica that holds more was not heard. Tombstones are merged like values. Where replicas
//! that hold a key do not agree on it, or too few of them were heard, that is said key by key.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::horizons::is_gone;
use super::messages::ListPage;
use super::resolve::{Held, Resolution, resolve};
use super::view::View;
use crate::planted::{self, Bug};
use crate::storage::encoding::DecodeError;
use crate::storage::rows::Bound;
use crate::types::{Key, NodeId, Partition};

/// One key of a merged page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedKey {
    pub key: Key,
    /// What the replicas of the key that gave pages hold of it.
    pub resolution: Resolution,
}

/// Several pages, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedPage {
    /// In key order, tombstones included.
    pub keys: Vec<MergedKey>,
    /// Where the next page starts; `None` at the end.
    pub more: Option<Bound>,
}

/// Whether enough replicas of every partition are among `heard`: `needed` of a set of so many.
pub fn covers(view: &View, heard: &[NodeId], needed: impl Fn(usize) -> u16) -> bool {
    Partition::all().all(|partition| {
        view.read_sets(partition).iter().all(|set| {
            let count = set.iter().filter(|node| heard.contains(node)).count();
            count >= usize::from(needed(set.len()))
        })
    })
}

/// Merges what the nodes gave, each page from the same bound on.
pub fn merge(
    view: &View,
    pages: Vec<(NodeId, ListPage)>,
) -> Result<MergedPage, (Key, DecodeError)> {
    let lasts = pages
        .iter()
        .filter(|(_, page)| !page.end)
        .filter_map(|(_, page)| page.rows.last().map(|(key, _)| key.clone()));
    let trusted: Option<Key> = match planted::is(Bug::ListTrustsTooFar) {
        true => lasts.max(),
        false => lasts.min(),
    };
    let heard: Vec<NodeId> = pages.iter().map(|(node, _)| *node).collect();
    let mut found: BTreeMap<Key, Vec<(NodeId, Bytes, u64)>> = BTreeMap::new();
    for (node, page) in pages {
        for (key, record) in page.rows {
            let reached_ms = page.reached_ms.get(&key.partition().0).copied().unwrap_or_default();
            let is_trusted = trusted.as_ref().is_none_or(|last| key <= *last);
            // What a node keeps of partitions that it does not hold counts for nothing.
            // Another may have dropped it, and is not to be sent it again.
            let is_gone = is_gone(&record, reached_ms);
            if is_trusted && !is_gone && view.read_sets(key.partition()).contains(node) {
                found.entry(key).or_default().push((node, record, reached_ms));
            }
        }
    }
    let mut keys = Vec::with_capacity(found.len());
    for (key, records) in found {
        let replicas = view.read_sets(key.partition()).union();
        let held: Vec<Held> = replicas
            .into_iter()
            .filter(|node| heard.contains(node))
            .map(|node| {
                let held = records.iter().find(|(holder, ..)| *holder == node);
                let (record, reached_ms) =
                    held.map(|(_, record, reached_ms)| (record.clone(), *reached_ms)).unzip();
                Held { node, record, reached_ms: reached_ms.unwrap_or_default() }
            })
            .collect();
        match resolve(&held) {
            Ok(resolution) => keys.push(MergedKey { key, resolution }),
            Err(error) => return Err((key, error)),
        }
    }
    let more = trusted.map(|key| Bound::After(key.as_str().to_owned()));
    Ok(MergedPage { keys, more })
}

#[cfg(test)]
mod tests {
    use super::super::layout::founding;
    use super::*;
    use crate::config::Settings;
    use crate::storage::encoding::encode;
    use crate::types::{Content, FOUNDING_EPOCH, LayoutState, Mode, Record, Version};

    fn record(ms: u64) -> Bytes {
        let content = if ms.is_multiple_of(2) {
            Content::Tombstone
        } else {
            let bytes = Bytes::from_static(b"v");
            Content::Value { bytes, content_type: None, expires_at_ms: None }
        };
        encode(&Record { version: Version::new(ms << 16, NodeId(1)), content })
    }

    fn page(rows: &[(&str, u64)], end: bool) -> ListPage {
        let row = |(text, ms): &(&str, u64)| (Key::new(text, 64).expect("a key"), record(*ms));
        ListPage { rows: rows.iter().map(row).collect(), end, ..ListPage::default() }
    }

    fn view(nodes: u16) -> View {
        let peers = (1..=nodes).map(|id| (NodeId(id), String::new())).collect();
        let settings = Settings::defaults(NodeId(1), Mode::Leaderless, peers);
        let layout = founding((1..=nodes).map(NodeId), &settings.leaderless);
        View::of(LayoutState::standing(FOUNDING_EPOCH, layout))
    }

    fn three() -> View {
        view(3)
    }

    fn keys(merged: &MergedPage) -> Vec<&str> {
        merged.keys.iter().map(|merged| merged.key.as_str()).collect()
    }

    #[test]
    fn keys_past_the_shortest_cut_page_are_not_trusted() {
        let long = page(&[("a", 1), ("b", 1), ("d", 1)], false);
        let short = page(&[("a", 1), ("b", 1)], false);
        let merged = merge(&three(), vec![(NodeId(1), long), (NodeId(2), short)]).expect("records");
        assert_eq!(keys(&merged), ["a", "b"]);
        assert_eq!(merged.more, Some(Bound::After("b".to_owned())));
    }

    #[test]
    fn a_page_that_ended_limits_nothing_and_its_gaps_are_gaps() {
        let ended = page(&[("a", 1)], true);
        let cut = page(&[("a", 1), ("c", 1)], false);
        let merged = merge(&three(), vec![(NodeId(1), ended), (NodeId(2), cut)]).expect("records");
        assert_eq!(keys(&merged), ["a", "c"]);
        assert_eq!(merged.keys[0].resolution.behind, []);
        assert_eq!(merged.keys[1].resolution.behind, [NodeId(1)]);
        assert_eq!(merged.more, Some(Bound::After("c".to_owned())));
    }

    #[test]
    fn a_newer_tombstone_wins_over_a_value_and_is_kept() {
        let stale = page(&[("a", 1)], true);
        let deleted = page(&[("a", 2)], true);
        let pages = vec![(NodeId(1), stale), (NodeId(3), deleted)];
        let merged = merge(&three(), pages).expect("records");
        assert_eq!(merged.keys[0].resolution.newest, Some(record(2)));
        assert_eq!(merged.keys[0].resolution.behind, [NodeId(1)]);
        assert_eq!(merged.more, None);
    }

    #[test]
    fn only_the_replicas_of_a_key_count_for_it() {
        let layout = view(5);
        let key = Key::new("a", 64).expect("a key");
        let replicas = layout.old_replicas(key.partition()).to_vec();
        let pages: Vec<_> = (1..=5)
            .map(NodeId)
            // A stray row on a node that does not hold the partition is newer, and ignored.
            .map(|node| (node, page(&[("a", if replicas.contains(&node) { 1 } else { 3 })], true)))
            .collect();
        let merged = merge(&layout, pages).expect("records");
        assert_eq!(merged.keys[0].resolution.newest, Some(record(1)));
        assert_eq!(merged.keys[0].resolution.holders.len(), 3);
        assert!(merged.keys[0].resolution.behind.is_empty());
    }

    #[test]
    fn coverage_counts_replicas_of_every_partition() {
        let layout = view(5);
        assert!(covers(&layout, &[1, 2, 3, 4].map(NodeId), |_| 2));
        assert!(!covers(&layout, &[1, 2].map(NodeId), |_| 2));
        assert!(!covers(&layout, &[1, 2, 3, 4].map(NodeId), |_| 3));
    }
}

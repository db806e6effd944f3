//! Lists against a model that knows nothing of pages, and the bounds of a page.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::types::{NodeId, Version};

const NOW_MS: u64 = 1_000;

fn key(text: &str) -> Key {
    Key::new(text, 64).expect("a valid key")
}

fn value(text: &str, expires_at_ms: Option<u64>) -> Record {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let content = Content::Value { bytes, content_type: None, expires_at_ms };
    Record { version: Version::new(1 << 16, NodeId(1)), content }
}

fn tombstone() -> Record {
    Record { version: Version::new(2 << 16, NodeId(1)), content: Content::Tombstone }
}

fn list(prefix: &str, delimiter: Option<&str>, limit: usize) -> List {
    List {
        prefix: prefix.to_owned(),
        from: Bound::Start,
        delimiter: delimiter.map(str::to_owned),
        limit,
        with_values: false,
    }
}

/// An ordered map as a source, in steps of at most `most` rows; counts them.
struct Map {
    rows: BTreeMap<String, Record>,
    prefix: String,
    most: usize,
    steps: usize,
}

impl Map {
    fn of(rows: &BTreeMap<String, Record>, prefix: &str, most: usize) -> Map {
        Map { rows: rows.clone(), prefix: prefix.to_owned(), most, steps: 0 }
    }
}

fn is_past(key: &str, from: &Bound) -> bool {
    match from {
        Bound::Start => true,
        Bound::After(text) => key > text.as_str(),
        Bound::AfterPrefix(text) => key > text.as_str() && !key.starts_with(text.as_str()),
    }
}

impl RowSource for Map {
    type Error = Infallible;

    async fn step(&mut self, from: &Bound, limit: usize) -> Result<Rows, Infallible> {
        self.steps += 1;
        let limit = limit.min(self.most);
        let rows = self.rows.iter();
        let rows = rows.filter(|(k, _)| k.starts_with(&self.prefix) && is_past(k, from));
        Ok(Rows::up_to(limit, rows.take(limit).map(|(k, r)| (key(k), r.clone())).collect()))
    }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Every page of a list, from the start to the end.
fn all_pages(source: &mut Map, mut list: List, max_rows: usize, max_bytes: usize) -> Vec<Page> {
    let mut pages = Vec::new();
    loop {
        let page = run(fold_within(source, &list, NOW_MS, max_rows, max_bytes));
        let page = page.unwrap_or_else(|never| match never {});
        let next = page.next.clone();
        pages.push(page);
        match next {
            Some(next) => list.from = next,
            None => return pages,
        }
        assert!(pages.len() < 10_000, "the pages do not end");
    }
}

/// What a list is, said without pages: live keys, or the prefixes that they fold into.
fn model(rows: &BTreeMap<String, Record>, prefix: &str, delimiter: Option<&str>) -> Vec<String> {
    let mut entries = BTreeSet::new();
    for (text, record) in rows {
        let Some(rest) = text.strip_prefix(prefix) else { continue };
        if record.is_gone_at(NOW_MS) {
            continue;
        }
        let folded = delimiter.and_then(|d| rest.split_once(d).map(|(head, _)| (head, d)));
        entries.insert(match folded {
            Some((head, delimiter)) => format!("{prefix}{head}{delimiter} (folded)"),
            None => text.clone(),
        });
    }
    entries.into_iter().collect()
}

fn entries(page: &Page) -> Vec<String> {
    let items = page.items.iter().map(|(key, _)| key.as_str().to_owned());
    let prefixes = page.prefixes.iter().map(|prefix| format!("{prefix} (folded)"));
    let mut all: Vec<String> = items.chain(prefixes).collect();
    all.sort();
    all
}

fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        4 => Just(value("v", None)),
        1 => Just(value("v", Some(NOW_MS + 1))),
        1 => Just(value("v", Some(NOW_MS))),
        2 => Just(tombstone()),
    ]
}

fn any_rows() -> impl Strategy<Value = BTreeMap<String, Record>> {
    prop::collection::btree_map("[ab/é]{1,5}", any_record(), 0..60)
}

proptest! {
    #[test]
    fn pages_together_are_the_whole_list_and_each_keeps_its_limit(
        rows in any_rows(),
        prefix in prop::sample::select(vec!["", "a", "a/", "b/a", "é"]),
        delimiter in prop::sample::select(vec![None, Some("/"), Some("ab"), Some("//")]),
        limit in 1_usize..9,
        most in 1_usize..9,
    ) {
        let mut source = Map::of(&rows, prefix, most);
        let pages = all_pages(&mut source, list(prefix, delimiter, limit), usize::MAX, usize::MAX);
        let expected = model(&rows, prefix, delimiter);
        // Exact: every page but the last is full, and none follows the last entry.
        let counts: Vec<usize> = pages.iter().map(|page| entries(page).len()).collect();
        let full: Vec<usize> = expected.chunks(limit).map(<[String]>::len).collect();
        prop_assert_eq!(counts, if full.is_empty() { vec![0] } else { full });
        let seen: Vec<String> = pages.iter().flat_map(entries).collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn pages_cut_short_by_the_bounds_still_give_the_whole_list(
        rows in any_rows(),
        delimiter in prop::sample::select(vec![None, Some("/")]),
        limit in 1_usize..9,
        most in 1_usize..5,
        max_rows in 1_usize..5,
        max_bytes in 0_usize..300,
    ) {
        let mut source = Map::of(&rows, "", most);
        let pages = all_pages(&mut source, list("", delimiter, limit), max_rows, max_bytes);
        let seen: Vec<String> = pages.iter().flat_map(entries).collect();
        prop_assert_eq!(seen, model(&rows, "", delimiter));
        prop_assert!(pages.iter().all(|page| entries(page).len() <= limit));
    }
}

#[test]
fn a_huge_folder_costs_one_step() {
    let mut rows: BTreeMap<String, Record> =
        (0..10_000).map(|n| (format!("big/{n:05}"), value("v", None))).collect();
    rows.insert("after".to_owned(), value("v", None));
    rows.insert("zebra".to_owned(), value("v", None));
    let mut source = Map::of(&rows, "", usize::MAX);
    let page = run(fold(&mut source, &list("", Some("/"), 10), NOW_MS)).expect("never fails");
    assert_eq!(entries(&page), ["after", "big/ (folded)", "zebra"]);
    assert_eq!((page.next, source.steps), (None, 2));
}

#[test]
fn a_page_of_heavy_records_ends_early_and_asks_for_few_rows_at_once() {
    let heavy = "x".repeat(MAX_PAGE_BYTES / 4);
    let rows: BTreeMap<String, Record> =
        (0..40).map(|n| (format!("k{n:02}"), value(&heavy, None))).collect();
    let mut source = Map::of(&rows, "", 4);
    let page = run(fold(&mut source, &list("", None, 100), NOW_MS)).expect("never fails");
    assert_eq!(page.items.len(), 4);
    assert_eq!(page.next, Some(Bound::After("k03".to_owned())));
    assert_eq!(Read { rows: 4, bytes: 4 * heavy.len() }.step_rows(100), 2);
}

#[test]
fn a_range_of_tombstones_is_many_short_pages() {
    let rows: BTreeMap<String, Record> =
        (0..100).map(|n| (format!("k{n:02}"), tombstone())).collect();
    let mut source = Map::of(&rows, "", 10);
    let page = run(fold_within(&mut source, &list("", None, 5), NOW_MS, 20, usize::MAX));
    let page = page.expect("never fails");
    assert!(page.items.is_empty());
    assert_eq!(page.next, Some(Bound::After("k21".to_owned())));
}

#[test]
fn an_error_of_the_source_passes_through() {
    struct Broken;
    impl RowSource for Broken {
        type Error = String;
        async fn step(&mut self, _: &Bound, _: usize) -> Result<Rows, String> {
            Err("no quorum".to_owned())
        }
    }
    let page = run(fold(&mut Broken, &list("", None, 5), NOW_MS));
    assert_eq!(page, Err("no quorum".to_owned()));
}

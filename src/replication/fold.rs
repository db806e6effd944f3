//! Pages of a list: what both modes do to rows in key order before a client sees them.
//!
//! **Why it exists.** A client lists live keys, folded by a delimiter and cut at a limit; the modes
//! have rows, tombstones among them, from one table or merged over replicas. [`fold`] is the step
//! between, the same for both.
//!
//! **Guarantees.** Paging from [`Bound::Start`] by each page's `next` gives every live key once, as
//! itself or in one folded prefix, in key order. `next` is set only where a live key follows, or
//! where a bound below stopped the search for one. A folded prefix costs one step of the source,
//! however many keys lie in it.
//!
//! **Does not guarantee** one moment for all pages of a list, nor for one page of several steps:
//! writes that happen between two steps are seen or missed.
//!
//! **Bounds.** A page ends early, with `next` set, after [`MAX_ROWS_READ`] rows or
//! [`MAX_PAGE_BYTES`] of records, so that ten million tombstones in a row are many short answers
//! and not one that never ends.

use std::future::Future;

use crate::storage::rows::Bound;
use crate::types::{Content, Key, Record};

use super::List;

/// How many rows one page may read from its source: a second's work at most.
pub const MAX_ROWS_READ: usize = 65_536;

/// How many bytes of records a page may hold before it ends early.
pub const MAX_PAGE_BYTES: usize = 8 << 20;

/// How many rows the first step asks for, at most: what rows weigh is not known yet, and they may
/// be a MiB each.
const FIRST_STEP_ROWS: usize = 32;

/// How many rows a later step asks for, at most.
const MAX_STEP_ROWS: usize = 1_024;

/// About how many bytes of rows a later step asks for, going by the rows read so far.
const STEP_BYTES: usize = 4 << 20;

/// What a row weighs beside its key and value, in bytes; keeps the estimate above zero.
const ROW_OVERHEAD_BYTES: usize = 64;

/// Rows in key order, of which some are tombstones or expired.
pub struct Rows {
    /// Every row from the bound asked for up to `more`, in strictly rising key order.
    pub rows: Vec<(Key, Record)>,
    /// Where the next step starts, past the bound asked for and past every one of `rows`; `None`
    /// where nothing follows. It may lie beyond the last row, and `rows` may be empty.
    pub more: Option<Bound>,
}

impl Rows {
    /// For sources that say the end by giving fewer rows than `limit`.
    pub fn up_to(limit: usize, rows: Vec<(Key, Record)>) -> Rows {
        let more = match rows.last() {
            Some((key, _)) if rows.len() >= limit => Some(Bound::After(key.as_str().to_owned())),
            _ => None,
        };
        Rows { rows, more }
    }
}

/// Where the rows of a list come from. It knows the list's prefix.
pub trait RowSource: Send {
    /// Why it gave no rows; passed through.
    type Error;

    /// About `limit` rows (at least 1) of the list's prefix, from `from`.
    fn step(
        &mut self,
        from: &Bound,
        limit: usize,
    ) -> impl Future<Output = Result<Rows, Self::Error>> + Send;
}

/// A page, before its level and cost are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub items: Vec<(Key, Record)>,
    pub prefixes: Vec<String>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Bound>,
}

/// Makes the page that `list` asks for; records whose expiry is at or before `now_ms` (milliseconds
/// since 1970) count as tombstones.
pub async fn fold<S: RowSource>(
    source: &mut S,
    list: &List,
    now_ms: u64,
) -> Result<Page, S::Error> {
    fold_within(source, list, now_ms, MAX_ROWS_READ, MAX_PAGE_BYTES).await
}

async fn fold_within<S: RowSource>(
    source: &mut S,
    list: &List,
    now_ms: u64,
    max_rows: usize,
    max_bytes: usize,
) -> Result<Page, S::Error> {
    let mut folder = Folder::new(list, now_ms, max_bytes);
    let mut from = list.from.clone();
    let mut read = Read::default();
    loop {
        let found = source.step(&from, read.step_rows(list.limit)).await?;
        read.note(&found.rows);
        for (key, record) in found.rows {
            if folder.take(key, record) == Step::Full {
                return Ok(folder.full());
            }
        }
        let Some(more) = found.more else { return Ok(folder.page) };
        from = folder.skip_folded(more);
        if read.rows >= max_rows {
            folder.page.next = Some(from);
            return Ok(folder.page);
        }
    }
}

/// What was read so far, to choose how much to ask for.
#[derive(Default)]
struct Read {
    rows: usize,
    bytes: usize,
}

impl Read {
    fn note(&mut self, rows: &[(Key, Record)]) {
        self.rows += rows.len();
        self.bytes += rows.iter().map(|(key, record)| weight(key, record)).sum::<usize>();
    }

    /// One more than a page holds, so that mostly one step fills it and sees whether more follow;
    /// then as much as was read before, so that dead rows in plenty take few steps.
    fn step_rows(&self, limit: usize) -> usize {
        let most = match self.bytes.checked_div(self.rows) {
            None => FIRST_STEP_ROWS,
            Some(average) => (STEP_BYTES / average).min(MAX_STEP_ROWS),
        };
        limit.saturating_add(1).max(self.rows).min(most).max(1)
    }
}

fn weight(key: &Key, record: &Record) -> usize {
    let value = match &record.content {
        Content::Value { bytes, .. } => bytes.len(),
        Content::Tombstone => 0,
    };
    key.as_str().len() + value + ROW_OVERHEAD_BYTES
}

/// Whether a page takes more rows.
#[derive(PartialEq, Eq)]
enum Step {
    Taken,
    /// The page is full, and a live row follows.
    Full,
}

/// A page that is being filled. Pure: rows go in, a page comes out.
struct Folder<'a> {
    list: &'a List,
    now_ms: u64,
    /// Records the page may still take, in bytes.
    bytes_left: usize,
    /// Where a page after this one would start.
    position: Bound,
    page: Page,
}

impl<'a> Folder<'a> {
    fn new(list: &'a List, now_ms: u64, max_bytes: usize) -> Folder<'a> {
        let position = list.from.clone();
        Folder { list, now_ms, bytes_left: max_bytes, position, page: Page::default() }
    }

    fn take(&mut self, key: Key, record: Record) -> Step {
        if record.is_gone_at(self.now_ms) || self.is_behind(&key) {
            return Step::Taken;
        }
        let taken = self.page.items.len() + self.page.prefixes.len();
        // One record fits whatever it weighs: a page that takes nothing would never end.
        if taken >= self.list.limit || (taken > 0 && self.bytes_left == 0) {
            return Step::Full;
        }
        match self.folded(&key) {
            Some(prefix) => {
                self.position = Bound::AfterPrefix(prefix.clone());
                self.page.prefixes.push(prefix);
            }
            None => {
                self.bytes_left = self.bytes_left.saturating_sub(weight(&key, &record));
                self.position = Bound::After(key.as_str().to_owned());
                self.page.items.push((key, record));
            }
        }
        Step::Taken
    }

    /// Whether the key lies in the prefix that was folded last, and so is listed already.
    fn is_behind(&self, key: &Key) -> bool {
        match &self.position {
            Bound::AfterPrefix(prefix) => key.as_str().starts_with(prefix.as_str()),
            Bound::Start | Bound::After(_) => false,
        }
    }

    /// The prefix that the key folds into: up to the first delimiter after the list's prefix.
    fn folded(&self, key: &Key) -> Option<String> {
        let delimiter = self.list.delimiter.as_deref().filter(|text| !text.is_empty())?;
        let rest = key.as_str().strip_prefix(self.list.prefix.as_str())?;
        let end = self.list.prefix.len() + rest.find(delimiter)? + delimiter.len();
        Some(key.as_str()[..end].to_owned())
    }

    /// Where to read on: past the whole of a folded prefix where the source would go on inside it.
    fn skip_folded(&self, more: Bound) -> Bound {
        let (Bound::AfterPrefix(folded), Bound::After(text) | Bound::AfterPrefix(text)) =
            (&self.position, &more)
        else {
            return more;
        };
        if text.starts_with(folded.as_str()) { self.position.clone() } else { more }
    }

    fn full(self) -> Page {
        Page { next: Some(self.position), ..self.page }
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;

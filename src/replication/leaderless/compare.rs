//! Comparing replicas: the questions, and what a replica answers.
//!
//! A comparison goes from the roots of all partitions that two nodes share down to the entries of the
//! leaves that differ, and asks at each step only about what differed in the one before. Each message
//! holds many of the same kind, so that their number follows what differs, not what there is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Core;
use super::hash_tree::{FAN_OUT, HashTree, LEAVES, leaf_of};
use super::horizons::is_gone;
use super::serve::MAX_PAGES_SERVED;
use crate::peer::Inbound;
use crate::storage::encoding;
use crate::storage::rows;
use crate::storage::table::Table;
use crate::types::{Epoch, Partition, Version};

/// Rows looked at for one answer about entries: some milliseconds of reading.
const MAX_ROWS_SCANNED: usize = 4_096;

/// Bytes of records read for one answer about entries, about.
const MAX_BYTES_READ: usize = 4 << 20;

/// Bytes of keys in one answer, about: well below what a link carries at once.
const MAX_BYTES_TOLD: usize = 1 << 20;

/// Partitions, branches or keys that one question names at most.
pub const MAX_NAMED: usize = 512;

/// What a node asks a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The sum of each of these partitions.
    Roots(Vec<u8>),
    /// The sums of the branches of each of these partitions.
    Branches(Vec<u8>),
    /// The sums of the leaves under each of these branches of partitions.
    Leaves(Vec<(u8, u8)>),
    /// The keys of some leaves of a partition.
    Entries(Wanted),
}

/// Which entries of a partition are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub partition: u8,
    pub leaves: BTreeSet<u16>,
    /// From the first key above this one.
    pub after: Option<String>,
    /// The collection horizon that whoever asks has reached, in milliseconds since 1970: deletions from before
    /// are of no interest.
    pub reached_ms: u64,
}

/// What a replica holds of a key: its version and its digest.
pub type Held = (Version, u64);

/// What it answers, in the order of the question; `None` for a tree that is not built yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    Roots(Vec<Option<u64>>),
    Branches(Vec<Option<Vec<u64>>>),
    Leaves(Vec<Option<Vec<u64>>>),
    Entries(Entries),
}

/// A page of entries, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    pub held: Vec<(String, Held)>,
    /// Up to which key this page goes, where others may follow; `None` where it goes to the end.
    pub up_to: Option<String>,
    /// The collection horizon, of the two who compare, that is the later: deletions from before are left out.
    pub reached_ms: u64,
}

/// The bytes of a question or an answer.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, String> {
    postcard::to_allocvec(message).map(Bytes::from).map_err(|error| error.to_string())
}

/// Reads [`encode`] back.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    postcard::from_bytes(body).map_err(|error| format!("no message of a comparison: {error}"))
}

impl Question {
    /// Checks that the answer has the shape that was asked for, and bounds to rely on.
    pub fn check(&self, told: &Told) -> Result<(), String> {
        let sums = |lists: &[Option<Vec<u64>>]| lists.iter().flatten().all(|l| l.len() == FAN_OUT);
        let fits = match (self, told) {
            (Question::Roots(asked), Told::Roots(told)) => asked.len() == told.len(),
            (Question::Branches(asked), Told::Branches(told)) => {
                asked.len() == told.len() && sums(told)
            }
            (Question::Leaves(asked), Told::Leaves(told)) => {
                asked.len() == told.len() && sums(told)
            }
            (
                Question::Entries(Wanted { after, .. }),
                Told::Entries(Entries { held, up_to, .. }),
            ) => {
                let rising = held.is_sorted_by(|(one, _), (next, _)| one < next);
                let above = |key: &String| after.as_ref().is_none_or(|after| key > after);
                let within = |key: &String| up_to.as_ref().is_none_or(|up_to| key <= up_to);
                rising && held.iter().all(|(key, _)| above(key) && within(key))
                    // Else the next page would begin where this one did.
                    && up_to.as_ref().is_none_or(above)
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err("an answer that does not fit the question".to_owned()) }
    }

    fn is_bounded(&self) -> bool {
        match self {
            Question::Roots(named) | Question::Branches(named) => named.len() <= MAX_NAMED,
            Question::Leaves(named) => named.len() <= MAX_NAMED,
            Question::Entries(wanted) => wanted.leaves.len() <= LEAVES,
        }
    }
}

impl Core {
    /// Answers a peer's question, on a task of its own: rows may have to be read.
    pub(super) fn serve_compare(self: &Arc<Core>, inbound: Inbound, epoch: Epoch) {
        let Inbound { body, reply, .. } = inbound;
        let question: Question = match decode(&body) {
            Ok(question) => question,
            Err(problem) => return reply.refuse(problem),
        };
        if !question.is_bounded() {
            return reply.refuse(format!("a question names {MAX_NAMED} things at most"));
        }
        if self.settled_epoch() != epoch {
            return reply.refuse("what was taken under the layout before is not in its table yet");
        }
        if self.pages_served.fetch_add(1, Ordering::Relaxed) >= MAX_PAGES_SERVED {
            self.pages_served.fetch_sub(1, Ordering::Relaxed);
            return reply.refuse("it reads as many pages as it may");
        }
        let core = self.clone();
        self.runtime.spawn(async move {
            let told = core.tell(&question).await;
            let told = told.and_then(|told| core.still_under(epoch).map(|()| told));
            match told.and_then(|told| encode(&told)) {
                Ok(body) => reply.send(body),
                Err(problem) => reply.refuse(problem),
            }
            core.pages_served.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// What this node's replica answers.
    pub(super) async fn tell(&self, question: &Question) -> Result<Told, String> {
        let tree = |partition: &u8| Partition(*partition);
        match question {
            Question::Roots(partitions) => {
                let root = |partition| self.trees.with(tree(partition), HashTree::root);
                Ok(Told::Roots(partitions.iter().map(root).collect()))
            }
            Question::Branches(partitions) => {
                let sums = |partition| self.trees.with(tree(partition), |t| t.branches().to_vec());
                Ok(Told::Branches(partitions.iter().map(sums).collect()))
            }
            Question::Leaves(branches) => {
                let sums = |(partition, branch): &(u8, u8)| {
                    let leaves = |t: &HashTree| t.leaves_under(usize::from(*branch)).to_vec();
                    self.trees.with(tree(partition), leaves)
                };
                Ok(Told::Leaves(branches.iter().map(sums).collect()))
            }
            Question::Entries(wanted) => {
                self.entries(wanted.clone(), MAX_ROWS_SCANNED).await.map(Told::Entries)
            }
        }
    }

    /// The entries of some leaves of a partition, of up to `max_rows` rows, and no more than fit an answer.
    pub(super) async fn entries(
        &self,
        mut wanted: Wanted,
        max_rows: usize,
    ) -> Result<Entries, String> {
        let table = self.table.clone();
        let own_ms = self.horizons.of(Partition(wanted.partition)).reached_ms;
        wanted.reached_ms = wanted.reached_ms.max(own_ms);
        self.runtime.blocking(move || entries(&*table, &wanted, max_rows)).await
    }
}

/// Reads keys first, and then the records of those that are asked for, one by one: a record may be long.
/// Deletions that are to be dropped are left out: the other replica may have dropped them.
fn entries(table: &dyn Table, wanted: &Wanted, max_rows: usize) -> Result<Entries, String> {
    let Wanted { partition, leaves, after, reached_ms } = wanted;
    let (start, to) = rows::partition_range(Partition(*partition));
    let from = after.as_ref().map_or(start, |after| rows::row_after(Partition(*partition), after));
    let page = table.scan_keys(&from, &to, max_rows).map_err(|error| error.to_string())?;
    let mut entries = Entries { reached_ms: *reached_ms, ..Entries::default() };
    let (mut is_whole, mut last) = (page.len() < max_rows, None);
    let (mut read, mut told) = (0, 0);
    for row in page {
        let Some((_, key)) = rows::parse_data_row(&row) else {
            return Err(format!("a row of partition {partition} is damaged"));
        };
        if leaves.contains(&(leaf_of(&key) as u16))
            && let Some(record) = table.get(&row).map_err(|error| error.to_string())?
        {
            read += record.len();
            if !is_gone(&record, *reached_ms) {
                told += key.as_str().len();
                entries.held.push((
                    key.as_str().to_owned(),
                    encoding::rank(&record).map_err(|error| error.to_string())?,
                ));
            }
        }
        last = Some(key);
        if read >= MAX_BYTES_READ || told >= MAX_BYTES_TOLD {
            is_whole = false;
            break;
        }
    }
    entries.up_to = last.filter(|_| !is_whole).map(|key| key.as_str().to_owned());
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;
    use proptest::prelude::*;

    fn held(time: u64) -> Held {
        (Version::new(time, NodeId(1)), 9)
    }

    fn entries(keys: &[&str], up_to: Option<&str>) -> Told {
        Told::Entries(Entries {
            held: keys.iter().map(|key| ((*key).to_owned(), held(1))).collect(),
            up_to: up_to.map(str::to_owned),
            reached_ms: 3,
        })
    }

    #[test]
    fn messages_read_back() {
        let asked = Question::Entries(Wanted {
            partition: 9,
            leaves: BTreeSet::from([1, 1_023]),
            after: Some("a".to_owned()),
            reached_ms: 5,
        });
        assert_eq!(decode(&encode(&asked).expect("bytes")), Ok(asked));
        let told = entries(&["b", "c"], Some("c"));
        assert_eq!(decode(&encode(&told).expect("bytes")), Ok(told));
    }

    #[test]
    fn an_answer_that_would_mislead_is_refused() {
        let fits = |asked: &Question, told: &Told| asked.check(told).is_ok();
        assert!(fits(&Question::Roots(vec![1, 2]), &Told::Roots(vec![None, Some(3)])));
        assert!(!fits(&Question::Roots(vec![1, 2]), &Told::Roots(vec![None])));
        assert!(!fits(&Question::Roots(vec![1]), &entries(&[], None)));
        assert!(!fits(&Question::Branches(vec![1]), &Told::Branches(vec![Some(vec![1; 31])])));
        assert!(!fits(&Question::Leaves(vec![(1, 1)]), &Told::Leaves(vec![Some(vec![1; 33])])));
        let after = Some("b".to_owned());
        let leaves = BTreeSet::new();
        let asked = Question::Entries(Wanted { partition: 1, leaves, after, reached_ms: 0 });
        assert!(fits(&asked, &entries(&["c", "d"], Some("d"))));
        assert!(fits(&asked, &entries(&[], Some("x"))), "none of these leaves up to there");
        assert!(!fits(&asked, &entries(&["d", "c"], None)), "falling");
        assert!(!fits(&asked, &entries(&["a"], None)), "before what was asked");
        assert!(!fits(&asked, &entries(&["e"], Some("d"))), "beyond what it says");
        assert!(!fits(&asked, &entries(&[], Some("b"))), "no way on");
    }

    #[test]
    fn a_question_without_bounds_is_known_as_one() {
        assert!(Question::Roots(vec![1; MAX_NAMED]).is_bounded());
        assert!(!Question::Branches(vec![1; MAX_NAMED + 1]).is_bounded());
        assert!(!Question::Leaves(vec![(0, 0); MAX_NAMED + 1]).is_bounded());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode::<Question>(&bytes);
            let _ = decode::<Told>(&bytes);
        }
    }
}

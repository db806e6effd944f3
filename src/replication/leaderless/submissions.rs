//! What a replica was given and has not answered: on its way to the log, and from there to the table.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::horizons::{Change, Late};
use super::messages::StoredWrite;
use super::replica::Done;
use crate::storage::log::{LogError, Position};

/// Submissions in log order, from those being written to those being merged.
#[derive(Default)]
pub struct Queue {
    pub waiting: VecDeque<Submission>,
    pub bytes: usize,
    /// The first submission that left `waiting` and is not merged yet.
    pub merging: Option<Position>,
    pub closed: bool,
}

pub struct Submission {
    pub position: Position,
    pub work: Work,
    pub bytes: usize,
    pub done: Done,
}

/// What a log record holds.
pub enum Work {
    Writes(Vec<StoredWrite>),
    Horizons(Vec<Change>),
}

/// How the log did with the submissions, in its order, which is theirs.
#[derive(Default)]
pub struct Written {
    pub results: Mutex<VecDeque<Result<(), LogError>>>,
    pub changed: Notify,
}

impl Written {
    /// Takes in what became of the next submission.
    pub fn note(&self, result: Result<(), LogError>) {
        self.results.lock().push_back(result);
        self.changed.notify_one();
    }
}

/// What one step merges and answers.
#[derive(Default)]
pub struct Step {
    pub durable: Vec<Submission>,
    pub failed: Vec<(Submission, LogError)>,
}

/// Puts those that are late back among the answers.
pub fn with_lates(lates: Vec<Option<Late>>, done: Done) -> Done {
    Box::new(move |result| {
        done(result.map(|taken| {
            let mut taken = taken.into_iter();
            let missing = || Err(Late::TooOld);
            let answer = |late: Option<Late>| match late {
                Some(late) => Err(late),
                None => taken.next().unwrap_or_else(missing),
            };
            lates.into_iter().map(answer).collect()
        }))
    })
}

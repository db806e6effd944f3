//! A promise that a world broke.

use std::fmt;

use crate::check::{self, Finding};
use crate::history::History;

/// How many operations of the shortest history are printed at most.
const SHOWN_OPS: usize = 40;

/// A promise that a world broke, and how that was seen.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The name of the check that saw it.
    pub check: String,
    /// What is wrong, in a sentence.
    pub sentence: String,
    finding: Option<Finding>,
}

impl Broken {
    /// Something that was seen while the world ran, or when it was over.
    pub(super) fn seen(check: &str, sentence: String) -> Broken {
        Broken { check: check.to_owned(), sentence, finding: None }
    }

    /// What a check found in the history.
    pub(super) fn found(finding: Finding) -> Broken {
        let example = finding.examples.first().cloned().unwrap_or_default();
        let sentence = format!(
            "{} times at {}: {}: {example}",
            finding.found, finding.level, finding.looks_for
        );
        Broken { check: finding.check.clone(), sentence, finding: Some(finding) }
    }

    /// The shortest part of `history` that shows it, as lines; empty where it is not in the history.
    pub fn shortest(&self, history: &History) -> Vec<String> {
        let Some(finding) = &self.finding else { return Vec::new() };
        let shortest = check::shortest(history, finding);
        let mut lines = Vec::new();
        if shortest.write(&mut lines).is_err() {
            return Vec::new();
        }
        let text = String::from_utf8_lossy(&lines).into_owned();
        text.lines().take(1 + SHOWN_OPS).map(str::to_owned).collect()
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.sentence)
    }
}

//! Histories as files: JSON lines, written and read back.
//!
//! Guarantees: what is read is a history in which every operation ends after it began and every
//! value was written once, which is what the checks build on. What is no such history is refused
//! with the line and what is wrong with it; nothing in a file makes the reader panic.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use super::{Action, FORMAT, Header, History, OLDEST_FORMAT, Op, WHAT};

/// Why a history could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The reader or writer failed.
    #[error("line {line}: {cause}")]
    Io { line: usize, cause: io::Error },
    /// The file has no line.
    #[error("the history is empty: expected a header in its first line")]
    Empty,
    /// The first line is something else.
    #[error(
        "line 1 is not the header of a history: {cause}; expected something like \
         {{\"what\":\"{WHAT}\",\"format\":{FORMAT},\"mode\":\"leader\",…}}"
    )]
    NoHeader { cause: serde_json::Error },
    /// The first line is the header of something else.
    #[error("line 1: 'what' is '{found}', not '{WHAT}'")]
    OtherFile { found: String },
    /// Written by a later version of this program.
    #[error(
        "line 1: the history has format {found}, and this program reads formats \
         {OLDEST_FORMAT} to {FORMAT}: use the version of quorate that wrote it"
    )]
    OtherFormat { found: u32 },
    /// A line that cannot be understood.
    #[error("line {line} is not an operation: {cause}")]
    NoOperation { line: usize, cause: serde_json::Error },
    /// A line that can be understood and cannot be true.
    #[error("line {line}: {problem}")]
    Impossible { line: usize, problem: String },
    /// The history cannot be put into JSON.
    #[error("cannot write the history: {cause}")]
    Unwritable { cause: serde_json::Error },
}

impl History {
    /// Writes the history as JSON lines.
    pub fn write(&self, mut to: impl Write) -> Result<(), HistoryError> {
        let written = |line| move |cause| HistoryError::Io { line, cause };
        let unwritable = |cause| HistoryError::Unwritable { cause };
        serde_json::to_writer(&mut to, &self.header).map_err(unwritable)?;
        to.write_all(b"\n").map_err(written(1))?;
        for (index, op) in self.ops.iter().enumerate() {
            serde_json::to_writer(&mut to, op).map_err(unwritable)?;
            to.write_all(b"\n").map_err(written(index + 2))?;
        }
        to.flush().map_err(written(self.ops.len() + 1))
    }

    /// Reads what [`History::write`] wrote. Empty lines are skipped.
    pub fn read(from: impl BufRead) -> Result<History, HistoryError> {
        let mut lines = from.lines().enumerate().map(|(index, line)| {
            let line_number = index + 1;
            line.map(|text| (line_number, text))
                .map_err(|cause| HistoryError::Io { line: line_number, cause })
        });
        let (_, first) = lines.next().ok_or(HistoryError::Empty)??;
        let header: Header =
            serde_json::from_str(&first).map_err(|cause| HistoryError::NoHeader { cause })?;
        if header.what != WHAT {
            return Err(HistoryError::OtherFile { found: header.what });
        }
        if !(OLDEST_FORMAT..=FORMAT).contains(&header.format) {
            return Err(HistoryError::OtherFormat { found: header.format });
        }
        let mut ops: Vec<Op> = Vec::new();
        let mut written: HashMap<String, usize> = HashMap::new();
        for line in lines {
            let (line, text) = line?;
            if text.trim().is_empty() {
                continue;
            }
            let op = serde_json::from_str(&text)
                .map_err(|cause| HistoryError::NoOperation { line, cause })?;
            possible(&op, line, &mut written)
                .map_err(|problem| HistoryError::Impossible { line, problem })?;
            ops.push(op);
        }
        Ok(History::new(header, ops))
    }
}

/// Whether an operation can have happened, and its value not been written before.
fn possible(op: &Op, line: usize, written: &mut HashMap<String, usize>) -> Result<(), String> {
    if op.answered_us < op.invoked_us {
        return Err(format!(
            "answered at {} µs, before it was invoked at {} µs",
            op.answered_us, op.invoked_us
        ));
    }
    if op.action != Action::Put {
        return Ok(());
    }
    let value = op.value.as_ref().ok_or("a put that does not say which value it wrote")?;
    match written.insert(value.to_string(), line) {
        None => Ok(()),
        Some(before) => Err(format!(
            "value {value} was written in line {before} already: every value is written once, so \
             that a read can be traced to its write"
        )),
    }
}

//! What happened in a run, in order, as lines that two runs can be compared by.

use std::fmt::Write;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::runtime::{Instant, Runtime};

/// A growing list of lines; cheap to clone.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<String>>);

impl Trace {
    pub(super) fn new() -> Trace {
        Trace(Arc::new(Mutex::new(String::new())))
    }

    /// Adds a line, stamped with the simulated microseconds since `epoch`.
    pub(super) fn say(&self, runtime: &Runtime, epoch: Instant, line: std::fmt::Arguments<'_>) {
        let at_us = runtime.now().saturating_duration_since(epoch).as_micros();
        // Writing to a string cannot fail.
        let _ = writeln!(self.0.lock(), "{at_us:>10} {line}");
    }

    /// The lines.
    pub fn text(&self) -> String {
        self.0.lock().clone()
    }
}

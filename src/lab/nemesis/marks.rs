//! What the nemesis did and when, on the clock of the history, one JSON line each.
//!
//! ```text
//! {"at_us":812345,"event":"fault","what":"kill a node","nodes":[2],"details":"Kill { … }"}
//! {"at_us":1012345,"event":"healed","what":"started again","nodes":[2]}
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::faults::Fault;
use crate::lab::load::Scene;

/// One line of `nemesis.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Microseconds on the clock of the history.
    pub at_us: u64,
    /// `fault`, `healed` or `ready`.
    pub event: &'static str,
    pub what: String,
    /// The ids of the nodes it is about; none where it is about all.
    pub nodes: Vec<u16>,
    /// The fault with its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

/// The marks of one segment.
pub struct Marks {
    scene: Arc<Scene>,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    marks: Vec<Mark>,
    faults: BTreeMap<String, u64>,
    kills: u64,
}

impl Marks {
    /// No marks yet.
    pub fn new(scene: &Arc<Scene>) -> Marks {
        Marks { scene: scene.clone(), noted: Mutex::default() }
    }

    /// A fault has struck these nodes.
    pub fn note(&self, fault: &Fault, nodes: &[u16]) {
        let mut noted = self.noted.lock();
        *noted.faults.entry(fault.kind()).or_default() += 1;
        if matches!(fault, Fault::Kill { .. }) {
            noted.kills += nodes.len() as u64;
        }
        let details = Some(format!("{fault:?}"));
        noted.marks.push(self.mark("fault", fault.kind(), nodes, details));
    }

    /// A fault has ended.
    pub fn healed(&self, how: &str, nodes: &[u16]) {
        self.noted.lock().marks.push(self.mark("healed", how.to_owned(), nodes, None));
    }

    /// Every node serves again.
    pub fn ready(&self) {
        let what = "every node serves".to_owned();
        self.noted.lock().marks.push(self.mark("ready", what, &[], None));
    }

    fn mark(
        &self,
        event: &'static str,
        what: String,
        nodes: &[u16],
        details: Option<String>,
    ) -> Mark {
        Mark { at_us: self.scene.now_us(), event, what, nodes: nodes.to_vec(), details }
    }

    /// How often each kind of fault has struck so far.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        self.noted.lock().faults.clone()
    }

    /// How many processes were killed so far, those of clock changes not counted.
    pub fn kills(&self) -> u64 {
        self.noted.lock().kills
    }

    /// Everything so far, as JSON lines.
    pub fn lines(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        for mark in &self.noted.lock().marks {
            text.push_str(&serde_json::to_string(mark)?);
            text.push('\n');
        }
        Ok(text)
    }
}

//! A greeter that decides by itself and remembers in memory.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{Greeter, Hello, Lane, Rejection};
use crate::types::NodeId;

/// How many refusals by peers are remembered; they repeat with every attempt to connect.
const MAX_REJECTIONS: usize = 64;

/// For tests and worlds without disks: accepts every node of its cluster and mode, and holds each
/// to the incarnation that it was first seen with. A node's own greeter remembers on disk.
pub struct BasicGreeter {
    own: Hello,
    known: Mutex<BTreeMap<NodeId, Hello>>,
    rejections: Mutex<Vec<(NodeId, Rejection)>>,
}

impl BasicGreeter {
    /// A greeter for the node that `own` describes; its lane does not matter.
    pub fn new(own: Hello) -> BasicGreeter {
        BasicGreeter { own, known: Mutex::default(), rejections: Mutex::default() }
    }

    /// Who refused this node, and why, oldest first.
    pub fn rejections(&self) -> Vec<(NodeId, Rejection)> {
        self.rejections.lock().clone()
    }
}

impl Greeter for BasicGreeter {
    fn hello(&self, lane: Lane) -> Hello {
        Hello { lane, ..self.own.clone() }
    }

    fn accept(&self, hello: &Hello) -> Result<(), Rejection> {
        if let (Some(ours), Some(theirs)) = (self.own.cluster, hello.cluster)
            && ours != theirs
        {
            return Err(Rejection::OtherCluster { ours, theirs });
        }
        if hello.mode != self.own.mode {
            return Err(Rejection::OtherMode { ours: self.own.mode, theirs: hello.mode });
        }
        let mut known = self.known.lock();
        let first = known.entry(hello.node).or_insert_with(|| hello.clone());
        if first.incarnation != hello.incarnation {
            return Err(Rejection::OtherIncarnation {
                node: hello.node,
                known: first.incarnation,
                offered: hello.incarnation,
            });
        }
        Ok(())
    }

    fn rejected(&self, by: NodeId, rejection: Rejection) {
        let mut rejections = self.rejections.lock();
        if rejections.len() < MAX_REJECTIONS {
            rejections.push((by, rejection));
        }
    }
}

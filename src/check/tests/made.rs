//! Histories made by hand, an operation at a time.

use crate::check::*;
use crate::history::{Header, ValueId};
use crate::types::NodeId;

pub fn v(n: u64) -> Version {
    Version::new(n, NodeId(1))
}

/// A history of key `k` unless said otherwise; times are in the order of the calls, ten apart.
pub struct Made {
    pub mode: Mode,
    pub now_us: u64,
    pub ops: Vec<Op>,
}

impl Made {
    pub fn new(mode: Mode) -> Made {
        Made { mode, now_us: 0, ops: Vec::new() }
    }

    pub fn op(&mut self, client: u32, action: Action, node: u16) -> &mut Op {
        self.now_us += 10;
        let (key, level) = (Key::new("k", 8).expect("a key"), Level::default_for(self.mode));
        let op = Op::begun(client, action, key, node, level, self.now_us);
        let answered_us = self.now_us + 5;
        self.ops.push(Op { answered_us, ended: Ended::Ok, status: 200, ..op });
        self.ops.last_mut().expect("just pushed")
    }

    /// Client 1 writes value `seq`, acknowledged at version `seq`.
    pub fn put(&mut self, seq: u32) -> &mut Op {
        let op = self.op(1, Action::Put, 1);
        op.value = Some(named(seq));
        op.version = Some(v(u64::from(seq)));
        op.status = 204;
        op
    }

    /// Client 2 reads value `seq` at version `seq`; 0 is a read that finds nothing.
    pub fn get(&mut self, seq: u32) -> &mut Op {
        let op = self.op(2, Action::Get, 2);
        if seq > 0 {
            op.value = Some(named(seq));
            op.version = Some(v(u64::from(seq)));
        }
        op
    }

    pub fn readback(&mut self, seq: u32) -> &mut Op {
        let op = self.get(seq);
        // A client of its own, so that only the check of lost writes follows these.
        (op.client, op.readback) = (9, true);
        op
    }

    pub fn history(self) -> History {
        History::new(Header::new(self.mode, "made by hand", 1, 3), self.ops)
    }

    pub fn check(self) -> Vec<Finding> {
        check(&self.history())
    }
}

pub fn named(seq: u32) -> Value {
    Value::Named(ValueId { client: 1, seq })
}

/// The names of the plain checks that say a promise was broken. Linearizability notices most of
/// what they notice, and has tests of its own.
pub fn broken(made: Made) -> Vec<String> {
    let broken = made.check().into_iter().filter(Finding::is_broken).map(|finding| finding.check);
    broken.filter(|check| check != linearizability::NAME).collect()
}

pub fn only<'a>(findings: &'a [Finding], check: &str, level: &str) -> &'a Finding {
    let mut found = findings.iter().filter(|f| f.check == check && f.level == level);
    let only = found.next().unwrap_or_else(|| panic!("no {check} at {level}: {findings:#?}"));
    assert!(found.next().is_none(), "{check} at {level} twice");
    only
}

//! The types that openraft is parameterised with.

use std::fmt;

use bytes::Bytes;
use openraft::BasicNode;
use serde::{Deserialize, Serialize};

use super::runtime::SeamRuntime;
use super::state_machine::StateMachine;
use super::{Applied, Command, Submission};
use crate::types::{NodeId, Write};

openraft::declare_raft_types!(
    /// One leader a term and node: openraft's totally ordered leader ids, as it is tested most.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = NodeId,
        Node = BasicNode,
        AsyncRuntime = SeamRuntime,
);

pub(super) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(super) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// A [`Command`] in its encoded form.
///
/// It is encoded once, by the node that proposes it, and decoded once on each node, where it is
/// applied. In between, in caches, on the wire and in the log, it is bytes that are shared.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(pub(super) Bytes);

impl Proposal {
    pub(super) fn encode(command: &Command) -> Result<Proposal, postcard::Error> {
        let buffer = Vec::with_capacity(about_bytes(command));
        Ok(Proposal(postcard::to_extend(command, buffer)?.into()))
    }

    pub(super) fn decode(&self) -> Result<Command, postcard::Error> {
        postcard::from_bytes(&self.0)
    }
}

/// About how long a command is once encoded, rather too much than too little: a buffer that grows
/// copies what it holds.
fn about_bytes(command: &Command) -> usize {
    const HEAD_BYTES: usize = 64;
    const WRITE_HEAD_BYTES: usize = 48;
    let Command::Data(submissions) = command else { return HEAD_BYTES };
    let write_bytes = |write: &Write| {
        let change = write.change.about_bytes();
        // A digest and an expiry take up to 29 bytes.
        let retry = write.retry.as_ref().map_or(0, |retry| retry.key.len() + 32);
        WRITE_HEAD_BYTES + write.key.as_str().len() + change + retry
    };
    let submission_bytes =
        |it: &Submission| HEAD_BYTES + it.writes.iter().map(write_bytes).sum::<usize>();
    HEAD_BYTES + submissions.iter().map(submission_bytes).sum::<usize>()
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

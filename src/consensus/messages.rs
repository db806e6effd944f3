//! What nodes of a group say to each other, beside requests to append (see `codec`).

use bytes::Bytes;
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse, VoteRequest};
use serde::{Deserialize, Serialize};

use super::raft_types::{TypeConfig, Vote};
use super::snapshot::Manifest;
use crate::types::NodeId;

/// For `Service::RaftVote`; answered with openraft's `VoteResponse`.
#[derive(Serialize, Deserialize)]
pub(super) enum VoteMessage {
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
}

/// For `Service::RaftTransfer`.
#[derive(Serialize, Deserialize)]
pub(super) enum TransferMessage {
    /// Answered with a [`TransferAnswer`].
    Raft(TransferLeaderRequest<TypeConfig>),
    /// A client of another node asks the leader to hand over; answered with the node that leads
    /// then, or with `TransferError`.
    Ask { to: Option<NodeId> },
}
pub(super) type TransferAnswer = TransferLeaderResponse<TypeConfig>;

/// For `Service::ChangeMembers`: a client of another node asks the leader for a change; answered
/// with the leader's `Result<(), MemberError>`.
pub(super) type MembersMessage = crate::types::MemberChange;

/// For `Service::RaftSnapshot`. `transfer` tells one attempt from the next. Every message may be sent
/// again where its answer was lost: the second is answered as the first was.
#[derive(Serialize, Deserialize)]
pub(super) enum SnapshotMessage {
    /// A leader with this vote begins to send; what came before is void. `in_haste` as with
    /// [`SnapshotMessage::End`], for what is being installed by then.
    Begin { transfer: u64, vote: Vote, in_haste: bool },
    /// The next page; `number` counts from 0.
    Page { transfer: u64, number: u64, checksum: u32, page: Bytes },
    /// All pages were sent: install. Asked again and again until it is done; `in_haste` says whether
    /// the group waits for it, so that requests beside it need no room.
    End { transfer: u64, vote: Vote, manifest: Manifest, in_haste: bool },
}

/// The answer to a [`SnapshotMessage`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SnapshotAnswer {
    Taken,
    /// A page that does not follow the last one taken: this many were.
    Has(u64),
    /// Not taken: begin again.
    Rejected(String),
    /// Not taken: the receiver follows a later leader.
    HigherVote(Vote),
    /// A snapshot is being installed, this one or another.
    Installing,
    /// The snapshot, or something newer, is in the receiver's table; its vote now.
    Installed(Vote),
}

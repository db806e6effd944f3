//! What nodes say to the leader, and what it answers: the bodies of [`Service::Forward`] and
//! [`Service::ReadIndex`] messages, as `postcard`.
//!
//! [`Service::Forward`]: crate::peer::Service::Forward
//! [`Service::ReadIndex`]: crate::peer::Service::ReadIndex

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::consensus::{Allegiance, SubmissionResult};
use crate::types::NodeId;

/// What became of one attempt to get a submission into the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// An entry that holds it was applied.
    Result(SubmissionResult),
    /// This attempt put it into no log, and will not.
    NotTaken { leader: Option<NodeId>, reason: String },
    /// It may be in a log.
    Unknown { reason: String },
}

/// How the leader is to vouch for a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vouching {
    /// A majority confirms that it leads.
    Confirmed,
    /// Its lease will do, where it holds it.
    ByLease,
}

/// What a node asks its leader before it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndexRequest {
    pub vouching: Vouching,
    /// `None` where the asking node never voted, or the lease will do.
    pub word: Option<Word>,
}

/// What a node vouches for by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Whom it stood by when it sent this, after all reads of the request had arrived.
    pub allegiance: Allegiance,
    /// The last answer that it had got by then.
    pub heard: Option<Stamp>,
}

/// A moment on the leader: after the rounds of its own reads up to this one had left its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// A random number of the leader's process, which starts to count its rounds anew.
    pub process: u64,
    pub round: u64,
}

/// What a node that is asked for a read index answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadIndexAnswer {
    /// A read asked for before the request was sent must wait for this index.
    Index(u64),
    /// The same, on the word of the leader's lease.
    ByLease(u64),
    /// The same, on the asking node's own word.
    ByWord { index: u64, stamp: Stamp },
    /// It could not confirm that it leads.
    NotConfirmed { leader: Option<NodeId>, reason: String },
}

/// The bytes of a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, String> {
    postcard::to_stdvec(message).map(Bytes::from).map_err(|error| error.to_string())
}

/// Reads [`encode`] back; bytes left over are an error.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

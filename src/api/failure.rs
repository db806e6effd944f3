//! Why a request is not answered with what it asked for. [`super::problem`] maps each of these to
//! what the client is told.

use http::Method;

use crate::error::{LayoutCallError, LeadershipError, MembershipError, ReadError, WriteError};
use crate::types::{KeyError, Version};

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The replicator gave no answer to a read.
    Read(ReadError),
    /// The replicator did not acknowledge a write.
    Write(WriteError),
    /// Leadership was not handed over.
    Leadership(LeadershipError),
    /// The members were not changed.
    Membership(MembershipError),
    /// The layout was not changed.
    Layout(LayoutCallError),
    /// The request itself cannot be served; no replicator was asked, or a read answered and the
    /// request's conditions rule its answer out.
    Request(Invalid),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        Failure::Read(error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        Failure::Write(error)
    }
}

impl From<LeadershipError> for Failure {
    fn from(error: LeadershipError) -> Failure {
        Failure::Leadership(error)
    }
}

impl From<MembershipError> for Failure {
    fn from(error: MembershipError) -> Failure {
        Failure::Membership(error)
    }
}

impl From<LayoutCallError> for Failure {
    fn from(error: LayoutCallError) -> Failure {
        Failure::Layout(error)
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Failure {
        Failure::Request(invalid)
    }
}

/// What the API itself refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    UnknownPath {
        path: String,
    },
    WrongMethod {
        method: Method,
        allowed: &'static str,
    },
    Key(KeyError),
    UnknownParameter {
        name: String,
        allowed: Vec<&'static str>,
    },
    Parameter {
        name: &'static str,
        problem: String,
    },
    /// Percent-encoding that decodes to nothing.
    Escape {
        place: &'static str,
    },
    Header {
        name: &'static str,
        problem: String,
    },
    NotImplemented {
        what: String,
    },
    /// More requests at once than the setting allows.
    TooManyRequests {
        limit: usize,
    },
    NotReady {
        reason: String,
    },
    Body(BodyError),
    RuledOut(RuledOut),
}

/// What is wrong with a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    Malformed {
        problem: String,
    },
    /// A `Content-Encoding`, which would be lost.
    Encoded,
    TooLarge {
        what: &'static str,
        limit_bytes: usize,
    },
    TimedOut {
        waited_ms: u128,
    },
    Broken {
        problem: String,
    },
}

/// What a read found, and why it is not what the request asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuledOut {
    NoSuchKey,
    Precondition { current: Version },
    Range { length: usize },
}

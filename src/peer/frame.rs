//! What travels on a link, byte by byte.
//!
//! **Why it exists.** Both transports speak the same bytes, and what a stranger sends to a peer
//! port is judged in one place: a pure function over a buffer, without I/O.
//!
//! A connection begins, each way, with [`PREFACE`]. Then come frames:
//!
//! ```text
//! length  u32 LE  of what follows: at least 9, with these 4 bytes at most MAX_FRAME_BYTES
//! kind    u8      a `Kind`; the highest bit says that more parts of the message follow
//! id      u64 LE  the message the part belongs to: a caller's number, which its answer carries
//! part    bytes
//! ```
//!
//! **Guarantees.** Bytes that are no frames are an error, never a panic; what is kept for messages
//! that are not whole yet is bounded. Parts of different messages may be interleaved; a message
//! is given out when its last part is there.
//!
//! **Does not guarantee** that a message is what was sent: there is no checksum over TCP's own.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};
use crate::types::Epoch;

/// What each side of a connection sends first: the protocol and its version.
pub(super) const PREFACE: [u8; 4] = *b"QRP1";

/// The longest frame before the handshake is done, in bytes: a hello with the longest addresses.
pub(super) const MAX_HANDSHAKE_FRAME_BYTES: usize = 4 << 10;

/// What a message may have beside its body, in bytes: the head of a request or an answer.
const MAX_HEAD_BYTES: usize = 32;

/// The longest payload of a message, in bytes.
const MAX_PAYLOAD_BYTES: usize = MAX_MESSAGE_BYTES + MAX_HEAD_BYTES;

/// How many messages may be there in part at once. This side sends one after the other; the others
/// are room for a sender that lets short answers overtake long ones.
const MAX_PARTIAL_MESSAGES: usize = 4;

/// How many bytes all partial messages of a connection may hold together.
const MAX_PARTIAL_BYTES: usize = 2 * MAX_PAYLOAD_BYTES;

/// The longest reason that is sent with a refusal, in bytes; a longer one is cut.
const MAX_REASON_BYTES: usize = 1 << 10;

const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = 1 + 8;
const MAX_PART_BYTES: usize = MAX_FRAME_BYTES - LENGTH_BYTES - HEADER_BYTES;
const MORE: u8 = 0x80;

/// What a frame is about. The number is on the wire for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Who dials: a [`super::Hello`].
    Hello = 1,
    /// Who accepted: a [`super::Hello`].
    Welcome = 2,
    /// Why the dialler is not accepted: a [`super::Rejection`].
    Rejected = 3,
    Request = 4,
    Answer = 5,
    /// Asks for a [`Kind::Pong`]: is the other side still there?
    Ping = 6,
    Pong = 7,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::Hello,
        Kind::Welcome,
        Kind::Rejected,
        Kind::Request,
        Kind::Answer,
        Kind::Ping,
        Kind::Pong,
    ];

    fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether messages of this kind may take several frames.
    const fn may_be_split(self) -> bool {
        matches!(self, Kind::Request | Kind::Answer)
    }
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: Kind,
    pub id: u64,
    /// May share memory with its neighbours on the wire: what is kept for long is better copied.
    pub payload: Bytes,
}

/// Why bytes are no frames, or no message. The connection they came on is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("it does not speak this protocol: expected {PREFACE:?} first, not {0:?}")]
    Preface([u8; 4]),
    #[error("a frame says it has {said} bytes, allowed are {HEADER_BYTES} to {limit}")]
    Length { said: usize, limit: usize },
    #[error("no kind of frame has number {0}")]
    Kind(u8),
    #[error("a {0:?} is split, or one of its parts is empty")]
    Split(Kind),
    #[error("a part of message {0} is of another kind than the parts before")]
    Mixed(u64),
    #[error("messages in part hold more than they may")]
    TooMuchInPart,
    #[error("a {0:?} was not expected here")]
    Unexpected(Kind),
    #[error("a {0:?} cannot be read")]
    Unreadable(Kind),
}

/// Puts parts of messages together, and judges them on the way.
pub(super) struct Decoder {
    max_frame_bytes: usize,
    partial: BTreeMap<u64, (Kind, BytesMut)>,
    partial_bytes: usize,
}

impl Decoder {
    /// For the first message of a connection, from a side that is not known yet.
    pub fn for_handshake() -> Decoder {
        Decoder::new(MAX_HANDSHAKE_FRAME_BYTES)
    }

    /// For everything after the handshake.
    pub fn for_messages() -> Decoder {
        Decoder::new(MAX_FRAME_BYTES)
    }

    fn new(max_frame_bytes: usize) -> Decoder {
        Decoder { max_frame_bytes, partial: BTreeMap::new(), partial_bytes: 0 }
    }

    /// How many more bytes the first frame in `buffer` needs, as far as that is known.
    pub fn missing(&self, buffer: &[u8]) -> usize {
        let needed = match buffer.first_chunk::<LENGTH_BYTES>() {
            None => LENGTH_BYTES + HEADER_BYTES,
            Some(length) => LENGTH_BYTES + u32::from_le_bytes(*length) as usize,
        };
        needed.min(self.max_frame_bytes).saturating_sub(buffer.len())
    }

    /// Takes frames off `buffer` until a message is whole; `None` where more bytes are needed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, FrameError> {
        loop {
            let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
            let said = u32::from_le_bytes(*length) as usize;
            let limit = self.max_frame_bytes - LENGTH_BYTES;
            if !(HEADER_BYTES..=limit).contains(&said) {
                return Err(FrameError::Length { said, limit });
            }
            if buffer.len() < LENGTH_BYTES + said {
                return Ok(None);
            }
            let mut frame = buffer.split_to(LENGTH_BYTES + said);
            frame.advance(LENGTH_BYTES);
            let flags = frame.get_u8();
            let id = frame.get_u64_le();
            let kind = Kind::from_number(flags & !MORE).ok_or(FrameError::Kind(flags & !MORE))?;
            if let Some(message) = self.take_part(kind, id, flags & MORE != 0, frame)? {
                return Ok(Some(message));
            }
        }
    }

    fn take_part(
        &mut self,
        kind: Kind,
        id: u64,
        more: bool,
        part: BytesMut,
    ) -> Result<Option<Message>, FrameError> {
        if more && (!kind.may_be_split() || part.is_empty()) {
            return Err(FrameError::Split(kind));
        }
        // A message in one frame, as nearly all are, is not copied.
        if !more && (self.partial.is_empty() || !self.partial.contains_key(&id)) {
            return Ok(Some(Message { kind, id, payload: part.freeze() }));
        }
        if self.partial_bytes + part.len() > MAX_PARTIAL_BYTES
            || (self.partial.len() >= MAX_PARTIAL_MESSAGES && !self.partial.contains_key(&id))
        {
            return Err(FrameError::TooMuchInPart);
        }
        let (known, whole) = self.partial.entry(id).or_insert_with(|| (kind, BytesMut::new()));
        if *known != kind {
            return Err(FrameError::Mixed(id));
        }
        if whole.len() + part.len() > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooMuchInPart);
        }
        whole.extend_from_slice(&part);
        self.partial_bytes += part.len();
        if more {
            return Ok(None);
        }
        let payload = self.partial.remove(&id).map(|(_, whole)| whole.freeze()).unwrap_or_default();
        self.partial_bytes -= payload.len();
        Ok(Some(Message { kind, id, payload }))
    }
}

/// Appends a message to `out`, in as many frames as it needs. `head` is shorter than a frame.
pub(super) fn encode(out: &mut BytesMut, kind: Kind, id: u64, head: &[u8], body: &[u8]) {
    let first = body.len().min(MAX_PART_BYTES - head.len());
    let (first, mut rest) = body.split_at(first);
    out.reserve(LENGTH_BYTES + HEADER_BYTES + head.len() + first.len());
    put_header(out, kind, id, head.len() + first.len(), !rest.is_empty());
    out.put_slice(head);
    out.put_slice(first);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min(MAX_PART_BYTES));
        put_header(out, kind, id, part.len(), !after.is_empty());
        out.put_slice(part);
        rest = after;
    }
}

fn put_header(out: &mut BytesMut, kind: Kind, id: u64, part_bytes: usize, more: bool) {
    out.put_u32_le((HEADER_BYTES + part_bytes) as u32);
    out.put_u8(kind as u8 | if more { MORE } else { 0 });
    out.put_u64_le(id);
}

/// What stands before the body of a request. A deadline travels as the time that is left, because
/// the clocks of two nodes have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestHead {
    pub service: u8,
    pub epoch: Option<Epoch>,
    pub time_left_ms: u32,
}

impl RequestHead {
    /// Appends a request to `out`.
    pub fn encode(&self, out: &mut BytesMut, id: u64, body: &[u8]) {
        let mut space = [0; MAX_HEAD_BYTES];
        // The head's 17 bytes at most always fit.
        let Ok(head) = postcard::to_slice(self, &mut space) else { return };
        encode(out, Kind::Request, id, head, body);
    }

    /// Takes a request's payload apart.
    pub fn decode(payload: &Bytes) -> Result<(RequestHead, Bytes), FrameError> {
        let (head, body) = postcard::take_from_bytes::<RequestHead>(payload)
            .map_err(|_| FrameError::Unreadable(Kind::Request))?;
        Ok((head, payload.slice_ref(body)))
    }
}

/// The time left as it travels: rounded up, so that a request that still has time says so.
pub(super) fn whole_ms(left: Duration) -> u32 {
    u32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// An answer as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WireAnswer {
    Body(Bytes),
    /// Not handled, and why.
    Refused(String),
    /// Taken, and not answered, and why.
    GivenUp(String),
}

const ANSWER_BODY: u8 = 0;
const ANSWER_REFUSED: u8 = 1;
const ANSWER_GIVEN_UP: u8 = 2;

impl WireAnswer {
    /// How long the answer is, about.
    pub fn len(&self) -> usize {
        match self {
            WireAnswer::Body(body) => body.len(),
            WireAnswer::Refused(reason) | WireAnswer::GivenUp(reason) => reason.len(),
        }
    }

    /// Appends the answer to `out`.
    pub fn encode(&self, out: &mut BytesMut, id: u64) {
        let (head, body) = match self {
            WireAnswer::Body(body) => (ANSWER_BODY, body.as_ref()),
            WireAnswer::Refused(reason) => (ANSWER_REFUSED, cut(reason)),
            WireAnswer::GivenUp(reason) => (ANSWER_GIVEN_UP, cut(reason)),
        };
        encode(out, Kind::Answer, id, &[head], body);
    }

    /// Reads an answer's payload.
    pub fn decode(mut payload: Bytes) -> Result<WireAnswer, FrameError> {
        let head = payload.try_get_u8().map_err(|_| FrameError::Unreadable(Kind::Answer))?;
        let reason = |text: Bytes| String::from_utf8_lossy(cut_bytes(&text)).into_owned();
        match head {
            ANSWER_BODY => Ok(WireAnswer::Body(payload)),
            ANSWER_REFUSED => Ok(WireAnswer::Refused(reason(payload))),
            ANSWER_GIVEN_UP => Ok(WireAnswer::GivenUp(reason(payload))),
            _ => Err(FrameError::Unreadable(Kind::Answer)),
        }
    }
}

fn cut(reason: &str) -> &[u8] {
    cut_bytes(reason.as_bytes())
}

fn cut_bytes(reason: &[u8]) -> &[u8] {
    &reason[..reason.len().min(MAX_REASON_BYTES)]
}

#[cfg(test)]
mod tests;

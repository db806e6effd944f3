//! The bytes of a segment: its header, and its records.
//!
//! ```text
//! header  "QRLOG" | format version u16 | base u64 | CRC-32C of these | 0xA5
//! record  payload length u32 | kind u8 | CRC-32C of position, length and kind   (the head)
//!         payload
//!         CRC-32C of the payload, begun from the head's | 0xA5                  (the tail)
//! ```
//!
//! Numbers are little-endian. The head's checksum makes the length trustworthy before anything is
//! read by it, and ties the record to its place. The payload's checksum goes on from the head's, so
//! the two cannot come from different records. The last byte of header and record is never zero: what
//! zeros cut off is never whole.

use super::{Kind, Position};
use crate::planted::{self, Bug};

/// A payload is at most this long, in bytes. Above any batch that the peer links carry, and below
/// what a node can hold in memory several times over.
pub const MAX_RECORD_BYTES: usize = 64 << 20;

pub(super) const HEADER_BYTES: usize = 20;
pub(super) const HEAD_BYTES: usize = 9;
pub(super) const TAIL_BYTES: usize = 5;

const MAGIC: &[u8; 5] = b"QRLOG";
const FORMAT_VERSION: u16 = 1;
const END_MARK: u8 = 0xA5;

/// How many bytes of a segment a record with a payload of this length takes.
pub(super) const fn record_bytes(payload_bytes: usize) -> u64 {
    (HEAD_BYTES + payload_bytes + TAIL_BYTES) as u64
}

/// A record's head, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    pub payload_bytes: usize,
    checksum: u32,
}

impl Head {
    /// How many bytes the whole record takes.
    pub fn record_bytes(self) -> u64 {
        record_bytes(self.payload_bytes)
    }
}

pub(super) fn encode_header(base: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..5].copy_from_slice(MAGIC);
    bytes[5..7].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[7..15].copy_from_slice(&base.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..15]);
    bytes[15..19].copy_from_slice(&checksum.to_le_bytes());
    bytes[19] = END_MARK;
    bytes
}

/// Checks the header of the segment that should begin at `base`.
pub(super) fn check_header(bytes: &[u8; HEADER_BYTES], base: u64) -> Result<(), String> {
    if *bytes == encode_header(base) {
        return Ok(());
    }
    let checksum = u32::from_le_bytes([bytes[15], bytes[16], bytes[17], bytes[18]]);
    if &bytes[..5] != MAGIC || bytes[19] != END_MARK || crc32c::crc32c(&bytes[..15]) != checksum {
        return Err("the segment header's checksum does not match".to_owned());
    }
    let version = u16::from_le_bytes([bytes[5], bytes[6]]);
    if version != FORMAT_VERSION {
        return Err(format!("format version {version}, where {FORMAT_VERSION} was expected"));
    }
    Err(format!("the segment header does not say that it begins at {base}, as the file name does"))
}

pub(super) fn encode_record(into: &mut Vec<u8>, position: Position, kind: Kind, payload: &[u8]) {
    let length = (payload.len() as u32).to_le_bytes();
    let head_checksum = head_checksum(position, length, kind as u8);
    into.extend_from_slice(&length);
    into.push(kind as u8);
    into.extend_from_slice(&head_checksum.to_le_bytes());
    into.extend_from_slice(payload);
    let checksum = crc32c::crc32c_append(head_checksum, payload);
    into.extend_from_slice(&checksum.to_le_bytes());
    into.push(END_MARK);
}

/// Checks a record's head.
pub(super) fn decode_head(bytes: &[u8; HEAD_BYTES], position: Position) -> Result<Head, String> {
    let length = [bytes[0], bytes[1], bytes[2], bytes[3]];
    let checksum = u32::from_le_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
    let matches = head_checksum(position, length, bytes[4]) == checksum;
    if !matches && !planted::is(Bug::LengthNotChecked) {
        return Err("the checksum of a record's head does not match".to_owned());
    }
    let payload_bytes = u32::from_le_bytes(length) as usize;
    if payload_bytes > MAX_RECORD_BYTES {
        return Err(format!("a record of {payload_bytes} bytes, above {MAX_RECORD_BYTES}"));
    }
    let kind = kind_from(bytes[4]).ok_or_else(|| {
        format!("a record of kind {}, which this version does not know", bytes[4])
    })?;
    Ok(Head { kind, payload_bytes, checksum })
}

/// Checks what follows a head, and gives the payload.
pub(super) fn decode_body(head: Head, body: &[u8]) -> Result<&[u8], String> {
    let Some((payload, tail)) = body.split_at_checked(head.payload_bytes) else {
        return Err("a record is cut short".to_owned());
    };
    let &[a, b, c, d, mark] = tail else {
        return Err("a record is cut short".to_owned());
    };
    if mark != END_MARK {
        return Err("a record's end mark is missing".to_owned());
    }
    if crc32c::crc32c_append(head.checksum, payload) != u32::from_le_bytes([a, b, c, d]) {
        return Err("the checksum of a record's payload does not match".to_owned());
    }
    Ok(payload)
}

fn head_checksum(position: Position, length: [u8; 4], kind: u8) -> u32 {
    let mut bytes = [0; 13];
    bytes[..8].copy_from_slice(&position.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&length);
    bytes[12] = kind;
    crc32c::crc32c(&bytes)
}

fn kind_from(number: u8) -> Option<Kind> {
    Some(match number {
        1 => Kind::RaftEntry,
        2 => Kind::RaftVote,
        3 => Kind::RaftTruncate,
        4 => Kind::RaftCommitted,
        5 => Kind::RaftPurged,
        6 => Kind::ReplicaWrites,
        7 => Kind::VersionCeiling,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 7] = [
        Kind::RaftEntry,
        Kind::RaftVote,
        Kind::RaftTruncate,
        Kind::RaftCommitted,
        Kind::RaftPurged,
        Kind::ReplicaWrites,
        Kind::VersionCeiling,
    ];

    fn decode(bytes: &[u8], position: Position) -> Result<(Kind, Vec<u8>), String> {
        let (head, body) = bytes.split_first_chunk::<HEAD_BYTES>().expect("a head");
        let head = decode_head(head, position)?;
        decode_body(head, body).map(|payload| (head.kind, payload.to_vec()))
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        for kind in KINDS {
            for payload in [&b""[..], b"x", b"a longer payload", &[0; 300]] {
                let mut bytes = Vec::new();
                encode_record(&mut bytes, Position(77), kind, payload);
                assert_eq!(bytes.len() as u64, record_bytes(payload.len()));
                assert_eq!(decode(&bytes, Position(77)), Ok((kind, payload.to_vec())));
            }
        }
    }

    #[test]
    fn every_flipped_bit_shows_and_so_does_another_place() {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, Position(77), Kind::RaftEntry, b"payload");
        assert!(decode(&bytes, Position(78)).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, Position(77)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_format_never_changes() {
        // These bytes are on disks: a change here is a change of format.
        assert_eq!(
            encode_header(1),
            *b"QRLOG\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x1d\x82\xc4\x5b\xa5"
        );
        let mut bytes = Vec::new();
        encode_record(&mut bytes, Position(1), Kind::RaftVote, b"hi");
        assert_eq!(bytes, b"\x02\x00\x00\x00\x02\x2e\x32\x90\x1dhi\x9c\x8c\x15\xaf\xa5");
    }

    #[test]
    fn a_header_names_its_problem() {
        assert_eq!(check_header(&encode_header(5), 5), Ok(()));
        let other = check_header(&encode_header(5), 6).expect_err("another base");
        assert!(other.contains("begins at 6"), "{other}");
        let mut newer = encode_header(5);
        newer[5] = 2;
        let checksum = crc32c::crc32c(&newer[..15]);
        newer[15..19].copy_from_slice(&checksum.to_le_bytes());
        let newer = check_header(&newer, 5).expect_err("a newer format");
        assert_eq!(newer, "format version 2, where 1 was expected");
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = encode_header(5);
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check_header(&flipped, 5).is_err(), "bit {bit}");
        }
    }
}

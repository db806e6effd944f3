//! The bytes of a segment: its header, and its records.
//!
//! ```text
//! header  "QRLOG" | format version u16 | base u64 | CRC-32C of these | 0xA5
//! record  payload length u32 | kind and flags u8 | CRC-32C of position and these (the head)
//!         payload
//!         CRC-32C of the payload, begun from the head's | 0xA5                  (the tail)
//! ```
//!
//! Numbers are little-endian. The head's checksum makes the length trustworthy before anything is
//! read by it, and ties the record to its place. The payload's checksum goes on from the head's, so
//! the two cannot come from different records. The last byte of header and record is never zero: what
//! zeros cut off is never whole. The flags say what `torn` needs to know; format version 1 had none.
//! From version 3 on a head lies in one sector: where too little is left of one, zeros fill it. A head of
//! which a lost sector took the first byte alone could not be told from one with a bit that flipped.

use super::torn::SECTOR_BYTES;
use super::{Kind, Position};
use crate::planted::{self, Bug};

/// A payload is at most this long, in bytes. Above any batch that the peer links carry, and below
/// what a node can hold in memory several times over.
pub const MAX_RECORD_BYTES: usize = 64 << 20;

pub(super) const HEADER_BYTES: usize = 20;
pub(super) const HEAD_BYTES: usize = 9;
pub(super) const TAIL_BYTES: usize = 5;

const MAGIC: &[u8; 5] = b"QRLOG";
/// What new segments are. Those of version 1, whose records have no flags, and of version 2, whose heads
/// may lie in two sectors, are read and continued.
pub(super) const FORMAT_VERSION: u16 = 3;
/// The first version whose records' heads lie in one sector each.
const WHOLE_HEADS_VERSION: u16 = 3;
const FIRST_VERSION: u16 = 1;
const END_MARK: u8 = 0xA5;

/// Set in a record's kind where it is the first of a write: all before it was durable by then.
const BEGINS_WRITE: u8 = 0x80;
/// Set in a record's kind where its payload has a whole sector of zeros.
const HAS_BLANK_SECTOR: u8 = 0x40;

/// Where in a segment's file the record lies that comes next after `offset`.
pub(super) const fn record_offset(offset: u64, version: u16) -> u64 {
    let left = SECTOR_BYTES as u64 - offset % SECTOR_BYTES as u64;
    if version >= WHOLE_HEADS_VERSION && left < HEAD_BYTES as u64 { offset + left } else { offset }
}

/// How many bytes of a segment a record with a payload of this length takes.
pub(super) const fn record_bytes(payload_bytes: usize) -> u64 {
    (HEAD_BYTES + payload_bytes + TAIL_BYTES) as u64
}

/// A record's head, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    pub payload_bytes: usize,
    /// All before the record was durable when it was written.
    pub begins_write: bool,
    /// The payload has a whole sector of zeros.
    pub has_blank_sector: bool,
    checksum: u32,
}

/// What a record's head says beside its kind and length.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    pub begins_write: bool,
    pub has_blank_sector: bool,
}

impl Flags {
    fn bits(self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(self.begins_write, BEGINS_WRITE) | bit(self.has_blank_sector, HAS_BLANK_SECTOR)
    }
}

impl Head {
    /// How many bytes the whole record takes.
    pub fn record_bytes(self) -> u64 {
        record_bytes(self.payload_bytes)
    }
}

pub(super) fn encode_header(base: u64, version: u16) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..5].copy_from_slice(MAGIC);
    bytes[5..7].copy_from_slice(&version.to_le_bytes());
    bytes[7..15].copy_from_slice(&base.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..15]);
    bytes[15..19].copy_from_slice(&checksum.to_le_bytes());
    bytes[19] = END_MARK;
    bytes
}

/// Whether these bytes are a beginning of the header of the segment that should begin at `base`.
pub(super) fn begins_header(bytes: &[u8], base: u64) -> bool {
    let mut versions = FIRST_VERSION..=FORMAT_VERSION;
    versions.any(|version| encode_header(base, version).starts_with(bytes))
}

/// Checks the header of the segment that should begin at `base`, and gives its format version.
pub(super) fn check_header(bytes: &[u8; HEADER_BYTES], base: u64) -> Result<u16, String> {
    let version = u16::from_le_bytes([bytes[5], bytes[6]]);
    let is_known = (FIRST_VERSION..=FORMAT_VERSION).contains(&version);
    if is_known && *bytes == encode_header(base, version) {
        return Ok(version);
    }
    let checksum = u32::from_le_bytes([bytes[15], bytes[16], bytes[17], bytes[18]]);
    if &bytes[..5] != MAGIC || bytes[19] != END_MARK || crc32c::crc32c(&bytes[..15]) != checksum {
        return Err("the segment header's checksum does not match".to_owned());
    }
    if !is_known {
        return Err(format!(
            "format version {version}, where {FIRST_VERSION} to {FORMAT_VERSION} were expected"
        ));
    }
    Err(format!("the segment header does not say that it begins at {base}, as the file name does"))
}

pub(super) fn encode_record(
    into: &mut Vec<u8>,
    position: Position,
    kind: Kind,
    flags: Flags,
    payload: &[u8],
) {
    let length = (payload.len() as u32).to_le_bytes();
    let kind = kind as u8 | flags.bits();
    let head_checksum = head_checksum(position, length, kind);
    into.extend_from_slice(&length);
    into.push(kind);
    into.extend_from_slice(&head_checksum.to_le_bytes());
    into.extend_from_slice(payload);
    let checksum = crc32c::crc32c_append(head_checksum, payload);
    into.extend_from_slice(&checksum.to_le_bytes());
    into.push(END_MARK);
}

/// Checks a record's head.
pub(super) fn decode_head(bytes: &[u8; HEAD_BYTES], position: Position) -> Result<Head, String> {
    if !has_right_checksum(bytes, position) && !planted::is(Bug::LengthNotChecked) {
        return Err("the checksum of a record's head does not match".to_owned());
    }
    let payload_bytes = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    if payload_bytes > MAX_RECORD_BYTES {
        return Err(format!("a record of {payload_bytes} bytes, above {MAX_RECORD_BYTES}"));
    }
    let number = bytes[4] & !(BEGINS_WRITE | HAS_BLANK_SECTOR);
    let kind = kind_from(number)
        .ok_or_else(|| format!("a record of kind {number}, which this version does not know"))?;
    let begins_write = bytes[4] & BEGINS_WRITE != 0;
    let has_blank_sector = bytes[4] & HAS_BLANK_SECTOR != 0;
    let checksum = checksum_of(bytes);
    Ok(Head { kind, payload_bytes, begins_write, has_blank_sector, checksum })
}

/// Whether this is the head of a record at `position` that is the first of a write.
pub(super) fn begins_write(bytes: &[u8; HEAD_BYTES], position: Position) -> bool {
    bytes[4] & BEGINS_WRITE != 0 && has_right_checksum(bytes, position)
}

/// Whether this would be the head of a record at `position` if one of its bits were another.
pub(super) fn is_one_bit_off(bytes: &[u8; HEAD_BYTES], position: Position) -> bool {
    (0..HEAD_BYTES * 8).any(|bit| {
        let mut other = *bytes;
        other[bit / 8] ^= 1 << (bit % 8);
        has_right_checksum(&other, position)
    })
}

/// The checksum in a record's head.
fn checksum_of(bytes: &[u8; HEAD_BYTES]) -> u32 {
    u32::from_le_bytes([bytes[5], bytes[6], bytes[7], bytes[8]])
}

fn has_right_checksum(bytes: &[u8; HEAD_BYTES], position: Position) -> bool {
    let length = [bytes[0], bytes[1], bytes[2], bytes[3]];
    head_checksum(position, length, bytes[4]) == checksum_of(bytes)
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
        8 => Kind::Layout,
        9 => Kind::Horizons,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 9] = [
        Kind::RaftEntry,
        Kind::RaftVote,
        Kind::RaftTruncate,
        Kind::RaftCommitted,
        Kind::RaftPurged,
        Kind::ReplicaWrites,
        Kind::VersionCeiling,
        Kind::Layout,
        Kind::Horizons,
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
                encode_record(&mut bytes, Position(77), kind, Flags::default(), payload);
                assert_eq!(bytes.len() as u64, record_bytes(payload.len()));
                assert_eq!(decode(&bytes, Position(77)), Ok((kind, payload.to_vec())));
            }
        }
    }

    #[test]
    fn every_flipped_bit_shows_and_so_does_another_place() {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, Position(77), Kind::RaftEntry, Flags::default(), b"payload");
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
            encode_header(1, 1),
            *b"QRLOG\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x1d\x82\xc4\x5b\xa5"
        );
        let mut bytes = Vec::new();
        encode_record(&mut bytes, Position(1), Kind::RaftVote, Flags::default(), b"hi");
        assert_eq!(bytes, b"\x02\x00\x00\x00\x02\x2e\x32\x90\x1dhi\x9c\x8c\x15\xaf\xa5");
    }

    #[test]
    fn a_header_names_its_problem() {
        for version in [1, 2, 3] {
            assert_eq!(check_header(&encode_header(5, version), 5), Ok(version));
        }
        let other = check_header(&encode_header(5, 2), 6).expect_err("another base");
        assert!(other.contains("begins at 6"), "{other}");
        let newer = check_header(&encode_header(5, 4), 5).expect_err("a newer format");
        assert_eq!(newer, "format version 4, where 1 to 3 were expected");
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = encode_header(5, 2);
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check_header(&flipped, 5).is_err(), "bit {bit}");
        }
    }
}

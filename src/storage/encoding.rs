//! How a record lies in a row, in the log and on the wire: the same bytes everywhere.
//!
//! ```text
//! format 1 byte (1) · flags 1 byte · version 10 bytes
//! · expiry 8 bytes                       where flag HAS_EXPIRY
//! · content type: length 4 bytes, UTF-8  where flag HAS_CONTENT_TYPE
//! · extensions: length 4 bytes, each tag 1 byte, length 4 bytes, bytes   where flag HAS_EXTENSIONS
//! · value, to the end                    nothing where flag TOMBSTONE
//! ```
//!
//! Numbers are big-endian. The extensions leave room for siblings, ballots and manifests: one that a
//! reader does not know is skipped, unless its tag has the high bit, which says that skipping it
//! would misread the record.
//!
//! **Guarantees.** A record has exactly one encoding, so equal bytes mean equal records, and
//! [`decode`] refuses every other spelling. Nothing here panics, whatever the bytes.
//!
//! **Not guaranteed.** Decoding drops extensions it does not know, so a stored record travels as the
//! bytes it has and is never decoded and encoded again on its way.

use std::cmp::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use twox_hash::XxHash3_64;

use crate::types::{Content, Record, Version};

const FORMAT: u8 = 1;

const TOMBSTONE: u8 = 1;
const HAS_EXPIRY: u8 = 1 << 1;
const HAS_CONTENT_TYPE: u8 = 1 << 2;
const HAS_EXTENSIONS: u8 = 1 << 3;
const KNOWN_FLAGS: u8 = TOMBSTONE | HAS_EXPIRY | HAS_CONTENT_TYPE | HAS_EXTENSIONS;

/// The bit of an extension's tag that forbids skipping it.
const CRITICAL: u8 = 1 << 7;

/// Format, flags and version.
const HEAD_BYTES: usize = 2 + Version::BYTES;

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub struct DecodeError(pub String);

/// The bytes of a record.
pub fn encode(record: &Record) -> Bytes {
    let Content::Value { bytes, content_type, expires_at_ms } = &record.content else {
        return head(TOMBSTONE, record.version, HEAD_BYTES).freeze();
    };
    let type_bytes = content_type.as_ref().map_or(0, |text| 4 + text.len());
    let mut flags = 0;
    flags |= if expires_at_ms.is_some() { HAS_EXPIRY } else { 0 };
    flags |= if content_type.is_some() { HAS_CONTENT_TYPE } else { 0 };
    let mut out = head(flags, record.version, HEAD_BYTES + 8 + type_bytes + bytes.len());
    if let Some(at_ms) = expires_at_ms {
        out.put_u64(*at_ms);
    }
    if let Some(text) = content_type {
        // A length over 4 GiB cannot come from a header or a frame, which are both far smaller.
        out.put_u32(text.len() as u32);
        out.put_slice(text.as_bytes());
    }
    out.put_slice(bytes);
    out.freeze()
}

fn head(flags: u8, version: Version, capacity_bytes: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(capacity_bytes);
    out.put_u8(FORMAT);
    out.put_u8(flags);
    out.put_slice(&version.to_bytes());
    out
}

/// Whether these are the bytes of a record: refuses what [`decode`] refuses, and copies nothing.
pub fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    parse(bytes).map(|_| ())
}

/// Reads [`encode`] back; the value shares `bytes`.
pub fn decode(bytes: &Bytes) -> Result<Record, DecodeError> {
    let Parsed { version, tombstone, expires_at_ms, content_type, value_at } = parse(bytes)?;
    if tombstone {
        return Ok(Record { version, content: Content::Tombstone });
    }
    let content_type = content_type.map(str::to_owned);
    let content = Content::Value { bytes: bytes.slice(value_at..), content_type, expires_at_ms };
    Ok(Record { version, content })
}

/// The parts of a record, where they lie.
struct Parsed<'a> {
    version: Version,
    tombstone: bool,
    expires_at_ms: Option<u64>,
    content_type: Option<&'a str>,
    value_at: usize,
}

fn parse(bytes: &[u8]) -> Result<Parsed<'_>, DecodeError> {
    let (flags, version) = read_head(bytes)?;
    let mut reader = Reader { bytes, at: HEAD_BYTES };
    let expires_at_ms = match flags & HAS_EXPIRY {
        0 => None,
        _ => Some(u64::from_be_bytes(reader.array("the expiry")?)),
    };
    let content_type = match flags & HAS_CONTENT_TYPE {
        0 => None,
        _ => {
            let text = std::str::from_utf8(reader.sized("the content type")?)
                .map_err(|_| DecodeError("its content type is not UTF-8".to_owned()))?;
            Some(text)
        }
    };
    if flags & HAS_EXTENSIONS != 0 {
        check_extensions(reader.sized("the extensions")?)?;
    }
    let (tombstone, value_at) = (flags & TOMBSTONE != 0, reader.at);
    let has_content = value_at < bytes.len() || expires_at_ms.is_some() || content_type.is_some();
    if tombstone && has_content {
        return Err(DecodeError("it is a tombstone with content".to_owned()));
    }
    Ok(Parsed { version, tombstone, expires_at_ms, content_type, value_at })
}

/// Only the version and whether it is a tombstone, without looking at the rest.
pub fn peek(bytes: &[u8]) -> Result<(Version, bool), DecodeError> {
    let (flags, version) = read_head(bytes)?;
    Ok((version, flags & TOMBSTONE != 0))
}

/// Only when it expires, in milliseconds since 1970; `None` where it never does.
pub fn peek_expiry(bytes: &[u8]) -> Result<Option<u64>, DecodeError> {
    let (flags, _) = read_head(bytes)?;
    let mut reader = Reader { bytes, at: HEAD_BYTES };
    match flags & HAS_EXPIRY {
        0 => Ok(None),
        _ => Ok(Some(u64::from_be_bytes(reader.array("the expiry")?))),
    }
}

/// A hash of the record's meaning (version, content, expiry, content type, extensions); the same on
/// every replica, because a record has one encoding. XXH3 with 64 bits and seed 0: it is compared
/// between nodes, and so part of the wire format.
pub fn digest(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// What decides which of two records of a key is newer, and tells them apart where they differ: the
/// version, and under one version the [`digest`].
pub fn rank(bytes: &[u8]) -> Result<(Version, u64), DecodeError> {
    Ok((peek(bytes)?.0, digest(bytes)))
}

/// The order in which two encoded records of one key win, on every replica alike: by version; under
/// one version by [`digest`]. Equal only where the bytes are equal.
pub fn compare(left: &[u8], right: &[u8]) -> Result<Ordering, DecodeError> {
    let by_version = peek(left)?.0.cmp(&peek(right)?.0);
    if by_version.is_ne() || left == right {
        return Ok(by_version);
    }
    // The bytes themselves settle what two equal digests cannot.
    Ok(digest(left).cmp(&digest(right)).then_with(|| left.cmp(right)))
}

/// Whether two encoded records are different records under one version, which no correct
/// coordinator makes: [`compare`] settles it everywhere alike, and whoever sees it raises the alarm.
pub fn collide(left: &[u8], right: &[u8]) -> bool {
    match (peek(left), peek(right)) {
        (Ok((left_version, _)), Ok((right_version, _))) => {
            left_version == right_version && left != right
        }
        _ => false,
    }
}

fn read_head(bytes: &[u8]) -> Result<(u8, Version), DecodeError> {
    let mut reader = Reader { bytes, at: 0 };
    let [format, flags] = reader.array("the head")?;
    if format != FORMAT {
        return Err(DecodeError(format!("its format is {format}, expected {FORMAT}")));
    }
    if flags & !KNOWN_FLAGS != 0 {
        return Err(DecodeError(format!("its flags {flags:#04x} are not known")));
    }
    Ok((flags, Version::from_bytes(reader.array("the version")?)))
}

/// Walks over extensions. None is known yet, so that each must be one that can be skipped.
fn check_extensions(block: &[u8]) -> Result<(), DecodeError> {
    if block.is_empty() {
        return Err(DecodeError("it says that it has extensions, and has none".to_owned()));
    }
    let mut reader = Reader { bytes: block, at: 0 };
    while reader.at < block.len() {
        let [tag] = reader.array("an extension's tag")?;
        if tag & CRITICAL != 0 {
            return Err(DecodeError(format!(
                "its extension {tag:#04x} must be understood and is not: a newer node wrote it"
            )));
        }
        reader.sized("an extension")?;
    }
    Ok(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], DecodeError> {
        let short = || DecodeError(format!("it ends within {what}"));
        let (array, _) = self.bytes[self.at..].split_first_chunk::<N>().ok_or_else(short)?;
        self.at += N;
        Ok(*array)
    }

    /// Bytes behind their length.
    fn sized(&mut self, what: &str) -> Result<&'a [u8], DecodeError> {
        let len = u32::from_be_bytes(self.array(what)?) as usize;
        let rest = &self.bytes[self.at..];
        let slice = rest.get(..len).ok_or_else(|| {
            DecodeError(format!("{what} should have {len} bytes, {} are left", rest.len()))
        })?;
        self.at += len;
        Ok(slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::NodeId;

    fn value(version: Version, text: &str) -> Record {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        Record {
            version,
            content: Content::Value { bytes, content_type: None, expires_at_ms: None },
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let content = prop_oneof![
            1 => Just(Content::Tombstone),
            4 => (
                proptest::collection::vec(any::<u8>(), 0..64),
                proptest::option::of(".{0,20}"),
                proptest::option::of(any::<u64>()),
            )
                .prop_map(|(bytes, content_type, expires_at_ms)| Content::Value {
                    bytes: bytes.into(),
                    content_type,
                    expires_at_ms,
                }),
        ];
        (any::<u64>(), any::<u16>(), content).prop_map(|(time, node, content)| Record {
            version: Version::new(time, NodeId(node)),
            content,
        })
    }

    #[test]
    fn the_bytes_never_change() {
        // These bytes are on disks and on wires: a change here is a change of format.
        let version = Version::new(0x0193_e5f2_a1b3_0002, NodeId(3));
        let full = Record {
            version,
            content: Content::Value {
                bytes: Bytes::from_static(b"hello"),
                content_type: Some("a/b".to_owned()),
                expires_at_ms: Some(0x0102_0304_0506_0708),
            },
        };
        let tombstone = Record { version, content: Content::Tombstone };
        assert_eq!(hex(&encode(&value(version, "hi"))), "01000193e5f2a1b3000200036869");
        assert_eq!(hex(&encode(&tombstone)), "01010193e5f2a1b300020003");
        assert_eq!(
            hex(&encode(&full)),
            "01060193e5f2a1b3000200030102030405060708\
             00000003612f6268656c6c6f"
        );
        assert_eq!(digest(&encode(&full)), GOLDEN_DIGEST);
    }

    const GOLDEN_DIGEST: u64 = 1_937_405_549_652_455_627;

    #[test]
    fn the_value_is_shared_and_not_copied() {
        let bytes = encode(&value(Version::ZERO, "shared"));
        let record = decode(&bytes).expect("just encoded");
        let Content::Value { bytes: value, .. } = record.content else { panic!("a value") };
        assert_eq!(value.as_ptr(), bytes[HEAD_BYTES..].as_ptr());
    }

    #[test]
    fn an_unknown_extension_is_skipped_unless_it_is_critical() {
        let with_extension = |tag: u8| {
            let mut bytes = head(HAS_EXTENSIONS, Version::ZERO, 64);
            bytes.put_u32(5 + 3 + 5);
            for tag in [7, tag] {
                bytes.put_u8(tag);
                bytes.put_u32(if tag == 7 { 3 } else { 0 });
                bytes.put_slice(if tag == 7 { b"abc" } else { b"" });
            }
            bytes.put_slice(b"value");
            bytes.freeze()
        };
        assert_eq!(decode(&with_extension(0x7f)), Ok(value(Version::ZERO, "value")));
        let refused = decode(&with_extension(0x80)).expect_err("a critical extension");
        assert!(refused.to_string().contains("0x80"), "{refused}");
    }

    #[test]
    fn other_spellings_of_a_record_are_refused() {
        let spelled = |flags: u8, rest: &[u8]| {
            let mut bytes = head(flags, Version::ZERO, 64);
            bytes.put_slice(rest);
            let (checked, decoded) = (check(&bytes), decode(&bytes.freeze()));
            assert_eq!(checked.err(), decoded.clone().err());
            decoded
        };
        assert!(spelled(0, b"value").is_ok());
        for (flags, rest) in [
            (TOMBSTONE, &b"value"[..]),
            (TOMBSTONE | HAS_EXPIRY, &[0; 8]),
            (TOMBSTONE | HAS_CONTENT_TYPE, &[0; 4]),
            (HAS_EXTENSIONS, &[0; 4]),
            (HAS_EXTENSIONS, &[0, 0, 0, 1, 7]),
            (HAS_CONTENT_TYPE, &[0, 0, 0, 1, 0xff]),
            (HAS_CONTENT_TYPE, &[0xff; 4]),
            (HAS_EXPIRY, &[0; 7]),
            (1 << 4, b""),
        ] {
            assert!(spelled(flags, rest).is_err(), "flags {flags:#x} before {rest:?}");
        }
        assert!(decode(&Bytes::from_static(b"\x02\x000123456789")).is_err());
    }

    #[test]
    fn two_records_under_one_version_have_one_winner_and_are_seen() {
        let version = Version::new(9 << 16, NodeId(1));
        let (a, b) = (encode(&value(version, "a")), encode(&value(version, "b")));
        let winner = compare(&a, &b).expect("both are records");
        assert!(winner.is_ne());
        assert_eq!(winner, digest(&a).cmp(&digest(&b)));
        assert_eq!(compare(&b, &a), Ok(winner.reverse()));
        assert!(collide(&a, &b) && !collide(&a, &a));
        let newer = encode(&value(Version::new(9 << 16, NodeId(2)), "a"));
        assert!(!collide(&a, &newer));
        assert_eq!(compare(&a, &newer), Ok(Ordering::Less));
        assert!(compare(&a, b"").is_err() && !collide(&a, b""));
    }

    proptest! {
        #[test]
        fn every_record_reads_back(record in any_record()) {
            let bytes = encode(&record);
            prop_assert_eq!(peek(&bytes), Ok((record.version, record.is_tombstone())));
            prop_assert_eq!(peek_expiry(&bytes), Ok(record.expires_at_ms()));
            prop_assert_eq!(check(&bytes), Ok(()));
            prop_assert_eq!(decode(&bytes), Ok(record));
        }

        #[test]
        fn what_decodes_is_the_one_encoding_of_its_record(
            record in any_record(),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&record).to_vec();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let bytes = Bytes::from(bytes);
            if let Ok(read) = decode(&bytes) && bytes[1] & HAS_EXTENSIONS == 0 {
                prop_assert_eq!(encode(&read), bytes);
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), flags in 0u8..32) {
            let other = Bytes::from(bytes.clone());
            if bytes.len() > 1 {
                bytes[0] = FORMAT;
                bytes[1] = flags;
            }
            let bytes = Bytes::from(bytes);
            for read in [&bytes, &other] {
                let _ = (decode(read), peek(read), digest(read));
            }
            let _ = (compare(&bytes, &other), collide(&bytes, &other));
        }

        #[test]
        fn the_order_is_total(
            records in proptest::collection::vec((0u64..3, any_record()), 3),
        ) {
            let encoded: Vec<Bytes> = records
                .into_iter()
                .map(|(time, record)| {
                    encode(&Record { version: Version::new(time, NodeId(1)), ..record })
                })
                .collect();
            let order = |l: &Bytes, r: &Bytes| compare(l, r).expect("both are records");
            let [a, b, c] = [&encoded[0], &encoded[1], &encoded[2]];
            prop_assert_eq!(order(a, b), order(b, a).reverse());
            prop_assert_eq!(order(a, b).is_eq(), a == b);
            if order(a, b).is_le() && order(b, c).is_le() {
                prop_assert!(order(a, c).is_le());
            }
        }
    }
}

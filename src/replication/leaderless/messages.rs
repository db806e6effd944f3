//! What replicas say to each other, and what a replica's log holds: `postcard`, decoded in place.
//!
//! Values are not copied on the way in: what is decoded shares the message's buffer. The payload of
//! a [`Kind::ReplicaWrites`](crate::storage::log::Kind) record is the message that carried the
//! writes, so its first byte, the format, is on disks.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::horizons::Late;
use super::tally::Taken;
use crate::storage::encoding;
use crate::storage::rows::Bound;
use crate::types::{Key, Version};

/// The first byte of every message; another one is refused.
const FORMAT: u8 = 2;

/// The room a message keeps for its own framing, in bytes an item.
const ITEM_OVERHEAD_BYTES: usize = 16;

/// A record on its way to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWrite {
    pub key: Key,
    /// The encoded record.
    pub record: Bytes,
    /// Of a repair, the collection horizon that the record has survived, in milliseconds since 1970; `None` of a
    /// client's write.
    pub survived_ms: Option<u64>,
}

/// What a replica holds of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The encoded record, or nothing where the replica has none.
    pub record: Option<Bytes>,
    /// The collection horizon that the replica had reached before it looked, in milliseconds since 1970.
    pub reached_ms: u64,
}

/// What a replica answers to one read of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadReply {
    Held(Found),
    /// The answer was full before this one: ask again.
    AskAgain,
}

/// A page of a replica's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Keys in order, with encoded records, tombstones included.
    pub rows: Vec<(Key, Bytes)>,
    /// Whether no row follows.
    pub end: bool,
    /// The collection horizons that the replica had reached before it looked, of the partitions of these keys
    /// that have one.
    pub reached_ms: BTreeMap<u8, u64>,
}

/// Asks a replica for a page of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    pub prefix: String,
    pub from: Bound,
    pub limit: u32,
}

/// Why bytes are no such message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a message between replicas: {0}")]
pub struct MessageError(pub String);

/// Bytes that are written and read as a run, not one by one.
#[derive(Deserialize)]
#[serde(transparent)]
struct Run<'a>(#[serde(borrow)] &'a [u8]);

impl Serialize for Run<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

#[derive(Serialize, Deserialize)]
enum WireRead<'a> {
    Held(#[serde(borrow)] Option<Run<'a>>, u64),
    AskAgain,
}

#[derive(Serialize, Deserialize)]
struct WirePage<'a> {
    #[serde(borrow)]
    rows: Vec<(&'a str, Run<'a>)>,
    end: bool,
    reached_ms: BTreeMap<u8, u64>,
}

#[derive(Serialize, Deserialize)]
enum WireTaken {
    Newest,
    SupersededBy(Version),
    TooOld,
    NotYet,
}

/// Key, record, and what a repair has survived.
type WireWrite<'a> = (&'a str, Run<'a>, Option<u64>);

fn encode<T: Serialize>(message: &T, about_bytes: usize) -> Bytes {
    let mut buffer = Vec::with_capacity(about_bytes + 1);
    buffer.push(FORMAT);
    // Writing to memory fails only for values without a length, of which there are none here; an
    // empty message is refused by whoever reads it.
    postcard::to_extend(message, buffer).map_or_else(|_| Bytes::new(), Bytes::from)
}

fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, MessageError> {
    match body.split_first() {
        Some((&FORMAT, rest)) => match postcard::take_from_bytes::<T>(rest) {
            Ok((message, [])) => Ok(message),
            Ok((_, more)) => Err(MessageError(format!("{} bytes too many", more.len()))),
            Err(error) => Err(MessageError(error.to_string())),
        },
        Some((format, _)) => {
            Err(MessageError(format!("format {format}, only format {FORMAT} is known")))
        }
        None => Err(MessageError("it is empty".to_owned())),
    }
}

fn key(text: &str) -> Result<Key, MessageError> {
    Key::new(text, usize::MAX).map_err(|error| MessageError(error.to_string()))
}

/// Shares the run's bytes with the message, once they are known to be a record.
fn record(body: &Bytes, run: &Run<'_>) -> Result<Bytes, MessageError> {
    let record = body.slice_ref(run.0);
    encoding::check(&record).map_err(|error| MessageError(error.to_string()))?;
    Ok(record)
}

/// About how many bytes a key and a record take in a message.
pub fn weight(key: &Key, record: &Bytes) -> usize {
    key.as_str().len() + record.len() + ITEM_OVERHEAD_BYTES
}

/// Writes for a replica; also the payload of its log record.
pub fn encode_writes<'a>(writes: impl Iterator<Item = &'a StoredWrite> + Clone) -> Bytes {
    let about_bytes = writes.clone().map(|write| weight(&write.key, &write.record)).sum();
    let wire: Vec<WireWrite<'_>> =
        writes.map(|write| (write.key.as_str(), Run(&write.record), write.survived_ms)).collect();
    encode(&wire, about_bytes)
}

/// Reads [`encode_writes`] back; the records share `body`.
pub fn decode_writes(body: &Bytes) -> Result<Vec<StoredWrite>, MessageError> {
    let wire: Vec<WireWrite<'_>> = decode(body)?;
    let write = |(text, run, survived_ms): &WireWrite<'_>| {
        let (key, record, survived_ms) = (key(text)?, record(body, run)?, *survived_ms);
        Ok(StoredWrite { key, record, survived_ms })
    };
    wire.iter().map(write).collect()
}

/// What became of each write, in order.
pub fn encode_taken(taken: &[Result<Taken, Late>]) -> Bytes {
    let wire: Vec<WireTaken> = taken
        .iter()
        .map(|taken| match taken {
            Ok(Taken::Newest) => WireTaken::Newest,
            Ok(Taken::SupersededBy(version)) => WireTaken::SupersededBy(*version),
            Err(Late::TooOld) => WireTaken::TooOld,
            Err(Late::NotYet) => WireTaken::NotYet,
        })
        .collect();
    encode(&wire, wire.len() * ITEM_OVERHEAD_BYTES)
}

/// Reads [`encode_taken`] back.
pub fn decode_taken(body: &Bytes) -> Result<Vec<Result<Taken, Late>>, MessageError> {
    let wire: Vec<WireTaken> = decode(body)?;
    let taken = wire.into_iter().map(|taken| match taken {
        WireTaken::Newest => Ok(Taken::Newest),
        WireTaken::SupersededBy(version) => Ok(Taken::SupersededBy(version)),
        WireTaken::TooOld => Err(Late::TooOld),
        WireTaken::NotYet => Err(Late::NotYet),
    });
    Ok(taken.collect())
}

/// Keys to read at a replica.
pub fn encode_reads<'a>(keys: impl Iterator<Item = &'a Key>) -> Bytes {
    let wire: Vec<&str> = keys.map(Key::as_str).collect();
    let about_bytes = wire.iter().map(|key| key.len() + ITEM_OVERHEAD_BYTES).sum();
    encode(&wire, about_bytes)
}

/// Reads [`encode_reads`] back.
pub fn decode_reads(body: &Bytes) -> Result<Vec<Key>, MessageError> {
    decode::<Vec<&str>>(body)?.into_iter().map(key).collect()
}

/// What a replica holds of each key, in order.
pub fn encode_read_replies(replies: &[ReadReply]) -> Bytes {
    let about_bytes = replies.iter().map(reply_weight).sum();
    let wire: Vec<WireRead<'_>> = replies
        .iter()
        .map(|reply| match reply {
            ReadReply::Held(Found { record, reached_ms }) => {
                WireRead::Held(record.as_ref().map(|bytes| Run(bytes)), *reached_ms)
            }
            ReadReply::AskAgain => WireRead::AskAgain,
        })
        .collect();
    encode(&wire, about_bytes)
}

/// About how many bytes a reply takes in a message.
pub fn reply_weight(reply: &ReadReply) -> usize {
    match reply {
        ReadReply::Held(Found { record: Some(record), .. }) => record.len() + ITEM_OVERHEAD_BYTES,
        ReadReply::Held(_) | ReadReply::AskAgain => ITEM_OVERHEAD_BYTES,
    }
}

/// Reads [`encode_read_replies`] back; the records share `body`.
pub fn decode_read_replies(body: &Bytes) -> Result<Vec<ReadReply>, MessageError> {
    let wire: Vec<WireRead<'_>> = decode(body)?;
    wire.iter()
        .map(|reply| match reply {
            WireRead::Held(run, reached_ms) => {
                let record = run.as_ref().map(|run| record(body, run)).transpose()?;
                Ok(ReadReply::Held(Found { record, reached_ms: *reached_ms }))
            }
            WireRead::AskAgain => Ok(ReadReply::AskAgain),
        })
        .collect()
}

/// A request for a page of rows.
pub fn encode_list(request: &ListRequest) -> Bytes {
    encode(request, request.prefix.len() + ITEM_OVERHEAD_BYTES)
}

/// Reads [`encode_list`] back.
pub fn decode_list(body: &Bytes) -> Result<ListRequest, MessageError> {
    decode(body)
}

/// A page of rows.
pub fn encode_page(page: &ListPage) -> Bytes {
    let about_bytes = page.rows.iter().map(|(key, record)| weight(key, record)).sum();
    let rows = page.rows.iter().map(|(key, record)| (key.as_str(), Run(record))).collect();
    let reached_ms = page.reached_ms.clone();
    encode(&WirePage { rows, end: page.end, reached_ms }, about_bytes)
}

/// Reads [`encode_page`] back; the records share `body`. Keys must rise, and a page that does not
/// end the rows must have one: whoever merges pages relies on both.
pub fn decode_page(body: &Bytes) -> Result<ListPage, MessageError> {
    let wire: WirePage<'_> = decode(body)?;
    if !wire.rows.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(MessageError("the keys of a page do not rise".to_owned()));
    }
    if wire.rows.is_empty() && !wire.end {
        return Err(MessageError("a page without rows that is not the last".to_owned()));
    }
    let rows = wire.rows.iter().map(|(text, run)| Ok((key(text)?, record(body, run)?)));
    let rows = rows.collect::<Result<_, _>>()?;
    Ok(ListPage { rows, end: wire.end, reached_ms: wire.reached_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::encoding::encode as encode_record;
    use crate::types::{Content, NodeId, Record};
    use proptest::prelude::*;

    fn named(text: &str) -> Key {
        Key::new(text, 64).expect("a key")
    }

    fn record(ms: u64) -> Bytes {
        let version = Version::new(ms << 16, NodeId(1));
        let bytes = Bytes::from(vec![7; 300]);
        let content = Content::Value { bytes, content_type: None, expires_at_ms: None };
        encode_record(&Record { version, content })
    }

    #[test]
    fn messages_read_back_and_records_share_their_bytes() {
        let (key, record) = (named("a/b"), record(1));
        let write = |survived_ms| {
            let (key, record) = (key.clone(), record.clone());
            StoredWrite { key, record, survived_ms }
        };
        let sent = [write(None), write(Some(77))];
        let body = encode_writes(sent.iter());
        let writes = decode_writes(&body).expect("writes");
        assert_eq!(writes, sent);
        assert!(body.as_ptr_range().contains(&writes[1].record.as_ptr()), "copied");

        let superseded = Taken::SupersededBy(Version::new(9, NodeId(3)));
        let taken = [Ok(Taken::Newest), Ok(superseded), Err(Late::TooOld), Err(Late::NotYet)];
        assert_eq!(decode_taken(&encode_taken(&taken)), Ok(taken.to_vec()));
        let keys = [named("x"), named("y")];
        assert_eq!(decode_reads(&encode_reads(keys.iter())), Ok(keys.to_vec()));
        let replies = [None, Some(record.clone())]
            .map(|record| ReadReply::Held(Found { record, reached_ms: 5 }));
        assert_eq!(decode_read_replies(&encode_read_replies(&replies)), Ok(replies.to_vec()));
        let reached_ms = BTreeMap::from([(7, 9)]);
        let page = ListPage { rows: vec![(key, record)], end: false, reached_ms };
        assert_eq!(decode_page(&encode_page(&page)), Ok(page));
        let list =
            ListRequest { prefix: "a".to_owned(), from: Bound::After("a/b".to_owned()), limit: 7 };
        assert_eq!(decode_list(&encode_list(&list)), Ok(list));
    }

    #[test]
    fn the_form_of_writes_never_changes() {
        // It is in commit logs.
        let tombstone = Record {
            version: Version::new(0x0102_0304_0506_0708, NodeId(9)),
            content: Content::Tombstone,
        };
        let write = |survived_ms| {
            let (key, record) = (named("k"), encode_record(&tombstone));
            encode_writes(std::iter::once(&StoredWrite { key, record, survived_ms }))
        };
        let golden = b"\x02\x01\x01k\x0c\x01\x01\x01\x02\x03\x04\x05\x06\x07\x08\x00\x09\x00";
        assert_eq!(&write(None)[..], golden);
        assert_eq!(&write(Some(3))[golden.len() - 1..], b"\x01\x03");
    }

    #[test]
    fn writes_of_what_is_no_record_or_no_key_are_refused() {
        let nonsense = Bytes::from_static(b"nonsense");
        let write = StoredWrite { key: named("k"), record: nonsense, survived_ms: None };
        let body = encode_writes(std::iter::once(&write));
        assert!(decode_writes(&body).is_err());
        let empty_key = [FORMAT, 1, 0, 0];
        assert!(decode_writes(&Bytes::copy_from_slice(&empty_key)).is_err());
    }

    #[test]
    fn a_page_that_would_mislead_a_merge_is_refused() {
        let row = |text| (named(text), record(1));
        let falling = ListPage { rows: vec![row("b"), row("a")], end: true, ..ListPage::default() };
        assert!(decode_page(&encode_page(&falling)).is_err());
        let stuck = ListPage::default();
        assert!(decode_page(&encode_page(&stuck)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(first) = bytes.first_mut() {
                *first = FORMAT;
            }
            let body = Bytes::from(bytes);
            let _ = decode_writes(&body);
            let _ = decode_taken(&body);
            let _ = decode_reads(&body);
            let _ = decode_read_replies(&body);
            let _ = decode_list(&body);
            let _ = decode_page(&body);
        }
    }
}

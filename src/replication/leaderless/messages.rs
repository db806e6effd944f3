//! What replicas say to each other, and what a replica's log holds: `postcard`, decoded in place.
//!
//! Values are not copied on the way in: what is decoded shares the message's buffer. The payload of
//! a [`Kind::ReplicaWrites`](crate::storage::log::Kind) record is the message that carried the
//! writes, so its first byte, the format, is on disks.

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::tally::Taken;
use crate::storage::encoding;
use crate::storage::rows::Bound;
use crate::types::{Key, Version};

/// The first byte of every message; another one is refused.
const FORMAT: u8 = 1;

/// The room a message keeps for its own framing, in bytes an item.
const ITEM_OVERHEAD_BYTES: usize = 16;

/// A record on its way to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWrite {
    pub key: Key,
    /// The encoded record.
    pub record: Bytes,
}

/// What a replica answers to one read of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadReply {
    /// The encoded record, or nothing where the replica never had one.
    Held(Option<Bytes>),
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
    #[serde(borrow)]
    Held(Option<Run<'a>>),
    AskAgain,
}

#[derive(Serialize, Deserialize)]
struct WirePage<'a> {
    #[serde(borrow)]
    rows: Vec<(&'a str, Run<'a>)>,
    end: bool,
}

#[derive(Serialize, Deserialize)]
enum WireTaken {
    Newest,
    SupersededBy(Version),
}

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
pub fn encode_writes<'a>(writes: impl Iterator<Item = (&'a Key, &'a Bytes)> + Clone) -> Bytes {
    let about_bytes = writes.clone().map(|(key, record)| weight(key, record)).sum();
    let wire: Vec<(&str, Run<'_>)> =
        writes.map(|(key, record)| (key.as_str(), Run(record))).collect();
    encode(&wire, about_bytes)
}

/// Reads [`encode_writes`] back; the records share `body`.
pub fn decode_writes(body: &Bytes) -> Result<Vec<StoredWrite>, MessageError> {
    let wire: Vec<(&str, Run<'_>)> = decode(body)?;
    wire.iter()
        .map(|(text, run)| Ok(StoredWrite { key: key(text)?, record: record(body, run)? }))
        .collect()
}

/// What became of each write, in order.
pub fn encode_taken(taken: &[Taken]) -> Bytes {
    let wire: Vec<WireTaken> = taken
        .iter()
        .map(|taken| match taken {
            Taken::Newest => WireTaken::Newest,
            Taken::SupersededBy(version) => WireTaken::SupersededBy(*version),
        })
        .collect();
    encode(&wire, wire.len() * ITEM_OVERHEAD_BYTES)
}

/// Reads [`encode_taken`] back.
pub fn decode_taken(body: &Bytes) -> Result<Vec<Taken>, MessageError> {
    let wire: Vec<WireTaken> = decode(body)?;
    let taken = wire.into_iter().map(|taken| match taken {
        WireTaken::Newest => Taken::Newest,
        WireTaken::SupersededBy(version) => Taken::SupersededBy(version),
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
            ReadReply::Held(record) => WireRead::Held(record.as_ref().map(|bytes| Run(bytes))),
            ReadReply::AskAgain => WireRead::AskAgain,
        })
        .collect();
    encode(&wire, about_bytes)
}

/// About how many bytes a reply takes in a message.
pub fn reply_weight(reply: &ReadReply) -> usize {
    match reply {
        ReadReply::Held(Some(record)) => record.len() + ITEM_OVERHEAD_BYTES,
        ReadReply::Held(None) | ReadReply::AskAgain => ITEM_OVERHEAD_BYTES,
    }
}

/// Reads [`encode_read_replies`] back; the records share `body`.
pub fn decode_read_replies(body: &Bytes) -> Result<Vec<ReadReply>, MessageError> {
    let wire: Vec<WireRead<'_>> = decode(body)?;
    wire.iter()
        .map(|reply| match reply {
            WireRead::Held(None) => Ok(ReadReply::Held(None)),
            WireRead::Held(Some(run)) => Ok(ReadReply::Held(Some(record(body, run)?))),
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
    encode(&WirePage { rows, end: page.end }, about_bytes)
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
    Ok(ListPage { rows: rows.collect::<Result<_, _>>()?, end: wire.end })
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
        let body = encode_writes([(&key, &record), (&key, &record)].into_iter());
        let writes = decode_writes(&body).expect("writes");
        assert_eq!(writes, vec![StoredWrite { key: key.clone(), record: record.clone() }; 2]);
        assert!(body.as_ptr_range().contains(&writes[1].record.as_ptr()), "copied");

        let taken = [Taken::Newest, Taken::SupersededBy(Version::new(9, NodeId(3)))];
        assert_eq!(decode_taken(&encode_taken(&taken)), Ok(taken.to_vec()));
        let keys = [named("x"), named("y")];
        assert_eq!(decode_reads(&encode_reads(keys.iter())), Ok(keys.to_vec()));
        let replies =
            [ReadReply::Held(None), ReadReply::Held(Some(record.clone())), ReadReply::AskAgain];
        assert_eq!(decode_read_replies(&encode_read_replies(&replies)), Ok(replies.to_vec()));
        let page = ListPage { rows: vec![(key, record)], end: false };
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
        let body = encode_writes(std::iter::once((&named("k"), &encode_record(&tombstone))));
        let golden = b"\x01\x01\x01k\x0c\x01\x01\x01\x02\x03\x04\x05\x06\x07\x08\x00\x09";
        assert_eq!(&body[..], golden);
    }

    #[test]
    fn writes_of_what_is_no_record_or_no_key_are_refused() {
        let nonsense = Bytes::from_static(b"nonsense");
        let body = encode_writes(std::iter::once((&named("k"), &nonsense)));
        assert!(decode_writes(&body).is_err());
        let empty_key = [FORMAT, 1, 0, 0];
        assert!(decode_writes(&Bytes::copy_from_slice(&empty_key)).is_err());
    }

    #[test]
    fn a_page_that_would_mislead_a_merge_is_refused() {
        let row = |text| (named(text), record(1));
        let falling = ListPage { rows: vec![row("b"), row("a")], end: true };
        assert!(decode_page(&encode_page(&falling)).is_err());
        let stuck = ListPage { rows: Vec::new(), end: false };
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

//! Headers of answers, made with as few allocations as each needs, and their names.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use bytes::BytesMut;
use http::{HeaderName, HeaderValue};

use crate::types::Version;

pub const QUORATE_MODE: HeaderName = HeaderName::from_static("quorate-mode");
pub const QUORATE_NODE: HeaderName = HeaderName::from_static("quorate-node");
pub const QUORATE_CONSISTENCY: HeaderName = HeaderName::from_static("quorate-consistency");
pub const QUORATE_SUPERSEDED: HeaderName = HeaderName::from_static("quorate-superseded");
pub const QUORATE_TRACE: HeaderName = HeaderName::from_static("quorate-trace");
pub const QUORATE_MESSAGES: HeaderName = HeaderName::from_static("quorate-messages");
pub const QUORATE_ACKS: HeaderName = HeaderName::from_static("quorate-acks");
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const QUORATE_TTL: HeaderName = HeaderName::from_static("quorate-ttl");
pub const QUORATE_EXPIRES: HeaderName = HeaderName::from_static("quorate-expires");

/// Room for the longest version with its quotes, and for an HTTP date.
const SHORT_TEXT_BYTES: usize = 32;

/// A version as a strong entity tag.
pub fn etag(version: Version) -> HeaderValue {
    formatted(format_args!("\"{version}\""))
}

/// A moment, in milliseconds since 1970, as an HTTP date; dates that HTTP cannot write (after the
/// year 9999) are given as the last one it can.
pub fn http_date(millis: u64) -> HeaderValue {
    const LAST_MS: u64 = 253_402_300_799_000;
    let moment = UNIX_EPOCH + Duration::from_millis(millis.min(LAST_MS));
    formatted(format_args!("{}", httpdate::HttpDate::from(moment)))
}

/// A number.
pub fn number(number: impl Into<u64>) -> HeaderValue {
    HeaderValue::from(number.into())
}

/// A text that this program made: visible ASCII.
pub fn text(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(EMPTY)
}

/// Formats straight into the header's own buffer.
pub fn formatted(text: std::fmt::Arguments<'_>) -> HeaderValue {
    let mut buffer = BytesMut::with_capacity(SHORT_TEXT_BYTES);
    // Writing to memory cannot fail.
    let _ = buffer.write_fmt(text);
    HeaderValue::from_maybe_shared(buffer.freeze()).unwrap_or(EMPTY)
}

const EMPTY: HeaderValue = HeaderValue::from_static("");

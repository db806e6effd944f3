//! Parts of a value: the `Range` header.
//!
//! One range of bytes is served; several at once, other units and malformed ranges are ignored, as
//! HTTP allows, and the whole value is sent. Source: RFC 9110, section 14.2.

use std::ops::Range;

/// What a `Range` header means for a value.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No range that this server takes: the whole value.
    Whole,
    /// These bytes; never empty, never past the end.
    Part(Range<usize>),
    /// A well-formed range that holds no byte of the value.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a value of `length` bytes.
pub fn read(header: &[u8], length: usize) -> Wanted {
    let Ok(text) = std::str::from_utf8(header) else { return Wanted::Whole };
    let Some(spec) = text.trim().strip_prefix("bytes=") else { return Wanted::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::Whole };
    match (position(first), position(last)) {
        (None, Some(suffix)) if first.is_empty() => match suffix.min(length) {
            0 => Wanted::Unsatisfiable,
            suffix => Wanted::Part(length - suffix..length),
        },
        (Some(first), None) if last.is_empty() => part(first, usize::MAX, length),
        (Some(first), Some(last)) if first <= last => part(first, last, length),
        _ => Wanted::Whole,
    }
}

fn part(first: usize, last: usize, length: usize) -> Wanted {
    if first >= length {
        return Wanted::Unsatisfiable;
    }
    Wanted::Part(first..last.saturating_add(1).min(length))
}

/// Digits alone; a number too large to hold is past every end.
fn position(text: &str) -> Option<usize> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_http_has_them() {
        for (header, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-5", Wanted::Part(2..6)),
            ("bytes=2-", Wanted::Part(2..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("bytes=8-99", Wanted::Part(8..10)),
            ("bytes=9-99999999999999999999999", Wanted::Part(9..10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=10-12", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(read(header.as_bytes(), 10), wanted, "{header}");
        }
        assert_eq!(read(b"bytes=0-", 0), Wanted::Unsatisfiable);
        assert_eq!(read(b"\xff", 10), Wanted::Whole);
    }
}

//! Cursors: where a list goes on, as a text that clients hand back without looking into it.
//!
//! A cursor is base64url of a format byte, a kind byte and a text. It holds no secret and is not
//! signed: whoever makes one up gets a page of keys they could have listed anyway.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::storage::rows::Bound;

const FORMAT: u8 = 1;
const AFTER: u8 = 1;
const AFTER_PREFIX: u8 = 2;

/// The cursor for a page that starts at `bound`; none is needed for the first.
pub fn encode(bound: &Bound) -> Option<String> {
    let (kind, text) = match bound {
        Bound::Start => return None,
        Bound::After(key) => (AFTER, key),
        Bound::AfterPrefix(prefix) => (AFTER_PREFIX, prefix),
    };
    let mut bytes = vec![FORMAT, kind];
    bytes.extend_from_slice(text.as_bytes());
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

/// Reads a cursor back; `None` where it is none of ours.
pub fn decode(cursor: &str) -> Option<Bound> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let [FORMAT, kind, text @ ..] = bytes.as_slice() else { return None };
    let text = std::str::from_utf8(text).ok().filter(|text| !text.is_empty())?.to_owned();
    match *kind {
        AFTER => Some(Bound::After(text)),
        AFTER_PREFIX => Some(Bound::AfterPrefix(text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_nonsense_does_not() {
        for bound in [Bound::After("a/ü".to_owned()), Bound::AfterPrefix("a/".to_owned())] {
            assert_eq!(decode(&encode(&bound).expect("a cursor")), Some(bound));
        }
        assert_eq!(encode(&Bound::Start), None);
        let odd = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        for bad in ["", "!", "AQ", &odd(&[1, 1]), &odd(&[2, 1, 65]), &odd(&[1, 3, 65])] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode(&odd(&[1, 1, 0xff])), None);
    }
}

//! Conditional requests: entity tags in `If-Match`, `If-None-Match` and `If-Range`.
//!
//! Our entity tags are versions and always strong. Tags of other forms are legal, so they are
//! accepted, and simply never match. Source: RFC 9110, sections 8.8.3 and 13.1.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::types::{Condition, Version};

use super::failure::Invalid;

/// How many entity tags one request may name.
const MAX_TAGS: usize = 64;

/// The entity tags of one header.
#[derive(Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever the key holds.
    Any,
    /// The tags named, as far as they are versions.
    Listed(Vec<Tag>),
}

/// One entity tag that is a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub version: Version,
    /// `W/"…"`: matches where weak comparison will do, which `If-Match` does not allow.
    pub weak: bool,
}

impl Tags {
    /// Reads the header `name`, over all its lines; `None` where it is not there.
    pub fn read(
        headers: &HeaderMap,
        name: &HeaderName,
        shown: &'static str,
    ) -> Result<Option<Tags>, Invalid> {
        let mut lines = headers.get_all(name).iter();
        let Some(first) = lines.next() else { return Ok(None) };
        let bad = |problem: &str| Invalid::Header { name: shown, problem: problem.to_owned() };
        let mut lines = std::iter::once(first).chain(lines).peekable();
        if first.as_bytes().trim_ascii() == b"*" {
            lines.next();
            return match lines.next() {
                None => Ok(Some(Tags::Any)),
                Some(_) => Err(bad("'*' stands alone")),
            };
        }
        let mut seen = 0;
        let mut tags = Vec::new();
        for line in lines {
            let mut rest = line.as_bytes();
            while let Some((tag, after)) = next_tag(rest).map_err(bad)? {
                rest = after;
                seen += 1;
                if seen > MAX_TAGS {
                    return Err(bad("too many entity tags: 64 at most"));
                }
                tags.extend(tag);
            }
        }
        if seen == 0 {
            return Err(bad(EXPECTED));
        }
        Ok(Some(Tags::Listed(tags)))
    }

    /// Whether a value at `version` is meant, by strong comparison (for `If-Match`).
    pub fn match_strongly(&self, version: Version) -> bool {
        match self {
            Tags::Any => true,
            Tags::Listed(tags) => tags.iter().any(|tag| !tag.weak && tag.version == version),
        }
    }

    /// Whether a value at `version` is meant, by weak comparison (for `If-None-Match`).
    pub fn match_weakly(&self, version: Version) -> bool {
        match self {
            Tags::Any => true,
            Tags::Listed(tags) => tags.iter().any(|tag| tag.version == version),
        }
    }
}

/// The condition of a write, from its `If-Match` or `If-None-Match`.
pub fn of_write(headers: &HeaderMap) -> Result<Option<Condition>, Invalid> {
    let if_match = Tags::read(headers, &http::header::IF_MATCH, "If-Match")?;
    let if_none_match = Tags::read(headers, &http::header::IF_NONE_MATCH, "If-None-Match")?;
    Ok(match (if_match, if_none_match) {
        (None, None) => None,
        (Some(Tags::Any), None) => Some(Condition::Exists),
        (Some(Tags::Listed(tags)), None) => {
            let strong = tags.into_iter().filter(|tag| !tag.weak).map(|tag| tag.version);
            Some(Condition::VersionIn(strong.collect()))
        }
        (None, Some(Tags::Any)) => Some(Condition::Absent),
        (None, Some(Tags::Listed(tags))) => {
            Some(Condition::VersionNotIn(tags.into_iter().map(|tag| tag.version).collect()))
        }
        (Some(_), Some(_)) => {
            let problem = "not together with If-Match: send one of the two".to_owned();
            return Err(Invalid::Header { name: "If-None-Match", problem });
        }
    })
}

/// Whether an `If-Range` header lets a range of the value at `version` be sent. Dates are weak
/// here (versions are finer than seconds), so they never do, and the whole value is sent.
pub fn if_range_allows(value: &HeaderValue, version: Version) -> bool {
    match next_tag(value.as_bytes()) {
        Ok(Some((Some(tag), rest))) => {
            rest.trim_ascii().is_empty() && !tag.weak && tag.version == version
        }
        _ => false,
    }
}

const EXPECTED: &str = "expected '*' or entity tags in double quotes, separated by commas";

/// A tag (where it is a version) and what follows it.
type Next<'a> = (Option<Tag>, &'a [u8]);

/// The first entity tag in `text`; `None` where only blanks and commas are left.
fn next_tag(text: &[u8]) -> Result<Option<Next<'_>>, &'static str> {
    let start = text.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','));
    let Some(start) = start else { return Ok(None) };
    let text = &text[start..];
    let (weak, text) = text.strip_prefix(b"W/").map_or((false, text), |rest| (true, rest));
    let text = text.strip_prefix(b"\"").ok_or(EXPECTED)?;
    let end = text.iter().position(|&byte| byte == b'"').ok_or(EXPECTED)?;
    let (opaque, rest) = (&text[..end], &text[end + 1..]);
    if !opaque.iter().all(|&byte| byte == 0x21 || (0x23..=0x7e).contains(&byte) || byte >= 0x80) {
        return Err(EXPECTED);
    }
    let after = rest.trim_ascii_start();
    if !after.is_empty() && !after.starts_with(b",") {
        return Err(EXPECTED);
    }
    Ok(Some((version(opaque).map(|version| Tag { version, weak }), rest)))
}

/// The version that an opaque tag spells exactly as we spell it: tags are compared byte by byte.
fn version(opaque: &[u8]) -> Option<Version> {
    let text = std::str::from_utf8(opaque).ok()?;
    text.parse().ok().filter(|version: &Version| version.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;
    use http::header::{IF_MATCH, IF_NONE_MATCH};

    fn v(time: u64) -> Version {
        Version::new(time << 16, NodeId(1))
    }

    fn read(lines: &[&str]) -> Result<Option<Tags>, Invalid> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IF_MATCH, line.parse().expect("a header value"));
        }
        Tags::read(&headers, &IF_MATCH, "If-Match")
    }

    #[test]
    fn lists_of_tags_are_read_over_lines() {
        let (one, two) = (v(1).etag(), v(2).etag());
        let tags = read(&[&format!(" {one} , \"not-ours\""), &format!(",W/{two},")]);
        let tags = tags.expect("valid").expect("there");
        assert_eq!(
            tags,
            Tags::Listed(vec![
                Tag { version: v(1), weak: false },
                Tag { version: v(2), weak: true }
            ])
        );
        assert!(tags.match_strongly(v(1)) && !tags.match_strongly(v(2)));
        assert!(tags.match_weakly(v(2)) && !tags.match_weakly(v(3)));
        assert_eq!(read(&[" * "]), Ok(Some(Tags::Any)));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn malformed_tags_are_refused_by_name() {
        let one = v(1).etag();
        let many = vec![one.as_str(); 65].join(",");
        let glued = format!("{one}{one}");
        for lines in [
            &[""][..],
            &[","],
            &["abc"],
            &["\"abc"],
            &["*, \"a\""],
            &["*", "*"],
            &["w/\"a\""],
            &["\"a b\""],
            &[many.as_str()],
            &[glued.as_str()],
        ] {
            match read(lines) {
                Err(Invalid::Header { name, .. }) => assert_eq!(name, "If-Match"),
                other => panic!("{lines:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn only_our_own_spelling_of_a_version_matches() {
        for odd in ["\"000000000001000A-1\"", "\"0000000000010000-01\"", "\"+000000000010000-1\""] {
            assert_eq!(read(&[odd]), Ok(Some(Tags::Listed(Vec::new()))), "{odd}");
        }
    }

    #[test]
    fn conditions_of_writes() {
        let of = |name: HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header value"));
            of_write(&headers).expect("valid")
        };
        let (one, weak) = (v(1).etag(), format!("W/{}", v(1)));
        assert_eq!(of(IF_MATCH, "*"), Some(Condition::Exists));
        assert_eq!(of(IF_MATCH, &one), Some(Condition::VersionIn(vec![v(1)])));
        let weak = weak.replace("W/", "W/\"") + "\"";
        assert_eq!(of(IF_MATCH, &weak), Some(Condition::VersionIn(Vec::new())));
        assert_eq!(of(IF_NONE_MATCH, "*"), Some(Condition::Absent));
        assert_eq!(of(IF_NONE_MATCH, &weak), Some(Condition::VersionNotIn(vec![v(1)])));
        let mut both = HeaderMap::new();
        both.insert(IF_MATCH, "*".parse().expect("a header value"));
        both.insert(IF_NONE_MATCH, "*".parse().expect("a header value"));
        assert!(matches!(of_write(&both), Err(Invalid::Header { name: "If-None-Match", .. })));
    }
}

//! Requests: paths, queries and headers as nodes expect them.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::types::Level;

use super::ClientError;

/// What any request may ask for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `None`: the mode's default.
    pub level: Option<Level>,
    /// How old what a read at `local` shows may be; whole milliseconds. Leader mode.
    pub max_staleness: Option<Duration>,
    pub r: Option<u16>,
    pub w: Option<u16>,
    /// Ask that the node serves the request itself, or says who leads.
    pub never_forward: bool,
    /// How long the node may take; whole milliseconds.
    pub timeout: Option<Duration>,
    /// Ask what the request cost.
    pub trace: bool,
    /// As the header has it: `*`, or entity tags in double quotes.
    pub if_match: Option<String>,
    /// As the header has it: `*`, or entity tags in double quotes.
    pub if_none_match: Option<String>,
    /// A name for the write, under which it may be sent again.
    pub idempotency_key: Option<String>,
    /// How long a put is to hold; whole milliseconds.
    pub ttl: Option<Duration>,
}

impl Options {
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        let mut add = |name, value: Option<String>| query.extend(value.map(|value| (name, value)));
        add("consistency", self.level.map(|level| level.to_string()));
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        add("max_staleness", self.max_staleness.map(ms));
        add("r", self.r.map(|r| r.to_string()));
        add("w", self.w.map(|w| w.to_string()));
        add("forward", self.never_forward.then(|| "never".to_owned()));
        add("timeout", self.timeout.map(ms));
        query
    }

    pub(super) fn headers(&self) -> Result<HeaderMap, ClientError> {
        let mut headers = HeaderMap::new();
        if let Some(tags) = &self.if_match {
            headers.insert(header::IF_MATCH, header_value("If-Match", tags)?);
        }
        if let Some(tags) = &self.if_none_match {
            headers.insert(header::IF_NONE_MATCH, header_value("If-None-Match", tags)?);
        }
        if let Some(key) = &self.idempotency_key {
            const NAME: HeaderName = HeaderName::from_static("idempotency-key");
            headers.insert(NAME, header_value("Idempotency-Key", key)?);
        }
        if let Some(ttl) = self.ttl {
            const NAME: HeaderName = HeaderName::from_static("quorate-ttl");
            let text = format!("{}ms", ttl.as_millis());
            headers.insert(NAME, header_value("Quorate-Ttl", &text)?);
        }
        if self.trace {
            const TRACE: HeaderName = HeaderName::from_static("quorate-trace");
            headers.insert(TRACE, HeaderValue::from_static("1"));
        }
        Ok(headers)
    }
}

/// Which keys to list.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// `None`: as many as the node gives where nothing is said.
    pub limit: Option<usize>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
    pub with_values: bool,
}

impl ListRequest {
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        let mut add = |name, value: Option<String>| query.extend(value.map(|value| (name, value)));
        add("prefix", (!self.prefix.is_empty()).then(|| self.prefix.clone()));
        add("delimiter", self.delimiter.clone());
        add("limit", self.limit.map(|limit| limit.to_string()));
        add("cursor", self.cursor.clone());
        add("values", self.with_values.then(|| "true".to_owned()));
        query
    }
}

/// What stays as it is in a key's path and in a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same, and the slash, which is as good plain as encoded.
const PLAIN_AND_SLASH: &AsciiSet = &PLAIN.remove(b'/');

/// Where a key is, under `before`.
///
/// Paths with `.` or `..` between slashes would be rewritten before they are sent, as the rules for
/// URLs have it, so such keys are sent with their slashes encoded. A key that is nothing but dots
/// cannot be sent at all.
pub(super) fn key_path(before: &str, key: &str) -> Result<String, ClientError> {
    let is_dots = |segment: &str| segment == "." || segment == "..";
    if key.is_empty() {
        return Err(ClientError::BadRequest { problem: "the key is empty".to_owned() });
    }
    if is_dots(key) {
        let problem = format!("the key '{key}' cannot be written in a URL");
        return Err(ClientError::BadRequest { problem });
    }
    let plain = if key.split('/').any(is_dots) { PLAIN } else { PLAIN_AND_SLASH };
    Ok(format!("{before}{}", utf8_percent_encode(key, plain)))
}

pub(super) fn with_query(path: &str, query: &[(&'static str, String)]) -> String {
    let mut target = path.to_owned();
    let mut before = '?';
    for (name, value) in query {
        target.push(before);
        target.push_str(name);
        target.push('=');
        target.extend(utf8_percent_encode(value, PLAIN));
        before = '&';
    }
    target
}

pub(super) fn header_value(name: &str, value: &str) -> Result<HeaderValue, ClientError> {
    HeaderValue::from_str(value).map_err(|_| ClientError::BadRequest {
        problem: format!("'{value}' cannot be sent as {name}: expected visible ASCII"),
    })
}

/// The base of a node's URLs.
pub(super) fn endpoint(text: &str) -> Result<String, ClientError> {
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let bad = || ClientError::BadRequest {
        problem: format!("'{text}' is not the address of a node: expected host:port"),
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let is_host = !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
    match port.parse::<u16>() {
        Ok(port) if port > 0 && is_host => Ok(format!("http://{address}")),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_paths_that_no_url_rule_rewrites() {
        let path = |key| key_path("/v1/kv/", key).expect("a path");
        assert_eq!(path("img/cat.png"), "/v1/kv/img/cat.png");
        assert_eq!(path("a b?#%+ü"), "/v1/kv/a%20b%3F%23%25%2B%C3%BC");
        assert_eq!(path("/a//b/"), "/v1/kv//a//b/");
        assert_eq!(path("a/../b"), "/v1/kv/a%2F..%2Fb");
        for key in ["", ".", ".."] {
            assert!(key_path("/v1/kv/", key).is_err(), "{key}");
        }
        for key in ["a/../b", "./a", "a/.", "a\\..\\b", "/a//b/", "%2e%2e", "a b?#"] {
            let sent = path(key);
            let url = reqwest::Url::parse(&format!("http://h:1{sent}")).expect("a URL");
            assert_eq!(url.path(), sent, "{key}");
            assert_eq!(url.query(), None, "{key}");
        }
    }

    #[test]
    fn endpoints_are_addresses() {
        for good in ["127.0.0.1:7001", "http://127.0.0.1:7001", "http://127.0.0.1:7001/"] {
            assert_eq!(endpoint(good), Ok("http://127.0.0.1:7001".to_owned()));
        }
        assert_eq!(endpoint("[::1]:7001"), Ok("http://[::1]:7001".to_owned()));
        for bad in
            ["", "host", "host:", ":7001", "host:0", "host:99999", "https://host:1/", "a/b:1"]
        {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_become_a_query() {
        let options = Options {
            level: Some(Level::Quorum),
            max_staleness: Some(Duration::from_secs(2)),
            r: Some(1),
            w: Some(3),
            never_forward: true,
            timeout: Some(Duration::from_millis(1_500)),
            ..Options::default()
        };
        assert_eq!(
            with_query("/v1/kv/a", &options.query()),
            "/v1/kv/a?consistency=quorum&max_staleness=2000ms&r=1&w=3&forward=never&timeout=1500ms"
        );
        let list = ListRequest { prefix: "a&b".to_owned(), ..ListRequest::default() };
        assert_eq!(with_query("/v1/kv", &list.query()), "/v1/kv?prefix=a%26b");
    }
}

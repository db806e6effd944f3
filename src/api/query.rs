//! Query parameters and percent-encoding, strictly: what is not understood is refused by name.
//!
//! A parameter that is silently ignored (a mistyped `consistancy=local`) would promise what is not
//! done, so unknown and repeated parameters are errors.

use std::borrow::Cow;
use std::time::Duration;

use crate::types::Level;

use super::failure::Invalid;

/// The parameters that every data request takes.
const COMMON: [&str; 6] = ["consistency", "max_staleness", "r", "w", "forward", "timeout"];

/// The parameters of a call that is passed on, but reads and writes no key.
const PASSED_ON: [&str; 2] = ["forward", "timeout"];

/// The parameters of explaining a key.
const EXPLAIN: [&str; 3] = ["r", "w", "timeout"];

/// What a data request's query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pub level: Option<Level>,
    pub max_staleness: Option<Duration>,
    pub r: Option<u16>,
    pub w: Option<u16>,
    pub may_forward: Option<bool>,
    pub timeout: Option<Duration>,
}

impl Parameters {
    /// Reads a query that holds these parameters alone; `longest` is the setting for requests.
    pub fn parse(query: Option<&str>, longest: Duration) -> Result<Parameters, Invalid> {
        Parameters::parse_with(query, longest, &[], |_, _| Ok(false))
    }

    /// Reads a query that may hold others too: `take` says whether it took one.
    pub fn parse_with(
        query: Option<&str>,
        longest: Duration,
        others: &[&'static str],
        take: impl FnMut(&str, &str) -> Result<bool, Invalid>,
    ) -> Result<Parameters, Invalid> {
        Parameters::parse_known(query, longest, &COMMON, others, take)
    }

    /// Reads the query of a call that is passed on, but reads and writes no key.
    pub fn parse_passed_on(query: Option<&str>, longest: Duration) -> Result<Parameters, Invalid> {
        Parameters::parse_known(query, longest, &PASSED_ON, &[], |_, _| Ok(false))
    }

    /// Reads the query of a call that explains a key.
    pub fn parse_explain(query: Option<&str>, longest: Duration) -> Result<Parameters, Invalid> {
        Parameters::parse_known(query, longest, &EXPLAIN, &[], |_, _| Ok(false))
    }

    fn parse_known(
        query: Option<&str>,
        longest: Duration,
        known: &[&'static str],
        others: &[&'static str],
        mut take: impl FnMut(&str, &str) -> Result<bool, Invalid>,
    ) -> Result<Parameters, Invalid> {
        let mut parameters = Parameters::default();
        for_each(query, |name, value| {
            let is_known = known.contains(&name);
            if (is_known && parameters.take(name, value, longest)?) || take(name, value)? {
                return Ok(());
            }
            let allowed = others.iter().chain(known).copied().collect();
            Err(Invalid::UnknownParameter { name: shortened(name), allowed })
        })?;
        Ok(parameters)
    }

    fn take(&mut self, name: &str, value: &str, longest: Duration) -> Result<bool, Invalid> {
        match name {
            "consistency" => {
                let level = value.parse().map_err(|problem| bad("consistency", problem))?;
                once("consistency", &mut self.level, level)?;
            }
            "max_staleness" => {
                let bound = parse_duration(value).ok_or_else(|| {
                    bad("max_staleness", expected(value, "a time such as 500ms or 2s"))
                })?;
                once("max_staleness", &mut self.max_staleness, bound)?;
            }
            "r" => once("r", &mut self.r, replicas("r", value)?)?,
            "w" => once("w", &mut self.w, replicas("w", value)?)?,
            "forward" => {
                let may = match value {
                    "allow" => true,
                    "never" => false,
                    _ => return Err(bad("forward", expected(value, "'allow' or 'never'"))),
                };
                once("forward", &mut self.may_forward, may)?;
            }
            "timeout" => once("timeout", &mut self.timeout, timeout(value, longest)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Refuses every parameter, for calls that take none.
pub fn none(query: Option<&str>) -> Result<(), Invalid> {
    for_each(query, |name, _| {
        Err(Invalid::UnknownParameter { name: shortened(name), allowed: Vec::new() })
    })
}

/// Calls `take` with each parameter, decoded, in order.
fn for_each(
    query: Option<&str>,
    mut take: impl FnMut(&str, &str) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    let Some(query) = query else { return Ok(()) };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let read = |text| decode(text, Plus::IsSpace).ok_or(Invalid::Escape { place: "query" });
        take(&read(name)?, &read(value)?)?;
    }
    Ok(())
}

/// Stores a parameter's value, or says that it came twice.
pub fn once<T>(name: &'static str, place: &mut Option<T>, value: T) -> Result<(), Invalid> {
    if place.replace(value).is_some() {
        return Err(bad(name, "given twice: give it once".to_owned()));
    }
    Ok(())
}

/// A parameter's value makes no sense.
pub fn bad(name: &'static str, problem: String) -> Invalid {
    Invalid::Parameter { name, problem }
}

/// Says what was given and what would have been right.
pub fn expected(given: &str, what: &str) -> String {
    format!("'{}' is not valid: expected {what}", shortened(given))
}

fn replicas(name: &'static str, value: &str) -> Result<u16, Invalid> {
    // Digits alone: a parse of its own would take a sign.
    let number = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok());
    match number.flatten() {
        Some(number) if number >= 1 => Ok(number),
        _ => Err(bad(name, expected(value, "a number of replicas, 1 or more"))),
    }
}

fn timeout(value: &str, longest: Duration) -> Result<Duration, Invalid> {
    let parsed = parse_duration(value).filter(|timeout| !timeout.is_zero() && *timeout <= longest);
    parsed.ok_or_else(|| {
        let what = format!("a time such as 500ms or 2s, at most {} ms", longest.as_millis());
        bad("timeout", expected(value, &what))
    })
}

/// The digits that a text begins with, and what follows them.
pub fn number_and_unit(text: &str) -> (&str, &str) {
    text.split_at(text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len())
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text);
    let number: u32 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number.into())),
        "s" => Some(Duration::from_secs(number.into())),
        _ => None,
    }
}

/// A client's own text, cut so that an answer that quotes it stays short.
pub fn shortened(text: &str) -> String {
    const QUOTED_CHARS: usize = 64;
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a `+` stands for: itself in a path, a space in a query, as forms have it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plus {
    IsPlus,
    IsSpace,
}

/// Undoes percent-encoding; `None` where a `%` is not followed by two hexadecimal digits, or where
/// the result is not UTF-8. Borrows where there is nothing to undo.
pub fn decode(text: &str, plus: Plus) -> Option<Cow<'_, str>> {
    let is_special = |byte: u8| byte == b'%' || (byte == b'+' && plus == Plus::IsSpace);
    if !text.bytes().any(is_special) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            b'+' if plus == Plus::IsSpace => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(5);

    #[test]
    fn percent_encoding_is_undone_strictly() {
        let path = |text| decode(text, Plus::IsPlus).map(Cow::into_owned);
        assert_eq!(path("a%2Fb"), Some("a/b".to_owned()));
        assert_eq!(path("caf%C3%A9+"), Some("café+".to_owned()));
        assert_eq!(path("%"), None);
        assert_eq!(path("%4"), None);
        assert_eq!(path("%zz"), None);
        assert_eq!(path("%+1"), None);
        assert_eq!(path("%ff"), None);
        assert_eq!(decode("a+b", Plus::IsSpace).as_deref(), Some("a b"));
        assert!(matches!(decode("plain", Plus::IsSpace), Some(Cow::Borrowed("plain"))));
    }

    #[test]
    fn parameters_are_read_whole() {
        let query = "consistency=quorum&max_staleness=2s&r=1&w=65535&forward=never&timeout=500ms";
        let parameters = Parameters::parse(Some(query), LONGEST).expect("valid");
        assert_eq!(
            parameters,
            Parameters {
                level: Some(Level::Quorum),
                max_staleness: Some(Duration::from_secs(2)),
                r: Some(1),
                w: Some(65_535),
                may_forward: Some(false),
                timeout: Some(Duration::from_millis(500)),
            }
        );
        assert_eq!(Parameters::parse(Some(""), LONGEST), Ok(Parameters::default()));
        assert_eq!(Parameters::parse(None, LONGEST), Ok(Parameters::default()));
    }

    #[test]
    fn a_call_that_reads_and_writes_no_key_says_what_it_takes() {
        let parse = |query: &str| Parameters::parse_passed_on(Some(query), LONGEST);
        let parameters = parse("forward=never&timeout=500ms").expect("valid");
        assert_eq!(parameters.may_forward, Some(false));
        assert_eq!(parameters.timeout, Some(Duration::from_millis(500)));
        for name in ["consistency", "r", "w", "to"] {
            let allowed = PASSED_ON.to_vec();
            let unknown = Invalid::UnknownParameter { name: name.to_owned(), allowed };
            assert_eq!(parse(&format!("{name}=1")), Err(unknown));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (query, named) in [
            ("consistancy=local", "consistancy"),
            ("consistency=strong", "consistency"),
            ("consistency=", "consistency"),
            ("max_staleness=soon", "max_staleness"),
            ("max_staleness=-1s", "max_staleness"),
            ("max_staleness=1s&max_staleness=1s", "max_staleness"),
            ("r=0", "r"),
            ("r=+1", "r"),
            ("r=-1", "r"),
            ("r=65536", "r"),
            ("w=two", "w"),
            ("w", "w"),
            ("r=1&r=1", "r"),
            ("forward=maybe", "forward"),
            ("timeout=5", "timeout"),
            ("timeout=0ms", "timeout"),
            ("timeout=6s", "timeout"),
            ("timeout=99999999999s", "timeout"),
            ("timeout=s", "timeout"),
            ("timeout=1.5s", "timeout"),
        ] {
            match Parameters::parse(Some(query), LONGEST) {
                Err(Invalid::UnknownParameter { name, allowed }) => {
                    assert_eq!(name, named);
                    assert!(allowed.contains(&"consistency"), "{query}");
                }
                Err(Invalid::Parameter { name, .. }) => assert_eq!(name, named, "{query}"),
                other => panic!("{query}: {other:?}"),
            }
        }
        let escape = Parameters::parse(Some("r=%zz"), LONGEST);
        assert_eq!(escape, Err(Invalid::Escape { place: "query" }));
    }
}

//! The body of a batch, read without ever holding more operations than are allowed.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::value;

/// One operation as JSON has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op<'a> {
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    pub value: Option<Cow<'a, str>>,
    pub value_base64: Option<Cow<'a, str>>,
    pub content_type: Option<Cow<'a, str>>,
    pub ttl: Option<Cow<'a, str>>,
}

impl Op<'_> {
    /// The bytes of `value` or `value_base64`, whichever is there.
    pub fn value_bytes(&self) -> Result<Option<Bytes>, String> {
        match (&self.value, &self.value_base64) {
            (None, None) => Ok(None),
            (Some(text), None) => Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
            (None, Some(encoded)) => match value::from_base64(encoded) {
                Some(bytes) => Ok(Some(bytes.into())),
                None => Err("value_base64 is not base64 with padding".to_owned()),
            },
            (Some(_), Some(_)) => Err("value and value_base64 exclude each other".to_owned()),
        }
    }
}

/// Reads `{"operations":[…]}` with `limit` operations at most; the error says what is wrong, and
/// where.
pub fn read(body: &[u8], limit: usize) -> Result<Vec<Op<'_>>, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = Body { limit }.deserialize(&mut deserializer);
    let ended = |operations| deserializer.end().map(|()| operations);
    read.and_then(ended).map_err(|error| error.to_string())
}

struct Body {
    limit: usize,
}

impl<'de> DeserializeSeed<'de> for Body {
    type Value = Vec<Op<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body {
    type Value = Vec<Op<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with operations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut operations = None;
        while let Some(field) = map.next_key::<Cow<'de, str>>()? {
            if field != "operations" {
                return Err(A::Error::unknown_field(&field, &["operations"]));
            }
            if operations.is_some() {
                return Err(A::Error::duplicate_field("operations"));
            }
            operations = Some(map.next_value_seed(Operations { limit: self.limit })?);
        }
        operations.ok_or_else(|| A::Error::missing_field("operations"))
    }
}

struct Operations {
    limit: usize,
}

impl<'de> DeserializeSeed<'de> for Operations {
    type Value = Vec<Op<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Operations {
    type Value = Vec<Op<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of operations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut operations = Vec::new();
        while let Some(operation) = list.next_element()? {
            if operations.len() == self.limit {
                let limit = self.limit;
                return Err(A::Error::custom(format_args!("more than {limit} operations")));
            }
            operations.push(operation);
        }
        Ok(operations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_and_nonsense_is_named() {
        let body = br#"{"operations":[{"op":"put","key":"a\u00e9","value":"1"},
                        {"op":"put","key":"b","value_base64":"/w=="},{"op":"get","key":"c"}]}"#;
        let operations = read(body, 3).expect("valid");
        assert_eq!(operations[0].key, "aé");
        assert_eq!(operations[1].value_bytes(), Ok(Some(Bytes::from_static(&[0xff]))));
        assert_eq!(operations[2].value_bytes(), Ok(None));
        for (body, said) in [
            ("", "EOF"),
            ("[]", "an object with operations"),
            ("{}", "missing field `operations`"),
            (r#"{"operations":[],"atomic":true}"#, "atomic"),
            (r#"{"operations":[],"operations":[]}"#, "duplicate"),
            (r#"{"operations":[{"op":"get","key":"a","if_match":"x"}]}"#, "if_match"),
            (r#"{"operations":[{"op":"get"}]}"#, "key"),
            (r#"{"operations":[{"op":"get","key":7}]}"#, "line 1"),
            (r#"{"operations":[]} more"#, "trailing"),
            (r#"{"operations":5}"#, "a list of operations"),
        ] {
            let error = read(body.as_bytes(), 3).expect_err(body);
            assert!(error.contains(said), "{body}: {error}");
        }
        let four = format!("{{\"operations\":[{}]}}", [r#"{"op":"get","key":"a"}"#; 4].join(","));
        assert!(read(four.as_bytes(), 3).expect_err("too many").contains("more than 3"));
        assert_eq!(read(four.as_bytes(), 4).map(|operations| operations.len()), Ok(4));
    }
}

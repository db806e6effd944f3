//! Values in JSON: `value` where the bytes are UTF-8 text, else `value_base64`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// A value as JSON holds it.
#[derive(Serialize)]
pub struct ValueText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> ValueText<'a> {
    /// The form for these bytes.
    pub fn of(bytes: &'a [u8]) -> ValueText<'a> {
        match std::str::from_utf8(bytes) {
            Ok(text) => ValueText { value: Some(text), value_base64: None },
            Err(_) => ValueText { value: None, value_base64: Some(STANDARD.encode(bytes)) },
        }
    }
}

/// Reads `value_base64` back.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

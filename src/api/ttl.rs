//! How long a put is to hold, as clients say it.

use http::HeaderValue;

use super::failure::Invalid;
use super::query::{number_and_unit, shortened};
use crate::types::MAX_TTL_MS;

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Of a header.
pub fn of_header(value: &HeaderValue) -> Result<u64, Invalid> {
    let text = value.to_str().unwrap_or("bytes that are no ASCII");
    parse(text).map_err(|problem| Invalid::Header { name: "Quorate-Ttl", problem })
}

/// In milliseconds; an error says what was wrong and what is expected.
pub fn parse(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text);
    let millis = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis);
    let ttl_ms = millis.zip(number.parse::<u64>().ok()).and_then(|(a, b)| a.checked_mul(b));
    ttl_ms.filter(|ttl_ms| (1..=MAX_TTL_MS).contains(ttl_ms)).ok_or_else(|| {
        format!(
            "'{}': expected a time such as 500ms, 30s, 10m, 2h or 7d, at most {}d",
            shortened(text),
            MAX_TTL_MS / 86_400_000
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_number_and_a_unit_and_bounds() {
        let good = [("500ms", 500), ("30s", 30_000), ("10m", 600_000), ("2h", 7_200_000)];
        for (text, ttl_ms) in good.into_iter().chain([("7d", 604_800_000), ("3650d", MAX_TTL_MS)]) {
            assert_eq!(parse(text), Ok(ttl_ms), "{text}");
        }
        let overflow = format!("{}d", u64::MAX);
        for text in [
            "",
            "30",
            "s",
            "0s",
            "-1s",
            "+1s",
            "1.5s",
            "3651d",
            "1w",
            "1 s",
            "\u{0661}s",
            &overflow,
        ] {
            let problem = parse(text).expect_err(text);
            assert!(problem.contains("such as 500ms") && problem.contains("3650d"), "{problem}");
        }
    }
}

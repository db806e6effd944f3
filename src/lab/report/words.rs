//! Numbers in words: three significant digits and a unit that a person reads without counting zeros.

/// `1,234`.
pub fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// About three significant digits: `0.012`, `1.23`, `12.3`, `12,346`; whole numbers stay whole.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size.fract() == 0.0 => whole(value.round() as u64),
        size if size < 0.001 => "under 0.001".to_owned(),
        size if size < 0.01 => format!("{value:.4}"),
        size if size < 0.1 => format!("{value:.3}"),
        // The bounds are where rounding would add a digit: 9.996 is 10.0 and not 10.00.
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => whole(value.round() as u64),
    }
}

/// A length of time given in microseconds: `85 µs`, `1.24 ms`, `1.30 s`.
pub fn time_us(time_us: f64) -> String {
    if time_us < 1e3 {
        format!("{} µs", number(time_us.round()))
    } else if time_us < 1e6 {
        format!("{} ms", number(time_us / 1e3))
    } else {
        format!("{} s", number(time_us / 1e6))
    }
}

/// A length of time given in milliseconds.
pub fn time_ms(time_ms: f64) -> String {
    self::time_us(time_ms * 1e3)
}

/// `1,234 a second`.
pub fn rate(per_second: f64) -> String {
    format!("{} a second", number(per_second))
}

/// `256 B`, `1.21 KiB`, `34.0 MiB`.
pub fn bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{} B", number(value)) } else { format!("{value:.2} {}", units[unit]) }
}

/// `10.6 %`; never rounds something down to nothing, or up to everything.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        100.0 => "100 %".to_owned(),
        tiny if tiny < 0.1 => "under 0.1 %".to_owned(),
        percent => format!("{:.1} %", percent.min(99.9)),
    }
}

/// `1 request`, `2 requests`, `no requests`.
pub fn count(number: u64, one: &str) -> String {
    match number {
        0 => format!("no {one}s"),
        1 => format!("1 {one}"),
        many => format!("{} {one}s", whole(many)),
    }
}

/// How the second compares with the first: `1.80 ×`; absent where that means nothing.
pub fn ratio(first: f64, second: f64) -> Option<String> {
    (first > 0.0 && second.is_finite()).then(|| format!("{} ×", number(second / first)))
}

/// A day and time of UTC, from milliseconds since 1970.
pub fn when(wall_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(wall_ms);
    httpdate::fmt_http_date(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_at_every_size() {
        assert_eq!([0, 7, 999, 1_000, 1_234_567].map(whole).join(" "), "0 7 999 1,000 1,234,567");
        assert_eq!([9.996, 99.96, 10.0].map(number).join(" "), "10.0 100 10");
        let numbers = [0.0, 0.0001, 0.0012, 0.0123, 0.5, 1.234, 12.34, 123.4, 12_345.6];
        assert_eq!(
            numbers.map(number).join(" | "),
            "0 | under 0.001 | 0.0012 | 0.012 | 0.50 | 1.23 | 12.3 | 123 | 12,346"
        );
        assert_eq!(
            [85.0, 1_240.0, 12_400.0, 1_300_000.0].map(time_us).join(" | "),
            "85 µs | 1.24 ms | 12.4 ms | 1.30 s"
        );
        assert_eq!([256.0, 1_240.0].map(bytes).join(" | "), "256 B | 1.21 KiB");
    }

    #[test]
    fn a_small_share_is_never_shown_as_none_nor_a_large_one_as_all() {
        assert_eq!(
            [0.0, 0.000_1, 0.106, 0.999_9, 1.0].map(percent).join(" | "),
            "0 % | under 0.1 % | 10.6 % | 99.9 % | 100 %"
        );
        assert_eq!(count(0, "read") + ", " + &count(1, "read"), "no reads, 1 read");
        assert_eq!(ratio(2.0, 3.0).as_deref(), Some("1.50 ×"));
        assert_eq!(ratio(0.0, 3.0), None);
    }
}

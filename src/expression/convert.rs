//! Conversions of single values on which engines disagree, shared by all evaluators.
//!
//! They convert text to numbers and times, and money, doubles and dates to text. A value that cannot be
//! converted becomes null.

use crate::money::Scale;
use crate::time::{Instant, parse_naive};

/// Parses a decimal integer with an optional sign. Spaces around it are ignored.
pub fn text_to_integer(text: &str) -> Option<i64> {
    text.trim_matches(' ').parse().ok()
}

/// Parses a finite decimal number. Spaces around it are ignored.
pub fn text_to_double(text: &str) -> Option<f64> {
    let text = text.trim_matches(' ');
    // Rust also parses `inf`, `nan` and `infinity`. Here a number contains only digits, signs, a point and an
    // exponent.
    let numeric =
        text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
    text.parse().ok().filter(|value: &f64| numeric && value.is_finite())
}

/// Parses a decimal amount in major units into minor units, without a binary fraction in between.
///
/// Decimal places beyond the scale are rounded half away from zero.
pub fn text_to_money(text: &str, scale: Scale) -> Option<i64> {
    let text = text.trim_matches(' ');
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let places = usize::from(scale.places());
    let kept: String = fraction.chars().chain(std::iter::repeat('0')).take(places).collect();
    let up = i64::from(fraction.as_bytes().get(places).is_some_and(|digit| *digit >= b'5'));
    let minor: i64 = format!("0{whole}{kept}").parse().ok()?;
    let minor = minor.checked_add(up).filter(|minor| *minor < 10_i64.pow(18))?;
    Some(if negative { -minor } else { minor })
}

/// Parses a timestamp into UTC microseconds since 1970-01-01T00:00:00Z.
///
/// The text is RFC 3339, a date, or a date and time without a zone, which is taken as UTC.
pub fn text_to_timestamp(text: &str) -> Option<i64> {
    let text = text.trim_matches(' ');
    text.parse::<Instant>().ok().or_else(|| parse_naive(text)).map(|instant| instant.0)
}

/// Parses a text by a format of chrono's strftime into UTC microseconds since 1970-01-01T00:00:00Z.
///
/// A format without a zone means UTC, and one without a time of day means midnight.
pub fn text_to_timestamp_by(text: &str, format: &str) -> Option<i64> {
    use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
    let text = text.trim_matches(' ');
    let zoned = DateTime::parse_from_str(text, format).ok().map(|time| time.timestamp_micros());
    let naive = || NaiveDateTime::parse_from_str(text, format).ok();
    let day = || Some(NaiveDate::parse_from_str(text, format).ok()?.and_time(NaiveTime::MIN));
    zoned.or_else(|| Some(naive().or_else(day)?.and_utc().timestamp_micros()))
}

/// Whether a text is a format of chrono's strftime.
pub fn is_timestamp_format(format: &str) -> bool {
    use chrono::format::{Item, StrftimeItems};
    let mut items = StrftimeItems::new(format).peekable();
    items.peek().is_some() && items.all(|item| item != Item::Error)
}

/// The number of microseconds in a unit of [`Function::ToTimestamp`](super::Function::ToTimestamp).
pub fn unit_to_micros(unit: &str) -> Option<i64> {
    match unit {
        "s" => Some(1_000_000),
        "ms" => Some(1_000),
        "us" => Some(1),
        _ => None,
    }
}

/// Converts a number of units since 1970-01-01T00:00:00Z to microseconds, rounded to the nearest one.
pub fn double_to_timestamp(value: f64, micros: i64) -> Option<i64> {
    double_to_integer((value * micros as f64).round())
}

/// Parses a date such as `2024-07-01` into days since 1970-01-01.
pub fn text_to_date(text: &str) -> Option<i32> {
    let date: chrono::NaiveDate = text.trim_matches(' ').parse().ok()?;
    Some(date.signed_duration_since(chrono::NaiveDate::from_ymd_opt(1970, 1, 1)?).num_days() as i32)
}

/// Parses `true` or `false`. Letter case and spaces around the word are ignored.
pub fn text_to_boolean(text: &str) -> Option<bool> {
    match text.trim_matches(' ').to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Formats a double as the shortest text that parses back to the same double.
pub fn double_to_text(value: f64) -> String {
    format!("{value}")
}

/// Formats days since 1970-01-01 as a date such as `2024-07-01`.
pub fn date_to_text(days: i32) -> String {
    let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap_or_default();
    match epoch.checked_add_signed(chrono::Duration::days(i64::from(days))) {
        Some(date) => date.to_string(),
        None => days.to_string(),
    }
}

/// Returns the double if it is finite, and None otherwise.
pub fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Converts a double to a 64-bit integer, rounding toward zero. Returns None if it is out of range.
pub fn double_to_integer(value: f64) -> Option<i64> {
    (value.abs() < 9.2e18).then_some(value as i64)
}

/// The regular expression that matches the same texts as a `LIKE` pattern.
pub fn like_to_regex(pattern: &str) -> String {
    let mut regex = String::from("(?s)^");
    for c in pattern.chars() {
        match c {
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            c if c.is_alphanumeric() || c == ' ' => regex.push(c),
            c if c.is_ascii() => {
                regex.push('\\');
                regex.push(c);
            }
            c => regex.push(c),
        }
    }
    regex.push('$');
    regex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_text_is_exact() {
        let cents = Scale::default();
        for (text, minor) in
            [("0.29", 29), ("1.005", 101), ("-1.005", -101), ("12", 1200), (".5", 50)]
        {
            assert_eq!(text_to_money(text, cents), Some(minor), "{text}");
        }
        for text in ["", ".", "1e3", "1,5", "abc", "99999999999999999999"] {
            assert_eq!(text_to_money(text, cents), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_finite() {
        assert_eq!(text_to_double(" 1e3 "), Some(1000.0));
        for text in ["inf", "nan", "1e999", "x", ""] {
            assert_eq!(text_to_double(text), None, "{text}");
        }
    }
}

//! Conversions of single values that engines disagree about, so that ours are one piece of code:
//! text to numbers and times, money and doubles to text. What cannot be converted is null.

use crate::money::Scale;
use crate::time::{Instant, parse_naive};

/// A decimal integer with an optional sign, spaces around it ignored.
pub fn text_to_integer(text: &str) -> Option<i64> {
    text.trim_matches(' ').parse().ok()
}

/// A finite decimal number, spaces around it ignored.
pub fn text_to_double(text: &str) -> Option<f64> {
    let text = text.trim_matches(' ');
    // Rust also reads `inf`, `nan` and `infinity`; a number starts with a digit, sign or point.
    let numeric =
        text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
    text.parse().ok().filter(|value: &f64| numeric && value.is_finite())
}

/// A decimal amount in major units, read without going through a binary fraction; further decimal
/// places round half away from zero.
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

/// RFC 3339, a date, or date and time without a zone, which is UTC.
pub fn text_to_timestamp(text: &str) -> Option<i64> {
    let text = text.trim_matches(' ');
    text.parse::<Instant>().ok().or_else(|| parse_naive(text)).map(|instant| instant.0)
}

/// A date `2024-07-01`, as days since 1970-01-01.
pub fn text_to_date(text: &str) -> Option<i32> {
    let date: chrono::NaiveDate = text.trim_matches(' ').parse().ok()?;
    Some(date.signed_duration_since(chrono::NaiveDate::from_ymd_opt(1970, 1, 1)?).num_days() as i32)
}

/// `true` or `false` in any case.
pub fn text_to_boolean(text: &str) -> Option<bool> {
    match text.trim_matches(' ').to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// The shortest text that reads back as the same double.
pub fn double_to_text(value: f64) -> String {
    format!("{value}")
}

/// A date as `2024-07-01`.
pub fn date_to_text(days: i32) -> String {
    let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap_or_default();
    match epoch.checked_add_signed(chrono::Duration::days(i64::from(days))) {
        Some(date) => date.to_string(),
        None => days.to_string(),
    }
}

/// A finite double, or null.
pub fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// A double as a 64-bit integer, rounded toward zero; null outside the range.
pub fn double_to_integer(value: f64) -> Option<i64> {
    (value.abs() < 9.2e18).then_some(value as i64)
}

/// The regular expression that matches what a `LIKE` pattern matches.
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

//! Instants, durations and calendar days. An instant is always in UTC microseconds since 1970. A calendar day
//! is a day of the project's time zone.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The number of microseconds in a day of 24 hours.
pub const DAY: i64 = 86_400_000_000;

/// An instant in UTC, in microseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(inline, extend("examples" = ["2024-07-01", "2024-07-01T06:00:00Z"]))]
pub struct Instant(pub i64);

impl Instant {
    /// The instant that is `duration` later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.0))
    }

    /// The instant that is `duration` earlier.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.0))
    }

    /// The number of days of 24 hours from `earlier` to this instant.
    pub fn days_since(self, earlier: i64) -> f64 {
        (self.0 as i128 - earlier as i128) as f64 / DAY as f64
    }

    /// The instant as the name of a folder in the store: the date alone at midnight, otherwise the date and
    /// the time without colons.
    pub fn folder(self) -> String {
        let text = self.to_string();
        match text.strip_suffix("T00:00:00Z") {
            Some(date) => date.to_owned(),
            None => text.replace(':', ""),
        }
    }

    /// Parses the folder name that [`Instant::folder`] gives.
    pub fn from_folder(folder: &str) -> Option<Self> {
        folder.parse().ok().or_else(|| {
            let (date, time) = folder.split_once('T')?;
            let time = time.strip_suffix('Z')?;
            let (whole, fraction) = time.split_at_checked(6)?;
            let parts = [whole.get(0..2)?, whole.get(2..4)?, whole.get(4..6)?];
            format!("{date}T{}{fraction}Z", parts.join(":")).parse().ok()
        })
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Instant {
    type Err = String;

    /// Parses RFC 3339 with a zone, or a date, which means midnight UTC.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(date) = text.parse::<NaiveDate>() {
            return Ok(Self(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros()));
        }
        DateTime::parse_from_rfc3339(text).map(|time| Self(time.timestamp_micros())).map_err(|_| {
            format!("`{text}` is neither a date (2024-07-01) nor RFC 3339 (2024-07-01T06:00:00Z)")
        })
    }
}

impl TryFrom<String> for Instant {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Instant> for String {
    fn from(instant: Instant) -> String {
        instant.to_string()
    }
}

/// A length of time in microseconds, written as `30d`, `12h`, `45m` or `10s`. A day has 24 hours.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(inline, extend("pattern" = "^[0-9]+[dhms]$", "examples" = ["30d", "12h"]))]
pub struct Duration(pub i64);

impl Duration {
    /// A whole number of days.
    pub const fn days(days: i64) -> Self {
        Self(days * DAY)
    }

    /// The length in days.
    pub fn as_days(self) -> f64 {
        self.0 as f64 / DAY as f64
    }

    /// The sum of two lengths.
    pub fn plus(self, other: Duration) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, letter) in [(DAY, 'd'), (3_600_000_000, 'h'), (60_000_000, 'm')] {
            if self.0 % unit == 0 {
                return write!(f, "{}{letter}", self.0 / unit);
            }
        }
        write!(f, "{}s", self.0 / 1_000_000)
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("`{text}` is not a duration such as 30d, 12h, 45m or 10s");
        let split = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
        let (number, unit) = text.split_at(split);
        let unit = match unit {
            "d" => DAY,
            "h" => 3_600_000_000,
            "m" => 60_000_000,
            "s" => 1_000_000,
            _ => return Err(invalid()),
        };
        let number: i64 = number.parse().map_err(|_| invalid())?;
        match number.checked_mul(unit) {
            Some(length) if (0..=100_000 * DAY).contains(&length) => Ok(Self(length)),
            _ => Err(format!("the duration `{text}` is not between 0 and 100000 days")),
        }
    }
}

impl TryFrom<String> for Duration {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> String {
        duration.to_string()
    }
}

/// A time window `[as_of - length, as_of)`, or the whole history before the as-of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(inline, extend("pattern" = "^([0-9]+[dhms]|lifetime)$", "examples" = ["90d", "lifetime"]))]
pub enum Window {
    /// The trailing window of this length.
    Trailing(Duration),
    /// The whole history before the as-of.
    Lifetime,
}

impl Window {
    /// The first instant inside the window that ends at `as_of`.
    pub fn start(self, as_of: Instant) -> Instant {
        match self {
            Self::Trailing(length) => as_of.minus(length),
            Self::Lifetime => Instant(i64::MIN),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trailing(length) => length.fmt(f),
            Self::Lifetime => f.write_str("lifetime"),
        }
    }
}

impl TryFrom<String> for Window {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "lifetime" => Ok(Self::Lifetime),
            _ => match text.parse().map_err(|error: String| format!("{error}, or lifetime"))? {
                Duration(0) => Err("a window of no length has no events".into()),
                length => Ok(Self::Trailing(length)),
            },
        }
    }
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        window.to_string()
    }
}

/// The time zone that defines calendar days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(inline, extend("examples" = ["UTC", "Europe/Berlin"]))]
pub struct Zone(Tz);

/// Computes the calendar days of a sequence of instants.
#[derive(Debug)]
pub struct Days {
    zone: Zone,
    /// The latest day that was computed. It is kept only in UTC, where all days have the same length.
    latest: Option<i32>,
}

impl Days {
    /// The day of an instant, equal to [`Zone::day`].
    pub fn of(&mut self, micros: i64) -> i32 {
        if let Some(latest) = self.latest
            && (0..DAY).contains(&micros.wrapping_sub(i64::from(latest).wrapping_mul(DAY)))
        {
            return latest;
        }
        let day = self.zone.day(micros);
        self.latest = (self.zone.0 == Tz::UTC).then_some(day);
        day
    }
}

impl Zone {
    /// Returns a faster [`Zone::day`] for many instants that mostly lie close together.
    pub fn days(self) -> Days {
        Days { zone: self, latest: None }
    }

    /// The number of days since 1970-01-01 on this zone's calendar at a UTC instant in microseconds.
    pub fn day(self, micros: i64) -> i32 {
        let offset = if self.0 == Tz::UTC {
            0
        } else {
            DateTime::<Utc>::from_timestamp_micros(micros).map_or(0, |time| {
                i64::from(
                    self.0.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc(),
                )
            })
        };
        (micros.saturating_add(offset * 1_000_000)).div_euclid(DAY) as i32
    }

    /// The calendar month in this zone at a UTC instant in microseconds, as `2024-07`.
    pub fn month(self, micros: i64) -> String {
        self.date(Instant(micros)).format("%Y-%m").to_string()
    }

    /// Converts a local time in microseconds to a UTC instant. A local time that occurs twice because clocks
    /// are set back gives the earlier instant. A local time that clocks skip gives None.
    pub fn utc(self, local: i64) -> Option<i64> {
        if self.0 == Tz::UTC {
            return Some(local);
        }
        let naive = DateTime::<Utc>::from_timestamp_micros(local)?.naive_utc();
        self.0.from_local_datetime(&naive).earliest().map(|time| time.timestamp_micros())
    }

    /// The calendar date in this zone at a UTC instant.
    pub fn date(self, instant: Instant) -> NaiveDate {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap_or_default();
        epoch + chrono::Duration::days(i64::from(self.day(instant.0)))
    }

    /// The zone's IANA name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(Tz::UTC)
    }
}

impl TryFrom<String> for Zone {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("`{text}` is not an IANA time zone such as Europe/Berlin or America/New_York")
        })
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> String {
        zone.name().to_owned()
    }
}

/// The number of completed years from a birth date to a day. It is negative if the day is before the birth
/// date.
pub fn completed_years(birth: NaiveDate, day: NaiveDate) -> i32 {
    let before_birthday = (day.month(), day.day()) < (birth.month(), birth.day());
    day.year() - birth.year() - i32::from(before_birthday)
}

/// Parses a timestamp literal without a zone, such as `2024-07-01 12:30:00`, as UTC.
pub fn parse_naive(text: &str) -> Option<Instant> {
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"].iter().find_map(|format| {
        let time = NaiveDateTime::parse_from_str(text, format).ok()?;
        Some(Instant(time.and_utc().timestamp_micros()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_read_back() {
        for text in ["2024-07-01", "2024-07-01T06:30:00Z", "2024-07-01T06:30:00.250Z"] {
            let instant: Instant = text.parse().unwrap();
            assert_eq!(Instant::from_folder(&instant.folder()), Some(instant));
        }
    }

    #[test]
    fn the_days_of_the_extremes_are_computed() {
        let ends = [i64::MIN, i64::MIN + 1, -1, 0, 1, DAY - 1, DAY, i64::MAX - 1, i64::MAX];
        for zone in ["UTC", "Asia/Kolkata"] {
            let zone = Zone::try_from(zone.to_owned()).unwrap();
            let mut days = zone.days();
            for micros in ends.into_iter().flat_map(|at| [at, at]) {
                assert_eq!(days.of(micros), zone.day(micros), "{micros} in {zone:?}");
            }
        }
    }

    #[test]
    fn instants_read_dates_and_rfc3339() {
        assert_eq!("1970-01-02".parse::<Instant>().unwrap().0, DAY);
        assert_eq!("1970-01-01T01:00:00+01:00".parse::<Instant>().unwrap().0, 0);
        assert!("2024-07-01T00:00:00".parse::<Instant>().is_err(), "a zone is required");
        assert_eq!("2024-07-01".parse::<Instant>().unwrap().folder(), "2024-07-01");
        let morning: Instant = "2024-07-01T06:30:00Z".parse().unwrap();
        assert_eq!(morning.folder(), "2024-07-01T063000Z");
    }

    #[test]
    fn durations_round_trip() {
        for text in ["30d", "12h", "45m", "10s"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        for text in ["", "d", "30", "30w", "-1d", "999999999d", "3é"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn calendar_days_follow_the_zone() {
        let berlin = Zone::try_from("Europe/Berlin".to_owned()).unwrap();
        let late: Instant = "2024-06-30T22:30:00Z".parse().unwrap();
        assert_eq!(berlin.date(late).to_string(), "2024-07-01");
        assert_eq!(Zone::default().date(late).to_string(), "2024-06-30");
        assert_eq!(Zone::default().day(-1), -1);
    }

    #[test]
    fn completed_years_counts_birthdays() {
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        assert_eq!(completed_years(date("2000-07-02"), date("2024-07-01")), 23);
        assert_eq!(completed_years(date("2000-07-01"), date("2024-07-01")), 24);
    }
}

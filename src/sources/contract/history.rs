//! The distribution of events over time.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, PrimitiveArray, StringArray};
use serde::{Deserialize, Serialize};

use crate::sources::scan::Scanned;
use crate::time::{DAY, Instant};

/// The maximum number of points in a time series of events.
const POINTS: i64 = 400;
/// The number of event types with a time series of their own. All other types share one.
const SERIES: usize = 8;

/// The distribution of events over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// The time of the first event.
    pub first: Instant,
    /// The time of the last event.
    #[serde(default)]
    pub last: Option<Instant>,
    /// The 95th percentile of the number of days from one day with events to the next.
    #[serde(default)]
    pub usual_gap: i64,
    /// The start of the time series: a midnight in UTC at or before the first event.
    ///
    /// It is a whole number of steps before the end of the time series, which is the first midnight in UTC at
    /// or after the instant for which the history was computed.
    pub from: Instant,
    /// The number of days per point.
    pub step: i64,
    /// The number of events per point for each event type, the most frequent types first. Rarer types are
    /// summed as `other`.
    pub events: Vec<(String, Vec<u64>)>,
}

impl History {
    /// Describes the events of `days`, which all lie before `at`. Returns None if there are no events.
    pub fn of(days: &Days, at: Instant) -> Option<Self> {
        let all = || days.0.iter().flat_map(|(ty, days)| days.iter().map(move |day| (ty, day)));
        let first = all().map(|(_, (_, day))| day.first).min()?;
        let last = all().map(|(_, (_, day))| day.last).max().map(Instant);
        let with_events: BTreeSet<i64> = all().map(|(_, (day, _))| *day).collect();
        // The series end at the instant itself, not at the last event, which would hide an outage. The steps
        // are aligned with this end, because a partial last point would look like a decline.
        let end = (at.0 - 1).div_euclid(DAY) + 1;
        let step = (end - with_events.first()? + POINTS - 1) / POINTS;
        let points = (end - with_events.first()? + step - 1) / step;
        let from = end - points * step;
        let total = |days: &BTreeMap<i64, Day>| days.values().map(|day| day.events).sum::<u64>();
        let mut order: Vec<(&str, u64)> =
            days.0.iter().map(|(ty, days)| (ty.as_str(), total(days))).collect();
        order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let mut names: Vec<&str> = order.iter().map(|(ty, _)| *ty).take(SERIES).collect();
        if order.len() > SERIES {
            names.push("other");
        }
        let mut events: Vec<(String, Vec<u64>)> =
            names.iter().map(|name| ((*name).to_owned(), vec![0; points as usize])).collect();
        for (ty, (day, found)) in all() {
            let series = names.iter().position(|name| name == ty).unwrap_or(names.len() - 1);
            events[series].1[((day - from) / step) as usize] += found.events;
        }
        let (first, from) = (Instant(first), Instant(from * DAY));
        Some(Self { first, last, usual_gap: usual_gap(&with_events), from, step, events })
    }
}

/// The 95th percentile of the number of days from one day with events to the next. It is 1 if there is only
/// one day.
fn usual_gap(days: &BTreeSet<i64>) -> i64 {
    let mut gaps: Vec<i64> = days.iter().zip(days.iter().skip(1)).map(|(a, b)| b - a).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() * 19 / 20).or(gaps.last()).copied().unwrap_or(1)
}

/// The events of one type on one day, with the times of the first and the last of them in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Day {
    first: i64,
    last: i64,
    events: u64,
}

/// Usable events, counted by type and by day in UTC. An event is usable if a build can read it, that is, if
/// all required columns have values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Days(BTreeMap<String, BTreeMap<i64, Day>>);

impl Days {
    /// Counts the usable events of a batch that happened before `at` and were ingested before `known_at`.
    pub fn add_batch(&mut self, scanned: &Scanned, at: Instant, known_at: Instant) {
        let (types, times) = (texts(scanned, "event_type"), times(scanned, "event_ts"));
        let ingested = ingested(scanned);
        let required = ["customer360_id", "event_id"].map(|name| scanned.column(name));
        let mut found: hashbrown::HashMap<(&str, i64), Day> = hashbrown::HashMap::new();
        for row in 0..scanned.rows.num_rows() {
            let is_known = ingested
                .is_none_or(|ingested| ingested.is_null(row) || ingested.value(row) < known_at.0);
            let has_key = required.iter().all(|column| column.is_valid(row));
            if !is_known || !has_key || types.is_null(row) || times.is_null(row) {
                continue;
            }
            let time = times.value(row);
            if time < at.0 {
                let day = (types.value(row), time.div_euclid(DAY));
                let new = Day { first: time, last: time, events: 1 };
                found.entry(day).and_modify(|day| day.add(new)).or_insert(new);
            }
        }
        for ((ty, day), found) in found {
            self.of_type(ty).entry(day).and_modify(|day| day.add(found)).or_insert(found);
        }
    }

    /// Adds other events.
    pub fn add(&mut self, other: &Self) {
        for (ty, days) in &other.0 {
            let own = self.of_type(ty);
            for (day, found) in days {
                own.entry(*day).and_modify(|day| day.add(*found)).or_insert(*found);
            }
        }
    }

    fn of_type(&mut self, ty: &str) -> &mut BTreeMap<i64, Day> {
        self.0.entry(ty.to_owned()).or_default()
    }
}

impl Day {
    fn add(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.events += other.events;
    }
}

/// The column `ingested_at`, if it was read.
pub fn ingested(scanned: &Scanned) -> Option<&PrimitiveArray<TimestampMicrosecondType>> {
    scanned.rows.column_by_name("ingested_at").map(|column| column.as_primitive())
}

/// A column of instants.
pub fn times<'a>(scanned: &'a Scanned, name: &str) -> &'a PrimitiveArray<TimestampMicrosecondType> {
    scanned.column(name).as_primitive()
}

/// A column of texts.
pub fn texts<'a>(scanned: &'a Scanned, name: &str) -> &'a StringArray {
    scanned.column(name).as_string()
}

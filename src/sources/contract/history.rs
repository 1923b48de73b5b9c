//! The distribution of events over time.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, PrimitiveArray, StringArray};
use hashbrown::HashMap;
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
        let all =
            || days.types.iter().flat_map(|(ty, days)| days.0.iter().map(move |day| (ty, day)));
        let (first, last) = (days.first?, days.last.map(Instant));
        let with_events: BTreeSet<i64> = all().map(|(_, (day, _))| *day).collect();
        // The series end at the instant itself, not at the last event, which would hide an outage. The steps
        // are aligned with this end, because a partial last point would look like a decline.
        let end = (at.0 - 1).div_euclid(DAY) + 1;
        let step = (end - with_events.first()? + POINTS - 1) / POINTS;
        let points = (end - with_events.first()? + step - 1) / step;
        let from = end - points * step;
        let total = |days: &Counts| days.0.iter().map(|(_, events)| events).sum::<u64>();
        let mut order: Vec<(&str, u64)> =
            days.types.iter().map(|(ty, days)| (ty.as_str(), total(days))).collect();
        order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let mut names: Vec<&str> = order.iter().map(|(ty, _)| *ty).take(SERIES).collect();
        if order.len() > SERIES {
            names.push("other");
        }
        let mut events: Vec<(String, Vec<u64>)> =
            names.iter().map(|name| ((*name).to_owned(), vec![0; points as usize])).collect();
        for (ty, (day, count)) in all() {
            let series = names.iter().position(|name| name == ty).unwrap_or(names.len() - 1);
            events[series].1[((day - from) / step) as usize] += count;
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

/// Days in UTC, in ascending order, with the number of events on each. They are stored as runs of consecutive
/// days.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Run>", into = "Vec<Run>")]
struct Counts(Vec<(i64, u64)>);

/// The first of some consecutive days, and the number of events on each of them.
type Run = (i64, Vec<u64>);

impl From<Vec<Run>> for Counts {
    fn from(runs: Vec<Run>) -> Self {
        Self(runs.into_iter().flat_map(|(first, counts)| (first..).zip(counts)).collect())
    }
}

impl From<Counts> for Vec<Run> {
    fn from(Counts(days): Counts) -> Self {
        let mut runs: Self = Vec::new();
        for (day, count) in days {
            match runs.last_mut() {
                Some((first, counts)) if *first + counts.len() as i64 == day => counts.push(count),
                _ => runs.push((day, vec![count])),
            }
        }
        runs
    }
}

impl Counts {
    /// Adds other days, which are in ascending order.
    fn add(&mut self, other: &[(i64, u64)]) {
        let mut all = Vec::with_capacity(self.0.len().max(other.len()));
        let (mut own, mut more) = (self.0.iter().peekable(), other.iter().peekable());
        while let Some(day) = own.peek().into_iter().chain(more.peek()).map(|(day, _)| *day).min() {
            let counts = [own.next_if(|next| next.0 == day), more.next_if(|next| next.0 == day)];
            all.push((day, counts.into_iter().flatten().map(|(_, count)| count).sum()));
        }
        self.0 = all;
    }
}

/// Usable events, counted by type and by day. An event is usable if a build can read it, that is, if all
/// required columns have values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Days {
    /// The times of the first and of the last event, in microseconds.
    first: Option<i64>,
    last: Option<i64>,
    types: BTreeMap<String, Counts>,
}

impl Days {
    /// Counts the usable events of a batch that happened before `at` and were ingested before `known_at`.
    pub fn add_batch(&mut self, scanned: &Scanned, at: Instant, known_at: Instant) {
        let (types, times) = (texts(scanned, "event_type"), times(scanned, "event_ts"));
        let ingested = ingested(scanned);
        let required = ["customer360_id", "event_id"].map(|name| scanned.column(name));
        let mut found: HashMap<(&str, i64), u64> = HashMap::new();
        for row in 0..scanned.rows.num_rows() {
            let is_known = ingested
                .is_none_or(|ingested| ingested.is_null(row) || ingested.value(row) < known_at.0);
            let has_key = required.iter().all(|column| column.is_valid(row));
            if !is_known || !has_key || types.is_null(row) || times.is_null(row) {
                continue;
            }
            let time = times.value(row);
            if time < at.0 {
                *found.entry((types.value(row), time.div_euclid(DAY))).or_default() += 1;
                self.first = Some(self.first.map_or(time, |first| first.min(time)));
                self.last = self.last.max(Some(time));
            }
        }
        let mut found: Vec<((&str, i64), u64)> = found.into_iter().collect();
        found.sort_unstable();
        for of_type in found.chunk_by(|a, b| a.0.0 == b.0.0) {
            let days: Vec<(i64, u64)> = of_type.iter().map(|((_, day), n)| (*day, *n)).collect();
            self.types.entry(of_type[0].0.0.to_owned()).or_default().add(&days);
        }
    }

    /// Adds other events.
    pub fn add(&mut self, other: &Self) {
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
        for (ty, days) in &other.types {
            self.types.entry(ty.clone()).or_default().add(&days.0);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_survive_json() {
        let mut counts = Counts(vec![(-1, 2), (0, 1), (7, 3)]);
        counts.add(&[(-9, 1), (0, 4), (1, 5)]);
        assert_eq!(counts.0, [(-9, 1), (-1, 2), (0, 5), (1, 5), (7, 3)]);
        let text = serde_json::to_string(&counts).unwrap();
        assert_eq!(text, "[[-9,[1]],[-1,[2,5,5]],[7,[3]]]");
        assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), counts);
    }
}

//! The customers of each segment as a marketer sees them: what they are worth, and what they have in common.
//!
//! The numbers come from the written profile, so that they are those that anybody can count again.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::segments::Assigned;
use crate::sources::consent::Consent;
use crate::sum::ExactSum;
use crate::time::{DAY, Instant};

/// The numeric profile fields that describe a segment.
const NUMBERS: [&str; 4] = ["orders_count", "total_revenue", "lifetime_value", "engagement_score"];
/// The number beside these that is computed from a profile field: the days since `last_purchase_at`.
pub const SINCE_PURCHASE: &str = "days_since_last_purchase";
/// The profile fields whose most frequent value describes a segment.
const LEVELS: [&str; 3] = ["country", "preferred_channel", "loyalty_tier"];

/// The customers of one segment, or all customers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audience {
    /// The name of the segment; `None` for all customers.
    pub segment: Option<String>,
    /// The description of the segment, from its rule.
    pub description: String,
    /// The number of customers.
    pub customers: usize,
    /// The number of those who have opted out of being contacted.
    pub opted_out: usize,
    /// The number of those who have opted in.
    pub opted_in: usize,
    /// The numbers that describe them, by profile field. A field that no customer has a value for is left out.
    pub numbers: BTreeMap<String, Summary>,
    /// The most frequent value of each of some fields. A field that no customer has a value for is left out.
    pub common: BTreeMap<String, Common>,
}

/// The sum of a number over the customers who have it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The number of customers who have a value.
    pub known: usize,
    /// The sum of their values.
    pub total: f64,
}

impl Audience {
    /// The number of those whose consent is not known.
    pub fn unknown(&self) -> usize {
        self.customers - self.opted_in - self.opted_out
    }
}

impl Summary {
    /// The mean of the customers who have a value.
    pub fn mean(&self) -> f64 {
        self.total / self.known as f64
    }
}

/// The most frequent value of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// The value. Among equally frequent ones it is the first by name.
    pub value: String,
    /// The number of customers who have it.
    pub customers: usize,
    /// The number of customers who have any value.
    pub known: usize,
}

/// Sums over the customers of each segment, and over all customers. Sums of different shards can be added.
#[derive(Debug, Clone, Default)]
pub struct AudienceCounts {
    /// All customers, and then the segments in the order of the rules.
    counts: Vec<Counts>,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    customers: usize,
    opted_out: usize,
    opted_in: usize,
    numbers: BTreeMap<&'static str, (usize, ExactSum)>,
    levels: BTreeMap<&'static str, BTreeMap<String, usize>>,
}

impl AudienceCounts {
    /// Counts the customers of a shard. `profile` has their written rows, in the order of `assigned`.
    pub fn of(
        segments: &[&str],
        assigned: &[Assigned],
        profile: &RecordBatch,
        consent: &Consent,
        as_of: Instant,
    ) -> Result<Self> {
        let places: BTreeMap<&str, usize> =
            segments.iter().enumerate().map(|(i, name)| (*name, i + 1)).collect();
        let of_row = |assigned: &Assigned| -> Vec<usize> {
            let own = assigned.memberships.iter().map(|m| m.segment.as_str());
            let own = own.chain([assigned.primary.as_str()]).filter_map(|name| places.get(name));
            let mut own: Vec<usize> = std::iter::once(0).chain(own.copied()).collect();
            own.sort_unstable();
            own.dedup();
            own
        };
        let places: Vec<Vec<usize>> = assigned.iter().map(of_row).collect();
        let mut counts = vec![Counts::default(); segments.len() + 1];
        for (row, places) in places.iter().enumerate() {
            for place in places {
                counts[*place].customers += 1;
                counts[*place].opted_out += usize::from(consent.opted_out(row));
                counts[*place].opted_in += usize::from(consent.opted_in(row));
            }
        }
        for (name, values) in numbers(profile, as_of)? {
            for (row, value) in values.into_iter().enumerate() {
                let Some(value) = value else { continue };
                for place in &places[row] {
                    let (known, sum) = counts[*place].numbers.entry(name).or_default();
                    *known += 1;
                    sum.add(value);
                }
            }
        }
        for name in LEVELS {
            let column = profile.column_by_name(name);
            let Some(column) = column.and_then(|column| column.as_string_opt::<i32>()) else {
                continue;
            };
            for (row, level) in column.iter().enumerate() {
                let Some(level) = level else { continue };
                for place in &places[row] {
                    let levels = counts[*place].levels.entry(name).or_default();
                    match levels.get_mut(level) {
                        Some(count) => *count += 1,
                        None => {
                            levels.insert(level.to_owned(), 1);
                        }
                    }
                }
            }
        }
        Ok(Self { counts })
    }

    /// Adds the counts of other customers for the same segments.
    pub fn add(&mut self, other: Self) {
        if self.counts.is_empty() {
            *self = other;
            return;
        }
        for (own, more) in self.counts.iter_mut().zip(other.counts) {
            own.customers += more.customers;
            own.opted_out += more.opted_out;
            own.opted_in += more.opted_in;
            for (name, (known, sum)) in more.numbers {
                let (own_known, own_sum) = own.numbers.entry(name).or_default();
                *own_known += known;
                own_sum.merge(&sum);
            }
            for (name, levels) in more.levels {
                let own = own.levels.entry(name).or_default();
                levels.into_iter().for_each(|(level, n)| *own.entry(level).or_default() += n);
            }
        }
    }

    /// All customers, and then the segments, given with their names and descriptions in the order of the rules.
    pub fn audiences<'a>(
        &self,
        segments: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<Audience> {
        let named = segments.into_iter().map(|(name, about)| (Some(name.to_owned()), about));
        let named = std::iter::once((None, "")).chain(named);
        named
            .zip(&self.counts)
            .map(|((segment, about), counts)| counts.audience(segment, about))
            .collect()
    }
}

impl Counts {
    fn audience(&self, segment: Option<String>, description: &str) -> Audience {
        let number = |(name, (known, sum)): (&&str, &(usize, ExactSum))| {
            ((*name).to_owned(), Summary { known: *known, total: sum.value() })
        };
        let most = |(name, levels): (&&str, &BTreeMap<String, usize>)| {
            let (value, customers) =
                levels.iter().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
            let (value, known) = (value.clone(), levels.values().sum());
            Some(((*name).to_owned(), Common { value, customers: *customers, known }))
        };
        Audience {
            segment,
            description: description.to_owned(),
            customers: self.customers,
            opted_out: self.opted_out,
            opted_in: self.opted_in,
            numbers: self.numbers.iter().map(number).collect(),
            common: self.levels.iter().filter_map(most).collect(),
        }
    }
}

type Numbers = Vec<(&'static str, Vec<Option<f64>>)>;

/// The numbers of each customer, by name.
fn numbers(profile: &RecordBatch, as_of: Instant) -> Result<Numbers> {
    let mut numbers = Vec::new();
    for name in NUMBERS {
        let Some(column) = profile.column_by_name(name) else { continue };
        let column = arrow_cast::cast(column, &DataType::Float64)
            .map_err(Error::engine("describing segments"))?;
        numbers.push((name, column.as_primitive::<Float64Type>().iter().collect()));
    }
    let last = profile.column_by_name("last_purchase_at");
    if let Some(last) = last.and_then(|last| last.as_primitive_opt::<TimestampMicrosecondType>()) {
        let days = |at: i64| (as_of.0 - at) as f64 / DAY as f64;
        numbers.push((SINCE_PURCHASE, last.iter().map(|at| at.map(days)).collect()));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Decimal128Array, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::segments::Membership;

    fn assigned(segments: &[&str]) -> Assigned {
        let membership = |segment: &&str| Membership {
            segment: (*segment).into(),
            rule: String::new(),
            since: Instant(0),
            reason: "enter",
        };
        Assigned {
            memberships: segments.iter().map(membership).collect(),
            primary: segments[0].into(),
            ..Assigned::default()
        }
    }

    fn profile(values: &[Option<i128>], levels: &[Option<&str>]) -> RecordBatch {
        let value = values.iter().copied().collect::<Decimal128Array>();
        let value = value.with_precision_and_scale(18, 2).unwrap();
        let last: Vec<Option<i64>> =
            (0..values.len()).map(|row| (row > 0).then_some(-DAY * row as i64)).collect();
        let last = TimestampMicrosecondArray::from(last).with_timezone("UTC");
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("lifetime_value", Arc::new(value)),
            ("country", Arc::new(StringArray::from(levels.to_vec()))),
            ("opt_in_status", Arc::new(StringArray::from(vec!["opted_out"; values.len()]))),
            ("last_purchase_at", Arc::new(last)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// A member counts once in each of their segments, and counts of shards add up to the counts of all.
    #[test]
    fn audiences_are_counted_once_and_add_up() {
        let customers = [assigned(&["a"]), assigned(&["a", "b"]), assigned(&["b"])];
        let (values, levels) =
            ([Some(1000), None, Some(250)], [Some("DE"), Some("AT"), Some("AT")]);
        let rows = profile(&values, &levels);
        let all =
            AudienceCounts::of(&["a", "b"], &customers, &rows, &Consent::of(&rows), Instant(0))
                .unwrap();
        let mut parts = AudienceCounts::default();
        for part in [0..1, 1..3] {
            let rows = rows.slice(part.start, part.len());
            let consent = Consent::of(&rows);
            let counts =
                AudienceCounts::of(&["a", "b"], &customers[part], &rows, &consent, Instant(0));
            parts.add(counts.unwrap());
        }
        let named = [("a", "the a"), ("b", "")];
        let audiences = all.audiences(named);
        assert_eq!(parts.audiences(named), audiences);
        let [everyone, a, b] = &audiences[..] else { panic!("{audiences:?}") };
        assert_eq!((everyone.customers, a.customers, b.customers), (3, 2, 2));
        assert_eq!((everyone.opted_out, a.opted_out), (3, 2));
        assert_eq!((a.segment.as_deref(), a.description.as_str()), (Some("a"), "the a"));
        assert_eq!(a.numbers["lifetime_value"], Summary { known: 1, total: 10.0 });
        assert_eq!(everyone.numbers["lifetime_value"].mean(), 6.25);
        assert_eq!(b.numbers[SINCE_PURCHASE].mean(), 1.5);
        let most = &b.common["country"];
        assert_eq!((most.value.as_str(), most.customers, most.known), ("AT", 2, 2));
        assert!(!a.numbers.contains_key("orders_count"));
    }
}

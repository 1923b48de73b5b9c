//! Checking whether the columns of a snapshot meet the expectations of their view.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::DataType;
use serde::Serialize;

use super::rule::{Against, Expectation, Limit, Rule};
use crate::error::{Error, Result};
use crate::features::drift::Drift;
use crate::features::read::numeric;
use crate::sources::profile::keys;
use crate::time::Instant;

/// An expectation that is not met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Breach {
    /// The as-of of the snapshot.
    pub as_of: Instant,
    /// The name of the view.
    pub view: String,
    /// The name of the column.
    pub column: String,
    /// The expectation as text.
    pub expected: String,
    /// The value that was found instead.
    pub found: String,
    /// The number of customers for which the expectation is not met. None if it concerns the column as a
    /// whole.
    pub customers: Option<u64>,
    /// The key of one of these customers: the smallest key among nulls, or the customer with the value
    /// furthest beyond the limit.
    pub example: Option<String>,
}

/// The result of checking the expectations of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Judgement {
    /// The number of expectations that are met.
    pub held: u64,
    /// The expectations that are not met.
    pub breaches: Vec<Breach>,
    /// Descriptions of the expectations that could not be checked, with the reason.
    pub unchecked: Vec<String>,
}

impl Judgement {
    /// Adds the result for other snapshots.
    pub fn add(&mut self, other: Self) {
        self.held += other.held;
        self.breaches.extend(other.breaches);
        self.unchecked.extend(other.unchecked);
    }
}

/// The drift of columns relative to earlier data, for expectations that compare distributions.
#[derive(Debug, Default)]
pub struct Earlier {
    /// For each column, the drift since the previous snapshot and the as-of of that snapshot.
    pub previous: BTreeMap<String, (Instant, Drift)>,
    /// For each classifier, the drift of its inputs since its champion was trained.
    pub models: BTreeMap<String, Vec<Drift>>,
}

/// The counts that the expectations of a view require, in the order of the expectations. Tallies of different
/// rows add up.
#[derive(Debug, Clone)]
pub struct Tally {
    counts: Vec<Count>,
}

#[derive(Debug, Clone)]
enum Count {
    /// The number of rows without a value.
    Nulls {
        rows: u64,
        nulls: u64,
        /// The smallest key of a row without a value.
        first: Option<String>,
    },
    /// The number of values beyond a limit.
    Beyond {
        limit: f64,
        count: u64,
        /// The value furthest from the limit with the key of its customer. Among equal values it is the
        /// smallest key.
        furthest: Option<(f64, String)>,
    },
    /// Nothing is counted, because the comparison of distributions requires the rows of all shards.
    Distribution,
}

impl Tally {
    /// Counts the rows of a view.
    ///
    /// # Errors
    /// An engine error if the rows do not have a column of an expectation.
    pub fn of(expectations: &[Expectation], rows: &RecordBatch) -> Result<Self> {
        let keys = keys(rows)?;
        let count = |Expectation { column, rule }: &Expectation| {
            let array = rows.column_by_name(column).ok_or_else(|| {
                Error::engine("checking expectations")(format!("nothing computed {column}"))
            })?;
            Ok(match rule {
                Rule::NotNull | Rule::MaxNullShare(_) => nulls(keys, array),
                Rule::Min(limit) => beyond(keys, array, limit.value, |value, limit| value < limit)?,
                Rule::Max(limit) => beyond(keys, array, limit.value, |value, limit| value > limit)?,
                Rule::MaxPsi { .. } => Count::Distribution,
            })
        };
        Ok(Self { counts: expectations.iter().map(count).collect::<Result<_>>()? })
    }

    /// Adds the counts of other rows for the same expectations.
    pub fn add(&mut self, other: Self) {
        for (own, more) in self.counts.iter_mut().zip(other.counts) {
            match (own, more) {
                (
                    Count::Nulls { rows, nulls, first },
                    Count::Nulls { rows: more_rows, nulls: more_nulls, first: other },
                ) => {
                    *rows += more_rows;
                    *nulls += more_nulls;
                    *first = first.take().into_iter().chain(other).min();
                }
                (
                    Count::Beyond { limit, count, furthest },
                    Count::Beyond { count: more, furthest: other, .. },
                ) => {
                    *count += more;
                    if let Some((value, key)) = other {
                        further_out(*limit, furthest, value, &key);
                    }
                }
                (Count::Distribution, Count::Distribution) => {}
                _ => unreachable!("tallies are of the same expectations in the same order"),
            }
        }
    }
}

fn nulls(keys: &StringArray, array: &ArrayRef) -> Count {
    let first = (0..array.len()).filter(|row| array.is_null(*row)).map(|row| keys.value(row)).min();
    let (rows, nulls) = (array.len() as u64, array.null_count() as u64);
    Count::Nulls { rows, nulls, first: first.map(str::to_owned) }
}

fn beyond(
    keys: &StringArray,
    array: &ArrayRef,
    limit: f64,
    is_beyond: impl Fn(f64, f64) -> bool,
) -> Result<Count> {
    let (mut count, mut furthest) = (0, None);
    for (row, value) in numbers(array)?.into_iter().enumerate() {
        if is_beyond(value, limit) {
            count += 1;
            further_out(limit, &mut furthest, value, keys.value(row));
        }
    }
    Ok(Count::Beyond { limit, count, furthest })
}

/// Replaces the value furthest from a limit if `value` is further away, or equally far and of a smaller key.
fn further_out(limit: f64, furthest: &mut Option<(f64, String)>, value: f64, key: &str) {
    let far = (value - limit).abs();
    let is_further = furthest.as_ref().is_none_or(|(other, name)| {
        let other = (other - limit).abs();
        far > other || (far == other && key < name.as_str())
    });
    if is_further {
        *furthest = Some((value, key.to_owned()));
    }
}

/// Checks the counts of a snapshot against the expectations of its view.
pub fn judge(
    (view, expectations): (&str, &[Expectation]),
    as_of: Instant,
    tally: &Tally,
    earlier: &Earlier,
) -> Judgement {
    let mut verdict = Judgement::default();
    for (Expectation { column, rule }, count) in expectations.iter().zip(&tally.counts) {
        let found = match (rule, count) {
            (Rule::NotNull, Count::Nulls { nulls, .. }) => found_nulls(count, *nulls > 0),
            (Rule::MaxNullShare(most), Count::Nulls { rows, nulls, .. }) => {
                found_nulls(count, *nulls as f64 / *rows as f64 > *most)
            }
            (Rule::Min(limit) | Rule::Max(limit), Count::Beyond { count, furthest, .. }) => {
                furthest.as_ref().map(|(value, key)| Found {
                    found: Limit { value: *value, ..*limit }.to_string(),
                    customers: Some(*count),
                    example: Some(key.clone()),
                })
            }
            (Rule::MaxPsi { most, against }, Count::Distribution) => {
                match moved(column, against, earlier) {
                    Ok((drift, since)) => further(drift, *most, &since),
                    Err(why) => {
                        verdict.unchecked.push(format!("{column} {rule}: {why}"));
                        continue;
                    }
                }
            }
            _ => unreachable!("a tally is of the expectations that it is judged by"),
        };
        match found {
            None => verdict.held += 1,
            Some(Found { found, customers, example }) => verdict.breaches.push(Breach {
                as_of,
                view: view.to_owned(),
                column: column.clone(),
                expected: rule.to_string(),
                found,
                customers,
                example,
            }),
        }
    }
    verdict
}

/// The finding that breaks an expectation.
struct Found {
    found: String,
    customers: Option<u64>,
    example: Option<String>,
}

fn found_nulls(count: &Count, is_broken: bool) -> Option<Found> {
    match count {
        Count::Nulls { rows, nulls, first } if is_broken => Some(Found {
            found: format!("{nulls} of {rows} null"),
            customers: Some(*nulls),
            example: first.clone(),
        }),
        _ => None,
    }
}

/// The drift of a column and a description of what it is relative to.
///
/// # Errors
/// A text that says why the drift is not known.
fn moved<'a>(
    column: &str,
    against: &Against,
    earlier: &'a Earlier,
) -> std::result::Result<(&'a Drift, String), String> {
    match against {
        Against::Previous => match earlier.previous.get(column) {
            None => Err("there is no earlier snapshot with the same definition".into()),
            Some((at, drift)) => Ok((drift, at.folder())),
        },
        Against::Model(model) => match earlier.models.get(model) {
            None => Err(format!("{model} has no champion for this as-of")),
            Some(drifts) => drifts
                .iter()
                .find(|drift| drift.column == column)
                .map(|drift| (drift, format!("the training of {model}")))
                .ok_or_else(|| {
                    format!("the champion of {model} has no input with this name and definition")
                }),
        },
    }
}

fn further(drift: &Drift, most: f64, since: &str) -> Option<Found> {
    (drift.psi > most && drift.psi > drift.threshold).then(|| Found {
        found: format!("{:.4} since {since}, chance gives {:.4}", drift.psi, drift.threshold),
        customers: None,
        example: None,
    })
}

/// The values of an array as numbers in the units of [`Limit`]. Null is NaN.
pub fn numbers(array: &ArrayRef) -> Result<Vec<f64>> {
    let nan = f64::NAN;
    Ok(match array.data_type() {
        DataType::Timestamp(..) => {
            let values = array.as_primitive::<TimestampMicrosecondType>();
            values.iter().map(|value| value.map_or(nan, |value| value as f64)).collect()
        }
        DataType::Date32 => {
            let values = array.as_primitive::<Date32Type>();
            values.iter().map(|value| value.map_or(nan, f64::from)).collect()
        }
        _ => numeric(array)?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Decimal128Array, Float64Array, Int64Array};

    use super::super::ComparedColumn;
    use super::super::rule::tests::expected;
    use super::*;
    use crate::features::drift::{Verdict, drift};
    use crate::time::DAY;

    /// The product 0.29 x 100 is slightly less than 29 as a double. A share equal to its limit must still
    /// pass.
    #[test]
    fn a_share_holds_up_to_itself() {
        let values: Float64Array = (0..100).map(|i| (i >= 29).then_some(1.0)).collect();
        let values: ArrayRef = Arc::new(values);
        assert_eq!(breach("max_null_share = 0.29", "gap", values.clone()), None);
        assert!(breach("max_null_share = 0.28", "gap", values).is_some());
    }

    fn rows(column: &str, array: ArrayRef) -> Vec<RecordBatch> {
        // The rows come as two batches with descending keys, because partitions may come in any order.
        let keys: StringArray = (0..array.len()).rev().map(|i| Some(format!("c{i}"))).collect();
        let key = Arc::new(keys) as ArrayRef;
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("customer360_id", key, false),
            (column, array, true),
        ]);
        let rows = rows.unwrap();
        let half = rows.num_rows() / 2;
        vec![rows.slice(0, half), rows.slice(half, rows.num_rows() - half)]
    }

    fn verdict(table: &str, column: &str, array: ArrayRef, earlier: &Earlier) -> Judgement {
        let list = expected(&format!("columns = [\"{column}\"]\n{table}")).unwrap();
        let tallies = rows(column, array).into_iter().map(|rows| Tally::of(&list, &rows).unwrap());
        let tally = tallies.reduce(|mut sum, more| {
            sum.add(more);
            sum
        });
        judge(("v", &list), Instant(0), &tally.unwrap(), earlier)
    }

    /// The finding of a breach, the number of customers, and the key of the example. None if the expectation
    /// is met.
    fn breach(table: &str, column: &str, array: ArrayRef) -> Option<(String, Option<u64>, String)> {
        let verdict = verdict(table, column, array, &Earlier::default());
        assert_eq!(verdict.held + verdict.breaches.len() as u64, 1);
        let breach = verdict.breaches.into_iter().next()?;
        Some((breach.found, breach.customers, breach.example.unwrap_or_default()))
    }

    /// A value equal to a limit meets it, a null breaks no limit, and only a share above its limit breaks it.
    #[test]
    fn limits_hold_up_to_themselves() {
        let money = |list: &[Option<i128>]| -> ArrayRef {
            let array: Decimal128Array = list.iter().copied().collect();
            Arc::new(array.with_precision_and_scale(18, 2).unwrap())
        };
        let spend = || money(&[Some(29), Some(1_000), None, Some(2_000)]);
        let found =
            |text: &str, count, key: &str| Some((text.to_owned(), Some(count), key.to_owned()));
        let column = "spend_7d";
        assert_eq!(breach("min = 0.29", column, spend()), None);
        assert_eq!(breach("min = 0.30", column, spend()), found("0.29", 1, "c3"));
        assert_eq!(breach("min = 10.01", column, spend()), found("0.29", 2, "c3"));
        assert_eq!(breach("max = 20", column, spend()), None);
        assert_eq!(breach("max = 19.99", column, spend()), found("20", 1, "c0"));
        assert_eq!(breach("max_null_share = 0.25", column, spend()), None);
        assert_eq!(breach("max_null_share = 0.24", column, spend()), found("1 of 4 null", 1, "c1"));
        assert_eq!(breach("not_null = true", column, spend()), found("1 of 4 null", 1, "c1"));
        assert_eq!(breach("not_null = true", column, money(&[Some(1)])), None);
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("web"), None, None]));
        assert_eq!(breach("not_null = true", "channel", text), found("2 of 3 null", 2, "c0"));
        let times = arrow_array::TimestampMicrosecondArray::from(vec![DAY - 1, DAY]);
        let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
        assert_eq!(breach("min = \"1970-01-01T23:59:59.999999Z\"", "first", times.clone()), None);
        let late = found("1970-01-01T23:59:59.999999Z", 1, "c1");
        assert_eq!(breach("min = \"1970-01-02\"", "first", times), late);
        let alike: ArrayRef = Arc::new(Float64Array::from(vec![7.0, -1.0, -1.0]));
        assert_eq!(breach("min = 0", "gap", alike), found("-1", 2, "c0"));
        let gap: ArrayRef = Arc::new(Int64Array::from(vec![5]));
        assert_eq!(breach("min = 5\n", "gap", gap), None);
    }

    #[test]
    fn an_index_breaks_an_expectation_where_it_is_more_than_chance() {
        let values = |count: i32, shift: f64| -> Vec<f64> {
            (0..count).map(|i| f64::from(i % 97) + shift).collect()
        };
        let now = |count, shift| Arc::new(Float64Array::from(values(count, shift))) as ArrayRef;
        let folder = tempfile::tempdir().unwrap();
        let column = |count, shift| {
            // The values come in two runs, like those of two shards.
            let column = ComparedColumn::create(folder.path(), 2).unwrap();
            let all = now(count, shift);
            column.put(0, &[all.slice(0, 3)]).unwrap();
            column.put(1, &[all.slice(3, all.len() - 3)]).unwrap();
            column
        };
        let table = "max_psi = 0.2";
        let of = |count, shift| {
            let before = column(count, 0.0).distribution().unwrap();
            let drift = drift("gap", &before, &column(count, shift).over(&before).unwrap());
            let previous = [("gap".to_owned(), (Instant(0), drift))].into();
            let earlier = Earlier { previous, ..Earlier::default() };
            verdict(table, "gap", now(count, shift), &earlier)
        };
        assert_eq!(of(5_000, 1.0).held, 1, "hardly moved");
        let far = of(5_000, 30.0);
        assert!(far.breaches[0].found.contains("since 1970-01-01"), "{far:?}");
        assert_eq!(far.breaches[0].expected, "max_psi 0.2 against previous");
        // For seven rows, chance explains an index of this size.
        let few = of(7, 3.0);
        assert_eq!((few.held, few.breaches.len()), (1, 0), "{few:?}");
        let none = verdict(table, "gap", now(10, 0.0), &Earlier::default());
        assert_eq!((none.held, none.unchecked.len()), (0, 1));

        let table = "max_psi = 0.2\nagainst = \"churn\"";
        let drift = |psi| Earlier {
            models: [(
                "churn".to_owned(),
                vec![Drift { column: "gap".into(), psi, threshold: 0.01, verdict: Verdict::Moved }],
            )]
            .into(),
            ..Earlier::default()
        };
        assert_eq!(verdict(table, "gap", now(9, 0.0), &drift(0.2)).held, 1);
        let moved = verdict(table, "gap", now(9, 0.0), &drift(0.21));
        assert_eq!(
            moved.breaches[0].found,
            "0.2100 since the training of churn, chance gives 0.0100"
        );
        let none = verdict(table, "gap", now(9, 0.0), &Earlier::default());
        assert_eq!(
            none.unchecked,
            ["gap max_psi 0.2 against churn: churn has no champion for this as-of"]
        );
    }
}

//! Whether the columns of a snapshot hold to the expectations of their view.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::DataType;
use serde::Serialize;

use super::{Against, Expectation, Limit, Rule};
use crate::error::{Error, Result};
use crate::features::drift::{Distribution, Drift, drift};
use crate::features::read::numeric;
use crate::sources::profile::keys;
use crate::time::Instant;

/// An expectation that does not hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Breach {
    /// The instant of the snapshot.
    pub as_of: Instant,
    /// The view.
    pub view: String,
    /// The column.
    pub column: String,
    /// What must hold.
    pub expected: String,
    /// What there is instead.
    pub found: String,
    /// Customers that it does not hold of; None where it is about the column as a whole.
    pub customers: Option<u64>,
    /// One of these: of nulls the first by key, of values the furthest out.
    pub example: Option<String>,
}

/// How the expectations of some snapshots came out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// How many hold.
    pub held: u64,
    /// Those that do not.
    pub breaches: Vec<Breach>,
    /// Those that could not be checked, in words.
    pub unchecked: Vec<String>,
}

impl Outcome {
    /// Adds what came out of others.
    pub fn add(&mut self, other: Self) {
        self.held += other.held;
        self.breaches.extend(other.breaches);
        self.unchecked.extend(other.unchecked);
    }
}

/// What columns are compared with.
#[derive(Debug, Default)]
pub struct Earlier {
    /// By column the values of the snapshot before, NaN for none, and when that was.
    pub previous: BTreeMap<String, (Instant, Vec<f64>)>,
    /// By classifier how far each input has moved since its champion was trained.
    pub models: BTreeMap<String, Vec<Drift>>,
}

/// Holds the columns of a view's snapshot, `batches` of any order, to its expectations.
pub fn judge(
    (view, expectations): (&str, &[Expectation]),
    as_of: Instant,
    batches: &[RecordBatch],
    earlier: &Earlier,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for Expectation { column, rule } in expectations {
        let missing = || Error::Engine {
            context: "checking expectations",
            message: format!("nothing computed {column}"),
        };
        let of_column = |rows: &RecordBatch| {
            Ok((keys(rows)?.clone(), rows.column_by_name(column).ok_or_else(missing)?.clone()))
        };
        let arrays: Vec<(StringArray, ArrayRef)> =
            batches.iter().map(of_column).collect::<Result<_>>()?;
        let found = match rule {
            Rule::NotNull => nulls(&arrays, |count, _| count > 0),
            Rule::MaxNullShare(most) => {
                nulls(&arrays, |count, rows| count as f64 / rows as f64 > *most)
            }
            Rule::Min(limit) => outside(&arrays, *limit, |value| value < limit.value)?,
            Rule::Max(limit) => outside(&arrays, *limit, |value| value > limit.value)?,
            Rule::MaxPsi { most, against } => match moved(&arrays, column, against, earlier)? {
                Ok((drift, since)) => further(&drift, *most, &since),
                Err(why) => {
                    outcome.unchecked.push(format!("{column} {rule}: {why}"));
                    continue;
                }
            },
        };
        match found {
            None => outcome.held += 1,
            Some(Found { found, customers, example }) => outcome.breaches.push(Breach {
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
    Ok(outcome)
}

/// What there is instead of what was expected.
struct Found {
    found: String,
    customers: Option<u64>,
    example: Option<String>,
}

fn nulls(arrays: &[(StringArray, ArrayRef)], breaks: impl Fn(u64, u64) -> bool) -> Option<Found> {
    let count: usize = arrays.iter().map(|(_, array)| array.null_count()).sum();
    let rows: usize = arrays.iter().map(|(_, array)| array.len()).sum();
    let first = arrays.iter().flat_map(|(keys, array)| {
        (0..array.len()).filter(|row| array.is_null(*row)).map(|row| keys.value(row))
    });
    breaks(count as u64, rows as u64).then(|| Found {
        found: format!("{} of {rows} null", count),
        customers: Some(count as u64),
        example: first.min().map(str::to_owned),
    })
}

fn outside(
    arrays: &[(StringArray, ArrayRef)],
    limit: Limit,
    breaks: impl Fn(f64) -> bool,
) -> Result<Option<Found>> {
    let mut count = 0;
    // The furthest from the limit, of equal ones the first by key.
    let mut worst: Option<(f64, &str)> = None;
    for (keys, array) in arrays {
        let values = numbers(array)?;
        for (row, value) in values.into_iter().enumerate().filter(|(_, value)| breaks(*value)) {
            count += 1;
            let (far, key) = ((value - limit.value).abs(), keys.value(row));
            let is_worse = worst.is_none_or(|(other, name)| {
                let other = (other - limit.value).abs();
                far > other || (far == other && key < name)
            });
            if is_worse {
                worst = Some((value, key));
            }
        }
    }
    Ok(worst.map(|(value, key)| Found {
        found: Limit { value, ..limit }.to_string(),
        customers: Some(count),
        example: Some(key.to_owned()),
    }))
}

/// How far a column has moved and since when, or why nobody can say.
fn moved(
    arrays: &[(StringArray, ArrayRef)],
    column: &str,
    against: &Against,
    earlier: &Earlier,
) -> Result<std::result::Result<(Drift, String), String>> {
    Ok(match against {
        Against::Previous => match earlier.previous.get(column) {
            None => Err("there is no earlier snapshot by the same definition".into()),
            Some((at, values)) => {
                let before = Distribution::of(values);
                let mut now = before.empty();
                for (_, array) in arrays {
                    numbers(array)?.into_iter().for_each(|value| now.add(value));
                }
                Ok((drift(column, &before, &now), at.folder()))
            }
        },
        Against::Model(model) => match earlier.models.get(model) {
            None => Err(format!("{model} has no champion for this as-of")),
            Some(drifts) => drifts
                .iter()
                .find(|drift| drift.column == column)
                .map(|drift| (drift.clone(), format!("the training of {model}")))
                .ok_or_else(|| {
                    format!("the champion of {model} has no such input by the same definition")
                }),
        },
    })
}

fn further(drift: &Drift, most: f64, since: &str) -> Option<Found> {
    (drift.psi > most && drift.psi > drift.threshold).then(|| Found {
        found: format!("{:.4} since {since}, chance gives {:.4}", drift.psi, drift.threshold),
        customers: None,
        example: None,
    })
}

/// As [`Limit`] has them; null is NaN.
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

    use super::super::tests::expected;
    use super::*;
    use crate::features::drift::Verdict;
    use crate::time::DAY;

    /// 0.29 x 100 is a little less than 29.
    #[test]
    fn a_share_holds_up_to_itself() {
        let values: Float64Array = (0..100).map(|i| (i >= 29).then_some(1.0)).collect();
        let values: ArrayRef = Arc::new(values);
        assert_eq!(breach("max_null_share = 0.29", "gap", values.clone()), None);
        assert!(breach("max_null_share = 0.28", "gap", values).is_some());
    }

    fn rows(column: &str, array: ArrayRef) -> Vec<RecordBatch> {
        // Two batches, keys descending, as partitions may come.
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

    fn outcome(table: &str, column: &str, array: ArrayRef, earlier: &Earlier) -> Outcome {
        let list = expected(&format!("columns = [\"{column}\"]\n{table}")).unwrap();
        judge(("v", &list), Instant(0), &rows(column, array), earlier).unwrap()
    }

    /// What was found, of how many customers, and whom; None where the expectation holds.
    fn breach(table: &str, column: &str, array: ArrayRef) -> Option<(String, Option<u64>, String)> {
        let outcome = outcome(table, column, array, &Earlier::default());
        assert_eq!(outcome.held + outcome.breaches.len() as u64, 1);
        let breach = outcome.breaches.into_iter().next()?;
        Some((breach.found, breach.customers, breach.example.unwrap_or_default()))
    }

    /// A limit itself is within, a null breaks no limit, and a share is broken above it only.
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
        let earlier = |count| Earlier {
            previous: [("gap".to_owned(), (Instant(0), values(count, 0.0)))].into(),
            ..Earlier::default()
        };
        let table = "max_psi = 0.2";
        let of = |array, earlier: &Earlier| outcome(table, "gap", array, earlier);
        assert_eq!(of(now(5_000, 1.0), &earlier(5_000)).held, 1, "hardly moved");
        let far = of(now(5_000, 30.0), &earlier(5_000));
        assert!(far.breaches[0].found.contains("since 1970-01-01"), "{far:?}");
        assert_eq!(far.breaches[0].expected, "max_psi 0.2 against previous");
        // Of seven rows an index this large is what chance gives.
        let few = of(now(7, 3.0), &earlier(7));
        assert_eq!((few.held, few.breaches.len()), (1, 0), "{few:?}");
        let none = of(now(10, 0.0), &Earlier::default());
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
        assert_eq!(outcome(table, "gap", now(9, 0.0), &drift(0.2)).held, 1);
        let moved = outcome(table, "gap", now(9, 0.0), &drift(0.21));
        assert_eq!(
            moved.breaches[0].found,
            "0.2100 since the training of churn, chance gives 0.0100"
        );
        let none = outcome(table, "gap", now(9, 0.0), &Earlier::default());
        assert_eq!(
            none.unchecked,
            ["gap max_psi 0.2 against churn: churn has no champion for this as-of"]
        );
    }
}

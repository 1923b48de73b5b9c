//! Expectations: what a view's file says must hold of the columns of its snapshots, and whether it does.
//!
//! They are no part of a feature's version: a new expectation makes no snapshot outdated, and holds for
//! what is computed from then on.

use std::collections::BTreeMap;
use std::fmt;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::DataType;
use serde::Serialize;

use super::catalog::{Catalog, Feature};
use super::drift::{Distribution, Drift, drift};
use super::read::numeric;
use super::spec::{ExpectationSpec, LimitSpec, PREVIOUS, ViewSpec};
use crate::error::{Error, Result};
use crate::expression::Type;
use crate::sources::profile::keys;
use crate::time::{DAY, Instant};

/// One thing that must hold of one column of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expectation {
    /// The column.
    pub column: String,
    /// What must hold.
    pub rule: Rule,
}

/// What must hold of a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Every customer has a value.
    NotNull,
    /// No value is less.
    Min(Limit),
    /// No value is greater.
    Max(Limit),
    /// No greater share of customers is without a value.
    MaxNullShare(f64),
    /// The population stability index is no greater, or no more than chance explains.
    MaxPsi {
        /// The greatest index.
        most: f64,
        /// What the column is compared with.
        against: Against,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::NotNull => write!(f, "not_null"),
            Self::Min(limit) => write!(f, "min {limit}"),
            Self::Max(limit) => write!(f, "max {limit}"),
            Self::MaxNullShare(share) => write!(f, "max_null_share {share}"),
            Self::MaxPsi { most, against } => write!(f, "max_psi {most} against {against}"),
        }
    }
}

/// A least or greatest value as a number: major units of money, microseconds of an instant, days of a date.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    value: f64,
    #[serde(skip)]
    ty: Type,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.ty {
            Type::Timestamp => write!(f, "{}", Instant(self.value as i64)),
            Type::Date => write!(f, "{}", Instant(self.value as i64 * DAY).folder()),
            _ => write!(f, "{}", self.value),
        }
    }
}

/// What a column's distribution is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The latest earlier snapshot.
    Previous,
    /// The rows that the champion of this classifier was trained on, eligible customers beside them.
    Model(String),
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Previous => PREVIOUS,
            Self::Model(name) => name,
        })
    }
}

/// The checked expectations of a view, in the order of its file.
///
/// # Errors
/// A configuration error for a column that is not the view's, a limit that its type does not have, or a table
/// that expects nothing.
pub fn check(file: &str, view: &ViewSpec, catalog: &Catalog) -> Result<Vec<Expectation>> {
    let place = format!("{file}: expect");
    let mut list = Vec::new();
    for spec in &view.expectations {
        if spec.columns.is_empty() {
            return Err(Error::configuration(
                format!("{place}: names no columns"),
                "columns = [\"spend_30d\"]",
            ));
        }
        for name in &spec.columns {
            let own = |f: &&Feature| f.column() == name || f.group == *name;
            let features: Vec<&Feature> = catalog.of_view(&view.name).filter(own).collect();
            if features.is_empty() {
                let valid = catalog.of_view(&view.name).flat_map(|f| [f.column(), &f.group]);
                return Err(Error::unknown(place, "column", name, valid));
            }
            for feature in features {
                let rules = rules(&format!("{place} {}", feature.column()), spec, feature.ty())?;
                let column = feature.column().to_owned();
                list.extend(
                    rules.into_iter().map(|rule| Expectation { column: column.clone(), rule }),
                );
            }
        }
    }
    Ok(list)
}

fn rules(place: &str, spec: &ExpectationSpec, ty: Type) -> Result<Vec<Rule>> {
    let error = |message: String, hint: &str| {
        Err(Error::configuration(format!("{place}: {message}"), hint))
    };
    let mut rules = Vec::new();
    if spec.not_null {
        rules.push(Rule::NotNull);
    }
    let least = limit(place, ("min", &spec.min), ty)?;
    let most = limit(place, ("max", &spec.max), ty)?;
    if let (Some(least), Some(most)) = (least, most)
        && least.value > most.value
    {
        return error(format!("min {least} is above max {most}"), "exchange them");
    }
    rules.extend(least.map(Rule::Min));
    rules.extend(most.map(Rule::Max));
    if let Some(share) = spec.max_null_share {
        if !(0.0..=1.0).contains(&share) {
            return error(format!("max_null_share {share} is not a share"), "a share is 0 to 1");
        }
        rules.push(Rule::MaxNullShare(share));
    }
    match spec.max_psi {
        Some(most) if !(most.is_finite() && most > 0.0) => {
            return error(format!("max_psi {most} is not above zero"), "max_psi = 0.2");
        }
        Some(_) if !(ty.is_numeric() || ty == Type::Boolean) => {
            let message = format!("max_psi needs numbers, and the column is {}", ty.name());
            return error(message, "expect not_null, max_null_share or limits of it");
        }
        Some(most) => {
            let against = match spec.against.as_str() {
                PREVIOUS => Against::Previous,
                model => Against::Model(model.to_owned()),
            };
            rules.push(Rule::MaxPsi { most, against });
        }
        None if spec.against != PREVIOUS => {
            return error("against belongs to max_psi".into(), "max_psi = 0.2");
        }
        None => {}
    }
    match rules.is_empty() {
        true => {
            error("expects nothing".into(), "write not_null, min, max, max_null_share or max_psi")
        }
        false => Ok(rules),
    }
}

fn limit(place: &str, (key, spec): (&str, &Option<LimitSpec>), ty: Type) -> Result<Option<Limit>> {
    let Some(spec) = spec else { return Ok(None) };
    let instant = match spec {
        LimitSpec::Text(text) => text.parse::<Instant>().ok(),
        LimitSpec::Time(time) => time.to_string().parse::<Instant>().ok(),
        LimitSpec::Number(_) | LimitSpec::Other(_) => None,
    };
    let value = match (spec, ty) {
        (LimitSpec::Number(value), _) if ty.is_numeric() && value.is_finite() => Some(*value),
        (_, Type::Timestamp) => instant.map(|at| at.0 as f64),
        (_, Type::Date) => instant.map(|at| at.0.div_euclid(DAY) as f64),
        _ => None,
    };
    let refused = || {
        let hint = match ty {
            Type::Timestamp => format!("{key} = \"2020-01-01T00:00:00Z\", or \"2020-01-01\""),
            Type::Date => format!("{key} = \"2020-01-01\""),
            _ if ty.is_numeric() => format!("{key} = 0"),
            _ => "only numbers, instants and dates have limits".to_owned(),
        };
        let message = format!("{place}: {key} = {spec} is no limit of a column of {}", ty.name());
        Error::configuration(message, hint)
    };
    value.map(|value| Some(Limit { value, ty })).ok_or_else(refused)
}

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

    use super::*;
    use crate::expression::Columns;
    use crate::features::drift::Verdict;
    use crate::money::Scale;

    /// The expectations of a view with a column of money, of doubles, of instants and of text.
    fn expected(table: &str) -> Result<Vec<Expectation>> {
        let view = format!(
            "name = \"v\"\nsource = \"events\"\n\
             [[feature]]\nname = \"spend\"\nop = \"sum\"\ninput = \"amount\"\nwindows = [\"7d\", \"30d\"]\n\
             [[feature]]\nname = \"gap\"\nop = \"days_since_last\"\n\
             [[feature]]\nname = \"first\"\nop = \"min\"\ninput = \"event_ts\"\n\
             [[feature]]\nname = \"channel\"\nop = \"last\"\ninput = \"channel\"\n[[expect]]\n{table}"
        );
        let columns = [
            ("amount".to_owned(), Type::Money),
            ("event_ts".to_owned(), Type::Timestamp),
            ("channel".to_owned(), Type::Text),
        ];
        let spec = toml::from_str(&view).unwrap();
        let catalog =
            Catalog::check(&[("v.toml".into(), spec)], &Columns::new(Scale::default(), columns))?;
        Ok(catalog.views[0].expectations.clone())
    }

    #[test]
    fn a_feature_stands_for_all_its_windows() {
        let list = expected("columns = [\"spend\", \"gap\"]\nmin = 0\nnot_null = true").unwrap();
        let list: Vec<String> = list.iter().map(|e| format!("{} {}", e.column, e.rule)).collect();
        let all = ["spend_7d", "spend_30d", "gap"];
        let all = all.map(|c| [format!("{c} not_null"), format!("{c} min 0")]).concat();
        assert_eq!(list, all);
    }

    #[test]
    fn instants_are_texts_or_as_toml_writes_them() {
        for limit in ["2024-05-01", "\"2024-05-01\"", "2024-05-01T00:00:00Z"] {
            let list = expected(&format!("columns = [\"first\"]\nmax = {limit}")).unwrap();
            assert_eq!(list[0].rule.to_string(), "max 2024-05-01T00:00:00Z");
        }
    }

    /// 0.29 x 100 is a little less than 29.
    #[test]
    fn a_share_holds_up_to_itself() {
        let values: Float64Array = (0..100).map(|i| (i >= 29).then_some(1.0)).collect();
        let values: ArrayRef = Arc::new(values);
        assert_eq!(breach("max_null_share = 0.29", "gap", values.clone()), None);
        assert!(breach("max_null_share = 0.28", "gap", values).is_some());
    }

    #[test]
    fn what_no_column_can_keep_is_refused() {
        for (table, message) in [
            ("columns = []\nmin = 0", "v.toml: expect: names no columns"),
            ("columns = [\"spent\"]\nmin = 0", "v.toml: expect: unknown column `spent`"),
            ("columns = [\"gap\"]", "v.toml: expect gap: expects nothing"),
            (
                "columns = [\"gap\"]\nmin = \"a\"",
                "v.toml: expect gap: min = \"a\" is no limit of a column of double",
            ),
            (
                "columns = [\"first\"]\nmax = 3",
                "v.toml: expect first: max = 3 is no limit of a column of timestamp",
            ),
            (
                "columns = [\"channel\"]\nmin = 3",
                "v.toml: expect channel: min = 3 is no limit of a column of varchar",
            ),
            (
                "columns = [\"gap\"]\nmin = 3\nmax = 2.5",
                "v.toml: expect gap: min 3 is above max 2.5",
            ),
            ("columns = [\"gap\"]\nmax = true", "max = true is no limit of a column of double"),
            ("columns = [\"gap\"]\nmax_null_share = 5", "max_null_share 5 is not a share"),
            ("columns = [\"gap\"]\nmax_psi = 0", "max_psi 0 is not above zero"),
            ("columns = [\"first\"]\nmax_psi = 0.2", "max_psi needs numbers, and the column is"),
            ("columns = [\"gap\"]\nmin = 0\nagainst = \"churn\"", "against belongs to max_psi"),
        ] {
            let error = expected(table).unwrap_err();
            assert!(error.to_string().contains(message), "{table}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
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

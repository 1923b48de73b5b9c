//! What must hold of a column, and the checks of what a view's file says of it.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::expression::Type;
use crate::features::FeatureProblem;
use crate::features::spec::{ExpectationSpec, LimitSpec, PREVIOUS, ViewSpec};
use crate::time::{DAY, Instant};

/// A condition that one column of a snapshot must meet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expectation {
    /// The name of the column.
    pub column: String,
    /// The condition that it must meet.
    pub rule: Rule,
}

/// A condition on a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Every customer has a value.
    NotNull,
    /// No value is less than the limit.
    Min(Limit),
    /// No value is greater than the limit.
    Max(Limit),
    /// The share of customers without a value is at most this, 0 to 1.
    MaxNullShare(f64),
    /// The population stability index is at most `most`, or is no larger than chance explains.
    MaxPsi {
        /// The maximum index.
        most: f64,
        /// The data that the column is compared with.
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

/// A minimum or maximum value as a number: major units of money, microseconds of an instant, or days of a
/// date.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    pub(super) value: f64,
    #[serde(skip)]
    pub(super) ty: Type,
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

/// The data that the distribution of a column is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The latest earlier snapshot of the view.
    Previous,
    /// The rows that the champion of this classifier was trained on, compared with the customers that are
    /// eligible now.
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

/// A column of a view, as far as expectations look at it.
#[derive(Debug, Clone, Copy)]
pub struct ViewColumn<'a> {
    /// The name of the column.
    pub name: &'a str,
    /// The feature that it is a window of.
    pub group: &'a str,
    /// The type of its values.
    pub ty: Type,
}

/// Checks the expectations of a view and returns them in the order of its file.
///
/// # Errors
/// A configuration error for a column that the view does not have, a limit that does not fit the type of the
/// column, or a table without a condition.
pub fn check(file: &str, view: &ViewSpec, columns: &[ViewColumn<'_>]) -> Result<Vec<Expectation>> {
    let place = format!("{file}: expect");
    let mut list = Vec::new();
    for spec in &view.expectations {
        if spec.columns.is_empty() {
            return Err(FeatureProblem::ExpectationOfNothing { place }.into());
        }
        for name in &spec.columns {
            let own = |column: &&ViewColumn| column.name == name || column.group == name;
            let own: Vec<&ViewColumn> = columns.iter().filter(own).collect();
            if own.is_empty() {
                let valid = columns.iter().flat_map(|column| [column.name, column.group]);
                return Err(Error::unknown(place, "column", name, valid));
            }
            for ViewColumn { name, ty, .. } in own {
                let rules = rules(&format!("{place} {name}"), spec, *ty)?;
                let column = (*name).to_owned();
                list.extend(
                    rules.into_iter().map(|rule| Expectation { column: column.clone(), rule }),
                );
            }
        }
    }
    Ok(list)
}

fn rules(place: &str, spec: &ExpectationSpec, ty: Type) -> Result<Vec<Rule>> {
    let here = || place.to_owned();
    let mut rules = Vec::new();
    if spec.not_null {
        rules.push(Rule::NotNull);
    }
    let least = limit(place, ("min", &spec.min), ty)?;
    let most = limit(place, ("max", &spec.max), ty)?;
    if let (Some(least), Some(most)) = (least, most)
        && least.value > most.value
    {
        let (min, max) = (least.to_string(), most.to_string());
        return Err(FeatureProblem::Limits { place: here(), min, max }.into());
    }
    rules.extend(least.map(Rule::Min));
    rules.extend(most.map(Rule::Max));
    if let Some(share) = spec.max_null_share {
        if !(0.0..=1.0).contains(&share) {
            let example = "max_null_share = 0.1";
            return Err(Error::setting(place, "max_null_share", share, "between 0 and 1", example));
        }
        rules.push(Rule::MaxNullShare(share));
    }
    match spec.max_psi {
        Some(most) if !(most.is_finite() && most > 0.0) => {
            return Err(Error::setting(place, "max_psi", most, "above 0", "max_psi = 0.2"));
        }
        Some(_) if !(ty.is_numeric() || ty == Type::Boolean) => {
            return Err(FeatureProblem::PsiType { place: here(), ty }.into());
        }
        Some(most) => {
            let against = match spec.against.as_str() {
                PREVIOUS => Against::Previous,
                model => Against::Model(model.to_owned()),
            };
            rules.push(Rule::MaxPsi { most, against });
        }
        None if spec.against != PREVIOUS => {
            return Err(FeatureProblem::AgainstWithoutPsi { place: here() }.into());
        }
        None => {}
    }
    match rules.is_empty() {
        true => Err(FeatureProblem::EmptyExpectation { place: here() }.into()),
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
        let required = format!("a limit of a column of type {}", ty.name());
        Error::setting(place, key, spec, required, hint)
    };
    value.map(|value| Some(Limit { value, ty })).ok_or_else(refused)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::expression::Columns;
    use crate::features::catalog::Catalog;
    use crate::money::Scale;

    /// The expectations of a view with two columns of money, one of doubles, one of instants and one of text.
    pub fn expected(table: &str) -> Result<Vec<Expectation>> {
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

    #[test]
    fn what_no_column_can_keep_is_refused() {
        for (table, message) in [
            ("columns = []\nmin = 0", "v.toml: expect: names no columns"),
            ("columns = [\"spent\"]\nmin = 0", "v.toml: expect: unknown column `spent`"),
            ("columns = [\"gap\"]", "v.toml: expect gap: expects nothing"),
            (
                "columns = [\"gap\"]\nmin = \"a\"",
                "v.toml: expect gap: min = \"a\", but it must be a limit of a column of type double",
            ),
            (
                "columns = [\"first\"]\nmax = 3",
                "v.toml: expect first: max = 3, but it must be a limit of a column of type timestamp",
            ),
            (
                "columns = [\"channel\"]\nmin = 3",
                "v.toml: expect channel: min = 3, but it must be a limit of a column of type varchar",
            ),
            (
                "columns = [\"gap\"]\nmin = 3\nmax = 2.5",
                "v.toml: expect gap: min 3 is above max 2.5",
            ),
            (
                "columns = [\"gap\"]\nmax = true",
                "max = true, but it must be a limit of a column of type double",
            ),
            (
                "columns = [\"gap\"]\nmax_null_share = 5",
                "max_null_share = 5, but it must be between 0 and 1",
            ),
            ("columns = [\"gap\"]\nmax_psi = 0", "max_psi = 0, but it must be above 0"),
            ("columns = [\"first\"]\nmax_psi = 0.2", "max_psi needs numbers, and the column is"),
            ("columns = [\"gap\"]\nmin = 0\nagainst = \"churn\"", "against belongs to max_psi"),
        ] {
            let error = expected(table).unwrap_err();
            assert!(error.to_string().contains(message), "{table}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}

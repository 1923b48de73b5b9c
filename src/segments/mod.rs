//! Segments: ordered rules over features and scores, with hysteresis so that nobody flickers.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::check::check_as;
use crate::expression::polars::evaluate;
use crate::expression::{Columns, Expression, Type};
use crate::features::catalog::{Catalog, fingerprint};
use crate::models::spec::Models;
use crate::money::Scale;
use crate::time::{Duration, Instant};

/// One `[[segment]]` table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// The segment's name.
    pub name: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// Who comes in: a predicate over features, scores and percentiles.
    pub enter: String,
    /// Who stays in; default `enter`.
    #[serde(default)]
    pub stay: Option<String>,
    /// How long a member stays at least, unless they buy.
    #[serde(default)]
    pub min_dwell: Option<Duration>,
    /// Whether it can be the primary segment; the first in the file that holds is.
    #[serde(default)]
    pub primary: bool,
}

/// `models/segments.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentsSpec {
    /// The primary segment of those whom no primary rule holds for.
    pub otherwise: String,
    /// The rules by priority.
    #[serde(default, rename = "segment")]
    pub rules: Vec<RuleSpec>,
}

/// A checked rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// As the file says.
    pub spec: RuleSpec,
    /// Who comes in.
    pub enter: Expression,
    /// Who stays in.
    pub stay: Expression,
    /// Hash of the checked rule: another version starts from `enter`.
    pub version: String,
}

/// The checked rules of a project.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    /// By priority.
    pub rules: Vec<Rule>,
    /// The primary segment where no primary rule holds.
    pub otherwise: String,
}

/// The score columns that rules may use, by model.
pub fn score_columns(models: &Models) -> Vec<(String, Type)> {
    let mut columns = Vec::new();
    for classifier in &models.classifiers {
        let field = &classifier.spec.writes;
        columns.push((field.clone(), Type::Double));
        columns.push((field.replace("_score", "_percentile"), Type::Double));
    }
    if models.engagement.is_some() {
        columns.push(("engagement_score".into(), Type::Double));
        columns.push(("engagement_percentile".into(), Type::Double));
        columns.push(("engagement_trend".into(), Type::Double));
    }
    if models.rfm.is_some() {
        for name in ["rfm_recency", "rfm_frequency", "rfm_monetary"] {
            columns.push((name.into(), Type::Integer));
        }
        columns.push(("rfm_segment".into(), Type::Text));
    }
    if models.lifetime_value.is_some() {
        columns.push(("lifetime_value".into(), Type::Money));
        columns.push(("lifetime_value_percentile".into(), Type::Double));
    }
    columns
}

impl Segments {
    /// Checks the rules against features and scores; a project without the file has none.
    pub fn check(
        spec: Option<(String, SegmentsSpec)>,
        catalog: &Catalog,
        models: &Models,
        scale: Scale,
    ) -> Result<Self> {
        let Some((file, spec)) = spec else {
            return Ok(Self { rules: Vec::new(), otherwise: "All customers".into() });
        };
        let mut columns: Columns = catalog.columns(scale);
        for (name, ty) in score_columns(models) {
            if let Some(feature) = catalog.get(&name) {
                return Err(Error::configuration(
                    format!("features/{}.toml: {name} is the name of a score", feature.view),
                    "rename the feature; rules must know which of the two is meant",
                ));
            }
            columns.insert(name, ty);
        }
        let mut rules: Vec<Rule> = Vec::new();
        for rule in &spec.rules {
            let place = |key: &str| format!("{file}: segment \"{}\" {key}", rule.name);
            if rules.iter().any(|other| other.spec.name == rule.name) || rule.name == spec.otherwise
            {
                return Err(Error::configuration(
                    format!("{file}: two segments are called \"{}\"", rule.name),
                    "give each segment a name of its own",
                ));
            }
            let enter = check_as(&rule.enter, Type::Boolean, &columns, &place("enter"))?;
            let stay = match &rule.stay {
                Some(stay) => check_as(stay, Type::Boolean, &columns, &place("stay"))?,
                None => enter.clone(),
            };
            let version = fingerprint(&(&enter, &stay, rule.min_dwell), &[]);
            rules.push(Rule { spec: rule.clone(), enter, stay, version });
        }
        Ok(Self { rules, otherwise: spec.otherwise })
    }
}

/// One membership as it is kept in `segments/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The segment.
    pub segment: String,
    /// The version of its rule.
    pub rule: String,
    /// The as-of at which the customer came in.
    pub since: Instant,
    /// Why they are in: `enter`, `stay` or `dwell`.
    pub reason: &'static str,
}

/// The segments of one customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// All memberships in the order of the rules.
    pub memberships: Vec<Membership>,
    /// The primary segment.
    pub primary: String,
    /// The primary segment of the last as-of, if there was one.
    pub previous: Option<String>,
}

/// What an earlier as-of said of one customer.
#[derive(Debug, Clone, Default)]
pub struct PreviousState {
    /// Rule version and since, by segment.
    pub memberships: BTreeMap<String, (String, Instant)>,
    /// The primary segment.
    pub primary: Option<String>,
}

/// Assigns segments at `as_of` to the customers of `rows`, in their order.
///
/// `previous` gives the state of the latest earlier as-of by row, `bought_since` who has bought
/// since then.
pub fn assign(
    segments: &Segments,
    rows: &RecordBatch,
    scale: Scale,
    as_of: Instant,
    previous: &[Option<PreviousState>],
    bought_since: &[bool],
) -> Result<Vec<Assigned>> {
    let named: Vec<(String, Expression)> = segments
        .rules
        .iter()
        .enumerate()
        .flat_map(|(i, rule)| {
            [
                (format!("\u{0}enter{i}"), rule.enter.clone()),
                (format!("\u{0}stay{i}"), rule.stay.clone()),
            ]
        })
        .collect();
    let masks: Vec<Vec<bool>> = if named.is_empty() {
        Vec::new()
    } else {
        let arrays = evaluate(&named, rows, scale)?;
        arrays.iter().map(|a| a.as_boolean().iter().map(|v| v == Some(true)).collect()).collect()
    };
    let assigned = (0..rows.num_rows()).map(|row| {
        let before = previous[row].as_ref();
        let mut memberships = Vec::new();
        let mut primary = None;
        for (i, rule) in segments.rules.iter().enumerate() {
            let known = before
                .and_then(|state| state.memberships.get(&rule.spec.name))
                .filter(|(version, _)| *version == rule.version);
            let (enter, stay) = (masks[2 * i][row], masks[2 * i + 1][row]);
            let (since, reason) = match known {
                Some((_, since)) if stay => (*since, "stay"),
                Some((_, since))
                    if rule.spec.min_dwell.is_some_and(|dwell| as_of < since.plus(dwell))
                        && !bought_since[row] =>
                {
                    (*since, "dwell")
                }
                _ if enter => (as_of, "enter"),
                _ => continue,
            };
            if rule.spec.primary && primary.is_none() {
                primary = Some(rule.spec.name.clone());
            }
            let (segment, rule) = (rule.spec.name.clone(), rule.version.clone());
            memberships.push(Membership { segment, rule, since, reason });
        }
        let primary = primary.unwrap_or_else(|| {
            let segment = segments.otherwise.clone();
            let known = before.and_then(|state| state.memberships.get(&segment));
            let (since, reason) = known.map_or((as_of, "enter"), |(_, since)| (*since, "stay"));
            let rule = String::new();
            memberships.push(Membership { segment: segment.clone(), rule, since, reason });
            segment
        });
        Assigned { memberships, primary, previous: before.and_then(|state| state.primary.clone()) }
    });
    Ok(assigned.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::check::check;
    use arrow_array::{ArrayRef, Float64Array};
    use std::sync::Arc;

    fn rule(enter: &str, stay: &str, dwell: i64) -> Segments {
        let columns = Columns::new(Scale::default(), [("score".to_owned(), Type::Double)]);
        let spec = RuleSpec {
            name: "risky".into(),
            description: String::new(),
            enter: enter.into(),
            stay: Some(stay.into()),
            min_dwell: Some(Duration::days(dwell)),
            primary: true,
        };
        let expression = |sql: &str| check(sql, &columns, "test").unwrap();
        let (enter, stay) = (expression(enter), expression(stay));
        let rules = vec![Rule { spec, enter, stay, version: "1".into() }];
        Segments { rules, otherwise: "calm".into() }
    }

    fn one(
        segments: &Segments,
        score: f64,
        day: i64,
        since: Option<i64>,
        bought: bool,
    ) -> Assigned {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![score]));
        let rows = RecordBatch::try_from_iter([("score", column)]).unwrap();
        let as_of = Instant(day * crate::time::DAY);
        let previous = since.map(|since| PreviousState {
            memberships: [("risky".into(), ("1".into(), Instant(since * crate::time::DAY)))].into(),
            primary: Some("risky".into()),
        });
        assign(segments, &rows, Scale::default(), as_of, &[previous], &[bought]).unwrap().remove(0)
    }

    #[test]
    fn hysteresis_keeps_who_is_between_the_thresholds() {
        let segments = rule("score >= 0.6", "score >= 0.5", 0);
        assert_eq!(one(&segments, 0.55, 10, None, false).primary, "calm");
        let stays = one(&segments, 0.55, 10, Some(3), false);
        assert_eq!(stays.primary, "risky");
        assert_eq!(
            (stays.memberships[0].since.0, stays.memberships[0].reason),
            (3 * crate::time::DAY, "stay")
        );
        assert_eq!(one(&segments, 0.45, 10, Some(3), false).primary, "calm");
    }

    #[test]
    fn dwell_holds_until_its_end_or_a_purchase() {
        let segments = rule("score >= 0.6", "score >= 0.5", 14);
        assert_eq!(one(&segments, 0.1, 10, Some(0), false).memberships[0].reason, "dwell");
        assert_eq!(one(&segments, 0.1, 10, Some(0), true).primary, "calm", "a purchase ends it");
        assert_eq!(one(&segments, 0.1, 14, Some(0), false).primary, "calm", "14 days are over");
    }

    #[test]
    fn a_changed_rule_starts_from_enter() {
        let mut segments = rule("score >= 0.6", "score >= 0.5", 14);
        segments.rules[0].version = "2".into();
        assert_eq!(one(&segments, 0.55, 10, Some(3), false).primary, "calm");
    }
}

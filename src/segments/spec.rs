//! The file `models/segments.toml`, before and after the check.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::example::{Example, ExampleSpec};
use super::reach;
use crate::error::{Error, Result};
use crate::expression::check::check_as;
use crate::expression::{Columns, Expression, Number, Type};
use crate::features::catalog::{Catalog, fingerprint};
use crate::money::Scale;
use crate::sources::consent::Consent;
use crate::sources::profile::ProfilePlan;
use crate::spec::Models;
use crate::time::Duration;

/// One `[[segment]]` table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// The name of the segment.
    pub name: String,
    /// A description for the reader.
    #[serde(default)]
    pub description: String,
    /// The condition of entry, a predicate over features, scores, percentiles and thresholds.
    pub enter: String,
    /// A further condition by which members stay, in addition to `enter`.
    #[serde(default)]
    pub stay: Option<String>,
    /// The minimum length of a membership, unless the customer makes a purchase.
    #[serde(default)]
    pub min_dwell: Option<Duration>,
    /// The maximum length of a membership. A customer whose membership has expired enters again only after
    /// `enter` has stopped holding at least once.
    #[serde(default)]
    pub expires: Option<Duration>,
    /// The group of the rule. A customer is only in the first segment of a group whose rule holds.
    #[serde(default)]
    pub group: Option<String>,
    /// The scopes that a member must have consented to.
    #[serde(default)]
    pub requires_consent: Vec<String>,
    /// Whether it can be the primary segment, which is the first one in the file whose rule holds.
    #[serde(default)]
    pub primary: bool,
}

/// The content of `models/segments.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentsSpec {
    /// The primary segment of the customers that no primary rule holds for.
    pub otherwise: String,
    /// Numbers that rules may name, so that another value can be simulated before it is live.
    #[serde(default)]
    pub thresholds: BTreeMap<String, Number>,
    /// The rules by priority.
    #[serde(default, rename = "segment")]
    pub rules: Vec<RuleSpec>,
    /// Examples of customers with the segments that they must have.
    #[serde(default, rename = "example")]
    pub examples: Vec<ExampleSpec>,
}

/// A checked rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rule {
    /// The table of the file.
    pub spec: RuleSpec,
    /// The condition of entry.
    pub enter: Expression,
    /// The condition by which members stay.
    pub stay: Expression,
    /// A hash of the checked rule. Memberships by another version start again from `enter`.
    pub version: String,
}

/// The checked rules of a project.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Segments {
    /// The rules by priority.
    pub rules: Vec<Rule>,
    /// The primary segment of the customers that no primary rule holds for.
    pub otherwise: String,
    /// The thresholds of the file.
    pub thresholds: BTreeMap<String, Number>,
    /// The checked examples, which scoring does not need.
    #[serde(skip)]
    pub examples: Vec<Example>,
    /// The name and the content of the file; None in a project without the file. Scoring does not need it.
    #[serde(skip)]
    pub(super) source: Option<(String, SegmentsSpec)>,
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
    /// Checks the rules against the features, the scores and the profile. A project without the file has no
    /// rules.
    ///
    /// # Errors
    /// Returns a configuration error for a rule that cannot be checked, that no customer can ever meet, or
    /// that rules before it always preempt, and for a threshold that no rule uses.
    pub fn check(
        source: Option<(String, SegmentsSpec)>,
        catalog: &Catalog,
        models: &Models,
        profile: &ProfilePlan,
        scale: Scale,
    ) -> Result<Self> {
        let Some((file, spec)) = source else {
            return Ok(Self { otherwise: "All customers".into(), ..Self::default() });
        };
        let mut columns = columns(&file, &spec, catalog, models, scale)?;
        let mut rules: Vec<Rule> = Vec::new();
        for rule in &spec.rules {
            if rules.iter().any(|other| other.spec.name == rule.name) || rule.name == spec.otherwise
            {
                return Err(Error::configuration(
                    format!("{file}: two segments are called \"{}\"", rule.name),
                    "give each segment a name of its own",
                ));
            }
            check_spec(&file, rule, profile)?;
            let checked = Rule::check(&file, rule, &columns, &rules)?;
            if columns.names().any(|name| name == rule.name) {
                return Err(Error::configuration(
                    format!(
                        "{file}: segment \"{}\" has the name of a feature, score or threshold",
                        rule.name
                    ),
                    "rename it; rules after it may name it, and must know which of the two is meant",
                ));
            }
            columns.insert(&rule.name, Type::Boolean);
            rules.push(checked);
        }
        if let Some(name) = spec.thresholds.keys().find(|name| !is_used(name, &spec)) {
            return Err(Error::configuration(
                format!("{file}: no rule uses the threshold {name}"),
                "name it in an enter or stay, or remove it",
            ));
        }
        reach::check(&file, &rules, &columns)?;
        let names: Vec<&str> =
            rules.iter().map(|rule| rule.spec.name.as_str()).chain([&*spec.otherwise]).collect();
        let examples = spec.examples.iter().enumerate();
        let examples = examples
            .map(|(i, example)| Example::check(&file, i + 1, example, &columns, &names))
            .collect::<Result<_>>()?;
        Ok(Self {
            rules,
            otherwise: spec.otherwise.clone(),
            thresholds: spec.thresholds.clone(),
            examples,
            source: Some((file, spec)),
        })
    }

    /// Checks the same rules with other thresholds.
    ///
    /// # Errors
    /// Returns the errors of [`Segments::check`], and an error for a threshold that the file does not have.
    pub fn with_thresholds(
        &self,
        changed: &[(String, Number)],
        catalog: &Catalog,
        models: &Models,
        profile: &ProfilePlan,
        scale: Scale,
    ) -> Result<Self> {
        let mut source = self.source.clone();
        for (name, value) in changed {
            let Some((_, spec)) = source.as_mut().filter(|s| s.1.thresholds.contains_key(name))
            else {
                let (place, known) = ("--set", self.thresholds.keys());
                return Err(Error::unknown(place, "threshold", name, known));
            };
            spec.thresholds.insert(name.clone(), *value);
        }
        Self::check(source, catalog, models, profile, scale)
    }

    /// The names of all segments by priority. The segment of all other customers is the last one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.spec.name.as_str()).chain([self.otherwise.as_str()])
    }
}

impl Rule {
    /// Whether the rule names this segment or column.
    pub fn names(&self, name: &str) -> bool {
        self.enter.columns().contains(name) || self.stay.columns().contains(name)
    }

    fn check(file: &str, spec: &RuleSpec, columns: &Columns, before: &[Rule]) -> Result<Self> {
        let place = |key: &str| format!("{file}: segment \"{}\" {key}", spec.name);
        let enter = check_as(&spec.enter, Type::Boolean, columns, &place("enter"))?;
        let stay = match &spec.stay {
            Some(stay) => check_as(stay, Type::Boolean, columns, &place("stay"))?,
            None => enter.clone(),
        };
        let mut rule = Self { spec: spec.clone(), enter, stay, version: String::new() };
        // A rule that names another segment has a new version whenever that segment has one.
        let named = before.iter().filter(|other| rule.names(&other.spec.name));
        let versions: Vec<String> = named.map(|other| other.version.clone()).collect();
        let definition = (&rule.enter, &rule.stay, spec.min_dwell, spec.expires);
        rule.version = fingerprint(&definition, &versions);
        Ok(rule)
    }
}

/// The columns that rules may name.
fn columns(
    file: &str,
    spec: &SegmentsSpec,
    catalog: &Catalog,
    models: &Models,
    scale: Scale,
) -> Result<Columns> {
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
    for (name, value) in &spec.thresholds {
        let place = format!("{file}: the threshold {name}");
        if columns.get(name).is_some() {
            let message = format!("{place} has the name of a feature or score");
            return Err(Error::configuration(message, "rename the threshold"));
        }
        if matches!(value, Number::Double(value) if !value.is_finite()) {
            let message = format!("{place} is {value}");
            return Err(Error::configuration(message, "a threshold is a finite number"));
        }
        columns.name(name, *value);
    }
    Ok(columns)
}

/// Whether the text of a rule contains the name as a word.
fn is_used(name: &str, spec: &SegmentsSpec) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let has = |text: &String| text.split(|c| !is_word(c)).any(|word| word == name);
    spec.rules.iter().any(|rule| has(&rule.enter) || rule.stay.as_ref().is_some_and(has))
}

/// Checks the part of a rule that does not depend on columns.
fn check_spec(file: &str, rule: &RuleSpec, profile: &ProfilePlan) -> Result<()> {
    let place = format!("{file}: segment \"{}\"", rule.name);
    if let (Some(expires), Some(dwell)) = (rule.expires, rule.min_dwell)
        && expires < dwell
    {
        return Err(Error::configuration(
            format!("{place} expires after {expires}, before its min_dwell of {dwell} has ended"),
            "make min_dwell shorter, or expires longer",
        ));
    }
    if rule.expires.is_some_and(|expires| expires.0 == 0) {
        let message = format!("{place} expires at once");
        return Err(Error::configuration(message, "expires = \"30d\""));
    }
    let known = Consent::COLUMNS.iter().any(|name| profile.type_of(name).is_some());
    if !rule.requires_consent.is_empty() && !known {
        return Err(Error::configuration(
            format!(
                "{place} requires consent, but the profile has neither {}",
                Consent::COLUMNS.join(" nor ")
            ),
            "nobody could be in it; map one of these columns in c360.toml",
        ));
    }
    let scopes: BTreeSet<&String> = rule.requires_consent.iter().collect();
    if scopes.len() < rule.requires_consent.len() || scopes.iter().any(|scope| scope.is_empty()) {
        let message =
            format!("{place} requires_consent names a scope twice, or one without a name");
        return Err(Error::configuration(message, "requires_consent = [\"email\"]"));
    }
    Ok(())
}

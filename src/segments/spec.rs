//! `models/segments.toml`, unchecked and checked.

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
    /// The segment's name.
    pub name: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// Who comes in: a predicate over features, scores, percentiles and thresholds.
    pub enter: String,
    /// Who else stays in, beside those whom `enter` holds for.
    #[serde(default)]
    pub stay: Option<String>,
    /// How long a member stays at least, unless they buy.
    #[serde(default)]
    pub min_dwell: Option<Duration>,
    /// How long a member stays at most; who was put out so comes in again only after `enter` has once
    /// ceased to hold.
    #[serde(default)]
    pub expires: Option<Duration>,
    /// Of the rules of one group a customer is in the first that holds, and in no other.
    #[serde(default)]
    pub group: Option<String>,
    /// What a member must have consented to.
    #[serde(default)]
    pub requires_consent: Vec<String>,
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
    /// Numbers that rules may name, so that one can be tried before it is live.
    #[serde(default)]
    pub thresholds: BTreeMap<String, Number>,
    /// The rules by priority.
    #[serde(default, rename = "segment")]
    pub rules: Vec<RuleSpec>,
    /// Made-up customers with the segments that they must have.
    #[serde(default, rename = "example")]
    pub examples: Vec<ExampleSpec>,
}

/// A checked rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Segments {
    /// By priority.
    pub rules: Vec<Rule>,
    /// The primary segment where no primary rule holds.
    pub otherwise: String,
    /// The file's thresholds.
    pub thresholds: BTreeMap<String, Number>,
    /// What the rules must give; scoring does not need them.
    #[serde(skip)]
    pub examples: Vec<Example>,
    /// What a check was made of; None in a project without the file. Scoring does not need it.
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
    /// Checks the rules against features, scores and the profile; a project without the file has none.
    ///
    /// # Errors
    /// A configuration error for a rule that cannot be checked, that nobody can ever meet, or that
    /// others before it always forestall; and for a threshold that nothing uses.
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

    /// The same rules with other thresholds.
    ///
    /// # Errors
    /// As [`Segments::check`], and for a threshold that the file does not have.
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

    /// The names of all segments by priority, the one for all others last.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.spec.name.as_str()).chain([self.otherwise.as_str()])
    }
}

impl Rule {
    /// Whether the rule names a segment, or a column.
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
        // A rule is another one where a segment that it names is.
        let named = before.iter().filter(|other| rule.names(&other.spec.name));
        let versions: Vec<String> = named.map(|other| other.version.clone()).collect();
        let definition = (&rule.enter, &rule.stay, spec.min_dwell, spec.expires);
        rule.version = fingerprint(&definition, &versions);
        Ok(rule)
    }
}

/// What rules may name.
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

/// Whether a rule's text has the name as a word.
fn is_used(name: &str, spec: &SegmentsSpec) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let has = |text: &String| text.split(|c| !is_word(c)).any(|word| word == name);
    spec.rules.iter().any(|rule| has(&rule.enter) || rule.stay.as_ref().is_some_and(has))
}

/// What of a rule does not depend on columns.
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

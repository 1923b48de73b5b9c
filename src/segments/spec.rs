//! The file `models/segments.toml`, before and after the check.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::example::{Example, ExampleSpec};
use super::problem::SegmentProblem;
use super::reach;
use super::rule::{Rule, RuleSpec, check_spec};
use crate::error::{Error, Result};
use crate::expression::{Columns, Number, Type};
use crate::features::catalog::Catalog;
use crate::money::Scale;
use crate::sources::profile::ProfilePlan;
use crate::spec::Models;

/// The content of `models/segments.toml`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
                return Err(Error::duplicate(file, "segment", &rule.name));
            }
            check_spec(&file, rule, profile)?;
            let checked = Rule::check(&file, rule, &columns, &rules)?;
            if columns.names().any(|name| name == rule.name) {
                let segment = rule.name.clone();
                return Err(SegmentProblem::SegmentIsColumn { file, segment }.into());
            }
            columns.insert(&rule.name, Type::Boolean);
            rules.push(checked);
        }
        if let Some(name) = spec.thresholds.keys().find(|name| !is_used(name, &spec)) {
            return Err(SegmentProblem::UnusedThreshold { file, threshold: name.clone() }.into());
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

    /// The names with their descriptions, in the same order.
    pub fn described(&self) -> impl Iterator<Item = (&str, &str)> {
        let rules = self.rules.iter();
        let rules = rules.map(|rule| (rule.spec.name.as_str(), rule.spec.description.as_str()));
        rules.chain([(self.otherwise.as_str(), "Customers that no primary rule holds for")])
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
            let view = feature.view.clone();
            return Err(SegmentProblem::FeatureIsScore { view, feature: name }.into());
        }
        columns.insert(name, ty);
    }
    for (name, value) in &spec.thresholds {
        if columns.get(name).is_some() {
            let (file, threshold) = (file.to_owned(), name.clone());
            return Err(SegmentProblem::ThresholdIsColumn { file, threshold }.into());
        }
        if matches!(value, Number::Double(value) if !value.is_finite()) {
            let setting = format!("thresholds.{name}");
            let required = "a finite number";
            return Err(Error::setting(file, setting, value, required, "high_value = 500"));
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

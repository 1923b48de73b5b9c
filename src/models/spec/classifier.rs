//! Specs of calibrated classifiers: whom they score, what they predict, from what.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::check::check_as;
use crate::expression::{Expression, Type};
use crate::features::catalog::Catalog;
use crate::schema::profile_field;
use crate::sources::SourcePlan;
use crate::time::Duration;

/// Whether the label is that something happens or that it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// y = 1 where no such event happens.
    Absence,
    /// y = 1 where at least one such event happens.
    Presence,
}

/// What a classifier predicts: events in `[t + gap, t + gap + horizon)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSpec {
    /// Presence or absence.
    pub kind: LabelKind,
    /// The events.
    #[serde(rename = "where")]
    pub condition: String,
    /// Time to act before the outcome counts.
    pub gap: Duration,
    /// The length of the outcome window.
    pub horizon: Duration,
}

/// For whom a classifier is defined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EligibleSpec {
    /// A predicate over features.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// An event of `label.where` within this time: a duration, or `auto`, the 90th percentile of
    /// customers' median gaps between purchase days, within 30 and 365 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// Which past instants a classifier learns from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotsSpec {
    /// The distance between snapshots; default gap + horizon.
    #[serde(default)]
    pub every: Option<Duration>,
    /// At most so many training snapshots; default 6.
    #[serde(default)]
    pub count: Option<usize>,
    /// History that must precede the first snapshot; default 90d.
    #[serde(default)]
    pub lookback: Option<Duration>,
}

/// Which features a classifier sees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputsSpec {
    /// Whole views; default all.
    #[serde(default)]
    pub views: Option<Vec<String>>,
    /// Columns to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// How a classifier is fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FitSpec {
    /// Strengths of the L2 penalty per training row to choose from.
    pub l2: Vec<f64>,
    /// The least number of rows of each class.
    pub minimum_class: usize,
    /// At most so many training rows; beyond it a fixed hash of the key samples customers.
    pub max_rows: usize,
}

impl Default for FitSpec {
    fn default() -> Self {
        Self { l2: vec![1e-4, 1e-3, 1e-2, 1e-1], minimum_class: 100, max_rows: 100_000 }
    }
}

/// A model of `kind = "classifier"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierSpec {
    /// The model's name.
    pub name: String,
    /// The profile field it fills.
    pub writes: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// What y = 1 is called.
    pub positive: String,
    /// Who is scored.
    pub eligible: EligibleSpec,
    /// What is predicted.
    pub label: LabelSpec,
    /// When it learns.
    #[serde(default)]
    pub snapshots: SnapshotsSpec,
    /// From what.
    #[serde(default)]
    pub inputs: InputsSpec,
    /// How.
    #[serde(default)]
    pub fit: FitSpec,
}

/// Who is eligible, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eligible {
    /// A predicate over features.
    Where(Expression),
    /// An event of the label's kind within this time.
    Within(Duration),
    /// The same, with the time chosen at training.
    Auto,
}

/// A checked classifier.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// As the file says.
    pub spec: ClassifierSpec,
    /// The file.
    pub file: String,
    /// Label events, over event columns.
    pub label: Expression,
    /// Who is scored.
    pub eligible: Eligible,
    /// Columns of the catalog that the model sees.
    pub inputs: Vec<String>,
}

/// The profile fields that hold a probability.
const CLASSIFIER_FIELDS: [&str; 2] = ["churn_risk_score", "propensity_to_buy_score"];

impl Classifier {
    pub(super) fn check(
        file: String,
        spec: ClassifierSpec,
        catalog: &Catalog,
        events: &SourcePlan,
    ) -> Result<Self> {
        let scale = events.context.scale;
        let label = check_as(
            &spec.label.condition,
            Type::Boolean,
            &events.columns(),
            &format!("{file}: label.where"),
        )?;
        match profile_field(&spec.writes) {
            Some(field) if CLASSIFIER_FIELDS.contains(&field.name) => {}
            _ => {
                let valid = CLASSIFIER_FIELDS;
                return Err(Error::unknown(
                    format!("{file}: writes"),
                    "field",
                    &spec.writes,
                    valid,
                ));
            }
        }
        let eligible = match (&spec.eligible.condition, spec.eligible.within.as_deref()) {
            (Some(sql), None) => {
                let place = format!("{file}: eligible.where");
                Eligible::Where(check_as(sql, Type::Boolean, &catalog.columns(scale), &place)?)
            }
            (None, Some("auto")) => Eligible::Auto,
            (None, Some(text)) => Eligible::Within(text.parse().map_err(|error: String| {
                Error::configuration(format!("{file}: eligible.within: {error}"), "or \"auto\"")
            })?),
            _ => {
                return Err(Error::configuration(
                    format!("{file}: eligible needs either `where` or `within`"),
                    "eligible = { within = \"auto\" }",
                ));
            }
        };
        if spec.label.horizon.0 == 0 || spec.snapshots.every.is_some_and(|every| every.0 == 0) {
            let message =
                format!("{file}: label.horizon and snapshots.every must be longer than 0");
            return Err(Error::configuration(message, "horizon = \"30d\""));
        }
        if spec.fit.l2.is_empty() || spec.fit.l2.iter().any(|l2| !l2.is_finite() || *l2 <= 0.0) {
            let message = format!("{file}: fit.l2 needs penalties above 0");
            return Err(Error::configuration(message, "l2 = [0.001, 0.01]"));
        }
        if spec.fit.minimum_class == 0 || spec.fit.max_rows == 0 || spec.snapshots.count == Some(0)
        {
            let message = format!("{file}: minimum_class, max_rows and count must be at least 1");
            return Err(Error::configuration(message, "leave them out for the defaults"));
        }
        let inputs = inputs(&file, &spec.inputs, catalog)?;
        Ok(Self { spec, file, label, eligible, inputs })
    }
}

/// The numeric columns of the views that a spec names, less what it excludes.
fn inputs(file: &str, spec: &InputsSpec, catalog: &Catalog) -> Result<Vec<String>> {
    for view in spec.views.iter().flatten() {
        if !catalog.views.iter().any(|known| known.name == *view) {
            let valid = catalog.views.iter().map(|view| &view.name);
            return Err(Error::unknown(format!("{file}: inputs.views"), "view", view, valid));
        }
    }
    for column in &spec.exclude {
        if catalog.get(column).is_none() {
            let valid = catalog.features.iter().map(|feature| feature.column());
            return Err(Error::unknown(format!("{file}: inputs.exclude"), "column", column, valid));
        }
    }
    let inputs: Vec<String> = catalog
        .features
        .iter()
        .filter(|f| spec.views.as_ref().is_none_or(|views| views.contains(&f.view)))
        .filter(|f| f.ty().is_numeric() || f.ty() == Type::Boolean)
        .map(|f| f.column().to_owned())
        .filter(|column| !spec.exclude.contains(column))
        .collect();
    if inputs.is_empty() {
        let message = format!("{file}: no numeric feature is left as an input");
        return Err(Error::configuration(message, "name views that have some"));
    }
    Ok(inputs)
}

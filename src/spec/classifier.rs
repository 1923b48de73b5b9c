//! Specs of calibrated classifiers: whom they score, what they predict, from what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::check::check_as;
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::spec::Op;
use crate::models::calibration::CalibrationChoice;
use crate::models::preprocessing::shape::ShapeChoice;
use crate::schema::{Origin, profile_field};
use crate::sources::SourcePlan;
use crate::sources::attributes::are_levels;
use crate::sources::profile::ProfilePlan;
use crate::time::{Duration, Window};

/// The least that may be asked for of a class, and as the bound of training rows.
const LEAST_CLASS: usize = 10;
const LEAST_ROWS: usize = 1000;

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
    /// Static profile attributes, a column per level.
    #[serde(default)]
    pub attributes: Vec<String>,
    /// Sensitive ones among them that are meant to be there.
    #[serde(default)]
    pub allow_sensitive: Vec<String>,
    /// How numbers become columns, where `shapes` says nothing else; default auto.
    #[serde(default)]
    pub shape: Option<ShapeChoice>,
    /// How single columns become columns of the model.
    #[serde(default)]
    pub shapes: BTreeMap<String, ShapeChoice>,
    /// Pairs of columns whose product is an input too.
    #[serde(default)]
    pub interactions: Vec<[String; 2]>,
}

/// Which algorithm fits a classifier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Logistic regression.
    #[default]
    Logistic,
    /// Gradient-boosted trees.
    Gbdt,
    /// Whichever loses less on the folds.
    Auto,
}

/// What the classes weigh in the fit; the calibration takes it back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeight {
    /// All rows the same.
    #[default]
    None,
    /// Both classes the same in sum.
    Balanced,
    /// A row of y = 1 as much as so many of y = 0.
    Positive(f64),
}

impl ClassWeight {
    /// What a row of y = 0 and one of y = 1 weigh.
    pub fn of(self, labels: &[bool]) -> [f64; 2] {
        let positives = labels.iter().filter(|label| **label).count() as f64;
        let negatives = labels.len() as f64 - positives;
        match self {
            Self::Balanced if positives > 0.0 && negatives > 0.0 => {
                let rows = labels.len() as f64;
                [rows / 2.0 / negatives, rows / 2.0 / positives]
            }
            Self::None | Self::Balanced => [1.0; 2],
            Self::Positive(weight) => [1.0, weight],
        }
    }
}

/// How raw logits become probabilities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrationSpec {
    /// Platt's line, an isotonic curve, or whichever is better.
    pub method: CalibrationChoice,
}

/// What the report tells beside the standard metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// Profile attributes by whose levels metrics are shown; default those that matter where the
    /// profile has them.
    pub slices: Option<Vec<String>>,
    /// What reaching a customer with y = 1 brings, in the project's currency.
    pub benefit: Option<f64>,
    /// What reaching any customer costs, in the project's currency.
    pub cost: Option<f64>,
}

/// When a new version takes the place of the one in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromotionSpec {
    /// How much average precision may fall, at least; one standard error where that is more.
    pub tolerance: f64,
    /// The age from which scoring with a version warns.
    pub max_age: Duration,
}

impl Default for PromotionSpec {
    fn default() -> Self {
        Self { tolerance: 0.005, max_age: Duration::days(90) }
    }
}

/// How a classifier is fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FitSpec {
    /// Strengths of the L2 penalty to choose from: half of it times the squared coefficients is added
    /// to the sum of the log loss, as by scikit-learn with C = 1 / l2.
    pub l2: Vec<f64>,
    /// The least number of rows of each class.
    pub minimum_class: usize,
    /// At most so many training rows; beyond it a fixed hash of the key samples customers.
    pub max_rows: usize,
    /// What the classes weigh.
    pub class_weight: ClassWeight,
    /// Leaves of a boosted tree to choose from.
    pub leaves: Vec<usize>,
    /// Boosted trees at most; folds choose how many.
    pub trees: usize,
    /// What boosted trees' leaves are multiplied by.
    pub learning_rate: f64,
    /// Whether the other algorithm is fitted too, for the report to compare.
    pub compare: bool,
}

impl Default for FitSpec {
    fn default() -> Self {
        Self {
            l2: vec![1.0, 10.0, 100.0, 1000.0],
            minimum_class: 100,
            max_rows: 100_000,
            class_weight: ClassWeight::None,
            leaves: vec![4, 8],
            trees: 200,
            learning_rate: 0.1,
            compare: true,
        }
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
    /// Logistic regression, boosted trees, or whichever the folds prefer.
    #[serde(default)]
    pub algorithm: Algorithm,
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
    /// How logits become probabilities.
    #[serde(default)]
    pub calibration: CalibrationSpec,
    /// What the report tells.
    #[serde(default)]
    pub evaluation: EvaluationSpec,
    /// When it comes into use.
    #[serde(default)]
    pub promotion: PromotionSpec,
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
    /// Profile attributes by whose levels metrics are shown.
    pub slices: Vec<String>,
}

/// The profile fields that hold a probability.
const CLASSIFIER_FIELDS: [&str; 2] = ["churn_risk_score", "propensity_to_buy_score"];

impl Classifier {
    /// Days since a customer's last event of the label's kind.
    pub fn recency(&self) -> Aggregation {
        let column = "label__days_since_last";
        self.of_label(column, Op::DaysSinceLast, Window::Lifetime, Type::Double)
    }

    /// What is computed from the events of the label's kind alone.
    pub fn of_label(&self, column: &str, op: Op, window: Window, ty: Type) -> Aggregation {
        Aggregation {
            column: column.to_owned(),
            op,
            input: None,
            condition: Some(self.label.clone()),
            window,
            half_life: None,
            ty,
        }
    }

    pub(super) fn check(
        file: String,
        spec: ClassifierSpec,
        catalog: &Catalog,
        events: &SourcePlan,
        profile: &ProfilePlan,
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
        check_numbers(&file, &spec)?;
        let inputs = inputs(&file, &spec.inputs, catalog)?;
        check_attributes(&file, &spec.inputs, profile)?;
        check_shapes(&file, &spec.inputs, &inputs)?;
        let slices = slices(&file, &spec.evaluation, profile)?;
        Ok(Self { spec, file, label, eligible, inputs, slices })
    }
}

fn check_numbers(file: &str, spec: &ClassifierSpec) -> Result<()> {
    let fault =
        |message: &str, hint: &str| Err(Error::configuration(format!("{file}: {message}"), hint));
    let FitSpec { l2, leaves, class_weight, .. } = &spec.fit;
    if l2.is_empty() || l2.iter().any(|l2| !l2.is_finite() || *l2 <= 0.0) {
        return fault("fit.l2 needs penalties above 0", "l2 = [1, 10, 100]");
    }
    if spec.fit.minimum_class < LEAST_CLASS {
        let message = format!("fit.minimum_class must be at least {LEAST_CLASS}");
        return fault(&message, "fewer rows of a class say nothing of a model");
    }
    if spec.fit.max_rows < LEAST_ROWS {
        let message = format!("fit.max_rows must be at least {LEAST_ROWS}");
        return fault(&message, "it bounds time and memory of a fit; the default is 100000");
    }
    if spec.snapshots.count == Some(0) {
        return fault("snapshots.count must be at least 1", "leave it out for the default");
    }
    let rate = spec.fit.learning_rate;
    if leaves.is_empty() || leaves.iter().any(|leaves| *leaves < 2) || spec.fit.trees == 0 {
        let message = "fit.leaves needs numbers from 2, fit.trees one from 1";
        return fault(message, "leaves = [4, 8], trees = 300");
    }
    if !(rate > 0.0 && rate <= 1.0) {
        return fault("fit.learning_rate must be above 0 and at most 1", "learning_rate = 0.05");
    }
    if let ClassWeight::Positive(weight) = class_weight
        && !(weight.is_finite() && *weight > 0.0)
    {
        return fault("fit.class_weight must be above 0", "class_weight = { positive = 2.0 }");
    }
    let EvaluationSpec { benefit, cost, .. } = &spec.evaluation;
    if [benefit, cost].into_iter().flatten().any(|amount| !amount.is_finite() || *amount < 0.0) {
        return fault(
            "evaluation.benefit and cost must not be below 0",
            "benefit = 20.0, cost = 1.5",
        );
    }
    if benefit.is_some() != cost.is_some() {
        let hint = "what reaching a customer with y = 1 brings, and what reaching any costs";
        return fault("evaluation needs benefit and cost together", hint);
    }
    let tolerance = spec.promotion.tolerance;
    if !(tolerance.is_finite() && tolerance >= 0.0) {
        return fault("promotion.tolerance must not be below 0", "tolerance = 0.005");
    }
    Ok(())
}

/// Raw profile fields that move with behaviour: what they are today was not yet known in the past.
const MOVING: [&str; 7] = [
    "updated_at",
    "preferred_channel",
    "opt_in_status",
    "consent_scopes",
    "interests",
    "loyalty_tier",
    "loyalty_points_balance",
];

/// Fields that are no model input unless a spec means it.
pub const SENSITIVE: [&str; 13] = [
    "gender",
    "date_of_birth",
    "age",
    "first_name",
    "last_name",
    "full_name",
    "primary_email",
    "primary_phone",
    "emails",
    "phones",
    "region",
    "city",
    "postal_code",
];

fn check_attributes(file: &str, spec: &InputsSpec, profile: &ProfilePlan) -> Result<()> {
    let fault = |message: String, hint: &str| {
        Err(Error::configuration(format!("{file}: inputs.attributes: {message}"), hint))
    };
    for name in &spec.attributes {
        let Some(ty) = profile.type_of(name) else {
            let place = format!("{file}: inputs.attributes");
            return Err(Error::unknown(place, "profile column", name, profile.names()));
        };
        let raw = profile_field(name).is_none_or(|field| field.origin == Origin::Raw);
        if !raw || MOVING.contains(&name.as_str()) {
            return fault(
                format!(
                    "{name} moves with what customers do; its value today was not known in the past"
                ),
                "only static attributes can be inputs; declare a feature over events instead",
            );
        }
        if SENSITIVE.contains(&name.as_str()) && !spec.allow_sensitive.contains(name) {
            return fault(
                format!("{name} is sensitive"),
                "if it is meant to be an input, name it in inputs.allow_sensitive too",
            );
        }
        if name == "customer360_id" || !are_levels(name, &ty) {
            return fault(
                format!("the values of {name} are no levels"),
                "text, whole numbers and booleans can be levels",
            );
        }
    }
    Ok(())
}

fn check_shapes(file: &str, spec: &InputsSpec, inputs: &[String]) -> Result<()> {
    let known = |place: &str, name: &String| match inputs.contains(name) {
        true => Ok(()),
        false => Err(Error::unknown(format!("{file}: {place}"), "input", name, inputs)),
    };
    spec.shapes.keys().try_for_each(|name| known("inputs.shapes", name))?;
    spec.interactions.iter().flatten().try_for_each(|name| known("inputs.interactions", name))?;
    for (number, [a, b]) in spec.interactions.iter().enumerate() {
        let same = |[c, d]: &&[String; 2]| (a, b) == (c, d) || (a, b) == (d, c);
        if spec.interactions[..number].iter().any(|other| same(&other)) {
            return Err(Error::configuration(
                format!("{file}: inputs.interactions: {a} x {b} is there twice"),
                "name each pair once, in either order",
            ));
        }
    }
    Ok(())
}

/// The attributes that metrics are shown by where a spec names none.
const SLICES: [&str; 7] =
    ["country", "region", "loyalty_tier", "gender", "date_of_birth", "language", "primary_source"];

fn slices(file: &str, spec: &EvaluationSpec, profile: &ProfilePlan) -> Result<Vec<String>> {
    let levels = |name: &str| profile.type_of(name).is_some_and(|ty| are_levels(name, &ty));
    let Some(names) = &spec.slices else {
        let names = SLICES.into_iter().filter(|name| levels(name));
        return Ok(names.map(str::to_owned).collect());
    };
    if let Some(name) = names.iter().find(|name| !levels(name)) {
        let valid = profile.names().filter(|name| levels(name));
        return Err(Error::unknown(format!("{file}: evaluation.slices"), "attribute", name, valid));
    }
    Ok(names.clone())
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

//! The specs of calibrated classifiers: the eligible customers, the label and the inputs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CardSpec, SpecProblem};
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

/// The lowest values that a spec may set for `fit.minimum_class` and `fit.max_rows`.
const LEAST_CLASS: usize = 10;
const LEAST_ROWS: usize = 1000;

/// Whether the label is the presence or the absence of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// y = 1 if no such event happens.
    Absence,
    /// y = 1 if at least one such event happens.
    Presence,
}

/// The label of a classifier: events in `[t + gap, t + gap + horizon)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelSpec {
    /// The kind of the label, presence or absence.
    pub kind: LabelKind,
    /// The predicate for the events of the label.
    #[serde(rename = "where")]
    pub condition: String,
    /// The time to act between the snapshot and the start of the outcome window; by default none.
    #[serde(default = "no_gap")]
    pub gap: Duration,
    /// The length of the outcome window.
    pub horizon: Duration,
}

fn no_gap() -> Duration {
    Duration(0)
}

/// The rule for the customers that a classifier is defined for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EligibleSpec {
    /// A predicate over features.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The length of time in which the customer must have an event of `label.where`. It is a duration, or
    /// `auto`: the 90th percentile of customers' median gaps between purchase days, between 30 and 365
    /// days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// The past snapshots that a classifier is trained on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotsSpec {
    /// The distance between snapshots; by default gap + horizon.
    #[serde(default)]
    pub every: Option<Duration>,
    /// The maximum number of training snapshots; by default 6.
    #[serde(default)]
    pub count: Option<usize>,
    /// The history that must precede the first snapshot; by default 90 days.
    #[serde(default)]
    pub lookback: Option<Duration>,
}

/// The inputs that a classifier uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputsSpec {
    /// The views whose features are inputs; by default all.
    #[serde(default)]
    pub views: Option<Vec<String>>,
    /// The columns that are left out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// The static profile attributes that are inputs, with one column per level.
    #[serde(default)]
    pub attributes: Vec<String>,
    /// The sensitive attributes that are intentionally inputs.
    #[serde(default)]
    pub allow_sensitive: Vec<String>,
    /// The shape of numbers that `shapes` does not name; by default `auto`.
    #[serde(default)]
    pub shape: Option<ShapeChoice>,
    /// The shapes of single inputs, by column.
    #[serde(default)]
    pub shapes: BTreeMap<String, ShapeChoice>,
    /// The pairs of inputs whose product is an input too.
    #[serde(default)]
    pub interactions: Vec<[String; 2]>,
}

/// The algorithm that a classifier is fitted with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Logistic regression.
    #[default]
    Logistic,
    /// Gradient-boosted trees.
    Gbdt,
    /// The algorithm with the lower log loss on the folds.
    Auto,
}

/// The weights of the classes in the fit. Calibration removes their effect on probabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeight {
    /// All rows have the same weight.
    #[default]
    None,
    /// Both classes have the same total weight.
    Balanced,
    /// A row with y = 1 has this many times the weight of a row with y = 0.
    Positive(f64),
}

impl ClassWeight {
    /// Computes the weights of a row with y = 0 and of a row with y = 1.
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

/// The settings of the calibration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrationSpec {
    /// The method: Platt scaling, an isotonic curve, or the better of both.
    pub method: CalibrationChoice,
}

/// The settings of the report that go beyond the standard metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// The profile attributes by whose levels metrics are shown; by default the usual ones that the
    /// profile has.
    pub slices: Option<Vec<String>>,
    /// The benefit of reaching a customer with y = 1, in the project's currency.
    pub benefit: Option<f64>,
    /// The cost of reaching any customer, in the project's currency.
    pub cost: Option<f64>,
}

/// The rules for when a new version replaces the champion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromotionSpec {
    /// The decrease in average precision that is allowed. One standard error is allowed if it is greater.
    pub tolerance: f64,
    /// The age of a version from which scoring warns.
    pub max_age: Duration,
}

impl Default for PromotionSpec {
    fn default() -> Self {
        Self { tolerance: 0.005, max_age: Duration::days(90) }
    }
}

/// The settings of the fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FitSpec {
    /// The L2 penalties to choose from. Half of the penalty times the squared coefficients is added to
    /// the sum of the log loss, as in scikit-learn with C = 1 / l2.
    pub l2: Vec<f64>,
    /// The minimum number of rows of each class.
    pub minimum_class: usize,
    /// The maximum number of training rows. Above it, customers are sampled by a fixed hash of the key.
    pub max_rows: usize,
    /// The weights of the classes.
    pub class_weight: ClassWeight,
    /// The numbers of leaves of a boosted tree to choose from.
    pub leaves: Vec<usize>,
    /// The maximum number of boosted trees. The folds choose the number.
    pub trees: usize,
    /// The factor by which the leaves of boosted trees are multiplied.
    pub learning_rate: f64,
    /// Whether the other algorithm is fitted too, so that the report can compare both.
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

/// The spec of a model of `kind = "classifier"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifierSpec {
    /// The name of the model.
    pub name: String,
    /// The profile field that the model fills.
    pub writes: String,
    /// A description for readers.
    #[serde(default)]
    pub description: String,
    /// The name of the class y = 1.
    pub positive: String,
    /// The algorithm: logistic regression, boosted trees, or the better of both on the folds.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// The rule for which customers are scored.
    pub eligible: EligibleSpec,
    /// The label that is predicted.
    pub label: LabelSpec,
    /// The snapshots that the model is trained on.
    #[serde(default)]
    pub snapshots: SnapshotsSpec,
    /// The inputs of the model.
    #[serde(default)]
    pub inputs: InputsSpec,
    /// The settings of the fit.
    #[serde(default)]
    pub fit: FitSpec,
    /// The settings of the calibration.
    #[serde(default)]
    pub calibration: CalibrationSpec,
    /// The settings of the report.
    #[serde(default)]
    pub evaluation: EvaluationSpec,
    /// The rules for when a version comes into use.
    #[serde(default)]
    pub promotion: PromotionSpec,
    /// The owner, the intended use and the limits for the model's report.
    #[serde(default, skip_serializing_if = "CardSpec::is_empty")]
    pub card: CardSpec,
}

/// The checked rule for which customers are eligible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eligible {
    /// A predicate over features.
    Where(Expression),
    /// At least one event of the label's kind within this length of time.
    Within(Duration),
    /// At least one such event within a length of time that training chooses.
    Auto,
}

/// A checked classifier.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// The spec as the file has it.
    pub spec: ClassifierSpec,
    /// The path of the file.
    pub file: String,
    /// The predicate for label events, over event columns.
    pub label: Expression,
    /// The rule for which customers are eligible.
    pub eligible: Eligible,
    /// The columns of the catalog that are inputs.
    pub inputs: Vec<String>,
    /// The profile attributes by whose levels metrics are shown.
    pub slices: Vec<String>,
}

/// The profile fields that a classifier may fill.
const CLASSIFIER_FIELDS: [&str; 2] = ["churn_risk_score", "propensity_to_buy_score"];

impl Classifier {
    /// The aggregation that computes the days since a customer's last event of the label's kind.
    pub fn recency(&self) -> Aggregation {
        let column = "label__days_since_last";
        self.of_label(column, Op::DaysSinceLast, Window::Lifetime, Type::Double)
    }

    /// Builds an aggregation over the events of the label's kind only.
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
            (None, Some(text)) => Eligible::Within(text.parse().map_err(|_| {
                let required = "a duration or \"auto\"";
                Error::setting(&file, "eligible.within", text, required, "within = \"90d\"")
            })?),
            _ => return Err(SpecProblem::Eligible { file }.into()),
        };
        let lengths = [
            ("label.horizon", Some(spec.label.horizon), "horizon = \"30d\""),
            ("snapshots.every", spec.snapshots.every, "every = \"30d\""),
        ];
        for (name, length, example) in lengths {
            if let Some(length) = length.filter(|length| length.0 == 0) {
                return Err(Error::setting(file, name, length, "longer than 0", example));
            }
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
    let wrong = |name: &str, value: &dyn std::fmt::Debug, required: &str, example: &str| {
        Err(Error::setting(file, name, format!("{value:?}"), required, example))
    };
    let FitSpec { l2, minimum_class, max_rows, leaves, trees, learning_rate, class_weight, .. } =
        &spec.fit;
    if l2.is_empty() || l2.iter().any(|l2| !l2.is_finite() || *l2 <= 0.0) {
        return wrong("fit.l2", l2, "a list of numbers above 0", "l2 = [1, 10, 100]");
    }
    if *minimum_class < LEAST_CLASS {
        let hint = "a model cannot be evaluated on fewer rows of a class";
        let required = format!("at least {LEAST_CLASS}");
        return wrong("fit.minimum_class", minimum_class, &required, hint);
    }
    if *max_rows < LEAST_ROWS {
        let hint = "it bounds time and memory of a fit; the default is 100000";
        return wrong("fit.max_rows", max_rows, &format!("at least {LEAST_ROWS}"), hint);
    }
    if spec.snapshots.count == Some(0) {
        return wrong("snapshots.count", &0, "at least 1", "leave it out for the default");
    }
    if leaves.is_empty() || leaves.iter().any(|leaves| *leaves < 2) {
        return wrong("fit.leaves", leaves, "a list of numbers from 2", "leaves = [4, 8]");
    }
    if *trees == 0 {
        return wrong("fit.trees", trees, "at least 1", "trees = 200");
    }
    if !(*learning_rate > 0.0 && *learning_rate <= 1.0) {
        let required = "above 0 and at most 1";
        return wrong("fit.learning_rate", learning_rate, required, "learning_rate = 0.05");
    }
    if let ClassWeight::Positive(weight) = class_weight
        && !(weight.is_finite() && *weight > 0.0)
    {
        let example = "class_weight = { positive = 2.0 }";
        return wrong("fit.class_weight.positive", weight, "above 0", example);
    }
    let EvaluationSpec { benefit, cost, .. } = &spec.evaluation;
    for (name, amount) in [("evaluation.benefit", benefit), ("evaluation.cost", cost)] {
        if let Some(amount) = amount.filter(|amount| !amount.is_finite() || *amount < 0.0) {
            return wrong(name, &amount, "at least 0", "benefit = 20.0, cost = 1.5");
        }
    }
    if benefit.is_some() != cost.is_some() {
        let problem = SpecProblem::HalfAPair {
            place: format!("{file}: evaluation"),
            first: "benefit",
            second: "cost",
            example: "what reaching a customer with y = 1 brings, and what reaching any costs",
        };
        return Err(problem.into());
    }
    let tolerance = spec.promotion.tolerance;
    if !(tolerance.is_finite() && tolerance >= 0.0) {
        return wrong("promotion.tolerance", &tolerance, "at least 0", "tolerance = 0.005");
    }
    Ok(())
}

/// Raw profile fields that change with behaviour. Their values of today were not known in the past.
const MOVING: [&str; 7] = [
    "updated_at",
    "preferred_channel",
    "opt_in_status",
    "consent_scopes",
    "interests",
    "loyalty_tier",
    "loyalty_points_balance",
];

/// Profile fields that are inputs only if a spec names them in `allow_sensitive`.
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
    for name in &spec.attributes {
        let Some(ty) = profile.type_of(name) else {
            let place = format!("{file}: inputs.attributes");
            return Err(Error::unknown(place, "profile column", name, profile.names()));
        };
        let (file, attribute) = (file.to_owned(), name.clone());
        let raw = profile_field(name).is_none_or(|field| field.origin == Origin::Raw);
        if !raw || MOVING.contains(&name.as_str()) {
            return Err(SpecProblem::MovingAttribute { file, attribute }.into());
        }
        if SENSITIVE.contains(&name.as_str()) && !spec.allow_sensitive.contains(name) {
            return Err(SpecProblem::SensitiveAttribute { file, attribute }.into());
        }
        if name == "customer360_id" || !are_levels(name, &ty) {
            return Err(SpecProblem::AttributeWithoutLevels { file, attribute }.into());
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
            let (file, first, second) = (file.to_owned(), a.clone(), b.clone());
            return Err(SpecProblem::RepeatedInteraction { file, first, second }.into());
        }
    }
    Ok(())
}

/// The attributes by which metrics are shown if a spec names none.
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

/// Lists the numeric columns of the views that a spec names, without those that it excludes.
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
        return Err(SpecProblem::NoInputs { file: file.to_owned() }.into());
    }
    Ok(inputs)
}

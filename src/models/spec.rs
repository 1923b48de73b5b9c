//! Model specs: `models/*.toml` unchecked, and checked against the features of the project.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::check::{check, check_as};
use crate::expression::{Expression, Node, Type, Value};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::plan::Interactions;
use crate::features::spec::Op;
use crate::schema::profile_field;
use crate::sources::SourcePlan;
use crate::time::{Duration, Window};

/// A file of `models/` other than `segments.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelSpec {
    /// A calibrated probability of what happens next.
    Classifier(ClassifierSpec),
    /// The engagement score, 0-100.
    Engagement(EngagementSpec),
    /// Recency, frequency and monetary value in quintiles.
    Rfm(RfmSpec),
    /// Taste vectors and recommendations.
    Affinity(AffinitySpec),
    /// What a customer is worth.
    LifetimeValue(LifetimeValueSpec),
}

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

/// A model of `kind = "engagement"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngagementSpec {
    /// The model's name.
    pub name: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// The weight of an event type; others weigh nothing.
    pub weights: std::collections::BTreeMap<String, f64>,
    /// Weights halve with this age.
    pub half_life: Duration,
    /// How far to look back.
    pub window: Duration,
}

/// A model of `kind = "rfm"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RfmSpec {
    /// The model's name.
    pub name: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// The purchases that count.
    #[serde(rename = "where")]
    pub condition: String,
    /// The refunds that lower the monetary value.
    pub refunds: String,
    /// How far frequency and money look back.
    pub window: Duration,
}

/// A model of `kind = "affinity"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinitySpec {
    /// The model's name.
    pub name: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// The item: an expression over the events, `category` or `product_id`.
    pub item: String,
    /// The weight of an event type; others weigh nothing.
    pub weights: std::collections::BTreeMap<String, f64>,
    /// Weights halve with this age.
    pub half_life: Duration,
    /// How far to look back.
    pub window: Duration,
    /// The length of the vectors.
    pub factors: usize,
    /// The L2 penalty.
    pub regularization: f64,
    /// Confidence is 1 + alpha x weight (Hu, Koren and Volinsky 2008).
    pub alpha: f64,
    /// Alternations of the solver.
    pub iterations: usize,
    /// The seed of the first item factors.
    pub seed: u64,
    /// Recommendations per customer.
    pub top: usize,
    /// Whether items that a customer has interacted with may be recommended to them.
    pub repeat: bool,
}

/// How lifetime value is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LifetimeValueMethod {
    /// Revenue net of refunds to date; nothing is predicted.
    Historic,
}

/// A model of `kind = "lifetime_value"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifetimeValueSpec {
    /// The model's name.
    pub name: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// How it is computed.
    pub method: LifetimeValueMethod,
    /// Revenue to date, over features.
    pub revenue: String,
    /// Refunds to date, over features.
    pub refunds: String,
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

/// A checked lifetime value model.
#[derive(Debug, Clone)]
pub struct LifetimeValue {
    /// As the file says.
    pub spec: LifetimeValueSpec,
    /// Money, over features.
    pub revenue: Expression,
    /// Money, over features.
    pub refunds: Expression,
}

/// A checked engagement, RFM or affinity model beside what it needs from the events.
#[derive(Debug, Clone)]
pub struct WithAggregations<S> {
    /// As the file says.
    pub spec: S,
    /// What it needs of the events.
    pub aggregations: Vec<Aggregation>,
}

/// A checked affinity model.
#[derive(Debug, Clone)]
pub struct Affinity {
    /// As the file says.
    pub spec: AffinitySpec,
    /// What it needs of the events.
    pub interactions: Interactions,
}

/// All models of a project.
#[derive(Debug, Clone, Default)]
pub struct Models {
    /// Churn, propensity and others.
    pub classifiers: Vec<Classifier>,
    /// The engagement score.
    pub engagement: Option<WithAggregations<EngagementSpec>>,
    /// RFM scores.
    pub rfm: Option<WithAggregations<RfmSpec>>,
    /// Taste.
    pub affinity: Option<Affinity>,
    /// Lifetime value.
    pub lifetime_value: Option<LifetimeValue>,
}

impl Models {
    /// Checks the specs, each with the name of its file.
    pub fn check(
        specs: Vec<(String, ModelSpec)>,
        catalog: &Catalog,
        events: &SourcePlan,
    ) -> Result<Self> {
        let mut models = Self::default();
        let mut names: Vec<String> = Vec::new();
        let mut fields: Vec<String> = Vec::new();
        for (file, spec) in specs {
            let name = spec.name().to_owned();
            if names.contains(&name) {
                let message = format!("{file}: a model called {name} is already declared");
                return Err(Error::configuration(message, "give each model a name of its own"));
            }
            names.push(name);
            let taken = |there: bool| match there {
                true => Err(Error::configuration(
                    format!("{file}: a project has one model of this kind"),
                    "remove the other file",
                )),
                false => Ok(()),
            };
            match spec {
                ModelSpec::Classifier(spec) => {
                    let classifier = Classifier::check(file.clone(), spec, catalog, events)?;
                    if fields.contains(&classifier.spec.writes) {
                        return Err(Error::configuration(
                            format!("{file}: another model writes {}", classifier.spec.writes),
                            "a field has one writer",
                        ));
                    }
                    fields.push(classifier.spec.writes.clone());
                    models.classifiers.push(classifier);
                }
                ModelSpec::Engagement(spec) => {
                    taken(models.engagement.is_some())?;
                    let aggregations = engagement_aggregations(&file, &spec, events)?;
                    models.engagement = Some(WithAggregations { spec, aggregations });
                }
                ModelSpec::Rfm(spec) => {
                    taken(models.rfm.is_some())?;
                    let aggregations = rfm_aggregations(&file, &spec, events)?;
                    models.rfm = Some(WithAggregations { spec, aggregations });
                }
                ModelSpec::Affinity(spec) => {
                    taken(models.affinity.is_some())?;
                    let interactions = interactions(&file, &spec, events)?;
                    models.affinity = Some(Affinity { spec, interactions });
                }
                ModelSpec::LifetimeValue(spec) => {
                    taken(models.lifetime_value.is_some())?;
                    let columns = catalog.columns(events.context.scale);
                    let revenue = check_as(
                        &spec.revenue,
                        Type::Money,
                        &columns,
                        &format!("{file}: revenue"),
                    )?;
                    let refunds = check_as(
                        &spec.refunds,
                        Type::Money,
                        &columns,
                        &format!("{file}: refunds"),
                    )?;
                    models.lifetime_value = Some(LifetimeValue { spec, revenue, refunds });
                }
            }
        }
        Ok(models)
    }

    /// Names of the models that are trained, in training order.
    pub fn trained(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.classifiers.iter().map(|m| m.spec.name.as_str()).collect();
        names.extend(self.engagement.iter().map(|m| m.spec.name.as_str()));
        names.extend(self.rfm.iter().map(|m| m.spec.name.as_str()));
        names.extend(self.affinity.iter().map(|m| m.spec.name.as_str()));
        names
    }
}

impl ModelSpec {
    fn name(&self) -> &str {
        match self {
            Self::Classifier(spec) => &spec.name,
            Self::Engagement(spec) => &spec.name,
            Self::Rfm(spec) => &spec.name,
            Self::Affinity(spec) => &spec.name,
            Self::LifetimeValue(spec) => &spec.name,
        }
    }
}

/// The profile fields that hold a probability.
const CLASSIFIER_FIELDS: [&str; 2] = ["churn_risk_score", "propensity_to_buy_score"];

impl Classifier {
    fn check(
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

/// `case event_type when … then …` over the weights, as checked text.
fn weight_sql(weights: &std::collections::BTreeMap<String, f64>) -> String {
    let branches: Vec<String> = weights
        .iter()
        .map(|(kind, weight)| format!("when '{}' then {weight:?}", kind.replace('\'', "''")))
        .collect();
    format!("case event_type {} end", branches.join(" "))
}

fn kinds_sql(weights: &std::collections::BTreeMap<String, f64>) -> String {
    let kinds: Vec<String> =
        weights.keys().map(|kind| format!("'{}'", kind.replace('\'', "''"))).collect();
    format!("event_type in ({})", kinds.join(", "))
}

fn check_weights(
    file: &str,
    weights: &std::collections::BTreeMap<String, f64>,
    events: &SourcePlan,
) -> Result<()> {
    if weights.is_empty() || weights.values().any(|weight| !weight.is_finite() || *weight <= 0.0) {
        let message = format!("{file}: weights need event types with numbers above 0");
        return Err(Error::configuration(message, "purchase = 10.0"));
    }
    for kind in weights.keys() {
        if !events.event_types.contains(kind) {
            let place = format!("{file}: weights");
            return Err(Error::unknown(place, "event type", kind, &events.event_types));
        }
    }
    Ok(())
}

/// The columns that [`super::engagement`] reads, in this order.
pub const ENGAGEMENT_COLUMNS: [&str; 3] =
    ["engagement__activity", "engagement__active_days", "engagement__channels"];

fn engagement_aggregations(
    file: &str,
    spec: &EngagementSpec,
    events: &SourcePlan,
) -> Result<Vec<Aggregation>> {
    check_weights(file, &spec.weights, events)?;
    if spec.half_life.0 == 0 || spec.window.0 == 0 {
        let message = format!("{file}: half_life and window must be longer than 0");
        return Err(Error::configuration(message, "half_life = \"14d\", window = \"180d\""));
    }
    let columns = events.columns();
    let weight = check_as(&weight_sql(&spec.weights), Type::Double, &columns, file)?;
    let condition = check(&kinds_sql(&spec.weights), &columns, file)?;
    let four_weeks = Window::Trailing(Duration::days(28));
    let [activity, active_days, channels] = ENGAGEMENT_COLUMNS;
    let make = |column: &str, op, input, window, half_life, ty| Aggregation {
        column: column.to_owned(),
        op,
        input,
        condition: Some(condition.clone()),
        window,
        half_life,
        ty,
    };
    let window = Window::Trailing(spec.window);
    let half_life = Some(spec.half_life);
    let mut list = vec![
        make(activity, Op::DecayedSum, Some(weight), window, half_life, Type::Double),
        make(active_days, Op::ActiveDays, None, four_weeks, None, Type::Integer),
    ];
    // A log without channels has one channel.
    let channel = match columns.get("channel") {
        Some(ty) => Expression::column("channel", ty),
        None => Expression { node: Node::Literal(Value::Integer(1)), ty: Type::Integer },
    };
    list.push(make(channels, Op::CountDistinct, Some(channel), four_weeks, None, Type::Integer));
    Ok(list)
}

/// The columns that [`super::rfm`] reads, in this order.
pub const RFM_COLUMNS: [&str; 4] =
    ["rfm__days_since_last_purchase", "rfm__purchase_days", "rfm__spend", "rfm__refunds"];

fn rfm_aggregations(file: &str, spec: &RfmSpec, events: &SourcePlan) -> Result<Vec<Aggregation>> {
    let columns = events.columns();
    let place = |key: &str| format!("{file}: {key}");
    let bought = check_as(&spec.condition, Type::Boolean, &columns, &place("where"))?;
    let refunded = check_as(&spec.refunds, Type::Boolean, &columns, &place("refunds"))?;
    let amount = check_as("abs(amount)", Type::Money, &columns, file)?;
    let window = Window::Trailing(spec.window);
    let [recency, days, spend, refunds] = RFM_COLUMNS;
    let make = |column: &str, op, input, condition: &Expression, window, ty| Aggregation {
        column: column.to_owned(),
        op,
        input,
        condition: Some(condition.clone()),
        window,
        half_life: None,
        ty,
    };
    Ok(vec![
        make(recency, Op::DaysSinceLast, None, &bought, Window::Lifetime, Type::Double),
        make(days, Op::ActiveDays, None, &bought, window, Type::Integer),
        make(spend, Op::Sum, Some(amount.clone()), &bought, window, Type::Money),
        make(refunds, Op::Sum, Some(amount), &refunded, window, Type::Money),
    ])
}

fn interactions(file: &str, spec: &AffinitySpec, events: &SourcePlan) -> Result<Interactions> {
    check_weights(file, &spec.weights, events)?;
    let positive = [spec.regularization, spec.alpha];
    if !(1..=256).contains(&spec.factors)
        || spec.iterations == 0
        || spec.half_life.0 == 0
        || positive.iter().any(|value| !value.is_finite() || *value <= 0.0)
    {
        return Err(Error::configuration(
            format!(
                "{file}: factors (1-256), iterations, half_life, regularization or alpha is off"
            ),
            "factors = 16, regularization = 1.0, alpha = 2.0, iterations = 15, half_life = \"60d\"",
        ));
    }
    let columns = events.columns();
    let item = check(&spec.item, &columns, &format!("{file}: item"))?;
    if !matches!(item.ty, Type::Text | Type::Integer) {
        let message = format!("{file}: item has type {}", item.ty.name());
        return Err(Error::configuration(message, "an item is text or an integer"));
    }
    let weight = check_as(&weight_sql(&spec.weights), Type::Double, &columns, file)?;
    let window = Window::Trailing(spec.window);
    Ok(Interactions { item, weight, window, half_life: spec.half_life })
}

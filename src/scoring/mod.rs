//! Scoring: the champions' features computed anew at the as-of, and every customer scored by them.

pub mod classifier;
pub mod engagement;
pub mod frame;
pub mod lifetime_value;
pub mod summary;
pub mod tables;
pub mod taste;
pub mod waterfall;

use std::collections::BTreeMap;

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};

use self::frame::{ScoreColumns, frame};
use crate::error::{Error, Result};
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::drift::Drift;
use crate::features::events::BuildReport;
use crate::features::plan::{AsOf, FeaturePlan, Interactions};
use crate::features::spec::Op;
use crate::models::spec::{Affinity, Models};
use crate::sources::SourcePlan;
use crate::sources::attributes::{Attributes, are_levels};
use crate::sources::profile::{ProfilePlan, keys};
use crate::store::parquet::{concat, take};
use crate::time::{Instant, Window, Zone};
use crate::training;
use crate::training::artifact::{
    AffinityArtifact, Artifact, ClassifierArtifact, EngagementArtifact, RfmArtifact, Trained,
};
use crate::training::lifetime_value::LifetimeValueArtifact;

/// Why a score is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The model is defined for the customer.
    Model,
    /// Not eligible but with a past: the rate observed at their recency.
    Lapsed,
    /// Nothing is known; the score is null.
    None,
}

impl Basis {
    /// As written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Lapsed => "lapsed",
            Self::None => "none",
        }
    }
}

/// The scores of one model, in the order of the customers.
#[derive(Debug)]
pub struct ModelScores {
    /// The model's name.
    pub model: String,
    /// The version that scored.
    pub version: String,
    /// The profile field that the score fills; `rfm`, which is no field, for the sum of its scores.
    pub field: &'static str,
    /// The score, in the field's unit.
    pub score: Vec<Option<f64>>,
    /// Before calibration: a logit, or decayed activity.
    pub raw: Vec<Option<f64>>,
    /// 0-100 among the customers of the `model` basis.
    pub percentile: Vec<Option<f64>>,
    /// Why.
    pub basis: Vec<Basis>,
    /// Named numbers that the score is made of, customer by customer; empty for what has none.
    pub parts: Vec<Vec<(&'static str, f64)>>,
    /// Named contributions, greatest first; without a model basis a sentence that says why, with 0.
    pub reasons: Vec<Vec<(String, f64)>>,
    /// How far the model's inputs have moved since its training; empty for what has none.
    pub drift: Vec<Drift>,
}

/// A recommended item.
#[derive(Debug, Clone, PartialEq)]
pub struct Recommendation {
    /// The item.
    pub item: String,
    /// The predicted preference, or the popularity of the item for a customer without a past.
    pub score: f64,
    /// 0-100: the share of customers whose score of this item is below; None for what is just popular.
    pub percentile: Option<f64>,
    /// `own` for what the customer has already, `taste` for what customers like them have, `popular`.
    pub reason: &'static str,
    /// The customer's own item that speaks for it most.
    pub because: Option<String>,
}

/// The champions that score.
#[derive(Debug, Default)]
pub struct Champions {
    /// With their versions.
    pub classifiers: Vec<(String, String, ClassifierArtifact)>,
    /// With its version.
    pub engagement: Option<(String, String, EngagementArtifact)>,
    /// With its version.
    pub rfm: Option<(String, String, RfmArtifact)>,
    /// With its version.
    pub lifetime_value: Option<(String, String, LifetimeValueArtifact)>,
    /// With its version.
    pub affinity: Option<(String, String, AffinityArtifact)>,
}

impl Champions {
    /// Adds an artifact.
    pub fn add(&mut self, artifact: Artifact) {
        let (name, version) = (artifact.name, artifact.version);
        match artifact.model {
            Trained::Classifier(model) => self.classifiers.push((name, version, *model)),
            Trained::Engagement(model) => self.engagement = Some((name, version, model)),
            Trained::Rfm(model) => self.rfm = Some((name, version, model)),
            Trained::LifetimeValue(model) => self.lifetime_value = Some((name, version, *model)),
            Trained::Affinity(model) => self.affinity = Some((name, version, *model)),
        }
    }

    /// The profile attributes that they read and the profile has.
    pub fn attributes<'a>(&'a self, profile: &'a ProfilePlan) -> Vec<&'a str> {
        let all = self.classifiers.iter().flat_map(|(_, _, artifact)| artifact.attributes());
        let all: std::collections::BTreeSet<&str> = all.collect();
        let levels = |name: &&str| profile.type_of(name).is_some_and(|ty| are_levels(name, &ty));
        all.into_iter().filter(levels).collect()
    }

    /// The version of each model.
    pub fn versions(&self) -> BTreeMap<&str, &str> {
        let classifiers = self.classifiers.iter().map(|(name, version, _)| (name, version));
        let engagement = self.engagement.iter().map(|(name, version, _)| (name, version));
        let rfm = self.rfm.iter().map(|(name, version, _)| (name, version));
        let lifetime_value = self.lifetime_value.iter().map(|(name, version, _)| (name, version));
        let affinity = self.affinity.iter().map(|(name, version, _)| (name, version));
        let all = classifiers.chain(engagement).chain(rfm).chain(lifetime_value).chain(affinity);
        all.map(|(name, version)| (name.as_str(), version.as_str())).collect()
    }
}

/// Everything known of every customer at one as-of, sorted by key.
#[derive(Debug)]
pub struct Scored {
    /// All catalog features, key first.
    pub features: RecordBatch,
    /// Features and scores: what segment rules see.
    pub frame: RecordBatch,
    /// By model.
    pub models: Vec<ModelScores>,
    /// Recency, frequency, monetary.
    pub rfm: Vec<[u8; 3]>,
    /// Affinity vectors, all of one length.
    pub vectors: Vec<Vec<f64>>,
    /// Top items.
    pub recommendations: Vec<Vec<Recommendation>>,
    /// The items of a customer's own interactions by weight, heaviest first.
    pub tastes: Vec<Vec<String>>,
    /// When the first event was.
    pub first_event: ArrayRef,
    /// What was read.
    pub report: BuildReport,
}

const FIRST_EVENT: &str = "profile__first_event";

/// Scores all customers by what has come of `plans`: by plan, the parts of its rows. `affinity` says what may
/// be recommended now.
pub fn score(
    source: &SourcePlan,
    attributes: &Attributes,
    (champions, affinity): (&Champions, Option<&Affinity>),
    plans: &Plans,
    batches: &BTreeMap<String, Vec<RecordBatch>>,
    report: BuildReport,
) -> Result<Scored> {
    let as_of = plans.as_of;
    let of = |name: &str| batches.get(name).map_or(&[][..], Vec::as_slice);
    let first = concat(of(FEATURES))?.filter(|rows| rows.num_rows() > 0).ok_or_else(|| {
        Error::not_enough(
            format!("there is no customer at {}", as_of.at),
            "choose an as-of after the first profile or event",
        )
    })?;
    let order = key_order(keys(&first)?);
    // Tables of the customers of the as-of.
    let table = |name: &str| -> Result<RecordBatch> {
        let rows = concat(of(name))?.ok_or_else(|| Error::Engine {
            context: "scoring",
            message: format!("the plan {name} gave no rows"),
        })?;
        take(&rows, &order)
    };

    let mut features = table(FEATURES)?;
    let first_event = features.remove_column(features.num_columns() - 1);
    let customers = features.num_rows();
    let mut scored = Vec::new();
    for (name, version, artifact) in &champions.classifiers {
        scored.push(classifier::score(
            name,
            version,
            artifact,
            &table(&of_model(name))?,
            attributes,
            source,
        )?);
    }
    if let Some((name, version, artifact)) = &champions.engagement {
        let past = concat(of(PAST))?;
        scored.push(engagement::score(
            name,
            version,
            artifact,
            &table(&of_model(name))?,
            past.as_ref(),
        )?);
    }
    let rfm = match &champions.rfm {
        Some((name, version, artifact)) => {
            let scores = rfm(artifact, &table(&of_model(name))?, source.context.zone, as_of.at)?;
            scored.push(rfm_scores(name, version, &scores));
            scores
        }
        None => vec![[0; 3]; customers],
    };
    if let Some((name, version, artifact)) = &champions.lifetime_value {
        scored.push(lifetime_value::score(
            name,
            version,
            artifact,
            &table(&of_model(name))?,
            source,
            as_of.at,
        )?);
    }
    let taste = match &champions.affinity {
        Some((_, _, artifact)) => {
            let scale = source.context.scale;
            let offer = affinity.map(|model| taste::offer(model, &artifact.model, scale));
            let offer = offer.transpose()?.unwrap_or_default();
            // A taste for what is no category is no interest.
            let by_category = artifact.interactions.item == category();
            let categories = if by_category { INTERACTIONS } else { CATEGORIES };
            let read = (of(INTERACTIONS), of(categories));
            taste::taste(artifact, &offer, read, keys(&features)?)?
        }
        None => taste::Taste::none(customers),
    };
    let columns: Vec<ScoreColumns> = scored.iter().map(ScoreColumns::of).collect();
    let of_rfm = champions.rfm.is_some().then_some(rfm.as_slice());
    let frame = frame(&features, &columns, of_rfm, source.context.scale)?;
    Ok(Scored {
        features,
        frame,
        models: scored,
        rfm,
        vectors: taste.vectors,
        recommendations: taste.recommendations,
        tastes: taste.own,
        first_event,
        report,
    })
}

/// The plan of all features of the catalog.
pub const FEATURES: &str = "features";
/// The plan of engagement as it was before.
const PAST: &str = "engagement before";
/// The plan of what taste is worked out from.
const INTERACTIONS: &str = "interactions";
/// The plan of the same over categories, where the items are none.
const CATEGORIES: &str = "interactions by category";

/// The name of a model's own plan.
fn of_model(name: &str) -> String {
    format!("model {name}")
}

/// What is asked of the events to score.
#[derive(Debug)]
pub struct Plans {
    /// All of them, each with a name of its own.
    pub list: Vec<FeaturePlan>,
    as_of: AsOf,
}

/// The catalog's plan, one per champion, then what is no table of customers at the as-of.
pub fn plans(catalog: &Catalog, champions: &Champions, source: &SourcePlan, as_of: AsOf) -> Plans {
    let all: Vec<&str> = catalog.features.iter().map(|feature| feature.column()).collect();
    let mut features = FeaturePlan::of_catalog(FEATURES, catalog, all, vec![as_of]);
    features.give(Aggregation {
        column: FIRST_EVENT.into(),
        op: Op::Min,
        input: Some(Expression::column("event_ts", Type::Timestamp)),
        condition: None,
        window: Window::Lifetime,
        half_life: None,
        ty: Type::Timestamp,
    });
    let now = |name: &str| FeaturePlan::new(name, vec![as_of]);
    let mut list = vec![features];
    list.extend(
        champions.classifiers.iter().map(|(name, _, model)| model.plan(now(&of_model(name)))),
    );
    if let Some((name, _, model)) = &champions.engagement {
        list.push(given(&model.aggregations, now(&of_model(name))));
        let then = AsOf { at: as_of.at.minus(engagement::TREND), ..as_of };
        list.push(given(&model.aggregations, FeaturePlan::new(PAST, vec![then])));
    }
    if let Some((name, _, model)) = &champions.rfm {
        list.push(given(&model.aggregations, now(&of_model(name))));
    }
    list.extend(
        champions.lifetime_value.iter().map(|(name, _, model)| model.plan(now(&of_model(name)))),
    );
    if let Some((_, _, model)) = &champions.affinity {
        let named = [INTERACTIONS, CATEGORIES].into_iter();
        list.extend(named.zip(interactions(&model.interactions, source)).filter_map(
            |(name, interactions)| {
                Some(FeaturePlan { interactions: Some(interactions?), ..now(name) })
            },
        ));
    }
    Plans { list, as_of }
}

/// What champions trained by the specs of today would ask, whose as-ofs do not matter.
pub fn plans_of(catalog: &Catalog, models: &Models, source: &SourcePlan) -> Vec<FeaturePlan> {
    let never = AsOf::at(Instant(0));
    let mut list = plans(catalog, &Champions::default(), source, never).list;
    let recency = models.classifiers.iter().map(training::gather::recency);
    list.extend(recency.map(|recency| given(&[recency], FeaturePlan::default())));
    let aggregations = [
        models.engagement.as_ref().map(|model| &model.aggregations),
        models.rfm.as_ref().map(|model| &model.aggregations),
    ];
    list.extend(aggregations.into_iter().flatten().map(|of| given(of, FeaturePlan::default())));
    list.extend(models.lifetime_value.iter().map(|model| model.plan(FeaturePlan::default())));
    let interactions = models
        .affinity
        .iter()
        .flat_map(|model| interactions(&model.interactions, source).into_iter().flatten());
    list.extend(interactions.map(|interactions| FeaturePlan {
        interactions: Some(interactions),
        ..FeaturePlan::default()
    }));
    list
}

/// What taste is worked out from, and the same over categories where the items are none.
fn interactions(own: &Interactions, source: &SourcePlan) -> [Option<Interactions>; 2] {
    let apart = own.item != category() && source.columns().get("category").is_some();
    let categories = apart.then(|| Interactions { item: category(), ..own.clone() });
    [Some(own.clone()), categories]
}

fn category() -> Expression {
    Expression::column("category", Type::Text)
}

/// A plan that gives these.
fn given(list: &[Aggregation], mut plan: FeaturePlan) -> FeaturePlan {
    list.iter().for_each(|aggregation| plan.give(aggregation.clone()));
    plan
}

fn key_order(keys: &StringArray) -> UInt32Array {
    let mut order: Vec<u32> = (0..keys.len() as u32).collect();
    order.sort_unstable_by(|a, b| keys.value(*a as usize).cmp(keys.value(*b as usize)));
    UInt32Array::from(order)
}

/// 0-100: the share of the given values below each, ties counted half.
pub fn percentiles(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut sorted: Vec<f64> = values.iter().flatten().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let rank = |value: f64| {
        let below = sorted.partition_point(|other| *other < value);
        let up_to = sorted.partition_point(|other| *other <= value);
        100.0 * (below + up_to) as f64 / 2.0 / count
    };
    values.iter().map(|value| value.map(rank)).collect()
}

fn rfm(
    artifact: &RfmArtifact,
    rows: &RecordBatch,
    zone: Zone,
    at: Instant,
) -> Result<Vec<[u8; 3]>> {
    Ok(training::rfm::read(rows, zone, at)?
        .into_iter()
        .map(|row| artifact.rfm.score(row))
        .collect())
}

/// The sum of the three scores with its parts; none for who never bought.
fn rfm_scores(name: &str, version: &str, scores: &[[u8; 3]]) -> ModelScores {
    let bought = |scores: &[u8; 3]| scores[0] > 0;
    let sum = |scores: &[u8; 3]| bought(scores).then(|| scores.iter().map(|s| f64::from(*s)).sum());
    let parts = |scores: &[u8; 3]| {
        if !bought(scores) {
            return vec![("has never bought".to_owned(), 0.0)];
        }
        let named = ["recency", "frequency", "monetary"].into_iter().zip(scores);
        named.map(|(part, score)| (part.to_owned(), f64::from(*score))).collect()
    };
    ModelScores {
        model: name.to_owned(),
        version: version.to_owned(),
        field: "rfm",
        score: scores.iter().map(sum).collect(),
        raw: vec![None; scores.len()],
        percentile: vec![None; scores.len()],
        parts: Vec::new(),
        basis: scores.iter().map(|s| if bought(s) { Basis::Model } else { Basis::None }).collect(),
        reasons: scores.iter().map(parts).collect(),
        drift: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_share_ties_and_skip_missing() {
        let values = [Some(1.0), None, Some(2.0), Some(2.0), Some(5.0)];
        let expected = [Some(12.5), None, Some(50.0), Some(50.0), Some(87.5)];
        assert_eq!(percentiles(&values), expected);
    }
}

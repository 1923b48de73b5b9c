//! The first stage of scoring: everything of a shard that needs one customer alone.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch};
use arrow_select::nullif::nullif;
use std::sync::Arc;

use super::affinity::{self, AffinityRows};
use super::champions::RFM;
use super::context::ScoringContext;
use super::plans::{CATEGORIES, FEATURES, FIRST_EVENT, INTERACTIONS, PAST_ENGAGEMENT, of_model};
use super::scores::{Basis, ModelScores};
use super::{classifier, engagement, lifetime_value, plans, rfm};
use crate::error::{Error, Result};
use crate::features::drift::Distribution;
use crate::features::events::ShardRows;
use crate::sources::attributes::Attributes;
use crate::sources::consent::Consent;
use crate::sources::profile::keys;
use crate::store::spill::Spill;
use crate::sum::ExactSum;
use crate::time::Instant;

/// The result of the first stage for the customers of a shard, in the order of their keys.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The features, with the key first. After [`Scored::take_up`] they are only those that the second
    /// stage needs.
    pub features: RecordBatch,
    /// The time of the first event.
    pub first_event: ArrayRef,
    /// The scores of the models, in the order of [`super::champions::Champions::scored`].
    pub models: Vec<ModelScores>,
    /// The scores of recency, frequency and monetary value; `None` without an RFM model.
    pub rfm: Option<[Int64Array; 3]>,
    /// The affinity vectors.
    pub vectors: ListArray,
    /// The categories of the customer's own interactions, with the greatest weight first.
    pub interests: ListArray,
    /// The recommendations, as in [`AffinityRows::recommendations`].
    pub recommendations: RecordBatch,
}

/// The summary of the scores of a shard. Summaries of different shards can be added.
#[derive(Debug, Clone, Default)]
pub struct ScoreSummary {
    /// The number of customers.
    pub customers: u64,
    /// The time of the latest event that counts.
    pub last_event: Option<Instant>,
    /// The summaries of the models, in their order.
    pub models: Vec<ModelCounts>,
    /// For each classifier, the distribution of each input among the eligible customers.
    pub inputs: Vec<Vec<Distribution>>,
}

/// The summary of the scores of one model.
#[derive(Debug, Clone)]
pub struct ModelCounts {
    /// The number of customers by basis, in the order of [`Basis::ALL`].
    pub basis: [u64; 3],
    /// The lowest and the highest score by basis. The lowest is above the highest if there is none.
    pub ranges: [[f64; 2]; 3],
    /// Whether all scores are whole numbers.
    pub are_whole: bool,
    /// For each first reason, the number of customers with it and the sum of its contributions, over the
    /// customers with a basis of `model`.
    pub reasons: BTreeMap<String, (u64, ExactSum)>,
}

impl Default for ModelCounts {
    fn default() -> Self {
        Self {
            basis: [0; 3],
            ranges: [[f64::MAX, f64::MIN]; 3],
            are_whole: true,
            reasons: BTreeMap::new(),
        }
    }
}

/// Why a customer has no scores whom the policy of the project lets only be stored.
const NOT_SCORED: &str = "the consent that [consent] in c360.toml asks for is missing";

/// Scores the customers of a shard. Those whom the policy of consent lets only be stored have a basis of `none`.
/// `profile` has their rows, sorted by key.
///
/// # Errors
/// Returns an engine error if a plan of the context has no rows.
pub fn score_shard(
    context: &ScoringContext,
    rows: &ShardRows,
    profile: &RecordBatch,
) -> Result<(Scored, ScoreSummary)> {
    let ScoringContext { as_of, zone, scale, champions, .. } = context;
    let mut features = rows.one(FEATURES)?.clone();
    let index = features.schema().index_of(FIRST_EVENT).map_err(Error::engine("scoring"))?;
    let first_event = features.remove_column(index);
    let names: Vec<&str> = context.attributes.iter().map(String::as_str).collect();
    let attributes = Attributes::of(profile, &names)?;
    let of = |name: &str| rows.one(&of_model(name));
    let (mut models, mut inputs, mut rfm_scores) = (Vec::new(), Vec::new(), None);
    for champion in &champions.classifiers {
        let rows = of(&champion.name)?;
        let (scores, counted) = classifier::score(&champion.artifact, rows, &attributes, *scale)?;
        models.push(scores);
        inputs.push(counted);
    }
    if let Some(champion) = &champions.engagement {
        let past = rows.one(PAST_ENGAGEMENT)?;
        models.push(engagement::score(&champion.artifact, of(&champion.name)?, past)?);
    }
    if let Some(champion) = &champions.rfm {
        let parts = rfm::parts(&champion.artifact, of(&champion.name)?, *zone, as_of.at)?;
        models.push(rfm::score(&parts));
        let part = |i: usize| parts.iter().map(|parts| Some(i64::from(parts[i]))).collect();
        rfm_scores = Some([0, 1, 2].map(part));
    }
    if let Some(champion) = &champions.lifetime_value {
        let rows = of(&champion.name)?;
        models.push(lifetime_value::score(&champion.artifact, rows, (*zone, *scale), as_of.at)?);
    }
    let customers = keys(&features)?;
    let mut affinity = match &champions.affinity {
        None => AffinityRows::none(customers.len())?,
        Some(champion) => {
            let own = rows.one(INTERACTIONS)?;
            // Only categories can be interests, not items of another kind.
            let is_own = plans::are_of_categories(&champion.artifact.interactions);
            let by_category = match is_own {
                true => Some(own),
                false if context.plans.iter().any(|plan| plan.name == CATEGORIES) => {
                    Some(rows.one(CATEGORIES)?)
                }
                false => None,
            };
            affinity::score(&champion.artifact, &context.offer, (own, by_category), customers)?
        }
    };
    if let Some(from) =
        Consent::of_customers(profile, customers)?.only_stored(&context.consent, customers.len())
    {
        models.iter_mut().try_for_each(|scores| scores.withhold(&from, NOT_SCORED))?;
        for part in rfm_scores.iter_mut().flatten() {
            *part = nullif(part, &from)
                .map_err(Error::engine("withholding scores"))?
                .as_primitive()
                .clone();
        }
        affinity.withhold(&from)?;
    }
    let AffinityRows { vectors, interests, recommendations } = affinity;
    let summary = ScoreSummary {
        customers: customers.len() as u64,
        last_event: last_event(context, &features),
        models: models.iter().map(ModelCounts::of).collect(),
        inputs,
    };
    let scored = Scored {
        features,
        first_event,
        models,
        rfm: rfm_scores,
        vectors,
        interests,
        recommendations,
    };
    Ok((scored, summary))
}

/// Finds the latest event of all customers, from the feature that fills `last_seen_at`.
fn last_event(context: &ScoringContext, features: &RecordBatch) -> Option<Instant> {
    let column = features.column_by_name(context.writer("last_seen_at")?)?;
    column.as_primitive_opt::<TimestampMicrosecondType>()?.iter().flatten().max().map(Instant)
}

impl ModelCounts {
    fn of(scores: &ModelScores) -> Self {
        let mut counts = Self::default();
        for (row, basis) in scores.basis.iter().enumerate() {
            let place = Basis::ALL.iter().position(|known| Some(known.name()) == basis);
            let Some(place) = place else { unreachable!("{basis:?} is not the name of a basis") };
            counts.basis[place] += 1;
            if scores.score.is_valid(row) {
                let score = scores.score.value(row);
                let [low, high] = counts.ranges[place];
                counts.ranges[place] = [low.min(score), high.max(score)];
                counts.are_whole &= score.fract() == 0.0;
            }
            if Basis::ALL[place] == Basis::Model
                && let Some((reason, contribution)) = scores.first_reason(row)
            {
                if !counts.reasons.contains_key(reason) {
                    counts.reasons.insert(reason.to_owned(), Default::default());
                }
                if let Some((count, sum)) = counts.reasons.get_mut(reason) {
                    *count += 1;
                    sum.add(contribution);
                }
            }
        }
        counts
    }

    /// The lowest and the highest score of all.
    pub fn range(&self) -> [f64; 2] {
        let all = |of: fn(&[f64; 2]) -> f64| self.ranges.iter().map(of);
        [all(|r| r[0]).fold(f64::MAX, f64::min), all(|r| r[1]).fold(f64::MIN, f64::max)]
    }

    fn add(&mut self, other: Self) {
        self.basis.iter_mut().zip(other.basis).for_each(|(own, more)| *own += more);
        for (own, more) in self.ranges.iter_mut().zip(other.ranges) {
            *own = [own[0].min(more[0]), own[1].max(more[1])];
        }
        self.are_whole &= other.are_whole;
        for (reason, (more, sum)) in other.reasons {
            let own = self.reasons.entry(reason).or_default();
            own.0 += more;
            own.1.merge(&sum);
        }
    }
}

impl ScoreSummary {
    /// Adds the summary of another shard.
    pub fn add(&mut self, other: Self) {
        self.customers += other.customers;
        self.last_event = self.last_event.max(other.last_event);
        self.models.resize_with(other.models.len(), ModelCounts::default);
        self.models.iter_mut().zip(other.models).for_each(|(own, more)| own.add(more));
        if self.inputs.is_empty() {
            self.inputs = other.inputs;
            return;
        }
        for (own, more) in self.inputs.iter_mut().zip(&other.inputs) {
            own.iter_mut().zip(more).for_each(|(own, more)| own.merge(more));
        }
    }
}

/// The columns per customer that are neither features nor scores.
const CUSTOMERS: [&str; 3] = [FIRST_EVENT, "vectors", "interests"];
/// The columns with the RFM scores, in the same batch.
const RFM_COLUMNS: [&str; 3] = ["rfm_recency", "rfm_frequency", "rfm_monetary"];

impl Scored {
    /// Writes the results that the second stage needs to disk.
    pub fn put_aside(&self, context: &ScoringContext, spill: &Spill, place: usize) -> Result<()> {
        let failed = "putting scores aside";
        let kept = context.kept_features();
        let schema = self.features.schema();
        let is_kept = |name: &str| name == "customer360_id" || kept.contains(name);
        let columns: Vec<usize> =
            (0..schema.fields().len()).filter(|i| is_kept(schema.field(*i).name())).collect();
        let features = self.features.project(&columns).map_err(Error::engine(failed))?;
        let arrays: [ArrayRef; 3] = [
            self.first_event.clone(),
            Arc::new(self.vectors.clone()),
            Arc::new(self.interests.clone()),
        ];
        let mut customers: Vec<(&str, ArrayRef, bool)> =
            CUSTOMERS.into_iter().zip(arrays).map(|(name, array)| (name, array, true)).collect();
        for (name, scores) in RFM_COLUMNS.into_iter().zip(self.rfm.iter().flatten()) {
            customers.push((name, Arc::new(scores.clone()), true));
        }
        let customers = RecordBatch::try_from_iter_with_nullable(customers);
        spill.add_rows(place, &[features])?;
        spill.add_rows(place, &[customers.map_err(Error::engine(failed))?])?;
        spill.add_rows(place, std::slice::from_ref(&self.recommendations))?;
        self.models.iter().try_for_each(|model| spill.add_rows(place, &[model.rows()?]))
    }

    /// Reads the results that [`Scored::put_aside`] has written.
    pub fn take_up(context: &ScoringContext, spill: &Spill, place: usize) -> Result<Self> {
        let mut batches = spill.read_rows(place)?.into_iter().flatten();
        let mut next = || {
            batches
                .next()
                .ok_or_else(|| Error::engine("taking scores up")("a shard was not scored"))
        };
        let (features, customers, recommendations) = (next()?, next()?, next()?);
        let scored = context.champions.scored();
        let models = scored.iter().map(|_| ModelScores::of(&next()?)).collect::<Result<_>>()?;
        let column = |name: &str| match customers.column_by_name(name) {
            Some(column) => column,
            None => unreachable!("{name} was put aside"),
        };
        let has_rfm = scored.iter().any(|model| model.field == RFM);
        let rfm = has_rfm.then(|| RFM_COLUMNS.map(|name| column(name).as_primitive().clone()));
        let [first_event, vectors, interests] = CUSTOMERS.map(column);
        Ok(Self {
            first_event: first_event.clone(),
            vectors: vectors.as_list::<i32>().clone(),
            interests: interests.as_list::<i32>().clone(),
            features,
            models,
            rfm,
            recommendations,
        })
    }
}

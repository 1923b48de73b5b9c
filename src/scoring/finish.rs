//! The second stage of scoring: everything of a shard that depends on the scores of other shards. With
//! its percentiles, a shard's customers are assigned to segments, and the tables of the shard are built.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow_schema::DataType;

use super::audience::AudienceCounts;
use super::context::ScoringContext;
use super::frame::{ScoreColumns, frame};
use super::score::Scored;
use super::summary::SegmentCounts;
use super::tables::{self, Customers};
use crate::error::Result;
use crate::profile::{Computed, Losses, merge};
use crate::schema::profile_field;
use crate::segments::{Assigned, Assignment, CustomerState, States, assign};
use crate::sources::consent::Consent;
use crate::sources::profile::keys;
use crate::time::Instant;

/// The input of a shard in addition to its scores.
pub struct ShardInput<'a> {
    /// The rows of the profile source, sorted by key.
    pub profile: &'a RecordBatch,
    /// The percentiles of the customers, one array for each model.
    pub percentiles: &'a [Float64Array],
    /// The rows of the segments table of the last as-of.
    pub previous: &'a [RecordBatch],
    /// The rows of the current profile, sorted by key; `None` if there is no profile to compare with.
    pub current: Option<&'a RecordBatch>,
}

/// The tables of a shard by their names in the store.
pub type Tables = Vec<(&'static str, RecordBatch)>;

/// The summary of a shard in the second stage. Summaries of different shards can be added.
#[derive(Debug, Clone, Default)]
pub struct FinishSummary {
    /// The sizes of segments, the flows between them and their overlaps.
    pub segments: SegmentCounts,
    /// The customers of each segment, as marketers see them.
    pub audiences: AudienceCounts,
    /// The history that computing the profile again would lose.
    pub losses: Losses,
}

impl FinishSummary {
    /// Adds the summary of another shard.
    pub fn add(&mut self, other: Self) {
        self.segments.add(other.segments);
        self.audiences.add(other.audiences);
        self.losses.add(other.losses);
    }
}

/// Assigns segments and builds all tables of a shard.
pub fn finish_shard(
    context: &ScoringContext,
    scored: &Scored,
    input: &ShardInput,
) -> Result<(Tables, FinishSummary)> {
    let as_of = context.as_of.at;
    let customers = keys(&scored.features)?;
    let names = context.champions.scored();
    let models = || names.iter().zip(&scored.models).zip(input.percentiles);
    let columns: Vec<ScoreColumns> = models()
        .map(|((name, scores), percentiles)| ScoreColumns::of(name, scores, percentiles))
        .collect();
    let frame = frame(&scored.features, &columns, scored.rfm.as_ref(), context.scale)?;
    let states = States::of(input.previous, customers)?;
    let last_purchase = last_purchases(context.writer("last_purchase_at"), &scored.features);
    let consent = Consent::of_customers(input.profile, customers)?;
    let known = CustomerState {
        previous: &states.customers,
        last_purchase: &last_purchase,
        consent: &consent,
        policy: &context.consent,
    };
    let assigned = assign(&context.segments, &frame, context.scale, as_of, known)?.assigned;
    let assigned = Assignment { customers: assigned, gone: states.gone };

    let whom = Customers { keys: customers, consent: &consent, as_of, previous: context.previous };
    let written: Vec<_> =
        models().map(|((name, scores), percentiles)| (*name, scores, percentiles)).collect();
    let churn = models().find(|((name, ..), _)| name.field == "churn_risk_score");
    let computed = Computed {
        churn_basis: churn.map(|((_, scores), _)| scores.basis.clone()),
        keys: customers,
        features: &scored.features,
        modeled: modeled(context, scored, &assigned.customers)?,
        interests: &scored.interests,
        first_event: &scored.first_event,
    };
    let (profile, losses) = merge(input.profile, &computed, &context.merge, input.current)?;
    let segments: Vec<&str> = context.segments.names().collect();
    let audiences = AudienceCounts::of(&segments, &assigned.customers, &profile, &consent, as_of)?;
    let mut tables = vec![
        ("profile", profile),
        ("scores", tables::scores(&written, whom)?),
        ("segments", tables::segments(&assigned.customers, whom)?),
        ("segment_changes", tables::changes(&assigned, whom)?),
    ];
    if let Some(champion) = &context.champions.affinity {
        let rows = &scored.recommendations;
        let rows = tables::recommendations(rows, &champion.version, whom)?;
        tables.push(("recommendations", rows));
    }
    let segments = SegmentCounts::of(&segments, &assigned, &consent);
    Ok((tables, FinishSummary { segments, audiences, losses }))
}

/// Reads each customer's last purchase from the feature that computes it. Without such a feature all are
/// `None`, and no purchase ends a dwell.
pub fn last_purchases(feature: Option<&str>, features: &RecordBatch) -> Vec<Option<Instant>> {
    let last = feature.and_then(|feature| features.column_by_name(feature));
    let last = last.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let at =
        |row: usize| last.filter(|last| last.is_valid(row)).map(|last| Instant(last.value(row)));
    (0..features.num_rows()).map(at).collect()
}

/// Converts scores, vectors and segments to the types of their profile fields.
fn modeled(
    context: &ScoringContext,
    scored: &Scored,
    assigned: &[Assigned],
) -> Result<Vec<(&'static str, ArrayRef)>> {
    let mut list: Vec<(&'static str, ArrayRef)> = Vec::new();
    for (model, scores) in context.champions.scored().iter().zip(&scored.models) {
        let Some(field) = profile_field(model.field) else { continue };
        if let Some(DataType::Decimal128(precision, places)) = field.arrow_type() {
            let decimal = tables::decimal(scores.score.iter(), precision, places as u8)?;
            list.push((field.name, decimal));
        }
    }
    list.push(("recommendation_vector", Arc::new(scored.vectors.clone())));
    let primary = assigned.iter().map(|assigned| &assigned.primary);
    list.push(("primary_segment", Arc::new(StringArray::from_iter_values(primary))));
    let mut segments = ListBuilder::new(StringBuilder::new());
    for assigned in assigned {
        assigned.memberships.iter().for_each(|m| segments.values().append_value(&m.segment));
        segments.append(true);
    }
    list.push(("segments", Arc::new(segments.finish())));
    Ok(list)
}

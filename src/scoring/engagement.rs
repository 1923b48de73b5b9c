//! Engagement: the score, its parts, and how it has changed.

use arrow_array::{Array, RecordBatch};

use super::{Basis, ModelScores, key_order, percentiles};
use crate::error::Result;
use crate::features::read::numeric;
use crate::models::engagement::Parts;
use crate::sources::profile::keys;
use crate::store::parquet::take;
use crate::time::Duration;
use crate::training::artifact::EngagementArtifact;

/// The score is compared with that of so long before.
pub const TREND: Duration = Duration::days(28);
/// The part that is the score less that of so long before.
pub const TREND_PART: &str = "trend_28d";

fn parts_of(artifact: &EngagementArtifact, rows: &RecordBatch) -> Result<(Vec<f64>, Vec<Parts>)> {
    let [activity, active_days, channels] = [1, 2, 3].map(|i| numeric(rows.column(i)));
    let (activity, active_days, channels) = (activity?, active_days?, channels?);
    let parts = (0..rows.num_rows())
        .map(|i| Parts::new(&artifact.ecdf, activity[i], active_days[i], channels[i]))
        .collect();
    Ok((activity, parts))
}

/// Scores rows sorted by key; `past` has who was there before, in any order.
pub fn score(
    name: &str,
    version: &str,
    artifact: &EngagementArtifact,
    rows: &RecordBatch,
    past: Option<&RecordBatch>,
) -> Result<ModelScores> {
    let (activity, parts) = parts_of(artifact, rows)?;
    let before = match past {
        Some(past) => before(artifact, rows, &take(past, &key_order(keys(past)?))?)?,
        None => vec![0.0; parts.len()],
    };
    let composite = &artifact.spec.composite;
    let score: Vec<Option<f64>> = parts.iter().map(|parts| Some(parts.score(composite))).collect();
    let named = parts.iter().zip(&before).map(|(parts, before)| {
        vec![
            ("activity", parts.activity),
            ("active_days", parts.frequency),
            ("channels", parts.breadth),
            (TREND_PART, parts.score(composite) - before),
        ]
    });
    let reasons = parts.iter().map(|parts| {
        let names = ["activity", "active days", "channels"];
        let points = names.into_iter().zip(parts.points(composite));
        points.map(|(name, points)| (name.to_owned(), points)).collect()
    });
    Ok(ModelScores {
        model: name.to_owned(),
        version: version.to_owned(),
        field: "engagement_score",
        percentile: percentiles(&score),
        parts: named.collect(),
        reasons: reasons.collect(),
        drift: Vec::new(),
        basis: vec![Basis::Model; score.len()],
        raw: activity.into_iter().map(Some).collect(),
        score,
    })
}

/// The scores of `past`, both sorted by key, in the order of `rows`; 0 for who was not there.
fn before(
    artifact: &EngagementArtifact,
    rows: &RecordBatch,
    past: &RecordBatch,
) -> Result<Vec<f64>> {
    let (now, then) = (keys(rows)?, keys(past)?);
    let (_, parts) = parts_of(artifact, past)?;
    let mut next = 0;
    let of_key = |key: Option<&str>| {
        while next < then.len() && key > Some(then.value(next)) {
            next += 1;
        }
        let found = next < then.len() && key == Some(then.value(next));
        if found { parts[next].score(&artifact.spec.composite) } else { 0.0 }
    };
    Ok(now.iter().map(of_key).collect())
}

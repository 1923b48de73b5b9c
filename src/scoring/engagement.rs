//! Scores engagement: the score, its parts and its trend.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ListArray, RecordBatch};

use super::scores::{Basis, ModelScores, Score, ScoresBuilder};
use crate::artifact::EngagementArtifact;
use crate::error::Result;
use crate::features::read::numeric;
use crate::models::engagement::Parts;
use crate::sources::profile::keys;
use crate::time::Duration;

/// The distance to the earlier score that the trend compares with.
pub const TREND: Duration = Duration::days(28);
/// The name of the part with the trend: the score minus the score of [`TREND`] earlier.
pub const TREND_PART: &str = "trend_28d";

fn parts_of(artifact: &EngagementArtifact, rows: &RecordBatch) -> Result<(Vec<f64>, Vec<Parts>)> {
    let [activity, active_days, channels] = [1, 2, 3].map(|i| numeric(rows.column(i)));
    let (activity, active_days, channels) = (activity?, active_days?, channels?);
    let parts = (0..rows.num_rows())
        .map(|i| Parts::new(&artifact.ecdf, activity[i], active_days[i], channels[i]))
        .collect();
    Ok((activity, parts))
}

/// Scores rows that are sorted by key. `past` has the rows of the earlier as-of, also sorted by key,
/// which the trend compares with.
pub fn score(
    artifact: &EngagementArtifact,
    rows: &RecordBatch,
    past: &RecordBatch,
) -> Result<ModelScores> {
    let (activity, parts) = parts_of(artifact, rows)?;
    let before = before(artifact, rows, past)?;
    let composite = &artifact.spec.composite;
    let mut scores = ScoresBuilder::new();
    for ((parts, before), activity) in parts.iter().zip(before).zip(activity) {
        let score = parts.score(composite);
        let names = ["activity", "active days", "channels"];
        let named = [
            ("activity", parts.activity),
            ("active_days", parts.frequency),
            ("channels", parts.breadth),
            (TREND_PART, score - before),
        ];
        let basis = Basis::Model;
        let score = Score { score: Some(score), raw: Some(activity), is_ranked: true, basis };
        scores.push(&score, names.into_iter().zip(parts.points(composite)), named);
    }
    Ok(scores.finish())
}

/// Computes the earlier score of each of `rows` from `past`, both sorted by key. It is 0 for a customer
/// who is not in `past`.
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

/// Reads the trend of each customer from the parts of the score; `None` if there is no trend.
pub fn trends(parts: &ListArray) -> Vec<Option<f64>> {
    let pairs = parts.values().as_struct();
    let names = pairs.column(0).as_string::<i32>();
    let values = pairs.column(1).as_primitive::<Float64Type>();
    let of_row = |bounds: &[i32]| {
        let mut own = bounds[0] as usize..bounds[1] as usize;
        own.find(|pair| names.value(*pair) == TREND_PART).map(|pair| values.value(pair))
    };
    parts.value_offsets().windows(2).map(of_row).collect()
}

//! Scores recency, frequency and monetary value from 1 to 5, and sums the three scores.

use arrow_array::RecordBatch;

use super::scores::{Basis, ModelScores, Score, ScoresBuilder};
use crate::artifact::RfmArtifact;
use crate::error::Result;
use crate::time::{Instant, Zone};

/// The names of the three scores.
pub const PARTS: [&str; 3] = ["recency", "frequency", "monetary"];

/// Computes the three scores of each row. All are 0 for customers who have never bought.
pub fn parts(
    artifact: &RfmArtifact,
    rows: &RecordBatch,
    zone: Zone,
    at: Instant,
) -> Result<Vec<[u8; 3]>> {
    let bought = crate::artifact::rfm::read(rows, zone, at)?.into_iter();
    Ok(bought.map(|row| artifact.rfm.score(row)).collect())
}

/// Builds the sum of the three scores with its parts. It is null for customers who have never bought. No
/// customer is ranked.
pub fn score(parts: &[[u8; 3]]) -> ModelScores {
    let mut scores = ScoresBuilder::new();
    for parts in parts {
        let bought = parts[0] > 0;
        let basis = if bought { Basis::Model } else { Basis::None };
        let sum = bought.then(|| parts.iter().map(|part| f64::from(*part)).sum());
        let score = Score { score: sum, raw: None, is_ranked: false, basis };
        if bought {
            let named = PARTS.into_iter().zip(parts.map(f64::from));
            scores.push(&score, named, []);
        } else {
            scores.push(&score, [("has never bought", 0.0)], []);
        }
    }
    scores.finish()
}

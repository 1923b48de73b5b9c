//! Scores lifetime value: net revenue to date plus the predicted value.

use arrow_array::RecordBatch;

use super::scores::{Basis, ModelScores, Score, ScoresBuilder};
use crate::artifact::lifetime_value::{LifetimeValueArtifact, to_date};
use crate::artifact::purchases::{self, Customer};
use crate::error::Result;
use crate::money::Scale;
use crate::time::{Instant, Zone};

/// Scores the rows of the artifact's plan. Only customers who have bought are ranked.
pub fn score(
    artifact: &LifetimeValueArtifact,
    rows: &RecordBatch,
    (zone, scale): (Zone, Scale),
    at: Instant,
) -> Result<ModelScores> {
    let [revenue, refunds] = to_date([&artifact.revenue, &artifact.refunds], rows, scale)?;
    let bought = purchases::read(rows, artifact.spec.cohort, zone, at)?;
    let is_buyer: Vec<bool> = bought.iter().map(Option::is_some).collect();
    let customers: Vec<Customer> = bought.into_iter().flatten().collect();
    let predictions = artifact
        .predictor
        .as_ref()
        .map(|predictor| predictor.predict(&customers, &artifact.discounting()));
    let mut predictions = predictions.into_iter().flatten();
    let ahead = format!("expected within {}", artifact.spec.horizon);
    let mut scores = ScoresBuilder::new();
    for ((revenue, refunds), is_buyer) in revenue.into_iter().zip(refunds).zip(is_buyer) {
        let historic = revenue - refunds;
        let mut parts = vec![("historic", historic)];
        let mut expected = 0.0;
        if let Some(prediction) = if is_buyer { predictions.next() } else { None } {
            expected = prediction.value * (1.0 - artifact.refund_rate);
            parts.push(("predicted", expected));
            parts.push(("expected_purchases", prediction.purchases));
            parts.push(("expected_spend", prediction.spend));
            parts.extend(prediction.p_alive.map(|p_alive| ("p_alive", p_alive)));
        }
        let mut reasons = vec![("revenue to date", revenue), ("refunds to date", 0.0 - refunds)];
        if artifact.predictor.is_some() {
            reasons.push((ahead.as_str(), expected));
        }
        let score = Score {
            score: Some(historic + expected),
            raw: Some(expected),
            is_ranked: is_buyer,
            basis: Basis::Model,
        };
        scores.push(&score, reasons, parts);
    }
    Ok(scores.finish())
}

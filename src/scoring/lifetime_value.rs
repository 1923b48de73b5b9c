//! Lifetime value: what a customer has brought, and what is expected of them.

use arrow_array::RecordBatch;

use super::{Basis, ModelScores, percentiles};
use crate::error::Result;
use crate::sources::SourcePlan;
use crate::time::Instant;
use crate::training::lifetime_value::purchases::{self, Customer};
use crate::training::lifetime_value::{LifetimeValueArtifact, to_date};

/// Scores the rows of the artifact's plan; percentiles are among customers who have bought.
pub fn score(
    name: &str,
    version: &str,
    artifact: &LifetimeValueArtifact,
    rows: &RecordBatch,
    source: &SourcePlan,
    at: Instant,
) -> Result<ModelScores> {
    let [revenue, refunds] = to_date([&artifact.revenue, &artifact.refunds], rows, source)?;
    let bought = purchases::read(rows, artifact.spec.cohort, source.context.zone, at)?;
    let mut buyers: Vec<usize> = Vec::new();
    let mut customers: Vec<Customer> = Vec::new();
    for (row, customer) in bought.into_iter().enumerate() {
        if let Some(customer) = customer {
            buyers.push(row);
            customers.push(customer);
        }
    }
    let predictions = artifact
        .predictor
        .as_ref()
        .map(|predictor| predictor.predict(&customers, &artifact.discounting()));
    let historic: Vec<f64> = revenue.iter().zip(&refunds).map(|(a, b)| a - b).collect();
    let mut expected = vec![0.0; historic.len()];
    let mut parts: Vec<Vec<(&'static str, f64)>> =
        historic.iter().map(|historic| vec![("historic", *historic)]).collect();
    for (row, prediction) in buyers.iter().zip(predictions.into_iter().flatten()) {
        expected[*row] = prediction.value * (1.0 - artifact.refund_rate);
        parts[*row].push(("predicted", expected[*row]));
        parts[*row].push(("expected_purchases", prediction.purchases));
        parts[*row].push(("expected_spend", prediction.spend));
        parts[*row].extend(prediction.p_alive.map(|p_alive| ("p_alive", p_alive)));
    }
    let total: Vec<f64> = historic.iter().zip(&expected).map(|(a, b)| a + b).collect();
    let mut of_buyers: Vec<Option<f64>> = vec![None; total.len()];
    buyers.iter().for_each(|row| of_buyers[*row] = Some(total[*row]));
    let ahead = format!("expected within {}", artifact.spec.horizon);
    let reasons = (0..total.len()).map(|row| {
        let mut list = vec![
            ("revenue to date".to_owned(), revenue[row]),
            ("refunds to date".to_owned(), 0.0 - refunds[row]),
        ];
        if artifact.predictor.is_some() {
            list.push((ahead.clone(), expected[row]));
        }
        list
    });
    Ok(ModelScores {
        model: name.to_owned(),
        version: version.to_owned(),
        field: "lifetime_value",
        percentile: percentiles(&of_buyers),
        parts,
        reasons: reasons.collect(),
        drift: Vec::new(),
        basis: vec![Basis::Model; total.len()],
        raw: expected.into_iter().map(Some).collect(),
        score: total.into_iter().map(Some).collect(),
    })
}

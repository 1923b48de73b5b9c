//! A classifier artifact applied to customers: probability, basis and the reasons for it.

use arrow_array::RecordBatch;
use rayon::prelude::*;

use super::{Basis, ModelScores, percentiles};
use crate::error::Result;
use crate::models::spec::LabelKind;
use crate::schema::profile_field;
use crate::sources::SourcePlan;
use crate::training::artifact::{ClassifierArtifact, ResolvedEligible};
use crate::training::gather::{column, truths};

/// Reasons kept per score.
const REASONS: usize = 3;

/// Scores every row of `rows`, which hold the artifact's inputs, its recency and what its
/// eligibility reads.
pub fn score(
    name: &str,
    version: &str,
    artifact: &ClassifierArtifact,
    rows: &RecordBatch,
    source: &SourcePlan,
) -> Result<ModelScores> {
    let recency = column(rows, &artifact.recency.column)?;
    let eligible: Vec<bool> = match &artifact.eligible {
        ResolvedEligible::Where(condition) => truths(condition, rows, source)?,
        ResolvedEligible::Within(length) => {
            recency.iter().map(|days| *days <= length.as_days()).collect()
        }
    };
    let inputs: Vec<Vec<f64>> = artifact
        .preprocessing
        .inputs
        .iter()
        .map(|input| column(rows, &input.column))
        .collect::<Result<_>>()?;
    let groups: Vec<String> =
        artifact.preprocessing.terms().into_iter().map(|(_, group)| group).collect();
    let scored: Vec<Row> = (0..rows.num_rows())
        .into_par_iter()
        .map(|i| match (eligible[i], recency[i].is_nan()) {
            (true, _) => by_model(artifact, &groups, inputs.iter().map(|input| input[i])),
            (false, false) => lapsed(artifact, recency[i]),
            (false, true) => Row::default(),
        })
        .collect();
    let of_model: Vec<Option<f64>> =
        scored.iter().map(|row| row.score.filter(|_| row.basis == Basis::Model)).collect();
    Ok(ModelScores {
        model: name.to_owned(),
        version: version.to_owned(),
        field: profile_field(&artifact.spec.writes).map_or("churn_risk_score", |field| field.name),
        percentile: percentiles(&of_model),
        score: scored.iter().map(|row| row.score).collect(),
        raw: scored.iter().map(|row| row.raw).collect(),
        basis: scored.iter().map(|row| row.basis).collect(),
        reasons: scored.into_iter().map(|row| row.reasons).collect(),
    })
}

struct Row {
    score: Option<f64>,
    raw: Option<f64>,
    basis: Basis,
    reasons: Vec<(String, f64)>,
}

impl Default for Row {
    fn default() -> Self {
        let reasons = vec![("not eligible, and no past event of the label's kind".to_owned(), 0.0)];
        Self { score: None, raw: None, basis: Basis::None, reasons }
    }
}

fn by_model(
    artifact: &ClassifierArtifact,
    groups: &[String],
    inputs: impl Iterator<Item = f64>,
) -> Row {
    let inputs: Vec<f64> = inputs.collect();
    let mut terms = Vec::with_capacity(groups.len());
    artifact.preprocessing.apply(&inputs, &mut terms);
    let raw = artifact.logistic.logit(&terms);
    // Columns are standardized: a contribution is measured against the training mean. Windows of
    // one feature are nearly collinear and are summed, else they would contradict each other.
    let mut reasons: Vec<(String, f64)> = Vec::new();
    for ((group, x), w) in groups.iter().zip(&terms).zip(&artifact.logistic.coefficients) {
        match reasons.iter_mut().find(|(known, _)| known == group) {
            Some((_, sum)) => *sum += x * w,
            None => reasons.push((group.clone(), x * w)),
        }
    }
    reasons.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then_with(|| a.0.cmp(&b.0)));
    reasons.truncate(REASONS);
    Row {
        score: Some(artifact.calibration.probability(raw, artifact.offset)),
        raw: Some(raw),
        basis: Basis::Model,
        reasons,
    }
}

fn lapsed(artifact: &ClassifierArtifact, recency: f64) -> Row {
    let sign = if artifact.spec.label.kind == LabelKind::Absence { 1.0 } else { -1.0 };
    match &artifact.lapsed {
        Some(rate) => Row {
            score: Some(rate.at(sign * recency)),
            raw: None,
            basis: Basis::Lapsed,
            reasons: vec![(
                format!("the rate observed {recency:.0} days after the last event"),
                0.0,
            )],
        },
        None => Row::default(),
    }
}

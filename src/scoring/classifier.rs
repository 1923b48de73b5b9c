//! Applies a classifier artifact to customers: probability, basis and reasons.

use arrow_array::RecordBatch;
use rayon::prelude::*;

use super::scores::{Basis, ModelScores, Score, ScoresBuilder};
use crate::artifact::{ClassifierArtifact, ResolvedEligible};
use crate::error::Result;
use crate::features::drift::{Distribution, Drift};
use crate::features::read::{column, truths};
use crate::models::matrix::Matrix;
use crate::money::Scale;
use crate::sources::attributes::Attributes;
use crate::spec::LabelKind;

/// The number of reasons that are kept per score.
const REASONS: usize = 3;

/// The number of rows that are transformed and scored together.
const CHUNK: usize = 1 << 12;

/// Scores every row of `rows`. They must hold the artifact's features, its recency and the columns of its
/// eligibility. Also returns the distribution of each input among the eligible customers.
pub fn score(
    artifact: &ClassifierArtifact,
    rows: &RecordBatch,
    attributes: &Attributes,
    scale: Scale,
) -> Result<(ModelScores, Vec<Distribution>)> {
    let recency = column(rows, &artifact.recency.column)?;
    let eligible = eligible(artifact, rows, &recency, scale)?;
    let groups: Vec<String> =
        artifact.preprocessing.terms().into_iter().map(|(_, group)| group).collect();
    let starts: Vec<usize> = (0..rows.num_rows()).step_by(CHUNK).collect();
    let chunks: Vec<(Vec<Row>, Vec<Distribution>)> = starts
        .into_par_iter()
        .map(|start| {
            let count = CHUNK.min(rows.num_rows() - start);
            let inputs = artifact.inputs(&rows.slice(start, count), attributes)?;
            let of_model: Vec<usize> = (0..count).filter(|i| eligible[start + i]).collect();
            let inputs = inputs.select(&of_model);
            let mut bins = empty_bins(artifact);
            (0..inputs.len()).for_each(|row| add(&mut bins, inputs.row(row)));
            let mut of_model = by_model(artifact, &groups, &inputs).into_iter();
            let row = |i: usize| match (eligible[i], recency[i].is_nan()) {
                (true, _) => of_model.next().unwrap_or_default(),
                (false, false) => lapsed(artifact, recency[i]),
                (false, true) => Row::default(),
            };
            Ok(((start..start + count).map(row).collect(), bins))
        })
        .collect::<Result<_>>()?;
    let mut bins = empty_bins(artifact);
    let mut scores = ScoresBuilder::new();
    for (rows, of_chunk) in chunks {
        bins.iter_mut().zip(&of_chunk).for_each(|(sum, more)| sum.merge(more));
        for Row { score, raw, basis, reasons } in rows {
            let score = Score { score, raw, is_ranked: basis == Basis::Model, basis };
            scores.push(&score, reasons.iter().map(|(name, value)| (name.as_str(), *value)), []);
        }
    }
    Ok((scores.finish(), bins))
}

fn eligible(
    artifact: &ClassifierArtifact,
    rows: &RecordBatch,
    recency: &[f64],
    scale: Scale,
) -> Result<Vec<bool>> {
    match &artifact.eligible {
        ResolvedEligible::Where(condition) => truths(condition, rows, scale),
        ResolvedEligible::Within(length) => {
            Ok(recency.iter().map(|days| *days <= length.as_days()).collect())
        }
    }
}

/// Creates the empty bins in which each input of an artifact is counted.
pub fn empty_bins(artifact: &ClassifierArtifact) -> Vec<Distribution> {
    artifact.reference.iter().map(Distribution::empty).collect()
}

fn add(bins: &mut [Distribution], inputs: &[f64]) {
    bins.iter_mut().zip(inputs).for_each(|(bins, value)| bins.add(*value));
}

/// Counts the distribution of each input among the eligible customers of `rows`, which must hold the
/// columns that [`score`] reads.
pub fn count(
    artifact: &ClassifierArtifact,
    rows: &RecordBatch,
    attributes: &Attributes,
    scale: Scale,
) -> Result<Vec<Distribution>> {
    let mut bins = empty_bins(artifact);
    let recency = column(rows, &artifact.recency.column)?;
    let eligible = eligible(artifact, rows, &recency, scale)?;
    let inputs = artifact.inputs(rows, attributes)?;
    (0..inputs.len()).filter(|row| eligible[*row]).for_each(|row| add(&mut bins, inputs.row(row)));
    Ok(bins)
}

/// Computes how far each counted input has moved since training.
pub fn drifts(artifact: &ClassifierArtifact, counted: &[Distribution]) -> Vec<Drift> {
    crate::artifact::drifts(&artifact.preprocessing, &artifact.reference, counted)
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

fn by_model(artifact: &ClassifierArtifact, groups: &[String], inputs: &Matrix) -> Vec<Row> {
    let columns = artifact.preprocessing.transform(inputs);
    let logits = artifact.estimator.logits(&columns);
    let contributions = artifact.estimator.contributions(&columns);
    let row = |(row, raw): (usize, f64)| Row {
        score: Some(artifact.shipped.probability(raw)),
        raw: Some(raw),
        basis: Basis::Model,
        reasons: reasons(groups, contributions.row(row)),
    };
    logits.into_iter().enumerate().map(row).collect()
}

/// The groups with the greatest absolute contribution to a logit. The windows of one feature are nearly
/// collinear, so their contributions are summed. Otherwise they would contradict each other.
fn reasons(groups: &[String], contributions: &[f64]) -> Vec<(String, f64)> {
    let mut reasons: Vec<(String, f64)> = Vec::new();
    for (group, contribution) in groups.iter().zip(contributions) {
        match reasons.iter_mut().find(|(known, _)| known == group) {
            Some((_, sum)) => *sum += contribution,
            None => reasons.push((group.clone(), *contribution)),
        }
    }
    reasons.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then_with(|| a.0.cmp(&b.0)));
    reasons.truncate(REASONS);
    reasons
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

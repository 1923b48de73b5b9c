//! How one customer's logit came about: every group of inputs, not only the few that `score` keeps.

use arrow_array::RecordBatch;
use serde::Serialize;

use crate::artifact::ClassifierArtifact;
use crate::error::Result;
use crate::models::preprocessing::shape::Shape;
use crate::sources::attributes::Attributes;

/// What a group of inputs adds to the logit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The group.
    pub feature: String,
    /// Against the mean of the training rows.
    pub contribution: f64,
    /// The group's inputs with the customer's values; None where one is missing.
    pub values: Vec<(String, Option<String>)>,
}

/// From the mean of the training rows to one customer's logit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waterfall {
    /// The logit where nothing adds anything.
    pub base: f64,
    /// The probability there.
    pub base_probability: f64,
    /// The greatest first; they add up to `raw` less `base`.
    pub steps: Vec<Step>,
    /// The logit before calibration.
    pub raw: f64,
    /// What is made of it.
    pub probability: f64,
}

impl Waterfall {
    /// Of the first of `rows`, which hold the artifact's features; None without a row.
    ///
    /// # Errors
    /// That a feature of the artifact is not there.
    pub fn of(
        artifact: &ClassifierArtifact,
        rows: &RecordBatch,
        attributes: &Attributes,
    ) -> Result<Option<Self>> {
        let inputs = artifact.inputs(rows, attributes)?;
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let columns = artifact.preprocessing.transform(&inputs);
        let raw = artifact.estimator.logits(&columns)[0];
        let contributions = artifact.estimator.contributions(&columns);
        let mut steps: Vec<Step> = Vec::new();
        for ((_, group), contribution) in
            artifact.preprocessing.terms().into_iter().zip(contributions.row(0))
        {
            match steps.iter_mut().find(|step| step.feature == group) {
                Some(step) => step.contribution += contribution,
                None => {
                    let values = values(artifact, &group, inputs.row(0));
                    steps.push(Step { feature: group, contribution: *contribution, values });
                }
            }
        }
        let by_size = |a: &Step, b: &Step| {
            let size = b.contribution.abs().total_cmp(&a.contribution.abs());
            size.then_with(|| a.feature.cmp(&b.feature))
        };
        steps.sort_by(by_size);
        let base = raw - steps.iter().map(|step| step.contribution).sum::<f64>();
        Ok(Some(Self {
            base,
            base_probability: artifact.shipped.probability(base),
            steps,
            raw,
            probability: artifact.shipped.probability(raw),
        }))
    }
}

/// The inputs of a group with their values, levels by name; a product has none of its own.
fn values(
    artifact: &ClassifierArtifact,
    group: &str,
    row: &[f64],
) -> Vec<(String, Option<String>)> {
    let inputs = artifact.preprocessing.inputs.iter().zip(row);
    let own = inputs.filter(|(input, _)| input.group == group);
    let text = |shape: &Shape, value: f64| match shape {
        Shape::Levels(levels) => {
            levels.names.get(value as usize).cloned().unwrap_or_else(|| "another".into())
        }
        _ => format!("{}", (value * 1e4).round() / 1e4),
    };
    own.map(|(input, value)| {
        let value = (!value.is_nan()).then(|| text(&input.shape, *value));
        (input.column.clone(), value)
    })
    .collect()
}

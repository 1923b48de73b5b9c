//! Explains one customer's logit by all groups of inputs, not only by the few that `score` keeps.

use arrow_array::RecordBatch;
use serde::Serialize;

use crate::artifact::ClassifierArtifact;
use crate::error::Result;
use crate::models::preprocessing::shape::Shape;
use crate::sources::attributes::Attributes;

/// The contribution of a group of inputs to the logit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The name of the group.
    pub feature: String,
    /// The contribution relative to the mean of the training rows, in logits.
    pub contribution: f64,
    /// The group's inputs with the customer's values; `None` for a missing value.
    pub values: Vec<(String, Option<String>)>,
}

/// The steps from the mean of the training rows to one customer's logit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waterfall {
    /// The logit if all contributions were zero.
    pub base: f64,
    /// The probability at that logit.
    pub base_probability: f64,
    /// The steps, with the greatest absolute contribution first. They sum to `raw` minus `base`.
    pub steps: Vec<Step>,
    /// The logit before calibration.
    pub raw: f64,
    /// The calibrated probability.
    pub probability: f64,
}

impl Waterfall {
    /// Explains the first of `rows`, which must hold the artifact's features. Returns `None` if there is
    /// no row.
    ///
    /// # Errors
    /// Returns an error if a feature of the artifact is missing.
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

/// Lists the inputs of a group with the customer's values, and levels by name. A product of inputs has no
/// values of its own.
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

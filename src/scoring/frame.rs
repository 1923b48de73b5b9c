//! The table that segment rules are evaluated on: features and scores of all customers.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};

use super::champions::{RFM, ScoredModel};
use super::scores::{Basis, ModelScores};
use super::{engagement, tables};
use crate::error::{Error, Result};
use crate::money::Scale;

/// The columns of one model for segment rules, in the order of the customers.
#[derive(Debug, Clone, Default)]
pub struct ScoreColumns {
    /// The profile field that the score fills.
    pub field: String,
    /// The score. It is null unless the basis is `model`, except for lifetime value, which has a score
    /// for every basis.
    pub score: Vec<Option<f64>>,
    /// The percentile, 0-100.
    pub percentile: Vec<Option<f64>>,
    /// The trend of the score, which only engagement has.
    pub trend: Vec<Option<f64>>,
}

impl ScoreColumns {
    /// Adds a customer.
    pub fn push(&mut self, score: Option<f64>, basis: &str, percentile: Option<f64>) {
        let whatever = self.field == LIFETIME_VALUE || basis == Basis::Model.name();
        self.score.push(score.filter(|_| whatever));
        self.percentile.push(percentile);
    }

    /// Builds the columns from the scores and percentiles of a model.
    pub(super) fn of(
        model: &ScoredModel,
        scores: &ModelScores,
        percentiles: &Float64Array,
    ) -> Self {
        let mut columns = Self { field: model.field.to_owned(), ..Self::default() };
        let rows = scores.score.iter().zip(scores.basis.iter().flatten()).zip(percentiles);
        rows.for_each(|((score, basis), rank)| columns.push(score, basis, rank));
        columns.trend = engagement::trends(&scores.parts);
        columns
    }
}

const LIFETIME_VALUE: &str = "lifetime_value";

/// Joins features and scores into one table.
pub fn frame(
    features: &RecordBatch,
    models: &[ScoreColumns],
    rfm: Option<&[Int64Array; 3]>,
    scale: Scale,
) -> Result<RecordBatch> {
    let mut fields: Vec<Field> =
        features.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut columns = features.columns().to_vec();
    let mut push = |name: String, array: ArrayRef| {
        fields.push(Field::new(name, array.data_type().clone(), true));
        columns.push(array);
    };
    let doubles = |values: &[Option<f64>]| -> ArrayRef {
        Arc::new(values.iter().copied().collect::<Float64Array>())
    };
    for model in models.iter().filter(|model| model.field != RFM) {
        let score = match model.field == LIFETIME_VALUE {
            true => tables::decimal(model.score.iter().copied(), 18, scale.places())?,
            false => doubles(&model.score),
        };
        push(model.field.clone(), score);
        let stem = model.field.strip_suffix("_score").unwrap_or(&model.field);
        push(format!("{stem}_percentile"), doubles(&model.percentile));
        if model.field == "engagement_score" {
            push("engagement_trend".to_owned(), doubles(&model.trend));
        }
    }
    if let Some(rfm) = rfm {
        for (name, scores) in ["rfm_recency", "rfm_frequency", "rfm_monetary"].iter().zip(rfm) {
            push((*name).to_owned(), Arc::new(scores.clone()));
        }
        let scores = (0..features.num_rows())
            .map(|row| [0, 1, 2].map(|part: usize| rfm[part].value(row) as u8));
        let names = scores.map(crate::models::rfm::segment);
        push("rfm_segment".to_owned(), Arc::new(StringArray::from_iter_values(names)));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(Error::engine("collecting scores"))
}

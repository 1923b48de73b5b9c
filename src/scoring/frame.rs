//! What segment rules see: features and scores of all customers in one table.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};

use super::{Basis, ModelScores, engagement, tables};
use crate::error::{Error, Result};
use crate::money::Scale;

/// The scores of one model as rules see them, in the order of the customers.
#[derive(Debug, Clone, Default)]
pub struct ScoreColumns {
    /// The profile field that the score fills.
    pub field: String,
    /// Null where the basis is not `model`; lifetime value has one whatever the basis.
    pub score: Vec<Option<f64>>,
    /// 0-100.
    pub percentile: Vec<Option<f64>>,
    /// How far it has moved; only of engagement.
    pub trend: Vec<Option<f64>>,
}

impl ScoreColumns {
    /// Adds a customer.
    pub fn push(&mut self, score: Option<f64>, basis: &str, percentile: Option<f64>) {
        let whatever = self.field == LIFETIME_VALUE || basis == Basis::Model.name();
        self.score.push(score.filter(|_| whatever));
        self.percentile.push(percentile);
    }

    pub(super) fn of(model: &ModelScores) -> Self {
        let mut columns = Self { field: model.field.to_owned(), ..Self::default() };
        let rows = model.score.iter().zip(&model.basis).zip(&model.percentile);
        rows.for_each(|((score, basis), rank)| columns.push(*score, basis.name(), *rank));
        let of = |parts: &Vec<(&str, f64)>| {
            parts.iter().find(|(name, _)| *name == engagement::TREND_PART).map(|part| part.1)
        };
        columns.trend = model.parts.iter().map(of).collect();
        columns
    }
}

const LIFETIME_VALUE: &str = "lifetime_value";
/// The name of RFM among the fields, which it is not.
const RFM: &str = "rfm";

/// Features and scores in one table.
pub fn frame(
    features: &RecordBatch,
    models: &[ScoreColumns],
    rfm: Option<&[[u8; 3]]>,
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
            true => tables::decimal(&model.score, 18, scale.places())?,
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
        for (i, name) in ["rfm_recency", "rfm_frequency", "rfm_monetary"].into_iter().enumerate() {
            let scores: Int64Array = rfm.iter().map(|scores| Some(i64::from(scores[i]))).collect();
            push(name.to_owned(), Arc::new(scores));
        }
        let names = rfm.iter().map(|scores| crate::models::rfm::segment(*scores));
        push("rfm_segment".to_owned(), Arc::new(StringArray::from_iter_values(names)));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(Error::engine("scores"))
}

//! The scores of one model for the customers of a shard, as Arrow columns.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, ListArray, RecordBatch, Scalar, StringArray,
};
use arrow_schema::{DataType, Field, Fields};
use arrow_select::zip::zip;

use crate::error::{Error, Result};

/// The basis of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The model is defined for the customer and gives the score.
    Model,
    /// The customer is not eligible but has a past event. The score is the rate observed at their
    /// recency.
    Lapsed,
    /// Nothing is known of the customer, or their consent is missing. The score is null.
    None,
}

impl Basis {
    /// All bases, in the order in which they are counted.
    pub const ALL: [Self; 3] = [Self::Model, Self::Lapsed, Self::None];

    /// The name as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Lapsed => "lapsed",
            Self::None => "none",
        }
    }
}

/// The scores of one model, in the order of the customers.
#[derive(Debug, Clone)]
pub struct ModelScores {
    /// The score, in the unit of the profile field.
    pub score: Float64Array,
    /// The value before calibration: a logit for a classifier, the decayed activity for engagement.
    pub raw: Float64Array,
    /// The score that percentiles are computed from; null for customers who are not ranked.
    pub ranked: Float64Array,
    /// The names of the [`Basis`] of each score.
    pub basis: StringArray,
    /// Pairs of a name and a contribution, greatest first. Without a basis of `model` it is one sentence
    /// with the reason, with a contribution of 0.
    pub reasons: ListArray,
    /// Pairs of a name and a number that the score consists of.
    pub parts: ListArray,
}

/// The names of the columns of [`ModelScores::rows`].
const COLUMNS: [&str; 6] = ["score", "raw", "ranked", "basis", "reasons", "parts"];

impl ModelScores {
    /// Converts the scores to a record batch.
    pub fn rows(&self) -> Result<RecordBatch> {
        let columns: [ArrayRef; 6] = [
            Arc::new(self.score.clone()),
            Arc::new(self.raw.clone()),
            Arc::new(self.ranked.clone()),
            Arc::new(self.basis.clone()),
            Arc::new(self.reasons.clone()),
            Arc::new(self.parts.clone()),
        ];
        let columns = COLUMNS.into_iter().zip(columns).map(|(name, array)| (name, array, true));
        RecordBatch::try_from_iter_with_nullable(columns)
            .map_err(Error::engine("collecting scores"))
    }

    /// Reads the scores from a record batch of [`ModelScores::rows`].
    pub fn of(rows: &RecordBatch) -> Result<Self> {
        let column = |name: &str| {
            rows.column_by_name(name).ok_or_else(|| {
                Error::engine("collecting scores")(format!("there is no column {name}"))
            })
        };
        let number =
            |name: &str| -> Result<_> { Ok(column(name)?.as_primitive::<Float64Type>().clone()) };
        let list = |name: &str| -> Result<_> { Ok(column(name)?.as_list::<i32>().clone()) };
        Ok(Self {
            score: number("score")?,
            raw: number("raw")?,
            ranked: number("ranked")?,
            basis: column("basis")?.as_string::<i32>().clone(),
            reasons: list("reasons")?,
            parts: list("parts")?,
        })
    }

    /// Takes the scores of some customers away, who get a basis of `none` with the reason.
    ///
    /// # Errors
    /// Returns an engine error if there are not as many customers as scores.
    pub fn withhold(&mut self, from: &BooleanArray, reason: &str) -> Result<()> {
        let mut none = ScoresBuilder::new();
        let score = Score { score: None, raw: None, is_ranked: false, basis: Basis::None };
        none.push(&score, [(reason, 0.0)], []);
        let none = none.finish().rows()?;
        let rows = self.rows()?;
        let columns = none.columns().iter().zip(rows.columns());
        let columns = columns.map(|(none, own)| zip(from, &Scalar::new(none.clone()), own));
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>();
        let columns = columns.map_err(Error::engine("withholding scores"))?;
        let rows = RecordBatch::try_new(rows.schema(), columns);
        *self = Self::of(&rows.map_err(Error::engine("withholding scores"))?)?;
        Ok(())
    }

    /// Lists every score, each with whether it is ranked.
    pub fn numbers(&self) -> Vec<(f64, bool)> {
        let rows = self.score.iter().enumerate();
        rows.filter_map(|(row, score)| Some((score?, self.ranked.is_valid(row)))).collect()
    }

    /// The first reason of a customer with its contribution; `None` if there are no reasons.
    pub fn first_reason(&self, row: usize) -> Option<(&str, f64)> {
        let first = self.reasons.value_offsets()[row] as usize;
        let pairs = self.reasons.values().as_struct();
        (self.reasons.value_length(row) > 0).then(|| {
            let (names, values) = (pairs.column(0), pairs.column(1));
            (
                names.as_string::<i32>().value(first),
                values.as_primitive::<Float64Type>().value(first),
            )
        })
    }
}

/// Builds the columns of [`ModelScores`] customer by customer.
pub struct ScoresBuilder {
    score: Float64Builder,
    raw: Float64Builder,
    ranked: Float64Builder,
    basis: StringBuilder,
    reasons: Pairs,
    parts: Pairs,
}

/// The score of one customer.
#[derive(Debug, Clone)]
pub struct Score {
    /// The score, in the unit of the profile field.
    pub score: Option<f64>,
    /// The value before calibration.
    pub raw: Option<f64>,
    /// Whether the customer is ranked by the score.
    pub is_ranked: bool,
    /// The basis of the score.
    pub basis: Basis,
}

impl ScoresBuilder {
    /// Creates a builder without scores.
    pub fn new() -> Self {
        Self {
            score: Float64Builder::new(),
            raw: Float64Builder::new(),
            ranked: Float64Builder::new(),
            basis: StringBuilder::new(),
            reasons: Pairs::new("feature", "contribution"),
            parts: Pairs::new("part", "value"),
        }
    }

    /// Adds a customer.
    pub fn push<'a>(
        &mut self,
        score: &Score,
        reasons: impl IntoIterator<Item = (&'a str, f64)>,
        parts: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        self.score.append_option(score.score);
        self.raw.append_option(score.raw);
        self.ranked.append_option(score.score.filter(|_| score.is_ranked));
        self.basis.append_value(score.basis.name());
        self.reasons.push(reasons);
        self.parts.push(parts);
    }

    /// Builds the columns of all customers.
    pub fn finish(mut self) -> ModelScores {
        ModelScores {
            score: self.score.finish(),
            raw: self.raw.finish(),
            ranked: self.ranked.finish(),
            basis: self.basis.finish(),
            reasons: self.reasons.finish(),
            parts: self.parts.finish(),
        }
    }
}

impl Default for ScoresBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// A builder of lists of pairs of a name and a number.
struct Pairs(ListBuilder<StructBuilder>);

impl Pairs {
    fn new(name: &str, value: &str) -> Self {
        let pair = Fields::from(vec![
            Field::new(name, DataType::Utf8, false),
            Field::new(value, DataType::Float64, false),
        ]);
        let list = ListBuilder::new(StructBuilder::from_fields(pair.clone(), 0));
        Self(list.with_field(Field::new("item", DataType::Struct(pair), false)))
    }

    fn push<'a>(&mut self, pairs: impl IntoIterator<Item = (&'a str, f64)>) {
        for (name, value) in pairs {
            let builder = self.0.values();
            if let Some(names) = builder.field_builder::<StringBuilder>(0) {
                names.append_value(name);
            }
            if let Some(values) = builder.field_builder::<Float64Builder>(1) {
                values.append_value(value);
            }
            builder.append(true);
        }
        self.0.append(true);
    }

    fn finish(&mut self) -> ListArray {
        self.0.finish()
    }
}

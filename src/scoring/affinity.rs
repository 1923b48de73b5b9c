//! Scores the affinity of every customer: vectors, recommendations with their reasons, and interests.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow_array::builder::{
    Float32Builder, Float64Builder, Int32Builder, ListBuilder, StringBuilder, UInt32Builder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, Scalar,
    StringArray, UInt32Array,
};
use arrow_schema::{Field, Schema};
use arrow_select::filter::filter_record_batch;
use arrow_select::zip::zip;
use rayon::prelude::*;

use crate::artifact::AffinityArtifact;
use crate::error::{Error, Result};
use crate::expression::polars::evaluate;
use crate::features::read::numeric;
use crate::models::affinity::{Because, Choice, ItemFactors, Offer};
use crate::money::Scale;
use crate::sources::profile::keys;
use crate::spec::{Affinity, ITEM_COLUMNS};
use crate::store::parquet::take;

/// The affinity of the customers of a shard, in their order.
#[derive(Debug)]
pub struct AffinityRows {
    /// The vectors, which all have the same length; empty lists without a model.
    pub vectors: ListArray,
    /// The categories of each customer's own interactions, with the greatest weight first.
    pub interests: ListArray,
    /// One row for each recommended item, best first within a customer.
    ///
    /// The columns are the index of the customer's row, rank, item, score, percentile (the share of
    /// customers whose score of the item is below, 0-100; null for customers without interactions), reason (`own`
    /// for items that the customer has already, `affinity` for items that customers with the same items have, or
    /// `popular`)
    /// and because (the customer's own item that adds most to the score).
    pub recommendations: RecordBatch,
}

impl AffinityRows {
    /// Takes vectors, interests and recommendations of some customers away.
    ///
    /// # Errors
    /// Returns an engine error if there are not as many customers as vectors.
    pub fn withhold(&mut self, from: &BooleanArray) -> Result<()> {
        let failed = "withholding recommendations";
        let none = Self::none(1)?;
        for (own, none) in
            [(&mut self.vectors, none.vectors), (&mut self.interests, none.interests)]
        {
            let left = zip(from, &Scalar::new(none), own).map_err(Error::engine(failed))?;
            *own = left.as_list::<i32>().clone();
        }
        let rows = self.recommendations.column(0).as_primitive::<UInt32Type>().values().iter();
        let kept: BooleanArray = rows.map(|row| Some(!from.value(*row as usize))).collect();
        self.recommendations =
            filter_record_batch(&self.recommendations, &kept).map_err(Error::engine(failed))?;
        Ok(())
    }

    /// Creates the rows of customers without a model of affinity: no vectors, interests or
    /// recommendations.
    pub fn none(customers: usize) -> Result<Self> {
        let mut rows = Rows::default();
        (0..customers).for_each(|row| rows.push(row, &[], &[], &[]));
        rows.finish()
    }
}

/// A recommended item.
struct Recommendation<'a> {
    item: &'a str,
    score: f64,
    percentile: Option<f64>,
    reason: &'static str,
    because: Option<&'a str>,
}

/// A builder of affinity rows.
#[derive(Default)]
struct Rows {
    vectors: ListBuilder<Float32Builder>,
    interests: ListBuilder<StringBuilder>,
    row: UInt32Builder,
    rank: Int32Builder,
    item: StringBuilder,
    score: Float64Builder,
    percentile: Float64Builder,
    reason: StringBuilder,
    because: StringBuilder,
}

impl Rows {
    fn push(
        &mut self,
        row: usize,
        vector: &[f64],
        interests: &[&str],
        recommended: &[Recommendation],
    ) {
        vector.iter().for_each(|value| self.vectors.values().append_value(*value as f32));
        self.vectors.append(true);
        interests.iter().for_each(|category| self.interests.values().append_value(category));
        self.interests.append(true);
        for (place, recommendation) in recommended.iter().enumerate() {
            self.row.append_value(row as u32);
            self.rank.append_value(place as i32 + 1);
            self.item.append_value(recommendation.item);
            self.score.append_value(recommendation.score);
            self.percentile.append_option(recommendation.percentile);
            self.reason.append_value(recommendation.reason);
            self.because.append_option(recommendation.because);
        }
    }

    fn finish(mut self) -> Result<AffinityRows> {
        let columns: [(&str, ArrayRef); 7] = [
            ("row", Arc::new(self.row.finish())),
            ("rank", Arc::new(self.rank.finish())),
            ("item", Arc::new(self.item.finish())),
            ("score", Arc::new(self.score.finish())),
            ("percentile", Arc::new(self.percentile.finish())),
            ("reason", Arc::new(self.reason.finish())),
            ("because", Arc::new(self.because.finish())),
        ];
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        Ok(AffinityRows {
            vectors: self.vectors.finish(),
            interests: self.interests.finish(),
            recommendations: RecordBatch::try_from_iter_with_nullable(columns)
                .map_err(Error::engine("collecting recommendations"))?,
        })
    }
}

/// Groups rows of customer, item and weight by customer. The rows must be sorted by customer.
fn by_key(rows: &RecordBatch) -> Result<HashMap<&str, Vec<(&str, f64)>>> {
    let mut by_key: HashMap<&str, Vec<(&str, f64)>> = HashMap::new();
    let (items, weights) = (rows.column(1).as_string::<i32>(), numeric(rows.column(2))?);
    for (i, key) in keys(rows)?.iter().flatten().enumerate() {
        by_key.entry(key).or_default().push((items.value(i), weights[i]));
    }
    Ok(by_key)
}

/// Scores customers from rows of customer, item and weight, and from such rows over categories if there
/// are any. Customers are folded in with the factors of the artifact.
pub fn score(
    artifact: &AffinityArtifact,
    offer: &Offer,
    (interactions, categories): (&RecordBatch, Option<&RecordBatch>),
    customers: &StringArray,
) -> Result<AffinityRows> {
    let model = &artifact.model;
    let index: HashMap<&str, u32> =
        model.factors.items.iter().enumerate().map(|(i, item)| (item.as_str(), i as u32)).collect();
    let of_items = by_key(interactions)?;
    let of_categories = categories.map(by_key).transpose()?.unwrap_or_default();
    let gram = model.factors.gram();
    let one = |row: usize| {
        let key = customers.value(row);
        let own = of_items.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut row: Vec<(u32, f64)> =
            own.iter().filter_map(|(item, weight)| Some((*index.get(item)?, *weight))).collect();
        row.sort_unstable_by_key(|(item, _)| *item);
        let customer = model.factors.fold_in(&row, &gram);
        let best = model.recommend(&customer, &row, offer);
        let known = !row.is_empty();
        let best = best.into_iter().map(|choice| recommendation(artifact, choice, known));
        let recommended: Vec<Recommendation> = best.collect();
        let mut own = of_categories.get(key).cloned().unwrap_or_default();
        own.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        let interests: Vec<&str> = own.into_iter().map(|(category, _)| category).collect();
        (customer.vector, interests, recommended)
    };
    let all: Vec<(Vec<f64>, Vec<&str>, Vec<Recommendation>)> =
        (0..customers.len()).into_par_iter().with_min_len(256).map(one).collect();
    let mut rows = Rows::default();
    for (row, (vector, interests, recommended)) in all.iter().enumerate() {
        rows.push(row, vector, interests, recommended);
    }
    rows.finish()
}

/// Names what was chosen. The score of a customer without interactions, who is not `known`, is the popularity of the
/// item, which has no percentile.
fn recommendation(artifact: &AffinityArtifact, choice: Choice, known: bool) -> Recommendation<'_> {
    let name = |item: usize| artifact.model.factors.items[item].as_str();
    let (reason, because) = match choice.because {
        Because::Own => ("own", None),
        Because::Affinity(item) => ("affinity", Some(name(item as usize))),
        Because::Popular => ("popular", None),
    };
    let percentile = known.then(|| artifact.ranks.percentile(choice.item, choice.score)).flatten();
    let item = name(choice.item);
    Recommendation { item, score: choice.score, percentile, reason, because }
}

/// Applies the rules of a model's offer to the items of `factors`.
///
/// # Errors
/// Returns a contract violation if the table of items has an item twice.
pub fn offer(model: &Affinity, factors: &ItemFactors, scale: Scale) -> Result<Offer> {
    let checked = &model.offer;
    let mut offer = Offer { top: model.spec.top, repeat: model.spec.repeat, ..Offer::default() };
    let category = checked.cap.as_ref().map(|(category, _)| category);
    let wanted: Vec<_> = checked.condition.iter().chain(category).collect();
    if wanted.is_empty() {
        return Ok(offer);
    }
    let items: ArrayRef = Arc::new(StringArray::from_iter_values(&factors.items));
    let holders: Int64Array = factors.holders.iter().map(|count| i64::from(*count)).collect();
    let weights = Float64Array::from(factors.popularity.clone());
    let own: [ArrayRef; 3] = [items, Arc::new(holders), Arc::new(weights)];
    let mut fields = Vec::new();
    let mut arrays = Vec::new();
    for ((name, _), array) in ITEM_COLUMNS.into_iter().zip(own) {
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    if let Some(table) = &checked.items {
        let own = |name: &&str| ITEM_COLUMNS.iter().all(|(known, _)| known != name);
        let columns: BTreeSet<&str> =
            wanted.iter().flat_map(|expression| expression.columns()).filter(own).collect();
        let (keys, rows) = table.read(&columns)?;
        let places: HashMap<&str, u32> =
            keys.iter().enumerate().filter_map(|(i, key)| Some((key?, i as u32))).collect();
        // Items that are not in the table have null columns.
        let order: UInt32Array =
            factors.items.iter().map(|item| places.get(item.as_str()).copied()).collect();
        let rows = take(&rows, &order)?;
        fields.extend(rows.schema().fields().iter().map(|field| field.as_ref().clone()));
        arrays.extend(rows.columns().iter().cloned());
    }
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(Error::engine("reading the offer"))?;
    let named = |name: &str| format!("\u{0}{name}");
    if let Some(condition) = &checked.condition {
        let truths = evaluate(&[(named("where"), condition.clone())], &rows, scale)?;
        let allowed = truths[0].as_boolean().iter().map(|truth| truth == Some(true));
        offer.allowed = Some(allowed.collect());
    }
    if let Some((category, most)) = &checked.cap {
        let texts = evaluate(&[(named("category"), category.clone())], &rows, scale)?;
        let mut codes: HashMap<Option<&str>, u32> = HashMap::new();
        let of_item = texts[0].as_string::<i32>().iter().map(|text| {
            let next = codes.len() as u32;
            *codes.entry(text).or_insert(next)
        });
        offer.categories = Some((of_item.collect(), *most));
    }
    Ok(offer)
}

//! Taste of every customer: vectors, recommendations with their reasons, interests.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow_schema::{Field, Schema};
use rayon::prelude::*;

use super::Recommendation;
use crate::error::{Error, Result};
use crate::expression::polars::evaluate;
use crate::features::read::numeric;
use crate::models::affinity::{Because, Choice, ItemFactors, Offer};
use crate::models::spec::{Affinity, ITEM_COLUMNS};
use crate::money::Scale;
use crate::sources::profile::keys;
use crate::store::parquet::take;
use crate::training::artifact::AffinityArtifact;

/// Taste of all customers, in their order.
#[derive(Debug, Default)]
pub struct Taste {
    /// All of one length; empty without a model.
    pub vectors: Vec<Vec<f64>>,
    /// Best first.
    pub recommendations: Vec<Vec<Recommendation>>,
    /// The categories of a customer's own interactions by weight, heaviest first.
    pub own: Vec<Vec<String>>,
}

impl Taste {
    /// Of customers of whom nothing is known.
    pub fn none(customers: usize) -> Self {
        Self {
            vectors: vec![Vec::new(); customers],
            recommendations: vec![Vec::new(); customers],
            own: vec![Vec::new(); customers],
        }
    }
}

/// Batches of customer, item and weight by customer.
fn by_key(batches: &[RecordBatch]) -> Result<HashMap<&str, Vec<(&str, f64)>>> {
    let mut by_key: HashMap<&str, Vec<(&str, f64)>> = HashMap::new();
    for batch in batches {
        let (items, weights) = (batch.column(1).as_string::<i32>(), numeric(batch.column(2))?);
        for (i, key) in keys(batch)?.iter().flatten().enumerate() {
            by_key.entry(key).or_default().push((items.value(i), weights[i]));
        }
    }
    Ok(by_key)
}

/// Folds customers in, given batches of customer, item and weight, and the same over categories.
pub fn taste(
    artifact: &AffinityArtifact,
    offer: &Offer,
    (interactions, categories): (&[RecordBatch], &[RecordBatch]),
    customers: &StringArray,
) -> Result<Taste> {
    let model = &artifact.model;
    let index: HashMap<&str, u32> =
        model.items.iter().enumerate().map(|(i, item)| (item.as_str(), i as u32)).collect();
    let (of_items, of_categories) = (by_key(interactions)?, by_key(categories)?);
    let gram = model.gram();
    let one = |row: usize| {
        let key = customers.value(row);
        let own = of_items.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut row: Vec<(u32, f64)> =
            own.iter().filter_map(|(item, weight)| Some((*index.get(item)?, *weight))).collect();
        row.sort_unstable_by_key(|(item, _)| *item);
        let customer = model.fold_in(&row, &gram);
        let best = model.recommend(&customer, &row, artifact.own, offer);
        let recommended = best.into_iter().map(|choice| recommendation(artifact, choice)).collect();
        let mut own = of_categories.get(key).cloned().unwrap_or_default();
        own.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        let own: Vec<String> = own.into_iter().map(|(item, _)| item.to_owned()).collect();
        (customer.vector, recommended, own)
    };
    let all: Vec<(Vec<f64>, Vec<Recommendation>, Vec<String>)> =
        (0..customers.len()).into_par_iter().map(one).collect();
    let mut taste = Taste::default();
    for (vector, recommended, own) in all {
        taste.vectors.push(vector);
        taste.recommendations.push(recommended);
        taste.own.push(own);
    }
    Ok(taste)
}

fn recommendation(artifact: &AffinityArtifact, choice: Choice) -> Recommendation {
    let name = |item: usize| artifact.model.items[item].clone();
    let (reason, because) = match choice.because {
        Because::Own => ("own", None),
        Because::Taste(item) => ("taste", Some(name(item as usize))),
        Because::Popular => ("popular", None),
    };
    let percentile = match choice.because {
        Because::Popular => None,
        _ => artifact.ranks.percentile(choice.item, choice.score),
    };
    let item = name(choice.item);
    Recommendation { item, score: choice.score, percentile, reason, because }
}

/// What may be recommended of the items of `factors`.
///
/// # Errors
/// A contract violation for a table of items that has one twice.
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
        // What the table does not have is null.
        let order: UInt32Array =
            factors.items.iter().map(|item| places.get(item.as_str()).copied()).collect();
        let rows = take(&rows, &order)?;
        fields.extend(rows.schema().fields().iter().map(|field| field.as_ref().clone()));
        arrays.extend(rows.columns().iter().cloned());
    }
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(Error::engine("the offer"))?;
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

//! Taste from gathered interactions to an artifact.

use super::artifact::AffinityArtifact;
use crate::error::{Error, Result};
use crate::models::affinity::{ItemFactors, Options, Sparse};
use crate::models::spec::Affinity;
use crate::store::part_hash;

/// Customers that a taste model is fitted on at most; a fixed hash of the key chooses them.
const CUSTOMERS: usize = 100_000;

/// Factorizes the interactions of customers: (item, weight) by key.
///
/// # Errors
/// [`Error::NotEnough`] where there is no interaction.
pub fn train(
    model: &Affinity,
    mut interactions: Vec<(String, Vec<(String, f64)>)>,
) -> Result<AffinityArtifact> {
    // In the order of a hash: the first ones are a fixed sample, and the order of sums is fixed too.
    interactions.sort_by_cached_key(|(key, _)| (part_hash(key), key.clone()));
    interactions.truncate(CUSTOMERS);
    let items: std::collections::BTreeSet<&str> = interactions
        .iter()
        .flat_map(|(_, row)| row.iter().map(|(item, _)| item.as_str()))
        .collect();
    if items.is_empty() {
        return Err(Error::not_enough(
            format!("the model {} has no interactions to learn from", model.spec.name),
            "check its item, weights and window",
        ));
    }
    let items: Vec<String> = items.into_iter().map(str::to_owned).collect();
    let index = |item: &String| items.binary_search(item).unwrap_or_default() as u32;
    let rows: Sparse = interactions
        .iter()
        .map(|(_, row)| row.iter().map(|(item, weight)| (index(item), *weight)).collect())
        .collect();
    let spec = &model.spec;
    let options = Options {
        factors: spec.factors,
        alpha: spec.alpha,
        regularization: spec.regularization,
        iterations: spec.iterations,
        seed: spec.seed,
    };
    let customers = rows.len();
    Ok(AffinityArtifact {
        spec: spec.clone(),
        interactions: model.interactions.clone(),
        model: ItemFactors::fit(items.clone(), &rows, options),
        customers,
    })
}

//! Matured scores: the predictions of past scoring runs, compared with the observed outcomes.

use std::collections::{BTreeMap, HashSet};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use serde::{Deserialize, Serialize};

use crate::artifact::{Artifact, Trained};
use crate::error::Result;
use crate::models::metrics::Metrics;
use crate::shard;
use crate::sources::profile::keys;
use crate::spec::{ClassifierSpec, LabelKind};
use crate::store::{Root, Store, StoreProblem};
use crate::time::Instant;
use crate::training::sampling::Share;

/// The maximum number of past scoring runs that are compared. The latest ones are taken.
const RUNS: usize = 12;
/// The number of customers who are compared. Of a larger profile a sample is taken.
const CUSTOMERS: usize = 1_000_000;

/// The scores of one version in a past scoring run whose outcome window has closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matured {
    /// The as-of that was scored.
    pub scored: Instant,
    /// The version that scored.
    pub version: String,
    /// The metrics of the scores that the model itself gave, as they were written. A run with only one
    /// class has no metrics and is left out.
    pub metrics: Metrics,
}

/// Lists the scored as-ofs whose outcomes have ended at `until`. Only the latest runs are returned.
pub fn scored(root: &Root, spec: &ClassifierSpec, until: Instant) -> Vec<Instant> {
    let outcome = spec.label.gap.plus(spec.label.horizon);
    let all = root.as_ofs("scores").into_iter().filter_map(Instant::from_folder);
    let mut ended: Vec<Instant> = all.filter(|at| at.plus(outcome) <= until).collect();
    ended.sort();
    ended.split_off(ended.len().saturating_sub(RUNS))
}

/// The customers whose past scores are compared, out of a profile with this many.
pub fn compared(customers: u64) -> Share {
    Share::of(CUSTOMERS, customers as usize)
}

/// Joins the scores of past runs with the observed outcomes of the customers of `compared`. `happened` has, for
/// each as-of, the hashes of those with at least one event of the label. Versions that predict another label
/// are left out.
pub fn matured(
    store: &Store,
    root: &Root,
    spec: &ClassifierSpec,
    compared: Share,
    happened: &[(Instant, HashSet<u64>)],
) -> Result<Vec<Matured>> {
    let columns = ["customer360_id", "model", "version", "score", "basis"];
    let mut list = Vec::new();
    for (at, happened) in happened {
        let mut by_version: BTreeMap<String, (Vec<f64>, Vec<bool>)> = BTreeMap::new();
        let folder = format!("scores/as_of={}", at.folder());
        for file in &store.below(root, &folder)? {
            for rows in crate::store::parquet::read(&store.file(root, file)?, Some(&columns))? {
                let text = |name: &str| {
                    rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>())
                };
                let score = rows
                    .column_by_name("score")
                    .and_then(|column| column.as_primitive_opt::<Float64Type>());
                let (Some(model), Some(version), Some(basis), Some(score)) =
                    (text("model"), text("version"), text("basis"), score)
                else {
                    let path = store.file(root, file)?;
                    return Err(StoreProblem::NotATable { path, table: "scores" }.into());
                };
                for (row, key) in keys(&rows)?.iter().enumerate() {
                    let ours = model.value(row) == spec.name && basis.value(row) == "model";
                    let hash = key.filter(|_| ours && score.is_valid(row)).map(shard::hash);
                    if let Some(hash) = hash.filter(|hash| compared.has(*hash)) {
                        let there = happened.contains(&hash);
                        let of_version =
                            by_version.entry(version.value(row).to_owned()).or_default();
                        of_version.0.push(score.value(row));
                        of_version.1.push(there == (spec.label.kind == LabelKind::Presence));
                    }
                }
            }
        }
        for (version, (scores, labels)) in by_version {
            let same = match Artifact::load(store, root, &spec.name, &version).map(|a| a.model) {
                Ok(Trained::Classifier(artifact)) => artifact.spec.label == spec.label,
                _ => false,
            };
            if !same {
                continue;
            }
            let metrics = Metrics::of(&scores, &labels);
            if metrics.positives > 0 && metrics.positives < metrics.rows {
                list.push(Matured { scored: *at, version, metrics });
            }
        }
    }
    Ok(list)
}

//! The results of earlier runs: the segments and scores that a run continues, and whether a run would repeat
//! an earlier one.

use std::path::Path;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use serde_json::json;

use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::plan::AsOf;
use crate::scoring::context::ScoringContext;
use crate::store::parquet::batches;
use crate::store::sorted::SortedRuns;
use crate::store::{Root, Store, StoreProblem};
use crate::time::Instant;

/// The inputs of a scoring run in addition to its data and its project: the versions of the models and the
/// previous segments.
pub fn inputs(store: &Store, root: &Root, context: &ScoringContext) -> Result<serde_json::Value> {
    let previous = segments(root, context.as_of.at).map(|at| {
        let files = store.below(root, &format!("segments/as_of={}", at.folder()))?;
        let checksum = |name: &String| Ok(store.live(root, name)?.map(|file| file.xxh3));
        let checksums = files.iter().map(checksum).collect::<Result<Vec<_>>>()?;
        Ok::<_, Error>(json!({ "as_of": at, "xxh3": checksums }))
    });
    let previous = previous.transpose()?;
    Ok(json!({ "models": context.champions.versions(), "previous_segments": previous }))
}

/// Finds the latest scoring run of this as-of, if it had the same inputs and all of its files are still live and whole.
/// A run whose manifest cannot be read does not count.
pub fn same_run(
    project: &Project,
    store: &Store,
    root: &Root,
    as_of: AsOf,
    data: &str,
    inputs: &serde_json::Value,
) -> Option<String> {
    let mut runs: Vec<&str> = root.folders_in("runs").collect();
    runs.sort_unstable();
    let (run, manifest) = runs
        .into_iter()
        .rev()
        .filter_map(|folder| {
            let run = folder.strip_prefix("runs/").filter(|run| run.ends_with("-score"))?;
            let manifest = format!("{folder}/manifest.json");
            Some((run, store.read_json::<serde_json::Value>(root, &manifest).ok()?))
        })
        .find(|(_, manifest)| manifest["as_of"]["at"] == json!(as_of.at))?;
    let same = manifest["as_of"] == json!(as_of)
        && manifest["binary"] == env!("CARGO_PKG_VERSION")
        && manifest["data_fingerprint"] == data
        && manifest["project_fingerprint"] == project.fingerprint.as_str()
        && manifest["models"] == inputs["models"]
        && manifest["previous_segments"] == inputs["previous_segments"];
    let generation: u64 = run.strip_suffix("-score")?.parse().ok()?;
    let (folder, suffix) =
        (format!("/as_of={}", as_of.at.folder()), format!("-{generation}.parquet"));
    let of_as_of = root.folders.keys().filter(|own| own.ends_with(&folder));
    let is_own = |table: &&String| {
        let names = store.below(root, table);
        names.is_ok_and(|names| names.iter().all(|name| name.ends_with(&suffix)))
    };
    // The records of snapshots are no rows.
    let tables: Vec<&String> = of_as_of.filter(|own| !own.starts_with("registry/")).collect();
    let is_same = same && tables.iter().all(is_own);
    (is_same && tables.iter().all(|table| is_whole(store, root, table))).then(|| run.to_owned())
}

/// Whether the live files of a folder are those that were written. Those that are not are named in a warning.
pub fn is_whole(store: &Store, root: &Root, folder: &str) -> bool {
    match store.damaged(root, folder) {
        Ok(damaged) => {
            for file in &damaged {
                tracing::warn!("{} is damaged or gone: it is written anew", file.display());
            }
            damaged.is_empty()
        }
        Err(error) => {
            tracing::warn!("{error}: {folder} is written anew");
            false
        }
    }
}

/// Finds the latest published as-of that is strictly earlier.
pub fn segments(root: &Root, as_of: Instant) -> Option<Instant> {
    let as_ofs = root.as_ofs("segments").into_iter().filter_map(Instant::from_folder);
    as_ofs.filter(|at| *at < as_of).max()
}

/// The scores of a model at an earlier as-of.
pub struct EarlierScores {
    /// All scores in order.
    pub sorted: SortedRuns,
    /// The least and the greatest score.
    pub range: [f64; 2],
    /// Whether all scores are whole numbers.
    pub are_whole: bool,
}

/// Reads the scores of an earlier as-of by model, in the order of `models`. They are empty if there is no
/// such as-of.
pub fn scores(
    store: &Store,
    root: &Root,
    as_of: Option<Instant>,
    models: &[&str],
    scratch: &Path,
) -> Result<Vec<EarlierScores>> {
    let folder = as_of.map(|at| format!("scores/as_of={}", at.folder()));
    let files = folder.map(|folder| store.below(root, &folder)).transpose()?.unwrap_or_default();
    let empty = |_: &&str| {
        let sorted = SortedRuns::create(scratch, files.len())?;
        Ok(EarlierScores { sorted, range: [f64::MAX, f64::MIN], are_whole: true })
    };
    let mut earlier: Vec<EarlierScores> = models.iter().map(empty).collect::<Result<_>>()?;
    for (run, file) in files.iter().enumerate() {
        let mut numbers: Vec<Vec<(f64, bool)>> = models.iter().map(|_| Vec::new()).collect();
        for rows in batches(&store.file(root, file)?, Some(&["model", "score"]), None)? {
            let rows = rows?;
            let model = rows.column_by_name("model").and_then(|c| c.as_string_opt::<i32>());
            let score = rows.column_by_name("score");
            let score = score.and_then(|column| column.as_primitive_opt::<Float64Type>());
            let (Some(model), Some(score)) = (model, score) else {
                let path = store.file(root, file)?;
                return Err(StoreProblem::NotATable { path, table: "scores" }.into());
            };
            for row in (0..rows.num_rows()).filter(|row| score.is_valid(*row)) {
                if let Some(own) = models.iter().position(|name| *name == model.value(row)) {
                    numbers[own].push((score.value(row), false));
                }
            }
        }
        for (earlier, numbers) in earlier.iter_mut().zip(numbers) {
            for (score, _) in &numbers {
                let [low, high] = earlier.range;
                earlier.range = [low.min(*score), high.max(*score)];
                earlier.are_whole &= score.fract() == 0.0;
            }
            earlier.sorted.put(run, numbers)?;
        }
    }
    Ok(earlier)
}

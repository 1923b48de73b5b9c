//! The results of earlier runs: the segments and scores that a run continues, and whether a run would repeat
//! an earlier one.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use serde_json::json;

use crate::config::Project;
use crate::error::Result;
use crate::features::plan::AsOf;
use crate::scoring::context::ScoringContext;
use crate::store::parquet::batches;
use crate::store::sorted::SortedRuns;
use crate::store::{Root, Store, StoreProblem};
use crate::time::Instant;

/// The inputs of a scoring run in addition to its data and its project: the versions of the models and the
/// previous segments.
pub fn inputs(root: &Root, context: &ScoringContext) -> serde_json::Value {
    let previous = segments(root, context.as_of.at).map(|(at, files)| {
        let checksums: Vec<&str> = files
            .iter()
            .filter_map(|path| root.files.get(path))
            .map(|file| file.xxh3.as_str())
            .collect();
        json!({ "as_of": at, "xxh3": checksums })
    });
    json!({ "models": context.champions.versions(), "previous_segments": previous })
}

/// Finds the latest scoring run of this as-of, if it had the same inputs and all of its files are still live.
/// A run whose manifest cannot be read does not count.
pub fn same_run(
    project: &Project,
    store: &Store,
    root: &Root,
    as_of: AsOf,
    data: &str,
    inputs: &serde_json::Value,
) -> Option<String> {
    let mut runs: Vec<&str> = root.below("runs").collect();
    runs.sort_unstable();
    let (run, manifest) = runs
        .into_iter()
        .rev()
        .filter_map(|path| {
            let run = path.strip_prefix("runs/")?.strip_suffix("/manifest.json")?;
            run.ends_with("-score").then_some(())?;
            Some((run, store.read_json::<serde_json::Value>(path).ok()?))
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
        (format!("/as_of={}/", as_of.at.folder()), format!("-{generation}.parquet"));
    let mut written = root.files.keys().filter(|path| path.contains(&folder));
    (same && written.all(|path| path.ends_with(&suffix))).then(|| run.to_owned())
}

/// Finds the latest published as-of that is strictly earlier, with its files of segments.
pub fn segments(root: &Root, as_of: Instant) -> Option<(Instant, Vec<String>)> {
    let earlier = root.below("segments").filter_map(|path| {
        let folder = path.split('/').nth(1)?.strip_prefix("as_of=")?;
        let at = Instant::from_folder(folder)?;
        (at < as_of).then_some((at, path))
    });
    let mut by_as_of: BTreeMap<Instant, Vec<String>> = BTreeMap::new();
    earlier.for_each(|(at, path)| by_as_of.entry(at).or_default().push(path.to_owned()));
    by_as_of.pop_last()
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
    let files: Vec<&str> = folder.iter().flat_map(|folder| root.below(folder)).collect();
    let empty = |_: &&str| {
        let sorted = SortedRuns::create(scratch, files.len())?;
        Ok(EarlierScores { sorted, range: [f64::MAX, f64::MIN], are_whole: true })
    };
    let mut earlier: Vec<EarlierScores> = models.iter().map(empty).collect::<Result<_>>()?;
    for (run, file) in files.iter().enumerate() {
        let mut numbers: Vec<Vec<(f64, bool)>> = models.iter().map(|_| Vec::new()).collect();
        for rows in batches(&store.file(file), Some(&["model", "score"]), None)? {
            let rows = rows?;
            let model = rows.column_by_name("model").and_then(|c| c.as_string_opt::<i32>());
            let score = rows.column_by_name("score");
            let score = score.and_then(|column| column.as_primitive_opt::<Float64Type>());
            let (Some(model), Some(score)) = (model, score) else {
                let path = store.file(file);
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

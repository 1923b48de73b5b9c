//! What earlier runs have left: the segments that a run continues, and whether it would be the same.

use std::collections::{BTreeMap, HashMap};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch, StringArray};
use serde_json::json;

use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::plan::AsOf;
use crate::scoring::Champions;
use crate::scoring::summary::scores_by_model;
use crate::segments::PreviousState;
use crate::sources::profile::keys;
use crate::store::parquet::read_all;
use crate::store::{Root, Store};
use crate::time::Instant;

/// What beside data and project decides what is written.
pub fn inputs(
    root: &Root,
    champions: &Champions,
    previous: Option<&(Instant, Vec<String>)>,
) -> serde_json::Value {
    let previous = previous.map(|(at, files)| {
        let checksums: Vec<&str> = files
            .iter()
            .filter_map(|path| root.files.get(path))
            .map(|file| file.xxh3.as_str())
            .collect();
        json!({ "as_of": at, "xxh3": checksums })
    });
    json!({ "models": champions.versions(), "previous_segments": previous })
}

/// The run that has scored this as-of last, if it had the same inputs and what it wrote is live. A
/// run whose manifest cannot be read is not the same.
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

/// The latest published as-of that is strictly earlier, and its files of segments.
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

/// What the previous run said of segments.
pub struct States {
    /// In the order of the customers.
    pub customers: Vec<Option<PreviousState>>,
    /// Of those who are customers no more, by key.
    pub gone: BTreeMap<String, PreviousState>,
}

/// The segments of each customer in the previous run.
pub fn states(
    store: &Store,
    previous: Option<(Instant, Vec<String>)>,
    customers: &StringArray,
) -> Result<States> {
    let Some((_, files)) = previous else {
        return Ok(States { customers: vec![None; customers.len()], gone: BTreeMap::new() });
    };
    let paths: Vec<_> = files.iter().map(|file| store.file(file)).collect();
    let rows = read_all(paths.iter().map(|path| path.as_path()), None)?;
    let mut by_key: HashMap<String, PreviousState> = HashMap::new();
    for rows in rows.iter() {
        let text = |name: &str| rows.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        let since = rows
            .column_by_name("since")
            .and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let primary = rows.column_by_name("is_primary").and_then(|c| c.as_boolean_opt());
        let (Some(segment), Some(rule), Some(since), Some(primary)) =
            (text("segment"), text("rule"), since, primary)
        else {
            return Err(Error::contract(
                format!("{} is not a table of segments", paths[0].display()),
                "it was changed after it was written",
            ));
        };
        // Runs before there was this column have put nobody out.
        let expired = rows.column_by_name("expired").and_then(|c| c.as_list_opt::<i32>());
        for (i, key) in keys(rows)?.iter().flatten().enumerate() {
            let state = by_key.entry(key.to_owned()).or_default();
            let name = segment.value(i).to_owned();
            if primary.value(i) {
                state.primary = Some(name.clone());
            }
            let over = expired.map(|lists| lists.value(i));
            if let Some(over) = over.as_ref().and_then(|list| list.as_struct_opt()) {
                let [names, rules] = [0, 1].map(|column| over.column(column).as_string::<i32>());
                let pairs = names.iter().flatten().zip(rules.iter().flatten());
                state.expired.extend(pairs.map(|(name, rule)| (name.to_owned(), rule.to_owned())));
            }
            state.memberships.insert(name, (rule.value(i).to_owned(), Instant(since.value(i))));
        }
    }
    let customers = customers.iter().flatten().map(|key| by_key.remove(key)).collect();
    Ok(States { customers, gone: by_key.into_iter().collect() })
}

/// When each customer last bought, by the feature that writes `last_purchase_at`; without one a
/// purchase ends no dwell.
pub fn last_purchases(project: &Project, features: &RecordBatch) -> Vec<Option<Instant>> {
    let mut all = project.catalog.features.iter();
    let writer = all.find(|feature| feature.writes.as_deref() == Some("last_purchase_at"));
    let last = writer.and_then(|feature| features.column_by_name(feature.column()));
    let last = last.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let at =
        |row: usize| last.filter(|last| last.is_valid(row)).map(|last| Instant(last.value(row)));
    (0..features.num_rows()).map(at).collect()
}

/// The scores of an earlier as-of by model; empty where there is none.
pub fn scores(
    store: &Store,
    root: &Root,
    as_of: Option<Instant>,
) -> Result<BTreeMap<String, Vec<f64>>> {
    let Some(as_of) = as_of else { return Ok(BTreeMap::new()) };
    let folder = format!("scores/as_of={}", as_of.folder());
    let paths: Vec<_> = root.below(&folder).map(|file| store.file(file)).collect();
    let rows = read_all(paths.iter().map(|path| path.as_path()), Some(&["model", "score"]))?;
    rows.as_ref().map_or(Ok(BTreeMap::new()), scores_by_model)
}

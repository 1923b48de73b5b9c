//! The command `forget`: removes customers from the store, keeps them out from then on, and looks whether a trace is left.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, BooleanArray, RecordBatch};
use rayon::prelude::*;
use serde_json::json;

use super::{CommandProblem, now};
use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::report::{Output, thousands};
use crate::shard::Shard;
use crate::sources::entity_rows::KEY;
use crate::sources::forgotten::Forgotten;
use crate::store::parquet::{Writer, batches, metadata_of};
use crate::store::{Keep, Root, Search, Staging, Store, Traces, Transaction};
use crate::time::{Duration, Instant};

/// The folder of the kept timelines. They are made again from the events, without who was forgotten.
const TIMELINES: &str = "timelines";

/// Removes customers from all files of the store, live and kept, and writes down that they are not to come back. With
/// `dry_run` it only says what would be rewritten.
///
/// # Errors
/// Returns an error if no customer is named, if another run holds the store, and [`CommandProblem::TracesLeft`] if a
/// file that is left still has a trace of one of them.
pub fn forget(store: &Store, keys: &[String], dry_run: bool) -> Result<Output> {
    let keys: BTreeSet<&str> =
        keys.iter().map(|key| key.trim()).filter(|k| !k.is_empty()).collect();
    if keys.is_empty() {
        return Err(CommandProblem::NobodyNamed.into());
    }
    let mut transaction = store.begin("forget", now)?;
    let root = transaction.root.clone();
    let mut forgotten = Forgotten::load(store, &root)?;
    let new = keys.iter().filter(|key| forgotten.add(key)).count();
    let found = remove(store, &root, &mut transaction, &keys)?;
    let mut told =
        Told { customers: keys.len(), new, found, root: None, gone: (0, 0), traces: None };
    if dry_run {
        return Ok(told.output(&root));
    }
    if new > 0 || !told.found.files.is_empty() {
        forgotten.write(&mut transaction)?;
        transaction.replace(TIMELINES);
    }
    told.root = Some(transaction.commit()?.number);
    let keep = Keep { roots: 1, grace: Duration::days(0), now: now() };
    let removed = store.collect_garbage(&keep, false, now)?;
    told.gone = (removed.roots.len(), removed.objects.len());
    // Without the record of a push, the next one compares all rows and removes those that are gone.
    let search = Search::of(&keys);
    store.remove_beside("pushes", &search)?;
    let traces = store.search(&search)?;
    if !traces.found.is_empty() {
        return Err(CommandProblem::TracesLeft { files: traces.found }.into());
    }
    told.traces = Some(traces);
    Ok(told.output(&root))
}

/// What was found of the customers in the live tables.
#[derive(Default)]
struct Found {
    /// The customers that have a row anywhere.
    customers: HashSet<String>,
    /// The rows that were removed, by table.
    rows: BTreeMap<String, u64>,
    /// The names of the files that were rewritten.
    files: Vec<String>,
    /// When the first of the customers was created, as far as the profile says it of all of them.
    since: Option<Instant>,
}

/// What was found in one file.
struct FoundIn {
    file: String,
    customers: Vec<String>,
    rows: u64,
    created: Vec<Instant>,
}

/// Rewrites the live tables without the rows of the customers.
fn remove(
    store: &Store,
    root: &Root,
    transaction: &mut Transaction,
    keys: &BTreeSet<&str>,
) -> Result<Found> {
    let mut files = store.below(root, "")?;
    files.retain(|file| file.ends_with(".parquet"));
    // A table that is split by customer has them in one file.
    let may_have = |file: &&String| keys.iter().any(|key| Shard::of_file(file).has(key));
    let staging = transaction.staging();
    let rewrite = |file: &String| rewrite(file, &store.file(root, file)?, &staging, keys);
    let found: Vec<Option<FoundIn>> =
        files.par_iter().filter(may_have).map(rewrite).collect::<Result<_>>()?;
    let mut all = Found::default();
    let mut created: Vec<Instant> = Vec::new();
    for one in found.into_iter().flatten() {
        transaction.adopt(&one.file, &one.file)?;
        let table = one.file.split("/as_of=").next().unwrap_or_default();
        *all.rows.entry(table.to_owned()).or_default() += one.rows;
        all.customers.extend(one.customers);
        created.extend(one.created);
        all.files.push(one.file);
    }
    all.since = created.into_iter().min().filter(|_| all.customers.len() == keys.len());
    Ok(all)
}

/// Writes a file of a table again without the rows of the customers; `None` if it has none of theirs.
fn rewrite(
    file: &str,
    path: &Path,
    staging: &Staging,
    keys: &BTreeSet<&str>,
) -> Result<Option<FoundIn>> {
    let schema = metadata_of(path)?.schema().clone();
    if schema.column_with_name(KEY).is_none() {
        return Ok(None);
    }
    let mut found =
        FoundIn { file: file.to_owned(), customers: Vec::new(), rows: 0, created: Vec::new() };
    let mut kept: Vec<RecordBatch> = Vec::new();
    for rows in batches(path, None, None)? {
        let rows = rows?;
        let Some(column) = rows.column_by_name(KEY).and_then(|c| c.as_string_opt::<i32>()) else {
            return Ok(None);
        };
        let stays = |key: Option<&str>| !key.is_some_and(|key| keys.contains(key));
        let stay: BooleanArray = column.iter().map(|key| Some(stays(key))).collect();
        let created = rows.column_by_name("created_at");
        let created = created.and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        for row in (0..rows.num_rows()).filter(|row| !stay.value(*row)) {
            found.rows += 1;
            found.customers.push(column.value(row).to_owned());
            let created = created.filter(|created| created.is_valid(row));
            found.created.extend(created.map(|created| Instant(created.value(row))));
        }
        kept.push(
            arrow_select::filter::filter_record_batch(&rows, &stay)
                .map_err(Error::engine("removing customers"))?,
        );
    }
    if found.rows == 0 {
        return Ok(None);
    }
    let mut writer = Writer::stage(staging.file(file)?, &schema)?;
    kept.iter().try_for_each(|rows| writer.write(rows))?;
    writer.finish()?;
    Ok(Some(found))
}

/// What the command says.
struct Told {
    customers: usize,
    new: usize,
    found: Found,
    root: Option<u64>,
    /// The numbers of roots and objects that were removed.
    gone: (usize, usize),
    traces: Option<Traces>,
}

impl Told {
    fn output(&self, root: &Root) -> Output {
        let Self { found, .. } = self;
        let learned = self.learned(root);
        let is_done = self.root.is_some();
        let rows: u64 = found.rows.values().sum();
        let mut text = format!(
            "{} customers {}: {} of them {} rows in the store, {} had been forgotten before\n",
            thousands(self.customers as u64),
            if is_done { "are forgotten" } else { "would be forgotten" },
            thousands(found.customers.len() as u64),
            if is_done { "had" } else { "have" },
            thousands((self.customers - self.new) as u64),
        );
        text += &format!(
            "{} rows of {} files {}\n",
            thousands(rows),
            thousands(found.files.len() as u64),
            if is_done { "were removed" } else { "would be removed" },
        );
        for (table, rows) in &found.rows {
            text += &format!("  {table}: {}\n", thousands(*rows));
        }
        if is_done {
            text += &format!(
                "{} older roots and {} objects were removed; the next run reads all events again\n",
                thousands(self.gone.0 as u64),
                thousands(self.gone.1 as u64),
            );
        }
        if let Some(traces) = &self.traces {
            text += &format!(
                "No trace is left: {} files of {:.1} MB were searched, {:.1} MB when decompressed{}\n",
                thousands(traces.files),
                traces.bytes as f64 / 1e6,
                traces.decompressed as f64 / 1e6,
                match traces.only_cells {
                    0 => String::new(),
                    count => format!(
                        "; {} keys are short, plain numbers or words, so that only the cells of tables were searched for them",
                        thousands(count as u64)
                    ),
                },
            );
        }
        match learned.as_slice() {
            [] => text += "No version of a model has learned from them.\n",
            list => {
                text +=
                    "\nThese versions may have learned from them; `c360-ml train` makes others:\n";
                list.iter().for_each(|(name, version)| text += &format!("  {name} {version}\n"));
            }
        }
        text += "\nNot reached are exports and Delta tables outside the store. The next push removes them from an online store.\n";
        let versions: Vec<String> =
            learned.iter().map(|(name, version)| format!("{name}/{version}")).collect();
        let json = json!({
            "dry_run": !is_done,
            "customers": self.customers,
            "in_store": found.customers.len(),
            "forgotten_before": self.customers - self.new,
            "rows": found.rows,
            "files": found.files,
            "root": self.root,
            "removed_roots": self.gone.0,
            "removed_objects": self.gone.1,
            "searched": self.traces.as_ref().map(|traces| json!({
                "files": traces.files,
                "bytes": traces.bytes,
                "decompressed_bytes": traces.decompressed,
                "keys_searched_in_cells_only": traces.only_cells,
                "found": traces.found,
            })),
            "may_have_learned": versions,
        });
        Output { text, json }
    }

    /// The versions that were trained after the first of the customers was created; all versions if that is not known.
    fn learned<'a>(&self, root: &'a Root) -> Vec<(&'a str, &'a str)> {
        let is_later = |version: &str| {
            let trained = Artifact::trained_at(version);
            self.found.since.is_none_or(|since| trained.is_none_or(|trained| trained > since))
        };
        if self.new == 0 && self.found.files.is_empty() {
            return Vec::new();
        }
        root.versions().into_iter().filter(|(_, version)| is_later(version)).collect()
    }
}

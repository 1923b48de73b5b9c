//! Offline/online skew: features as they were served in the last scoring run, compared with what the
//! events give for the same as-of today. Where the two differ, training sees what scoring could not know.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use serde::{Deserialize, Serialize};

use crate::artifact::{Artifact, ClassifierArtifact, Trained};
use crate::error::Result;
use crate::features::catalog::Catalog;
use crate::features::join::STAMPS;
use crate::features::plan::AsOf;
use crate::features::read::column;
use crate::shard;
use crate::sources::profile::keys;
use crate::store::parquet::{concat, read, row_groups};
use crate::store::{Root, Store, StoreProblem, unless_damaged};
use crate::sum::ExactSum;
use crate::time::Instant;

/// The approximate maximum number of compared customers. They are those whose hash is a multiple of a
/// step.
const CUSTOMERS: usize = 20_000;
/// The relative difference up to which two values count as equal.
const SAME: f64 = 1e-9;
/// The share of customers with a difference from which an input is suspect.
pub const SUSPECT: f64 = 0.01;

/// The differences between inputs as they were served and as they are computed today.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skew {
    /// The as-of that was scored.
    pub scored: Instant,
    /// The number of compared customers.
    pub customers: usize,
    /// The number of compared inputs. They are numbers whose definition has not changed since the version
    /// that scored was trained.
    pub compared: usize,
    /// The inputs that differ for at least one customer, with the largest share first.
    pub inputs: Vec<SkewedInput>,
}

/// An input whose values differ from those that were served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkewedInput {
    /// The column of the input.
    pub column: String,
    /// The share of customers for whom the input differs.
    pub share: f64,
    /// The mean of the served values of these customers, without missing ones.
    pub served: f64,
    /// The mean of the values that the events give for these customers today, without missing ones.
    pub now: f64,
}

/// The features that were served at one as-of.
#[derive(Debug)]
pub struct Served {
    /// The as-of, with the known-at of the served features.
    pub as_of: AsOf,
    /// The names of the compared columns.
    pub columns: Vec<String>,
    /// The values in the order of the columns, by the hash of the key.
    values: HashMap<u64, Vec<f64>>,
}

impl Served {
    /// Reads the features of the latest scored as-of at or before `until`.
    ///
    /// Of these features, it keeps the inputs of the versions that scored whose definitions have not
    /// changed. Returns `None` if there are none, or if more was known of the as-of than at `until`.
    ///
    /// # Errors
    /// Returns an error if a file of the store cannot be read.
    pub fn latest(
        store: &Store,
        root: &Root,
        catalog: &Catalog,
        until: AsOf,
    ) -> Result<Option<Self>> {
        let folders = root.as_ofs("scores").into_iter().rev();
        let Some(at) = folders.filter_map(Instant::from_folder).find(|at| *at <= until.at) else {
            return Ok(None);
        };
        let scored = versions(store, root, at)?;
        let same = |name: &str, artifact: &ClassifierArtifact| {
            let now = catalog.get(name).map(|feature| &feature.definition);
            artifact.definitions.iter().any(|d| d.column() == name && Some(d) == now)
        };
        let mut wanted: Vec<&str> = scored
            .iter()
            .flat_map(|artifact| {
                let inputs = artifact.preprocessing.inputs.iter().map(|i| i.column.as_str());
                inputs.filter(|name| same(name, artifact))
            })
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut served = Self { as_of: AsOf::at(at), columns: Vec::new(), values: HashMap::new() };
        for view in &catalog.views {
            let own: Vec<&str> = catalog
                .of_view(&view.name)
                .map(|feature| feature.column())
                .filter(|name| wanted.contains(name))
                .collect();
            served.add(store, root, &view.name, &own)?;
        }
        let usable = served.as_of.known_at <= until.known_at && !served.columns.is_empty();
        Ok(usable.then_some(served))
    }

    /// Adds the columns of one view if the view was written at the as-of with all of them.
    fn add(&mut self, store: &Store, root: &Root, view: &str, own: &[&str]) -> Result<()> {
        let folder = format!("features/{view}/as_of={}", self.as_of.at.folder());
        let files = store.below(root, &folder)?;
        let files = files.iter().map(|file| store.file(root, file));
        let files: Vec<PathBuf> = files.collect::<Result<_>>()?;
        let mut customers = 0;
        for file in &files {
            customers += row_groups(file)?.iter().sum::<usize>();
        }
        let every = customers.div_ceil(CUSTOMERS).max(1) as u64;
        let mut names = own.to_vec();
        names.extend(STAMPS);
        for rows in files.iter().map(|file| read(file, Some(&names))) {
            let Some(rows) = concat(&rows?)? else { continue };
            if own.is_empty() || own.iter().any(|name| rows.column_by_name(name).is_none()) {
                return Ok(());
            }
            let columns: Vec<Vec<f64>> =
                own.iter().map(|name| column(&rows, name)).collect::<Result<_>>()?;
            for (row, key) in keys(&rows)?.iter().enumerate() {
                let hash = key.map(shard::hash).filter(|hash| hash % every == 0);
                if let Some(hash) = hash {
                    let values = self.values.entry(hash).or_default();
                    values.resize(self.columns.len(), f64::NAN);
                    values.extend(columns.iter().map(|column| column[row]));
                }
            }
            let known = rows.column_by_name("created_timestamp").and_then(|column| {
                let known = column.as_primitive_opt::<TimestampMicrosecondType>()?;
                known.values().first().copied()
            });
            let known = known.ok_or_else(|| StoreProblem::NotATable {
                path: store.beside(&folder),
                table: "features",
            })?;
            self.as_of.known_at = Instant(known);
        }
        self.columns.extend(own.iter().map(|name| (*name).to_owned()));
        Ok(())
    }
}

/// Loads the classifiers that scored an as-of. Versions that no longer exist are left out.
fn versions(store: &Store, root: &Root, at: Instant) -> Result<Vec<ClassifierArtifact>> {
    let mut names: BTreeSet<(String, String)> = BTreeSet::new();
    for file in &store.below(root, &format!("scores/as_of={}", at.folder()))? {
        for rows in read(&store.file(root, file)?, Some(&["model", "version"]))? {
            let text = |name: &str| {
                rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>())
            };
            let (models, versions) = (text("model"), text("version"));
            let pairs = models.into_iter().flatten().zip(versions.into_iter().flatten());
            let pairs = pairs.filter_map(|(model, version)| model.zip(version));
            let distinct: BTreeSet<(&str, &str)> = pairs.collect();
            names.extend(distinct.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())));
        }
    }
    let mut artifacts = Vec::new();
    for (name, version) in &names {
        let artifact = unless_damaged(Artifact::load(store, root, name, version))?;
        if let Some(Artifact { model: Trained::Classifier(artifact), .. }) = artifact {
            artifacts.push(*artifact);
        }
    }
    Ok(artifacts)
}

/// The differences counted so far.
#[derive(Debug, Default)]
pub struct Differences {
    customers: usize,
    /// For each column, the number of customers with a difference, and the sum and count of their values,
    /// first as served and then as computed today.
    columns: Vec<(usize, [(ExactSum, usize); 2])>,
}

impl Differences {
    /// Compares rows that were computed today for the as-of of `served`.
    pub fn count(&mut self, served: &Served, rows: &RecordBatch) -> Result<()> {
        self.columns.resize(served.columns.len(), Default::default());
        let now: Vec<Vec<f64>> =
            served.columns.iter().map(|name| column(rows, name)).collect::<Result<_>>()?;
        for (row, key) in keys(rows)?.iter().enumerate() {
            let Some(then) = key.and_then(|key| served.values.get(&shard::hash(key))) else {
                continue;
            };
            self.customers += 1;
            for (number, (now, then)) in now.iter().zip(then).enumerate() {
                let pair = [*then, now[row]];
                if differ(pair) {
                    let (count, sums) = &mut self.columns[number];
                    *count += 1;
                    for ((sum, count), value) in sums.iter_mut().zip(pair) {
                        if !value.is_nan() {
                            sum.add(value);
                            *count += 1;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the differences counted for other customers.
    pub fn add(&mut self, other: Self) {
        self.customers += other.customers;
        self.columns.resize(self.columns.len().max(other.columns.len()), Default::default());
        for ((own, sums), (more, others)) in self.columns.iter_mut().zip(other.columns) {
            *own += more;
            for ((sum, count), (more_sum, more_count)) in sums.iter_mut().zip(&others) {
                sum.merge(more_sum);
                *count += more_count;
            }
        }
    }

    /// Summarizes the differences of some inputs.
    pub fn of(&self, served: &Served, inputs: &[String]) -> Skew {
        let columns = served.columns.iter().zip(&self.columns);
        let own = columns.filter(|(column, _)| inputs.contains(column));
        let mean = |(sum, count): &(ExactSum, usize)| sum.value() / (*count).max(1) as f64;
        let mut compared = 0;
        let mut list = Vec::new();
        for (column, (count, [then, now])) in own {
            compared += 1;
            if *count > 0 {
                list.push(SkewedInput {
                    column: column.clone(),
                    share: *count as f64 / self.customers as f64,
                    served: mean(then),
                    now: mean(now),
                });
            }
        }
        list.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.column.cmp(&b.column)));
        Skew { scored: served.as_of.at, customers: self.customers, compared, inputs: list }
    }
}

fn differ([then, now]: [f64; 2]) -> bool {
    match (then.is_nan(), now.is_nan()) {
        (false, false) => (then - now).abs() > SAME * then.abs().max(now.abs()),
        (a, b) => a != b,
    }
}

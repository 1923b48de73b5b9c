//! The profile by shard: its rows are read once and scattered by the hash of the key.
//!
//! Rows beyond the memory budget are spilled to disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow_array::{BooleanArray, RecordBatch, UInt32Array};
use arrow_schema::{Field, Schema, SchemaRef};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::plan::{Origin, ProfilePlan};
use super::rows::{Entities, KEY, KeyFaults, keys};
use crate::error::{Error, Result};
use crate::shard::{self, Shard, Shards};
use crate::sources::{SourceProblem, is_blank};
use crate::store::parquet::{concat, sort_by_key, take};
use crate::store::spill::Spill;
use crate::time::Instant;

/// The settings for scattering the rows of a profile.
#[derive(Debug, Clone, Copy)]
pub struct Scattering<'a> {
    /// The shards into which the rows are scattered.
    pub shards: Shards,
    /// The number of bytes of rows that are kept in memory before they are spilled to disk.
    pub memory: u64,
    /// The folder in which the spill file is created.
    pub folder: &'a Path,
    /// The instants at which [`ProfileShards::customers_at`] can be called.
    pub instants: &'a [Instant],
}

/// The rows of a profile, grouped by shard.
#[derive(Debug)]
pub struct ProfileShards {
    schema: SchemaRef,
    shards: Shards,
    held: Vec<Mutex<Vec<RecordBatch>>>,
    bytes: AtomicU64,
    memory: u64,
    spill: Spill,
    folder: PathBuf,
    /// The first file of the source, for error messages.
    file: PathBuf,
    /// The number of rows with a key.
    pub rows: u64,
    /// The number of rows without a key.
    pub nulls: u64,
    /// The file and the row number, counted from 1, of the first row without a key.
    pub first_null: Option<(PathBuf, usize)>,
    customers: BTreeMap<Instant, CustomerSet>,
}

/// The customers that a profile contained before an instant, as a number and a hash that does not depend on
/// their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CustomerSet {
    hash: u64,
    /// The number of customers.
    pub count: u64,
}

impl CustomerSet {
    fn add(&mut self, other: Self) {
        self.hash = self.hash.wrapping_add(other.hash);
        self.count += other.count;
    }

    /// The fingerprint that is written to the records of snapshots.
    pub fn fingerprint(self) -> String {
        format!("{:016x}-{}", self.hash, self.count)
    }
}

/// A row group of a file of the source.
struct Task<'a> {
    file: &'a Path,
    row_group: usize,
    /// The number of its first row within the file, counted from 1.
    first_row: usize,
}

/// The result of reading a row group.
#[derive(Default)]
struct Found {
    rows: u64,
    nulls: u64,
    first_null: Option<(PathBuf, usize)>,
    /// By index of the instant: the customers created before this instant, but not before the previous one.
    created: Vec<CustomerSet>,
}

impl ProfilePlan {
    /// Reads the columns for whose names `wanted` is true and scatters the rows by shard.
    ///
    /// # Errors
    /// A contract violation for a source without rows, or for a raw field that cannot be converted to its
    /// type.
    pub fn scatter(
        &self,
        scattering: Scattering<'_>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<ProfileShards> {
        let Scattering { shards, memory, folder, instants } = scattering;
        let columns = self.wanted(wanted);
        let mut sorted: Vec<Instant> = instants.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut tasks = Vec::new();
        for file in &self.table.files {
            let mut first_row = 1;
            let metadata = self.table.metadata(file)?;
            for (row_group, group) in metadata.metadata().row_groups().iter().enumerate() {
                tasks.push(Task { file, row_group, first_row });
                first_row += group.num_rows() as usize;
            }
        }
        let schema = match tasks.first() {
            Some(first) => self.schema_of(&columns, first)?,
            None if self.table.files.is_empty() => self.table.schema.clone(),
            None => return Err(self.has_no_rows()),
        };
        let mut scattered = ProfileShards {
            schema,
            shards,
            held: shards.all().map(|_| Mutex::default()).collect(),
            bytes: AtomicU64::new(0),
            memory,
            spill: Spill::create(folder, shards.count())?,
            folder: folder.to_owned(),
            file: self.table.files.first().cloned().unwrap_or_default(),
            rows: 0,
            nulls: 0,
            first_null: None,
            customers: BTreeMap::new(),
        };
        let read = |task: &Task| self.read_group(&columns, task, &scattered, &sorted);
        let found: Vec<Found> = tasks.par_iter().map(read).collect::<Result<_>>()?;
        let mut by_then = CustomerSet::default();
        for (place, at) in sorted.into_iter().enumerate() {
            found.iter().for_each(|found| by_then.add(found.created[place]));
            scattered.customers.insert(at, by_then);
        }
        scattered.rows = found.iter().map(|found| found.rows).sum();
        scattered.nulls = found.iter().map(|found| found.nulls).sum();
        scattered.first_null = found.into_iter().find_map(|found| found.first_null);
        if scattered.rows + scattered.nulls == 0 && !self.table.files.is_empty() {
            return Err(self.has_no_rows());
        }
        Ok(scattered)
    }

    fn has_no_rows(&self) -> Error {
        let required = "a profile source needs at least one customer";
        SourceProblem::NoRows { file: self.table.files[0].clone(), required }.into()
    }

    /// The schema of the mapped rows, derived from the first row group.
    fn schema_of(&self, columns: &[&(String, Origin)], task: &Task) -> Result<SchemaRef> {
        let raw = Self::raw_columns(columns);
        let mut batches = self.table.batches(task.file, Some(&raw), Some(task.row_group))?;
        let first = batches.next().transpose()?;
        let first = first.ok_or_else(|| self.has_no_rows())?;
        let mapped = self.map(columns, &first.slice(0, 0), task.file)?.schema();
        // Another file may contain nulls in a column that this file declares as not nullable.
        let nullable = mapped.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
        Ok(Arc::new(Schema::new(nullable.collect::<Vec<Field>>())))
    }

    fn read_group(
        &self,
        columns: &[&(String, Origin)],
        task: &Task,
        scattered: &ProfileShards,
        instants: &[Instant],
    ) -> Result<Found> {
        let raw = Self::raw_columns(columns);
        let mut found =
            Found { created: vec![CustomerSet::default(); instants.len()], ..Found::default() };
        let forgotten = &self.context().forgotten;
        let mut first_row = task.first_row;
        for batch in self.table.batches(task.file, Some(&raw), Some(task.row_group))? {
            let mut batch = self.map(columns, &batch?, task.file)?;
            let rows = batch.num_rows();
            let named = |key: Option<&str>| key.is_some_and(|key| !is_blank(key));
            if let Some(nameless) = keys(&batch)?.iter().position(|key| !named(key)) {
                found.first_null.get_or_insert((task.file.to_owned(), first_row + nameless));
                found.nulls += keys(&batch)?.iter().filter(|key| !named(*key)).count() as u64;
            }
            let is_own =
                |key: Option<&str>| named(key) && !key.is_some_and(|key| forgotten.has(key));
            let own: BooleanArray = keys(&batch)?.iter().map(|key| Some(is_own(key))).collect();
            if own.true_count() < rows {
                batch = arrow_select::filter::filter_record_batch(&batch, &own)
                    .map_err(Error::engine("reading the profile"))?;
            }
            first_row += rows;
            found.rows += batch.num_rows() as u64;
            count(&batch, instants, &mut found.created)?;
            scattered.add(&batch)?;
        }
        Ok(found)
    }
}

/// Counts each customer at the first instant before which the profile was created.
fn count(rows: &RecordBatch, instants: &[Instant], created: &mut [CustomerSet]) -> Result<()> {
    if instants.is_empty() {
        return Ok(());
    }
    let Entities { keys, created_at } = Entities::of(rows)?;
    for (key, at) in keys.iter().zip(created_at) {
        let place = at.map_or(0, |at| instants.partition_point(|instant| *instant <= at));
        if let Some(customers) = created.get_mut(place) {
            customers.add(CustomerSet { hash: xxh3_64(key.as_bytes()), count: 1 });
        }
    }
    Ok(())
}

impl ProfileShards {
    /// The shards over which the rows are distributed.
    pub fn shards(&self) -> Shards {
        self.shards
    }

    /// The folder of the spill file.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The schema of the rows of every shard.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The customers that the profile contained before `at`, which must be one of the instants given when it
    /// was read.
    pub fn customers_at(&self, at: Instant) -> CustomerSet {
        match self.customers.get(&at) {
            Some(customers) => *customers,
            None => unreachable!("{at} was not among the instants that the profile was read for"),
        }
    }

    /// The rows of a shard, sorted by key. Raw fields have the types of the profile, and additional columns
    /// are unchanged.
    ///
    /// # Errors
    /// A contract violation if a key is null anywhere in the profile or occurs twice in the shard.
    pub fn rows(&self, shard: Shard) -> Result<RecordBatch> {
        if let Some((file, row)) = &self.first_null {
            let (file, column) = (file.clone(), KEY.to_owned());
            let required = "every customer needs a key";
            return Err(SourceProblem::NullKey { file, column, row: *row, required }.into());
        }
        let (rows, faults) = self.inspect(shard)?;
        match faults.first_duplicate {
            None => Ok(rows),
            Some(key) => {
                let (file, column) = (self.file.clone(), KEY.to_owned());
                let required = "a unified profile has one row per customer; merge them upstream";
                let required = required.to_owned();
                Err(SourceProblem::RepeatedKey { file, column, key, required }.into())
            }
        }
    }

    /// The rows of a shard without those that repeat a key, and a summary of the repeated keys.
    ///
    /// The rows are the same as those of [`ProfileShards::rows`] if no key is repeated.
    pub fn inspect(&self, shard: Shard) -> Result<(RecordBatch, KeyFaults)> {
        let mut batches = self.spill.read_rows(shard.place())?.concat();
        batches.extend(self.own(shard).iter().cloned());
        let rows = concat(&batches)?.unwrap_or_else(|| RecordBatch::new_empty(self.schema.clone()));
        drop(batches);
        let rows = sort_by_key(&rows, KEY)?;
        let sorted = keys(&rows)?;
        let repeats = |row: usize| row > 0 && sorted.value(row - 1) == sorted.value(row);
        let repeated: Vec<usize> = (0..rows.num_rows()).filter(|row| repeats(*row)).collect();
        let Some(first) = repeated.first() else { return Ok((rows, KeyFaults::default())) };
        let faults = KeyFaults {
            duplicates: repeated.len() as u64,
            first_duplicate: Some(sorted.value(*first).to_owned()),
        };
        let own: BooleanArray = (0..rows.num_rows()).map(|row| Some(!repeats(row))).collect();
        let rows = arrow_select::filter::filter_record_batch(&rows, &own);
        Ok((rows.map_err(Error::engine("reading the profile"))?, faults))
    }

    /// Adds each row to its shard.
    fn add(&self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = &RecordBatch::try_new(self.schema.clone(), rows.columns().to_vec())
            .map_err(Error::engine("reading the profile"))?;
        let places: Vec<usize> =
            keys(rows)?.iter().flatten().map(|key| self.shards.index(shard::hash(key))).collect();
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        order.sort_by_key(|row| places[*row as usize]);
        // The rows are copied once. The shards hold slices of this copy.
        let sorted = take(rows, &UInt32Array::from(order.clone()))?;
        let mut start = 0;
        for own in order.chunk_by(|a, b| places[*a as usize] == places[*b as usize]) {
            let place = places[own[0] as usize];
            self.own(self.shards.shard(place)).push(sorted.slice(start, own.len()));
            start += own.len();
        }
        let bytes = sorted.get_array_memory_size() as u64;
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.memory {
            self.put_aside()?;
        }
        Ok(())
    }

    /// Spills the rows of all shards that are held in memory.
    fn put_aside(&self) -> Result<()> {
        self.bytes.store(0, Ordering::Relaxed);
        for shard in self.shards.all() {
            let held = std::mem::take(&mut *self.own(shard));
            if let Some(rows) = concat(&held)? {
                self.spill.add_rows(shard.place(), &[rows])?;
            }
        }
        Ok(())
    }

    fn own(&self, shard: Shard) -> std::sync::MutexGuard<'_, Vec<RecordBatch>> {
        self.held[shard.place()].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

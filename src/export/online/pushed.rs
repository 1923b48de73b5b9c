//! The record of the last push, which a project keeps in its store: the hash of every row.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::Content;
use super::content::Hashes;
use crate::error::Result;
use crate::shard::{Shard, Shards};
use crate::store::parquet::{Writer, batches, metadata, row_groups};

/// The metadata keys of a file of hashes: the name of the content, the hash of its columns, and its number of
/// customers by shard.
const NAME: &str = "c360.push";
const COLUMNS: &str = "c360.columns";
const COUNTS: &str = "c360.customers_by_shard";

/// The hashes of the rows of the last push to a target.
#[derive(Debug)]
pub struct Pushed {
    /// The name of the content.
    pub name: String,
    /// The hash of the columns, as [`Content::columns`] computes it.
    pub columns: String,
    /// The shards of the content.
    pub shards: Shards,
    path: PathBuf,
    /// The row groups of each shard.
    row_groups: Vec<Range<usize>>,
}

impl Pushed {
    /// Opens the file that the last push to a target has left in a project's store. Returns None if there is
    /// no such file or it cannot be read.
    pub fn open(path: &Path) -> Option<Self> {
        let metadata = metadata(path).ok()?;
        let of = |key: &str| metadata.get(key).cloned();
        let counts: Vec<usize> = serde_json::from_str(&of(COUNTS)?).ok()?;
        let mut sizes = row_groups(path).ok()?.into_iter();
        let (mut row_groups, mut next) = (Vec::new(), 0);
        for customers in &counts {
            let (start, mut rows) = (next, 0);
            while rows < *customers {
                rows += sizes.next()?;
                next += 1;
            }
            row_groups.push(start..next);
        }
        let shards = Shards::new(counts.len() as u32)?;
        let (name, columns) = (of(NAME)?, of(COLUMNS)?);
        Some(Self { name, columns, shards, path: path.to_owned(), row_groups })
    }

    /// Reads the hashes of a shard, in the order of their keys.
    pub fn hashes(&self, shard: Shard) -> Result<Hashes> {
        let mut rows = Vec::new();
        for row_group in self.row_groups[shard.place()].clone() {
            let found = batches(&self.path, None, Some(row_group))?;
            rows.extend(found.collect::<Result<Vec<_>>>()?);
        }
        Hashes::of(rows)
    }

    /// Writes the hashes of a content that a store was given.
    pub fn write(path: &Path, content: &Content) -> Result<()> {
        let counts = serde_json::json!(content.counts()).to_string();
        let metadata =
            [(NAME, content.name().into()), (COLUMNS, content.columns()), (COUNTS, counts)];
        let metadata: HashMap<String, String> = metadata.map(|(k, v)| (k.to_owned(), v)).into();
        let schema = Arc::new(Hashes::schema().with_metadata(metadata));
        let mut writer = Writer::create(path, &schema)?;
        for shard in content.shards().all() {
            writer.write(&content.hashes(shard)?.batch(schema.clone())?)?;
            writer.end_row_group()?;
        }
        writer.finish()
    }

    /// The path of a target's file, in the folder `pushes/`.
    pub fn file(target: &str) -> String {
        format!("pushes/{:016x}.parquet", xxh3_64(target.as_bytes()))
    }
}

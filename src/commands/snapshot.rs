//! Tables of customers on their way to the store: snapshots of views with their records, and all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{Field, Schema, SchemaRef};
use rayon::prelude::*;

use crate::config::Project;
use crate::error::{Error, Result};
use crate::expression::Type;
use crate::expression::polars::arrow_type;
use crate::features::catalog::Feature;
use crate::features::join::STAMPS;
use crate::features::plan::AsOf;
use crate::features::registry::{self, Inputs, Snapshot, Summary};
use crate::money::Scale;
use crate::shard::{self, Shard, Shards};
use crate::store::parquet::{Sorted, Writer};
use crate::store::{FORMAT_VERSION, Transaction};

/// Rows that are put in order and encoded at a time.
const ROWS: usize = 1 << 16;

/// Where snapshots are that others may read, before `features/` and `registry/`.
pub const LIVE: &str = "";
/// Where snapshots are that broke an expectation.
pub const QUARANTINE: &str = "quarantine/";

/// Views of one as-of on their way to the store.
#[derive(Clone, Copy)]
pub struct ComputedViews<'a> {
    /// Which views.
    pub views: &'a BTreeSet<&'a str>,
    /// When they are true.
    pub as_of: AsOf,
    /// What they were computed from.
    pub inputs: &'a Inputs,
    /// The columns of all of them.
    pub rows: &'a Sorted,
}

/// Writes the columns of views to `features/<view>/as_of=…/` of a `place`, and what the store is to say of
/// them.
pub fn write_views(
    transaction: &mut Transaction,
    project: &Project,
    computed: ComputedViews<'_>,
    place: &str,
) -> Result<Vec<Snapshot>> {
    let ComputedViews { views: names, as_of, inputs, rows } = computed;
    let parts = parts(transaction, rows);
    let mut views = Vec::new();
    for view in project.catalog.views.iter().filter(|view| names.contains(view.name.as_str())) {
        let folder = format!("{place}{}", folder(&view.name, as_of));
        let columns: Vec<&Feature> = project.catalog.of_view(&view.name).collect();
        transaction.replace(&folder);
        let generation = transaction.generation();
        let shards = parts.iter().map(|(shard, _)| *shard);
        let paths: Vec<_> = shards
            .map(|shard| transaction.stage(&format!("{folder}/{}", shard.file_name(generation))))
            .collect::<Result<_>>()?;
        views.push((view.name.as_str(), columns, paths));
    }
    let scale = project.context().scale;
    // The widest first, so that no thread is left with it at the end.
    views.sort_by_key(|(_, columns, _)| std::cmp::Reverse(columns.len()));
    let write = |(view, columns, paths): &(&str, Vec<&Feature>, Vec<std::path::PathBuf>)| {
        let schema = view_schema(columns, scale);
        let mut summaries: Vec<Summary> = columns.iter().map(|_| Summary::default()).collect();
        for (path, (_, of_part)) in paths.iter().zip(&parts) {
            let mut writer = Writer::create(path, &schema)?;
            for chunk in of_part.chunks(ROWS) {
                let batch = view_rows(&schema, columns, as_of, rows, chunk)?;
                let features = summaries.iter_mut().zip(&batch.columns()[STAMPS.len()..]);
                features.for_each(|(summary, array)| summary.add(array));
                writer.write(&batch)?;
            }
            writer.finish()?;
        }
        let columns = columns.iter().zip(&summaries).map(|(feature, summary)| {
            (feature.column().to_owned(), summary.column(&feature.version))
        });
        Ok(Snapshot {
            format_version: FORMAT_VERSION,
            view: (*view).to_owned(),
            as_of,
            definition: registry::definition(&project.catalog, view),
            inputs: inputs.clone(),
            rows: rows.len() as u64,
            columns: columns.collect::<BTreeMap<_, _>>(),
        })
    };
    let written = views.par_iter().with_max_len(1).map(write);
    let mut written: Vec<Snapshot> = written.collect::<Result<_>>()?;
    written.sort_by(|a, b| a.view.cmp(&b.view));
    for snapshot in &written {
        let path = format!("{place}{}", registry::path(&snapshot.view, as_of.at));
        transaction.write_json(&path, snapshot)?;
    }
    Ok(written)
}

/// Where the snapshot of a view is in the store.
pub fn folder(view: &str, as_of: AsOf) -> String {
    format!("features/{view}/as_of={}", as_of.at.folder())
}

fn view_schema(columns: &[&Feature], scale: Scale) -> SchemaRef {
    let instant = arrow_type(Type::Timestamp, scale);
    let types = [arrow_type(Type::Text, scale), instant.clone(), instant];
    let own = STAMPS.into_iter().zip(types).map(|(name, ty)| Field::new(name, ty, false));
    let features = columns
        .iter()
        .map(|feature| Field::new(feature.column(), arrow_type(feature.ty(), scale), true));
    Arc::new(Schema::new(own.chain(features).collect::<Vec<_>>()))
}

fn view_rows(
    schema: &SchemaRef,
    columns: &[&Feature],
    as_of: AsOf,
    rows: &Sorted,
    chunk: &[usize],
) -> Result<RecordBatch> {
    let stamp = |instant: crate::time::Instant| -> ArrayRef {
        let values = TimestampMicrosecondArray::from_value(instant.0, chunk.len());
        Arc::new(values.with_timezone("UTC"))
    };
    let mut arrays = vec![rows.column(0, chunk)?, stamp(as_of.at), stamp(as_of.known_at)];
    for feature in columns {
        let index = rows.index_of(feature.column()).ok_or_else(|| Error::Engine {
            context: "writing features",
            message: format!("nothing computed {}", feature.column()),
        })?;
        arrays.push(rows.column(index, chunk)?);
    }
    RecordBatch::try_new(schema.clone(), arrays).map_err(Error::engine("writing features"))
}

/// The shards of the store.
fn shards(transaction: &Transaction) -> Shards {
    transaction.root.shards.unwrap_or(Shards::ONE)
}

/// The rows of each shard.
fn parts(transaction: &Transaction, rows: &Sorted) -> Vec<(Shard, Vec<usize>)> {
    let shards = shards(transaction);
    let mut parts: Vec<(Shard, Vec<usize>)> = shards.all().map(|s| (s, Vec::new())).collect();
    for row in 0..rows.len() {
        parts[shards.index(shard::hash(rows.key(row)))].1.push(row);
    }
    parts
}

/// Writes a customer-keyed table by shard, in place of what was there.
pub fn write_shards(
    transaction: &mut Transaction,
    folder: &str,
    batch: &RecordBatch,
) -> Result<()> {
    let shards = shards(transaction);
    let generation = transaction.generation();
    transaction.replace(folder);
    let keys = crate::sources::profile::keys(batch)?;
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); shards.count()];
    for row in 0..keys.len() {
        rows[shards.index(shard::hash(keys.value(row)))].push(row as u32);
    }
    for (shard, rows) in shards.all().zip(rows) {
        let path = transaction.stage(&format!("{folder}/{}", shard.file_name(generation)))?;
        let mut writer = Writer::create(&path, &batch.schema())?;
        writer.write(&crate::store::parquet::take(batch, &rows.into())?)?;
        writer.finish()?;
    }
    Ok(())
}

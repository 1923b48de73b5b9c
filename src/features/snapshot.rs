//! Writing snapshots of views: one file per shard, and one record for the whole snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::join::STAMPS;
use super::plan::AsOf;
use super::registry::{self, Inputs, SnapshotRecord, Summary};
use crate::error::{Error, Result};
use crate::expression::Type;
use crate::expression::polars::arrow_type;
use crate::money::Scale;
use crate::store::parquet::Writer;
use crate::store::{FORMAT_VERSION, StagedFile};
use crate::time::Instant;

/// The columns of a view in the files of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewColumns {
    /// The name of the view.
    pub view: String,
    /// A hash of the versions of all columns.
    pub definition: String,
    columns: Vec<ViewColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ViewColumn {
    name: String,
    #[serde(rename = "type")]
    ty: Type,
    version: String,
}

impl ViewColumns {
    /// The columns of a view of the catalog.
    pub fn of(catalog: &Catalog, view: &str) -> Self {
        let columns = catalog.of_view(view).map(|feature| ViewColumn {
            name: feature.column().to_owned(),
            ty: feature.ty(),
            version: feature.version.clone(),
        });
        let definition = registry::definition(catalog, view);
        Self { view: view.to_owned(), definition, columns: columns.collect() }
    }

    /// The folder of a snapshot of the view in the store.
    pub fn folder(&self, as_of: AsOf) -> String {
        folder(&self.view, as_of.at)
    }

    /// Writes the rows of a shard, which must be sorted by customer. Columns of other views are ignored.
    ///
    /// # Errors
    /// An engine error if the rows do not have a column of the view, or an I/O error.
    pub fn write(
        &self,
        file: StagedFile,
        as_of: AsOf,
        rows: &RecordBatch,
        scale: Scale,
    ) -> Result<ViewSummary> {
        let schema = self.schema(scale);
        let stamp = |instant: Instant| -> ArrayRef {
            let values = TimestampMicrosecondArray::from_value(instant.0, rows.num_rows());
            Arc::new(values.with_timezone("UTC"))
        };
        let mut arrays = vec![rows.column(0).clone(), stamp(as_of.at), stamp(as_of.known_at)];
        let mut columns = Vec::new();
        for ViewColumn { name, .. } in &self.columns {
            let array = rows.column_by_name(name).ok_or_else(|| {
                Error::engine("writing features")(format!("nothing computed {name}"))
            })?;
            let mut summary = Summary::default();
            summary.add(array);
            columns.push(summary);
            arrays.push(array.clone());
        }
        let batch = RecordBatch::try_new(schema.clone(), arrays)
            .map_err(Error::engine("writing features"))?;
        Writer::stage(file, &schema)?.write_only(&batch)?;
        Ok(ViewSummary { rows: rows.num_rows() as u64, columns })
    }

    /// The record of a snapshot. `summary` must cover all its shards.
    pub fn record(&self, as_of: AsOf, inputs: &Inputs, summary: &ViewSummary) -> SnapshotRecord {
        let columns = self.columns.iter().zip(&summary.columns);
        let columns =
            columns.map(|(column, summary)| (column.name.clone(), summary.column(&column.version)));
        SnapshotRecord {
            format_version: FORMAT_VERSION,
            view: self.view.clone(),
            as_of,
            definition: self.definition.clone(),
            inputs: inputs.clone(),
            rows: summary.rows,
            columns: columns.collect::<BTreeMap<_, _>>(),
        }
    }

    fn schema(&self, scale: Scale) -> SchemaRef {
        let instant = arrow_type(Type::Timestamp, scale);
        let types = [arrow_type(Type::Text, scale), instant.clone(), instant];
        let own = STAMPS.into_iter().zip(types).map(|(name, ty)| Field::new(name, ty, false));
        let features = self
            .columns
            .iter()
            .map(|column| Field::new(&column.name, arrow_type(column.ty, scale), true));
        Arc::new(Schema::new(own.chain(features).collect::<Vec<_>>()))
    }
}

/// The number of rows of a view that were written, and statistics of its columns. The summaries of different
/// shards add up.
#[derive(Debug, Default)]
pub struct ViewSummary {
    /// The number of rows, one per customer.
    pub rows: u64,
    columns: Vec<Summary>,
}

impl ViewSummary {
    /// Adds the summary of another shard.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.columns.resize_with(other.columns.len(), Summary::default);
        self.columns.iter_mut().zip(other.columns).for_each(|(own, more)| own.merge(more));
    }
}

/// The folder of a snapshot of a view in the store.
pub fn folder(view: &str, at: Instant) -> String {
    format!("features/{view}/as_of={}", at.folder())
}

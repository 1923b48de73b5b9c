//! The current profile as a Delta table, which Spark, Databricks and DuckDB read.
//!
//! Each run that changes the current profile makes one commit, which replaces all rows. The commit carries the number
//! of the run as an application transaction, so that a run that is repeated, or that never heard of its success, does
//! not write again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, FieldRef, Schema, TimeUnit};
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::engine::arrow_conversion::{TryFromArrow, TryIntoArrow};
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::schema::StructType;
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::{CommitResult, Transaction, UpdateTableOperation};
use delta_kernel::{EngineData, KernelError, Snapshot};

use super::ExportProblem;
use crate::error::{Error, Result};
use crate::store::bucket::is_url;
use crate::store::conform::conform;
use crate::store::delta::{self, DeltaEngine};
use crate::store::parquet::{batches, metadata_of};

/// The program that the log names as the writer.
const WRITER: &str = concat!("c360-ml/", env!("CARGO_PKG_VERSION"));

/// The characters that no column of a Delta table has in its name, unless names are mapped.
const NOT_IN_NAMES: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// The rows that a table is to have.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The name of the project. With `store`, it is what the table keeps the number of the last run under.
    pub project: &'a str,
    /// The mark of the store that the runs are of.
    pub store: &'a str,
    /// The number of the run that wrote the rows.
    pub run: i64,
    /// The Parquet files of the rows. They have one schema.
    pub files: &'a [PathBuf],
}

/// Checks that a Delta table can have the columns of a schema.
///
/// # Errors
/// Returns [`ExportProblem::DeltaType`] or [`ExportProblem::DeltaName`] for the first column that it cannot have.
pub fn check(table: &Path, schema: &Schema) -> Result<()> {
    table_schema(table, schema).map(|_| ())
}

/// Replaces the rows of the table at a path or URL, which is created if it does not exist. Returns the version that
/// has the rows, or `None` if the table has had the rows of this run or of a later one.
///
/// # Errors
/// Returns [`ExportProblem::Delta`] if the table cannot be read or written, [`ExportProblem::DeltaConflict`] if it was
/// changed meanwhile, and [`ExportProblem::DeltaType`] for a column that a Delta table cannot have, or has in another
/// type.
pub fn replace(table: &Path, rows: &Rows) -> Result<Option<u64>> {
    let failed = |source: KernelError| {
        Error::from(ExportProblem::Delta { table: table.to_owned(), source: Box::new(source) })
    };
    let (engine, root) = delta::at(table)?;
    let Some(first) = rows.files.first() else { unreachable!("a profile has at least one file") };
    let schema = table_schema(table, metadata_of(first)?.schema())?;
    let wanted = StructType::try_from_arrow(&schema).map_err(|source| failed(source.into()))?;
    let application = format!("c360-ml {} {}", rows.project, rows.store);
    let committer = || Box::new(FileSystemCommitter::new());
    if delta::find(table)?.is_none() {
        if !is_url(table) {
            std::fs::create_dir_all(table).map_err(Error::io("create", table))?;
        }
        let created = create_table(root.as_str(), Arc::new(wanted), WRITER, true)
            .with_transaction_id(application, rows.run)
            .build(engine.as_ref(), committer())
            .map_err(failed)?;
        return write(created, &engine, table, rows).map(Some);
    }
    let snapshot = Snapshot::builder_for(root.as_str()).build(engine.as_ref()).map_err(failed)?;
    let known = snapshot.get_app_id_version(&application, engine.as_ref()).map_err(failed)?;
    if known.is_some_and(|known| known >= rows.run) {
        return Ok(None);
    }
    let old = snapshot.schema();
    let mut update = snapshot
        .clone()
        .update_table(UpdateTableOperation::Write, WRITER, true)
        .with_transaction_id(application, rows.run);
    for field in wanted.fields() {
        match old.field(field.name()) {
            Some(old) if old.data_type() == field.data_type() => {}
            Some(old) => {
                return Err(ExportProblem::DeltaType {
                    table: table.to_owned(),
                    column: field.name().clone(),
                    ty: format!(
                        "{}, which the table has as {}",
                        field.data_type(),
                        old.data_type()
                    ),
                }
                .into());
            }
            None => update = update.add_column(field.clone()),
        }
    }
    let mut update = update.build(engine.as_ref(), committer()).map_err(failed)?;
    let scan = snapshot.scan_builder().build().map_err(failed)?;
    for metadata in scan.scan_metadata(engine.as_ref()).map_err(failed)? {
        update.remove_files(metadata.map_err(failed)?.scan_files);
    }
    write(update, &engine, table, rows).map(Some)
}

/// Writes the files of a transaction and commits it. Returns the version of the table.
fn write<State>(
    mut transaction: Transaction<State>,
    engine: &DeltaEngine,
    table: &Path,
    rows: &Rows,
) -> Result<u64> {
    let failed = |source: KernelError| {
        Error::from(ExportProblem::Delta { table: table.to_owned(), source: Box::new(source) })
    };
    let state = transaction.write_state().map_err(failed)?;
    let context = state.write_context_builder().build().map_err(failed)?;
    let schema: Schema = context
        .logical_data_schema()
        .as_ref()
        .try_into_arrow()
        .map_err(|source: arrow_schema::ArrowError| failed(source.into()))?;
    for file in rows.files {
        for batch in batches(file, None, None)? {
            let batch = conform(&batch?, &schema, None);
            let batch = batch.map_err(Error::engine("writing a Delta table"))?;
            let batch = ArrowEngineData::new(batch);
            let written = engine.write_parquet(&batch, &context);
            let file = delta::block_on(written).map_err(failed)?;
            transaction.add_files(without_values(file)?);
        }
    }
    match transaction.commit(engine).map_err(failed)? {
        CommitResult::Committed(committed) => Ok(committed.commit_version()),
        CommitResult::Conflicted(conflict) => {
            let (table, version) = (table.to_owned(), conflict.conflict_version());
            Err(ExportProblem::DeltaConflict { table, version }.into())
        }
        CommitResult::Retryable(retryable) => Err(failed(retryable.error)),
    }
}

/// What a transaction is told of a written file, without the least and greatest values of its columns: the log would
/// have names and addresses of customers.
fn without_values(file: Box<dyn EngineData>) -> Result<Box<dyn EngineData>> {
    let failed = "naming a file of a Delta table";
    let file = ArrowEngineData::try_from_engine_data(file).map_err(Error::engine(failed))?;
    let file: RecordBatch = (*file).into();
    let schema = file.schema();
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (field, array) in schema.fields().iter().zip(file.columns()) {
        let Some(stats) = array.as_struct_opt().filter(|_| field.name() == "stats") else {
            fields.push(field.clone());
            arrays.push(array.clone());
            continue;
        };
        let own = stats.fields().iter().zip(stats.columns());
        let is_count = |name: &str| !["minValues", "maxValues"].contains(&name);
        let own = own.filter(|(field, _)| is_count(field.name()));
        let (own, columns): (Vec<FieldRef>, Vec<ArrayRef>) =
            own.map(|(field, column)| (field.clone(), column.clone())).unzip();
        let stats = StructArray::try_new(own.into(), columns, stats.nulls().cloned());
        let stats = stats.map_err(Error::engine(failed))?;
        let own = field.as_ref().clone().with_data_type(stats.data_type().clone());
        fields.push(Arc::new(own));
        arrays.push(Arc::new(stats));
    }
    let file = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
    Ok(Box::new(ArrowEngineData::new(file.map_err(Error::engine(failed))?)))
}

/// A schema in names and types that Delta tables have. All columns may be null.
fn table_schema(table: &Path, schema: &Schema) -> Result<Schema> {
    let field = |field: &FieldRef| -> Result<Field> {
        let (table, column) = (table.to_owned(), field.name().clone());
        if column.contains(NOT_IN_NAMES) {
            return Err(ExportProblem::DeltaName { table, column }.into());
        }
        let Some(ty) = delta_type(field.data_type()) else {
            let ty = field.data_type().to_string();
            return Err(ExportProblem::DeltaType { table, column, ty }.into());
        };
        Ok(Field::new(column, ty, true))
    };
    Ok(Schema::new(schema.fields().iter().map(field).collect::<Result<Vec<_>>>()?))
}

/// The type of a Delta table that holds all values of a type; `None` if there is none.
fn delta_type(ty: &DataType) -> Option<DataType> {
    let nested = |field: &FieldRef| -> Option<FieldRef> {
        let ty = delta_type(field.data_type())?;
        Some(Arc::new(Field::new(field.name(), ty, field.is_nullable())))
    };
    Some(match ty {
        DataType::Dictionary(_, values) => delta_type(values)?,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::FixedSizeList(field, _) => DataType::List(nested(field)?),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(nested).collect::<Option<_>>()?)
        }
        DataType::Map(entries, sorted) => DataType::Map(nested(entries)?, *sorted),
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(..) => ty.clone(),
        _ => return None,
    })
}

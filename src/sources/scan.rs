//! The scan of a source: reads row groups of Parquet files and evaluates expressions over their raw columns.
//!
//! Several threads read the row groups batch by batch, so that memory is bounded by the number of batches in
//! flight and does not depend on the size of the files. Only the columns that the expressions use are read
//! from disk. Each raw column is first converted to the type that expressions use for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, RecordBatch, StringArray, UInt32Array, new_empty_array,
};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::{DataType, Field, Schema};
use hashbrown::HashMap;
use rayon::prelude::*;

use super::files::{RawTable, RawType, hive_columns};
use super::profile::normalize;
use super::pruning;
use super::{LookupPlan, SourceContext, SourcePlan, SourceProblem};
use crate::error::{Error, Result};
use crate::expression::polars::{arrow_type, evaluate};
use crate::expression::{Expression, Node, Type};

const KEY: &str = "customer360_id";
const CONTEXT: &str = "scanning a source";
/// Expressions are evaluated per distinct text only if each text occurs at least this many times on average.
const DISTINCT_SHARE: usize = 16;

/// Named expressions over the canonical columns of a source, prepared for evaluation over its rows.
#[derive(Debug)]
pub struct Scan<'a> {
    source: &'a SourcePlan,
    /// The expressions, rewritten over raw and lookup columns.
    select: Vec<(String, Expression)>,
    /// The expression of the key, if the scan is restricted to the events of some customers.
    key: Option<Expression>,
    /// The raw columns that are read from the files.
    columns: Vec<String>,
    lookups: Vec<Lookup<'a>>,
    /// Events at or after this instant are not wanted, in microseconds since 1970.
    before: i64,
}

/// Scanned rows of one file of the source.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// The index of the file in the source.
    pub file: usize,
    /// The rows, with one column per expression under its name.
    pub rows: RecordBatch,
    /// For each row, whether it contains a number that is not finite. It is None if no row does.
    pub not_finite: Option<BooleanBuffer>,
    /// For each row, whether it contains a number that has more digits than are kept. It is None if no row does.
    pub out_of_range: Option<BooleanBuffer>,
    /// The number of the first row of the batch within the file, counted from 1.
    first_row: u64,
    /// The rows of the batch that were kept. It is None if all were.
    kept: Option<BooleanArray>,
}

impl Scanned {
    /// The number of a row within its file, counted from 1.
    pub fn row_number(&self, row: usize) -> u64 {
        let kept = self.kept.as_ref().map(|kept| kept.values().set_indices().nth(row));
        self.first_row + kept.flatten().unwrap_or(row) as u64
    }

    /// Other rows of the same columns in their place.
    pub fn with(&self, rows: RecordBatch) -> Self {
        Self { rows, ..self.clone() }
    }

    /// The column of the expression called `name`.
    ///
    /// # Panics
    /// If there is no such expression.
    pub fn column(&self, name: &str) -> &ArrayRef {
        match self.rows.column_by_name(name) {
            Some(column) => column,
            None => unreachable!("the scan was not asked for {name}"),
        }
    }
}

/// A row group of a file of the source.
struct Task {
    file: usize,
    row_group: usize,
    /// The number of its first row within the file, counted from 1.
    first_row: u64,
}

impl<'a> Scan<'a> {
    /// Prepares the scan of a source for `select`: names with expressions over canonical columns.
    ///
    /// # Errors
    /// A contract violation for a lookup table that cannot be read.
    pub fn new(source: &'a SourcePlan, select: &[(String, Expression)]) -> Result<Self> {
        let select: Vec<(String, Expression)> =
            select.iter().map(|(name, x)| (name.clone(), source.raw(x))).collect();
        let is_restricted = source.only.is_some() || !source.context.forgotten.is_empty();
        let key = source.mapping.get(KEY).filter(|_| is_restricted).cloned();
        let expressions = select.iter().map(|(_, x)| x).chain(&key);
        let mut needed: BTreeSet<String> =
            expressions.flat_map(Expression::columns).map(str::to_owned).collect();
        let mut lookups = Vec::new();
        for plan in &source.lookups {
            let prefix = format!("{}.", plan.name);
            let wanted = needed.iter().filter_map(|name| name.strip_prefix(&prefix));
            let wanted: BTreeSet<String> = wanted.map(str::to_owned).collect();
            if !wanted.is_empty() {
                lookups.push(Lookup::open(plan, &wanted, &source.context)?);
                needed.insert(plan.on.clone());
            }
        }
        let columns = needed.into_iter().filter(|name| source.table.get(name).is_some()).collect();
        Ok(Self { source, select, key, columns, lookups, before: i64::MAX })
    }

    /// Leaves out row groups whose events all happened at or after an instant, in microseconds since 1970. Other rows
    /// from then on are read.
    pub fn before(self, before: i64) -> Self {
        Self { before, ..self }
    }

    /// Reads all rows. Each thread starts with a state from `begin` and folds the rows that it reads into it.
    ///
    /// # Errors
    /// A contract violation for a file that cannot be decoded, and any error of `take`.
    pub fn fold<S: Send>(
        &self,
        begin: impl Fn() -> S + Sync,
        take: impl Fn(&mut S, Scanned) -> Result<()> + Sync,
    ) -> Result<Vec<S>> {
        let tasks = self.tasks()?;
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let work = |_| {
            let mut state = begin();
            while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = self.read(task, &mut state, &take) {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(state)
        };
        let threads = rayon::current_num_threads().clamp(1, tasks.len().max(1));
        (0..threads).into_par_iter().with_max_len(1).map(work).collect()
    }

    fn tasks(&self) -> Result<Vec<Task>> {
        let of_file = |(file, path): (usize, &std::path::PathBuf)| -> Result<Vec<Task>> {
            let metadata = self.source.table.metadata(path)?;
            let row_groups = pruning::row_groups(self.source, &metadata, self.before);
            let rows = metadata.metadata().row_groups().iter().map(|group| group.num_rows() as u64);
            let first_rows: Vec<u64> =
                rows.scan(1, |next, rows| Some(std::mem::replace(next, *next + rows))).collect();
            let task =
                |row_group: usize| Task { file, row_group, first_row: first_rows[row_group] };
            Ok(row_groups.into_iter().map(task).collect())
        };
        let files: Vec<_> = self.source.table.files.iter().enumerate().collect();
        let tasks: Vec<Vec<Task>> = files.into_par_iter().map(of_file).collect::<Result<_>>()?;
        Ok(tasks.into_iter().flatten().collect())
    }

    fn read<S>(
        &self,
        task: &Task,
        state: &mut S,
        take: &impl Fn(&mut S, Scanned) -> Result<()>,
    ) -> Result<()> {
        let path = &self.source.table.files[task.file];
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let mut first_row = task.first_row;
        for batch in self.source.table.batches(path, Some(&columns), Some(task.row_group))? {
            let batch = batch?;
            if let Some(scanned) = self.evaluate(task.file, first_row, &batch)? {
                take(state, scanned)?;
            }
            first_row += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// Evaluates the expressions over a raw batch. Returns None if the scan is restricted to some customers and
    /// no row belongs to any of them.
    fn evaluate(
        &self,
        file: usize,
        first_row: u64,
        batch: &RecordBatch,
    ) -> Result<Option<Scanned>> {
        let (mut raw, mut lost) = self.raw(file, batch)?;
        let mut kept = None;
        if let Some(key) = &self.key {
            let own = self.own(key, &raw)?;
            if own.true_count() == 0 {
                return Ok(None);
            }
            raw = arrow_select::filter::filter_record_batch(&raw, &own)
                .map_err(Error::engine(CONTEXT))?;
            lost = lost.map(|lost| own.values().set_indices().map(|row| lost.value(row)).collect());
            kept = Some(own);
        }
        let columns = compute(&self.select, &raw, &self.source.context)?;
        for ((_, expression), made) in self.select.iter().zip(&columns) {
            // Money is made of a column by this conversion alone, and not of what others have decided to be null.
            if let (Type::Money, Node::Cast(inner)) = (expression.ty, &expression.node)
                && let Node::Column(name) = &inner.node
                && let Some(from) = raw.column_by_name(name)
            {
                lost = either(lost, lost_values(from, made));
            }
        }
        let fields = self.select.iter().zip(&columns);
        let fields = fields.map(|((name, _), a)| Field::new(name, a.data_type().clone(), true));
        let rows = batch_of(fields.collect(), columns, raw.num_rows())?;
        let not_finite = not_finite(self.read_doubles(&raw));
        Ok(Some(Scanned { file, rows, not_finite, out_of_range: lost, first_row, kept }))
    }

    /// Whether each row belongs to a customer whose events are read.
    fn own(&self, key: &Expression, raw: &RecordBatch) -> Result<BooleanArray> {
        let named = [("\u{0}key".to_owned(), key.clone())];
        let keys = compute(&named, raw, &self.source.context)?.remove(0);
        let keys = keys.as_string::<i32>().iter();
        let is_own = |key: Option<&str>| match &self.source.only {
            Some(wanted) => key.is_some_and(|key| wanted.contains(key)),
            None => !key.is_some_and(|key| self.source.context.forgotten.has(key)),
        };
        Ok(keys.map(|key| Some(is_own(key))).collect())
    }

    /// The raw columns that the expressions use, and the rows in which they have lost a number that has too many digits.
    /// Columns of lookups are named `lookup.column`.
    fn raw(
        &self,
        file: usize,
        batch: &RecordBatch,
    ) -> Result<(RecordBatch, Option<BooleanBuffer>)> {
        let (table, context) = (&self.source.table, &self.source.context);
        let rows = batch.num_rows();
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        let mut lost = None;
        for name in &self.columns {
            let Some(column) = table.get(name) else { continue };
            let array: ArrayRef = match column.hive {
                true => {
                    let folders = hive_columns(&table.files[file]);
                    let value = folders.into_iter().find(|(known, _)| known == name);
                    let value = value.map(|(_, value)| value);
                    Arc::new(std::iter::repeat_n(value, rows).collect::<StringArray>())
                }
                false => {
                    let array = batch.column_by_name(name);
                    let array = array.ok_or_else(|| missing(table, file, name))?;
                    let normal = normalize(array, column.ty, context)?;
                    if matches!(column.ty, RawType::Integer | RawType::Decimal(_)) {
                        lost = either(lost, lost_values(array, &normal));
                    }
                    normal
                }
            };
            fields.push(Field::new(name, array.data_type().clone(), true));
            arrays.push(array);
        }
        for lookup in &self.lookups {
            let on = fields.iter().position(|field| *field.name() == lookup.plan.on);
            let Some(on) = on else { return Err(missing(table, file, &lookup.plan.on)) };
            for (name, array) in lookup.of(&arrays[on])? {
                fields.push(Field::new(name, array.data_type().clone(), true));
                arrays.push(array);
            }
        }
        Ok((batch_of(fields, arrays, rows)?, lost))
    }

    /// The columns of floating-point numbers that were read, in which a value may not be finite.
    fn read_doubles<'b>(&'b self, raw: &'b RecordBatch) -> impl Iterator<Item = &'b ArrayRef> {
        let is_double = |table: &RawTable, name: &str| {
            table.get(name).is_some_and(|column| column.ty == RawType::Double)
        };
        let schema = raw.schema();
        let is_read = move |place: &usize| {
            let name = schema.field(*place).name();
            is_double(&self.source.table, name)
                || self.lookups.iter().any(|lookup| {
                    let own = name.strip_prefix(&lookup.prefix);
                    own.is_some_and(|name| is_double(&lookup.plan.table, name))
                })
        };
        (0..raw.num_columns()).filter(is_read).map(|place| raw.column(place))
    }
}

fn missing(table: &RawTable, file: usize, name: &str) -> Error {
    SourceProblem::Missing {
        file: table.files[file].clone(),
        column: name.to_owned(),
        required: "files of one source have one schema; write the older files again".to_owned(),
    }
    .into()
}

fn batch_of(fields: Vec<Field>, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(Error::engine(CONTEXT))
}

/// Evaluates expressions over raw columns.
///
/// An expression that is a single column is not evaluated at all. An expression that depends on one text
/// column only, such as a condition on the event type, is evaluated once per distinct text.
fn compute(
    select: &[(String, Expression)],
    raw: &RecordBatch,
    context: &SourceContext,
) -> Result<Vec<ArrayRef>> {
    let mut columns: Vec<Option<ArrayRef>> = vec![None; select.len()];
    let (mut of_text, mut others) = (BTreeMap::<&str, Vec<usize>>::new(), Vec::new());
    for (place, (_, expression)) in select.iter().enumerate() {
        let used = expression.columns();
        match (&expression.node, used.first()) {
            (Node::Column(name), _) => columns[place] = raw.column_by_name(name).cloned(),
            (_, Some(name)) if used.len() == 1 && is_text(raw, name) => {
                of_text.entry(name).or_default().push(place);
            }
            _ => others.push(place),
        }
    }
    let mut place_all = |places: &[usize], rows: &RecordBatch, codes: Option<&UInt32Array>| {
        // A mapped column may have the same name as a raw one, so a prefix keeps them apart.
        let named = |place: &usize| (format!("\u{0}{place}"), select[*place].1.clone());
        let named: Vec<(String, Expression)> = places.iter().map(named).collect();
        for (place, values) in places.iter().zip(evaluate(&named, rows, context.scale)?) {
            columns[*place] = Some(match codes {
                Some(codes) => arrow_select::take::take(&values, codes, None)
                    .map_err(Error::engine(CONTEXT))?,
                None => values,
            });
        }
        Ok::<_, Error>(())
    };
    for (name, places) in of_text {
        let text = raw.column_by_name(name).map(|column| column.as_string::<i32>());
        match text.and_then(distinct) {
            Some((texts, codes)) => {
                let rows = texts.len();
                let field = Field::new(name, DataType::Utf8, true);
                let rows = batch_of(vec![field], vec![Arc::new(texts)], rows)?;
                place_all(&places, &rows, Some(&codes))?;
            }
            None => others.extend(places),
        }
    }
    if !others.is_empty() {
        place_all(&others, raw, None)?;
    }
    let column = |(column, (name, _)): (Option<ArrayRef>, &(String, Expression))| {
        column.unwrap_or_else(|| unreachable!("the raw column of {name} was read"))
    };
    Ok(columns.into_iter().zip(select).map(column).collect())
}

fn is_text(raw: &RecordBatch, name: &str) -> bool {
    raw.column_by_name(name).is_some_and(|column| *column.data_type() == DataType::Utf8)
}

/// The distinct texts, possibly including null, and for each row the index of its text.
///
/// The result is None if there are too many distinct texts.
fn distinct(texts: &StringArray) -> Option<(StringArray, UInt32Array)> {
    let most = texts.len() / DISTINCT_SHARE;
    let (mut places, mut distinct) = (HashMap::new(), Vec::new());
    let mut codes = Vec::with_capacity(texts.len());
    for text in texts {
        let code = match places.get(&text) {
            Some(code) => *code,
            None if distinct.len() < most => {
                let code = distinct.len() as u32;
                places.insert(text, code);
                distinct.push(text);
                code
            }
            None => return None,
        };
        codes.push(code);
    }
    Some((StringArray::from(distinct), codes.into()))
}

/// The rows that have a value in `from` and none in `to`; `None` if there are none.
fn lost_values(from: &ArrayRef, to: &ArrayRef) -> Option<BooleanBuffer> {
    (to.logical_null_count() > from.logical_null_count()).then(|| {
        let (before, after) = (from.logical_nulls(), to.logical_nulls());
        let is_null =
            |nulls: &Option<NullBuffer>, row| nulls.as_ref().is_some_and(|n| n.is_null(row));
        BooleanBuffer::collect_bool(to.len(), |row| is_null(&after, row) && !is_null(&before, row))
    })
}

/// The rows that are in one of two sets.
fn either(a: Option<BooleanBuffer>, b: Option<BooleanBuffer>) -> Option<BooleanBuffer> {
    match (a, b) {
        (Some(a), Some(b)) => Some(&a | &b),
        (a, b) => a.or(b),
    }
}

fn not_finite<'a>(columns: impl Iterator<Item = &'a ArrayRef>) -> Option<BooleanBuffer> {
    let mut found: Option<BooleanBuffer> = None;
    for column in columns {
        let values = column.as_primitive::<Float64Type>();
        let is_bad = |row: usize| values.is_valid(row) && !values.value(row).is_finite();
        if values.values().iter().all(|value| value.is_finite()) {
            continue;
        }
        found = either(found, Some(BooleanBuffer::collect_bool(values.len(), is_bad)));
    }
    found
}

/// A lookup table in memory.
#[derive(Debug)]
struct Lookup<'a> {
    plan: &'a LookupPlan,
    /// The prefix of the names of its columns.
    prefix: String,
    rows: HashMap<String, u32>,
    columns: Vec<(String, ArrayRef)>,
}

impl<'a> Lookup<'a> {
    fn open(
        plan: &'a LookupPlan,
        wanted: &BTreeSet<String>,
        context: &SourceContext,
    ) -> Result<Self> {
        let mut names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        names.push(&plan.key);
        let mut batches = Vec::new();
        for file in &plan.table.files {
            for batch in plan.table.batches(file, Some(&names), None)? {
                batches.push(batch?);
            }
        }
        let column = |name: &str| -> Result<ArrayRef> {
            let Some(raw) = plan.table.get(name) else { return Err(missing(&plan.table, 0, name)) };
            let of_batch = |batch: &RecordBatch| {
                let array = batch.column_by_name(name);
                normalize(array.ok_or_else(|| missing(&plan.table, 0, name))?, raw.ty, context)
            };
            let arrays: Vec<ArrayRef> = batches.iter().map(of_batch).collect::<Result<_>>()?;
            let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
            match (arrays.is_empty(), raw.ty.logical(context.scale)) {
                (true, Some(ty)) => Ok(new_empty_array(&arrow_type(ty, context.scale))),
                _ => arrow_select::concat::concat(&arrays).map_err(Error::engine(CONTEXT)),
            }
        };
        let prefix = format!("{}.", plan.name);
        let named = |name: &String| Ok((format!("{prefix}{name}"), column(name)?));
        let columns = wanted.iter().map(named).collect::<Result<_>>()?;
        let keys = texts(&column(&plan.key)?)?;
        let keys = keys.as_string::<i32>().iter().zip(0..);
        let rows = keys.filter_map(|(key, row)| Some((key?.to_owned(), row))).collect();
        Ok(Self { plan, prefix, rows, columns })
    }

    /// The columns of the lookup for rows with these keys. They are null for keys that the lookup does not
    /// contain.
    fn of(&self, keys: &ArrayRef) -> Result<Vec<(String, ArrayRef)>> {
        let keys = texts(keys)?;
        let keys = keys.as_string::<i32>().iter();
        let rows: UInt32Array =
            keys.map(|key| key.and_then(|key| self.rows.get(key).copied())).collect();
        let take = |(name, column): &(String, ArrayRef)| {
            let taken = arrow_select::take::take(column, &rows, None);
            Ok((name.clone(), taken.map_err(Error::engine(CONTEXT))?))
        };
        self.columns.iter().map(take).collect()
    }
}

fn texts(keys: &ArrayRef) -> Result<ArrayRef> {
    arrow_cast::cast(keys, &DataType::Utf8).map_err(Error::engine("reading a lookup's keys"))
}

//! Events that are read from their files.
//!
//! The scan evaluates expressions, and each thread scatters the events that it has read by shard. The
//! timeline kernel computes the aggregations, and the derived features are evaluated shard by shard.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float64Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, BooleanArray, PrimitiveArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use rayon::prelude::*;

use super::events::{BuildReport, Events, LeftOut, ShardRows};
use super::plan::FeaturePlan;
use super::rejected::{REASONS, RejectedRow};
use super::timeline::{
    Batch, Context, InputValues, Layout, Partition, Records, Scatterer, Swept, sweep,
};
use crate::error::{Error, Result};
use crate::expression::Expression;
use crate::expression::polars::{arrow_type, evaluate};
use crate::money::Scale;
use crate::shard::{Shard, Shards};
use crate::sources::profile::Entities;
use crate::sources::scan::{Scan, Scanned};
use crate::sources::{Orphans, SourcePlan};
use crate::sources::{POSSIBLE, is_blank};

pub(super) const KEY: &str = "customer360_id";
pub(super) const ID: &str = "event_id";
pub(super) const TIME: &str = "event_ts";
pub(super) const KIND: &str = "event_type";
pub(super) const INGESTED: &str = "ingested_at";
pub(super) const CURRENCY: &str = "currency";

/// Events that were read from their files.
#[derive(Debug)]
pub struct ScannedEvents<'a> {
    source: &'a SourcePlan,
    plans: &'a [FeaturePlan],
    layout: Layout,
    records: Records,
    /// The numbers of events that were read and that are unusable.
    pub report: BuildReport,
}

/// The settings for reading events from their files.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The shards into which the events are scattered.
    pub shards: Shards,
    /// The number of bytes of events that are kept in memory before they are spilled to disk.
    pub memory: u64,
    /// The folder in which the spill file is created.
    pub folder: &'a Path,
}

impl<'a> ScannedEvents<'a> {
    /// Reads all events that may be visible to `plans` and scatters them by shard.
    ///
    /// # Errors
    /// A contract violation if the share of unusable rows is above the limit of the source.
    pub fn read(
        source: &'a SourcePlan,
        plans: &'a [FeaturePlan],
        reading: Reading<'_>,
    ) -> Result<Self> {
        Self::read_with(source, plans, reading, None)
    }

    /// Reads the events as [`ScannedEvents::read`] does, with those that `more` makes of them. What cannot be visible is
    /// not left out at reading then.
    pub(super) fn read_with(
        source: &'a SourcePlan,
        plans: &'a [FeaturePlan],
        reading: Reading<'_>,
        more: Option<More<'_>>,
    ) -> Result<Self> {
        let layout = Layout::new(plans, source.has_ingestion());
        let records = Records::new(reading.shards, reading.memory, reading.folder)?;
        let Read { mut report, files } = read(source, plans, &layout, &records, more)?;
        report.spilled_bytes = records.spilled_bytes();
        let files = source.table.files.iter().zip(files.iter().map(|file| &file.rejected));
        report.check_rejected(source, files)?;
        Ok(Self { source, plans, layout, records, report })
    }
}

impl Events for ScannedEvents<'_> {
    fn shards(&self) -> Shards {
        self.records.shards()
    }

    fn shard(&self, shard: Shard, entities: &Entities) -> Result<ShardRows> {
        let partition = Partition::new(entities, self.records.take(shard)?);
        let create = self.source.orphans == Orphans::Create;
        let context = &self.source.context;
        let kernel = Context { zone: context.zone, scale: context.scale };
        let swept = sweep(partition, &self.layout, create, kernel)?;
        derived(self.plans, swept, context.scale)
    }
}

/// Computes the derived features of the plans from aggregated rows and keeps the output columns.
pub(super) fn derived(plans: &[FeaturePlan], swept: Swept, scale: Scale) -> Result<ShardRows> {
    let Swept { rows, duplicates, orphans } = swept;
    let of_plan = |(plan, batches): (&FeaturePlan, Vec<RecordBatch>)| match plan.interactions {
        Some(_) => Ok(batches),
        None => batches.iter().map(|batch| outputs(plan, batch, scale)).collect(),
    };
    let rows: Vec<Vec<RecordBatch>> =
        plans.par_iter().zip(rows).map(of_plan).collect::<Result<_>>()?;
    Ok(ShardRows::new(plans, rows, LeftOut { duplicates, orphans }))
}

/// The output columns of a plan. Derived features are computed, and the other columns are taken from `rows`.
fn outputs(plan: &FeaturePlan, rows: &RecordBatch, scale: Scale) -> Result<RecordBatch> {
    let derived: Vec<(String, Expression)> =
        plan.derived.iter().map(|d| (d.column.clone(), d.expression.clone())).collect();
    let made = if derived.is_empty() { Vec::new() } else { evaluate(&derived, rows, scale)? };
    let made = |name: &str| {
        let place = derived.iter().position(|(other, _)| other == name)?;
        Some(made[place].clone())
    };
    let mut fields = vec![rows.schema().field(0).clone()];
    let mut columns: Vec<ArrayRef> = vec![rows.column(0).clone()];
    for output in &plan.outputs {
        let array = made(output).or_else(|| rows.column_by_name(output).cloned());
        let (Some(array), Some(ty)) = (array, plan.type_of(output)) else {
            return Err(Error::engine("computing a feature plan")(format!(
                "nothing computes {output}"
            )));
        };
        columns.push(array);
        fields.push(Field::new(output, arrow_type(ty, scale), true));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(Error::engine("computing a plan"))
}

/// The counts of a scan.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub report: BuildReport,
    /// The counts of each file of the source.
    pub files: Vec<FileRead>,
}

/// The counts of the rows of one file.
#[derive(Debug, Clone)]
pub(super) struct FileRead {
    pub events: u64,
    pub rejected: BTreeMap<String, u64>,
    /// The earliest event_ts and the earliest ingested_at of its usable events, in microseconds.
    pub first: (i64, i64),
    /// The rows that cannot be used, if they are kept.
    pub rows: Vec<RejectedRow>,
}

impl FileRead {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        for (reason, count) in other.rejected {
            *self.rejected.entry(reason).or_default() += count;
        }
        let (time, ingested) = other.first;
        self.first = (self.first.0.min(time), self.first.1.min(ingested));
        self.rows.extend(other.rows);
    }
}

impl Default for FileRead {
    fn default() -> Self {
        Self { events: 0, rejected: BTreeMap::new(), first: (i64::MAX, i64::MAX), rows: Vec::new() }
    }
}

/// Makes other events of the same columns from scanned ones.
pub(super) type More<'a> = &'a (dyn Fn(&RecordBatch) -> Result<Vec<RecordBatch>> + Sync);

/// Scans the events and scatters them by shard.
///
/// If the layout keeps the file of each event, all events are scattered with the number of their file.
/// Otherwise only those that a plan may see are scattered.
pub(super) fn read(
    source: &SourcePlan,
    plans: &[FeaturePlan],
    layout: &Layout,
    records: &Records,
    more: Option<More<'_>>,
) -> Result<Read> {
    let select = columns(source, layout);
    let has_currency = select.iter().any(|(name, _)| name == CURRENCY);
    let reader = Reader {
        layout,
        currency: has_currency.then_some(source.context.currency.as_str()),
        visible: match layout.files.is_some() || more.is_some() {
            true => Visible { before: i64::MAX, known: i64::MAX },
            false => Visible::of(plans),
        },
    };
    let files = source.table.files.len();
    let begin = || (records.scatterer(), vec![FileRead::default(); files]);
    let take = |(scatterer, read): &mut (Scatterer<'_>, Vec<FileRead>), scanned: Scanned| {
        reader.take(&scanned, scatterer, &mut read[scanned.file])?;
        for rows in more.map_or_else(|| Ok(Vec::new()), |more| more(&scanned.rows))? {
            reader.take(&scanned.with(rows), scatterer, &mut read[scanned.file])?;
        }
        Ok(())
    };
    let mut read = Read { files: vec![FileRead::default(); files], ..Read::default() };
    let scan = Scan::new(source, &select)?.before(reader.visible.before);
    for (scatterer, of_files) in scan.fold(begin, take)? {
        scatterer.finish()?;
        for (place, file) in of_files.into_iter().enumerate() {
            read.report.events += file.events;
            for (reason, count) in &file.rejected {
                *read.report.rejected.entry(reason.clone()).or_default() += count;
            }
            read.files[place].add(file);
        }
    }
    Ok(read)
}

/// The columns that are read of each event: its canonical columns, followed by the conditions and inputs of
/// the layout.
fn columns(source: &SourcePlan, layout: &Layout) -> Vec<(String, Expression)> {
    let expressions = layout.select();
    let uses_money = expressions.iter().any(|(_, x)| x.columns().contains("amount"));
    let mut names = vec![KEY, ID, KIND, TIME];
    names.extend(layout.ingestion.then_some(INGESTED));
    names.extend(uses_money.then_some(CURRENCY));
    let column = |name: &str| {
        let canonical = source.mapping.get(name)?;
        Some((name.to_owned(), Expression::column(name, canonical.ty)))
    };
    names.into_iter().filter_map(column).chain(expressions).collect()
}

/// The limits of the events that may be visible at any as-of of a run, in microseconds.
struct Visible {
    /// The latest as-of. Events at or after it are not visible at any as-of.
    before: i64,
    /// The latest known-at. Events ingested at or after it are not visible at any as-of.
    known: i64,
}

impl Visible {
    fn of(plans: &[FeaturePlan]) -> Self {
        let as_ofs = || plans.iter().flat_map(FeaturePlan::all_as_ofs);
        Self {
            before: as_ofs().map(|as_of| as_of.at.0).max().unwrap_or(i64::MAX),
            known: as_ofs().map(|as_of| as_of.known_at.0).max().unwrap_or(i64::MAX),
        }
    }
}

/// Converts scanned rows to records.
struct Reader<'a> {
    layout: &'a Layout,
    /// The only currency that amounts may have, if the events have a currency.
    currency: Option<&'a str>,
    visible: Visible,
}

impl Reader<'_> {
    fn take(
        &self,
        scanned: &Scanned,
        scatterer: &mut Scatterer<'_>,
        read: &mut FileRead,
    ) -> Result<()> {
        let seen = self.seen(scanned);
        let reasons = self.reasons(scanned);
        let mut usable = Vec::with_capacity(seen.len());
        for (row, (seen, reason)) in seen.into_iter().zip(reasons).enumerate() {
            read.events += u64::from(seen);
            if seen && let Some(reason) = reason {
                *read.rejected.entry(REASONS[reason].1.to_owned()).or_default() += 1;
                // A run that keeps timelines reads each row once, and keeps what it cannot use beside them.
                if self.layout.files.is_some() {
                    read.rows.push(rejected(scanned, row, reason));
                }
            }
            usable.push(seen && reason.is_none());
        }
        let usable = BooleanArray::from(usable);
        let rows = match usable.true_count() == usable.len() {
            true => scanned.rows.clone(),
            false => arrow_select::filter::filter_record_batch(&scanned.rows, &usable)
                .map_err(Error::engine(CONTEXT))?,
        };
        // Slices of this size stay in the cache of a core while their columns are converted.
        for start in (0..rows.num_rows()).step_by(SLICE) {
            let slice = rows.slice(start, SLICE.min(rows.num_rows() - start));
            let batch = batch(&slice, self.layout, scanned.file)?;
            let first = |times: &[i64]| times.iter().copied().min().unwrap_or(i64::MAX);
            read.first.0 = read.first.0.min(first(&batch.times));
            // If events do not have a time of ingestion, they count as ingested before any known-at.
            let ingested = if self.layout.ingestion { first(&batch.ingested) } else { i64::MIN };
            read.first.1 = read.first.1.min(ingested);
            scatterer.scatter(&batch, self.layout)?;
        }
        Ok(())
    }

    /// Whether each row may be visible at an as-of of the run. Rows without a time are included, so that they
    /// are counted as unusable.
    fn seen(&self, scanned: &Scanned) -> Vec<bool> {
        let before = |column: &ArrayRef, limit: i64| -> Vec<bool> {
            let times = column.as_primitive::<TimestampMicrosecondType>().iter();
            let all = limit == i64::MAX;
            times.map(|time| all || time.is_none_or(|time| time < limit)).collect()
        };
        let mut seen = before(scanned.column(TIME), self.visible.before);
        if self.layout.ingestion {
            let known = before(scanned.column(INGESTED), self.visible.known);
            seen.iter_mut().zip(known).for_each(|(seen, known)| *seen &= known);
        }
        seen
    }

    /// For each row, the index in [`REASONS`] of the first reason for which it cannot be used.
    fn reasons(&self, scanned: &Scanned) -> Vec<Option<usize>> {
        let mut reasons = vec![None; scanned.rows.num_rows()];
        let mut refuse = |place: usize, is_bad: &dyn Fn(usize) -> bool| {
            for (row, reason) in reasons.iter_mut().enumerate() {
                if reason.is_none() && is_bad(row) {
                    *reason = Some(place);
                }
            }
        };
        for (place, name) in [KEY, ID, KIND, TIME].into_iter().enumerate() {
            let column = scanned.column(name);
            if column.null_count() > 0 {
                refuse(place, &|row| column.is_null(row));
            }
        }
        if let Some(not_finite) = &scanned.not_finite {
            refuse(4, &|row| not_finite.value(row));
        }
        if let Some(own) = self.currency {
            let currencies = scanned.column(CURRENCY).as_string::<i32>();
            refuse(5, &|row| currencies.is_valid(row) && currencies.value(row) != own);
        }
        for (place, name) in [KEY, ID, KIND].into_iter().enumerate() {
            let texts = scanned.column(name).as_string::<i32>();
            refuse(6 + place, &|row| texts.is_valid(row) && is_blank(texts.value(row)));
        }
        let times = scanned.column(TIME).as_primitive::<TimestampMicrosecondType>();
        refuse(9, &|row| times.is_valid(row) && !POSSIBLE.contains(&times.value(row)));
        if let Some(out_of_range) = &scanned.out_of_range {
            refuse(10, &|row| out_of_range.value(row));
        }
        reasons
    }
}

/// A scanned row that cannot be used for a reason of [`REASONS`].
fn rejected(scanned: &Scanned, row: usize, reason: usize) -> RejectedRow {
    let text = |name: &str| {
        let texts = scanned.column(name).as_string::<i32>();
        texts.is_valid(row).then(|| texts.value(row).to_owned())
    };
    let times = scanned.column(TIME).as_primitive::<TimestampMicrosecondType>();
    let time = times.is_valid(row).then(|| times.value(row));
    RejectedRow { row: scanned.row_number(row), reason, texts: [KEY, ID, KIND].map(text), time }
}

const CONTEXT: &str = "reading a batch of events";

/// The number of events that are converted at a time.
const SLICE: usize = 1 << 14;

/// Converts usable events to the columns from which records are written.
fn batch<'a>(rows: &'a RecordBatch, layout: &Layout, file: usize) -> Result<Batch<'a>> {
    let column = |name: &str| {
        rows.column_by_name(name)
            .ok_or_else(|| Error::engine(CONTEXT)(format!("the scan has no column {name}")))
    };
    let words = layout.words();
    let mut flags = vec![0_u64; rows.num_rows() * words];
    for i in 0..layout.conditions.len() {
        let condition = column(&format!("c{i}"))?.as_boolean();
        // An unknown condition is not true.
        let truths = match condition.nulls() {
            Some(known) => condition.values() & known.inner(),
            None => condition.values().clone(),
        };
        set_bits(&mut flags, words, i, truths.set_indices());
    }
    let mut inputs = Vec::new();
    for i in 0..layout.inputs.len() {
        let values = column(&format!("i{i}"))?;
        match values.nulls() {
            Some(there) => {
                set_bits(&mut flags, words, layout.valid_bit(i), there.valid_indices());
            }
            None => set_bits(&mut flags, words, layout.valid_bit(i), 0..rows.num_rows()),
        }
        inputs.push(input(values)?);
    }
    let texts = |name: &str| Ok::<_, Error>(texts(column(name)?.as_string::<i32>()));
    let times = |name: &str, null: i64| {
        let values = column(name)?.as_primitive::<TimestampMicrosecondType>();
        Ok::<_, Error>(map_values(values, null, |v| v))
    };
    let files = layout.files.map(|first| first + file as u32);
    Ok(Batch {
        keys: texts(KEY)?,
        ids: texts(ID)?,
        times: times(TIME, 0)?,
        ingested: if layout.ingestion { times(INGESTED, i64::MIN)? } else { Vec::new() },
        flags,
        files: files.map_or_else(Vec::new, |file| vec![file; rows.num_rows()]),
        inputs,
    })
}

/// The values of an input. They are arbitrary where it is null.
fn input(values: &ArrayRef) -> Result<InputValues<'_>> {
    let bits = |v: i64| v as u64;
    Ok(InputValues::Bits(match values.data_type() {
        DataType::Utf8 => return Ok(InputValues::Text(texts(values.as_string::<i32>()))),
        DataType::Float64 => map_values(values.as_primitive::<Float64Type>(), 0, f64::to_bits),
        DataType::Int64 => map_values(values.as_primitive::<Int64Type>(), 0, bits),
        DataType::Decimal128(..) => {
            map_values(values.as_primitive::<Decimal128Type>(), 0, |v| bits(v as i64))
        }
        DataType::Timestamp(..) => {
            map_values(values.as_primitive::<TimestampMicrosecondType>(), 0, bits)
        }
        DataType::Date32 => {
            map_values(values.as_primitive::<Date32Type>(), 0, |v| bits(i64::from(v)))
        }
        DataType::Boolean => {
            values.as_boolean().iter().map(|v| u64::from(v == Some(true))).collect()
        }
        other => {
            let message = format!("an input has type {other}");
            return Err(Error::engine(CONTEXT)(message));
        }
    }))
}

fn texts(values: &StringArray) -> Vec<&str> {
    values.iter().map(Option::unwrap_or_default).collect()
}

/// The mapped values of a column, with `null` in place of nulls.
fn map_values<T: ArrowPrimitiveType, U: Copy>(
    values: &PrimitiveArray<T>,
    null: U,
    map: impl Fn(T::Native) -> U,
) -> Vec<U> {
    match values.null_count() {
        0 => values.values().iter().map(|v| map(*v)).collect(),
        _ => values.iter().map(|v| v.map_or(null, &map)).collect(),
    }
}

/// Sets one bit of the flag words of the given rows.
fn set_bits(flags: &mut [u64], words: usize, bit: usize, rows: impl Iterator<Item = usize>) {
    let (word, mask) = (bit / 64, 1_u64 << (bit % 64));
    for row in rows {
        flags[row * words + word] |= mask;
    }
}

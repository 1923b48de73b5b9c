//! Events read from their files: Polars scans and evaluates expressions, the timeline kernel does the rest.
//!
//! The scan's batches are scattered by a few threads while Polars decodes the next ones. Derived
//! columns are evaluated by Polars shard by shard. No Polars type leaves this file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema};
use polars::prelude::{
    ChunkedArray, Column, DataFrame, DataType, Engine as PolarsEngine, PlanCallback,
    PolarsNumericType, col, lit,
};
use rayon::prelude::*;

use super::events::{BuildReport, Events, LeftOut, ShardRows};
use super::plan::FeaturePlan;
use super::timeline::{
    Batch, Context, InputValues, Layout, Partition, Records, Scatterer, Swept, sweep,
};
use crate::error::{Error, Result};
use crate::expression::polars::{arrow_type, evaluate};
use crate::expression::{Expression, Type};
use crate::money::Scale;
use crate::shard::{Shard, Shards};
use crate::sources::profile::Entities;
use crate::sources::scan::{FILE, NOT_A_NUMBER, scan, scan_with_files};
use crate::sources::{Orphans, SourcePlan};

const KEY: &str = "customer360_id";
const ID: &str = "event_id";
const TIME: &str = "event_ts";
const KIND: &str = "event_type";
const INGESTED: &str = "ingested_at";
const CURRENCY: &str = "currency";

/// Events that were read anew from their files.
#[derive(Debug)]
pub struct ScannedEvents<'a> {
    source: &'a SourcePlan,
    plans: &'a [FeaturePlan],
    layout: Layout,
    records: Records,
    /// What was read and could not be used.
    pub report: BuildReport,
}

/// What reading events anew needs beside the events.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Into how many shards.
    pub shards: Shards,
    /// Bytes of events kept in memory before they spill.
    pub memory: u64,
    /// Where they spill to.
    pub folder: &'a Path,
}

impl<'a> ScannedEvents<'a> {
    /// Reads all that `plans` may see of the events and scatters it by shard.
    ///
    /// # Errors
    /// A contract violation for unusable rows above the source's share.
    pub fn read(
        source: &'a SourcePlan,
        plans: &'a [FeaturePlan],
        reading: Reading<'_>,
    ) -> Result<Self> {
        let layout = Layout::new(plans, source.has_ingestion());
        let records = Records::new(reading.shards, reading.memory, reading.folder)?;
        let mut report = read(source, plans, &layout, &records)?.report;
        report.spilled_bytes = records.spilled_bytes();
        report.check_rejected(source)?;
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

/// Adds the derived columns of the plans to swept rows and keeps their outputs.
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

/// The outputs of a plan: its derived columns are computed, the others are those of `rows`.
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
            return Err(Error::Engine {
                context: "a feature plan",
                message: format!("nothing computes {output}"),
            });
        };
        columns.push(array);
        fields.push(Field::new(output, arrow_type(ty, scale), true));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(Error::engine("a plan"))
}

/// Why an event cannot be used, in the order of precedence; the code is the index + 1.
const REASONS: [&str; 6] = [
    "customer360_id is null",
    "event_id is null",
    "event_type is null",
    "event_ts is null",
    "a number is not finite",
    "the currency is another",
];

/// What was read, in all and where the layout keeps files of each of the source's.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub report: BuildReport,
    pub files: Vec<FileRead>,
}

/// The rows of one file.
#[derive(Debug, Clone)]
pub(super) struct FileRead {
    pub events: u64,
    pub rejected: BTreeMap<String, u64>,
    /// When the first of its events happened, and when the first was ingested.
    pub first: (i64, i64),
}

impl Default for FileRead {
    fn default() -> Self {
        Self { events: 0, rejected: BTreeMap::new(), first: (i64::MAX, i64::MAX) }
    }
}

/// Scans the events and scatters them: those that a plan may see, or all of them with the index of
/// their file where the layout keeps files.
pub(super) fn read(
    source: &SourcePlan,
    plans: &[FeaturePlan],
    layout: &Layout,
    records: &Records,
) -> Result<Read> {
    let column = |name: &str| source.mapping.get(name).map(|x| Expression::column(name, x.ty));
    let mut select = Vec::new();
    for name in [KEY, ID, KIND, TIME] {
        select.extend(column(name).map(|x| (name.to_owned(), x)));
    }
    if layout.ingestion {
        select.extend(column(INGESTED).map(|x| (INGESTED.to_owned(), x)));
    }
    let expressions = layout.select();
    let uses_money = expressions.iter().any(|(_, x)| x.columns().contains("amount"));
    if uses_money {
        select.extend(column(CURRENCY).map(|x| (CURRENCY.to_owned(), x)));
    }
    let has_currency = select.iter().any(|(name, _)| name == CURRENCY);
    select.extend(expressions);

    let is_null = |name: &str| col(name).is_null();
    let mut tests =
        vec![is_null(KEY), is_null(ID), is_null(KIND), is_null(TIME), col(NOT_A_NUMBER)];
    if has_currency {
        let currency = source.context.currency.clone();
        tests.push(col(CURRENCY).neq(lit(currency)).fill_null(lit(false)));
    }
    let reason = tests.into_iter().enumerate().rev().fold(lit(0_i32), |rest, (i, test)| {
        polars::prelude::when(test).then(lit(i as i32 + 1)).otherwise(rest)
    });
    let latest = plans.iter().flat_map(FeaturePlan::all_as_ofs).map(|as_of| as_of.at.0).max();
    let time = col(TIME).cast(DataType::Int64);
    let visible = time.lt(lit(latest.unwrap_or(i64::MAX))).or(is_null(TIME));
    let known = plans.iter().flat_map(FeaturePlan::all_as_ofs).map(|as_of| as_of.known_at.0).max();
    let visible = if layout.ingestion {
        let ingested = col(INGESTED).cast(DataType::Int64);
        visible.and(ingested.lt(lit(known.unwrap_or(i64::MAX))).or(is_null(INGESTED)))
    } else {
        visible
    };
    let wanted = match &source.only {
        Some(key) => visible.and(col(KEY).eq(lit(key.as_str()))),
        None => visible,
    };
    let frame = match layout.files.is_some() {
        true => scan_with_files(source, &select)?,
        false => scan(source, &select)?.filter(wanted),
    };
    let frame = frame
        .with_column(reason.cast(DataType::UInt8).alias(REASON))
        .with_columns([col(TIME).cast(DataType::Int64)]);
    let frame = if layout.ingestion {
        frame.with_columns([col(INGESTED).cast(DataType::Int64)])
    } else {
        frame
    };

    let threads = rayon::current_num_threads().max(1);
    let (send, receive) = mpsc::sync_channel::<DataFrame>(threads);
    let receive = Mutex::new(receive);
    let paths = source.table.files.iter().map(|path| path.to_string_lossy().into_owned());
    let files: HashMap<String, u32> = paths.zip(0..).collect();
    let reading = Read {
        files: vec![FileRead::default(); if layout.files.is_some() { files.len() } else { 0 }],
        ..Read::default()
    };
    let reading = Mutex::new(reading);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let send = Mutex::new(send);
    let scanned = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut scatterer = records.scatterer();
                let next = || lock(&receive).recv();
                while let Ok(frame) = next() {
                    if lock(&failure).is_some() {
                        continue;
                    }
                    if let Err(error) = scatter(frame, layout, &mut scatterer, &files, &reading) {
                        lock(&failure).get_or_insert(error);
                    }
                }
                if let Err(error) = scatterer.finish() {
                    lock(&failure).get_or_insert(error);
                }
            });
        }
        // The callback owns the sender: once the scan is over, the receivers run dry and end.
        let callback = PlanCallback::new(move |frame: DataFrame| {
            let send = lock(&send).clone();
            Ok(send.send(frame).is_err())
        });
        frame
            .sink_batches(callback, false, None)
            .and_then(|frame| frame.collect_with_engine(PolarsEngine::Streaming))
            .map(|_| ())
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    scanned.map_err(|error| scan_error(source, &error.to_string()))?;
    Ok(std::mem::take(&mut *lock(&reading)))
}

const REASON: &str = "\u{0}reason";
const CONTEXT: &str = "reading a batch of events";

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn scan_error(source: &SourcePlan, message: &str) -> Error {
    let first = source.table.files.first().map(|path| path.display().to_string());
    Error::contract(
        format!("the events {} cannot be read: {message}", first.unwrap_or_default()),
        "run `c360-ml validate` to see which file and column",
    )
}

fn scatter(
    mut frame: DataFrame,
    layout: &Layout,
    scatterer: &mut Scatterer<'_>,
    files: &HashMap<String, u32>,
    reading: &Mutex<Read>,
) -> Result<()> {
    frame.rechunk_mut();
    let of_file = if layout.files.is_some() { file_indices(&frame, files)? } else { Vec::new() };
    let reasons = column(&frame, REASON)?.u8().map_err(Error::engine(CONTEXT))?;
    let mut rejected: BTreeMap<(u32, u8), u64> = BTreeMap::new();
    for (row, code) in reasons.iter().enumerate() {
        if let Some(code) = code.filter(|code| *code > 0) {
            let file = of_file.get(row).copied().unwrap_or(0);
            *rejected.entry((file, code)).or_default() += 1;
        }
    }
    {
        let mut reading = lock(reading);
        reading.report.events += frame.height() as u64;
        for run in of_file.chunk_by(|a, b| a == b) {
            reading.files[run[0] as usize].events += run.len() as u64;
        }
        for ((file, code), count) in &rejected {
            let reason = REASONS[usize::from(*code) - 1].to_owned();
            *reading.report.rejected.entry(reason.clone()).or_default() += count;
            if let Some(file) = reading.files.get_mut(*file as usize) {
                *file.rejected.entry(reason).or_default() += count;
            }
        }
    }
    let (frame, of_file) = if rejected.is_empty() {
        (frame, of_file)
    } else {
        let usable: Vec<bool> = reasons.iter().map(|code| code == Some(0)).collect();
        let left = of_file.into_iter().zip(&usable).filter(|(_, usable)| **usable);
        let left = left.map(|(file, _)| file).collect();
        let usable = usable.into_iter().collect();
        (frame.filter(&usable).map_err(Error::engine(CONTEXT))?, left)
    };
    let mut firsts: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
    // Slices that stay in a core's cache while their columns are taken apart.
    for start in (0..frame.height()).step_by(SLICE) {
        let slice = frame.slice(start as i64, SLICE);
        let first = layout.files.unwrap_or(0);
        let of_slice = of_file.iter().skip(start).take(slice.height());
        let batch = batch(&slice, layout, of_slice.clone().map(|file| first + file).collect())?;
        for (row, file) in of_slice.enumerate() {
            let ingested = batch.ingested.get(row).copied().unwrap_or(i64::MIN);
            let earliest = firsts.entry(*file).or_insert((i64::MAX, i64::MAX));
            *earliest = (earliest.0.min(batch.times[row]), earliest.1.min(ingested));
        }
        scatterer.scatter(&batch, layout)?;
    }
    let mut reading = lock(reading);
    for (file, (time, ingested)) in firsts {
        let first = &mut reading.files[file as usize].first;
        *first = (first.0.min(time), first.1.min(ingested));
    }
    Ok(())
}

/// The index of each row's file.
fn file_indices(frame: &DataFrame, files: &HashMap<String, u32>) -> Result<Vec<u32>> {
    let paths = column(frame, FILE)?.str().map_err(Error::engine(CONTEXT))?;
    let mut latest = ("", 0);
    let index = |path: Option<&'_ str>| {
        let path = path.unwrap_or_default();
        if path != latest.0 {
            let (path, index) = files.get_key_value(path).ok_or_else(|| Error::Engine {
                context: CONTEXT,
                message: format!("no file of the source is {path}"),
            })?;
            latest = (path, *index);
        }
        Ok(latest.1)
    };
    paths.iter().map(index).collect()
}

/// Events that are taken apart at a time.
const SLICE: usize = 1 << 14;

/// The columns of usable events as the partitions take them.
fn batch<'a>(frame: &'a DataFrame, layout: &Layout, files: Vec<u32>) -> Result<Batch<'a>> {
    let rows = frame.height();
    let words = layout.words();
    let mut flags = vec![0_u64; rows * words];
    for i in 0..layout.conditions.len() {
        let values = column(frame, &format!("c{i}"))?.bool().map_err(Error::engine(CONTEXT))?;
        set_bits(&mut flags, words, i, values.iter().map(|v| v == Some(true)));
    }
    let mut inputs = Vec::new();
    for (i, expression) in layout.inputs.iter().enumerate() {
        let series = column(frame, &format!("i{i}"))?.as_materialized_series();
        let bit = layout.valid_bit(i);
        if series.null_count() == 0 {
            set_bits(&mut flags, words, bit, std::iter::repeat_n(true, rows));
        } else {
            set_bits(&mut flags, words, bit, series.is_not_null().iter().map(|v| v == Some(true)));
        }
        inputs.push(match expression.ty {
            Type::Text => {
                let values = series.str().map_err(Error::engine(CONTEXT))?;
                InputValues::Text(values.iter().map(Option::unwrap_or_default).collect())
            }
            Type::Double => {
                let values = series.f64().map_err(Error::engine(CONTEXT))?;
                InputValues::Bits(map_values(values, 0, f64::to_bits))
            }
            _ => {
                let values = series.cast(&DataType::Int64).map_err(Error::engine(CONTEXT))?;
                let values = values.i64().map_err(Error::engine(CONTEXT))?;
                InputValues::Bits(map_values(values, 0, |v| v as u64))
            }
        });
    }
    let text = |name: &str| -> Result<Vec<&'a str>> {
        let values = column(frame, name)?.str().map_err(Error::engine(CONTEXT))?;
        Ok(values.iter().map(Option::unwrap_or_default).collect())
    };
    let integers = |name: &str, null: i64| -> Result<Vec<i64>> {
        let values = column(frame, name)?.i64().map_err(Error::engine(CONTEXT))?;
        Ok(map_values(values, null, |v| v))
    };
    Ok(Batch {
        keys: text(KEY)?,
        ids: text(ID)?,
        times: integers(TIME, 0)?,
        ingested: if layout.ingestion { integers(INGESTED, i64::MIN)? } else { Vec::new() },
        flags,
        files,
        inputs,
    })
}

/// The values of a column, `null` where there is none.
fn map_values<T: PolarsNumericType, U: Copy>(
    values: &ChunkedArray<T>,
    null: U,
    map: impl Fn(T::Native) -> U,
) -> Vec<U> {
    match values.cont_slice() {
        Ok(values) => values.iter().map(|v| map(*v)).collect(),
        Err(_) => values.iter().map(|v| v.map_or(null, &map)).collect(),
    }
}

fn column<'a>(frame: &'a DataFrame, name: &str) -> Result<&'a Column> {
    frame.column(name).map_err(Error::engine(CONTEXT))
}

fn set_bits(flags: &mut [u64], words: usize, bit: usize, values: impl Iterator<Item = bool>) {
    let (word, shift) = (bit / 64, bit % 64);
    for (flags, value) in flags.chunks_exact_mut(words).zip(values) {
        flags[word] |= u64::from(value) << shift;
    }
}

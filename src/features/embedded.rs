//! The embedded engine: Polars scans and evaluates expressions, the timeline kernel does the rest.
//!
//! The scan's batches are scattered by a few threads while Polars decodes the next ones. Derived
//! columns are evaluated by Polars per part. No Polars type leaves this file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema};
use arrow_select::concat::concat_batches;
use polars::prelude::{
    ChunkedArray, Column, DataFrame, DataType, Engine as PolarsEngine, PlanCallback,
    PolarsNumericType, col, lit,
};
use rayon::prelude::*;

use super::engine::{BuildReport, Engine, Part};
use super::plan::FeaturePlan;
use super::timeline::{
    Batch, Context, InputValues, Layout, Partitions, Scatterer, Swept, partition_count, sweep,
};
use crate::error::{Error, Result};
use crate::expression::polars::{arrow_type, evaluate};
use crate::expression::{Expression, Type};
use crate::money::Scale;
use crate::sources::profile::Entities;
use crate::sources::scan::{FILE, NOT_A_NUMBER, scan, scan_with_files};
use crate::sources::{Orphans, SourcePlan};

const KEY: &str = "customer360_id";
const ID: &str = "event_id";
const TIME: &str = "event_ts";
const KIND: &str = "event_type";
const INGESTED: &str = "ingested_at";
const CURRENCY: &str = "currency";

/// Polars and the timeline kernel in this process.
#[derive(Debug, Clone)]
pub struct EmbeddedEngine {
    /// Bytes of events kept in memory before they spill.
    pub memory: u64,
    /// Where they spill to.
    pub spill_folder: PathBuf,
    /// Events that are worth a partition of their own.
    pub partition_events: u64,
}

impl EmbeddedEngine {
    /// An engine with partitions of the usual size.
    pub fn new(memory: u64, spill_folder: PathBuf) -> Self {
        Self { memory, spill_folder, partition_events: 100_000 }
    }
}

impl Engine for EmbeddedEngine {
    fn build(
        &self,
        source: &SourcePlan,
        entities: &Entities,
        plans: &[FeaturePlan],
        sink: &mut dyn FnMut(Part) -> Result<()>,
    ) -> Result<BuildReport> {
        let layout = Layout::new(plans, source.has_ingestion());
        let create = source.orphans == Orphans::Create;
        let partitions = Partitions::new(
            partition_count(source.table.rows, self.partition_events),
            &entities.keys,
            &entities.created_at,
            self.memory,
            self.spill_folder.clone(),
        );
        let mut report = read(source, plans, &layout, &partitions)?.report;
        report.spilled_bytes = partitions.spilled_bytes.load(Ordering::Relaxed);
        check_rejected(source, &report)?;

        let context = Context { zone: source.context.zone, scale: source.context.scale };
        let mut parts = partitions.into_parts().into_iter();
        let group = group_size(plans);
        loop {
            let next: Vec<_> = parts.by_ref().take(group).collect();
            if next.is_empty() {
                check_orphans(source, &report)?;
                return Ok(report);
            }
            let mut swept: Vec<_> = next
                .into_par_iter()
                .map(|part| sweep(part, &layout, create, context))
                .collect::<Result<_>>()?;
            derive(plans, swept.iter_mut(), source)?;
            for part in swept {
                hand_over(part, &mut report, sink)?;
            }
        }
    }
}

/// How many partitions are swept before their derived columns are computed together: enough to keep
/// every thread busy and to evaluate expressions over many rows, few enough to bound what waits.
pub(super) fn group_size(plans: &[FeaturePlan]) -> usize {
    let as_ofs: usize = plans.iter().map(|plan| plan.as_ofs.len()).sum();
    (32 / as_ofs.max(1)).max(rayon::current_num_threads() * 2)
}

/// Adds what a partition was found to be to `report` and gives its rows to `sink`.
pub(super) fn hand_over(
    swept: Swept,
    report: &mut BuildReport,
    sink: &mut dyn FnMut(Part) -> Result<()>,
) -> Result<()> {
    report.duplicates += swept.duplicates;
    report.orphans += swept.orphans;
    for (plan, batches) in swept.rows.into_iter().enumerate() {
        for (as_of, rows) in batches.into_iter().enumerate() {
            if rows.num_rows() > 0 {
                sink(Part { plan, as_of, rows })?;
            }
        }
    }
    Ok(())
}

/// Adds the derived columns of the plans to swept partitions and keeps their outputs. An expression costs
/// the same plan for a few rows as for many, so that each thread takes many partitions together.
pub(super) fn derive<'a>(
    plans: &[FeaturePlan],
    swept: impl Iterator<Item = &'a mut Swept>,
    source: &SourcePlan,
) -> Result<()> {
    let mut swept: Vec<&mut Swept> = swept.collect();
    let each = swept.len().div_ceil(rayon::current_num_threads()).max(1);
    swept.par_chunks_mut(each).try_for_each(|swept| {
        for (index, plan) in plans.iter().enumerate() {
            if plan.interactions.is_some() {
                continue;
            }
            for as_of in 0..swept[0].rows[index].len() {
                let mut batches: Vec<&mut RecordBatch> =
                    swept.iter_mut().map(|part| &mut part.rows[index][as_of]).collect();
                derive_together(plan, &mut batches, source)?;
            }
        }
        Ok(())
    })
}

/// Adds the derived columns of a plan to batches of it and keeps its outputs.
fn derive_together(
    plan: &FeaturePlan,
    batches: &mut [&mut RecordBatch],
    source: &SourcePlan,
) -> Result<()> {
    let scale = source.context.scale;
    let derived: Vec<(String, Expression)> =
        plan.derived.iter().map(|d| (d.column.clone(), d.expression.clone())).collect();
    let columns: BTreeSet<&str> = derived.iter().flat_map(|(_, x)| x.columns()).collect();
    let schema = batches[0].schema();
    let given = |field: &&arrow_schema::FieldRef| columns.contains(field.name().as_str());
    let needed: Vec<usize> = schema
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| given(field))
        .map(|(i, _)| i)
        .collect();
    let arrays = if derived.is_empty() {
        Vec::new()
    } else {
        let all: std::result::Result<Vec<RecordBatch>, _> =
            batches.iter().map(|batch| batch.project(&needed)).collect();
        let all = all.map_err(Error::engine("a part"))?;
        let schema = all[0].schema();
        evaluate(&derived, &concat_batches(&schema, &all).map_err(Error::engine("a part"))?, scale)?
    };
    let mut start = 0;
    for batch in batches {
        let count = batch.num_rows();
        let made = |name: &str| {
            let made = derived.iter().position(|(other, _)| other == name);
            made.map(|index| arrays[index].slice(start, count))
        };
        **batch = outputs(plan, batch, made, scale)?;
        start += count;
    }
    Ok(())
}

/// The outputs of a plan: what was `made`, else what `rows` has.
fn outputs(
    plan: &FeaturePlan,
    rows: &RecordBatch,
    made: impl Fn(&str) -> Option<ArrayRef>,
    scale: Scale,
) -> Result<RecordBatch> {
    let mut fields = vec![rows.schema().field(0).clone()];
    let mut columns: Vec<ArrayRef> = vec![rows.column(0).clone()];
    for output in &plan.outputs {
        let array = made(output).or_else(|| rows.column_by_name(output).cloned());
        columns.push(array.ok_or_else(|| Error::Engine {
            context: "a feature plan",
            message: format!("nothing computes {output}"),
        })?);
        let ty = plan.type_of(output).unwrap_or(Type::Double);
        fields.push(Field::new(output, arrow_type(ty, scale), true));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(Error::engine("a part"))
}

/// Refuses more unusable rows than the source allows.
pub(super) fn check_rejected(source: &SourcePlan, report: &BuildReport) -> Result<()> {
    let rejected: u64 = report.rejected.values().sum();
    if rejected as f64 > source.max_rejected_share * report.events as f64 {
        let reasons: Vec<String> =
            report.rejected.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        return Err(Error::contract(
            format!(
                "{rejected} of {} events cannot be used ({})",
                report.events,
                reasons.join(", ")
            ),
            "run `c360-ml validate`, or raise sources.events.max_rejected_share",
        ));
    }
    Ok(())
}

/// Refuses orphans where the source does.
pub(super) fn check_orphans(source: &SourcePlan, report: &BuildReport) -> Result<()> {
    if source.orphans == Orphans::Fail && report.orphans > 0 {
        return Err(Error::contract(
            format!("{} events belong to customers whom the profile does not have", report.orphans),
            "set sources.events.orphans to skip or create",
        ));
    }
    Ok(())
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
pub(super) struct Reading {
    pub report: BuildReport,
    pub files: Vec<FileReading>,
}

/// The rows of one file.
#[derive(Debug, Clone)]
pub(super) struct FileReading {
    pub events: u64,
    pub rejected: BTreeMap<String, u64>,
    /// When the first of its events happened, and when the first was ingested.
    pub first: (i64, i64),
}

impl Default for FileReading {
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
    partitions: &Partitions,
) -> Result<Reading> {
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
    let reading = Reading {
        files: vec![FileReading::default(); if layout.files.is_some() { files.len() } else { 0 }],
        ..Reading::default()
    };
    let reading = Mutex::new(reading);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let send = Mutex::new(send);
    let scanned = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut scatterer = partitions.scatterer();
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
    reading: &Mutex<Reading>,
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

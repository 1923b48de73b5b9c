//! The Polars scan of a source: raw Parquet in, chosen expressions over raw columns out.
//!
//! Each raw column is first brought to the representation that lowered expressions expect (money
//! in minor units, time as naive UTC microseconds); only the columns that the expressions name are
//! read from disk.

use std::collections::BTreeSet;
use std::path::Path;

use polars::prelude::{
    DataType, Expr, HiveOptions, JoinArgs, JoinType, LazyFrame, NonExistent, PlRefPath,
    ScanArgsParquet, TimeUnit, TimeZone, col, lit,
};

use super::files::{RawColumn, RawTable, RawType};
use super::{SourceContext, SourcePlan};
use crate::error::{Error, Result};
use crate::expression::polars::lower;
use crate::expression::{Expression, Type};

/// The column of [`scan`] that says whether a number of the row that was read is not finite.
pub const NOT_A_NUMBER: &str = "\u{0}nan";

/// The column of [`scan_with_files`] that says which file a row was read from.
pub const FILE: &str = "\u{0}file";

/// A lazy frame of the named expressions, which are over canonical columns, and [`NOT_A_NUMBER`].
pub fn scan(plan: &SourcePlan, select: &[(String, Expression)]) -> Result<LazyFrame> {
    frame(plan, select, false)
}

/// [`scan`] with the path of each row's file as [`FILE`].
pub fn scan_with_files(plan: &SourcePlan, select: &[(String, Expression)]) -> Result<LazyFrame> {
    frame(plan, select, true)
}

fn frame(plan: &SourcePlan, select: &[(String, Expression)], files: bool) -> Result<LazyFrame> {
    let raw: Vec<(String, Expression)> =
        select.iter().map(|(name, x)| (name.clone(), plan.raw(x))).collect();
    let mut needed: BTreeSet<String> =
        raw.iter().flat_map(|(_, x)| x.columns()).map(str::to_owned).collect();
    let joined: Vec<_> = plan
        .lookups
        .iter()
        .filter(|lookup| needed.iter().any(|name| name.starts_with(&format!("{}.", lookup.name))))
        .collect();
    for lookup in &joined {
        needed.insert(lookup.on.clone());
    }
    let mut frame = open_with(&plan.table, &needed, "", &plan.context, files)?;
    for lookup in joined {
        let prefix = format!("{}.", lookup.name);
        let mut wanted: BTreeSet<String> = needed
            .iter()
            .filter_map(|name| name.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect();
        wanted.insert(lookup.key.clone());
        let table = open(&lookup.table, &wanted, &prefix, &plan.context)?;
        let key = format!("{prefix}{}", lookup.key);
        frame = frame.join(
            table,
            [col(lookup.on.as_str())],
            [col(key.as_str())],
            JoinArgs {
                coalesce: polars::prelude::JoinCoalesce::KeepColumns,
                ..JoinArgs::new(JoinType::Left)
            },
        );
    }
    let scale = plan.context.scale;
    let mut columns: Vec<Expr> =
        raw.iter().map(|(name, x)| lower(x, scale).alias(name.as_str())).collect();
    let double = |column: &&RawColumn| column.ty == RawType::Double;
    let own = plan.table.raw.iter().filter(double).map(|column| column.name.clone());
    let joined = plan.lookups.iter().flat_map(|lookup| {
        let columns = lookup.table.raw.iter().filter(double);
        columns.map(move |column| format!("{}.{}", lookup.name, column.name))
    });
    let not_a_number = own
        .chain(joined)
        .filter(|name| needed.contains(name))
        .map(|name| col(name.as_str()).is_finite().not().fill_null(lit(false)))
        .reduce(Expr::or)
        .unwrap_or_else(|| lit(false));
    columns.push(not_a_number.alias(NOT_A_NUMBER));
    columns.extend(files.then(|| col(FILE)));
    Ok(frame.select(columns))
}

/// A lazy frame of the named raw columns of `table`, each called `prefix` + name.
pub fn open(
    table: &RawTable,
    names: &BTreeSet<String>,
    prefix: &str,
    context: &SourceContext,
) -> Result<LazyFrame> {
    open_with(table, names, prefix, context, false)
}

fn open_with(
    table: &RawTable,
    names: &BTreeSet<String>,
    prefix: &str,
    context: &SourceContext,
    files: bool,
) -> Result<LazyFrame> {
    let paths: Vec<PlRefPath> = table.files.iter().map(|path| reference(path)).collect();
    let hive = table.raw.iter().any(|column| column.hive);
    let args = ScanArgsParquet {
        glob: false,
        hive_options: HiveOptions {
            enabled: Some(hive),
            hive_start_idx: 0,
            schema: None,
            try_parse_dates: false,
        },
        include_file_paths: files.then(|| FILE.into()),
        ..Default::default()
    };
    let frame = LazyFrame::scan_parquet_files(paths.into(), args)
        .map_err(Error::engine("opening a Parquet scan"))?;
    let columns = table.raw.iter().filter(|column| names.contains(&column.name));
    let mut select: Vec<Expr> = columns
        .map(|column| normalize(column, context).alias(format!("{prefix}{}", column.name)))
        .collect();
    select.extend(files.then(|| col(FILE)));
    if select.is_empty() {
        select.push(lit(0_i64).alias(format!("{prefix}\u{0}")));
    }
    Ok(frame.select(select))
}

fn reference(path: &Path) -> PlRefPath {
    PlRefPath::new(path.to_string_lossy().as_ref())
}

/// A raw column in the representation that lowered expressions expect. A NaN stays a NaN: the
/// reader of the scan refuses it.
fn normalize(column: &RawColumn, context: &SourceContext) -> Expr {
    let value = col(column.name.as_str());
    let micros = DataType::Datetime(TimeUnit::Microseconds, None);
    match column.ty {
        RawType::Integer => value.cast(DataType::Int64),
        RawType::Double => value.cast(DataType::Float64),
        RawType::Decimal(_) if column.ty.logical(context.scale) == Some(Type::Double) => {
            value.cast(DataType::Float64)
        }
        RawType::Decimal(places) => {
            // The unscaled integer of the decimal, brought to the project's scale exactly.
            let more_places = i32::from(context.scale.places()) - i32::from(places);
            let factor = 10_i64.pow(more_places.unsigned_abs());
            value.to_physical().cast(DataType::Int64) * lit(factor)
        }
        RawType::Text => value.cast(DataType::String),
        RawType::Boolean => value.cast(DataType::Boolean),
        RawType::Date => value.cast(DataType::Date),
        RawType::Timestamp { zoned: true } => {
            let zone = Some(TimeZone::UTC);
            value
                .cast(DataType::Datetime(TimeUnit::Microseconds, zone))
                .cast(DataType::Int64)
                .cast(micros)
        }
        RawType::Timestamp { zoned: false } if context.zone == crate::time::Zone::default() => {
            value.cast(micros)
        }
        RawType::Timestamp { zoned: false } => {
            let zone = TimeZone::opt_try_new(Some(context.zone.name())).ok().flatten();
            value
                .cast(micros.clone())
                .dt()
                .replace_time_zone(zone, lit("earliest"), NonExistent::Null)
                .cast(DataType::Int64)
                .cast(micros)
        }
        RawType::Other => value,
    }
}

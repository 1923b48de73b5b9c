//! Proposes which raw column is which canonical column, by the names, types and values of the columns.

use std::collections::{BTreeMap, HashSet};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;

use super::names::{named, quoted, standard_type};
use crate::commands::CommandProblem;
use crate::error::Result;
use crate::expression::Type;
use crate::sources::SourceContext;
use crate::sources::files::RawTable;
use crate::sources::look::look;

/// The number of rows that are looked at where a sample is enough.
const SAMPLE: usize = 1_000_000;
/// The most event types that a column of types may have.
const MOST_TYPES: usize = 200;

/// The proposed expression of a canonical column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The name of the canonical column.
    pub column: String,
    /// The expression over the raw columns.
    pub sql: String,
    /// What speaks for it.
    pub why: String,
}

/// A proposed mapping of events.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    /// The proposals, in the order of the canonical columns.
    pub proposals: Vec<Proposal>,
    /// The event types after mapping, the most frequent first.
    pub types: Vec<String>,
}

impl Mapping {
    /// The expression of a canonical column.
    pub fn sql(&self, column: &str) -> Option<&str> {
        let found = self.proposals.iter().find(|proposal| proposal.column == column);
        found.map(|proposal| proposal.sql.as_str())
    }

    /// The canonical column of the items that affinity is about.
    pub fn item(&self) -> Option<&'static str> {
        ["category", "product_id"].into_iter().find(|name| self.sql(name).is_some())
    }

    fn push(&mut self, column: &str, sql: impl Into<String>, why: impl Into<String>) {
        let (column, sql, why) = (column.to_owned(), sql.into(), why.into());
        self.proposals.push(Proposal { column, sql, why });
    }
}

/// The raw column with the key of the customer, which both tables should have. The name in `other` comes first.
pub fn key<'a>(
    table: &'a RawTable,
    other: Option<&RawTable>,
    context: &SourceContext,
) -> Option<&'a str> {
    let fits = |name: &&str| {
        let ty = table.get(name).and_then(|raw| raw.ty.logical(context.scale));
        matches!(ty, Some(Type::Text | Type::Integer))
    };
    let found: Vec<&str> = named(table, "customer360_id").into_iter().filter(fits).collect();
    let shared = found.iter().find(|name| other.is_none_or(|other| other.get(name).is_some()));
    shared.or(found.first()).copied()
}

/// Proposes the mapping of an event table. `given` has expressions that are set by hand.
///
/// # Errors
/// A configuration error if no column is the key or the time of an event, or if a given expression is wrong.
pub fn propose(
    table: &RawTable,
    profile: Option<&RawTable>,
    context: &SourceContext,
    given: &BTreeMap<String, String>,
) -> Result<Mapping> {
    let mut mapping = Mapping::default();
    let type_of = |name: &str| table.get(name).and_then(|raw| raw.ty.logical(context.scale));
    let missing = |column: &'static str| CommandProblem::NotProposed {
        file: table.files[0].clone(),
        column,
        found: table.raw.iter().map(|raw| raw.name.clone()).collect(),
    };
    let by_hand =
        |column: &str| given.get(column).map(|sql| (sql.clone(), "given by --map".to_owned()));
    let (sql, why) = match by_hand("customer360_id") {
        Some(given) => given,
        None => {
            let name = key(table, profile, context).ok_or_else(|| missing("customer360_id"))?;
            (text_of(name, type_of(name)), named_why(name))
        }
    };
    mapping.push("customer360_id", sql, why);
    let (sql, why) = match by_hand("event_ts") {
        Some(given) => given,
        None => time(table, context)?.ok_or_else(|| missing("event_ts"))?,
    };
    mapping.push("event_ts", sql, why);
    for (column, wanted) in [
        ("amount", &[Type::Money, Type::Double, Type::Integer, Type::Text][..]),
        ("order_id", &[Type::Text, Type::Integer]),
        ("product_id", &[Type::Text, Type::Integer]),
        ("category", &[Type::Text]),
        ("quantity", &[Type::Integer, Type::Double, Type::Text]),
        ("channel", &[Type::Text]),
        ("session_id", &[Type::Text, Type::Integer]),
        ("currency", &[Type::Text]),
    ] {
        if let Some((sql, why)) = by_hand(column) {
            mapping.push(column, sql, why);
            continue;
        }
        let is_number = ["amount", "quantity"].contains(&column);
        for name in named(table, column) {
            let Some(ty) = type_of(name).filter(|ty| wanted.contains(ty)) else { continue };
            let number = format!("cast({} as double)", quoted(name));
            let (sql, why) = match (column, ty) {
                (_, Type::Text) if is_number && share(table, context, &number)? < 0.99 => continue,
                (_, Type::Text) if is_number => {
                    (number, format!("the column {name}, text of numbers"))
                }
                ("quantity", Type::Integer) => (number, named_why(name)),
                _ => (quoted(name), named_why(name)),
            };
            mapping.push(column, sql, why);
            break;
        }
    }
    event_type(table, context, by_hand("event_type"), &mut mapping)?;
    let (sql, why) = match by_hand("event_id") {
        Some(given) => given,
        None => event_id(table, context, &mapping)?,
    };
    mapping.push("event_id", sql, why);
    for (column, sql) in given {
        if mapping.sql(column).is_none() {
            mapping.push(column, sql.clone(), "given by --map");
        }
    }
    Ok(mapping)
}

fn named_why(name: &str) -> String {
    format!("the column {name}")
}

/// The expression of a column as text.
pub fn text_of(name: &str, ty: Option<Type>) -> String {
    match ty {
        Some(Type::Text) => quoted(name),
        _ => format!("cast({} as varchar)", quoted(name)),
    }
}

/// The formats of dates and times that are tried on text.
const FORMATS: [&str; 10] = [
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%Y%m%d",
];

/// The expression of the time of an event, by the first column whose values can be one.
fn time(table: &RawTable, context: &SourceContext) -> Result<Option<(String, String)>> {
    let is_time = |raw: &str| {
        matches!(
            table.get(raw).and_then(|raw| raw.ty.logical(context.scale)),
            Some(Type::Timestamp | Type::Date)
        )
    };
    let others = table.raw.iter().map(|raw| raw.name.as_str()).filter(|name| is_time(name));
    for name in named(table, "event_ts").into_iter().chain(others) {
        let column = quoted(name);
        let why = |what: &str| format!("the column {name}, {what}");
        match table.get(name).and_then(|raw| raw.ty.logical(context.scale)) {
            Some(Type::Timestamp) => return Ok(Some((column, why("timestamps")))),
            Some(Type::Date) => {
                return Ok(Some((format!("cast({column} as timestamp)"), why("dates"))));
            }
            Some(Type::Integer | Type::Double) => {
                let value = format!("cast({column} as double)");
                let Some(greatest) = greatest(table, context, &value)? else { continue };
                // Seconds of the years 1980 to 2100, and the same in milli- and microseconds.
                for (unit, per_second, called) in [
                    ("s", 1.0, "seconds"),
                    ("ms", 1e3, "milliseconds"),
                    ("us", 1e6, "microseconds"),
                ] {
                    if (3.2e8..4.2e9).contains(&(greatest / per_second)) {
                        let sql = format!("to_timestamp({column}, '{unit}')");
                        return Ok(Some((sql, why(&format!("{called} since 1970")))));
                    }
                }
            }
            Some(Type::Text) => {
                let casts = std::iter::once(format!("cast({column} as timestamp)"));
                let formats = FORMATS.iter().map(|f| format!("to_timestamp({column}, '{f}')"));
                for sql in casts.chain(formats) {
                    if share(table, context, &sql)? == 1.0 {
                        return Ok(Some((sql, why("text that can be read as a time"))));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

/// The greatest value of an expression of type double, in a sample.
fn greatest(table: &RawTable, context: &SourceContext, sql: &str) -> Result<Option<f64>> {
    let mut greatest: Option<f64> = None;
    look(table, context, ("--events", &[sql]), SAMPLE, |arrays| {
        let values = arrays[0].as_primitive::<Float64Type>().iter().flatten();
        greatest = values.chain(greatest).reduce(f64::max);
        Ok(())
    })?;
    Ok(greatest)
}

/// The share of rows of a sample for which an expression has a value.
fn share(table: &RawTable, context: &SourceContext, sql: &str) -> Result<f64> {
    let mut nulls = 0;
    let rows = look(table, context, ("--events", &[sql]), SAMPLE, |arrays| {
        nulls += arrays[0].null_count();
        Ok(())
    })?;
    Ok(if rows > 0 { (rows - nulls) as f64 / rows as f64 } else { 0.0 })
}

/// Proposes the event type, with the types that there are.
fn event_type(
    table: &RawTable,
    context: &SourceContext,
    given: Option<(String, String)>,
    mapping: &mut Mapping,
) -> Result<()> {
    let is_text = |name: &&str| {
        table.get(name).and_then(|raw| raw.ty.logical(context.scale)) == Some(Type::Text)
    };
    let column = named(table, "event_type").into_iter().find(is_text);
    let (sql, why) = match (given, column) {
        (Some(given), _) => given,
        (None, Some(name)) => (quoted(name), named_why(name)),
        (None, None) => {
            let has = |column: &str| mapping.sql(column).is_some();
            let (kind, why) = match (has("amount"), has("order_id")) {
                (true, _) => ("purchase", "no column of types; every row has an amount"),
                (false, true) => ("purchase", "no column of types; every row has an order"),
                (false, false) => ("product_view", "no column of types, no amount and no order"),
            };
            (format!("'{kind}'"), why.to_owned())
        }
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    look(table, context, ("--map event_type", &[&sql]), SAMPLE, |arrays| {
        for name in arrays[0].as_string::<i32>().iter().flatten() {
            if let Some(count) = counts.get_mut(name) {
                *count += 1;
            } else if counts.len() < MOST_TYPES {
                counts.insert(name.to_owned(), 1);
            }
        }
        Ok(())
    })?;
    let mut cases = String::new();
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    for (name, count) in counts {
        let to = standard_type(&name).unwrap_or(&name).to_owned();
        if to != name {
            cases += &format!(" when '{}' then '{to}'", name.replace('\'', "''"));
        }
        *types.entry(to).or_default() += count;
    }
    let mut types: Vec<(String, usize)> = types.into_iter().collect();
    types.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    mapping.types = types.into_iter().map(|(name, _)| name).collect();
    let sql = if cases.is_empty() { sql } else { format!("case {sql}{cases} else {sql} end") };
    mapping.push("event_type", sql, why);
    Ok(())
}

/// Proposes an expression that differs for each event.
fn event_id(
    table: &RawTable,
    context: &SourceContext,
    mapping: &Mapping,
) -> Result<(String, String)> {
    let mut candidates: Vec<(String, String)> = Vec::new();
    for name in named(table, "event_id").into_iter().chain(named(table, "order_id")) {
        let ty = table.get(name).and_then(|raw| raw.ty.logical(context.scale));
        if matches!(ty, Some(Type::Text | Type::Integer)) {
            candidates.push((text_of(name, ty), named_why(name)));
        }
    }
    let part = |column: &str| mapping.sql(column).map(str::to_owned);
    for columns in [
        &["order_id", "product_id"][..],
        &["customer360_id", "event_ts"],
        &["customer360_id", "event_ts", "event_type"],
        &["customer360_id", "event_ts", "event_type", "product_id"],
        &["customer360_id", "event_ts", "event_type", "order_id", "product_id", "amount"],
    ] {
        let there = columns.iter().filter_map(|column| Some((*column, part(column)?)));
        let (names, parts): (Vec<&str>, Vec<String>) = there.unzip();
        if parts.len() > 1 {
            let sql = format!("concat({})", parts.join(", '-', "));
            candidates.push((sql, format!("{} together", names.join(", "))));
        }
    }
    let mut best: Option<(f64, (String, String))> = None;
    for (sql, why) in candidates {
        let mut seen: HashSet<u64> = HashSet::new();
        let rows = look(table, context, ("--events", &[&sql]), SAMPLE, |arrays| {
            let ids = arrays[0].as_string::<i32>().iter().flatten();
            seen.extend(ids.map(|id| xxhash_rust::xxh3::xxh3_64(id.as_bytes())));
            Ok(())
        })?;
        let share = seen.len() as f64 / rows.max(1) as f64;
        if share == 1.0 {
            return Ok((sql, format!("{why}: different in each row")));
        }
        if best.as_ref().is_none_or(|(other, _)| share > *other) {
            let repeats = rows - seen.len();
            let why = format!("{why}: {repeats} of {rows} rows repeat one and count once");
            best = Some((share, (sql, why)));
        }
    }
    let found = best.map(|(_, proposal)| proposal);
    Ok(found.unwrap_or_else(|| ("'1'".to_owned(), "nothing differs between rows".to_owned())))
}

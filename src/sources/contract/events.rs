//! The contract of the events.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type};
use serde::{Deserialize, Serialize};

use super::history::{Days, History, ingested, texts, times};
use super::{Checks, Status};
use crate::error::Result;
use crate::expression::Expression;
use crate::sources::scan::{Scan, Scanned};
use crate::sources::{Ingestion, POSSIBLE, SourcePlan, is_blank};
use crate::time::{DAY, Instant};

/// The facts about some events that the contract is checked against. The facts of several files add up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFacts {
    /// The number of events.
    rows: u64,
    /// The time of the first event, in microseconds.
    first: Option<i64>,
    /// The time of the last event, in microseconds.
    last: Option<i64>,
    /// The number of rows by kind of fault.
    counts: BTreeMap<String, u64>,
    /// The event types that occur.
    types: BTreeSet<String>,
    /// The usable events by type and day.
    days: Days,
    /// The latest time of ingestion, in microseconds. It is None if times of ingestion are not respected.
    last_ingested: Option<i64>,
}

impl EventFacts {
    /// Reads all events and returns the facts of each file, in the order of the files of the source.
    pub fn of_files(source: &SourcePlan) -> Result<Vec<Self>> {
        let columns = columns(source);
        let begin = || vec![Self::default(); source.table.files.len()];
        let take = |files: &mut Vec<Self>, scanned: Scanned| {
            files[scanned.file].add(&Self::of(source, &columns, &scanned));
            Ok(())
        };
        let mut files = begin();
        for of_thread in Scan::new(source, &columns)?.fold(begin, take)? {
            files.iter_mut().zip(&of_thread).for_each(|(file, more)| file.add(more));
        }
        Ok(files)
    }

    /// Computes the facts of some events.
    fn of(source: &SourcePlan, columns: &[(String, Expression)], scanned: &Scanned) -> Self {
        let has = |name: &str| columns.iter().any(|(known, _)| known == name);
        let rows = || 0..scanned.rows.num_rows();
        let (types, happened) = (texts(scanned, "event_type"), times(scanned, "event_ts"));
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let mut count = |what: &str, is_so: &dyn Fn(usize) -> bool| {
            let found = rows().filter(|row| is_so(*row)).count() as u64;
            counts.insert(what.to_owned(), found);
        };
        for (name, _) in columns {
            let column = scanned.column(name);
            count(&null(name), &|row| column.is_null(row));
        }
        for name in NAMES.into_iter().filter(|name| has(name)) {
            let texts = texts(scanned, name);
            count(&blank(name), &|row| texts.is_valid(row) && is_blank(texts.value(row)));
        }
        count(INFINITE, &|row| scanned.not_finite.as_ref().is_some_and(|bad| bad.value(row)));
        count(DIGITS, &|row| scanned.out_of_range.as_ref().is_some_and(|bad| bad.value(row)));
        count(TIME, &|row| happened.is_valid(row) && !POSSIBLE.contains(&happened.value(row)));
        if has("amount") {
            let amounts = scanned.column("amount").as_primitive::<Decimal128Type>();
            let is_sale = |row| types.is_valid(row) && types.value(row) == "purchase";
            count(NEGATIVE, &|row| is_sale(row) && amounts.is_valid(row) && amounts.value(row) < 0);
            count(NO_AMOUNT, &|row| is_sale(row) && amounts.is_null(row));
        }
        if has("quantity") {
            let quantities = scanned.column("quantity").as_primitive::<Float64Type>();
            count(QUANTITY, &|row| quantities.is_valid(row) && quantities.value(row) < 0.0);
        }
        if has("currency") {
            let (currencies, own) = (texts(scanned, "currency"), &source.context.currency);
            count(CURRENCY, &|row| currencies.is_valid(row) && currencies.value(row) != own);
        }
        if has("ingested_at") {
            let ingested = times(scanned, "ingested_at");
            let both = |row| ingested.is_valid(row) && happened.is_valid(row);
            let lag = |row| i128::from(ingested.value(row)) - i128::from(happened.value(row));
            count(LATE, &|row| both(row) && lag(row) > i128::from(30 * DAY));
        }
        let mut known = HashSet::new();
        known.extend(types.iter().flatten());
        let mut days = Days::default();
        days.add_batch(scanned, Instant(i64::MAX), Instant(i64::MAX));
        let respected = ingested(scanned).filter(|_| source.has_ingestion());
        Self {
            rows: scanned.rows.num_rows() as u64,
            first: happened.iter().flatten().min(),
            last: happened.iter().flatten().max(),
            counts,
            types: known.into_iter().map(str::to_owned).collect(),
            days,
            last_ingested: respected.and_then(|times| times.iter().flatten().max()),
        }
    }

    /// Adds the facts of another file.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
        self.types.extend(other.types.iter().cloned());
        self.days.add(&other.days);
        self.last_ingested = self.last_ingested.max(other.last_ingested);
    }

    /// Whether all events happened before `at` and were ingested before `known_at`.
    fn are_before(&self, at: Instant, known_at: Instant) -> bool {
        !self.reaches(at) && self.last_ingested.is_none_or(|last| last < known_at.0)
    }

    /// Whether an event happened at or after `instant`.
    pub fn reaches(&self, instant: Instant) -> bool {
        self.last.is_some_and(|last| last >= instant.0)
    }
}

const INFINITE: &str = "not finite";
const DIGITS: &str = "too many digits";
const TIME: &str = "impossible time";
const NEGATIVE: &str = "negative amount";
const NO_AMOUNT: &str = "no amount";
const QUANTITY: &str = "negative quantity";
const CURRENCY: &str = "other currency";
const LATE: &str = "late";

fn null(column: &str) -> String {
    format!("{column} null")
}

fn blank(column: &str) -> String {
    format!("{column} blank")
}

/// The columns whose text must name something.
const NAMES: [&str; 3] = ["customer360_id", "event_id", "event_type"];

/// The canonical columns that have a mapping.
fn columns(source: &SourcePlan) -> Vec<(String, Expression)> {
    let mapped = source.mapping.iter();
    mapped
        .filter(|(name, _)| crate::sources::EVENT_COLUMNS.iter().any(|(known, ..)| known == name))
        .map(|(name, x)| (name.clone(), Expression::column(name.clone(), x.ty)))
        .collect()
}

/// The number of events that happened at or after `instant`.
pub fn events_from(source: &SourcePlan, instant: Instant) -> Result<u64> {
    let Some(time) = source.mapping.get("event_ts") else { return Ok(0) };
    let column = ("event_ts".to_owned(), Expression::column("event_ts", time.ty));
    let take = |count: &mut u64, scanned: Scanned| {
        let times = times(&scanned, "event_ts").iter().flatten();
        *count += times.filter(|time| *time >= instant.0).count() as u64;
        Ok(())
    };
    Ok(Scan::new(source, &[column])?.fold(|| 0, take)?.into_iter().sum())
}

/// The time of the first event of all files.
pub fn first_event(files: &[EventFacts]) -> Option<Instant> {
    files.iter().filter_map(|facts| facts.first).min().map(Instant)
}

/// Computes when the usable events happened that lie before `at` and were ingested before `known_at`. `files`
/// are the facts of the source's files; only files with later events are read. Returns None if there are no
/// such events.
pub fn history(
    source: &SourcePlan,
    files: &[EventFacts],
    at: Instant,
    known_at: Instant,
) -> Result<Option<History>> {
    let mut days = Days::default();
    let mut cut = source.clone();
    cut.table.files.clear();
    for (path, facts) in source.table.files.iter().zip(files) {
        match facts.are_before(at, known_at) {
            true => days.add(&facts.days),
            false => cut.table.files.push(path.clone()),
        }
    }
    if !cut.table.files.is_empty() {
        let names = ["customer360_id", "event_id", "event_type", "event_ts", "ingested_at"];
        let mut columns = columns(source);
        columns.retain(|(name, _)| names.contains(&name.as_str()));
        columns.retain(|(name, _)| name != "ingested_at" || source.has_ingestion());
        let take = |days: &mut Days, scanned: Scanned| {
            days.add_batch(&scanned, at, known_at);
            Ok(())
        };
        let found = Scan::new(&cut, &columns)?.fold(Days::default, take)?;
        found.iter().for_each(|more| days.add(more));
    }
    Ok(History::of(&days, at))
}

/// Checks the values of the events. `future` is the number of events at or after the as-of, if there is an
/// as-of.
///
/// Keys, events of unknown customers, and duplicates are checked by a build.
pub fn check_events(
    source: &SourcePlan,
    facts: &EventFacts,
    future: Option<u64>,
    checks: &mut Checks,
) {
    let columns = columns(source);
    let has = |name: &str| columns.iter().any(|(known, _)| known == name);
    let get = |name: &str| facts.counts.get(name).copied().unwrap_or(0);
    let rows = facts.rows;
    // A run leaves such rows out, and refuses to continue if their share is above the limit.
    let unusable = |count: u64| match count {
        0 => Status::Ok,
        count if count as f64 > source.max_rejected_share * rows as f64 => Status::Violation,
        _ => Status::Warning,
    };
    checks.files(&source.table);
    let empty = if rows == 0 { Status::Violation } else { Status::Ok };
    checks.add("rows", rows, empty, "there are no events");
    if let (Some(first), Some(last)) = (facts.first, facts.last) {
        let range = format!("{} to {}", Instant(first), Instant(last));
        let sane = (-70 * 366 * DAY..100 * 366 * DAY).contains(&first) && last < 200 * 366 * DAY;
        let status = if sane { Status::Ok } else { Status::Warning };
        checks.add("time range", range, status, "check the unit of event_ts");
    }
    for (name, expression) in &columns {
        let nulls = get(&null(name));
        let required =
            matches!(name.as_str(), "customer360_id" | "event_id" | "event_type" | "event_ts");
        let status = if required { unusable(nulls) } else { Status::Ok };
        let found = format!("{}, {nulls} null", expression.ty.name());
        checks.add(name.clone(), found, status, "such rows are rejected");
        let blanks = get(&blank(name));
        if blanks > 0 {
            checks.count(
                format!("{name}: blank"),
                blanks,
                unusable(blanks),
                "such rows are rejected",
            );
        }
    }
    let infinite = get(INFINITE);
    checks.count("numbers that are not finite", infinite, unusable(infinite), "write null instead");
    for (what, name, hint) in [
        (
            DIGITS,
            "numbers with too many digits",
            "money has 18 digits, an integer 19; such rows are rejected",
        ),
        (
            TIME,
            "times before 1900 or after 2199",
            "check the unit of event_ts; such rows are rejected",
        ),
    ] {
        if get(what) > 0 {
            checks.count(name, get(what), unusable(get(what)), hint);
        }
    }
    if let Some(future) = future {
        checks.add("events at or after the as-of", future, Status::Ok, "");
    }
    if has("amount") {
        checks.count(
            "purchases with a negative amount",
            get(NEGATIVE),
            Status::Warning,
            "write them as refunds; they do not count as purchases",
        );
        checks.count(
            "purchases without an amount",
            get(NO_AMOUNT),
            Status::Warning,
            "they do not count as purchases",
        );
    }
    if has("quantity") {
        checks.count(
            "negative quantities",
            get(QUANTITY),
            Status::Warning,
            "write returns as refunds",
        );
    }
    if has("currency") {
        checks.count(
            format!("amounts not in {}", source.context.currency),
            get(CURRENCY),
            unusable(get(CURRENCY)),
            "convert them upstream, or map amount and currency",
        );
    }
    if has("ingested_at") {
        let share = get(LATE) as f64 / rows.max(1) as f64;
        let reloaded = share > 0.05 && source.ingestion == Ingestion::Respect;
        let status = if reloaded { Status::Warning } else { Status::Ok };
        let hint = "if the warehouse was reloaded, set sources.events.ingestion = \"ignore\"";
        checks.add("ingested over 30 days late", format!("{:.1} %", share * 100.0), status, hint);
    }
    let is_known = |name: &&String| source.event_types.contains(name);
    let unknown: Vec<&str> =
        facts.types.iter().filter(|name| !is_known(name)).map(String::as_str).collect();
    let (found, status) = match unknown.is_empty() {
        true => ("none".to_owned(), Status::Ok),
        false => (unknown.join(", "), Status::Warning),
    };
    checks.add("unknown event types", found, status, "name them in sources.events.event_types");
}

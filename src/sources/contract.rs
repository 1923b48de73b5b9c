//! The contract of the sources, checked on footers and data: what `validate` reports.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, TimestampMicrosecondType};
use arrow_array::{Array, PrimitiveArray, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};

use super::profile::{KeyFaults, ProfilePlan, ProfileShards};
use super::scan::{Scan, Scanned};
use super::{Ingestion, SourcePlan};
use crate::error::Result;
use crate::expression::Expression;
use crate::time::{DAY, Instant};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing to say.
    Ok,
    /// Worth a look; the run goes on.
    Warning,
    /// The contract is violated; a run would stop with exit code 3.
    Violation,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// `profile` or `events`.
    pub source: String,
    /// What was checked.
    pub check: String,
    /// What was found.
    pub found: String,
    /// How it came out.
    pub status: Status,
    /// What can be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// Collects checks of one source.
pub struct Checks {
    source: &'static str,
    /// So far.
    pub list: Vec<Check>,
}

impl Checks {
    /// No checks yet.
    pub fn new(source: &'static str) -> Self {
        Self { source, list: Vec::new() }
    }

    /// Adds a check.
    pub fn add(
        &mut self,
        check: impl Into<String>,
        found: impl ToString,
        status: Status,
        hint: &str,
    ) {
        let hint = if status == Status::Ok { String::new() } else { hint.to_owned() };
        let (check, found) = (check.into(), found.to_string());
        self.list.push(Check { source: self.source.to_owned(), check, found, status, hint });
    }

    /// Adds a count that should be zero.
    pub fn count(&mut self, check: impl Into<String>, count: u64, otherwise: Status, hint: &str) {
        let status = if count == 0 { Status::Ok } else { otherwise };
        self.add(check, count, status, hint);
    }
}

/// Points of a series of events over time, at most.
const POINTS: i64 = 400;
/// Event types with a series of their own; the others share one.
const SERIES: usize = 8;

/// When events happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// The first event.
    pub first: Instant,
    /// The last event.
    #[serde(default)]
    pub last: Option<Instant>,
    /// Days from one day with events to the next, of which 19 in 20 are no longer.
    #[serde(default)]
    pub usual_gap: i64,
    /// The midnight, UTC, at or before it where the series begin: a whole number of steps before the
    /// instant that they are told up to.
    pub from: Instant,
    /// Days of each point.
    pub step: i64,
    /// Events of each type by time, the most frequent types first; what is rarer is `other`.
    pub events: Vec<(String, Vec<u64>)>,
}

/// When the usable events before `at` happened that were known by `known_at`; None where there are
/// none. Usable is what a build reads: all required columns are there.
pub fn history(source: &SourcePlan, at: Instant, known_at: Instant) -> Result<Option<History>> {
    let names = ["customer360_id", "event_id", "event_type", "event_ts", "ingested_at"];
    let known = |name: &str| name != "ingested_at" || source.has_ingestion();
    let columns: Vec<(String, Expression)> = names
        .into_iter()
        .filter(|name| known(name))
        .filter_map(|name| Some((name.to_owned(), source.mapping.get(name)?)))
        .map(|(name, x)| (name.clone(), Expression::column(name, x.ty)))
        .collect();
    let take = |days: &mut Days, scanned: Scanned| {
        let known = source.has_ingestion().then(|| times(&scanned, "ingested_at"));
        let required = ["customer360_id", "event_id"].map(|name| scanned.column(name));
        let (types, times) = (texts(&scanned, "event_type"), times(&scanned, "event_ts"));
        for row in 0..scanned.rows.num_rows() {
            let is_known =
                known.is_none_or(|known| known.is_null(row) || known.value(row) < known_at.0);
            let has_key = required.iter().all(|column| column.is_valid(row));
            if !is_known || !has_key || types.is_null(row) || times.is_null(row) {
                continue;
            }
            let time = times.value(row);
            if time < at.0 {
                days.add(
                    types.value(row),
                    time.div_euclid(DAY),
                    Day { first: time, last: time, events: 1 },
                );
            }
        }
        Ok(())
    };
    let mut all = Days::default();
    for of_thread in Scan::new(source, &columns)?.fold(Days::default, take)? {
        for (ty, days) in of_thread.0 {
            days.into_iter().for_each(|(day, found)| all.add(&ty, day, found));
        }
    }
    let found: Vec<(&str, i64, Day)> = all
        .0
        .iter()
        .flat_map(|(ty, days)| days.iter().map(|(day, found)| (ty.as_str(), *day, *found)))
        .collect();
    let last = found.iter().map(|(.., day)| day.last).max().map(Instant);
    let (types, days): (Vec<&str>, Vec<i64>) = found.iter().map(|(ty, day, _)| (*ty, *day)).unzip();
    let (firsts, counts): (Vec<i64>, Vec<i64>) =
        found.iter().map(|(.., day)| (day.first, day.events)).unzip();
    let (Some(first), Some(earliest)) = (firsts.iter().min(), days.iter().min()) else {
        return Ok(None);
    };
    // Up to the instant itself, so that nothing at its end looks like a fall or hides an outage.
    let end = (at.0 - 1).div_euclid(DAY) + 1;
    let step = (end - earliest + POINTS - 1) / POINTS;
    let points = (end - earliest + step - 1) / step;
    let from = end - points * step;
    let mut totals: BTreeMap<&str, i64> = BTreeMap::new();
    types.iter().zip(&counts).for_each(|(ty, count)| *totals.entry(ty).or_default() += count);
    let mut order: Vec<(&str, i64)> = totals.into_iter().collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut names: Vec<&str> = order.iter().map(|(ty, _)| *ty).take(SERIES).collect();
    if order.len() > SERIES {
        names.push("other");
    }
    let mut events: Vec<(String, Vec<u64>)> =
        names.iter().map(|name| ((*name).to_owned(), vec![0; points as usize])).collect();
    for ((ty, day), count) in types.iter().zip(&days).zip(&counts) {
        let series = names.iter().position(|name| name == ty).unwrap_or(names.len() - 1);
        events[series].1[((day - from) / step) as usize] += *count as u64;
    }
    let (first, from) = (Instant(*first), Instant(from * DAY));
    Ok(Some(History { first, last, usual_gap: usual_gap(&days), from, step, events }))
}

/// The 95th percentile of the days from one day with events to the next; 1 of a single day.
fn usual_gap(days: &[i64]) -> i64 {
    let mut days = days.to_vec();
    days.sort_unstable();
    days.dedup();
    let mut gaps: Vec<i64> = days.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() * 19 / 20).or(gaps.last()).copied().unwrap_or(1)
}

/// The events of one type on one day.
#[derive(Debug, Clone, Copy)]
struct Day {
    first: i64,
    last: i64,
    events: i64,
}

/// Events by type and day.
#[derive(Debug, Default)]
struct Days(HashMap<String, HashMap<i64, Day>>);

impl Days {
    fn add(&mut self, ty: &str, day: i64, found: Day) {
        if !self.0.contains_key(ty) {
            self.0.insert(ty.to_owned(), HashMap::new());
        }
        let Some(days) = self.0.get_mut(ty) else { return };
        let known = days.entry(day).or_insert(Day { events: 0, ..found });
        known.first = known.first.min(found.first);
        known.last = known.last.max(found.last);
        known.events += found.events;
    }
}

fn times<'a>(scanned: &'a Scanned, name: &str) -> &'a PrimitiveArray<TimestampMicrosecondType> {
    scanned.column(name).as_primitive()
}

fn texts<'a>(scanned: &'a Scanned, name: &str) -> &'a StringArray {
    scanned.column(name).as_string()
}

/// What the contract looks at in some events; that of several files is the sum of theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFacts {
    /// How many there are.
    rows: u64,
    /// When the first happened, in microseconds.
    first: Option<i64>,
    /// When the last happened, in microseconds.
    last: Option<i64>,
    /// Rows by what is the matter with them.
    counts: BTreeMap<String, u64>,
    /// Event types.
    types: BTreeSet<String>,
}

impl EventFacts {
    /// Reads all events: what is to be known of each file, in the order of the source's files.
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

    /// What is to be known of some events.
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
        count(INFINITE, &|row| scanned.not_finite.as_ref().is_some_and(|bad| bad.value(row)));
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
        Self {
            rows: scanned.rows.num_rows() as u64,
            first: happened.iter().flatten().min(),
            last: happened.iter().flatten().max(),
            counts,
            types: known.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Adds those of another file.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
        self.types.extend(other.types.iter().cloned());
    }

    /// Whether an event happened at or after an instant.
    pub fn reaches(&self, instant: Instant) -> bool {
        self.last.is_some_and(|last| last >= instant.0)
    }
}

const INFINITE: &str = "not finite";
const NEGATIVE: &str = "negative amount";
const NO_AMOUNT: &str = "no amount";
const QUANTITY: &str = "negative quantity";
const CURRENCY: &str = "other currency";
const LATE: &str = "late";

fn null(column: &str) -> String {
    format!("{column} null")
}

/// The canonical columns that are mapped.
fn columns(source: &SourcePlan) -> Vec<(String, Expression)> {
    let mapped = source.mapping.iter();
    mapped
        .filter(|(name, _)| super::EVENT_COLUMNS.iter().any(|(known, ..)| known == name))
        .map(|(name, x)| (name.clone(), Expression::column(name.clone(), x.ty)))
        .collect()
}

/// How many events happened at or after an instant.
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

/// Checks the events' values, of which `future` happen at or after the as-of, if there is one; keys,
/// orphans and duplicates come from a build.
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
    // What a run would leave out, up to the share from which it refuses.
    let unusable = |count: u64| match count {
        0 => Status::Ok,
        count if count as f64 > source.max_rejected_share * rows as f64 => Status::Violation,
        _ => Status::Warning,
    };
    checks.add("files", source.table.files.len(), Status::Ok, "");
    let empty = if rows == 0 { Status::Violation } else { Status::Ok };
    checks.add("rows", rows, empty, "there are no events");
    if let (Some(first), Some(last)) = (facts.first, facts.last) {
        let range = format!("{} to {}", Instant(first), Instant(last));
        let sane = (-70 * 366 * DAY..100 * 366 * DAY).contains(&first) && last < 200 * 366 * DAY;
        let status = if sane { Status::Ok } else { Status::Warning };
        checks.add("time range", range, status, "is the unit of event_ts right?");
    }
    for (name, expression) in &columns {
        let nulls = get(&null(name));
        let required =
            matches!(name.as_str(), "customer360_id" | "event_id" | "event_type" | "event_ts");
        let status = if required { unusable(nulls) } else { Status::Ok };
        let found = format!("{}, {nulls} null", expression.ty.name());
        checks.add(name.clone(), found, status, "such rows are rejected");
    }
    let infinite = get(INFINITE);
    checks.count("numbers that are not finite", infinite, unusable(infinite), "write null instead");
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
        let hint = "if the warehouse was loaded anew, set sources.events.ingestion = \"ignore\"";
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

/// Values of a profile field that do not fit, and pass through all the same.
struct Oddity {
    field: &'static str,
    check: &'static str,
    fits: fn(&str) -> bool,
    hint: &'static str,
}

/// What is looked for among the profile's texts.
const ODDITIES: [Oddity; 4] = [
    Oddity {
        field: "country",
        check: "not ISO 3166-1 alpha-2",
        fits: |value| value.len() == 2 && value.bytes().all(|b| b.is_ascii_uppercase()),
        hint: "they pass through as they are",
    },
    Oddity {
        field: "primary_email",
        check: "without an @",
        fits: |value| value.contains('@'),
        hint: "they pass through as they are",
    },
    Oddity {
        field: "opt_in_status",
        check: "not opted_in, opted_out or unknown",
        fits: |value| matches!(value, "opted_in" | "opted_out" | "unknown"),
        hint: "map it",
    },
    Oddity {
        field: "date_of_birth",
        check: "not a date",
        fits: |value| value.len() <= 10 && value.bytes().all(|b| b.is_ascii_digit() || b == b'-'),
        hint: "they give no age",
    },
];

/// What the contract looks at in rows of a profile; facts of different rows add up.
#[derive(Debug, Clone, Default)]
pub struct ProfileFacts {
    rows: u64,
    duplicates: u64,
    first_duplicate: Option<String>,
    /// By oddity; None where the profile has no such text.
    odd: [Option<u64>; ODDITIES.len()],
    /// By column.
    nulls: Vec<u64>,
}

impl ProfileFacts {
    /// Of the rows of a shard and what is wrong with its keys.
    pub fn of(rows: &RecordBatch, faults: &KeyFaults) -> Self {
        let odd = ODDITIES.map(|Oddity { field, fits, .. }| {
            let texts = rows.column_by_name(field)?.as_string_opt::<i32>()?;
            Some(texts.iter().flatten().filter(|value| !fits(value)).count() as u64)
        });
        Self {
            rows: rows.num_rows() as u64,
            duplicates: faults.duplicates,
            first_duplicate: faults.first_duplicate.clone(),
            odd,
            nulls: rows.columns().iter().map(|column| column.null_count() as u64).collect(),
        }
    }

    /// Adds those of other rows of the same columns.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        // The least by key, whatever the number of shards.
        let firsts = [self.first_duplicate.take(), other.first_duplicate];
        self.first_duplicate = firsts.into_iter().flatten().min();
        for (own, more) in self.odd.iter_mut().zip(other.odd) {
            *own = own.or(Some(0).filter(|_| more.is_some())).map(|own| own + more.unwrap_or(0));
        }
        self.nulls.resize(other.nulls.len().max(self.nulls.len()), 0);
        self.nulls.iter_mut().zip(other.nulls).for_each(|(own, more)| *own += more);
    }
}

/// Adds the checks of a profile, given the facts of all its shards.
pub fn check_profile(
    plan: &ProfilePlan,
    profile: &ProfileShards,
    facts: &ProfileFacts,
    checks: &mut Checks,
) {
    let violation = Status::Violation;
    checks.add("files", plan.table.files.len(), Status::Ok, "");
    checks.add("rows", facts.rows + profile.nulls + facts.duplicates, Status::Ok, "");
    let first = profile.first_null.as_ref();
    let first = first
        .map(|(file, row)| format!("every customer needs a key: {} row {row}", file.display()));
    checks.count("customer360_id: null", profile.nulls, violation, &first.unwrap_or_default());
    let first = facts.first_duplicate.as_ref();
    let first = first.map(|key| format!("merge them upstream: {key} is there twice"));
    let hint = first.unwrap_or_default();
    checks.count("customer360_id: duplicate", facts.duplicates, violation, &hint);
    for (Oddity { field, check, hint, .. }, count) in ODDITIES.iter().zip(facts.odd) {
        if let Some(count) = count {
            checks.count(format!("{field}: {check}"), count, Status::Warning, hint);
        }
    }
    let fields = profile.schema().fields();
    let is_known = |name: &str| crate::schema::profile_field(name).is_some();
    let extra = fields.iter().filter(|field| !is_known(field.name())).count();
    checks.add("extra columns carried along", extra, Status::Ok, "");
    for (field, nulls) in fields.iter().zip(&facts.nulls).filter(|(f, _)| is_known(f.name())) {
        let ty = crate::schema::type_name(field.data_type(), false);
        checks.add(field.name().clone(), format!("{ty}, {nulls} null"), Status::Ok, "");
    }
}

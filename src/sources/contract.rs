//! The contract of the sources, checked on footers and data and reported by `validate`.

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

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The check passed.
    Ok,
    /// The finding should be looked at, but a run continues.
    Warning,
    /// The contract is violated, and a run would stop with exit code 3.
    Violation,
}

/// One line of the report of `validate`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The name of the source, `profile` or `events`.
    pub source: String,
    /// The name of the check.
    pub check: String,
    /// The finding as text.
    pub found: String,
    /// The outcome of the check.
    pub status: Status,
    /// A hint about what can be done. It is empty if the check passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// Collects the checks of one source.
pub struct Checks {
    source: &'static str,
    /// The checks collected so far.
    pub list: Vec<Check>,
}

impl Checks {
    /// Creates an empty list of checks for `source`.
    pub fn new(source: &'static str) -> Self {
        Self { source, list: Vec::new() }
    }

    /// Adds a check. The hint is dropped if the check passed.
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

    /// Adds a count that should be zero. Any other count gets the status `otherwise`.
    pub fn count(&mut self, check: impl Into<String>, count: u64, otherwise: Status, hint: &str) {
        let status = if count == 0 { Status::Ok } else { otherwise };
        self.add(check, count, status, hint);
    }
}

/// The maximum number of points in a time series of events.
const POINTS: i64 = 400;
/// The number of event types with a time series of their own. All other types share one.
const SERIES: usize = 8;

/// The distribution of events over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// The time of the first event.
    pub first: Instant,
    /// The time of the last event.
    #[serde(default)]
    pub last: Option<Instant>,
    /// The 95th percentile of the number of days from one day with events to the next.
    #[serde(default)]
    pub usual_gap: i64,
    /// The start of the time series: a midnight in UTC at or before the first event.
    ///
    /// It is a whole number of steps before the end of the time series, which is the first midnight in UTC at
    /// or after the instant for which the history was computed.
    pub from: Instant,
    /// The number of days per point.
    pub step: i64,
    /// The number of events per point for each event type, the most frequent types first. Rarer types are
    /// summed as `other`.
    pub events: Vec<(String, Vec<u64>)>,
}

/// Computes when the usable events happened that lie before `at` and were ingested before `known_at`.
///
/// An event is usable if a build can read it, that is, if all required columns have values. The result is
/// None if there are no such events.
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
    // The series end at the instant itself, not at the last event, which would hide an outage. The steps are
    // aligned with this end, because a partial last point would look like a decline.
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

/// The 95th percentile of the number of days from one day with events to the next. It is 1 if there is only
/// one day.
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

/// Events grouped by type and day.
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

    /// Adds the facts of another file.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
        self.types.extend(other.types.iter().cloned());
    }

    /// Whether an event happened at or after `instant`.
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

/// The canonical columns that have a mapping.
fn columns(source: &SourcePlan) -> Vec<(String, Expression)> {
    let mapped = source.mapping.iter();
    mapped
        .filter(|(name, _)| super::EVENT_COLUMNS.iter().any(|(known, ..)| known == name))
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
    checks.add("files", source.table.files.len(), Status::Ok, "");
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

/// A rule for the values of a profile field. Values that violate it still pass through unchanged.
struct Oddity {
    field: &'static str,
    check: &'static str,
    fits: fn(&str) -> bool,
    hint: &'static str,
}

/// The rules that the text fields of the profile are checked against.
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
        hint: "no age is computed from them",
    },
];

/// The facts about profile rows that the contract is checked against. The facts of different rows add up.
#[derive(Debug, Clone, Default)]
pub struct ProfileFacts {
    rows: u64,
    duplicates: u64,
    first_duplicate: Option<String>,
    /// The number of violations of each rule in [`ODDITIES`]. It is None if the profile has no such text
    /// column.
    odd: [Option<u64>; ODDITIES.len()],
    /// The number of nulls by column.
    nulls: Vec<u64>,
}

impl ProfileFacts {
    /// Computes the facts of the rows of a shard. `faults` describes its repeated keys.
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

    /// Adds the facts of other rows with the same columns.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        // The smallest key is kept, so that the result does not depend on the number of shards.
        let firsts = [self.first_duplicate.take(), other.first_duplicate];
        self.first_duplicate = firsts.into_iter().flatten().min();
        for (own, more) in self.odd.iter_mut().zip(other.odd) {
            *own = own.or(Some(0).filter(|_| more.is_some())).map(|own| own + more.unwrap_or(0));
        }
        self.nulls.resize(other.nulls.len().max(self.nulls.len()), 0);
        self.nulls.iter_mut().zip(other.nulls).for_each(|(own, more)| *own += more);
    }
}

/// Adds the checks of a profile. `facts` are those of all its shards.
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
    let first = first.map(|key| format!("merge them upstream: {key} occurs more than once"));
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

//! The written profile: 50 fields in a fixed order with fixed types, and then the extra columns of the
//! source.

mod problem;

pub use self::problem::ProfileProblem;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, Date32Array, Int32Array, ListArray, RecordBatch,
    StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use chrono::NaiveDate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::Type;
use crate::features::catalog::Catalog;
use crate::schema::{Origin, PROFILE};
use crate::sources::consent::Consent;
use crate::sources::profile::{FILLED, align, filled_before};
use crate::time::{Instant, Zone, completed_years};

/// The treatment of derived fields that the source already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DerivedFields {
    /// The fields are computed again from the events. A guard refuses a loss of history.
    #[default]
    Recompute,
    /// The values of the source are kept.
    Keep,
    /// The values of the source are kept, and missing values are filled.
    FillMissing,
}

/// The `[writeback]` table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Writeback {
    /// The treatment of derived fields.
    #[serde(default)]
    pub derived: DerivedFields,
    /// The feature that counts engagement on each contact channel, for `preferred_channel`.
    #[serde(default)]
    pub preferred_channel: BTreeMap<String, String>,
    /// The number of best affinity items that fill empty `interests`.
    #[serde(default = "default_interests")]
    pub interests: usize,
    /// The path or URL of a Delta table that gets the current profile after every run that changes it. It is created if
    /// it does not exist; all its rows are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<String>,
}

fn default_interests() -> usize {
    3
}

impl Default for Writeback {
    fn default() -> Self {
        Self {
            derived: DerivedFields::default(),
            preferred_channel: BTreeMap::new(),
            interests: default_interests(),
            delta: None,
        }
    }
}

impl Writeback {
    /// Checks the features that the table names.
    pub fn check(&self, catalog: &Catalog) -> Result<()> {
        for (channel, name) in &self.preferred_channel {
            let place = format!("c360.toml [writeback] preferred_channel.{channel}");
            match catalog.get(name) {
                Some(feature) if feature.ty() == Type::Integer => {}
                Some(_) => {
                    return Err(ProfileProblem::NotACount { place, feature: name.clone() }.into());
                }
                None => {
                    let valid = catalog.features.iter().map(|feature| feature.column());
                    return Err(Error::unknown(place, "column", name, valid));
                }
            }
        }
        Ok(())
    }
}

/// The computed values of each customer, in addition to the row of the source. All are in the order of
/// `keys`.
pub struct Computed<'a> {
    /// The sorted keys of the customers.
    pub keys: &'a StringArray,
    /// The features by column.
    pub features: &'a RecordBatch,
    /// How each customer's churn risk was found: `model`, `lapsed` or `none`; `None` without such a model.
    pub churn_basis: Option<StringArray>,
    /// The modeled fields by name, in their final types.
    pub modeled: Vec<(&'static str, ArrayRef)>,
    /// The categories with the highest affinity of each customer, the best first.
    pub interests: &'a ListArray,
    /// The instant of each customer's first event.
    pub first_event: &'a ArrayRef,
}

/// The rules for merging profiles.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MergeRules {
    /// The as-of of the profile.
    pub as_of: Instant,
    /// The time zone by whose calendar ages are computed.
    pub zone: Zone,
    /// The `[writeback]` table.
    pub writeback: Writeback,
    /// The feature that fills each field.
    pub writers: BTreeMap<String, String>,
    /// Whether the current profile has a later as-of. The source's values from the later profile are then no
    /// history of this as-of.
    pub is_past: bool,
}

/// The number of customers whose history would be lost by recomputing a field, by field. Losses of different
/// shards can be added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    by_field: BTreeMap<String, Loss>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Loss {
    /// The number of customers that the source has a value for.
    known: u64,
    /// The number of those whose counter decreases or whose first time moves later.
    lost: u64,
}

/// The greatest share of customers who may lose history.
const MOST_LOST: f64 = 0.01;

impl Losses {
    /// Adds the losses of another shard.
    pub fn add(&mut self, other: Self) {
        for (field, more) in other.by_field {
            let own = self.by_field.entry(field).or_default();
            own.known += more.known;
            own.lost += more.lost;
        }
    }

    /// Refuses a decrease of a lifetime counter, or a later first time, for more than 1 % of customers.
    ///
    /// # Errors
    /// Returns a contract violation that names the field.
    pub fn check(&self) -> Result<()> {
        let is_too_much = |loss: &Loss| loss.lost as f64 > MOST_LOST * loss.known as f64;
        // The fields are checked in the order in which they are written.
        let names = PROFILE.iter().map(|field| field.name);
        let mut losses = names.filter_map(|name| Some((name, self.by_field.get(name)?)));
        match losses.find(|(_, loss)| is_too_much(loss)) {
            None => Ok(()),
            Some((name, Loss { known, lost })) => {
                let (field, known, lost) = (name.to_owned(), *known, *lost);
                Err(ProfileProblem::LostHistory { field, lost, known }.into())
            }
        }
    }
}

const KEY: &str = "customer360_id";

/// The column of the written profile that says how the churn risk was found. A risk by the model and one of a lapsed
/// customer cannot be ranked together.
pub const CHURN_BASIS: &str = "churn_basis";

/// Merges the written profile of some customers from the rows of the source and of the current profile, each
/// sorted by key. Also returns the history that recomputing would lose.
pub fn merge(
    source: &RecordBatch,
    computed: &Computed<'_>,
    rules: &MergeRules,
    current: Option<&RecordBatch>,
) -> Result<(RecordBatch, Losses)> {
    let mut losses = Losses::default();
    let rows = computed.keys.len();
    let source = align(source, computed.keys)?;
    let previously_filled = filled_before(&source);
    let mut filled: Vec<Vec<&'static str>> = vec![Vec::new(); rows];
    let (mut fields, mut arrays): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for field in &PROFILE {
        let ty = match field.name {
            "source_ids" => column_type(&source, field.name, DataType::Utf8),
            "date_of_birth" => column_type(&source, field.name, DataType::Date32),
            _ => field.arrow_type().unwrap_or(DataType::Utf8),
        };
        let raw = || match source.column_by_name(field.name) {
            Some(column) => column.clone(),
            None => new_null_array(&ty, rows),
        };
        let modeled = computed.modeled.iter().find(|(name, _)| *name == field.name);
        let array: ArrayRef = match (field.name, field.origin) {
            (KEY, _) => Arc::new(computed.keys.clone()),
            ("created_at", _) => {
                created_at(&source, &raw(), computed, &mut filled, &previously_filled)
            }
            ("full_name", _) => full_name(&source, rows, &mut filled, &previously_filled),
            ("age", _) => age(&source, rows, rules)?,
            ("updated_at", _) => new_null_array(&ty, rows),
            ("preferred_channel", _) => {
                preferred_channel(&source, computed, rules, &mut filled, &previously_filled)?
            }
            ("interests", _) => {
                interests(&source, computed, rules, &mut filled, &previously_filled)
            }
            (_, Origin::Raw) => raw(),
            (_, Origin::Modeled) => {
                modeled.map_or_else(|| new_null_array(&ty, rows), |(_, a)| a.clone())
            }
            (name, Origin::Derived) => derived(name, &ty, &source, computed, rules, &mut losses)?,
        };
        fields.push(Field::new(field.name, array.data_type().clone(), field.name != KEY));
        arrays.push(array);
    }
    if let Some(basis) = &computed.churn_basis {
        fields.push(Field::new(CHURN_BASIS, DataType::Utf8, false));
        arrays.push(Arc::new(basis.clone()));
    }
    let mut list = ListBuilder::new(StringBuilder::new());
    for names in &filled {
        names.iter().for_each(|name| list.values().append_value(name));
        list.append(true);
    }
    let list: ArrayRef = Arc::new(list.finish());
    fields.push(Field::new(FILLED, list.data_type().clone(), false));
    arrays.push(list);
    for (field, array) in source.schema().fields().iter().zip(source.columns()) {
        let own = [FILLED, CHURN_BASIS].contains(&field.name().as_str());
        let known = own || PROFILE.iter().any(|known| known.name == field.name());
        if !known {
            fields.push(field.as_ref().clone().with_nullable(true));
            arrays.push(array.clone());
        }
    }
    let merged = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(Error::engine("merging the profile"))?;
    Ok((updated_at(merged, &source, rules.as_of, current)?, losses))
}

fn column_type(source: &RecordBatch, name: &str, otherwise: DataType) -> DataType {
    source.column_by_name(name).map_or(otherwise, |column| column.data_type().clone())
}

fn texts<'a>(source: &'a RecordBatch, name: &str) -> Option<&'a StringArray> {
    source.column_by_name(name).and_then(|column| column.as_string_opt::<i32>())
}

/// Customers who are known only from events were created by their first event.
fn created_at(
    source: &RecordBatch,
    raw: &ArrayRef,
    computed: &Computed<'_>,
    filled: &mut [Vec<&'static str>],
    before: &[Vec<String>],
) -> ArrayRef {
    let raw = raw.as_primitive::<TimestampMicrosecondType>();
    let first = computed.first_event.as_primitive::<TimestampMicrosecondType>();
    let keys = source.column_by_name(KEY);
    let values = raw.iter().zip(first).enumerate().map(|(row, (raw, first))| {
        let ours = before[row].iter().any(|name| name == "created_at");
        let orphan = keys.is_none_or(|keys| keys.is_null(row));
        if !ours && !orphan {
            return raw;
        }
        // If the customer has no event any more, the value that was filled in earlier is kept.
        let value = first.or(raw.filter(|_| ours));
        if value.is_some() {
            filled[row].push("created_at");
        }
        value
    });
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn full_name(
    source: &RecordBatch,
    rows: usize,
    filled: &mut [Vec<&'static str>],
    before: &[Vec<String>],
) -> ArrayRef {
    let value = |name: &str, row: usize| {
        texts(source, name).filter(|column| !column.is_null(row)).map(|column| column.value(row))
    };
    let names = (0..rows).map(|row| {
        let ours = before[row].iter().any(|name| name == "full_name");
        if let Some(full) = value("full_name", row).filter(|_| !ours) {
            return Some(full.to_owned());
        }
        let parts: Vec<&str> =
            ["first_name", "last_name"].iter().filter_map(|name| value(name, row)).collect();
        if parts.is_empty() {
            return None;
        }
        filled[row].push("full_name");
        Some(parts.join(" "))
    });
    Arc::new(names.collect::<StringArray>())
}

/// The youngest age that a full or partial birth date allows. It is None outside 0 to 130.
fn youngest_age(text: &str, today: NaiveDate) -> Option<i32> {
    let latest = match text.split('-').collect::<Vec<_>>().as_slice() {
        [year] if year.len() == 4 => NaiveDate::from_ymd_opt(year.parse().ok()?, 12, 31),
        [year, month] => {
            let (year, month): (i32, u32) = (year.parse().ok()?, month.parse().ok()?);
            let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            NaiveDate::from_ymd_opt(next_year, next, 1)?.pred_opt()
        }
        _ => text.parse().ok(),
    }?;
    Some(completed_years(latest, today)).filter(|age| (0..=130).contains(age))
}

fn age(source: &RecordBatch, rows: usize, rules: &MergeRules) -> Result<ArrayRef> {
    let today = rules.zone.date(rules.as_of);
    let births = source.column_by_name("date_of_birth");
    let ages: Int32Array = match births.map(|column| (column, column.data_type())) {
        Some((column, DataType::Date32)) => column
            .as_any()
            .downcast_ref::<Date32Array>()
            .into_iter()
            .flatten()
            .map(|days| {
                let birth = NaiveDate::from_ymd_opt(1970, 1, 1)?
                    .checked_add_signed(chrono::Duration::days(i64::from(days?)))?;
                Some(completed_years(birth, today)).filter(|age| (0..=130).contains(age))
            })
            .collect(),
        Some((column, DataType::Utf8)) => column
            .as_string::<i32>()
            .iter()
            .map(|text| text.and_then(|text| youngest_age(text.trim(), today)))
            .collect(),
        _ => (0..rows).map(|_| None::<i32>).collect(),
    };
    Ok(Arc::new(ages))
}

/// Fills null values with the consented contact channel that the customer engages with most.
fn preferred_channel(
    source: &RecordBatch,
    computed: &Computed<'_>,
    rules: &MergeRules,
    filled: &mut [Vec<&'static str>],
    before: &[Vec<String>],
) -> Result<ArrayRef> {
    let raw = texts(source, "preferred_channel");
    let consent = Consent::of(source);
    let mut counts = Vec::new();
    for (channel, feature) in &rules.writeback.preferred_channel {
        let column =
            computed.features.column_by_name(feature).map(|c| c.as_primitive::<Int64Type>());
        counts.extend(column.map(|column| (channel.as_str(), column)));
    }
    let values = (0..computed.keys.len()).map(|row| {
        let ours = before[row].iter().any(|name| name == "preferred_channel");
        if let Some(raw) = raw.filter(|raw| !ours && !raw.is_null(row)) {
            return Some(raw.value(row).to_owned());
        }
        // Among equal counts, the first channel by name is chosen.
        let best = counts
            .iter()
            .filter(|(channel, count)| count.value(row) > 0 && consent.allows(row, channel))
            .min_by_key(|(channel, count)| (-count.value(row), *channel))?;
        filled[row].push("preferred_channel");
        Some(best.0.to_owned())
    });
    Ok(Arc::new(values.collect::<StringArray>()))
}

fn interests(
    source: &RecordBatch,
    computed: &Computed<'_>,
    rules: &MergeRules,
    filled: &mut [Vec<&'static str>],
    before: &[Vec<String>],
) -> ArrayRef {
    let raw = source.column_by_name("interests").and_then(|column| column.as_list_opt::<i32>());
    let mut list = ListBuilder::new(StringBuilder::new());
    for row in 0..computed.keys.len() {
        let ours = before[row].iter().any(|name| name == "interests");
        let own = raw.filter(|raw| !ours && !raw.is_null(row) && raw.value_length(row) > 0);
        let liked = computed.interests.value(row);
        if let Some(own) = own {
            let values = own.value(row);
            for value in values.as_string::<i32>().iter() {
                list.values().append_option(value);
            }
            list.append(true);
        } else if liked.is_empty() {
            list.append(raw.is_some_and(|raw| !ours && !raw.is_null(row)));
        } else {
            filled[row].push("interests");
            let liked = liked.as_string::<i32>().iter().flatten();
            liked.take(rules.writeback.interests).for_each(|t| list.values().append_value(t));
            list.append(true);
        }
    }
    Arc::new(list.finish())
}

/// Computes a field that a feature writes, with the guard against an event log that has lost its beginning.
fn derived(
    name: &str,
    ty: &DataType,
    source: &RecordBatch,
    computed: &Computed<'_>,
    rules: &MergeRules,
    losses: &mut Losses,
) -> Result<ArrayRef> {
    let rows = computed.keys.len();
    let writer = rules.writers.get(name);
    let fresh = writer.and_then(|feature| computed.features.column_by_name(feature));
    let fresh = match fresh {
        Some(column) => arrow_cast::cast(column, ty).map_err(Error::engine("deriving a field"))?,
        None => new_null_array(ty, rows),
    };
    let old = source.column_by_name(name).and_then(|column| arrow_cast::cast(column, ty).ok());
    let Some(old) = old else { return Ok(fresh) };
    if rules.is_past && writer.is_some() {
        return Ok(fresh);
    }
    match rules.writeback.derived {
        DerivedFields::Keep => Ok(old),
        DerivedFields::Recompute if writer.is_none() => Ok(old),
        DerivedFields::Recompute => {
            losses.by_field.extend(loss(name, &old, &fresh).map(|loss| (name.to_owned(), loss)));
            Ok(fresh)
        }
        DerivedFields::FillMissing => {
            let missing =
                arrow_array::BooleanArray::from_iter((0..rows).map(|row| Some(old.is_null(row))));
            let chosen = arrow_select::zip::zip(&missing, &fresh, &old);
            chosen.map_err(Error::engine("deriving a field"))
        }
    }
}

/// Counts the customers whose lifetime counter decreases or whose first time moves later. Returns None for
/// other fields.
fn loss(name: &str, old: &ArrayRef, fresh: &ArrayRef) -> Option<Loss> {
    let number = |array: &ArrayRef, row: usize| -> Option<i128> {
        if array.is_null(row) {
            return None;
        }
        match array.data_type() {
            DataType::Int64 => Some(array.as_primitive::<Int64Type>().value(row).into()),
            DataType::Decimal128(..) => Some(array.as_primitive::<Decimal128Type>().value(row)),
            DataType::Timestamp(..) => {
                // A first time that moves later is a loss. With the opposite sign it decreases as a counter
                // does.
                Some(-i128::from(array.as_primitive::<TimestampMicrosecondType>().value(row)))
            }
            _ => None,
        }
    };
    let is_first = name.starts_with("first_") && name.ends_with("_at");
    let is_counter = matches!(fresh.data_type(), DataType::Int64)
        || matches!(name, "total_revenue" | "refunds_amount");
    if !is_first && !is_counter {
        return None;
    }
    let known: Vec<usize> = (0..old.len()).filter(|row| number(old, *row).is_some()).collect();
    let is_lost = |row: &&usize| {
        number(fresh, **row).unwrap_or(i128::MIN) < number(old, **row).unwrap_or(i128::MIN)
    };
    let lost = known.iter().filter(is_lost).count() as u64;
    Some(Loss { known: known.len() as u64, lost })
}

/// Sets `updated_at` to the as-of of the last run that changed a field, but never earlier than the value of
/// the source. Changes of the age and of the recommendation vector do not count, and neither do changes of a
/// score by less than 0.01.
fn updated_at(
    merged: RecordBatch,
    source: &RecordBatch,
    as_of: Instant,
    current: Option<&RecordBatch>,
) -> Result<RecordBatch> {
    let failed = "comparing with the current profile";
    let rows = merged.num_rows();
    let mut changed = vec![true; rows];
    let mut stamps: Vec<Option<i64>> = vec![None; rows];
    if let Some(current) = current {
        let current = align(current, crate::sources::profile::keys(&merged)?)?;
        let known = crate::sources::profile::keys(&current)?.clone();
        if let Some(old) = current
            .column_by_name("updated_at")
            .and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>())
        {
            stamps = old.iter().collect();
        }
        changed = (0..rows).map(|row| known.is_null(row)).collect();
        for (field, array) in merged.schema().fields().iter().zip(merged.columns()) {
            let name = field.name().as_str();
            if matches!(name, "updated_at" | "age" | "recommendation_vector" | FILLED) {
                continue;
            }
            let Some(old) =
                current.column_by_name(name).filter(|old| old.data_type() == array.data_type())
            else {
                changed.iter_mut().for_each(|changed| *changed = true);
                continue;
            };
            let tolerance = match name {
                "churn_risk_score" | "propensity_to_buy_score" => 10_000,
                "engagement_score" => 1,
                _ => 0,
            };
            differ(array, old, tolerance, &mut changed);
        }
    }
    let own = source
        .column_by_name("updated_at")
        .and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let values = (0..rows).map(|row| {
        let ours = if changed[row] { Some(as_of.0) } else { stamps[row].or(Some(as_of.0)) };
        let theirs = own.filter(|own| !own.is_null(row)).map(|own| own.value(row));
        ours.max(theirs)
    });
    let stamps: ArrayRef =
        Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"));
    let index = merged.schema().index_of("updated_at").map_err(Error::engine(failed))?;
    let mut columns = merged.columns().to_vec();
    columns[index] = stamps;
    RecordBatch::try_new(merged.schema(), columns).map_err(Error::engine(failed))
}

/// Marks the rows whose values differ. Decimals differ if they differ by at least `tolerance` units.
fn differ(new: &ArrayRef, old: &ArrayRef, tolerance: i128, changed: &mut [bool]) {
    let same = equals(new, old);
    for (row, changed) in changed.iter_mut().enumerate().filter(|(_, changed)| !**changed) {
        *changed = match (new.is_null(row), old.is_null(row)) {
            (true, true) => false,
            (false, false) if tolerance > 0 => {
                let value = |array: &ArrayRef| array.as_primitive::<Decimal128Type>().value(row);
                (value(new) - value(old)).abs() >= tolerance
            }
            (false, false) => !same(row),
            _ => true,
        };
    }
}

/// Returns a function that compares the non-null values of a row in two columns of one type.
fn equals<'a>(new: &'a ArrayRef, old: &'a ArrayRef) -> Box<dyn Fn(usize) -> bool + 'a> {
    fn primitives<'a, T: ArrowPrimitiveType>(
        new: &'a ArrayRef,
        old: &'a ArrayRef,
    ) -> Box<dyn Fn(usize) -> bool + 'a> {
        let (new, old) = (new.as_primitive::<T>().values(), old.as_primitive::<T>().values());
        Box::new(move |row| new[row] == old[row])
    }
    match new.data_type() {
        DataType::Utf8 => {
            let (new, old) = (new.as_string::<i32>(), old.as_string::<i32>());
            Box::new(move |row| new.value(row) == old.value(row))
        }
        DataType::Int64 => primitives::<Int64Type>(new, old),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            primitives::<TimestampMicrosecondType>(new, old)
        }
        DataType::Decimal128(..) => primitives::<Decimal128Type>(new, old),
        // Lists, maps and all other types of the source are compared by their data.
        _ => Box::new(|row| new.slice(row, 1).to_data() == old.slice(row, 1).to_data()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_birth_date_gives_the_youngest_age() {
        let today = "2024-07-01".parse().unwrap();
        assert_eq!(youngest_age("2000-07-01", today), Some(24));
        assert_eq!(youngest_age("2000-07", today), Some(23));
        assert_eq!(youngest_age("2000", today), Some(23));
        assert_eq!(youngest_age("1850", today), None);
        assert_eq!(youngest_age("2030-01-01", today), None);
        assert_eq!(youngest_age("soon", today), None);
    }
}

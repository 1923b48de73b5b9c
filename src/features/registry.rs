//! The registry: a record of each snapshot in the store.
//!
//! A record contains the versions and inputs from which the snapshot was computed, and statistics of the
//! values of every column.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::catalog::{Catalog, Feature};
use super::plan::AsOf;
use crate::error::Result;
use crate::store::{Root, Store};
use crate::sum::ExactSum;
use crate::time::Instant;

/// The folder of the store that contains the records.
pub const FOLDER: &str = "registry";

/// The inputs from which a snapshot of a view was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// A hash of the event files that may have events visible at the as-of.
    pub events: String,
    /// A hash of the customers that the profile contained before the as-of.
    pub profile: String,
}

/// The record of a snapshot of a view in the offline store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    /// The format version of the record.
    pub format_version: u32,
    /// The name of the view.
    pub view: String,
    /// The as-of of the snapshot with its known-at.
    pub as_of: AsOf,
    /// A hash of the versions of all columns.
    pub definition: String,
    /// The inputs from which it was computed.
    pub inputs: Inputs,
    /// The number of rows, one per customer.
    pub rows: u64,
    /// The statistics of each column.
    pub columns: BTreeMap<String, Column>,
}

/// The version and statistics of a column of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The version of the feature.
    pub version: String,
    /// The share of rows without a value.
    pub null_share: f64,
    /// The minimum value. Money is in major units.
    pub min: Value,
    /// The maximum value. Money is in major units.
    pub max: Value,
    /// The mean, if the column is numeric and has a value.
    pub mean: Option<f64>,
    /// The number of distinct values. It is exact up to ten thousand, and estimated to about one percent
    /// above.
    pub distinct: u64,
}

/// A hash of the versions of a view's columns.
pub fn definition(catalog: &Catalog, view: &str) -> String {
    let versions: Vec<String> = catalog
        .of_view(view)
        .map(|feature| format!("{} {}", feature.column(), feature.version))
        .collect();
    format!("{:016x}", xxh3_64(versions.join("\n").as_bytes()))
}

/// The path of the record of a snapshot in the store.
pub fn path(view: &str, at: Instant) -> String {
    format!("{FOLDER}/{view}/as_of={}/record.json", at.folder())
}

/// The records of a view in the order of their as-ofs.
pub fn snapshots(store: &Store, root: &Root, view: &str) -> Result<Vec<SnapshotRecord>> {
    let folder = format!("{FOLDER}/{view}");
    let names = store.below(root, &folder)?;
    let records = names.iter().map(|name| store.read_json(root, name));
    let mut list: Vec<SnapshotRecord> = records.collect::<Result<_>>()?;
    list.sort_by_key(|snapshot| snapshot.as_of);
    Ok(list)
}

impl SnapshotRecord {
    /// The features of the catalog whose values in the snapshot are missing or were computed by another
    /// version.
    pub fn outdated<'a>(&'a self, catalog: &'a Catalog) -> impl Iterator<Item = &'a Feature> {
        catalog.of_view(&self.view).filter(|feature| {
            let column = self.columns.get(feature.column());
            column.is_none_or(|column| column.version != feature.version)
        })
    }
}

/// The number of distinct values up to which they are counted exactly.
const COUNTED: usize = 10_000;
/// The number of bits of the bitmap that estimates larger numbers of distinct values.
const BITS: usize = 1 << 20;

/// Computes the statistics of a column from any number of batches and shards, in any order.
#[derive(Debug, Default)]
pub struct Summary {
    rows: u64,
    nulls: u64,
    sum: ExactSum,
    numeric: bool,
    min: Option<Bound>,
    max: Option<Bound>,
    /// The latest value that was counted, because columns have long runs of equal values.
    last: Option<u64>,
    counted: HashSet<u64>,
    estimated: Vec<u64>,
}

/// A minimum or maximum value.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Bound {
    Number(f64),
    Text(String),
    Time(i64),
    Day(i32),
}

impl Bound {
    fn json(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
            Self::Time(time) => json!(Instant(*time)),
            Self::Day(day) => {
                let date = chrono::DateTime::from_timestamp(i64::from(*day) * 86_400, 0);
                json!(date.map(|date| date.date_naive().to_string()))
            }
        }
    }
}

impl Summary {
    /// Adds the values of a batch.
    pub fn add(&mut self, array: &ArrayRef) {
        self.rows += array.len() as u64;
        self.nulls += array.null_count() as u64;
        match array.data_type() {
            DataType::Int64 => {
                let values = array.as_primitive::<Int64Type>().iter().flatten();
                self.numbers(values.map(|v| (v as f64, v as u64)));
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().iter().flatten();
                self.numbers(values.map(|v| (v, v.to_bits())));
            }
            DataType::Decimal128(_, scale) => {
                let units = 10_f64.powi(i32::from(*scale));
                let values = array.as_primitive::<Decimal128Type>().iter().flatten();
                self.numbers(values.map(|v| (v as f64 / units, v as u64)));
            }
            DataType::Boolean => {
                let values = array.as_boolean().iter().flatten();
                self.numbers(values.map(|v| (f64::from(u8::from(v)), v.into())));
            }
            DataType::Utf8 => {
                for text in array.as_string::<i32>().iter().flatten() {
                    self.distinct(xxh3_64(text.as_bytes()));
                    let is_less = |bound: &Option<Bound>, less: bool| match bound {
                        Some(Bound::Text(known)) => {
                            (text < known.as_str()) == less && text != known
                        }
                        _ => true,
                    };
                    if is_less(&self.min, true) {
                        self.min = Some(Bound::Text(text.to_owned()));
                    }
                    if is_less(&self.max, false) {
                        self.max = Some(Bound::Text(text.to_owned()));
                    }
                }
            }
            DataType::Timestamp(..) => {
                let values = array.as_primitive::<TimestampMicrosecondType>();
                self.ordered(values.iter().flatten().map(|v| (Bound::Time(v), v as u64)));
            }
            DataType::Date32 => {
                let values = array.as_primitive::<Date32Type>();
                self.ordered(values.iter().flatten().map(|v| (Bound::Day(v), v as u64)));
            }
            _ => {}
        }
    }

    fn numbers(&mut self, values: impl Iterator<Item = (f64, u64)>) {
        self.numeric = true;
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for (value, bits) in values {
            self.sum.add(value);
            (min, max) = (min.min(value), max.max(value));
            if self.last != Some(bits) {
                self.last = Some(bits);
                self.distinct(xxh3_64(&bits.to_le_bytes()));
            }
        }
        if min <= max {
            self.bound(Bound::Number(min));
            self.bound(Bound::Number(max));
        }
    }

    fn ordered(&mut self, values: impl Iterator<Item = (Bound, u64)>) {
        for (value, bits) in values {
            self.distinct(xxh3_64(&bits.to_le_bytes()));
            self.bound(value);
        }
    }

    fn bound(&mut self, value: Bound) {
        if self.min.as_ref().is_none_or(|min| value < *min) {
            self.min = Some(value.clone());
        }
        if self.max.as_ref().is_none_or(|max| value > *max) {
            self.max = Some(value);
        }
    }

    /// Adds the statistics of other rows.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.nulls += other.nulls;
        self.sum.merge(&other.sum);
        self.numeric |= other.numeric;
        other.min.into_iter().chain(other.max).for_each(|bound| self.bound(bound));
        if other.estimated.is_empty() {
            other.counted.into_iter().for_each(|hash| self.distinct(hash));
            return;
        }
        self.estimate();
        self.estimated.iter_mut().zip(other.estimated).for_each(|(own, more)| *own |= more);
    }

    /// Switches from exact counting to estimation of the number of distinct values.
    fn estimate(&mut self) {
        if self.estimated.is_empty() {
            self.estimated = vec![0; BITS / 64];
            for hash in std::mem::take(&mut self.counted) {
                self.mark(hash);
            }
        }
    }

    fn distinct(&mut self, hash: u64) {
        if !self.estimated.is_empty() {
            self.mark(hash);
        } else if self.counted.insert(hash) && self.counted.len() > COUNTED {
            self.estimate();
        }
    }

    fn mark(&mut self, hash: u64) {
        let bit = hash as usize % BITS;
        self.estimated[bit / 64] |= 1 << (bit % 64);
    }

    /// The statistics as the record of a column with this version.
    pub fn column(&self, version: &str) -> Column {
        let values = self.rows - self.nulls;
        let zeros: u64 = self.estimated.iter().map(|word| u64::from(word.count_zeros())).sum();
        // Linear counting (Whang, Vander-Zanden and Taylor 1990): n = -m ln(share of zero bits).
        let estimate = -(BITS as f64) * (zeros.max(1) as f64 / BITS as f64).ln();
        let distinct = match self.estimated.is_empty() {
            true => self.counted.len() as u64,
            false => estimate.round().min(values as f64) as u64,
        };
        let share = |count: u64| if self.rows == 0 { 0.0 } else { count as f64 / self.rows as f64 };
        Column {
            version: version.to_owned(),
            null_share: share(self.nulls),
            min: self.min.as_ref().map_or(Value::Null, Bound::json),
            max: self.max.as_ref().map_or(Value::Null, Bound::json),
            mean: (self.numeric && values > 0).then(|| self.sum.value() / values as f64),
            distinct,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    fn column(arrays: &[ArrayRef]) -> Column {
        let mut summary = Summary::default();
        arrays.iter().for_each(|array| summary.add(array));
        summary.column("v")
    }

    #[test]
    fn a_column_is_summed_up_over_batches() {
        let found = column(&[
            Arc::new(Float64Array::from(vec![Some(2.0), None, Some(-1.0)])),
            Arc::new(Float64Array::from(vec![Some(2.0)])),
        ]);
        assert_eq!((found.null_share, found.mean, found.distinct), (0.25, Some(1.0), 2));
        assert_eq!((found.min, found.max), (json!(-1.0), json!(2.0)));
        let found = column(&[Arc::new(StringArray::from(vec![Some("b"), Some("a"), None]))]);
        assert_eq!((found.min, found.max, found.mean), (json!("a"), json!("b"), None));
        let times = TimestampMicrosecondArray::from(vec![1, 0]).with_timezone("UTC");
        let found = column(&[Arc::new(times)]);
        assert_eq!((found.min, found.distinct), (json!("1970-01-01T00:00:00Z"), 2));
        let found = column(&[Arc::new(Int64Array::from(vec![None::<i64>; 3]))]);
        assert_eq!((found.null_share, found.min, found.mean), (1.0, Value::Null, None));
        assert_eq!(column(&[]).null_share, 0.0);
    }

    #[test]
    fn rows_may_be_split_in_any_way() {
        for count in [100_i64, 30_000] {
            let value = |i: i64| (i % 7 != 0).then_some(i as f64 * 0.1 % 1_500.0);
            let values: Float64Array = (0..count).map(value).collect();
            let whole: ArrayRef = Arc::new(values);
            let expected = column(std::slice::from_ref(&whole));
            for parts in [2, 7, 64] {
                let mut merged = Summary::default();
                for part in 0..parts {
                    let (from, to) = (part * count / parts, (part + 1) * count / parts);
                    let mut own = Summary::default();
                    own.add(&whole.slice(from as usize, (to - from) as usize));
                    merged.merge(own);
                }
                assert_eq!(merged.column("v"), expected);
            }
        }
    }

    #[test]
    fn distinct_values_are_counted_and_then_estimated() {
        for count in [10_000_i64, 10_001, 300_000] {
            let twice = (0..count).chain(0..count).collect::<Int64Array>();
            let found = column(&[Arc::new(twice)]).distinct;
            let tolerance = if count > 10_000 { 0.01 * count as f64 } else { 0.0 };
            assert!((found as f64 - count as f64).abs() <= tolerance, "{found} of {count}");
        }
    }
}

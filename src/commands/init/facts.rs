//! What the rows of a proposed mapping are like.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;

use super::mapping::Mapping;
use crate::error::Result;
use crate::sources::SourceContext;
use crate::sources::files::RawTable;
use crate::sources::look::look;

/// What the events of a mapping are like.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The times of the first and the last event, in microseconds since 1970.
    pub span: Option<(i64, i64)>,
    /// The number of rows.
    pub rows: usize,
    /// The times of the main event of each customer, in microseconds, sorted.
    pub times: Vec<Vec<i64>>,
    /// The number of customers.
    pub customers: usize,
    /// The share of main events with an item that the customer has had before.
    pub repeated: f64,
    /// The most frequent currency; `None` if there is no column of currencies.
    pub currency: Option<String>,
    /// The number of rows in another currency.
    pub other_currencies: usize,
    /// The number of rows without a customer or a time.
    pub unusable: usize,
}

impl Facts {
    /// Reads the keys and times of all events, and the customers' times of the events that `main`, a condition over raw
    /// columns, holds for.
    pub fn of(
        table: &RawTable,
        context: &SourceContext,
        mapping: &Mapping,
        main: &str,
    ) -> Result<Self> {
        let sql = |column: &str| mapping.sql(column).unwrap_or("null").to_owned();
        let currency = format!("cast({} as varchar)", sql("currency"));
        let item = format!("cast({} as varchar)", mapping.item().map_or("null".to_owned(), &sql));
        let expressions = [sql("customer360_id"), sql("event_ts"), main.to_owned(), currency, item];
        let expressions: Vec<&str> = expressions.iter().map(String::as_str).collect();
        let mut facts = Self::default();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut currencies: BTreeMap<String, usize> = BTreeMap::new();
        let (mut pairs, mut with_item): (HashSet<(usize, u64)>, usize) = (HashSet::new(), 0);
        facts.rows = look(table, context, ("--events", &expressions), usize::MAX, |arrays| {
            let keys = arrays[0].as_string::<i32>();
            let times = arrays[1].as_primitive::<TimestampMicrosecondType>();
            let is_main = arrays[2].as_boolean();
            let currency = arrays[3].as_string::<i32>();
            let items = arrays[4].as_string::<i32>();
            for row in 0..keys.len() {
                if keys.is_null(row) || times.is_null(row) {
                    facts.unusable += 1;
                    continue;
                }
                let (key, at) = (keys.value(row), times.value(row));
                facts.span = Some(facts.span.map_or((at, at), |(a, b)| (a.min(at), b.max(at))));
                let next = places.len();
                let place = match places.get(key) {
                    Some(place) => *place,
                    None => {
                        places.insert(key.to_owned(), next);
                        facts.times.push(Vec::new());
                        next
                    }
                };
                if is_main.is_valid(row) && is_main.value(row) {
                    facts.times[place].push(at);
                    if items.is_valid(row) {
                        with_item += 1;
                        let item = xxhash_rust::xxh3::xxh3_64(items.value(row).as_bytes());
                        pairs.insert((place, item));
                    }
                }
                if currency.is_valid(row) {
                    match currencies.get_mut(currency.value(row)) {
                        Some(count) => *count += 1,
                        None => {
                            currencies.insert(currency.value(row).to_owned(), 1);
                        }
                    }
                }
            }
            Ok(())
        })?;
        facts.customers = places.len();
        facts.repeated = 1.0 - pairs.len() as f64 / with_item.max(1) as f64;
        facts.times.iter_mut().for_each(|times| times.sort_unstable());
        let all: usize = currencies.values().sum();
        if let Some((currency, rows)) = currencies.into_iter().max_by_key(|(_, rows)| *rows) {
            facts.other_currencies = all - rows;
            facts.currency = Some(currency);
        }
        Ok(facts)
    }
}

/// The keys that more than one row of a table has, as the number of rows that repeat one.
pub fn repeated(table: &RawTable, context: &SourceContext, key: &str) -> Result<usize> {
    let mut seen: HashSet<u64> = HashSet::new();
    let mut valid = 0;
    look(table, context, ("--profile", &[key]), usize::MAX, |arrays| {
        for key in arrays[0].as_string::<i32>().iter().flatten() {
            valid += 1;
            seen.insert(xxhash_rust::xxh3::xxh3_64(key.as_bytes()));
        }
        Ok(())
    })?;
    Ok(valid - seen.len())
}

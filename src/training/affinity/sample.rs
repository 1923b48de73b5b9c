//! Interactions of a fixed sample of customers, collected in the pass over the events.

use std::collections::HashMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;

use crate::error::Result;
use crate::shard;
use crate::sources::profile::keys;

/// The maximum number of customers in a sample. Those with the smallest hashes of their keys are kept.
const CUSTOMERS: usize = 100_000;

/// Item names with integer codes, which are given in the order of first occurrence.
#[derive(Debug, Default)]
pub struct Items {
    names: Vec<String>,
    codes: HashMap<String, u32>,
}

impl Items {
    fn code(&mut self, name: &str) -> u32 {
        if let Some(code) = self.codes.get(name) {
            return *code;
        }
        let code = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.codes.insert(name.to_owned(), code);
        code
    }

    /// The name of an item.
    pub fn name(&self, code: u32) -> &str {
        &self.names[code as usize]
    }

    /// The number of items.
    pub fn count(&self) -> usize {
        self.names.len()
    }
}

/// One customer's items with their weights.
pub type Row = Vec<(u32, f64)>;

/// Customers with their interactions. After [`Sample::sort`] they are ordered by the hash of their keys.
#[derive(Debug, Default)]
pub struct Sample {
    /// The hash of each customer's key, and the items with their weights.
    pub customers: Vec<(u64, Row)>,
}

impl Sample {
    /// Adds rows of customer, item and weight. The rows must be sorted by customer.
    pub fn take(&mut self, rows: &RecordBatch, items: &mut Items) -> Result<()> {
        let (names, weights) =
            (rows.column(1).as_string::<i32>(), rows.column(2).as_primitive::<Float64Type>());
        let mut last: Option<&str> = None;
        for (i, key) in keys(rows)?.iter().flatten().enumerate() {
            if last != Some(key) {
                self.customers.push((shard::hash(key), Vec::new()));
                last = Some(key);
            }
            let item = (items.code(names.value(i)), weights.value(i));
            if let Some((_, row)) = self.customers.last_mut() {
                row.push(item);
            }
        }
        if self.customers.len() > 2 * CUSTOMERS {
            self.sort();
        }
        Ok(())
    }

    /// Adds the customers of another sample. `codes` maps the item codes of that sample to those of this
    /// one.
    fn add(&mut self, other: Self, codes: &[u32]) {
        for (hash, mut row) in other.customers {
            row.iter_mut().for_each(|(item, _)| *item = codes[*item as usize]);
            self.customers.push((hash, row));
        }
        if self.customers.len() > 2 * CUSTOMERS {
            self.sort();
        }
    }

    /// Sorts the customers and keeps those with the smallest hashes.
    pub fn sort(&mut self) {
        self.customers.sort_unstable_by_key(|(hash, _)| *hash);
        self.customers.truncate(CUSTOMERS);
    }

    /// Finds the interactions of a customer by the hash of the key; `None` if there are none.
    pub fn find(&self, hash: u64) -> Option<&Row> {
        let found = self.customers.binary_search_by_key(&hash, |(other, _)| *other).ok()?;
        Some(&self.customers[found].1)
    }
}

/// The interactions that an affinity model is trained and tested on.
#[derive(Debug, Default)]
pub struct InteractionData {
    /// The items of all samples below.
    pub items: Items,
    /// Interactions up to the as-of.
    pub now: Sample,
    /// Interactions up to each of the instants of [`super::Windows::past`].
    pub past: Vec<Sample>,
    /// Interactions to predict: those within one horizon after each of these instants.
    pub later: Vec<Sample>,
    /// Interactions within `new_after` before the last instant. Their items are not new to the
    /// customer.
    pub recent: Sample,
}

impl InteractionData {
    /// Adds the customers of another shard.
    pub fn add(&mut self, other: Self) {
        let codes: Vec<u32> = other.items.names.iter().map(|name| self.items.code(name)).collect();
        self.now.add(other.now, &codes);
        self.recent.add(other.recent, &codes);
        for (own, more) in [(&mut self.past, other.past), (&mut self.later, other.later)] {
            own.resize_with(own.len().max(more.len()), Sample::default);
            own.iter_mut().zip(more).for_each(|(own, more)| own.add(more, &codes));
        }
    }

    /// Sorts all samples.
    pub fn sort(&mut self) {
        self.now.sort();
        self.past.iter_mut().chain(&mut self.later).for_each(Sample::sort);
        self.recent.sort();
    }
}

//! Interactions of a fixed sample of customers, as the pass over the events gives them.

use std::collections::HashMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;

use crate::error::Result;
use crate::shard;
use crate::sources::profile::keys;

/// Customers of a sample at most: those with the least hashes of their keys.
const CUSTOMERS: usize = 100_000;

/// Codes of items in the order in which they were met.
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

    /// All of them.
    pub fn count(&self) -> usize {
        self.names.len()
    }
}

/// Items with their weights.
pub type Row = Vec<(u32, f64)>;

/// Customers' interactions, after [`Sample::sort`] in the order of the hashes of their keys.
#[derive(Debug, Default)]
pub struct Sample {
    /// The hash of the key, and items with their weights.
    pub customers: Vec<(u64, Row)>,
}

impl Sample {
    /// Adds rows of customer, item and weight, sorted by customer.
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

    /// Adds the customers of another sample, whose items have these codes here.
    fn add(&mut self, other: Self, codes: &[u32]) {
        for (hash, mut row) in other.customers {
            row.iter_mut().for_each(|(item, _)| *item = codes[*item as usize]);
            self.customers.push((hash, row));
        }
        if self.customers.len() > 2 * CUSTOMERS {
            self.sort();
        }
    }

    /// Sorts, and leaves those with the least hashes.
    pub fn sort(&mut self) {
        self.customers.sort_unstable_by_key(|(hash, _)| *hash);
        self.customers.truncate(CUSTOMERS);
    }

    /// The interactions of a customer; None where there are none.
    pub fn find(&self, hash: u64) -> Option<&Row> {
        let found = self.customers.binary_search_by_key(&hash, |(other, _)| *other).ok()?;
        Some(&self.customers[found].1)
    }
}

/// What training reads of interactions.
#[derive(Debug, Default)]
pub struct InteractionData {
    /// Of all that follow.
    pub items: Items,
    /// At the as-of.
    pub now: Sample,
    /// At the instants of [`super::Windows`].
    pub past: [Sample; 2],
    /// What followed them, within the evaluation's horizon.
    pub later: [Sample; 2],
    /// What was lately done at the second of them.
    pub recent: Sample,
}

impl InteractionData {
    /// Adds the customers of another shard.
    pub fn add(&mut self, other: Self) {
        let codes: Vec<u32> = other.items.names.iter().map(|name| self.items.code(name)).collect();
        self.now.add(other.now, &codes);
        self.recent.add(other.recent, &codes);
        self.past.iter_mut().zip(other.past).for_each(|(own, more)| own.add(more, &codes));
        self.later.iter_mut().zip(other.later).for_each(|(own, more)| own.add(more, &codes));
    }

    /// Sorts all samples.
    pub fn sort(&mut self) {
        self.now.sort();
        self.past.iter_mut().chain(&mut self.later).for_each(Sample::sort);
        self.recent.sort();
    }
}

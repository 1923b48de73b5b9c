//! One pass over a partition: sort, deduplicate, cut by visibility, aggregate, give rows out.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema};
use xxhash_rust::xxh3::xxh3_64;

use super::aggregate::{Context, Events, Scratch, Values, aggregate, decay};
use super::interner::Interner;
use super::layout::{CompiledPlan, ItemStream, Layout};
use super::partition::{Chunk, Partition};
use crate::error::{Error, Result};
use crate::expression::Type;
use crate::expression::polars::arrow_type;
use crate::features::plan::AsOf;
use crate::money::Scale;
use crate::time::Zone;

/// The rows of one partition: for each plan and as-of a record batch sorted by key, and how many
/// events repeated another.
pub struct Swept {
    /// By plan, then by as-of.
    pub rows: Vec<Vec<RecordBatch>>,
    /// Duplicate events left out.
    pub duplicates: u64,
}

/// Computes all plans of `layout` over one partition.
pub fn sweep(mut partition: Partition, layout: &Layout, zone: Zone, scale: Scale) -> Result<Swept> {
    let chunk = partition.take(layout.inputs.len())?;
    let (starts, order) = by_customer(&chunk, partition.customers.len());
    let mut customers: Vec<u32> = (0..partition.customers.len() as u32).collect();
    customers.sort_unstable_by(|a, b| partition.customers.get(*a).cmp(partition.customers.get(*b)));

    let mut sweeper = Sweeper::new(&partition, &chunk, layout, Context { zone, scale });
    for customer in customers {
        let rows =
            &order[starts[customer as usize] as usize..starts[customer as usize + 1] as usize];
        sweeper.customer(customer, rows)?;
    }
    sweeper.finish()
}

/// Row numbers grouped by customer: the rows of customer c are `order[starts[c]..starts[c + 1]]`.
fn by_customer(chunk: &Chunk, customers: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0_u32; customers + 1];
    for customer in &chunk.customers {
        starts[*customer as usize + 1] += 1;
    }
    for i in 0..customers {
        starts[i + 1] += starts[i];
    }
    let mut next = starts.clone();
    let mut order = vec![0_u32; chunk.customers.len()];
    for (row, customer) in chunk.customers.iter().enumerate() {
        let slot = &mut next[*customer as usize];
        order[*slot as usize] = row as u32;
        *slot += 1;
    }
    (starts, order)
}

/// Items of one as-of: customer code, item bits, weight.
type Items = Vec<(u32, u64, f64)>;

struct Sweeper<'a> {
    partition: &'a Partition,
    chunk: &'a Chunk,
    layout: &'a Layout,
    context: Context,
    scratch: Scratch,
    /// By plan, as-of: the customers with a row.
    rows: Vec<Vec<Vec<u32>>>,
    /// By plan, as-of, column.
    values: Vec<Vec<Vec<Values>>>,
    /// By plan, as-of.
    items: Vec<Vec<Items>>,
    duplicates: u64,
    sorted: Vec<u32>,
    times: Vec<i64>,
    flags: Vec<u64>,
    hashes: Vec<(u64, u32)>,
}

impl<'a> Sweeper<'a> {
    fn new(
        partition: &'a Partition,
        chunk: &'a Chunk,
        layout: &'a Layout,
        context: Context,
    ) -> Self {
        let as_ofs = |plan: &CompiledPlan| plan.plan.as_ofs.len();
        let columns = |plan: &CompiledPlan| vec![Values::default(); plan.plan.aggregations.len()];
        Self {
            partition,
            chunk,
            layout,
            context,
            scratch: Scratch::default(),
            rows: layout.plans.iter().map(|plan| vec![Vec::new(); as_ofs(plan)]).collect(),
            values: layout.plans.iter().map(|plan| vec![columns(plan); as_ofs(plan)]).collect(),
            items: layout.plans.iter().map(|plan| vec![Vec::new(); as_ofs(plan)]).collect(),
            duplicates: 0,
            sorted: Vec::new(),
            times: Vec::new(),
            flags: Vec::new(),
            hashes: Vec::new(),
        }
    }

    fn customer(&mut self, customer: u32, rows: &[u32]) -> Result<()> {
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.clear();
        sorted.extend_from_slice(rows);
        if !sorted.windows(2).all(|pair| self.time(pair[0]) < self.time(pair[1])) {
            sorted.sort_unstable_by(|a, b| self.order(*a, *b));
        }
        let copies = self.drop_dominated(&mut sorted);
        let layout = self.layout;
        for (index, plan) in layout.plans.iter().enumerate() {
            // As-ofs at which every event that had happened was known are swept together.
            let apart: Vec<bool> = plan
                .plan
                .as_ofs
                .iter()
                .map(|as_of| copies || self.has_late(&sorted, *as_of))
                .collect();
            let together: Vec<bool> = apart.iter().map(|apart| !apart).collect();
            if together.contains(&true) {
                self.evaluate(index, plan, customer, &sorted, &together)?;
            }
            for (i, as_of) in plan.plan.as_ofs.iter().enumerate().filter(|(i, _)| apart[*i]) {
                let visible = self.visible(&sorted, *as_of, copies);
                let mut alone = vec![false; apart.len()];
                alone[i] = true;
                self.evaluate(index, plan, customer, &visible, &alone)?;
            }
        }
        self.sorted = sorted;
        Ok(())
    }

    fn time(&self, row: u32) -> i64 {
        self.chunk.times[row as usize]
    }

    fn ingested(&self, row: u32) -> i64 {
        self.chunk.ingested.get(row as usize).copied().unwrap_or(i64::MIN)
    }

    /// (event_ts, event_id), then content, so that no position in a file ever decides.
    fn order(&self, a: u32, b: u32) -> Ordering {
        let id = |row: u32| self.chunk.id(row as usize);
        self.time(a).cmp(&self.time(b)).then_with(|| id(a).cmp(id(b))).then_with(|| self.wins(a, b))
    }

    /// Which of two copies of an event is the one to keep: least ingested_at, then event_ts, then
    /// the values themselves.
    fn wins(&self, a: u32, b: u32) -> Ordering {
        let key = |row: u32| (self.ingested(row), self.time(row));
        key(a).cmp(&key(b)).then_with(|| self.content(a).cmp(&self.content(b)))
    }

    fn content(&self, row: u32) -> Vec<(bool, Vec<u8>)> {
        let words = self.layout.words();
        let flags = &self.chunk.flags[row as usize * words..(row as usize + 1) * words];
        let set = |bit: usize| flags[bit / 64] & (1 << (bit % 64)) != 0;
        let conditions = (0..self.layout.conditions.len()).map(|i| (set(i), Vec::new()));
        let inputs = self.layout.inputs.iter().enumerate().map(|(i, input)| {
            let bits = self.chunk.inputs[i][row as usize];
            let bytes = match input.ty {
                Type::Text => self.partition.texts.get_or_empty(bits).to_vec(),
                _ => bits.to_be_bytes().to_vec(),
            };
            (set(self.layout.valid_bit(i)), bytes)
        });
        conditions.chain(inputs).collect()
    }

    /// Removes copies that can never be the visible one: another copy of the same event was both
    /// ingested first and happened no later. True where copies are left.
    fn drop_dominated(&mut self, sorted: &mut Vec<u32>) -> bool {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        hashes.extend(sorted.iter().map(|row| (xxh3_64(self.chunk.id(*row as usize)), *row)));
        hashes.sort_unstable();
        let (mut dropped, mut left) = (Vec::new(), false);
        for group in hashes.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let mut copies: Vec<u32> = group.iter().map(|(_, row)| *row).collect();
            // Two ids of one hash stand apart once sorted by their bytes.
            let id = |row: &u32| self.chunk.id(*row as usize);
            copies.sort_unstable_by(|a, b| id(a).cmp(id(b)).then_with(|| self.wins(*a, *b)));
            for same in copies.chunk_by(|a, b| id(a) == id(b)) {
                let mut earliest = i64::MAX;
                for (rank, row) in same.iter().enumerate() {
                    if rank > 0 && earliest <= self.time(*row) {
                        dropped.push(*row);
                    } else {
                        left |= rank > 0;
                        earliest = self.time(*row);
                    }
                }
            }
        }
        self.hashes = hashes;
        if !dropped.is_empty() {
            self.duplicates += dropped.len() as u64;
            sorted.retain(|row| !dropped.contains(row));
        }
        left
    }

    /// Whether some event had happened but was not yet known at an as-of.
    fn has_late(&self, sorted: &[u32], as_of: AsOf) -> bool {
        self.layout.ingestion
            && sorted
                .iter()
                .any(|row| self.time(*row) < as_of.at.0 && self.ingested(*row) >= as_of.known_at.0)
    }

    /// The events visible at one as-of, each once.
    fn visible(&self, sorted: &[u32], as_of: AsOf, copies: bool) -> Vec<u32> {
        let seen = |row: &u32| {
            self.time(*row) < as_of.at.0
                && (!self.layout.ingestion || self.ingested(*row) < as_of.known_at.0)
        };
        let visible: Vec<u32> = sorted.iter().copied().filter(seen).collect();
        if !copies {
            return visible;
        }
        let mut winners: std::collections::HashMap<&[u8], u32> = std::collections::HashMap::new();
        for row in &visible {
            let winner = winners.entry(self.chunk.id(*row as usize)).or_insert(*row);
            if self.wins(*row, *winner).is_lt() {
                *winner = *row;
            }
        }
        visible.into_iter().filter(|row| winners[self.chunk.id(*row as usize)] == *row).collect()
    }

    fn evaluate(
        &mut self,
        index: usize,
        plan: &CompiledPlan,
        customer: u32,
        rows: &[u32],
        wanted: &[bool],
    ) -> Result<()> {
        let words = self.layout.words();
        self.times.clear();
        self.flags.clear();
        for row in rows {
            self.times.push(self.chunk.times[*row as usize]);
            let start = *row as usize * words;
            self.flags.extend_from_slice(&self.chunk.flags[start..start + words]);
        }
        let profile = self.partition.profile[customer as usize];
        let first = self.times.first().copied();
        let included: Vec<bool> = (0..plan.plan.as_ofs.len())
            .map(|as_of| {
                let at = plan.plan.as_ofs[as_of].at;
                let created = profile.is_some_and(|created| created.is_none_or(|c| c < at));
                wanted[as_of] && (created || first.is_some_and(|time| time < at.0))
            })
            .collect();
        for as_of in (0..wanted.len()).filter(|as_of| included[*as_of]) {
            self.rows[index][as_of].push(customer);
        }
        let events = Events {
            times: &self.times,
            flags: &self.flags,
            words,
            rows,
            inputs: &self.chunk.inputs,
        };
        if let Some(items) = &plan.items {
            for as_of in (0..wanted.len()).filter(|as_of| wanted[*as_of]) {
                self.collect_items(index, as_of, customer, plan.plan.as_ofs[as_of], items, rows);
            }
            return Ok(());
        }
        let outputs = &mut self.values[index];
        let context = self.context;
        aggregate(plan, &events, &included, &mut self.scratch, context, outputs).map_err(
            |overflow| {
                let key = self.partition.customers.text(customer);
                Error::contract(
                    format!(
                        "the sum {} of customer {key} is {}, too large to hold",
                        plan.plan.aggregations[overflow.column].column, overflow.sum
                    ),
                    "an amount is wrong, or project.money_scale is too fine for this currency",
                )
            },
        )
    }

    fn collect_items(
        &mut self,
        index: usize,
        as_of: usize,
        customer: u32,
        cut: AsOf,
        items: &ItemStream,
        rows: &[u32],
    ) {
        let words = self.layout.words();
        let from = items.window.start(cut.at).0;
        let mut weighted: Vec<(u64, f64)> = Vec::new();
        for row in rows {
            let (row, time) = (*row as usize, self.time(*row));
            let flags = &self.chunk.flags[row * words..(row + 1) * words];
            let set = |bit: super::layout::Bit| flags[bit.word] & bit.mask != 0;
            if time < cut.at.0 && time >= from && set(items.item_valid) && set(items.weight_valid) {
                let weight = f64::from_bits(self.chunk.inputs[items.weight][row]);
                if weight > 0.0 {
                    let decayed = weight * decay(cut.at, time, items.half_life.0 as f64);
                    weighted.push((self.chunk.inputs[items.item][row], decayed));
                }
            }
        }
        // A stable sort keeps the order of events within an item, and with it the sum's bits.
        weighted.sort_by_key(|(item, _)| *item);
        let out = &mut self.items[index][as_of];
        for (item, weight) in weighted {
            match out.last_mut() {
                Some((c, i, total)) if *c == customer && *i == item => *total += weight,
                _ => out.push((customer, item, weight)),
            }
        }
    }

    fn finish(self) -> Result<Swept> {
        let mut rows = Vec::new();
        let inputs = self.values.into_iter().zip(self.items).zip(self.rows);
        for (plan, ((values, items), customers)) in self.layout.plans.iter().zip(inputs) {
            let mut batches = Vec::new();
            for ((values, items), customers) in values.into_iter().zip(items).zip(customers) {
                batches.push(match &plan.items {
                    Some(stream) => {
                        let item = &self.layout.inputs[stream.item];
                        item_batch(self.partition, item.ty, items)?
                    }
                    None => batch(self.partition, plan, values, &customers, self.context.scale)?,
                });
            }
            rows.push(batches);
        }
        Ok(Swept { rows, duplicates: self.duplicates })
    }
}

fn key_field() -> Field {
    Field::new("customer360_id", DataType::Utf8, false)
}

fn batch(
    partition: &Partition,
    plan: &CompiledPlan,
    values: Vec<Values>,
    customers: &[u32],
    scale: Scale,
) -> Result<RecordBatch> {
    let keys = customers.iter().map(|code| partition.customers.text(*code));
    let mut fields = vec![key_field()];
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(keys))];
    for (aggregation, values) in plan.plan.aggregations.iter().zip(values) {
        fields.push(Field::new(&aggregation.column, arrow_type(aggregation.ty, scale), true));
        arrays.push(array(&partition.texts, aggregation.ty, &values, scale)?);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(Error::engine("a part"))
}

fn array(texts: &Interner, ty: Type, values: &Values, scale: Scale) -> Result<ArrayRef> {
    let bits = || values.bits.iter().zip(&values.valid).map(|(bits, valid)| valid.then_some(*bits));
    Ok(match ty {
        Type::Boolean => Arc::new(bits().map(|b| b.map(|b| b != 0)).collect::<BooleanArray>()),
        Type::Integer => Arc::new(bits().map(|b| b.map(|b| b as i64)).collect::<Int64Array>()),
        Type::Double => Arc::new(bits().map(|b| b.map(f64::from_bits)).collect::<Float64Array>()),
        Type::Money => {
            let values = bits().map(|b| b.map(|b| i128::from(b as i64)));
            let array = values.collect::<Decimal128Array>();
            let array = array.with_precision_and_scale(Scale::PRECISION, scale.places() as i8);
            Arc::new(array.map_err(Error::engine("a money column"))?)
        }
        Type::Text => {
            let values = bits().map(|b| b.map(|b| texts.text(b as u32)));
            Arc::new(values.collect::<StringArray>())
        }
        Type::Timestamp => {
            let values = bits().map(|b| b.map(|b| b as i64));
            Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        Type::Date => Arc::new(bits().map(|b| b.map(|b| b as i64 as i32)).collect::<Date32Array>()),
    })
}

/// Customer, item as text, weight; sorted by customer, then item.
fn item_batch(partition: &Partition, ty: Type, items: Items) -> Result<RecordBatch> {
    let text = |bits: u64| match ty {
        Type::Text => partition.texts.text(bits as u32).to_owned(),
        _ => (bits as i64).to_string(),
    };
    let mut rows: Vec<(&str, String, f64)> = items
        .into_iter()
        .map(|(customer, item, weight)| (partition.customers.text(customer), text(item), weight))
        .collect();
    rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let schema = Schema::new(vec![
        key_field(),
        Field::new("item", DataType::Utf8, false),
        Field::new("weight", DataType::Float64, false),
    ]);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2))),
    ];
    RecordBatch::try_new(Arc::new(schema), arrays).map_err(Error::engine("interactions"))
}

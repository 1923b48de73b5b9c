//! One pass over a partition: sort, deduplicate, cut by visibility, aggregate, give rows out.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema};

use super::aggregate::{Context, Cuts, Events, Scratch, Values, aggregate, decay};
use super::interner::{Interner, hash};
use super::layout::{Bit, CompiledPlan, ItemStream, Layout};
use super::partition::Partition;
use super::record::{Decoded, Record};
use crate::error::{Error, Result};
use crate::expression::Type;
use crate::expression::polars::arrow_type;
use crate::features::plan::AsOf;
use crate::money::Scale;
use crate::time::Instant;

/// The rows of one partition: for each plan and as-of a record batch sorted by key, and how many
/// events repeated another.
pub struct Swept {
    /// By plan, then by as-of.
    pub rows: Vec<Vec<RecordBatch>>,
    /// Duplicate events left out.
    pub duplicates: u64,
    /// Events of customers whom the profile does not have, left out or not.
    pub orphans: u64,
}

/// Computes all plans of `layout` over one partition. Events of customers whom the profile does not
/// have make a customer if `create`, else they are left out.
pub fn sweep(
    mut partition: Partition,
    layout: &Layout,
    create: bool,
    context: Context,
) -> Result<Swept> {
    let (events, orphans) = by_customer(&mut partition, layout, create)?;
    let customers = &partition.customers;
    let mut codes: Vec<u32> = (0..customers.len() as u32).collect();
    codes.sort_unstable_by(|a, b| customers.get(*a).cmp(customers.get(*b)));

    let mut sweeper = Sweeper::new(&partition, layout, context);
    for code in codes {
        sweeper.customer(code, events.of(code))?;
    }
    Ok(Swept { orphans, ..sweeper.finish()? })
}

/// The records of a partition by customer.
struct Grouped {
    /// Where each customer's records begin, and where the last one's end.
    starts: Vec<usize>,
    records: Vec<u8>,
}

impl Grouped {
    fn of(&self, customer: u32) -> &[u8] {
        let customer = customer as usize;
        &self.records[self.starts[customer]..self.starts[customer + 1]]
    }
}

/// The partition's events by customer, and how many are of customers whom the profile does not have.
/// Records are copied,
/// because to write here and there is far cheaper than to read here and there.
fn by_customer(partition: &mut Partition, layout: &Layout, create: bool) -> Result<(Grouped, u64)> {
    let chunks = partition.take()?;
    let records = || chunks.iter().flat_map(|chunk| Record::all(chunk));
    let mut owners = Vec::new();
    let mut sizes = vec![0; partition.customers.len()];
    for (bytes, record) in records() {
        let key = record.key(layout);
        let hash = hash(key);
        let code = if create {
            Some(partition.customers.intern_hashed(key, hash))
        } else {
            partition.customers.find_hashed(key, hash)
        };
        owners.push(code);
        if let Some(code) = code {
            if code as usize == sizes.len() {
                sizes.push(0);
            }
            sizes[code as usize] += bytes.len();
        }
    }
    let mut starts = vec![0];
    for size in sizes {
        starts.push(starts[starts.len() - 1] + size);
    }
    let mut next = starts.clone();
    let mut grouped = vec![0; starts[starts.len() - 1]];
    for ((bytes, _), code) in records().zip(&owners) {
        if let Some(code) = code {
            let start = &mut next[*code as usize];
            grouped[*start..*start + bytes.len()].copy_from_slice(bytes);
            *start += bytes.len();
        }
    }
    let known = partition.created_at.len();
    let unknown = |code: &&Option<u32>| code.is_none_or(|code| code as usize >= known);
    let orphans = owners.iter().filter(unknown).count() as u64;
    Ok((Grouped { starts, records: grouped }, orphans))
}

/// Items of one as-of: customer code, item bits, weight.
type Items = Vec<(u32, u64, f64)>;

struct Sweeper<'a> {
    partition: &'a Partition,
    layout: &'a Layout,
    context: Context,
    texts: Interner,
    /// The events of the customer at hand; a row is an index into them.
    events: Decoded<'a>,
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

/// A plan for a customer.
#[derive(Clone, Copy)]
struct Sweep<'a> {
    index: usize,
    plan: &'a CompiledPlan,
    customer: u32,
    /// Whether all of the customer's rows go to one batch.
    single: bool,
}

impl<'a> Sweeper<'a> {
    fn new(partition: &'a Partition, layout: &'a Layout, context: Context) -> Self {
        let as_ofs = |plan: &CompiledPlan| match plan.plan.own {
            Some(_) => 1,
            None => plan.plan.as_ofs.len(),
        };
        let columns = |plan: &CompiledPlan| vec![Values::default(); plan.plan.aggregations.len()];
        Self {
            partition,
            layout,
            context,
            texts: Interner::default(),
            events: Decoded::new(layout.inputs.len()),
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

    fn customer(&mut self, customer: u32, records: &'a [u8]) -> Result<()> {
        self.events.clear();
        for (_, record) in Record::all(records) {
            record.read(self.layout, &mut self.events, |text| self.texts.intern(text));
        }
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.clear();
        sorted.extend(0..self.events.times.len() as u32);
        if !sorted.windows(2).all(|pair| self.time(pair[0]) < self.time(pair[1])) {
            sorted.sort_unstable_by(|a, b| self.order(*a, *b));
        }
        let copies = self.drop_dominated(&mut sorted);
        let layout = self.layout;
        let partition = self.partition;
        for (index, plan) in layout.plans.iter().enumerate() {
            let own = plan.plan.own.as_ref().map(|own| {
                own.get(partition.customers.text(customer)).map_or(&[][..], Vec::as_slice)
            });
            let sweep = Sweep { index, plan, customer, single: own.is_some() };
            let as_ofs = own.unwrap_or(&plan.plan.as_ofs);
            // As-ofs at which every event that had happened was known are swept together.
            let apart: Vec<bool> =
                as_ofs.iter().map(|as_of| copies || self.has_late(&sorted, *as_of)).collect();
            match sweep.single {
                true => self.in_order(sweep, as_ofs, &sorted, copies, &apart)?,
                false => {
                    let together: Vec<bool> = apart.iter().map(|apart| !apart).collect();
                    if together.contains(&true) {
                        self.evaluate(sweep, as_ofs, &sorted, &together)?;
                    }
                    for (i, as_of) in as_ofs.iter().enumerate().filter(|(i, _)| apart[*i]) {
                        let visible = self.visible(&sorted, *as_of, copies);
                        let mut alone = vec![false; apart.len()];
                        alone[i] = true;
                        self.evaluate(sweep, as_ofs, &visible, &alone)?;
                    }
                }
            }
        }
        self.sorted = sorted;
        Ok(())
    }

    /// Evaluates a customer's own as-ofs so that their rows come in order: those that may be swept
    /// together are as far as they follow each other.
    fn in_order(
        &mut self,
        sweep: Sweep<'_>,
        as_ofs: &[AsOf],
        sorted: &[u32],
        copies: bool,
        apart: &[bool],
    ) -> Result<()> {
        let mut next = 0;
        for run in apart.chunk_by(|a, b| !a && !b) {
            let own = &as_ofs[next..next + run.len()];
            next += run.len();
            match run {
                [true] => {
                    let visible = self.visible(sorted, own[0], copies);
                    self.evaluate(sweep, own, &visible, &[true])?;
                }
                _ => self.evaluate(sweep, own, sorted, &vec![true; own.len()])?,
            }
        }
        Ok(())
    }

    fn time(&self, row: u32) -> i64 {
        self.events.times[row as usize]
    }

    fn ingested(&self, row: u32) -> i64 {
        self.events.ingested.get(row as usize).copied().unwrap_or(i64::MIN)
    }

    /// (event_ts, event_id), then content, so that no position in a file ever decides.
    fn order(&self, a: u32, b: u32) -> Ordering {
        let id = |row: u32| self.events.ids[row as usize];
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
        let flags = &self.events.flags[row as usize * words..(row as usize + 1) * words];
        let conditions =
            (0..self.layout.conditions.len()).map(|i| (Bit::new(i).is_set(flags), Vec::new()));
        let inputs = self.layout.inputs.iter().enumerate().map(|(i, input)| {
            let bits = self.events.inputs[i][row as usize];
            let valid = self.layout.valid(i).is_set(flags);
            let bytes = match input.ty {
                Type::Text if valid => self.texts.get(bits as u32).to_vec(),
                _ => bits.to_be_bytes().to_vec(),
            };
            (valid, bytes)
        });
        conditions.chain(inputs).collect()
    }

    /// Removes copies that can never be the visible one: another copy of the same event was both
    /// ingested first and happened no later. True where copies are left.
    fn drop_dominated(&mut self, sorted: &mut Vec<u32>) -> bool {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        hashes.extend(sorted.iter().map(|row| (hash(self.events.ids[*row as usize]), *row)));
        hashes.sort_unstable();
        let (mut dropped, mut left) = (Vec::new(), false);
        for group in hashes.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let mut copies: Vec<u32> = group.iter().map(|(_, row)| *row).collect();
            // Two ids of one hash stand apart once sorted by their bytes.
            let id = |row: &u32| self.events.ids[*row as usize];
            copies.sort_unstable_by(|a, b| id(a).cmp(id(b)).then_with(|| self.wins(*a, *b)));
            for same in copies.chunk_by(|a, b| id(a) == id(b)) {
                self.duplicates += same.len() as u64 - 1;
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
            let winner = winners.entry(self.events.ids[*row as usize]).or_insert(*row);
            if self.wins(*row, *winner).is_lt() {
                *winner = *row;
            }
        }
        visible.into_iter().filter(|row| winners[self.events.ids[*row as usize]] == *row).collect()
    }

    fn evaluate(
        &mut self,
        sweep: Sweep<'_>,
        as_ofs: &[AsOf],
        rows: &[u32],
        wanted: &[bool],
    ) -> Result<()> {
        let Sweep { index, plan, customer, single } = sweep;
        let words = self.layout.words();
        self.times.clear();
        self.flags.clear();
        for row in rows {
            self.times.push(self.events.times[*row as usize]);
            let start = *row as usize * words;
            self.flags.extend_from_slice(&self.events.flags[start..start + words]);
        }
        let profile = self.partition.created_at.get(customer as usize);
        let first = self.times.first().copied();
        let is_there = |at: Instant| {
            profile.is_some_and(|created| created.is_none_or(|created| created < at))
                || first.is_some_and(|time| time < at.0)
        };
        let included: Vec<bool> = as_ofs
            .iter()
            .zip(wanted)
            .map(|(as_of, wanted)| *wanted && is_there(as_of.at))
            .collect();
        let cuts = Cuts { as_ofs, included: &included, single };
        for as_of in (0..wanted.len()).filter(|as_of| included[*as_of] || single) {
            self.rows[index][cuts.output(as_of)].push(customer);
        }
        // Whoever is not there yet is nowhere later than those who are: as-ofs ascend.
        let absent =
            if single { included.iter().filter(|included| !**included).count() } else { 0 };
        for values in self.values[index].iter_mut().take(usize::from(absent > 0)).flatten() {
            (0..absent).for_each(|_| values.push(None));
        }
        let events = Events {
            times: &self.times,
            flags: &self.flags,
            words,
            rows,
            inputs: &self.events.inputs,
        };
        if let Some(items) = &plan.items {
            for as_of in (0..wanted.len()).filter(|as_of| wanted[*as_of]) {
                self.collect_items(index, as_of, customer, as_ofs[as_of], items, rows);
            }
            return Ok(());
        }
        let outputs = &mut self.values[index];
        let context = self.context;
        aggregate(plan, &events, cuts, &mut self.scratch, context, outputs).map_err(|overflow| {
            let key = self.partition.customers.text(customer);
            Error::contract(
                format!(
                    "the sum {} of customer {key} is {}, too large to hold",
                    plan.plan.aggregations[overflow.column].column, overflow.sum
                ),
                "an amount is wrong, or project.money_scale is too fine for this currency",
            )
        })
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
            let flags = &self.events.flags[row * words..(row + 1) * words];
            let valid = items.item_valid.is_set(flags) && items.weight_valid.is_set(flags);
            if time < cut.at.0 && time >= from && valid {
                let weight = f64::from_bits(self.events.inputs[items.weight][row]);
                if weight > 0.0 {
                    let decayed = weight * decay(cut.at, time, items.half_life.0 as f64);
                    weighted.push((self.events.inputs[items.item][row], decayed));
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
                        item_batch(self.partition, &self.texts, item.ty, items)?
                    }
                    None => {
                        let scale = self.context.scale;
                        batch(self.partition, &self.texts, plan, values, &customers, scale)?
                    }
                });
            }
            rows.push(batches);
        }
        Ok(Swept { rows, duplicates: self.duplicates, orphans: 0 })
    }
}

fn key_field() -> Field {
    Field::new("customer360_id", DataType::Utf8, false)
}

fn batch(
    partition: &Partition,
    texts: &Interner,
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
        arrays.push(array(texts, aggregation.ty, &values, scale)?);
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
fn item_batch(
    partition: &Partition,
    texts: &Interner,
    ty: Type,
    items: Items,
) -> Result<RecordBatch> {
    let text = |bits: u64| match ty {
        Type::Text => texts.text(bits as u32).to_owned(),
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

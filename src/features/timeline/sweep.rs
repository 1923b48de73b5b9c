//! The sweep: sorts the events of a partition, removes duplicates and invisible events, aggregates the rest,
//! and returns rows.

use arrow_array::RecordBatch;

use super::super::catalog::Aggregation;
use super::aggregate::{Context, CustomerAsOfs, Scratch, Selected, Values, aggregate, decay};
use super::classes::Classes;
use super::interner::{Interner, hash};
use super::layout::{CompiledPlan, Layout};
use super::order::Order;
use super::output::{Items, batch, item_batch};
use super::partition::Partition;
use super::record::{Decoded, Record};
use crate::error::Result;
use crate::features::FeatureProblem;
use crate::features::plan::AsOf;
use crate::time::Instant;

/// The result of sweeping one partition.
pub struct Swept {
    /// The rows by plan and as-of, each batch sorted by key.
    pub rows: Vec<Vec<RecordBatch>>,
    /// The number of duplicate events, which are left out.
    pub duplicates: u64,
    /// The number of events of customers that are not in the profile, whether or not they are left out.
    pub orphans: u64,
}

/// Computes all plans of `layout` over one partition.
///
/// Customers that are not in the profile get rows if `create` is true. Otherwise their events are left out.
///
/// # Errors
/// A contract violation for a sum that is out of range.
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

/// The records of a partition, grouped by customer.
pub(super) struct Grouped {
    /// The offset at which the records of each customer start, and the offset at which the last ones end.
    starts: Vec<usize>,
    records: Vec<u8>,
}

impl Grouped {
    pub(super) fn of(&self, customer: u32) -> &[u8] {
        let customer = customer as usize;
        &self.records[self.starts[customer]..self.starts[customer + 1]]
    }
}

/// Groups the events of the partition by customer, and counts those of customers that are not in the profile.
///
/// The records are copied, because random writes are much cheaper than random reads.
pub(super) fn by_customer(
    partition: &mut Partition,
    layout: &Layout,
    create: bool,
) -> Result<(Grouped, u64)> {
    let chunks = std::mem::take(&mut partition.records);
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

pub(super) struct Sweeper<'a> {
    pub(super) partition: &'a Partition,
    pub(super) layout: &'a Layout,
    context: Context,
    /// The texts that may appear in results.
    pub(super) texts: Interner,
    /// The events of the current customer. A row is an index into them.
    pub(super) events: Decoded<'a>,
    scratch: Scratch,
    /// The customers with a row, by plan and as-of.
    rows: Vec<Vec<Vec<u32>>>,
    /// The values by plan, as-of and column.
    values: Vec<Vec<Vec<Values>>>,
    /// The items by plan and as-of.
    items: Vec<Vec<Items>>,
    pub(super) duplicates: u64,
    sorted: Vec<u32>,
    classes: Classes,
    /// The events of the current customer, by plan and stream.
    pub(super) selected: Vec<Vec<Selected>>,
    /// The interactions of the current customer by plan, in the order of the events.
    pub(super) interactions: Vec<Vec<Interaction>>,
    hashes: Vec<(u64, u32)>,
    /// For each as-of of the current customer and plan, whether there is a row with values. `row_of` has the
    /// index of the row.
    included: Vec<bool>,
    row_of: Vec<usize>,
}

/// An event with an item and a weight.
#[derive(Clone, Copy)]
pub(super) struct Interaction {
    pub(super) time: i64,
    /// The item, as an integer or as the code of a text.
    pub(super) item: u64,
    pub(super) weight: f64,
}

/// A plan that is computed for one customer.
#[derive(Clone, Copy)]
pub(super) struct Sweep<'a> {
    pub(super) index: usize,
    pub(super) plan: &'a CompiledPlan,
    pub(super) customer: u32,
    /// Whether all rows of the customer go to one batch.
    pub(super) single: bool,
}

impl<'a> Sweeper<'a> {
    pub(super) fn new(partition: &'a Partition, layout: &'a Layout, context: Context) -> Self {
        let as_ofs = |plan: &CompiledPlan| match plan.plan.own {
            Some(_) => 1,
            None => plan.plan.as_ofs.len(),
        };
        let customers = partition.customers.len();
        let columns = |plan: &CompiledPlan| {
            let column = |a: &Aggregation| Values::with_capacity(customers, a.op.empty());
            plan.plan.aggregations.iter().map(column).collect::<Vec<_>>()
        };
        Self {
            partition,
            layout,
            context,
            texts: Interner::default(),
            events: Decoded::new(layout.inputs.len()),
            scratch: Scratch::default(),
            rows: layout.plans.iter().map(|plan| vec![Vec::new(); as_ofs(plan)]).collect(),
            values: layout
                .plans
                .iter()
                .map(|plan| (0..as_ofs(plan)).map(|_| columns(plan)).collect())
                .collect(),
            items: layout.plans.iter().map(|plan| vec![Vec::new(); as_ofs(plan)]).collect(),
            duplicates: 0,
            sorted: Vec::new(),
            classes: Classes::default(),
            selected: layout
                .plans
                .iter()
                .map(|plan| vec![Selected::default(); plan.streams.len()])
                .collect(),
            interactions: vec![Vec::new(); layout.plans.len()],
            hashes: Vec::new(),
            included: Vec::new(),
            row_of: Vec::new(),
        }
    }

    fn customer(&mut self, customer: u32, records: &'a [u8]) -> Result<()> {
        self.events.clear();
        for (_, record) in Record::all(records) {
            record.read(self.layout, &mut self.events, &mut self.texts);
        }
        self.events_at_hand(customer)
    }

    /// Computes all plans from the events that were read for the customer.
    pub(super) fn events_at_hand(&mut self, customer: u32) -> Result<()> {
        let mut sorted = std::mem::take(&mut self.sorted);
        let mut hashes = std::mem::take(&mut self.hashes);
        self.order().sort(&mut sorted);
        let copies = self.order().copies(&sorted, &mut hashes);
        self.hashes = hashes;
        self.duplicates += copies.duplicates;
        if !copies.dominated.is_empty() {
            sorted.retain(|row| !copies.dominated.contains(row));
        }
        let copies = copies.left;
        let layout = self.layout;
        let partition = self.partition;
        for (index, plan) in layout.plans.iter().enumerate() {
            let own = plan.plan.own.as_ref().map(|own| {
                own.get(partition.customers.text(customer)).map_or(&[][..], Vec::as_slice)
            });
            let sweep = Sweep { index, plan, customer, single: own.is_some() };
            let as_ofs = own.unwrap_or(&plan.plan.as_ofs);
            // As-ofs without late events are swept together.
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

    /// Evaluates the separate as-ofs of a customer so that the rows come in the order of the as-ofs.
    ///
    /// Consecutive as-ofs that can be swept together are swept together.
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

    fn order(&self) -> Order<'_> {
        Order { layout: self.layout, texts: &self.texts, events: &self.events }
    }

    fn time(&self, row: u32) -> i64 {
        self.events.times[row as usize]
    }

    /// Whether an event is late at an as-of, that is, it happened before the as-of but was not ingested
    /// before the known-at.
    fn has_late(&self, sorted: &[u32], as_of: AsOf) -> bool {
        self.layout.ingestion
            && sorted.iter().any(|row| {
                self.time(*row) < as_of.at.0 && self.events.ingested(*row) >= as_of.known_at.0
            })
    }

    /// The events that are visible at one as-of, without duplicates.
    fn visible(&self, sorted: &[u32], as_of: AsOf, copies: bool) -> Vec<u32> {
        let seen = |row: &u32| {
            self.time(*row) < as_of.at.0
                && (!self.layout.ingestion || self.events.ingested(*row) < as_of.known_at.0)
        };
        let visible: Vec<u32> = sorted.iter().copied().filter(seen).collect();
        if !copies {
            return visible;
        }
        let mut winners: std::collections::HashMap<&[u8], u32> = std::collections::HashMap::new();
        for row in &visible {
            let winner = winners.entry(self.events.ids[*row as usize]).or_insert(*row);
            if self.order().wins(*row, *winner).is_lt() {
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
        self.select(sweep.index, sweep.plan, rows);
        self.aggregate(sweep, as_ofs, rows.first().map(|row| self.time(*row)), wanted)?;
        self.collect_items(sweep, as_ofs, wanted);
        Ok(())
    }

    /// Computes the as-ofs in `wanted` from the selected events. `first` is the time of the first visible
    /// event, in microseconds.
    ///
    /// # Errors
    /// A contract violation for a sum that is out of range.
    pub(super) fn aggregate(
        &mut self,
        sweep: Sweep<'_>,
        as_ofs: &[AsOf],
        first: Option<i64>,
        wanted: &[bool],
    ) -> Result<()> {
        let Sweep { index, plan, customer, single } = sweep;
        let profile = self.partition.created_at.get(customer as usize);
        let is_there = |at: Instant| {
            profile.is_some_and(|created| created.is_none_or(|created| created < at))
                || first.is_some_and(|time| time < at.0)
        };
        self.included.clear();
        let included =
            as_ofs.iter().zip(wanted).map(|(as_of, wanted)| *wanted && is_there(as_of.at));
        self.included.extend(included);
        self.row_of.clear();
        for as_of in 0..wanted.len() {
            let rows = &mut self.rows[index][if single { 0 } else { as_of }];
            self.row_of.push(rows.len());
            if self.included[as_of] || single {
                rows.push(customer);
            }
        }
        let absent = self.row_of.iter().zip(&self.included).filter(|(_, there)| single && !**there);
        for (row, _) in absent {
            self.values[index][0].iter_mut().for_each(|values| values.set(*row, None));
        }
        if plan.items.is_some() {
            return Ok(());
        }
        let cuts = CustomerAsOfs { as_ofs, included: &self.included, single, rows: &self.row_of };
        let (outputs, selected) = (&mut self.values[index], &self.selected[index]);
        let context = self.context;
        aggregate(plan, selected, cuts, &mut self.scratch, context, outputs).map_err(|overflow| {
            let problem = FeatureProblem::Overflow {
                column: plan.plan.aggregations[overflow.column].column.clone(),
                customer: self.partition.customers.text(customer).to_owned(),
                sum: overflow.sum,
            };
            problem.into()
        })
    }

    /// Selects from `rows` the events of each stream and the interactions of a plan.
    fn select(&mut self, index: usize, plan: &CompiledPlan, rows: &[u32]) {
        let words = self.layout.words();
        let flags_of = |row: usize| row * words..(row + 1) * words;
        let (events, selected) = (&self.events, &mut self.selected[index]);
        selected.iter_mut().for_each(Selected::clear);
        let interactions = &mut self.interactions[index];
        interactions.clear();
        for row in rows {
            let row = *row as usize;
            let flags = &events.flags[flags_of(row)];
            for stream in self.classes.streams(flags, self.layout, index) {
                let stream = *stream as usize;
                selected[stream].times.push(events.times[row]);
                if let Some(input) = plan.streams[stream].input {
                    selected[stream].values.push(events.inputs[input][row]);
                }
            }
            if let Some(items) = plan.items.as_ref().filter(|items| items.has(flags)) {
                interactions.push(Interaction {
                    time: events.times[row],
                    item: events.inputs[items.item][row],
                    weight: f64::from_bits(events.inputs[items.weight][row]),
                });
            }
        }
    }

    /// Sums the weights of the current customer's interactions by item, at each as-of in `wanted`.
    pub(super) fn collect_items(&mut self, sweep: Sweep<'_>, as_ofs: &[AsOf], wanted: &[bool]) {
        let Some(items) = &sweep.plan.items else { return };
        for as_of in (0..wanted.len()).filter(|as_of| wanted[*as_of]) {
            let cut = as_ofs[as_of];
            let from = items.window.start(cut.at).0;
            let seen =
                |event: &&Interaction| (from..cut.at.0).contains(&event.time) && event.weight > 0.0;
            let half_life = items.half_life.0 as f64;
            let decayed = |event: &Interaction| {
                (event.item, event.weight * decay(cut.at, event.time, half_life))
            };
            let all = self.interactions[sweep.index].iter();
            let mut weighted: Vec<(u64, f64)> = all.filter(seen).map(decayed).collect();
            // A stable sort keeps the order of events within an item, so that the sum always has the same
            // bits.
            weighted.sort_by_key(|(item, _)| *item);
            let out = &mut self.items[sweep.index][as_of];
            for (item, weight) in weighted {
                match out.last_mut() {
                    Some((c, i, total)) if *c == sweep.customer && *i == item => *total += weight,
                    _ => out.push((sweep.customer, item, weight)),
                }
            }
        }
    }

    pub(super) fn finish(self) -> Result<Swept> {
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
                        let mut values = values;
                        values.iter_mut().for_each(|values| values.fill(customers.len()));
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

//! Kept timelines: merging new events into the timelines of the store, and sweeping these timelines instead
//! of the event files.

use std::collections::HashSet;

use super::aggregate::{Context, Selected};
use super::block::{Block, BlockWriter, Copied, Details};
use super::column::Damaged;
use super::interner::hash;
use super::layout::Layout;
use super::order::Order;
use super::partition::Partition;
use super::record::{Decoded, Record};
use super::sweep::{Grouped, Interaction, Sweep, Sweeper, Swept, by_customer};
use crate::error::{Error, Result};
use crate::features::plan::AsOf;

/// A block of the store with those of its sections that were read.
#[derive(Debug)]
pub struct Kept<'a> {
    pub block: Block<'a>,
    pub details: Details<'a>,
}

/// The location of a customer's timeline: the index of the block, and the index of the customer in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub block: usize,
    pub customer: usize,
}

/// Pairs the places of timelines with the keys of their customers.
pub fn keyed<'a>(blocks: &[Kept<'a>], places: &[Place]) -> Vec<(&'a [u8], Place)> {
    let keyed = |place: &Place| (blocks[place.block].block.keys.get(place.customer), *place);
    places.iter().map(keyed).collect()
}

/// Finds the latest timelines of the customers in `keys`, which must be sorted.
///
/// The first block is the newest. Customers without a timeline are left out.
pub fn search(blocks: &[Kept<'_>], keys: &[Vec<u8>]) -> Vec<Place> {
    let mut places = Vec::with_capacity(keys.len());
    for key in keys {
        let found = blocks.iter().enumerate().find_map(|(block, kept)| {
            let customer = kept.block.keys.find(key)?;
            Some(Place { block, customer })
        });
        places.extend(found);
    }
    places
}

/// The latest timeline of each customer, in the order of the keys. The first block is the newest.
pub fn latest(blocks: &[Kept<'_>]) -> Vec<Place> {
    let places = blocks.iter().enumerate().flat_map(|(block, kept)| {
        let keys = 0..kept.block.keys.len();
        keys.map(move |customer| (kept.block.keys.get(customer), Place { block, customer }))
    });
    let mut all: Vec<(&[u8], Place)> = places.collect();
    if blocks.len() > 1 {
        all.sort_by(|a, b| a.0.cmp(b.0).then(a.1.block.cmp(&b.1.block)));
        all.dedup_by(|later, earlier| later.0 == earlier.0);
    }
    all.into_iter().map(|(_, place)| place).collect()
}

/// The new events of one partition, grouped by customer.
pub struct Arrived {
    partition: Partition,
    grouped: Grouped,
}

impl Arrived {
    /// Groups the records of a partition by customer.
    pub fn new(mut partition: Partition, layout: &Layout) -> Result<Self> {
        let (grouped, _) = by_customer(&mut partition, layout, true)?;
        Ok(Self { partition, grouped })
    }

    /// The sorted keys of the customers that have new events.
    pub fn keys(&self) -> Vec<&[u8]> {
        let customers = &self.partition.customers;
        let codes = (0..customers.len() as u32).filter(|code| !self.grouped.of(*code).is_empty());
        let mut keys: Vec<&[u8]> = codes.map(|code| customers.get(code)).collect();
        keys.sort_unstable();
        keys
    }

    /// The partition without its records.
    pub fn into_partition(self) -> Partition {
        self.partition
    }

    fn of(&self, key: &[u8]) -> &[u8] {
        let code = self.partition.customers.find_hashed(key, hash(key));
        code.map_or(&[], |code| self.grouped.of(code))
    }
}

/// Writes a block with the timelines of `keys`, which must be sorted.
///
/// Each timeline consists of the kept events, without those of the files in `gone`, and of the new events. A
/// customer without any events left is written as an empty timeline, unless the block is `whole`. The result
/// is the sections of the block and its number of events.
///
/// # Errors
/// `Damaged` if a kept block is not valid.
pub fn merge<'a>(
    keys: &[Vec<u8>],
    latest: &[(&[u8], Place)],
    kept: &mut [Kept<'a>],
    gone: &HashSet<u32>,
    arrived: &'a Arrived,
    layout: &Layout,
    whole: bool,
) -> std::result::Result<(Vec<Vec<u8>>, u64), Damaged> {
    let mut writer = BlockWriter::new(layout);
    let mut texts = super::interner::Interner::default();
    let mut events = Decoded::new(layout.inputs.len());
    let (mut sorted, mut hashes) = (Vec::new(), Vec::new());
    let mut copied: Vec<Copied> = kept.iter().map(|_| Copied::default()).collect();
    for key in keys {
        events.clear();
        let arrived = arrived.of(key);
        if let Ok(found) = latest.binary_search_by(|(other, _)| (*other).cmp(key.as_slice())) {
            let place = latest[found].1;
            let Kept { block, details } = &mut kept[place.block];
            if arrived.is_empty() && gone.is_empty() {
                if block.count(place.customer) > 0 || !whole {
                    writer.copy(
                        block,
                        details,
                        place.customer,
                        &mut texts,
                        &mut copied[place.block],
                    )?;
                }
                continue;
            }
            let keep = |_, file| !gone.contains(&file);
            details.decode(block, place.customer, layout, &mut texts, keep, &mut events)?;
        }
        for (_, record) in Record::all(arrived) {
            record.read(layout, &mut events, &mut texts);
        }
        if events.times.is_empty() && whole {
            continue;
        }
        let order = Order { layout, texts: &texts, events: &events };
        order.sort(&mut sorted);
        let copies = order.copies(&sorted, &mut hashes);
        writer.push(key, order, &sorted, &copies);
    }
    let events = writer.events();
    Ok((writer.finish(), events))
}

/// The as-ofs in ascending order, and for each of them the earliest known-at of this as-of and all later
/// ones.
#[derive(Debug, Default)]
pub struct KnownAts {
    known_ats: Vec<(i64, i64)>,
}

impl KnownAts {
    /// The as-ofs of all plans. None if a plan has separate as-ofs for each customer.
    pub fn of(layout: &Layout) -> Option<Self> {
        let mut known_ats = Vec::new();
        for plan in &layout.plans {
            if plan.plan.own.is_some() {
                return None;
            }
            let cut = |as_of: &AsOf| (as_of.at.0, as_of.known_at.0);
            known_ats.extend(plan.plan.as_ofs.iter().map(cut));
        }
        known_ats.sort_unstable();
        known_ats.dedup();
        let mut least = i64::MAX;
        for (_, known_at) in known_ats.iter_mut().rev() {
            least = least.min(*known_at);
            *known_at = least;
        }
        Some(Self { known_ats })
    }

    /// The earliest known-at of all as-ofs, in microseconds.
    pub fn least_known_at(&self) -> i64 {
        self.known_ats.first().map_or(i64::MAX, |cut| cut.1)
    }

    /// Whether an event is late at any as-of, that is, it happened before the as-of but was not ingested
    /// before the known-at.
    pub fn is_late(&self, time: i64, ingested: i64) -> bool {
        let after = self.known_ats.partition_point(|(at, _)| *at <= time);
        self.known_ats.get(after).is_some_and(|(_, known_at)| *known_at <= ingested)
    }
}

/// Whether a customer's events need not be sorted and deduplicated again.
///
/// This is so if no event is late at any as-of, and if no choice between duplicates depends on the as-of. The
/// result is always false if `known_ats` is None.
pub fn is_plain(kept: &Kept<'_>, customer: usize, known_ats: Option<&KnownAts>) -> bool {
    let Some(known_ats) = known_ats else { return false };
    let Kept { block, details } = kept;
    if block.is_undecided(customer) {
        return false;
    }
    block.latest_ingested(customer) < known_ats.least_known_at()
        || block.rows(customer).all(|row| {
            let time = block.time(row);
            !known_ats.is_late(time, details.ingested(row, time))
        })
}

/// Computes all plans of `layout` over the kept timelines of one partition.
///
/// `plain` has the result of [`is_plain`] for each timeline in `latest`. Customers that are not in the
/// profile get rows if `create` is true, and are left out otherwise.
///
/// # Errors
/// A contract violation for a sum that is out of range, or an engine error if a block is not valid.
pub fn sweep_kept(
    mut partition: Partition,
    latest: &[(&[u8], Place)],
    plain: &[bool],
    kept: Vec<Kept<'_>>,
    layout: &Layout,
    create: bool,
    context: Context,
) -> Result<Swept> {
    let known = partition.created_at.len();
    let (mut orphans, mut places) = (0, vec![None; known]);
    // The codes are in the order of the keys, like `latest`.
    let mut present: Vec<u32> = Vec::with_capacity(latest.len());
    for ((key, place), plain) in latest.iter().zip(plain) {
        let count = kept[place.block].block.count(place.customer);
        if count == 0 {
            continue;
        }
        let hash = hash(key);
        let code = partition.customers.find_hashed(key, hash);
        if code.is_none_or(|code| code as usize >= known) {
            orphans += count as u64;
            if !create {
                continue;
            }
        }
        let code = code.unwrap_or_else(|| partition.customers.intern_hashed(key, hash));
        places.resize(places.len().max(code as usize + 1), None);
        places[code as usize] = Some((*place, *plain));
        present.push(code);
    }
    let customers = &partition.customers;
    let mut silent: Vec<u32> =
        (0..known as u32).filter(|code| places[*code as usize].is_none()).collect();
    silent.sort_unstable_by(|a, b| customers.get(*a).cmp(customers.get(*b)));
    let codes = merge_by(&present, &silent, |code| customers.get(code));

    let (blocks, mut details): (Vec<_>, Vec<_>) =
        kept.into_iter().map(|kept| (kept.block, kept.details)).unzip();
    let members: Vec<Members> = blocks.iter().map(|block| Members::of(block, layout)).collect();
    let mut sweeper = Sweeper::new(&partition, layout, context);
    for code in codes {
        let Some((Place { block, customer }, plain)) = places[code as usize] else {
            sweeper.events.clear();
            sweeper.events_at_hand(code)?;
            continue;
        };
        let (content, details) = (&blocks[block], &mut details[block]);
        if plain {
            sweeper.plain(code, content, customer, &members[block], details)?;
            continue;
        }
        sweeper.events.clear();
        let keep = |class: usize, _| !content.dominated[class];
        let (texts, events) = (&mut sweeper.texts, &mut sweeper.events);
        let decoded = details.decode(content, customer, layout, texts, keep, events);
        decoded.map_err(|_| {
            Error::engine("reading a block of timelines")("it is not as it was written")
        })?;
        sweeper.duplicates += (content.count(customer) - events.times.len()) as u64;
        sweeper.events_at_hand(code)?;
    }
    Ok(Swept { orphans, ..sweeper.finish()? })
}

/// Merges two lists of codes that are sorted by their keys.
fn merge_by<'a>(a: &[u32], b: &[u32], key: impl Fn(u32) -> &'a [u8]) -> Vec<u32> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let mut rest = a;
    for code in b {
        let (before, after) = rest.split_at(rest.partition_point(|other| key(*other) < key(*code)));
        merged.extend_from_slice(before);
        merged.push(*code);
        rest = after;
    }
    merged.extend_from_slice(rest);
    merged
}

/// For each class of a block, the streams and interactions of the plans to which its events belong.
struct Members {
    classes: Vec<Class>,
    /// The earliest instant, in microseconds, that a stream with a bounded window looks back to. Earlier
    /// events are used only by streams over the lifetime.
    since: i64,
    /// True for every as-of, with as many values as the largest plan has as-ofs.
    wanted: Vec<bool>,
}

#[derive(Default)]
struct Class {
    all: Vec<Member>,
    /// The streams over the lifetime.
    always: Vec<Member>,
    items: Vec<ItemMember>,
}

#[derive(Clone)]
struct Member {
    plan: usize,
    stream: usize,
    input: Option<usize>,
    /// The earliest instant, in microseconds, that a window of the stream looks back to.
    since: i64,
}

#[derive(Clone)]
struct ItemMember {
    plan: usize,
    item: usize,
    weight: usize,
    /// The earliest instant, in microseconds, that the plan looks back to.
    since: i64,
}

impl Members {
    fn of(block: &Block<'_>, layout: &Layout) -> Self {
        let class = |(flags, dominated): (&Vec<u64>, &bool)| match dominated {
            true => Class::default(),
            false => Class::of(flags, layout),
        };
        let classes: Vec<Class> = block.flags.iter().zip(&block.dominated).map(class).collect();
        let bounded = classes.iter().flat_map(|class| class.all.iter().map(|member| member.since));
        let since = bounded.filter(|since| *since > i64::MIN).min().unwrap_or(i64::MIN);
        let as_ofs = layout.plans.iter().map(|plan| plan.plan.as_ofs.len()).max();
        Self { classes, since, wanted: vec![true; as_ofs.unwrap_or(0)] }
    }
}

impl Class {
    fn of(flags: &[u64], layout: &Layout) -> Self {
        let mut class = Self::default();
        for (plan, (compiled, streams)) in
            layout.plans.iter().zip(layout.streams(flags)).enumerate()
        {
            let earliest = compiled.plan.as_ofs.iter().map(|as_of| as_of.at).min();
            class.all.extend(streams.iter().map(|index| {
                let stream = &compiled.streams[*index as usize];
                Member {
                    plan,
                    stream: *index as usize,
                    input: stream.input,
                    since: earliest.map_or(i64::MIN, |at| stream.since(compiled, at)),
                }
            }));
            let items = compiled.items.iter().filter(|items| items.has(flags));
            class.items.extend(items.map(|items| ItemMember {
                plan,
                item: items.item,
                weight: items.weight,
                since: earliest.map_or(i64::MIN, |at| items.window.start(at).0),
            }));
        }
        let endless = |member: &&Member| member.since == i64::MIN;
        class.always = class.all.iter().filter(endless).cloned().collect();
        class
    }
}

impl Sweeper<'_> {
    /// Computes all plans for a customer whose timeline meets [`is_plain`].
    fn plain(
        &mut self,
        code: u32,
        block: &Block<'_>,
        customer: usize,
        members: &Members,
        details: &mut Details<'_>,
    ) -> Result<()> {
        self.selected.iter_mut().flatten().for_each(Selected::clear);
        self.interactions.iter_mut().for_each(Vec::clear);
        let (mut first, mut dominated) = (None, 0);
        let (selected, texts) = (&mut self.selected, &mut self.texts);
        let interactions = &mut self.interactions;
        let keeps_text = &self.layout.keeps_text;
        block.each(customer, |_, event| {
            if block.dominated[event.class] {
                dominated += 1;
                return;
            }
            first.get_or_insert(event.time);
            let class = &members.classes[event.class];
            for member in class.items.iter().filter(|member| event.time >= member.since) {
                let item = event.input(member.item);
                let keeps_text = keeps_text[member.item];
                interactions[member.plan].push(Interaction {
                    time: event.time,
                    item: if keeps_text { details.text(member.item, item, texts) } else { item },
                    weight: f64::from_bits(event.input(member.weight)),
                });
            }
            for member in if event.time < members.since { &class.always } else { &class.all } {
                if event.time < member.since {
                    continue;
                }
                let stream = &mut selected[member.plan][member.stream];
                stream.times.push(event.time);
                if let Some(input) = member.input {
                    let bits = event.input(input);
                    let keeps_text = keeps_text[input];
                    let bits = if keeps_text { details.text(input, bits, texts) } else { bits };
                    stream.values.push(bits);
                }
            }
        });
        self.duplicates += dominated;
        let layout = self.layout;
        for (index, plan) in layout.plans.iter().enumerate() {
            let sweep = Sweep { index, plan, customer: code, single: false };
            let wanted = &members.wanted[..plan.plan.as_ofs.len()];
            self.aggregate(sweep, &plan.plan.as_ofs, first, wanted)?;
            self.collect_items(sweep, &plan.plan.as_ofs, wanted);
        }
        Ok(())
    }
}

//! Timelines that the store keeps: events that have arrived are merged into them, and a sweep reads
//! them in place of the event files.

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

/// A block of the store, with what was read of it beyond what every sweep needs.
#[derive(Debug)]
pub struct Kept<'a> {
    pub block: Block<'a>,
    pub details: Details<'a>,
}

/// A customer's timeline: which block it is in, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub block: usize,
    pub customer: usize,
}

/// The places of some timelines with their customers' keys.
pub fn keyed<'a>(blocks: &[Kept<'a>], places: &[Place]) -> Vec<(&'a [u8], Place)> {
    let keyed = |place: &Place| (blocks[place.block].block.keys.get(place.customer), *place);
    places.iter().map(keyed).collect()
}

/// The latest timelines of those of `keys`, sorted, who have one; the first block is the newest.
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

/// The latest timeline of each customer in the order of their keys; the first block is the newest.
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

/// Events that have arrived for one partition, by customer.
pub struct Arrived {
    partition: Partition,
    grouped: Grouped,
}

impl Arrived {
    /// Takes the records of a partition.
    pub fn new(mut partition: Partition, layout: &Layout) -> Result<Self> {
        let (grouped, _) = by_customer(&mut partition, layout, true)?;
        Ok(Self { partition, grouped })
    }

    /// The keys of the customers who have any, sorted.
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

/// Writes the timelines of `keys`, sorted: what is kept of each without the events of the files that
/// are `gone`, and what has arrived. A customer of whom nothing is left is written as such, unless the
/// block is `whole`. Gives the block's sections and events.
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
            record.read(layout, &mut events, |text| texts.intern(text));
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

/// As-ofs by instant, and from each on the least of their known-ats.
#[derive(Debug, Default)]
pub struct KnownAts {
    known_ats: Vec<(i64, i64)>,
}

impl KnownAts {
    /// Of all plans; None where a plan has as-ofs of each customer's own.
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

    /// The earliest known-at.
    pub fn least_known_at(&self) -> i64 {
        self.known_ats.first().map_or(i64::MAX, |cut| cut.1)
    }

    /// Whether at one of the as-ofs an event had happened but was not yet known.
    pub fn is_late(&self, time: i64, ingested: i64) -> bool {
        let after = self.known_ats.partition_point(|(at, _)| *at <= time);
        self.known_ats.get(after).is_some_and(|(_, known_at)| *known_at <= ingested)
    }
}

/// Whether a customer's events are seen whole at every as-of, so that they need not be put in order
/// again. Only where `known_ats` are given can they be.
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

/// Computes all plans of `layout` over the kept timelines of one partition; customers who are not in
/// the profile make a row if `create`.
///
/// `plain` says of each of `latest` whether [`is_plain`] holds.
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
    // In the order of their keys, as `latest` is.
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
        decoded
            .map_err(|_| Error::engine("a block of timelines")("it is not as it was written"))?;
        sweeper.duplicates += (content.count(customer) - events.times.len()) as u64;
        sweeper.events_at_hand(code)?;
    }
    Ok(Swept { orphans, ..sweeper.finish()? })
}

/// Two lists that are in the order of their keys, in that order.
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

/// By class of a block: which streams of which plan its events belong to, and whose interactions they are.
struct Members {
    classes: Vec<Class>,
    /// Before this, only streams that look back without end have a use for an event.
    since: i64,
    /// That every as-of is wanted, for as many as a plan has.
    wanted: Vec<bool>,
}

#[derive(Default)]
struct Class {
    all: Vec<Member>,
    /// Those that look back without end.
    always: Vec<Member>,
    items: Vec<ItemMember>,
}

#[derive(Clone)]
struct Member {
    plan: usize,
    stream: usize,
    input: Option<usize>,
    /// No window of the stream looks back beyond this.
    since: i64,
}

#[derive(Clone)]
struct ItemMember {
    plan: usize,
    item: usize,
    weight: usize,
    /// The plan does not look back beyond this.
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
    /// Computes all plans for a customer whose events are in order and seen whole.
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

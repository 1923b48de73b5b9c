//! The events as earlier runs have read them: sorted timelines in the store, so that a run reads only
//! the event files that are new or changed, and gives the bytes that reading all of them would give.
//!
//! Timelines are kept by partition of customers in segments. A run writes one segment with the whole
//! timeline of every customer whom it touches; the newest one counts. Every run also writes a few
//! partitions whole, in turn, so that older segments fall out of use.

mod manifest;
mod segment;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use rayon::prelude::*;
use serde::Serialize;

use self::manifest::{Changes, FOLDER, KeptFile, Manifest};
use self::segment::{BlockPlace, NewBlock, Segment, SegmentWriter};
use super::embedded::{check_orphans, check_rejected, derive, group_size, hand_over, read};
use super::engine::{BuildReport, Part};
use super::plan::{AsOf, FeaturePlan};
use super::timeline::{
    Arrived, Block, Context, Cuts, Details, Kept, Layout, Partition, Partitions, Place, Swept,
    block, is_plain, keyed, latest, merge, search, sweep_kept,
};
use crate::error::{Error, Result};
use crate::sources::profile::Entities;
use crate::sources::{Orphans, SourcePlan};
use crate::store::{Root, Store, Transaction};

pub use self::manifest::{OUTGROWN, reading};

/// A partition is written whole by one in so many runs.
const TURNS: u64 = 16;

/// How timelines are kept.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// Whether to read all events again, whatever is kept.
    pub full: bool,
    /// Bytes of events kept in memory before they spill.
    pub memory: u64,
    /// Events that are worth a partition of their own.
    pub partition_events: u64,
}

impl Keeping {
    /// Partitions of the usual size.
    pub fn new(full: bool, memory: u64) -> Self {
        Self { full, memory, partition_events: 100_000 }
    }
}

/// What was read to bring the timelines up to date.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Refresh {
    /// Why all event files were read; None where only new or changed ones were.
    pub all_because: Option<String>,
    /// Event files of the source.
    pub files: usize,
    /// Files that were read, because they are new or have changed.
    pub files_read: usize,
    /// Their length.
    pub bytes_read: u64,
    /// Their rows.
    pub events_read: u64,
    /// Files read before that are not there any more as they were.
    pub files_gone: usize,
    /// Customers whose timelines were written anew because of that.
    pub customers_touched: u64,
}

/// The timelines of a store, brought up to date with the event files.
pub struct History {
    run: Run,
    partitions: Partitions,
    report: BuildReport,
}

impl History {
    /// Reads the event files that are new or have changed since what `transaction`'s store has; `plans`
    /// say what is to be kept of an event, their as-ofs do not matter.
    ///
    /// # Errors
    /// A contract violation for unusable rows above the source's share; a configuration error where what
    /// was kept is damaged.
    pub fn refresh(
        transaction: &Transaction,
        source: &SourcePlan,
        entities: &Entities,
        plans: &[FeaturePlan],
        keeping: &Keeping,
    ) -> Result<Self> {
        let mut run = Run::prepare(transaction, source, plans, keeping)?;
        let spill = transaction.scratch().to_owned();
        let partitions = Partitions::new(
            run.manifest.partitions,
            &entities.keys,
            &entities.created_at,
            keeping.memory,
            spill,
        );
        let spilled = run.read(source, plans, &partitions)?;
        let report = run.report(spilled);
        check_rejected(source, &report)?;
        Ok(Self { run, partitions, report })
    }

    /// Why the next refresh for `plans` would read all event files; None where it would not.
    pub fn unfit(
        store: &Store,
        root: &Root,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        keeping: &Keeping,
    ) -> Result<Option<&'static str>> {
        let live = Manifest::live(store, root)?;
        let kept = live.as_ref().map(|(_, manifest)| manifest);
        Ok(unfit(kept, source, plans, &reading(source)?, keeping))
    }

    /// What was read.
    pub fn refreshed(&self) -> &Refresh {
        &self.run.refresh
    }

    /// Whether the timelines are not those of the store any more.
    pub fn is_changed(&self) -> bool {
        self.run.is_changed()
    }

    /// A hash of the event files that matter at an as-of.
    pub fn visible_at(&self, as_of: AsOf) -> String {
        self.run.manifest.visible_at(as_of)
    }

    /// Computes `plans`, whose conditions and inputs are those given to [`History::refresh`], and stages
    /// with `transaction` what has changed of the timelines. Parts come as from
    /// [`super::engine::Engine::build`].
    pub fn build(
        self,
        transaction: &mut Transaction,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        sink: &mut dyn FnMut(Part) -> Result<()>,
    ) -> Result<(BuildReport, Refresh)> {
        let Self { mut run, partitions, mut report } = self;
        let files = run.layout.files;
        run.layout = run.manifest.layout(source, plans);
        run.layout.files = files;
        let name = format!("{FOLDER}/segment-{:06}.bin", transaction.generation());
        let writer = match run.is_changed() {
            true => Some(SegmentWriter::create(transaction.stage(&name)?)?),
            false => None,
        };
        let cuts = Cuts::of(&run.layout);
        let group = group_size(plans);
        let mut parts = partitions.into_parts().into_iter().enumerate();
        let mut live: HashSet<String> = HashSet::new();
        loop {
            let next: Vec<_> = parts.by_ref().take(group).collect();
            if next.is_empty() {
                break;
            }
            let mut swept: Vec<Partitioned> = next
                .into_par_iter()
                .map(|(index, part)| run.partition(index, part, cuts.as_ref(), source))
                .collect::<Result<_>>()?;
            derive(plans, swept.iter_mut().map(|done| &mut done.swept), source)?;
            for done in swept {
                run.refresh.customers_touched += done.touched;
                live.extend(done.segments);
                if let (Some(writer), Some(block)) = (&writer, done.block) {
                    writer.write(block);
                }
                hand_over(done.swept, &mut report, sink)?;
            }
        }
        check_orphans(source, &report)?;
        if let Some(writer) = writer {
            writer.finish()?;
            run.publish(transaction, name, &live)?;
        }
        Ok((report, run.refresh))
    }
}

/// Why what is kept cannot serve `plans`; None where it can.
fn unfit(
    kept: Option<&Manifest>,
    source: &SourcePlan,
    plans: &[FeaturePlan],
    reading: &str,
    keeping: &Keeping,
) -> Option<&'static str> {
    kept.map_or(Some("nothing was kept yet"), |kept| {
        kept.unfit(source, plans, reading, keeping.partition_events)
    })
}

/// What one run does to the timelines.
struct Run {
    layout: Layout,
    manifest: Manifest,
    /// Path of the manifest that is live.
    before: Option<String>,
    /// Newest first.
    segments: Vec<Segment>,
    /// Segments that are live and not used any more.
    unused: Vec<String>,
    changes: Changes,
    gone: HashSet<u32>,
    refresh: Refresh,
}

/// A partition brought up to date and swept.
struct Partitioned {
    swept: Swept,
    /// What the new segment has of it.
    block: Option<NewBlock>,
    /// Customers whose timelines changed.
    touched: u64,
    /// Older segments that still say something.
    segments: Vec<String>,
}

impl Run {
    fn prepare(
        transaction: &Transaction,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        keeping: &Keeping,
    ) -> Result<Self> {
        let reading = reading(source)?;
        let live = Manifest::live(transaction.store(), &transaction.root)?;
        let unfit = match keeping.full {
            true => Some("--full"),
            false => {
                let kept = live.as_ref().map(|(_, manifest)| manifest);
                unfit(kept, source, plans, &reading, keeping)
            }
        };
        let (before, kept) =
            live.map_or((None, None), |(path, manifest)| (Some(path), Some(manifest)));
        let mut unused = Vec::new();
        let manifest = match (kept, unfit) {
            (Some(manifest), None) => manifest,
            (kept, _) => {
                // What other commands look at goes on being kept, or each would read all events anew.
                let still = kept.as_ref().filter(|kept| !keeping.full && kept.reading == reading);
                let layout = match still {
                    Some(kept) => kept.layout(source, plans),
                    None => Layout::new(plans, source.has_ingestion()),
                };
                unused.extend(kept.into_iter().flat_map(|manifest| manifest.segments));
                Manifest::new(source, &layout, reading, keeping.partition_events)
            }
        };
        let mut layout = manifest.layout(source, plans);
        layout.files = Some(manifest.next_file());
        let changes = manifest.changes(source)?;
        let open = |path: &String| Segment::open(path, &transaction.store().file(path));
        let segments = manifest.segments.iter().rev().map(open).collect::<Result<_>>()?;
        let refresh = Refresh {
            all_because: unfit.map(str::to_owned),
            files: source.table.files.len(),
            files_read: changes.new.len(),
            bytes_read: changes.new.iter().map(|(_, print)| print.bytes).sum(),
            files_gone: changes.gone.len(),
            ..Refresh::default()
        };
        Ok(Self {
            layout,
            before,
            segments,
            unused,
            gone: changes.gone.iter().copied().collect(),
            changes,
            manifest,
            refresh,
        })
    }

    fn is_changed(&self) -> bool {
        self.refresh.files_read + self.gone.len() > 0
    }

    /// Reads the files that are not kept and scatters their events; gives the bytes spilled.
    fn read(
        &mut self,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        partitions: &Partitions,
    ) -> Result<u64> {
        let first = self.manifest.next_file();
        self.manifest.files.retain(|number, _| !self.gone.contains(number));
        if self.changes.new.is_empty() {
            return Ok(0);
        }
        let mut new = source.clone();
        new.table.files = self.changes.new.iter().map(|(path, _)| path.clone()).collect();
        let reading = read(&new, plans, &self.layout, partitions)?;
        self.refresh.events_read = reading.report.events;
        let new = std::mem::take(&mut self.changes.new);
        for (number, ((path, fingerprint), file)) in
            (first..).zip(new.into_iter().zip(reading.files))
        {
            let (first_event, first_ingested) = file.first;
            let (events, rejected) = (file.events, file.rejected);
            let file =
                KeptFile { path, fingerprint, events, rejected, first_event, first_ingested };
            self.manifest.files.insert(number, file);
        }
        Ok(partitions.spilled_bytes.load(std::sync::atomic::Ordering::Relaxed))
    }

    fn report(&self, spilled_bytes: u64) -> BuildReport {
        let mut rejected: BTreeMap<String, u64> = BTreeMap::new();
        for (reason, count) in self.manifest.files.values().flat_map(|file| &file.rejected) {
            *rejected.entry(reason.clone()).or_default() += count;
        }
        let events = self.manifest.files.values().map(|file| file.events).sum();
        BuildReport { events, rejected, spilled_bytes, ..BuildReport::default() }
    }

    /// The blocks that say something of a partition, newest first.
    fn blocks(&self, partition: usize) -> Vec<(&Segment, &BlockPlace)> {
        let mut blocks = Vec::new();
        for segment in &self.segments {
            if let Some(block) = segment.block(partition) {
                blocks.push((segment, block));
                if block.whole {
                    break;
                }
            }
        }
        blocks
    }

    /// Brings a partition up to date with what has arrived for it, and computes all plans.
    fn partition(
        &self,
        index: usize,
        part: Partition,
        cuts: Option<&Cuts>,
        source: &SourcePlan,
    ) -> Result<Partitioned> {
        let layout = &self.layout;
        let arrived = Arrived::new(part, layout)?;
        let mut blocks: Vec<Loaded<'_>> = self
            .blocks(index)
            .into_iter()
            .map(|(segment, place)| Loaded::stored(segment, place))
            .collect();
        let whole = blocks.is_empty() || (blocks.len() > 1 && self.is_turn(index));
        let touched = self.touched(&mut blocks, &arrived, whole)?;
        let mut events = 0;
        if !touched.is_empty() {
            let sections;
            (sections, events) = self.merge(&mut blocks, &touched, &arrived, whole)?;
            if whole {
                blocks.clear();
            }
            blocks.insert(0, Loaded::new(sections));
        }
        let segments = blocks.iter().filter_map(Loaded::name).collect();
        let swept = self.sweep(&mut blocks, arrived.into_partition(), cuts, source)?;
        let new = blocks.into_iter().next().filter(|_| !touched.is_empty());
        let block = new.map(|new| NewBlock::new(index, whole, events, new.sections));
        Ok(Partitioned { swept, block, touched: touched.len() as u64, segments })
    }

    fn is_turn(&self, partition: usize) -> bool {
        self.is_changed() && partition as u64 % TURNS == self.manifest.rounds % TURNS
    }

    /// The keys of the customers whose timelines are to be written, sorted.
    fn touched(
        &self,
        blocks: &mut [Loaded<'_>],
        arrived: &Arrived,
        whole: bool,
    ) -> Result<Vec<Vec<u8>>> {
        for block in blocks.iter_mut() {
            block.need(block::CUSTOMERS..block::EVENTS + 1)?;
            if !self.gone.is_empty() {
                block.need(block::DETAILS..block::DETAILS + 1)?;
            }
        }
        let mut touched: BTreeSet<&[u8]> = arrived.keys().into_iter().collect();
        let views = views(blocks, &self.layout)?;
        let kept = if whole || !self.gone.is_empty() { latest(&views) } else { Vec::new() };
        for (key, place) in keyed(&views, &kept) {
            let Kept { block, details } = &views[place.block];
            let is_touched = whole || {
                let is_gone = |file| self.gone.contains(&file);
                let mut files = details
                    .files(block, place.customer)
                    .map_err(|_| blocks[place.block].damaged())?;
                files.any(is_gone)
            };
            if is_touched {
                touched.insert(key);
            }
        }
        Ok(touched.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// The timelines of the touched customers as a block's sections, and their events.
    fn merge(
        &self,
        blocks: &mut [Loaded<'_>],
        touched: &[Vec<u8>],
        arrived: &Arrived,
        whole: bool,
    ) -> Result<(Vec<Vec<u8>>, u64)> {
        let places = search(&views(blocks, &self.layout)?, touched);
        self.load(blocks, &places)?;
        let mut views = views(blocks, &self.layout)?;
        let found = keyed(&views, &places);
        merge(touched, &found, &mut views, &self.gone, arrived, &self.layout, whole)
            .map_err(|_| blocks.first().map_or_else(damaged, Loaded::damaged))
    }

    /// Loads all that is kept of the customers at `places`.
    fn load(&self, blocks: &mut [Loaded<'_>], places: &[Place]) -> Result<()> {
        for (index, block) in blocks.iter_mut().enumerate() {
            let of_block = places.iter().filter(|place| place.block == index);
            let customers: BTreeSet<usize> = of_block.map(|place| place.customer).collect();
            if !customers.is_empty() {
                block.need(block::INGESTED..block::INGESTED + 1)?;
                block.need(block::TEXTS..block::TEXTS + self.layout.inputs.len())?;
                block.need_details(&customers, &self.layout)?;
            }
        }
        Ok(())
    }

    fn sweep(
        &self,
        blocks: &mut [Loaded<'_>],
        partition: Partition,
        cuts: Option<&Cuts>,
        source: &SourcePlan,
    ) -> Result<Swept> {
        let layout = &self.layout;
        let least = cuts.map_or(i64::MIN, Cuts::least_known_at);
        let late: Vec<bool> =
            views(blocks, layout)?.iter().map(|view| view.block.is_late(least)).collect();
        for (block, late) in blocks.iter_mut().zip(late) {
            block.need(block::TEXTS..block::TEXTS + layout.inputs.len())?;
            if late {
                block.need(block::INGESTED..block::INGESTED + 1)?;
            }
        }
        let (places, plain) = {
            let views = views(blocks, layout)?;
            let places = latest(&views);
            let is_plain = |place: &Place| is_plain(&views[place.block], place.customer, cuts);
            let plain: Vec<bool> = places.iter().map(is_plain).collect();
            (places, plain)
        };
        let others = places.iter().zip(&plain).filter(|(_, plain)| !**plain);
        let others: Vec<Place> = others.map(|(place, _)| *place).collect();
        self.load(blocks, &others)?;
        let views = views(blocks, layout)?;
        let latest = keyed(&views, &places);
        let create = source.orphans == Orphans::Create;
        let context = Context { zone: source.context.zone, scale: source.context.scale };
        sweep_kept(partition, &latest, &plain, views, layout, create, context)
    }

    /// Stages the new manifest, and says which files are not needed any more.
    fn publish(
        &mut self,
        transaction: &mut Transaction,
        segment: String,
        live: &HashSet<String>,
    ) -> Result<()> {
        let (kept, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.manifest.segments)
            .into_iter()
            .partition(|path| live.contains(path));
        self.manifest.segments = kept;
        self.manifest.segments.push(segment);
        self.manifest.rounds += 1;
        for path in self.unused.iter().chain(&left).chain(&self.before) {
            transaction.remove(path);
        }
        let name = format!("{FOLDER}/manifest-{:06}.json", transaction.generation());
        transaction.write_json(&name, &self.manifest)
    }
}

/// A block whose sections are read as they are needed.
struct Loaded<'a> {
    stored: Option<(&'a Segment, &'a BlockPlace)>,
    sections: Vec<Option<Vec<u8>>>,
    /// The details of some customers.
    details: BTreeMap<usize, Vec<u8>>,
}

impl<'a> Loaded<'a> {
    fn stored(segment: &'a Segment, place: &'a BlockPlace) -> Self {
        Self {
            stored: Some((segment, place)),
            sections: vec![None; place.sections()],
            details: BTreeMap::new(),
        }
    }

    fn new(sections: Vec<Vec<u8>>) -> Self {
        Self {
            stored: None,
            sections: sections.into_iter().map(Some).collect(),
            details: BTreeMap::new(),
        }
    }

    fn name(&self) -> Option<String> {
        self.stored.map(|(segment, _)| segment.relative.clone())
    }

    fn need(&mut self, sections: Range<usize>) -> Result<()> {
        let Some((segment, place)) = self.stored else { return Ok(()) };
        for index in sections {
            if self.sections.get(index).is_some_and(Option::is_none) {
                let read = segment.read(place, index)?;
                self.sections[index] = Some(read);
            }
        }
        Ok(())
    }

    /// Loads the details of some customers.
    fn need_details(&mut self, customers: &BTreeSet<usize>, layout: &Layout) -> Result<()> {
        let Some((segment, place)) = self.stored else { return Ok(()) };
        if self.sections.get(block::DETAILS).is_some_and(Option::is_some) {
            return Ok(());
        }
        let kept = self.view(layout)?.block;
        if customers.len() * 2 > kept.keys.len() {
            return self.need(block::DETAILS..block::DETAILS + 1);
        }
        let ranges: Vec<Range<usize>> =
            customers.iter().map(|index| kept.details(*index)).collect();
        let read = segment.read_ranges(place, block::DETAILS, &ranges)?;
        self.details.extend(customers.iter().copied().zip(read));
        Ok(())
    }

    fn damaged(&self) -> Error {
        self.stored.map_or_else(damaged, |(segment, _)| segment.damaged())
    }

    fn view(&self, layout: &Layout) -> Result<Kept<'_>> {
        let sections: Vec<Option<&[u8]>> = self.sections.iter().map(Option::as_deref).collect();
        let head = |index: usize| sections.get(index).copied().flatten().unwrap_or_default();
        let block = Block::read(head(block::CUSTOMERS), head(block::EVENTS), layout);
        let details = Details::read(&sections, &self.details, layout);
        match (block, details) {
            (Ok(block), Ok(details)) => Ok(Kept { block, details }),
            _ => Err(self.damaged()),
        }
    }
}

fn damaged() -> Error {
    Error::engine("a block of timelines")("it is not as it was written")
}

fn views<'a>(blocks: &'a [Loaded<'_>], layout: &Layout) -> Result<Vec<Kept<'a>>> {
    blocks.iter().map(|block| block.view(layout)).collect()
}

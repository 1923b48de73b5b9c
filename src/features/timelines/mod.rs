//! Kept timelines: the events that earlier runs have read, stored as sorted timelines.
//!
//! A run reads only the event files that are new or have changed, but its result is byte for byte the same as
//! if it had read all of them.
//!
//! Timelines are stored by shard in timeline files. A run writes one timeline file with the whole timeline of
//! every customer whose events have changed. The newest timeline of a customer is the valid one. Every run
//! also rewrites some of the shards completely, each shard in one of sixteen runs, so that older timeline
//! files are no longer needed.

mod manifest;
mod timeline_file;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use self::manifest::{Changes, FOLDER, KeptFile, Manifest};
use self::timeline_file::{BlockPlace, NewBlock, TimelineFile, TimelineFileWriter};
use super::events::{BuildReport, Events, ShardRows};
use super::plan::{AsOf, FeaturePlan};
use super::scanned::{derived, read};
use super::timeline::{
    Arrived, Block, Context, Details, Kept, KnownAts, Layout, Partition, Place, Records, Swept,
    block, is_plain, keyed, latest, merge, search, sweep_kept,
};
use crate::error::{Error, Result};
use crate::shard::{Shard, Shards};
use crate::sources::profile::Entities;
use crate::sources::{Orphans, SourcePlan};
use crate::store::{Root, Store, Transaction};

pub use self::manifest::reading;

/// The number of runs within which every shard is rewritten completely once.
const TURNS: u64 = 16;

/// The settings for keeping timelines.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// Whether to read all events again, even if timelines are kept.
    pub full: bool,
    /// The number of bytes of events that are kept in memory before they are spilled to disk.
    pub memory: u64,
    /// The shards of the store.
    pub shards: Shards,
}

/// The files and events that were read to bring the timelines up to date.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Refresh {
    /// The reason why all event files were read. None if only new or changed files were read.
    pub all_because: Option<String>,
    /// The number of event files of the source.
    pub files: usize,
    /// The number of files that were read because they are new or have changed.
    pub files_read: usize,
    /// The total length in bytes of the files that were read.
    pub bytes_read: u64,
    /// The number of rows of the files that were read.
    pub events_read: u64,
    /// The number of files that were read earlier and have been deleted or changed since.
    pub files_gone: usize,
    /// The number of customers whose timelines were written anew.
    pub customers_touched: u64,
}

/// The timelines of a store, and the events that are to be merged into them.
pub struct KeptTimelines {
    run: Run,
    records: Records,
    report: BuildReport,
}

impl KeptTimelines {
    /// Reads the event files that are new or have changed since the timelines of the store were written.
    ///
    /// `plans` determine what is kept of each event. Their as-ofs do not matter.
    ///
    /// # Errors
    /// A contract violation if the share of unusable rows is above the limit of the source. A configuration
    /// error if a timeline file is damaged.
    pub fn refresh(
        transaction: &Transaction,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        keeping: &Keeping,
    ) -> Result<Self> {
        let mut run = Run::prepare(transaction, source, plans, keeping)?;
        let records = Records::new(keeping.shards, keeping.memory, transaction.scratch())?;
        run.read(source, plans, &records)?;
        let report = run.report(records.spilled_bytes());
        report.check_rejected(source)?;
        Ok(Self { run, records, report })
    }

    /// The reason why the next refresh for `plans` would read all event files. None if it would not.
    pub fn unfit(
        store: &Store,
        root: &Root,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        keeping: &Keeping,
    ) -> Result<Option<String>> {
        let live = Manifest::live(store, root)?;
        let kept = live.as_ref().map(|(_, manifest)| manifest);
        Ok(unfit(kept, source, plans, &reading(source)?, keeping))
    }

    /// The files and events that were read.
    pub fn refreshed(&self) -> &Refresh {
        &self.run.refresh
    }

    /// Whether the timelines differ from those of the store.
    pub fn is_changed(&self) -> bool {
        self.run.is_changed()
    }

    /// A hash of the event files that may contain events visible at an as-of.
    pub fn visible_at(&self, as_of: AsOf) -> String {
        self.run.manifest.visible_at(as_of)
    }

    /// Prepares the events for computing `plans`. Their conditions and inputs must be among those given to
    /// [`KeptTimelines::refresh`].
    pub fn events<'a>(
        self,
        transaction: &mut Transaction,
        source: &'a SourcePlan,
        plans: &'a [FeaturePlan],
    ) -> Result<KeptEvents<'a>> {
        let Self { mut run, records, report } = self;
        let files = run.layout.files;
        run.layout = run.manifest.layout(source, plans);
        run.layout.files = files;
        let name = format!("{FOLDER}/{:06}.bin", transaction.generation());
        let writer = match run.is_changed() {
            true => Some(TimelineFileWriter::create(transaction.stage(&name)?)?),
            false => None,
        };
        let known_ats = KnownAts::of(&run.layout);
        let written = Mutex::default();
        let touched = AtomicU64::new(0);
        Ok(KeptEvents {
            run,
            source,
            plans,
            records,
            report,
            name,
            writer,
            known_ats,
            written,
            touched,
        })
    }
}

/// Events from kept timelines. The timelines of a shard are brought up to date when its rows are computed.
pub struct KeptEvents<'a> {
    run: Run,
    source: &'a SourcePlan,
    plans: &'a [FeaturePlan],
    records: Records,
    /// The numbers of events that were read and that are unusable.
    pub report: BuildReport,
    name: String,
    writer: Option<TimelineFileWriter>,
    known_ats: Option<KnownAts>,
    written: Mutex<Written>,
    touched: AtomicU64,
}

/// The state of writing the blocks of shards, which may be computed in any order.
#[derive(Default)]
struct Written {
    /// The next shard whose block is to be written. Blocks are written in the order of the shards.
    next: usize,
    /// The blocks that wait for those of earlier shards. None if nothing is to be written for a shard.
    waiting: BTreeMap<usize, Option<NewBlock>>,
    /// The older timeline files that still contain valid timelines.
    live: HashSet<String>,
}

impl Events for KeptEvents<'_> {
    fn shards(&self) -> Shards {
        self.records.shards()
    }

    fn shard(&self, shard: Shard, entities: &Entities) -> Result<ShardRows> {
        let partition = Partition::new(entities, self.records.take(shard)?);
        let done = self.run.shard(shard, partition, self.known_ats.as_ref(), self.source)?;
        self.touched.fetch_add(done.touched, Ordering::Relaxed);
        {
            let mut written =
                self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            written.live.extend(done.timeline_files);
            written.waiting.insert(shard.place(), done.block);
            while let Some(block) = {
                let next = written.next;
                written.waiting.remove(&next)
            } {
                written.next += 1;
                if let (Some(writer), Some(block)) = (&self.writer, block) {
                    writer.write(block);
                }
            }
        }
        derived(self.plans, done.swept, self.source.context.scale)
    }
}

impl KeptEvents<'_> {
    /// Stages the changes of the timelines with `transaction`. All shards must have been computed before.
    pub fn finish(self, transaction: &mut Transaction) -> Result<Refresh> {
        let Self { mut run, name, writer, written, touched, .. } = self;
        run.refresh.customers_touched = touched.into_inner();
        if let Some(writer) = writer {
            writer.finish()?;
            let written = written.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            run.publish(transaction, name, &written.live)?;
        }
        Ok(run.refresh)
    }
}

/// The reason why the kept timelines cannot be used to compute `plans`. None if they can.
fn unfit(
    kept: Option<&Manifest>,
    source: &SourcePlan,
    plans: &[FeaturePlan],
    reading: &str,
    keeping: &Keeping,
) -> Option<String> {
    let Some(kept) = kept else { return Some("there are no kept timelines yet".into()) };
    kept.unfit(source, plans, reading, keeping.shards)
}

/// The changes that one run makes to the timelines.
struct Run {
    layout: Layout,
    manifest: Manifest,
    /// The path of the live manifest.
    before: Option<String>,
    /// The timeline files, newest first.
    timeline_files: Vec<TimelineFile>,
    /// The live files of the timelines folder that are no longer used.
    unused: Vec<String>,
    changes: Changes,
    gone: HashSet<u32>,
    refresh: Refresh,
}

/// A shard whose timelines are up to date and for which all plans are computed.
struct Refreshed {
    swept: Swept,
    /// The block of the shard in the new timeline file.
    block: Option<NewBlock>,
    /// The number of customers whose timelines were written anew.
    touched: u64,
    /// The older timeline files that still contain valid timelines of the shard.
    timeline_files: Vec<String>,
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
            true => Some("--full".to_owned()),
            false => {
                let kept = live.as_ref().map(|(_, manifest)| manifest);
                unfit(kept, source, plans, &reading, keeping)
            }
        };
        let (before, kept) =
            live.map_or((None, None), |(path, manifest)| (Some(path), Some(manifest)));
        let mut unused = Vec::new();
        let manifest = match (kept, &unfit) {
            (Some(manifest), None) => manifest,
            (kept, _) => {
                // Conditions and inputs that other commands use continue to be kept. Otherwise every command
                // would read all events again.
                let still = kept.as_ref().filter(|kept| !keeping.full && kept.reading == reading);
                let layout = match still {
                    Some(kept) => kept.layout(source, plans),
                    None => Layout::new(plans, source.has_ingestion()),
                };
                unused.extend(transaction.root.below(FOLDER).map(str::to_owned));
                Manifest::new(&layout, reading, keeping.shards)
            }
        };
        let mut layout = manifest.layout(source, plans);
        layout.files = Some(manifest.next_file());
        let changes = manifest.changes(source)?;
        let open = |path: &String| TimelineFile::open(path, &transaction.store().file(path));
        let timeline_files =
            manifest.timeline_files.iter().rev().map(open).collect::<Result<_>>()?;
        let refresh = Refresh {
            all_because: unfit,
            files: source.table.files.len(),
            files_read: changes.new.len(),
            bytes_read: changes.new.iter().map(|(_, print)| print.bytes).sum(),
            files_gone: changes.gone.len(),
            ..Refresh::default()
        };
        Ok(Self {
            layout,
            before,
            timeline_files,
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

    /// Reads the files whose events are not kept, and scatters their events by shard.
    fn read(
        &mut self,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        records: &Records,
    ) -> Result<()> {
        let first = self.manifest.next_file();
        self.manifest.files.retain(|number, _| !self.gone.contains(number));
        if self.changes.new.is_empty() {
            return Ok(());
        }
        let mut new = source.clone();
        new.table.files = self.changes.new.iter().map(|(path, _)| path.clone()).collect();
        let reading = read(&new, plans, &self.layout, records)?;
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
        Ok(())
    }

    fn report(&self, spilled_bytes: u64) -> BuildReport {
        let mut rejected: BTreeMap<String, u64> = BTreeMap::new();
        for (reason, count) in self.manifest.files.values().flat_map(|file| &file.rejected) {
            *rejected.entry(reason.clone()).or_default() += count;
        }
        let events = self.manifest.files.values().map(|file| file.events).sum();
        BuildReport { events, rejected, spilled_bytes, ..BuildReport::default() }
    }

    /// The blocks that contain valid timelines of a shard, newest first.
    fn blocks(&self, shard: Shard) -> Vec<(&TimelineFile, &BlockPlace)> {
        let mut blocks = Vec::new();
        for timeline_file in &self.timeline_files {
            if let Some(block) = timeline_file.block(shard.place()) {
                blocks.push((timeline_file, block));
                if block.whole {
                    break;
                }
            }
        }
        blocks
    }

    /// Merges the new events of a shard into its timelines and computes all plans.
    fn shard(
        &self,
        shard: Shard,
        partition: Partition,
        known_ats: Option<&KnownAts>,
        source: &SourcePlan,
    ) -> Result<Refreshed> {
        let layout = &self.layout;
        let arrived = Arrived::new(partition, layout)?;
        let mut blocks: Vec<Loaded<'_>> = self
            .blocks(shard)
            .into_iter()
            .map(|(timeline_file, place)| Loaded::stored(timeline_file, place))
            .collect();
        let whole = blocks.is_empty() || (blocks.len() > 1 && self.is_turn(shard));
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
        let timeline_files = blocks.iter().filter_map(Loaded::name).collect();
        let swept = self.sweep(&mut blocks, arrived.into_partition(), known_ats, source)?;
        let new = blocks.into_iter().next().filter(|_| !touched.is_empty());
        let block = new.map(|new| NewBlock::new(shard.place(), whole, events, new.sections));
        let block = block.transpose()?;
        Ok(Refreshed { swept, block, touched: touched.len() as u64, timeline_files })
    }

    fn is_turn(&self, shard: Shard) -> bool {
        self.is_changed() && shard.place() as u64 % TURNS == self.manifest.rounds % TURNS
    }

    /// The sorted keys of the customers whose timelines must be written anew.
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

    /// Writes the timelines of the customers in `touched` as the sections of a block, and returns them with
    /// the number of events.
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

    /// Loads all sections that are needed to decode the customers at `places`.
    fn load(&self, blocks: &mut [Loaded<'_>], places: &[Place]) -> Result<()> {
        for (index, block) in blocks.iter_mut().enumerate() {
            if places.iter().any(|place| place.block == index) {
                block.need(block::INGESTED..block::INGESTED + 1)?;
                block.need(block::TEXTS..block::TEXTS + self.layout.inputs.len())?;
                block.need(block::DETAILS..block::DETAILS + 1)?;
            }
        }
        Ok(())
    }

    fn sweep(
        &self,
        blocks: &mut [Loaded<'_>],
        partition: Partition,
        known_ats: Option<&KnownAts>,
        source: &SourcePlan,
    ) -> Result<Swept> {
        let layout = &self.layout;
        let least = known_ats.map_or(i64::MIN, KnownAts::least_known_at);
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
            let is_plain = |place: &Place| is_plain(&views[place.block], place.customer, known_ats);
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

    /// Stages the new manifest and marks the files that are no longer needed for removal.
    fn publish(
        &mut self,
        transaction: &mut Transaction,
        timeline_file: String,
        live: &HashSet<String>,
    ) -> Result<()> {
        let (kept, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.manifest.timeline_files)
            .into_iter()
            .partition(|path| live.contains(path));
        self.manifest.timeline_files = kept;
        self.manifest.timeline_files.push(timeline_file);
        self.manifest.rounds += 1;
        for path in self.unused.iter().chain(&left).chain(&self.before) {
            transaction.remove(path);
        }
        let name = format!("{FOLDER}/manifest-{:06}.json", transaction.generation());
        transaction.write_json(&name, &self.manifest)
    }
}

/// A block whose sections are read on demand.
struct Loaded<'a> {
    stored: Option<(&'a TimelineFile, &'a BlockPlace)>,
    sections: Vec<Option<Vec<u8>>>,
}

impl<'a> Loaded<'a> {
    fn stored(timeline_file: &'a TimelineFile, place: &'a BlockPlace) -> Self {
        Self {
            stored: Some((timeline_file, place)),
            sections: vec![None; place.sections()],
        }
    }

    fn new(sections: Vec<Vec<u8>>) -> Self {
        Self { stored: None, sections: sections.into_iter().map(Some).collect() }
    }

    fn name(&self) -> Option<String> {
        self.stored.map(|(timeline_file, _)| timeline_file.relative.clone())
    }

    fn need(&mut self, sections: Range<usize>) -> Result<()> {
        let Some((timeline_file, place)) = self.stored else { return Ok(()) };
        for index in sections {
            if self.sections.get(index).is_some_and(Option::is_none) {
                let read = timeline_file.read(place, index)?;
                self.sections[index] = Some(read);
            }
        }
        Ok(())
    }

    fn damaged(&self) -> Error {
        self.stored.map_or_else(damaged, |(timeline_file, _)| timeline_file.damaged())
    }

    fn view(&self, layout: &Layout) -> Result<Kept<'_>> {
        let sections: Vec<Option<&[u8]>> = self.sections.iter().map(Option::as_deref).collect();
        let head = |index: usize| sections.get(index).copied().flatten().unwrap_or_default();
        let block = Block::read(head(block::CUSTOMERS), head(block::EVENTS), layout);
        let details = Details::read(&sections, layout);
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

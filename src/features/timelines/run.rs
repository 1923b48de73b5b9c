//! The changes that one run makes to the timelines of a store.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use super::loaded::{Loaded, damaged, views};
use super::manifest::{Changes, FOLDER, KeptFile, Live, Manifest, reading};
use super::timeline_file::{BlockPlace, NewBlock, TimelineFile};
use crate::error::Result;
use crate::features::events::BuildReport;
use crate::features::plan::FeaturePlan;
use crate::features::rejected::{self, RejectedRow};
use crate::features::scanned::read;
use crate::features::timeline::{
    Arrived, Context, Kept, KnownAts, Layout, Partition, Place, Records, Swept, block, is_plain,
    keyed, latest, merge, search, sweep_kept,
};
use crate::shard::{Shard, Shards};
use crate::sources::{Orphans, SourcePlan};
use crate::store::Transaction;
use crate::store::parquet::Writer;

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

/// The changes that one run makes to the timelines.
pub struct Run {
    /// What is kept of each event.
    pub layout: Layout,
    /// The manifest of the timelines, as it will be written.
    pub manifest: Manifest,
    /// The path of the live manifest.
    before: Option<String>,
    /// The timeline files, newest first.
    timeline_files: Vec<TimelineFile>,
    /// Whether nothing of the timelines that are live stays.
    anew: bool,
    changes: Changes,
    gone: HashSet<u32>,
    /// The rows that cannot be used, by the number of their file.
    rejected: BTreeMap<u32, Vec<RejectedRow>>,
    /// What was read.
    pub refresh: Refresh,
}

/// A shard whose timelines are up to date and for which all plans are computed.
pub struct Refreshed {
    /// The computed rows.
    pub swept: Swept,
    /// The block of the shard in the new timeline file.
    pub block: Option<NewBlock>,
    /// The number of customers whose timelines were written anew.
    pub touched: u64,
    /// The older timeline files that still contain valid timelines of the shard.
    pub timeline_files: Vec<String>,
}

impl Run {
    /// Finds out what has changed since the timelines were written.
    pub fn prepare(
        transaction: &Transaction,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        keeping: &Keeping,
    ) -> Result<Self> {
        let reading = reading(source)?;
        let live = Manifest::live(transaction.store(), &transaction.root)?;
        let unfit = match keeping.full {
            true => Some("--full".to_owned()),
            false => live.unfit(source, plans, &reading, keeping.shards),
        };
        let (before, kept) = match live {
            Live::Current(path, manifest) => (Some(path), Some(manifest)),
            Live::None | Live::OtherEncoding => (None, None),
            Live::Damaged(path) => {
                tracing::warn!("{} is damaged: all event files are read again", path.display());
                (None, None)
            }
        };
        let anew = kept.is_none() || unfit.is_some();
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
                Manifest::new(&layout, reading, keeping.shards)
            }
        };
        let mut layout = manifest.layout(source, plans);
        layout.files = Some(manifest.next_file());
        let changes = manifest.changes(source)?;
        let open = |path: &String| {
            TimelineFile::open(path, &transaction.store().file_in_parts(&transaction.root, path)?)
        };
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
            anew,
            gone: changes.gone.iter().copied().collect(),
            rejected: BTreeMap::new(),
            changes,
            manifest,
            refresh,
        })
    }

    /// Whether files are new, changed or gone.
    pub fn is_changed(&self) -> bool {
        self.refresh.files_read + self.gone.len() > 0
    }

    /// Reads the files whose events are not kept, and scatters their events by shard.
    pub fn read(
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
        let reading = read(&new, plans, &self.layout, records, None)?;
        self.refresh.events_read = reading.report.events;
        let new = std::mem::take(&mut self.changes.new);
        for (number, ((path, fingerprint), file)) in
            (first..).zip(new.into_iter().zip(reading.files))
        {
            let (first_event, first_ingested) = file.first;
            let (events, rejected) = (file.events, file.rejected);
            if !file.rows.is_empty() {
                self.rejected.insert(number, file.rows);
            }
            let file =
                KeptFile { path, fingerprint, events, rejected, first_event, first_ingested };
            self.manifest.files.insert(number, file);
        }
        Ok(())
    }

    /// Counts the events that were read and those that cannot be used.
    pub fn report(&self, spilled_bytes: u64) -> BuildReport {
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
    pub fn shard(
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
    pub fn publish(
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
        if self.anew {
            transaction.replace(FOLDER);
            transaction.replace(rejected::FOLDER);
        }
        self.gone.iter().for_each(|number| transaction.remove(&rejected::name(*number)));
        for (number, rows) in std::mem::take(&mut self.rejected) {
            let rows = rejected::table(&self.manifest.files[&number].path, rows)?;
            let file = transaction.stage(&rejected::name(number))?;
            Writer::stage(file, &rows.schema())?.write_only(&rows)?;
        }
        for path in left.iter().chain(&self.before) {
            transaction.remove(path);
        }
        let name = format!("{FOLDER}/manifest-{:06}.json", transaction.number());
        transaction.write_json(&name, &self.manifest)
    }
}

//! Kept timelines: the events that earlier runs have read, stored as sorted timelines.
//!
//! A run reads only the event files that are new or have changed, but its result is byte for byte the same as
//! if it had read all of them.
//!
//! Timelines are stored by shard in timeline files. A run writes one timeline file with the whole timeline of
//! every customer whose events have changed. The newest timeline of a customer is the valid one. Every run
//! also rewrites some of the shards completely, each shard in one of sixteen runs, so that older timeline
//! files are no longer needed.

mod loaded;
mod manifest;
mod run;
mod timeline_file;

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::manifest::reading;
pub use self::run::{Keeping, Refresh};

use self::manifest::{FOLDER, Manifest};
use self::run::Run;
use self::timeline_file::{NewBlock, TimelineFileWriter};
use super::events::{BuildReport, Events, ShardRows};
use super::plan::{AsOf, FeaturePlan};
use super::scanned::derived;
use super::timeline::{KnownAts, Partition, Records};
use crate::error::Result;
use crate::shard::{Shard, Shards};
use crate::sources::SourcePlan;
use crate::sources::profile::Entities;
use crate::store::{Root, Store, Transaction};

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
        let files = run.manifest.files.values().map(|file| (&file.path, &file.rejected));
        report.check_rejected(source, files)?;
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
        Ok(live.unfit(source, plans, &reading(source)?, keeping.shards))
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
        let name = format!("{FOLDER}/{:06}.bin", transaction.number());
        let writer = match run.is_changed() {
            true => Some(TimelineFileWriter::new(transaction.stage(&name)?)),
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

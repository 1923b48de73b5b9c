//! The manifest of the timelines: which event files were read, and how they were read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::expression::Expression;
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::rejected::REASONS;
use crate::features::timeline::Layout;
use crate::shard::Shards;
use crate::sources::SourcePlan;
use crate::sources::delta::DeltaTable;
use crate::sources::fingerprint::Fingerprint;
use crate::store::{Root, Store, StoreProblem, checksum};

/// The folder of the store that contains the timelines.
pub const FOLDER: &str = "timelines";
/// The version of the encoding of timeline files. Timelines can be made from the events again, so those in
/// another encoding are not read but replaced.
const ENCODING: u32 = 2;

/// The manifest of the timelines.
///
/// It lists the event files whose rows the timelines contain, and describes what is kept of each event.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format_version: u32,
    /// [`ENCODING`].
    encoding: u32,
    /// The conditions that are kept for each event, in the order of their bits.
    pub conditions: Vec<Expression>,
    /// The inputs that are kept for each event, in the order of their values.
    pub inputs: Vec<Expression>,
    /// For each input, whether it is a text that may appear in results.
    pub keeps_text: Vec<bool>,
    /// A hash of all other settings that the kept values depend on, from [`reading`].
    pub reading: String,
    /// The shards by which the timelines are grouped.
    pub shards: Shards,
    /// The event files by number. Each event carries the number of its file.
    pub files: BTreeMap<u32, KeptFile>,
    /// The timeline files in the store, oldest first.
    pub timeline_files: Vec<String>,
    /// The number of times that timelines were written since all events were last read.
    pub rounds: u64,
}

/// The live manifest of a store.
#[derive(Debug)]
pub enum Live {
    /// The store has no timelines.
    None,
    /// The timelines are in another encoding than [`ENCODING`].
    OtherEncoding,
    /// This file is damaged.
    Damaged(PathBuf),
    /// The path of the manifest in the store, and the manifest.
    Current(String, Manifest),
}

impl Live {
    /// The reason why the timelines cannot be used to compute `plans` with this number of shards. None if they
    /// can.
    pub fn unfit(
        &self,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        reading: &str,
        shards: Shards,
    ) -> Option<String> {
        match self {
            Self::None => Some("there are no kept timelines yet".into()),
            Self::OtherEncoding => {
                Some("the timelines are in the encoding of another version of c360-ml".into())
            }
            Self::Damaged(path) => Some(format!("{} is damaged", path.display())),
            Self::Current(_, manifest) => manifest.unfit(source, plans, reading, shards),
        }
    }
}

/// An event file whose events the timelines contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The fingerprint of the file at the time it was read.
    pub fingerprint: Fingerprint,
    /// The number of its rows.
    pub events: u64,
    /// The number of its unusable rows by reason.
    pub rejected: BTreeMap<String, u64>,
    /// The earliest event_ts of its events, in microseconds.
    pub first_event: i64,
    /// The earliest ingested_at of its events, in microseconds.
    pub first_ingested: i64,
}

/// The difference between the files that were read and the current files of the source.
#[derive(Debug, Default)]
pub struct Changes {
    /// The numbers of files that were deleted or changed since they were read.
    pub gone: BTreeSet<u32>,
    /// The files whose events the timelines do not contain.
    pub new: Vec<(PathBuf, Fingerprint)>,
}

impl Manifest {
    /// Creates a manifest without files.
    pub fn new(layout: &Layout, reading: String, shards: Shards) -> Self {
        Self {
            format_version: crate::store::FORMAT_VERSION,
            encoding: ENCODING,
            conditions: layout.conditions.clone(),
            inputs: layout.inputs.clone(),
            keeps_text: layout.keeps_text.clone(),
            reading,
            shards,
            files: BTreeMap::new(),
            timeline_files: Vec::new(),
            rounds: 0,
        }
    }

    /// Reads the live manifest of a store.
    pub fn live(store: &Store, root: &Root) -> Result<Live> {
        match Self::read(store, root) {
            Err(error) => match error.problem() {
                Some(StoreProblem::Damaged { path } | StoreProblem::NoManifest { path }) => {
                    Ok(Live::Damaged(path.clone()))
                }
                _ => Err(error),
            },
            live => live,
        }
    }

    fn read(store: &Store, root: &Root) -> Result<Live> {
        let names = store.below(root, FOLDER)?;
        let Some(path) = names.iter().find(|path| path.ends_with(".json")) else {
            return Ok(Live::None);
        };
        let value: serde_json::Value = store.read_json(root, path)?;
        let is_current = value.get("encoding").is_some_and(|encoding| *encoding == ENCODING);
        Ok(match is_current {
            true => Live::Current(path.to_owned(), store.read_json(root, path)?),
            false => Live::OtherEncoding,
        })
    }

    /// The reason why the kept events cannot be used to compute `plans` with this number of shards. None if
    /// they can.
    fn unfit(
        &self,
        source: &SourcePlan,
        plans: &[FeaturePlan],
        reading: &str,
        shards: Shards,
    ) -> Option<String> {
        if self.shards != shards {
            return Some(format!("there are {shards} shards now, and were {}", self.shards));
        }
        let layout = self.layout(source, plans);
        if self.reading != reading {
            return Some("the mapping or settings of the event source have changed, or which events can be used".into());
        }
        if layout.conditions.len() > self.conditions.len() || layout.keeps_text != self.keeps_text {
            return Some("a feature or model uses a condition or input that is not kept".into());
        }
        None
    }

    /// The layout for `plans` that has the kept conditions and inputs first.
    pub fn layout(&self, source: &SourcePlan, plans: &[FeaturePlan]) -> Layout {
        let (conditions, inputs) = (self.conditions.clone(), self.inputs.clone());
        Layout::beside(conditions, inputs, self.keeps_text.clone(), plans, source.has_ingestion())
    }

    /// The number that the next file gets.
    pub fn next_file(&self) -> u32 {
        self.files.last_key_value().map_or(0, |(number, _)| number + 1)
    }

    /// A hash of the files that may contain events visible at `as_of`.
    ///
    /// As long as the hash is the same, all features at this as-of are the same.
    pub fn visible_at(&self, as_of: AsOf) -> String {
        let sees = |file: &&KeptFile| {
            file.first_event < as_of.at.0 && file.first_ingested < as_of.known_at.0
        };
        let mut files: Vec<String> = self
            .files
            .values()
            .filter(sees)
            .map(|file| {
                let Fingerprint { bytes, footer, .. } = &file.fingerprint;
                format!("{} {bytes} {footer}", file.path.display())
            })
            .collect();
        files.sort_unstable();
        files.push(self.reading.clone());
        checksum(files.join("\n").as_bytes())
    }

    /// Compares the files that were read with the current files of `source`.
    pub fn changes(&self, source: &SourcePlan) -> Result<Changes> {
        let there: Vec<(PathBuf, Fingerprint)> = source
            .table
            .files
            .par_iter()
            .map(|path| Ok((path.clone(), source.table.fingerprint(path)?)))
            .collect::<Result<_>>()?;
        let read: HashMap<&PathBuf, (u32, &Fingerprint)> = self
            .files
            .iter()
            .map(|(number, file)| (&file.path, (*number, &file.fingerprint)))
            .collect();
        let mut changes = Changes { gone: self.files.keys().copied().collect(), new: Vec::new() };
        for (path, fingerprint) in there {
            match read.get(&path) {
                Some((number, known)) if **known == fingerprint => {
                    changes.gone.remove(number);
                }
                _ => changes.new.push((path, fingerprint)),
            }
        }
        Ok(changes)
    }
}

/// A hash of all settings that the kept values of events depend on, in addition to conditions and inputs.
///
/// These are the mapping of the canonical columns, where the columns of a Delta table are, the lookup tables, the time
/// zone, the scale, the currency, and whether ingestion times are respected.
pub fn reading(source: &SourcePlan) -> Result<String> {
    let mut text = serde_json::to_string(&source.mapping).unwrap_or_default();
    let context = &source.context;
    text += &format!("{} {} {}", context.zone.name(), context.scale.places(), context.currency);
    text += &format!(" {} {REASONS:?}", source.has_ingestion());
    text += &source.table.delta.as_ref().map(DeltaTable::places).unwrap_or_default();
    for lookup in &source.lookups {
        text += &format!(" {} {} {}", lookup.name, lookup.key, lookup.on);
        for path in &lookup.table.files {
            text += &lookup.table.hash_of(path)?;
        }
    }
    Ok(checksum(text.as_bytes()))
}

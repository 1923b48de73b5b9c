//! What a store has read of the event files, and what it was read as.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::expression::Expression;
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::timeline::Layout;
use crate::shard::Shards;
use crate::sources::SourcePlan;
use crate::sources::files::Fingerprint;
use crate::store::{Root, Store};

/// The folder of the store that has the timelines.
pub const FOLDER: &str = "timelines";

/// The event files whose rows the timelines have, and as what they were read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format_version: u32,
    /// What is kept of each event, in the order of its bits and values.
    pub conditions: Vec<Expression>,
    /// The inputs, likewise.
    pub inputs: Vec<Expression>,
    /// By input: whether its texts are kept so that they can leave a sweep.
    #[serde(alias = "spoken")]
    pub keeps_text: Vec<bool>,
    /// A hash of all else that the kept values depend on.
    pub reading: String,
    /// The shards that they are kept by.
    pub shards: Shards,
    /// The files, by the number that the events of each carry.
    pub files: BTreeMap<u32, KeptFile>,
    /// The timeline files in the store, oldest first.
    #[serde(alias = "segments")]
    pub timeline_files: Vec<String>,
    /// How often timelines were written since all events were read.
    pub rounds: u64,
}

/// A file whose events the timelines have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its path.
    pub path: PathBuf,
    /// What it was when it was read.
    pub fingerprint: Fingerprint,
    /// Its rows.
    pub events: u64,
    /// Rows that cannot be used, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// When the first of its events happened, in microseconds.
    pub first_event: i64,
    /// When the first of its events was ingested, in microseconds.
    pub first_ingested: i64,
}

/// What differs between the files that were read and those that are there.
#[derive(Debug, Default)]
pub struct Changes {
    /// Numbers of files that are not there any more as they were.
    pub gone: BTreeSet<u32>,
    /// Files whose events the timelines do not have.
    pub new: Vec<(PathBuf, Fingerprint)>,
}

impl Manifest {
    /// A manifest of nothing read yet.
    pub fn new(layout: &Layout, reading: String, shards: Shards) -> Self {
        Self {
            format_version: crate::store::FORMAT_VERSION,
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

    /// The manifest that is live, and its path in the store.
    pub fn live(store: &Store, root: &Root) -> Result<Option<(String, Self)>> {
        let is_manifest = |path: &&str| path.ends_with(".json");
        let Some(path) = root.below(FOLDER).find(is_manifest) else { return Ok(None) };
        // One without a number of shards is of a time when timelines were split by another hash.
        let value: serde_json::Value = store.read_json(path)?;
        if value.get("shards").is_none() {
            return Ok(None);
        }
        Ok(Some((path.to_owned(), store.read_json(path)?)))
    }

    /// Why the kept events cannot serve `plans` in so many shards; None where they can.
    pub fn unfit(
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
            return Some("the events are read in another way than before".into());
        }
        if layout.conditions.len() > self.conditions.len() || layout.keeps_text != self.keeps_text {
            return Some("a feature looks at what was not kept of the events".into());
        }
        None
    }

    /// A layout that has the kept bits and values first.
    pub fn layout(&self, source: &SourcePlan, plans: &[FeaturePlan]) -> Layout {
        let (conditions, inputs) = (self.conditions.clone(), self.inputs.clone());
        Layout::beside(conditions, inputs, self.keeps_text.clone(), plans, source.has_ingestion())
    }

    /// The number of the next file.
    pub fn next_file(&self) -> u32 {
        self.files.last_key_value().map_or(0, |(number, _)| number + 1)
    }

    /// A hash of the files that may have events visible at `as_of`. As long as it is the same, so is every
    /// feature at that as-of.
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
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(files.join("\n").as_bytes()))
    }

    /// Compares the files that were read with those of `source`.
    pub fn changes(&self, source: &SourcePlan) -> Result<Changes> {
        let there: Vec<(PathBuf, Fingerprint)> = source
            .table
            .files
            .par_iter()
            .map(|path| Ok((path.clone(), Fingerprint::of(path)?)))
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

/// A hash of all that the kept values of events depend on beside conditions and inputs: what the
/// canonical columns mean, the lookup tables, zone, scale and currency.
pub fn reading(source: &SourcePlan) -> Result<String> {
    let mut text = serde_json::to_string(&source.mapping).unwrap_or_default();
    let context = &source.context;
    text += &format!("{} {} {}", context.zone.name(), context.scale.places(), context.currency);
    text += &format!(" {}", source.has_ingestion());
    for lookup in &source.lookups {
        text += &format!(" {} {} {}", lookup.name, lookup.key, lookup.on);
        for path in &lookup.table.files {
            let hash = std::fs::File::open(path).and_then(crate::store::hash);
            text += &hash.map_err(crate::error::Error::io("read", path))?.1;
        }
    }
    Ok(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes())))
}

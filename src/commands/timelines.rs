//! The data on events that a store keeps for later runs: their timelines, and the facts that the contract
//! needs from each event file.

use std::collections::HashMap;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::plan::FeaturePlan;
use crate::features::timelines::{Keeping, KeptTimelines, Refresh, reading};
use crate::report::thousands;
use crate::scoring::plans::plans_of;
use crate::shard::Shards;
use crate::sources::SourcePlan;
use crate::sources::contract::EventFacts;
use crate::sources::fingerprint::Fingerprint;
use crate::sources::footers::Footers;
use crate::store::{FORMAT_VERSION, Root, Store, Transaction};

/// Reads new event files into the timelines. The timelines keep what the plans `asked` need and what any
/// other command of the project would need. With `full`, or where the kept timelines are damaged, all event files are
/// read again.
pub fn refresh(
    project: &Project,
    transaction: &mut Transaction,
    shards: Shards,
    asked: &[FeaturePlan],
    full: bool,
) -> Result<KeptTimelines> {
    let footers = &project.events.table.footers;
    if *footers != *project.events.context.footers {
        transaction.write_page(Footers::OBJECT, footers.to_json()?);
    }
    let plans = wanted(project, asked);
    let full = full || project.reread;
    let keeping = Keeping { full, memory: project.memory / super::EVENTS_SHARE, shards };
    KeptTimelines::refresh(transaction, &project.events, &plans, &keeping)
}

/// Returns the reason why the next [`refresh`] would read all events, or None if it would not.
pub fn unfit(
    project: &Project,
    store: &Store,
    root: &Root,
    asked: &[FeaturePlan],
) -> Result<Option<String>> {
    let plans = wanted(project, asked);
    let shards = super::shards(project, &mut root.clone());
    let keeping = Keeping { full: false, memory: project.memory / super::EVENTS_SHARE, shards };
    KeptTimelines::unfit(store, root, &project.events, &plans, &keeping)
}

/// Collects all plans that need events: those of a command, of the catalog and of the project's models.
fn wanted(project: &Project, asked: &[FeaturePlan]) -> Vec<FeaturePlan> {
    let mut plans = plans_of(&project.catalog, &project.models, &project.events);
    plans.extend(asked.iter().cloned());
    plans
}

/// Renders what was read as text.
pub fn sentences(refresh: &Refresh) -> String {
    let Refresh { files, files_read, events_read, .. } = *refresh;
    let mut text = format!(
        "{} of {} event files read, {} events\n",
        thousands(files_read as u64),
        thousands(files as u64),
        thousands(events_read)
    );
    if let Some(reason) = &refresh.all_because {
        text += &format!("all of them, because {reason}\n");
    }
    text
}

/// The folder of the store that holds the known facts of event files.
const FOLDER: &str = "contract";

/// The known facts of event files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFacts {
    format_version: u32,
    /// A hash of the meaning of the columns.
    reading: String,
    files: Vec<(PathBuf, Fingerprint, EventFacts)>,
}

/// Returns the contract's facts of each event file, in the order of the source's files. Only files without
/// known facts are read, and the store keeps their facts.
pub fn facts(project: &Project, transaction: &mut Transaction) -> Result<Vec<EventFacts>> {
    let Facts { files, reading, kept } = found(project, transaction.store(), &transaction.root)?;
    let facts = files.iter().map(|(_, _, facts)| facts.clone()).collect();
    if !kept {
        let before = transaction.store().below(&transaction.root, FOLDER)?;
        before.iter().for_each(|path| transaction.remove(path));
        let name = format!("{FOLDER}/events-{:06}.json", transaction.number());
        let kept = KeptFacts { format_version: FORMAT_VERSION, reading, files };
        let text = serde_json::to_string(&kept).map_err(Error::engine("writing JSON"))?;
        transaction.write_text(&name, &text)?;
    }
    Ok(facts)
}

/// Returns the same facts, but keeps none.
pub fn known_facts(project: &Project, store: &Store, root: &Root) -> Result<Vec<EventFacts>> {
    let Facts { files, .. } = found(project, store, root)?;
    Ok(files.into_iter().map(|(_, _, facts)| facts).collect())
}

/// The facts of all files of a source.
struct Facts {
    files: Vec<(PathBuf, Fingerprint, EventFacts)>,
    reading: String,
    /// Whether the store keeps exactly these.
    kept: bool,
}

fn found(project: &Project, store: &Store, root: &Root) -> Result<Facts> {
    let source = &project.events;
    let reading = reading(source)?;
    // Facts that cannot be read are computed again.
    let names = store.below(root, FOLDER)?;
    let known = names.first().and_then(|path| store.read_json::<KeptFacts>(root, path).ok());
    let known =
        known.filter(|known| known.reading == reading && known.format_version == FORMAT_VERSION);
    let known = known.map_or_else(Vec::new, |known| known.files);
    let by_path: HashMap<&PathBuf, (&Fingerprint, &EventFacts)> =
        known.iter().map(|(path, print, facts)| (path, (print, facts))).collect();
    let look = |path: &PathBuf| -> Result<_> {
        let print = source.table.fingerprint(path)?;
        let facts = by_path.get(path).filter(|(known, _)| **known == print);
        Ok((path.clone(), print, facts.map(|(_, facts)| (*facts).clone())))
    };
    let found: Vec<_> = source.table.files.par_iter().map(look).collect::<Result<_>>()?;
    let new = found.iter().filter(|(_, _, facts)| facts.is_none());
    let new: Vec<PathBuf> = new.map(|(path, ..)| path.clone()).collect();
    let is_changed = !new.is_empty() || found.len() != known.len();
    let mut read = read(source, new)?.into_iter();
    let whole = |(path, print, facts): (PathBuf, Fingerprint, Option<EventFacts>)| {
        (path, print, facts.or_else(|| read.next()).unwrap_or_default())
    };
    let files: Vec<_> = found.into_iter().map(whole).collect();
    Ok(Facts { files, reading, kept: !is_changed })
}

fn read(source: &SourcePlan, files: Vec<PathBuf>) -> Result<Vec<EventFacts>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let mut source = source.clone();
    source.table.files = files;
    EventFacts::of_files(&source)
}

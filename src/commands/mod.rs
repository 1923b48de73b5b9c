//! The commands of the command line, one file each. Every function follows its data flow.

pub mod adopt;
pub mod audit;
pub mod build;
mod champions;
pub mod config;
pub mod datasets;
pub mod dry_run;
pub mod explain;
pub mod export;
pub mod features;
pub mod forget;
pub mod history;
pub mod init;
pub mod join;
mod lineage;
pub mod members;
pub mod models;
pub mod pages;
mod previous;
mod problem;
mod published;
pub mod push;
mod quality;
pub mod record;
pub mod registry;
pub mod report;
pub mod run;
pub mod schema;
pub mod score;
pub mod segments;
pub mod show;
pub mod simulate;
mod timelines;
pub mod train;
pub mod validate;
mod views;

pub use self::problem::CommandProblem;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::config::Project;
use crate::error::Result;
use crate::features::plan::AsOf;
use crate::features::scanned::Reading;
use crate::shard::Shards;
use crate::sources::files::RawTable;
use crate::sources::fingerprint::{Fingerprint, hash_of};
use crate::sources::forgotten::Forgotten;
use crate::sources::profile::Scattering;
use crate::store::{Root, Store, Transaction, checksum};
use crate::time::Instant;

/// Reads the clock.
fn now() -> Instant {
    Instant(chrono::Utc::now().timestamp_micros())
}

/// Begins a run that reads the sources.
///
/// # Errors
/// Returns [`CommandProblem::ForgottenMeanwhile`] if other customers were forgotten when the project was read.
fn begin(project: &Project, store: &Store, command: &str) -> Result<Transaction> {
    let transaction = store.begin(command, now)?;
    let forgotten = Forgotten::load(store, &transaction.root)?;
    match forgotten.is_same(&project.context().forgotten) {
        true => Ok(transaction),
        false => Err(CommandProblem::ForgottenMeanwhile.into()),
    }
}

/// The as-of and the known-at of a run.
fn as_of(project: &Project) -> Result<AsOf> {
    let at = project.as_of()?;
    Ok(AsOf { at, known_at: project.known_at.unwrap_or(at) })
}

/// The shards of a run. The root that the run publishes keeps their number.
fn shards(project: &Project, root: &mut Root) -> Shards {
    let (events, customers) = (project.events.table.rows, project.profile.table.rows);
    root.choose_shards(project.settings.project.shards, events, customers)
}

/// The settings for reading event files.
fn reading<'a>(project: &Project, shards: Shards, folder: &'a Path) -> Reading<'a> {
    Reading { shards, memory: project.memory / EVENTS_SHARE, folder }
}

/// The settings for scattering the profile by shard, for a run that needs the customers at some instants.
fn scattering<'a>(
    project: &Project,
    shards: Shards,
    folder: &'a Path,
    instants: &'a [Instant],
) -> Scattering<'a> {
    Scattering { shards, memory: project.memory / PROFILE_SHARE, folder, instants }
}

/// The share of the memory that events may take before they go to disk.
const EVENTS_SHARE: u64 = 8;
/// The share of the memory that rows of the profile may take before they go to disk. The rest is for the
/// shards that are computed.
const PROFILE_SHARE: u64 = 16;

/// Computes a hash of the bytes of all source files and of the columns that the names of their folders give,
/// in the order of the files.
fn data_fingerprint(project: &Project) -> Result<String> {
    fingerprint(project, |path| hash_of(path))
}

/// Computes a hash as [`data_fingerprint`] does, but without reading the events: an event file contributes
/// its length, its modification time and its footer.
fn files_fingerprint(project: &Project) -> Result<String> {
    fingerprint(project, |path| {
        let print = project.events.table.fingerprint(path)?;
        let Fingerprint { bytes, modified, footer } = print;
        Ok(format!("{bytes} {modified} {footer}"))
    })
}

fn fingerprint(
    project: &Project,
    event_file: impl Fn(&PathBuf) -> Result<String> + Sync,
) -> Result<String> {
    let (profile, events) = (&project.profile.table, &project.events.table);
    let lookups = project.events.lookups.iter().map(|lookup| &lookup.table);
    let offered = project.models.affinity.iter().flat_map(|model| &model.offer.items);
    let offered = offered.map(|items| &items.table);
    let files = std::iter::once(profile).chain(lookups).chain(offered);
    let files = files.flat_map(|table| table.files.iter().map(move |path| (table, path)));
    let files: Vec<(&RawTable, &PathBuf)> = files.collect();
    let mut hashes: Vec<String> =
        files.into_par_iter().map(|(table, path)| table.hash_of(path)).collect::<Result<_>>()?;
    let event_files = events.files.par_iter();
    let event_files = event_files.map(|path| Ok(event_file(path)? + &events.said_of(path)?));
    hashes.extend(event_files.collect::<Result<Vec<_>>>()?);
    Ok(checksum(hashes.concat().as_bytes()))
}

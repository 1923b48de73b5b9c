//! The verbs of the command line, one file each; every function reads as its data flow.

pub mod build;
pub mod explain;
pub mod export;
pub mod features;
pub mod join;
mod lineage;
pub mod models;
mod previous;
mod published;
pub mod push;
mod quality;
pub mod registry;
pub mod report;
pub mod run;
pub mod schema;
pub mod score;
pub mod segments;
pub mod simulate;
mod snapshot;
pub mod train;
pub mod validate;

use std::path::PathBuf;

use serde::Serialize;

use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::embedded::EmbeddedEngine;
use crate::features::engine::BuildReport;
use crate::features::plan::AsOf;
use crate::report::{Progress, Stage};
use crate::store::Transaction;

/// What a run leaves beside its data: the only file that a clock or a host has touched.
#[derive(Debug, Serialize)]
struct Manifest<'a> {
    format_version: u32,
    run: &'a str,
    command: &'a str,
    as_of: AsOf,
    binary: &'static str,
    finished_at: String,
    stages: &'a [Stage],
    data_fingerprint: &'a str,
    project_fingerprint: &'a str,
    events: &'a BuildReport,
    #[serde(flatten)]
    inputs: serde_json::Value,
}

/// The as-of and known-at of a run.
fn as_of(project: &Project) -> Result<AsOf> {
    let at = project.as_of()?;
    Ok(AsOf { at, known_at: project.known_at.unwrap_or(at) })
}

fn engine(project: &Project, transaction: &Transaction) -> EmbeddedEngine {
    EmbeddedEngine::new(project.memory, transaction.scratch().to_owned())
}

/// The name of the run that `transaction` publishes.
fn run_id(transaction: &Transaction, command: &str) -> String {
    format!("{:06}-{command}", transaction.generation())
}

#[expect(clippy::too_many_arguments, reason = "what a manifest says")]
fn write_manifest(
    transaction: &mut Transaction,
    project: &Project,
    command: &'static str,
    as_of: AsOf,
    data: &str,
    events: &BuildReport,
    inputs: serde_json::Value,
    progress: &mut Progress,
) -> Result<String> {
    progress.finish();
    let run = run_id(transaction, command);
    let manifest = Manifest {
        format_version: crate::store::FORMAT_VERSION,
        run: &run,
        command,
        as_of,
        binary: env!("CARGO_PKG_VERSION"),
        finished_at: chrono::Utc::now().to_rfc3339(),
        stages: &progress.stages,
        data_fingerprint: data,
        project_fingerprint: &project.fingerprint,
        events,
        inputs,
    };
    transaction.write_json(&format!("runs/{run}/manifest.json"), &manifest)?;
    Ok(run)
}

/// A hash of the bytes of all source files and of the columns that their folders' names give, in
/// the order of their names.
fn data_fingerprint(project: &Project) -> Result<String> {
    use rayon::prelude::*;
    let lookups = project.events.lookups.iter().flat_map(|lookup| &lookup.table.files);
    let offered = project.models.affinity.iter().flat_map(|model| &model.offer.items);
    let offered = offered.flat_map(|items| &items.table.files);
    let files: Vec<&PathBuf> = project
        .profile
        .table
        .files
        .iter()
        .chain(&project.events.table.files)
        .chain(lookups)
        .chain(offered)
        .collect();
    let hashes: Vec<String> = files
        .into_par_iter()
        .map(|path| {
            let hash = std::fs::File::open(path).and_then(crate::store::hash);
            let folders = crate::sources::files::hive_columns(path);
            hash.map(|(_, hash)| format!("{hash}{folders:?}")).map_err(Error::io("read", path))
        })
        .collect::<Result<_>>()?;
    Ok(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(hashes.concat().as_bytes())))
}

//! The record of a run, also of one that failed.

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::events::BuildReport;
use crate::features::plan::AsOf;
use crate::report::{Progress, Stage};
use crate::store::{FORMAT_VERSION, Store, Transaction};

/// What the records of all runs have. They are the only written files that depend on the clock or the host.
#[derive(Debug, Serialize)]
struct Head<'a> {
    format_version: u32,
    run: &'a str,
    command: &'a str,
    /// `published` or `failed`.
    outcome: &'static str,
    /// The UUID of the call, as its log lines and its lineage have it.
    run_id: &'a str,
    /// The trace that the call was a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    binary: &'static str,
    finished_at: String,
    stages: &'a [Stage],
}

impl<'a> Head<'a> {
    fn new(run: &'a str, command: &'a str, outcome: &'static str, progress: &'a Progress) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            run,
            command,
            outcome,
            run_id: &progress.identity.id,
            trace_id: progress.identity.trace.as_deref(),
            binary: env!("CARGO_PKG_VERSION"),
            finished_at: chrono::Utc::now().to_rfc3339(),
            stages: &progress.stages,
        }
    }
}

/// The record of a run that has published.
#[derive(Debug, Serialize)]
struct Manifest<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    as_of: AsOf,
    data_fingerprint: &'a str,
    project_fingerprint: &'a str,
    events: &'a BuildReport,
    #[serde(flatten)]
    inputs: Value,
}

/// The facts of a run that its manifest names.
#[derive(Debug, Clone, Copy)]
pub struct RunRecord<'a> {
    /// The project.
    pub project: &'a Project,
    /// The as-of and the known-at; the last ones of a run with many.
    pub as_of: AsOf,
    /// The fingerprint of the data.
    pub data: &'a str,
    /// What was read of the events.
    pub events: &'a BuildReport,
}

impl RunRecord<'_> {
    /// Ends the last stage and writes the manifest of the run that `transaction` publishes. `inputs` are the
    /// fields that only this kind of run has. Returns the name of the run.
    pub fn write(
        &self,
        transaction: &mut Transaction,
        command: &str,
        inputs: Value,
        progress: &mut Progress,
    ) -> Result<String> {
        progress.finish();
        let run = run_id(transaction, command);
        let manifest = Manifest {
            head: Head::new(&run, command, "published", progress),
            as_of: self.as_of,
            data_fingerprint: self.data,
            project_fingerprint: &self.project.fingerprint,
            events: self.events,
            inputs,
        };
        transaction.write_json(&format!("runs/{run}/manifest.json"), &manifest)?;
        Ok(run)
    }
}

/// Writes the record of a run that failed, beside what is live in the store. `gc` removes it when it is old. A store in
/// which nothing was published stays as it is.
///
/// # Errors
/// Returns an error if the store cannot be read or written.
pub fn write_failed(
    store: &Store,
    command: &str,
    error: &Error,
    progress: &mut Progress,
) -> Result<()> {
    progress.finish();
    let root = store.root()?;
    if root.number == 0 {
        return Ok(());
    }
    let at = chrono::Utc::now().format("%Y%m%dT%H%M%S");
    let command = command.replace(' ', "-");
    let id = &progress.identity.id;
    let mark = &id[id.len().saturating_sub(8)..];
    let run = format!("{at}-{command}-{:06}-{mark}", root.number);
    let mut record = serde_json::to_value(Head::new(&run, &command, "failed", progress))
        .map_err(Error::engine("writing JSON"))?;
    record["root"] = json!(root.number);
    record["error"] = error.json();
    let text = format!("{record:#}\n");
    store.write_beside(&format!("runs/failed/{run}.json"), |path| {
        std::fs::write(path, &text).map_err(Error::io("write", path))
    })
}

/// The name of the run that `transaction` publishes.
pub fn run_id(transaction: &Transaction, command: &str) -> String {
    format!("{:06}-{command}", transaction.number())
}

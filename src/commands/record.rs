//! The manifest of a run.

use serde::Serialize;

use crate::config::Project;
use crate::error::Result;
use crate::features::events::BuildReport;
use crate::features::plan::AsOf;
use crate::report::{Progress, Stage};
use crate::store::{FORMAT_VERSION, Transaction};

/// The content of a manifest. It is the only written file that depends on the clock or the host.
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
        inputs: serde_json::Value,
        progress: &mut Progress,
    ) -> Result<String> {
        progress.finish();
        let run = run_id(transaction, command);
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            run: &run,
            command,
            as_of: self.as_of,
            binary: env!("CARGO_PKG_VERSION"),
            finished_at: chrono::Utc::now().to_rfc3339(),
            stages: &progress.stages,
            data_fingerprint: self.data,
            project_fingerprint: &self.project.fingerprint,
            events: self.events,
            inputs,
        };
        transaction.write_json(&format!("runs/{run}/manifest.json"), &manifest)?;
        Ok(run)
    }
}

/// The name of the run that `transaction` publishes.
pub fn run_id(transaction: &Transaction, command: &str) -> String {
    format!("{:06}-{command}", transaction.number())
}

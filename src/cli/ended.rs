//! Tells how a command ended: to the store if it failed, and to Prometheus.

use std::path::Path;

use clap::ArgMatches;

use super::arguments::Global;
use crate::commands::record::write_failed;
use crate::config::Project;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::report::prometheus::{Ended, text};
use crate::report::{Output, Progress};
use crate::store::staged::replace;
use crate::time::Instant;

/// The name of the command that was called, such as `features build`.
pub(super) fn name_of(matches: &ArgMatches) -> String {
    let mut names = Vec::new();
    let mut matches = matches;
    while let Some((name, own)) = matches.subcommand() {
        names.push(name);
        matches = own;
    }
    names.join(" ")
}

/// Records a run that failed in the store of the project. A project whose store is not known has no place for it.
pub(super) fn record_failure(
    global: &Global,
    command: &str,
    error: &Error,
    progress: &mut Progress,
) -> Result<()> {
    let Ok((store, access)) = Project::open_store(&global.project, &global.overrides()) else {
        return Ok(());
    };
    super::restrict(access);
    write_failed(&store, command, error, progress)
}

/// Writes how a command ended to a file, which everybody may read: it has counts and no customer.
pub(super) fn write(
    file: &Path,
    command: &str,
    outcome: &Result<(Output, Exit)>,
    took: std::time::Duration,
) -> Result<()> {
    // A file that cannot be read says nothing of an earlier run.
    let before = std::fs::read_to_string(file).unwrap_or_default();
    let ended = Ended {
        command,
        exit_code: outcome.as_ref().map_or_else(Error::exit_code, |(_, exit)| exit.code()),
        seconds: took.as_secs_f64(),
        at: Instant(chrono::Utc::now().timestamp_micros()),
        output: outcome.as_ref().ok().map(|(output, _)| &output.json),
    };
    replace(file, text(&ended, &before)?.as_bytes())?;
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(file, mode).map_err(Error::io("write", file))?;
    }
    Ok(())
}

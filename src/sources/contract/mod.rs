//! The contract of the sources, checked on footers and data and reported by `validate`.

mod events;
mod history;
mod profile;

pub use events::{EventFacts, check_events, events_from, first_event, history};
pub use history::History;
pub use profile::{ProfileFacts, check_profile};
use serde::{Deserialize, Serialize};

use super::files::RawTable;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The check passed.
    Ok,
    /// The finding should be looked at, but a run continues.
    Warning,
    /// The contract is violated, and a run would stop with exit code 3.
    Violation,
}

/// One line of the report of `validate`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The name of the source, `profile` or `events`.
    pub source: String,
    /// The name of the check.
    pub check: String,
    /// The finding as text.
    pub found: String,
    /// The outcome of the check.
    pub status: Status,
    /// A hint about what can be done. It is empty if the check passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// Collects the checks of one source.
pub struct Checks {
    source: &'static str,
    /// The checks collected so far.
    pub list: Vec<Check>,
}

impl Checks {
    /// Creates an empty list of checks for `source`.
    pub fn new(source: &'static str) -> Self {
        Self { source, list: Vec::new() }
    }

    /// Adds a check. The hint is dropped if the check passed.
    pub fn add(
        &mut self,
        check: impl Into<String>,
        found: impl ToString,
        status: Status,
        hint: &str,
    ) {
        let hint = if status == Status::Ok { String::new() } else { hint.to_owned() };
        let (check, found) = (check.into(), found.to_string());
        self.list.push(Check { source: self.source.to_owned(), check, found, status, hint });
    }

    /// Adds where the rows of a source are, and the columns that not all of its files have, or not in the same type:
    /// they can be read, but somebody should know.
    pub fn files(&mut self, table: &RawTable) {
        if let Some(delta) = &table.delta {
            self.add("version of the Delta table", delta.version, Status::Ok, "");
        }
        self.add("files", table.files.len(), Status::Ok, "");
        for drifted in &table.drifted {
            let check = format!("{}: differs between files", drifted.column);
            let hint = "it is read in the widest type, and is null in files without it";
            self.add(check, drifted, Status::Warning, hint);
        }
    }

    /// Adds a count that should be zero. Any other count gets the status `otherwise`.
    pub fn count(&mut self, check: impl Into<String>, count: u64, otherwise: Status, hint: &str) {
        let status = if count == 0 { Status::Ok } else { otherwise };
        self.add(check, count, status, hint);
    }
}

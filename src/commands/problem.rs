//! The reasons for which a command cannot do what it is asked to.

use std::path::PathBuf;

use crate::error::Problem;
use crate::exit::Exit;
use crate::time::{Duration, Instant};

/// An argument that does not fit the store, or a store that lacks what a command needs.
#[derive(Debug, thiserror::Error)]
pub enum CommandProblem {
    #[error("there is no customer at {at}{}", begin(first_event))]
    NoCustomers { at: Instant, first_event: Option<Instant> },
    #[error("--from {from} --to {to} --every {every} names no as-of")]
    NoAsOfs { from: Instant, to: Instant, every: Duration },
    #[error("--from {from} --to {to} --every {every} names over {most} as-ofs")]
    ManyAsOfs { from: Instant, to: Instant, every: Duration, most: usize },
    #[error("no version of {} was trained by {at} with what was known {}", models.join(", "), by(known_at))]
    NoVersions { models: Vec<String>, at: Instant, known_at: Option<Instant> },
    #[error("a new version did not pass its gate, and there is no other:\n{report}")]
    GateNotMet { report: String },
    #[error("customers were forgotten while this run began")]
    ForgottenMeanwhile,
    #[error("no view has a snapshot at {at}")]
    NothingToAudit { at: Instant, there: Vec<String> },
    #[error("no customer is named")]
    NobodyNamed,
    #[error("a trace of a customer is left in {}", files.join(", "))]
    TracesLeft { files: Vec<String> },
    #[error("no other version of {model} was in use before")]
    NoEarlierVersion { model: String },
    #[error("no version of {model} is in use")]
    NoneInUse { model: String },
    /// `only` says what only a classifier has or can do.
    #[error("{model} is not a classifier")]
    NotAClassifier { model: String, only: &'static str },
    #[error("--ttl and --known are about snapshots, and --exact reads none")]
    ExactWithSnapshots,
    #[error("there is no snapshot of the view {view}")]
    NoSnapshots { view: String },
    #[error(
        "{others} of {snapshots} snapshots of the view {view} were computed by other definitions: {column} at {at} is the first"
    )]
    OtherDefinitions { view: String, column: String, at: String, others: usize, snapshots: usize },
    #[error("no view has records of both {at} and {against}")]
    NoRecords { at: String, against: String, known: Vec<String> },
    #[error("a feature and a field of the profile are both called {name}")]
    SameName { name: String },
    #[error("the scores as of {as_of} do not fit the project any more: {difference}")]
    OldScores { as_of: Instant, difference: String },
    #[error("the profile as of {as_of} has no customer {customer}")]
    UnknownCustomer { as_of: Instant, customer: String },
    #[error("no run has put {customer} in a segment")]
    NeverInASegment { customer: String },
    #[error("{at} was not scored")]
    NotScored { at: Instant, scored: Vec<String> },
    #[error("the store has no profile yet")]
    NoProfile,
    #[error("--ttl {view}: Feast treats a TTL of zero as unlimited")]
    ZeroTtl { view: String },
    #[error("there is a project already: {}", path.display())]
    ProjectExists { path: PathBuf },
    #[error("{file}: no column looks like {column}; the columns are {}", found.join(", "), file = file.display())]
    NotProposed { file: PathBuf, column: &'static str, found: Vec<String> },
    #[error("{}: there are no rows", path.display())]
    NoRows { path: PathBuf },
    #[error("{}: {rows} rows repeat a value of {key}, which must be the key of a customer", file.display())]
    RepeatedKeys { file: PathBuf, key: String, rows: usize },
    #[error("{}: no row has both a key and a time", path.display())]
    NoEventTimes { path: PathBuf },
    #[error("cannot serve on 127.0.0.1:{port}: {error}")]
    Port { port: u16, error: String },
}

/// The known-at of a training, where it is not its as-of.
fn by(known_at: &Option<Instant>) -> String {
    known_at.map_or_else(|| "by then".to_owned(), |known_at| format!("by {known_at}"))
}

fn begin(first: &Option<Instant>) -> String {
    first.map(|first| format!("; the events begin at {first}")).unwrap_or_default()
}

impl Problem for CommandProblem {
    fn exit(&self) -> Exit {
        match self {
            Self::NoCustomers { .. }
            | Self::NoVersions { .. }
            | Self::GateNotMet { .. }
            | Self::NoSnapshots { .. }
            | Self::NoRecords { .. }
            | Self::NotScored { .. }
            | Self::NothingToAudit { .. }
            | Self::NoProfile => Exit::NotMet,
            Self::OtherDefinitions { .. } | Self::OldScores { .. } => Exit::Contract,
            Self::ForgottenMeanwhile => Exit::Locked,
            Self::TracesLeft { .. } => Exit::Unexpected,
            _ => Exit::Configuration,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoCustomers { .. } => "choose an as-of after the first profile or event",
            Self::NoAsOfs { .. } => "--from comes before --to, and --every is longer than zero",
            Self::ManyAsOfs { .. } => "choose a longer --every",
            Self::NoVersions { at, known_at, .. } => {
                let known = known_at.map(|known_at| format!(" --known-at {known_at}"));
                return Some(format!(
                    "run `c360-ml train --as-of {at}{}` first, or `c360-ml run`, which does both",
                    known.unwrap_or_default()
                ));
            }
            Self::GateNotMet { .. } => {
                "look at its report below models/ of the store; `c360-ml models promote` promotes it anyway"
            }
            Self::ForgottenMeanwhile => "run it again",
            Self::NothingToAudit { at, there } => {
                let there = there.join(", ");
                return Some(format!(
                    "run `c360-ml features build --as-of {at}` first; there are snapshots at: {there}"
                ));
            }
            Self::NobodyNamed => {
                "name customers by their customer360_id, or --file with one in each line (- for standard input)"
            }
            Self::TracesLeft { .. } => {
                "no run has written these files, or a run that died: look at them, remove them, and run it again"
            }
            Self::NoEarlierVersion { .. } => {
                "`models list` has the versions that `models promote` can put in use"
            }
            Self::NoneInUse { .. } => "name one of `models list`",
            Self::NotAClassifier { only, .. } => only,
            Self::ExactWithSnapshots => "leave out --exact, or the others",
            Self::NoSnapshots { .. } => {
                "run `c360-ml features build --as-of T` for the instants you need; `features join --exact` needs none"
            }
            Self::OtherDefinitions { .. } => {
                "`c360-ml features plan` shows what has changed; `features build --from … --to … \
                 --every …` computes the snapshots again, and --exact needs none"
            }
            Self::NoRecords { known, .. } if known.is_empty() => "there are none",
            Self::NoRecords { known, .. } => {
                return Some(format!("there are: {}", known.join(", ")));
            }
            Self::SameName { .. } => "rename the feature, or leave out its view with --views",
            Self::OldScores { as_of, .. } => {
                return Some(format!("run `c360-ml score --as-of {as_of}` again"));
            }
            Self::UnknownCustomer { .. } | Self::NeverInASegment { .. } => {
                "keys are case-sensitive; look one up in the written profile"
            }
            Self::NotScored { at, scored } => {
                let scored = scored.join(", ");
                return Some(format!(
                    "run `c360-ml score --as-of {at}` first; scored are: {scored}"
                ));
            }
            Self::NoProfile => "run `c360-ml run` first",
            Self::ZeroTtl { .. } => {
                "give a length, or leave it out for snapshots that never expire"
            }
            Self::ProjectExists { .. } => "name another folder, or edit the project that is there",
            Self::NotProposed { column, .. } => {
                return Some(format!(
                    "say which it is: --map {column}=COLUMN, or an expression as in docs/expressions.md"
                ));
            }
            Self::NoRows { .. } => "name files that have rows",
            Self::RepeatedKeys { .. } => {
                "a profile has one row per customer; is this file one of events? leave --profile out otherwise"
            }
            Self::NoEventTimes { .. } => {
                "look at the columns; --map customer360_id=… and --map event_ts=… set them"
            }
            Self::Port { .. } => "name another port, or 0 for any that is free",
        };
        Some(hint.to_owned())
    }
}

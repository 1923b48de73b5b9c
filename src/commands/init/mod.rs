//! The command `init`: looks at a stranger's Parquet files and writes a project that fits them.

mod facts;
mod files;
mod mapping;
mod names;
mod plan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use self::facts::Facts;
use self::files::{File, Settings};
use self::mapping::{Mapping, Proposal};
use self::plan::Plan;
use super::CommandProblem;
use crate::config::{Overrides, Project};
use crate::error::{Error, Result};
use crate::report::{Output, Progress, Table, thousands};
use crate::sources::SourceContext;
use crate::sources::files::RawTable;
use crate::sources::footers::Footers;
use crate::sources::profile::ProfilePlan;
use crate::store::bucket::is_url;
use crate::time::Instant;

/// The arguments of `init`.
#[derive(Debug)]
pub struct Init<'a> {
    /// The folder of the new project.
    pub folder: &'a Path,
    /// The event files.
    pub events: &'a Path,
    /// The profile files.
    pub profile: Option<&'a Path>,
    /// Expressions of canonical event columns that are set by hand.
    pub given: &'a BTreeMap<String, String>,
    /// The currency if no column of the events names it.
    pub currency: &'a str,
    /// Whether nothing is to be written.
    pub dry_run: bool,
}

/// Proposes a project, writes it and checks it.
///
/// # Errors
/// A configuration error if there is a project already, or if no column is the key or the time of an event.
pub fn init(asked: &Init, progress: &mut Progress) -> Result<Output> {
    let path = asked.folder.join("c360.toml");
    if path.exists() {
        return Err(CommandProblem::ProjectExists { path }.into());
    }
    progress.stage("looking at the files");
    let context = SourceContext {
        root: PathBuf::new(),
        zone: Default::default(),
        scale: Default::default(),
        currency: asked.currency.to_owned(),
        footers: Default::default(),
        forgotten: Default::default(),
    };
    let events = RawTable::open(asked.events, None, "--events", &Footers::default())?;
    if events.rows == 0 {
        return Err(CommandProblem::NoRows { path: asked.events.to_owned() }.into());
    }
    let profile = asked
        .profile
        .map(|path| RawTable::open(path, None, "--profile", &Footers::default()))
        .transpose()?;
    let mapping = mapping::propose(&events, profile.as_ref(), &context, asked.given)?;
    let sql = |column: &str| format!("({})", mapping.sql(column).unwrap_or("null"));
    let (_, main) = plan::main_event(&mapping, &sql("event_type"), &sql("amount"));
    let facts = Facts::of(&events, &context, &mapping, &main)?;
    let Some((first, last)) = facts.span else {
        let path = asked.events.to_owned();
        return Err(match facts.rows {
            0 => CommandProblem::NoRows { path }.into(),
            _ => CommandProblem::NoEventTimes { path }.into(),
        });
    };
    let plan = plan::plan(&mapping, &facts);
    let of_profile = profile.as_ref().map(|table| of_profile(table, &events, &context));
    let of_profile = of_profile.transpose()?;

    progress.stage("proposing");
    let name = std::path::absolute(asked.folder).ok();
    let name = name.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let render = |folder: &Path| {
        let paths = [Some(asked.events), asked.profile].map(|path| relative(path, folder));
        let [events_path, profile_path] = &paths;
        let settings = Settings {
            name: name.as_deref().unwrap_or("customers"),
            currency: facts.currency.as_deref().unwrap_or(asked.currency),
            as_of: &plan::day_after(last),
            events: events_path.as_deref().unwrap_or_default(),
            profile: profile_path.as_deref().zip(of_profile.clone()),
            rejected: rejected(&facts),
        };
        let mut files = vec![files::project(&settings, &mapping)];
        files.extend(files::features(&plan, &mapping));
        files.extend(files::models(&plan, &mapping));
        files::with_schemas(files)
    };
    // The project is checked elsewhere first, so that a wrong proposal writes nothing.
    let trial = tempfile::tempdir().map_err(Error::io("write in", std::env::temp_dir()))?;
    write(trial.path(), &render(trial.path()))?;
    Project::load(trial.path(), &Overrides::default())?;
    let written = render(asked.folder);
    if !asked.dry_run {
        write(asked.folder, &written)?;
    }
    progress.finish();
    let unused = unused(&events, &mapping);
    let files = events.files.len();
    let seen = Seen { first, last, files, facts: &facts, mapping: &mapping, unused };
    Ok(describe(asked, &seen, of_profile.as_deref(), &plan, &written))
}

/// The share of events that cannot be used, rounded up to a hundredth, which a run must allow.
fn rejected(facts: &Facts) -> f64 {
    let rows = (facts.unusable + facts.other_currencies) as f64;
    (100.0 * rows / facts.rows.max(1) as f64).ceil() / 100.0
}

/// The raw columns that no proposal reads.
fn unused(events: &RawTable, mapping: &Mapping) -> Vec<String> {
    let is_used = |name: &str| {
        mapping.proposals.iter().any(|proposal| proposal.sql.contains(&names::quoted(name)))
    };
    let names = events.raw.iter().map(|raw| raw.name.as_str());
    names.filter(|name| !is_used(name)).map(str::to_owned).collect()
}

/// Proposes the mapping of a profile: the key, and other names for columns that do not fit the fields of theirs.
fn of_profile(
    table: &RawTable,
    events: &RawTable,
    context: &SourceContext,
) -> Result<Vec<Proposal>> {
    let key = mapping::key(table, Some(events), context).ok_or_else(|| {
        let found = table.raw.iter().map(|raw| raw.name.clone()).collect();
        CommandProblem::NotProposed {
            file: table.files[0].clone(),
            column: "customer360_id",
            found,
        }
    })?;
    let ty = table.get(key).and_then(|raw| raw.ty.logical(context.scale));
    let why = format!("the column {key}");
    let sql = mapping::text_of(key, ty);
    let rows = facts::repeated(table, context, &sql)?;
    if rows > 0 {
        let (file, key) = (table.files[0].clone(), key.to_owned());
        return Err(CommandProblem::RepeatedKeys { file, key, rows }.into());
    }
    let mut proposals = vec![Proposal { column: "customer360_id".to_owned(), sql, why }];
    for field in table.schema.fields() {
        let name = field.name();
        if name != key && !ProfilePlan::takes(name, field.data_type()) {
            proposals.push(Proposal {
                column: format!("{name}_source"),
                sql: names::quoted(name),
                why: format!("not the field {name} of the profile, which has another type"),
            });
        }
    }
    Ok(proposals)
}

/// A path as a project in `folder` names it: relative to the folder if it is inside, and absolute otherwise.
fn relative(path: Option<&Path>, folder: &Path) -> Option<String> {
    let whole = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
    // A glob is no file; what comes before it is.
    if is_url(path?) {
        return Some(path?.to_string_lossy().into_owned());
    }
    let (path, pattern) = (path?, path?.to_string_lossy().contains(['*', '?', '[']));
    let path = if pattern { std::path::absolute(path).ok()? } else { whole(path)? };
    let own = whole(folder).and_then(|folder| Some(path.strip_prefix(&folder).ok()?.to_owned()));
    Some(own.unwrap_or(path).to_string_lossy().into_owned())
}

fn write(folder: &Path, files: &[File]) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        std::fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// A word of a command, in quotes if a shell would split it.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-~".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// What must be known of the events before their numbers are believed.
fn cautions(facts: &Facts, rejected: f64) -> String {
    let mut text = String::new();
    let rows = thousands(facts.rows as u64);
    if facts.unusable > 0 {
        let unusable = thousands(facts.unusable as u64);
        text += &format!("caution: {unusable} of {rows} events have no customer or no time\n");
    }
    if facts.other_currencies > 0 {
        let other = thousands(facts.other_currencies as u64);
        let currency = facts.currency.as_deref().unwrap_or_default();
        text += &format!("caution: {other} of {rows} events are not in {currency}; convert them\n");
    }
    if !text.is_empty() {
        text +=
            &format!("  they are left out, up to max_rejected_share = {rejected} in c360.toml\n");
    }
    text
}

/// What was seen in the events.
struct Seen<'a> {
    first: i64,
    last: i64,
    files: usize,
    facts: &'a Facts,
    mapping: &'a Mapping,
    unused: Vec<String>,
}

fn describe(
    asked: &Init,
    seen: &Seen,
    profile: Option<&[Proposal]>,
    plan: &Plan,
    written: &[File],
) -> Output {
    let Seen { first, last, files, facts, mapping, unused } = seen;
    let mut text = format!(
        "{} events of {} customers from {} to {}, in {files} file{}\n\n",
        thousands(facts.rows as u64),
        thousands(facts.customers as u64),
        Instant(*first),
        Instant(*last),
        if *files == 1 { "" } else { "s" }
    );
    let mut table = Table::new(&["events", "is", "because"]);
    let all = mapping.proposals.iter();
    all.for_each(|p| table.row([p.column.clone(), p.sql.clone(), p.why.clone()]));
    text += &table.render();
    text += &format!("event types: {}\n", mapping.types.join(", "));
    if !unused.is_empty() {
        let names = unused.join(", ");
        text += &format!("not proposed as anything: {names}; expressions may use them\n");
    }
    text += &cautions(facts, rejected(facts));
    if let Some(proposals) = profile {
        let mut table = Table::new(&["profile", "is", "because"]);
        proposals.iter().for_each(|p| table.row([p.column.clone(), p.sql.clone(), p.why.clone()]));
        text += &format!("\n{}", table.render());
    }
    text += "\n";
    for (label, name) in [(plan.churn, "churn"), (plan.propensity, "propensity")] {
        text += &match label {
            Some(label) => format!(
                "{name}: {} within {}, of customers with one in the last {}\n",
                plan.main_name,
                plan::length(label.horizon),
                plan::length(label.within)
            ),
            None => format!(
                "{name}: left out, because no horizon has 100 customers with a {} and 100 without one at three \
                 snapshots in {} days\n",
                plan.main_name, plan.days
            ),
        };
    }
    if !plan.has_amounts {
        text += "rfm, lifetime_value: left out, because there are no purchases with amounts\n";
    }
    if plan.affinity.is_none() {
        text += "affinity: left out, because no column has categories or products\n";
    }
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    let folder = shell_word(&asked.folder.to_string_lossy());
    let names_listed = names.join(", ");
    text += &match asked.dry_run {
        true => format!("\nNothing was written. {folder} would have {names_listed}.\n"),
        false => format!(
            "\nwritten in {folder}: {names_listed}\n\nnext:\n  c360-ml --project {folder} run\n  c360-ml --project {folder} report --open\n"
        ),
    };
    let of = |proposals: &[Proposal]| -> BTreeMap<String, String> {
        proposals.iter().map(|p| (p.column.clone(), p.sql.clone())).collect()
    };
    let json = json!({
        "events": { "rows": facts.rows, "customers": facts.customers, "columns": of(&mapping.proposals) },
        "profile": profile.map(of),
        "event_types": mapping.types,
        "files": names,
    });
    Output { text, json }
}

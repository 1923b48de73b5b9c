//! The command `init`: looks at a stranger's Parquet files and writes a project that fits them.

mod files;
mod mapping;
mod plan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use self::files::{File, Settings};
use self::mapping::{Facts, Mapping, Proposal};
use self::plan::Plan;
use super::CommandProblem;
use crate::config::{Overrides, Project};
use crate::error::{Error, Result};
use crate::report::{Output, Progress, Table, thousands};
use crate::sources::SourceContext;
use crate::sources::files::RawTable;
use crate::sources::profile::ProfilePlan;
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
    };
    let events = RawTable::open(asked.events, "--events")?;
    let profile = asked.profile.map(|path| RawTable::open(path, "--profile")).transpose()?;
    let mapping = mapping::propose(&events, profile.as_ref(), &context, asked.given)?;
    let sql = |column: &str| format!("({})", mapping.sql(column).unwrap_or("null"));
    let (_, main) = plan::main_event(&mapping, &sql("event_type"), &sql("amount"));
    let facts = mapping::facts(&events, &context, &mapping, &main)?;
    let Some((first, last)) = facts.span else {
        return Err(CommandProblem::NoEventTimes { path: asked.events.to_owned() }.into());
    };
    let plan = plan::plan(&mapping, &facts);
    let of_profile = profile.as_ref().map(|table| of_profile(table, &events, &context));
    let of_profile = of_profile.transpose()?;

    progress.stage("proposing");
    let name = std::path::absolute(asked.folder).ok();
    let name = name.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let paths = [Some(asked.events), asked.profile].map(|path| relative(path, asked.folder));
    let [events_path, profile_path] = &paths;
    let settings = Settings {
        name: name.as_deref().unwrap_or("customers"),
        currency: facts.currency.as_deref().unwrap_or(asked.currency),
        as_of: &plan::day_after(last),
        events: events_path.as_deref().unwrap_or_default(),
        profile: profile_path.as_deref().zip(of_profile.clone()),
    };
    let mut written = vec![files::project(&settings, &mapping)];
    written.extend(files::features(&plan, &mapping));
    written.extend(files::models(&plan, &mapping));
    let written = files::with_schemas(written);
    if !asked.dry_run {
        write(asked.folder, &written)?;
        // What init writes is a project, or init has a defect; the error says where.
        Project::load(asked.folder, &Overrides::default())?;
    }
    progress.finish();
    let seen = Seen { first, last, files: events.files.len(), facts: &facts, mapping: &mapping };
    Ok(describe(asked, &seen, of_profile.as_deref(), &plan, &written))
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
    let mut proposals = vec![Proposal { column: "customer360_id".to_owned(), sql, why }];
    for field in table.schema.fields() {
        let name = field.name();
        if name != key && !ProfilePlan::takes(name, field.data_type()) {
            proposals.push(Proposal {
                column: format!("{name}_source"),
                sql: mapping::quoted(name),
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

/// What was seen in the events.
struct Seen<'a> {
    first: i64,
    last: i64,
    files: usize,
    facts: &'a Facts,
    mapping: &'a Mapping,
}

fn describe(
    asked: &Init,
    seen: &Seen,
    profile: Option<&[Proposal]>,
    plan: &Plan,
    written: &[File],
) -> Output {
    let Seen { first, last, files, facts, mapping } = seen;
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
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    let folder = asked.folder.display();
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

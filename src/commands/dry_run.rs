//! `--dry-run` of `train`, `score` and `run`: what the command would do. Nothing is computed, written or locked.

use serde_json::{Value, json};

use super::champions::has_champions;
use super::score::context;
use super::{as_of, files_fingerprint, previous, timelines};
use crate::artifact::Schedule;
use crate::config::Project;
use crate::error::Result;
use crate::exit::Exit;
use crate::features::plan::AsOf;
use crate::report::{Output, Progress, Table, thousands};
use crate::sources::contract::{first_event, history};
use crate::store::Root;
use crate::time::Instant;
use crate::training::TrainingProblem;
use crate::training::gather::scheduled;

/// Says which models `train` would train, at which snapshots, and which it could not. The exit status is that of
/// the command as far as it is known before any fit.
///
/// # Errors
/// Returns [`TrainingProblem::NoEvents`] as `train` does.
pub fn train(project: &Project, progress: &mut Progress) -> Result<(Output, Exit)> {
    let as_of = as_of(project)?;
    let (store, events) = (project.store()?, &project.events);
    let root = store.root()?;
    progress.stage("counting events by day");
    let files = timelines::known_facts(project, &store, &root)?;
    let history = history(events, &files, as_of.at, as_of.known_at)?
        .ok_or_else(|| TrainingProblem::NoEvents { at: as_of.at, first: first_event(&files) })?;
    progress.finish();
    let mut table =
        Table::new(&["model", "would be", "training snapshots", "calibration", "test", "in use"]);
    let (mut listed, mut exit) = (Vec::new(), Exit::Ok);
    let mut reasons = String::new();
    for name in project.models.trained() {
        let in_use = root.champions.get(name).map_or("-", String::as_str);
        let model = project.models.classifiers.iter().find(|model| model.spec.name == name);
        let schedule = model.map(|model| scheduled(model, events, as_of, &history));
        let (would_be, cells) = match &schedule {
            None => ("trained", ["-".to_owned(), "-".to_owned(), "-".to_owned()]),
            Some(Ok(schedule)) => ("trained", cells(schedule)),
            Some(Err(error)) => {
                exit = error.exit();
                reasons += &format!("{name} would not be trained: {error}\n");
                ("left out", ["-".to_owned(), "-".to_owned(), "-".to_owned()])
            }
        };
        let [training, calibration, test] = cells;
        table.row([name, would_be, &training, &calibration, &test, in_use]);
        listed.push(json!({
            "model": name,
            "trained": would_be == "trained",
            "schedule": schedule.as_ref().and_then(|schedule| schedule.as_ref().ok()),
            "error": schedule.and_then(Result::err).map(|error| error.to_string()),
            "in_use": root.champions.get(name),
        }));
    }
    let last = history.last.map(|last| format!(" to {last}")).unwrap_or_default();
    let text = format!(
        "{}\n{}{}event files: {}, from {}{last}\n",
        head("train", as_of),
        table.render(),
        reasons,
        thousands(events.table.files.len() as u64),
        history.first,
    );
    let json = json!({ "as_of": as_of, "models": listed, "first_event": history.first });
    Ok((Output { text, json }, exit))
}

fn cells(schedule: &Schedule) -> [String; 3] {
    let folder = |at: &Instant| at.folder();
    let (first, last) = (schedule.training.first(), schedule.training.last());
    let training = match (first.map(folder), last.map(folder)) {
        (Some(first), Some(last)) => {
            format!("{}, {first} to {last}", schedule.training.len())
        }
        _ => "-".to_owned(),
    };
    [training, schedule.calibration.folder(), schedule.test.folder()]
}

/// Says which versions `score` would score with, and whether it would have anything to do.
///
/// # Errors
/// Those of `score` before it reads any data, such as a model without a version.
pub fn score(project: &Project, force: bool, progress: &mut Progress) -> Result<(Output, Exit)> {
    let as_of = as_of(project)?;
    let store = project.store()?;
    let root = store.root()?;
    let context = context(project, &store, &root, as_of)?;
    progress.stage("fingerprinting the data");
    let data = files_fingerprint(project)?;
    progress.finish();
    let inputs = previous::inputs(&store, &root, &context)?;
    let same = previous::same_run(project, &store, &root, as_of, &data, &inputs);
    let same = same.filter(|_| !force);
    let mut table = Table::new(&["model", "version"]);
    let versions = context.champions.versions();
    versions.iter().for_each(|(model, version)| table.row([*model, *version]));
    let read = timelines::unfit(project, &store, &root, &context.plans)?;
    let sentences = match &same {
        Some(run) => {
            format!(
                "It would do nothing: run {run} has scored {} from the same inputs.\n",
                as_of.at
            )
        }
        None => would_write(&root, as_of, context.previous, read.as_deref()),
    };
    let text = format!("{}\n{}\n{sentences}", head("score", as_of), table.render());
    let json = json!({
        "as_of": as_of,
        "models": versions,
        "unchanged": same.is_some(),
        "previous_segments": context.previous,
        "reads_all_events_because": read,
    });
    Ok((Output { text, json }, Exit::Ok))
}

fn would_write(
    root: &Root,
    as_of: AsOf,
    previous: Option<Instant>,
    all_because: Option<&str>,
) -> String {
    let mut text = match all_because {
        Some(reason) => format!("It would read all events, because {reason}.\n"),
        None => "It would read only event files that are new or have changed.\n".to_owned(),
    };
    text += &match previous {
        Some(at) => format!("Segments would continue those of {at}.\n"),
        None => "Segments would begin without earlier ones.\n".to_owned(),
    };
    text += &match &root.profile {
        Some(current) if current.as_of > as_of.at => {
            format!("The current profile would stay that of {}, which is later.\n", current.as_of)
        }
        Some(current) => format!("The profile would replace that of {}.\n", current.as_of),
        None => "The profile would be the first one.\n".to_owned(),
    };
    text
}

/// Says whether `run` would train first, and what it would do then.
///
/// # Errors
/// Those of [`train()`] and [`score()`].
pub fn run(project: &Project, force: bool, progress: &mut Progress) -> Result<(Output, Exit)> {
    if has_champions(project, &project.store()?)? {
        return score(project, force, progress);
    }
    let (mut output, exit) = train(project, progress)?;
    output.text += "Then `run` would score with the versions that pass their gates.\n";
    output.json = json!({ "train": output.json, "score": Value::Null });
    Ok((output, exit))
}

fn head(command: &str, AsOf { at, known_at }: AsOf) -> String {
    let known = match known_at == at {
        true => String::new(),
        false => format!(", with what was known at {known_at}"),
    };
    format!("This is what `{command}` would do as of {at}{known}. Nothing was written.\n")
}

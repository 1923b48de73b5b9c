//! The command `score`: scores every customer at one as-of and writes the profile.

mod printed;
mod stages;

use std::collections::BTreeMap;

use serde_json::json;

use self::printed::printed;
use self::stages::{First, Run, TABLES, folder};
use super::CommandProblem;
use super::champions::champions;
use super::pages::{self, Form};
use super::previous;
use super::quality;
use super::record::{RunRecord, run_id};
use super::views::{Views, ViewsAt};
use super::{as_of, files_fingerprint, scattering, shards, timelines};
use crate::config::Project;
use crate::error::Result;
use crate::exit::Exit;
use crate::export::delta::{Rows, check, replace};
use crate::features::drift::Drift;
use crate::features::expectation::Judgement;
use crate::features::plan::AsOf;
use crate::features::registry::Inputs;
use crate::report::{Output, Progress};
use crate::scoring::affinity::offer;
use crate::scoring::champions::Champions;
use crate::scoring::classifier::drifts;
use crate::scoring::context::{ScoringContext, merge_rules};
use crate::scoring::plans::plans;
use crate::scoring::score::ScoreSummary;
use crate::scoring::summary::RunMetrics;
use crate::sources::contract::{
    Check, Checks, EventFacts, check_events, check_profile, events_from, first_event,
};
use crate::sources::profile::ProfileShards;
use crate::store::bucket::resolve;
use crate::store::{CurrentProfile, Root, Store, Transaction};
use crate::time::Instant;

/// The number of days without any event before the as-of above which a run warns.
const STALE_DAYS: f64 = 2.0;

/// Scores all customers with the champions and publishes the profile, the scores and the segments. A run with
/// the same inputs as the last one is repeated only if `force`. The exit status says whether all expectations
/// of the features hold. If one does not, nothing of the as-of is published.
pub fn score(project: &Project, force: bool, progress: &mut Progress) -> Result<(Output, Exit)> {
    let as_of = as_of(project)?;
    let store = project.store()?;
    let mut transaction = crate::commands::begin(project, &store, "score")?;
    let context = context(project, &store, &transaction.root, as_of)?;
    progress.stage("fingerprinting the data");
    let data = files_fingerprint(project)?;
    let mut inputs = previous::inputs(&store, &transaction.root, &context)?;
    let same = previous::same_run(project, &store, &transaction.root, as_of, &data, &inputs);
    if let Some(run) = same.filter(|_| !force) {
        pages::complete_run(&mut transaction, &project.settings.project.name, &run)?;
        let root = transaction.commit()?;
        let mut output = nothing_to_do(as_of, &run);
        copy_to_delta(project, &store, &root, &mut output, progress)?;
        return Ok((output, Exit::Ok));
    }

    progress.stage("reading the profile");
    let shards = shards(project, &mut transaction.root);
    let instants = [as_of.at];
    let scattering = scattering(project, shards, transaction.scratch(), &instants);
    let profile = project.profile.scatter(scattering, &|_| true)?;
    if let Some(table) = &project.settings.writeback.delta {
        check(&resolve(&project.root, table), profile.schema())?;
    }
    progress.stage("reading new events");
    let history = timelines::refresh(project, &mut transaction, shards, &context.plans, false)?;
    let open = [ViewsAt {
        as_of,
        views: project.catalog.views.iter().map(|view| view.name.as_str()).collect(),
        inputs: Inputs {
            events: history.visible_at(as_of),
            profile: profile.customers_at(as_of.at).fingerprint(),
        },
    }];

    progress.stage("scoring");
    let run = Run::new(&context, &transaction, &profile)?;
    let mut views = Views::new(project, &transaction, &open)?;
    let events = history.events(&mut transaction, &project.events, &context.plans)?;
    let mut first = run.score(&events, &views)?;
    first.report.check_orphans(&project.events)?;
    let refresh = events.finish(&mut transaction)?;
    inputs["refresh"] = json!(refresh);
    if first.summary.customers == 0 {
        let first_event = first_event(&timelines::facts(project, &mut transaction)?);
        return Err(CommandProblem::NoCustomers { at: as_of.at, first_event }.into());
    }
    progress.stage("checking the contract and the features");
    let mut checks = contract(project, &mut transaction, as_of.at, &profile, &first)?;
    let drifts = drifts_by_model(project, &context.champions, &first.summary);
    let (verdict, _) = views.publish(&mut transaction, 0, &mut first.written, drifts)?;
    let record = RunRecord { project, as_of, data: &data, events: &first.report };
    if !verdict.breaches.is_empty() {
        return quarantined(record, transaction, inputs, &verdict, progress);
    }
    checks.extend(quality::checks(&verdict));

    progress.stage("ranking");
    let ranked = run.rank(&store, &transaction.root, &first.summary)?;
    progress.stage("assigning segments and writing");
    let finished = run.finish(&store, &transaction.root, &ranked)?;
    finished.summary.losses.check()?;
    let id = run_id(&transaction, "score");
    let currency = &project.settings.project.currency;
    let metrics = run.metrics(&id, checks, &first, &ranked, &finished, currency);
    warn_if_stale(&metrics);
    let moves = publish(project, &mut transaction, as_of, &finished.files, &metrics)?;
    let id = record.write(&mut transaction, "score", inputs, progress)?;
    let root = transaction.commit()?;
    let mut output = printed(project, as_of, &id, &metrics, &refresh, moves);
    copy_to_delta(project, &store, &root, &mut output, progress)?;
    Ok((output, Exit::Ok))
}

/// Writes the current profile to the Delta table of the project, if it has one and the table does not have the rows.
fn copy_to_delta(
    project: &Project,
    store: &Store,
    root: &Root,
    output: &mut Output,
    progress: &mut Progress,
) -> Result<()> {
    let (Some(table), Some(profile)) = (&project.settings.writeback.delta, &root.profile) else {
        return Ok(());
    };
    progress.stage("writing the Delta table");
    let files = store.below(root, &format!("profile/as_of={}", profile.as_of.folder()))?;
    let files = files.iter().map(|file| store.file(root, file)).collect::<Result<Vec<_>>>()?;
    let number = profile.run.split('-').next().and_then(|number| number.parse().ok());
    let Some(run) = number else { unreachable!("runs have numbers: {}", profile.run) };
    let project_name = &project.settings.project.name;
    let rows = Rows { project: project_name, store: &root.store, run, files: &files };
    let version = replace(&resolve(&project.root, table), &rows)?;
    progress.finish();
    output.text += &match version {
        Some(version) => {
            format!("\nthe Delta table {table} has the profile in version {version}\n")
        }
        None => format!("\nthe Delta table {table} has the profile already\n"),
    };
    output.json["delta"] = json!({ "table": table, "version": version });
    Ok(())
}

/// Publishes the files of the tables and the report of the run, and makes the profile the current one unless that
/// has a later as-of. Returns whether it was made the current one.
fn publish(
    project: &Project,
    transaction: &mut Transaction,
    as_of: AsOf,
    files: &[String],
    metrics: &RunMetrics,
) -> Result<bool> {
    for table in TABLES {
        transaction.replace(&folder(table, as_of));
    }
    for file in files {
        transaction.adopt(file, file)?;
    }
    let run = &metrics.run;
    transaction.write_json(&format!("runs/{run}/metrics.json"), metrics)?;
    pages::write_run(transaction, &project.settings.project.name, metrics, None, Form::Linked);
    let moves = transaction.root.profile.as_ref().is_none_or(|profile| profile.as_of <= as_of.at);
    if moves {
        transaction.root.profile = Some(CurrentProfile { as_of: as_of.at, run: run.clone() });
    }
    Ok(moves)
}

/// Collects everything that the stages need from the project, checked.
///
/// # Errors
/// Returns [`CommandProblem::NoVersions`] if a model has no version that may score the as-of.
pub fn context(
    project: &Project,
    store: &Store,
    root: &Root,
    as_of: AsOf,
) -> Result<ScoringContext> {
    let champions = champions(project, store, root, as_of)?;
    let (zone, scale) = (project.context().zone, project.context().scale);
    let offer = match (&champions.affinity, &project.models.affinity) {
        (Some(champion), Some(model)) => offer(model, &champion.artifact.model.factors, scale)?,
        _ => Default::default(),
    };
    let is_past = root.profile.as_ref().is_some_and(|profile| profile.as_of > as_of.at);
    let writeback = &project.settings.writeback;
    Ok(ScoringContext {
        as_of,
        zone,
        scale,
        plans: plans(&project.catalog, &champions, &project.events, as_of),
        attributes: champions.attributes(&project.profile).into_iter().map(str::to_owned).collect(),
        champions,
        offer,
        consent: project.settings.consent.clone(),
        segments: project.segments.clone(),
        merge: merge_rules(&project.catalog, writeback, (zone, as_of.at), is_past),
        previous: previous::segments(root, as_of.at),
    })
}

/// The drift of each classifier's inputs since its training, limited to features that the project still
/// computes by the same definitions.
fn drifts_by_model(
    project: &Project,
    champions: &Champions,
    summary: &ScoreSummary,
) -> BTreeMap<String, Vec<Drift>> {
    let classifiers = champions.classifiers.iter().zip(&summary.inputs);
    let drifts = classifiers.map(|(champion, inputs)| {
        let drifts = drifts(&champion.artifact, inputs);
        (champion.name.clone(), quality::comparable(project, &champion.artifact, &drifts))
    });
    drifts.collect()
}

fn warn_if_stale(metrics: &RunMetrics) {
    if let Some(days) = metrics.last_event.map(|last| metrics.as_of.days_since(last.0))
        && days > STALE_DAYS
    {
        tracing::warn!(
            "the latest event is {days:.1} days before the as-of: missing events look like silent customers"
        );
    }
}

/// Publishes the quarantined snapshots and the broken expectations. The profile stays unchanged.
fn quarantined(
    record: RunRecord,
    mut transaction: Transaction,
    mut inputs: serde_json::Value,
    verdict: &Judgement,
    progress: &mut Progress,
) -> Result<(Output, Exit)> {
    inputs["breaches"] = json!(verdict.breaches);
    // The run has another name, so that it is not mistaken for one that has scored.
    record.write(&mut transaction, "quarantine", inputs, progress)?;
    transaction.commit()?;
    let at = record.as_of.at;
    let text = format!("nothing was scored as of {at}\n{}", quality::text(record.project, verdict));
    Ok((Output { text, json: json!({ "as_of": at, "expectations": verdict }) }, Exit::Contract))
}

/// Runs the checks of `validate` without reading again what the run has already read.
fn contract(
    project: &Project,
    transaction: &mut Transaction,
    as_of: Instant,
    profile: &ProfileShards,
    first: &First,
) -> Result<Vec<Check>> {
    let (mut of_profile, mut of_events) = (Checks::new("profile"), Checks::new("events"));
    check_profile(&project.profile, profile, &first.facts, &mut of_profile);
    let files = timelines::facts(project, transaction)?;
    let mut facts = EventFacts::default();
    files.iter().for_each(|file| facts.add(file));
    // Only files that reach beyond the as-of contain events after it.
    let mut later = project.events.clone();
    let mut reaches = files.iter().map(|file| file.reaches(as_of));
    later.table.files.retain(|_| reaches.next().unwrap_or(false));
    let future = if later.table.files.is_empty() { 0 } else { events_from(&later, as_of)? };
    check_events(&project.events, &facts, Some(future), &mut of_events);
    first.report.check(&project.events, &mut of_events);
    Ok(of_profile.list.into_iter().chain(of_events.list).collect())
}

fn nothing_to_do(as_of: AsOf, run: &str) -> Output {
    let text = format!(
        "nothing to do: run {run} has scored {} from the same data, project and models\n",
        as_of.at
    );
    Output { text, json: json!({ "as_of": as_of.at, "run": run, "unchanged": true }) }
}

//! `score`: every customer at one as-of, written back to the profile.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use serde_json::json;

use super::previous;
use super::quality::{self, Gate};
use super::snapshot::{ComputedViews, write_shards};
use super::{as_of, files_fingerprint, run_id, scattering, shards, timelines, write_manifest};
use crate::config::Project;
use crate::engine;
use crate::error::{Error, Result};
use crate::features::events::Events;
use crate::features::expectation::Outcome;
use crate::features::history::Refresh;
use crate::features::plan::AsOf;
use crate::features::registry::Inputs;
use crate::profile::{Computed, MergeContext, merge};
use crate::report::html::run::render;
use crate::report::{Output, Progress, Table, thousands};
use crate::schema::profile_field;
use crate::scoring::summary::{self, RunMetrics};
use crate::scoring::tables::{self, Customers};
use crate::scoring::{self, Champions, Scored};
use crate::segments::{Assigned, Assignment, Known, assign};
use crate::sources::Orphans;
use crate::sources::attributes::Attributes;
use crate::sources::consent::Consent;
use crate::sources::contract::{
    Check, Checks, EventFacts, ProfileFacts, check_events, check_profile, events_from,
};
use crate::sources::profile::{Entities, KeyFaults, ProfileShards, align, keys};
use crate::store::parquet::Sorted;
use crate::store::parquet::read_all;
use crate::store::{CurrentProfile, FORMAT_VERSION, Root, Store, Transaction};
use crate::time::Instant;
use crate::training::artifact::Artifact;

/// Days without any event before the as-of from which a run warns.
const STALE_DAYS: f64 = 2.0;

/// Scores all customers with the champions and publishes profile, scores and segments; with the same
/// inputs as last time only if `force`. Also gives whether all expectations of the features hold; where one
/// does not, nothing of the as-of is published.
pub fn score(project: &Project, force: bool, progress: &mut Progress) -> Result<(Output, bool)> {
    let as_of = as_of(project)?;
    let store = project.store()?;
    let mut transaction = store.begin("score")?;
    let champions = champions(project, &store, &transaction.root, as_of)?;
    progress.stage("fingerprinting the data");
    let data = files_fingerprint(project)?;
    let earlier = previous::segments(&transaction.root, as_of.at);
    let earlier_as_of = earlier.as_ref().map(|(at, _)| *at);
    let mut inputs = previous::inputs(&transaction.root, &champions, earlier.as_ref());
    let same = previous::same_run(project, &store, &transaction.root, as_of, &data, &inputs);
    if let Some(run) = same.filter(|_| !force) {
        return Ok((nothing_to_do(as_of, &run), true));
    }
    progress.stage("reading the profile");
    let shards = shards(project, &mut transaction.root);
    let instants = [as_of.at];
    let scattering = scattering(project, shards, transaction.scratch(), &instants);
    let profile_rows = project.profile.scatter(scattering, &|_| true)?;
    let source = profile_rows.all()?;
    let (scored, from, refresh) =
        compute(project, &mut transaction, &champions, (&profile_rows, &source), as_of, progress)?;
    inputs["refresh"] = json!(refresh);
    progress.stage("checking the contract");
    let mut checks = contract(project, &mut transaction, as_of.at, &profile_rows, &scored)?;
    progress.stage("checking and writing features");
    let outcome = features(&mut transaction, project, as_of, &from, &champions, &scored)?;
    if !outcome.breaches.is_empty() {
        return quarantined(
            transaction,
            project,
            as_of,
            &data,
            &scored,
            inputs,
            &outcome,
            progress,
        );
    }
    checks.extend(quality::checks(&outcome));
    progress.stage("assigning segments");
    let customers = keys(&scored.features)?.clone();
    let states = previous::states(&store, earlier, &customers)?;
    let last_purchase = previous::last_purchases(project, &scored.features);
    let scale = project.context().scale;
    let consent = consent(&source, &customers)?;
    let previous = &states.customers;
    let known = Known { previous, last_purchase: &last_purchase, consent: &consent };
    let assigned = assign(&project.segments, &scored.frame, scale, as_of.at, known)?.assigned;
    let assigned = Assignment { customers: assigned, gone: states.gone };
    progress.stage("merging the profile");
    let moves = transaction.root.profile.as_ref().is_none_or(|profile| profile.as_of <= as_of.at);
    let profile =
        profile(project, &store, &transaction.root, as_of, &source, &scored, &assigned.customers)?;

    progress.stage("writing");
    let customers =
        Customers { keys: &customers, consent: &consent, as_of: as_of.at, previous: earlier_as_of };
    write(&mut transaction, as_of, &champions, &scored, &assigned, customers)?;
    write_shards(&mut transaction, &folder("profile", as_of), &profile)?;
    let run = run_id(&transaction, "score");
    let before = previous::scores(&store, &transaction.root, earlier_as_of)?;
    let mut metrics = metrics(project, &run, &scored, &assigned, customers, &before);
    metrics.checks = checks;
    if let Some(days) = metrics.last_event.map(|last| as_of.at.days_since(last.0))
        && days > STALE_DAYS
    {
        tracing::warn!(
            "the latest event is {days:.1} days before the as-of: missing events look like silent customers"
        );
    }
    transaction.write_json(&format!("runs/{run}/metrics.json"), &metrics)?;
    let report = render(&project.settings.project.name, &metrics);
    transaction.write_text(&format!("runs/{run}/report.html"), &report)?;
    if moves {
        transaction.root.profile = Some(CurrentProfile { as_of: as_of.at, run });
    }
    let run = write_manifest(
        &mut transaction,
        project,
        "score",
        as_of,
        &data,
        &scored.report,
        inputs,
        progress,
    )?;
    transaction.commit()?;
    Ok((printed(project, as_of, &run, &scored, &assigned.customers, &refresh, moves), true))
}

/// Features and scores of all customers, what the features come from, and what was read for them.
fn compute(
    project: &Project,
    transaction: &mut Transaction,
    champions: &Champions,
    (profile, source): (&ProfileShards, &RecordBatch),
    as_of: AsOf,
    progress: &mut Progress,
) -> Result<(Scored, Inputs, Refresh)> {
    progress.stage("reading new events");
    let plans = scoring::plans(&project.catalog, champions, &project.events, as_of);
    let history = timelines::refresh(project, transaction, profile.shards(), &plans.list, false)?;
    let from = Inputs {
        events: history.visible_at(as_of),
        profile: profile.customers_at(as_of.at).fingerprint(),
    };
    progress.stage("computing features and scores");
    let events = history.events(transaction, &project.events, &plans.list)?;
    let mut report = events.report.clone();
    let mut batches: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
    let stage = |shard| events.shard(shard, &Entities::of(&profile.rows(shard)?)?);
    engine::run(profile.shards(), stage, |_, rows| {
        report.add(&rows);
        for plan in &plans.list {
            batches.entry(plan.name.clone()).or_default().extend(rows.of(&plan.name)?.to_vec());
        }
        Ok(())
    })?;
    report.check_orphans(&project.events)?;
    let refresh = events.finish(transaction)?;
    let attributes = Attributes::of(source, &champions.attributes(&project.profile))?;
    let models = (champions, project.models.affinity.as_ref());
    let scored = scoring::score(&project.events, &attributes, models, &plans, &batches, report)?;
    Ok((scored, from, refresh))
}

/// Holds the features to their expectations and stages them where they then belong.
fn features(
    transaction: &mut Transaction,
    project: &Project,
    as_of: AsOf,
    from: &Inputs,
    champions: &Champions,
    scored: &Scored,
) -> Result<Outcome> {
    let rows = Sorted::new(vec![scored.features.clone()]);
    let views = project.catalog.views.iter().map(|view| view.name.as_str()).collect();
    let drifts = champions.classifiers.iter().filter_map(|(name, _, artifact)| {
        let scores = scored.models.iter().find(|scores| scores.model == *name)?;
        Some((name.clone(), quality::comparable(project, artifact, &scores.drift)))
    });
    let mut gate = Gate::default();
    let computed = ComputedViews { views: &views, as_of, inputs: from, rows: &rows };
    gate.pass(transaction, project, computed, drifts.collect())?;
    Ok(gate.outcome)
}

/// Publishes what is in quarantine, and what was broken; the profile stays as it is.
#[expect(clippy::too_many_arguments, reason = "what a manifest says")]
fn quarantined(
    mut transaction: Transaction,
    project: &Project,
    as_of: AsOf,
    data: &str,
    scored: &Scored,
    mut inputs: serde_json::Value,
    outcome: &Outcome,
    progress: &mut Progress,
) -> Result<(Output, bool)> {
    inputs["breaches"] = json!(outcome.breaches);
    // Another name than that of a run which has scored.
    let command = "quarantine";
    let events = &scored.report;
    write_manifest(&mut transaction, project, command, as_of, data, events, inputs, progress)?;
    transaction.commit()?;
    let text =
        format!("nothing was scored as of {}\n{}", as_of.at, quality::text(project, outcome));
    Ok((Output { text, json: json!({ "as_of": as_of.at, "expectations": outcome }) }, false))
}

/// What `validate` would say, without reading anything twice that the run has read.
fn contract(
    project: &Project,
    transaction: &mut Transaction,
    as_of: Instant,
    profile: &ProfileShards,
    scored: &Scored,
) -> Result<Vec<Check>> {
    let (mut of_profile, mut of_events) = (Checks::new("profile"), Checks::new("events"));
    let mut facts = ProfileFacts::default();
    for shard in profile.shards().all() {
        // Rows without a key of their own would have ended the run.
        facts.add(ProfileFacts::of(&profile.rows(shard)?, &KeyFaults::default()));
    }
    check_profile(&project.profile, profile, &facts, &mut of_profile);
    let files = timelines::facts(project, transaction)?;
    let mut facts = EventFacts::default();
    files.iter().for_each(|file| facts.add(file));
    // Only files that reach beyond the as-of have events there.
    let mut later = project.events.clone();
    let mut reaches = files.iter().map(|file| file.reaches(as_of));
    later.table.files.retain(|_| reaches.next().unwrap_or(false));
    let future = if later.table.files.is_empty() { 0 } else { events_from(&later, as_of)? };
    check_events(&project.events, &facts, Some(future), &mut of_events);
    scored.report.check(&project.events, &mut of_events);
    Ok(of_profile.list.into_iter().chain(of_events.list).collect())
}

/// Every number of the run's report.
fn metrics(
    project: &Project,
    run: &str,
    scored: &Scored,
    assigned: &Assignment,
    customers: Customers,
    before: &BTreeMap<String, Vec<f64>>,
) -> RunMetrics {
    let names: Vec<&str> = project.segments.names().collect();
    let mut features = project.catalog.features.iter();
    let seen = features.find(|feature| feature.writes.as_deref() == Some("last_seen_at"));
    let models = scored.models.iter().map(|model| {
        let before = before.get(&model.model).map_or(&[][..], Vec::as_slice);
        summary::model(model, Artifact::trained_at(&model.version), before)
    });
    RunMetrics {
        format_version: FORMAT_VERSION,
        run: run.to_owned(),
        as_of: customers.as_of,
        previous: customers.previous,
        customers: assigned.customers.len(),
        events: scored.report.clone(),
        checks: Vec::new(),
        last_event: summary::last_event(scored, seen.map(|feature| feature.column())),
        models: models.collect(),
        segments: summary::segments(&names, assigned, customers.consent),
        flows: summary::flows(assigned),
        overlaps: summary::overlaps(&names, &assigned.customers),
    }
}

/// Stages the tables of the run beside the profile.
fn write(
    transaction: &mut Transaction,
    as_of: AsOf,
    champions: &Champions,
    scored: &Scored,
    assigned: &Assignment,
    customers: Customers,
) -> Result<()> {
    let mut rows = vec![
        ("scores", tables::scores(scored, customers)?),
        ("segments", tables::segments(&assigned.customers, customers)?),
        ("segment_changes", tables::changes(assigned, customers)?),
    ];
    if let Some((_, version, _)) = &champions.affinity {
        let recommended = tables::recommendations(&scored.recommendations, version, customers)?;
        rows.push(("recommendations", recommended));
    }
    for (table, rows) in &rows {
        write_shards(transaction, &folder(table, as_of), rows)?;
    }
    Ok(())
}

/// Where a table of an as-of is.
fn folder(table: &str, as_of: AsOf) -> String {
    format!("{table}/as_of={}", as_of.at.folder())
}

/// What the customers have consented to, in the order of their keys.
fn consent(profile: &RecordBatch, customers: &StringArray) -> Result<Consent> {
    let known = profile.schema();
    let wanted = |name: &str| name == "customer360_id" || Consent::COLUMNS.contains(&name);
    let columns: Vec<usize> =
        (0..known.fields().len()).filter(|column| wanted(known.field(*column).name())).collect();
    let rows = profile.project(&columns).map_err(Error::engine("consent"))?;
    Ok(Consent::of(&align(&rows, customers)?))
}

/// The version of each of the project's models that may score `at`.
///
/// # Errors
/// [`Error::NotEnough`] that names the models that have none.
fn champions(project: &Project, store: &Store, root: &Root, as_of: AsOf) -> Result<Champions> {
    let mut champions = Champions::default();
    let mut missing = Vec::new();
    for name in project.models.trained() {
        match Artifact::usable(store, root, name, as_of)? {
            Some(artifact) => {
                champions.add(artifact);
            }
            None => missing.push(name),
        }
    }
    warn_of_old_versions(project, &champions, as_of.at);
    if missing.is_empty() {
        return Ok(champions);
    }
    let (by, flag) = match as_of.known_at == as_of.at {
        true => ("by then".to_owned(), String::new()),
        false => (format!("by {}", as_of.known_at), format!(" --known-at {}", as_of.known_at)),
    };
    Err(Error::not_enough(
        format!(
            "no version of {} was trained by {} with what was known {by}",
            missing.join(", "),
            as_of.at
        ),
        format!(
            "run `c360-ml train --as-of {}{flag}` first, or `c360-ml run`, which does both",
            as_of.at
        ),
    ))
}

/// Scoring uses the definitions that a version was trained with; says where the files differ by now,
/// and which versions are older than their specs allow.
fn warn_of_old_versions(project: &Project, champions: &Champions, as_of: Instant) {
    for (name, version, artifact) in &champions.classifiers {
        let now = project.models.classifiers.iter().find(|model| model.spec.name == *name);
        let moved: Vec<&str> = artifact.moved_definitions(&project.catalog).collect();
        if !moved.is_empty() {
            let features = moved.join(", ");
            tracing::warn!(
                "{name} {version} scores with older definitions of {features}; train again"
            );
        }
        if now.is_some_and(|now| now.spec != artifact.spec) {
            moved_spec(name, version);
        }
        let age = Artifact::trained_at(version).map(|trained| as_of.days_since(trained.0));
        let most = artifact.spec.promotion.max_age.as_days();
        if let Some(age) = age.filter(|age| *age > most) {
            tracing::warn!(
                "{name} {version} was trained as of {age:.0} days ago, more than {most:.0}; train again"
            );
        }
    }
    let models = &project.models;
    if let (Some((name, version, artifact)), Some(now)) =
        (&champions.engagement, &models.engagement)
        && (artifact.spec != now.spec || artifact.aggregations != now.aggregations)
    {
        moved_spec(name, version);
    }
    if let (Some((name, version, artifact)), Some(now)) = (&champions.rfm, &models.rfm)
        && (artifact.spec != now.spec || artifact.aggregations != now.aggregations)
    {
        moved_spec(name, version);
    }
    if let (Some((name, version, artifact)), Some(now)) =
        (&champions.lifetime_value, &models.lifetime_value)
        && (artifact.spec != now.spec || artifact.definitions != now.definitions)
    {
        moved_spec(name, version);
    }
    if let (Some((name, version, artifact)), Some(now)) = (&champions.affinity, &models.affinity)
        && (artifact.spec.fitted(&now.spec) != now.spec
            || artifact.interactions != now.interactions)
    {
        moved_spec(name, version);
    }
}

fn moved_spec(name: &str, version: &str) {
    tracing::warn!("{name} {version} was trained with another spec; train again");
}

/// Whether every model of the project has a version that can be read and may score its as-of.
pub fn has_champions(project: &Project, store: &Store) -> Result<bool> {
    let (root, as_of) = (store.root()?, as_of(project)?);
    let usable = |name: &&str| matches!(Artifact::usable(store, &root, name, as_of), Ok(Some(_)));
    Ok(project.models.trained().iter().all(usable))
}

fn nothing_to_do(as_of: AsOf, run: &str) -> Output {
    let text = format!(
        "nothing to do: run {run} has scored {} from the same data, project and models\n",
        as_of.at
    );
    Output { text, json: json!({ "as_of": as_of.at, "run": run, "unchanged": true }) }
}

/// The merged 50-field profile.
fn profile(
    project: &Project,
    store: &Store,
    root: &Root,
    as_of: AsOf,
    source: &RecordBatch,
    scored: &Scored,
    assigned: &[Assigned],
) -> Result<RecordBatch> {
    let current = match &root.profile {
        Some(profile) if profile.as_of <= as_of.at => {
            let folder = format!("profile/as_of={}", profile.as_of.folder());
            let paths: Vec<_> = root.below(&folder).map(|file| store.file(file)).collect();
            let rows = read_all(paths.iter().map(|path| path.as_path()), None)?;
            rows.map(|rows| crate::store::parquet::sort_by_key(&rows, "customer360_id"))
                .transpose()?
        }
        _ => None,
    };
    let computed = Computed {
        keys: keys(&scored.features)?,
        features: &scored.features,
        modeled: modeled(scored, assigned)?,
        tastes: scored.tastes.clone(),
        first_event: scored.first_event.clone(),
    };
    let context = MergeContext {
        as_of: as_of.at,
        zone: project.context().zone,
        writeback: &project.settings.writeback,
        catalog: &project.catalog,
        past: root.profile.as_ref().is_some_and(|profile| profile.as_of > as_of.at),
        current: current.as_ref(),
    };
    merge(source, &computed, &context)
}

/// Scores, vectors and segments in the types of their profile fields.
fn modeled(scored: &Scored, assigned: &[Assigned]) -> Result<Vec<(&'static str, ArrayRef)>> {
    let mut list: Vec<(&'static str, ArrayRef)> = Vec::new();
    for model in &scored.models {
        let ty = profile_field(model.field).and_then(|field| field.arrow_type());
        if let Some(arrow_schema::DataType::Decimal128(precision, places)) = ty {
            list.push((model.field, tables::decimal(&model.score, precision, places as u8)?));
        }
    }
    let mut vectors = ListBuilder::new(Float32Builder::new());
    for vector in &scored.vectors {
        vector.iter().for_each(|x| vectors.values().append_value(*x as f32));
        vectors.append(true);
    }
    list.push(("recommendation_vector", Arc::new(vectors.finish())));
    let primary = assigned.iter().map(|assigned| &assigned.primary);
    list.push(("primary_segment", Arc::new(StringArray::from_iter_values(primary))));
    let mut segments = ListBuilder::new(StringBuilder::new());
    for assigned in assigned {
        assigned.memberships.iter().for_each(|m| segments.values().append_value(&m.segment));
        segments.append(true);
    }
    list.push(("segments", Arc::new(segments.finish())));
    Ok(list)
}

/// Customers, score distributions, segment sizes and where everything is.
fn printed(
    project: &Project,
    as_of: AsOf,
    run: &str,
    scored: &Scored,
    assigned: &[Assigned],
    refresh: &Refresh,
    moves: bool,
) -> Output {
    let mut scores =
        Table::new(&["score", "model", "lapsed", "none", "p10", "median", "p90", "mean"]);
    for model in &scored.models {
        let count = |basis| model.basis.iter().filter(|b| **b == basis).count() as u64;
        let mut values: Vec<f64> = model.score.iter().flatten().copied().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = ((values.len().max(1) - 1) as f64 * share).round() as usize;
            format!("{:.4}", values.get(rank).copied().unwrap_or(f64::NAN))
        };
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        use crate::scoring::Basis;
        scores.row([
            model.field.to_owned(),
            thousands(count(Basis::Model)),
            thousands(count(Basis::Lapsed)),
            thousands(count(Basis::None)),
            at(0.1),
            at(0.5),
            at(0.9),
            format!("{mean:.4}"),
        ]);
    }
    let mut sizes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for assigned in assigned {
        for membership in &assigned.memberships {
            let size = sizes.entry(&membership.segment).or_default();
            size.0 += 1;
            size.1 += u64::from(membership.segment == assigned.primary);
        }
    }
    let mut segments = Table::new(&["segment", "customers", "share", "as primary"]);
    let customers = assigned.len();
    for name in project.segments.names() {
        let (all, primary) = sizes.get(name).copied().unwrap_or_default();
        let share = format!("{:.1} %", all as f64 / customers as f64 * 100.0);
        segments.row([name.to_owned(), thousands(all), share, thousands(primary)]);
    }
    let date = as_of.at.folder();
    let store = &project.settings.project.store;
    let mut text = format!(
        "{} customers scored as of {} from {} events ({} duplicates left out, {} events of unknown customers {})\n{}\n{}\n{}\n",
        thousands(customers as u64),
        as_of.at,
        thousands(scored.report.events),
        thousands(scored.report.duplicates),
        thousands(scored.report.orphans),
        if project.events.orphans == Orphans::Create { "taken in" } else { "left out" },
        timelines::sentences(refresh),
        scores.render(),
        segments.render(),
    );
    let mut written = Table::new(&["written", "in"]);
    let tables = ["profile", "scores", "segments", "segment_changes", "recommendations"];
    for name in
        tables.into_iter().filter(|t| *t != "recommendations" || project.models.affinity.is_some())
    {
        written.row([name.to_owned(), format!("{store}/{}/", folder(name, as_of))]);
    }
    written.row(["features".to_owned(), format!("{store}/features/<view>/as_of={date}/")]);
    written.row(["manifest".to_owned(), format!("{store}/runs/{run}/manifest.json")]);
    written.row(["report".to_owned(), format!("{store}/runs/{run}/report.html")]);
    text += &written.render();
    if !moves {
        text += "\nthe current profile is of a later as-of and was not moved\n";
    }
    let json = json!({
        "as_of": as_of.at,
        "run": run,
        "customers": customers,
        "events": scored.report,
        "refresh": refresh,
        "segments": sizes.iter().map(|(name, (all, primary))| json!({ "segment": name, "customers": all, "primary": primary })).collect::<Vec<_>>(),
        "profile_moved": moves,
    });
    Output { text, json }
}

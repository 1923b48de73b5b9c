//! The command `score`: scores every customer at one as-of and writes the profile.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::RecordBatch;
use rayon::prelude::*;
use serde_json::json;

use super::champions::champions;
use super::previous;
use super::quality;
use super::views::{Views, ViewsAt, Written, WrittenView};
use super::{as_of, files_fingerprint, run_id, scattering, shards, timelines, write_manifest};
use crate::artifact::Artifact;
use crate::config::Project;
use crate::engine;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::features::drift::Drift;
use crate::features::events::{BuildReport, Events, LeftOut};
use crate::features::expectation::Judgement;
use crate::features::plan::AsOf;
use crate::features::registry::Inputs;
use crate::features::timelines::{KeptEvents, Refresh};
use crate::report::html::run::render;
use crate::report::{Output, Progress, Table, thousands};
use crate::scoring::affinity::offer;
use crate::scoring::champions::Champions;
use crate::scoring::classifier::drifts;
use crate::scoring::context::{ScoringContext, merge_rules};
use crate::scoring::finish::{FinishSummary, ShardInput, finish_shard};
use crate::scoring::plans::{FEATURES, plans};
use crate::scoring::ranks::{Bars, Ranked, rank};
use crate::scoring::score::{ScoreSummary, Scored, score_shard};
use crate::scoring::summary::{self, RunMetrics};
use crate::shard::Shard;
use crate::sources::Orphans;
use crate::sources::contract::{
    Check, Checks, EventFacts, ProfileFacts, check_events, check_profile, events_from,
};
use crate::sources::profile::{Entities, KeyFaults, ProfileShards};
use crate::store::parquet::{Writer, concat, sort_by_key};
use crate::store::sorted::SortedRuns;
use crate::store::spill::Spill;
use crate::store::{CurrentProfile, FORMAT_VERSION, Root, Staging, Store, Transaction};
use crate::time::Instant;

/// The number of days without any event before the as-of above which a run warns.
const STALE_DAYS: f64 = 2.0;

/// Scores all customers with the champions and publishes the profile, the scores and the segments. A run with
/// the same inputs as the last one is repeated only if `force`. The exit status says whether all expectations
/// of the features hold. If one does not, nothing of the as-of is published.
pub fn score(project: &Project, force: bool, progress: &mut Progress) -> Result<(Output, Exit)> {
    let as_of = as_of(project)?;
    let store = project.store()?;
    let mut transaction = store.begin("score")?;
    let context = context(project, &store, &transaction.root, as_of)?;
    progress.stage("fingerprinting the data");
    let data = files_fingerprint(project)?;
    let mut inputs = previous::inputs(&transaction.root, &context);
    let same = previous::same_run(project, &store, &transaction.root, as_of, &data, &inputs);
    if let Some(run) = same.filter(|_| !force) {
        return Ok((nothing_to_do(as_of, &run), Exit::Ok));
    }

    progress.stage("reading the profile");
    let shards = shards(project, &mut transaction.root);
    let instants = [as_of.at];
    let scattering = scattering(project, shards, transaction.scratch(), &instants);
    let profile = project.profile.scatter(scattering, &|_| true)?;
    progress.stage("reading new events");
    let history = timelines::refresh(project, &transaction, shards, &context.plans, false)?;
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
        return Err(Error::not_enough(
            format!("there is no customer at {}", as_of.at),
            "choose an as-of after the first profile or event",
        ));
    }
    progress.stage("checking the contract and the features");
    let mut checks = contract(project, &mut transaction, as_of.at, &profile, &first)?;
    let drifts = drifts_by_model(project, &context.champions, &first.summary);
    let (verdict, _) = views.publish(&mut transaction, 0, &mut first.written, drifts)?;
    let record = RunRecord { project, as_of, data: &data, report: &first.report };
    if !verdict.breaches.is_empty() {
        return record.quarantined(transaction, inputs, &verdict, progress);
    }
    checks.extend(quality::checks(&verdict));

    progress.stage("ranking");
    let ranked = run.rank(&store, &transaction.root, &first.summary)?;
    progress.stage("assigning segments and writing");
    let finished = run.finish(&store, &transaction.root, &ranked)?;
    finished.summary.losses.check()?;
    for table in TABLES {
        transaction.replace(&folder(table, as_of));
    }
    for file in &finished.files {
        transaction.adopt(file, file)?;
    }
    let id = run_id(&transaction, "score");
    let metrics =
        run.metrics(&id, first.report.clone(), checks, &first.summary, &ranked, &finished);
    warn_if_stale(&metrics);
    transaction.write_json(&format!("runs/{id}/metrics.json"), &metrics)?;
    let report = render(&project.settings.project.name, &metrics);
    transaction.write_text(&format!("runs/{id}/report.html"), &report)?;
    let moves = transaction.root.profile.as_ref().is_none_or(|profile| profile.as_of <= as_of.at);
    if moves {
        transaction.root.profile = Some(CurrentProfile { as_of: as_of.at, run: id });
    }
    let id = record.manifest(&mut transaction, "score", inputs, progress)?;
    transaction.commit()?;
    Ok((printed(project, as_of, &id, &metrics, &refresh, moves), Exit::Ok))
}

/// The tables that a run writes in addition to the features.
const TABLES: [&str; 5] = ["profile", "scores", "segments", "segment_changes", "recommendations"];

/// The folder of a table at an as-of.
fn folder(table: &str, as_of: AsOf) -> String {
    format!("{table}/as_of={}", as_of.at.folder())
}

/// Collects everything that the stages need from the project, checked.
///
/// # Errors
/// Returns [`Error::NotEnough`] if a model has no version that may score the as-of.
pub fn context(
    project: &Project,
    store: &Store,
    root: &Root,
    as_of: AsOf,
) -> Result<ScoringContext> {
    let champions = champions(project, store, root, as_of)?;
    let (zone, scale) = (project.context().zone, project.context().scale);
    let offer = match (&champions.affinity, &project.models.affinity) {
        (Some(champion), Some(model)) => offer(model, &champion.artifact.model, scale)?,
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
        segments: project.segments.clone(),
        merge: merge_rules(&project.catalog, writeback, (zone, as_of.at), is_past),
        previous: previous::segments(root, as_of.at).map(|(at, _)| at),
    })
}

/// A run over all shards. Between its two stages the scores of each shard are kept on disk.
struct Run<'a> {
    context: &'a ScoringContext,
    profile: &'a ProfileShards,
    scratch: &'a Path,
    staging: Staging,
    scored: Spill,
    /// The scores of all shards in order, by model.
    sorted: Vec<SortedRuns>,
}

/// The results of the first stage, merged over all shards.
struct First {
    report: BuildReport,
    summary: ScoreSummary,
    facts: ProfileFacts,
    written: Written,
}

/// The results of the first stage for one shard.
type FirstOfShard = (LeftOut, ScoreSummary, ProfileFacts, BTreeMap<String, WrittenView>);

/// The results of the second stage, merged over all shards.
struct Finished {
    summary: FinishSummary,
    files: Vec<String>,
}

/// The ranks of a model, and the histogram bars of its scores.
type RankedModel = (Ranked, Bars);

impl<'a> Run<'a> {
    fn new(
        context: &'a ScoringContext,
        transaction: &Transaction,
        profile: &'a ProfileShards,
    ) -> Result<Self> {
        // The folder exists as long as the transaction.
        let scratch = profile.folder();
        let shards = profile.shards().count();
        let models = context.champions.scored();
        let sorted = models.iter().map(|_| SortedRuns::create(scratch, shards));
        Ok(Self {
            context,
            profile,
            scratch,
            staging: transaction.staging(),
            scored: Spill::create(scratch, shards)?,
            sorted: sorted.collect::<Result<_>>()?,
        })
    }

    /// Runs the first stage for all shards.
    fn score(&self, events: &KeptEvents, views: &Views) -> Result<First> {
        let mut first = First {
            report: events.report.clone(),
            summary: ScoreSummary::default(),
            facts: ProfileFacts::default(),
            written: Written::new(1),
        };
        let stage = |shard| self.score_one(events, views, shard);
        engine::run(self.profile.shards(), stage, |_, (left_out, summary, facts, written)| {
            first.report.add(left_out);
            first.summary.add(summary);
            first.facts.add(facts);
            first.written.add(0, written);
            Ok(())
        })?;
        Ok(first)
    }

    fn score_one(&self, events: &KeptEvents, views: &Views, shard: Shard) -> Result<FirstOfShard> {
        let profile = self.profile.rows(shard)?;
        let rows = events.shard(shard, &Entities::of(&profile)?)?;
        let written = views.write(0, shard, rows.one(FEATURES)?)?;
        let (scored, summary) = score_shard(self.context, &rows, &profile)?;
        for (sorted, scores) in self.sorted.iter().zip(&scored.models) {
            sorted.put(shard.place(), scores.numbers())?;
        }
        scored.put_aside(self.context, &self.scored, shard.place())?;
        // Rows without a valid key would already have ended the run.
        let facts = ProfileFacts::of(&profile, &KeyFaults::default());
        Ok((rows.left_out(), summary, facts, written))
    }

    /// Computes the part of each model's scores that needs all customers: ranks and histogram bars.
    fn rank(&self, store: &Store, root: &Root, summary: &ScoreSummary) -> Result<Vec<RankedModel>> {
        let models = self.context.champions.scored();
        let names: Vec<&str> = models.iter().map(|model| model.name).collect();
        let earlier = previous::scores(store, root, self.context.previous, &names, self.scratch)?;
        let rank = |index: usize| {
            let (before, counts) = (&earlier[index], &summary.models[index]);
            let [low, high] = counts.range;
            let range = [low.min(before.range[0]), high.max(before.range[1])];
            let bars = Bars::new(range, counts.are_whole && before.are_whole);
            let shards = self.profile.shards().count();
            let now = &self.sorted[index];
            let ranked = rank(names[index], now, &before.sorted, bars, (self.scratch, shards))?;
            Ok((ranked, bars))
        };
        (0..models.len()).into_par_iter().map(rank).collect()
    }

    /// Runs the second stage for all shards.
    fn finish(&self, store: &Store, root: &Root, ranked: &[RankedModel]) -> Result<Finished> {
        let mut finished = Finished { summary: FinishSummary::default(), files: Vec::new() };
        let stage = |shard| self.finish_one(store, root, ranked, shard);
        engine::run(self.profile.shards(), stage, |_, (files, summary)| {
            finished.files.extend(files);
            finished.summary.add(summary);
            Ok(())
        })?;
        Ok(finished)
    }

    fn finish_one(
        &self,
        store: &Store,
        root: &Root,
        ranked: &[RankedModel],
        shard: Shard,
    ) -> Result<(Vec<String>, FinishSummary)> {
        let context = self.context;
        let scored = Scored::take_up(context, &self.scored, shard.place())?;
        let models = ranked.iter().zip(&scored.models);
        let percentiles = models
            .map(|((ranked, _), scores)| ranked.percentiles(shard.place(), &scores.ranked))
            .collect::<Result<Vec<_>>>()?;
        let table = |name: &str, at: Instant| {
            let folder = format!("{name}/as_of={}", at.folder());
            store.read_shard(root, &folder, shard, None)
        };
        let previous = context.previous.map(|at| table("segments", at)).transpose()?;
        let current = root.profile.as_ref().filter(|profile| profile.as_of <= context.as_of.at);
        let current = current.map(|profile| table("profile", profile.as_of)).transpose()?;
        let current = current.map(|rows| concat(&rows)).transpose()?.flatten();
        let current = current.map(|rows| sort_by_key(&rows, "customer360_id")).transpose()?;
        let input = ShardInput {
            profile: &self.profile.rows(shard)?,
            percentiles: &percentiles,
            previous: previous.as_deref().unwrap_or_default(),
            current: current.as_ref(),
        };
        let (tables, summary) = finish_shard(context, &scored, &input)?;
        let write = |(table, rows): &(&str, RecordBatch)| {
            let name = shard.file_name(self.staging.generation());
            let file = format!("{}/{name}", folder(table, context.as_of));
            let mut writer = Writer::create(&self.staging.path(&file)?, &rows.schema())?;
            writer.write(rows)?;
            writer.finish()?;
            Ok(file)
        };
        let files = tables.par_iter().map(write).collect::<Result<_>>()?;
        Ok((files, summary))
    }

    /// Collects all numbers of the run's report.
    fn metrics(
        &self,
        run: &str,
        report: BuildReport,
        checks: Vec<Check>,
        scores: &ScoreSummary,
        ranked: &[RankedModel],
        finished: &Finished,
    ) -> RunMetrics {
        let champions = &self.context.champions;
        let scored = champions.scored();
        let models = scored.iter().zip(&scores.models).zip(ranked);
        let models = models.map(|((model, counts), (ranked, bars))| {
            let trained = Artifact::trained_at(model.version);
            let mut classifiers = champions.classifiers.iter().zip(&scores.inputs);
            let own = classifiers.find(|(champion, _)| champion.name == model.name);
            let drift = own.map(|(champion, inputs)| drifts(&champion.artifact, inputs));
            summary::model(model, trained, counts, ranked, *bars, drift.unwrap_or_default())
        });
        let segments = &finished.summary.segments;
        RunMetrics {
            format_version: FORMAT_VERSION,
            run: run.to_owned(),
            as_of: self.context.as_of.at,
            previous: self.context.previous,
            customers: scores.customers as usize,
            // The spilled bytes depend on the memory of the machine; the manifest records them.
            events: BuildReport { spilled_bytes: 0, ..report },
            checks,
            last_event: scores.last_event,
            models: models.collect(),
            segments: segments.sizes().to_vec(),
            flows: segments.flows(),
            overlaps: segments.overlaps(),
        }
    }
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

/// The values that every manifest of the run contains.
struct RunRecord<'a> {
    project: &'a Project,
    as_of: AsOf,
    data: &'a str,
    report: &'a BuildReport,
}

impl RunRecord<'_> {
    fn manifest(
        &self,
        transaction: &mut Transaction,
        command: &'static str,
        inputs: serde_json::Value,
        progress: &mut Progress,
    ) -> Result<String> {
        let Self { project, as_of, data, report } = *self;
        write_manifest(transaction, project, command, as_of, data, report, inputs, progress)
    }

    /// Publishes the quarantined snapshots and the broken expectations. The profile stays unchanged.
    fn quarantined(
        &self,
        mut transaction: Transaction,
        mut inputs: serde_json::Value,
        verdict: &Judgement,
        progress: &mut Progress,
    ) -> Result<(Output, Exit)> {
        inputs["breaches"] = json!(verdict.breaches);
        // The run has another name, so that it is not mistaken for one that has scored.
        self.manifest(&mut transaction, "quarantine", inputs, progress)?;
        transaction.commit()?;
        let at = self.as_of.at;
        let text =
            format!("nothing was scored as of {at}\n{}", quality::text(self.project, verdict));
        Ok((Output { text, json: json!({ "as_of": at, "expectations": verdict }) }, Exit::Contract))
    }
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

/// Prints the number of customers, the distributions of the scores, the sizes of the segments and the paths
/// of the written files.
fn printed(
    project: &Project,
    as_of: AsOf,
    run: &str,
    metrics: &RunMetrics,
    refresh: &Refresh,
    moves: bool,
) -> Output {
    let mut scores =
        Table::new(&["score", "model", "lapsed", "none", "p10", "median", "p90", "mean"]);
    let fields = project.models.fields();
    for model in &metrics.models {
        let field = fields.iter().find(|(name, _)| *name == model.model);
        let [of_model, lapsed, none] = model.basis.map(|count| thousands(count as u64));
        let number = |of: fn(&summary::ScoreSummary) -> f64| {
            format!("{:.4}", model.scores.as_ref().map_or(f64::NAN, of))
        };
        scores.row([
            field.map_or(model.model.as_str(), |(_, field)| field).to_owned(),
            of_model,
            lapsed,
            none,
            number(|scores| scores.p10),
            number(|scores| scores.p50),
            number(|scores| scores.p90),
            number(|scores| scores.mean),
        ]);
    }
    let mut segments = Table::new(&["segment", "customers", "share", "as primary"]);
    let customers = metrics.customers;
    for size in &metrics.segments {
        let share = format!("{:.1} %", size.members as f64 / customers as f64 * 100.0);
        let (members, primary) = (thousands(size.members as u64), thousands(size.primary as u64));
        segments.row([size.segment.clone(), members, share, primary]);
    }
    let date = as_of.at.folder();
    let store = &project.settings.project.store;
    let mut text = format!(
        "{} customers scored as of {} from {} events ({} duplicates left out, {} events of unknown customers {})\n{}\n{}\n{}\n",
        thousands(customers as u64),
        as_of.at,
        thousands(metrics.events.events),
        thousands(metrics.events.duplicates),
        thousands(metrics.events.orphans),
        if project.events.orphans == Orphans::Create { "taken in" } else { "left out" },
        timelines::sentences(refresh),
        scores.render(),
        segments.render(),
    );
    let mut written = Table::new(&["written", "in"]);
    for name in
        TABLES.into_iter().filter(|t| *t != "recommendations" || project.models.affinity.is_some())
    {
        written.row([name.to_owned(), format!("{store}/{}/", folder(name, as_of))]);
    }
    written.row(["features".to_owned(), format!("{store}/features/<view>/as_of={date}/")]);
    written.row(["manifest".to_owned(), format!("{store}/runs/{run}/manifest.json")]);
    written.row(["report".to_owned(), format!("{store}/runs/{run}/report.html")]);
    text += &written.render();
    if !moves {
        text += "\nthe current profile has a later as-of and was not replaced\n";
    }
    let sizes = metrics.segments.iter();
    let sizes = sizes.filter(|size| size.members > 0).map(|size| {
        json!({ "segment": size.segment, "customers": size.members, "primary": size.primary })
    });
    let json = json!({
        "as_of": as_of.at,
        "run": run,
        "customers": customers,
        "events": metrics.events,
        "refresh": refresh,
        "segments": sizes.collect::<Vec<_>>(),
        "profile_moved": moves,
    });
    Output { text, json }
}

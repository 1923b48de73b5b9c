//! The command `train`: trains every model of the project at one as-of, in one pass over the events.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};
use serde_json::json;

use super::pages::{self, Form};
use super::record::RunRecord;
use super::{as_of, data_fingerprint, scattering, shards, timelines};
use crate::artifact::{
    AffinityArtifact, Artifact, ClassifierArtifact, EngagementArtifact, RfmArtifact, Trained,
};
use crate::config::Project;
use crate::engine;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::features::catalog::Catalog;
use crate::features::events::Events;
use crate::features::plan::AsOf;
use crate::features::timelines::Refresh;
use crate::models::engagement::Ecdf;
use crate::models::rfm::{Quintiles, Rfm};
use crate::report::findings::Findings;
use crate::report::html::model::{ModelReport, cuts, render};
use crate::report::text::describe;
use crate::report::{Output, Progress, html, text};
use crate::sources::attributes::{Attributes, LevelCounts, Levels};
use crate::sources::contract::{History, first_event, history};
use crate::sources::profile::{CREATED, Entities, KEY, ProfileShards};
use crate::spec::{Classifier, Models};
use crate::store::parquet::Writer;
use crate::store::sorted::SortedRuns;
use crate::store::{Root, Store, Transaction, unless_damaged};
use crate::time::Instant;
use crate::training::TrainingProblem;
use crate::training::affinity::{self, AffinityMetrics};
use crate::training::classifier::{self, Champion, Past, TestPrediction};
use crate::training::gather::{Distributions, Gathered, Request, TrainingInputs, scheduled};
use crate::training::lifetime_value::{self, LifetimeValueMetrics};
use crate::training::matured;
use crate::training::metrics::ClassifierMetrics;
use crate::training::skew::Served;

/// Trains all models, stores them as new versions and promotes those that pass their gates. The exit status
/// says whether every classifier could be trained and every gate was passed.
///
/// # Errors
/// Returns [`TrainingProblem`] if no model at all could be trained.
pub fn train(project: &Project, progress: &mut Progress) -> Result<(Output, Exit)> {
    let as_of = as_of(project)?;
    let store = project.store()?;
    let mut transaction = super::begin(project, &store, "train")?;
    progress.stage("fingerprinting the data");
    let data = data_fingerprint(project)?;
    progress.stage("counting events by day");
    let files = timelines::facts(project, &mut transaction)?;
    let history = history(&project.events, &files, as_of.at, as_of.known_at)?
        .ok_or_else(|| TrainingProblem::NoEvents { at: as_of.at, first: first_event(&files) })?;
    let mut untrained = Untrained::default();
    let models = untrained.without(project, as_of, &history)?;
    let champions = champions(project, &models, &store, &transaction.root, as_of, &data);
    let served = Served::latest(&store, &transaction.root, &project.catalog, as_of)?;
    progress.stage("gathering snapshots and labels");
    let shards = shards(project, &mut transaction.root);
    let (artifacts, versions): (Vec<_>, Vec<_>) = champions.into_iter().unzip();
    let scored = |model: &Classifier| matured::scored(&transaction.root, &model.spec, as_of.at);
    let attributes = attributes(project, &models, &artifacts);
    let wanted = |name: &str| [KEY, CREATED].contains(&name) || attributes.contains(&name);
    let scattering = scattering(project, shards, transaction.scratch(), &[]);
    let profile = project.profile.scatter(scattering, &wanted)?;
    let scored: Vec<Vec<Instant>> = models.classifiers.iter().map(scored).collect();
    let compared = matured::compared(profile.rows);
    let known = TrainingInputs {
        attributes: &attributes,
        levels: &levels(&profile, &attributes)?,
        champions: &artifacts,
        scored: &scored,
        compared,
        served: served.as_ref(),
        as_of,
        history: &history,
    };
    let request = Request::new(&project.events, &project.catalog, &models, known)?;
    let (gathered, refresh) = gather(project, &mut transaction, request, &profile, &attributes)?;
    let report = gathered.report.clone();
    let mut pasts = Vec::new();
    for (i, (model, data)) in models.classifiers.iter().zip(&gathered.classifiers).enumerate() {
        let artifact = artifacts[i].as_ref();
        pasts.push(Past {
            champion: artifact.map(|artifact| Champion { version: &versions[i], artifact }),
            skew: served.as_ref().map(|served| gathered.skew.of(served, &model.inputs)),
            matured: matured::matured(
                &store,
                &transaction.root,
                &model.spec,
                compared,
                &data.happened,
            )?,
            history: history.clone(),
        });
    }
    let earlier = earlier_affinity(project, &store, &transaction.root, as_of)?;
    let fitting = Fitting { catalog: &project.catalog, models: &models, as_of: as_of.at };
    let fitted = fit(&fitting, gathered, pasts, earlier, &mut untrained, progress)?;

    progress.stage("writing");
    let mut outcome = Summary::default();
    for (name, model, numbers) in fitted {
        let artifact = Artifact::new(&name, as_of, &data, model);
        keep(&store, &mut transaction, project, &artifact, numbers, &mut outcome)?;
    }
    outcome.text += &untrained.text();
    let inputs = json!({ "versions": outcome.versions, "refresh": refresh });
    let record = RunRecord { project, as_of, data: &data, events: &report };
    record.write(&mut transaction, "train", inputs, progress)?;
    transaction.commit()?;
    let json = json!({
        "as_of": as_of.at,
        "versions": outcome.versions,
        "models": outcome.models,
        "gates_passed": outcome.failed.is_empty(),
        "untrained": untrained.json(),
    });
    let all = outcome.failed.is_empty() && untrained.0.is_empty();
    Ok((Output { text: outcome.text, json }, Exit::NotMet.unless(all)))
}

/// Gathers what the models ask for, shard by shard, from the timelines of the store; also gives what was read to
/// bring these up to date.
fn gather(
    project: &Project,
    transaction: &mut Transaction,
    request: Request,
    profile: &ProfileShards,
    attributes: &[&str],
) -> Result<(Gathered, Refresh)> {
    let shards = profile.shards();
    let timelines = timelines::refresh(project, transaction, shards, &request.plans, false)?;
    let events = timelines.events(transaction, &project.events, &request.plans)?;
    let mut report = events.report.clone();
    let models = request.classifiers();
    let distributions = Distributions::create(transaction.scratch(), shards, models)?;
    let mut samples = request.empty();
    let stage = |shard| {
        let rows = profile.rows(shard)?;
        let computed = events.shard(shard, &Entities::of(&rows)?)?;
        let mut sample = request.sample(&computed, &Attributes::of(&rows, attributes)?)?;
        distributions.put(shard, std::mem::take(&mut sample.numbers))?;
        Ok((computed.left_out(), sample))
    };
    engine::run(profile.shards(), stage, |_, (left_out, shard)| {
        report.add(left_out);
        request.add(&mut samples, shard);
        Ok(())
    })?;
    report.check_orphans(&project.events)?;
    let refresh = events.finish(transaction)?;
    Ok((request.gathered(samples, distributions, report), refresh))
}

/// The classifiers that have too few data, each with what it lacks. They do not stop the others.
#[derive(Default)]
struct Untrained(Vec<(String, Error)>);

impl Untrained {
    /// Adds a classifier that lacks data. Any other error is returned.
    fn add(&mut self, model: &Classifier, error: Error) -> Result<()> {
        if error.exit() != Exit::NotMet {
            return Err(error);
        }
        let name = &model.spec.name;
        let hint = error.hint().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
        tracing::warn!("{name} was not trained: {error}{hint}");
        self.0.push((name.clone(), error));
        Ok(())
    }

    /// Lists the models of a project without the classifiers whose history is too short.
    fn without(&mut self, project: &Project, as_of: AsOf, history: &History) -> Result<Models> {
        let mut models = project.models.clone();
        models.classifiers.clear();
        for model in &project.models.classifiers {
            match scheduled(model, &project.events, as_of, history) {
                Ok(_) => models.classifiers.push(model.clone()),
                Err(error) => self.add(model, error)?,
            }
        }
        self.check(!models.classifiers.is_empty() || models.has_others())?;
        Ok(models)
    }

    /// Returns the first error unless there is something to train.
    fn check(&mut self, has_models: bool) -> Result<()> {
        if has_models || self.0.is_empty() {
            return Ok(());
        }
        Err(self.0.remove(0).1)
    }

    fn text(&self) -> String {
        let lines = self.0.iter().map(|(name, error)| {
            let hint = error.hint().map(|hint| format!("\n  {hint}")).unwrap_or_default();
            format!("{name} was not trained: {error}{hint}\n")
        });
        lines.collect()
    }

    fn json(&self) -> serde_json::Value {
        let of = |(name, error): &(String, Error)| {
            (name.clone(), json!({ "error": error.to_string(), "hint": error.hint() }))
        };
        serde_json::Value::Object(self.0.iter().map(of).collect())
    }
}

/// Counts the levels of attributes over the whole profile.
fn levels(profile: &ProfileShards, attributes: &[&str]) -> Result<BTreeMap<String, Levels>> {
    let mut counts = LevelCounts::default();
    if attributes.is_empty() {
        return Ok(counts.levels());
    }
    let stage = |shard| Ok(LevelCounts::of(&Attributes::of(&profile.rows(shard)?, attributes)?));
    engine::run(profile.shards(), stage, |_, more| {
        counts.add(more);
        Ok(())
    })?;
    Ok(counts.levels())
}

/// The results of a training run.
#[derive(Default)]
struct Summary {
    text: String,
    versions: serde_json::Map<String, serde_json::Value>,
    /// What other programs need of each model: its version, verdict, test and files.
    models: serde_json::Map<String, serde_json::Value>,
    failed: Vec<String>,
}

/// Stages a version and promotes it, unless its gate has failed or the champion was trained as of a later
/// instant.
fn keep(
    store: &Store,
    transaction: &mut Transaction,
    project: &Project,
    artifact: &Artifact,
    numbers: Numbers,
    outcome: &mut Summary,
) -> Result<()> {
    let (name, version) = (&artifact.name, &artifact.version);
    let folder = format!("models/{name}/{version}");
    let path_of_page = format!("{folder}/report.html");
    transaction.write_json(&format!("{folder}/model.json"), artifact)?;
    let mut gate = None;
    let mut files = vec!["model.json"];
    let mut summary = json!({ "version": version });
    match (numbers, &artifact.model) {
        (Numbers::Classifier(metrics, predictions), Trained::Classifier(model)) => {
            let metrics = as_it_was(store, &transaction.root, &folder, *metrics);
            transaction.write_json(&format!("{folder}/metrics.json"), &metrics)?;
            let rows = prediction_rows(&predictions)?;
            let file = transaction.stage(&format!("{folder}/predictions.parquet"))?;
            Writer::stage(file, &rows.schema())?.write_only(&rows)?;
            let cuts = &cuts(&project.segments, model);
            let project = &project.settings.project.name;
            let report = ModelReport { project, artifact, model, metrics: &metrics, cuts };
            pages::write(transaction, &path_of_page, &render(&report), Form::Linked);
            outcome.text += &describe(name, version, &metrics);
            files.extend(["metrics.json", "report.html", "predictions.parquet"]);
            summary = judged(summary, &Findings::of_classifier(&metrics));
            summary["test"] = json!(metrics.test.metrics);
            gate = Some(metrics.gate);
        }
        (Numbers::LifetimeValue(metrics), Trained::LifetimeValue(model)) => {
            transaction.write_json(&format!("{folder}/metrics.json"), &metrics)?;
            let page = html::lifetime_value::render(
                &project.settings.project.name,
                artifact,
                model,
                &metrics,
            );
            pages::write(transaction, &path_of_page, &page, Form::Linked);
            outcome.text += &text::lifetime_value(name, version, &metrics);
            files.extend(["metrics.json", "report.html"]);
            summary = judged(summary, &Findings::of_lifetime_value(&metrics));
            summary["test"] = json!(metrics.holdout.as_ref().map(|holdout| &holdout.model));
            gate = metrics.gate;
        }
        (Numbers::Affinity(metrics), Trained::Affinity(model)) => {
            transaction.write_json(&format!("{folder}/metrics.json"), &metrics)?;
            let page =
                html::affinity::render(&project.settings.project.name, artifact, model, &metrics);
            pages::write(transaction, &path_of_page, &page, Form::Linked);
            outcome.text += &text::affinity(name, version, &metrics);
            files.extend(["metrics.json", "report.html"]);
            summary = judged(summary, &Findings::of_affinity(&metrics));
            let tested = metrics.tested.as_ref().and_then(|tested| tested.all.rankings.first());
            summary["test"] = json!(tested);
            gate = Some(metrics.gate);
        }
        _ => outcome.text += &format!("{name} {version}\n"),
    }
    outcome.versions.insert(name.clone(), json!(version));
    let path = |file: &'static str| {
        let name = format!("{folder}/{file}");
        let object = match file.ends_with(".html") {
            true => name,
            false => transaction.object(&name),
        };
        (file, store.beside(&object))
    };
    summary["files"] = json!(files.into_iter().map(path).collect::<BTreeMap<&str, _>>());
    let root = &mut transaction.root;
    let order = root.trained.entry(name.clone()).or_default();
    order.retain(|other| other != version);
    order.push(version.clone());
    summary["gate"] = json!(gate);
    let champion = root.champions.get(name).cloned();
    let later = champion.as_ref().and_then(|champion| Artifact::trained_at(champion));
    outcome.text += &match (gate.filter(|gate| !gate.passed), later) {
        (Some(gate), _) if champion.as_ref() == Some(version) => {
            outcome.failed.push(name.clone());
            let failures = gate.failures();
            format!("{name} {version} is in use, put there by hand, though {failures}\n\n")
        }
        (Some(gate), _) => {
            outcome.failed.push(name.clone());
            root.hold_back(name, version);
            let stays = champion.map_or("no version is in use".to_owned(), |champion| {
                format!("{champion} stays in use")
            });
            format!(
                "{name} {version} was kept, not put in use, and {stays}: {}\n\n",
                gate.failures()
            )
        }
        (None, Some(at)) if at > artifact.as_of => {
            root.release(name, version);
            let champion = champion.unwrap_or_default();
            format!("{name} {champion} stays champion: it was trained as of {at}\n\n")
        }
        (None, _) => {
            root.promote(name, version);
            "\n".to_owned()
        }
    };
    summary["in_use"] = json!(root.champions.get(name) == Some(version));
    outcome.models.insert(name.clone(), summary);
    Ok(())
}

/// Adds the verdict and the findings to the summary of a model.
fn judged(mut summary: serde_json::Value, findings: &Findings) -> serde_json::Value {
    summary["verdict"] = json!(findings.level());
    summary["findings"] = json!(findings);
    summary
}

/// Returns the stored metrics of a version if they differ from `metrics` only by later scores, because the
/// files of a version must not change.
fn as_it_was(
    store: &Store,
    root: &Root,
    folder: &str,
    metrics: ClassifierMetrics,
) -> ClassifierMetrics {
    let path = format!("{folder}/metrics.json");
    let Ok(before) = store.read_json::<ClassifierMetrics>(root, &path) else {
        return metrics;
    };
    let (skew, matured) = (before.skew.clone(), before.matured.clone());
    let same = before == ClassifierMetrics { skew, matured, ..metrics.clone() };
    if same { before } else { metrics }
}

/// Finds for each classifier the version to compare a new one with. This is the champion, or a former
/// champion if the champion knew more than is known now, or was trained from exactly the same inputs.
/// Training again therefore gives the same result.
fn champions(
    project: &Project,
    models: &Models,
    store: &Store,
    root: &Root,
    as_of: AsOf,
    data: &str,
) -> Vec<(Option<ClassifierArtifact>, String)> {
    let of_model = |model: &Classifier| {
        let name = &model.spec.name;
        let in_use = root.champions.get(name).into_iter();
        let former = root.former.get(name).into_iter().flatten().rev();
        for version in in_use.chain(former) {
            let artifact = match Artifact::load(store, root, name, version) {
                Ok(artifact) => artifact,
                Err(error) => {
                    tracing::warn!("{name} {version} cannot be compared with: {error}");
                    continue;
                }
            };
            let same = artifact.as_of == as_of.at
                && artifact.known_at == as_of.known_at
                && artifact.data_fingerprint == data;
            if let Trained::Classifier(trained) = artifact.model
                && artifact.as_of <= as_of.at
                && artifact.known_at <= as_of.known_at
                && !(same && trained.spec == model.spec && !moved(&trained, &project.catalog))
            {
                return (Some(*trained), version.clone());
            }
        }
        (None, String::new())
    };
    models.classifiers.iter().map(of_model).collect()
}

/// Finds the affinity version that a new version is aligned to and compared with. This is the champion, or the last
/// former champion if the champion was not trained as of an earlier instant, so that training again gives the same
/// result.
fn earlier_affinity(
    project: &Project,
    store: &Store,
    root: &Root,
    as_of: AsOf,
) -> Result<Option<(String, AffinityArtifact)>> {
    let Some(model) = &project.models.affinity else { return Ok(None) };
    let name = &model.spec.name;
    let former = root.former.get(name).into_iter().flatten().rev();
    let versions = root.champions.get(name).into_iter().chain(former);
    let earlier = versions.filter(|v| Artifact::trained_at(v).is_some_and(|at| at < as_of.at));
    for version in earlier {
        let artifact = unless_damaged(Artifact::load(store, root, name, version))?;
        let known = artifact.filter(|artifact| artifact.known_at <= as_of.known_at);
        if let Some(Artifact { model: Trained::Affinity(model), version, .. }) = known {
            return Ok(Some((version, *model)));
        }
    }
    Ok(None)
}

fn moved(artifact: &ClassifierArtifact, catalog: &Catalog) -> bool {
    artifact.moved_definitions(catalog).next().is_some()
}

/// Collects the attributes of the profile that any model reads or that its report is sliced by.
fn attributes<'a>(
    project: &'a Project,
    models: &'a Models,
    champions: &'a [Option<ClassifierArtifact>],
) -> Vec<&'a str> {
    let mut names: Vec<&str> = models
        .classifiers
        .iter()
        .flat_map(|model| model.spec.inputs.attributes.iter().chain(&model.slices))
        .map(String::as_str)
        .chain(champions.iter().flatten().flat_map(ClassifierArtifact::attributes))
        .filter(|name| project.profile.type_of(name).is_some())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The numbers that are stored with an artifact.
enum Numbers {
    None,
    Classifier(Box<ClassifierMetrics>, Vec<TestPrediction>),
    LifetimeValue(Box<LifetimeValueMetrics>),
    Affinity(Box<AffinityMetrics>),
}

type Fitted = (String, Trained, Numbers);

/// What is fitted.
struct Fitting<'a> {
    catalog: &'a Catalog,
    models: &'a Models,
    as_of: Instant,
}

/// Fits every model on the gathered samples.
fn fit(
    fitting: &Fitting,
    gathered: Gathered,
    pasts: Vec<Past>,
    earlier: Option<(String, AffinityArtifact)>,
    untrained: &mut Untrained,
    progress: &mut Progress,
) -> Result<Vec<Fitted>> {
    let Fitting { catalog, models, as_of } = *fitting;
    let mut fitted = Vec::new();
    progress.stage("fitting classifiers");
    let data = models.classifiers.iter().zip(gathered.classifiers);
    for ((model, data), past) in data.zip(pasts) {
        let trained = match classifier::train(model, data, catalog, past) {
            Ok(trained) => trained,
            Err(error) => {
                untrained.add(model, error)?;
                continue;
            }
        };
        let artifact = Trained::Classifier(Box::new(trained.artifact));
        let numbers = Numbers::Classifier(Box::new(trained.metrics), trained.predictions);
        fitted.push((model.spec.name.clone(), artifact, numbers));
    }
    untrained.check(!fitted.is_empty() || models.has_others())?;
    if let Some(model) = &models.engagement {
        let artifact = EngagementArtifact {
            spec: model.spec.clone(),
            aggregations: model.aggregations.clone(),
            ecdf: Ecdf::fit(gathered.activity.len(), gathered.activity.values()?)?,
        };
        fitted.push((model.spec.name.clone(), Trained::Engagement(artifact), Numbers::None));
    }
    if let Some(model) = &models.rfm {
        let cuts = |numbers: &SortedRuns| Quintiles::fit(numbers.len(), numbers.values()?);
        let [recency, frequency, monetary] = &gathered.buyers;
        let rfm =
            Rfm { recency: cuts(recency)?, frequency: cuts(frequency)?, monetary: cuts(monetary)? };
        let artifact = RfmArtifact {
            spec: model.spec.clone(),
            aggregations: model.aggregations.clone(),
            rfm,
            buyers: recency.len(),
        };
        fitted.push((model.spec.name.clone(), Trained::Rfm(artifact), Numbers::None));
    }
    if let Some(model) = &models.lifetime_value {
        progress.stage("fitting lifetime value");
        let (purchases, holdouts) = (gathered.purchases, gathered.holdouts);
        let (artifact, metrics) = lifetime_value::train(model, purchases, as_of, holdouts)?;
        let artifact = Trained::LifetimeValue(Box::new(artifact));
        let numbers = Numbers::LifetimeValue(Box::new(metrics));
        fitted.push((model.spec.name.clone(), artifact, numbers));
    }
    if let Some(model) = &models.affinity {
        progress.stage("fitting affinity");
        let (interactions, windows) = (gathered.interactions, gathered.windows);
        let (artifact, metrics) =
            affinity::train(model, interactions, as_of, windows, earlier.as_ref())?;
        let numbers = Numbers::Affinity(Box::new(metrics));
        fitted.push((model.spec.name.clone(), Trained::Affinity(Box::new(artifact)), numbers));
    }
    Ok(fitted)
}

fn prediction_rows(predictions: &[TestPrediction]) -> Result<RecordBatch> {
    let keys: ArrayRef =
        Arc::new(StringArray::from_iter_values(predictions.iter().map(|p| &p.key)));
    let raw: ArrayRef = Arc::new(Float64Array::from_iter_values(predictions.iter().map(|p| p.raw)));
    let probability: ArrayRef =
        Arc::new(Float64Array::from_iter_values(predictions.iter().map(|p| p.probability)));
    let label: ArrayRef =
        Arc::new(predictions.iter().map(|p| Some(p.label)).collect::<BooleanArray>());
    RecordBatch::try_from_iter([
        ("customer360_id", keys),
        ("raw", raw),
        ("probability", probability),
        ("label", label),
    ])
    .map_err(Error::engine("collecting predictions"))
}

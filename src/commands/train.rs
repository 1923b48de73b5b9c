//! `train`: every model of the project at one as-of, in one pass over the events.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};
use serde_json::json;

use super::{as_of, data_fingerprint, engine, write_manifest};
use crate::config::Project;
use crate::error::{Error, Result};
use crate::models::affinity::{ItemFactors, Options, Sparse};
use crate::models::engagement::Ecdf;
use crate::models::rfm::{Quintiles, Rfm};
use crate::report::{Output, Progress, Table, thousands};
use crate::sources::contract::first_event;
use crate::store::part_hash;
use crate::training::artifact::{
    AffinityArtifact, Artifact, ClassifierMetrics, EngagementArtifact, RfmArtifact, Trained,
};
use crate::training::classifier::{self, Prediction};
use crate::training::gather::{Gathered, gather};

/// Customers that a taste model is fitted on at most; a fixed hash of the key chooses them.
const TASTE_CUSTOMERS: usize = 100_000;

/// Trains all models, keeps them as new versions and makes them champions, except where the champion
/// was trained as of a later instant.
pub fn train(project: &Project, progress: &mut Progress) -> Result<Output> {
    let as_of = as_of(project)?;
    let mut transaction = project.store()?.begin("train")?;
    progress.stage("fingerprinting the data");
    let data = data_fingerprint(project)?;
    let history = first_event(&project.events, as_of.at, as_of.known_at)?.ok_or_else(|| {
        Error::not_enough("there are no events to train on", "check sources.events.path")
    })?;
    progress.stage("gathering snapshots and labels");
    let gathered = gather(
        &engine(project, &transaction),
        &project.events,
        &project.profile.entities()?,
        &project.catalog,
        &project.models,
        as_of,
        history,
    )?;
    let report = gathered.report.clone();
    let (trained, metrics) = fit(project, gathered, progress)?;

    let mut text = String::new();
    let mut versions = serde_json::Map::new();
    for (name, model, classifier) in trained {
        let artifact = Artifact::new(&name, as_of, &data, model);
        let folder = format!("models/{name}/{}", artifact.version);
        transaction.write_json(&format!("{folder}/model.json"), &artifact)?;
        if let Some((metrics, predictions)) = classifier {
            transaction.write_json(&format!("{folder}/metrics.json"), &metrics)?;
            let path = transaction.stage(&format!("{folder}/predictions.parquet"))?;
            let rows = prediction_rows(&predictions)?;
            crate::store::parquet::write(&path, &rows.schema(), [&rows])?;
            text += &describe(&name, &artifact.version, &metrics);
        } else {
            text += &format!("{name} {}\n\n", artifact.version);
        }
        versions.insert(name.clone(), json!(artifact.version));
        let root = &mut transaction.root;
        let order = root.trained.entry(name.clone()).or_default();
        order.retain(|version| *version != artifact.version);
        order.push(artifact.version.clone());
        let champion =
            root.champions.get(&name).map(|version| (version, Artifact::trained_at(version)));
        match champion {
            Some((version, Some(at))) if at > as_of.at => {
                text += &format!("{name} {version} stays champion: it was trained as of {at}\n\n");
            }
            _ => {
                root.promote(&name, &artifact.version);
            }
        }
    }
    let inputs = json!({ "versions": versions });
    write_manifest(&mut transaction, project, "train", &data, &report, inputs, progress)?;
    transaction.commit()?;
    Ok(Output {
        text,
        json: json!({ "as_of": as_of.at, "versions": versions, "classifiers": metrics }),
    })
}

type Fitted = (String, Trained, Option<(ClassifierMetrics, Vec<Prediction>)>);

/// Fits every model on what was gathered.
fn fit(
    project: &Project,
    gathered: Gathered,
    progress: &mut Progress,
) -> Result<(Vec<Fitted>, serde_json::Value)> {
    let models = &project.models;
    let mut fitted = Vec::new();
    let mut all = serde_json::Map::new();
    progress.stage("fitting classifiers");
    for (model, data) in models.classifiers.iter().zip(gathered.classifiers) {
        let trained = classifier::train(model, data, &project.catalog)?;
        all.insert(model.spec.name.clone(), json!(trained.metrics));
        let extra = Some((trained.metrics, trained.predictions));
        fitted.push((
            model.spec.name.clone(),
            Trained::Classifier(Box::new(trained.artifact)),
            extra,
        ));
    }
    if let Some(model) = &models.engagement {
        let artifact = EngagementArtifact {
            spec: model.spec.clone(),
            aggregations: model.aggregations.clone(),
            ecdf: Ecdf::fit(gathered.activity),
        };
        fitted.push((model.spec.name.clone(), Trained::Engagement(artifact), None));
    }
    if let Some(model) = &models.rfm {
        let column =
            |i: usize| Quintiles::fit(gathered.buyers.iter().map(|buyer| buyer[i]).collect());
        let artifact = RfmArtifact {
            spec: model.spec.clone(),
            aggregations: model.aggregations.clone(),
            rfm: Rfm { recency: column(0), frequency: column(1), monetary: column(2) },
            buyers: gathered.buyers.len(),
        };
        fitted.push((model.spec.name.clone(), Trained::Rfm(artifact), None));
    }
    if let Some(model) = &models.affinity {
        progress.stage("factorizing tastes");
        let artifact = taste(model, gathered.interactions)?;
        fitted.push((model.spec.name.clone(), Trained::Affinity(artifact), None));
    }
    Ok((fitted, all.into()))
}

fn taste(
    model: &crate::models::spec::Affinity,
    mut interactions: Vec<(String, Vec<(String, f64)>)>,
) -> Result<AffinityArtifact> {
    // In the order of a hash: the first ones are a fixed sample, and the order of sums is fixed too.
    interactions.sort_by_cached_key(|(key, _)| (part_hash(key), key.clone()));
    interactions.truncate(TASTE_CUSTOMERS);
    let items: std::collections::BTreeSet<&str> = interactions
        .iter()
        .flat_map(|(_, row)| row.iter().map(|(item, _)| item.as_str()))
        .collect();
    if items.is_empty() {
        return Err(Error::not_enough(
            format!("the model {} has no interactions to learn from", model.spec.name),
            "check its item, weights and window",
        ));
    }
    let items: Vec<String> = items.into_iter().map(str::to_owned).collect();
    let index = |item: &String| items.binary_search(item).unwrap_or_default() as u32;
    let rows: Sparse = interactions
        .iter()
        .map(|(_, row)| row.iter().map(|(item, weight)| (index(item), *weight)).collect())
        .collect();
    let spec = &model.spec;
    let options = Options {
        factors: spec.factors,
        alpha: spec.alpha,
        regularization: spec.regularization,
        iterations: spec.iterations,
        seed: spec.seed,
    };
    let customers = rows.len();
    Ok(AffinityArtifact {
        spec: spec.clone(),
        interactions: model.interactions.clone(),
        model: ItemFactors::fit(items.clone(), &rows, options),
        customers,
    })
}

fn prediction_rows(predictions: &[Prediction]) -> Result<RecordBatch> {
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
    .map_err(Error::engine("predictions"))
}

/// Funnel and test metrics of one classifier as text.
pub fn describe(name: &str, version: &str, metrics: &ClassifierMetrics) -> String {
    let mut funnel =
        Table::new(&["snapshot", "used for", "customers", "eligible", "positives", "base rate"]);
    for row in &metrics.funnel {
        funnel.row([
            row.as_of.folder(),
            row.used_for.clone(),
            thousands(row.customers as u64),
            thousands(row.eligible as u64),
            thousands(row.positives as u64),
            format!("{:.4}", row.base_rate),
        ]);
    }
    let (test, alone) = (&metrics.test, &metrics.recency_alone);
    let mut table = Table::new(&["on the test snapshot", "model", "recency alone"]);
    let number = |value: f64| format!("{value:.4}");
    table.row(["ROC AUC".into(), number(test.roc_auc), number(alone.roc_auc)]);
    table.row([
        "average precision".into(),
        number(test.average_precision),
        number(alone.average_precision),
    ]);
    table.row(["lift at 10 %".into(), number(test.lift_10), number(alone.lift_10)]);
    table.row(["log loss".into(), number(test.log_loss), "-".into()]);
    table.row(["Brier".into(), number(test.brier), "-".into()]);
    table.row(["ECE".into(), number(test.ece), "-".into()]);
    table.row(["mean predicted".into(), number(test.mean_predicted), "-".into()]);
    table.row(["observed".into(), number(test.positives as f64 / test.rows as f64), "-".into()]);
    format!("{name} {version}\n{}\n{}\n", funnel.render(), table.render())
}

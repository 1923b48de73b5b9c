//! The commands `models list | show | compare | promote | rollback`.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use serde_json::json;

use super::CommandProblem;
use crate::artifact::{Artifact, ClassifierArtifact, Trained};
use crate::config::Project;
use crate::error::{Error, Result};
use crate::models::metrics::Metrics;
use crate::report::text::{describe, makeup};
use crate::report::{Output, Table, text};
use crate::sources::profile::keys;
use crate::store::{Root, StoreProblem};
use crate::training::evaluation::Baseline;
use crate::training::evaluation::bootstrap::Difference;
use crate::training::metrics::ClassifierMetrics;

/// Lists every version of every model.
pub fn list(project: &Project) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let mut table = Table::new(&[
        "model",
        "version",
        "trained as of",
        "in use",
        "ROC AUC",
        "average precision",
        "ECE",
    ]);
    let mut list = Vec::new();
    for (name, version) in root.versions() {
        let champion = root.champions.get(name).is_some_and(|champion| champion == version);
        let artifact = match Artifact::load(&store, &root, name, version) {
            Err(error) if matches!(error.problem(), Some(StoreProblem::Damaged { .. })) => {
                let told = if champion { "champion, damaged" } else { "damaged" };
                table.row([name, version, "-", told, "-", "-", "-"].map(str::to_owned));
                list.push(json!({
                    "model": name, "version": version, "champion": champion, "damaged": true,
                }));
                continue;
            }
            artifact => artifact?,
        };
        let metrics = match &artifact.model {
            Trained::Classifier(model) => Some(&model.metrics),
            _ => None,
        };
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        table.row([
            name.to_owned(),
            version.to_owned(),
            artifact.as_of.to_string(),
            if champion { "champion" } else { "" }.to_owned(),
            number(metrics.map(|m| m.roc_auc)),
            number(metrics.map(|m| m.average_precision)),
            number(metrics.map(|m| m.ece)),
        ]);
        list.push(json!({
            "model": name, "version": version, "as_of": artifact.as_of, "champion": champion, "test": metrics,
        }));
    }
    let text =
        if list.is_empty() { "no model is trained yet\n".to_owned() } else { table.render() };
    Ok(Output { text, json: json!(list) })
}

/// Shows one version of a model, by default its champion.
pub fn show(project: &Project, name: &str, version: Option<&str>) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let version = pick(&root, name, version)?;
    let artifact = Artifact::load(&store, &root, name, &version)?;
    let text = match &artifact.model {
        Trained::Classifier(model) => {
            let metrics: ClassifierMetrics =
                store.read_json(&root, &format!("models/{name}/{version}/metrics.json"))?;
            format!("{}\n{}", describe(name, &version, &metrics), makeup(model, &metrics))
        }
        Trained::Engagement(model) => {
            format!("{name} {version}\ndistribution of {} knots\n", model.ecdf.knots.len())
        }
        Trained::Rfm(model) => {
            format!("{name} {version}\ncut points over {} buyers\n", model.buyers)
        }
        Trained::LifetimeValue(_) => {
            let metrics =
                store.read_json(&root, &format!("models/{name}/{version}/metrics.json"))?;
            text::lifetime_value(name, &version, &metrics)
        }
        Trained::Affinity(_) => {
            let metrics =
                store.read_json(&root, &format!("models/{name}/{version}/metrics.json"))?;
            text::affinity(name, &version, &metrics)
        }
    };
    Ok(Output { text, json: json!(artifact) })
}

/// Promotes a version to champion.
pub fn promote(project: &Project, name: &str, version: &str) -> Result<Output> {
    let store = project.store()?;
    let mut transaction = store.begin("models promote", super::now)?;
    let version = pick(&transaction.root, name, Some(version))?;
    // A version that cannot be read must not become the champion.
    Artifact::load(&store, &transaction.root, name, &version)?;
    let before = transaction.root.promote(name, &version);
    if before.as_ref() != Some(&version) {
        transaction.commit()?;
    }
    Ok(in_use(name, &version, before))
}

/// Makes the previous champion the champion again.
pub fn roll_back(project: &Project, name: &str) -> Result<Output> {
    let store = project.store()?;
    let mut transaction = store.begin("models rollback", super::now)?;
    pick(&transaction.root, name, None)?;
    let Some((before, version)) = transaction.root.roll_back(name) else {
        return Err(CommandProblem::NoEarlierVersion { model: name.to_owned() }.into());
    };
    Artifact::load(&store, &transaction.root, name, &version)?;
    transaction.commit()?;
    Ok(in_use(name, &version, Some(before)))
}

/// Compares two versions of a classifier. The comparison is paired if both were tested on the same rows.
pub fn compare(project: &Project, name: &str, ours: &str, theirs: &str) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let load = |version: &str| -> Result<(ClassifierArtifact, ClassifierMetrics, Tested)> {
        let version = pick(&root, name, Some(version))?;
        let Trained::Classifier(model) = Artifact::load(&store, &root, name, &version)?.model
        else {
            let (model, only) = (name.to_owned(), "only versions of classifiers can be compared");
            return Err(CommandProblem::NotAClassifier { model, only }.into());
        };
        let folder = format!("models/{name}/{version}");
        let metrics = store.read_json(&root, &format!("{folder}/metrics.json"))?;
        let predictions =
            predictions(&store.file(&root, &format!("{folder}/predictions.parquet"))?)?;
        Ok((*model, metrics, predictions))
    };
    let ((a, a_metrics, a_rows), (b, b_metrics, b_rows)) = (load(ours)?, load(theirs)?);
    let same = a.schedule.test == b.schedule.test && a.spec.label == b.spec.label;
    let (mut p, mut q, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (key, (probability, label)) in a_rows.iter().filter(|_| same) {
        if let Some((other, _)) = b_rows.get(key) {
            p.push(*probability);
            q.push(*other);
            labels.push(*label);
        }
    }
    let both = labels.contains(&true) && labels.contains(&false);
    let paired = both.then(|| Baseline::of(theirs, &p, &q, &labels));
    // Both columns use the same rows, so that they differ by exactly the difference shown.
    let paired_metrics = both.then(|| [Metrics::of(&p, &labels), Metrics::of(&q, &labels)]);
    let mut table = Table::new(&["metric", ours, theirs, "difference", "95 % interval"]);
    let mut row = |metric: &str, value: fn(&Metrics) -> f64, change: Option<&Difference>| {
        let number = |value: f64| format!("{value:.4}");
        let metrics = match &paired_metrics {
            Some(metrics) => metrics.each_ref().map(value),
            None => [&a_metrics, &b_metrics].map(|m| value(&m.test.metrics)),
        };
        let (difference, interval) = match change {
            Some(Difference { difference, interval, .. }) => (
                format!("{difference:+.4}"),
                format!("{:+.4} to {:+.4}", interval.low, interval.high),
            ),
            None => ("-".to_owned(), "-".to_owned()),
        };
        table.row([
            metric.to_owned(),
            number(metrics[0]),
            number(metrics[1]),
            difference,
            interval,
        ]);
    };
    let change = |pick: fn(&Baseline) -> &Difference| paired.as_ref().map(pick);
    row("ROC AUC", |m| m.roc_auc, change(|b| &b.roc_auc));
    row("average precision", |m| m.average_precision, change(|b| &b.average_precision));
    row("Brier", |m| m.brier, change(|b| &b.brier));
    row("ECE", |m| m.ece, change(|b| &b.ece));
    row("log loss", |m| m.log_loss, None);
    let difference = match &paired {
        Some(_) => format!("all of it on the {} rows that both were tested on", p.len()),
        None => format!(
            "not paired: {ours} was tested at {}, {theirs} at {}, or their labels differ",
            a.schedule.test, b.schedule.test
        ),
    };
    let text = format!(
        "{}\n{difference}\n{ours}: {}\n{theirs}: {}\n",
        table.render(),
        a.configuration.describe(),
        b.configuration.describe()
    );
    let json = json!({
        "model": name, "ours": ours, "theirs": theirs,
        "metrics": paired_metrics.unwrap_or([a_metrics.test.metrics, b_metrics.test.metrics]),
        "paired": paired,
    });
    Ok(Output { text, json })
}

/// The predicted probability and the outcome, by customer.
type Tested = BTreeMap<String, (f64, bool)>;

fn predictions(path: &Path) -> Result<Tested> {
    let changed = || StoreProblem::NotATable { path: path.to_owned(), table: "predictions" };
    let mut tested = Tested::new();
    for rows in crate::store::parquet::read(path, None)? {
        let p =
            rows.column_by_name("probability").and_then(|c| c.as_primitive_opt::<Float64Type>());
        let label = rows.column_by_name("label").and_then(|column| column.as_boolean_opt());
        let (p, label) = p.zip(label).ok_or_else(changed)?;
        for (row, key) in keys(&rows)?.iter().enumerate() {
            let key = key.ok_or_else(changed)?;
            tested.insert(key.to_owned(), (p.value(row), label.value(row)));
        }
    }
    Ok(tested)
}

fn in_use(name: &str, version: &str, before: Option<String>) -> Output {
    let text = match &before {
        Some(before) if before == version => format!("{name} {version} was in use already\n"),
        Some(before) => format!("{name} {version} is in use, {before} was\n"),
        None => format!("{name} {version} is in use\n"),
    };
    Output { text, json: json!({ "model": name, "version": version, "before": before }) }
}

/// Finds a version of a model in the store, by default its champion.
pub(super) fn pick(root: &Root, name: &str, version: Option<&str>) -> Result<String> {
    let all = root.versions();
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    if !names.contains(&name) {
        return Err(Error::unknown("models", "model", name, names));
    }
    match version {
        None => {
            let none = || CommandProblem::NoneInUse { model: name.to_owned() }.into();
            root.champions.get(name).cloned().ok_or_else(none)
        }
        Some(version) if all.contains(&(name, version)) => Ok(version.to_owned()),
        Some(version) => {
            let valid = all.iter().filter(|(n, _)| *n == name).map(|(_, version)| *version);
            Err(Error::unknown("models", "version", version, valid))
        }
    }
}

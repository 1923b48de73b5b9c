//! `models list | show | promote | rollback`.

use serde_json::json;

use crate::config::Project;
use crate::error::{Error, Result};
use crate::report::text::{describe, makeup};
use crate::report::{Output, Table};
use crate::store::Root;
use crate::training::artifact::{Artifact, ClassifierMetrics, Trained};

/// Every version of every model.
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
        let artifact = Artifact::load(&store, name, version)?;
        let champion = root.champions.get(name).is_some_and(|champion| champion == version);
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

/// One version of a model, by default its champion.
pub fn show(project: &Project, name: &str, version: Option<&str>) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let version = pick(&root, name, version)?;
    let artifact = Artifact::load(&store, name, &version)?;
    let text = match &artifact.model {
        Trained::Classifier(model) => {
            let metrics: ClassifierMetrics =
                store.read_json(&format!("models/{name}/{version}/metrics.json"))?;
            format!("{}\n{}", describe(name, &version, &metrics), makeup(model, &metrics))
        }
        Trained::Engagement(model) => {
            format!("{name} {version}\ndistribution of {} knots\n", model.ecdf.knots.len())
        }
        Trained::Rfm(model) => {
            format!("{name} {version}\ncut points over {} buyers\n", model.buyers)
        }
        Trained::Affinity(model) => format!(
            "{name} {version}\n{} items, {} factors, fitted on {} customers\n",
            model.model.items.len(),
            model.model.factors,
            model.customers
        ),
    };
    Ok(Output { text, json: json!(artifact) })
}

/// Puts a version in use.
pub fn promote(project: &Project, name: &str, version: &str) -> Result<Output> {
    let store = project.store()?;
    let mut transaction = store.begin("models promote")?;
    let version = pick(&transaction.root, name, Some(version))?;
    // One that cannot be read must not come into use.
    Artifact::load(&store, name, &version)?;
    let before = transaction.root.promote(name, &version);
    if before.as_ref() != Some(&version) {
        transaction.commit()?;
    }
    Ok(in_use(name, &version, before))
}

/// Puts the version in use that was before.
pub fn roll_back(project: &Project, name: &str) -> Result<Output> {
    let store = project.store()?;
    let mut transaction = store.begin("models rollback")?;
    pick(&transaction.root, name, None)?;
    let Some((before, version)) = transaction.root.roll_back(name) else {
        return Err(Error::configuration(
            format!("no other version of {name} was in use before"),
            "`models list` has the versions that `models promote` can put in use",
        ));
    };
    Artifact::load(&store, name, &version)?;
    transaction.commit()?;
    Ok(in_use(name, &version, Some(before)))
}

fn in_use(name: &str, version: &str, before: Option<String>) -> Output {
    let text = match &before {
        Some(before) if before == version => format!("{name} {version} was in use already\n"),
        Some(before) => format!("{name} {version} is in use, {before} was\n"),
        None => format!("{name} {version} is in use\n"),
    };
    Output { text, json: json!({ "model": name, "version": version, "before": before }) }
}

fn pick(root: &Root, name: &str, version: Option<&str>) -> Result<String> {
    let all = root.versions();
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    if !names.contains(&name) {
        return Err(Error::unknown("models", "model", name, names));
    }
    match version {
        None => root.champions.get(name).cloned().ok_or_else(|| {
            Error::configuration(
                format!("no version of {name} is in use"),
                "name one of `models list`",
            )
        }),
        Some(version) if all.contains(&(name, version)) => Ok(version.to_owned()),
        Some(version) => {
            let valid = all.iter().filter(|(n, _)| *n == name).map(|(_, version)| *version);
            Err(Error::unknown("models", "version", version, valid))
        }
    }
}

//! `export onnx | mlflow`: one version of a classifier in another program's format.

use std::path::Path;

use serde_json::json;

use super::models::pick;
use crate::config::Project;
use crate::error::{Error, Result};
use crate::export::mlflow::{Credentials, Server};
use crate::export::onnx;
use crate::report::{Output, Table, thousands};
use crate::store::Store;
use crate::training::artifact::{Artifact, ClassifierArtifact, ClassifierMetrics, Trained};

/// Writes preprocessing, model and calibration as one graph.
pub fn onnx(project: &Project, name: &str, version: Option<&str>, out: &Path) -> Result<Output> {
    let (artifact, model) = classifier(&project.store()?, name, version)?;
    let rendered = onnx::render(&artifact, &model)?;
    replace(out, &rendered.bytes)?;
    let version = &artifact.version;
    let mut table = Table::new(&["input", "a column of"]);
    rendered.inputs.iter().for_each(|(name, about)| table.row([name, about]));
    let text = format!(
        "{name} {version} is in {} ({} bytes)\n\n{}\noutputs: logit, probability (double)\n",
        out.display(),
        thousands(rendered.bytes.len() as u64),
        table.render()
    );
    let inputs: Vec<&String> = rendered.inputs.iter().map(|(name, _)| name).collect();
    let json = json!({
        "model": name, "version": version, "path": out, "inputs": inputs,
        "outputs": ["logit", "probability"],
    });
    Ok(Output { text, json })
}

/// Makes a version a run of an MLflow server.
pub fn mlflow(
    project: &Project,
    name: &str,
    version: Option<&str>,
    tracking_uri: &str,
    experiment: Option<&str>,
) -> Result<Output> {
    let server = Server::new(tracking_uri, credentials())?;
    let store = project.store()?;
    let (artifact, model) = classifier(&store, name, version)?;
    let folder = format!("models/{name}/{}", artifact.version);
    let metrics: ClassifierMetrics = store.read_json(&format!("{folder}/metrics.json"))?;
    let mut files = Vec::new();
    for path in store.root()?.below(&folder) {
        let file = store.file(path);
        let bytes = std::fs::read(&file).map_err(Error::io("read", &file))?;
        files.push((path[folder.len() + 1..].to_owned(), bytes));
    }
    files.push(("model.onnx".to_owned(), onnx::render(&artifact, &model)?.bytes));
    let experiment = experiment.unwrap_or(&project.settings.project.name);
    let now = chrono::Utc::now().timestamp_millis();
    let exported = server.export(experiment, (&artifact, &model, &metrics), &files, now)?;
    let version = &artifact.version;
    let text = match exported.was_there {
        true => format!("{name} {version} was there already: {}\n", exported.page),
        false => format!(
            "{name} {version}: {} params, {} metrics and {} files are in {}\n",
            exported.params,
            exported.metrics,
            files.len(),
            exported.page
        ),
    };
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    let json = json!({
        "model": name, "version": version, "experiment": experiment, "run_id": exported.run,
        "url": exported.page, "was_there": exported.was_there, "artifacts": names,
    });
    Ok(Output { text, json })
}

/// As MLflow's own client takes them: from the environment alone.
fn credentials() -> Credentials {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let pair = variable("MLFLOW_TRACKING_USERNAME").zip(variable("MLFLOW_TRACKING_PASSWORD"));
    match (pair, variable("MLFLOW_TRACKING_TOKEN")) {
        (Some((user, password)), _) => Credentials::Basic(user, password),
        (None, Some(token)) => Credentials::Token(token),
        (None, None) => Credentials::None,
    }
}

fn classifier(
    store: &Store,
    name: &str,
    version: Option<&str>,
) -> Result<(Artifact, Box<ClassifierArtifact>)> {
    let version = pick(&store.root()?, name, version)?;
    let artifact = Artifact::load(store, name, &version)?;
    match artifact.model.clone() {
        Trained::Classifier(model) => Ok((artifact, model)),
        _ => Err(Error::configuration(
            format!("{name} is no classifier"),
            "only classifiers can be exported; `models list` shows those with a ROC AUC",
        )),
    }
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io("write", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    file.persist(path).map_err(|error| Error::io("write", path)(error.error))?;
    Ok(())
}

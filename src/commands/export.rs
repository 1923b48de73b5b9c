//! The commands `export onnx | mlflow | feast`: write a version of a classifier, or the offline store, in the
//! format of another program.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Field;

use serde_json::json;

use super::CommandProblem;
use super::join::snapshots;
use super::models::pick;
use crate::artifact::{Artifact, ClassifierArtifact, Trained};
use crate::config::Project;
use crate::error::{Error, Result};
use crate::export::mlflow::{Credentials, Server};
use crate::export::{feast, onnx};
use crate::features::catalog::Catalog;
use crate::report::html::page::self_contained;
use crate::report::{Output, Progress, Table, thousands};
use crate::store::parquet::{Writer, read};
use crate::store::staged::{Staged, replace};
use crate::store::{Root, Store};
use crate::time::Duration;
use crate::training::metrics::ClassifierMetrics;

/// Writes the preprocessing, the model and the calibration of a classifier as one ONNX graph.
pub fn onnx(project: &Project, name: &str, version: Option<&str>, out: &Path) -> Result<Output> {
    let store = project.store()?;
    let (artifact, model) = classifier(&store, &store.root()?, name, version)?;
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

/// Exports a version of a classifier as a run of an MLflow server.
pub fn mlflow(
    project: &Project,
    name: &str,
    version: Option<&str>,
    tracking_uri: &str,
    experiment: Option<&str>,
) -> Result<Output> {
    let server = Server::new(tracking_uri, credentials())?;
    let store = project.store()?;
    let root = store.root()?;
    let (artifact, model) = classifier(&store, &root, name, version)?;
    let folder = format!("models/{name}/{}", artifact.version);
    let metrics: ClassifierMetrics = store.read_json(&root, &format!("{folder}/metrics.json"))?;
    let mut files = Vec::new();
    for path in store.below(&root, &folder)? {
        files.push((path[folder.len() + 1..].to_owned(), store.bytes(&root, &path)?));
    }
    let page = format!("{folder}/report.html");
    if let Some(text) = store.read_beside(&page)? {
        let text = self_contained(&String::from_utf8_lossy(&text), &page);
        files.push(("report.html".to_owned(), text.into_bytes()));
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

/// Reads the credentials from the environment only, with the variables of MLflow's own client.
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
    root: &Root,
    name: &str,
    version: Option<&str>,
) -> Result<(Artifact, Box<ClassifierArtifact>)> {
    let version = pick(root, name, version)?;
    let artifact = Artifact::load(store, root, name, &version)?;
    match artifact.model.clone() {
        Trained::Classifier(model) => Ok((artifact, model)),
        _ => {
            let only = "only classifiers can be exported; `models list` shows those with a ROC AUC";
            Err(CommandProblem::NotAClassifier { model: name.to_owned(), only }.into())
        }
    }
}

/// Writes the snapshots of all views as a Feast repository. The settings file of Feast is written only if
/// there is none yet.
pub fn feast(
    project: &Project,
    out: &Path,
    ttl: &[(String, Duration)],
    progress: &mut Progress,
) -> Result<Output> {
    let (store, catalog) = (project.store()?, &project.catalog);
    let root = store.root()?;
    let views: Vec<&str> = catalog.views.iter().map(|view| view.name.as_str()).collect();
    if let Some((view, _)) = ttl.iter().find(|(view, _)| !views.contains(&view.as_str())) {
        return Err(Error::unknown("--ttl", "view", view, views));
    }
    if let Some((view, _)) = ttl.iter().find(|(_, length)| length.0 == 0) {
        return Err(CommandProblem::ZeroTtl { view: view.clone() }.into());
    }
    let paths = views.iter().map(|view| snapshots(project, &store, &root, view));
    let paths: Vec<Vec<PathBuf>> = paths.collect::<Result<_>>()?;
    let data = out.join("data");
    std::fs::create_dir_all(&data).map_err(Error::io("create", &data))?;
    let mut table = Table::new(&["view", "features", "snapshots", "rows", "file"]);
    let (mut exported, mut staged) = (Vec::new(), Vec::new());
    progress.steps(views.len() as u64);
    for (view, paths) in views.into_iter().zip(paths) {
        progress.stage("writing features");
        let file = data.join(feast::file(view));
        let (rows, of_view) = stage_feast(catalog, view, &paths, &file)?;
        staged.push(of_view);
        let (features, as_ofs) =
            (catalog.of_view(view).count(), root.as_ofs(&format!("features/{view}")).len());
        table.row([
            view,
            &features.to_string(),
            &as_ofs.to_string(),
            &thousands(rows),
            &file.display().to_string(),
        ]);
        exported.push(json!({ "view": view, "features": features, "snapshots": as_ofs, "rows": rows, "file": file }));
        progress.advance(1, view);
    }
    progress.finish();
    staged.into_iter().try_for_each(Staged::publish)?;
    let name = &project.settings.project.name;
    let definitions = feast::definitions(name, catalog, &project.models, ttl);
    replace(&out.join("definitions.py"), definitions.as_bytes())?;
    let settings = out.join("feature_store.yaml");
    if !settings.exists() {
        replace(&settings, feast::settings(name).as_bytes())?;
    }
    let text = format!("{}\n`feast apply` in {} registers them\n", table.render(), out.display());
    Ok(Output { text, json: json!({ "path": out, "views": exported }) })
}

/// Stages the file `out` with all snapshots of a view, one after another, and returns the number of rows.
fn stage_feast(
    catalog: &Catalog,
    view: &str,
    paths: &[PathBuf],
    out: &Path,
) -> Result<(u64, Staged)> {
    let schema = Arc::new(feast::schema(catalog, view));
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let staged = Staged::beside(out)?;
    let mut writer = Writer::create(staged.path(), &schema)?;
    let mut count = 0;
    for path in paths {
        for rows in read(path, Some(&names))? {
            let column = |field: &Arc<Field>| {
                let array = rows.column_by_name(field.name()).ok_or_else(|| {
                    Error::engine("exporting features")(format!(
                        "{} has no column {}",
                        path.display(),
                        field.name()
                    ))
                })?;
                feast::cast(array, field.data_type())
            };
            let columns = schema.fields().iter().map(column).collect::<Result<_>>()?;
            let rows = RecordBatch::try_new(schema.clone(), columns);
            let rows = rows.map_err(Error::engine("exporting features"))?;
            count += rows.num_rows() as u64;
            writer.write(&rows)?;
        }
    }
    writer.finish()?;
    Ok((count, staged))
}

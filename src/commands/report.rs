//! The command `report`: renders every report again from its numbers, and an index page of all reports.

use std::path::PathBuf;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::CommandProblem;
use super::pages::{self, Form};
use crate::artifact::{Artifact, Trained};
use crate::config::Project;
use crate::error::Result;
use crate::report::findings::{Findings, Level};
use crate::report::html::index::{self, Version};
use crate::report::html::model::{self, ModelReport};
use crate::report::html::{affinity, lifetime_value};
use crate::report::{Output, Progress, Table};
use crate::scoring::summary::RunMetrics;
use crate::store::{Store, Transaction};
use crate::training::affinity::AffinityMetrics;
use crate::training::lifetime_value::LifetimeValueMetrics;
use crate::training::metrics::ClassifierMetrics;

/// The path of the index page in the store's folder.
const INDEX: &str = "reports.html";

/// Renders the reports of all versions and runs, and the index page.
pub fn report(project: &Project, form: Form, progress: &mut Progress) -> Result<(Output, PathBuf)> {
    let store = project.store()?;
    let mut transaction = store.begin("report", super::now)?;
    progress.stage("rendering reports");
    let versions = versions(project, &store, form, &mut transaction)?;
    let runs = runs(project, form, &mut transaction)?;
    let page = index::render(&project.settings.project.name, &versions, &runs);
    pages::write(&mut transaction, INDEX, &page, form);
    transaction.commit()?;
    progress.finish();
    let path = store.beside(INDEX);
    let mut table = Table::new(&["report", "in"]);
    table.row(["all versions and runs".to_owned(), path.display().to_string()]);
    let folder = project.store_shown();
    for version in versions.iter().filter(|version| version.champion && version.report) {
        let (name, version) = (&version.model, &version.version);
        let file = format!("{folder}/models/{name}/{version}/report.html");
        table.row([format!("{name}, in use"), file]);
    }
    if let Some(run) = runs.last() {
        table.row([run.run.clone(), format!("{folder}/runs/{}/report.html", run.run)]);
        let file = format!("{folder}/runs/{}/segments.html", run.run);
        table.row(["its segments, for marketers".to_owned(), file]);
    }
    let json = json!({ "index": path, "versions": versions.len(), "runs": runs.len() });
    Ok((Output { text: table.render(), json }, path))
}

fn versions(
    project: &Project,
    store: &Store,
    form: Form,
    transaction: &mut Transaction,
) -> Result<Vec<Version>> {
    let all: Vec<(String, String)> = transaction
        .root
        .versions()
        .into_iter()
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect();
    let segments = &project.segments;
    let project = &project.settings.project.name;
    let mut versions = Vec::new();
    for (name, version) in all {
        let artifact = Artifact::load(store, &transaction.root, &name, &version)?;
        let numbers_of = format!("models/{name}/{version}/metrics.json");
        let (page, grade, level, numbers) = match &artifact.model {
            Trained::Classifier(model) => {
                let metrics: ClassifierMetrics = store.read_json(&transaction.root, &numbers_of)?;
                let numbers = index::of_classifier(&metrics.test.metrics);
                let (artifact, metrics) = (&artifact, &metrics);
                let cuts = &model::cuts(segments, model);
                let report = ModelReport { project, artifact, model, metrics, cuts };
                let level = Findings::of_classifier(metrics).level();
                (Some(model::render(&report)), metrics.grade.grade.clone(), level, numbers)
            }
            Trained::LifetimeValue(model) => {
                let metrics: LifetimeValueMetrics =
                    store.read_json(&transaction.root, &numbers_of)?;
                let page = lifetime_value::render(project, &artifact, model, &metrics);
                let level = Findings::of_lifetime_value(&metrics).level();
                (Some(page), metrics.method(), level, index::of_lifetime_value(&metrics))
            }
            Trained::Affinity(model) => {
                let metrics: AffinityMetrics = store.read_json(&transaction.root, &numbers_of)?;
                let page = affinity::render(project, &artifact, model, &metrics);
                let level = Findings::of_affinity(&metrics).level();
                let items = format!("{} items", metrics.items);
                (Some(page), items, level, index::of_affinity(&metrics))
            }
            Trained::Engagement(_) | Trained::Rfm(_) => {
                (None, String::new(), Level::Good, Vec::new())
            }
        };
        if let Some(page) = &page {
            let path = format!("models/{name}/{version}/report.html");
            pages::write(transaction, &path, page, form);
        }
        versions.push(Version {
            champion: transaction.root.champions.get(&name) == Some(&version),
            as_of: artifact.as_of,
            report: page.is_some(),
            grade,
            level,
            numbers,
            model: name,
            version,
        });
    }
    Ok(versions)
}

/// Renders the reports of the runs in the order in which the runs were published. Runs without metrics are
/// left out.
fn runs(project: &Project, form: Form, transaction: &mut Transaction) -> Result<Vec<RunMetrics>> {
    let folders = transaction.root.folders_in("runs");
    let files = folders.filter(|folder| folder.ends_with("-score"));
    let folders: Vec<String> = files.map(str::to_owned).collect();
    let mut runs = Vec::new();
    for folder in folders {
        let metrics = pages::metrics(transaction, &folder)?;
        let audit = pages::audit(transaction, metrics.as_of)?;
        let name = &project.settings.project.name;
        pages::write_run(transaction, name, &metrics, audit.as_ref(), form);
        runs.push(metrics);
    }
    Ok(runs)
}

/// Serves the live pages of the store on the loopback interface until the process ends.
///
/// # Errors
/// Returns an error if the port cannot be opened.
pub fn serve(project: &Project, port: u16) -> Result<()> {
    let store = project.store()?;
    let fault = |error: std::io::Error| CommandProblem::Port { port, error: error.to_string() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let serving = async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        eprintln!("serving on http://{}/ until interrupted", listener.local_addr()?);
        let answer = async move |uri: Uri| {
            let page = tokio::task::spawn_blocking(move || page(&store, uri.path())).await;
            page.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
        };
        axum::serve(listener, Router::new().fallback(answer)).await
    };
    Ok(runtime.and_then(|runtime| runtime.block_on(serving)).map_err(fault)?)
}

/// The answer to a request for a path: a page or a script, and no other file of the store or of the disk.
fn page(store: &Store, path: &str) -> Response {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { INDEX } else { path };
    let kinds = [(".html", "text/html; charset=utf-8"), (".js", "text/javascript")];
    let kind = kinds.into_iter().find(|(end, _)| path.ends_with(end)).map(|(_, kind)| kind);
    let kind = kind.filter(|_| !path.split('/').any(|part| part.starts_with('.')));
    match kind.and_then(|kind| Some((kind, store.read_beside(path).ok().flatten()?))) {
        Some((kind, body)) => ([(CONTENT_TYPE, kind)], body).into_response(),
        None => (StatusCode::NOT_FOUND, "not found").into_response(),
    }
}

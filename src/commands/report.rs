//! The command `report`: renders every report again from its numbers, and an index page of all reports.

use std::io::Cursor;
use std::path::PathBuf;

use serde_json::json;

use super::CommandProblem;
use super::pages::{self, Form};
use crate::artifact::{Artifact, Trained};
use crate::config::Project;
use crate::error::Result;
use crate::report::findings::{Findings, Level};
use crate::report::html::index::{self, Version};
use crate::report::html::model::{self, ModelReport};
use crate::report::html::{affinity, audience, lifetime_value, run};
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
    let runs = runs(project, &store, form, &mut transaction)?;
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
fn runs(
    project: &Project,
    store: &Store,
    form: Form,
    transaction: &mut Transaction,
) -> Result<Vec<RunMetrics>> {
    let folders = transaction.root.folders_in("runs");
    let files = folders.filter(|folder| folder.ends_with("-score"));
    let files: Vec<String> = files.map(|folder| format!("{folder}/metrics.json")).collect();
    let mut runs = Vec::new();
    for file in files {
        let metrics: RunMetrics = store.read_json(&transaction.root, &file)?;
        let page = run::render(&project.settings.project.name, &metrics);
        let path = format!("runs/{}/report.html", metrics.run);
        pages::write(transaction, &path, &page, form);
        let page = audience::render(&project.settings.project.name, &metrics);
        let path = format!("runs/{}/segments.html", metrics.run);
        pages::write(transaction, &path, &page, form);
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
    let fault = |error: Box<dyn std::error::Error + Send + Sync>| CommandProblem::Port {
        port,
        error: error.to_string(),
    };
    let server = tiny_http::Server::http(("127.0.0.1", port)).map_err(fault)?;
    eprintln!("serving on http://{}/ until interrupted", server.server_addr());
    for request in server.incoming_requests() {
        // Only pages are served, and no other file of the store or of the disk.
        let path = request.url().split('?').next().unwrap_or_default().trim_start_matches('/');
        let path = if path.is_empty() { INDEX } else { path };
        let kinds = [(".html", "text/html; charset=utf-8"), (".js", "text/javascript")];
        let kind = kinds.into_iter().find(|(end, _)| path.ends_with(end)).map(|(_, kind)| kind);
        let is_page = kind.is_some() && !path.split('/').any(|part| part.starts_with('.'));
        let body = is_page.then(|| store.read_beside(path).ok().flatten()).flatten();
        let (code, body) = match body {
            Some(body) => (200, body),
            None => (404, b"not found".to_vec()),
        };
        let length = body.len();
        let header = tiny_http::Header::from_bytes("Content-Type", kind.unwrap_or("text/html"));
        let response = tiny_http::Response::new(
            code.into(),
            header.into_iter().collect(),
            Cursor::new(body),
            Some(length),
            None,
        );
        // A client that has closed its connection is not an error.
        let _ = request.respond(response);
    }
    Ok(())
}

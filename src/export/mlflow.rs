//! Exports a version of a model as a run of an MLflow tracking server, by MLflow's REST interface (version
//! 2.0). The spec and the chosen configuration become params, the numbers of the report become metrics, and
//! the files of the version become artifacts.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::artifact::{Artifact, ClassifierArtifact};
use crate::error::{Error, Result};
use crate::export::ExportProblem;
use crate::training::metrics::ClassifierMetrics;

/// The time limit of a request, which includes the upload of a report.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The greatest numbers of params and of metrics in one request (MLflow's own limits).
const PARAMS: usize = 100;
const METRICS: usize = 1000;
/// The greatest number of characters in a param (MLflow's own limit).
const PARAM_LENGTH: usize = 6000;
/// The tags by which the run of a version is found again.
const MODEL_TAG: &str = "c360.model";
const VERSION_TAG: &str = "c360.version";

/// The credentials for a server.
#[derive(Clone)]
pub enum Credentials {
    /// No credentials, for a server that asks for none.
    None,
    /// A user name and its password.
    Basic(String, String),
    /// A bearer token.
    Token(String),
}

/// An MLflow tracking server.
pub struct Server {
    agent: Agent,
    uri: String,
    credentials: Credentials,
}

/// The result of an export.
#[derive(Debug)]
pub struct Exported {
    /// MLflow's identifier of the run.
    pub run: String,
    /// The URL of the run for a browser.
    pub page: String,
    /// Whether a complete run of the version already existed, so that nothing was sent.
    pub was_there: bool,
    /// The number of params of the run.
    pub params: usize,
    /// The number of metrics of the run.
    pub metrics: usize,
}

/// A metric with its time and step.
struct Metric {
    key: String,
    value: f64,
    /// The time in milliseconds since 1970.
    timestamp: i64,
    step: usize,
}

impl Server {
    /// Creates a client for the server at a URL such as `http://127.0.0.1:5000`. It does not connect yet.
    ///
    /// # Errors
    /// Returns a configuration error if the URL is not an HTTP or HTTPS address.
    pub fn new(uri: &str, credentials: Credentials) -> Result<Self> {
        let uri = uri.trim_end_matches('/');
        if !(uri.starts_with("http://") || uri.starts_with("https://")) {
            return Err(ExportProblem::MlflowUrl { uri: uri.to_owned() }.into());
        }
        let agent = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into();
        Ok(Self { agent, uri: uri.to_owned(), credentials })
    }

    /// Exports a version as a run of an experiment, which is created if it does not exist. A complete run of
    /// the same version stays as it is. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached, refuses a request, or keeps artifacts where only its
    /// own client can write them.
    pub fn export(
        &self,
        experiment: &str,
        (artifact, model, metrics): (&Artifact, &ClassifierArtifact, &ClassifierMetrics),
        files: &[(String, Vec<u8>)],
        now: i64,
    ) -> Result<Exported> {
        let experiment = self.experiment(experiment)?;
        let (params, metrics) = (params(model), numbers(artifact, metrics));
        let (run, finished) = match self.find(&experiment, artifact)? {
            Some(found) => found,
            None => (self.create(&experiment, artifact, model, now)?, false),
        };
        let exported = Exported {
            page: format!("{}/#/experiments/{experiment}/runs/{run}", self.shown()),
            was_there: finished,
            params: params.len(),
            metrics: metrics.len(),
            run,
        };
        if finished {
            return Ok(exported);
        }
        let run = &exported.run;
        for chunk in params.chunks(PARAMS) {
            let params = chunk.iter().map(|(key, value)| json!({ "key": key, "value": value }));
            let body = json!({ "run_id": run, "params": params.collect::<Vec<_>>() });
            self.post("runs/log-batch", &body)?;
        }
        for chunk in metrics.chunks(METRICS) {
            let metric = |m: &Metric| {
                json!({
                    "key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step,
                })
            };
            let metrics: Vec<Value> = chunk.iter().map(metric).collect();
            self.post("runs/log-batch", &json!({ "run_id": run, "metrics": metrics }))?;
        }
        let place = self.artifacts(run)?;
        for (name, bytes) in files {
            self.put(&format!("{place}/{name}"), bytes)?;
        }
        let done = json!({ "run_id": run, "status": "FINISHED", "end_time": now });
        self.post("runs/update", &done)?;
        Ok(exported)
    }

    /// Returns the identifier of an experiment, which is created if there is none of this name.
    fn experiment(&self, name: &str) -> Result<String> {
        let request = self.agent.get(self.endpoint("experiments/get-by-name"));
        let request = self.authorized(request.query("experiment_name", name));
        let answer = self.sent(request.call())?;
        let id = |found: &Value| found["experiment_id"].as_str().map(str::to_owned);
        if answer.status() == StatusCode::NOT_FOUND {
            let made = self.post("experiments/create", &json!({ "name": name }))?;
            return id(&made).ok_or_else(|| self.odd("experiments/create"));
        }
        let found = self.read(answer)?;
        if found["experiment"]["lifecycle_stage"] == "deleted" {
            let (experiment, server) = (name.to_owned(), self.shown());
            return Err(ExportProblem::MlflowExperiment { experiment, server }.into());
        }
        id(&found["experiment"]).ok_or_else(|| self.odd("experiments/get-by-name"))
    }

    /// Finds the run of a version, and whether it is complete. Returns None if there is no run.
    fn find(&self, experiment: &str, artifact: &Artifact) -> Result<Option<(String, bool)>> {
        let (name, version) = (&artifact.name, &artifact.version);
        let filter =
            format!("tags.`{MODEL_TAG}` = '{name}' AND tags.`{VERSION_TAG}` = '{version}'");
        let body = json!({ "experiment_ids": [experiment], "filter": filter, "run_view_type": "ACTIVE_ONLY" });
        let found = self.post("runs/search", &body)?;
        let info = |run: &Value| {
            let id = run["info"]["run_id"].as_str()?.to_owned();
            Some((id, run["info"]["status"] == "FINISHED"))
        };
        Ok(found["runs"].as_array().and_then(|runs| runs.iter().find_map(info)))
    }

    fn create(
        &self,
        experiment: &str,
        artifact: &Artifact,
        model: &ClassifierArtifact,
        now: i64,
    ) -> Result<String> {
        let (name, version) = (&artifact.name, &artifact.version);
        let tags = [
            ("mlflow.source.name", env!("CARGO_PKG_NAME").to_owned()),
            (
                "mlflow.note.content",
                format!("P({}): {}", model.positive_class, model.spec.description),
            ),
            (MODEL_TAG, name.clone()),
            (VERSION_TAG, version.clone()),
            ("c360.as_of", artifact.as_of.to_string()),
            ("c360.data_fingerprint", artifact.data_fingerprint.clone()),
            ("c360.spec_fingerprint", artifact.spec_fingerprint.clone()),
        ];
        let tags = tags.map(|(key, value)| json!({ "key": key, "value": value }));
        let body = json!({
            "experiment_id": experiment, "run_name": format!("{name} {version}"),
            "start_time": now, "tags": tags,
        });
        let made = self.post("runs/create", &body)?;
        let id = made["run"]["info"]["run_id"].as_str();
        id.map(str::to_owned).ok_or_else(|| self.odd("runs/create"))
    }

    /// Returns the folder of a run's artifacts, as the server itself names it.
    fn artifacts(&self, run: &str) -> Result<String> {
        let request = self.agent.get(self.endpoint("runs/get")).query("run_id", run);
        let answer = self.sent(self.authorized(request).call())?;
        let found = self.read(answer)?;
        let uri = found["run"]["info"]["artifact_uri"].as_str().unwrap_or_default();
        let place = uri.strip_prefix("mlflow-artifacts:").ok_or_else(|| {
            ExportProblem::MlflowArtifacts { server: self.shown(), uri: uri.to_owned() }
        })?;
        // The URI may contain a host, which is the server's own.
        let path = match place.strip_prefix("//") {
            Some(with_host) => with_host.split_once('/').map_or("", |(_, path)| path),
            None => place,
        };
        Ok(path.trim_matches('/').to_owned())
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let request =
            self.agent.put(format!("{}/api/2.0/mlflow-artifacts/artifacts/{path}", self.uri));
        let answer = self.sent(self.authorized(request).send(bytes))?;
        self.read(answer).map(|_| ())
    }

    fn post(&self, endpoint: &str, body: &Value) -> Result<Value> {
        let request = self.authorized(self.agent.post(self.endpoint(endpoint)));
        let answer = self.sent(request.send_json(body))?;
        self.read(answer)
    }

    fn endpoint(&self, name: &str) -> String {
        format!("{}/api/2.0/mlflow/{name}", self.uri)
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.credentials {
            Credentials::None => request,
            Credentials::Basic(user, password) => {
                let pair = BASE64.encode(format!("{user}:{password}"));
                request.header("Authorization", format!("Basic {pair}"))
            }
            Credentials::Token(token) => request.header("Authorization", format!("Bearer {token}")),
        }
    }

    fn sent(
        &self,
        answer: std::result::Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>> {
        answer.map_err(|error| Error::Service {
            service: self.shown(),
            message: error.to_string(),
            hint: "is the server up, and --tracking-uri its address?".into(),
        })
    }

    /// Reads the JSON of a response.
    ///
    /// # Errors
    /// Returns the message of the server if it refused the request.
    fn read(&self, mut answer: Response<Body>) -> Result<Value> {
        let status = answer.status();
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        let said = value["message"].as_str().map_or(text.trim(), str::trim);
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            }
            _ => "",
        };
        Err(Error::Service {
            service: self.shown(),
            message: format!("{status}: {}", said.chars().take(500).collect::<String>()),
            hint: hint.into(),
        })
    }

    fn odd(&self, endpoint: &str) -> Error {
        Error::Service {
            service: self.shown(),
            message: format!("an answer to {endpoint} that MLflow does not give"),
            hint: "is --tracking-uri the address of an MLflow server?".into(),
        }
    }

    /// Returns the URL of the server without the user name and the password that it may contain.
    fn shown(&self) -> String {
        match (self.uri.split_once("://"), self.uri.split_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => self.uri.clone(),
        }
    }
}

/// Collects the params of a run: the spec, the chosen configuration and the schedule, with each leaf of their
/// JSON under its path.
fn params(model: &ClassifierArtifact) -> Vec<(String, String)> {
    let mut params = Vec::new();
    let parts = [
        ("spec", json!(model.spec)),
        ("configuration", json!(model.configuration)),
        ("schedule", json!(model.schedule)),
    ];
    parts.iter().for_each(|(name, value)| flatten(name, value, &mut params));
    params.push(("calibration".into(), model.shipped.calibration.describe()));
    params.push(("base_rate_offset".into(), model.shipped.offset.to_string()));
    params.push(("terms".into(), model.terms.len().to_string()));
    params
}

/// Collects the leaves and the lists of leaves of a JSON value under their paths. Nulls are left out.
fn flatten(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Null => return,
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| flatten(&format!("{path}.{name}"), value, out));
            return;
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    out.push((path.to_owned(), text.chars().take(PARAM_LENGTH).collect()));
}

/// Collects the metrics of a run: the test's metrics with their intervals, those of the baselines, and those
/// of the snapshots in their order.
fn numbers(artifact: &Artifact, metrics: &ClassifierMetrics) -> Vec<Metric> {
    let mut numbers = Vec::new();
    let tested = artifact.as_of.0 / 1000;
    let mut add = |path: &str, value: &Value, timestamp: i64, step: usize| {
        let mut leaves = Vec::new();
        flatten(path, value, &mut leaves);
        let number = |(key, text): (String, String)| {
            let value = text.parse::<f64>().ok().filter(|value| value.is_finite())?;
            Some(Metric { key, value, timestamp, step })
        };
        numbers.extend(leaves.into_iter().filter_map(number));
    };
    let test = &metrics.test;
    add("test", &json!(test.metrics), tested, 0);
    add("test.interval", &json!(test.intervals), tested, 0);
    add("test.calibration", &json!(test.calibration), tested, 0);
    add("test.ece_by_chance", &json!(test.ece_by_chance), tested, 0);
    for baseline in &metrics.baselines {
        add(&format!("baseline.{}", baseline.name), &json!(baseline.metrics), tested, 0);
    }
    if let Some(other) = &metrics.other_algorithm {
        add("other_algorithm", &json!(other.comparison.metrics), tested, 0);
    }
    for (step, snapshot) in metrics.stability.iter().enumerate() {
        add("snapshot", &json!(snapshot), snapshot.as_of.0 / 1000, step);
    }
    numbers
}

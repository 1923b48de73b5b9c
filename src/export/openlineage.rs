//! Tells lineage backends what a run has read and written, as events of OpenLineage 2-0-2: one when it begins and one
//! when it ends.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use ureq::Agent;

use crate::error::{Error, Result};
use crate::time::Instant;

/// The program, as the URI that events name.
const PRODUCER: &str = concat!("urn:c360-ml:", env!("CARGO_PKG_VERSION"));
/// The schema of an event.
const EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
/// The time limit of a request. A run does not wait for a backend that is not there.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where events go.
#[derive(Debug, Clone)]
pub enum Target {
    /// A file, to which each event is added as a line.
    File(PathBuf),
    /// The address of a backend, to which each event is posted, with a key if it asks for one.
    Url(String, Option<String>),
}

/// The run that started this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    namespace: String,
    job: String,
    run: String,
}

impl Parent {
    /// Reads `namespace/job/run`, as orchestrators set it in `OPENLINEAGE_PARENT_ID`. A slash within a part stands as
    /// `%2F`. The run is a UUID. `None` if the text is not of this form.
    pub fn parse(text: &str) -> Option<Self> {
        let decoded = |part: &str| {
            percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
        };
        let (rest, run) = text.trim().rsplit_once('/')?;
        let (namespace, job) = rest.rsplit_once('/')?;
        let run = uuid::Uuid::try_parse(run).ok()?.to_string();
        let parent = Self { namespace: decoded(namespace), job: decoded(job), run };
        (!parent.namespace.is_empty() && !parent.job.is_empty()).then_some(parent)
    }
}

/// What is known of a run when it begins.
#[derive(Debug)]
pub struct Run {
    /// Its UUID.
    pub id: String,
    /// The namespace of its job.
    pub namespace: String,
    /// The name of its job, which is the same every night.
    pub job: String,
    /// The run that started it.
    pub parent: Option<Parent>,
    /// The instant that it computes for.
    pub as_of: Option<Instant>,
}

/// What happened to a run.
#[derive(Debug)]
pub enum Moment<'a> {
    /// It begins.
    Start,
    /// It has ended with exit code 0.
    Complete,
    /// It has ended with this message.
    Fail(&'a str),
}

/// A table that a run has read or written.
#[derive(Debug)]
pub struct Dataset(Value);

impl Dataset {
    /// The dataset at a path or URL, by the naming of OpenLineage: `file` and the absolute path, or the bucket and the
    /// key.
    pub fn at(path: &Path) -> Self {
        let (namespace, name) = named(path);
        Self(json!({ "namespace": namespace, "name": name, "facets": {} }))
    }

    /// A column of the dataset, as the lineage of another dataset's column names it. `how` is the kind of computation:
    /// `IDENTITY`, `TRANSFORMATION` or `AGGREGATION`.
    pub fn column(&self, column: &str, how: &str) -> Value {
        let transformations = json!([{ "type": "DIRECT", "subtype": how }]);
        json!({
            "namespace": self.0["namespace"], "name": self.0["name"], "field": column,
            "transformations": transformations,
        })
    }

    fn with(mut self, place: &str, key: &str, facet: Value) -> Self {
        self.0[place][key] = facet;
        self
    }

    /// Adds its columns: name and type.
    pub fn schema(self, columns: impl Iterator<Item = (String, String)>) -> Self {
        let fields: Vec<Value> =
            columns.map(|(name, ty)| json!({ "name": name, "type": ty })).collect();
        self.with(
            "facets",
            "schema",
            facet("SchemaDatasetFacet", "1-2-0", json!({ "fields": fields })),
        )
    }

    /// Adds its version.
    pub fn version(self, version: &str) -> Self {
        let fields = json!({ "datasetVersion": version });
        self.with("facets", "version", facet("DatasetVersionDatasetFacet", "1-0-1", fields))
    }

    /// Adds from which columns of other datasets each of its columns is computed.
    pub fn column_lineage(self, columns: impl Iterator<Item = (String, Vec<Value>)>) -> Self {
        let of = |(name, from): (String, Vec<Value>)| (name, json!({ "inputFields": from }));
        let fields: Map<String, Value> =
            columns.filter(|(_, from)| !from.is_empty()).map(of).collect();
        let fields = json!({ "fields": fields });
        self.with("facets", "columnLineage", facet("ColumnLineageDatasetFacet", "1-2-0", fields))
    }

    /// Adds what was read: rows and files.
    pub fn read(self, rows: u64, files: usize) -> Self {
        let fields = json!({ "rowCount": rows, "fileCount": files, "columnMetrics": {} });
        let name = "DataQualityMetricsInputDatasetFacet";
        self.with("inputFacets", "dataQualityMetrics", facet(name, "1-0-3", fields))
    }

    /// Adds what was checked: the check, whether the data passed it, its severity and what it found.
    pub fn checked<'a>(
        self,
        checks: impl Iterator<Item = (&'a str, bool, &'a str, &'a str)>,
    ) -> Self {
        let of = |(check, success, severity, found)| {
            json!({
                "assertion": check, "name": check, "success": success, "severity": severity,
                "actual": found,
            })
        };
        let assertions: Vec<Value> = checks.map(of).collect();
        if assertions.is_empty() {
            return self;
        }
        let fields = json!({ "assertions": assertions });
        let name = "DataQualityAssertionsDatasetFacet";
        self.with("inputFacets", "dataQualityAssertions", facet(name, "1-1-0", fields))
    }

    /// Adds what was written: bytes and files, and rows where they are known.
    pub fn written(self, rows: Option<u64>, bytes: u64, files: usize) -> Self {
        let mut fields = json!({ "size": bytes, "fileCount": files });
        if let Some(rows) = rows {
            fields["rowCount"] = json!(rows);
        }
        let name = "OutputStatisticsOutputDatasetFacet";
        self.with("outputFacets", "outputStatistics", facet(name, "1-0-2", fields))
    }
}

/// The event of a moment of a run.
pub fn event(
    run: &Run,
    moment: &Moment<'_>,
    at: Instant,
    inputs: Vec<Dataset>,
    outputs: Vec<Dataset>,
) -> Value {
    let engine = json!({ "name": "c360-ml", "version": env!("CARGO_PKG_VERSION") });
    let mut facets =
        json!({ "processing_engine": facet("ProcessingEngineRunFacet", "1-1-1", engine) });
    if let Some(as_of) = run.as_of {
        let nominal = json!({ "nominalStartTime": as_of.to_string() });
        facets["nominalTime"] = facet("NominalTimeRunFacet", "1-0-1", nominal);
    }
    if let Some(Parent { namespace, job, run }) = &run.parent {
        let parent =
            json!({ "run": { "runId": run }, "job": { "namespace": namespace, "name": job } });
        facets["parent"] = facet("ParentRunFacet", "1-2-0", parent);
    }
    let kind = match moment {
        Moment::Start => "START",
        Moment::Complete => "COMPLETE",
        Moment::Fail(message) => {
            let message = json!({ "message": message, "programmingLanguage": "RUST" });
            facets["errorMessage"] = facet("ErrorMessageRunFacet", "1-0-1", message);
            "FAIL"
        }
    };
    let job = json!({ "processingType": "BATCH", "integration": "C360_ML", "jobType": "COMMAND" });
    let plain = |datasets: Vec<Dataset>| datasets.into_iter().map(|Dataset(value)| value);
    json!({
        "eventType": kind,
        "eventTime": at.to_string(),
        "producer": PRODUCER,
        "schemaURL": EVENT,
        "run": { "runId": run.id, "facets": facets },
        "job": {
            "namespace": run.namespace,
            "name": run.job,
            "facets": { "jobType": facet("JobTypeJobFacet", "2-0-4", job) },
        },
        "inputs": plain(inputs).collect::<Vec<_>>(),
        "outputs": plain(outputs).collect::<Vec<_>>(),
    })
}

impl Target {
    /// Sends an event.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written, or if the backend cannot be reached or refuses the event.
    pub fn send(&self, event: &Value) -> Result<()> {
        match self {
            Self::File(path) => {
                let file = File::options().create(true).append(true).open(path);
                let written =
                    file.and_then(|mut file| file.write_all(format!("{event}\n").as_bytes()));
                written.map_err(Error::io("write", path))
            }
            Self::Url(url, key) => {
                let agent: Agent =
                    Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
                let mut request = agent.post(url);
                if let Some(key) = key {
                    request = request.header("Authorization", format!("Bearer {key}"));
                }
                let failed = |error: ureq::Error| Error::Service {
                    service: "OpenLineage".to_owned(),
                    message: format!("the event was not sent: {error}"),
                    hint: "give the whole address, such as http://127.0.0.1:5000/api/v1/lineage"
                        .into(),
                };
                request.send_json(event).map(|_| ()).map_err(failed)
            }
        }
    }
}

/// A facet with the address of its schema.
fn facet(name: &str, version: &str, fields: Value) -> Value {
    let url = format!("https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}");
    let mut facet = json!({ "_producer": PRODUCER, "_schemaURL": url });
    if let (Value::Object(facet), Value::Object(fields)) = (&mut facet, fields) {
        facet.extend(fields);
    }
    facet
}

/// The namespace and name of the dataset at a path or URL.
fn named(path: &Path) -> (String, String) {
    let text = path.to_string_lossy();
    if let Some((scheme, rest)) = text.split_once("://") {
        let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
        return (format!("{scheme}://{host}"), key.trim_end_matches('/').to_owned());
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // `.` is left in by `absolute`, and names the same folder.
    let path: PathBuf = path.components().collect();
    ("file".to_owned(), path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_have_the_names_that_other_programs_give_them() {
        let of = |path: &str| named(Path::new(path));
        assert_eq!(of("s3://data/ml/events/"), ("s3://data".into(), "ml/events".into()));
        assert_eq!(of("/data/./events"), ("file".into(), "/data/events".into()));
    }

    #[test]
    fn a_parent_is_read_in_three_parts() {
        let run = "018f6c4e-0000-7000-8000-000000000001";
        let parent = Parent::parse(&format!("prod%2Feu/nightly.score/{run}")).unwrap();
        assert_eq!((&*parent.namespace, &*parent.job), ("prod/eu", "nightly.score"));
        assert_eq!(parent.run, run);
        for wrong in ["", run, &format!("nightly/{run}"), "a/b/no-uuid", &format!("/b/{run}")] {
            assert_eq!(Parent::parse(wrong), None, "{wrong}");
        }
    }
}

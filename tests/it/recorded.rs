//! What is recorded of runs, and by what they are known elsewhere.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

use crate::cli::output;
use crate::support::{EVENTS_FILE, live_text, project};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The records of the runs that failed, by their paths.
fn failed(project: &Path) -> Vec<(PathBuf, Value)> {
    let entries = std::fs::read_dir(project.join("store/runs/failed")).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let record = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        (path, record)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn a_run_is_known_by_the_same_id_in_its_log_and_in_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let mut build = Command::new(assert_cmd::cargo::cargo_bin("c360-ml"));
    build
        .current_dir(&project)
        .args(["features", "build", "--verbose", "--log-format", "json"])
        .env("TRACEPARENT", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let built = build.output().unwrap();
    assert!(built.status.success());
    let log = String::from_utf8(built.stderr).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let record = live_text(&project, "runs/000001-features-build/manifest.json");
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["outcome"], "published");
    assert_eq!(record["trace_id"], TRACE);
    assert_eq!(record["run_id"].as_str().unwrap().len(), 36);
    assert!(!lines.is_empty());
    for line in &lines {
        assert_eq!((&line["run_id"], &line["trace_id"]), (&record["run_id"], &record["trace_id"]));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    // Each stage says that it is done while the process is in it.
    let done: Vec<&Value> =
        lines.iter().filter(|line| line["fields"]["message"] == "done").collect();
    let stages = record["stages"].as_array().unwrap();
    assert!(stages.iter().all(|stage| done.iter().any(|line| line["stage"] == stage["name"])));
    assert!(done.iter().all(|line| line["stage"] == line["fields"]["stage"]), "{done:?}");
}

#[test]
fn a_run_that_fails_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let events = std::fs::read(project.join(EVENTS_FILE)).unwrap();
    let broken = |arguments: &[&str]| {
        std::fs::write(project.join(EVENTS_FILE), "no Parquet").unwrap();
        let (_, stderr, code) = output(&project, arguments);
        std::fs::write(project.join(EVENTS_FILE), &events).unwrap();
        (stderr, code)
    };
    // A store in which nothing was published is not begun by a failure.
    assert_eq!(broken(&["features", "build"]).1, 3);
    assert!(!project.join("store").exists());

    assert_eq!(output(&project, &["features", "build"]).2, 0);
    assert_eq!(failed(&project).len(), 0);
    let (stderr, code) = broken(&["features", "build", "--as-of", "2024-07-02"]);
    assert_eq!(code, 3);
    let recorded = failed(&project);
    let [(path, record)] = recorded.as_slice() else { panic!("{recorded:?}") };
    assert_eq!(record["outcome"], "failed");
    assert_eq!(record["command"], "features-build");
    assert_eq!(record["error"]["exit_code"], 3);
    assert!(stderr.contains(record["error"]["error"].as_str().unwrap()), "{stderr}");
    assert_eq!(record["root"], 1);
    assert_eq!(path.file_stem().unwrap().to_string_lossy(), *record["run"].as_str().unwrap());

    // A dry run and a command that only reads leave nothing.
    assert_ne!(broken(&["score", "--dry-run"]).1, 0);
    assert_ne!(broken(&["features", "list"]).1, 0);
    assert_eq!(failed(&project).len(), 1);

    // `gc` removes what is old, and nothing else.
    assert_eq!(output(&project, &["gc"]).2, 0);
    assert_eq!(failed(&project).len(), 1);
    assert_eq!(output(&project, &["gc", "--grace", "0d"]).2, 0);
    assert_eq!(failed(&project).len(), 0);
}

#[test]
fn a_lineage_backend_is_told_of_each_run() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let file = folder.path().join("lineage.jsonl");
    let parent = "018f6c4e-0000-7000-8000-000000000001";
    let call = |arguments: &[&str], target: &str| {
        let mut call = Command::new(assert_cmd::cargo::cargo_bin("c360-ml"));
        call.current_dir(&project)
            .args(arguments)
            .env("C360_OPENLINEAGE", target)
            .env("OPENLINEAGE_NAMESPACE", "prod")
            .env("OPENLINEAGE_PARENT_ID", format!("airflow/nightly.score/{parent}"));
        let output = call.output().unwrap();
        (String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let target = file.to_string_lossy();
    assert_eq!(call(&["features", "build"], &target).1, Some(0));
    let [start, end] = events().try_into().unwrap();
    assert_eq!((&start["eventType"], &end["eventType"]), (&"START".into(), &"COMPLETE".into()));
    assert_eq!(start["run"]["runId"], end["run"]["runId"]);
    let record = live_text(&project, "runs/000001-features-build/manifest.json");
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["run_id"], end["run"]["runId"]);
    assert_eq!(end["job"]["namespace"], "prod");
    assert!(end["job"]["name"].as_str().unwrap().ends_with(".features-build"), "{end}");
    assert_eq!(end["run"]["facets"]["parent"]["run"]["runId"], parent);
    assert_eq!(end["run"]["facets"]["parent"]["job"]["name"], "nightly.score");
    let named = |datasets: &Value, end: &str| -> Value {
        let all = datasets.as_array().unwrap().iter();
        let mut own = all.filter(|dataset| dataset["name"].as_str().unwrap().ends_with(end));
        own.next().unwrap_or_else(|| panic!("{end}: {datasets}")).clone()
    };
    let root = std::fs::canonicalize(&project).unwrap();
    let source = named(&end["inputs"], "/fixtures/events");
    assert_eq!(source["namespace"], "file");
    assert!(Path::new(source["name"].as_str().unwrap()).starts_with(root), "{source}");
    assert!(source["inputFacets"]["dataQualityMetrics"]["rowCount"].as_u64().unwrap() > 0);
    let view = named(&end["outputs"], "store/features/commerce");
    let fields = view["facets"]["columnLineage"]["fields"].as_object().unwrap();
    let (_, revenue) = fields.iter().find(|(name, _)| name.starts_with("total_revenue")).unwrap();
    let revenue = revenue["inputFields"].as_array().unwrap().iter();
    let columns: Vec<&str> = revenue.map(|from| from["field"].as_str().unwrap()).collect();
    assert!(columns.contains(&"amount") && columns.contains(&"event_ts"), "{view}");
    assert!(!columns.contains(&"channel"), "{columns:?}");
    assert!(view["outputFacets"]["outputStatistics"]["size"].as_u64().unwrap() > 0);

    // A run that fails says so, and a dry run and a command that only reads say nothing.
    std::fs::write(project.join(EVENTS_FILE), "no Parquet").unwrap();
    let (stderr, code) = call(&["features", "build", "--as-of", "2024-07-02"], &target);
    assert_eq!(code, Some(3));
    let told = events();
    let failed = &told[3];
    assert_eq!(failed["outputs"], Value::Array(Vec::new()), "it has written nothing");
    assert_eq!((told.len(), &failed["eventType"]), (4, &"FAIL".into()));
    let message = failed["run"]["facets"]["errorMessage"]["message"].as_str().unwrap();
    assert!(stderr.contains(message), "{stderr}");
    call(&["score", "--dry-run"], &target);
    call(&["history"], &target);
    assert_eq!(events().len(), 4);

    // A backend that is not there is a warning.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (stderr, code) =
        call(&["features", "build"], &format!("http://127.0.0.1:{port}/api/v1/lineage"));
    assert_eq!(code, Some(3));
    assert!(stderr.contains("OpenLineage: the event was not sent"), "{stderr}");
}

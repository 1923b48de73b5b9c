//! The command line as a user sees it: filtered snapshots of what it prints, and exit codes.

use std::path::Path;

use assert_cmd::Command;

use crate::support::{edit, project};

/// The binary in a project's folder, without what the environment could set.
pub fn c360(project: &Path) -> Command {
    let mut command = Command::cargo_bin("c360-ml").unwrap();
    command.current_dir(project);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("C360_")) {
        command.env_remove(name);
    }
    command
}

/// stdout, stderr and exit code of one call.
pub fn output(project: &Path, arguments: &[&str]) -> (String, String, i32) {
    let output = c360(project).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code().unwrap())
}

fn snapshot(arguments: &[&str], stdout: &str) {
    let mut settings = insta::Settings::clone_current();
    // A version ends in a hash of fitted doubles, whose last bits may differ by CPU.
    settings.add_filter(r"2024-07-01-[0-9a-f]{8}", "2024-07-01-[version]");
    settings.set_description(format!("c360-ml {}", arguments.join(" ")));
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(arguments.join(" "), stdout));
}

#[test]
fn the_commands_that_only_read_print_what_they_should() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    for arguments in [
        &["validate"][..],
        &["schema"],
        &["schema", "--format", "sql"],
        &["features", "describe", "commerce"],
        &["features", "describe", "spend_30d"],
        &["models", "list"],
        &["--help"],
    ] {
        let (stdout, stderr, code) = output(&project, arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        snapshot(arguments, &stdout);
    }
    assert!(!project.join("store").exists(), "reading commands write nothing");
}

/// Train and score once, then everything that reads the store.
#[test]
fn run_trains_scores_and_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    // Metrics may move in the fourth place by CPU; the funnel and the counts may not.
    let funnel: String = stdout
        .lines()
        .filter(|line| {
            ["training", "calibration", "test", "customers scored"].iter().any(|w| line.contains(w))
        })
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    snapshot(&["run: funnels"], &funnel);

    let (stdout, _, code) = output(&project, &["models", "show", "churn"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("positive class: churned"), "{stdout}");
    let (stdout, _, code) = output(&project, &["explain", "c360_0000007", "--format", "json"]);
    assert_eq!(code, 0);
    let explained: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(explained["profile"]["customer360_id"], "c360_0000007");
    assert_eq!(explained["scores"].as_array().unwrap().len(), 5);
    assert!(explained["scores"][0]["reasons"][0]["contribution"].is_f64(), "{stdout}");
    assert!(explained["profile"]["segments"][0].is_string(), "{stdout}");
    let (_, stderr, code) = output(&project, &["explain", "nobody"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("has no customer nobody"), "{stderr}");

    // The same inputs: nothing to do. A change that changes nothing gives the same data files.
    let files = data_files(&project);
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stdout,
        "nothing to do: run 000002-score has scored 2024-07-01T00:00:00Z from the same data, project and models\n"
    );
    assert_eq!(root(&project)["generation"], 2);
    edit(&project, "c360.toml", "[writeback]", "# Again.\n[writeback]");
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(!stdout.contains("used for"), "trained again: {stdout}");
    assert!(stdout.contains("1,996 customers scored"), "{stdout}");
    assert_eq!(data_files(&project), files);

    // An earlier as-of is scored by what was known then, writes history and moves nothing.
    let (_, stderr, code) = output(&project, &["score", "--as-of", "2024-06-01"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("no version of churn, propensity"), "{stderr}");
    assert!(stderr.contains("was trained by 2024-06-01T00:00:00Z"), "{stderr}");
    let before = root(&project);
    let (stdout, stderr, code) = output(&project, &["run", "--as-of", "2024-06-01"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("stays champion: it was trained as of 2024-07-01"), "{stdout}");
    assert!(stdout.contains("was not moved"), "{stdout}");
    let after = root(&project);
    assert_eq!(after["champions"], before["champions"]);
    assert_eq!(after["profile"], before["profile"]);
    let manifest = project.join("store/runs/000005-score/manifest.json");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    assert!(manifest.contains("\"churn\": \"2024-06-01-"), "{manifest}");
}

fn root(project: &Path) -> serde_json::Value {
    let root = std::fs::read_to_string(project.join("store/current.json")).unwrap();
    serde_json::from_str(&root).unwrap()
}

/// Table folder and checksum of every published data file.
fn data_files(project: &Path) -> Vec<(String, String)> {
    let root = root(project);
    let files = root["files"].as_object().unwrap().iter();
    files
        .filter(|(path, _)| path.ends_with(".parquet"))
        .map(|(path, file)| {
            let folder = path.rsplit_once('/').unwrap().0;
            (folder.to_owned(), file["xxh3"].as_str().unwrap().to_owned())
        })
        .collect()
}

/// Outcomes count only as far as they were known.
#[test]
fn known_at_moves_the_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let test_snapshot = |arguments: &[&str]| {
        let (stdout, stderr, code) = output(&project, arguments);
        assert_eq!(code, 0, "{stderr}");
        let trained: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let funnel = trained["classifiers"]["churn"]["funnel"].as_array().unwrap();
        let test = funnel.iter().find(|row| row["used_for"] == "test").unwrap();
        test["as_of"].as_str().unwrap().to_owned()
    };
    // Gap and horizon are 97 days.
    let arguments = ["train", "--format", "json"];
    assert_eq!(test_snapshot(&arguments), "2024-03-26T00:00:00Z");
    let arguments = ["train", "--format", "json", "--known-at", "2024-06-01"];
    assert_eq!(test_snapshot(&arguments), "2024-02-25T00:00:00Z");
}

#[test]
fn training_twice_gives_the_same_bytes_at_any_thread_count() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let run = |threads: &str, store: &str| {
        let status = c360(&project)
            .env("RAYON_NUM_THREADS", threads)
            .env("POLARS_MAX_THREADS", threads)
            .args(["run", "--store", store])
            .output()
            .unwrap();
        assert!(status.status.success());
        let root = std::fs::read_to_string(project.join(store).join("current.json")).unwrap();
        let root: serde_json::Value = serde_json::from_str(&root).unwrap();
        let mut files: Vec<(String, String)> = Vec::new();
        for (path, file) in root["files"].as_object().unwrap() {
            if !path.starts_with("runs/") {
                files.push((path.clone(), file["xxh3"].to_string()));
            }
        }
        files
    };
    assert_eq!(run("1", "one"), run("3", "three"));
}

#[test]
fn a_held_store_is_exit_code_5() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let store = c360_ml::store::Store::at(project.join("store")).unwrap();
    let _held = store.begin("a test").unwrap();
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("a test"), "{stderr}");
}

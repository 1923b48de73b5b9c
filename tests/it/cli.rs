//! The command line as a user sees it: filtered snapshots of what it prints, and exit codes.

use std::path::Path;

use assert_cmd::Command;

use crate::support::project;

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
    let (_, stderr, code) = output(&project, &["explain", "nobody"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("has no customer nobody"), "{stderr}");

    // Scoring again does not train again, and gives the same data files.
    let files = data_files(&project);
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(!stdout.contains("training"), "{stdout}");
    assert_eq!(data_files(&project), files);

    // An earlier as-of writes history and does not move the current profile.
    let (stdout, stderr, code) = output(&project, &["score", "--as-of", "2024-06-01"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("was not moved"), "{stdout}");
    let root = std::fs::read_to_string(project.join("store/current.json")).unwrap();
    let root: serde_json::Value = serde_json::from_str(&root).unwrap();
    assert_eq!(root["profile"]["as_of"], "2024-07-01T00:00:00Z");
}

/// Table folder and checksum of every published data file.
fn data_files(project: &Path) -> Vec<(String, String)> {
    let root = std::fs::read_to_string(project.join("store/current.json")).unwrap();
    let root: serde_json::Value = serde_json::from_str(&root).unwrap();
    let files = root["files"].as_object().unwrap().iter();
    files
        .filter(|(path, _)| path.ends_with(".parquet"))
        .map(|(path, file)| {
            let folder = path.rsplit_once('/').unwrap().0;
            (folder.to_owned(), file["xxh3"].as_str().unwrap().to_owned())
        })
        .collect()
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

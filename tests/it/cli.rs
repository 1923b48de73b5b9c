//! Tests of the command line as a user sees it: filtered snapshots of its output, and exit codes.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use assert_cmd::Command;

use crate::support::{EVENTS_FILE, edit, live_text, project, root, with_column, write};

/// The binary in a project's folder, without the settings of the environment.
pub fn c360(project: &Path) -> Command {
    let mut command = Command::cargo_bin("c360-ml").unwrap();
    command.current_dir(project);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("C360_")) {
        command.env_remove(name);
    }
    command
}

/// The stdout, stderr and exit code of one call.
pub fn output(project: &Path, arguments: &[&str]) -> (String, String, i32) {
    let output = c360(project).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code().unwrap())
}

fn snapshot(arguments: &[&str], stdout: &str) {
    let mut settings = insta::Settings::clone_current();
    // A version ends in a hash of fitted doubles, whose last bits may depend on the CPU.
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
        &["features", "describe", "spend"],
        &["config", "show"],
        &["train", "--dry-run"],
        &["run", "--dry-run", "--known-at", "2024-06-15"],
        &["models", "list"],
        &["--help"],
    ] {
        let (stdout, stderr, code) = output(&project, arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        snapshot(arguments, &stdout);
    }
    assert!(!project.join("store").exists(), "reading commands write nothing");
}

/// Trains and scores once, and then runs every command that reads the store.
#[test]
fn run_trains_scores_and_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    // Metrics may depend on the CPU in the fourth decimal place. The funnel and the counts may not.
    let funnel: String = stdout
        .lines()
        .filter(|line| {
            let words = ["training", "calibration", "test", "customers scored"];
            line.starts_with(|c: char| c.is_ascii_digit()) && words.iter().any(|w| line.contains(w))
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

    // With the same inputs there is nothing to do. A change of a comment gives the same data files.
    let files = data_files(&project);
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stdout,
        "nothing to do: run 000002-score has scored 2024-07-01T00:00:00Z from the same data, project and models\n"
    );
    assert_eq!(root(&project)["number"], 2);
    edit(&project, "c360.toml", "[writeback]", "# Again.\n[writeback]");
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(!stdout.contains("used for"), "trained again: {stdout}");
    assert!(stdout.contains("1,996 customers scored"), "{stdout}");
    assert_eq!(data_files(&project), files);

    // Files that another command has overwritten are written again, and `--force` writes all files again.
    let (_, stderr, code) = output(&project, &["features", "build", "--known-at", "2024-06-01"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(output(&project, &["score"]).0.contains("1,996 customers scored"));
    assert_eq!(data_files(&project), files);
    assert!(output(&project, &["score"]).0.starts_with("nothing to do"));
    assert!(output(&project, &["score", "--force"]).0.contains("1,996 customers scored"));
    // A manifest that is missing must not cause a failure.
    std::fs::remove_dir_all(project.join("store/runs/000002-score")).unwrap();

    // An earlier as-of is scored by what was known at that time. It adds history and does not move the
    // current profile.
    let (_, stderr, code) = output(&project, &["score", "--as-of", "2024-06-01"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("no version of churn, propensity"), "{stderr}");
    assert!(stderr.contains("was trained by 2024-06-01T00:00:00Z"), "{stderr}");
    let before = root(&project);
    let (stdout, stderr, code) = output(&project, &["run", "--as-of", "2024-06-01"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("stays champion: it was trained as of 2024-07-01"), "{stdout}");
    assert!(stdout.contains("was not replaced"), "{stdout}");
    let after = root(&project);
    assert_eq!(after["champions"], before["champions"]);
    assert_eq!(after["profile"], before["profile"]);
    let manifest = live_text(&project, "runs/000008-score/manifest.json");
    assert!(manifest.contains("\"churn\": \"2024-06-01-"), "{manifest}");
}

/// Among several versions of one earlier as-of, the one that was trained last scores it.
#[test]
fn the_last_trained_of_an_as_of_scores_it() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let versions = |arguments: &[&str]| {
        let (stdout, stderr, code) = output(&project, arguments);
        assert_eq!(code, 0, "{stderr}");
        let trained: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        trained["versions"]["churn"].as_str().unwrap().to_owned()
    };
    let champion = versions(&["train", "--format", "json"]);
    let june = ["train", "--as-of", "2024-06-01", "--format", "json"];
    let first = versions(&june);
    edit(&project, "models/churn.toml", "fit = { ", "fit = { l2 = [500.0], ");
    let second = versions(&june);
    assert!(first != second);
    let scored_with = || {
        let (_, stderr, code) = output(&project, &["score", "--as-of", "2024-06-01"]);
        assert_eq!(code, 0, "{stderr}");
        let run = format!("{:06}-score", root(&project)["number"].as_u64().unwrap());
        let manifest = live_text(&project, &format!("runs/{run}/manifest.json"));
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        manifest["models"]["churn"].as_str().unwrap().to_owned()
    };
    assert_eq!(scored_with(), second);
    edit(&project, "models/churn.toml", "fit = { l2 = [500.0], ", "fit = { ");
    assert_eq!(versions(&june), first);
    assert_eq!(scored_with(), first);
    // A version that cannot be read is skipped.
    std::fs::remove_dir_all(project.join(format!("store/models/churn/{first}"))).unwrap();
    edit(&project, "c360.toml", "[writeback]", "# Again.\n[writeback]");
    assert_eq!(scored_with(), second);
    assert_eq!(root(&project)["champions"]["churn"], champion);
}

/// Versions are promoted and rolled back as far as there are former ones. A refused change publishes nothing.
#[test]
fn versions_are_promoted_and_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let train = |as_of: &str| {
        let (stdout, stderr, code) =
            output(&project, &["train", "--as-of", as_of, "--format", "json"]);
        assert_eq!(code, 0, "{stderr}");
        let trained: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        trained["versions"]["churn"].as_str().unwrap().to_owned()
    };
    let (may, june, july) = (train("2024-05-01"), train("2024-06-01"), train("2024-07-01"));
    let said = |arguments: &[&str]| {
        let (stdout, stderr, code) = output(&project, arguments);
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    let champion = || root(&project)["champions"]["churn"].as_str().unwrap().to_owned();
    assert_eq!(champion(), july);
    let text = said(&["models", "promote", "churn", &may]);
    assert_eq!(text, format!("churn {may} is in use, {july} was\n"));
    assert_eq!(champion(), may);
    let generation = root(&project)["number"].clone();
    let text = said(&["models", "promote", "churn", &may]);
    assert_eq!(text, format!("churn {may} was in use already\n"));
    assert_eq!(root(&project)["number"], generation);
    for (now, before) in [(&july, &may), (&june, &july), (&may, &june)] {
        let text = said(&["models", "rollback", "churn"]);
        assert_eq!(text, format!("churn {now} is in use, {before} was\n"));
        assert_eq!(champion(), *now);
    }
    let published = root(&project);
    for (arguments, message) in [
        (vec!["models", "rollback", "churn"], "no other version of churn was in use before"),
        (vec!["models", "promote", "churn", "2024"], "unknown version `2024`"),
        (vec!["models", "rollback", "chrun"], "unknown model `chrun`"),
    ] {
        let (_, stderr, code) = output(&project, &arguments);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(message) && stderr.contains("hint: "), "{stderr}");
    }
    std::fs::remove_dir_all(project.join(format!("store/models/churn/{june}"))).unwrap();
    assert_ne!(output(&project, &["models", "promote", "churn", &june]).2, 0);
    assert_eq!(root(&project), published);
}

/// Events after the as-of change no version, whatever they do to the partitions.
#[test]
fn the_future_does_not_leak_into_training() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let train = || {
        let (stdout, stderr, code) =
            output(&project, &["train", "--as-of", "2024-05-01", "--format", "json"]);
        assert_eq!(code, 0, "{stderr}");
        let trained: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let path = trained["versions"]["churn"].as_str().unwrap().to_owned();
        let text = live_text(&project, &format!("models/churn/{path}/model.json"));
        let mut model: serde_json::Value = serde_json::from_str(&text).unwrap();
        // The version's name and the fingerprint depend on the bytes of the files, so that they are not
        // compared.
        model.as_object_mut().unwrap().retain(|key, _| key == "model");
        model
    };
    let before = train();
    let rows = c360_ml::store::parquet::read(&project.join(EVENTS_FILE), None).unwrap();
    let rows = c360_ml::store::parquet::concat(&rows).unwrap().unwrap();
    let times = rows.column_by_name("event_ts").unwrap();
    let times = times.as_primitive::<TimestampMicrosecondType>().clone();
    let at: c360_ml::time::Instant = "2024-05-01".parse().unwrap();
    let late: Vec<u32> =
        (0..rows.num_rows() as u32).filter(|row| times.value(*row as usize) >= at.0).collect();
    let late = c360_ml::store::parquet::take(&rows, &late.into()).unwrap();
    // There are enough of them for more partitions, and one old event was ingested after the as-of.
    let copies: Vec<RecordBatch> = std::iter::repeat_n(late.clone(), 12).collect();
    let many = c360_ml::store::parquet::concat(&copies).unwrap().unwrap();
    assert!(many.num_rows() > 110_000, "{}", many.num_rows());
    write(&project.join("fixtures/events/part-100.parquet"), &many);
    let old: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![1_500_000_000_000_000]).with_timezone("UTC"));
    let old = with_column(&late.slice(0, 1), "event_ts", old);
    write(&project.join("fixtures/events/part-101.parquet"), &old);
    assert_eq!(train(), before);
}

/// The folder and the checksum of every published data file.
pub fn data_files(project: &Path) -> Vec<(String, String)> {
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

/// Outcomes count only as far as they were known at the known-at.
#[test]
fn known_at_moves_the_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let test_snapshot = |arguments: &[&str], expected: i32| {
        let (stdout, stderr, code) = output(&project, arguments);
        assert_eq!(code, expected, "{stderr}");
        let trained: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert!(stdout.len() < 20_000, "a summary has {} bytes", stdout.len());
        let metrics = trained["models"]["churn"]["files"]["metrics.json"].as_str().unwrap();
        let metrics = std::fs::read_to_string(project.join(metrics)).unwrap();
        let metrics: serde_json::Value = serde_json::from_str(&metrics).unwrap();
        let funnel = metrics["funnel"].as_array().unwrap();
        let test = funnel.iter().find(|row| row["used_for"] == "test").unwrap();
        test["as_of"].as_str().unwrap().to_owned()
    };
    // Gap and horizon are 97 days together.
    let arguments = ["train", "--format", "json"];
    assert_eq!(test_snapshot(&arguments, 0), "2024-03-26T00:00:00Z");
    // Affinity is tested on the last 30 days, of which nothing was known.
    let arguments = ["train", "--format", "json", "--known-at", "2024-06-01"];
    assert_eq!(test_snapshot(&arguments, 4), "2024-02-25T00:00:00Z");
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
        let store = c360_ml::store::Store::at(project.join(store)).unwrap();
        let root = store.root().unwrap();
        let names = store.below(&root, "").unwrap().into_iter();
        let names = names.filter(|name| !name.starts_with("runs/"));
        names
            .map(|name| (name.clone(), store.live(&root, &name).unwrap().unwrap().xxh3))
            .collect::<Vec<_>>()
    };
    assert_eq!(run("1", "one"), run("3", "three"));
}

#[test]
fn a_held_store_is_exit_code_5() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let store = c360_ml::store::Store::at(project.join("store")).unwrap();
    let _held = store.begin("a test", || c360_ml::time::Instant(4_102_444_800_000_000)).unwrap();
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("a test"), "{stderr}");
}

/// Programs read an error as they read a result.
#[test]
fn errors_are_json_where_json_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (stdout, stderr, code) = output(folder.path(), &["score", "--format", "json"]);
    assert_eq!((stdout.as_str(), code), ("", 2));
    let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["exit_code"], 2);
    assert!(error["error"].as_str().unwrap().contains("c360.toml"), "{stderr}");
    assert!(error["hint"].is_string(), "{stderr}");
    // So are errors in the arguments.
    for arguments in
        [&["score", "--nothing", "--format", "json"][..], &["explain", "--format=json"]]
    {
        let (_, stderr, code) = output(folder.path(), arguments);
        let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
        assert!(code == 2 && error["exit_code"] == 2, "{stderr}");
        assert!(error["error"].as_str().unwrap().len() > 10, "{stderr}");
    }
}

/// The shell completes all commands, and each has a manual page.
#[test]
fn the_shell_and_man_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (stdout, _, code) = output(folder.path(), &["completions", shell]);
        assert_eq!(code, 0);
        assert!(stdout.contains("c360-ml") && stdout.contains("validate"), "{shell}: {stdout}");
    }
    let (_, stderr, code) = output(folder.path(), &["man", "--out", "man"]);
    assert_eq!(code, 0, "{stderr}");
    for page in ["c360-ml.1", "c360-ml-train.1", "c360-ml-segments-export.1"] {
        let page = std::fs::read_to_string(folder.path().join("man").join(page)).unwrap();
        assert!(page.contains(".SH NAME"), "{page}");
    }
}

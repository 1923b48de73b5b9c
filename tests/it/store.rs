//! The store as a whole: its roots, reading as of one, removing old ones, and where an analyst looks.

use std::path::Path;

use serde_json::Value;

use crate::cli::output;
use crate::support::{live, project, root};

fn ran(project: &Path, arguments: &[&str]) -> String {
    let (stdout, stderr, code) = output(project, arguments);
    assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
    stdout
}

fn json(project: &Path, arguments: &[&str]) -> Value {
    let stdout = ran(project, &[arguments, &["--format", "json"]].concat());
    serde_json::from_str(&stdout).unwrap()
}

/// Every run leaves a root, a command can read as of one, and what no kept root names is removed.
#[test]
fn roots_are_history_until_they_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    ran(&project, &["run", "--as-of", "2024-06-01"]);
    let first = json(&project, &["explain", "c360_0000007"]);
    ran(&project, &["run", "--as-of", "2024-07-01"]);
    ran(&project, &["score", "--force"]);
    let history = json(&project, &["history"]);
    let history = history.as_array().unwrap();
    let commands: Vec<&str> =
        history.iter().map(|root| root["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["score", "score", "score", "train"]);
    assert_eq!(history[0]["profile"]["as_of"], "2024-07-01T00:00:00Z");

    // As of the second root, the first profile is the current one.
    assert_eq!(json(&project, &["explain", "c360_0000007", "--root", "2"]), first);
    let shown = json(&project, &["show", "profile", "--head", "1", "--root", "2"]);
    assert!(shown[0]["customer360_id"].is_string());
    let (_, stderr, code) = output(&project, &["score", "--root", "2"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--root 2: this command writes"), "{stderr}");
    let (_, stderr, code) = output(&project, &["history", "--root", "99"]);
    assert_eq!(code, 0, "{stderr}");
    let (_, stderr, code) = output(&project, &["models", "list", "--root", "99"]);
    assert!(code == 2 && stderr.contains("has no root 99"), "{stderr}");

    // What was written within the grace period stays. Without one, what only old roots name goes.
    let files = || {
        let root = root(&project);
        let files = root["files"].as_object().unwrap().values();
        files.map(|file| file["object"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let kept = json(&project, &["gc", "--keep", "1"]);
    assert_eq!((&kept["roots"], &kept["bytes"]), (&serde_json::json!([]), &0.into()));
    let planned = json(&project, &["gc", "--keep", "1", "--grace", "0d", "--dry-run"]);
    assert_eq!(planned["roots"].as_array().unwrap().len(), 3);
    assert_eq!(json(&project, &["history"]).as_array().unwrap().len(), 4);
    let removed = json(&project, &["gc", "--keep", "1", "--grace", "0d"]);
    assert_eq!(removed["objects"], planned["objects"]);
    let superseded = removed["objects"].as_array().unwrap();
    let is_profile =
        |path: &&Value| path.as_str().unwrap().starts_with("profile/as_of=2024-07-01/");
    assert_eq!(superseded.iter().filter(is_profile).count(), 1, "{superseded:?}");
    assert!(files().iter().all(|object| project.join("store").join(object).exists()));
    assert_eq!(json(&project, &["history"]).as_array().unwrap().len(), 1);
    // The store goes on as before.
    assert!(ran(&project, &["score"]).starts_with("nothing to do"));
    ran(&project, &["explain", "c360_0000007"]);
    ran(&project, &["report"]);
    ran(&project, &["score", "--as-of", "2024-07-02"]);
    let (_, stderr, code) = output(&project, &["gc", "--keep", "0"]);
    assert!(code == 2 && stderr.contains("at least 1"), "{stderr}");
}

/// `show`, `current.sql` and `profile/current` have the rows of the current profile once, however often it was written.
#[test]
fn an_analyst_sees_each_customer_once() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    ran(&project, &["run", "--as-of", "2024-06-01"]);
    ran(&project, &["score", "--as-of", "2024-07-01"]);
    ran(&project, &["score", "--as-of", "2024-07-01", "--force"]);
    let files = root(&project)["files"].as_object().unwrap().clone();
    let of_profile = |as_of: &str| {
        let folder = format!("profile/as_of={as_of}/");
        let names = files.keys().filter(|name| name.starts_with(&folder));
        names.map(|name| live(&project, name)).collect::<Vec<_>>()
    };
    let links = std::fs::read_dir(project.join("store/profile/current")).unwrap();
    let linked: Vec<_> = links.map(|link| link.unwrap().path().canonicalize().unwrap()).collect();
    let current: Vec<_> =
        of_profile("2024-07-01").iter().map(|path| path.canonicalize().unwrap()).collect();
    assert_eq!(linked, current);
    let sql = std::fs::read_to_string(project.join("store/current.sql")).unwrap();
    let view = |name: &str| {
        let begin = format!("create or replace view \"{name}\"");
        sql.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{name}: {sql}"))
    };
    let object = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(view("profile").matches(".parquet").count(), current.len());
    assert!(view("profile").contains(&object(&current[0])));
    let past = of_profile("2024-06-01");
    assert_eq!(view("profile_history").matches(".parquet").count(), current.len() + past.len());
    for name in ["scores", "segments", "recommendations", "features_commerce"] {
        assert!(view(name).contains("as_of=2024-07-01"), "{name}");
    }

    let rows = json(&project, &["show", "profile", "--head", "3"]);
    assert_eq!(rows.as_array().unwrap().len(), 3);
    let csv = ran(&project, &["show", "scores", "--head", "5", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 6);
    assert!(csv.starts_with("customer360_id,"), "{csv}");
    assert!(ran(&project, &["show", "profile", "--head", "1"]).contains("churn_basis"));
    assert!(
        ran(&project, &["show", "features/commerce", "--as-of", "2024-06-01"]).contains("c360_")
    );
    for (arguments, message) in [
        (["show", "profiles", "--head", "1"], "did you mean `profile`"),
        (["show", "profile", "--as-of", "2020-01-01"], "was not scored"),
        (["score", "--force", "--format", "csv"], "text or json for this command"),
    ] {
        let (_, stderr, code) = output(&project, &arguments);
        assert!(code != 0 && stderr.contains(message), "{message}: {stderr}");
    }
}

/// A store from before roots had numbers is refused, and left as it is.
#[test]
fn a_store_of_an_earlier_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    std::fs::create_dir(project.join("store")).unwrap();
    std::fs::write(project.join("store/current.json"), "{\"format_version\": 1}").unwrap();
    for command in [&["run"][..], &["models", "list"], &["gc", "--keep", "1"]] {
        let (_, stderr, code) = output(&project, command);
        assert!(code == 2 && stderr.contains("of an earlier version"), "{stderr}");
        assert!(stderr.contains("hint: "), "{stderr}");
    }
    assert!(project.join("store/current.json").exists());
}

//! The JSON Schemas of the files of a project, and the reference that is made from them.

use std::path::Path;

use c360_ml::cli;
use c360_ml::config::{self, FileKind};
use serde_json::Value;

use crate::cli::output;
use crate::support::{edit, project};

/// The kind and the content of each file of a project.
fn files(project: &Path) -> Vec<(String, FileKind, Value)> {
    let mut files = vec![project.join("c360.toml")];
    for folder in ["features", "models"] {
        let entries = std::fs::read_dir(project.join(folder)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let of = |path: std::path::PathBuf| {
        let table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let content = serde_json::to_value(table).unwrap();
        let name = path.strip_prefix(project).unwrap().to_string_lossy().into_owned();
        let kind = match content["kind"].as_str() {
            Some(kind) => FileKind::named(kind).unwrap(),
            None if name == "c360.toml" => FileKind::Project,
            None if name.starts_with("features") => FileKind::View,
            None => FileKind::Segments,
        };
        (name, kind, content)
    };
    files.into_iter().map(of).collect()
}

fn complaints(kind: FileKind, content: &Value) -> Vec<String> {
    let validator = jsonschema::draft7::new(&kind.schema()).unwrap();
    validator
        .iter_errors(content)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// What the commands accept, the schemas accept: the files of the example and those of the fixtures.
#[test]
fn files_of_projects_are_valid_by_their_schemas() {
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/complete-journey");
    let mut kinds = Vec::new();
    for project in [project(folder.path()), example] {
        for (name, kind, content) in files(&project) {
            assert_eq!(complaints(kind, &content), Vec::<String>::new(), "{name}");
            kinds.push(kind);
        }
    }
    assert!(FileKind::ALL.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
}

/// What the commands refuse when they parse a file, its schema refuses: an unknown key, a wrong type, a wrong unit, a
/// value that does not exist, a missing key.
#[test]
fn schemas_refuse_what_the_commands_refuse() {
    for (file, before, after) in [
        ("models/churn.toml", "horizon = \"90d\"", "horizont = \"90d\""),
        ("models/churn.toml", "horizon = \"90d\"", "horizon = \"90 days\""),
        ("models/churn.toml", "kind = \"absence\"", "kind = \"absent\""),
        ("models/churn.toml", "positive = \"churned\"\n", ""),
        ("models/rfm.toml", "window = \"365d\"", "window = 365"),
        ("features/lifecycle.toml", "op = \"min\"", "op = \"minimum\""),
        ("c360.toml", "[writeback]", "[write_back]"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let project = project(folder.path());
        edit(&project, file, before, after);
        let (_, stderr, code) = output(&project, &["features", "list"]);
        assert_eq!(code, 2, "{file}: {after}: {stderr}");
        let all = files(&project);
        let (_, kind, content) = all.iter().find(|(name, ..)| name == file).unwrap();
        assert!(!complaints(*kind, content).is_empty(), "{file}: {after}");
    }
}

/// The references are what the code says. `C360_WRITE_DOCS=1 cargo test` writes them.
#[test]
fn the_references_are_up_to_date() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = [("reference.md", config::reference()), ("commands.md", cli::reference())];
    for (name, generated) in &pages {
        let path = docs.join(name);
        if std::env::var_os("C360_WRITE_DOCS").is_some() {
            std::fs::write(&path, generated).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == *generated, "{name} is old; C360_WRITE_DOCS=1 cargo test writes it");
    }
    let [(_, settings), (_, commands)] = &pages;
    for named in ["half_life", "sources.events.lookups.NAME", "email_open", "churn_risk_score"] {
        assert!(settings.contains(named), "{named} is missing");
    }
    for named in ["segments export", "--dry-run", "--known-at"] {
        assert!(commands.contains(named), "{named} is missing");
    }
}

//! Customers who were forgotten are nowhere in the store, and no run brings them back.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;

use c360_ml::store::Store;
use c360_ml::store::parquet::read;

use crate::cli::output;
use crate::corruption::{files, tables};
use crate::support::{project, rewrite, root};

/// Two customers with a profile and events.
const GONE: [&str; 2] = ["c360_0000001", "c360_0000007"];

/// The rows without these customers.
fn without(rows: &RecordBatch, gone: &[&str]) -> RecordBatch {
    let keys = rows.column_by_name("customer360_id").unwrap().as_string::<i32>().clone();
    let stay: BooleanArray = keys.iter().map(|key| Some(!gone.contains(&key.unwrap()))).collect();
    filter_record_batch(rows, &stay).unwrap()
}

fn ok(project: &Path, arguments: &[&str]) -> String {
    let (stdout, stderr, code) = output(project, arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    stdout
}

/// Whether any file of the store has one of the customers, as this test reads them.
fn is_anywhere(project: &Path) -> bool {
    let store = project.join("store");
    files(&store).into_iter().any(|(name, bytes)| {
        let is_in = |text: &[u8]| {
            GONE.iter().any(|key| text.windows(key.len()).any(|part| part == key.as_bytes()))
        };
        let is_table = name.extension().is_some_and(|end| end == "parquet");
        let rows = if is_table { read(&store.join(&name), None).unwrap() } else { Vec::new() };
        let has_key = |rows: &RecordBatch| {
            let keys = rows.column_by_name("customer360_id").map(|c| c.as_string::<i32>().clone());
            keys.is_some_and(|keys| keys.iter().flatten().any(|key| GONE.contains(&key)))
        };
        is_in(&bytes) || rows.iter().any(has_key)
    })
}

#[test]
fn who_is_forgotten_is_nowhere_and_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    ok(&project, &["run"]);
    ok(&project, &["score", "--as-of", "2024-07-02"]);
    assert!(is_anywhere(&project));
    let before = tables(&project);

    let planned = ok(&project, &["forget", GONE[0], GONE[1], "--dry-run", "--format", "json"]);
    assert_eq!(tables(&project), before, "a dry run removes nothing");
    let told = ok(&project, &["forget", GONE[0], GONE[1], "--format", "json"]);
    let [planned, told] =
        [planned, told].map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap());
    assert_eq!((&planned["rows"], &planned["files"]), (&told["rows"], &told["files"]));
    assert_eq!((&told["in_store"], &told["rows"]["profile"]), (&2.into(), &4.into()));
    assert_eq!(told["searched"]["found"], serde_json::json!([]));
    assert_eq!(told["may_have_learned"].as_array().unwrap().len(), 6, "all versions");
    assert!(!is_anywhere(&project));
    let store = Store::at(project.join("store")).unwrap();
    assert_eq!(store.roots().unwrap().len(), 1, "older roots are gone");
    // The other rows are those that were there.
    for name in ["profile", "scores", "features/commerce"] {
        let rows: usize = tables_rows(&project, name);
        assert!(rows > 1000, "{name} has {rows} rows");
    }
    let (_, stderr, code) = output(&project, &["explain", GONE[0]]);
    assert_eq!(code, 2, "{stderr}");

    // Nothing of a later run has them, and its features are those of sources that never had them.
    ok(&project, &["score", "--as-of", "2024-07-03"]);
    assert!(!is_anywhere(&project));
    let again = ok(&project, &["forget", GONE[0], "--format", "json"]);
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["forgotten_before"], &again["files"]), (&1.into(), &serde_json::json!([])));
    let other = tempfile::tempdir().unwrap();
    let other = crate::support::project(other.path());
    rewrite(&other, "fixtures/profile/part-000.parquet", |rows| without(&rows, &GONE));
    rewrite(&other, "fixtures/events/part-000.parquet", |rows| without(&rows, &GONE));
    ok(&other, &["features", "build", "--as-of", "2024-07-03"]);
    let features = |project: &Path| {
        let mut all = tables(project);
        all.retain(|name, _| name.starts_with("features/") && name.contains("2024-07-03"));
        all
    };
    let expected = features(&other);
    assert_eq!(expected.len(), 6);
    assert_eq!(features(&project), expected);
}

/// The number of live rows of a table.
fn tables_rows(project: &Path, table: &str) -> usize {
    let store = Store::at(project.join("store")).unwrap();
    let root = store.root().unwrap();
    let files = store.below(&root, table).unwrap().into_iter();
    let rows = files.map(|file| read(&store.file(&root, &file).unwrap(), None).unwrap());
    rows.flatten().map(|rows| rows.num_rows()).sum()
}

#[test]
fn a_trace_that_is_left_and_a_call_without_customers_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    ok(&project, &["features", "build"]);
    let before = root(&project);
    let (_, stderr, code) = output(&project, &["forget"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("no customer is named"), "{stderr}");
    let list = project.join("gone.txt");
    std::fs::write(&list, "\n").unwrap();
    let (_, stderr, code) = output(&project, &["forget", "--file", &list.to_string_lossy()]);
    assert_eq!(code, 2, "{stderr}");
    assert_eq!(root(&project), before);

    std::fs::write(project.join("store/notes.txt"), format!("call {} back", GONE[1])).unwrap();
    std::fs::write(&list, GONE.join("\n")).unwrap();
    let (_, stderr, code) = output(&project, &["forget", "--file", &list.to_string_lossy()]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("a trace of a customer is left in notes.txt"), "{stderr}");
    assert!(!stderr.contains(GONE[0]) && !stderr.contains(GONE[1]), "{stderr}");
    std::fs::remove_file(project.join("store/notes.txt")).unwrap();
    let told = ok(&project, &["forget", "--file", &list.to_string_lossy()]);
    assert!(told.contains("No trace is left"), "{told}");
    assert!(!is_anywhere(&project));
}

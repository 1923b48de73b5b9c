//! Tests of many snapshots, of their records in the store, and of changed definitions and files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::output;
use crate::support::{edit, is_published, live, project, root};

fn json(project: &Path, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--format", "json"]].concat();
    let (stdout, stderr, code) = output(project, &arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

const RANGE: [&str; 8] =
    ["features", "build", "--from", "2024-05-01", "--to", "2024-06-30", "--every", "30d"];

/// The view and the as-of of the snapshots that a build has computed.
fn computed(built: &Value) -> Vec<(String, String)> {
    let snapshots = built["snapshots"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    snapshots.map(|s| (text(&s["view"]), text(&s["as_of"]["at"]))).collect()
}

/// The bytes of the snapshots by folder.
fn bytes(project: &Path) -> BTreeMap<String, Vec<u8>> {
    let root = root(project);
    let files = root["files"].as_object().unwrap().keys();
    let files = files.filter(|path| path.starts_with("features/"));
    files
        .map(|path| {
            let folder = path.rsplit_once('/').unwrap().0.to_owned();
            (folder, std::fs::read(live(project, path)).unwrap())
        })
        .collect()
}

#[test]
fn many_snapshots_are_those_of_one_build_each_and_are_not_computed_twice() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let built = json(&project, &RANGE);
    assert_eq!(computed(&built).len(), 3 * 6);
    assert_eq!(built["refresh"]["all_because"], "there are no kept timelines yet");
    let many = bytes(&project);
    let number = root(&project)["number"].clone();
    let again = json(&project, &RANGE);
    assert!(computed(&again).is_empty());
    assert_eq!(again["refresh"]["files_read"], 0);
    assert_eq!(root(&project)["number"], number, "nothing changed, nothing is published");

    // The same snapshots are built one by one, from all events, in a store of their own.
    std::fs::remove_dir_all(project.join("store")).unwrap();
    for as_of in ["2024-05-01", "2024-05-31", "2024-06-30"] {
        json(&project, &["features", "build", "--full", "--as-of", as_of]);
    }
    assert!(bytes(&project) == many, "one build of many and many of one differ");
}

#[test]
fn a_file_of_later_events_leaves_earlier_snapshots_alone() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let events = project.join("fixtures/events");
    json(&project, &RANGE);
    let file = std::fs::read_dir(&events).unwrap().next().unwrap().unwrap().path();
    let rows = c360_ml::store::parquet::read_all([file.as_path()], None).unwrap().unwrap();
    let times = rows.column_by_name("ingested_at").unwrap();
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let late = "2024-06-15T00:00:00Z".parse::<c360_ml::time::Instant>().unwrap().0;
    let later: arrow_array::BooleanArray = times.iter().map(|t| t.map(|t| t >= late)).collect();
    let later = arrow_select::filter::filter_record_batch(&rows, &later).unwrap();
    assert!(later.num_rows() > 0);
    crate::support::write(&events.join("zz-more.parquet"), &later);
    let built = json(&project, &RANGE);
    assert_eq!(built["refresh"]["files_read"], 1);
    assert_eq!(built["refresh"]["events_read"], later.num_rows());
    let at: Vec<String> = computed(&built).into_iter().map(|(_, at)| at).collect();
    assert_eq!(at, vec!["2024-06-30T00:00:00Z"; 6]);
}

#[test]
fn a_changed_definition_is_planned_and_never_joined_with_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    json(&project, &RANGE);
    let plan = json(&project, &["features", "plan"]);
    assert_eq!(plan["changes"].as_array().unwrap().len(), 0);
    edit(
        &project,
        "features/support.toml",
        "event_type = 'support_ticket'",
        "event_type = 'refund'",
    );
    let (stdout, _, code) = output(&project, &["features", "plan"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!("features plan", stdout);
    let entities = project.join("entities.parquet");
    let keys = arrow_array::StringArray::from(vec!["c360_0000001"]);
    let at = arrow_array::TimestampMicrosecondArray::from(vec![1_719_792_000_000_000]);
    let rows = arrow_array::RecordBatch::try_from_iter([
        ("customer360_id", std::sync::Arc::new(keys) as arrow_array::ArrayRef),
        ("event_timestamp", std::sync::Arc::new(at.with_timezone("UTC"))),
    ]);
    crate::support::write(&entities, &rows.unwrap());
    let join = |views: &str| {
        let (entities, out) = (entities.to_str().unwrap(), project.join("out.parquet"));
        let out = out.to_str().unwrap().to_owned();
        output(
            &project,
            &["features", "join", "--entities", entities, "--views", views, "--out", &out],
        )
    };
    assert_eq!(join("commerce").2, 0, "the other views are as they were");
    let (_, stderr, code) = join("support");
    assert_eq!(code, 3);
    insta::assert_snapshot!("features join of two definitions", stderr);

    let built = json(&project, &RANGE);
    let views: Vec<String> = computed(&built).into_iter().map(|(view, _)| view).collect();
    assert_eq!(views, ["support"; 3], "nothing else is computed again");
    assert_eq!(join("support").2, 0);
    let diff =
        json(&project, &["features", "diff", "--as-of", "2024-06-30", "--against", "2024-05-31"]);
    assert_eq!(diff["columns"].as_array().unwrap().len(), 108);
    let (_, stderr, code) =
        output(&project, &["features", "diff", "--as-of", "2024-06-30", "--against", "2024-01-01"]);
    assert_eq!(code, 4);
    assert!(stderr.contains("2024-05-31"), "{stderr}");
}

#[test]
fn a_column_mapped_anew_changes_the_features_that_look_at_it_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    json(&project, &RANGE);
    let mapped = "[sources.events]\ncolumns = { channel = \"coalesce(channel, 'none')\" }";
    edit(&project, "c360.toml", "[sources.events]", mapped);
    let plan = json(&project, &["features", "plan"]);
    assert_eq!(
        plan["all_events_because"],
        "the mapping or settings of the event source have changed, or which events can be used"
    );
    let changes = plan["changes"].as_array().unwrap().iter();
    let changed: Vec<&str> = changes.map(|change| change["feature"].as_str().unwrap()).collect();
    assert_eq!(changed, ["channels_180d", "channels_28d", "last_channel_seen"]);
}

#[test]
fn damaged_timelines_are_said_to_be_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    json(&project, &RANGE);
    let before = bytes(&project);
    let file = live(&project, "timelines/000001.bin");
    let whole = std::fs::read(&file).unwrap();
    // A flipped byte in a part that a command does not read goes unnoticed.
    for (at, of, as_of) in [(1, 3, "2024-06-04"), (1, 2, "2024-06-05"), (99, 100, "2024-06-06")] {
        let mut bytes = std::fs::read(live_timelines(&project)).unwrap();
        let place = bytes.len() * at / of;
        bytes[place] ^= 0x10;
        std::fs::write(live_timelines(&project), &bytes).unwrap();
        let (_, stderr, code) = output(&project, &["features", "build", "--as-of", as_of]);
        assert_eq!(code, 0, "{stderr}");
    }
    // The keys of the first customers are always read.
    let mut flipped = whole.clone();
    flipped[40] ^= 0x10;
    let cut = whole[..whole.len() / 2].to_vec();
    for (damaged, as_of) in [(flipped, "2024-06-02"), (cut, "2024-06-03")] {
        std::fs::write(live_timelines(&project), damaged).unwrap();
        let (_, stderr, code) = output(&project, &["features", "build", "--as-of", as_of]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("is damaged"), "{stderr}");
        assert!(stderr.contains("all event files are read again"), "{stderr}");
    }
    json(&project, &[&RANGE[..], &["--full"]].concat());
    let after = bytes(&project);
    assert!(before.iter().all(|(folder, bytes)| after[folder] == *bytes));
}

/// The object of the one live file of timelines, whatever its bytes are.
fn live_timelines(project: &Path) -> PathBuf {
    let files = root(project)["files"].as_object().unwrap().clone();
    let own: Vec<&Value> =
        files.iter().filter(|(name, _)| name.ends_with(".bin")).map(|(_, file)| file).collect();
    assert_eq!(own.len(), 1);
    project.join("store").join(own[0]["object"].as_str().unwrap())
}

#[test]
fn timelines_in_another_encoding_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    json(&project, &RANGE);
    // The first encoding had no number, and other names for most fields.
    let store = c360_ml::store::Store::at(project.join("store")).unwrap();
    let mut run = store.begin("test", || c360_ml::time::Instant(0)).unwrap();
    run.replace("timelines");
    run.write_text("timelines/manifest-000001.json", r#"{"format_version": 1, "files": {}}"#)
        .unwrap();
    run.write_text("timelines/000001.bin", "another encoding").unwrap();
    run.commit().unwrap();
    let build = ["features", "build", "--as-of", "2024-06-02"];
    let built = json(&project, &build);
    let because = "the timelines are in the encoding of another version of c360-ml";
    assert_eq!(built["refresh"]["all_because"], because);
    let files = root(&project)["files"].as_object().unwrap().clone();
    assert!(!files.contains_key("timelines/manifest-000001.json"));
    let before = bytes(&project);
    json(&project, &[&build[..], &["--full"]].concat());
    assert!(bytes(&project) == before);
}

#[test]
fn a_range_needs_no_as_of_of_the_project() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    edit(&project, "c360.toml", "as_of = \"2024-07-01\"\n", "");
    assert_eq!(computed(&json(&project, &RANGE)).len(), 3 * 6);
    let (_, stderr, code) = output(&project, &["features", "build", "--from", "2024-05-01"]);
    assert_eq!(code, 2, "{stderr}");
}

#[test]
fn ranges_that_name_no_as_of_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let cases: [&[&str]; 5] = [
        &["--to", "2024-06-30"],
        &["--every", "1d"],
        &["--from", "2024-06-30", "--to", "2024-06-01"],
        &["--from", "2024-06-01", "--every", "0d"],
        &["--from", "1900-01-01", "--every", "1h"],
    ];
    for case in cases {
        let (_, stderr, code) = output(&project, &[&["features", "build"], case].concat());
        assert_eq!(code, 2, "{case:?}: {stderr}");
    }
    assert!(!is_published(&project));
}

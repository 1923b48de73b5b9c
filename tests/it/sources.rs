//! Tests of source files of many shapes: the same rows give the same features.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::DataType;
use c360_ml::store::parquet::{concat, read};

use crate::cli::output;
use crate::support::{
    EVENTS_FILE, PROFILE_FILE, edit, live, project, root, with_column, without_column, write,
};

/// Hive folders, nested types and dictionaries beside the columns that are used, and schemas that differ
/// between files.
#[test]
fn event_files_of_many_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    // The computed snapshots and the numbers of events. The inputs are left out because the files differ.
    let built = |stdout: &str| {
        let told: serde_json::Value = serde_json::from_str(stdout).unwrap();
        let snapshots = told["snapshots"].as_array().unwrap().iter();
        let columns: Vec<_> =
            snapshots.map(|s| (s["rows"].clone(), s["columns"].clone())).collect();
        assert_eq!(columns.len(), 6);
        (columns, told["events"].clone())
    };
    let (expected, _, _) = output(&project, &["features", "build", "--format", "json"]);
    let rows = concat(&read(&project.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    let profile = concat(&read(&project.join(PROFILE_FILE), None).unwrap()).unwrap().unwrap();
    // A map column from the profile is repeated to the number of events.
    let count = rows.num_rows();
    let repeat: Vec<u32> = (0..count as u32).map(|i| i % profile.num_rows() as u32).collect();
    let profile = c360_ml::store::parquet::take(&profile, &repeat.into()).unwrap();
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let schema = rows.schema();
    let mut columns: Vec<(String, ArrayRef, bool)> = schema
        .fields()
        .iter()
        .zip(rows.columns())
        .map(|(field, column)| (field.name().clone(), column.clone(), true))
        .collect();
    for (name, column, _) in &mut columns {
        if name == "event_type" {
            *column = arrow_cast::cast(column, &dictionary).unwrap();
        }
    }
    for name in ["source_ids", "embedding", "household", "emails"] {
        columns.push((name.into(), profile.column_by_name(name).unwrap().clone(), true));
    }
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let half = count / 2;
    std::fs::remove_file(project.join(EVENTS_FILE)).unwrap();
    write(&project.join("fixtures/events/year=2023/a.parquet"), &rows.slice(0, half));
    write(&project.join("fixtures/events/year=2024/b.parquet"), &rows.slice(half, count - half));
    std::fs::remove_dir_all(project.join("store")).unwrap();
    let (found, stderr, code) = output(&project, &["features", "build", "--format", "json"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(built(&found) == built(&expected));

    // The value in a folder's name is a column, and a path may be a glob.
    edit(&project, "c360.toml", "fixtures/events", "fixtures/events/*/*.parquet");
    let feature =
        "[[feature]]\nname = \"of_2024\"\nop = \"count\"\nwhere = \"year = '2024'\"\n\n[[derived]]";
    edit(&project, "features/browsing.toml", "[[derived]]", feature);
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 0, "{stderr}");
    let store = c360_ml::store::Store::at(project.join("store")).unwrap();
    let root = store.root().unwrap();
    let file = &store.below(&root, "features/browsing").unwrap()[0];
    let built = concat(&read(&store.file(&root, file).unwrap(), None).unwrap()).unwrap().unwrap();
    let counted = built.column_by_name("of_2024").unwrap().as_primitive::<Int64Type>();
    let total: i64 = counted.iter().flatten().sum();
    assert!(total > 0 && total <= (count - half) as i64, "{total}");

    // A column that one file lacks is null there, and the contract says so.
    write(&project.join("fixtures/events/year=2024/b.parquet"), &without_column(&rows, "channel"));
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 0, "{stderr}");
    let (stdout, stderr, code) = output(&project, &["validate"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("channel: differs between files"), "{stdout}");
    assert!(stdout.contains("missing in 1 file"), "{stdout}");
}

/// Files of one source in other types of the same values give the same features, and what cannot be widened names both
/// files.
#[test]
fn files_of_one_source_may_drift() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let built = |project: &Path| {
        let root = root(project);
        let files = root["files"].as_object().unwrap().clone();
        let features = files.iter().filter(|(name, _)| name.starts_with("features/"));
        let of = |(name, file): (&String, &serde_json::Value)| {
            (name.rsplit_once('/').unwrap().0.to_owned(), file["xxh3"].as_str().unwrap().to_owned())
        };
        features.map(of).collect::<Vec<_>>()
    };
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 0, "{stderr}");
    let expected = built(&project);
    let rows = concat(&read(&project.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    let half = rows.num_rows() / 2;
    let cast = |rows: RecordBatch, name: &str, ty: &DataType| {
        let column = arrow_cast::cast(rows.column_by_name(name).unwrap(), ty).unwrap();
        with_column(&rows, name, column)
    };
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let nanos = DataType::Timestamp(arrow_schema::TimeUnit::Nanosecond, Some("UTC".into()));
    let mut later = rows.slice(half, rows.num_rows() - half);
    for (name, ty) in [
        ("event_type", &dictionary),
        ("customer360_id", &DataType::LargeUtf8),
        ("product_id", &DataType::Utf8View),
        ("event_ts", &nanos),
        ("quantity", &DataType::Int32),
    ] {
        later = cast(later, name, ty);
    }
    let extra: ArrayRef = Arc::new(Int64Array::from(vec![1; later.num_rows()]));
    let names =
        later.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    let columns = names.into_iter().zip(later.columns().iter().cloned());
    let columns = columns.chain([("campaign".to_owned(), extra)]);
    let columns = columns.map(|(name, column)| (name, column, true));
    let later = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    std::fs::remove_file(project.join(EVENTS_FILE)).unwrap();
    let file = |name: &str| project.join("fixtures/events").join(name);
    write(&file("a.parquet"), &rows.slice(0, half));
    write(&file("b.parquet"), &later);
    std::fs::remove_dir_all(project.join("store")).unwrap();
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(built(&project), expected);
    let (stdout, ..) = output(&project, &["validate"]);
    for said in ["event_ts: differs between files", "campaign: differs between files"] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    write(&file("c.parquet"), &cast(rows.slice(0, 5), "order_id", &DataType::Binary));
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("a.parquet") && stderr.contains("c.parquet"), "{stderr}");
}

/// Two tools that write the same profile in nested types of their own are read as one.
#[test]
fn nested_columns_of_two_tools_are_read_together() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let rows = concat(&read(&project.join(PROFILE_FILE), None).unwrap()).unwrap().unwrap();
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let before = profile_of(&project);
    let half = rows.num_rows() / 2;
    let item = |ty: DataType| Arc::new(arrow_schema::Field::new("element", ty, true));
    let large = DataType::LargeList(item(DataType::LargeUtf8));
    let later = rows.slice(half, rows.num_rows() - half);
    let emails = arrow_cast::cast(later.column_by_name("emails").unwrap(), &large).unwrap();
    assert_ne!(emails.data_type(), rows.column_by_name("emails").unwrap().data_type());
    std::fs::remove_file(project.join(PROFILE_FILE)).unwrap();
    let file = |name: &str| project.join("fixtures/profile").join(name);
    write(&file("a.parquet"), &rows.slice(0, half));
    write(&file("b.parquet"), &with_column(&later, "emails", emails));
    let (stdout, stderr, code) = output(&project, &["score", "--force"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let after = profile_of(&project);
    let emails = |rows: &RecordBatch| rows.column_by_name("emails").unwrap().clone();
    assert_eq!(emails(&before).len(), rows.num_rows());
    let text = |rows: &RecordBatch| format!("{:?}", emails(rows).as_list::<i32>().values());
    assert_eq!(text(&before), text(&after));
}

fn profile_of(project: &Path) -> RecordBatch {
    let files = root(project)["files"].clone();
    let mut names = files.as_object().unwrap().keys();
    let name = names.find(|name| name.starts_with("profile/as_of=")).unwrap();
    concat(&read(&live(project, name), None).unwrap()).unwrap().unwrap()
}

/// A value that no type of both files holds is named with its file and column.
#[test]
fn a_value_that_does_not_fit_is_named_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let rows = concat(&read(&project.join(PROFILE_FILE), None).unwrap()).unwrap().unwrap();
    let count = rows.num_rows();
    let few: ArrayRef = Arc::new(Int64Array::from(vec![1; count]));
    let many: ArrayRef = Arc::new(arrow_array::UInt64Array::from(vec![u64::MAX; count]));
    let half = count / 2;
    let file = |name: &str| project.join("fixtures/profile").join(name);
    std::fs::remove_file(project.join(PROFILE_FILE)).unwrap();
    write(&file("a.parquet"), &with_column(&rows, "points", few).slice(0, half));
    write(&file("b.parquet"), &with_column(&rows, "points", many).slice(half, count - half));
    let (_, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("b.parquet: the column points does not fit into Int64"), "{stderr}");
    assert!(stderr.contains("18446744073709551615") && stderr.contains("hint: "), "{stderr}");
}

/// The store, what it has and what is to be removed are seen without the sources.
#[test]
fn a_store_is_shown_without_its_sources() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["features", "build"]).2, 0);
    std::fs::remove_dir_all(project.join("fixtures")).unwrap();
    for arguments in [
        &["history"][..],
        &["show", "features/commerce", "--as-of", "2024-07-01", "--head", "1"],
        &["gc", "--dry-run"],
    ] {
        let (stdout, stderr, code) = output(&project, arguments);
        assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
    }
}

/// Nothing of others may lie where runs write and `gc` removes, and no URL may have a password.
#[test]
fn a_store_is_a_folder_of_its_own() {
    for (from, to, said) in [
        ("store = \"store\"", "store = \".\"", "the project is in it"),
        ("store = \"store\"", "store = \"fixtures\"", "sources.events is in it"),
        ("store = \"store\"", "store = \"s3://reader:hunter2@data/ml\"", "project.store: the URL"),
        (
            "path = \"fixtures/events\"",
            "path = \"s3://reader:hunter2@data/e\"",
            "the URL has a user",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let project = project(folder.path());
        edit(&project, "c360.toml", from, to);
        let (stdout, stderr, code) = output(&project, &["features", "build"]);
        assert_eq!(code, 2, "{to}: {stdout}{stderr}");
        assert!(stderr.contains(said) && stderr.contains("hint: "), "{to}: {stderr}");
        assert!(!stderr.contains("hunter2") || !said.contains("URL"), "{stderr}");
    }
}

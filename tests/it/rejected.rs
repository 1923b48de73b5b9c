//! Rows that cannot be used are kept aside with a reason, as long as their file is there.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray};

use c360_ml::store::Store;
use c360_ml::store::parquet::{concat, read};

use crate::cli::output;
use crate::support::{EVENTS_FILE, edit, project, rewrite, with_column};

/// The rows with other texts in a column at some places.
fn with_texts(rows: &RecordBatch, name: &str, others: &[(usize, Option<&str>)]) -> RecordBatch {
    let column = rows.column_by_name(name).unwrap().as_string::<i32>();
    let mut texts: Vec<Option<String>> =
        column.iter().map(|text| text.map(str::to_owned)).collect();
    others.iter().for_each(|(row, text)| texts[*row] = text.map(str::to_owned));
    let texts: ArrayRef = Arc::new(StringArray::from(texts));
    with_column(rows, name, texts)
}

/// The rows that the store keeps aside: row, reason and event_id.
fn kept(project: &Path) -> Vec<(u64, String, Option<String>)> {
    let store = Store::at(project.join("store")).unwrap();
    let root = store.root().unwrap();
    let mut found = Vec::new();
    for name in store.below(&root, "quarantine/rows").unwrap() {
        let rows = read(&store.file(&root, &name).unwrap(), None).unwrap();
        let rows = concat(&rows).unwrap().unwrap();
        let text = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
        let (files, reasons, ids) = (text("file"), text("reason"), text("event_id"));
        let numbers = rows.column_by_name("row").unwrap().as_primitive::<UInt64Type>();
        for row in 0..rows.num_rows() {
            assert!(files.value(row).ends_with("part-000.parquet"));
            let id = ids.iter().nth(row).unwrap().map(str::to_owned);
            found.push((numbers.value(row), reasons.value(row).to_owned(), id));
        }
    }
    found
}

#[test]
fn rows_that_cannot_be_used_are_kept_aside_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    edit(
        &project,
        "c360.toml",
        "[sources.events]\n",
        "[sources.events]\nmax_rejected_share = 0.01\n",
    );
    let whole = std::fs::read(project.join(EVENTS_FILE)).unwrap();
    let mut first = String::new();
    rewrite(&project, EVENTS_FILE, |rows| {
        let rows = with_texts(&rows, "event_id", &[(10, Some(" ")), (70_000, None)]);
        with_texts(&rows, "customer360_id", &[(20, None), (10, None)])
    });
    let rows = concat(&read(&project.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    first.push_str(rows.column_by_name("event_id").unwrap().as_string::<i32>().value(20));
    assert_eq!(output(&project, &["features", "build"]).2, 0);
    let expected = vec![
        (11, "customer_null".to_owned(), Some(" ".to_owned())),
        (21, "customer_null".to_owned(), Some(first)),
        (70_001, "event_id_null".to_owned(), None),
    ];
    assert_eq!(kept(&project), expected);
    // A night without new events leaves them there, and reading all events again gives them again.
    assert_eq!(output(&project, &["features", "build", "--as-of", "2024-07-02"]).2, 0);
    assert_eq!(kept(&project), expected);
    assert_eq!(output(&project, &["features", "build", "--full", "--as-of", "2024-07-03"]).2, 0);
    assert_eq!(kept(&project), expected);
    // A file that was repaired has none, and no row of the old one stays.
    std::fs::write(project.join(EVENTS_FILE), &whole).unwrap();
    assert_eq!(output(&project, &["features", "build", "--as-of", "2024-07-04"]).2, 0);
    assert_eq!(kept(&project), []);
    // Above the share of the contract, nothing is written.
    rewrite(&project, EVENTS_FILE, |rows| {
        let all: Vec<(usize, Option<&str>)> = (0..2_000).map(|row| (row, None)).collect();
        with_texts(&rows, "event_id", &all)
    });
    let (_, stderr, code) = output(&project, &["features", "build", "--as-of", "2024-07-05"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("event_id is null"), "{stderr}");
    assert_eq!(kept(&project), []);
}

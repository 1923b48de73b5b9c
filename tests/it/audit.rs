//! The audit finds what a snapshot has wrong, and nothing where it is right.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Decimal128Type;
use arrow_array::{Array, ArrayRef, Decimal128Array};

use crate::cli::output;
use crate::corruption::{files, tables};
use crate::support::{EVENTS_FILE, live, project, rewrite, with_column};

#[test]
fn an_audit_finds_nothing_wrong_and_says_so_on_the_page_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["run"]).2, 0);
    let before = tables(&project);
    let (stdout, stderr, code) = output(&project, &["audit", "--format", "json"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let audit = &told["audit"];
    assert_eq!(told["differences"], serde_json::json!([]));
    assert_eq!(audit["customers"], 100);
    let count = |name: &str| audit[name].as_u64().unwrap();
    assert!(count("future") > 1000 && count("late") == count("future"), "{audit}");
    assert!(count("files") > 20 && count("damaged") == 0, "{audit}");
    let values: u64 =
        audit["views"].as_array().unwrap().iter().map(|v| v["values"].as_u64().unwrap()).sum();
    assert!(values > 5_000, "{values} values were computed again");
    assert_eq!(tables(&project), before, "an audit changes no table");
    let pages = files(&project.join("store"));
    let (_, page) = pages
        .iter()
        .find(|(name, _)| name.ends_with("report.html") && name.starts_with("runs"))
        .unwrap();
    let page = String::from_utf8_lossy(page);
    assert!(page.contains("Audit") && page.contains("no value changed"), "the page has no audit");
    // Another seed chooses other customers, of whom nothing is wrong either.
    let (_, stderr, code) = output(&project, &["audit", "--sample", "30", "--seed", "8"]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn an_audit_finds_other_values_and_damaged_files() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let (_, stderr, code) = output(&project, &["audit", "--as-of", "2024-07-01"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("features build --as-of 2024-07-01"), "{stderr}");
    assert_eq!(output(&project, &["features", "build"]).2, 0);
    // Amounts that are others now are what a snapshot with a defect would look like.
    let whole = std::fs::read(project.join(EVENTS_FILE)).unwrap();
    rewrite(&project, EVENTS_FILE, |rows| {
        let amounts = rows.column_by_name("amount").unwrap().as_primitive::<Decimal128Type>();
        let more: Decimal128Array = amounts.iter().map(|amount| amount.map(|a| a + 100)).collect();
        let more: ArrayRef = Arc::new(more.with_data_type(amounts.data_type().clone()));
        with_column(&rows, "amount", more)
    });
    let (stdout, stderr, code) = output(&project, &["audit"]);
    assert_eq!(code, 3, "{stdout}{stderr}");
    assert!(
        stdout.contains("spend") && stdout.contains("of which these are the first"),
        "{stdout}"
    );
    std::fs::write(project.join(EVENTS_FILE), whole).unwrap();
    assert_eq!(output(&project, &["audit"]).2, 0);

    let damaged = live(&project, "features/commerce/as_of=2024-07-01/00000-of-00001-1.parquet");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let (stdout, stderr, code) = output(&project, &["audit"]);
    assert_eq!(code, 3, "{stdout}{stderr}");
    let name = damaged.file_name().unwrap().to_string_lossy().into_owned();
    assert!(stdout.contains("1 of ") && stdout.contains(&name), "{stdout}");
}

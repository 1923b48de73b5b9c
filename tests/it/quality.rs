//! Tests of expectations as a gate: features that break one are neither published nor scored, but kept in
//! quarantine.

use std::path::Path;

use crate::cli::output;
use crate::support::{edit, live, live_text, project, root};

fn expect(project: &Path, view: &str, table: &str) {
    let path = project.join(format!("features/{view}.toml"));
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.split("\n[[expect]]").next().unwrap();
    let table = if table.is_empty() { String::new() } else { format!("\n[[expect]]\n{table}\n") };
    std::fs::write(&path, format!("{text}{table}")).unwrap();
}

/// The folders of live files of a table.
fn folders(project: &Path, table: &str) -> Vec<String> {
    let root = root(project);
    let files = root["files"].as_object().unwrap().keys();
    let of = files.filter(|path| path.starts_with(table));
    let mut folders: Vec<String> =
        of.map(|path| path.rsplit_once('/').unwrap().0.to_owned()).collect();
    folders.dedup();
    folders
}

const BUILD: [&str; 4] = ["features", "build", "--as-of", "2024-06-30"];

#[test]
fn a_snapshot_that_breaks_an_expectation_is_kept_in_quarantine() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    expect(
        &project,
        "commerce",
        "columns = [\"spend_30d\", \"orders_30d\"]\nmin = 0\nmax = 50\nmax_null_share = 0",
    );
    let (stdout, stderr, code) = output(&project, &BUILD);
    assert_eq!((code, stderr.as_str()), (3, ""));
    insta::assert_snapshot!("a broken expectation", stdout);
    assert!(folders(&project, "features/").is_empty() && folders(&project, "registry/").is_empty());
    // All views of the as-of are kept back, because derived features of one view read others.
    assert_eq!(folders(&project, "quarantine/features/").len(), 6);

    let (stdout, _, code) = output(&project, &["features", "describe", "commerce"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("spend_30d   max 50"), "{stdout}");

    expect(&project, "commerce", "columns = [\"spend_30d\"]\nmin = 0");
    let (stdout, stderr, code) = output(&project, &BUILD);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("expectations: 1 hold, 0 broken, 0 could not be checked"), "{stdout}");
    assert_eq!(folders(&project, "features/").len(), 6);
    assert!(
        folders(&project, "quarantine/").is_empty(),
        "what is published is in quarantine no more"
    );
}

/// Earlier snapshots stay published, and the other as-ofs of a range are published.
#[test]
fn a_broken_as_of_of_many_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let range =
        ["features", "build", "--from", "2024-05-01", "--to", "2024-06-30", "--every", "30d"];
    expect(&project, "commerce", "");
    expect(&project, "lifecycle", "columns = [\"last_seen_at\"]\nmax = \"2024-05-31T00:00:00Z\"");
    let (stdout, _, code) = output(&project, &range);
    assert_eq!(code, 3);
    assert!(stdout.contains("expectations: 2 hold, 1 broken"), "{stdout}");
    let built = ["features/commerce/as_of=2024-05-01", "features/commerce/as_of=2024-05-31"];
    assert_eq!(folders(&project, "features/commerce/"), built);
    let broken = ["quarantine/features/commerce/as_of=2024-06-30"];
    assert_eq!(folders(&project, "quarantine/features/commerce/"), broken);
    let number = root(&project)["number"].as_u64().unwrap();
    let manifest = live_text(&project, &format!("runs/{number:06}-features-build/manifest.json"));
    assert!(manifest.contains("\"expected\": \"max 2024-05-31T00:00:00Z\""));

    expect(&project, "lifecycle", "");
    let (stdout, _, code) = output(&project, &range);
    assert_eq!(code, 0);
    assert!(stdout.contains("2 of 3 as-ofs left as they are"), "{stdout}");
    let live = root(&project)["files"].clone();
    expect(&project, "lifecycle", "columns = [\"last_seen_at\"]\nmax = \"2024-05-01T00:00:00Z\"");
    let (_, _, code) = output(&project, &[&range[..], &["--full"]].concat());
    assert_eq!(code, 3);
    let now = root(&project)["files"].clone();
    let path = |files: &serde_json::Value| {
        let paths = files
            .as_object()
            .unwrap()
            .keys()
            .filter(|path| path.starts_with("features/commerce/as_of=2024-06-30"));
        paths.cloned().collect::<Vec<_>>()
    };
    assert_eq!(path(&live), path(&now), "what is live stays where what would replace it is broken");
}

/// Both expectations compare the same rows with the same training, by the definitions of the version.
#[test]
fn features_are_compared_with_the_training_and_with_the_snapshot_before() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let table = "columns = [\"orders_30d\"]\nmax_psi = 1e-9\nagainst = \"churn\"";
    expect(
        &project,
        "commerce",
        &format!("{table}\n\n[[expect]]\ncolumns = [\"orders_30d\"]\nmax_psi = 3"),
    );
    let (stdout, _, code) = output(&project, &BUILD);
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("expectations: 0 hold, 0 broken, 2 could not be checked"), "{stdout}");
    assert!(
        stdout.contains("orders_30d max_psi 0.000000001 against churn: churn has no champion"),
        "{stdout}"
    );

    let (_, stderr, code) = output(&project, &["train", "--as-of", "2024-06-30"]);
    assert_eq!(code, 0, "{stderr}");
    // The purchases from 2024-06-01 on are removed from the events.
    crate::support::rewrite(&project, crate::support::EVENTS_FILE, |rows| {
        use arrow_array::cast::AsArray;
        use arrow_array::types::TimestampMicrosecondType;
        let kinds = rows.column_by_name("event_type").unwrap();
        let kinds = arrow_cast::cast(kinds, &arrow_schema::DataType::Utf8).unwrap();
        let kinds = kinds.as_string::<i32>();
        let times = rows.column_by_name("event_ts").unwrap();
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let since = crate::support::instant("2024-06-01").0;
        let kept: arrow_array::BooleanArray = (0..times.len())
            .map(|row| Some(kinds.value(row) != "purchase" || times.value(row) < since))
            .collect();
        arrow_select::filter::filter_record_batch(&rows, &kept).unwrap()
    });
    let as_of = ["--as-of", "2024-07-01", "--format", "json"];
    let breaches = |command: &[&str]| {
        let (stdout, stderr, code) = output(&project, &[command, &as_of].concat());
        assert_eq!(code, 3, "{stderr}");
        let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let told = if command == ["run"] { told["score"].clone() } else { told };
        told["expectations"]["breaches"].clone()
    };
    let built = breaches(&["features", "build"]);
    assert_eq!(built.as_array().unwrap().len(), 1, "{built}");
    assert_eq!(built[0]["expected"], "max_psi 0.000000001 against churn");
    let scored = breaches(&["score"]);
    assert_eq!(built, scored);
    assert_eq!(breaches(&["run"]), scored, "a run that wrote no profile is not one to be repeated");
    for table in [
        "profile/",
        "scores/",
        "segments/",
        "recommendations/",
        "features/commerce/as_of=2024-07-01",
    ] {
        assert!(folders(&project, table).is_empty(), "{table}");
    }
    assert!(root(&project)["profile"].is_null());

    expect(&project, "commerce", "columns = [\"orders_30d\"]\nmax_psi = 0.05");
    let (stdout, _, code) = output(&project, &["score", "--as-of", "2024-07-01"]);
    assert_eq!(code, 3);
    assert!(stdout.contains("since 2024-06-30, chance gives"), "{stdout}");
    expect(&project, "commerce", "columns = [\"orders_30d\"]\nmax_psi = 30");
    let (stdout, stderr, code) = output(&project, &["score", "--as-of", "2024-07-01"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert_eq!(folders(&project, "profile/"), ["profile/as_of=2024-07-01"]);
    assert!(folders(&project, "quarantine/").is_empty());

    // A version says nothing about features with another definition, and a damaged record of another as-of
    // does not affect this one.
    expect(&project, "commerce", "columns = [\"orders\"]\nmax_psi = 1e-9\nagainst = \"churn\"");
    let orders = "input = \"order_id\"\nwhere = \"event_type = 'purchase' and amount > 0";
    edit(&project, "features/commerce.toml", orders, &format!("{orders}.01"));
    let next = ["features", "build", "--as-of", "2024-07-02"];
    let (stdout, stderr, code) = output(&project, &next);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("has no input with this name and definition"), "{stdout}");
    expect(&project, "commerce", "columns = [\"orders_30d\"]\nmax_psi = 0.5");
    std::fs::write(live(&project, "registry/commerce/as_of=2024-07-02/record.json"), "{").unwrap();
    let (stdout, stderr, code) = output(&project, &["features", "build", "--as-of", "2024-07-03"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stderr.contains("nothing is compared with commerce at 2024-07-02"), "{stderr}");
    assert!(stdout.contains("0 hold, 0 broken, 1 could not be checked"), "{stdout}");

    expect(&project, "commerce", "columns = [\"orders_30d\"]\nmax_psi = 1\nagainst = \"chrun\"");
    let (_, stderr, code) = output(&project, &["features", "list"]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("view commerce: expect orders_30d against: unknown classifier `chrun`"),
        "{stderr}"
    );
}

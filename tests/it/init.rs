//! From a stranger's files to a project: `init`.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cli::output;

/// 600 customers who order at random, each at a rate and with a size of order of their own, until they leave at random;
/// over 400 days, in epoch seconds.
fn orders(path: &Path) {
    let (mut keys, mut times, mut totals) = (Vec::new(), Vec::new(), Vec::new());
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let mut exponential = |mean: f64| -mean * (1.0 - random.random::<f64>()).ln();
    for customer in 0..600_i64 {
        let (gap, size) = (8.0 + exponential(25.0), 10.0 + exponential(30.0));
        let mut day = exponential(60.0).min(300.0);
        let left = (day + exponential(250.0)).min(400.0);
        while day < left {
            keys.push(customer);
            times.push(1_700_000_000 + (day * 86_400.0) as i64);
            totals.push((size + exponential(0.5 * size)).round());
            day += exponential(gap);
        }
    }
    let ids: Vec<i64> = (0..keys.len() as i64).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("order_id", Arc::new(Int64Array::from(ids))),
        ("client_id", Arc::new(Int64Array::from(keys))),
        ("created_at", Arc::new(Int64Array::from(times))),
        ("order_total", Arc::new(Float64Array::from(totals))),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    crate::support::write(path, &rows);
}

fn init(project: &Path, more: &[&str]) -> (String, String, i32) {
    let arguments = [&["init", project.to_str().unwrap()], more].concat();
    output(project.parent().unwrap(), &arguments)
}

/// An order table with epoch seconds and without a profile becomes a project that keeps its contract and scores.
#[test]
fn a_strangers_orders_become_a_project() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("orders.parquet");
    orders(&events);
    let project = folder.path().join("shop");
    let dry = init(&project, &["--events", events.to_str().unwrap(), "--dry-run"]);
    assert!(dry.2 == 0 && dry.0.contains("Nothing was written.") && !project.exists(), "{dry:?}");
    let (stdout, stderr, code) = init(&project, &["--events", events.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    for seen in [
        "of 600 customers",
        "to_timestamp(created_at, 's')",
        "created_at, seconds since 1970",
        "cast(client_id as varchar)",
        "models/lifetime_value.toml",
    ] {
        assert!(stdout.contains(seen), "{seen}: {stdout}");
    }
    let (stdout, stderr, code) = output(&project, &["validate"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("600 customers scored"), "{stdout}");
    // A project that is there is not overwritten.
    let before = std::fs::read(project.join("c360.toml")).unwrap();
    let (_, stderr, code) =
        init(&project, &["--events", events.to_str().unwrap(), "--currency", "USD"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("there is a project already"), "{stderr}");
    assert_eq!(std::fs::read(project.join("c360.toml")).unwrap(), before);
}

/// The project that `init` proposes for the fixtures trains, passes its gates and scores all customers.
#[test]
fn the_fixtures_become_a_project() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("proposed");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let path = |name: &str| fixtures.join(name).to_str().unwrap().to_owned();
    let (events, profile) = (path("events"), path("profile"));
    let (stdout, stderr, code) = init(&project, &["--events", &events, "--profile", &profile]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("churn: purchase within 90d"), "{stdout}");
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("2,000 customers scored"), "{stdout}");
    for score in ["churn_risk_score", "propensity_to_buy_score", "lifetime_value"] {
        assert!(stdout.lines().any(|line| line.starts_with(score)), "{score}: {stdout}");
    }
}

/// What cannot be guessed is asked for, and a hint that is followed leads on.
#[test]
fn a_column_that_is_not_found_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("visits.parquet");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("who", Arc::new(Int64Array::from(vec![1, 2, 1]))),
        (
            "created_at",
            Arc::new(Int64Array::from(vec![1_700_000_000, 1_700_000_001, 1_700_900_000])),
        ),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    crate::support::write(&events, &rows);
    let project = folder.path().join("site");
    let events = events.to_str().unwrap();
    let (_, stderr, code) = init(&project, &["--events", events]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("no column looks like customer360_id"), "{stderr}");
    assert!(stderr.contains("who, created_at"), "{stderr}");
    assert!(stderr.contains("--map customer360_id="), "{stderr}");
    assert!(!project.exists(), "nothing is written");
    let by_hand = "customer360_id=cast(who as varchar)";
    let (stdout, stderr, code) = init(&project, &["--events", events, "--map", by_hand]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("given by --map") && stdout.contains("2 customers"), "{stdout}");
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
}

/// Events with these columns beside a customer and a time.
fn events(folder: &Path, columns: Vec<(&str, ArrayRef)>) -> std::path::PathBuf {
    let rows = columns[0].1.len() as i64;
    let keys = (0..rows).map(|row| Some(row % 7)).collect::<Int64Array>();
    let times = (0..rows).map(|row| Some(1_700_000_000 + row * 9_000)).collect::<Int64Array>();
    let own: Vec<(&str, ArrayRef)> =
        vec![("customer_id", Arc::new(keys)), ("created_at", Arc::new(times))];
    let rows = RecordBatch::try_from_iter(own.into_iter().chain(columns)).unwrap();
    let path = folder.join("events.parquet");
    crate::support::write(&path, &rows);
    path
}

fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<StringArray>())
}

/// Amounts that are text, types by other names, and a second currency are seen for what they are, and what cannot be
/// used is said and allowed for.
#[test]
fn odd_events_are_seen_for_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let total = texts((0..900).map(|row| format!("{}.50", 10 + row % 40)));
    let kind = texts((0..900).map(|row| ["Order Placed", "View"][row % 2].to_owned()));
    let currency = texts((0..900).map(|row| if row < 9 { "USD" } else { "CHF" }.to_owned()));
    let note = texts((0..900).map(|row| format!("note {row}")));
    let columns = vec![
        ("Order Total (CHF)", total),
        ("event_type", kind),
        ("currency", currency),
        ("note", note),
    ];
    let path = events(folder.path(), columns);
    let project = folder.path().join("my shop");
    let (stdout, stderr, code) = init(&project, &["--events", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    for seen in [
        "cast(\"Order Total (CHF)\" as double)",
        "when 'Order Placed' then 'purchase'",
        "caution: 9 of 900 events are not in CHF",
        "max_rejected_share = 0.01",
        "not proposed as anything: note",
        "affinity: left out",
        "my shop' run",
    ] {
        assert!(stdout.contains(seen), "{seen}: {stdout}");
    }
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
}

/// What is wrong writes nothing, and a dry run finds it too.
#[test]
fn a_wrong_proposal_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ids = texts((0..50).map(|row| row.to_string()));
    let path = events(folder.path(), vec![("order_id", ids)]);
    let events = path.to_str().unwrap();
    let project = folder.path().join("shop");
    for (more, message) in [
        (&["--events", events, "--map", "amount=nobody"][..], "unknown column `nobody`"),
        (&["--events", events, "--map", "amount=nobody", "--dry-run"], "unknown column `nobody`"),
        (&["--events", events, "--currency", "euro"], "three capital letters"),
        (&["--events", events, "--profile", events], "rows repeat a value of customer_id"),
        (&["--events", "nowhere.parquet"], "there is no file or folder"),
    ] {
        let (_, stderr, code) = init(&project, more);
        assert_eq!(code, 2, "{more:?}: {stderr}");
        assert!(stderr.contains(message) && stderr.contains("hint: "), "{message}: {stderr}");
        assert!(!project.exists(), "{more:?} wrote something");
    }
    // The folder of --project is that of the new project.
    let arguments = ["--project", project.to_str().unwrap(), "init", "--events", events];
    let (stdout, stderr, code) = output(folder.path(), &arguments);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(project.join("c360.toml").exists() && !folder.path().join("c360.toml").exists());
}

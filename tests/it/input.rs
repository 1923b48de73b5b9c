//! Tests of bad input. Each case gives a message that names the fault and its place, has its exit code, and
//! writes nothing.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use c360_ml::store::parquet::{concat, read};

use crate::cli::output;
use crate::support::{
    EVENTS_FILE, PROFILE_FILE, edit, instant, is_published, live, project, rewrite, root,
    with_column, without_column, write,
};

/// Runs `arguments` and expects an exit code, messages and no published store.
fn refused(project: &Path, arguments: &[&str], code: i32, messages: &[&str]) {
    let (stdout, stderr, found) = output(project, arguments);
    assert_eq!(found, code, "{arguments:?}: {stdout}{stderr}");
    for message in messages {
        assert!(stderr.contains(message), "`{message}` is not in: {stderr}");
    }
    assert!(stderr.contains("hint: "), "no hint: {stderr}");
    assert!(!is_published(project), "something was published");
}

/// Runs `train` and expects that churn has too few data, with these messages; the other models are trained.
fn churn_is_untrained(project: &Path, arguments: &[&str], messages: &[&str]) {
    let (stdout, stderr, code) = output(project, arguments);
    assert_eq!(code, 4, "{arguments:?}: {stdout}{stderr}");
    for message in messages {
        assert!(stdout.contains(message), "`{message}` is not in: {stdout}");
        assert!(stderr.contains(message), "`{message}` is not in: {stderr}");
    }
    assert!(stderr.contains("hint: "), "no hint: {stderr}");
    let root = root(project);
    assert!(root["champions"]["churn"].is_null() && root["champions"]["rfm"].is_string());
}

#[test]
fn a_missing_event_column_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, EVENTS_FILE, |rows| without_column(&rows, "event_ts"));
    refused(&project, &["run"], 3, &["part-000.parquet", "event_ts is missing", "found: amount"]);
}

#[test]
fn a_column_that_a_feature_needs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, EVENTS_FILE, |rows| without_column(&rows, "channel"));
    refused(
        &project,
        &["run"],
        2,
        &["features/engagement.toml", "unknown column `channel`", "valid: amount"],
    );
}

#[test]
fn a_wrong_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, EVENTS_FILE, |rows| {
        let texts = StringArray::from_iter_values((0..rows.num_rows()).map(|i| i.to_string()));
        with_column(&rows, "amount", Arc::new(texts))
    });
    refused(&project, &["run"], 3, &["amount has type varchar, not money", "cast("]);
}

#[test]
fn a_profile_field_of_a_wrong_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, PROFILE_FILE, |rows| {
        let numbers = Int64Array::from_iter_values(0..rows.num_rows() as i64);
        with_column(&rows, "country", Arc::new(numbers))
    });
    refused(
        &project,
        &["run"],
        3,
        &["part-000.parquet", "column country has type int64, not utf8"],
    );
}

#[test]
fn a_truncated_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    for file in [EVENTS_FILE, PROFILE_FILE] {
        let path = project.join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        refused(&project, &["run"], 3, &[file, "not a readable Parquet file", "cut short"]);
        std::fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn data_that_a_good_footer_promises_but_that_are_damaged_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let path = project.join(EVENTS_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4000].fill(0xAB);
    std::fs::write(&path, &bytes).unwrap();
    refused(&project, &["run"], 3, &["part-000.parquet"]);
}

#[test]
fn an_empty_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    std::fs::remove_file(project.join(EVENTS_FILE)).unwrap();
    refused(&project, &["run"], 3, &["[sources.events]", "no Parquet file in", "fixtures/events"]);
}

#[test]
fn a_duplicate_customer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, PROFILE_FILE, |rows| {
        concat(&[rows.clone(), rows.slice(5, 1)]).unwrap().unwrap()
    });
    refused(&project, &["run"], 3, &["column customer360_id: c360_0000005 occurs more than once"]);
}

#[test]
fn a_null_key_is_named_with_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, PROFILE_FILE, |rows| {
        let keys = rows.column(0).as_string::<i32>();
        let keys: StringArray =
            keys.iter().enumerate().map(|(i, key)| key.filter(|_| i != 9)).collect();
        with_column(&rows, "customer360_id", Arc::new(keys))
    });
    refused(&project, &["run"], 3, &["column customer360_id: row 10 is null or blank"]);
}

/// `validate` lists the faults at which `run` stops.
#[test]
fn validate_lists_null_and_duplicate_keys() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, PROFILE_FILE, |rows| {
        let keys = rows.column(0).as_string::<i32>();
        let keys = keys.iter().enumerate().map(|(i, key)| match i {
            9 | 11 => None,
            20 => Some("c360_0000003"),
            _ => key,
        });
        with_column(&rows, "customer360_id", Arc::new(keys.collect::<StringArray>()))
    });
    let (stdout, stderr, code) = output(&project, &["validate"]);
    assert_eq!(code, 3, "{stderr}");
    let line = |check: &str| {
        let line = stdout.lines().find(|line| line.contains(check)).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(
        line("_id: null").starts_with("profile customer360_id: null or blank 2 violation"),
        "{stdout}"
    );
    assert!(line("_id: null").ends_with("part-000.parquet row 10"), "{stdout}");
    assert!(
        line("_id: duplicate")
            .ends_with("1 violation merge them upstream: c360_0000003 occurs more than once"),
        "{stdout}"
    );
    assert!(line("events of unknown customers").contains("warning"), "{stdout}");
    assert!(stdout.contains("the contract is violated"), "{stdout}");
}

#[test]
fn unusable_events_are_counted_by_reason() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, EVENTS_FILE, |rows| {
        let types = rows.column_by_name("event_type").unwrap().as_string::<i32>();
        let types: StringArray =
            types.iter().enumerate().map(|(i, kind)| kind.filter(|_| i >= 3)).collect();
        let rows = with_column(&rows, "event_type", Arc::new(types));
        let currencies = rows.column_by_name("currency").unwrap().as_string::<i32>();
        let currencies: StringArray = currencies
            .iter()
            .enumerate()
            .map(|(i, code)| if i % 500 == 10 { Some("USD") } else { code })
            .collect();
        with_column(&rows, "currency", Arc::new(currencies))
    });
    let messages = ["events cannot be used", "event_type is null: 3", "the currency is another: "];
    refused(&project, &["features", "build"], 3, &messages);
    // Up to a share that the project sets, such rows are left out instead.
    edit(
        &project,
        "c360.toml",
        "path = \"fixtures/events\"",
        "path = \"fixtures/events\"\nmax_rejected_share = 0.01",
    );
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 0, "{stderr}");
}

/// One row of the events that cannot be used stops a run by default, and its reason is told.
#[test]
fn a_row_that_cannot_be_used_has_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let whole = std::fs::read(project.join(EVENTS_FILE)).unwrap();
    let text = |value: &'static str| {
        move |_: &ArrayRef| Arc::new(StringArray::from(vec![value])) as ArrayRef
    };
    let time = |at: &str| {
        let micros = instant(at).0;
        move |_: &ArrayRef| {
            let times = arrow_array::TimestampMicrosecondArray::from(vec![micros]);
            Arc::new(times.with_timezone("UTC")) as ArrayRef
        }
    };
    let double =
        |value: f64| move |_: &ArrayRef| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
    let decimal = |value: i128| {
        move |_: &ArrayRef| {
            let wide = arrow_array::Decimal128Array::from(vec![value]);
            Arc::new(wide.with_precision_and_scale(38, 2).unwrap()) as ArrayRef
        }
    };
    type Change = Box<dyn Fn(&ArrayRef) -> ArrayRef>;
    let cases: Vec<(&str, Change, &str)> = vec![
        ("customer360_id", Box::new(text("")), "customer360_id is blank: 1"),
        ("customer360_id", Box::new(text(" \t ")), "customer360_id is blank: 1"),
        ("event_id", Box::new(text("")), "event_id is blank: 1"),
        ("event_type", Box::new(text("  ")), "event_type is blank: 1"),
        (
            "event_ts",
            Box::new(time("1677-09-21T00:12:44Z")),
            "event_ts is before 1900 or after 2199: 1",
        ),
        (
            "event_ts",
            Box::new(time("2262-04-11T23:47:16Z")),
            "event_ts is before 1900 or after 2199: 1",
        ),
        (
            "event_ts",
            Box::new(time("9999-12-31T00:00:00Z")),
            "event_ts is before 1900 or after 2199: 1",
        ),
        ("amount", Box::new(double(1e18)), "a number has too many digits: 1"),
        ("amount", Box::new(double(-9.2e16)), "a number has too many digits: 1"),
        ("amount", Box::new(double(1e300)), "a number has too many digits: 1"),
        ("amount", Box::new(double(f64::INFINITY)), "a number is not finite: 1"),
        ("amount", Box::new(decimal(10_i128.pow(18))), "a number has too many digits: 1"),
    ];
    for (column, change, message) in cases {
        std::fs::write(project.join(EVENTS_FILE), &whole).unwrap();
        rewrite(&project, EVENTS_FILE, |rows| {
            let array = rows.column_by_name(column).unwrap();
            let one = change(array);
            let rest = arrow_cast::cast(&array.slice(1, array.len() - 1), one.data_type()).unwrap();
            with_column(&rows, column, arrow_select::concat::concat(&[&one, &rest]).unwrap())
        });
        refused(&project, &["features", "build"], 3, &["events cannot be used", message]);
        assert!(!is_published(&project), "{message}");
    }
}

/// A column that has a meaning for events is not left out because its type is not read.
#[test]
fn a_column_of_a_type_that_is_not_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let whole = std::fs::read(project.join(EVENTS_FILE)).unwrap();
    for column in ["ingested_at", "currency", "event_ts", "amount"] {
        std::fs::write(project.join(EVENTS_FILE), &whole).unwrap();
        rewrite(&project, EVENTS_FILE, |rows| {
            let bytes = arrow_array::BinaryArray::from_iter_values(std::iter::repeat_n(
                b"x",
                rows.num_rows(),
            ));
            with_column(&rows, column, Arc::new(bytes))
        });
        let message = format!("the column {column} has type Binary, which is not read");
        refused(&project, &["features", "build"], 3, &[&message, "map another column"]);
    }
}

#[test]
fn a_nan_is_refused_at_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, EVENTS_FILE, |rows| {
        let amounts = rows.column_by_name("amount").unwrap().as_primitive::<Decimal128Type>();
        let doubles: Float64Array = amounts
            .iter()
            .enumerate()
            .map(|(i, v)| if i == 77 { Some(f64::NAN) } else { v.map(|v| v as f64 / 100.0) })
            .collect();
        with_column(&rows, "amount", Arc::new(doubles))
    });
    refused(&project, &["features", "build"], 3, &["a number is not finite: 1"]);
}

#[test]
fn a_sum_that_overflows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, EVENTS_FILE, |rows| {
        let amounts = rows.column_by_name("amount").unwrap().as_primitive::<Decimal128Type>();
        let amounts: arrow_array::Decimal128Array =
            amounts.iter().map(|v| v.map(|_| 999_999_999_999_999_999_i128)).collect();
        let amounts = amounts.with_precision_and_scale(18, 2).unwrap();
        with_column(&rows, "amount", Arc::new(amounts))
    });
    refused(&project, &["features", "build"], 3, &["the sum ", "of customer c360_", "too large"]);
}

#[test]
fn specs_are_checked_before_any_work() {
    let cases: [(&str, &str, &str, i32, &[&str]); 17] = [
        (
            "c360.toml",
            "currency",
            "curency",
            2,
            &["c360.toml line", "there is no setting `project.curency`; did you mean `currency`?"],
        ),
        ("c360.toml", "UTC", "Mars/Base", 2, &["`Mars/Base` is not an IANA time zone"]),
        ("c360.toml", "fixtures/profile", "fixtures/nowhere", 2, &["there is no file or folder"]),
        (
            "features/commerce.toml",
            "op = \"sum\"",
            "opp = \"sum\"",
            2,
            &[
                "features/commerce.toml line",
                "there is no setting `feature[3].opp`; did you mean `op`?",
            ],
        ),
        (
            "features/commerce.toml",
            "op = \"sum\"",
            "op = \"add\"",
            2,
            &["`feature[3].op` is \"add\", but it must be \"count\" or"],
        ),
        (
            "features/commerce.toml",
            "amount > 0",
            "amuont > 0",
            2,
            &[": feature.orders where", "unknown column `amuont`", "did you mean `amount`"],
        ),
        (
            "features/commerce.toml",
            "event_type = 'purchase'",
            "event_type == ",
            2,
            &["is not an SQL expression"],
        ),
        ("features/commerce.toml", "\"7d\"", "\"7 days\"", 2, &["is not a duration"]),
        (
            "features/commerce.toml",
            "spend_30d / (spend_90d / 3)",
            "order_trend",
            2,
            &["unknown column"],
        ),
        ("models/churn.toml", "horizon", "horizn", 2, &["models/churn.toml line", "horizn"]),
        (
            "models/segments.toml",
            "rfm_segment = 'Champions'",
            "rfm_segmnt = 'Champions'",
            2,
            &["segment \"RFM Champions\" enter", "did you mean `rfm_segment`"],
        ),
        (
            "models/propensity.toml",
            "propensity_to_buy_score",
            "churn_risk_score",
            2,
            &["another model writes churn_risk_score"],
        ),
        (
            "models/engagement.toml",
            "activity = 0.5",
            "activity = 0.6",
            2,
            &["[0.6, 0.3, 0.2]", "whose sum is 1"],
        ),
        // Regression cases: these four were once accepted.
        (
            "features/browsing.toml",
            "\"cart_rate\"",
            "\"churn_risk_score\"",
            2,
            &["is the name of a score"],
        ),
        ("features/browsing.toml", "\"cart_rate\"", "\"customer360_id\"", 2, &["is taken"]),
        ("features/commerce.toml", "\"7d\"", "\"0h\"", 2, &["a window of no length"]),
        (
            "models/propensity.toml",
            "propensity_to_buy_score",
            "engagement_score",
            2,
            &["models/propensity.toml line 4: writes", "unknown field `engagement_score`"],
        ),
    ];
    for (file, from, to, code, messages) in cases {
        let folder = tempfile::tempdir().unwrap();
        let project = project(folder.path());
        if to == "order_trend" {
            // The two derived features depend on each other in a cycle.
            edit(&project, file, from, to);
            edit(&project, file, "orders_30d / (orders_90d / 3)", "spend_trend");
            refused(&project, &["run"], 2, &["depend on each other in a cycle", "order_trend"]);
            continue;
        }
        edit(&project, file, from, to);
        refused(&project, &["run"], code, messages);
    }
}

#[test]
fn arguments_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    refused(
        &project,
        &["score"],
        4,
        &[
            "no version of churn, propensity, engagement, rfm, lifetime_value, affinity was trained by 2024-07-01",
        ],
    );
    let (_, stderr, code) = output(&project, &["score", "--as-of", "yesterday"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("neither a date"), "{stderr}");
    refused(&project, &["features", "describe", "spent"], 2, &["unknown view or feature `spent`"]);
    edit(&project, "c360.toml", "as_of = \"2024-07-01\"\n", "");
    let messages =
        ["no as-of is given", "the day after the last event is 2024-07-01: --as-of 2024-07-01"];
    refused(&project, &["features", "build"], 2, &messages);
}

/// A file of a model has a line for each of its errors, though its kind is read first.
#[test]
fn a_wrong_key_is_named_with_its_line() {
    for (file, before, after, message) in [
        (
            "models/churn.toml",
            "horizon = ",
            "horizont = ",
            "models/churn.toml line 15: there is no setting `label.horizont`; did you mean `horizon`?",
        ),
        (
            "models/churn.toml",
            "kind = \"classifier\"",
            "kind = \"clasifier\"",
            "models/churn.toml line 1: unknown kind of model `clasifier`",
        ),
        (
            "models/rfm.toml",
            "window = \"365d\"",
            "window = \"a year\"",
            "`a year` is not a duration",
        ),
        (
            "features/lifecycle.toml",
            "op = \"min\"",
            "op = \"minimum\"",
            "is \"minimum\", but it must be \"count\" or",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let project = project(folder.path());
        edit(&project, file, before, after);
        let (_, stderr, code) = output(&project, &["features", "list"]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(message) && !stderr.contains("line 0"), "{stderr}");
        assert!(stderr.contains("hint: "), "{stderr}");
    }
}

/// An as-of before the first event says when the events begin.
#[test]
fn an_as_of_before_the_first_event_says_when_that_is() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let arguments = ["train", "--as-of", "2010-01-01"];
    refused(&project, &arguments, 4, &["no events before 2010-01-01", "they begin at 2022-07-0"]);
    let arguments = ["features", "build", "--as-of", "2010-01-01"];
    refused(
        &project,
        &arguments,
        4,
        &["no customer at 2010-01-01", "the events begin at 2022-07-0"],
    );
}

/// Models take the whole history as features do.
#[test]
fn a_model_can_read_the_whole_history() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    edit(&project, "models/rfm.toml", "window = \"365d\"", "window = \"lifetime\"");
    edit(&project, "models/churn.toml", "gap = \"7d\"\n", "");
    let (stdout, stderr, code) = output(&project, &["train", "--dry-run"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("2024-04-02"), "the test snapshot is 90 days before: {stdout}");
}

/// A setting says where its value comes from: a flag, the environment, the file, or the default.
#[test]
fn settings_have_an_origin() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let mut command = crate::cli::c360(&project);
    command.env("C360_MEMORY", "3GB").args([
        "config",
        "show",
        "--format",
        "json",
        "--as-of",
        "2024-06-01",
    ]);
    let output = command.output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |setting: &str| {
        let shown = &shown[setting];
        (shown["value"].clone(), shown["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(of("project.as_of"), ("2024-06-01T00:00:00Z".into(), "flag --as-of".to_owned()));
    assert_eq!(of("engine.memory"), ("3GB".into(), "environment C360_MEMORY".to_owned()));
    assert_eq!(of("project.currency").1, "c360.toml");
    assert_eq!(of("project.shards"), (serde_json::Value::Null, "default".to_owned()));
    assert_eq!(of("format"), ("json".into(), "flag --format".to_owned()));
}

#[test]
fn too_little_data_is_exit_code_4_with_the_counts() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let early = ["train", "--as-of", "2023-01-01"];
    churn_is_untrained(&project, &early, &["the model churn needs", "days of events"]);
    edit(&project, "models/churn.toml", "fit = { ", "fit = { minimum_class = 5000, ");
    let messages = ["rows with y = 1 (churned)", "and needs 5000 of each"];
    churn_is_untrained(&project, &["train"], &messages);
}

#[test]
fn labels_of_one_class_are_exit_code_4() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    edit(&project, "models/churn.toml", "amount > 0", "amount > 1000000");
    edit(
        &project,
        "models/churn.toml",
        "{ within = \"auto\" }",
        "{ where = \"days_since_last_seen < 180\" }",
    );
    churn_is_untrained(&project, &["train"], &["and 0 with y = 0 for training"]);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    std::fs::write(project.join("store"), "a file, not a folder").unwrap();
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("cannot create") && stderr.contains("store"), "{stderr}");
    assert!(stderr.contains("caused by: "), "{stderr}");
}

#[test]
fn an_edited_artifact_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["train"]).2, 0);
    let version = root(&project)["champions"]["churn"].as_str().unwrap().to_owned();
    let path = live(&project, &format!("models/churn/{version}/model.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut model: serde_json::Value = serde_json::from_str(&text).unwrap();
    // There is one coefficient fewer than there are columns, on which linfa would panic.
    let weights = &mut model["model"]["classifier"]["estimator"]["logistic"]["coefficients"];
    weights.as_array_mut().unwrap().pop();
    std::fs::write(&path, model.to_string()).unwrap();
    let adopt = ["models", "adopt", "churn", &version];
    let refused = |arguments: &[&str], expected: i32, said: &str| {
        let (_, stderr, code) = output(&project, arguments);
        assert_eq!(code, expected, "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    };
    refused(&["score"], 1, "model-000001");
    refused(&adopt, 2, "the number of coefficients does not match the inputs");
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    refused(&["score"], 1, "is damaged");
    refused(&adopt, 2, "is not valid");
    // The unchanged artifact round-trips: loading and writing it again gives the same JSON.
    let artifact: c360_ml::artifact::Artifact = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string_pretty(&artifact).unwrap() + "\n", text);
}

#[test]
fn scoring_says_where_definitions_have_moved_on() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["run"]).2, 0);
    edit(
        &project,
        "features/commerce.toml",
        "spend_30d / (spend_90d / 3)",
        "spend_30d - spend_90d / 3",
    );
    let (_, stderr, code) = output(&project, &["score"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("scores with older definitions of spend_trend"), "{stderr}");
}

/// Two rows with the same lookup key would turn one event into two.
#[test]
fn a_duplicate_lookup_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["shoes-01", "bags-02", "shoes-01"]));
    let rows = RecordBatch::try_from_iter([("product_id", keys)]).unwrap();
    write(&project.join("products.parquet"), &rows);
    let lookup = "[sources.events.lookups.products]\npath = \"products.parquet\"\nkey = \"product_id\"\non = \"product_id\"\n\n[writeback]";
    edit(&project, "c360.toml", "[writeback]", lookup);
    refused(
        &project,
        &["run"],
        3,
        &["products.parquet: column product_id: shoes-01 occurs more than once"],
    );
}

/// A number that is not finite is refused in every place that a mapping takes it from.
#[test]
fn a_lookup_number_that_is_not_finite_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let events = concat(&read(&project.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    let products = events.column_by_name("product_id").unwrap().as_string::<i32>().clone();
    let names: std::collections::BTreeSet<&str> = products.iter().flatten().collect();
    let weights = |bad: f64| -> ArrayRef {
        let weights = (0..names.len()).map(|i| if i == 0 { bad } else { 2.0 });
        Arc::new(Float64Array::from_iter_values(weights))
    };
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(names.iter()));
    let lookup = "columns = { quantity = \"products.weight\" }\n\n[sources.events.lookups.products]\npath = \"products.parquet\"\nkey = \"product_id\"\non = \"product_id\"\n\n[writeback]";
    edit(&project, "c360.toml", "[writeback]", lookup);
    let view = "name = \"weights\"\nsource = \"events\"\ndescription = \"w\"\n\n[[feature]]\nname = \"weight\"\nop = \"sum\"\ninput = \"quantity\"\nwindows = [\"lifetime\"]\n";
    std::fs::write(project.join("features/weights.toml"), view).unwrap();
    for bad in [f64::NAN, f64::INFINITY] {
        let columns = [("product_id", keys.clone()), ("weight", weights(bad))];
        write(&project.join("products.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
        refused(
            &project,
            &["features", "build"],
            3,
            &["events cannot be used (a number is not finite:"],
        );
    }
    let columns = [("product_id", keys.clone()), ("weight", weights(2.0))];
    write(&project.join("products.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 0, "{stderr}");
}

/// A champion whose file is missing is not usable: `score` reports it, and `run` trains again.
#[test]
fn a_missing_artifact_is_trained_again() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["train"]).2, 0);
    std::fs::remove_dir_all(project.join("store/models/rfm")).unwrap();
    assert_ne!(output(&project, &["score"]).2, 0);
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("used for"), "{stdout}");
}

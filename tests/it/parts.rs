//! Lifetime value, engagement and taste as they are written: what a score is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type};

use crate::cli::output;
use crate::support::{edit, project};
use crate::written::table;

/// A project without classifiers, which take long and which this is not about.
fn small(folder: &Path) -> PathBuf {
    let project = project(folder);
    for name in ["churn", "propensity", "segments"] {
        std::fs::remove_file(project.join(format!("models/{name}.toml"))).unwrap();
    }
    project
}

fn ran(project: &Path, arguments: &[&str]) {
    let (_, stderr, code) = output(project, arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
}

/// By customer the score of a model with its parts.
fn parts(
    project: &Path,
    date: &str,
    model: &str,
) -> BTreeMap<String, (f64, BTreeMap<String, f64>)> {
    let rows = table(project, &format!("scores/as_of={date}"));
    let text = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
    let (keys, models) = (text("customer360_id"), text("model"));
    let score = rows.column_by_name("score").unwrap().as_primitive::<Float64Type>().clone();
    let lists = rows.column_by_name("parts").unwrap().as_list::<i32>().clone();
    let own = (0..rows.num_rows()).filter(|row| models.value(*row) == model);
    own.map(|row| {
        let list = lists.value(row);
        let (names, values) = (list.as_struct().column(0), list.as_struct().column(1));
        let named = names.as_string::<i32>().iter().flatten().map(str::to_owned);
        let values = values.as_primitive::<Float64Type>().values().to_vec();
        (keys.value(row).to_owned(), (score.value(row), named.zip(values).collect()))
    })
    .collect()
}

#[test]
fn lifetime_value_is_what_came_and_what_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    ran(&project, &["run"]);
    let profile = table(&project, "profile/as_of=2024-07-01");
    let money = |name: &str| {
        let column = profile.column_by_name(name).unwrap().as_primitive::<Decimal128Type>().clone();
        (0..column.len()).map(|row| column.value(row) as f64 / 100.0).collect::<Vec<_>>()
    };
    let (value, revenue, refunds) =
        (money("lifetime_value"), money("total_revenue"), money("refunds_amount"));
    let keys = profile.column(0).as_string::<i32>();
    let scores = parts(&project, "2024-07-01", "lifetime_value");
    let (mut alive, mut expected) = (0, 0.0);
    for (row, key) in keys.iter().flatten().enumerate() {
        let (score, parts) = &scores[key];
        assert!((score - value[row]).abs() <= 0.005 + 1e-9, "{key}: {score} {}", value[row]);
        assert!((parts["historic"] - (revenue[row] - refunds[row])).abs() < 1e-6, "{key}");
        let Some(predicted) = parts.get("predicted") else {
            // Never bought: nothing came, and nothing is known of what may come.
            assert_eq!((*score, revenue[row], parts.len()), (0.0, 0.0, 1), "{key}");
            continue;
        };
        assert!((parts["historic"] + predicted - score).abs() < 1e-9, "{key}");
        // Refunds and the discount only take off.
        let most = parts["expected_purchases"] * parts["expected_spend"];
        assert!(*predicted >= 0.0 && *predicted <= most, "{key}: {predicted} of {most}");
        assert!((0.0..=1.0).contains(&parts["p_alive"]), "{key}");
        alive += usize::from(parts["p_alive"] > 0.5);
        expected += predicted;
    }
    assert!(alive > 100 && expected > 10_000.0, "{alive} {expected}");
}

/// With too few who bought again, means of customers of the same age stand in, and it is said.
#[test]
fn too_few_repeat_buyers_are_expected_to_do_what_others_did() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    edit(&project, "models/lifetime_value.toml", "method =", "minimum_repeaters = 5000\nmethod =");
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("fewer than 5000: means of customers of the same age"), "{stdout}");
    let scores = parts(&project, "2024-07-01", "lifetime_value");
    let bought = scores.values().filter(|(_, parts)| parts.contains_key("predicted"));
    let mut predicted: Vec<f64> = bought
        .map(|(_, parts)| {
            assert!(!parts.contains_key("p_alive"), "nothing says who is alive: {parts:?}");
            parts["predicted"]
        })
        .collect();
    predicted.sort_by(f64::total_cmp);
    predicted.dedup();
    // One mean for each class of age.
    assert!((2..=5).contains(&predicted.len()), "{predicted:?}");
}

/// The trend is the score less the one that the same version gives 28 days before.
#[test]
fn the_trend_of_engagement_is_the_difference_of_two_scores() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    let known = ["--known-at", "2024-07-01"];
    ran(&project, &[&["run", "--as-of", "2024-06-03"], &known[..]].concat());
    ran(&project, &[&["score", "--as-of", "2024-07-01"], &known[..]].concat());
    let before = parts(&project, "2024-06-03", "engagement");
    let now = parts(&project, "2024-07-01", "engagement");
    let mut moved = 0;
    for (key, (score, parts)) in &now {
        let earlier = before.get(key).map_or(0.0, |(score, _)| *score);
        assert!((parts["trend_28d"] - (score - earlier)).abs() < 1e-9, "{key}");
        moved += usize::from(parts["trend_28d"].abs() > 1.0);
    }
    assert!(moved > 100, "{moved}");
}

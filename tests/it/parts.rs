//! Tests of lifetime value, engagement and affinity as they are written: the parts of a score.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};

use crate::cli::output;
use crate::support::{edit, live, live_text, project, root, write};
use crate::written::table;

/// A project without classifiers, which take long and are not the subject of these tests.
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

/// The score of a model and its parts, by customer.
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
            // A customer who never bought has no revenue, and nothing is expected.
            assert_eq!((*score, revenue[row], parts.len()), (0.0, 0.0, 1), "{key}");
            continue;
        };
        assert!((parts["historic"] + predicted - score).abs() < 1e-9, "{key}");
        // Refunds and the discount only reduce the prediction.
        let most = parts["expected_purchases"] * parts["expected_spend"];
        assert!(*predicted >= 0.0 && *predicted <= most, "{key}: {predicted} of {most}");
        assert!((0.0..=1.0).contains(&parts["p_alive"]), "{key}");
        alive += usize::from(parts["p_alive"] > 0.5);
        expected += predicted;
    }
    assert!(alive > 100 && expected > 10_000.0, "{alive} {expected}");
}

/// Interests are categories, whatever the items are.
#[test]
fn interests_are_categories() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    ran(&project, &["run"]);
    let interests = || {
        let profile = table(&project, "profile/as_of=2024-07-01");
        let lists = profile.column_by_name("interests").unwrap().as_list::<i32>().clone();
        let one = |row: usize| {
            lists.value(row).as_string::<i32>().iter().flatten().map(str::to_owned).collect()
        };
        (0..lists.len()).map(one).collect::<Vec<Vec<String>>>()
    };
    let before = interests();
    edit(&project, "models/affinity.toml", "item = \"category\"", "item = \"product_id\"");
    ran(&project, &["train"]);
    ran(&project, &["score"]);
    assert_eq!(before, interests());
    assert!(before.iter().filter(|list| !list.is_empty()).count() > 1000);
}

/// With too few repeat buyers, means of customers with the same tenure replace the fit, and the report says so. They
/// rank customers worse than a repetition of the past, so that the gate keeps them out of use.
#[test]
fn too_few_repeat_buyers_are_expected_to_do_what_others_did() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    edit(&project, "models/lifetime_value.toml", "method =", "minimum_repeaters = 5000\nmethod =");
    let (stdout, stderr, code) = output(&project, &["train"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(
        stdout.contains("fewer than 5000: means of customers with the same tenure"),
        "{stdout}"
    );
    assert!(
        stdout.contains(": means of customers with the same tenure over 1,768 buyers"),
        "{stdout}"
    );
    // The means are from the time before the holdout, so that they do not match it exactly.
    assert!(!stdout.contains("(+0.0 %)"), "{stdout}");
    assert!(stdout.contains("was kept, not put in use"), "{stdout}");
    assert!(root(&project)["champions"].get("lifetime_value").is_none());
    let version = root(&project)["trained"]["lifetime_value"][0].as_str().unwrap().to_owned();
    ran(&project, &["models", "promote", "lifetime_value", &version]);
    ran(&project, &["score"]);
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
    // There is one mean for each class of age.
    assert!((2..=5).contains(&predicted.len()), "{predicted:?}");
}

/// The trend is the score minus the score of the same version 28 days before.
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

/// The recommended items by customer, the best first, each with its row in the table.
fn recommended(rows: &RecordBatch) -> BTreeMap<String, Vec<(String, usize)>> {
    let text = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
    let (keys, items) = (text("customer360_id"), text("item"));
    let mut recommended: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let item = (items.value(row).to_owned(), row);
        recommended.entry(keys.value(row).to_owned()).or_default().push(item);
    }
    recommended
}

/// The offer is read when customers are scored, from a table of items and by a predicate.
#[test]
fn an_offer_is_read_at_every_scoring() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    let by_factors = "repeat = false\nblend = { factors = 1, own = 0, similar = 0, popular = 0 }";
    edit(&project, "models/affinity.toml", "repeat = true", by_factors);
    ran(&project, &["run"]);
    let rows = table(&project, "recommendations/as_of=2024-07-01");
    let first = recommended(&rows);
    let version = root(&project)["champions"]["affinity"].clone();
    let all: std::collections::BTreeSet<&String> =
        first.values().flatten().map(|(item, _)| item).collect();
    assert!(all.len() > 5, "{all:?}");

    // A reason names an item that the customer has, and a percentile is between 0 and 100.
    let text = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
    let (reasons, because) = (text("reason"), text("because"));
    let percentiles = rows.column_by_name("percentile").unwrap().as_primitive::<Float64Type>();
    let mut of_affinity = 0;
    for (key, items) in &first {
        for (item, row) in items {
            if reasons.value(*row) == "affinity" {
                of_affinity += 1;
                assert!(percentiles.is_valid(*row), "{key} {item}");
                assert!((0.0..=100.0).contains(&percentiles.value(*row)));
                assert_ne!(because.value(*row), item, "{key}");
                // The item that supports a recommendation is the customer's own, and so it is not recommended
                // itself.
                assert!(items.iter().all(|(other, _)| other != because.value(*row)), "{key}");
            }
        }
    }
    assert!(of_affinity > 500, "{of_affinity}");

    let items: Vec<&str> = all.iter().map(|item| item.as_str()).collect();
    let stock: Vec<i64> = (0..items.len() as i64).map(|i| i % 4).collect();
    let shelf: Vec<&str> = (0..items.len()).map(|i| if i < 5 { "low" } else { "high" }).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("name", Arc::new(StringArray::from(items.clone()))),
        ("stock", Arc::new(Int64Array::from(stock.clone()))),
        ("shelf", Arc::new(StringArray::from(shelf.clone()))),
    ];
    write(&project.join("items.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    edit(
        &project,
        "models/affinity.toml",
        "where = \"customers >= 20\"",
        "items = \"items.parquet\"\nkey = \"name\"\ncategory = \"shelf\"\nmost_per_category = 2\nwhere = \"stock > 0 and item <> 'books'\"",
    );
    ran(&project, &["score"]);
    assert_eq!(root(&project)["champions"]["affinity"], version, "nothing was trained");
    assert!(output(&project, &["score"]).0.starts_with("nothing to do"));
    let then = recommended(&table(&project, "recommendations/as_of=2024-07-01"));
    // Two customers already have every item that is left.
    assert!(then.len() + 5 > first.len(), "{} of {}", then.len(), first.len());
    let place = |item: &String| items.iter().position(|known| known == item).unwrap();
    for (key, list) in &then {
        assert!(list.iter().all(|(item, _)| stock[place(item)] > 0 && item != "books"), "{key}");
        for of in ["low", "high"] {
            assert!(list.iter().filter(|(item, _)| shelf[place(item)] == of).count() <= 2, "{key}");
        }
    }
    // Another table is another input.
    let columns: [(&str, ArrayRef); 3] = [
        ("name", Arc::new(StringArray::from(items.clone()))),
        ("stock", Arc::new(Int64Array::from(vec![0; items.len()]))),
        ("shelf", Arc::new(StringArray::from(shelf.clone()))),
    ];
    write(&project.join("items.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    ran(&project, &["score"]);
    let files = root(&project)["files"].as_object().unwrap().clone();
    let own = files.keys().find(|path| path.starts_with("recommendations/")).unwrap();
    let rows = c360_ml::store::parquet::read(&live(&project, own), None).unwrap();
    assert!(rows.iter().all(|rows| rows.num_rows() == 0), "nothing is in stock");
    std::fs::copy(project.join("items.parquet"), project.join("store/items.parquet")).unwrap();
    for (from, to, message) in [
        ("stock > 0", "stok > 0", "did you mean `stock`"),
        ("key = \"name\"", "key = \"nam\"", "unknown column `nam`"),
        (
            "most_per_category = 2",
            "most_per_category = 0",
            "needs both category and most_per_category above 0",
        ),
        ("items = \"items.parquet\"", "items = \"none.parquet\"", "there is no file or folder"),
        (
            "items = \"items.parquet\"",
            "items = \"store/items.parquet\"",
            "items of an affinity model",
        ),
    ] {
        edit(&project, "models/affinity.toml", from, to);
        let (_, stderr, code) = output(&project, &["score"]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
        edit(&project, "models/affinity.toml", to, from);
    }
}

/// The percentile within an item is the share of customers whose score of the item is lower.
#[test]
fn a_recommendation_has_a_percentile_within_its_item() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    edit(&project, "models/affinity.toml", "top = 5", "top = 100");
    ran(&project, &["run"]);
    let rows = table(&project, "recommendations/as_of=2024-07-01");
    let number =
        |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Float64Type>().clone();
    let (scores, percentiles) = (number("score"), number("percentile"));
    let items = rows.column_by_name("item").unwrap().as_string::<i32>().clone();
    let mut by_item: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for row in (0..rows.num_rows()).filter(|row| percentiles.is_valid(*row)) {
        let pair = (scores.value(row), percentiles.value(row));
        by_item.entry(items.value(row)).or_default().push(pair);
    }
    assert!(by_item.len() > 5, "{:?}", by_item.keys());
    for (item, pairs) in &by_item {
        for (score, percentile) in pairs.iter().step_by(97) {
            let share = |at: &dyn Fn(f64) -> bool| {
                100.0 * pairs.iter().filter(|(other, _)| at(*other)).count() as f64
                    / pairs.len() as f64
            };
            let (below, up_to) = (share(&|other| other < *score), share(&|other| other <= *score));
            // The quantiles at each twentieth are stored, and the curve between them is linear.
            let near = below - 5.0..=up_to + 5.0;
            assert!(near.contains(percentile), "{item} {score}: {percentile}, {below} to {up_to}");
        }
    }
}

/// A retrained version is aligned to the previous version. Training again gives the same result.
#[test]
fn vectors_of_different_weeks_compare() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    ran(&project, &["run", "--as-of", "2024-06-03", "--known-at", "2024-07-01"]);
    edit(&project, "models/affinity.toml", "seed = 7", "seed = 8");
    ran(&project, &["train", "--known-at", "2024-07-01"]);
    ran(&project, &["score", "--known-at", "2024-07-01"]);
    let version = root(&project)["champions"]["affinity"].as_str().unwrap().to_owned();
    let metrics = live_text(&project, &format!("models/affinity/{version}/metrics.json"));
    let metrics: serde_json::Value = serde_json::from_str(&metrics).unwrap();
    assert!(metrics["aligned"][0].as_str().unwrap().starts_with("2024-06-03-"), "{metrics}");
    let near = |name: &str| metrics["aligned"][1][name].as_f64().unwrap();
    assert!(near("before") < 0.6 && near("after") > 0.9, "{metrics}");

    let vectors = |date: &str| {
        let profile = table(&project, &format!("profile/as_of={date}"));
        let lists =
            profile.column_by_name("recommendation_vector").unwrap().as_list::<i32>().clone();
        let keys = profile.column(0).as_string::<i32>().clone();
        let one = |row: usize| lists.value(row).as_primitive::<Float32Type>().values().to_vec();
        let all = (0..lists.len()).map(|row| (keys.value(row).to_owned(), one(row)));
        all.collect::<BTreeMap<String, Vec<f32>>>()
    };
    let (before, now) = (vectors("2024-06-03"), vectors("2024-07-01"));
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let cosines: Vec<f32> = before
        .iter()
        .map(|(key, a)| (a, &now[key]))
        .map(|(a, b)| product(a, b) / (product(a, a) * product(b, b)).sqrt())
        .filter(|cosine| cosine.is_finite())
        .collect();
    let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
    assert!(mean > 0.8, "customers stay where they were: {mean} over {}", cosines.len());

    ran(&project, &["train", "--known-at", "2024-07-01"]);
    assert_eq!(root(&project)["champions"]["affinity"], version.as_str());
}

/// Each cohort with enough repeat buyers has its own fit, which scores its customers.
#[test]
fn cohorts_are_fitted_apart() {
    let folder = tempfile::tempdir().unwrap();
    let project = small(folder.path());
    ran(&project, &["run"]);
    let of_all = parts(&project, "2024-07-01", "lifetime_value");
    edit(
        &project,
        "models/lifetime_value.toml",
        "method =",
        "cohort = \"first_channel\"\nminimum_repeaters = 50\nmethod =",
    );
    let (stdout, stderr, code) = output(&project, &["train"]);
    assert_eq!(code, 0, "{stderr}");
    ran(&project, &["score"]);
    let version = root(&project)["champions"]["lifetime_value"].as_str().unwrap().to_owned();
    let metrics = live_text(&project, &format!("models/lifetime_value/{version}/metrics.json"));
    let metrics: serde_json::Value = serde_json::from_str(&metrics).unwrap();
    let fits = metrics["purchasing"].as_array().unwrap();
    let cohorts: Vec<&str> = fits.iter().filter_map(|fit| fit["cohort"].as_str()).collect();
    assert!(fits[0]["cohort"].is_null() && cohorts.len() >= 2, "{stdout}");
    let first = |fit: &serde_json::Value| fit["fit"]["parameters"][0].as_f64().unwrap();
    assert!(fits[1..].iter().all(|fit| first(fit) != first(&fits[0])), "{fits:?}");
    let bought = |fit: &serde_json::Value| fit["customers"].as_u64().unwrap();
    assert!(fits[1..].iter().map(bought).sum::<u64>() <= bought(&fits[0]));
    let apart = parts(&project, "2024-07-01", "lifetime_value");
    let moved = apart.iter().filter(|(key, (score, _))| (score - of_all[*key].0).abs() > 0.01);
    assert!(moved.count() > 500);
}

//! End-to-end tests of classifiers: their specs, their gates and the stored versions.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use c360_ml::artifact::{Artifact, Trained};
use c360_ml::time::Duration;
use c360_ml::training::metrics::ClassifierMetrics;

use crate::cli::output;
use crate::support::{EVENTS_FILE, edit, is_published, live_text, project, rewrite, root};
use crate::written::table;

/// What the spec of churn says of costs.
const EVALUATION: &str = "[evaluation]\nbenefit = 40.0\ncost = 16.0\n";

fn version(project: &std::path::Path, name: &str) -> Option<String> {
    root(project)["champions"][name].as_str().map(str::to_owned)
}

fn read<T: serde::de::DeserializeOwned>(project: &std::path::Path, path: &str) -> T {
    serde_json::from_str(&live_text(project, &format!("models/{path}"))).unwrap()
}

/// Training twice from the same inputs gives the same bytes, even if there is a champion.
#[test]
fn training_again_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let train = |as_of: &str| assert_eq!(output(&project, &["train", "--as-of", as_of]).2, 0);
    train("2024-06-01");
    edit(&project, "models/churn.toml", "fit = { ", "promotion = { tolerance = 1.0 }\nfit = { ");
    train("2024-07-01");
    let files = || {
        let root = root(&project);
        let files = root["files"].as_object().unwrap().clone();
        let models = files.into_iter().filter(|(path, _)| path.starts_with("models/"));
        models.collect::<Vec<_>>()
    };
    let before = files();
    train("2024-07-01");
    assert_eq!(files(), before);
    // Later scores do not change the files of a version either.
    assert_eq!(output(&project, &["score"]).2, 0);
    train("2024-07-01");
    assert_eq!(files(), before);
    let churn = version(&project, "churn").unwrap();
    let metrics: ClassifierMetrics = read(&project, &format!("churn/{churn}/metrics.json"));
    let names: Vec<&str> = metrics.baselines.iter().map(|b| b.name.as_str()).collect();
    assert!(names[2].starts_with("2024-06-01-"), "compared with the one before: {names:?}");
}

/// A version that is worse than the champion is stored but not promoted, and `train` ends with exit code 4.
/// The other models are promoted.
#[test]
fn a_failed_gate_keeps_the_champion() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["train", "--as-of", "2024-06-01"]).2, 0);
    let champion = version(&project, "churn");
    // A model with only recency and a constant can hardly rank as well as a model with all inputs.
    let only = "inputs = { views = [\"support\"], ";
    edit(&project, "models/churn.toml", "inputs = { ", only);
    let (stdout, stderr, code) = output(&project, &["train"]);
    assert_eq!(code, 4, "{stdout}{stderr}");
    assert!(stdout.contains("was kept, not put in use, and 2024-06-01-"), "{stdout}");
    assert!(stdout.contains("gate, not met: average precision"), "{stdout}");
    assert_eq!(version(&project, "churn"), champion);
    assert!(version(&project, "propensity").unwrap().starts_with("2024-07-01-"));
    let trained = root(&project)["trained"]["churn"].as_array().unwrap().len();
    assert_eq!(trained, 2, "the version is there to be looked at and promoted by hand");
}

/// The report names the inputs whose windows reach before the first event, at each snapshot where they do.
#[test]
fn truncated_windows_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["train"]).2, 0);
    let folder = format!("churn/{}", version(&project, "churn").unwrap());
    let metrics: ClassifierMetrics = read(&project, &format!("{folder}/metrics.json"));
    let artifact: serde_json::Value = read(&project, &format!("{folder}/model.json"));
    let truncation = metrics.truncation.unwrap();
    let inputs = artifact["model"]["classifier"]["preprocessing"]["inputs"].as_array().unwrap();
    let inputs = inputs.iter().map(|input| input["column"].as_str().unwrap());
    let days = |name: &str| name.rsplit_once('_')?.1.strip_suffix('d')?.parse::<i64>().ok();
    let windows: Vec<(&str, i64)> = inputs.filter_map(|name| Some((name, days(name)?))).collect();
    let mut found = 0;
    for funnel in &metrics.funnel {
        let at = truncation.snapshots.iter().find(|snapshot| snapshot.as_of == funnel.as_of);
        for (name, days) in &windows {
            let reaches = funnel.as_of.minus(Duration::days(*days)) < truncation.first;
            let is_named = at.is_some_and(|at| at.inputs.iter().any(|input| input == name));
            assert_eq!(is_named, reaches, "{name} at {}", funnel.as_of);
            found += usize::from(reaches);
        }
    }
    assert!(found > 0, "no window of the fixtures reaches before the first event");
    let page = project.join("store/models").join(folder).join("report.html");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("reach before the first event"), "the report does not say so");
}

/// A classifier that lacks data is named with what it lacks. The others are trained and put in use, and `train` ends
/// with exit code 4. If nothing can be trained, nothing is written.
#[test]
fn a_classifier_with_too_few_data_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    for (lacks, setting) in [
        ("and needs 5000 of each", "fit = { minimum_class = 5000, "),
        ("needs 1191 days of events", "snapshots = { lookback = \"900d\" }\nfit = { "),
    ] {
        let before = std::fs::read_to_string(project.join("models/churn.toml")).unwrap();
        edit(&project, "models/churn.toml", "fit = { ", setting);
        let (stdout, stderr, code) = output(&project, &["train"]);
        assert_eq!(code, 4, "{stderr}");
        assert!(stdout.contains("churn was not trained: the model churn "), "{stdout}");
        assert!(stdout.contains(lacks), "{stdout}");
        assert!(version(&project, "churn").is_none());
        for trained in ["propensity", "rfm", "lifetime_value", "affinity"] {
            assert!(version(&project, trained).is_some(), "{trained}: {stdout}");
        }
        std::fs::write(project.join("models/churn.toml"), before).unwrap();
        std::fs::remove_dir_all(project.join("store")).unwrap();
    }
    for model in ["propensity", "engagement", "rfm", "lifetime_value", "affinity", "segments"] {
        std::fs::remove_file(project.join(format!("models/{model}.toml"))).unwrap();
    }
    edit(&project, "models/churn.toml", "fit = { ", "fit = { minimum_class = 5000, ");
    let (_, stderr, code) = output(&project, &["train"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("needs 5000 of each"), "{stderr}");
    assert!(!is_published(&project));
}

/// If the only version fails its gate, `run` ends with exit code 4 and scores no customer. The version can be
/// promoted by hand.
#[test]
fn without_a_champion_a_failed_gate_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    // The tickets of a month, which few customers have, do not rank customers as recency does.
    let only = "inputs = { views = [\"support\"], exclude = [\"days_since_last_support\", \
        \"support_contacts_90d\", \"support_contacts_365d\", \"support_tickets\", \
        \"tickets_90d\", \"tickets_365d\"], ";
    edit(&project, "models/churn.toml", "inputs = { ", only);
    let (_, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("no version is in use: average precision"), "{stderr}");
    assert!(stderr.contains("models promote"), "{stderr}");
    assert!(root(&project)["profile"].is_null());
    let version = root(&project)["trained"]["churn"][0].as_str().unwrap().to_owned();
    assert_eq!(output(&project, &["models", "promote", "churn", &version]).2, 0);
    assert_eq!(output(&project, &["score"]).2, 0);
    // The version is not replaced and grows old. Scoring half a year later reports its age, and the lack of
    // orders breaks an expectation.
    let (stdout, stderr, code) = output(&project, &["score", "--as-of", "2025-01-01"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stdout.contains("orders_30d  max_psi 0.25 against previous"), "{stdout}");
    assert!(stderr.contains("days ago, more than 90; train again"), "{stderr}");
}

/// Reports need no network, have the data and the text alternative of every chart, and can be rendered again.
#[test]
fn reports_stand_alone() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["run", "--as-of", "2024-06-01"]).2, 0);
    assert_eq!(output(&project, &["run"]).2, 0);
    let (stdout, ..) = output(&project, &["explain", "c360_0000195", "--as-of", "2024-06-01"]);
    assert!(stdout.starts_with("c360_0000195 as of 2024-06-01T00:00:00Z"), "{stdout}");
    let (_, stderr, code) = output(&project, &["explain", "c360_0000195", "--as-of", "2024-05-01"]);
    assert_eq!(code, 4);
    assert!(stderr.contains("was not scored") && stderr.contains("2024-06-01"), "{stderr}");
    let model = format!("models/churn/{}", version(&project, "churn").unwrap());
    let run = "runs/000003-score";
    let page = |path: &str| std::fs::read_to_string(project.join("store").join(path)).unwrap();
    for (path, charts) in [(&*model, 17), (run, 9)] {
        let own = page(&format!("{path}/report.html"));
        // The only reference is to the plotting library, a file of the store.
        let (_, source) = own.split_once("data-src=\"").unwrap();
        let (library, _) = source.split_once('"').unwrap();
        assert!(page(&format!("{path}/{library}")).contains("Plotly"), "{library}");
        let own = own.replacen(&format!("src=\"{library}\""), "", 1);
        for outside in ["http://", "https://", "src=\"", "@import"] {
            assert!(!own.contains(outside), "{path} refers to {outside}");
        }
        assert!(own.len() < 1_500_000, "{path} has {} bytes", own.len());
        let found = own.matches("role=\"img\" aria-label=\"").count();
        assert!(found >= charts, "{path}: {found} charts");
        assert_eq!(own.matches("-data\">{").count(), found, "each has its data");
        assert!(!own.contains("NaN") && !own.contains("inf,"), "{path}");
    }
    let before = page(&format!("{model}/report.html"));
    for text in [
        "Recommended: reach customers from a probability of 0.400 on.",
        "Where segments cut",
        "The customer data team",
        "It is trained on simulated customers",
    ] {
        assert!(before.contains(text), "{text}");
    }
    // The page for marketers describes every segment and has no statistics.
    let segments = page(&format!("{run}/segments.html"));
    let rules = std::fs::read_to_string(project.join("models/segments.toml")).unwrap();
    let rules: toml::Table = rules.parse().unwrap();
    for rule in rules["segment"].as_array().unwrap() {
        let name = rule["name"].as_str().unwrap();
        assert!(segments.contains(&format!("<h3>{name}</h3>")), "{name}");
    }
    for statistic in ["AUC", "PSI", "interval", "logit", "NaN"] {
        assert!(!segments.contains(statistic), "{statistic}");
    }
    // The profile says beside the risk how it was found, as the scores do.
    let profile = table(&project, "profile/as_of=2024-07-01");
    let scores = table(&project, "scores/as_of=2024-07-01");
    let text = |rows: &RecordBatch, name: &str| {
        rows.column_by_name(name).unwrap().as_string::<i32>().clone()
    };
    let churn: Vec<String> = text(&scores, "model")
        .iter()
        .zip(&text(&scores, "basis"))
        .filter(|(model, _)| *model == Some("churn"))
        .map(|(_, basis)| basis.unwrap().to_owned())
        .collect();
    let basis: Vec<String> =
        text(&profile, "churn_basis").iter().map(|basis| basis.unwrap().to_owned()).collect();
    assert_eq!(basis, churn);
    assert!(["model", "lapsed"].iter().all(|name| basis.iter().any(|basis| basis == name)));
    let (stdout, stderr, code) = output(&project, &["report"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("reports.html") && stdout.contains("churn, in use"), "{stdout}");
    assert!(page(&format!("{model}/report.html")) == before, "the same numbers give the same file");
    let index = page("reports.html");
    assert!(index.contains(&format!("href=\"{model}/report.html\"")));
    assert!(index.contains("href=\"runs/000003-score/report.html\""));
    assert_eq!(output(&project, &["report", "--self-contained"]).2, 0);
    let alone = page(&format!("{model}/report.html"));
    assert!(
        !alone.contains("assets/plotly-") && alone.contains("Plotly.newPlot"),
        "it has the library"
    );
}

/// A version that predicts another label replaces the champion only by hand, and past scores are compared
/// with the label that they predicted. A retrained version that was promoted by hand stays the champion.
#[test]
fn another_label_does_not_slip_into_use() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["run", "--as-of", "2024-03-01"]).2, 0);
    let champion = version(&project, "churn").unwrap();
    edit(&project, "models/churn.toml", "horizon = \"90d\"", "horizon = \"60d\"");
    let (stdout, _, code) = output(&project, &["train"]);
    assert_eq!(code, 4, "{stdout}");
    assert!(stdout.contains(&format!("the same label as {champion}, which is in use")), "{stdout}");
    assert_eq!(version(&project, "churn").as_ref(), Some(&champion));
    let trained = root(&project)["trained"]["churn"].clone();
    let new = trained.as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
    let metrics: ClassifierMetrics = read(&project, &format!("churn/{new}/metrics.json"));
    assert_eq!(metrics.matured, [], "what was scored predicted something else");
    assert_eq!(output(&project, &["models", "promote", "churn", &new]).2, 0);
    edit(&project, "models/churn.toml", "fit = { ", "promotion = { tolerance = 0.0 }\nfit = { ");
    output(&project, &["train"]);
    let root = root(&project);
    let in_use = root["champions"]["churn"].as_str().unwrap();
    let held = root["held_back"]["churn"].as_array().cloned().unwrap_or_default();
    assert!(!held.iter().any(|held| held == in_use), "{root:#}");
}

/// Outcomes beyond the last event are not mistaken for silence.
#[test]
fn outcomes_after_the_last_event_are_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let (_, stderr, code) = output(&project, &["train", "--as-of", "2024-07-20"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("the events end at 2024-06-30T"), "{stderr}");
    assert!(
        stderr.contains("hint: load the missing events, or train at an as-of up to 2024-06-30")
    );
    assert!(!is_published(&project), "something was written");
}

/// If a limit on the rows leaves too few rows of a class, the error says so and names the setting.
#[test]
fn a_sample_without_enough_of_a_class_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let file = "models/propensity.toml";
    edit(&project, file, "and amount > 0", "and amount > 100");
    edit(&project, file, "fit = { ", "fit = { max_rows = 1000, minimum_class = 20, ");
    let (_, stderr, code) = output(&project, &["train"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("the model propensity has 19 rows with y = 1"), "{stderr}");
    assert!(stderr.contains("hint: raise fit.max_rows"), "{stderr}");
}

/// Two versions are compared, paired if they were tested on the same rows.
#[test]
fn versions_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let train = |as_of: &str| {
        let (stdout, ..) = output(&project, &["train", "--as-of", as_of, "--format", "json"]);
        let trained: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        trained["versions"]["churn"].as_str().unwrap().to_owned()
    };
    let (june, july) = (train("2024-06-01"), train("2024-07-01"));
    edit(&project, "models/churn.toml", "fit = { ", "fit = { l2 = [500.0], ");
    let again = train("2024-07-01");
    let compare = |a: &str, b: &str| output(&project, &["models", "compare", "churn", a, b]);
    let (stdout, stderr, code) = compare(&july, &again);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("on the 790 rows that both were tested on"), "{stdout}");
    let (stdout, _, code) = compare(&july, &june);
    assert_eq!(code, 0);
    assert!(stdout.contains("not paired: "), "{stdout}");
    assert_eq!(compare(&july, "nothing").2, 2);
    // With another eligibility, both columns use the rows that both versions have, so that they differ by the
    // difference shown.
    edit(&project, "models/churn.toml", "within = \"auto\"", "within = \"45d\"");
    let narrow = train("2024-07-01");
    let arguments = ["models", "compare", "churn", &july, &narrow, "--format", "json"];
    let compared: serde_json::Value =
        serde_json::from_str(&output(&project, &arguments).0).unwrap();
    let metrics = &compared["metrics"];
    assert!(metrics[0]["rows"].as_u64().unwrap() < 790, "{compared}");
    assert_eq!(metrics[0]["rows"], metrics[1]["rows"]);
    for metric in ["roc_auc", "average_precision", "brier"] {
        let [ours, theirs] = [0, 1].map(|i| metrics[i][metric].as_f64().unwrap());
        let told = compared["paired"][metric]["difference"].as_f64().unwrap();
        assert!((ours - theirs - told).abs() < 1e-12, "{metric}: {compared}");
    }
    assert_eq!(output(&project, &["models", "compare", "rfm", &july, &july]).2, 2);
}

/// Trains, scores and explains boosted trees, class weights, an isotonic curve, bins, an interaction and an
/// attribute with levels.
#[test]
fn every_kind_of_spec_scores() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let inputs = "inputs = { attributes = [\"country\", \"language\"], \
        interactions = [[\"orders_90d\", \"total_sessions\"]], \
        shapes = { orders_90d = \"bins\", days_since_last_purchase = \"spline\" }, ";
    edit(&project, "models/churn.toml", "inputs = { ", inputs);
    edit(&project, "models/churn.toml", EVALUATION, "");
    let more = "calibration = { method = \"isotonic\" }\n\
        evaluation = { benefit = 20.0, cost = 2.0, slices = [\"country\", \"gender\"] }\n\
        fit = { class_weight = \"balanced\", ";
    edit(&project, "models/churn.toml", "fit = { ", more);
    edit(&project, "models/propensity.toml", "fit = { ", "algorithm = \"gbdt\"\nfit = { ");
    let (stdout, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let load = |name: &str| -> (Artifact, ClassifierMetrics) {
        let folder = format!("{name}/{}", version(&project, name).unwrap());
        (
            read(&project, &format!("{folder}/model.json")),
            read(&project, &format!("{folder}/metrics.json")),
        )
    };
    let (churn, metrics) = load("churn");
    let Trained::Classifier(churn) = churn.model else { panic!("churn is a classifier") };
    for term in ["country = DE", "evidence of orders_90d", "orders_90d x total_sessions"] {
        assert!(churn.terms.iter().any(|found| found == term), "{term}: {:?}", churn.terms);
    }
    assert!(churn.shipped.calibration.describe().starts_with("isotonic"));
    // Balanced class weights give each class a half of the weight, and the calibration corrects for it.
    let observed = metrics.test.metrics.positives as f64 / metrics.test.metrics.rows as f64;
    assert!((metrics.test.metrics.mean_predicted - observed).abs() < 0.06, "{observed}");
    assert!(metrics.test.thresholds.iter().any(|row| row.probability == 0.1));
    assert!(metrics.test.thresholds.iter().all(|row| row.value.is_some()));
    for by in ["country", "gender", "tenure", "last channel", "value over a year"] {
        assert!(metrics.slices.iter().any(|slice| slice.by == by), "{by}");
    }
    let (propensity, metrics) = load("propensity");
    let Trained::Classifier(propensity) = propensity.model else { panic!("a classifier") };
    assert!(propensity.configuration.describe().contains(" trees of "));
    assert!(metrics.coefficients.is_empty() && !metrics.importance.is_empty());
    // Both scores are explained step by step by the versions that computed them.
    let (stdout, _, code) = output(&project, &["explain", "c360_0000122", "--format", "json"]);
    assert_eq!(code, 0);
    let explained: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    for row in explained["scores"].as_array().unwrap() {
        let Some(waterfall) = explained["waterfalls"].get(row["model"].as_str().unwrap()) else {
            continue;
        };
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let steps = waterfall["steps"].as_array().unwrap();
        let sum: f64 = steps.iter().map(|step| number(&step["contribution"])).sum();
        assert!((number(&waterfall["base"]) + sum - number(&row["raw"])).abs() < 1e-9, "{row}");
        assert!((number(&waterfall["probability"]) - number(&row["score"])).abs() < 1e-9, "{row}");
        for (reason, step) in row["reasons"].as_array().unwrap().iter().zip(steps) {
            assert_eq!(reason["feature"], step["feature"], "{row}");
            let difference = number(&reason["contribution"]) - number(&step["contribution"]);
            assert!(difference.abs() < 1e-9, "{row}");
        }
    }
    assert_eq!(explained["waterfalls"].as_object().unwrap().len(), 2);
    let (stdout, _, _) = output(&project, &["explain", "c360_0000122"]);
    assert!(stdout.contains("mean of the training rows, probability 0."), "{stdout}");
    assert!(!stdout.contains("have changed"), "{stdout}");
    // If events have been removed since, the sum differs and the explanation says so.
    rewrite(&project, EVENTS_FILE, |rows| rows.slice(0, rows.num_rows() / 2));
    let (stdout, _, _) = output(&project, &["explain", "c360_0000122"]);
    assert!(stdout.contains("have changed since they were scored"), "{stdout}");
}

/// Only versions of classifiers can be exported as ONNX. An existing file is replaced as a whole.
#[test]
fn versions_are_exported() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["train"]).2, 0);
    let out = folder.path().join("churn.onnx");
    let out = out.to_str().unwrap();
    let (stdout, stderr, code) = output(&project, &["export", "onnx", "churn", "--out", out]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("outputs: logit, probability (double)"), "{stdout}");
    let graph = std::fs::read(out).unwrap();
    let (_, _, code) = output(&project, &["export", "onnx", "churn", "--out", out]);
    assert_eq!((code, std::fs::read(out).unwrap()), (0, graph), "the same bytes again");
    let nowhere = folder.path().join("no/such/folder.onnx");
    for (arguments, expected, message) in [
        (["onnx", "engagement", "--out", out], 2, "engagement is not a classifier"),
        (["onnx", "churm", "--out", out], 2, "did you mean `churn`"),
        (["onnx", "churn", "--out", nowhere.to_str().unwrap()], 1, "no/such/folder.onnx"),
        (["mlflow", "churn", "--tracking-uri", "runs"], 2, "`runs` is no address"),
        // No server listens on the port of the discard service.
        (
            ["mlflow", "churn", "--tracking-uri", "http://u:s3cret@127.0.0.1:9"],
            1,
            "//127.0.0.1:9: ",
        ),
    ] {
        let (_, stderr, code) = output(&project, &[&["export"], &arguments[..]].concat());
        assert_eq!(code, expected, "{stderr}");
        assert!(stderr.contains(message) && stderr.contains("hint: "), "{stderr}");
        assert!(!stderr.contains("s3cret"), "a password is told: {stderr}");
    }
}

/// Errors about a spec name the fault and a remedy.
#[test]
fn specs_of_inputs_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    edit(&project, "models/churn.toml", EVALUATION, "");
    let path = project.join("models/churn.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, message) in [
        ("inputs = { ", "inputs = { attributes = [\"gender\"], ", "gender is sensitive"),
        (
            "inputs = { ",
            "inputs = { attributes = [\"loyalty_tier\"], ",
            "changes with customer behaviour",
        ),
        ("inputs = { ", "inputs = { attributes = [\"countri\"], ", "did you mean `country`"),
        (
            "inputs = { ",
            "inputs = { attributes = [\"consent_scopes\"], ",
            "changes with customer behaviour",
        ),
        (
            "inputs = { ",
            "inputs = { shapes = { orders_9d = \"bins\" }, ",
            "did you mean `orders_7d`",
        ),
        ("inputs = { ", "inputs = { interactions = [[\"orders_90d\", \"nobody\"]], ", "nobody"),
        ("fit = { ", "evaluation = { benefit = 3.0 }\nfit = { ", "needs both benefit and cost"),
        ("fit = { ", "evaluation = { slices = [\"consent_scopes\"] }\nfit = { ", "consent_scopes"),
        (
            "fit = { ",
            "fit = { class_weight = { positive = 0.0 }, ",
            "positive = 0.0, but it must be above 0",
        ),
        ("fit = { ", "fit = { leaves = [1], ", "fit.leaves = [1], but it must be a list"),
        (
            "fit = { ",
            "fit = { minimum_class = 1, ",
            "fit.minimum_class = 1, but it must be at least 10",
        ),
        ("fit = { ", "fit = { max_rows = 1, ", "fit.max_rows = 1, but it must be at least 1000"),
        (
            "inputs = { ",
            "inputs = { interactions = [[\"orders_90d\", \"orders_30d\"], [\"orders_30d\", \"orders_90d\"]], ",
            "orders_30d x orders_90d occurs more than once",
        ),
    ] {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let (_, stderr, code) = output(&project, &["train"]);
        assert_eq!(code, 2, "{to}: {stderr}");
        assert!(stderr.contains(message) && stderr.contains("churn.toml"), "{to}: {stderr}");
        assert!(stderr.contains("hint: "), "{to}: {stderr}");
    }
}

/// The inputs at scoring time are compared with the present events of the same day. They are equal as long as
/// nothing is rewritten, and a difference is named.
#[test]
fn skew_between_scoring_and_training_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let metrics = || -> ClassifierMetrics {
        let churn = version(&project, "churn").unwrap();
        read(&project, &format!("churn/{churn}/metrics.json"))
    };
    assert_eq!(output(&project, &["run", "--as-of", "2024-06-01"]).2, 0);
    assert_eq!(metrics().skew, None, "nobody had been scored");
    let accept = "promotion = { tolerance = 1.0 }\nfit = { ";
    edit(&project, "models/churn.toml", "fit = { ", accept);
    edit(&project, "models/propensity.toml", "fit = { ", accept);
    assert_eq!(output(&project, &["train", "--as-of", "2024-06-15"]).2, 0);
    let skew = metrics().skew.unwrap();
    assert_eq!(skew.scored.to_string(), "2024-06-01T00:00:00Z");
    assert!(skew.compared > 80 && skew.customers > 1500, "{skew:?}");
    assert_eq!(skew.inputs, []);
    rewrite(&project, EVENTS_FILE, |rows| {
        let kept: Vec<u32> = (0..rows.num_rows() as u32).filter(|row| row % 10 > 0).collect();
        c360_ml::store::parquet::take(&rows, &kept.into()).unwrap()
    });
    let (stdout, stderr, code) = output(&project, &["train", "--as-of", "2024-06-16"]);
    assert!(code == 0 || code == 4, "{stdout}{stderr}");
    let trained = root(&project)["trained"]["churn"].clone();
    let last = trained.as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
    let metrics: ClassifierMetrics = read(&project, &format!("churn/{last}/metrics.json"));
    let skew = metrics.skew.unwrap();
    let interactions = skew.inputs.iter().find(|i| i.column == "total_interactions").unwrap();
    assert!(interactions.share > 0.5 && interactions.served > interactions.now, "{skew:?}");
    let report = project.join(format!("store/models/churn/{last}/report.html"));
    let report = std::fs::read_to_string(report).unwrap();
    assert!(report.contains("training sees what scoring could not know"));
}

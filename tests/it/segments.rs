//! Tests of segments as they are written, and of the commands `c360-ml segments`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use rand::seq::SliceRandom;
use serde_json::Value;

use crate::cli::{data_files, output};
use crate::support::{EVENTS_FILE, PROFILE_FILE, edit, live_text, project, random, rewrite};
use crate::written::table;

fn ran(project: &Path, arguments: &[&str]) -> String {
    let (stdout, stderr, code) = output(project, arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    stdout
}

fn json(project: &Path, arguments: &[&str]) -> Value {
    let all = [arguments, &["--format", "json"]].concat();
    serde_json::from_str(&ran(project, &all)).unwrap()
}

fn texts(rows: &RecordBatch, name: &str) -> Vec<String> {
    let column = rows.column_by_name(name).unwrap().as_string::<i32>();
    column.iter().map(|text| text.unwrap_or_default().to_owned()).collect()
}

/// The members of each segment.
fn members(project: &Path, date: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows = table(project, &format!("segments/as_of={date}"));
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (key, segment) in texts(&rows, "customer360_id").into_iter().zip(texts(&rows, "segment")) {
        assert!(members.entry(segment).or_default().insert(key));
    }
    members
}

/// The next run with other thresholds gives what their simulation predicted, and the unchanged rules give
/// what was published.
#[test]
fn a_dry_run_tells_what_would_come() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    ran(&project, &["run", "--as-of", "2024-06-24", "--known-at", "2024-07-01"]);
    ran(&project, &["score", "--known-at", "2024-07-01"]);
    let before = data_files(&project);
    assert_eq!(json(&project, &["segments", "simulate"])["moved"], 0);
    let tested = json(&project, &["segments", "test"]);
    assert_eq!(tested["moved"], 0);
    assert_eq!(tested["faults"], serde_json::json!([]));
    assert_eq!(tested["conditions"][0]["segment"], "high_value");
    let overlaps = tested["overlaps"].as_array().unwrap();
    let of = members(&project, "2024-07-01");
    for overlap in overlaps {
        let [a, b] = ["segment", "other"].map(|name| &of[overlap[name].as_str().unwrap()]);
        assert_eq!(overlap["both"], a.intersection(b).count(), "{overlap}");
    }

    let foretold = json(&project, &["segments", "simulate", "--set", "churn_high=0.7"]);
    assert!(foretold["moved"].as_u64().unwrap() > 5, "{foretold}");
    assert_eq!(data_files(&project), before, "nothing is written");
    edit(&project, "models/segments.toml", "churn_high = 0.6 ", "churn_high = 0.7 ");
    assert_eq!(json(&project, &["segments", "test"])["faults"], serde_json::json!([]));
    // Edited rules can be simulated as well.
    assert_eq!(json(&project, &["segments", "simulate"])["flows"], foretold["flows"]);
    ran(&project, &["score", "--known-at", "2024-07-01"]);
    let of = members(&project, "2024-07-01");
    for segment in foretold["segments"].as_array().unwrap() {
        let found = of.get(segment["segment"].as_str().unwrap()).map_or(0, BTreeSet::len);
        assert_eq!(segment["members"][1], found, "{segment}");
    }
    let (_, stderr, code) = output(&project, &["segments", "simulate", "--set", "churn_low=0.2"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("unknown threshold `churn_low`"), "{stderr}");

    // This example expects a segment that the rules do not give.
    edit(&project, "models/segments.toml", "primary = \"Prospect\"", "primary = \"New\"");
    let (stdout, _, code) = output(&project, &["segments", "test"]);
    assert_eq!(code, 3, "{stdout}");
    assert!(stdout.contains("primary is \"Prospect\", not \"New\""), "{stdout}");
}

/// A file for a campaign has the members who may be contacted, with their scores and without names.
#[test]
fn members_are_exported_who_have_not_opted_out() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    ran(&project, &["run"]);
    let rows = table(&project, "segments/as_of=2024-07-01");
    let opted_out = rows.column_by_name("opted_out").unwrap().as_boolean().clone();
    let (keys, names) = (texts(&rows, "customer360_id"), texts(&rows, "segment"));
    let of_segment = (0..keys.len()).filter(|row| names[*row] == "high_value");
    let expected: BTreeSet<String> =
        of_segment.filter(|row| !opted_out.value(*row)).map(|row| keys[row].clone()).collect();
    let all = members(&project, "2024-07-01")["high_value"].len();
    assert!(expected.len() < all, "some members have opted out");
    let found = json(&project, &["segments", "export", "high_value", "--out", "members.csv"]);
    assert_eq!(found["members"], expected.len());
    assert_eq!(found["left_out"], all - expected.len());
    let csv = std::fs::read_to_string(project.join("members.csv")).unwrap();
    let mut lines = csv.lines();
    assert_eq!(
        lines.next().unwrap(),
        "customer360_id,segment,is_primary,since,previous_primary,preferred_channel,lifetime_value,churn_risk_score,\
         propensity_to_buy_score,engagement_score"
    );
    let written: BTreeSet<String> =
        lines.map(|line| line.split(',').next().unwrap().to_owned()).collect();
    assert_eq!(written, expected);
    ran(&project, &["segments", "export", "high_value", "--out", "members.parquet"]);
    let rows = c360_ml::store::parquet::read(&project.join("members.parquet"), None).unwrap();
    let read: BTreeSet<String> =
        rows.iter().flat_map(|rows| texts(rows, "customer360_id")).collect();
    assert_eq!(read, expected);
    // Who has a list of scopes without email is left out of an e-mail campaign.
    let with = ["segments", "export", "high_value", "--out", "mail.csv", "--consent", "email"];
    assert!(json(&project, &with)["members"].as_u64().unwrap() <= expected.len() as u64);
    for (arguments, message) in [
        (["segments", "export", "nobody", "--out", "nobody.csv"], "unknown segment `nobody`"),
        (["segments", "export", "high_value", "--out", "nobody.txt"], "ends with .csv or .parquet"),
    ] {
        let (_, stderr, code) = output(&project, &arguments);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
        assert!(!project.join(arguments[4]).exists());
    }
}

/// The changes lead from the segments of one run to those of the next. An expired membership does not begin
/// again, and a customer who does not want to be contacted is flagged and is in no segment that needs
/// consent.
#[test]
fn nights_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let nights = ["2024-07-01", "2024-07-08", "2024-07-30", "2024-07-31", "2024-08-01"];
    // There are no events beyond the first of these as-ofs, and the expectation would find that.
    edit(&project, "features/commerce.toml", "max_psi = 0.25", "max_psi = 99");
    ran(&project, &["run"]);
    let mut before = BTreeMap::new();
    let mut expired = BTreeSet::new();
    for night in nights {
        ran(&project, &["score", "--as-of", night]);
        let now = members(&project, night);
        let changes = table(&project, &format!("segment_changes/as_of={night}"));
        let [keys, segments, kinds, reasons] =
            ["customer360_id", "segment", "change", "reason"].map(|name| texts(&changes, name));
        let mut told = before.clone();
        for row in 0..changes.num_rows() {
            let of: &mut BTreeSet<String> = told.entry(segments[row].clone()).or_default();
            let (key, name) = (keys[row].clone(), &segments[row]);
            let changed = match kinds[row].as_str() {
                "entered" => of.insert(key),
                _ => of.remove(&key),
            };
            assert!(changed, "{night}: {} {} {name}", keys[row], kinds[row]);
            if reasons[row] == "expired" {
                assert_eq!((name.as_str(), night), ("win_back_by_email", "2024-07-31"));
                expired.insert(keys[row].clone());
            }
        }
        told.retain(|_, members| !members.is_empty());
        assert_eq!(told, now, "{night}");
        before = now;
    }
    assert!(expired.len() > 10, "{expired:?}");
    assert!(before.get("win_back_by_email").is_none_or(|in_it| in_it.is_disjoint(&expired)));

    let profile = table(&project, "profile/as_of=2024-08-01");
    let status: BTreeMap<String, String> = texts(&profile, "customer360_id")
        .into_iter()
        .zip(texts(&profile, "opt_in_status"))
        .collect();
    for name in ["segments", "scores", "recommendations"] {
        let rows = table(&project, &format!("{name}/as_of=2024-08-01"));
        let flags = rows.column_by_name("opted_out").unwrap().as_boolean().clone();
        assert!((1..rows.num_rows()).contains(&flags.true_count()), "{name}");
        for (row, key) in texts(&rows, "customer360_id").iter().enumerate() {
            assert_eq!(flags.value(row), status[key] == "opted_out", "{name} {key}");
        }
    }
    let first = members(&project, "2024-07-01");
    assert!(first["win_back_by_email"].iter().all(|key| status[key] == "opted_in"));

    let key = expired.first().unwrap();
    let told = ran(&project, &["segments", "history", key]);
    assert!(told.contains("left     win_back_by_email"), "{told}");
    assert!(told.contains("expired"), "{told}");
    let (_, stderr, code) = output(&project, &["segments", "history", "nobody"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("no run has put nobody in a segment"), "{stderr}");
}

/// A customer who is removed from the profile leaves every segment, and a customer who returns enters them.
#[test]
fn customers_who_are_gone_have_left() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    ran(&project, &["run"]);
    let before = members(&project, "2024-07-01");
    let whole = std::fs::read(project.join(PROFILE_FILE)).unwrap();
    rewrite(&project, PROFILE_FILE, |rows: RecordBatch| rows.slice(50, rows.num_rows() - 50));
    ran(&project, &["score", "--as-of", "2024-07-02"]);
    let all = |members: &BTreeMap<String, BTreeSet<String>>| -> BTreeSet<String> {
        members.values().flatten().cloned().collect()
    };
    let there = all(&members(&project, "2024-07-02"));
    let gone: BTreeSet<String> = all(&before).difference(&there).cloned().collect();
    assert_eq!(gone.len(), 50);
    let changes = table(&project, "segment_changes/as_of=2024-07-02");
    let [keys, segments, reasons] =
        ["customer360_id", "segment", "reason"].map(|name| texts(&changes, name));
    let left: BTreeSet<(String, String)> = (0..changes.num_rows())
        .filter(|row| reasons[*row] == "gone")
        .map(|row| (segments[row].clone(), keys[row].clone()))
        .collect();
    let pairs = before.iter().flat_map(|(name, of)| of.iter().map(move |key| (name, key)));
    let had = pairs.filter(|(_, key)| gone.contains(*key));
    assert_eq!(left, had.map(|(name, key)| (name.clone(), key.clone())).collect());
    assert!(keys.is_sorted(), "sorted by customer");
    let run = live_text(&project, "runs/000003-score/metrics.json");
    let run: Value = serde_json::from_str(&run).unwrap();
    let flows = run["flows"].as_array().unwrap().iter().filter(|flow| flow["to"] == "gone");
    assert_eq!(flows.map(|flow| flow["customers"].as_u64().unwrap()).sum::<u64>(), 50);

    std::fs::write(project.join(PROFILE_FILE), whole).unwrap();
    ran(&project, &["score", "--as-of", "2024-07-03"]);
    let told = ran(&project, &["segments", "history", gone.first().unwrap()]);
    assert!(told.contains("gone") && told.contains("2024-07-02T00:00:00Z"), "{told}");
}

/// Rules over features alone need no model.
#[test]
fn rules_need_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    for entry in std::fs::read_dir(project.join("models")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let rules = "otherwise = \"others\"\n[thresholds]\nmany = 5\n[[segment]]\nname = \"often\"\nenter = \"orders_count >= many\"\nprimary = true\n[[segment]]\nname = \"often and lately\"\nenter = \"often and orders_30d > 0\"\n";
    std::fs::write(project.join("models/segments.toml"), rules).unwrap();
    ran(&project, &["score"]);
    let of = members(&project, "2024-07-01");
    let (often, lately) = (&of["often"], &of["often and lately"]);
    assert!(!lately.is_empty() && lately.len() < often.len() && lately.is_subset(often));
    assert!(ran(&project, &["segments", "list"]).contains("often and orders_30d > 0"));
    assert_eq!(json(&project, &["segments", "test"])["moved"], 0);
    assert!(
        json(&project, &["segments", "simulate", "--set", "many=9"])["moved"].as_u64() > Some(9)
    );
    let (_, stderr, code) = output(&project, &["segments", "list", "--as-of", "2024-06-01"]);
    assert_eq!(code, 4, "{stderr}");
}

#[test]
fn rules_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let path = project.join("models/segments.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let rule = "\n[[segment]]\nname = \"x\"\n";
    let cases: [(&str, &str); 10] = [
        ("enter = \"x\"", "unknown column `x`"),
        (
            "enter = \"orders_30d > 3 and orders_30d < 2\"",
            "\"x\" can have no members: no customer can",
        ),
        (
            "primary = true\nenter = \"high_value and churn_risk_score > 0.9\"",
            "\"x\" can be nobody's primary segment",
        ),
        (
            "group = \"value and state\"\nenter = \"high_value and churn_risk_score > 0.9\"",
            "\"x\" can have no members: \"High value – at risk\"",
        ),
        (
            "enter = \"orders_30d > 3\"\nexpires = \"7d\"\nmin_dwell = \"8d\"",
            "expires after 7d, before its min_dwell",
        ),
        (
            "enter = \"orders_30d > 3\"\nexpires = \"0d\"",
            "expires = 0d, but it must be longer than 0",
        ),
        (
            "enter = \"orders_30d > 3\"\nrequires_consent = [\"\"]",
            "must be a list of different names",
        ),
        (
            "enter = \"orders_30d > 3\"\n[[example]]\ngiven = {}",
            "does not say which segments it expects",
        ),
        (
            "enter = \"orders_30d > 3\"\n[[example]]\nprimary = \"x\"\ngiven = { orders_30d = \"a\" }",
            "orders_30d = Text(\"a\") is not a integer",
        ),
        (
            "enter = \"orders_30d > 3\"\n[[example]]\ngiven = {}\nprimary = \"y\"",
            "unknown segment `y`",
        ),
    ];
    for (more, message) in cases {
        // Examples come last in the file, and rules come before them.
        std::fs::write(
            &path,
            text.replace("# What the rules must give", &format!("{rule}{more}\n# What")),
        )
        .unwrap();
        let (_, stderr, code) = output(&project, &["segments", "list"]);
        assert_eq!(code, 2, "{more}: {stderr}");
        assert!(stderr.contains(message), "{more}: {stderr}");
    }
    for (from, to, message) in [
        ("name = \"high_value\"", "name = \"orders_30d\"", "has the name of a feature, score"),
        ("churn_high = 0.6 ", "churn_high = \"high\" ", "but it must be a number"),
        ("[thresholds]", "[thresholds]\nunused = 1", "no rule uses the threshold unused"),
        ("[thresholds]", "[thresholds]\norders_30d = 1", "has the name of a feature or score"),
        ("churn_high = 0.6 ", "churn_high = nan ", "thresholds.churn_high = NaN"),
    ] {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let (_, stderr, code) = output(&project, &["segments", "list"]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    }
}

/// Rows in another order are the same rows, so that no published byte changes.
#[test]
fn the_order_of_rows_changes_no_byte() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [plain, shuffled] = folders.each_ref().map(|folder| project(folder.path()));
    for file in [EVENTS_FILE, PROFILE_FILE] {
        rewrite(&shuffled, file, |rows: RecordBatch| {
            let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
            order.shuffle(&mut random());
            c360_ml::store::parquet::take(&rows, &order.into()).unwrap()
        });
    }
    for project in [&plain, &shuffled] {
        ran(project, &["run"]);
        ran(project, &["score", "--as-of", "2024-07-03"]);
    }
    let files = data_files(&plain);
    assert!(files.iter().any(|(folder, _)| folder.starts_with("segments/")));
    assert_eq!(files, data_files(&shuffled));
}

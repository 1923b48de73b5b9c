//! The consent policy: who is scored, and who is only stored.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::cli::output;
use crate::support::{PROFILE_FILE, edit, project, rewrite, without_column};

/// The scores that a profile has.
const SCORES: [&str; 5] = [
    "churn_risk_score",
    "propensity_to_buy_score",
    "engagement_score",
    "rfm_score",
    "lifetime_value",
];

/// The rows of a table by customer, those of one customer in their order.
fn rows(project: &Path, table: &str, at: &str) -> BTreeMap<String, Vec<Map<String, Value>>> {
    let arguments = ["show", table, "--as-of", at, "--head", "1000000", "--format", "json"];
    let (stdout, stderr, code) = output(project, &arguments);
    assert_eq!(code, 0, "{stderr}");
    let rows: Vec<Map<String, Value>> = serde_json::from_str(&stdout).unwrap();
    let mut by_key: BTreeMap<String, Vec<Map<String, Value>>> = BTreeMap::new();
    for row in rows {
        let key = row["customer360_id"].as_str().unwrap().to_owned();
        by_key.entry(key).or_default().push(row);
    }
    by_key
}

fn add(project: &Path, policy: &str) {
    edit(project, "c360.toml", "[sources.profile]", &format!("{policy}\n[sources.profile]"));
}

/// Whom the policy allows to be scored, as a reader of its documentation would decide.
fn is_scored(policy: &str, row: &Map<String, Value>) -> bool {
    let status = row["opt_in_status"].as_str();
    match policy.contains("not_opted_out") {
        true => status != Some("opted_out"),
        false => {
            let scopes = row["consent_scopes"].as_array();
            let listed = scopes.map(|scopes| scopes.contains(&json!("sms")));
            status != Some("opted_out") && listed.unwrap_or(status == Some("opted_in"))
        }
    }
}

/// Who may not be scored has no score, vector, recommendation or segment; the scores of all others are those that they
/// have without a policy.
#[test]
fn who_has_not_consented_is_only_stored() {
    let place = tempfile::tempdir().unwrap();
    let project = project(place.path());
    assert_eq!(output(&project, &["run"]).2, 0);
    let before = rows(&project, "profile", "2024-07-01");
    for (policy, night) in [
        ("[consent]\nscored = \"not_opted_out\"\n", "2024-07-02"),
        ("[consent]\nscored = \"consented\"\nscope = \"sms\"\n", "2024-07-03"),
    ] {
        let (_, stderr, code) = output(&project, &["score", "--as-of", night]);
        assert_eq!(code, 0, "{stderr}");
        let everyone = rows(&project, "profile", night);
        let everyones_segments = rows(&project, "segments", night);
        let settings = std::fs::read_to_string(project.join("c360.toml")).unwrap();
        add(&project, policy);
        let (_, stderr, code) = output(&project, &["score", "--as-of", night]);
        assert_eq!(code, 0, "{stderr}");
        let profile = rows(&project, "profile", night);
        let (scores, items) =
            (rows(&project, "scores", night), rows(&project, "recommendations", night));
        let changes = rows(&project, "segment_changes", night);
        let mut counts = [0; 3];
        assert_eq!(profile.len(), before.len());
        for (key, row) in &profile {
            let (row, full) = (&row[0], &everyone[key][0]);
            if is_scored(policy, row) {
                counts[0] += 1;
                for field in SCORES.into_iter().chain(["recommendation_vector", "total_revenue"]) {
                    assert_eq!(row.get(field), full.get(field), "{key} {field}");
                }
                continue;
            }
            counts[1] += 1;
            for field in SCORES.into_iter().filter(|field| row.contains_key(*field)) {
                assert_eq!(row[field], Value::Null, "{key} {field}");
            }
            assert_eq!(row["churn_basis"], json!("none"), "{key}");
            assert_eq!(row["recommendation_vector"], json!([]), "{key}");
            assert_eq!(row["primary_segment"], json!("Prospect"), "{key}");
            assert_eq!(row["segments"], json!(["Prospect"]), "{key}");
            assert_eq!(row["total_revenue"], full["total_revenue"], "{key}");
            assert!(!items.contains_key(key), "{key} has recommendations");
            for score in &scores[key] {
                assert_eq!(score["basis"], json!("none"), "{key}");
                assert!(
                    score["percentile"].is_null() && score["score"].is_null(),
                    "{key}: {score:?}"
                );
            }
            // Who was in a segment the night before has left it for want of consent.
            let was = everyones_segments[key].iter().any(|row| row["segment"] != "Prospect");
            let left = changes.get(key).into_iter().flatten();
            let for_consent = left.filter(|change| change["reason"] == "consent").count();
            counts[2] += usize::from(was && for_consent > 0);
        }
        assert!(counts.iter().all(|count| *count > 50), "{policy}: {counts:?}");
        let only_stored = profile.iter().find(|(_, row)| !is_scored(policy, &row[0])).unwrap().0;
        let (stdout, stderr, code) = output(&project, &["explain", only_stored, "--as-of", night]);
        assert_eq!(code, 0, "{stderr}");
        assert!(
            stdout.contains("the consent that [consent] in c360.toml asks for is missing"),
            "{stdout}"
        );
        // The next night begins with the segments of everyone again.
        std::fs::write(project.join("c360.toml"), settings).unwrap();
        assert_eq!(output(&project, &["score", "--as-of", night]).2, 0);
    }
}

#[test]
fn a_policy_that_cannot_be_followed_is_refused() {
    for (policy, column, says) in [
        ("[consent]\nscored = \"consented\"\n", None, "scope"),
        ("[consent]\nscored = \"consented\"\nscope = \" \"\n", None, "scope"),
        ("[consent]\nscope = \"email\"\n", None, "scope"),
        ("[consent]\nscored = \"some\"\n", None, "not_opted_out"),
        ("[consent]\nscored = \"not_opted_out\"\n", Some("opt_in_status"), "opt_in_status"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let project = project(place.path());
        add(&project, policy);
        if let Some(column) = column {
            rewrite(&project, PROFILE_FILE, |rows| without_column(&rows, column));
        }
        let (_, stderr, code) = output(&project, &["run"]);
        assert_eq!(code, 2, "{policy}: {stderr}");
        assert!(stderr.contains("c360.toml") && stderr.contains(says), "{policy}: {stderr}");
        assert!(!project.join("store").exists(), "{policy}");
    }
}

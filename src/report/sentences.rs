//! Sentences that explain a score, a segment or a recommendation to its users.

use std::collections::BTreeMap;

use crate::features::audit::AuditRecord;
use crate::report::thousands;
use crate::time::Duration;

/// The greatest number of reasons that a sentence names.
const NAMED: usize = 2;

/// The kind of model that a score comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreKind {
    /// A probability of a classifier.
    Probability,
    /// The lifetime value.
    LifetimeValue,
    /// The engagement score.
    Engagement,
    /// The sum of the three RFM scores.
    Rfm,
}

/// One row of `scores/`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoreRow {
    /// The score in its own unit.
    pub score: Option<f64>,
    /// The percentile from 0 to 100 among the customers that the model is for.
    pub percentile: Option<f64>,
    /// The basis of the score: `model`, `lapsed` or `none`.
    pub basis: String,
    /// The named contributions, the greatest first.
    pub reasons: Vec<(String, f64)>,
    /// The named numbers that the score is computed from.
    pub parts: BTreeMap<String, f64>,
}

/// Explains a score of this kind.
pub fn sentence(kind: ScoreKind, row: &ScoreRow) -> String {
    let Some(score) = row.score else {
        let why = row.reasons.first().map_or("nothing is known", |(why, _)| why.as_str());
        return format!("No score: {why}.");
    };
    match kind {
        ScoreKind::Probability => probability(score, row),
        ScoreKind::LifetimeValue => lifetime_value(score, row),
        ScoreKind::Engagement => engagement(score, row),
        ScoreKind::Rfm => rfm(row),
    }
}

fn lifetime_value(score: f64, row: &ScoreRow) -> String {
    let part = |name: &str| row.parts.get(name).copied();
    let historic = part("historic").unwrap_or(score);
    let ahead = row.reasons.iter().find_map(|(name, _)| name.strip_prefix("expected within "));
    let (Some(predicted), Some(ahead)) = (part("predicted"), ahead) else {
        return match row.reasons.iter().any(|(_, value)| *value != 0.0) {
            true => format!("Worth {score:.2}: all of it is revenue to date."),
            false => "Has not bought anything yet.".to_owned(),
        };
    };
    let came = format!(
        "Worth {score:.2}: {historic:.2} is revenue to date, {predicted:.2} is expected within {ahead}"
    );
    match (part("p_alive"), part("expected_purchases"), part("expected_spend")) {
        (Some(alive), Some(purchases), Some(spend)) => format!(
            "{came}, with a chance of {:.0} % that they still buy, {purchases:.1} more purchases, at {spend:.2} each.",
            100.0 * alive
        ),
        _ => format!("{came}, as from customers of the same age."),
    }
}

fn engagement(score: f64, row: &ScoreRow) -> String {
    let part = |name: &str| row.parts.get(name).copied().unwrap_or_default();
    if score == 0.0 {
        return "Not engaged: no recent activity.".to_owned();
    }
    let trend = part("trend_28d");
    let moved = match trend {
        _ if trend.abs() < 0.05 => "as 28 days ago".to_owned(),
        _ if trend > 0.0 => format!("{trend:.1} more than 28 days ago"),
        _ => format!("{:.1} less than 28 days ago", -trend),
    };
    let channels = match 4.0 * part("channels") {
        channels if channels < 0.5 => String::new(),
        channels => format!(", on {channels:.0} channels"),
    };
    format!(
        "{score:.1} of 100, {moved}: more active than {:.0} % of the active, on {:.0} of the last 28 days{channels}.",
        100.0 * part("activity"),
        28.0 * part("active_days"),
    )
}

fn rfm(row: &ScoreRow) -> String {
    let of = |name: &str| row.reasons.iter().find(|(n, _)| n == name).map_or(0, |r| r.1 as u8);
    let scores = [of("recency"), of("frequency"), of("monetary")];
    let [recency, frequency, monetary] = scores;
    format!(
        "{}: recency {recency}, frequency {frequency} and monetary value {monetary}, each out of 5.",
        crate::models::rfm::segment(scores)
    )
}

fn probability(score: f64, row: &ScoreRow) -> String {
    let percent = format!("{:.1} %", 100.0 * score);
    if row.basis == "lapsed" {
        return format!(
            "{percent}: the observed rate among customers who were inactive for as long."
        );
    }
    let rank = row.percentile.map_or(String::new(), |percentile| {
        format!(", higher than for {percentile:.0} % of the eligible customers")
    });
    let by = |raises: bool| {
        let own = row.reasons.iter().filter(|(_, value)| (*value > 0.0) == raises && *value != 0.0);
        own.take(NAMED).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" and ")
    };
    let (up, down) = (by(true), by(false));
    match (up.is_empty(), down.is_empty()) {
        (false, false) => format!("{percent}{rank}: raised by {up}, lowered by {down}."),
        (false, true) => format!("{percent}{rank}: raised by {up}."),
        (true, false) => format!("{percent}{rank}: lowered by {down}."),
        (true, true) => format!("{percent}{rank}."),
    }
}

/// One row of `segments/` with the rule behind it.
#[derive(Debug, Clone, Default)]
pub struct Membership<'a> {
    /// The name of the segment.
    pub name: &'a str,
    /// The description of its rule.
    pub description: &'a str,
    /// Whether it is the segment of the customers that no primary rule holds for.
    pub otherwise: bool,
    /// The day on which the customer entered the segment.
    pub since: String,
    /// The reason for the membership: `enter`, `stay` or `dwell`.
    pub reason: &'a str,
    /// The minimum length of a membership.
    pub min_dwell: Option<Duration>,
    /// The columns that the rule uses, with the customer's values.
    pub values: Vec<(String, String)>,
}

/// Explains why a customer is in a segment.
pub fn membership(membership: &Membership) -> String {
    let Membership { name, since, .. } = membership;
    if membership.otherwise {
        return format!("{name}, since {since}: no other primary segment holds.");
    }
    let values = membership.values.iter();
    let values: Vec<String> =
        values.map(|(name, value)| named(&name.replace('_', " "), value)).collect();
    let values = values.join(" and ");
    let why = match (membership.reason, values.is_empty()) {
        ("dwell", _) => {
            let least = membership.min_dwell.map_or(String::new(), |d| format!(" of {d} at least"));
            format!("kept by the minimum dwell{least}, unless they buy")
        }
        (_, true) => "the rule held when they were scored".to_owned(),
        ("stay", _) => format!("still, as {values}"),
        _ => values,
    };
    match membership.description {
        "" => format!("{name}, since {since}: {why}."),
        description => format!("{name} ({description}), since {since}: {why}."),
    }
}

fn named(name: &str, value: &str) -> String {
    if value == "-" { format!("there is no {name}") } else { format!("{name} is {value}") }
}

/// Describes the affinity of a customer: the recommendation vector and the interests. Returns None if the
/// vector is empty, as in a project without an affinity model.
pub fn affinity(length: usize, interests: &[String], filled: bool) -> Option<String> {
    let vector = format!(
        "The affinity vector has {length} numbers, computed from the customer's interactions: near vectors mean similar affinity."
    );
    let listed = interests.join(", ");
    (length > 0).then(|| match (interests.is_empty(), filled) {
        (true, _) => vector,
        (_, true) => {
            format!("{vector} Interests are the categories with the highest affinity: {listed}.")
        }
        (_, false) => format!("{vector} Interests are those of the source: {listed}."),
    })
}

/// Explains why an item is recommended. Returns None for a reason that only another version of this program
/// knows.
pub fn recommendation(
    item: &str,
    reason: &str,
    because: Option<&str>,
    percentile: Option<f64>,
) -> Option<String> {
    let why = match (reason, because) {
        ("own", _) => "they choose it already".to_owned(),
        ("affinity", Some(own)) => format!("customers who choose {own}, as they do, choose it too"),
        ("popular", _) => "it is popular".to_owned(),
        _ => return None,
    };
    let rank = percentile.filter(|percentile| *percentile > 50.0);
    let rank = rank.map_or(String::new(), |percentile| {
        format!("; it suits them better than {percentile:.0} % of customers")
    });
    Some(format!("{item}: {why}{rank}."))
}

/// What an audit found.
pub fn of_audit(audit: &AuditRecord) -> Vec<String> {
    let values: u64 = audit.views.iter().map(|view| view.values).sum();
    let unlike: u64 = audit.views.iter().map(|view| view.unlike_reference).sum();
    let moved: u64 = audit.views.iter().map(|view| view.moved).sum();
    let values = thousands(values);
    let mut list = vec![
        match unlike {
            0 => format!(
                "The naive reference computes all {values} values as they are in the snapshots."
            ),
            count => format!(
                "The naive reference computes {} of {values} values otherwise.",
                thousands(count)
            ),
        },
        {
            let added = match audit.late {
                0 => format!("{} events from the as-of on", thousands(audit.future)),
                late => format!(
                    "{} events from the as-of on and {} that were ingested too late",
                    thousands(audit.future),
                    thousands(late)
                ),
            };
            match moved {
                0 => format!("{added} were added, and no value changed."),
                count => format!("{added} were added, and {} values changed.", thousands(count)),
            }
        },
        match audit.damaged {
            0 => format!(
                "All {} live files of {:.1} MB have the bytes that were written.",
                thousands(audit.files),
                audit.bytes as f64 / 1e6
            ),
            count => format!(
                "{} of {} live files are gone or damaged.",
                thousands(count),
                thousands(audit.files)
            ),
        },
    ];
    if audit.other_definitions > 0 {
        list.push(format!(
            "{} columns were left out, because the project defines them otherwise now.",
            thousands(audit.other_definitions)
        ));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(score: f64, basis: &str, reasons: &[(&str, f64)], parts: &[(&str, f64)]) -> ScoreRow {
        ScoreRow {
            score: Some(score),
            percentile: Some(86.2),
            basis: basis.into(),
            reasons: reasons.iter().map(|(name, value)| ((*name).into(), *value)).collect(),
            parts: parts.iter().map(|(name, value)| ((*name).into(), *value)).collect(),
        }
    }

    #[test]
    fn each_kind_of_score_has_a_sentence() {
        let churn = row(0.6838, "model", &[("silence", 0.5), ("visits", -0.1), ("gap", 0.08)], &[]);
        assert_eq!(
            sentence(ScoreKind::Probability, &churn),
            "68.4 %, higher than for 86 % of the eligible customers: raised by silence and gap, lowered by visits."
        );
        assert_eq!(
            sentence(ScoreKind::Probability, &row(0.9, "lapsed", &[("lapsed", 0.0)], &[])),
            "90.0 %: the observed rate among customers who were inactive for as long."
        );
        let none = ScoreRow { reasons: vec![("never bought".into(), 0.0)], ..ScoreRow::default() };
        assert_eq!(sentence(ScoreKind::Probability, &none), "No score: never bought.");
        let parts = [
            ("historic", 100.0),
            ("predicted", 20.0),
            ("p_alive", 0.5),
            ("expected_purchases", 1.25),
            ("expected_spend", 17.0),
        ];
        let reasons = [("revenue to date", 100.0), ("expected within 365d", 20.0)];
        assert_eq!(
            sentence(ScoreKind::LifetimeValue, &row(120.0, "model", &reasons, &parts)),
            "Worth 120.00: 100.00 is revenue to date, 20.00 is expected within 365d, with a chance of 50 % that they still buy, 1.2 more purchases, at 17.00 each."
        );
        assert_eq!(
            sentence(
                ScoreKind::LifetimeValue,
                &row(0.0, "model", &[("revenue to date", 0.0)], &[("historic", 0.0)])
            ),
            "Has not bought anything yet."
        );
        let parts =
            [("activity", 0.6), ("active_days", 0.25), ("channels", 0.5), ("trend_28d", -4.0)];
        assert_eq!(
            sentence(ScoreKind::Engagement, &row(47.5, "model", &[], &parts)),
            "47.5 of 100, 4.0 less than 28 days ago: more active than 60 % of the active, on 7 of the last 28 days, on 2 channels."
        );
        let rfm =
            row(14.0, "model", &[("recency", 4.0), ("frequency", 5.0), ("monetary", 5.0)], &[]);
        assert_eq!(
            sentence(ScoreKind::Rfm, &rfm),
            "Loyal: recency 4, frequency 5 and monetary value 5, each out of 5."
        );
    }

    #[test]
    fn each_membership_has_a_sentence() {
        let at_risk = Membership {
            name: "At risk",
            description: "call them",
            since: "2024-07-01".into(),
            reason: "enter",
            min_dwell: Some(Duration::days(14)),
            values: vec![("churn_risk_score".into(), "0.7".into()), ("value".into(), "90".into())],
            ..Membership::default()
        };
        let sentence_of =
            |reason: &'static str| membership(&Membership { reason, ..at_risk.clone() });
        assert_eq!(
            sentence_of("enter"),
            "At risk (call them), since 2024-07-01: churn risk score is 0.7 and value is 90."
        );
        assert_eq!(
            sentence_of("stay"),
            "At risk (call them), since 2024-07-01: still, as churn risk score is 0.7 and value is 90."
        );
        assert_eq!(
            sentence_of("dwell"),
            "At risk (call them), since 2024-07-01: kept by the minimum dwell of 14d at least, unless they buy."
        );
        let others = Membership { otherwise: true, description: "", ..at_risk.clone() };
        assert_eq!(
            membership(&others),
            "At risk, since 2024-07-01: no other primary segment holds."
        );
    }

    #[test]
    fn each_recommendation_has_a_sentence() {
        assert_eq!(
            recommendation("coats", "own", None, Some(93.4)).unwrap(),
            "coats: they choose it already; it suits them better than 93 % of customers."
        );
        assert_eq!(
            recommendation("coats", "affinity", Some("shirts"), None).unwrap(),
            "coats: customers who choose shirts, as they do, choose it too."
        );
        assert_eq!(
            recommendation("coats", "popular", None, None).unwrap(),
            "coats: it is popular."
        );
        assert_eq!(recommendation("coats", "new", None, None), None);
        let few = recommendation("coats", "own", None, Some(20.0)).unwrap();
        assert_eq!(few, "coats: they choose it already.", "no reason to recommend it");
        assert_eq!(named("churn risk score", "-"), "there is no churn risk score");
        let sentence_of = affinity(16, &["toys".to_owned()], true).unwrap();
        assert!(
            sentence_of.ends_with("the categories with the highest affinity: toys."),
            "{sentence_of}"
        );
        assert_eq!(affinity(0, &[], false), None);
    }
}

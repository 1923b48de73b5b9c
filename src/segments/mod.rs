//! Segments: ordered rules over features and scores, with hysteresis so that customers do not flicker between
//! segments.
//!
//! `spec` checks the rules and `reach` refuses those that no customer can meet. `assign` assigns customers to
//! segments, given their previous segments. `example` checks the rules against the expectations of their
//! author.

mod assign;
mod cuts;
mod example;
mod problem;
mod reach;
mod rule;
mod spec;
mod state;
mod trial;

pub use assign::{
    Assigned, Assignment, CustomerState, Left, Membership, PreviousState, RuleResults, assign,
};
pub use cuts::{Cut, cuts};
pub use example::{Example, ExampleSpec};
pub use problem::SegmentProblem;
pub use rule::{Rule, RuleSpec};
pub use spec::{Segments, SegmentsSpec, score_columns};
pub use state::States;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::check::check;
    use crate::expression::{Columns, Type};
    use crate::money::Scale;
    use crate::sources::consent::{Consent, ConsentPolicy};
    use crate::time::{DAY, Duration, Instant};
    use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
    use std::sync::Arc;

    /// Creates a rule with these conditions.
    pub fn rule(name: &str, enter: &str, stay: Option<&str>, columns: &Columns) -> Rule {
        let expression = |sql: &str| check(sql, columns, "test").unwrap();
        let spec = RuleSpec {
            name: name.into(),
            description: String::new(),
            enter: enter.into(),
            stay: stay.map(str::to_owned),
            min_dwell: None,
            expires: None,
            group: None,
            requires_consent: Vec::new(),
            primary: false,
        };
        let (enter, stay) = (expression(enter), expression(stay.unwrap_or(enter)));
        Rule { spec, enter, stay, version: "1".into() }
    }

    fn segments(change: impl Fn(&mut RuleSpec)) -> Segments {
        let columns = Columns::new(Scale::default(), [("score".to_owned(), Type::Double)]);
        let mut risky = rule("risky", "score >= 0.6", Some("score >= 0.5"), &columns);
        risky.spec.primary = true;
        change(&mut risky.spec);
        Segments { rules: vec![risky], otherwise: "calm".into(), ..Segments::default() }
    }

    /// The inputs of a run on one customer: the score, the day, the previous state, the last purchase and the
    /// opt-in status.
    struct Night {
        score: f64,
        day: i64,
        before: Option<PreviousState>,
        last_purchase: Option<i64>,
        status: &'static str,
    }

    impl Night {
        fn new(score: f64, day: i64) -> Self {
            Self { score, day, before: None, last_purchase: None, status: "opted_in" }
        }

        fn since(self, day: i64) -> Self {
            let state = ("risky".into(), ("1".into(), Instant(day * DAY)));
            let before = PreviousState {
                memberships: [state].into(),
                primary: Some("risky".into()),
                ..PreviousState::default()
            };
            Self { before: Some(before), ..self }
        }

        fn assign(self, segments: &Segments) -> Assigned {
            let column: ArrayRef = Arc::new(Float64Array::from(vec![self.score]));
            let rows = RecordBatch::try_from_iter([("score", column)]).unwrap();
            let status: ArrayRef = Arc::new(StringArray::from(vec![self.status]));
            let consent =
                Consent::of(&RecordBatch::try_from_iter([("opt_in_status", status)]).unwrap());
            let last_purchase = self.last_purchase.map(|day| Instant(day * DAY));
            let known = CustomerState {
                previous: &[self.before],
                last_purchase: &[last_purchase],
                consent: &consent,
                policy: &ConsentPolicy::default(),
            };
            let as_of = Instant(self.day * DAY);
            assign(segments, &rows, Scale::default(), as_of, known).unwrap().assigned.remove(0)
        }
    }

    #[test]
    fn hysteresis_keeps_who_is_between_the_thresholds() {
        let segments = segments(|_| ());
        assert_eq!(Night::new(0.55, 10).assign(&segments).primary, "calm");
        let stays = Night::new(0.55, 10).since(3).assign(&segments);
        assert_eq!(stays.primary, "risky");
        assert_eq!((stays.memberships[0].since.0, stays.memberships[0].reason), (3 * DAY, "stay"));
        assert_eq!(stays.entered().count(), 0);
        let left = Night::new(0.45, 10).since(3).assign(&segments);
        assert_eq!(left.primary, "calm");
        assert_eq!(
            left.left[0],
            Left { segment: "risky".into(), since: Instant(3 * DAY), reason: "rule" }
        );
        assert_eq!(left.entered().map(|m| m.segment.as_str()).collect::<Vec<_>>(), ["calm"]);
    }

    /// A `stay` that is narrower than `enter` removes no member that satisfies `enter`.
    #[test]
    fn who_might_come_in_stays() {
        let columns = Columns::new(Scale::default(), [("score".to_owned(), Type::Double)]);
        let mut segments = segments(|_| ());
        segments.rules = vec![rule("risky", "score >= 0.6", Some("score >= 0.9"), &columns)];
        let stays = Night::new(0.7, 10).since(3).assign(&segments);
        assert_eq!((stays.memberships[0].since.0, stays.memberships[0].reason), (3 * DAY, "stay"));
    }

    #[test]
    fn dwell_holds_until_its_end_or_a_purchase() {
        let segments = segments(|spec| spec.min_dwell = Some(Duration::days(14)));
        let kept = Night::new(0.1, 10).since(0).assign(&segments);
        assert_eq!(kept.memberships[0].reason, "dwell");
        // A purchase after the entry ends the dwell, in whichever run.
        let bought = |day: i64| {
            let night = Night { last_purchase: Some(day), ..Night::new(0.1, 10).since(2) };
            night.assign(&segments)
        };
        for day in [2, 9] {
            let bought = bought(day);
            assert_eq!((bought.primary.as_str(), bought.left[0].reason), ("calm", "purchase"));
        }
        assert_eq!(bought(1).primary, "risky");
        let over = Night::new(0.1, 14).since(0).assign(&segments);
        assert_eq!(
            (over.primary.as_str(), over.left[0].reason),
            ("calm", "rule"),
            "14 days are over"
        );
    }

    #[test]
    fn a_changed_rule_starts_from_enter() {
        let mut segments = segments(|spec| spec.min_dwell = Some(Duration::days(14)));
        segments.rules[0].version = "2".into();
        let left = Night::new(0.55, 10).since(3).assign(&segments);
        assert_eq!((left.primary.as_str(), left.left[0].reason), ("calm", "changed"));
        let again = Night::new(0.7, 10).since(3).assign(&segments);
        assert_eq!(again.memberships[0].since, Instant(10 * DAY));
        assert_eq!(again.entered().count(), 0, "they were in it before");
        segments.rules.clear();
        assert_eq!(Night::new(0.7, 10).since(3).assign(&segments).left[0].reason, "removed");
    }

    #[test]
    fn who_was_put_out_by_time_waits_until_the_rule_has_ceased_to_hold() {
        let segments = segments(|spec| spec.expires = Some(Duration::days(7)));
        assert_eq!(Night::new(0.7, 6).since(0).assign(&segments).memberships[0].reason, "stay");
        let next = |night: Assigned| PreviousState {
            memberships: BTreeMap::new(),
            expired: night.expired.into_iter().collect(),
            primary: Some(night.primary),
        };
        use std::collections::BTreeMap;
        let over = Night::new(0.7, 7).since(0).assign(&segments);
        assert_eq!((over.primary.as_str(), over.left[0].reason), ("calm", "expired"));
        let barred = Night { before: Some(next(over)), ..Night::new(0.7, 8) }.assign(&segments);
        assert_eq!((barred.primary.as_str(), barred.left.len()), ("calm", 0));
        let free = Night { before: Some(next(barred)), ..Night::new(0.2, 9) }.assign(&segments);
        let again = Night { before: Some(next(free)), ..Night::new(0.7, 10) }.assign(&segments);
        assert_eq!(again.primary, "risky");
    }

    #[test]
    fn consent_is_needed_where_a_rule_says_so() {
        let segments = segments(|spec| spec.requires_consent = vec!["email".into()]);
        assert_eq!(Night::new(0.7, 1).assign(&segments).primary, "risky");
        let night = |status| Night { status, ..Night::new(0.7, 9).since(0) };
        let out = night("opted_out").assign(&segments);
        assert_eq!((out.primary.as_str(), out.left[0].reason), ("calm", "consent"));
        assert_eq!(night("unknown").assign(&segments).primary, "calm");
    }

    #[test]
    fn of_a_group_only_the_first_that_holds_counts() {
        let mut segments = segments(|spec| spec.group = Some("risk".into()));
        let columns = Columns::new(Scale::default(), [("score".to_owned(), Type::Double)]);
        let mut worst = rule("worst", "score >= 0.9", None, &columns);
        worst.spec.group = Some("risk".into());
        segments.rules.insert(0, worst);
        let moved = Night::new(0.95, 9).since(0).assign(&segments);
        assert_eq!(
            moved.memberships.iter().map(|m| m.segment.as_str()).collect::<Vec<_>>(),
            ["worst", "calm"]
        );
        assert_eq!(moved.left[0].reason, "precedence");
    }
}

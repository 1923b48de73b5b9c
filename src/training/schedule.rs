//! Chooses the snapshots that a classifier is trained, calibrated and tested at.
//!
//! Every label must have ended at the as-of. The test snapshot is the latest instant for which this is
//! true. The label of the calibration snapshot ends at the test snapshot at the latest, and the labels of
//! the training snapshots end at the calibration snapshot at the latest. No model is therefore fitted on
//! an outcome from after the snapshot that it is evaluated at. The tested model is fitted again on all
//! snapshots whose outcomes have ended at the test snapshot.

use crate::artifact::Schedule;
use crate::error::Result;
use crate::sources::contract::History;
use crate::spec::ClassifierSpec;
use crate::time::{Duration, Instant};
use crate::training::TrainingProblem;

/// The maximum number of training snapshots if the spec does not set it.
const COUNT: usize = 6;
/// The share of the horizon by which the events may end early.
const STALE: f64 = 0.05;
/// The length of history before the first snapshot if the spec does not set it.
const LOOKBACK: Duration = Duration::days(90);

/// The number of outcome windows before the test snapshot over which the base rate is followed.
const BASE_RATES: i64 = 8;
/// The number of days in a year of whole weeks.
const YEAR: Duration = Duration::days(364);

/// Checks that the events reach the end of the outcome windows. Otherwise customers whose events are not
/// loaded would count as customers who did nothing.
///
/// # Errors
/// Returns [`TrainingProblem`] if the last event is further from `until` than is usual between days with
/// events, and further than a twentieth of the horizon.
pub fn check_fresh(
    model: &str,
    horizon: Duration,
    history: &History,
    until: Instant,
) -> Result<()> {
    let Some(last) = history.last else { return Ok(()) };
    let quiet = until.days_since(last.0);
    if quiet <= 2.0 * history.usual_gap as f64 || quiet <= STALE * horizon.as_days() {
        return Ok(());
    }
    Err(TrainingProblem::Stale { model: model.to_owned(), last, quiet, until }.into())
}

/// Chooses the snapshots of a training at `as_of` with events from `history` on.
///
/// # Errors
/// Returns [`TrainingProblem`] if the history is shorter than lookback + 3 x (gap + horizon).
pub fn schedule(spec: &ClassifierSpec, as_of: Instant, history: Instant) -> Result<Schedule> {
    let outcome = spec.label.gap.plus(spec.label.horizon);
    let every = spec.snapshots.every.unwrap_or(outcome);
    let lookback = spec.snapshots.lookback.unwrap_or(LOOKBACK);
    let test = as_of.minus(outcome);
    let calibration = test.minus(outcome);
    let first = history.plus(lookback);
    let (mut training, mut later): (Vec<Instant>, Vec<Instant>) = Default::default();
    let mut next = calibration.minus(every);
    while next.plus(outcome) > calibration {
        later.push(next);
        next = next.minus(every);
    }
    later.reverse();
    while next >= first && training.len() < spec.snapshots.count.unwrap_or(COUNT) {
        training.push(next);
        next = next.minus(every);
    }
    training.reverse();
    if training.is_empty() {
        let needed = Duration(lookback.0 + 3 * outcome.0);
        let model = spec.name.clone();
        return Err(TrainingProblem::ShortHistory { model, needed, as_of, first: history }.into());
    }
    let base_rate = Vec::new();
    let mut schedule = Schedule { training, later, calibration, test, base_rate };
    schedule.base_rate = further(&schedule, spec, as_of, first);
    Ok(schedule)
}

/// Chooses further snapshots from `first` on, of which only the base rates are used. They fill the gaps between the
/// other snapshots over the latest outcome windows, and lie a year before the outcomes that are predicted.
fn further(
    schedule: &Schedule,
    spec: &ClassifierSpec,
    as_of: Instant,
    first: Instant,
) -> Vec<Instant> {
    let outcome = spec.label.gap.plus(spec.label.horizon);
    let latest = (1..=BASE_RATES).map(|k| Instant(schedule.test.0 - k * outcome.0));
    let a_year_before = [as_of, schedule.test, schedule.calibration].map(|at| at.minus(YEAR));
    let mut all = schedule.all();
    let mut further = Vec::new();
    for at in latest.chain(a_year_before) {
        let ended = at.plus(outcome) <= schedule.test;
        let near = |other: &Instant| (other.0 - at.0).abs() < spec.label.horizon.0 / 2;
        if at >= first && ended && !all.iter().any(near) {
            all.push(at);
            further.push(at);
        }
    }
    further.sort_unstable();
    further
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::*;

    fn spec(gap: i64, horizon: i64, every: Option<i64>) -> ClassifierSpec {
        ClassifierSpec {
            name: "churn".into(),
            writes: "churn_risk_score".into(),
            description: String::new(),
            positive: "churned".into(),
            eligible: EligibleSpec { condition: None, within: Some("auto".into()) },
            label: LabelSpec {
                kind: LabelKind::Absence,
                condition: "true".into(),
                gap: Duration::days(gap),
                horizon: Duration::days(horizon),
            },
            snapshots: SnapshotsSpec { every: every.map(Duration::days), ..Default::default() },
            inputs: InputsSpec::default(),
            fit: FitSpec::default(),
            algorithm: Default::default(),
            calibration: Default::default(),
            evaluation: Default::default(),
            promotion: Default::default(),
            card: Default::default(),
        }
    }

    fn day(text: &str) -> Instant {
        text.parse().unwrap()
    }

    #[test]
    fn the_test_snapshot_is_the_latest_mature_one() {
        let schedule = schedule(&spec(1, 30, None), day("2017-12-02"), day("2017-01-01")).unwrap();
        assert_eq!(schedule.test, day("2017-11-01"));
        assert_eq!(schedule.calibration, day("2017-10-01"));
        assert_eq!(schedule.training.last(), Some(&day("2017-08-31")));
        assert_eq!(schedule.training.first(), Some(&day("2017-04-29")));
    }

    /// Further snapshots have ended outcomes, keep their distance from the others, and lie a year before what is
    /// predicted if the history is long enough.
    #[test]
    fn further_base_rates_fill_gaps_and_lie_a_year_before() {
        let (as_of, long, short) = (day("2024-07-01"), day("2020-01-01"), day("2023-09-01"));
        for every in [7, 31, 60] {
            let spec = spec(1, 30, Some(every));
            let schedule = schedule(&spec, as_of, long).unwrap();
            let outcome = Duration::days(31);
            for at in &schedule.base_rate {
                assert!(at.plus(outcome) <= schedule.test && *at >= long.plus(LOOKBACK));
                let near = |other: &Instant| (other.0 - at.0).abs() < Duration::days(15).0;
                let own = schedule.training.iter().chain(&schedule.later);
                assert!(!own.chain([&schedule.calibration, &schedule.test]).any(near), "{at}");
            }
            for latest in [schedule.test, schedule.calibration, as_of] {
                let before = latest.minus(YEAR);
                let close = |at: &Instant| (at.0 - before.0).abs() < Duration::days(15).0;
                let all = schedule.base_rate.iter().chain(&schedule.training);
                assert!(all.chain(&schedule.later).any(close), "a year before {latest}");
            }
        }
        let schedule = schedule(&spec(1, 30, Some(7)), as_of, short).unwrap();
        assert!(schedule.base_rate.iter().all(|at| *at >= short.plus(LOOKBACK)));
    }

    #[test]
    fn no_label_ends_after_what_follows_it() {
        for every in [7, 10, 31, 45, 60] {
            let spec = spec(1, 30, Some(every));
            let outcome = Duration::days(31);
            let schedule = schedule(&spec, day("2020-01-01"), day("2017-01-01")).unwrap();
            assert!(schedule.test.plus(outcome) <= day("2020-01-01"));
            assert!(schedule.calibration.plus(outcome) <= schedule.test);
            assert!(schedule.training.iter().all(|t| t.plus(outcome) <= schedule.calibration));
            assert!(schedule.later.iter().all(|t| t.plus(outcome) <= schedule.test));
            assert_eq!(schedule.later.len(), if every < 31 { (30 / every) as usize } else { 0 });
            assert!(schedule.all().is_sorted());
        }
    }

    #[test]
    fn a_short_history_is_not_enough() {
        let error = schedule(&spec(1, 30, None), day("2017-06-01"), day("2017-01-01")).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("183 days"), "{error}");
    }
}

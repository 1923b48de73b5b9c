//! Chooses what a new project computes and predicts, so that its history is long enough for it.

use super::facts::Facts;
use super::mapping::Mapping;
use crate::time::{DAY, Duration};

/// The windows of features that are offered, in days.
const WINDOWS: [i64; 7] = [7, 14, 30, 60, 90, 180, 365];
/// The horizons of labels that are tried, in days, the longest first.
const HORIZONS: [i64; 5] = [90, 60, 30, 14, 7];
/// The number of customers of each class that a snapshot needs, as in training.
const LEAST_OF_A_CLASS: usize = 100;
/// The number of snapshots with outcomes at which the classes are counted.
const SNAPSHOTS: i64 = 3;
/// The number of customers who must have come again for a prediction of lifetime value.
const LEAST_REPEATERS: usize = 100;

/// The share of events with an item that the customer has had before, from which on such items are recommended.
const REPEATED: f64 = 0.05;

/// A label whose classes are large enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The gap in days.
    pub gap: i64,
    /// The horizon in days.
    pub horizon: i64,
    /// The time in days within which an eligible customer had the event.
    pub within: i64,
}

/// What a new project has.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The length of the history in days.
    pub days: i64,
    /// The windows of features in days.
    pub windows: Vec<i64>,
    /// The event that is predicted, as an expression over canonical columns.
    pub main: String,
    /// The name of that event for readers.
    pub main_name: String,
    /// Whether purchases with amounts are the main event.
    pub has_amounts: bool,
    /// The label of churn; `None` if no horizon has enough customers of both classes.
    pub churn: Option<Label>,
    /// The label of propensity; `None` for the same reason.
    pub propensity: Option<Label>,
    /// Whether enough customers came again for a prediction of their value.
    pub predicts_value: bool,
    /// The affinity for items; `None` if the events have none.
    pub affinity: Option<Affinity>,
}

/// An affinity model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// The canonical column of the items.
    pub item: &'static str,
    /// Whether customers come back to items that they have had.
    pub repeat: bool,
    /// The length in days of the past that is predicted in the test.
    pub horizon: i64,
}

/// The main event of a mapping: its name, and its condition given the expressions of the event type and the amount.
pub fn main_event(mapping: &Mapping, event_type: &str, amount: &str) -> (String, String) {
    let has = |name: &str| mapping.types.iter().any(|own| own == name);
    let purchase = "purchase".to_owned();
    match (has("purchase"), mapping.sql("amount").is_some()) {
        (true, true) => (purchase, format!("{event_type} = 'purchase' and {amount} > 0")),
        (true, false) => (purchase, format!("{event_type} = 'purchase'")),
        (false, _) => {
            let initiated = mapping.types.iter().find(|name| !name.ends_with("_sent"));
            let name = initiated.cloned().unwrap_or_default();
            let condition = format!("{event_type} = '{}'", name.replace('\'', "''"));
            (name, condition)
        }
    }
}

/// Plans a project for events like these.
pub fn plan(mapping: &Mapping, facts: &Facts) -> Plan {
    let (first, last) = facts.span.unwrap_or_default();
    let days = (last - first) / DAY;
    let windows: Vec<i64> = WINDOWS.into_iter().filter(|w| *w == 7 || *w * 4 <= days).collect();
    let lookback = windows.last().copied().unwrap_or(7);
    let (main_name, main) = main_event(mapping, "event_type", "amount");
    let possible = |horizon: i64| {
        let gap = if horizon >= 60 { 7 } else { 1 };
        let label = Label { gap, horizon, within: (2 * horizon).max(14) };
        let fits = lookback + SNAPSHOTS * (gap + horizon) <= days;
        (fits && has_both_classes(facts, label)).then_some(label)
    };
    let churn = HORIZONS.into_iter().filter(|h| h * 6 <= days).find_map(possible);
    let soon = HORIZONS.into_iter().filter(|h| *h <= 30 && churn.is_none_or(|c| *h <= c.horizon));
    let again = facts.times.iter().filter(|times| {
        let days: std::collections::BTreeSet<i64> = times.iter().map(|at| at / DAY).collect();
        days.len() > 1
    });
    let has_amounts = mapping.sql("amount").is_some() && main_name == "purchase";
    let affinity = mapping.item().map(|item| Affinity {
        item,
        repeat: facts.repeated >= REPEATED,
        horizon: (days / 6).clamp(7, 90),
    });
    Plan {
        days,
        windows,
        main,
        main_name,
        has_amounts,
        churn,
        propensity: soon.clone().find_map(possible),
        predicts_value: has_amounts && again.count() >= LEAST_REPEATERS,
        affinity,
    }
}

/// Whether enough eligible customers had the event in the horizon, and enough had not, at the last snapshots whose
/// outcomes have ended.
fn has_both_classes(facts: &Facts, label: Label) -> bool {
    let (_, last) = facts.span.unwrap_or_default();
    let length = (label.gap + label.horizon) * DAY;
    (1..=SNAPSHOTS).all(|snapshot| {
        let at = last + 1 - snapshot * length;
        let mut classes = [0_usize; 2];
        for times in &facts.times {
            let had = |from: i64, until: i64| {
                let place = times.partition_point(|time| *time < from);
                times.get(place).is_some_and(|time| *time < until)
            };
            if had(at - label.within * DAY, at) {
                let begins = at + label.gap * DAY;
                classes[usize::from(had(begins, begins + label.horizon * DAY))] += 1;
            }
        }
        classes.iter().all(|class| *class >= LEAST_OF_A_CLASS)
    })
}

/// The as-of of the day after the last event.
pub fn day_after(last: i64) -> String {
    let day = (last.div_euclid(DAY) + 1) * DAY;
    crate::time::Instant(day).folder()
}

/// The length of time in the notation of specs.
pub fn length(days: i64) -> String {
    Duration::days(days).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(gap: i64, customers: i64) -> Facts {
        let of = |customer: i64| -> Vec<i64> {
            (0..400).filter(|day| (day + customer) % gap == 0).map(|day| day * DAY).collect()
        };
        let times: Vec<Vec<i64>> = (0..customers).map(of).collect();
        Facts { span: Some((0, 399 * DAY)), customers: times.len(), times, ..Facts::default() }
    }

    #[test]
    fn a_horizon_needs_customers_of_both_classes() {
        // Whoever buys every 20 days buys within 30 days, and half of them within 10.
        let found = facts(20, 1000);
        let label = |gap, horizon| Label { gap, horizon, within: 60 };
        assert!(!has_both_classes(&found, label(1, 30)));
        assert!(has_both_classes(&found, label(1, 7)));
        assert!(!has_both_classes(&facts(20, 150), label(1, 7)), "too few");
    }

    #[test]
    fn a_plan_fits_the_history() {
        let mut mapping = Mapping { types: vec!["purchase".into()], ..Mapping::default() };
        let planned = plan(&mapping, &facts(20, 1000));
        assert_eq!(planned.windows, [7, 14, 30, 60, 90]);
        assert_eq!(planned.churn.map(|label| label.horizon), Some(14));
        assert_eq!(planned.main, "event_type = 'purchase'");
        assert!(!planned.predicts_value, "there are no amounts");
        mapping.types = vec!["email_sent".into(), "watch".into()];
        assert_eq!(plan(&mapping, &facts(20, 1000)).main, "event_type = 'watch'");
        assert_eq!(day_after(399 * DAY + 5), "1971-02-05");
    }
}

//! From which probability on it pays to reach a customer.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, draws};
use crate::spec::EvaluationSpec;

/// The number of steps between the probabilities 0 and 1 of a table.
const STEPS: usize = 100;

/// The result of predicting every row from a probability on to be positive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The probability of the threshold.
    pub probability: f64,
    /// The share of the rows at or above the threshold.
    pub share: f64,
    /// The share of positives among these rows; `None` if there are no such rows.
    pub precision: Option<f64>,
    /// The share of all positives that are among these rows.
    pub recall: f64,
    /// The benefit of the reached positives minus the cost of all reached rows, per eligible customer.
    /// `None` unless the spec gives both benefit and cost.
    pub value: Option<f64>,
}

/// The threshold that cost and benefit recommend, with what chance could make of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recommended {
    /// The probability from which the expected benefit of reaching a customer exceeds the cost: cost / benefit (Elkan,
    /// The Foundations of Cost-Sensitive Learning, 2001, equation 2). It holds for probabilities that are calibrated.
    pub probability: f64,
    /// The value per eligible customer of reaching everybody from this probability on.
    pub value: f64,
    /// The 95 % interval of this value, by drawing the customers again.
    pub value_interval: Interval,
    /// The value per eligible customer of reaching everybody.
    pub everybody: f64,
    /// The probability from which reaching everybody would have brought most on these rows; 1 if reaching anybody costs
    /// more than it brings.
    pub best: f64,
    /// The 95 % interval of this probability, by drawing the customers again. A recommendation within it is as good as
    /// the data can tell.
    pub best_interval: Interval,
}

/// Computes the threshold table. If the spec gives benefit and cost, the table includes the threshold
/// from which reaching a customer pays off.
pub fn thresholds(probabilities: &[f64], labels: &[bool], spec: &EvaluationSpec) -> Vec<Threshold> {
    let worth = spec.benefit.zip(spec.cost);
    let mut at: Vec<f64> = (1..STEPS).map(|step| step as f64 / STEPS as f64).collect();
    at.extend(worth.map(|(benefit, cost)| cost / benefit).filter(|p| *p > 0.0 && *p < 1.0));
    at.sort_by(f64::total_cmp);
    at.dedup();
    let total = labels.iter().filter(|label| **label).count() as f64;
    let rows = labels.len() as f64;
    at.into_iter()
        .map(|threshold| {
            let (mut taken, mut hits) = (0.0, 0.0);
            for (p, label) in probabilities.iter().zip(labels) {
                if *p >= threshold {
                    taken += 1.0;
                    hits += f64::from(u8::from(*label));
                }
            }
            Threshold {
                probability: threshold,
                share: taken / rows,
                precision: (taken > 0.0).then(|| hits / taken),
                recall: hits / total,
                value: worth.map(|(benefit, cost)| (hits * benefit - taken * cost) / rows),
            }
        })
        .collect()
}

/// Computes the recommended threshold; `None` unless the spec gives both benefit and cost.
pub fn recommended(
    probabilities: &[f64],
    labels: &[bool],
    spec: &EvaluationSpec,
) -> Option<Recommended> {
    let (benefit, cost) = spec.benefit.zip(spec.cost)?;
    let probability = cost / benefit;
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]).then(a.cmp(b)));
    let rows = labels.len() as f64;
    // From the highest probability down, what is reached so far is worth `sum`.
    let walk = |times: &dyn Fn(usize) -> f64| {
        let (mut sum, mut at_threshold) = (0.0, 0.0);
        let (mut best, mut best_value) = (1.0, 0.0);
        for (place, row) in order.iter().enumerate() {
            let gain = if labels[*row] { benefit - cost } else { -cost };
            sum += times(*row) * gain;
            let p = probabilities[*row];
            if p >= probability {
                at_threshold = sum;
            }
            let tied = order.get(place + 1).is_some_and(|next| probabilities[*next] == p);
            if !tied && sum > best_value {
                (best, best_value) = (p, sum);
            }
        }
        (at_threshold / rows, sum / rows, best)
    };
    let (value, everybody, best) = walk(&|_| 1.0);
    let drawn = draws(labels.len(), |times| walk(&|row| f64::from(times[row])));
    Some(Recommended {
        probability,
        value,
        value_interval: Interval::of(drawn.iter().map(|(value, ..)| *value)),
        everybody,
        best,
        best_interval: Interval::of(drawn.iter().map(|(.., best)| *best)),
    })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn thresholds_count_what_they_take() {
        let p = [0.9, 0.6, 0.6, 0.3, 0.02];
        let y = [true, false, true, false, false];
        let spec = EvaluationSpec { benefit: Some(10.0), cost: Some(4.0), slices: None };
        let table = thresholds(&p, &y, &spec);
        let at = |p: f64| table.iter().find(|row| row.probability == p).unwrap();
        assert_eq!(at(0.6).precision, Some(2.0 / 3.0));
        assert_eq!(at(0.6).recall, 1.0);
        assert_eq!(at(0.6).share, 0.6);
        // Three rows are reached at a cost of 4 each, and two of them bring 10: 8 over 5 customers.
        assert_eq!(at(0.6).value, Some(1.6));
        assert_eq!(at(0.95).precision, None);
        assert_eq!(at(0.4).share, 0.6, "cost over benefit is a threshold of its own");
    }

    /// With true probabilities the recommendation lies within the interval of the best threshold, and values are those
    /// of the obvious count.
    #[test]
    fn cost_over_benefit_is_recommended() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let probabilities: Vec<f64> =
            (0..3000).map(|_| (random.random::<f64>() * 50.0).round() / 50.0).collect();
        let labels: Vec<bool> = probabilities.iter().map(|p| random.random::<f64>() < *p).collect();
        let spec = EvaluationSpec { benefit: Some(10.0), cost: Some(3.0), ..Default::default() };
        let found = recommended(&probabilities, &labels, &spec).unwrap();
        assert_eq!(found.probability, 0.3);
        assert!(found.best_interval.contains(0.3), "{found:?}");
        let value = |from: f64| {
            let reached = probabilities.iter().zip(&labels).filter(|(p, _)| **p >= from);
            reached.map(|(_, label)| if *label { 7.0 } else { -3.0 }).sum::<f64>() / 3000.0
        };
        assert!(
            (found.value - value(0.3)).abs() < 1e-9 && found.value_interval.contains(found.value)
        );
        assert!((found.everybody - value(0.0)).abs() < 1e-9);
        let best = probabilities.iter().copied().max_by(|a, b| value(*a).total_cmp(&value(*b)));
        assert!((value(found.best) - value(best.unwrap())).abs() < 1e-9, "{found:?}");
        let row = thresholds(&probabilities, &labels, &spec).into_iter();
        let row = row.into_iter().find(|row| row.probability == 0.3).unwrap();
        assert!((row.value.unwrap() - found.value).abs() < 1e-9);
        // Nobody is reached where it costs more than it brings.
        let dear = EvaluationSpec { benefit: Some(1.0), cost: Some(3.0), ..Default::default() };
        let found = recommended(&probabilities, &labels, &dear).unwrap();
        assert_eq!((found.best, found.value), (1.0, 0.0));
        assert_eq!(recommended(&probabilities, &labels, &EvaluationSpec::default()), None);
    }
}

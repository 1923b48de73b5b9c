//! Fits of purchases and of spend.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::artifact::lifetime_value::{Predictor, TenureMean, to_date};
use crate::artifact::purchases::{self, Customer};
use crate::error::Result;
use crate::features::read::column;
use crate::models::lifetime_value::maximum_likelihood::Fit;
use crate::models::lifetime_value::{Buyer, GammaGamma, Purchasing, Spend};
use crate::sources::SourcePlan;
use crate::spec::{LifetimeValue, LifetimeValueSpec, RECENT_DAYS, RECENT_SPEND};
use crate::sum::ExactSum;
use crate::time::{Duration, Instant};

/// The absolute correlation between frequency and mean spend above which training warns. The model of
/// spend assumes that they are not correlated.
const CORRELATED: f64 = 0.3;

/// The result of fitting the model of purchases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurchasingFit {
    /// The cohort; `None` if the fit is over all buyers.
    pub cohort: Option<String>,
    /// The number of buyers.
    pub customers: usize,
    /// The number of these buyers who bought again.
    pub repeaters: usize,
    /// The names of the parameters.
    pub parameters: Vec<String>,
    /// The values of the parameters and how they were found.
    pub fit: Fit,
    /// Whether the fit is used for predictions.
    pub used: bool,
}

/// The result of fitting the model of spend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendFit {
    /// The names of the parameters.
    pub parameters: Vec<String>,
    /// The values of the parameters and how they were found.
    pub fit: Fit,
    /// The correlation between frequency and mean spend over the customers who bought again.
    pub correlation: f64,
    /// Whether the fit is used for predictions.
    pub used: bool,
}

/// The purchases that a model of lifetime value is trained on.
#[derive(Debug, Default)]
pub struct PurchaseData {
    /// Buyers at the as-of, sorted by the hash of the key.
    pub now: Vec<Customer>,
    /// Buyers at the start of the holdout, in the same order, each with the days and the spend of
    /// purchases within the length of the holdout before it.
    pub then: Vec<(Customer, [f64; 2])>,
    /// The revenue and the refunds to date, summed over all customers.
    pub totals: [ExactSum; 2],
}

impl PurchaseData {
    /// Adds rows computed at the as-of.
    pub(in crate::training) fn take_now(
        &mut self,
        model: &LifetimeValue,
        rows: &RecordBatch,
        source: &SourcePlan,
        at: Instant,
    ) -> Result<()> {
        let [revenue, refunds] =
            to_date([&model.revenue, &model.refunds], rows, source.context.scale)?;
        revenue.iter().for_each(|money| self.totals[0].add(*money));
        refunds.iter().for_each(|money| self.totals[1].add(*money));
        let customers = purchases::read(rows, model.spec.cohort, source.context.zone, at)?;
        self.now.extend(customers.into_iter().flatten());
        keep_least(&mut self.now, model.spec.max_customers, |customer| customer.hash);
        Ok(())
    }

    /// Adds rows computed at the start of the holdout.
    pub(in crate::training) fn take_then(
        &mut self,
        model: &LifetimeValue,
        rows: &RecordBatch,
        source: &SourcePlan,
        at: Instant,
    ) -> Result<()> {
        let (days, spend) = (column(rows, RECENT_DAYS)?, column(rows, RECENT_SPEND)?);
        let recent = days.into_iter().zip(spend).map(|(days, spend)| [days, spend]);
        let customers = purchases::read(rows, model.spec.cohort, source.context.zone, at)?;
        let pairs = customers.into_iter().zip(recent);
        self.then.extend(pairs.filter_map(|(customer, recent)| Some((customer?, recent))));
        keep_least(&mut self.then, model.spec.max_customers, |(customer, _)| customer.hash);
        Ok(())
    }

    /// Adds the buyers of another shard and keeps about `most` of them.
    pub(in crate::training) fn add(&mut self, other: Self, most: usize) {
        self.totals.iter_mut().zip(&other.totals).for_each(|(own, more)| own.merge(more));
        self.now.extend(other.now);
        self.then.extend(other.then);
        keep_least(&mut self.now, most, |customer| customer.hash);
        keep_least(&mut self.then, most, |(customer, _)| customer.hash);
    }

    /// Keeps `most` buyers, those with the smallest hashes of their keys.
    pub fn sample(&mut self, most: usize) {
        self.now.sort_unstable_by_key(|customer| customer.hash);
        self.then.sort_unstable_by_key(|(customer, _)| customer.hash);
        if let Some(first) = self.now.get(most).map(|customer| customer.hash) {
            self.now.truncate(most);
            self.then.retain(|(customer, _)| customer.hash < first);
        }
    }
}

/// Keeps the `most` rows with the smallest hashes once there are more than twice as many. The sample does
/// not depend on the order of the rows.
fn keep_least<T>(rows: &mut Vec<T>, most: usize, hash: impl Fn(&T) -> u64) {
    if rows.len() > 2 * most {
        rows.sort_unstable_by_key(hash);
        rows.truncate(most);
    }
}

/// The instant at which the holdout starts: the horizon before the as-of, or the middle of a history
/// shorter than twice the horizon. Returns `None` if nothing is fitted, or if the holdout would be
/// shorter than 7 days.
pub fn holdout_at(spec: &LifetimeValueSpec, as_of: Instant, first: Instant) -> Option<Instant> {
    spec.method.family()?;
    let history = Duration(as_of.0 - first.0);
    let length = spec.horizon.as_days().min(history.as_days() / 2.0).floor();
    (length >= 7.0).then(|| as_of.minus(Duration::days(length as i64)))
}

/// A predictor with the fits that it consists of.
pub(super) struct Fitted {
    pub(super) predictor: Predictor,
    pub(super) purchasing: Vec<PurchasingFit>,
    pub(super) spend: Option<SpendFit>,
    pub(super) warnings: Vec<String>,
}

pub(super) fn fit(
    spec: &LifetimeValueSpec,
    customers: &[Customer],
    tenure: Vec<TenureMean>,
) -> Fitted {
    let mut warnings = Vec::new();
    let mut purchasing = Vec::new();
    let mut attempt = |cohort: Option<&str>, of: &[&Customer]| {
        let buyers: Vec<Buyer> = of.iter().map(|customer| customer.buyer).collect();
        let repeaters = buyers.iter().filter(|buyer| buyer.frequency > 0.0).count();
        let about = cohort.map_or(String::new(), |cohort| format!(" of {cohort}"));
        if repeaters < spec.minimum_repeaters {
            // A cohort that is too small is predicted by the fit over all buyers.
            if cohort.is_none() {
                warnings.push(format!(
                    "{repeaters} customers have bought again, fewer than {}: means of customers with the same tenure stand in for the model.",
                    spec.minimum_repeaters
                ));
            }
            return None;
        }
        let family = spec.method.family()?;
        let Some((model, fit)) = Purchasing::fit(family, &buyers) else {
            warnings.push(format!("No start of the fit{about} came to an end."));
            return None;
        };
        let used = fit.converged;
        if !used {
            warnings.push(format!("The fit{about} has not converged and is not used."));
        }
        let parameters = family.parameters().map(str::to_owned).to_vec();
        let cohort = cohort.map(str::to_owned);
        let customers = buyers.len();
        purchasing.push(PurchasingFit { cohort, customers, repeaters, parameters, fit, used });
        used.then_some(model)
    };
    let all: Vec<&Customer> = customers.iter().collect();
    let of_all = attempt(None, &all);
    let mut by_cohort: BTreeMap<&str, Vec<&Customer>> = BTreeMap::new();
    for customer in customers {
        if let Some(cohort) = &customer.cohort {
            by_cohort.entry(cohort).or_default().push(customer);
        }
    }
    let cohorts = by_cohort
        .iter()
        .filter_map(|(name, of)| Some(((*name).to_owned(), attempt(Some(name), of)?)))
        .collect();
    let spends: Vec<Spend> = customers.iter().filter_map(Customer::repeat_spend).collect();
    let (spend, spend_fit) = fit_spend(&spends, spec.minimum_repeaters, &mut warnings);
    let days: f64 = customers.iter().map(Customer::purchases).sum();
    let brought: f64 = customers.iter().map(|customer| customer.spend).sum();
    let mean_spend = if days > 0.0 { brought / days } else { 0.0 };
    let predictor = Predictor { purchasing: of_all, cohorts, spend, mean_spend, tenure };
    Fitted { predictor, purchasing, spend: spend_fit, warnings }
}

fn fit_spend(
    spends: &[Spend],
    minimum: usize,
    warnings: &mut Vec<String>,
) -> (Option<GammaGamma>, Option<SpendFit>) {
    if spends.len() < minimum {
        warnings.push(format!(
            "{} customers have spent again, fewer than {minimum}: everyone's mean stands in for the model of spend.",
            spends.len()
        ));
        return (None, None);
    }
    let Some((model, fit)) = GammaGamma::fit(spends) else {
        warnings.push("No start of the fit of spend came to an end.".to_owned());
        return (None, None);
    };
    // For q up to 1 the mean over customers is not finite.
    let used = fit.converged && model.q > 1.0;
    if !used {
        warnings.push(
            "The fit of spend has not converged or has no finite mean, and is not used.".to_owned(),
        );
    }
    let pairs: Vec<[f64; 2]> = spends.iter().map(|spend| [spend.frequency, spend.mean]).collect();
    let correlation = correlation(&pairs);
    if correlation.abs() > CORRELATED {
        warnings.push(format!(
            "How often and how much customers buy are correlated ({correlation:.2}), which the model of spend does not allow for: check values by frequency against the holdout."
        ));
    }
    let parameters = ["p", "q", "v"].map(str::to_owned).to_vec();
    (used.then_some(model), Some(SpendFit { parameters, fit, correlation, used }))
}

/// Computes Pearson's correlation coefficient. It is 0 if one of the two does not vary.
pub(super) fn correlation(pairs: &[[f64; 2]]) -> f64 {
    let count = pairs.len().max(1) as f64;
    let mean = |i: usize| pairs.iter().map(|pair| pair[i]).sum::<f64>() / count;
    let (x, y) = (mean(0), mean(1));
    let sum = |of: &dyn Fn(&[f64; 2]) -> f64| pairs.iter().map(of).sum::<f64>();
    let both = sum(&|p| (p[0] - x) * (p[1] - y));
    let spread = sum(&|p| (p[0] - x).powi(2)) * sum(&|p| (p[1] - y).powi(2));
    if spread > 0.0 { both / spread.sqrt() } else { 0.0 }
}

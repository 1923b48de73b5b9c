//! Trains a model of lifetime value from gathered purchases, and tests it on a holdout.

pub mod holdout;

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use self::holdout::Holdout;
use crate::artifact::LifetimeValueArtifact;
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

/// The content of `metrics.json` of a version of lifetime value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifetimeValueMetrics {
    /// The format version of this file.
    pub format_version: u32,
    /// The as-of of the training, up to which purchases were read.
    pub as_of: Instant,
    /// The family of the model of purchases.
    pub family: String,
    /// The number of buyers that the model was fitted on.
    pub customers: usize,
    /// The fits of purchases: over all buyers first, then over each cohort.
    pub purchasing: Vec<PurchasingFit>,
    /// The fit of spend; `None` if there is none.
    pub spend: Option<SpendFit>,
    /// The share of revenue that is refunded.
    pub refund_rate: f64,
    /// A fit of the past compared with the holdout after it; `None` if the history is too short.
    pub holdout: Option<Holdout>,
    /// Warnings to read before use.
    pub warnings: Vec<String>,
}

impl LifetimeValueMetrics {
    /// Lists the fits: what was fitted, the names of the parameters, and their values.
    pub fn fits(&self) -> impl Iterator<Item = (String, &[String], &Fit)> {
        let name = |cohort: Option<&String>| match cohort {
            Some(cohort) => format!("purchases of {cohort}"),
            None => "purchases".to_owned(),
        };
        let purchasing = self.purchasing.iter();
        let purchasing =
            purchasing.map(move |of| (name(of.cohort.as_ref()), of.parameters.as_slice(), &of.fit));
        let spend = self.spend.iter();
        purchasing.chain(
            spend.map(|of| ("spend per purchase".to_owned(), of.parameters.as_slice(), &of.fit)),
        )
    }

    /// The name of the method that predicts purchases: the family, or the means that stand in if it could
    /// not be fitted.
    pub fn method(&self) -> String {
        match self.purchasing.iter().any(|fit| fit.used) || self.family == HISTORIC {
            true => self.family.clone(),
            false => "means of customers of the same age".to_owned(),
        }
    }

    /// Describes in sentences the result on the holdout and the warnings.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if let Some(holdout) = &self.holdout {
            let model = &holdout.model;
            let percent = |error: f64| format!("{:+.1} %", 100.0 * error);
            sentences.push(format!(
                "Fitted on the time before {} it expected {:.0} purchases up to {} where {:.0} were made ({}), and {:.0} of spend where {:.0} came ({}).",
                holdout.from.folder(),
                model.purchases,
                holdout.until.folder(),
                holdout.purchases,
                percent(model.purchases_error),
                model.spend,
                holdout.spend,
                percent(model.spend_error),
            ));
            for other in &holdout.baselines {
                let verdict = match (
                    model.spend_mae < other.spend_mae,
                    model.spend_gini > other.spend_gini,
                ) {
                    (true, true) => "It is closer for a customer, and ranks them better, than",
                    (true, false) => {
                        "It is closer for a customer, but does not rank them better, than"
                    }
                    (false, true) => "It ranks customers better, but is not closer for one, than",
                    (false, false) => {
                        "It is neither closer for a customer nor better at ranking than"
                    }
                };
                sentences.push(format!(
                    "{verdict} \u{201c}{}\u{201d}: mean absolute error {:.2} against {:.2}, normalized Gini {:.4} against {:.4}.",
                    other.name, model.spend_mae, other.spend_mae, model.spend_gini, other.spend_gini
                ));
            }
        }
        sentences.extend(self.warnings.iter().cloned());
        sentences
    }
}

/// The name of the method that predicts no future purchases.
const HISTORIC: &str = "historic";

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
    pub(super) fn take_now(
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
    pub(super) fn take_then(
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
    pub(super) fn add(&mut self, other: Self, most: usize) {
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

/// Fits the method of the spec and tests it on the holdout.
pub fn train(
    model: &LifetimeValue,
    mut data: PurchaseData,
    as_of: Instant,
    holdout_at: Option<Instant>,
) -> (LifetimeValueArtifact, LifetimeValueMetrics) {
    let spec = &model.spec;
    data.sample(spec.max_customers);
    let [revenue, refunds] = data.totals.clone().map(|total| total.value());
    let refund_rate = if revenue > 0.0 { (refunds / revenue).clamp(0.0, 1.0) } else { 0.0 };
    let family = spec.method.family().map_or(HISTORIC, |family| family.name());
    let mut metrics = LifetimeValueMetrics {
        format_version: crate::store::FORMAT_VERSION,
        as_of,
        family: family.to_owned(),
        customers: data.now.len(),
        purchasing: Vec::new(),
        spend: None,
        refund_rate,
        holdout: None,
        warnings: Vec::new(),
    };
    let predictor = spec.method.family().map(|_| {
        let mut tenure = Vec::new();
        match holdout_at {
            Some(at) => {
                let (holdout, means) = holdout::evaluate(spec, &data, at, as_of);
                metrics.holdout = Some(holdout);
                tenure = means;
            }
            None => metrics.warnings.push(
                "The history is too short to hold a part of it out: nothing says how well this does."
                    .to_owned(),
            ),
        }
        let fitted = fit(spec, &data.now, tenure);
        metrics.purchasing = fitted.purchasing;
        metrics.spend = fitted.spend;
        metrics.warnings.extend(fitted.warnings);
        fitted.predictor
    });
    let artifact = LifetimeValueArtifact {
        spec: spec.clone(),
        revenue: model.revenue.clone(),
        refunds: model.refunds.clone(),
        definitions: model.definitions.clone(),
        refund_rate,
        predictor,
    };
    (artifact, metrics)
}

/// A predictor with the fits that it consists of.
struct Fitted {
    predictor: Predictor,
    purchasing: Vec<PurchasingFit>,
    spend: Option<SpendFit>,
    warnings: Vec<String>,
}

fn fit(spec: &LifetimeValueSpec, customers: &[Customer], tenure: Vec<TenureMean>) -> Fitted {
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
                    "{repeaters} customers have bought again, fewer than {}: means of customers of the same age stand in for the model.",
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
    let correlation = holdout::correlation(&pairs);
    if correlation.abs() > CORRELATED {
        warnings.push(format!(
            "How often and how much customers buy are correlated ({correlation:.2}), which the model of spend does not allow for: check values by frequency against the holdout."
        ));
    }
    let parameters = ["p", "q", "v"].map(str::to_owned).to_vec();
    (used.then_some(model), Some(SpendFit { parameters, fit, correlation, used }))
}

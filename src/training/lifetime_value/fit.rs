//! Fits of purchases and of spend.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::lifetime_value::{Predictor, TenureMean};
use crate::artifact::purchases::Customer;
use crate::models::lifetime_value::maximum_likelihood::Fit;
use crate::models::lifetime_value::{Buyer, GammaGamma, Purchasing, Spend};
use crate::spec::LifetimeValueSpec;

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
    let predictor =
        Predictor { purchasing: of_all, cohorts, spend, mean_spend, tenure, correction: None };
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

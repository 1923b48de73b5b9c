//! Trains a model of lifetime value from gathered purchases, and tests it on a holdout.

mod correction;
mod data;
mod fit;
mod gate;
pub mod holdout;

use serde::{Deserialize, Serialize};

use self::fit::fit;
use self::gate::gate;
use self::holdout::{Evaluation, Holdout};

pub use self::correction::{Lesson, Trial};
pub(in crate::training) use self::data::take;
pub use self::data::{Holdouts, PurchaseData};
pub use self::fit::{PurchasingFit, SpendFit};
use crate::artifact::LifetimeValueArtifact;
use crate::artifact::lifetime_value::Predictor;
use crate::error::Result;
use crate::models::lifetime_value::maximum_likelihood::Fit;
use crate::spec::LifetimeValue;
use crate::time::Instant;
use crate::training::promotion::Gate;

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
    /// What the correction by the hurdle model was learnt from; `None` if there is no correction.
    #[serde(default)]
    pub lesson: Option<Lesson>,
    /// The conditions for the version to come into use; `None` if it predicts nothing.
    #[serde(default)]
    pub gate: Option<Gate>,
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
            false => "means of customers with the same tenure".to_owned(),
        }
    }
}

/// The name of the method that predicts no future purchases.
const HISTORIC: &str = "historic";

/// Fits the method of the spec and tests it on the holdout.
///
/// # Errors
/// Returns an engine error if the hurdle model does not converge.
pub fn train(
    model: &LifetimeValue,
    mut data: PurchaseData,
    as_of: Instant,
    holdouts: Option<Holdouts>,
) -> Result<(LifetimeValueArtifact, LifetimeValueMetrics)> {
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
        lesson: None,
        gate: None,
        warnings: Vec::new(),
    };
    let mut predictor = None;
    if spec.method.family().is_some() {
        let tested = holdouts.map(|holdouts| holdout::evaluate(spec, &data, holdouts, as_of));
        let (mut tenure, mut correction) = (Vec::new(), None);
        match tested.transpose()? {
            Some(Evaluation { holdout, tenure: means, learnt }) => {
                metrics.gate = Some(gate(&holdout));
                metrics.holdout = Some(holdout);
                tenure = means;
                (correction, metrics.lesson) = learnt.unzip();
            }
            None => {
                let found = "the history is too short to hold out a part of it".to_owned();
                metrics.gate = Some(Gate::untested("a test on a holdout", found));
            }
        }
        let fitted = fit(spec, &data.now, tenure);
        metrics.purchasing = fitted.purchasing;
        metrics.spend = fitted.spend;
        metrics.warnings.extend(fitted.warnings);
        predictor = Some(Predictor { correction, ..fitted.predictor });
    }
    let artifact = LifetimeValueArtifact {
        spec: spec.clone(),
        revenue: model.revenue.clone(),
        refunds: model.refunds.clone(),
        definitions: model.definitions(spec.horizon),
        refund_rate,
        predictor,
    };
    Ok((artifact, metrics))
}

//! The specs of models: `models/*.toml` as read, and checked against the features of the project.

mod affinity;
mod card;
mod classifier;
mod engagement;
mod lifetime_value;
mod problem;
mod rfm;

pub use affinity::{Affinity, AffinitySpec, BlendSpec, CheckedOffer, ITEM_COLUMNS, OfferSpec};
pub use card::CardSpec;
pub use classifier::{
    Algorithm, CalibrationSpec, ClassWeight, Classifier, ClassifierSpec, Eligible, EligibleSpec,
    EvaluationSpec, FitSpec, InputsSpec, LabelKind, LabelSpec, PromotionSpec, SENSITIVE,
    SnapshotsSpec,
};
pub use engagement::{ENGAGEMENT_COLUMNS, EngagementSpec};
pub use lifetime_value::{
    Cohort, FIRST_CHANNEL, FIRST_DAY_SPEND, FIRST_PURCHASE, LAST_PURCHASE, LifetimeValue,
    LifetimeValueMethod, LifetimeValueSpec, PURCHASE_DAYS, RECENT, SPEND, read_by,
};
pub use problem::SpecProblem;
pub use rfm::{RFM_COLUMNS, RfmSpec};

use crate::error::{Error, Result};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::expectation::{Against, Expectation, Rule};
use crate::features::spec::PREVIOUS;
use crate::sources::SourcePlan;
use crate::sources::profile::ProfilePlan;

/// The content of a file of `models/` other than `segments.toml`.
#[derive(Debug, Clone)]
pub enum ModelSpec {
    /// A calibrated probability of an event or of its absence.
    Classifier(Box<ClassifierSpec>),
    /// The engagement score, 0-100.
    Engagement(EngagementSpec),
    /// Recency, frequency and monetary value in quintiles.
    Rfm(RfmSpec),
    /// Affinity vectors and recommendations.
    Affinity(AffinitySpec),
    /// The lifetime value of a customer.
    LifetimeValue(LifetimeValueSpec),
}

/// A checked engagement or RFM model, with what it reads from the events.
#[derive(Debug, Clone)]
pub struct WithAggregations<S> {
    /// The spec as the file has it.
    pub spec: S,
    /// The aggregations that the model reads from the events.
    pub aggregations: Vec<Aggregation>,
}

/// All models of a project.
#[derive(Debug, Clone, Default)]
pub struct Models {
    /// The classifiers, such as churn and propensity.
    pub classifiers: Vec<Classifier>,
    /// The engagement score.
    pub engagement: Option<WithAggregations<EngagementSpec>>,
    /// The RFM scores.
    pub rfm: Option<WithAggregations<RfmSpec>>,
    /// The affinity model.
    pub affinity: Option<Affinity>,
    /// The lifetime value model.
    pub lifetime_value: Option<LifetimeValue>,
}

impl Models {
    /// Whether there is a model that is not a classifier.
    pub fn has_others(&self) -> bool {
        self.engagement.is_some()
            || self.rfm.is_some()
            || self.affinity.is_some()
            || self.lifetime_value.is_some()
    }

    /// Checks the specs, each given with the name of its file.
    pub fn check(
        specs: Vec<(String, ModelSpec)>,
        catalog: &Catalog,
        events: &SourcePlan,
        profile: &ProfilePlan,
    ) -> Result<Self> {
        let mut models = Self::default();
        let mut names: Vec<String> = Vec::new();
        let mut fields: Vec<String> = Vec::new();
        for (file, spec) in specs {
            let name = spec.name().to_owned();
            if names.contains(&name) {
                return Err(Error::duplicate(file, "model", name));
            }
            names.push(name);
            let taken = |there: bool| match there {
                true => Err(SpecProblem::SecondOfKind { file: file.clone() }),
                false => Ok(()),
            };
            match spec {
                ModelSpec::Classifier(spec) => {
                    let classifier =
                        Classifier::check(file.clone(), *spec, catalog, events, profile)?;
                    if fields.contains(&classifier.spec.writes) {
                        let field = classifier.spec.writes;
                        return Err(SpecProblem::FieldOfTwoModels { file, field }.into());
                    }
                    fields.push(classifier.spec.writes.clone());
                    models.classifiers.push(classifier);
                }
                ModelSpec::Engagement(spec) => {
                    taken(models.engagement.is_some())?;
                    let aggregations = engagement::aggregations(&file, &spec, events)?;
                    models.engagement = Some(WithAggregations { spec, aggregations });
                }
                ModelSpec::Rfm(spec) => {
                    taken(models.rfm.is_some())?;
                    let aggregations = rfm::aggregations(&file, &spec, events)?;
                    models.rfm = Some(WithAggregations { spec, aggregations });
                }
                ModelSpec::Affinity(spec) => {
                    taken(models.affinity.is_some())?;
                    models.affinity = Some(Affinity::check(&file, spec, events)?);
                }
                ModelSpec::LifetimeValue(spec) => {
                    taken(models.lifetime_value.is_some())?;
                    let model = LifetimeValue::check(&file, spec, catalog, events)?;
                    models.lifetime_value = Some(model);
                }
            }
        }
        models.check_expectations(catalog)?;
        Ok(models)
    }

    /// Checks the expectations that compare features with the training rows of a model: the model must
    /// exist and use the feature.
    fn check_expectations(&self, catalog: &Catalog) -> Result<()> {
        for view in &catalog.views {
            for Expectation { column, rule } in &view.expectations {
                let Rule::MaxPsi { against: Against::Model(name), .. } = rule else { continue };
                let place = format!("view {}: expect {column} against", view.name);
                let names = self.classifiers.iter().map(|model| model.spec.name.as_str());
                let Some(model) = self.classifiers.iter().find(|model| model.spec.name == *name)
                else {
                    let valid = names.chain([PREVIOUS]);
                    return Err(Error::unknown(place, "classifier", name, valid));
                };
                if !model.inputs.contains(column) {
                    let (column, model) = (column.clone(), name.clone());
                    return Err(SpecProblem::NotAnInput { place, column, model }.into());
                }
            }
        }
        Ok(())
    }

    /// Lists the models that give one score with a percentile, with the profile fields that they fill.
    pub fn fields(&self) -> Vec<(&str, &str)> {
        let classifiers = self.classifiers.iter().map(|m| (&*m.spec.name, &*m.spec.writes));
        let engagement = self.engagement.iter().map(|m| (&*m.spec.name, "engagement_score"));
        let value = self.lifetime_value.iter().map(|m| (&*m.spec.name, "lifetime_value"));
        classifiers.chain(engagement).chain(value).collect()
    }

    /// Lists the names of the models that are trained, in the order of training.
    pub fn trained(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.classifiers.iter().map(|m| m.spec.name.as_str()).collect();
        names.extend(self.engagement.iter().map(|m| m.spec.name.as_str()));
        names.extend(self.rfm.iter().map(|m| m.spec.name.as_str()));
        names.extend(self.lifetime_value.iter().map(|m| m.spec.name.as_str()));
        names.extend(self.affinity.iter().map(|m| m.spec.name.as_str()));
        names
    }
}

impl ModelSpec {
    /// The values of `kind` in a file.
    pub const KINDS: [&str; 5] = ["classifier", "engagement", "rfm", "affinity", "lifetime_value"];

    fn name(&self) -> &str {
        match self {
            Self::Classifier(spec) => &spec.name,
            Self::Engagement(spec) => &spec.name,
            Self::Rfm(spec) => &spec.name,
            Self::Affinity(spec) => &spec.name,
            Self::LifetimeValue(spec) => &spec.name,
        }
    }
}

/// Builds the SQL text `case event_type when … then …` from the weights.
fn weight_sql(weights: &std::collections::BTreeMap<String, f64>) -> String {
    let branches: Vec<String> = weights
        .iter()
        .map(|(kind, weight)| format!("when '{}' then {weight:?}", kind.replace('\'', "''")))
        .collect();
    format!("case event_type {} end", branches.join(" "))
}

fn kinds_sql(weights: &std::collections::BTreeMap<String, f64>) -> String {
    let kinds: Vec<String> =
        weights.keys().map(|kind| format!("'{}'", kind.replace('\'', "''"))).collect();
    format!("event_type in ({})", kinds.join(", "))
}

fn check_weights(
    file: &str,
    weights: &std::collections::BTreeMap<String, f64>,
    events: &SourcePlan,
) -> Result<()> {
    let wrong = weights.iter().find(|(_, weight)| !weight.is_finite() || **weight <= 0.0);
    if let Some((kind, weight)) = wrong {
        let setting = format!("weights.{kind}");
        return Err(Error::setting(file, setting, weight, "above 0", "purchase = 10.0"));
    }
    if weights.is_empty() {
        let required = "a table of event types with numbers";
        return Err(Error::setting(file, "weights", "{}", required, "purchase = 10.0"));
    }
    for kind in weights.keys() {
        if !events.event_types.contains(kind) {
            let place = format!("{file}: weights");
            return Err(Error::unknown(place, "event type", kind, &events.event_types));
        }
    }
    Ok(())
}

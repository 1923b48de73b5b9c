//! What scoring asks of the events.

use super::champions::Champions;
use super::engagement;
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::plan::{AsOf, FeaturePlan, Interactions};
use crate::features::spec::Op;
use crate::sources::SourcePlan;
use crate::spec::{Classifier, Models};
use crate::time::{Instant, Window};

/// The plan of all features of the catalog, and of [`FIRST_EVENT`].
pub const FEATURES: &str = "features";
/// The plan of engagement as it was before.
pub const PAST_ENGAGEMENT: &str = "engagement before";
/// The plan of the interactions that affinity is worked out from.
pub const INTERACTIONS: &str = "interactions";
/// The plan of the same over categories, where the items are none.
pub const CATEGORIES: &str = "interactions by category";
/// When a customer's first event was.
pub const FIRST_EVENT: &str = "profile__first_event";

/// The name of a model's own plan.
pub fn of_model(name: &str) -> String {
    format!("model {name}")
}

/// The catalog's plan, one for each version, and those that are of another as-of or of items.
pub fn plans(
    catalog: &Catalog,
    champions: &Champions,
    source: &SourcePlan,
    as_of: AsOf,
) -> Vec<FeaturePlan> {
    let all: Vec<&str> = catalog.features.iter().map(|feature| feature.column()).collect();
    let mut features = FeaturePlan::of_catalog(FEATURES, catalog, all, vec![as_of]);
    features.give(Aggregation {
        column: FIRST_EVENT.into(),
        op: Op::Min,
        input: Some(Expression::column("event_ts", Type::Timestamp)),
        condition: None,
        window: Window::Lifetime,
        half_life: None,
        ty: Type::Timestamp,
    });
    let now = |name: &str| FeaturePlan::new(of_model(name), vec![as_of]);
    let mut list = vec![features];
    list.extend(champions.classifiers.iter().map(|c| c.artifact.plan(now(&c.name))));
    if let Some(champion) = &champions.engagement {
        let aggregations = &champion.artifact.aggregations;
        list.push(given(aggregations, now(&champion.name)));
        let then = AsOf { at: as_of.at.minus(engagement::TREND), ..as_of };
        list.push(given(aggregations, FeaturePlan::new(PAST_ENGAGEMENT, vec![then])));
    }
    if let Some(champion) = &champions.rfm {
        list.push(given(&champion.artifact.aggregations, now(&champion.name)));
    }
    list.extend(champions.lifetime_value.iter().map(|c| c.artifact.plan(now(&c.name))));
    if let Some(champion) = &champions.affinity {
        let plan = |name: &str, interactions| FeaturePlan {
            interactions: Some(interactions),
            ..FeaturePlan::new(name, vec![as_of])
        };
        let own = &champion.artifact.interactions;
        list.push(plan(INTERACTIONS, own.clone()));
        list.extend(by_category(own, source).map(|by_category| plan(CATEGORIES, by_category)));
    }
    list
}

/// What versions trained by the specs of today would ask, whose as-ofs do not matter.
pub fn plans_of(catalog: &Catalog, models: &Models, source: &SourcePlan) -> Vec<FeaturePlan> {
    let never = AsOf::at(Instant(0));
    let mut list = plans(catalog, &Champions::default(), source, never);
    let recency = models.classifiers.iter().map(Classifier::recency);
    list.extend(recency.map(|recency| given(&[recency], FeaturePlan::default())));
    let aggregations = [
        models.engagement.as_ref().map(|model| &model.aggregations),
        models.rfm.as_ref().map(|model| &model.aggregations),
    ];
    list.extend(aggregations.into_iter().flatten().map(|of| given(of, FeaturePlan::default())));
    list.extend(models.lifetime_value.iter().map(|model| model.plan(FeaturePlan::default())));
    if let Some(model) = &models.affinity {
        let own = [Some(model.interactions.clone()), by_category(&model.interactions, source)];
        list.extend(own.into_iter().flatten().map(|interactions| FeaturePlan {
            interactions: Some(interactions),
            ..FeaturePlan::default()
        }));
    }
    list
}

/// Whether interactions are with categories.
pub fn are_of_categories(interactions: &Interactions) -> bool {
    interactions.item == category()
}

/// The same interactions over categories, where the items are none and events have some.
fn by_category(own: &Interactions, source: &SourcePlan) -> Option<Interactions> {
    let apart = !are_of_categories(own) && source.columns().get("category").is_some();
    apart.then(|| Interactions { item: category(), ..own.clone() })
}

fn category() -> Expression {
    Expression::column("category", Type::Text)
}

/// A plan that gives these.
fn given(list: &[Aggregation], mut plan: FeaturePlan) -> FeaturePlan {
    list.iter().for_each(|aggregation| plan.give(aggregation.clone()));
    plan
}

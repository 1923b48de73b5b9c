//! The plans that scoring asks the events for.

use super::champions::Champions;
use super::engagement;
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::plan::{AsOf, FeaturePlan, Interactions};
use crate::features::spec::Op;
use crate::sources::SourcePlan;
use crate::spec::{Classifier, Models};
use crate::time::{Instant, Window};

/// The name of the plan of all features of the catalog, with [`FIRST_EVENT`].
pub const FEATURES: &str = "features";
/// The name of the plan of engagement at the earlier as-of of the trend.
pub const PAST_ENGAGEMENT: &str = "engagement before";
/// The name of the plan of the interactions that affinity is computed from.
pub const INTERACTIONS: &str = "interactions";
/// The name of the plan of interactions with categories. It exists if the items are not categories.
pub const CATEGORIES: &str = "interactions by category";
/// The column with the time of a customer's first event.
pub const FIRST_EVENT: &str = "profile__first_event";

/// The name of a model's own plan.
pub fn of_model(name: &str) -> String {
    format!("model {name}")
}

/// Lists the plans of a scoring run: one for the catalog, one for each version, and those for the trend
/// of engagement and for interactions.
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

/// Lists the plans that versions trained with the current specs would ask for. Their as-ofs have no
/// meaning.
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
    let value = models.lifetime_value.iter();
    list.extend(value.map(|model| model.plan(FeaturePlan::default(), model.spec.horizon)));
    if let Some(model) = &models.affinity {
        let own = [Some(model.interactions.clone()), by_category(&model.interactions, source)];
        list.extend(own.into_iter().flatten().map(|interactions| FeaturePlan {
            interactions: Some(interactions),
            ..FeaturePlan::default()
        }));
    }
    list
}

/// Whether the items of interactions are categories.
pub fn are_of_categories(interactions: &Interactions) -> bool {
    interactions.item == category()
}

/// The same interactions with categories as items. Returns `None` if the items are categories already, or
/// if events have no category.
fn by_category(own: &Interactions, source: &SourcePlan) -> Option<Interactions> {
    let apart = !are_of_categories(own) && source.columns().get("category").is_some();
    apart.then(|| Interactions { item: category(), ..own.clone() })
}

fn category() -> Expression {
    Expression::column("category", Type::Text)
}

/// Adds these aggregations to a plan as outputs.
fn given(list: &[Aggregation], mut plan: FeaturePlan) -> FeaturePlan {
    list.iter().for_each(|aggregation| plan.give(aggregation.clone()));
    plan
}

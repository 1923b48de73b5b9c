//! The spec of taste vectors and recommendations, and what they need of the events.

use serde::{Deserialize, Serialize};

use super::{check_weights, weight_sql};
use crate::error::{Error, Result};
use crate::expression::check::{check, check_as};
use crate::expression::{Columns, Expression, Type};
use crate::features::plan::Interactions;
use crate::sources::items::ItemTable;
use crate::sources::{SourceContext, SourcePlan};
use crate::time::{Duration, Window};

/// A model of `kind = "affinity"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinitySpec {
    /// The model's name.
    pub name: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// The item: an expression over the events, `category` or `product_id`.
    pub item: String,
    /// The weight of an event type; others weigh nothing.
    pub weights: std::collections::BTreeMap<String, f64>,
    /// Weights halve with this age.
    pub half_life: Duration,
    /// How far to look back.
    pub window: Duration,
    /// The length of the vectors.
    pub factors: usize,
    /// The L2 penalty.
    pub regularization: f64,
    /// Confidence is 1 + alpha x weight (Hu, Koren and Volinsky 2008).
    pub alpha: f64,
    /// Alternations of the solver.
    pub iterations: usize,
    /// The seed of the first item factors.
    pub seed: u64,
    /// Recommendations per customer.
    pub top: usize,
    /// Whether items that a customer has interacted with may be recommended to them.
    pub repeat: bool,
    /// The share of a customer's own interactions in the score of an item, beside the factors; by
    /// default what ranks the past best.
    #[serde(default)]
    pub own: Option<f64>,
    /// How much of the latest past is foretold to choose and to test.
    #[serde(default = "default_horizon")]
    pub horizon: Duration,
    /// An item that was not had for so long is new to a customer, where that is tested.
    #[serde(default = "default_new_after")]
    pub new_after: Duration,
    /// What may be recommended.
    #[serde(default)]
    pub offer: OfferSpec,
}

impl AffinitySpec {
    /// What of the spec a version was trained with, the rest taken from `now`: what is recommended is
    /// read anew at every scoring.
    pub fn fitted(&self, now: &Self) -> Self {
        Self { top: now.top, repeat: now.repeat, offer: now.offer.clone(), ..self.clone() }
    }
}

/// The `[offer]` table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferSpec {
    /// A table of items, Parquet, relative to the project.
    #[serde(default)]
    pub items: Option<String>,
    /// Its column that has the item.
    #[serde(default)]
    pub key: Option<String>,
    /// Which items may be recommended: a predicate over the table, `item`, `customers` (who have it) and
    /// `weight` (of all interactions with it).
    #[serde(default, rename = "where")]
    pub condition: Option<String>,
    /// The category of an item: an expression over the same.
    #[serde(default)]
    pub category: Option<String>,
    /// How many items of one category a customer gets at most.
    #[serde(default)]
    pub most_per_category: Option<usize>,
}

/// What may be recommended, checked.
#[derive(Debug, Clone, Default)]
pub struct CheckedOffer {
    /// The table of items.
    pub items: Option<ItemTable>,
    /// Which items may be recommended.
    pub condition: Option<Expression>,
    /// The category of an item, and how many of one there may be.
    pub cap: Option<(Expression, usize)>,
}

/// Columns that every item has.
pub const ITEM_COLUMNS: [(&str, Type); 3] =
    [("item", Type::Text), ("customers", Type::Integer), ("weight", Type::Double)];

impl CheckedOffer {
    fn check(file: &str, spec: &OfferSpec, context: &SourceContext) -> Result<Self> {
        let place = format!("{file}: offer");
        let items = match (&spec.items, &spec.key) {
            (Some(path), Some(key)) => Some(ItemTable::open(path, key, context, &place)?),
            (None, None) => None,
            _ => {
                return Err(Error::configuration(
                    format!("{place} has one of items and key, and not the other"),
                    "items = \"data/products.parquet\", key = \"product_id\"",
                ));
            }
        };
        let mut columns = items.as_ref().map_or_else(
            || Columns::new(context.scale, []),
            |items| items.table.columns(context.scale),
        );
        for (name, ty) in ITEM_COLUMNS {
            columns.insert(name, ty);
        }
        let condition = spec.condition.as_ref();
        let condition = condition
            .map(|sql| check_as(sql, Type::Boolean, &columns, &format!("{place} where")))
            .transpose()?;
        let cap = match (&spec.category, spec.most_per_category) {
            (Some(sql), Some(most)) if most > 0 => {
                let category = check(sql, &columns, &format!("{place} category"))?;
                Some((category.cast(Type::Text), most))
            }
            (None, None) => None,
            _ => {
                return Err(Error::configuration(
                    format!("{place} wants both category and most_per_category, at least 1"),
                    "category = \"department\", most_per_category = 2",
                ));
            }
        };
        Ok(Self { items, condition, cap })
    }
}

fn default_horizon() -> Duration {
    Duration::days(30)
}

fn default_new_after() -> Duration {
    Duration::days(90)
}

/// A checked affinity model.
#[derive(Debug, Clone)]
pub struct Affinity {
    /// As the file says.
    pub spec: AffinitySpec,
    /// What it needs of the events.
    pub interactions: Interactions,
    /// What is foretold: the events of the greatest weight.
    pub later: Interactions,
    /// The same, over what is not new to a customer.
    pub recent: Interactions,
    /// What may be recommended.
    pub offer: CheckedOffer,
}

impl Affinity {
    pub(super) fn check(file: &str, spec: AffinitySpec, events: &SourcePlan) -> Result<Self> {
        let interactions = interactions(file, &spec, events)?;
        let most = spec.weights.values().copied().fold(0.0, f64::max);
        let main = spec.weights.iter().filter(|(_, weight)| **weight == most);
        let once = main.map(|(kind, _)| (kind.clone(), 1.0)).collect();
        let weight = check_as(&weight_sql(&once), Type::Double, &events.columns(), file)?;
        let main = |window: Duration| Interactions {
            weight: weight.clone(),
            window: Window::Trailing(window),
            half_life: NEVER,
            ..interactions.clone()
        };
        let (later, recent) = (main(spec.horizon), main(spec.new_after));
        let offer = CheckedOffer::check(file, &spec.offer, &events.context)?;
        Ok(Self { spec, interactions, later, recent, offer })
    }
}

/// A half-life after which nothing is less by a bit that counts.
const NEVER: Duration = Duration::days(100_000_000);

fn interactions(file: &str, spec: &AffinitySpec, events: &SourcePlan) -> Result<Interactions> {
    check_weights(file, &spec.weights, events)?;
    let positive = [spec.regularization, spec.alpha];
    if !(1..=256).contains(&spec.factors)
        || spec.iterations == 0
        || spec.top == 0
        || spec.half_life.0 == 0
        || spec.horizon.0 == 0
        || spec.new_after.0 == 0
        || spec.own.is_some_and(|own| !(0.0..=1e6).contains(&own))
        || positive.iter().any(|value| !value.is_finite() || *value <= 0.0)
    {
        return Err(Error::configuration(
            format!(
                "{file}: factors (1-256), iterations, top, half_life, regularization, alpha, own, horizon or new_after is off"
            ),
            "factors = 16, regularization = 1.0, alpha = 2.0, iterations = 15, half_life = \"60d\"",
        ));
    }
    let columns = events.columns();
    let item = check(&spec.item, &columns, &format!("{file}: item"))?;
    if !matches!(item.ty, Type::Text | Type::Integer) {
        let message = format!("{file}: item has type {}", item.ty.name());
        return Err(Error::configuration(message, "an item is text or an integer"));
    }
    let weight = check_as(&weight_sql(&spec.weights), Type::Double, &columns, file)?;
    let window = Window::Trailing(spec.window);
    Ok(Interactions { item, weight, window, half_life: spec.half_life })
}

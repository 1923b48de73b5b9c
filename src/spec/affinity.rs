//! The spec of an affinity model, with its recommendations and what it reads from the events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CardSpec, SpecProblem, check_weights, weight_sql};
use crate::error::{Error, Result};
use crate::expression::check::{check, check_as};
use crate::expression::{Columns, Expression, Type};
use crate::features::plan::Interactions;
use crate::models::affinity::Blend;
use crate::sources::items::ItemTable;
use crate::sources::{SourceContext, SourcePlan};
use crate::time::{Duration, Window};

/// The spec of a model of `kind = "affinity"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AffinitySpec {
    /// The name of the model.
    pub name: String,
    /// A description for readers.
    #[serde(default)]
    pub description: String,
    /// The item, as an expression over the events: `category` or `product_id`.
    pub item: String,
    /// The weight of each event type. Events of other types are ignored.
    pub weights: std::collections::BTreeMap<String, f64>,
    /// The age at which the weight of an event is halved.
    #[serde(default = "default_half_life")]
    pub half_life: Duration,
    /// The length of time before the as-of from which events count, or `lifetime`.
    #[serde(default = "default_window")]
    pub window: Window,
    /// The number of factors, which is the length of the vectors.
    #[serde(default = "default_factors")]
    pub factors: usize,
    /// The L2 penalty.
    #[serde(default = "default_regularization")]
    pub regularization: f64,
    /// The factor of the confidence 1 + alpha x weight (Hu, Koren and Volinsky 2008).
    #[serde(default = "default_alpha")]
    pub alpha: f64,
    /// The number of alternations of the solver.
    #[serde(default = "default_iterations")]
    pub iterations: usize,
    /// The seed of the first item factors.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The number of recommendations per customer.
    #[serde(default = "default_top")]
    pub top: usize,
    /// Whether items that a customer has interacted with may be recommended to them.
    #[serde(default = "default_repeat")]
    pub repeat: bool,
    /// The weights of the parts of an item's score. By default, those are chosen that rank past interactions best.
    #[serde(default)]
    pub blend: BlendSpec,
    /// The length of the latest past that is predicted, first to choose the weights and then to test.
    #[serde(default = "default_horizon")]
    pub horizon: Duration,
    /// The time without an interaction after which an item counts as new to a customer in the test.
    #[serde(default = "default_new_after")]
    pub new_after: Duration,
    /// The items that may be recommended.
    #[serde(default)]
    pub offer: OfferSpec,
    /// The owner, the intended use and the limits for the model's report.
    #[serde(default, skip_serializing_if = "CardSpec::is_empty")]
    pub card: CardSpec,
}

impl AffinitySpec {
    /// Combines the fitted settings of this spec with the recommendation settings of `now`. What may be
    /// recommended is read again at every scoring.
    pub fn fitted(&self, now: &Self) -> Self {
        Self { top: now.top, repeat: now.repeat, offer: now.offer.clone(), ..self.clone() }
    }
}

/// The `[blend]` table. A weight that is not set is chosen at training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlendSpec {
    /// The weight of the product of the factors.
    #[serde(default)]
    pub factors: Option<f64>,
    /// The weight of the customer's own interactions, where 1 is their greatest with any item.
    #[serde(default)]
    pub own: Option<f64>,
    /// The weight of the similarity to the customer's own items, where 1 is the greatest of any item.
    #[serde(default)]
    pub similar: Option<f64>,
    /// The weight of the popularity of the item, where 1 is that of the most popular item.
    #[serde(default)]
    pub popular: Option<f64>,
}

impl BlendSpec {
    /// The weights that are set, in the order of [`Blend::weights`].
    pub fn weights(&self) -> [Option<f64>; 4] {
        [self.factors, self.own, self.similar, self.popular]
    }

    /// The weights that are set, and those of `usual` where none is.
    pub fn or(&self, usual: Blend) -> Blend {
        let [factors, own, similar, popular] = usual.weights();
        Blend {
            factors: self.factors.unwrap_or(factors),
            own: self.own.unwrap_or(own),
            similar: self.similar.unwrap_or(similar),
            popular: self.popular.unwrap_or(popular),
        }
    }
}

/// The `[offer]` table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OfferSpec {
    /// The path of a Parquet table of items, relative to the project.
    #[serde(default)]
    pub items: Option<String>,
    /// The column of the table that has the item.
    #[serde(default)]
    pub key: Option<String>,
    /// A predicate for the items that may be recommended, over the columns of the table, `item`,
    /// `customers` (the number who have it) and `weight` (of all interactions with it).
    #[serde(default, rename = "where")]
    pub condition: Option<String>,
    /// The category of an item, as an expression over the same columns.
    #[serde(default)]
    pub category: Option<String>,
    /// The maximum number of recommendations of one category per customer.
    #[serde(default)]
    pub most_per_category: Option<usize>,
}

/// The checked rules for the items that may be recommended.
#[derive(Debug, Clone, Default)]
pub struct CheckedOffer {
    /// The table of items.
    pub items: Option<ItemTable>,
    /// The predicate for the items that may be recommended.
    pub condition: Option<Expression>,
    /// The category of an item, and the maximum number of recommendations of one category.
    pub cap: Option<(Expression, usize)>,
}

/// The columns that every item has.
pub const ITEM_COLUMNS: [(&str, Type); 3] =
    [("item", Type::Text), ("customers", Type::Integer), ("weight", Type::Double)];

impl CheckedOffer {
    fn check(file: &str, spec: &OfferSpec, context: &SourceContext) -> Result<Self> {
        let place = format!("{file}: offer");
        let items = match (&spec.items, &spec.key) {
            (Some(path), Some(key)) => Some(ItemTable::open(path, key, context, &place)?),
            (None, None) => None,
            _ => {
                let (first, second) = ("items", "key");
                let example = "items = \"data/products.parquet\", key = \"product_id\"";
                return Err(SpecProblem::HalfAPair { place, first, second, example }.into());
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
                let (first, second) = ("category", "most_per_category above 0");
                let example = "category = \"department\", most_per_category = 2";
                return Err(SpecProblem::HalfAPair { place, first, second, example }.into());
            }
        };
        Ok(Self { items, condition, cap })
    }
}

fn default_half_life() -> Duration {
    Duration::days(60)
}

fn default_window() -> Window {
    Window::Trailing(Duration::days(365))
}

fn default_factors() -> usize {
    16
}

fn default_regularization() -> f64 {
    1.0
}

fn default_alpha() -> f64 {
    2.0
}

fn default_iterations() -> usize {
    15
}

fn default_seed() -> u64 {
    7
}

fn default_top() -> usize {
    10
}

fn default_repeat() -> bool {
    true
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
    /// The spec as the file has it.
    pub spec: AffinitySpec,
    /// The interactions that the model reads from the events.
    pub interactions: Interactions,
    /// The interactions to predict: the events of the greatest weight within the horizon.
    pub later: Interactions,
    /// The same events within `new_after`. Their items are not new to a customer.
    pub recent: Interactions,
    /// The items that may be recommended.
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

/// A half-life so long that weights do not decay noticeably.
const NEVER: Duration = Duration::days(100_000_000);

fn check_numbers(file: &str, spec: &AffinitySpec) -> Result<()> {
    let wrong = |name: &str, value: String, required: &str, example: &str| {
        Err(Error::setting(file, name, value, required, format!("{name} = {example}")))
    };
    if !(1..=256).contains(&spec.factors) {
        return wrong("factors", spec.factors.to_string(), "between 1 and 256", "16");
    }
    for (name, number, example) in [("iterations", spec.iterations, "15"), ("top", spec.top, "10")]
    {
        if number == 0 {
            return wrong(name, number.to_string(), "at least 1", example);
        }
    }
    let lengths = [
        ("half_life", spec.half_life, "\"60d\""),
        ("horizon", spec.horizon, "\"30d\""),
        ("new_after", spec.new_after, "\"30d\""),
    ];
    for (name, length, example) in lengths {
        if length.0 == 0 {
            return wrong(name, length.to_string(), "longer than 0", example);
        }
    }
    let positive = [("regularization", spec.regularization, "1.0"), ("alpha", spec.alpha, "2.0")];
    for (name, number, example) in positive {
        if !number.is_finite() || number <= 0.0 {
            return wrong(name, number.to_string(), "above 0", example);
        }
    }
    let BlendSpec { factors, own, similar, popular } = spec.blend;
    let weights = [("factors", factors), ("own", own), ("similar", similar), ("popular", popular)];
    for (name, weight) in weights {
        if let Some(weight) = weight.filter(|weight| !(0.0..=1e6).contains(weight)) {
            let (name, example) = (format!("blend.{name}"), "1.0");
            return wrong(&name, weight.to_string(), "between 0 and 1000000", example);
        }
    }
    match spec.blend.weights() == [Some(0.0); 4] {
        true => wrong(
            "blend",
            "all weights 0".to_owned(),
            "at least one weight above 0",
            "{ own = 1.0 }",
        ),
        false => Ok(()),
    }
}

fn interactions(file: &str, spec: &AffinitySpec, events: &SourcePlan) -> Result<Interactions> {
    check_weights(file, &spec.weights, events)?;
    check_numbers(file, spec)?;
    let columns = events.columns();
    let item = check(&spec.item, &columns, &format!("{file}: item"))?;
    if !matches!(item.ty, Type::Text | Type::Integer) {
        let required = format!("of type text or integer, not {}", item.ty.name());
        let example = "item = \"product_id\"";
        return Err(Error::setting(file, "item", &spec.item, required, example));
    }
    let weight = check_as(&weight_sql(&spec.weights), Type::Double, &columns, file)?;
    Ok(Interactions { item, weight, window: spec.window, half_life: spec.half_life })
}

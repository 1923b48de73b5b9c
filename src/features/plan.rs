//! What an engine is asked for: aggregations and derived columns at some as-ofs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::catalog::{Aggregation, Catalog, Definition, Derived};
use crate::expression::{Expression, Type};
use crate::time::{Duration, Instant, Window};

/// The instant a snapshot is true for, and before which its events must have been ingested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AsOf {
    /// Events before this instant count.
    pub at: Instant,
    /// What had been ingested before this instant may be used.
    pub known_at: Instant,
}

impl AsOf {
    /// An as-of at which everything is known that happened before it.
    pub fn at(at: Instant) -> Self {
        Self { at, known_at: at }
    }
}

/// Per customer and item the decayed weight of their events: the input of a recommender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interactions {
    /// The item, text or integer.
    pub item: Expression,
    /// The weight of an event, a double; null or not positive leaves it out.
    pub weight: Expression,
    /// How far to look back.
    pub window: Window,
    /// Weights halve with this age.
    pub half_life: Duration,
}

/// Columns to compute for every customer at each as-of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FeaturePlan {
    /// What its rows are found by; no two plans that are asked for together have the same.
    pub name: String,
    /// Computed from events.
    pub aggregations: Vec<Aggregation>,
    /// Computed from other columns, in this order.
    pub derived: Vec<Derived>,
    /// The columns to give, in this order; the others are only used on the way.
    pub outputs: Vec<String>,
    /// Interactions instead of columns.
    pub interactions: Option<Interactions>,
    /// When.
    pub as_ofs: Vec<AsOf>,
    /// When for each customer, by key, instead of the same for all; only `features join` asks so.
    #[serde(skip)]
    pub own: Option<Arc<OwnAsOfs>>,
}

/// As-ofs of customers by key, each ascending and without repetition. A customer has a row for each of
/// their own, of nulls where there was neither a profile nor an event of theirs before it.
pub type OwnAsOfs = HashMap<String, Vec<AsOf>>;

impl FeaturePlan {
    /// A plan that asks for nothing yet.
    pub fn new(name: impl Into<String>, as_ofs: Vec<AsOf>) -> Self {
        Self { name: name.into(), as_ofs, ..Self::default() }
    }

    /// A plan for some columns of the catalog.
    pub fn of_catalog<'a>(
        name: impl Into<String>,
        catalog: &Catalog,
        columns: impl IntoIterator<Item = &'a str>,
        as_ofs: Vec<AsOf>,
    ) -> Self {
        let outputs: Vec<&str> = columns.into_iter().collect();
        let wanted: BTreeSet<&str> = outputs.iter().copied().collect();
        let mut plan = Self::new(name, as_ofs);
        for feature in catalog.closure(&wanted) {
            plan.define(&feature.definition);
        }
        plan.outputs = outputs.into_iter().map(str::to_owned).collect();
        plan
    }

    /// Adds a definition unless its column is already there.
    pub fn define(&mut self, definition: &Definition) {
        match definition {
            Definition::Aggregation(aggregation) => {
                if !self.aggregations.iter().any(|other| other.column == aggregation.column) {
                    self.aggregations.push(aggregation.clone());
                }
            }
            Definition::Derived(derived) => {
                if !self.derived.iter().any(|other| other.column == derived.column) {
                    self.derived.push(derived.clone());
                }
            }
        }
    }

    /// Adds an aggregation and gives its column out.
    pub fn give(&mut self, aggregation: Aggregation) {
        if !self.outputs.contains(&aggregation.column) {
            self.outputs.push(aggregation.column.clone());
        }
        self.define(&Definition::Aggregation(aggregation));
    }

    /// Every as-of of the plan.
    pub fn all_as_ofs(&self) -> impl Iterator<Item = &AsOf> {
        let own = self.own.iter().flat_map(|own| own.values().flatten());
        self.as_ofs.iter().chain(own)
    }

    /// The type of a column of this plan.
    pub fn type_of(&self, column: &str) -> Option<Type> {
        let aggregation = self.aggregations.iter().find(|a| a.column == column).map(|a| a.ty);
        aggregation
            .or_else(|| self.derived.iter().find(|d| d.column == column).map(|d| d.expression.ty))
    }
}

//! Plans: requests for aggregations and derived features at some as-ofs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::catalog::{Aggregation, Catalog, Definition, Derived};
use crate::expression::{Expression, Type};
use crate::time::{Duration, Instant, Window};

/// An as-of with its known-at: the instant that values are computed for, and the instant before which the
/// events must have been ingested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AsOf {
    /// The as-of. Only events before this instant count.
    pub at: Instant,
    /// The known-at. Only events that were ingested before this instant count.
    pub known_at: Instant,
}

impl AsOf {
    /// An as-of whose known-at is the same instant.
    pub fn at(at: Instant) -> Self {
        Self { at, known_at: at }
    }
}

/// A request for the decayed weights of the events of each customer by item, which are the input of a
/// recommender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interactions {
    /// The expression of the item, which is text or an integer.
    pub item: Expression,
    /// The expression of the weight of an event, which is a double. Events whose weight is null or not
    /// positive are left out.
    pub weight: Expression,
    /// The window of the events.
    pub window: Window,
    /// The age at which the weight of an event has halved.
    pub half_life: Duration,
}

/// A request for columns of every customer at each as-of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FeaturePlan {
    /// The name by which the rows of the plan are found. Plans that are computed together must have different
    /// names.
    pub name: String,
    /// The aggregations to compute from events.
    pub aggregations: Vec<Aggregation>,
    /// The derived features to compute from other columns, in this order.
    pub derived: Vec<Derived>,
    /// The columns to return, in this order. Other columns are computed only as intermediate results.
    pub outputs: Vec<String>,
    /// The interactions to compute instead of columns.
    pub interactions: Option<Interactions>,
    /// The as-ofs for all customers.
    pub as_ofs: Vec<AsOf>,
    /// The as-ofs of each customer by key, instead of the same as-ofs for all. Only `features join` uses
    /// this.
    #[serde(skip)]
    pub own: Option<Arc<OwnAsOfs>>,
}

/// The as-ofs of customers by key, each list ascending and without repetitions.
///
/// A customer has one row per as-of. It consists of nulls if neither a profile nor an event of the customer
/// existed before the as-of.
pub type OwnAsOfs = HashMap<String, Vec<AsOf>>;

impl FeaturePlan {
    /// Creates a plan without columns.
    pub fn new(name: impl Into<String>, as_ofs: Vec<AsOf>) -> Self {
        Self { name: name.into(), as_ofs, ..Self::default() }
    }

    /// Creates a plan for some columns of the catalog.
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

    /// Adds a definition unless the plan already has a definition of its column.
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

    /// Adds an aggregation and makes its column an output.
    pub fn give(&mut self, aggregation: Aggregation) {
        if !self.outputs.contains(&aggregation.column) {
            self.outputs.push(aggregation.column.clone());
        }
        self.define(&Definition::Aggregation(aggregation));
    }

    /// All as-ofs of the plan, including those of single customers.
    pub fn all_as_ofs(&self) -> impl Iterator<Item = &AsOf> {
        let own = self.own.iter().flat_map(|own| own.values().flatten());
        self.as_ofs.iter().chain(own)
    }

    /// The type of a column of the plan.
    pub fn type_of(&self, column: &str) -> Option<Type> {
        let aggregation = self.aggregations.iter().find(|a| a.column == column).map(|a| a.ty);
        aggregation
            .or_else(|| self.derived.iter().find(|d| d.column == column).map(|d| d.expression.ty))
    }
}

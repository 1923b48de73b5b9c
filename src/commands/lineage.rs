//! The lineage of a feature: its origins and its uses.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::config::Project;
use crate::features::catalog::{Definition, Feature};

/// The lineage of a feature: source columns -> features -> models, segments and profile fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lineage {
    /// The columns of the event files and the lookup tables that the feature is computed from.
    pub source: BTreeSet<String>,
    /// The features that the feature is computed from.
    pub from: BTreeSet<String>,
    /// The features that are computed from it, directly or through others.
    pub into: BTreeSet<String>,
    /// The models that use the feature or one computed from it.
    pub models: BTreeSet<String>,
    /// The segments whose rules use the feature or one computed from it.
    pub segments: BTreeSet<String>,
    /// The profile fields that the feature or one computed from it fills, directly or through a model.
    pub fields: BTreeSet<String>,
}

/// Computes the lineage of a feature of the project's catalog.
pub fn lineage(project: &Project, feature: &Feature) -> Lineage {
    let catalog = &project.catalog;
    let name = feature.column();
    let mut lineage = Lineage::default();
    let closure = catalog.closure(&BTreeSet::from([name]));
    let others = closure.iter().filter(|from| from.column() != name);
    lineage.from.extend(others.map(|from| from.column().to_owned()));
    lineage.source = raw_columns(project, closure.iter().map(|from| &from.definition));
    let comes_from = |other: &Feature| {
        let closure = catalog.closure(&BTreeSet::from([other.column()]));
        closure.iter().any(|from| from.column() == name)
    };
    let within: Vec<&Feature> = catalog.features.iter().filter(|f| comes_from(f)).collect();
    let has = |column: &str| within.iter().any(|feature| feature.column() == column);
    lineage.fields.extend(within.iter().filter_map(|feature| feature.writes.clone()));
    let others = within.iter().filter(|other| other.column() != name);
    lineage.into.extend(others.map(|other| other.column().to_owned()));
    for model in &project.models.classifiers {
        if model.inputs.iter().any(|input| has(input)) {
            lineage.models.insert(model.spec.name.clone());
            lineage.fields.insert(model.spec.writes.clone());
        }
    }
    for rule in &project.segments.rules {
        let columns = [&rule.enter, &rule.stay].into_iter().flat_map(|x| x.columns());
        if columns.into_iter().any(has) {
            lineage.segments.insert(rule.spec.name.clone());
        }
    }
    lineage
}

/// The columns of the event files and lookup tables that aggregations are computed from.
pub fn raw_columns<'a>(
    project: &Project,
    definitions: impl IntoIterator<Item = &'a Definition>,
) -> BTreeSet<String> {
    let mut columns = BTreeSet::new();
    for definition in definitions {
        let Definition::Aggregation(aggregation) = definition else { continue };
        for expression in aggregation.input.iter().chain(&aggregation.condition) {
            let raw = project.events.raw(expression);
            columns.extend(raw.columns().into_iter().map(str::to_owned));
        }
        // Every aggregation depends on the time and the customer of an event.
        for column in ["customer360_id", "event_ts"] {
            let raw = project.events.mapping.get(column).map(|x| x.columns());
            columns.extend(raw.into_iter().flatten().map(str::to_owned));
        }
    }
    columns
}

//! What a feature comes from, and what comes from it.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::config::Project;
use crate::features::catalog::{Definition, Feature};

/// Source columns -> features -> models, segments and profile fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lineage {
    /// Columns of the event files and lookup tables.
    pub source: BTreeSet<String>,
    /// Features that it is computed from.
    pub from: BTreeSet<String>,
    /// Features that are computed from it, at whatever remove.
    pub into: BTreeSet<String>,
    /// Models that see it or what comes from it.
    pub models: BTreeSet<String>,
    /// Segments whose rules name it or what comes from it.
    pub segments: BTreeSet<String>,
    /// Profile fields that it or what comes from it fills, by itself or by a model.
    pub fields: BTreeSet<String>,
}

/// The lineage of a feature of the project's catalog.
pub fn lineage(project: &Project, feature: &Feature) -> Lineage {
    let catalog = &project.catalog;
    let name = feature.column();
    let mut lineage = Lineage::default();
    for from in catalog.closure(&BTreeSet::from([name])) {
        if from.column() != name {
            lineage.from.insert(from.column().to_owned());
        }
        if let Definition::Aggregation(aggregation) = &from.definition {
            for expression in aggregation.input.iter().chain(&aggregation.condition) {
                let raw = project.events.raw(expression);
                lineage.source.extend(raw.columns().into_iter().map(str::to_owned));
            }
            // When and whose an event is matters to every aggregation.
            for column in ["customer360_id", "event_ts"] {
                let raw = project.events.mapping.get(column).map(|x| x.columns());
                lineage.source.extend(raw.into_iter().flatten().map(str::to_owned));
            }
        }
    }
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

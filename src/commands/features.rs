//! `features list | describe`.

use serde_json::json;

use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::catalog::{Definition, Feature, View};
use crate::report::{Output, Table};

/// Every view with its columns.
pub fn list(project: &Project) -> Output {
    let mut table = Table::new(&["view", "feature", "type", "computed as", "writes"]);
    let mut list = Vec::new();
    for feature in &project.catalog.features {
        let computed = computed_as(feature);
        let writes = feature.writes.clone().unwrap_or_default();
        table.row([&feature.view, feature.column(), feature.ty().name(), &computed, &writes]);
        list.push(describe_feature(feature));
    }
    let count = format!("{} features in {} views\n", list.len(), project.catalog.views.len());
    Output { text: table.render() + "\n" + &count, json: json!(list) }
}

fn computed_as(feature: &Feature) -> String {
    match &feature.definition {
        Definition::Aggregation(a) => {
            let op = serde_json::to_value(a.op).ok().and_then(|op| op.as_str().map(str::to_owned));
            format!("{} over {}", op.unwrap_or_default(), a.window)
        }
        Definition::Derived(derived) => {
            let columns: Vec<&str> = derived.expression.columns().into_iter().collect();
            format!("from {}", columns.join(", "))
        }
    }
}

fn describe_feature(feature: &Feature) -> serde_json::Value {
    json!({
        "name": feature.column(),
        "view": feature.view,
        "type": feature.ty().name(),
        "computed_as": computed_as(feature),
        "description": feature.description,
        "writes": feature.writes,
        "version": feature.version,
        "definition": feature.definition,
    })
}

/// One view or one feature in full.
pub fn describe(project: &Project, name: &str) -> Result<Output> {
    let catalog = &project.catalog;
    if let Some(view) = catalog.views.iter().find(|view| view.name == name) {
        return Ok(describe_view(project, view));
    }
    let Some(feature) = catalog.get(name) else {
        let views = catalog.views.iter().map(|view| view.name.as_str());
        let features = catalog.features.iter().map(|feature| feature.column());
        let valid: Vec<&str> = views.chain(features).collect();
        return Err(Error::unknown("features describe", "view or feature", name, valid));
    };
    let models: Vec<&str> = project
        .models
        .classifiers
        .iter()
        .filter(|model| model.inputs.iter().any(|input| input == name))
        .map(|model| model.spec.name.as_str())
        .collect();
    let mut table = Table::new(&["feature", name]);
    table.row(["view", &feature.view]);
    table.row(["description", &feature.description]);
    table.row(["type", feature.ty().name()]);
    table.row(["computed as", &computed_as(feature)]);
    table.row(["writes", feature.writes.as_deref().unwrap_or("-")]);
    table.row(["used by models", &models.join(", ")]);
    table.row(["version", &feature.version]);
    Ok(Output { text: table.render(), json: describe_feature(feature) })
}

fn describe_view(project: &Project, view: &View) -> Output {
    let mut table = Table::new(&["feature", "type", "computed as", "writes", "description"]);
    let features: Vec<&Feature> = project.catalog.of_view(&view.name).collect();
    for feature in &features {
        let computed = computed_as(feature);
        let writes = feature.writes.clone().unwrap_or_default();
        table.row([
            feature.column(),
            feature.ty().name(),
            &computed,
            &writes,
            &feature.description,
        ]);
    }
    let text =
        format!("{}: {}\nowner: {}\n\n{}", view.name, view.description, view.owner, table.render());
    let list: Vec<_> = features.iter().map(|feature| describe_feature(feature)).collect();
    let json = json!({ "view": view.name, "owner": view.owner, "description": view.description, "features": list });
    Output { text, json }
}

//! The commands `features list | describe`.

use serde_json::json;

use super::lineage::lineage;
use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::catalog::{Definition, Feature, View};
use crate::features::expectation::Expectation;
use crate::features::registry;
use crate::report::{Output, Table, thousands};

/// Lists every view with its columns.
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

/// Describes one view, one column, or all windows of one feature in full.
pub fn describe(project: &Project, name: &str) -> Result<Output> {
    let catalog = &project.catalog;
    if let Some(view) = catalog.views.iter().find(|view| view.name == name) {
        return describe_view(project, view);
    }
    if let Some(feature) = catalog.get(name) {
        return Ok(describe_column(project, feature));
    }
    let windows: Vec<&Feature> =
        catalog.features.iter().filter(|feature| feature.group == name).collect();
    if windows.is_empty() {
        let views = catalog.views.iter().map(|view| view.name.as_str());
        let features = catalog.features.iter().map(|feature| feature.column());
        let valid: Vec<&str> = views.chain(features).collect();
        return Err(Error::unknown("features describe", "view or feature", name, valid));
    }
    let outputs: Vec<Output> =
        windows.into_iter().map(|feature| describe_column(project, feature)).collect();
    let text: Vec<&str> = outputs.iter().map(|output| output.text.as_str()).collect();
    let json: Vec<_> = outputs.iter().map(|output| &output.json).collect();
    Ok(Output { text: text.join("\n"), json: json!(json) })
}

/// Describes one column of a view in full.
fn describe_column(project: &Project, feature: &Feature) -> Output {
    let lineage = lineage(project, feature);
    let list = |names: &std::collections::BTreeSet<String>| {
        names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let mut table = Table::new(&["feature", feature.column()]);
    let rows = [
        ("view", feature.view.clone()),
        ("description", feature.description.clone()),
        ("type", feature.ty().name().to_owned()),
        ("computed as", computed_as(feature)),
        ("from source columns", list(&lineage.source)),
        ("from features", list(&lineage.from)),
        ("into features", list(&lineage.into)),
        ("used by models", list(&lineage.models)),
        ("used by segments", list(&lineage.segments)),
        ("fills", list(&lineage.fields)),
        ("version", feature.version.clone()),
    ];
    for (name, value) in rows {
        if !value.is_empty() {
            table.row([name, &value]);
        }
        if name == "computed as" {
            feature.expressions.iter().for_each(|(setting, sql)| table.row([*setting, sql]));
        }
    }
    let mut json = describe_feature(feature);
    json["lineage"] = json!(lineage);
    Output { text: table.render(), json }
}

fn describe_view(project: &Project, view: &View) -> Result<Output> {
    let features: Vec<&Feature> = project.catalog.of_view(&view.name).collect();
    let mut table = Table::new(&[
        "feature",
        "type",
        "computed as",
        "from columns",
        "models",
        "segments",
        "fills",
        "version",
    ]);
    let mut list = Vec::new();
    for feature in features {
        let lineage = lineage(project, feature);
        let names = |names: &std::collections::BTreeSet<String>| {
            names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        table.row([
            feature.column(),
            feature.ty().name(),
            &computed_as(feature),
            &names(&lineage.source),
            &names(&lineage.models),
            &lineage.segments.len().to_string(),
            &names(&lineage.fields),
            &feature.version[..8],
        ]);
        let mut described = describe_feature(feature);
        described["lineage"] = json!(lineage);
        list.push(described);
    }
    let store = project.store()?;
    let snapshots = registry::snapshots(&store, &store.root()?, &view.name)?;
    let latest = snapshots.last();
    let fresh = latest.map_or_else(
        || "no snapshot yet".to_owned(),
        |snapshot| {
            let outdated = snapshot.outdated(&project.catalog).count();
            let state = match outdated {
                0 => "by these definitions".to_owned(),
                count => format!("{count} of its columns by other definitions"),
            };
            format!(
                "{} snapshots, the latest of {} with {} customers, {state}",
                snapshots.len(),
                snapshot.as_of.at.folder(),
                thousands(snapshot.rows)
            )
        },
    );
    let mut text = format!(
        "{}: {}\nowner: {}\nstore: {fresh}\n\n{}",
        view.name,
        view.description,
        view.owner,
        table.render()
    );
    if !view.expectations.is_empty() {
        let mut expected = Table::new(&["feature", "expected"]);
        for Expectation { column, rule } in &view.expectations {
            expected.row([column, &rule.to_string()]);
        }
        text += &format!("\n{}", expected.render());
    }
    let as_ofs: Vec<_> = snapshots.iter().map(|snapshot| snapshot.as_of).collect();
    let json = json!({
        "view": view.name, "owner": view.owner, "description": view.description,
        "features": list, "expectations": view.expectations, "snapshots": as_ofs, "latest": latest,
    });
    Ok(Output { text, json })
}

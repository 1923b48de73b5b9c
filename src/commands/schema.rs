//! The command `schema`: lists the 50 profile fields, the origin of each and what writes it, or prints the JSON Schema
//! of a kind of file.

use serde_json::json;

use crate::config::{FileKind, Project};
use crate::report::{Output, Table};
use crate::schema::{Origin, PROFILE, ProfileField};

/// Renders the fields as a table and as JSON; with `sql` the text is a CREATE TABLE statement. With a
/// project, the features that write derived fields are named.
pub fn schema(project: Option<&Project>, sql: bool) -> Output {
    let mut table = Table::new(&["field", "type", "origin", "written by"]);
    let mut list = Vec::new();
    for field in &PROFILE {
        let origin = format!("{:?}", field.origin).to_lowercase();
        let writer = writer(project, field);
        table.row([field.name, &field.type_name(false), &origin, &writer]);
        list.push(json!({
            "name": field.name,
            "type": field.type_name(false),
            "sql_type": field.type_name(true),
            "origin": origin,
            "written_by": writer,
        }));
    }
    let text = if sql { create_table() } else { table.render() };
    Output { text, json: json!(list) }
}

/// Prints the JSON Schema of a kind of file. The text is JSON too, because a schema has no other form.
pub fn of_file(kind: FileKind) -> Output {
    let json = kind.schema();
    Output { text: format!("{json:#}\n"), json }
}

fn writer(project: Option<&Project>, field: &ProfileField) -> String {
    let feature = project.and_then(|project| {
        project.catalog.features.iter().find(|f| f.writes.as_deref() == Some(field.name))
    });
    match feature {
        Some(feature) => format!("features/{}.toml: {}", feature.view, feature.column()),
        None if project.is_some()
            && field.origin == Origin::Derived
            && field.written_by.starts_with("a feature") =>
        {
            "no feature of this project".into()
        }
        None => field.written_by.into(),
    }
}

fn create_table() -> String {
    let columns = PROFILE.iter().map(|field| {
        let key = if field.name == "customer360_id" { " PRIMARY KEY" } else { "" };
        format!("  {} {}{key}", field.name, field.type_name(true))
    });
    format!("CREATE TABLE customer_profile (\n{}\n);\n", columns.collect::<Vec<_>>().join(",\n"))
}

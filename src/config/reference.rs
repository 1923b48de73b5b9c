//! The reference of all settings as Markdown, from the JSON Schemas of the files, so that it cannot lack one.

use serde_json::{Map, Value};

use super::files::{FileKind, resolved};
use crate::schema::{EVENT_TYPES, PROFILE, usual_weight};

/// Renders the reference: a section per kind of file, the event types and the fields of the profile.
pub fn markdown() -> String {
    let mut text = "# Reference of all settings\n\n\
        This page is generated from the code. `c360-ml schema --of KIND` prints the same as a JSON Schema, which editors \
        take to complete and check a file: `init` writes the schemas beside the files and names them in the first line.\n"
        .to_owned();
    for kind in FileKind::ALL {
        text += &section(kind);
    }
    text + &event_types() + &profile()
}

fn event_types() -> String {
    let mut text = "\n## Event types\n\n\
        These event types are standard. `sources.events.event_types` adds others. The weight is that of the engagement \
        score where its spec sets none.\n\n| type | weight |\n|---|---|\n"
        .to_owned();
    for name in EVENT_TYPES {
        let weight = usual_weight(name).map_or("–".to_owned(), |weight| weight.to_string());
        text += &format!("| `{name}` | {weight} |\n");
    }
    text
}

fn profile() -> String {
    let mut text =
        "\n## Fields of the profile\n\n| field | type | origin | written by |\n|---|---|---|---|\n"
            .to_owned();
    for field in &PROFILE {
        let origin = format!("{:?}", field.origin).to_lowercase();
        let ty = field.type_name(false);
        text += &format!("| `{}` | `{ty}` | {origin} | {} |\n", field.name, field.written_by);
    }
    text
}

fn section(kind: FileKind) -> String {
    let schema = kind.schema();
    let head = match kind.is_model() {
        true => format!("`{}` with `kind = \"{}\"`", kind.place(), kind.name()),
        false => format!("`{}`", kind.place()),
    };
    let mut text = format!("\n## {head}\n");
    let mut open = vec![(String::new(), false, schema.clone())];
    while let Some((path, is_list, table)) = open.pop() {
        let mut further = Vec::new();
        if !path.is_empty() {
            let head = if is_list { format!("[[{path}]]") } else { format!("[{path}]") };
            text += &format!("\n### `{head}`\n");
        }
        let says_more = |text: &&str| !path.is_empty() && !text.ends_with("]` table.");
        if let Some(description) = table["description"].as_str().filter(says_more) {
            text += &format!("\n{}\n", sentence(description));
        }
        text += &rows(&schema, &table, &path, &mut further);
        open.extend(further.into_iter().rev());
    }
    text
}

/// A table within a file: its path, whether it may occur several times, and its schema.
type Table = (String, bool, Value);

/// Renders the settings of one table, and adds the tables within it to `further`.
fn rows(root: &Value, table: &Value, path: &str, further: &mut Vec<Table>) -> String {
    let empty = Map::new();
    let properties = table["properties"].as_object().unwrap_or(&empty);
    let required: Vec<&str> =
        table["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut names: Vec<&String> = properties.keys().collect();
    names.sort_by_key(|name| (!required.contains(&name.as_str()), name.as_str()));
    let mut text = "\n| setting | type | default | |\n|---|---|---|---|\n".to_owned();
    let mut meanings = String::new();
    for name in names {
        let property = &properties[name];
        let inner = resolved(root, property);
        let within = format!("{path}{}{name}", if path.is_empty() { "" } else { "." });
        let ty = match nested(root, inner) {
            Some((suffix, is_list, table)) => {
                further.push((format!("{within}{suffix}"), is_list, table.clone()));
                if is_list { "tables, see below" } else { "table, see below" }.to_owned()
            }
            None => type_of(root, inner),
        };
        let default = match (&property["default"], required.contains(&name.as_str())) {
            (_, true) => "required".to_owned(),
            (Value::Null | Value::Object(_), _) => "–".to_owned(),
            (default, _) => format!("`{default}`"),
        };
        let description = property["description"].as_str().or(inner["description"].as_str());
        let description = sentence(description.unwrap_or_default());
        text += &format!("| `{name}` | {ty} | {default} | {description} |\n");
        for (value, meaning) in values(inner) {
            meanings += &format!("- `{name} = {value}`: {}\n", sentence(&meaning));
        }
    }
    if !meanings.is_empty() {
        text += &format!("\n{meanings}");
    }
    text
}

/// The table that a setting is, that it lists, or that it has by name.
fn nested<'a>(root: &'a Value, schema: &'a Value) -> Option<(&'static str, bool, &'a Value)> {
    let is_table = |schema: &&Value| schema["properties"].is_object();
    let options = [
        ("", false, schema),
        ("", true, resolved(root, &schema["items"])),
        (".NAME", false, resolved(root, &schema["additionalProperties"])),
    ];
    options.into_iter().find(|(.., schema)| is_table(schema))
}

/// The values of a setting that has only some, with their meanings.
fn values(schema: &Value) -> Vec<(String, String)> {
    let options = schema["oneOf"].as_array().into_iter().flatten();
    let of = |option: &Value| {
        let value = option.get("const").or_else(|| option["enum"].get(0));
        let value = value.map(Value::to_string).or_else(|| {
            let (name, _) = option["properties"].as_object()?.iter().next()?;
            Some(format!("{{ {name} = … }}"))
        })?;
        Some((value, option["description"].as_str()?.to_owned()))
    };
    options.filter_map(of).collect()
}

fn type_of(root: &Value, schema: &Value) -> String {
    let schema = resolved(root, schema);
    let listed = values(schema);
    if !listed.is_empty() {
        return "one of the values below".to_owned();
    }
    if let Some(examples) = schema["examples"].as_array() {
        let examples: Vec<String> = examples.iter().map(|example| format!("`{example}`")).collect();
        return format!("text, such as {}", examples.join(" or "));
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        return values.join(" or ");
    }
    if let Some(options) = schema["anyOf"].as_array() {
        let mut names: Vec<String> = options.iter().map(|option| type_of(root, option)).collect();
        names.dedup();
        return names.join(" or ");
    }
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().find(|name| **name != "null").and_then(Value::as_str),
        other => other.as_str(),
    };
    match name {
        Some("string") => "text".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("array") => format!("list of {}", several(type_of(root, &schema["items"]))),
        Some("object") => {
            format!("table of {}", several(type_of(root, &schema["additionalProperties"])))
        }
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    }
}

/// The plural of a type, where its name has one.
fn several(ty: String) -> String {
    if ty.ends_with("number") { ty + "s" } else { ty }
}

/// A description in one line that a table can have.
fn sentence(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Links of the documentation of the code lead nowhere here.
    line.replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}

//! Checks a TOML file by the JSON Schema of its kind, before its settings are read: keys that do not exist, keys that are
//! missing, and values of another type. Its errors name the line and what would be right, in the words of a reader.

use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::{FileKind, resolved};

/// A fault of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The place in the text, in bytes.
    pub at: Range<usize>,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Finds the first fault of a file.
///
/// # Errors
/// Returns the fault. A file that is no TOML has none here, because reading it says what is wrong.
pub fn check(text: &str, kind: FileKind) -> Result<(), Fault> {
    let Ok(table) = DeTable::parse(text) else { return Ok(()) };
    let root = kind.schema();
    table_of(&root, &root, table.get_ref(), "", 0..0)
}

fn path(within: &str, key: &str) -> String {
    if within.is_empty() { key.to_owned() } else { format!("{within}.{key}") }
}

fn table_of(
    root: &Value,
    schema: &Value,
    table: &DeTable,
    within: &str,
    at: Range<usize>,
) -> Result<(), Fault> {
    let properties = schema["properties"].as_object();
    for (key, value) in table {
        let name = path(within, key.get_ref());
        let known = properties.and_then(|properties| properties.get(key.get_ref().as_ref()));
        match known.or_else(|| schema.get("additionalProperties").filter(|more| more.is_object())) {
            Some(property) => value_of(root, resolved(root, property), value, &name)?,
            None => {
                let valid = properties.into_iter().flatten().map(|(name, _)| name.as_str());
                let message = unknown(&name, key.get_ref(), valid.collect());
                return Err(Fault { at: key.span(), message });
            }
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for key in required {
        if !table.contains_key(key) {
            let message = format!("`{}` is missing", path(within, key));
            return Err(Fault { at, message });
        }
    }
    Ok(())
}

fn unknown(name: &str, key: &str, mut valid: Vec<&str>) -> String {
    valid.sort_unstable();
    let near = valid.iter().min_by_key(|other| strsim::levenshtein(key, other));
    let near = near.filter(|near| strsim::levenshtein(key, near) <= key.len().max(3) / 3);
    let meant = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("there is no setting `{name}`{meant} (valid: {})", valid.join(", "))
}

fn value_of(
    root: &Value,
    schema: &Value,
    value: &Spanned<DeValue>,
    name: &str,
) -> Result<(), Fault> {
    let fault = |required: String| {
        let message = format!("`{name}` is {}, but it must be {required}", shown(value.get_ref()));
        Err(Fault { at: value.span(), message })
    };
    let options = options(root, schema);
    if options.len() > 1 {
        let fits = |option: &&&Value| value_of(root, option, value, name).is_ok();
        if options.iter().any(|option| fits(&option)) {
            return Ok(());
        }
        let mut all: Vec<String> = options.iter().map(|option| words(option)).collect();
        all.dedup();
        let has_numbers = all.iter().any(|words| words == "a number");
        all.retain(|words| !has_numbers || words != "a whole number");
        return fault(all.join(" or "));
    }
    if let Some(constant) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        let all = schema["enum"].as_array();
        let is_one = |known: &Value| value.get_ref().as_str() == known.as_str();
        let fits = all.map_or_else(|| is_one(constant), |all| all.iter().any(is_one));
        return if fits { Ok(()) } else { fault(words(schema)) };
    }
    match (type_of(schema), value.get_ref()) {
        (Some("object"), DeValue::Table(table)) => {
            table_of(root, schema, table, name, value.span())
        }
        (Some("array"), DeValue::Array(list)) => {
            let items = resolved(root, &schema["items"]);
            list.iter().enumerate().try_for_each(|(place, item)| {
                value_of(root, items, item, &format!("{name}[{}]", place + 1))
            })
        }
        (Some("string"), DeValue::String(_))
        | (Some("boolean"), DeValue::Boolean(_))
        | (Some("integer" | "number"), DeValue::Integer(_))
        | (Some("number"), DeValue::Float(_))
        | (None, _) => Ok(()),
        _ => fault(words(schema)),
    }
}

/// The schemas of which a value must fit one.
fn options<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let all = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array());
    match all {
        Some(all) => {
            let all = all.iter().filter(|option| option["type"] != "null");
            all.flat_map(|option| options(root, resolved(root, option))).collect()
        }
        None => vec![schema],
    }
}

/// The type of a schema, without the null of an optional setting.
fn type_of(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::Array(names) => names.iter().find(|name| **name != "null").and_then(Value::as_str),
        name => name.as_str(),
    }
}

/// What a schema asks for.
fn words(schema: &Value) -> String {
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(Value::to_string).collect();
        return values.join(" or ");
    }
    if let Some(example) = schema["examples"].get(0) {
        return format!("text such as {example}");
    }
    match type_of(schema) {
        Some("string") => "text in quotes",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") => "a list in square brackets",
        Some("object") => "a table",
        _ => "another value",
    }
    .to_owned()
}

fn shown(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Finds where a text has the setting that a path names, such as `feature.spend.where` or `sources.events.path`. A list
/// of tables is entered by the `name` of a table or by its number. If the end of the path is not found, its beginning is.
pub fn find(text: &str, path: &[&str]) -> Option<Range<usize>> {
    let table = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut here: Option<&DeTable> = Some(table.get_ref());
    let mut list: Option<&[Spanned<DeValue>]> = None;
    for (place, step) in path.iter().enumerate() {
        let named = |value: &&Spanned<DeValue>| {
            let name = value.get_ref().get("name").and_then(|name| name.get_ref().as_str());
            let known = name.is_some_and(|name| {
                name == *step || step.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'))
            });
            known
                || step.parse::<usize>().is_ok_and(|number| {
                    list.and_then(|list| list.get(number - 1))
                        .is_some_and(|own| std::ptr::eq(own, *value))
                })
        };
        let next = match (list, here) {
            (Some(items), _) => items.iter().find(named).map(|value| (value.span(), value)),
            (None, Some(table)) => {
                let entry = table.iter().find(|(key, _)| key.get_ref() == step);
                entry.map(|(key, value)| (key.span(), value))
            }
            (None, None) => None,
        };
        let Some((span, value)) = next else {
            // A name that is not a key may be that of an element of the lists of this table.
            let lists = here.into_iter().flat_map(|table| table.iter());
            let mut lists = lists.filter_map(|(_, value)| value.get_ref().as_array());
            let inside = lists.find_map(|items| items.iter().find(named));
            match inside {
                Some(value) if place < path.len() => {
                    found = Some(value.span());
                    (here, list) = (value.get_ref().as_table(), None);
                    continue;
                }
                _ => break,
            }
        };
        found = Some(span);
        list = value.get_ref().as_array().map(|items| items.as_ref());
        here = value.get_ref().as_table();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str, kind: FileKind) -> String {
        let fault = check(text, kind).unwrap_err();
        let line = text[..fault.at.start].matches('\n').count() + 1;
        format!("{line}: {}", fault.message)
    }

    #[test]
    fn faults_are_told_in_plain_words() {
        let view = "name = \"a\"\nsource = \"events\"\n[[feature]]\nname = \"b\"\nop = \"summ\"\n";
        let found = message(view, FileKind::View);
        assert!(
            found.starts_with("5: `feature[1].op` is \"summ\", but it must be \"count\" or "),
            "{found}"
        );
        let view = "name = 5\nsource = \"events\"\n";
        let expected = "1: `name` is 5, but it must be text in quotes";
        assert_eq!(message(view, FileKind::View), expected);
        let rfm = "kind = \"rfm\"\nname = \"rfm\"\nwindow = 365\n";
        let expected = "3: `window` is 365, but it must be text such as \"90d\"";
        assert_eq!(message(rfm, FileKind::Rfm), expected);
        let project =
            "[project]\nname = \"a\"\ncurrency = \"EUR\"\n[sources.evnts]\npath = \"a\"\n";
        let expected = "4: there is no setting `sources.evnts`; did you mean `events`? (valid: events, profile)";
        assert_eq!(message(project, FileKind::Project), expected);
        let project = "[project]\nname = \"a\"\n[sources.events]\npath = \"a\"\n";
        assert!(message(project, FileKind::Project).ends_with("`project.currency` is missing"));
        let weights = "kind = \"classifier\"\nfit = { class_weight = { positive = 2.0 } }\n";
        assert!(message(weights, FileKind::Classifier).contains("is missing"), "the weight fits");
        let weights = "fit = { class_weight = 3 }\n";
        let expected =
            "1: `fit.class_weight` is 3, but it must be \"none\" or \"balanced\" or a table";
        assert_eq!(message(weights, FileKind::Classifier), expected);
    }

    #[test]
    fn settings_are_found_in_their_files() {
        let text = "[sources.events]\npath = \"a\"\n[[feature]]\nname = \"b\"\n[[feature]]\nname = \"c\"\nwhere = \"x\"\n";
        let line =
            |path: &[&str]| find(text, path).map(|at| text[..at.start].matches('\n').count() + 1);
        assert_eq!(line(&["feature", "c", "where"]), Some(7));
        assert_eq!(line(&["feature", "2", "where"]), Some(7));
        assert_eq!(line(&["c", "where"]), Some(7));
        assert_eq!(line(&["sources", "events", "path"]), Some(2));
        assert_eq!(line(&["sources", "events", "columns"]), Some(1));
        assert_eq!(line(&["nowhere"]), None);
    }
}

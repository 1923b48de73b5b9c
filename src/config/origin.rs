//! Where the value of a setting comes from.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// The origin of a value. A later one overrides an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nothing sets it.
    Default,
    /// The project's file.
    File,
    /// This environment variable.
    Environment(&'static str),
    /// This flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("c360.toml"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Flattens a value into its settings, named by their paths, such as `project.name`. An empty table has none.
pub(super) fn flat(value: &Value) -> BTreeMap<String, Value> {
    fn walk(path: String, value: &Value, settings: &mut BTreeMap<String, Value>) {
        let Value::Object(table) = value else {
            settings.insert(path, value.clone());
            return;
        };
        for (key, value) in table {
            let separator = if path.is_empty() { "" } else { "." };
            walk(format!("{path}{separator}{key}"), value, settings);
        }
    }
    let mut settings = BTreeMap::new();
    walk(String::new(), value, &mut settings);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_named_by_their_paths() {
        let settings = flat(&json!({ "a": { "b": [1], "c": {} }, "d": null }));
        let names: Vec<&str> = settings.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.b", "d"]);
        assert!(Origin::Flag("--as-of") > Origin::Environment("C360_AS_OF"));
    }
}

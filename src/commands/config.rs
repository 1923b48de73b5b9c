//! The command `config show`: every setting of the project with where its value comes from.

use serde_json::{Value, json};

use crate::config::{Origin, Project};
use crate::error::Result;
use crate::report::{Output, Table};

/// The settings that have no place in `c360.toml`, each with its value and the origin of it.
pub type Others = Vec<(&'static str, Value, Origin)>;

/// Lists the settings of `c360.toml` with their values and origins, after those that only the command line and the
/// environment have.
///
/// # Errors
/// Returns an error if `c360.toml` cannot be read again.
pub fn show(project: &Project, others: Others) -> Result<Output> {
    let mut table = Table::new(&["setting", "value", "origin"]);
    let mut json = serde_json::Map::new();
    let others = others.into_iter().map(|(name, value, origin)| (name.to_owned(), value, origin));
    for (setting, value, origin) in others.chain(project.settings_with_origins()?) {
        let shown = match &value {
            Value::Null => "not set".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        table.row([setting.as_str(), &shown, &origin.to_string()]);
        json.insert(setting, json!({ "value": value, "origin": origin.to_string() }));
    }
    let note = "\nA flag overrides the environment, the environment overrides c360.toml, and c360.toml overrides the default.\n";
    Ok(Output { text: table.render() + note, json: Value::Object(json) })
}

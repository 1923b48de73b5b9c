//! The command `models adopt`: takes in a `model.json` that was edited after its training, as a version of its own.

use serde_json::json;

use super::models::pick;
use crate::artifact::{Artifact, path};
use crate::config::Project;
use crate::error::Result;
use crate::report::Output;
use crate::training::promotion::{Check, Gate};

/// Makes a new version of the edited file of the version `from`. It is held back until it is promoted, because nothing
/// has tested it. The edited version itself stays damaged.
pub fn adopt(project: &Project, name: &str, from: &str) -> Result<Output> {
    let store = project.store()?;
    let mut transaction = store.begin("models adopt", super::now)?;
    let root = transaction.root.clone();
    let from = pick(&root, name, Some(from))?;
    let artifact = Artifact::edited(&store, &root, name, &from)?;
    let version = artifact.version.clone();
    if version == from {
        let text = format!("{name} {from} was not edited: there is nothing to adopt\n");
        return Ok(Output { text, json: json!({ "model": name, "version": from, "from": from }) });
    }
    transaction.write_json(&path(name, &version), &artifact)?;
    let metrics = format!("models/{name}/{from}/metrics.json");
    if store.has(&root, &metrics)? {
        let mut metrics: serde_json::Value = store.read_json(&root, &metrics)?;
        metrics["gate"] = json!(untested(&from));
        transaction.write_json(&format!("models/{name}/{version}/metrics.json"), &metrics)?;
    }
    transaction.root.trained.entry(name.to_owned()).or_default().push(version.clone());
    transaction.root.hold_back(name, &version);
    transaction.commit()?;
    let text = format!(
        "{name} {version} is the edited model.json of {from}; nothing has tested it\n\nto put it in use:\n  c360-ml models promote {name} {version}\n"
    );
    Ok(Output { text, json: json!({ "model": name, "version": version, "from": from }) })
}

/// The gate of a version that was made by hand.
fn untested(from: &str) -> Gate {
    let check = Check {
        asks: "the version is as its training left it".to_owned(),
        found: format!("model.json was edited by hand; all numbers are those of {from}"),
        passed: false,
    };
    Gate { passed: false, checks: vec![check] }
}

//! Finds the champions that score an as-of, and checks them against the project's files.

use super::CommandProblem;
use super::as_of;
use crate::artifact::Artifact;
use crate::config::Project;
use crate::error::Result;
use crate::features::plan::AsOf;
use crate::scoring::champions::{Champion, Champions};
use crate::store::{Root, Store};
use crate::time::Instant;

/// Finds the version of each of the project's models that may score `as_of`.
///
/// # Errors
/// Returns [`CommandProblem::NoVersions`] with the names of the models that have no such version.
pub fn champions(project: &Project, store: &Store, root: &Root, as_of: AsOf) -> Result<Champions> {
    let mut champions = Champions::default();
    let mut missing = Vec::new();
    for name in project.models.trained() {
        match Artifact::usable(store, root, name, as_of)? {
            Some(artifact) => {
                champions.add(artifact);
            }
            None => missing.push(name),
        }
    }
    warn_of_old_versions(project, &champions, as_of.at);
    if missing.is_empty() {
        return Ok(champions);
    }
    let models = missing.into_iter().map(str::to_owned).collect();
    let known_at = (as_of.known_at != as_of.at).then_some(as_of.known_at);
    Err(CommandProblem::NoVersions { models, at: as_of.at, known_at }.into())
}

/// Logs a warning for each champion whose definitions or spec differ from the project's files, and for each
/// classifier that is older than its spec allows. Scoring uses the definitions that a version was trained
/// with.
fn warn_of_old_versions(project: &Project, champions: &Champions, as_of: Instant) {
    for Champion { name, version, artifact } in &champions.classifiers {
        let now = project.models.classifiers.iter().find(|model| model.spec.name == *name);
        let moved: Vec<&str> = artifact.moved_definitions(&project.catalog).collect();
        if !moved.is_empty() {
            let features = moved.join(", ");
            tracing::warn!(
                "{name} {version} scores with older definitions of {features}; train again"
            );
        }
        if now.is_some_and(|now| now.spec != artifact.spec) {
            moved_spec(name, version);
        }
        let age = Artifact::trained_at(version).map(|trained| as_of.days_since(trained.0));
        let most = artifact.spec.promotion.max_age.as_days();
        if let Some(age) = age.filter(|age| *age > most) {
            tracing::warn!(
                "{name} {version} was trained as of {age:.0} days ago, more than {most:.0}; train again"
            );
        }
    }
    let models = &project.models;
    if let (Some(Champion { name, version, artifact }), Some(now)) =
        (&champions.engagement, &models.engagement)
        && (artifact.spec != now.spec || artifact.aggregations != now.aggregations)
    {
        moved_spec(name, version);
    }
    if let (Some(Champion { name, version, artifact }), Some(now)) = (&champions.rfm, &models.rfm)
        && (artifact.spec != now.spec || artifact.aggregations != now.aggregations)
    {
        moved_spec(name, version);
    }
    if let (Some(Champion { name, version, artifact }), Some(now)) =
        (&champions.lifetime_value, &models.lifetime_value)
        && (artifact.spec != now.spec || artifact.definitions != now.definitions(now.spec.horizon))
    {
        moved_spec(name, version);
    }
    if let (Some(Champion { name, version, artifact }), Some(now)) =
        (&champions.affinity, &models.affinity)
        && (artifact.spec.fitted(&now.spec) != now.spec
            || artifact.interactions != now.interactions)
    {
        moved_spec(name, version);
    }
}

fn moved_spec(name: &str, version: &str) {
    tracing::warn!("{name} {version} was trained with another spec; train again");
}

/// Whether every model of the project has a readable version that may score the project's as-of.
pub fn has_champions(project: &Project, store: &Store) -> Result<bool> {
    let (root, as_of) = (store.root()?, as_of(project)?);
    let usable = |name: &&str| matches!(Artifact::usable(store, &root, name, as_of), Ok(Some(_)));
    Ok(project.models.trained().iter().all(usable))
}

//! The project: `c360.toml`, `features/*.toml` and `models/*.toml`, which are read and checked as a whole
//! before any work starts.

mod problem;

pub use self::problem::ProjectProblem;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::features::catalog::Catalog;
use crate::features::spec::ViewSpec;
use crate::money::Scale;
use crate::profile::Writeback;
use crate::segments::{Segments, SegmentsSpec};
use crate::shard::Shards;
use crate::sources::profile::ProfilePlan;
use crate::sources::{EventsSpec, Orphans, ProfileSpec, SourceContext, SourcePlan};
use crate::spec::{ModelSpec, Models};
use crate::store::Store;
use crate::time::{Instant, Zone};

/// The `[project]` table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    /// The name of the project in reports.
    pub name: String,
    /// The time zone of calendar days, and of timestamps that have no zone.
    #[serde(default)]
    pub timezone: Zone,
    /// The currency of all amounts as an ISO 4217 code.
    pub currency: String,
    /// The number of decimal places of money.
    #[serde(default)]
    pub money_scale: Scale,
    /// The as-of that applies if the command line names none.
    #[serde(default)]
    pub as_of: Option<Instant>,
    /// The folder of the store, relative to the project.
    #[serde(default = "default_store")]
    pub store: String,
    /// The number of shards that customers are split into, a power of two. By default it follows the number
    /// of rows.
    #[serde(default)]
    pub shards: Option<Shards>,
}

fn default_store() -> String {
    "store".into()
}

/// The `[sources]` table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcesSpec {
    /// The unified profile. Without one, the customers are those of the events.
    #[serde(default)]
    pub profile: Option<ProfileSpec>,
    /// The event log.
    pub events: EventsSpec,
}

/// The `[engine]` table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSpec {
    /// The memory of a run before events and profile rows spill to disk, such as `2GB` or `500MB`.
    #[serde(default = "default_memory")]
    pub memory: String,
}

fn default_memory() -> String {
    "2GB".into()
}

impl Default for EngineSpec {
    fn default() -> Self {
        Self { memory: default_memory() }
    }
}

/// The content of `c360.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The name, time zone, money and store of the project.
    pub project: ProjectSpec,
    /// The sources of the data.
    pub sources: SourcesSpec,
    /// The settings for writing the profile.
    #[serde(default)]
    pub writeback: Writeback,
    /// The memory settings.
    #[serde(default)]
    pub engine: EngineSpec,
}

/// The settings of the command line or the environment that override `c360.toml`.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The as-of of the run.
    pub as_of: Option<Instant>,
    /// The known-at of the run.
    pub known_at: Option<Instant>,
    /// The folder of the store.
    pub store: Option<PathBuf>,
    /// The memory for events before they spill to disk.
    pub memory: Option<String>,
}

/// A checked project.
#[derive(Debug)]
pub struct Project {
    /// The folder of the project.
    pub root: PathBuf,
    /// The content of `c360.toml` with the overrides applied.
    pub settings: Settings,
    /// The event source.
    pub events: SourcePlan,
    /// The profile source.
    pub profile: ProfilePlan,
    /// All features of the project.
    pub catalog: Catalog,
    /// All models of the project.
    pub models: Models,
    /// The segment rules.
    pub segments: Segments,
    /// The memory of a run in bytes before events and profile rows spill to disk.
    pub memory: u64,
    /// The known-at of the command line.
    pub known_at: Option<Instant>,
    /// A hash of all spec files of the project.
    pub fingerprint: String,
}

impl Project {
    /// Reads and checks the project in `root`.
    ///
    /// # Errors
    /// Returns a configuration error that names the file and the key, or a contract violation of a source's
    /// files.
    pub fn load(root: &Path, overrides: &Overrides) -> Result<Self> {
        let path = root.join("c360.toml");
        if !path.exists() {
            return Err(ProjectProblem::NoProject { folder: root.to_owned() }.into());
        }
        let mut hashed = String::new();
        let mut settings: Settings = read_toml(&path, &mut hashed)?;
        apply(&mut settings, overrides);
        let context = SourceContext {
            root: root.to_owned(),
            zone: settings.project.timezone,
            scale: settings.project.money_scale,
            currency: settings.project.currency.clone(),
        };
        let memory = parse_bytes(&settings.engine.memory)?;
        let views: Vec<(String, ViewSpec)> = read_folder(root, "features", &mut hashed)?;
        if settings.sources.profile.is_none() {
            settings.sources.events.orphans = Orphans::Create;
        }
        let events = SourcePlan::events(&settings.sources.events, &context)?;
        let profile = match &settings.sources.profile {
            Some(spec) => ProfilePlan::open(spec, &context)?,
            None => ProfilePlan::none(&context),
        };
        let catalog = Catalog::check(&views, &events.columns())?.over(&events);
        let mut model_specs: Vec<(String, ModelSpec)> = Vec::new();
        let mut segments = None;
        for file in toml_files(root, "models")? {
            let name = relative(root, &file);
            if name.ends_with("segments.toml") {
                let spec: SegmentsSpec = read_toml(&file, &mut hashed)?;
                segments = Some((name, spec));
            } else {
                model_specs.push((name, read_toml(&file, &mut hashed)?));
            }
        }
        let models = Models::check(model_specs, &catalog, &events, &profile)?;
        let segments = Segments::check(segments, &catalog, &models, &profile, context.scale)?;
        settings.writeback.check(&catalog)?;
        Ok(Self {
            root: root.to_owned(),
            settings,
            events,
            profile,
            catalog,
            models,
            segments,
            memory,
            known_at: overrides.known_at,
            fingerprint: format!("{:016x}", xxhash_rust::xxh3::xxh3_64(hashed.as_bytes())),
        })
    }

    /// The as-of of this run.
    ///
    /// # Errors
    /// Returns a configuration error if neither the command line nor the project names one.
    pub fn as_of(&self) -> Result<Instant> {
        self.settings.project.as_of.ok_or_else(|| ProjectProblem::NoAsOf.into())
    }

    /// Opens the store of the project.
    pub fn store(&self) -> Result<Store> {
        Store::at(self.root.join(&self.settings.project.store))
    }

    /// The time zone, money scale and currency of the project.
    pub fn context(&self) -> &SourceContext {
        &self.events.context
    }
}

fn apply(settings: &mut Settings, overrides: &Overrides) {
    if overrides.as_of.is_some() {
        settings.project.as_of = overrides.as_of;
    }
    if let Some(store) = &overrides.store {
        settings.project.store = store.to_string_lossy().into_owned();
    }
    if let Some(memory) = &overrides.memory {
        settings.engine.memory = memory.clone();
    }
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path, hashed: &mut String) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let value = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        let (file, message) = (path.to_owned(), error.message().replace('\n', " "));
        ProjectProblem::Toml { file, line, message }
    })?;
    hashed.push_str(&text);
    Ok(value)
}

fn toml_files(root: &Path, folder: &str) -> Result<Vec<PathBuf>> {
    let path = root.join(folder);
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(Error::io("list", &path))? {
        let file = entry.map_err(Error::io("list", &path))?.path();
        if file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned()
}

fn read_folder<T: serde::de::DeserializeOwned>(
    root: &Path,
    folder: &str,
    hashed: &mut String,
) -> Result<Vec<(String, T)>> {
    let files = toml_files(root, folder)?.into_iter();
    files.map(|file| Ok((relative(root, &file), read_toml(&file, hashed)?))).collect()
}

/// Parses `2GB`, `500MB`, `64KB` or a number of bytes. The units are powers of 1000.
fn parse_bytes(text: &str) -> Result<u64> {
    let units: BTreeMap<&str, u64> =
        [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("", 1)].into();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = units.get(text[digits.len()..].trim().to_uppercase().as_str());
    match (digits.parse::<u64>(), unit) {
        (Ok(number), Some(unit)) => Ok(number.saturating_mul(*unit)),
        _ => {
            let value = format!("{text:?}");
            Err(Error::setting("c360.toml", "engine.memory", value, "a size", "2GB or 500MB"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("2GB").unwrap(), 2_000_000_000);
        assert_eq!(parse_bytes("500 mb").unwrap(), 500_000_000);
        assert_eq!(parse_bytes("1024").unwrap(), 1024);
        assert!(parse_bytes("2GiB").is_err());
        assert!(parse_bytes("much").is_err());
    }
}

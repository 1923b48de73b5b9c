//! The project: `c360.toml`, `features/*.toml` and `models/*.toml`, which are read and checked as a whole
//! before any work starts.

mod check;
mod files;
mod origin;
mod problem;
mod reference;
mod settings;

use self::check::Fault;
pub use self::files::FileKind;
pub use self::origin::Origin;
pub use self::problem::ProjectProblem;
pub use self::reference::markdown as reference;
pub use self::settings::{Access, EngineSpec, ProjectSpec, Settings, SourcesSpec};

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::features::catalog::Catalog;
use crate::features::spec::ViewSpec;
use crate::segments::{Segments, SegmentsSpec};
use crate::sources::footers::Footers;
use crate::sources::forgotten::Forgotten;
use crate::sources::profile::ProfilePlan;
use crate::sources::{Orphans, SourceContext, SourcePlan, look};
use crate::spec::{ModelSpec, Models};
use crate::store::bucket::{is_url, resolve};
use crate::store::{Store, checksum, disk};
use crate::time::{Duration, Instant, Zone};

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
    /// The root of the store that is read instead of the latest one.
    pub root: Option<u64>,
    /// Whether all events are read again, because the timelines that the store keeps are damaged.
    pub reread: bool,
    /// The origins of these values, by the setting of `c360.toml` that each overrides.
    pub origins: BTreeMap<&'static str, Origin>,
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
    /// Whether all events are read again, because the timelines that the store keeps are damaged.
    pub reread: bool,
    /// The root of the store that is read instead of the latest one.
    store_root: Option<u64>,
    /// The origins of the settings that `c360.toml` does not decide.
    origins: BTreeMap<&'static str, Origin>,
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
        Self::read(root, overrides).map_err(|error| located(root, error))
    }

    fn read(root: &Path, overrides: &Overrides) -> Result<Self> {
        let mut hashed = String::new();
        let mut settings = read_settings(root, overrides, &mut hashed)?;
        let context = SourceContext {
            root: root.to_owned(),
            zone: settings.project.timezone,
            scale: settings.project.money_scale,
            currency: settings.project.currency.clone(),
            footers: Arc::new(known_footers(root, &settings)?),
            forgotten: Arc::new(forgotten(root, &settings)?),
        };
        check_store(root, &settings)?;
        let memory = parse_bytes(&settings.engine.memory, overrides)?;
        check_currency(&settings.project.currency)?;
        let views = read_views(root, &mut hashed)?;
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
                let spec: SegmentsSpec = read_toml(&file, FileKind::Segments, &mut hashed)?;
                segments = Some((name, spec));
            } else {
                model_specs.push((name, read_model(&file, &mut hashed)?));
            }
        }
        let models = Models::check(model_specs, &catalog, &events, &profile)?;
        let items = models.affinity.iter().filter_map(|model| model.offer.items.as_ref());
        let items = items.flat_map(|items| &items.table.files);
        not_in_store(root, &settings, items.map(|file| ("items of an affinity model", file)))?;
        let segments = Segments::check(segments, &catalog, &models, &profile, context.scale)?;
        settings.writeback.check(&catalog)?;
        settings.consent.check(&profile)?;
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
            reread: overrides.reread,
            store_root: overrides.root,
            origins: overrides.origins.clone(),
            fingerprint: checksum(hashed.as_bytes()),
        })
    }

    /// The as-of of this run.
    ///
    /// # Errors
    /// Returns a configuration error if neither the command line nor the project names one.
    pub fn as_of(&self) -> Result<Instant> {
        self.settings.project.as_of.ok_or_else(|| {
            // What cannot be read is a problem of the commands that read it.
            let last = look::last_event(&self.settings.sources.events, &self.events).ok().flatten();
            let after = last.map(|last| Zone::default().date(last.plus(Duration::days(1))));
            ProjectProblem::NoAsOf { after }.into()
        })
    }

    /// The folder of the store as the current folder sees it.
    pub fn store_shown(&self) -> String {
        let path = resolve(&self.root, &self.settings.project.store);
        path.strip_prefix(".").unwrap_or(&path).display().to_string()
    }

    /// Opens the store of the project.
    pub fn store(&self) -> Result<Store> {
        store_of(&self.root, &self.settings, self.store_root)
    }

    /// Opens the store of the project in `root` without a look at its sources, models and features, and says who may read
    /// what is written to it.
    ///
    /// # Errors
    /// Returns a configuration error if `c360.toml` cannot be read.
    pub fn open_store(root: &Path, overrides: &Overrides) -> Result<(Store, Access)> {
        let open = || {
            let settings = read_settings(root, overrides, &mut String::new())?;
            check_store(root, &settings)?;
            Ok((store_of(root, &settings, overrides.root)?, settings.project.access))
        };
        open().map_err(|error| located(root, error))
    }

    /// The name and the as-of of a project, without a look at its sources.
    ///
    /// # Errors
    /// Returns an error if `c360.toml` cannot be read.
    pub fn name(root: &Path, overrides: &Overrides) -> Result<(String, Option<Instant>)> {
        let settings = read_settings(root, overrides, &mut String::new())?;
        Ok((settings.project.name, settings.project.as_of))
    }

    /// Lists every setting of `c360.toml` by its path with its value and the origin of the value.
    ///
    /// # Errors
    /// Returns an error if `c360.toml` cannot be read again.
    pub fn settings_with_origins(&self) -> Result<Vec<(String, serde_json::Value, Origin)>> {
        let path = self.root.join("c360.toml");
        let written: serde_json::Value = read_toml(&path, FileKind::Project, &mut String::new())?;
        let written = origin::flat(&written);
        let all = serde_json::to_value(&self.settings).map_err(Error::engine("writing JSON"))?;
        let of = |(setting, value): (String, serde_json::Value)| {
            let in_file = || written.contains_key(&setting).then_some(Origin::File);
            let origin = self.origins.get(setting.as_str()).copied().or_else(in_file);
            (setting, value, origin.unwrap_or(Origin::Default))
        };
        Ok(origin::flat(&all).into_iter().map(of).collect())
    }

    /// The time zone, money scale and currency of the project.
    pub fn context(&self) -> &SourceContext {
        &self.events.context
    }
}

/// Reads `c360.toml` and applies the overrides.
fn read_settings(root: &Path, overrides: &Overrides, hashed: &mut String) -> Result<Settings> {
    let path = root.join("c360.toml");
    if !disk::is_file(&path)? {
        return Err(ProjectProblem::NoProject { folder: root.to_owned() }.into());
    }
    let mut settings: Settings = read_toml(&path, FileKind::Project, hashed)?;
    apply(&mut settings, overrides);
    Ok(settings)
}

fn store_of(root: &Path, settings: &Settings, number: Option<u64>) -> Result<Store> {
    let store = Store::at(resolve(root, &settings.project.store))?;
    Ok(match number {
        Some(number) => store.at_root(number),
        None => store,
    })
}

/// Checks that neither the project nor a source of `c360.toml` is in the store.
fn check_store(root: &Path, settings: &Settings) -> Result<()> {
    let sources = &settings.sources;
    let profile = sources.profile.as_ref().map(|profile| ("sources.profile", &profile.path));
    let lookups = sources.events.lookups.values().map(|l| ("sources.events.lookups", &l.path));
    let events = ("sources.events", &sources.events.path);
    let paths = std::iter::once(events).chain(profile).chain(lookups);
    let paths = paths.map(|(what, path)| (what, resolve(root, path)));
    let project = std::iter::once(("the project", root.to_owned()));
    not_in_store(root, settings, project.chain(paths))
}

/// Checks that none of the paths is in the store, where runs write and `gc` removes.
fn not_in_store<P: AsRef<Path>>(
    root: &Path,
    settings: &Settings,
    paths: impl IntoIterator<Item = (&'static str, P)>,
) -> Result<()> {
    let store = full(&resolve(root, &settings.project.store));
    let inside = paths.into_iter().find(|(_, path)| full(path.as_ref()).starts_with(&store));
    let Some((what, _)) = inside else { return Ok(()) };
    let required = format!("a folder of its own: {what} is in it");
    let (value, example) = (settings.project.store.as_str(), "store = \"store\"");
    Err(Error::setting("c360.toml", "project.store", value, required, example))
}

/// The path from the root of the disk, or the URL, without `..` or a slash at its end.
fn full(path: &Path) -> PathBuf {
    if is_url(path) {
        return PathBuf::from(path.to_string_lossy().trim_end_matches('/'));
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.components().fold(PathBuf::new(), |full, part| match part {
        Component::ParentDir => full.parent().unwrap_or(&full).to_owned(),
        part => full.join(part),
    })
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

/// Adds the line to an error whose message begins with a file of the project and a setting in it.
fn located(root: &Path, error: Error) -> Error {
    let message = error.to_string();
    let file = message.split([':', ' ']).next().unwrap_or_default();
    let Ok(text) = std::fs::read_to_string(root.join(file)) else { return error };
    let rest = message[file.len()..].trim_start_matches([':', ' ']);
    // The setting ends where the message says what is wrong with it.
    let ends = [": ", " = "].into_iter().filter_map(|end| rest.find(end)).min();
    let setting = &rest[..ends.unwrap_or(0)];
    let mut path = Vec::new();
    for (place, part) in setting.split(['`', '"']).enumerate() {
        // A name in quotes is one step, whatever it consists of.
        match place % 2 {
            1 => path.push(part),
            _ => path.extend(part.split([' ', '.', '[', ']']).filter(|step| !step.is_empty())),
        }
    }
    match check::find(&text, &path).filter(|_| file.ends_with(".toml")) {
        Some(at) => {
            let text = format!("{file} line {}{}", line_of(&text, at), &message[file.len()..]);
            Error::Located { text, error: Box::new(error) }
        }
        None => error,
    }
}

fn read_toml<T: DeserializeOwned>(path: &Path, kind: FileKind, hashed: &mut String) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    check_toml(path, &text, kind)?;
    let value = parse_toml(path, &text)?;
    hashed.push_str(&text);
    Ok(value)
}

/// Checks the text of a file by the schema of its kind.
fn check_toml(path: &Path, text: &str, kind: FileKind) -> Result<()> {
    check::check(text, kind).map_err(|Fault { at, message }| {
        let (file, line) = (path.to_owned(), line_of(text, at));
        ProjectProblem::Toml { file, line, message, kind: Some(kind) }.into()
    })
}

/// Parses the text of a file. Its errors name the line; a key that is missing has none, so they name its table.
fn parse_toml<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().unwrap_or_default();
        let (file, message) = (path.to_owned(), error.message().replace('\n', " "));
        ProjectProblem::Toml { file, line: line_of(text, at), message, kind: None }.into()
    })
}

/// The line that a range of a text begins in, counted from 1.
fn line_of(text: &str, at: Range<usize>) -> usize {
    text[..at.start].matches('\n').count() + 1
}

/// Reads the spec of a model: its kind first, then the settings of this kind.
///
/// An enum with the tag `kind` would read both at once, but serde buffers what such an enum holds, and errors would
/// have no line.
fn read_model(path: &Path, hashed: &mut String) -> Result<ModelSpec> {
    #[derive(Deserialize)]
    struct OfKind {
        kind: toml::Spanned<String>,
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let OfKind { kind } = parse_toml(path, &text)?;
    // The line of the kind is blanked, because a kind's settings do not have it.
    let start = text[..kind.span().start].rfind('\n').map_or(0, |end| end + 1);
    let end = text[kind.span().end..].find('\n').map_or(text.len(), |end| kind.span().end + end);
    let settings = format!("{}{}", &text[..start], &text[end..]);
    if let Some(kind) = FileKind::named(kind.as_ref()).filter(|kind| kind.is_model()) {
        check_toml(path, &text, kind)?;
    }
    let spec = match kind.as_ref().as_str() {
        "classifier" => ModelSpec::Classifier(Box::new(parse_toml(path, &settings)?)),
        "engagement" => ModelSpec::Engagement(parse_toml(path, &settings)?),
        "rfm" => ModelSpec::Rfm(parse_toml(path, &settings)?),
        "affinity" => ModelSpec::Affinity(parse_toml(path, &settings)?),
        "lifetime_value" => ModelSpec::LifetimeValue(parse_toml(path, &settings)?),
        other => {
            let place = format!("{} line {}", path.display(), line_of(&text, kind.span()));
            return Err(Error::unknown(place, "kind of model", other, ModelSpec::KINDS));
        }
    };
    hashed.push_str(&text);
    Ok(spec)
}

fn toml_files(root: &Path, folder: &str) -> Result<Vec<PathBuf>> {
    let path = root.join(folder);
    if !disk::is_folder(&path)? {
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

/// The footers of event files that the store keeps, if the events are in a bucket.
fn known_footers(root: &Path, settings: &Settings) -> Result<Footers> {
    if !is_url(Path::new(&settings.sources.events.path)) {
        return Ok(Footers::default());
    }
    let store = Store::at(resolve(root, &settings.project.store))?;
    let kept = store.read_beside(Footers::OBJECT)?;
    Ok(kept.map_or_else(Footers::default, |kept| Footers::from_json(&kept)))
}

/// The customers that the store says were forgotten. A store whose root cannot be read says nothing here; a command that
/// writes reads its root again, and compares.
fn forgotten(root: &Path, settings: &Settings) -> Result<Forgotten> {
    let Ok(store) = store_of(root, settings, None) else { return Ok(Forgotten::default()) };
    store.root().map_or_else(|_| Ok(Forgotten::default()), |root| Forgotten::load(&store, &root))
}

fn read_views(root: &Path, hashed: &mut String) -> Result<Vec<(String, ViewSpec)>> {
    let files = toml_files(root, "features")?.into_iter();
    let view = |file: &Path, hashed: &mut String| read_toml(file, FileKind::View, hashed);
    files.map(|file| Ok((relative(root, &file), view(&file, hashed)?))).collect()
}

/// Checks that a currency is written as an ISO 4217 code.
fn check_currency(currency: &str) -> Result<()> {
    if currency.len() == 3 && currency.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return Ok(());
    }
    let required = "three capital letters, an ISO 4217 code";
    Err(Error::setting("c360.toml", "project.currency", currency, required, "currency = \"EUR\""))
}

/// Parses `2GB`, `500MB`, `64KB` or a number of bytes. The units are powers of 1000.
fn parse_bytes(text: &str, overrides: &Overrides) -> Result<u64> {
    let units: BTreeMap<&str, u64> =
        [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("", 1)].into();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = units.get(text[digits.len()..].trim().to_uppercase().as_str());
    match (digits.parse::<u64>(), unit) {
        (Ok(number), Some(unit)) => Ok(number.saturating_mul(*unit)),
        _ => {
            let value = format!("{text:?}");
            let origin = overrides.origins.get("engine.memory").map(Origin::to_string);
            let place = origin.unwrap_or_else(|| "c360.toml".to_owned());
            Err(Error::setting(place, "engine.memory", value, "a size", "2GB or 500MB"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let bytes = |text: &str| parse_bytes(text, &Overrides::default());
        assert_eq!(bytes("2GB").unwrap(), 2_000_000_000);
        assert_eq!(bytes("500 mb").unwrap(), 500_000_000);
        assert_eq!(bytes("1024").unwrap(), 1024);
        assert!(bytes("2GiB").is_err());
        assert!(bytes("much").is_err());
    }
}

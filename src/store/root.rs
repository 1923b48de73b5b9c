//! The root of a store: a numbered object that names everything that is live.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::format::FORMAT_VERSION;
use crate::shard::Shards;
use crate::time::Instant;

/// The folder of the roots.
pub const ROOTS: &str = "roots";

/// The number of shards is changed only when at least this many times as many shards would suit the data,
/// because a change requires all events to be read again.
const OUTGROWN: usize = 4;

/// A live data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveFile {
    /// The path of the object, which only the run and the attempt that wrote it have used.
    pub object: String,
    /// The length in bytes.
    pub bytes: u64,
    /// The XXH3-64 of the bytes, in hexadecimal.
    pub xxh3: String,
}

/// The live files of one folder, by their names within it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format version of the manifest.
    pub format_version: u32,
    /// The files.
    pub files: BTreeMap<String, LiveFile>,
}

/// The object of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRef {
    /// The path of the object.
    pub object: String,
    /// The XXH3-64 of its bytes, in hexadecimal.
    pub xxh3: String,
}

/// The current profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentProfile {
    /// The as-of of the profile.
    pub as_of: Instant,
    /// The name of the run that wrote the profile.
    pub run: String,
}

/// What is live in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The format version of the root.
    pub format_version: u32,
    /// A mark of the store, by which others tell it from another store of the same project.
    #[serde(default)]
    pub store: String,
    /// The number of the root, which grows by one with every publication. A new store has the number 0.
    pub number: u64,
    /// When the root was published; `None` for a new store.
    pub published: Option<Instant>,
    /// The command that published the root.
    pub command: String,
    /// The champion of each model.
    pub champions: BTreeMap<String, String>,
    /// The versions of each model in the order of their latest training.
    #[serde(default)]
    pub trained: BTreeMap<String, Vec<String>>,
    /// The former champions of each model, the latest last.
    #[serde(default)]
    pub former: BTreeMap<String, Vec<String>>,
    /// The versions of each model that did not pass their gate and have not been promoted since.
    #[serde(default)]
    pub held_back: BTreeMap<String, Vec<String>>,
    /// The current profile.
    pub profile: Option<CurrentProfile>,
    /// The shards of the store; None before a run has chosen their number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<Shards>,
    /// The manifest of each folder with live files, such as `profile/as_of=2024-07-01`.
    pub folders: BTreeMap<String, ManifestRef>,
}

impl Default for Root {
    fn default() -> Self {
        Self {
            format_version: FORMAT_VERSION,
            store: String::new(),
            number: 0,
            published: None,
            command: String::new(),
            champions: BTreeMap::new(),
            trained: BTreeMap::new(),
            former: BTreeMap::new(),
            held_back: BTreeMap::new(),
            profile: None,
            shards: None,
            folders: BTreeMap::new(),
        }
    }
}

impl Root {
    /// The path of the object with the number of a root.
    pub fn path(number: u64) -> String {
        format!("{ROOTS}/{number:020}.json")
    }

    /// The number of a root by its path.
    pub fn number_of(path: &str) -> Option<u64> {
        let number = path.strip_prefix(ROOTS)?.strip_prefix('/')?.strip_suffix(".json")?;
        let is_padded = number.len() == 20 && number.bytes().all(|digit| digit.is_ascii_digit());
        number.parse().ok().filter(|_| is_padded)
    }

    /// The folders with live files that are `folder` or lie in it.
    pub fn folders_in<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a str> {
        let is_in = move |own: &&str| {
            let rest = own.strip_prefix(folder);
            folder.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.folders.keys().map(String::as_str).filter(is_in)
    }

    /// The versions of all models, sorted by model and version.
    pub fn versions(&self) -> Vec<(&str, &str)> {
        let folders = self.folders_in("models");
        folders.filter_map(|folder| folder.strip_prefix("models/")?.split_once('/')).collect()
    }

    /// Promotes a version of a model to champion and returns the previous champion.
    pub fn promote(&mut self, name: &str, version: &str) -> Option<String> {
        self.release(name, version);
        let before = self.champions.insert(name.to_owned(), version.to_owned());
        let replaced = before.clone().filter(|before| before != version);
        self.former.entry(name.to_owned()).or_default().extend(replaced);
        before
    }

    /// Keeps a version from scoring until it is promoted or passes its gate.
    pub fn hold_back(&mut self, name: &str, version: &str) {
        self.release(name, version);
        self.held_back.entry(name.to_owned()).or_default().push(version.to_owned());
    }

    /// Allows a version to score.
    pub fn release(&mut self, name: &str, version: &str) {
        if let Some(held) = self.held_back.get_mut(name) {
            held.retain(|other| other != version);
        }
    }

    /// Whether a version may not score.
    pub fn is_held_back(&self, name: &str, version: &str) -> bool {
        self.held_back.get(name).is_some_and(|held| held.iter().any(|other| other == version))
    }

    /// Makes the former champion of a model the champion again. Returns the replaced champion and the new
    /// one, or None if there is no former champion.
    pub fn roll_back(&mut self, name: &str) -> Option<(String, String)> {
        let earlier = self.former.get_mut(name)?.pop()?;
        let before = self.champions.insert(name.to_owned(), earlier.clone())?;
        Some((before, earlier))
    }

    /// Chooses the shards of a run over this many event rows and customers: those that are `wanted`, or else
    /// those of the store unless the rows have far outgrown them.
    pub fn choose_shards(&mut self, wanted: Option<Shards>, events: u64, customers: u64) -> Shards {
        let fit = Shards::for_rows(events, customers);
        let kept = self.shards.filter(|kept| fit.count() < OUTGROWN * kept.count());
        let chosen = wanted.or(kept).unwrap_or(fit);
        self.shards = Some(chosen);
        chosen
    }

    /// The as-ofs that a table of the store has, as folder names.
    pub fn as_ofs<'a>(&'a self, table: &'a str) -> std::collections::BTreeSet<&'a str> {
        self.folders_in(table)
            .filter_map(|folder| folder.split('/').find_map(|part| part.strip_prefix("as_of=")))
            .collect()
    }
}

//! The store: immutable data files under one root, which names the live files.
//!
//! A run stages its files beside the live ones, syncs them, moves them into place and then replaces
//! `current.json`, the only root. Every reader that goes through the root sees either the old state or the
//! new one.

pub mod parquet;
mod problem;
pub mod sorted;
pub mod spill;
pub mod staged;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use fs4::FileExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

pub use self::problem::StoreProblem;
use crate::error::{Error, Result};
use crate::shard::{Shard, Shards};
use crate::time::Instant;

/// The version of every file that this binary writes. It reads files of this version and of the previous one.
pub const FORMAT_VERSION: u32 = 1;

/// The number of shards is changed only when at least this many times as many shards would suit the data,
/// because a change requires all events to be read again.
const OUTGROWN: usize = 4;

const ROOT: &str = "current.json";
const LOCK: &str = ".lock";
const STAGING: &str = ".staging";

/// A live data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveFile {
    /// The length in bytes.
    pub bytes: u64,
    /// The XXH3-64 of the bytes, in hexadecimal.
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

/// The root of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The format version of the root.
    pub format_version: u32,
    /// The generation, which grows by one with every publication.
    pub generation: u64,
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
    /// All live files by their path in the store.
    pub files: BTreeMap<String, LiveFile>,
}

impl Default for Root {
    fn default() -> Self {
        Self {
            format_version: FORMAT_VERSION,
            generation: 0,
            champions: BTreeMap::new(),
            trained: BTreeMap::new(),
            former: BTreeMap::new(),
            held_back: BTreeMap::new(),
            profile: None,
            shards: None,
            files: BTreeMap::new(),
        }
    }
}

impl Root {
    /// The live files in a folder of the store.
    pub fn below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a str> {
        self.files
            .keys()
            .map(String::as_str)
            .filter(move |path| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
    }

    /// The versions of all models, sorted by model and version.
    pub fn versions(&self) -> Vec<(&str, &str)> {
        let paths = self.below("models").filter(|path| path.ends_with("/model.json"));
        let mut list: Vec<(&str, &str)> = paths
            .filter_map(|path| {
                let mut parts = path.split('/').skip(1);
                Some((parts.next()?, parts.next()?))
            })
            .collect();
        list.sort_unstable();
        list
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
        self.below(table)
            .filter_map(|path| path.split('/').find_map(|part| part.strip_prefix("as_of=")))
            .collect()
    }
}

/// A store on a local disk.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Opens the store at `path`, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if path.to_string_lossy().contains("://") {
            return Err(StoreProblem::Url { path }.into());
        }
        Ok(Self { path })
    }

    /// The folder of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The full path of a file of the store.
    pub fn file(&self, relative: &str) -> PathBuf {
        self.path.join(relative)
    }

    /// Reads the present root. A new store has an empty root.
    pub fn root(&self) -> Result<Root> {
        let path = self.path.join(ROOT);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Root::default());
            }
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        parse_json(&text, &path)
    }

    /// Takes the lock of the store and begins a transaction.
    ///
    /// # Errors
    /// Returns [`Error::Locked`] while another process holds the lock.
    pub fn begin(&self, command: &str) -> Result<Transaction> {
        std::fs::create_dir_all(&self.path).map_err(Error::io("create", &self.path))?;
        let path = self.path.join(LOCK);
        let mut options = OpenOptions::new();
        let mut lock = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        // The lock belongs to the open file, so that it ends with the process in any case.
        if FileExt::try_lock(&lock).is_err() {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            return Err(Error::Locked {
                path: self.path.clone(),
                holder: holder.trim().to_owned(),
            });
        }
        let holder = format!("process {}, {command}\n", std::process::id());
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(Error::io("write", &path))?;
        lock.write_all(holder.as_bytes()).map_err(Error::io("write", &path))?;

        let staging = self.path.join(STAGING);
        if staging.exists() {
            // A run that died left these files. Nothing refers to them.
            std::fs::remove_dir_all(&staging).map_err(Error::io("remove", &staging))?;
        }
        std::fs::create_dir_all(&staging).map_err(Error::io("create", &staging))?;
        let root = self.root()?;
        Ok(Transaction {
            store: self.clone(),
            root,
            staging,
            staged: Vec::new(),
            replaced: Vec::new(),
            removed: Vec::new(),
            _lock: lock,
        })
    }

    /// Reads the rows of a shard from a table of the store, regardless of the number of shards that the table
    /// was written in. `columns` selects some columns, which must include the key; None selects all.
    pub fn read_shard(
        &self,
        root: &Root,
        folder: &str,
        shard: Shard,
        columns: Option<&[&str]>,
    ) -> Result<Vec<RecordBatch>> {
        let mut found = Vec::new();
        for file in root.below(folder) {
            let of_file = Shard::of_file(file);
            if !of_file.meets(shard) {
                continue;
            }
            for rows in parquet::batches(&self.file(file), columns, None)? {
                let rows = rows?;
                if of_file.is_within(shard) {
                    found.push(rows);
                } else {
                    found.push(parquet::of_shard(&rows, shard)?);
                }
            }
        }
        Ok(found)
    }

    /// Reads a JSON file of the store.
    pub fn read_json<T: serde::de::DeserializeOwned>(&self, relative: &str) -> Result<T> {
        let path = self.file(relative);
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        parse_json(&text, &path)
    }
}

fn parse_json<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    let path = path.to_owned();
    let value: serde_json::Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(source) => return Err(StoreProblem::Invalid { path, source }.into()),
    };
    let version = value.get("format_version").and_then(serde_json::Value::as_u64);
    if let Some(version) = version
        && !(u64::from(FORMAT_VERSION).saturating_sub(1)..=u64::from(FORMAT_VERSION))
            .contains(&version)
    {
        return Err(StoreProblem::OtherFormat { path, version, readable: FORMAT_VERSION }.into());
    }
    serde_json::from_value(value).map_err(|source| StoreProblem::Invalid { path, source }.into())
}

/// The folder in which a run writes files before they are live. A file that is not passed to
/// [`Transaction::adopt`] is removed at the end of the run.
#[derive(Debug, Clone)]
pub struct Staging {
    folder: PathBuf,
    generation: u64,
}

impl Staging {
    /// Returns the path at which to write a file, and creates its folder.
    pub fn path(&self, relative: &str) -> Result<PathBuf> {
        let path = self.folder.join(relative);
        let folder = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        Ok(path)
    }

    /// The generation that the run will publish.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// The writes of one run, which become live together or not at all.
#[derive(Debug)]
pub struct Transaction {
    store: Store,
    /// The root as it will be published. Champions and profile are changed here.
    pub root: Root,
    staging: PathBuf,
    staged: Vec<String>,
    replaced: Vec<String>,
    removed: Vec<String>,
    _lock: File,
}

impl Transaction {
    /// The generation that the run will publish.
    pub fn generation(&self) -> u64 {
        self.root.generation + 1
    }

    /// The store that the transaction writes to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A folder for files that are needed only during the run.
    pub fn scratch(&self) -> &Path {
        &self.staging
    }

    /// The staging folder, which stages may use from any thread.
    pub fn staging(&self) -> Staging {
        Staging { folder: self.staging.clone(), generation: self.generation() }
    }

    /// Adopts a file that was written as `written` in the [`Staging`] folder, to become live as `relative`.
    pub fn adopt(&mut self, written: &str, relative: &str) -> Result<()> {
        if written != relative {
            let to = self.staging().path(relative)?;
            std::fs::rename(self.staging.join(written), &to).map_err(Error::io("move", &to))?;
        }
        self.staged.push(relative.to_owned());
        Ok(())
    }

    /// Whether a file is live or staged.
    pub fn has(&self, relative: &str) -> bool {
        self.root.files.contains_key(relative) || self.staged.iter().any(|own| own == relative)
    }

    /// Returns the path at which to write the file that will become live as `relative`.
    pub fn stage(&mut self, relative: &str) -> Result<PathBuf> {
        self.staged.push(relative.to_owned());
        self.staging().path(relative)
    }

    /// Stages a JSON file with indentation.
    pub fn write_json(&mut self, relative: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(Error::engine("writing JSON"))?;
        self.write_text(relative, &format!("{text}\n"))
    }

    /// Stages a text file.
    pub fn write_text(&mut self, relative: &str, text: &str) -> Result<()> {
        let path = self.stage(relative)?;
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// Removes a live file when the transaction is committed.
    pub fn remove(&mut self, relative: &str) {
        self.removed.push(relative.to_owned());
    }

    /// Replaces all live files in `folder` by the files that this transaction stages there.
    pub fn replace(&mut self, folder: &str) {
        self.replaced.push(folder.to_owned());
    }

    /// Syncs the staged files, moves them into place and publishes the root.
    pub fn commit(mut self) -> Result<Root> {
        let mut superseded = std::mem::take(&mut self.removed);
        for folder in &self.replaced {
            superseded.extend(self.root.below(folder).map(str::to_owned));
        }
        for path in &superseded {
            self.root.files.remove(path);
        }
        let staged = std::mem::take(&mut self.staged);
        let from = |relative: &String| self.staging.join(relative);
        let checksums = staged.par_iter().map(|relative| checksum(&from(relative)));
        let checksums: Vec<LiveFile> = checksums.collect::<Result<_>>()?;
        for (relative, live) in staged.into_iter().zip(checksums) {
            let from = self.staging.join(&relative);
            let to = self.store.file(&relative);
            let folder = to.parent().unwrap_or(self.store.path()).to_owned();
            std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
            std::fs::rename(&from, &to).map_err(Error::io("move into place", &to))?;
            sync_folder(&folder)?;
            self.root.files.insert(relative, live);
        }
        self.root.generation += 1;
        let root = self.store.path.join(ROOT);
        let mut text =
            serde_json::to_string_pretty(&self.root).map_err(Error::engine("writing JSON"))?;
        text.push('\n');
        let staged = self.staging.join(ROOT);
        let mut file = File::create(&staged).map_err(Error::io("create", &staged))?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", &staged))?;
        file.sync_all().map_err(Error::io("sync", &staged))?;
        std::fs::rename(&staged, &root).map_err(Error::io("publish", &root))?;
        sync_folder(&self.store.path)?;
        for relative in superseded.iter().filter(|path| !self.root.files.contains_key(*path)) {
            // The root is already published, so that a file that cannot be removed does no harm.
            let _ = std::fs::remove_file(self.store.file(relative));
        }
        Ok(std::mem::take(&mut self.root))
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.staging);
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}

/// Syncs a file and returns its length and checksum.
fn checksum(path: &Path) -> Result<LiveFile> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.sync_all().map_err(Error::io("sync", path))?;
    let (bytes, xxh3) = hash(file).map_err(Error::io("read", path))?;
    Ok(LiveFile { bytes, xxh3 })
}

/// Computes the length and the XXH3-64 of a file's bytes.
pub fn hash(mut file: File) -> std::io::Result<(u64, String)> {
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, format!("{:016x}", hasher.digest()))),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_live_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path().join("store")).unwrap();
        let mut run = store.begin("test").unwrap();
        std::fs::write(run.stage("a/1.txt").unwrap(), "one").unwrap();
        assert!(matches!(store.begin("other"), Err(Error::Locked { .. })));
        drop(run);
        assert_eq!(store.root().unwrap(), Root::default());
        assert!(!store.file("a/1.txt").exists());

        let mut run = store.begin("test").unwrap();
        std::fs::write(run.stage("a/1.txt").unwrap(), "one").unwrap();
        run.commit().unwrap();
        let mut run = store.begin("test").unwrap();
        run.replace("a");
        std::fs::write(run.stage("a/2.txt").unwrap(), "two").unwrap();
        let root = run.commit().unwrap();
        assert_eq!(root.generation, 2);
        assert_eq!(root.below("a").collect::<Vec<_>>(), ["a/2.txt"]);
        assert!(!store.file("a/1.txt").exists(), "superseded files are removed");
        assert_eq!(store.root().unwrap(), root);
    }

    #[test]
    fn a_root_of_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ROOT), "{\"format_version\": 99}").unwrap();
        let error = Store::at(folder.path()).unwrap().root().unwrap_err();
        assert!(error.to_string().contains("format_version 99"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

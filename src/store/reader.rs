//! A store as its readers see it: where it is, its roots, and the files that a root names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow_array::RecordBatch;

use super::format::{join, parse_json};
use super::objects::Objects;
use super::parquet;
use super::problem::StoreProblem;
use super::root::{LiveFile, Manifest, ManifestRef, ROOTS, Root};
use crate::error::{Error, Result};
use crate::shard::Shard;

/// A hint at the number of the latest root. It may be old, because it is written after the root.
pub const LATEST: &str = "latest.json";
/// The root of stores from before roots had numbers.
pub const OLD_ROOT: &str = "current.json";

/// A store on a local disk.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    /// The root that is read instead of the latest one.
    pub(super) at: Option<u64>,
    /// The manifests that were read, by their objects. An object never changes.
    manifests: Arc<Mutex<HashMap<String, Arc<Manifest>>>>,
}

impl Store {
    /// Opens the store at `path`, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if path.to_string_lossy().contains("://") {
            return Err(StoreProblem::Url { path }.into());
        }
        Ok(Self { path, at: None, manifests: Arc::default() })
    }

    /// The same store as of a root: it is read, but not written.
    pub fn at_root(self, number: u64) -> Self {
        Self { at: Some(number), ..self }
    }

    /// The folder of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The full path of a live file.
    ///
    /// # Errors
    /// Returns an error if the root does not name the file.
    pub fn file(&self, root: &Root, name: &str) -> Result<PathBuf> {
        match self.live(root, name)? {
            Some(file) => Ok(self.path.join(file.object)),
            None => Err(StoreProblem::NotLive { name: name.to_owned(), root: root.number }.into()),
        }
    }

    /// What is known of a live file; `None` if the root does not name it.
    pub fn live(&self, root: &Root, name: &str) -> Result<Option<LiveFile>> {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        Ok(self.manifest(root, folder)?.files.get(file).cloned())
    }

    /// Whether a file is live.
    pub fn has(&self, root: &Root, name: &str) -> Result<bool> {
        Ok(self.live(root, name)?.is_some())
    }

    /// The names of the live files in a folder of the store and in the folders within it, sorted.
    pub fn below(&self, root: &Root, folder: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for folder in root.folders_in(folder) {
            let manifest = self.manifest(root, folder)?;
            names.extend(manifest.files.keys().map(|file| join(folder, file)));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads the manifest of a folder. A folder without live files has an empty one.
    pub(super) fn manifest(&self, root: &Root, folder: &str) -> Result<Arc<Manifest>> {
        let Some(ManifestRef { object, xxh3 }) = root.folders.get(folder) else {
            return Ok(Arc::default());
        };
        if let Some(known) = self.manifests.lock().ok().and_then(|all| all.get(object).cloned()) {
            return Ok(known);
        }
        let path = self.path.join(object);
        let bytes = Objects::on_disk(&self.path)?.get(object)?;
        let bytes = bytes.ok_or_else(|| StoreProblem::NoManifest { path: path.clone() })?;
        if format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes)) != *xxh3 {
            return Err(StoreProblem::NoManifest { path }.into());
        }
        let manifest = Arc::new(parse_json(&String::from_utf8_lossy(&bytes), &path)?);
        if let Ok(mut all) = self.manifests.lock() {
            all.insert(object.clone(), Arc::clone(&manifest));
        }
        Ok(manifest)
    }

    /// The full path of an object that no root names: a page, or the record of a push.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Reads the latest root. A new store has an empty root.
    ///
    /// # Errors
    /// Returns [`StoreProblem::OldFormat`] for a store from before roots had numbers.
    pub fn root(&self) -> Result<Root> {
        if !self.path.is_dir() {
            return Ok(Root::default());
        }
        let objects = Objects::on_disk(&self.path)?;
        match self.at.map_or_else(|| self.latest(&objects), |number| Ok(Some(number)))? {
            Some(number) => self.read_root(&objects, number),
            None if self.path.join(OLD_ROOT).exists() => {
                Err(StoreProblem::OldFormat { path: self.path.clone() }.into())
            }
            None => Ok(Root::default()),
        }
    }

    /// Reads all roots in the order of their numbers.
    pub fn roots(&self) -> Result<Vec<Root>> {
        if !self.path.is_dir() {
            return Ok(Vec::new());
        }
        let objects = Objects::on_disk(&self.path)?;
        let mut numbers: Vec<u64> = objects
            .list(ROOTS, None)?
            .iter()
            .filter_map(|object| Root::number_of(&object.path))
            .collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|number| self.read_root(&objects, number)).collect()
    }

    /// The number of the latest root: the greatest from the hint on, or of all if the hint misleads.
    fn latest(&self, objects: &Objects) -> Result<Option<u64>> {
        let hint = objects.get(LATEST)?.and_then(|bytes| {
            serde_json::from_slice::<serde_json::Value>(&bytes).ok()?["number"].as_u64()
        });
        let before = hint.and_then(|number| number.checked_sub(1)).map(Root::path);
        let greatest = |after: Option<&str>| -> Result<Option<u64>> {
            let roots = objects.list(ROOTS, after)?;
            Ok(roots.iter().filter_map(|root| Root::number_of(&root.path)).max())
        };
        match greatest(before.as_deref())? {
            None if before.is_some() => greatest(None),
            found => Ok(found),
        }
    }

    pub(super) fn read_root(&self, objects: &Objects, number: u64) -> Result<Root> {
        let path = Root::path(number);
        let shown = self.path.join(&path);
        let Some(bytes) = objects.get(&path)? else {
            return Err(StoreProblem::NoRoot { path: self.path.clone(), number }.into());
        };
        parse_json(&String::from_utf8_lossy(&bytes), &shown)
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
        for file in &self.below(root, folder)? {
            let of_file = Shard::of_file(file);
            if !of_file.meets(shard) {
                continue;
            }
            for rows in parquet::batches(&self.file(root, file)?, columns, None)? {
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

    /// Reads a live JSON file.
    pub fn read_json<T: serde::de::DeserializeOwned>(&self, root: &Root, name: &str) -> Result<T> {
        let path = self.file(root, name)?;
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        parse_json(&text, &path)
    }
}

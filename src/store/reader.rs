//! A store as its readers see it: where it is, its roots, and the files that a root names.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use rayon::prelude::*;

use super::bucket::{self, BucketObject};
use super::disk;
use super::format::{checksum, hash, join, parse_json, unseal};
use super::objects::Objects;
use super::parquet;
use super::problem::StoreProblem;
use super::readable::expect;
use super::root::{LiveFile, Manifest, ManifestRef, ROOTS, Root};
use super::staged::Staged;
use super::views::shown_root;
use crate::error::{Error, Result};
use crate::shard::Shard;

/// A hint at the number of the latest root. It may be old, because it is written after the root.
pub const LATEST: &str = "latest.json";
/// The root of stores from before roots had numbers.
pub const OLD_ROOT: &str = "current.json";

/// A store in a folder on a disk or in a bucket.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    /// The root that is read instead of the latest one.
    pub(super) at: Option<u64>,
    /// The manifests that were read, by their objects. An object never changes.
    manifests: Arc<Mutex<HashMap<String, Arc<Manifest>>>>,
    /// The objects on a disk whose bytes were found to be those that were written.
    whole: Arc<Mutex<HashSet<String>>>,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The number of live files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The files that are gone or have other bytes than were written.
    pub damaged: Vec<PathBuf>,
}

impl Store {
    /// Opens the store at a path or the URL of a bucket's folder. It need not exist yet.
    ///
    /// # Errors
    /// Returns [`StoreProblem::Url`] for a URL that is not one of a bucket.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let mut path: PathBuf = path.into();
        if bucket::is_url(&path) {
            if bucket::has_credentials(&path) {
                return Err(StoreProblem::Credentials.into());
            }
            if !bucket::is_known(&path) {
                return Err(StoreProblem::Url { path }.into());
            }
            path = path.to_string_lossy().trim_end_matches('/').into();
        }
        Ok(Self { path, at: None, manifests: Arc::default(), whole: Arc::default() })
    }

    /// The same store as of a root: it is read, but not written.
    pub fn at_root(self, number: u64) -> Self {
        Self { at: Some(number), ..self }
    }

    /// The folder of the store: a path or a URL.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the store is in a bucket, where it has no links and no files that could be moved.
    pub fn is_remote(&self) -> bool {
        bucket::is_url(&self.path)
    }

    /// The objects of the store. A folder on a disk is created.
    pub(super) fn objects(&self) -> Result<Objects> {
        Objects::at(&self.path)
    }

    /// The full path or URL of a live file. Where it is opened as [`Readable`](super::readable::Readable), its bytes are
    /// compared with the checksum of the manifest.
    ///
    /// # Errors
    /// Returns an error if the root does not name the file.
    pub fn file(&self, root: &Root, name: &str) -> Result<PathBuf> {
        let file = self.live_file(root, name)?;
        let path = self.path.join(&file.object);
        match self.is_remote() {
            true => BucketObject::expect(&path, file.bytes, Some(file.xxh3))?,
            false => expect(&path, file.xxh3),
        }
        Ok(path)
    }

    /// The full path or URL of a live file of which parts are read that have checksums of their own.
    ///
    /// # Errors
    /// Returns an error if the root does not name the file.
    pub fn file_in_parts(&self, root: &Root, name: &str) -> Result<PathBuf> {
        let file = self.live_file(root, name)?;
        let path = self.path.join(&file.object);
        if self.is_remote() {
            BucketObject::expect(&path, file.bytes, None)?;
        }
        Ok(path)
    }

    /// Whether the object of a live file is there with the bytes that were written; in a bucket, with as many bytes.
    pub(super) fn is_whole(&self, file: &LiveFile) -> Result<bool> {
        if self.is_remote() {
            return Ok(self.objects()?.length(&file.object)? == Some(file.bytes));
        }
        let known = || self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&file.object) {
            return Ok(true);
        }
        let path = self.path.join(&file.object);
        let is_whole = match File::open(&path).and_then(hash) {
            Ok(read) => read == (file.bytes, file.xxh3.clone()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        if is_whole {
            known().insert(file.object.clone());
        }
        Ok(is_whole)
    }

    /// The live files of a folder, and of those within it, that are gone or damaged. In a bucket, whose own checks find
    /// other bytes, their lengths are compared.
    pub fn damaged(&self, root: &Root, folder: &str) -> Result<Vec<PathBuf>> {
        let files = self.below(root, folder)?;
        let files =
            files.iter().map(|name| self.live_file(root, name)).collect::<Result<Vec<_>>>()?;
        let lengths: HashMap<String, u64> = match self.is_remote() && !files.is_empty() {
            true => {
                self.objects()?.list(folder, None)?.into_iter().map(|o| (o.path, o.bytes)).collect()
            }
            false => HashMap::new(),
        };
        let is_whole = |file: &LiveFile| match self.is_remote() {
            true => lengths.get(&file.object) == Some(&file.bytes),
            // What cannot be read is no better.
            false => self.is_whole(file).unwrap_or(false),
        };
        let damaged = files.par_iter().filter(|file| !is_whole(file));
        Ok(damaged.map(|file| self.path.join(&file.object)).collect())
    }

    /// Reads all live files and compares them with their checksums.
    pub fn verify(&self, root: &Root) -> Result<Verified> {
        let names = self.below(root, "")?;
        let look = |name: &String| -> Result<(u64, Option<PathBuf>)> {
            let file = self.live_file(root, name)?;
            // What cannot be read is no better than what is damaged.
            let is_whole = self.object(&file).is_ok_and(|bytes| checksum(&bytes) == file.xxh3);
            Ok((file.bytes, (!is_whole).then(|| self.path.join(&file.object))))
        };
        let found: Vec<(u64, Option<PathBuf>)> =
            names.par_iter().map(look).collect::<Result<_>>()?;
        Ok(Verified {
            files: found.len() as u64,
            bytes: found.iter().map(|(bytes, _)| bytes).sum(),
            damaged: found.into_iter().filter_map(|(_, path)| path).collect(),
        })
    }

    /// Reads all bytes of a live file.
    ///
    /// # Errors
    /// Returns an error if the root does not name the file or it cannot be read, and [`StoreProblem::Damaged`] if it was
    /// changed.
    pub fn bytes(&self, root: &Root, name: &str) -> Result<Vec<u8>> {
        let file = self.live_file(root, name)?;
        let bytes = self.object(&file)?;
        match checksum(&bytes) == file.xxh3 {
            true => Ok(bytes),
            false => Err(StoreProblem::Damaged { path: self.path.join(file.object) }.into()),
        }
    }

    /// Reads the object of a live file, whatever its bytes are.
    fn object(&self, file: &LiveFile) -> Result<Vec<u8>> {
        let missing = || {
            let path = self.path.join(&file.object);
            Error::io("read", path)(std::io::ErrorKind::NotFound.into())
        };
        self.objects()?.get(&file.object)?.ok_or_else(missing)
    }

    /// What is known of a live file.
    fn live_file(&self, root: &Root, name: &str) -> Result<LiveFile> {
        let missing = || StoreProblem::NotLive { name: name.to_owned(), root: root.number };
        Ok(self.live(root, name)?.ok_or_else(missing)?)
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
        let folders: Vec<String> = root.folders_in(folder).map(str::to_owned).collect();
        self.load_manifests(root, folders.iter())?;
        for folder in &folders {
            let manifest = self.manifest(root, folder)?;
            names.extend(manifest.files.keys().map(|file| join(folder, file)));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads the manifests of folders at once, as far as they have not been read, so that a long history does not take
    /// a request after the other.
    pub(super) fn load_manifests<'a>(
        &self,
        root: &Root,
        folders: impl Iterator<Item = &'a String>,
    ) -> Result<()> {
        let known = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        let named = folders.filter_map(|folder| root.folders.get(folder));
        let missing: Vec<ManifestRef> =
            named.filter(|of| !known.contains_key(&of.object)).cloned().collect();
        drop(known);
        if missing.is_empty() {
            return Ok(());
        }
        let objects = missing.iter().map(|of| of.object.as_str());
        let read = self.objects()?.get_all(objects)?;
        for (of, bytes) in missing.iter().zip(read) {
            self.remember(of, bytes)?;
        }
        Ok(())
    }

    /// Checks and keeps a manifest that was read.
    fn remember(
        &self,
        ManifestRef { object, xxh3 }: &ManifestRef,
        bytes: Option<Vec<u8>>,
    ) -> Result<Arc<Manifest>> {
        let path = self.path.join(object);
        let bytes = bytes.ok_or_else(|| StoreProblem::NoManifest { path: path.clone() })?;
        if checksum(&bytes) != *xxh3 {
            return Err(StoreProblem::NoManifest { path }.into());
        }
        let manifest = Arc::new(parse_json(&String::from_utf8_lossy(&bytes), &path)?);
        let mut all = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(object.clone(), Arc::clone(&manifest));
        Ok(manifest)
    }

    /// Reads the manifest of a folder. A folder without live files has an empty one.
    pub(super) fn manifest(&self, root: &Root, folder: &str) -> Result<Arc<Manifest>> {
        let Some(of) = root.folders.get(folder) else { return Ok(Arc::default()) };
        let known = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&of.object).cloned() {
            return Ok(known);
        }
        drop(known);
        self.remember(of, self.objects()?.get(&of.object)?)
    }

    /// The full path or URL of an object that no root names: a page, or the record of a push.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Reads an object that no root names; `None` if there is none.
    pub fn read_beside(&self, path: &str) -> Result<Option<Vec<u8>>> {
        if !self.exists()? {
            return Ok(None);
        }
        self.objects()?.get(path)
    }

    /// Writes an object that no root names, or replaces it. `write` is given a file on a disk to write to.
    pub fn write_beside(&self, path: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let target = self.beside(path);
        if self.is_remote() {
            let file = tempfile::NamedTempFile::new().map_err(Error::io("write", &target))?;
            write(file.path())?;
            return self.objects()?.take(file.path(), path);
        }
        let folder = target.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let staged = Staged::beside(&target)?;
        write(staged.path())?;
        staged.publish()
    }

    /// Whether there may be objects. A bucket has no folders that could be missing.
    fn exists(&self) -> Result<bool> {
        Ok(self.is_remote() || disk::is_folder(&self.path)?)
    }

    /// Reads the latest root. A new store has an empty root.
    ///
    /// # Errors
    /// Returns [`StoreProblem::OldFormat`] for a store from before roots had numbers.
    pub fn root(&self) -> Result<Root> {
        if !self.exists()? {
            return Ok(Root::default());
        }
        let objects = self.objects()?;
        match self.at.map_or_else(|| self.latest(&objects), |number| Ok(Some(number)))? {
            Some(number) => self.read_root(&objects, number),
            None if objects.has(OLD_ROOT)? => {
                Err(StoreProblem::OldFormat { path: self.path.clone() }.into())
            }
            None => Ok(Root::default()),
        }
    }

    /// Reads all roots in the order of their numbers.
    pub fn roots(&self) -> Result<Vec<Root>> {
        if !self.exists()? {
            return Ok(Vec::new());
        }
        let objects = self.objects()?;
        let mut numbers: Vec<u64> = objects
            .list(ROOTS, None)?
            .iter()
            .filter_map(|object| Root::number_of(&object.path))
            .collect();
        numbers.sort_unstable();
        let paths: Vec<String> = numbers.into_iter().map(Root::path).collect();
        let read = objects.get_all(paths.iter().map(String::as_str))?;
        let there = paths.iter().zip(read);
        // One that is gone by now was removed by `gc`.
        there.filter_map(|(path, bytes)| Some(self.parse_root(path, &bytes?))).collect()
    }

    /// The number of the latest root: the greatest from the hint on, or of all if there is no hint.
    ///
    /// # Errors
    /// Returns [`StoreProblem::LostRoots`] if a later root was published than the greatest that is there.
    fn latest(&self, objects: &Objects) -> Result<Option<u64>> {
        let hint = objects.get(LATEST)?.and_then(|bytes| {
            serde_json::from_slice::<serde_json::Value>(&bytes).ok()?["number"].as_u64()
        });
        let before = hint.and_then(|number| number.checked_sub(1)).map(Root::path);
        let greatest = |after: Option<&str>| -> Result<Option<u64>> {
            let roots = objects.list(ROOTS, after)?;
            Ok(roots.iter().filter_map(|root| Root::number_of(&root.path)).max())
        };
        let found = match greatest(before.as_deref())? {
            None if before.is_some() => greatest(None)?,
            found => found,
        };
        let said = match (hint, found) {
            (None, None) => shown_root(objects)?,
            (hint, _) => hint,
        };
        match said.filter(|said| found.is_none_or(|found| *said > found) && *said > 0) {
            Some(said) => {
                let path = self.path.clone();
                Err(StoreProblem::LostRoots { path, said, greatest: found }.into())
            }
            None => Ok(found),
        }
    }

    pub(super) fn read_root(&self, objects: &Objects, number: u64) -> Result<Root> {
        let path = Root::path(number);
        match objects.get(&path)? {
            Some(bytes) => self.parse_root(&path, &bytes),
            None => Err(StoreProblem::NoRoot { path: self.path.clone(), number }.into()),
        }
    }

    pub(super) fn parse_root(&self, path: &str, bytes: &[u8]) -> Result<Root> {
        let path = self.path.join(path);
        let Some(object) = unseal(bytes) else {
            return Err(StoreProblem::DamagedRoot { path }.into());
        };
        parse_json(&String::from_utf8_lossy(&object), &path)
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

    /// Reads a live JSON file that may have been edited after it was written.
    pub fn read_edited_json<T: serde::de::DeserializeOwned>(
        &self,
        root: &Root,
        name: &str,
    ) -> Result<T> {
        let file = self.live_file(root, name)?;
        let bytes = self.object(&file)?;
        parse_json(&String::from_utf8_lossy(&bytes), &self.path.join(file.object))
    }

    /// Reads a live JSON file.
    pub fn read_json<T: serde::de::DeserializeOwned>(&self, root: &Root, name: &str) -> Result<T> {
        let bytes = self.bytes(root, name)?;
        let path = self.path.join(self.live_file(root, name)?.object);
        parse_json(&String::from_utf8_lossy(&bytes), &path)
    }
}

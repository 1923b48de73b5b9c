//! The files of a run before they are live. Their checksums are those of the bytes that the run wrote, not of what the
//! disk gives when it is asked for them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use super::root::LiveFile;
use crate::error::{Error, Result};

/// The length of a file in bytes and the XXH3-64 of its bytes, in hexadecimal.
type Written = (u64, String);

/// The folder in which a run writes files before they are live. A file that is not passed to
/// [`Transaction::adopt`](super::Transaction::adopt) is removed at the end of the run.
#[derive(Debug, Clone)]
pub struct Staging {
    folder: PathBuf,
    number: u64,
    /// What was written, by name.
    written: Arc<Mutex<HashMap<String, Written>>>,
}

impl Staging {
    /// Creates the folder of the run that will publish the root with this number.
    pub(super) fn create(folder: PathBuf, number: u64) -> Result<Self> {
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        Ok(Self { folder, number, written: Arc::default() })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The number of the root that the run will publish.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Creates a file.
    pub fn file(&self, name: &str) -> Result<StagedFile> {
        let path = self.path(name)?;
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let staging = self.clone();
        Ok(StagedFile { file, path, name: name.to_owned(), staging, bytes: 0, hash: Xxh3::new() })
    }

    /// Gives a file another name.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let path = self.path(to)?;
        std::fs::rename(self.folder.join(from), &path).map_err(Error::io("move", &path))?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = written.remove(from);
        written.extend(moved.map(|file| (to.to_owned(), file)));
        Ok(())
    }

    /// Syncs a file that was written, and gives what the object that it becomes will be.
    pub(super) fn synced(&self, name: &str, object: String) -> Result<LiveFile> {
        let path = self.folder.join(name);
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(Error::io("sync", &path))?;
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((bytes, xxh3)) = written.get(name).cloned() else {
            unreachable!("{name} is staged once it is written, and only a StagedFile is written")
        };
        Ok(LiveFile { object, bytes, xxh3 })
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let folder = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        Ok(path)
    }
}

/// A file of a run that is being written. Its length and checksum are known once it is dropped.
pub struct StagedFile {
    file: File,
    path: PathBuf,
    name: String,
    staging: Staging,
    bytes: u64,
    hash: Xxh3,
}

impl StagedFile {
    /// The path of the file, as errors name it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let written = (self.bytes, format!("{:016x}", self.hash.digest()));
        let mut all = self.staging.written.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(std::mem::take(&mut self.name), written);
    }
}

//! A file outside the store that is written as a whole or not at all.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::problem::StoreProblem;
use crate::error::{Error, Result};

/// The beginning of the name of a file that has not got its own name yet.
pub(super) const UNFINISHED: &str = ".c360-ml-";

/// A file that replaces its target with [`Staged::publish`]. It is removed if it is not published. What a process that was
/// killed has left of it is written over by the next one.
pub struct Staged {
    /// Locked for this process.
    file: File,
    path: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl Staged {
    /// Creates an empty file in the folder of `target`.
    ///
    /// # Errors
    /// Returns an I/O error that names `target`, and [`StoreProblem::BeingWritten`] if another process is writing it.
    pub fn beside(target: &Path) -> Result<Self> {
        let failed = || Error::io("write", target);
        let name = target.file_name().ok_or(std::io::ErrorKind::InvalidFilename);
        let name = name.map_err(|kind| failed()(kind.into()))?.to_string_lossy();
        let path = target.with_file_name(format!("{UNFINISHED}{name}"));
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(failed())?;
            if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                return Err(StoreProblem::BeingWritten { path: target.to_owned() }.into());
            }
            // The process that held the lock may have given the file its own name in between.
            if is_at(&file, &path) {
                file.set_len(0).map_err(failed())?;
                return Ok(Self { file, path, target: target.to_owned(), is_published: false });
            }
        }
    }

    /// The path at which to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the file and puts it in the place of the target.
    pub fn publish(mut self) -> Result<()> {
        let failed = || Error::io("write", &self.target);
        self.file.sync_all().map_err(failed())?;
        std::fs::rename(&self.path, &self.target).map_err(failed())?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether an open file is the one at a path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let opened = file.metadata().map(identity).ok();
    opened.is_some() && opened == std::fs::metadata(path).map(identity).ok()
}

/// Whether an open file is the one at a path. On Windows an open file keeps its name.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Replaces the content of a file with `bytes`.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let staged = Staged::beside(path)?;
    std::fs::write(staged.path(), bytes).map_err(Error::io("write", path))?;
    staged.publish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.csv");
        let names = || {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        replace(&target, b"first").unwrap();
        // What a process that was killed has left is longer than the next file.
        std::fs::write(folder.path().join(".c360-ml-a.csv"), "left by another process").unwrap();
        let staged = Staged::beside(&target).unwrap();
        let error = Staged::beside(&target).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("a.csv"), "{error}");
        std::fs::write(staged.path(), "second").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"first");
        staged.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"second");
        drop(Staged::beside(&target).unwrap());
        assert_eq!(std::fs::read(&target).unwrap(), b"second");
        assert_eq!(names(), ["a.csv"]);
    }
}

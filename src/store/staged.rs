//! A file outside the store that is written as a whole or not at all.

use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// A temporary file that replaces its target with [`Staged::publish`]. It is removed if it is not published.
pub struct Staged {
    file: NamedTempFile,
    target: PathBuf,
}

impl Staged {
    /// Creates an empty file in the folder of `target`.
    ///
    /// # Errors
    /// Returns an I/O error that names `target`.
    pub fn beside(target: &Path) -> Result<Self> {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        // The file gets the permissions of any other new file. By default only the owner can read a temporary
        // file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(Error::io("write", target))?;
        Ok(Self { file, target: target.to_owned() })
    }

    /// The path at which to write.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Syncs the file and puts it in the place of the target.
    pub fn publish(self) -> Result<()> {
        let failed = || Error::io("write", &self.target);
        self.file.as_file().sync_all().map_err(failed())?;
        self.file
            .persist(&self.target)
            .map_err(|error| Error::io("write", &self.target)(error.error))?;
        Ok(())
    }
}

/// Replaces the content of a file with `bytes`.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let staged = Staged::beside(path)?;
    std::fs::write(staged.path(), bytes).map_err(Error::io("write", path))?;
    staged.publish()
}

//! A file outside the store that is written whole or not at all.

use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// A file beside the one that it becomes with [`Staged::publish`]; it is removed where it does not.
pub struct Staged {
    file: NamedTempFile,
    target: PathBuf,
}

impl Staged {
    /// An empty file in the folder of `target`.
    ///
    /// # Errors
    /// An I/O error that names `target`.
    pub fn beside(target: &Path) -> Result<Self> {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        // As any other new file: by default a temporary one is its owner's alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(Error::io("write", target))?;
        Ok(Self { file, target: target.to_owned() })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Syncs what was written and puts it in place of the target.
    pub fn publish(self) -> Result<()> {
        let failed = || Error::io("write", &self.target);
        self.file.as_file().sync_all().map_err(failed())?;
        self.file
            .persist(&self.target)
            .map_err(|error| Error::io("write", &self.target)(error.error))?;
        Ok(())
    }
}

/// Puts `bytes` in place of a file.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let staged = Staged::beside(path)?;
    std::fs::write(staged.path(), bytes).map_err(Error::io("write", path))?;
    staged.publish()
}

//! What there is at a path of a disk. The functions of [`Path`] that ask the same take a path about which the disk gives no
//! answer for one where nothing is: a store on a disk that fails would be taken for a new one.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// Whether there is a folder at a path.
///
/// # Errors
/// Returns an error that names the path if the disk gives no answer.
pub fn is_folder(path: &Path) -> Result<bool> {
    Ok(find(path)?.is_some_and(|found| found.is_dir()))
}

/// Whether there is a file at a path.
///
/// # Errors
/// Returns an error that names the path if the disk gives no answer.
pub fn is_file(path: &Path) -> Result<bool> {
    Ok(find(path)?.is_some_and(|found| found.is_file()))
}

fn find(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_nothing(&error) => Ok(None),
        Err(error) => Err(Error::io("find", path)(error)),
    }
}

/// Whether an error says that nothing is at a path. A link that leads back to itself leads to nothing.
fn is_nothing(error: &std::io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return true;
    }
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_folder_a_file_or_neither() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let asked = |path: &Path| (is_folder(path).unwrap(), is_file(path).unwrap());
        assert_eq!(asked(folder.path()), (true, false));
        assert_eq!(asked(&file), (false, true));
        assert_eq!(asked(&folder.path().join("nothing")), (false, false));
        assert_eq!(asked(&file.join("below a file")), (false, false));
        #[cfg(unix)]
        {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&link, &link).unwrap();
            assert_eq!(asked(&link), (false, false));
        }
    }

    #[test]
    fn a_path_that_the_disk_cannot_tell_of_is_an_error() {
        let endless = Path::new("/").join("a".repeat(5000));
        let problem = is_folder(&endless).unwrap_err().to_string();
        assert!(problem.contains("aaaa"), "{problem}");
    }
}

//! The objects of a store: files on a disk, or in a bucket, by the same code.
//!
//! Calls block. They run on threads of their own, so that they can be made from any thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Runtime;

use crate::error::{Error, Result};

/// The threads that wait for requests.
pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("objects")
        .enable_all()
        .build()
        .unwrap_or_else(|error| unreachable!("threads can be started: {error}"))
});

/// An object and what is known of it without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The path within the store.
    pub path: String,
    /// The length in bytes.
    pub bytes: u64,
    /// When it was written, in microseconds since 1970.
    pub modified: i64,
}

/// Whether an object was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was not there before.
    New,
    /// There was one already, which is unchanged.
    Exists,
}

/// A folder of objects.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    folder: PathBuf,
}

impl Objects {
    /// Opens a folder on a disk, which is created. What is written there is synced before a call returns.
    ///
    /// # Errors
    /// Returns an I/O error if the folder cannot be created.
    pub fn on_disk(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(failed("open", folder))?;
        Ok(Self { store: Arc::new(store.with_fsync(true)), folder: folder.to_owned() })
    }

    /// The folder, as errors name it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(path: &str) -> Result<ObjectPath> {
        ObjectPath::parse(path).map_err(Error::engine("naming an object"))
    }

    fn shown(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// Reads an object; `None` if there is none.
    pub fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let location = Self::path(path)?;
        let read = async { self.store.get(&location).await?.bytes().await };
        match RUNTIME.block_on(read) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("read", &self.shown(path))(error)),
        }
    }

    /// Writes an object, or replaces it.
    pub fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        let location = Self::path(path)?;
        let put = self.store.put(&location, PutPayload::from(bytes));
        RUNTIME.block_on(put).map(|_| ()).map_err(failed("write", &self.shown(path)))
    }

    /// Writes an object unless there is one. Of several who try at once, one creates it.
    pub fn create(&self, path: &str, bytes: Vec<u8>) -> Result<Created> {
        let location = Self::path(path)?;
        let put = self.store.put_opts(&location, PutPayload::from(bytes), PutMode::Create.into());
        match RUNTIME.block_on(put) {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Exists),
            Err(error) => Err(failed("write", &self.shown(path))(error)),
        }
    }

    /// Lists the objects below a folder whose paths come after `after`, sorted by path.
    pub fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Object>> {
        let prefix = if folder.is_empty() { None } else { Some(Self::path(folder)?) };
        let after = after.map(Self::path).transpose()?;
        let listed = match &after {
            Some(after) => self.store.list_with_offset(prefix.as_ref(), after),
            None => self.store.list(prefix.as_ref()),
        };
        let found: Vec<_> =
            RUNTIME.block_on(listed.try_collect()).map_err(failed("list", &self.shown(folder)))?;
        let object = |meta: object_store::ObjectMeta| Object {
            path: meta.location.to_string(),
            bytes: meta.size,
            modified: meta.last_modified.timestamp_micros(),
        };
        let mut objects: Vec<Object> = found.into_iter().map(object).collect();
        objects.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    /// Removes an object. One that is not there is no error.
    pub fn delete(&self, path: &str) -> Result<()> {
        let location = Self::path(path)?;
        match RUNTIME.block_on(self.store.delete(&location)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("remove", &self.shown(path))(error)),
        }
    }
}

/// Turns an error of a request into one that names the object. What a disk says is an I/O error.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(object_store::Error) -> Error {
    let path = path.to_owned();
    move |error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(known) = cause {
            if let Some(io) = known.downcast_ref::<std::io::Error>() {
                let io = std::io::Error::new(io.kind(), io.to_string());
                return Error::io(action, path)(io);
            }
            cause = known.source();
        }
        Error::io(action, path)(std::io::Error::other(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_created_once_and_listed_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::on_disk(&folder.path().join("store")).unwrap();
        assert_eq!(objects.get("a/1").unwrap(), None);
        assert_eq!(objects.create("a/2", b"two".to_vec()).unwrap(), Created::New);
        assert_eq!(objects.create("a/2", b"other".to_vec()).unwrap(), Created::Exists);
        assert_eq!(objects.get("a/2").unwrap().unwrap(), b"two");
        objects.put("a/1", b"one".to_vec()).unwrap();
        objects.put("b=c/3.json", b"three".to_vec()).unwrap();
        let paths = |folder: &str, after: Option<&str>| {
            let found = objects.list(folder, after).unwrap().into_iter();
            found.map(|object| object.path).collect::<Vec<_>>()
        };
        assert_eq!(paths("", None), ["a/1", "a/2", "b=c/3.json"]);
        assert_eq!(paths("a", Some("a/1")), ["a/2"]);
        objects.delete("a/1").unwrap();
        objects.delete("a/1").unwrap();
        assert_eq!(paths("a", None), ["a/2"]);
    }

    /// Of many who create the same object at once, exactly one does.
    #[test]
    fn one_of_many_creates_an_object() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::on_disk(folder.path()).unwrap();
        for round in 0..20 {
            let path = format!("roots/{round}");
            let created: usize = std::thread::scope(|scope| {
                let create = |who: u8| objects.create(&path, vec![who; 1000]).unwrap();
                let all: Vec<_> = (0..8).map(|who| scope.spawn(move || create(who))).collect();
                let all = all.into_iter().map(|one| one.join().unwrap());
                all.filter(|created| *created == Created::New).count()
            });
            assert_eq!(created, 1);
            let bytes = objects.get(&path).unwrap().unwrap();
            assert!(bytes.len() == 1000 && bytes.iter().all(|byte| *byte == bytes[0]));
        }
    }
}

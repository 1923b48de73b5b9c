//! The objects of a store: files on a disk, or in a bucket, by the same code.
//!
//! Calls block. They run on threads of their own, so that they can be made from any thread.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, WriteMultipart};
use rayon::prelude::*;

use super::bucket;
use super::runtime::RUNTIME;
use crate::error::{Error, Result};

/// A longer file is sent to a bucket in parts of this many bytes.
const PART: usize = 8 << 20;
/// The number of objects that are read or sent at once.
const AT_ONCE: usize = 32;
/// The number of parts that are under way at a time.
const PARTS: usize = 4;

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
    on_disk: bool,
}

impl Objects {
    /// Opens the folder of a path or URL. A folder on a disk is created.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created or the URL is not one of a bucket.
    pub fn at(folder: &Path) -> Result<Self> {
        if !bucket::is_url(folder) {
            return Self::on_disk(folder);
        }
        let (store, prefix) = bucket::folder(folder)?;
        let store = Arc::new(PrefixStore::new(store, prefix));
        Ok(Self { store, folder: folder.to_owned(), on_disk: false })
    }

    /// Opens a folder on a disk, which is created. What is written there is synced before a call returns.
    ///
    /// # Errors
    /// Returns an I/O error if the folder cannot be created.
    pub fn on_disk(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(failed("open", folder))?;
        let store = Arc::new(store.with_fsync(true));
        Ok(Self { store, folder: folder.to_owned(), on_disk: true })
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
        Ok(self.get_all(std::iter::once(path))?.pop().flatten())
    }

    /// Reads many objects at once; `None` for each that is not there.
    pub fn get_all<'a>(
        &self,
        paths: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let read = |path: &'a str| async move {
            let location = Self::path(path)?;
            let get = async { self.store.get(&location).await?.bytes().await };
            match get.await {
                Ok(bytes) => Ok(Some(bytes.to_vec())),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(failed("read", &self.shown(path))(error)),
            }
        };
        let reads = futures_util::stream::iter(paths.map(read)).buffered(AT_ONCE);
        RUNTIME.block_on(reads.try_collect())
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

    /// Whether there is an object.
    pub fn has(&self, path: &str) -> Result<bool> {
        Ok(self.length(path)?.is_some())
    }

    /// The length of an object in bytes; `None` if there is none.
    pub fn length(&self, path: &str) -> Result<Option<u64>> {
        let location = Self::path(path)?;
        match RUNTIME.block_on(self.store.head(&location)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("find", &self.shown(path))(error)),
        }
    }

    /// Makes objects of files that were written on a disk, each with its path: they are sent to the bucket, many at a
    /// time, or moved if the objects are on the same disk.
    pub fn take_all(&self, files: &[(PathBuf, &str)]) -> Result<()> {
        if self.on_disk {
            let moves = files.par_iter();
            return moves.try_for_each(|(file, path)| move_synced(file, &self.shown(path)));
        }
        let sends = files.iter().map(|(file, path)| self.send(file, path));
        let sends = futures_util::stream::iter(sends).buffer_unordered(AT_ONCE);
        RUNTIME.block_on(sends.try_collect())
    }

    /// Makes an object of one file, as [`Objects::take_all`] does.
    pub fn take(&self, file: &Path, path: &str) -> Result<()> {
        self.take_all(&[(file.to_owned(), path)])
    }

    /// Sends a file to the bucket, a long one in parts.
    async fn send(&self, file: &Path, path: &str) -> Result<()> {
        let location = Self::path(path)?;
        let refused = |error| failed("write", &self.shown(path))(error);
        let length = std::fs::metadata(file).map_err(Error::io("read", file))?.len();
        if length <= PART as u64 {
            let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
            let put = self.store.put(&location, PutPayload::from(bytes));
            return put.await.map(|_| ()).map_err(refused);
        }
        let upload = self.store.put_multipart(&location).await.map_err(refused)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let mut file_read = File::open(file).map_err(Error::io("open", file))?;
        let mut part = vec![0; PART];
        loop {
            let count = file_read.read(&mut part).map_err(Error::io("read", file))?;
            if count == 0 {
                break;
            }
            upload.write(&part[..count]);
            if let Err(error) = upload.wait_for_capacity(PARTS).await {
                // A bucket keeps parts that belong to no object until it is told that none is to come.
                let _ = upload.abort().await;
                return Err(refused(error));
            }
        }
        upload.finish().await.map(|_| ()).map_err(refused)
    }

    /// Removes objects, many with one request where the bucket can. One that is not there is no error.
    pub fn delete<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let locations: Vec<ObjectPath> =
            paths.into_iter().map(Self::path).collect::<Result<_>>()?;
        if locations.is_empty() {
            return Ok(());
        }
        // A bucket may refuse one of many requests at a moment, and a removal can be repeated.
        RUNTIME
            .block_on(async {
                match self.remove(locations.clone()).await {
                    Ok(()) => Ok(()),
                    Err(_) => self.remove(locations).await,
                }
            })
            .map_err(failed("remove from", &self.folder))
    }

    /// Removes objects, and as many of them as can be removed if there is an error.
    async fn remove(&self, locations: Vec<ObjectPath>) -> object_store::Result<()> {
        let locations = futures_util::stream::iter(locations.into_iter().map(Ok)).boxed();
        let mut removed = self.store.delete_stream(locations);
        let mut outcome = Ok(());
        while let Some(one) = removed.next().await {
            match one {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}

/// Moves a file within a disk and syncs its new folder. The file itself was synced before.
fn move_synced(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    std::fs::rename(from, to).map_err(Error::io("move into place", to))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}

/// Turns an error of a request into one that names the object. What a disk says is an I/O error.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(object_store::Error) -> Error {
    let path = path.to_owned();
    move |error| {
        if bucket::is_url(&path) {
            return bucket::refused(action, &path)(error);
        }
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
        objects.delete(["a/1"]).unwrap();
        objects.delete(["a/1"]).unwrap();
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

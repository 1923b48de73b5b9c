//! Buckets behind URLs: Amazon S3, Google Cloud Storage and Azure Blob Storage.
//!
//! Credentials come from the usual environment variables and profiles, and from the identity that a cloud gives its
//! machines.
//! Requests that fail are repeated with growing pauses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::aws_profile;
use super::problem::StoreProblem;
use super::runtime::{RUNTIME, choose_cryptography};
use crate::error::{Error, Result};

/// An object of a bucket, as it was when this process first saw it.
#[derive(Debug, Clone)]
pub struct BucketObject {
    /// The bucket, for requests.
    pub bucket: Arc<dyn ObjectStore>,
    /// The URL of the object.
    pub url: PathBuf,
    /// The key, length in bytes, time of the last modification and ETag.
    pub meta: ObjectMeta,
    /// The XXH3-64 that all its bytes must have, in hexadecimal; `None` if it is not known.
    pub xxh3: Option<String>,
}

/// The buckets that were opened, by what comes before the keys in their URLs.
static BUCKETS: LazyLock<Mutex<HashMap<String, Arc<dyn ObjectStore>>>> =
    LazyLock::new(Mutex::default);
/// The objects that were seen, by URL. A process reads an object only as it first saw it.
static SEEN: LazyLock<Mutex<HashMap<PathBuf, BucketObject>>> = LazyLock::new(Mutex::default);

/// Whether a path is a URL.
pub fn is_url(path: &Path) -> bool {
    path.to_string_lossy().contains("://")
}

/// Whether the scheme of a URL is that of a bucket.
pub fn is_known(url: &Path) -> bool {
    let url = url.to_string_lossy();
    url.split_once("://").is_some_and(|(scheme, _)| opener(scheme).is_some())
}

/// Whether a URL has a user name or a password in it, which would be printed with it. Of Azure's long form of URLs, what
/// stands before the `@` is the name of the container.
pub fn has_credentials(url: &Path) -> bool {
    let url = url.to_string_lossy();
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let host = rest.split('/').next().unwrap_or_default();
    let user = host.split_once('@').map(|(user, _)| user);
    let is_container = scheme.starts_with("abfs") || scheme.starts_with("az");
    user.is_some_and(|user| !is_container || user.contains(':'))
}

/// A path of a project, which is relative to the folder of the project unless it is absolute or a URL.
pub fn resolve(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    match is_url(path.as_ref()) {
        true => path.as_ref().to_owned(),
        false => root.join(path),
    }
}

type Opener = fn(&str) -> object_store::Result<Arc<dyn ObjectStore>>;

fn opener(scheme: &str) -> Option<Opener> {
    Some(match scheme {
        "s3" | "s3a" => |url| {
            let builder = aws_profile::complete(AmazonS3Builder::from_env().with_url(url))?;
            Ok(Arc::new(builder.build()?))
        },
        "gs" => |url| Ok(Arc::new(GoogleCloudStorageBuilder::from_env().with_url(url).build()?)),
        "az" | "azure" | "abfs" | "abfss" => {
            |url| Ok(Arc::new(MicrosoftAzureBuilder::from_env().with_url(url).build()?))
        }
        _ => return None,
    })
}

/// The bucket of a URL, what comes before the keys, and the key.
fn parts(url: &Path) -> Result<(Arc<dyn ObjectStore>, String, String)> {
    let text = url.to_string_lossy();
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
    let start = format!("{scheme}://{host}/");
    let mut buckets = BUCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bucket) = buckets.get(&start) {
        return Ok((bucket.clone(), start, key.to_owned()));
    }
    choose_cryptography();
    let open = opener(scheme).ok_or_else(|| {
        Error::io("open", url)(std::io::Error::other("it is no address of a bucket"))
    })?;
    let bucket = open(&start).map_err(refused("open", url))?;
    buckets.insert(start.clone(), bucket.clone());
    Ok((bucket, start, key.to_owned()))
}

/// The bucket of a folder's URL, and the prefix of its keys.
pub(super) fn folder(url: &Path) -> Result<(Arc<dyn ObjectStore>, Key)> {
    let (bucket, _, key) = parts(url)?;
    let key = Key::parse(key.trim_end_matches('/')).map_err(Error::engine("naming an object"))?;
    Ok((bucket, key))
}

/// Whether there is any object below the folder of a URL.
pub(super) fn has_below(url: &Path) -> Result<bool> {
    let (bucket, key) = folder(url)?;
    let first = async { bucket.list(Some(&key)).try_next().await };
    Ok(RUNTIME.block_on(first).map_err(refused("list", url))?.is_some())
}

impl BucketObject {
    /// Remembers an object of a known length, which nothing ever replaces, so that no request has to find it. One with a
    /// checksum is read as a whole.
    pub fn expect(url: &Path, size: u64, xxh3: Option<String>) -> Result<()> {
        if SEEN.lock().unwrap_or_else(PoisonError::into_inner).contains_key(url) {
            return Ok(());
        }
        let (bucket, start, key) = parts(url)?;
        let location = Key::parse(key).map_err(Error::engine("naming an object"))?;
        let last_modified = chrono::DateTime::UNIX_EPOCH;
        let meta = ObjectMeta { location, last_modified, size, e_tag: None, version: None };
        remember(bucket, &start, meta, xxh3);
        Ok(())
    }

    /// Finds the object of a URL; `None` if there is none.
    ///
    /// # Errors
    /// Returns an error that names the object if the request fails for good.
    pub fn find(url: &Path) -> Result<Option<Self>> {
        let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned();
        if seen.is_some() {
            return Ok(seen);
        }
        let (bucket, start, key) = parts(url)?;
        let Ok(key) = Key::parse(key) else { return Ok(None) };
        match RUNTIME.block_on(bucket.head(&key)) {
            Ok(meta) => Ok(Some(remember(bucket, &start, meta, None))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(refused("find", url)(error)),
        }
    }

    /// Lists the objects below the folder of a URL.
    ///
    /// # Errors
    /// Returns an error that names the folder if the request fails for good.
    pub fn below(folder: &Path) -> Result<Vec<Self>> {
        let (bucket, start, key) = parts(folder)?;
        let key = key.trim_end_matches('/');
        let prefix = Key::parse(key).map_err(Error::engine("naming an object"))?;
        let listed = bucket.list(if key.is_empty() { None } else { Some(&prefix) });
        let listed: Vec<ObjectMeta> =
            RUNTIME.block_on(listed.try_collect()).map_err(refused("list", folder))?;
        Ok(listed.into_iter().map(|meta| remember(bucket.clone(), &start, meta, None)).collect())
    }
}

/// Turns the error of a request into one that names the URL.
pub(super) fn refused(
    action: &'static str,
    url: &Path,
) -> impl FnOnce(object_store::Error) -> Error {
    let url = url.to_owned();
    move |source| StoreProblem::Request { action, url, source }.into()
}

/// The object as it was first seen.
fn remember(
    bucket: Arc<dyn ObjectStore>,
    start: &str,
    meta: ObjectMeta,
    xxh3: Option<String>,
) -> BucketObject {
    let url = PathBuf::from(format!("{start}{}", meta.location));
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let object = BucketObject { bucket, url: url.clone(), meta, xxh3 };
    seen.entry(url).or_insert(object).clone()
}

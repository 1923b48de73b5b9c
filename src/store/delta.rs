//! Where Delta tables are, and what `delta_kernel` reads and writes them with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use url::Url;

use super::bucket;
use super::disk;
use super::runtime::RUNTIME;
use crate::error::{Error, Result};

/// What reads and writes Delta tables.
pub type DeltaEngine = DefaultEngine<TokioMultiThreadExecutor>;

/// The folder of the log within a table.
const LOG: &str = "_delta_log";

/// Finds the Delta table at a path or URL: what reads it, and where it is. Returns `None` if there is no log.
///
/// # Errors
/// Returns an error that names the table if a request fails for good.
pub fn find(path: &Path) -> Result<Option<(Arc<DeltaEngine>, Url)>> {
    let there = match bucket::is_url(path) {
        true => bucket::is_known(path) && bucket::has_below(&path.join(LOG))?,
        false => disk::is_folder(&path.join(LOG))?,
    };
    if there { at(path).map(Some) } else { Ok(None) }
}

/// What reads and writes a Delta table, and where the table is.
///
/// # Errors
/// Returns an error if the path or URL cannot be one of a table.
pub fn at(path: &Path) -> Result<(Arc<DeltaEngine>, Url)> {
    let (store, root): (Arc<dyn ObjectStore>, Url) = match bucket::is_url(path) {
        true => {
            let (store, _) = bucket::folder(path)?;
            let text = format!("{}/", path.to_string_lossy().trim_end_matches('/'));
            (store, Url::parse(&text).map_err(Error::engine("reading the address of a table"))?)
        }
        false => {
            let full = std::path::absolute(path).map_err(Error::io("find", path))?;
            let Ok(root) = Url::from_directory_path(&full) else {
                unreachable!("the path {} is absolute", full.display())
            };
            (Arc::new(LocalFileSystem::new()), root)
        }
    };
    let executor = Arc::new(TokioMultiThreadExecutor::new(RUNTIME.handle().clone()));
    let engine = DefaultEngineBuilder::new(store).with_task_executor(executor).build();
    Ok((Arc::new(engine), root))
}

/// Waits for what an engine does.
pub fn block_on<Output>(work: impl Future<Output = Output>) -> Output {
    RUNTIME.block_on(work)
}

/// The path or URL of a file of the table at `table`, given its path in the log: relative to the table or a URL, with
/// escaped characters.
pub fn path_of(root: &Url, table: &Path, path: &str) -> Result<PathBuf> {
    let failed = "reading the path of a file of a Delta table";
    let url = root.join(path).map_err(Error::engine(failed))?;
    let decoded = |text: &str| {
        let text = percent_encoding::percent_decode_str(text).decode_utf8();
        text.map(|text| text.into_owned()).map_err(Error::engine(failed))
    };
    match url.as_str().strip_prefix(root.as_str()) {
        Some(within) => Ok(table.join(decoded(within)?)),
        None if url.scheme() == "file" => Ok(decoded(url.path())?.into()),
        None => Ok(decoded(url.as_str())?.into()),
    }
}

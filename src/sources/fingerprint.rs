//! Fingerprints of files: whether one has changed since it was read.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::hash;
use crate::store::readable::Readable;

/// A fingerprint that tells whether a file has changed since it was read, without reading its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The length of the file in bytes.
    pub bytes: u64,
    /// The time of the last modification, in microseconds since 1970-01-01T00:00:00Z.
    pub modified: i64,
    /// The XXH3-64 hash of the footer, which contains the schema and the location and metadata of every
    /// column chunk. Of an object it is the ETag.
    pub footer: String,
}

impl Fingerprint {
    /// Computes the fingerprint of a Parquet file. Only the end of the file is read.
    pub fn of(path: &Path) -> Result<Self> {
        let file = Readable::open(path)?;
        if let Ok((bytes, modified, Some(tag))) = file.version() {
            return Ok(Self { bytes, modified, footer: tag.to_owned() });
        }
        let file = file.with_tail()?;
        let read = || -> std::io::Result<Self> {
            let (bytes, modified, _) = file.version()?;
            let mut tail = [0; 4];
            file.from(bytes.saturating_sub(8))?.read_exact(&mut tail)?;
            let length = u64::from(u32::from_le_bytes(tail)) + 8;
            let (_, footer) = hash(file.from(bytes.saturating_sub(length))?)?;
            Ok(Self { bytes, modified, footer })
        };
        read().map_err(Error::io("read", path))
    }
}

/// The XXH3-64 hash of the bytes of a file, in hexadecimal.
///
/// # Errors
/// Returns an I/O error if the file cannot be read.
pub fn hash_of(path: &Path) -> Result<String> {
    let file = Readable::open(path)?;
    let hash = file.from(0).and_then(hash).map_err(Error::io("read", path))?;
    Ok(hash.1)
}

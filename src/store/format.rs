//! What all files of a store have in common.

use std::io::Read;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::problem::StoreProblem;
use crate::error::Result;

/// The version of every file that this binary writes. It reads files of this version and of the previous one.
pub const FORMAT_VERSION: u32 = 1;

/// The name of a file in a folder, which is empty for the store itself.
pub fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// Parses the JSON text of a file, and refuses a format version that this binary does not read.
pub fn parse_json<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    let path = path.to_owned();
    let value: serde_json::Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(source) => return Err(StoreProblem::Invalid { path, source }.into()),
    };
    let version = value.get("format_version").and_then(serde_json::Value::as_u64);
    if let Some(version) = version
        && !(u64::from(FORMAT_VERSION).saturating_sub(1)..=u64::from(FORMAT_VERSION))
            .contains(&version)
    {
        return Err(StoreProblem::OtherFormat { path, version, readable: FORMAT_VERSION }.into());
    }
    serde_json::from_value(value).map_err(|source| StoreProblem::Invalid { path, source }.into())
}

/// Computes the length and the XXH3-64 of a file's bytes.
pub fn hash(mut file: impl Read) -> std::io::Result<(u64, String)> {
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, format!("{:016x}", hasher.digest()))),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}

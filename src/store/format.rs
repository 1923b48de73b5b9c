//! What all files of a store have in common.

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::problem::StoreProblem;
use crate::error::{Error, Result};

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

/// What a sealed JSON object begins with, and what follows the checksum.
const SEAL: (&[u8], &[u8]) = (b"{\n  \"xxh3\": \"", b"\",\n");

/// Renders an object that has fields as JSON whose first field, `xxh3`, is the XXH3-64 in hexadecimal of all bytes that
/// follow its line. No other file says what the bytes of such an object must be.
pub fn seal(object: &impl Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_vec_pretty(object).map_err(Error::engine("writing JSON"))?;
    let fields = text.strip_prefix(b"{\n").unwrap_or(&text);
    Ok([SEAL.0, checksum(fields).as_bytes(), SEAL.1, fields, b"\n"].concat())
}

/// The JSON object that was sealed, without its checksum; `None` if the bytes are not those that were written.
pub fn unseal(bytes: &[u8]) -> Option<Vec<u8>> {
    let (xxh3, rest) = bytes.strip_prefix(SEAL.0)?.split_at_checked(16)?;
    let fields = rest.strip_prefix(SEAL.1)?.strip_suffix(b"\n")?;
    (checksum(fields).as_bytes() == xxh3).then(|| [b"{\n", fields].concat())
}

/// The XXH3-64 of bytes, in hexadecimal.
pub fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// No bit of a sealed object can change unnoticed.
    #[test]
    fn a_sealed_object_with_another_bit_is_none() {
        let object = serde_json::json!({ "number": 7, "folders": { "a": "b" } });
        let sealed = seal(&object).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&unseal(&sealed).unwrap()).unwrap();
        assert_eq!(value, object);
        let with_seal: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(with_seal["number"], 7, "it is JSON for others too");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(&flipped), None, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(unseal(&sealed[..length]), None, "{length} bytes");
        }
    }
}

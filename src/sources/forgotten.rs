//! Customers who were forgotten. Sources are read as if they had no rows of them, so that no run brings them back.

use std::collections::BTreeSet;

use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::store::{FORMAT_VERSION, Root, Store, Transaction};

/// The file of a store that has them.
const FILE: &str = "forgotten/customers.json";

/// Salted SHA-256 hashes of the keys of customers who were forgotten. The keys themselves are nowhere. Who has both the
/// store and a list of keys can find out which of them were forgotten; nothing else can keep them out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forgotten {
    format_version: u32,
    /// Random bytes before each key, in hexadecimal.
    salt: String,
    /// The hashes in hexadecimal.
    hashes: BTreeSet<String>,
}

impl Default for Forgotten {
    /// Nobody, with a salt of its own.
    fn default() -> Self {
        let salt = hexadecimal(&rand::rng().random::<[u8; 16]>());
        Self { format_version: FORMAT_VERSION, salt, hashes: BTreeSet::new() }
    }
}

impl Forgotten {
    /// Reads those of a root of a store.
    ///
    /// # Errors
    /// Returns an error if the file was changed.
    pub fn load(store: &Store, root: &Root) -> Result<Self> {
        match store.has(root, FILE)? {
            true => store.read_json(root, FILE),
            false => Ok(Self::default()),
        }
    }

    /// Stages them for the next root.
    pub fn write(&self, transaction: &mut Transaction) -> Result<()> {
        transaction.write_json(FILE, self)
    }

    /// Adds a customer. Returns whether they were not forgotten before.
    pub fn add(&mut self, key: &str) -> bool {
        let hash = self.hash(key);
        self.hashes.insert(hash)
    }

    /// Whether a customer was forgotten.
    pub fn has(&self, key: &str) -> bool {
        !self.is_empty() && self.hashes.contains(&self.hash(key))
    }

    /// The number of customers.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether nobody was forgotten.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether both are of the same customers.
    pub fn is_same(&self, other: &Self) -> bool {
        self.hashes == other.hashes
    }

    fn hash(&self, key: &str) -> String {
        hexadecimal(&Sha256::new().chain_update(&self.salt).chain_update(key).finalize())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_forgotten_is_and_no_key_is_kept() {
        let mut forgotten = Forgotten::default();
        assert!(!forgotten.has("c-1") && forgotten.is_empty());
        assert!(forgotten.add("c-1") && !forgotten.add("c-1"));
        assert!(forgotten.has("c-1") && !forgotten.has("c-2") && !forgotten.has("C-1"));
        let text = serde_json::to_string(&forgotten).unwrap();
        assert!(!text.contains("c-1"), "{text}");
        let read: Forgotten = serde_json::from_str(&text).unwrap();
        assert!(read.has("c-1") && read.len() == 1);
        // Another store hashes the same key otherwise.
        let mut other = Forgotten::default();
        other.add("c-1");
        assert_ne!(other.hashes, forgotten.hashes);
    }
}

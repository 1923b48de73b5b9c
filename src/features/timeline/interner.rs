//! Interning: maps byte strings to dense codes within one partition.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// The hash of keys and texts within a build. Customers are assigned to shards by [`crate::shard::hash`]
/// instead.
pub fn hash(text: &[u8]) -> u64 {
    xxh3_64(text)
}

/// The number of texts from which an interner gives its memory back when it is cleared.
const LARGE: usize = 1 << 12;

/// Assigns codes to distinct byte strings in the order of their first occurrence.
///
/// The codes depend on the order in which the strings arrive, so no result of a partition may depend on the
/// codes.
#[derive(Debug, Default)]
pub struct Interner {
    table: HashTable<u32>,
    hashes: Vec<u64>,
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl Interner {
    /// The code of `text`. A new text gets the next code.
    pub fn intern(&mut self, text: &[u8]) -> u32 {
        self.intern_hashed(text, hash(text))
    }

    /// The code of `text`, whose [`hash`] is `hash`. A new text gets the next code.
    pub fn intern_hashed(&mut self, text: &[u8], hash: u64) -> u32 {
        if let Some(code) = self.find_hashed(text, hash) {
            return code;
        }
        let code = self.ends.len() as u32;
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.table.insert_unique(hash, code, |known| hashes[*known as usize]);
        code
    }

    /// The code of `text`, or None if it has not been interned.
    pub fn find_hashed(&self, text: &[u8], hash: u64) -> Option<u32> {
        self.table.find(hash, |code| self.get(*code) == text).copied()
    }

    /// The bytes with the given code.
    pub fn get(&self, code: u32) -> &[u8] {
        let code = code as usize;
        let start = if code == 0 { 0 } else { self.ends[code - 1] };
        &self.bytes[start..self.ends[code]]
    }

    /// The text with the given code, which must have been interned from UTF-8.
    pub fn text(&self, code: u32) -> &str {
        std::str::from_utf8(self.get(code)).unwrap_or_default()
    }

    /// Removes all texts and keeps the allocated memory, unless it is so much that clearing it takes long.
    pub fn clear(&mut self) {
        if self.len() > LARGE {
            *self = Self::default();
        }
        self.table.clear();
        self.hashes.clear();
        self.ends.clear();
        self.bytes.clear();
    }

    /// The number of codes.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

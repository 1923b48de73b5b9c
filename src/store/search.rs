//! Searches the objects of a store for keys of customers, decompressed.

use std::collections::BTreeSet;
use std::io::Read;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rayon::prelude::*;

use super::problem::StoreProblem;
use super::reader::Store;
use crate::error::{Error, Result};

/// A key with letters and digits that is shorter may be there by chance.
const LONG: usize = 6;
/// A plain number that is shorter may be another number, and a word that is shorter one of a report.
const LONG_WORD: usize = 10;

/// What is searched for.
#[derive(Debug)]
pub struct Search<'a> {
    keys: &'a BTreeSet<&'a str>,
    /// The keys that do not occur by chance, which are searched for in all bytes.
    rare: Vec<&'a str>,
}

/// What was searched and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// The objects that were searched.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that were searched, those of tables decompressed.
    pub decompressed: u64,
    /// The number of keys that were searched for only in the cells of tables, because they are short, plain numbers or words.
    pub only_cells: usize,
    /// The objects that have a trace.
    pub found: Vec<String>,
}

impl<'a> Search<'a> {
    /// A search for these keys.
    pub fn of(keys: &'a BTreeSet<&'a str>) -> Self {
        let is_rare = |key: &str| {
            let has = |of: fn(&u8) -> bool| key.as_bytes().iter().any(of);
            let is_mixed = has(u8::is_ascii_digit) && has(|byte| !byte.is_ascii_digit());
            key.len() >= if is_mixed { LONG } else { LONG_WORD }
        };
        Self { keys, rare: keys.iter().copied().filter(|key| is_rare(key)).collect() }
    }

    /// Whether bytes have a key as a word of its own.
    fn is_in(&self, bytes: &[u8]) -> bool {
        self.rare.iter().any(|key| has_word(bytes, key.as_bytes()))
    }

    /// Whether a cell of a column is a key or has one in its text, and the bytes that were searched.
    fn is_in_column(&self, column: &ArrayRef) -> (bool, u64) {
        let is_in = |text: &str| self.keys.contains(text) || self.is_in(text.as_bytes());
        let bytes = column.get_array_memory_size() as u64;
        let found = match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().iter().flatten().any(is_in),
            DataType::LargeUtf8 => column.as_string::<i64>().iter().flatten().any(is_in),
            DataType::List(_) => return self.is_in_column(column.as_list::<i32>().values()),
            DataType::Struct(_) => {
                let all = column.as_struct().columns().iter();
                let all: Vec<(bool, u64)> = all.map(|part| self.is_in_column(part)).collect();
                return (all.iter().any(|one| one.0), all.iter().map(|one| one.1).sum());
            }
            _ => false,
        };
        (found, bytes)
    }

    /// Whether an object has a trace of a key, and how many bytes were searched.
    fn is_in_object(&self, path: &str, bytes: Vec<u8>) -> Result<(bool, u64)> {
        let mut found = self.is_in(&bytes);
        let mut searched = bytes.len() as u64;
        if !path.ends_with(".parquet") {
            for section in frames(&bytes) {
                found |= self.is_in(&section);
                searched += section.len() as u64;
            }
            return Ok((found, searched));
        }
        let damaged = || Error::from(StoreProblem::Damaged { path: path.into() });
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes));
        let reader = reader.and_then(|reader| reader.build()).map_err(|_| damaged())?;
        for rows in reader {
            for column in rows.map_err(|_| damaged())?.columns() {
                let (is_in, bytes) = self.is_in_column(column);
                found |= is_in;
                searched += bytes;
            }
        }
        Ok((found, searched))
    }
}

/// What is compressed by zstd in a file, such as the sections of a timeline file.
fn frames(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    /// The first bytes of a frame (RFC 8878, section 3.1.1).
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let begins = bytes.windows(4).enumerate().filter(|(_, four)| *four == MAGIC);
    begins.filter_map(|(at, _)| {
        let mut content = Vec::new();
        let frame = zstd::stream::read::Decoder::with_buffer(&bytes[at..]).ok()?;
        // Bytes that look like the beginning of a frame by chance are none.
        frame.single_frame().read_to_end(&mut content).ok()?;
        Some(content)
    })
}

/// Whether `bytes` have `word`, with no letter or digit next to it.
fn has_word(bytes: &[u8], word: &[u8]) -> bool {
    let is_letter = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at)).is_some_and(|byte| byte.is_ascii_alphanumeric())
    };
    let Some((first, _)) = word.split_first() else { return false };
    let mut from = 0;
    while let Some(found) = bytes[from..].iter().position(|byte| byte == first) {
        let at = from + found;
        if bytes[at..].starts_with(word)
            && !is_letter(at.checked_sub(1))
            && !is_letter(Some(at + word.len()))
        {
            return true;
        }
        from = at + 1;
    }
    false
}

impl Store {
    /// Searches all objects of the store.
    ///
    /// # Errors
    /// Returns an error if an object cannot be read, or is a table that cannot be decoded.
    pub fn search(&self, search: &Search<'_>) -> Result<Traces> {
        let objects = self.objects()?;
        let listed = objects.list("", None)?;
        let look = |path: &String| -> Result<(bool, u64)> {
            // One that is gone by now has no trace.
            objects.get(path)?.map_or(Ok((false, 0)), |bytes| search.is_in_object(path, bytes))
        };
        let paths: Vec<String> = listed.iter().map(|object| object.path.clone()).collect();
        let looked: Vec<(bool, u64)> = paths.par_iter().map(look).collect::<Result<_>>()?;
        let found = paths.into_iter().zip(&looked).filter(|(_, (found, _))| *found);
        Ok(Traces {
            files: listed.len() as u64,
            bytes: listed.iter().map(|object| object.bytes).sum(),
            decompressed: looked.iter().map(|(_, bytes)| bytes).sum(),
            only_cells: search.keys.len() - search.rare.len(),
            found: found.map(|(path, _)| path).collect(),
        })
    }

    /// Removes the objects of a folder of replaced files that have a trace.
    pub fn remove_beside(&self, folder: &str, search: &Search<'_>) -> Result<()> {
        let objects = self.objects()?;
        let mut traced = Vec::new();
        for object in objects.list(folder, None)? {
            let bytes = objects.get(&object.path)?.unwrap_or_default();
            if search.is_in_object(&object.path, bytes)?.0 {
                traced.push(object.path);
            }
        }
        objects.delete(traced.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_as_words() {
        assert!(has_word(b"{\"id\":\"cust-77\"}", b"cust-77"));
        assert!(!has_word(b"cust-771 xcust-77", b"cust-77"));
        assert!(has_word(b"cust-771 cust-77", b"cust-77"));
        let keys = BTreeSet::from(["12", "1234567", "a-long-key", "nobody", "c-77", "cust77"]);
        let search = Search::of(&keys);
        assert_eq!(search.rare, ["a-long-key", "cust77"]);
        let text: String = (0..500).map(|number| format!("{number} a-long-key, ")).collect();
        let compressed = zstd::bulk::compress(text.as_bytes(), 1).unwrap();
        let file = [b"C360".as_slice(), &compressed, b"{}"].concat();
        assert!(!search.is_in(&compressed));
        assert!(search.is_in_object("timelines/1.bin", file).unwrap().0);
    }
}

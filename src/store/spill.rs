//! Spilled data, which are on disk during a run: chunks of bytes by place, such as the place of a shard, in
//! one file without a name.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

/// Chunks of bytes by place. The file has no name, so that it disappears when the process ends in any way.
/// Many threads may add and read chunks at once.
#[derive(Debug)]
pub struct Spill {
    file: File,
    folder: PathBuf,
    end: AtomicU64,
    chunks: Vec<Mutex<Vec<Chunk>>>,
}

/// The position of a chunk in the file, and the XXH3-64 of its bytes.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    start: u64,
    length: usize,
    xxh3: u64,
}

impl Spill {
    /// Creates an empty file in `folder` for this many places.
    pub fn create(folder: &Path, places: usize) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io("create a file in", folder))?;
        let chunks = (0..places).map(|_| Mutex::default()).collect();
        Ok(Self { file, folder: folder.to_owned(), end: AtomicU64::new(0), chunks })
    }

    /// Adds a chunk to a place.
    ///
    /// # Errors
    /// Returns an I/O error that names the folder, for example if the disk is full.
    pub fn add(&self, place: usize, bytes: &[u8]) -> Result<()> {
        let start = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file
            .write_all_at(bytes, start)
            .map_err(Error::io("put rows aside on disk in", &self.folder))?;
        self.own(place).push(Chunk { start, length: bytes.len(), xxh3: xxh3_64(bytes) });
        Ok(())
    }

    /// Reads the chunks of a place in the order in which they were added.
    pub fn read(&self, place: usize) -> Result<Vec<Vec<u8>>> {
        let chunks = self.own(place).clone();
        chunks.into_iter().map(|chunk| self.take_up(chunk)).collect()
    }

    /// Reads the chunk that was added to a place as number `index`, counted from 0; `None` if there are fewer.
    pub fn read_chunk(&self, place: usize, index: usize) -> Result<Option<Vec<u8>>> {
        let chunk = self.own(place).get(index).copied();
        chunk.map(|chunk| self.take_up(chunk)).transpose()
    }

    /// Adds record batches of one schema to a place, as one chunk. Nothing is added if there are no batches.
    pub fn add_rows(&self, place: usize, batches: &[RecordBatch]) -> Result<()> {
        let Some(first) = batches.first() else { return Ok(()) };
        let context = "putting rows aside";
        let mut writer = StreamWriter::try_new(Vec::new(), first.schema_ref())
            .map_err(Error::engine(context))?;
        for batch in batches {
            writer.write(batch).map_err(Error::engine(context))?;
        }
        self.add(place, &writer.into_inner().map_err(Error::engine(context))?)
    }

    /// Reads the record batches of a place in the order in which they were added, chunk by chunk.
    pub fn read_rows(&self, place: usize) -> Result<Vec<Vec<RecordBatch>>> {
        let context = "taking up rows that were put aside";
        let decode = |bytes: Vec<u8>| {
            let reader = StreamReader::try_new(bytes.as_slice(), None);
            let reader = reader.map_err(Error::engine(context))?;
            reader.map(|batch| batch.map_err(Error::engine(context))).collect()
        };
        self.read(place)?.into_iter().map(decode).collect()
    }

    /// Adds doubles to a place, as one chunk.
    pub fn add_numbers(&self, place: usize, numbers: &[f64]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.add(place, &bytes)
    }

    /// Reads the doubles of a place in the order in which they were added.
    pub fn read_numbers(&self, place: usize) -> Result<Vec<f64>> {
        Ok(self.read(place)?.iter().flat_map(|bytes| numbers(bytes)).collect())
    }

    /// The number of bytes of a place.
    pub fn length(&self, place: usize) -> usize {
        self.own(place).iter().map(|chunk| chunk.length).sum()
    }

    /// The number of bytes in all places.
    pub fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Reads a chunk and compares its bytes with their hash, because nothing is computed from other ones.
    fn take_up(&self, chunk: Chunk) -> Result<Vec<u8>> {
        let failed = || Error::io("take up rows put aside in", &self.folder);
        let mut bytes = vec![0; chunk.length];
        self.file.read_exact_at(&mut bytes, chunk.start).map_err(failed())?;
        if xxh3_64(&bytes) != chunk.xxh3 {
            let other = "the disk gives other bytes than were written";
            return Err(failed()(std::io::Error::new(std::io::ErrorKind::InvalidData, other)));
        }
        Ok(bytes)
    }

    fn own(&self, place: usize) -> std::sync::MutexGuard<'_, Vec<Chunk>> {
        self.chunks[place].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Decodes doubles from their little-endian bytes.
pub fn numbers(bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn chunks_come_back_by_place() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::create(folder.path(), 4).unwrap();
        std::thread::scope(|scope| {
            for place in 0..4 {
                let spill = &spill;
                scope.spawn(move || {
                    for i in 0..50_u8 {
                        spill.add(place, &vec![i; place * 100 + 1]).unwrap();
                    }
                });
            }
        });
        for place in 0..4 {
            let chunks = spill.read(place).unwrap();
            assert_eq!(chunks.len(), 50);
            for (i, chunk) in chunks.iter().enumerate() {
                assert_eq!(*chunk, vec![i as u8; place * 100 + 1]);
            }
        }
        assert_eq!(spill.bytes(), 50 * (1 + 101 + 201 + 301));
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "it has no name");
    }

    /// Every bit that changes on the disk is found.
    #[test]
    fn other_bytes_on_the_disk_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::create(folder.path(), 1).unwrap();
        spill.add(0, b"first").unwrap();
        spill.add(0, b"second").unwrap();
        assert_eq!(spill.read_chunk(0, 1).unwrap().unwrap(), b"second");
        assert_eq!(spill.read_chunk(0, 2).unwrap(), None);
        for bit in 0..5 * 8 {
            let mut flipped = *b"first";
            flipped[bit / 8] ^= 1 << (bit % 8);
            spill.file.write_all_at(&flipped, 0).unwrap();
            let error = spill.read(0).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains(&*folder.path().to_string_lossy()), "{error}");
            assert!(spill.read_chunk(0, 0).is_err());
        }
        spill.file.write_all_at(b"first", 0).unwrap();
        assert_eq!(spill.read(0).unwrap(), [b"first".to_vec(), b"second".to_vec()]);
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::create(folder.path(), 1).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let rows = RecordBatch::try_from_iter([("x", column)]).unwrap();
        spill.add_rows(0, &[rows.clone(), rows.slice(1, 2)]).unwrap();
        spill.add_rows(0, &[]).unwrap();
        spill.add_rows(0, &[rows.slice(0, 0)]).unwrap();
        let found = spill.read_rows(0).unwrap();
        assert_eq!(found, [vec![rows.clone(), rows.slice(1, 2)], vec![rows.slice(0, 0)]]);
    }
}

//! A file that is read by ranges, on a disk or in a bucket.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use object_store::{GetOptions, GetRange, OBJECT_STORE_COALESCE_DEFAULT, coalesce_ranges};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::bucket::{BucketObject, is_url, refused};
use super::format::checksum;
use super::problem::StoreProblem;
use super::runtime::RUNTIME;
use crate::error::{Error, Result};

/// How much of the end of an object is read with one request. The footers of most files are smaller.
const TAIL: u64 = 1 << 16;
/// How much is read with one request where it is not known how much will be needed.
const AHEAD: u64 = 1 << 22;

/// The checksums that files on a disk must have, by their paths: the XXH3-64 of all bytes, in hexadecimal.
static EXPECTED: LazyLock<Mutex<HashMap<PathBuf, String>>> = LazyLock::new(Mutex::default);

/// Remembers the checksum that a file on a disk must have whenever this process opens it. Nothing ever replaces it.
pub(super) fn expect(path: &Path, xxh3: String) {
    EXPECTED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), xxh3);
}

/// A file that is open for reading.
#[derive(Debug)]
pub enum Readable {
    /// A file on a disk.
    Disk(File),
    /// A file of which all bytes are in memory, because they were compared with their checksum.
    Memory(Bytes),
    /// An object of a bucket, and the ranges of it that are in memory.
    Object(BucketObject, Vec<Held>),
}

/// Bytes of an object from a place on.
type Held = (u64, Bytes);

impl Readable {
    /// Opens the file of a path or URL. One whose checksum is known is read as a whole and compared with it, so that
    /// nothing is computed from other bytes, even if the disk gives other ones the next time.
    ///
    /// # Errors
    /// Returns an I/O error if there is none, or if it must not be read, and [`StoreProblem::Damaged`] for one whose
    /// bytes are not those that were written.
    pub fn open(path: &Path) -> Result<Self> {
        if !is_url(path) {
            let expected =
                EXPECTED.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
            let Some(xxh3) = expected else {
                return File::open(path).map(Self::Disk).map_err(Error::io("open", path));
            };
            let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
            return match checksum(&bytes) == xxh3 {
                true => Ok(Self::Memory(bytes.into())),
                false => Err(StoreProblem::Damaged { path: path.to_owned() }.into()),
            };
        }
        let object = BucketObject::find(path)?;
        let object =
            object.ok_or_else(|| Error::io("open", path)(std::io::ErrorKind::NotFound.into()))?;
        let (xxh3, all) = (object.xxh3.clone(), 0..object.meta.size);
        let file = Self::Object(object, Vec::new());
        let Some(xxh3) = xxh3.filter(|_| !all.is_empty()) else { return Ok(file) };
        let file = file.with([all])?;
        match &file {
            Self::Object(_, held) if held.iter().any(|(_, bytes)| checksum(bytes) == xxh3) => {
                Ok(file)
            }
            _ => Err(StoreProblem::Damaged { path: path.to_owned() }.into()),
        }
    }

    /// Opens the same file again. What is in memory of an object is shared.
    ///
    /// # Errors
    /// Returns an I/O error if there is none any more.
    pub fn again(&self, path: &Path) -> Result<Self> {
        match self {
            Self::Disk(_) => Self::open(path),
            Self::Memory(bytes) => Ok(Self::Memory(bytes.clone())),
            Self::Object(object, held) => Ok(Self::Object(object.clone(), held.clone())),
        }
    }

    /// The length in bytes, the time of the last modification in microseconds since 1970-01-01T00:00:00Z, and
    /// what a bucket says of the version of an object. Of a file of the store, which is never replaced, the time is 0.
    pub fn version(&self) -> std::io::Result<(u64, i64, Option<&str>)> {
        match self {
            Self::Disk(file) => {
                let metadata = file.metadata()?;
                let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
                let modified = modified.map_or(0, |since| since.as_micros() as i64);
                Ok((metadata.len(), modified, None))
            }
            Self::Memory(bytes) => Ok((bytes.len() as u64, 0, None)),
            Self::Object(object, _) => {
                let modified = object.meta.last_modified.timestamp_micros();
                Ok((object.meta.size, modified, object.meta.e_tag.as_deref()))
            }
        }
    }

    /// Reads the end of an object into memory, where the footer of a Parquet file is.
    ///
    /// # Errors
    /// Returns an error that names the object if the request fails for good.
    pub fn with_tail(self) -> Result<Self> {
        let Self::Object(object, held) = &self else { return Ok(self) };
        let tail = object.meta.size.saturating_sub(TAIL)..object.meta.size;
        if tail.is_empty() || held.iter().any(|one| within(one, &tail)) {
            return Ok(self);
        }
        self.with([tail])
    }

    /// Reads ranges of an object into memory, with as few requests as their distances allow.
    ///
    /// # Errors
    /// Returns an error that names the object if a request fails for good, or if the object was replaced
    /// since this process first saw it.
    pub fn with(self, ranges: impl IntoIterator<Item = Range<u64>>) -> Result<Self> {
        let Self::Object(object, mut held) = self else { return Ok(self) };
        let missing = ranges.into_iter().filter(|range| !held.iter().any(|one| within(one, range)));
        let missing: Vec<Range<u64>> = missing.collect();
        let get = |range| get(&object, range).boxed();
        let read = coalesce_ranges(&missing, get, OBJECT_STORE_COALESCE_DEFAULT);
        let read = RUNTIME.block_on(read).map_err(refused("read", &object.url))?;
        held.extend(missing.into_iter().map(|range| range.start).zip(read));
        Ok(Self::Object(object, held))
    }

    /// Reads `length` bytes from `start` on. Several threads may read at the same time.
    ///
    /// # Errors
    /// Returns [`std::io::ErrorKind::UnexpectedEof`] if the file is shorter.
    pub fn bytes(&self, start: u64, length: u64) -> std::io::Result<Bytes> {
        match self {
            Self::Disk(file) => {
                let mut bytes = vec![0; length as usize];
                read_exact_at(file, &mut bytes, start)?;
                Ok(bytes.into())
            }
            Self::Memory(bytes) => {
                let end = start.checked_add(length).filter(|end| *end <= bytes.len() as u64);
                let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
                Ok(bytes.slice(start as usize..end as usize))
            }
            Self::Object(object, held) => {
                let range = start..start + length;
                if range.end > object.meta.size {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                if let Some((from, bytes)) = held.iter().find(|one| within(one, &range)) {
                    let from = (start - from) as usize;
                    return Ok(bytes.slice(from..from + length as usize));
                }
                RUNTIME.block_on(get(object, range)).map_err(std::io::Error::other)
            }
        }
    }

    /// Reads all bytes from `start` on.
    pub fn from(&self, start: u64) -> std::io::Result<ReadOn> {
        match self {
            Self::Disk(file) => {
                Ok(ReadOn::Disk(file.get_read(start).map_err(std::io::Error::other)?))
            }
            Self::Memory(bytes) => {
                Ok(ReadOn::Memory(bytes.slice(bytes.len().min(start as usize)..)))
            }
            Self::Object(object, held) => {
                let file = Self::Object(object.clone(), held.clone());
                Ok(ReadOn::Object { file: Box::new(file), at: start, ahead: Bytes::new() })
            }
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, start)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        start += read as u64;
    }
    Ok(())
}

fn within((start, bytes): &Held, range: &Range<u64>) -> bool {
    *start <= range.start && range.end <= start + bytes.len() as u64
}

/// Requests a range of an object, which must not have been replaced.
async fn get(object: &BucketObject, range: Range<u64>) -> object_store::Result<Bytes> {
    let options = GetOptions {
        if_match: object.meta.e_tag.clone(),
        range: Some(GetRange::Bounded(range)),
        ..GetOptions::default()
    };
    object.bucket.get_opts(&object.meta.location, options).await?.bytes().await
}

/// The bytes of a file from a place on.
#[derive(Debug)]
pub enum ReadOn {
    /// Those of a file on a disk.
    Disk(std::io::BufReader<File>),
    /// Those of a file in memory.
    Memory(Bytes),
    /// Those of an object, of which some are read ahead.
    Object {
        /// The object.
        file: Box<Readable>,
        /// Where the next bytes that are not in memory begin.
        at: u64,
        /// The next bytes.
        ahead: Bytes,
    },
}

impl Read for ReadOn {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Disk(file) => file.read(into),
            Self::Memory(rest) => {
                let count = into.len().min(rest.len());
                rest.copy_to_slice(&mut into[..count]);
                Ok(count)
            }
            Self::Object { file, at, ahead } => {
                if ahead.is_empty() {
                    *ahead = file.next(*at)?;
                    *at += ahead.len() as u64;
                }
                let count = into.len().min(ahead.len());
                ahead.copy_to_slice(&mut into[..count]);
                Ok(count)
            }
        }
    }
}

impl Readable {
    /// Some bytes of an object from a place on: those in memory, or else one request. They are empty at its end.
    fn next(&self, at: u64) -> std::io::Result<Bytes> {
        let Self::Object(object, held) = self else { return Ok(Bytes::new()) };
        let known = held.iter().find(|one| within(one, &(at..at + 1)));
        if let Some((start, bytes)) = known {
            return Ok(bytes.slice((at - start) as usize..));
        }
        match object.meta.size.saturating_sub(at).min(AHEAD) {
            0 => Ok(Bytes::new()),
            length => self.bytes(at, length),
        }
    }
}

impl Length for Readable {
    fn len(&self) -> u64 {
        self.version().map_or(0, |(bytes, ..)| bytes)
    }
}

impl ChunkReader for Readable {
    type T = ReadOn;

    fn get_read(&self, start: u64) -> parquet::errors::Result<ReadOn> {
        self.from(start).map_err(|error| ParquetError::External(Box::new(error)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.bytes(start, length as u64).map_err(|error| ParquetError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};
    use rand::{Rng, SeedableRng};

    use super::*;

    /// An object of a bucket in memory.
    fn object(bucket: &Arc<dyn ObjectStore>, bytes: Vec<u8>) -> BucketObject {
        let key = object_store::path::Path::from("a/b.parquet");
        RUNTIME.block_on(bucket.put(&key, bytes.into())).unwrap();
        let meta = RUNTIME.block_on(bucket.head(&key)).unwrap();
        BucketObject {
            bucket: bucket.clone(),
            url: "s3://data/a/b.parquet".into(),
            meta,
            xxh3: None,
        }
    }

    #[test]
    fn ranges_of_an_object_are_its_bytes() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for length in [0, 1, 8, 70_000, 5_000_000] {
            let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
            let mut file = Readable::Object(object(&bucket, bytes.clone()), Vec::new());
            assert_eq!(Length::len(&file), length as u64);
            file = file.with_tail().unwrap();
            for _ in 0..20 {
                let start = random.random_range(0..=length);
                let end = random.random_range(start..=length);
                if random.random() && start < end {
                    file = file.with(Some(start as u64..end as u64)).unwrap();
                }
                if start < end {
                    let read = file.get_bytes(start as u64, end - start).unwrap();
                    assert!(read == bytes[start..end], "{start}..{end} of {length}");
                }
                let mut rest = Vec::new();
                file.from(start as u64).unwrap().read_to_end(&mut rest).unwrap();
                assert!(rest == bytes[start..], "{start}.. of {length}");
            }
        }
    }

    /// Of a file whose checksum is known, nothing but the bytes that were written is read.
    #[test]
    fn a_file_with_other_bytes_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        std::fs::write(&path, b"0123456789").unwrap();
        assert!(matches!(Readable::open(&path).unwrap(), Readable::Disk(_)));
        expect(&path, checksum(b"0123456789"));
        let file = Readable::open(&path).unwrap();
        std::fs::write(&path, b"0123456_89").unwrap();
        assert_eq!(file.bytes(7, 3).unwrap(), &b"789"[..]);
        assert_eq!(file.again(&path).unwrap().bytes(7, 1).unwrap(), &b"7"[..]);
        assert!(file.bytes(8, 3).is_err());
        let mut rest = Vec::new();
        file.from(6).unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"6789");
        let error = Readable::open(&path).unwrap_err();
        assert!(error.to_string().contains("a.bin is damaged"), "{error}");
    }

    /// A file that is replaced while a run reads it would be read in parts that do not belong together.
    #[test]
    fn an_object_that_was_replaced_is_not_read() {
        let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let file = Readable::Object(object(&bucket, vec![1; 100]), Vec::new());
        let _ = object(&bucket, vec![2; 100]);
        let error = file.with(Some(0..10)).unwrap_err();
        assert!(error.to_string().contains("s3://data/a/b.parquet"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("was replaced")), "{error:?}");
    }
}

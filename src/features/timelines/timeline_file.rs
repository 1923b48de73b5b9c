//! Timeline files: the blocks of shards one after another, followed by an index of their sections. Each section
//! is compressed by zstd.

use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parquet::file::reader::Length;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::store::readable::Readable;
use crate::store::{FORMAT_VERSION, StagedFile, StoreProblem};

const MAGIC: &[u8; 8] = b"C360TIME";

/// The location of the sections of a shard's block in a timeline file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockPlace {
    /// The index of the shard.
    pub shard: usize,
    /// Whether the block contains all customers of the shard, so that older blocks of the shard are no longer
    /// valid.
    pub whole: bool,
    /// The number of events in the block.
    pub events: u64,
    start: u64,
    sections: Vec<SectionPlace>,
}

/// The size of a section.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SectionPlace {
    /// The number of bytes in the file.
    stored: u64,
    /// The XXH3-64 hash of these bytes.
    hash: u64,
    /// The number of bytes of the section itself.
    length: u64,
}

impl BlockPlace {
    /// The number of sections.
    pub fn sections(&self) -> usize {
        self.sections.len()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format_version: u32,
    blocks: Vec<BlockPlace>,
}

/// A block to be written, with compressed sections.
#[derive(Debug)]
pub struct NewBlock {
    place: BlockPlace,
    sections: Vec<Vec<u8>>,
}

/// The level of compression. Higher levels save little and cost much time.
const LEVEL: i32 = 1;

impl NewBlock {
    /// Creates the block of a shard with `events` events. A section that is None is written as an empty one.
    ///
    /// # Errors
    /// An engine error if a section cannot be compressed.
    pub fn new(
        shard: usize,
        whole: bool,
        events: u64,
        sections: Vec<Option<Vec<u8>>>,
    ) -> Result<Self> {
        let mut place = BlockPlace { shard, whole, events, start: 0, sections: Vec::new() };
        let compress = |section: Option<Vec<u8>>| {
            let section = section.unwrap_or_default();
            let stored = zstd::bulk::compress(&section, LEVEL);
            let stored = stored.map_err(Error::engine("compressing timelines"))?;
            place.sections.push(SectionPlace {
                stored: stored.len() as u64,
                hash: xxh3_64(&stored),
                length: section.len() as u64,
            });
            Ok(stored)
        };
        let sections = sections.into_iter().map(compress).collect::<Result<_>>()?;
        Ok(Self { place, sections })
    }
}

/// Writes a timeline file block by block on a separate thread.
#[derive(Debug)]
pub struct TimelineFileWriter {
    blocks: mpsc::SyncSender<NewBlock>,
    thread: JoinHandle<Result<()>>,
}

/// The maximum number of blocks that wait to be written.
const WAITING: usize = 8;

impl TimelineFileWriter {
    /// Starts the thread that writes to a new file.
    pub fn new(file: StagedFile) -> Self {
        let path = file.path().to_owned();
        let (blocks, waiting) = mpsc::sync_channel(WAITING);
        let write =
            move || write_all(BufWriter::new(file), waiting).map_err(Error::io("write", &path));
        Self { blocks, thread: std::thread::spawn(write) }
    }

    /// Adds the block of a shard. Blocks must be added in the order of the shards.
    pub fn write(&self, block: NewBlock) {
        // If the thread has ended early, it failed with an error, which `finish` returns.
        let _ = self.blocks.send(block);
    }

    /// Waits until all blocks are written.
    ///
    /// # Errors
    /// The I/O error with which writing failed.
    pub fn finish(self) -> Result<()> {
        drop(self.blocks);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Writes blocks as they arrive, followed by their index.
fn write_all(
    mut file: BufWriter<StagedFile>,
    waiting: mpsc::Receiver<NewBlock>,
) -> std::io::Result<()> {
    let (mut end, mut blocks) = (0, Vec::new());
    for block in waiting {
        blocks.push(BlockPlace { start: end, ..block.place });
        for section in &block.sections {
            file.write_all(section)?;
            end += section.len() as u64;
        }
    }
    let index = Index { format_version: FORMAT_VERSION, blocks };
    let text = serde_json::to_vec(&index)?;
    file.write_all(&text)?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(MAGIC)?;
    file.flush()
}

/// A timeline file of the store.
#[derive(Debug)]
pub struct TimelineFile {
    /// The path of the file, relative to the store.
    pub relative: String,
    path: PathBuf,
    file: Readable,
    /// The locations of its blocks in the order of the shards.
    pub blocks: Vec<BlockPlace>,
}

impl TimelineFile {
    /// Opens a timeline file and reads its index.
    ///
    /// # Errors
    /// A configuration error if the file is damaged or was written in another format version.
    pub fn open(relative: &str, path: &Path) -> Result<Self> {
        let file = Readable::open(path)?.with_tail()?;
        let text = read_index(&file).map_err(Error::io("read", path))?;
        let index: Option<Index> = text.and_then(|text| serde_json::from_slice(&text).ok());
        let index = index.filter(|index| index.format_version == FORMAT_VERSION);
        let blocks = index.ok_or_else(|| damaged(path))?.blocks;
        Ok(Self { relative: relative.to_owned(), path: path.to_owned(), file, blocks })
    }

    /// The location of the block of a shard, or None if there is no such block.
    pub fn block(&self, shard: usize) -> Option<&BlockPlace> {
        let found = self.blocks.binary_search_by_key(&shard, |block| block.shard);
        found.ok().map(|index| &self.blocks[index])
    }

    /// Reads neighbouring sections of a block, which are one range of the file.
    ///
    /// # Errors
    /// A configuration error if a section does not match its hash.
    pub fn read(&self, block: &BlockPlace, sections: Range<usize>) -> Result<Vec<Vec<u8>>> {
        let places = block.sections.get(sections.clone()).ok_or_else(|| self.damaged())?;
        let stored = |places: &[SectionPlace]| places.iter().map(|place| place.stored).sum::<u64>();
        let before = stored(&block.sections[..sections.start]);
        let mut bytes = self.at(block.start + before, stored(places))?;
        let read = |place: &SectionPlace| {
            let own = bytes.split_to(place.stored as usize);
            if xxh3_64(&own) != place.hash {
                return Err(self.damaged());
            }
            let section = zstd::bulk::decompress(&own, place.length as usize);
            section.map_err(|_| self.damaged())
        };
        places.iter().map(read).collect()
    }

    /// Reads bytes of the file. Several threads may read at the same time.
    fn at(&self, start: u64, length: u64) -> Result<Bytes> {
        self.file.bytes(start, length).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged(),
            _ => Error::io("read", &self.path)(error),
        })
    }

    /// The error for a timeline file whose content is not what was written.
    pub fn damaged(&self) -> Error {
        damaged(&self.path)
    }
}

fn damaged(path: &Path) -> Error {
    StoreProblem::DamagedTimelines { path: path.to_owned() }.into()
}

/// Reads the bytes of the index. Returns None if the file does not end like a timeline file.
fn read_index(file: &Readable) -> std::io::Result<Option<Bytes>> {
    let Some(end) = Length::len(file).checked_sub(16) else { return Ok(None) };
    let tail = file.bytes(end, 16)?;
    let (size, magic) = tail.split_at(8);
    let size = u64::from_le_bytes(size.try_into().unwrap_or_default());
    let Some(start) = end.checked_sub(size).filter(|_| magic == MAGIC) else { return Ok(None) };
    file.bytes(start, size).map(Some)
}

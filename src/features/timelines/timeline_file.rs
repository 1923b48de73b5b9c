//! A timeline file: blocks of shards one after another, then where each of their sections is.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"C360TIME";

/// Where the sections of a shard's block are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockPlace {
    /// Index of the shard.
    pub shard: usize,
    /// Whether the block has all customers of the shard, so that older blocks say nothing more.
    pub whole: bool,
    /// Events of the block.
    pub events: u64,
    start: u64,
    /// By section: its length and XXH3-64.
    sections: Vec<(u64, u64)>,
}

impl BlockPlace {
    /// How many sections there are.
    pub fn sections(&self) -> usize {
        self.sections.len()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format_version: u32,
    blocks: Vec<BlockPlace>,
}

/// A block to be written.
#[derive(Debug)]
pub struct NewBlock {
    place: BlockPlace,
    sections: Vec<Vec<u8>>,
}

impl NewBlock {
    /// The block of a shard, of `events` events; a section that is not there is empty.
    pub fn new(shard: usize, whole: bool, events: u64, sections: Vec<Option<Vec<u8>>>) -> Self {
        let sections: Vec<Vec<u8>> = sections.into_iter().map(Option::unwrap_or_default).collect();
        let place = |section: &Vec<u8>| (section.len() as u64, xxh3_64(section));
        let places = sections.iter().map(place).collect();
        Self { place: BlockPlace { shard, whole, events, start: 0, sections: places }, sections }
    }
}

/// Writes a timeline file block by block, on a thread of its own.
#[derive(Debug)]
pub struct TimelineFileWriter {
    blocks: mpsc::SyncSender<NewBlock>,
    thread: JoinHandle<Result<()>>,
}

/// Blocks that wait to be written at most.
const WAITING: usize = 8;

impl TimelineFileWriter {
    /// Starts a file.
    pub fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let (blocks, waiting) = mpsc::sync_channel(WAITING);
        let write =
            move || write_all(BufWriter::new(file), waiting).map_err(Error::io("write", &path));
        Ok(Self { blocks, thread: std::thread::spawn(write) })
    }

    /// Adds the block of a shard; blocks come in the order of their shards.
    pub fn write(&self, block: NewBlock) {
        // Where the thread has ended early, it has an error, which `finish` gives.
        let _ = self.blocks.send(block);
    }

    /// Waits until all blocks are written.
    pub fn finish(self) -> Result<()> {
        drop(self.blocks);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Writes blocks as they come, then where they are.
fn write_all(mut file: BufWriter<File>, waiting: mpsc::Receiver<NewBlock>) -> std::io::Result<()> {
    let (mut end, mut blocks) = (0, Vec::new());
    for block in waiting {
        blocks.push(BlockPlace { start: end, ..block.place });
        for section in &block.sections {
            file.write_all(section)?;
            end += section.len() as u64;
        }
    }
    let index = Index { format_version: crate::store::FORMAT_VERSION, blocks };
    let text = serde_json::to_vec(&index)?;
    file.write_all(&text)?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(MAGIC)?;
    file.flush()
}

/// A timeline file of the store.
#[derive(Debug)]
pub struct TimelineFile {
    /// Its path in the store.
    pub relative: String,
    path: PathBuf,
    file: File,
    /// Its blocks in the order of their shards.
    pub blocks: Vec<BlockPlace>,
}

impl TimelineFile {
    /// Reads where the blocks are.
    ///
    /// # Errors
    /// A configuration error where the file is not whole or was written by another version.
    pub fn open(relative: &str, path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let text = read_index(&mut file).map_err(Error::io("read", path))?;
        let index: Option<Index> = text.and_then(|text| serde_json::from_slice(&text).ok());
        let index = index.filter(|index| index.format_version == crate::store::FORMAT_VERSION);
        let blocks = index.ok_or_else(|| damaged(path))?.blocks;
        Ok(Self { relative: relative.to_owned(), path: path.to_owned(), file, blocks })
    }

    /// The block of a shard, if there is one.
    pub fn block(&self, shard: usize) -> Option<&BlockPlace> {
        let found = self.blocks.binary_search_by_key(&shard, |block| block.shard);
        found.ok().map(|index| &self.blocks[index])
    }

    /// Reads a section of a block.
    pub fn read(&self, block: &BlockPlace, section: usize) -> Result<Vec<u8>> {
        let place = block.sections.get(section).ok_or_else(|| self.damaged())?;
        let before: u64 = block.sections[..section].iter().map(|place| place.0).sum();
        let bytes = self.at(block.start + before, place.0 as usize)?;
        let whole = (bytes.len() as u64, xxh3_64(&bytes)) == *place;
        whole.then_some(bytes).ok_or_else(|| self.damaged())
    }

    /// Reads ascending ranges of a section; what they hold says itself whether it is whole.
    pub fn read_ranges(
        &self,
        block: &BlockPlace,
        section: usize,
        ranges: &[Range<usize>],
    ) -> Result<Vec<Vec<u8>>> {
        let before: u64 = block.sections[..section].iter().map(|place| place.0).sum();
        let start = block.start + before;
        ranges.iter().map(|range| self.at(start + range.start as u64, range.len())).collect()
    }

    /// Bytes of the file; many threads may read at once.
    fn at(&self, start: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, start).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged(),
            _ => Error::io("read", &self.path)(error),
        })?;
        Ok(bytes)
    }

    /// The error of a timeline file whose bytes are not what was written.
    pub fn damaged(&self) -> Error {
        damaged(&self.path)
    }
}

fn damaged(path: &Path) -> Error {
    Error::configuration(
        format!("{} is not what was written: it was changed or cut short", path.display()),
        "`c360-ml features build --full` reads all events again and writes it anew",
    )
}

/// The bytes of the index; None where the file does not end as a timeline file does.
fn read_index(file: &mut File) -> std::io::Result<Option<Vec<u8>>> {
    let length = file.metadata()?.len();
    let Some(end) = length.checked_sub(16) else { return Ok(None) };
    let mut tail = [0; 16];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let (size, magic) = tail.split_at(8);
    let size = u64::from_le_bytes(size.try_into().unwrap_or_default());
    let Some(start) = end.checked_sub(size).filter(|_| magic == MAGIC) else { return Ok(None) };
    file.seek(SeekFrom::Start(start))?;
    let mut text = vec![0; size as usize];
    file.read_exact(&mut text)?;
    Ok(Some(text))
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

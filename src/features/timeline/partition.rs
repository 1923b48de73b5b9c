//! Partitions of events by customer hash: filled from many threads, spilled beyond the budget.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::interner::{Interner, hash};
use super::layout::Layout;
use crate::error::{Error, Result};
use crate::time::Instant;

/// Partitions at most.
const MOST: u64 = 128;
/// Events per partition that are worth one of its own.
const EVENTS: u64 = 100_000;

/// How many partitions a source of `events` rows has: a matter of the data, never of the threads.
fn partition_count(events: u64) -> usize {
    (events / EVENTS).next_power_of_two().min(MOST) as usize
}

/// Values of one input for a batch of events.
#[derive(Debug)]
pub enum InputValues<'a> {
    /// Integers, doubles, times as their bits.
    Bits(Vec<u64>),
    /// Text; null where the validity bit is not set.
    Text(Vec<Option<&'a str>>),
}

/// A batch of events as columns; all rows usable.
#[derive(Debug)]
pub struct Batch<'a> {
    /// customer360_id.
    pub keys: Vec<&'a str>,
    /// event_id.
    pub ids: Vec<&'a str>,
    /// event_ts in microseconds.
    pub times: Vec<i64>,
    /// ingested_at in microseconds, `i64::MIN` where it is null; empty without ingestion.
    pub ingested: Vec<i64>,
    /// Flag words, `Layout::words` per event.
    pub flags: Vec<u64>,
    /// One per input of the layout.
    pub inputs: Vec<InputValues<'a>>,
}

/// Events of one partition in the order of arrival, as columns.
#[derive(Debug, Default)]
pub struct Chunk {
    pub customers: Vec<u32>,
    pub times: Vec<i64>,
    pub ingested: Vec<i64>,
    pub flags: Vec<u64>,
    pub inputs: Vec<Vec<u64>>,
    pub id_ends: Vec<u32>,
    pub ids: Vec<u8>,
}

impl Chunk {
    fn size(&self) -> usize {
        let inputs: usize = self.inputs.iter().map(|input| input.capacity() * 8).sum();
        self.customers.capacity() * 4
            + self.times.capacity() * 8
            + self.ingested.capacity() * 8
            + self.flags.capacity() * 8
            + self.id_ends.capacity() * 4
            + self.ids.capacity()
            + inputs
    }

    /// The event_id of row `row`.
    pub fn id(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.id_ends[row - 1] as usize };
        &self.ids[start..self.id_ends[row] as usize]
    }

    fn append(&mut self, other: &Self) -> Result<()> {
        let base = self.ids.len();
        if base + other.ids.len() > u32::MAX as usize {
            return Err(Error::Engine {
                context: "sorting a partition",
                message: "the event_ids of one partition exceed 4 GiB".into(),
            });
        }
        self.customers.extend_from_slice(&other.customers);
        self.times.extend_from_slice(&other.times);
        self.ingested.extend_from_slice(&other.ingested);
        self.flags.extend_from_slice(&other.flags);
        self.inputs.resize(other.inputs.len(), Vec::new());
        for (mine, theirs) in self.inputs.iter_mut().zip(&other.inputs) {
            mine.extend_from_slice(theirs);
        }
        self.id_ends.extend(other.id_ends.iter().map(|end| base as u32 + end));
        self.ids.extend_from_slice(&other.ids);
        Ok(())
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let lengths = [
            self.customers.len(),
            self.ingested.len(),
            self.flags.len(),
            self.inputs.len(),
            self.ids.len(),
        ];
        for length in lengths {
            out.write_all(&(length as u64).to_le_bytes())?;
        }
        write_all(out, &self.customers, |v| v.to_le_bytes())?;
        write_all(out, &self.times, |v| v.to_le_bytes())?;
        write_all(out, &self.ingested, |v| v.to_le_bytes())?;
        write_all(out, &self.flags, |v| v.to_le_bytes())?;
        for input in &self.inputs {
            write_all(out, input, |v| v.to_le_bytes())?;
        }
        write_all(out, &self.id_ends, |v| v.to_le_bytes())?;
        out.write_all(&self.ids)
    }

    fn read(from: &mut impl Read) -> std::io::Result<Self> {
        let mut length = || -> std::io::Result<usize> {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes)?;
            Ok(u64::from_le_bytes(bytes) as usize)
        };
        let (rows, ingested, flags, inputs, ids) =
            (length()?, length()?, length()?, length()?, length()?);
        let mut chunk = Self {
            customers: read_all(from, rows, u32::from_le_bytes)?,
            times: read_all(from, rows, i64::from_le_bytes)?,
            ingested: read_all(from, ingested, i64::from_le_bytes)?,
            flags: read_all(from, flags, u64::from_le_bytes)?,
            ..Self::default()
        };
        for _ in 0..inputs {
            chunk.inputs.push(read_all(from, rows, u64::from_le_bytes)?);
        }
        chunk.id_ends = read_all(from, rows, u32::from_le_bytes)?;
        chunk.ids = vec![0; ids];
        from.read_exact(&mut chunk.ids)?;
        Ok(chunk)
    }
}

fn write_all<T: Copy, const N: usize>(
    out: &mut impl Write,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> std::io::Result<()> {
    values.iter().try_for_each(|value| out.write_all(&bytes(*value)))
}

fn read_all<T, const N: usize>(
    from: &mut impl Read,
    count: usize,
    value: impl Fn([u8; N]) -> T,
) -> std::io::Result<Vec<T>> {
    let mut bytes = [0; N];
    (0..count)
        .map(|_| {
            from.read_exact(&mut bytes)?;
            Ok(value(bytes))
        })
        .collect()
}

/// One partition: its customers, its texts, and its events in memory and on disk.
#[derive(Debug, Default)]
pub struct Partition {
    pub customers: Interner,
    pub texts: Interner,
    /// Per customer: whether the profile has them, and since when.
    pub profile: Vec<Option<Option<Instant>>>,
    chunks: Vec<Chunk>,
    spilled: Option<(File, usize)>,
}

impl Partition {
    /// All events of the partition as one chunk, taken out of it.
    pub fn take(&mut self, inputs: usize) -> Result<Chunk> {
        let mut all = Chunk { inputs: vec![Vec::new(); inputs], ..Chunk::default() };
        if let Some((mut file, count)) = self.spilled.take() {
            let read =
                |error| Error::io("read back spilled events from", "the spill folder")(error);
            file.rewind().map_err(read)?;
            let mut from = BufReader::with_capacity(1 << 20, file);
            for _ in 0..count {
                all.append(&Chunk::read(&mut from).map_err(read)?)?;
            }
        }
        for chunk in self.chunks.drain(..) {
            all.append(&chunk)?;
        }
        Ok(all)
    }

    fn spill(&mut self, folder: &PathBuf) -> Result<u64> {
        let failed = |error| Error::io("spill events to", folder)(error);
        let (file, count) = match self.spilled.take() {
            Some(spilled) => spilled,
            None => (tempfile::tempfile_in(folder).map_err(failed)?, 0),
        };
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let chunks = std::mem::take(&mut self.chunks);
        let mut bytes = 0;
        for chunk in &chunks {
            chunk.write(&mut out).map_err(failed)?;
            bytes += chunk.size() as u64;
        }
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        self.spilled = Some((file, count + chunks.len()));
        Ok(bytes)
    }
}

/// All partitions of a build.
#[derive(Debug)]
pub struct Partitions {
    parts: Vec<Mutex<Partition>>,
    /// Whether events of customers that the profile does not have make a customer.
    create_orphans: bool,
    budget: u64,
    folder: PathBuf,
    held: AtomicU64,
    /// Bytes spilled so far.
    pub spilled_bytes: AtomicU64,
    /// Events left out as orphans.
    pub orphans: AtomicU64,
}

impl Partitions {
    /// Partitions for about `events` events that know the profile's customers; `budget` in bytes for
    /// events in memory, `folder` for what exceeds it.
    pub fn new(
        events: u64,
        keys: &[String],
        created_at: &[Option<Instant>],
        create_orphans: bool,
        budget: u64,
        folder: PathBuf,
    ) -> Self {
        let count = partition_count(events);
        let mut parts: Vec<Partition> = (0..count).map(|_| Partition::default()).collect();
        for (key, created_at) in keys.iter().zip(created_at) {
            let hash = hash(key.as_bytes());
            let part = &mut parts[index(hash, count)];
            part.customers.intern_hashed(key.as_bytes(), hash);
            part.profile.push(Some(*created_at));
        }
        Self {
            parts: parts.into_iter().map(Mutex::new).collect(),
            create_orphans,
            budget,
            folder,
            held: AtomicU64::new(0),
            spilled_bytes: AtomicU64::new(0),
            orphans: AtomicU64::new(0),
        }
    }

    /// Adds a batch; may be called from many threads at once.
    pub fn scatter(&self, batch: &Batch<'_>, layout: &Layout) -> Result<()> {
        let hashes: Vec<u64> = batch.keys.iter().map(|key| hash(key.as_bytes())).collect();
        let count = self.parts.len();
        let mut starts = vec![0_u32; count + 1];
        for hash in &hashes {
            starts[index(*hash, count) + 1] += 1;
        }
        for i in 0..count {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut order = vec![0_u32; hashes.len()];
        for (row, hash) in hashes.iter().enumerate() {
            let slot = &mut next[index(*hash, count)];
            order[*slot as usize] = row as u32;
            *slot += 1;
        }
        for (i, part) in self.parts.iter().enumerate() {
            let rows = &order[starts[i] as usize..starts[i + 1] as usize];
            if rows.is_empty() {
                continue;
            }
            let mut part = part.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let chunk = self.gather(&mut part, rows, &hashes, batch, layout);
            let size = chunk.size() as u64;
            part.chunks.push(chunk);
            if self.held.fetch_add(size, Ordering::Relaxed) + size > self.budget {
                let bytes = part.spill(&self.folder)?;
                self.held.fetch_sub(bytes, Ordering::Relaxed);
                self.spilled_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn gather(
        &self,
        part: &mut Partition,
        rows: &[u32],
        hashes: &[u64],
        batch: &Batch<'_>,
        layout: &Layout,
    ) -> Chunk {
        let mut kept = Vec::with_capacity(rows.len());
        let mut customers = Vec::with_capacity(rows.len());
        for row in rows {
            let (key, hash) = (batch.keys[*row as usize].as_bytes(), hashes[*row as usize]);
            let code = if self.create_orphans {
                Some(part.customers.intern_hashed(key, hash))
            } else {
                part.customers.find_hashed(key, hash)
            };
            if let Some(code) = code {
                kept.push(*row as usize);
                customers.push(code);
            }
        }
        part.profile.resize(part.customers.len(), None);
        self.orphans.fetch_add((rows.len() - kept.len()) as u64, Ordering::Relaxed);
        let words = layout.words();
        let ids: usize = kept.iter().map(|row| batch.ids[*row].len()).sum();
        let mut chunk = Chunk {
            customers,
            times: kept.iter().map(|row| batch.times[*row]).collect(),
            flags: Vec::with_capacity(kept.len() * words),
            id_ends: Vec::with_capacity(kept.len()),
            ids: Vec::with_capacity(ids),
            ..Chunk::default()
        };
        if layout.ingestion {
            chunk.ingested = kept.iter().map(|row| batch.ingested[*row]).collect();
        }
        for row in &kept {
            chunk.flags.extend_from_slice(&batch.flags[row * words..(row + 1) * words]);
            chunk.ids.extend_from_slice(batch.ids[*row].as_bytes());
            chunk.id_ends.push(chunk.ids.len() as u32);
        }
        for input in &batch.inputs {
            chunk.inputs.push(match input {
                InputValues::Bits(values) => kept.iter().map(|row| values[*row]).collect(),
                InputValues::Text(values) => kept
                    .iter()
                    .map(|row| {
                        values[*row].map_or(0, |text| part.texts.intern(text.as_bytes()).into())
                    })
                    .collect(),
            });
        }
        chunk
    }

    /// The partitions, no longer growing.
    pub fn into_parts(self) -> Vec<Partition> {
        let unlock = |part: Mutex<Partition>| {
            part.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        self.parts.into_iter().map(unlock).collect()
    }
}

/// Bits that the hash tables do not use for their tags or buckets.
fn index(hash: u64, count: usize) -> usize {
    (hash >> 40) as usize % count
}

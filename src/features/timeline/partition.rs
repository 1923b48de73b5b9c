//! Partitions of events by customer hash: filled from many threads, spilled beyond the budget.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::interner::{Interner, hash};
use super::layout::Layout;
use super::record::{self, Batch};
use crate::error::{Error, Result};
use crate::time::Instant;

/// Partitions at most.
const MOST: u64 = 1024;
/// Bytes of records that one thread collects for a partition before it hands them over.
const CHUNK: usize = 32 << 10;

/// How many partitions a source of `events` rows has if one is worth `each` of them: a matter of the
/// data, never of the threads.
pub fn partition_count(events: u64, each: u64) -> usize {
    (events / each.max(1)).next_power_of_two().min(MOST) as usize
}

/// One partition: the customers of the profile, and the records of its events in memory and on
/// disk.
#[derive(Debug, Default)]
pub struct Partition {
    pub customers: Interner,
    /// Per customer of the profile: since when the profile has them, if it says so.
    pub created_at: Vec<Option<Instant>>,
    chunks: Vec<Vec<u8>>,
    spilled: Option<File>,
}

impl Partition {
    /// All records of the partition, taken out of it; none is split between two chunks.
    pub fn take(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut chunks = std::mem::take(&mut self.chunks);
        if let Some(mut file) = self.spilled.take() {
            let failed =
                |error| Error::io("read back spilled events from", "the spill folder")(error);
            let mut bytes = Vec::new();
            file.rewind().map_err(failed)?;
            file.read_to_end(&mut bytes).map_err(failed)?;
            chunks.push(bytes);
        }
        Ok(chunks)
    }

    /// Writes all records in memory to disk and says how many bytes they held.
    fn spill(&mut self, folder: &PathBuf) -> Result<u64> {
        let failed = |error| Error::io("spill events to", folder)(error);
        if self.spilled.is_none() {
            self.spilled = Some(tempfile::tempfile_in(folder).map_err(failed)?);
        }
        let mut held = 0;
        if let Some(file) = &mut self.spilled {
            for chunk in self.chunks.drain(..) {
                file.write_all(&chunk).map_err(failed)?;
                held += chunk.capacity() as u64;
            }
        }
        Ok(held)
    }
}

/// All partitions of a build.
#[derive(Debug)]
pub struct Partitions {
    parts: Vec<Mutex<Partition>>,
    budget: u64,
    folder: PathBuf,
    held: AtomicU64,
    /// Bytes spilled so far.
    pub spilled_bytes: AtomicU64,
}

impl Partitions {
    /// `count` partitions that know the profile's customers; `budget` in bytes for events in memory,
    /// `folder` for what exceeds it.
    pub fn new(
        count: usize,
        keys: &[String],
        created_at: &[Option<Instant>],
        budget: u64,
        folder: PathBuf,
    ) -> Self {
        let hashes: Vec<u64> = keys.par_iter().map(|key| hash(key.as_bytes())).collect();
        let mut rows: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (row, hash) in hashes.iter().enumerate() {
            rows[index(*hash, count)].push(row);
        }
        let partition = |rows: Vec<usize>| {
            let mut part = Partition::default();
            for row in rows {
                part.customers.intern_hashed(keys[row].as_bytes(), hashes[row]);
                part.created_at.push(created_at[row]);
            }
            Mutex::new(part)
        };
        Self {
            parts: rows.into_par_iter().map(partition).collect(),
            budget,
            folder,
            held: AtomicU64::new(0),
            spilled_bytes: AtomicU64::new(0),
        }
    }

    /// What one thread scatters with.
    pub fn scatterer(&self) -> Scatterer<'_> {
        Scatterer { partitions: self, chunks: vec![Vec::new(); self.parts.len()] }
    }

    fn push(&self, index: usize, chunk: Vec<u8>) -> Result<()> {
        let size = chunk.capacity() as u64;
        let mut part = self.parts[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        part.chunks.push(chunk);
        if self.held.fetch_add(size, Ordering::Relaxed) + size > self.budget {
            let bytes = part.spill(&self.folder)?;
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            self.spilled_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The partitions, no longer growing.
    pub fn into_parts(self) -> Vec<Partition> {
        let unlock = |part: Mutex<Partition>| {
            part.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        self.parts.into_iter().map(unlock).collect()
    }
}

/// Records of one thread on their way to the partitions.
#[derive(Debug)]
pub struct Scatterer<'a> {
    partitions: &'a Partitions,
    chunks: Vec<Vec<u8>>,
}

impl Scatterer<'_> {
    /// Adds a batch.
    pub fn scatter(&mut self, batch: &Batch<'_>, layout: &Layout) -> Result<()> {
        for (row, key) in batch.keys.iter().enumerate() {
            let index = index(hash(key.as_bytes()), self.chunks.len());
            let chunk = &mut self.chunks[index];
            if chunk.capacity() == 0 {
                chunk.reserve_exact(CHUNK);
            }
            record::write(batch, row, layout, chunk);
            // A little room is left so that few records make a chunk grow.
            if chunk.len() > CHUNK - CHUNK / 64 {
                self.partitions.push(index, std::mem::take(chunk))?;
            }
        }
        Ok(())
    }

    /// Hands over what is left.
    pub fn finish(self) -> Result<()> {
        for (index, mut chunk) in self.chunks.into_iter().enumerate() {
            if !chunk.is_empty() {
                chunk.shrink_to_fit();
                self.partitions.push(index, chunk)?;
            }
        }
        Ok(())
    }
}

/// Bits that the hash tables do not use for their tags or buckets.
fn index(hash: u64, count: usize) -> usize {
    (hash >> 40) as usize % count
}

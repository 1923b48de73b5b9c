//! Events by shard: scattered by many threads, spilled to disk beyond the memory budget, and read back shard
//! by shard.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::interner::Interner;
use super::layout::Layout;
use super::record::{self, Batch};
use crate::error::Result;
use crate::shard::{self, Shard, Shards};
use crate::sources::profile::Entities;
use crate::store::spill::Spill;
use crate::time::Instant;

/// The maximum number of bytes of records that a thread collects for a shard before it hands them over.
const CHUNK: usize = 32 << 10;
/// The maximum number of bytes of records that a thread collects for all shards.
const COLLECTED: usize = 64 << 20;

/// The customers of one shard and the records of its events.
#[derive(Debug, Default)]
pub struct Partition {
    pub customers: Interner,
    /// For each customer of the profile, the time at which the profile was created, if it is known.
    pub created_at: Vec<Option<Instant>>,
    /// The records in chunks. No record is split between two chunks.
    pub records: Vec<Vec<u8>>,
}

impl Partition {
    /// Creates the partition of a shard from the customers of the profile and the records of its events.
    pub fn new(entities: &Entities, records: Vec<Vec<u8>>) -> Self {
        let mut customers = Interner::default();
        for key in &entities.keys {
            customers.intern(key.as_bytes());
        }
        Self { customers, created_at: entities.created_at.clone(), records }
    }
}

/// The records of all shards.
#[derive(Debug)]
pub struct Records {
    shards: Shards,
    chunks: Vec<Mutex<Vec<Vec<u8>>>>,
    budget: u64,
    held: AtomicU64,
    spill: Spill,
}

impl Records {
    /// Creates an empty set of records. Records beyond `budget` bytes are spilled to a file in `folder`.
    pub fn new(shards: Shards, budget: u64, folder: &Path) -> Result<Self> {
        Ok(Self {
            shards,
            chunks: shards.all().map(|_| Mutex::default()).collect(),
            budget,
            held: AtomicU64::new(0),
            spill: Spill::create(folder, shards.count())?,
        })
    }

    /// The shards by which the records are grouped.
    pub fn shards(&self) -> Shards {
        self.shards
    }

    /// Creates a scatterer, which is used by a single thread.
    pub fn scatterer(&self) -> Scatterer<'_> {
        let count = self.shards.count();
        let chunk = CHUNK.min((COLLECTED / count).max(1 << 10));
        Scatterer { records: self, chunk, chunks: vec![Vec::new(); count] }
    }

    /// Takes the records of a shard out of memory and reads those that were spilled.
    pub fn take(&self, shard: Shard) -> Result<Vec<Vec<u8>>> {
        let mut records = std::mem::take(&mut *self.of(shard));
        let held: usize = records.iter().map(Vec::capacity).sum();
        self.held.fetch_sub(held as u64, Ordering::Relaxed);
        records.extend(self.spill.read(shard.place())?);
        Ok(records)
    }

    /// The number of bytes spilled to disk.
    pub fn spilled_bytes(&self) -> u64 {
        self.spill.bytes()
    }

    fn of(&self, shard: Shard) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.chunks[shard.place()].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn push(&self, shard: Shard, chunk: Vec<u8>) -> Result<()> {
        let size = chunk.capacity() as u64;
        let mut chunks = self.of(shard);
        chunks.push(chunk);
        if self.held.fetch_add(size, Ordering::Relaxed) + size > self.budget {
            let held: usize = chunks.iter().map(Vec::capacity).sum();
            let bytes = chunks.concat();
            chunks.clear();
            drop(chunks);
            self.spill.add(shard.place(), &bytes)?;
            self.held.fetch_sub(held as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Scatters the records of one thread by shard.
#[derive(Debug)]
pub struct Scatterer<'a> {
    records: &'a Records,
    chunk: usize,
    chunks: Vec<Vec<u8>>,
}

impl Scatterer<'_> {
    /// Adds the events of a batch.
    pub fn scatter(&mut self, batch: &Batch<'_>, layout: &Layout) -> Result<()> {
        let shards = self.records.shards;
        for (row, key) in batch.keys.iter().enumerate() {
            let index = shards.index(shard::hash(key));
            let chunk = &mut self.chunks[index];
            if chunk.capacity() == 0 {
                chunk.reserve_exact(self.chunk);
            }
            record::write(batch, row, layout, chunk);
            // A chunk is handed over slightly before it is full, so that it rarely needs to be reallocated.
            if chunk.len() > self.chunk - self.chunk / 64 {
                self.records.push(shards.shard(index), std::mem::take(chunk))?;
            }
        }
        Ok(())
    }

    /// Hands over the remaining records.
    pub fn finish(self) -> Result<()> {
        for (index, mut chunk) in self.chunks.into_iter().enumerate() {
            if !chunk.is_empty() {
                chunk.shrink_to_fit();
                self.records.push(self.records.shards.shard(index), chunk)?;
            }
        }
        Ok(())
    }
}

//! The order of a customer's events, and the choice between duplicates of an event.

use std::cmp::Ordering;

use super::interner::{Interner, hash};
use super::layout::{Bit, Layout};
use super::record::Decoded;
use crate::expression::Type;

/// The events of one customer, with everything that their order depends on.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    pub layout: &'a Layout,
    /// The texts that may appear in results.
    pub texts: &'a Interner,
    pub events: &'a Decoded<'a>,
}

/// The duplicates among the events of a customer. Duplicates have the same event_id.
#[derive(Debug, Default)]
pub struct Copies {
    /// Rows that can never be visible, because another duplicate was ingested no later and did not happen
    /// later.
    pub dominated: Vec<u32>,
    /// The number of events that repeat the id of another event.
    pub duplicates: u64,
    /// Whether duplicates remain that are not dominated, so that the visible one depends on the as-of.
    pub left: bool,
}

impl Order<'_> {
    /// Sorts all rows by (event_ts, event_id) and then by content, so that the result does not depend on
    /// positions in files.
    pub fn sort(self, rows: &mut Vec<u32>) {
        rows.clear();
        rows.extend(0..self.events.times.len() as u32);
        if !rows.windows(2).all(|pair| self.time(pair[0]) < self.time(pair[1])) {
            rows.sort_unstable_by(|a, b| {
                let ids = || self.id(*a).cmp(self.id(*b));
                self.time(*a).cmp(&self.time(*b)).then_with(ids).then_with(|| self.wins(*a, *b))
            });
        }
    }

    /// The text of an input with the given bits.
    pub fn text(&self, input: usize, bits: u64) -> &[u8] {
        let is_kept = self.layout.keeps_text[input];
        let texts = if is_kept { self.texts } else { &self.events.compared };
        texts.get(bits as u32)
    }

    fn time(self, row: u32) -> i64 {
        self.events.times[row as usize]
    }

    fn id(&self, row: u32) -> &[u8] {
        self.events.ids[row as usize]
    }

    /// Compares two duplicates of an event. The lesser one is kept: the one with the earlier ingested_at,
    /// then the earlier event_ts, then the lesser values.
    pub fn wins(self, a: u32, b: u32) -> Ordering {
        let key = |row: u32| (self.events.ingested(row), self.time(row));
        key(a).cmp(&key(b)).then_with(|| self.content(a).cmp(&self.content(b)))
    }

    fn content(self, row: u32) -> Vec<(bool, Vec<u8>)> {
        let words = self.layout.words();
        let flags = &self.events.flags[row as usize * words..(row as usize + 1) * words];
        let conditions =
            (0..self.layout.conditions.len()).map(|i| (Bit::new(i).is_set(flags), Vec::new()));
        let inputs = self.layout.inputs.iter().enumerate().map(|(i, input)| {
            let bits = self.events.inputs[i][row as usize];
            let valid = self.layout.valid(i).is_set(flags);
            let bytes = match input.ty {
                Type::Text if valid => self.text(i, bits).to_vec(),
                _ => bits.to_be_bytes().to_vec(),
            };
            (valid, bytes)
        });
        conditions.chain(inputs).collect()
    }

    /// Finds the duplicates among `rows`. `hashes` is a reusable buffer.
    pub fn copies(self, rows: &[u32], hashes: &mut Vec<(u64, u32)>) -> Copies {
        let mut copies = Copies::default();
        hashes.clear();
        hashes.extend(rows.iter().map(|row| (hash(self.id(*row)), *row)));
        hashes.sort_unstable();
        for group in hashes.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let mut rows: Vec<u32> = group.iter().map(|(_, row)| *row).collect();
            // Different ids with the same hash are separated by sorting the rows by id.
            rows.sort_unstable_by(|a, b| {
                self.id(*a).cmp(self.id(*b)).then_with(|| self.wins(*a, *b))
            });
            for same in rows.chunk_by(|a, b| self.id(*a) == self.id(*b)) {
                copies.duplicates += same.len() as u64 - 1;
                let mut earliest = i64::MAX;
                for (rank, row) in same.iter().enumerate() {
                    if rank > 0 && earliest <= self.time(*row) {
                        copies.dominated.push(*row);
                    } else {
                        copies.left |= rank > 0;
                        earliest = self.time(*row);
                    }
                }
            }
        }
        copies
    }
}

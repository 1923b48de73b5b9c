//! Blocks whose sections are read on demand.

use std::ops::Range;

use super::timeline_file::{BlockPlace, TimelineFile};
use crate::error::{Error, Result};
use crate::features::timeline::{Block, Details, Kept, Layout, block};

/// A block whose sections are read on demand.
pub struct Loaded<'a> {
    stored: Option<(&'a TimelineFile, &'a BlockPlace)>,
    /// The sections that are loaded.
    pub sections: Vec<Option<Vec<u8>>>,
}

impl<'a> Loaded<'a> {
    /// A block of a timeline file, of which nothing is loaded yet.
    pub fn stored(timeline_file: &'a TimelineFile, place: &'a BlockPlace) -> Self {
        Self { stored: Some((timeline_file, place)), sections: vec![None; place.sections()] }
    }

    /// A new block with all its sections.
    pub fn new(sections: Vec<Vec<u8>>) -> Self {
        Self { stored: None, sections: sections.into_iter().map(Some).collect() }
    }

    /// The path of the timeline file, or None for a new block.
    pub fn name(&self) -> Option<String> {
        self.stored.map(|(timeline_file, _)| timeline_file.relative.clone())
    }

    /// Loads some sections, unless they are loaded.
    pub fn need(&mut self, sections: Range<usize>) -> Result<()> {
        let Some((timeline_file, place)) = self.stored else { return Ok(()) };
        let is_missing = |index: &usize| self.sections.get(*index).is_some_and(Option::is_none);
        let mut missing = sections.filter(is_missing);
        let Some(first) = missing.next() else { return Ok(()) };
        let end = missing.next_back().unwrap_or(first) + 1;
        let read = timeline_file.read(place, first..end)?;
        self.sections[first..end].iter_mut().zip(read).for_each(|(own, read)| *own = Some(read));
        Ok(())
    }

    /// The error for a block that is not as it was written.
    pub fn damaged(&self) -> Error {
        self.stored.map_or_else(damaged, |(timeline_file, _)| timeline_file.damaged())
    }

    /// Decodes the loaded sections.
    pub fn view(&self, layout: &Layout) -> Result<Kept<'_>> {
        let sections: Vec<Option<&[u8]>> = self.sections.iter().map(Option::as_deref).collect();
        let head = |index: usize| sections.get(index).copied().flatten().unwrap_or_default();
        let block = Block::read(head(block::CUSTOMERS), head(block::EVENTS), layout);
        let details = Details::read(&sections, layout);
        match (block, details) {
            (Ok(block), Ok(details)) => Ok(Kept { block, details }),
            _ => Err(self.damaged()),
        }
    }
}

/// The error for bytes that are not a block.
pub fn damaged() -> Error {
    Error::engine("reading a block of timelines")("it is not as it was written")
}

/// Decodes the loaded sections of some blocks.
pub fn views<'a>(blocks: &'a [Loaded<'_>], layout: &Layout) -> Result<Vec<Kept<'a>>> {
    blocks.iter().map(|block| block.view(layout)).collect()
}

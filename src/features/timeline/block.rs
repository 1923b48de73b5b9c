//! Blocks: the timelines of the customers of a shard as bytes, in the format that the store keeps between
//! runs.
//!
//! Customers are sorted by key, and the events of each customer by event_ts and event_id. A block contains
//! every event. A duplicate that can never be the visible one is marked but not removed, because it becomes
//! visible if the file of the other one is deleted. The first two sections contain everything that each sweep
//! needs, so that the other sections need not be read.

use std::ops::Range;

use super::classes::Combinations;
use super::column::{Damaged, Packed, TextColumn, Texts, pack, read_varint, take, write_varint};
use super::interner::Interner;
use super::layout::Layout;
use super::order::{Copies, Order};
use super::record::Decoded;

/// The section of the keys, the numbers of events, and summaries of the customers.
pub const CUSTOMERS: usize = 0;
/// The section of the times, flags and inputs of the events.
pub const EVENTS: usize = 1;
/// The section of the times of ingestion of the events.
pub const INGESTED: usize = 2;
/// The section of the details of each customer: the file and the id of each event, and those texts that are
/// only compared with each other within the customer.
pub const DETAILS: usize = 3;
/// The first section of texts that may appear in results. The section of an input is this plus the index of
/// the input.
pub const TEXTS: usize = 4;

/// Writes a block, customer by customer in the order of their keys.
#[derive(Debug)]
pub struct BlockWriter<'a> {
    layout: &'a Layout,
    keys: Texts,
    counts: Vec<i64>,
    latest_ingested: Vec<i64>,
    undecided: Vec<i64>,
    /// For each input, the number of values before each customer.
    starts: Vec<Vec<i64>>,
    /// The distinct combinations of the flag words with a word that marks dominated duplicates.
    classes: Combinations,
    flags: Vec<u64>,
    class: Vec<i64>,
    times: Vec<i64>,
    ingested: Vec<i64>,
    details: Vec<u8>,
    /// The offset at which the details of each customer end.
    details_end: Vec<i64>,
    inputs: Vec<Vec<i64>>,
    dictionaries: Vec<Dictionary>,
}

/// The classes that were translated while customers were copied from one block to another.
#[derive(Debug, Default)]
pub struct Copied {
    /// For each class of the source block, its class in the target block.
    classes: Vec<Option<i64>>,
}

/// The distinct texts of one input in the order of their first occurrence.
///
/// A dictionary covers the whole block, or the events of a single customer if texts are only compared within
/// the customer.
#[derive(Debug, Default)]
struct Dictionary {
    /// For each code of the interner, the round in which the text was last added and its code in the
    /// dictionary of that round.
    codes: Vec<(u32, u32)>,
    round: u32,
    texts: Texts,
}

impl Dictionary {
    fn code(&mut self, foreign: usize, text: &[u8]) -> i64 {
        if foreign >= self.codes.len() {
            self.codes.resize(foreign + 1, (u32::MAX, 0));
        }
        let (round, code) = &mut self.codes[foreign];
        if *round != self.round {
            (*round, *code) = (self.round, self.texts.len() as u32);
            self.texts.push(text);
        }
        i64::from(*code)
    }

    /// Takes the texts and starts a new dictionary.
    fn next_round(&mut self) -> Texts {
        self.round += 1;
        std::mem::take(&mut self.texts)
    }
}

impl<'a> BlockWriter<'a> {
    /// Creates an empty block.
    pub fn new(layout: &'a Layout) -> Self {
        let inputs = layout.inputs.len();
        Self {
            layout,
            keys: Texts::default(),
            counts: Vec::new(),
            latest_ingested: Vec::new(),
            undecided: Vec::new(),
            starts: vec![Vec::new(); inputs],
            classes: Combinations::default(),
            flags: Vec::new(),
            class: Vec::new(),
            times: Vec::new(),
            ingested: Vec::new(),
            details: Vec::new(),
            details_end: Vec::new(),
            inputs: vec![Vec::new(); inputs],
            dictionaries: (0..inputs).map(|_| Dictionary::default()).collect(),
        }
    }

    /// Adds a customer with the events of `order` in the order of `sorted`.
    ///
    /// All customers of a block must use the same interner of texts.
    pub fn push(&mut self, key: &[u8], order: Order<'_>, sorted: &[u32], copies: &Copies) {
        let events = order.events;
        self.keys.push(key);
        self.counts.push(sorted.len() as i64);
        self.undecided.push(copies.left.into());
        let ingested = sorted.iter().map(|row| events.ingested(*row));
        self.latest_ingested.push(ingested.max().unwrap_or(i64::MIN));
        for (starts, values) in self.starts.iter_mut().zip(&self.inputs) {
            starts.push(values.len() as i64);
        }
        let words = self.layout.words();
        for row in sorted {
            let (at, row) = (*row as usize, *row);
            let flags = &events.flags[at * words..(at + 1) * words];
            for input in (0..self.inputs.len()).filter(|i| self.layout.valid(*i).is_set(flags)) {
                let bits = events.inputs[input][at];
                if self.layout.is_text(input) {
                    let text = order.text(input, bits);
                    let code = self.dictionaries[input].code(bits as usize, text);
                    self.inputs[input].push(code);
                } else if !self.layout.is_time(input) {
                    self.inputs[input].push(bits as i64);
                }
            }
            let class = self.class_of(flags, copies.dominated.contains(&row));
            self.class.push(class);
            self.times.push(events.times[at]);
            self.ingested.push(events.ingested(row));
        }
        for row in sorted {
            let row = *row as usize;
            write_varint(events.files[row].into(), &mut self.details);
            write_varint(events.ids[row].len() as u64, &mut self.details);
            self.details.extend_from_slice(events.ids[row]);
        }
        for (input, dictionary) in self.dictionaries.iter_mut().enumerate() {
            if self.layout.is_text(input) && !self.layout.keeps_text[input] {
                dictionary.next_round().write_short(&mut self.details);
            }
        }
        self.details_end.push(self.details.len() as i64);
    }

    /// Copies a customer from another block without changes.
    ///
    /// # Errors
    /// `Damaged` if the details of the customer are not available.
    pub fn copy<'b>(
        &mut self,
        block: &Block<'b>,
        details: &mut Details<'b>,
        customer: usize,
        texts: &mut Interner,
        copied: &mut Copied,
    ) -> Result<(), Damaged> {
        self.keys.push(block.keys.get(customer));
        self.counts.push(block.count(customer) as i64);
        self.undecided.push(block.undecided.get(customer));
        self.latest_ingested.push(block.latest_ingested(customer));
        for (starts, values) in self.starts.iter_mut().zip(&self.inputs) {
            starts.push(values.len() as i64);
        }
        copied.classes.resize(block.flags.len(), None);
        block.each(customer, |row, event| {
            let class = *copied.classes[event.class].get_or_insert_with(|| {
                self.class_of(&block.flags[event.class], block.dominated[event.class])
            });
            self.class.push(class);
            self.times.push(event.time);
            self.ingested.push(details.ingested(row, event.time));
            for input in &block.valid[event.class] {
                let bits = event.input(*input);
                let keeps_text = self.layout.is_text(*input) && self.layout.keeps_text[*input];
                self.inputs[*input].push(if keeps_text {
                    let code = details.text(*input, bits, texts);
                    self.dictionaries[*input].code(code as usize, texts.get(code as u32))
                } else {
                    bits as i64
                });
            }
        });
        self.details.extend_from_slice(details.bytes(block, customer)?);
        self.details_end.push(self.details.len() as i64);
        Ok(())
    }

    fn class_of(&mut self, flags: &[u64], dominated: bool) -> i64 {
        self.flags.clear();
        self.flags.extend_from_slice(flags);
        self.flags.push(dominated.into());
        self.classes.of(&self.flags) as i64
    }

    /// The number of events that have been added.
    pub fn events(&self) -> u64 {
        self.times.len() as u64
    }

    /// Finishes the block and returns its sections.
    pub fn finish(self) -> Vec<Vec<u8>> {
        let mut sections = vec![Vec::new(); TEXTS];
        let out = &mut sections[CUSTOMERS];
        self.keys.write(out);
        pack(&self.counts, out);
        pack(&self.latest_ingested, out);
        pack(&self.undecided, out);
        pack(&self.details_end, out);
        self.starts.iter().for_each(|starts| pack(starts, out));
        let out = &mut sections[EVENTS];
        let flags: Vec<i64> =
            self.classes.all().iter().flatten().map(|word| *word as i64).collect();
        pack(&flags, out);
        pack(&self.class, out);
        pack(&self.times, out);
        self.inputs.iter().for_each(|values| pack(values, out));
        let late = |(ingested, time): (&i64, &i64)| lag(*ingested, *time);
        let lags: Vec<i64> = self.ingested.iter().zip(&self.times).map(late).collect();
        pack(&lags, &mut sections[INGESTED]);
        sections[DETAILS] = self.details;
        for dictionary in self.dictionaries {
            let mut out = Vec::new();
            dictionary.texts.write(&mut out);
            sections.push(out);
        }
        sections
    }
}

/// The time from an event to its ingestion in microseconds, or `i64::MIN` if the time of ingestion is unknown,
/// that is `i64::MIN`. Most events are ingested soon after they happen, so the difference takes fewer bytes than
/// the time itself, and a source without times of ingestion takes none.
fn lag(ingested: i64, time: i64) -> i64 {
    if ingested == i64::MIN { i64::MIN } else { ingested.wrapping_sub(time) }
}

/// The time of ingestion of an event at `time`, given its [`lag`].
fn ingested_at(lag: i64, time: i64) -> i64 {
    if lag == i64::MIN { i64::MIN } else { lag.wrapping_add(time) }
}

/// The sections of a block that every sweep reads.
#[derive(Debug)]
pub struct Block<'a> {
    /// The keys of the customers in ascending order.
    pub keys: TextColumn<'a>,
    /// For each customer the number of events of all preceding customers, followed by the number of all
    /// events.
    first: Vec<usize>,
    latest_ingested: Packed<'a>,
    undecided: Packed<'a>,
    details_end: Packed<'a>,
    starts: Vec<Packed<'a>>,
    /// The flag words of each class.
    pub flags: Vec<Vec<u64>>,
    /// For each class, whether its events are duplicates that can never be the visible ones.
    pub dominated: Vec<bool>,
    /// For each class, the inputs of which its events have a stored value.
    pub valid: Vec<Vec<usize>>,
    class: Packed<'a>,
    times: Packed<'a>,
    inputs: Vec<Packed<'a>>,
    /// The index of the input that is event_ts itself.
    time_input: Option<usize>,
}

/// An event of a block.
#[derive(Debug, Clone, Copy)]
pub struct Event<'e, 'a> {
    block: &'e Block<'a>,
    /// The event_ts in microseconds.
    pub time: i64,
    /// The index of the class of the event.
    pub class: usize,
    /// For each input, the index of its value if the event has one.
    cursors: &'e [usize],
}

impl Event<'_, '_> {
    /// The bits of an input. The class of the event must have a value of it.
    pub fn input(&self, index: usize) -> u64 {
        match self.block.time_input {
            Some(time) if time == index => self.time as u64,
            _ => self.block.inputs[index].get(self.cursors[index]) as u64,
        }
    }
}

impl<'a> Block<'a> {
    /// Reads the first two sections of a block.
    ///
    /// # Errors
    /// `Damaged` if the sections do not fit the layout or each other.
    pub fn read(customers: &'a [u8], events: &'a [u8], layout: &Layout) -> Result<Self, Damaged> {
        let bytes = &mut &customers[..];
        let keys = TextColumn::read(bytes)?;
        let counts = Packed::read(bytes)?;
        let latest_ingested = Packed::read(bytes)?;
        let undecided = Packed::read(bytes)?;
        let details_end = Packed::read(bytes)?;
        let columns = |bytes: &mut &'a [u8]| -> Result<Vec<_>, Damaged> {
            layout.inputs.iter().map(|_| Packed::read(bytes)).collect()
        };
        let starts = columns(bytes)?;
        let bytes = &mut &events[..];
        let words = layout.words();
        let classes: Vec<u64> = Packed::read(bytes)?.iter().map(|word| word as u64).collect();
        let classes: Vec<&[u64]> = classes.chunks_exact(words + 1).collect();
        let flags: Vec<Vec<u64>> = classes.iter().map(|class| class[..words].to_vec()).collect();
        let dominated = classes.iter().map(|class| class[words] != 0).collect();
        let has_value = |flags: &Vec<u64>| {
            let stored = |i: &usize| layout.valid(*i).is_set(flags) && !layout.is_time(*i);
            (0..layout.inputs.len()).filter(stored).collect()
        };
        let valid = flags.iter().map(has_value).collect();
        let (class, times) = (Packed::read(bytes)?, Packed::read(bytes)?);
        let inputs = columns(bytes)?;
        let mut first = vec![0];
        for count in counts.iter() {
            first.push(first[first.len() - 1] + count as usize);
        }
        let events = first[first.len() - 1];
        let columns = [counts, latest_ingested, undecided, details_end];
        let whole = columns.iter().chain(&starts).all(|column| column.len() == keys.len());
        if !whole || [class.len(), times.len()] != [events; 2] {
            return Err(Damaged);
        }
        Ok(Self {
            keys,
            first,
            latest_ingested,
            undecided,
            details_end,
            starts,
            flags,
            dominated,
            valid,
            class,
            times,
            inputs,
            time_input: (0..layout.inputs.len()).find(|input| layout.is_time(*input)),
        })
    }

    /// The number of events of a customer, including duplicates.
    pub fn count(&self, customer: usize) -> usize {
        self.first[customer + 1] - self.first[customer]
    }

    /// The range of the rows of a customer's events.
    pub fn rows(&self, customer: usize) -> std::ops::Range<usize> {
        self.first[customer]..self.first[customer + 1]
    }

    /// Whether a customer has duplicates for which the visible event depends on the as-of.
    pub fn is_undecided(&self, customer: usize) -> bool {
        self.undecided.get(customer) != 0
    }

    /// The latest time of ingestion of a customer's events, in microseconds.
    pub fn latest_ingested(&self, customer: usize) -> i64 {
        self.latest_ingested.get(customer)
    }

    /// The range of a customer's details within their section.
    pub fn details(&self, customer: usize) -> Range<usize> {
        let end = |customer: usize| self.details_end.get(customer) as usize;
        customer.checked_sub(1).map_or(0, end)..end(customer)
    }

    /// Whether any event was ingested at or after an instant, in microseconds.
    pub fn is_late(&self, instant: i64) -> bool {
        self.latest_ingested.iter().any(|ingested| ingested >= instant)
    }

    /// The event_ts of a row, in microseconds.
    pub fn time(&self, row: usize) -> i64 {
        self.times.get(row)
    }

    /// Calls `visit` with the row of each event of a customer, in order.
    pub fn each(&self, customer: usize, mut visit: impl FnMut(usize, Event<'_, 'a>)) {
        let mut few = [0; 32];
        let mut many;
        let cursors = match self.inputs.len() {
            count if count <= few.len() => &mut few[..count],
            count => {
                many = vec![0; count];
                &mut many[..]
            }
        };
        for (cursor, starts) in cursors.iter_mut().zip(&self.starts) {
            *cursor = starts.get(customer) as usize;
        }
        for row in self.rows(customer) {
            let class = self.class.get(row) as usize;
            let time = self.times.get(row);
            visit(row, Event { block: self, time, class, cursors });
            for input in &self.valid[class] {
                cursors[*input] += 1;
            }
        }
    }
}

/// The sections of a block that not every sweep reads.
#[derive(Debug)]
pub struct Details<'a> {
    lags: Option<Packed<'a>>,
    all: Option<&'a [u8]>,
    /// For each input, its texts and for each of their codes the code in the reader's interner, or
    /// [`UNKNOWN`] if it is not interned yet.
    texts: Vec<(Option<TextColumn<'a>>, Vec<u32>)>,
}

const UNKNOWN: u32 = u32::MAX;

/// The file and the id of each event of a customer, and the bytes of the details that follow them.
type Origins<'a> = (Vec<(u32, &'a [u8])>, &'a [u8]);

impl<'a> Details<'a> {
    /// Reads the sections that are loaded.
    ///
    /// # Errors
    /// `Damaged` if a section is not a valid column.
    pub fn read(sections: &[Option<&'a [u8]>], layout: &Layout) -> Result<Self, Damaged> {
        let section = |index: usize| sections.get(index).copied().flatten();
        let lags = section(INGESTED).map(|bytes| Packed::read(&mut &bytes[..])).transpose()?;
        let texts = |input: usize| -> Result<_, Damaged> {
            let bytes = section(TEXTS + input).filter(|_| layout.keeps_text[input]);
            let column = bytes.map(|bytes| TextColumn::read(&mut &bytes[..])).transpose()?;
            let codes = vec![UNKNOWN; column.as_ref().map_or(0, TextColumn::len)];
            Ok((column, codes))
        };
        let texts = (0..layout.inputs.len()).map(texts).collect::<Result<_, _>>()?;
        Ok(Self { lags, all: section(DETAILS), texts })
    }

    /// The time of ingestion of a row, in microseconds. It is `i64::MIN` if the section is not loaded or if
    /// the time is unknown.
    pub fn ingested(&self, row: usize, time: i64) -> i64 {
        self.lags.map_or(i64::MIN, |lags| ingested_at(lags.get(row), time))
    }

    /// Translates a code of the block to the code of the same text in `texts`.
    pub fn text(&mut self, input: usize, code: u64, texts: &mut Interner) -> u64 {
        let Some((Some(column), codes)) = self.texts.get_mut(input) else { return code };
        let own = &mut codes[code as usize];
        if *own == UNKNOWN {
            *own = texts.intern(column.get(code as usize));
        }
        (*own).into()
    }

    fn bytes(&self, block: &Block<'a>, customer: usize) -> Result<&'a [u8], Damaged> {
        self.all.and_then(|all| all.get(block.details(customer))).ok_or(Damaged)
    }

    /// Reads the files and ids of a customer's events, and returns them with the bytes that follow.
    ///
    /// # Errors
    /// `Damaged` if the details are not available or are not valid.
    fn of(&self, block: &Block<'a>, customer: usize) -> Result<Origins<'a>, Damaged> {
        let mut rest = self.bytes(block, customer)?;
        let rows = block.rows(customer).map(|_| {
            let file = read_varint(&mut rest)? as u32;
            let length = read_varint(&mut rest)? as usize;
            Ok((file, take(&mut rest, length)?))
        });
        let rows = rows.collect::<Result<_, _>>()?;
        Ok((rows, rest))
    }

    /// The numbers of the files from which a customer's events were read.
    pub fn files(
        &self,
        block: &Block<'a>,
        customer: usize,
    ) -> Result<impl Iterator<Item = u32>, Damaged> {
        let (rows, _) = self.of(block, customer)?;
        Ok(rows.into_iter().map(|(file, _)| file))
    }

    /// Decodes the events of a customer and appends those for which `keep` is true. `keep` receives the class
    /// and the file of each event.
    ///
    /// # Errors
    /// `Damaged` if the details are not available or are not valid.
    pub fn decode(
        &mut self,
        block: &Block<'a>,
        customer: usize,
        layout: &Layout,
        texts: &mut Interner,
        keep: impl Fn(usize, u32) -> bool,
        events: &mut Decoded<'a>,
    ) -> Result<(), Damaged> {
        let (details, mut rest) = self.of(block, customer)?;
        let mut local: Vec<Vec<u32>> = vec![Vec::new(); layout.inputs.len()];
        for (input, codes) in local.iter_mut().enumerate() {
            if layout.is_text(input) && !layout.keeps_text[input] {
                for _ in 0..read_varint(&mut rest)? {
                    let length = read_varint(&mut rest)? as usize;
                    codes.push(events.compared.intern(take(&mut rest, length)?));
                }
            }
        }
        let mut details = details.into_iter();
        let mut is_whole = true;
        block.each(customer, |row, event| {
            let (file, id) = details.next().unwrap_or_default();
            if !keep(event.class, file) {
                return;
            }
            events.times.push(event.time);
            if layout.ingestion {
                events.ingested.push(self.ingested(row, event.time));
            }
            events.files.push(file);
            events.flags.extend_from_slice(&block.flags[event.class]);
            events.ids.push(id);
            for (input, values) in events.inputs.iter_mut().enumerate() {
                if !layout.valid(input).is_set(&block.flags[event.class]) {
                    values.push(0);
                    continue;
                }
                let bits = event.input(input);
                values.push(match (layout.is_text(input), layout.keeps_text[input]) {
                    (false, _) => bits,
                    (true, true) => self.text(input, bits, texts),
                    (true, false) => {
                        let code = local[input].get(bits as usize);
                        is_whole &= code.is_some();
                        code.copied().unwrap_or(0).into()
                    }
                });
            }
        });
        if is_whole { Ok(()) } else { Err(Damaged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_times_of_ingestion_take_no_bytes() {
        let times = [1_700_000_000_000_000, 1_719_792_000_000_001, 5];
        for ingested in [[i64::MIN; 3], [1_700_000_000_000_009, i64::MIN, 5]] {
            let lags: Vec<i64> = (0..3).map(|i| lag(ingested[i], times[i])).collect();
            let back: Vec<i64> = (0..3).map(|i| ingested_at(lags[i], times[i])).collect();
            assert_eq!(back, ingested);
        }
        let size = |ingested: i64| {
            let mut bytes = Vec::new();
            pack(&times.map(|time| lag(ingested, time)), &mut bytes);
            bytes.len()
        };
        let mut empty = Vec::new();
        pack(&[], &mut empty);
        assert_eq!(size(i64::MIN), empty.len());
        assert!(size(0) > empty.len());
    }
}

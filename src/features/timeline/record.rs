//! Records: single events as bytes, which are scattered, spilled, and read back customer by customer.
//!
//! A record consists of its length, event_ts, ingested_at if the source has it, the number of its file if
//! that is kept, the flags, the key, the id, and the inputs that have a value and are not event_ts. All data
//! of an event are adjacent, because the events of a customer are spread over the whole partition: a sweep
//! needs only one random access per event.

use super::column::write_varint;
use super::interner::Interner;
use super::layout::Layout;

/// The values of one input for a batch of events.
#[derive(Debug)]
pub enum InputValues<'a> {
    /// The bits of integers, doubles, money, booleans, dates or timestamps.
    Bits(Vec<u64>),
    /// Texts. A text is arbitrary if the validity bit of the event is not set.
    Text(Vec<&'a str>),
}

/// A batch of events as columns. All events are usable.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The key of the customer, customer360_id.
    pub keys: Vec<&'a str>,
    /// The key of the event, event_id.
    pub ids: Vec<&'a str>,
    /// The time of the event, event_ts, in microseconds.
    pub times: Vec<i64>,
    /// The time of ingestion, ingested_at, in microseconds. It is `i64::MIN` if it is null. The list is empty
    /// if the layout has no ingestion.
    pub ingested: Vec<i64>,
    /// The flag words, with [`Layout::words`] words per event.
    pub flags: Vec<u64>,
    /// The number of the file of each event. The list is empty if the layout does not keep files.
    pub files: Vec<u32>,
    /// The values of each input of the layout.
    pub inputs: Vec<InputValues<'a>>,
}

/// Appends the record of event `row` of `batch` to `out`.
pub fn write(batch: &Batch<'_>, row: usize, layout: &Layout, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&batch.times[row].to_le_bytes());
    if layout.ingestion {
        out.extend_from_slice(&batch.ingested[row].to_le_bytes());
    }
    if layout.files.is_some() {
        out.extend_from_slice(&batch.files[row].to_le_bytes());
    }
    let words = layout.words();
    let flags = &batch.flags[row * words..(row + 1) * words];
    for byte in 0..layout.flag_bytes() {
        out.push((flags[byte / 8] >> (byte % 8 * 8)) as u8);
    }
    write_text(batch.keys[row], out);
    write_text(batch.ids[row], out);
    for (i, input) in batch.inputs.iter().enumerate() {
        if layout.valid(i).is_set(flags) && !layout.is_time(i) {
            match input {
                InputValues::Bits(values) => out.extend_from_slice(&values[row].to_le_bytes()),
                InputValues::Text(values) => write_text(values[row], out),
            }
        }
    }
    let length = (out.len() - begin) as u32;
    out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
}

/// Appends the length of the text as a varint, followed by its bytes.
fn write_text(text: &str, out: &mut Vec<u8>) {
    write_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// A record that is being read.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    rest: &'a [u8],
}

impl<'a> Record<'a> {
    /// Iterates over the records in `bytes`. Each record comes with its own bytes.
    pub fn all(mut bytes: &'a [u8]) -> impl Iterator<Item = (&'a [u8], Self)> {
        std::iter::from_fn(move || {
            let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
            let (own, next) = bytes.split_at(length);
            bytes = next;
            Some((own, Self { rest: &own[4..] }))
        })
    }

    /// The key of the customer, without decoding the rest of the record.
    pub fn key(mut self, layout: &Layout) -> &'a [u8] {
        let times = 8 * (1 + usize::from(layout.ingestion));
        self.skip(times + 4 * usize::from(layout.files.is_some()) + layout.flag_bytes());
        self.text()
    }

    /// Decodes the event and appends it to `events`. Texts that may appear in results get a code in `texts`.
    pub fn read(mut self, layout: &Layout, events: &mut Decoded<'a>, texts: &mut Interner) {
        let time = i64::from_le_bytes(self.array());
        events.times.push(time);
        if layout.ingestion {
            events.ingested.push(i64::from_le_bytes(self.array()));
        }
        if layout.files.is_some() {
            events.files.push(u32::from_le_bytes(self.array()));
        }
        let begin = events.flags.len();
        events.flags.resize(begin + layout.words(), 0);
        let flags = &mut events.flags[begin..];
        for byte in 0..layout.flag_bytes() {
            let [bits] = self.array();
            flags[byte / 8] |= u64::from(bits) << (byte % 8 * 8);
        }
        self.text();
        events.ids.push(self.text());
        let Decoded { inputs, compared, .. } = events;
        for (i, values) in inputs.iter_mut().enumerate() {
            values.push(if !layout.valid(i).is_set(flags) {
                0
            } else if layout.is_time(i) {
                time as u64
            } else if layout.is_text(i) {
                let texts = if layout.keeps_text[i] { &mut *texts } else { &mut *compared };
                texts.intern(self.text()).into()
            } else {
                u64::from_le_bytes(self.array())
            });
        }
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.rest[..N]);
        self.skip(N);
        array
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn text(&mut self) -> &'a [u8] {
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let [byte] = self.array();
            length |= usize::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
            shift += 7;
        }
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        text
    }
}

/// The events of one customer as columns, in the order in which they were read.
#[derive(Debug, Default)]
pub struct Decoded<'a> {
    pub times: Vec<i64>,
    pub ingested: Vec<i64>,
    pub files: Vec<u32>,
    pub flags: Vec<u64>,
    pub ids: Vec<&'a [u8]>,
    pub inputs: Vec<Vec<u64>>,
    /// The texts that are only compared with each other. They are few enough to stay in the cache of a core.
    pub compared: Interner,
}

impl Decoded<'_> {
    /// Creates empty columns for `inputs` inputs.
    pub fn new(inputs: usize) -> Self {
        Self { inputs: vec![Vec::new(); inputs], ..Self::default() }
    }

    /// The time of ingestion of a row, in microseconds. It is `i64::MIN` if it is unknown.
    pub fn ingested(&self, row: u32) -> i64 {
        self.ingested.get(row as usize).copied().unwrap_or(i64::MIN)
    }

    /// Removes all events and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.times.clear();
        self.ingested.clear();
        self.files.clear();
        self.flags.clear();
        self.ids.clear();
        self.inputs.iter_mut().for_each(Vec::clear);
        self.compared.clear();
    }
}

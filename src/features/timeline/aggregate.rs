//! Aggregation: computes one value per window and operation from the sorted events of one customer.

use super::super::spec::Op;
use super::layout::{CompiledPlan, Stream, Use};
use crate::expression::Type;
use crate::features::plan::AsOf;
use crate::money::Scale;
use crate::time::{Instant, Zone};

/// An output column: its values as bits, with texts as codes, and whether each value is present.
///
/// Rows that are skipped get the value of a customer without events.
#[derive(Debug, Clone)]
pub struct Values {
    pub bits: Vec<u64>,
    pub valid: Vec<bool>,
    empty: Option<u64>,
}

impl Values {
    /// Creates a column without values and with room for `count` of them. `empty` is the value of skipped
    /// rows.
    pub fn with_capacity(count: usize, empty: Option<u64>) -> Self {
        Self { bits: Vec::with_capacity(count), valid: Vec::with_capacity(count), empty }
    }

    /// Sets the value of a row after all rows that are set already. The rows in between are skipped.
    pub fn set(&mut self, row: usize, value: Option<u64>) {
        self.fill(row);
        self.bits.push(value.unwrap_or(0));
        self.valid.push(value.is_some());
    }

    /// Skips all rows before `row` that do not have a value yet.
    pub fn fill(&mut self, row: usize) {
        if self.bits.len() < row {
            self.bits.resize(row, self.empty.unwrap_or(0));
            self.valid.resize(row, self.empty.is_some());
        }
    }
}

/// The events of one customer that belong to a stream, ordered by event_ts and event_id.
#[derive(Debug, Default, Clone)]
pub struct Selected {
    pub times: Vec<i64>,
    /// The inputs as bits. The list is empty for a stream without an input.
    pub values: Vec<u64>,
}

impl Selected {
    /// Removes all events and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.times.clear();
        self.values.clear();
    }
}

/// The error of a sum of money or integers that is out of range, with the index of its column.
#[derive(Debug)]
pub struct Overflow {
    pub column: usize,
    pub sum: i128,
}

/// The buffers that a sweep reuses for all its customers.
#[derive(Debug, Default)]
pub struct Scratch {
    /// For each window of the plan, the number of events of the stream before the start of the window.
    starts: Vec<usize>,
    sums: Vec<i128>,
    days: Vec<i32>,
    /// For each event, the number of changes of the calendar day from the first event up to this one.
    day_changes: Vec<u32>,
    /// For each event, the index of the next event with the same value, or the number of events if there is
    /// none.
    next: Vec<u32>,
    /// For each text code, the stream in which it last occurred and the index of the event there.
    met: Vec<(u32, u32)>,
    streams: u32,
    pairs: Vec<(u64, u32)>,
}

/// The settings of the project that aggregations depend on.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    pub zone: Zone,
    pub scale: Scale,
}

/// The as-ofs of one customer and the rows in which their values are stored.
#[derive(Debug, Clone, Copy)]
pub struct CustomerAsOfs<'a> {
    /// The as-ofs in ascending order.
    pub as_ofs: &'a [AsOf],
    /// For each as-of, whether the customer has a row with values.
    pub included: &'a [bool],
    /// Whether all rows go to a single output, in the order of the as-ofs.
    pub single: bool,
    /// For each as-of, the index of the row in its output.
    pub rows: &'a [usize],
}

impl CustomerAsOfs<'_> {
    /// The index of the output of an as-of.
    pub fn output(&self, as_of: usize) -> usize {
        if self.single { 0 } else { as_of }
    }
}

/// Computes all aggregations of a plan for one customer.
///
/// `streams` has the events of each stream of the plan. The values are stored in `outputs`, which is indexed
/// by output and then by column, at the rows of the as-ofs that are included.
pub fn aggregate(
    plan: &CompiledPlan,
    streams: &[Selected],
    own: CustomerAsOfs<'_>,
    scratch: &mut Scratch,
    context: Context,
    outputs: &mut [Vec<Values>],
) -> Result<(), Overflow> {
    scratch.starts.resize(plan.windows.len(), 0);
    let included = own.included;
    // A stream without events does not set any values, because skipped rows already have the value of a
    // customer without events.
    let with_events = plan.streams.iter().zip(streams).filter(|(_, s)| !s.times.is_empty());
    for (stream, events) in with_events {
        let input = stream.input_type;
        scratch.prepare(stream, events, input, context.zone);
        for as_of in (0..included.len()).filter(|as_of| included[*as_of]) {
            let at = own.as_ofs[as_of].at;
            let end = events.times.partition_point(|time| *time < at.0);
            if end == 0 {
                continue;
            }
            for window in &stream.windows {
                let start = plan.windows[*window].start(at).0;
                scratch.starts[*window] = events.times[..end].partition_point(|time| *time < start);
            }
            for usage in &stream.uses {
                let start = scratch.starts[usage.window];
                let value = scratch.value(usage, events, input, start, end, at, context);
                let value = value.map_err(|sum| Overflow { column: usage.column, sum })?;
                outputs[own.output(as_of)][usage.column].set(own.rows[as_of], value);
            }
        }
    }
    Ok(())
}

impl Scratch {
    /// Prepares the lookups that the operations of the stream need: running sums, days, and next occurrences
    /// of values.
    fn prepare(&mut self, stream: &Stream, events: &Selected, input: Option<Type>, zone: Zone) {
        let needs = stream.needs;
        self.sums.clear();
        if needs.sums {
            let mut sum = 0_i128;
            self.sums.push(0);
            for value in &events.values {
                sum += i128::from(*value as i64);
                self.sums.push(sum);
            }
        }
        self.days.clear();
        self.day_changes.clear();
        if needs.days {
            let (mut changes, mut days) = (0, zone.days());
            for time in &events.times {
                let day = days.of(*time);
                changes += u32::from(self.days.last().is_some_and(|last| *last != day));
                self.days.push(day);
                self.day_changes.push(changes);
            }
        }
        if needs.distinct {
            match input {
                Some(Type::Text) => self.prepare_next_text(&events.values),
                _ => self.prepare_next(&events.values),
            }
        }
    }

    /// Text codes are dense, so the latest occurrence of each is stored in a table.
    fn prepare_next_text(&mut self, codes: &[u64]) {
        let count = codes.len() as u32;
        self.streams += 1;
        self.next.clear();
        self.next.resize(codes.len(), count);
        for (i, code) in codes.iter().enumerate().rev() {
            let code = *code as usize;
            if code >= self.met.len() {
                self.met.resize(code + 1, (0, 0));
            }
            let (stream, later) = std::mem::replace(&mut self.met[code], (self.streams, i as u32));
            if stream == self.streams {
                self.next[i] = later;
            }
        }
    }

    fn prepare_next(&mut self, values: &[u64]) {
        let count = values.len() as u32;
        self.next.clear();
        self.next.resize(count as usize, count);
        self.pairs.clear();
        self.pairs.extend(values.iter().copied().zip(0..));
        self.pairs.sort_unstable();
        for pair in self.pairs.windows(2) {
            if pair[0].0 == pair[1].0 {
                self.next[pair[0].1 as usize] = pair[1].1;
            }
        }
    }

    /// Computes one operation over the events `start..end` of the stream.
    ///
    /// # Errors
    /// The sum, if it is out of range.
    #[expect(clippy::too_many_arguments, reason = "one value of one op in one window")]
    fn value(
        &self,
        usage: &Use,
        events: &Selected,
        input: Option<Type>,
        start: usize,
        end: usize,
        at: Instant,
        context: Context,
    ) -> Result<Option<u64>, i128> {
        let count = end - start;
        let double = |value: f64| Ok(Some(value.to_bits()));
        let values = || events.values[start..end].iter().copied();
        if usage.time {
            let times = &events.times[start..end];
            let latest = matches!(usage.op, Op::Max | Op::Last);
            let time = if latest { times.last() } else { times.first() };
            return Ok(time.map(|time| *time as u64));
        }
        Ok(match usage.op {
            Op::Count => Some(count as u64),
            Op::CountDistinct => {
                let last_inside =
                    self.next[start..end].iter().filter(|next| **next as usize >= end);
                Some(last_inside.count() as u64)
            }
            Op::FirstDaySum => {
                let first = self.days[start..end].first();
                let same = |day: &&i32| first == Some(day);
                let until = start + self.days[start..end].iter().take_while(same).count();
                let sum = Use { op: Op::Sum, ..*usage };
                return self.value(&sum, events, input, start, until, at, context);
            }
            Op::Sum if input == Some(Type::Double) => {
                return double(values().map(f64::from_bits).sum());
            }
            Op::Sum => {
                let sum = self.sums[end] - self.sums[start];
                let limit = if input == Some(Type::Money) { 10_i128.pow(18) } else { 1 << 62 };
                if sum.abs() >= limit {
                    return Err(sum);
                }
                Some(sum as i64 as u64)
            }
            _ if count == 0 => usage.empty,
            Op::Mean if input == Some(Type::Double) => {
                return double(values().map(f64::from_bits).sum::<f64>() / count as f64);
            }
            Op::Mean => {
                let sum = (self.sums[end] - self.sums[start]) as f64 / count as f64;
                let units = if input == Some(Type::Money) { context.scale.units() } else { 1 };
                return double(sum / units as f64);
            }
            Op::Min | Op::Max if input == Some(Type::Double) => {
                let pick = if usage.op == Op::Min { f64::min } else { f64::max };
                // Adding zero turns -0.0 into 0.0. The two compare as equal but have different bits.
                return Ok(values().map(f64::from_bits).reduce(pick).map(|v| (v + 0.0).to_bits()));
            }
            Op::Min => values().map(|v| v as i64).min().map(|v| v as u64),
            Op::Max => values().map(|v| v as i64).max().map(|v| v as u64),
            Op::Std => {
                let values = || values().map(|v| number(v, input, context.scale));
                return Ok(deviation(values).map(f64::to_bits));
            }
            Op::First => Some(events.values[start]),
            Op::Last => Some(events.values[end - 1]),
            Op::DaysSinceFirst => return double(at.days_since(events.times[start])),
            Op::DaysSinceLast => return double(at.days_since(events.times[end - 1])),
            Op::ActiveDays => Some(u64::from(self.active_days(start, end))),
            Op::MeanGapDays => {
                let gaps = self.active_days(start, end) - 1;
                let span = self.days[end - 1] - self.days[start];
                return Ok((gaps > 0).then(|| (f64::from(span) / f64::from(gaps)).to_bits()));
            }
            Op::MedianGapDays => return Ok(self.median_gap(start, end).map(f64::to_bits)),
            Op::MaxGapDays => {
                let longest = self.gaps(start, end).max();
                return Ok(longest.map(|gap| f64::from(gap).to_bits()));
            }
            Op::StdGapDays => {
                let deviation = deviation(|| self.gaps(start, end).map(f64::from));
                return Ok(deviation.map(f64::to_bits));
            }
            Op::DecayedSum => {
                let half_life = usage.half_life.map_or(1.0, |length| length.0 as f64);
                let sum = (start..end).map(|i| {
                    let weight =
                        events.values.get(i).map_or(1.0, |v| number(*v, input, context.scale));
                    weight * decay(at, events.times[i], half_life)
                });
                return double(sum.sum());
            }
        })
    }

    fn active_days(&self, start: usize, end: usize) -> u32 {
        self.day_changes[end - 1] - self.day_changes[start] + 1
    }

    /// The numbers of days between consecutive active days.
    fn gaps(&self, start: usize, end: usize) -> impl Iterator<Item = i32> {
        self.days[start..end].windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 0)
    }

    fn median_gap(&self, start: usize, end: usize) -> Option<f64> {
        let mut gaps: Vec<i32> = self.gaps(start, end).collect();
        gaps.sort_unstable();
        let middle = gaps.len() / 2;
        match gaps.len() {
            0 => None,
            count if count % 2 == 1 => Some(f64::from(gaps[middle])),
            _ => Some((f64::from(gaps[middle - 1]) + f64::from(gaps[middle])) / 2.0),
        }
    }
}

/// The sample standard deviation, computed in two passes. None for fewer than two values.
fn deviation<I: Iterator<Item = f64>>(values: impl Fn() -> I) -> Option<f64> {
    let count = values().count();
    if count < 2 {
        return None;
    }
    let mean = values().sum::<f64>() / count as f64;
    let squares: f64 = values().map(|v| (v - mean) * (v - mean)).sum();
    Some((squares / (count - 1) as f64).sqrt())
}

/// The weight 2^(-age / half_life) of an event. The age and the half-life are in microseconds.
pub fn decay(at: Instant, time: i64, half_life: f64) -> f64 {
    (-((at.0 - time) as f64) / half_life).exp2()
}

/// An input as a double. Money is in major units.
pub fn number(bits: u64, ty: Option<Type>, scale: Scale) -> f64 {
    match ty {
        Some(Type::Double) => f64::from_bits(bits),
        Some(Type::Money) => scale.major(bits as i64),
        _ => bits as i64 as f64,
    }
}

//! The layout of events in memory: one bit per distinct condition, and one value per distinct input.

use super::super::plan::FeaturePlan;
use super::super::spec::Op;
use crate::expression::{Expression, Type};
use crate::time::{Duration, Instant, Window};

/// The position of a bit in the flag words of an event.
#[derive(Debug, Clone, Copy)]
pub struct Bit {
    pub word: usize,
    pub mask: u64,
}

impl Bit {
    pub fn new(index: usize) -> Self {
        Self { word: index / 64, mask: 1 << (index % 64) }
    }

    /// Whether the bit is set in the flag words of an event.
    pub fn is_set(self, flags: &[u64]) -> bool {
        flags[self.word] & self.mask != 0
    }
}

/// An output column of a stream, with the operation and window that compute it.
#[derive(Debug, Clone)]
pub struct Use {
    pub op: Op,
    /// The index of the window in the plan.
    pub window: usize,
    pub half_life: Option<Duration>,
    /// The index of the aggregation in the plan.
    pub column: usize,
    /// Whether the input is event_ts, which is not stored separately.
    pub time: bool,
    /// The bits of the value without events, or None for null.
    pub empty: Option<u64>,
}

/// The events that meet one condition and have a value of one input, with the columns that are computed from
/// them.
#[derive(Debug, Clone)]
pub struct Stream {
    pub condition: Option<Bit>,
    pub valid: Option<Bit>,
    pub input: Option<usize>,
    pub input_type: Option<Type>,
    pub uses: Vec<Use>,
    /// The indices of the plan's windows that the uses have, each once.
    pub windows: Vec<usize>,
    /// The lookups that its operations need.
    pub needs: Needs,
}

/// The lookups that are prepared for a stream of each customer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs {
    /// Whether running sums of integers or money are needed.
    pub sums: bool,
    /// Whether calendar days are needed.
    pub days: bool,
    /// Whether the next occurrence of each value is needed.
    pub distinct: bool,
}

impl Needs {
    fn add(&mut self, op: Op, input: Option<Type>) {
        let sums = [Op::Sum, Op::FirstDaySum, Op::Mean].contains(&op);
        self.sums |= sums && input != Some(Type::Double);
        self.days |= op.counts_days();
        self.distinct |= op == Op::CountDistinct;
    }
}

impl Stream {
    /// The earliest instant, in microseconds, that a window of the stream looks back to from the as-of
    /// `earliest`.
    pub fn since(&self, plan: &CompiledPlan, earliest: Instant) -> i64 {
        self.windows
            .iter()
            .map(|window| plan.windows[*window].start(earliest).0)
            .min()
            .unwrap_or(i64::MIN)
    }

    /// Whether an event with these flag words belongs to the stream.
    pub fn has(&self, flags: &[u64]) -> bool {
        let is_set = |bit: &Option<Bit>| bit.is_none_or(|bit| bit.is_set(flags));
        is_set(&self.condition) && is_set(&self.valid)
    }
}

/// The item and weight of a plan's interactions.
#[derive(Debug, Clone)]
pub struct ItemStream {
    pub item: usize,
    pub item_valid: Bit,
    pub weight: usize,
    pub weight_valid: Bit,
    pub window: Window,
    pub half_life: Duration,
}

impl ItemStream {
    /// Whether an event with these flag words has an item and a weight.
    pub fn has(&self, flags: &[u64]) -> bool {
        self.item_valid.is_set(flags) && self.weight_valid.is_set(flags)
    }
}

/// A plan whose conditions and inputs are resolved to bits and indices of the layout.
#[derive(Debug, Clone)]
pub struct CompiledPlan {
    pub plan: FeaturePlan,
    pub windows: Vec<Window>,
    pub streams: Vec<Stream>,
    pub items: Option<ItemStream>,
}

/// The conditions and inputs of all plans of a build.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The distinct conditions.
    pub conditions: Vec<Expression>,
    /// The distinct inputs.
    pub inputs: Vec<Expression>,
    /// Whether events have a time of ingestion.
    pub ingestion: bool,
    /// The number of the first file of the source. None if events do not keep the number of their file.
    pub files: Option<u32>,
    /// For each input, whether it is a text that may appear in results. Other texts are only compared with
    /// each other within a customer.
    pub keeps_text: Vec<bool>,
    time: Option<usize>,
    pub(super) plans: Vec<CompiledPlan>,
}

fn position(list: &mut Vec<Expression>, expression: &Expression) -> usize {
    list.iter().position(|known| known == expression).unwrap_or_else(|| {
        list.push(expression.clone());
        list.len() - 1
    })
}

impl Layout {
    /// Creates the layout for all `plans`.
    pub fn new(plans: &[FeaturePlan], ingestion: bool) -> Self {
        Self::beside(Vec::new(), Vec::new(), Vec::new(), plans, ingestion)
    }

    /// Creates the layout for all `plans`, with the given conditions and inputs first. `keeps_text` applies
    /// to these inputs.
    pub fn beside(
        mut conditions: Vec<Expression>,
        mut inputs: Vec<Expression>,
        mut keeps_text: Vec<bool>,
        plans: &[FeaturePlan],
        ingestion: bool,
    ) -> Self {
        for plan in plans {
            for aggregation in &plan.aggregations {
                aggregation.condition.iter().for_each(|x| {
                    position(&mut conditions, x);
                });
                aggregation.input.iter().for_each(|x| {
                    position(&mut inputs, x);
                });
            }
            if let Some(interactions) = &plan.interactions {
                position(&mut inputs, &interactions.item);
                position(&mut inputs, &interactions.weight);
            }
        }
        let event_ts = Expression::column("event_ts", Type::Timestamp);
        let time = inputs.iter().position(|input| *input == event_ts);
        let mut layout = Self {
            conditions,
            inputs,
            ingestion,
            files: None,
            keeps_text: Vec::new(),
            time,
            plans: Vec::new(),
        };
        layout.plans = plans.iter().map(|plan| layout.compile(plan)).collect();
        keeps_text.resize(layout.inputs.len(), false);
        for plan in &layout.plans {
            let says = |stream: &&Stream| stream.uses.iter().any(|u| u.op != Op::CountDistinct);
            let inputs = plan.streams.iter().filter(says).filter_map(|stream| stream.input);
            let items = plan.items.iter().map(|items| items.item);
            inputs.chain(items).for_each(|input| keeps_text[input] |= layout.is_text(input));
        }
        Self { keeps_text, ..layout }
    }

    /// The number of flag words per event.
    pub fn words(&self) -> usize {
        (self.conditions.len() + self.inputs.len()).div_ceil(64).max(1)
    }

    /// The number of bytes of the flags of an event.
    pub fn flag_bytes(&self) -> usize {
        (self.conditions.len() + self.inputs.len()).div_ceil(8)
    }

    /// The index of the bit that is set if an event has a value of input `index`.
    pub fn valid_bit(&self, index: usize) -> usize {
        self.conditions.len() + index
    }

    /// The position of the bit that is set if an event has a value of input `index`.
    pub fn valid(&self, index: usize) -> Bit {
        Bit::new(self.valid_bit(index))
    }

    /// Whether input `index` is event_ts itself.
    pub fn is_time(&self, index: usize) -> bool {
        self.time == Some(index)
    }

    /// Whether input `index` is text.
    pub fn is_text(&self, index: usize) -> bool {
        self.inputs[index].ty == Type::Text
    }

    /// For each plan, the streams to which an event with these flag words belongs.
    pub fn streams(&self, flags: &[u64]) -> Vec<Vec<u32>> {
        let of_plan = |plan: &CompiledPlan| {
            let streams = plan.streams.iter().zip(0..);
            streams.filter(|(stream, _)| stream.has(flags)).map(|(_, index)| index).collect()
        };
        self.plans.iter().map(of_plan).collect()
    }

    /// The index of an input. The layout must contain it.
    fn input(&self, expression: &Expression) -> usize {
        let place = self.inputs.iter().position(|known| known == expression);
        place.unwrap_or_else(|| unreachable!("the layout was made for the input {expression:?}"))
    }

    /// The index of a condition. The layout must contain it.
    fn condition(&self, expression: &Expression) -> usize {
        let place = self.conditions.iter().position(|known| known == expression);
        place
            .unwrap_or_else(|| unreachable!("the layout was made for the condition {expression:?}"))
    }

    fn compile(&self, plan: &FeaturePlan) -> CompiledPlan {
        let (mut windows, mut streams) = (Vec::<Window>::new(), Vec::<Stream>::new());
        let mut keys: Vec<(Option<&Expression>, Option<&Expression>)> = Vec::new();
        for (column, aggregation) in plan.aggregations.iter().enumerate() {
            let window =
                windows.iter().position(|w| *w == aggregation.window).unwrap_or_else(|| {
                    windows.push(aggregation.window);
                    windows.len() - 1
                });
            // The times of the events are available in order, so they need not be selected as inputs.
            let ordered = [Op::Min, Op::Max, Op::First, Op::Last].contains(&aggregation.op);
            let is_time = |x: &&Expression| self.is_time(self.input(x));
            let time = ordered && aggregation.input.as_ref().is_some_and(|x| is_time(&x));
            let input = aggregation.input.as_ref().filter(|_| !time);
            let key = (aggregation.condition.as_ref(), input);
            let stream = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                keys.push(key);
                let condition = key.0.map(|x| self.condition(x));
                let input = key.1.map(|x| self.input(x));
                streams.push(Stream {
                    condition: condition.map(Bit::new),
                    valid: input.map(|index| self.valid(index)),
                    input,
                    input_type: key.1.map(|x| x.ty),
                    uses: Vec::new(),
                    windows: Vec::new(),
                    needs: Needs::default(),
                });
                streams.len() - 1
            });
            let half_life = aggregation.half_life;
            let stream = &mut streams[stream];
            stream.needs.add(aggregation.op, input.map(|x| x.ty));
            stream.uses.push(Use {
                op: aggregation.op,
                window,
                half_life,
                column,
                time,
                empty: aggregation.op.empty(),
            });
            if !stream.windows.contains(&window) {
                stream.windows.push(window);
            }
        }
        let items = plan.interactions.as_ref().map(|interactions| {
            let (item, weight) = (self.input(&interactions.item), self.input(&interactions.weight));
            ItemStream {
                item,
                item_valid: self.valid(item),
                weight,
                weight_valid: self.valid(weight),
                window: interactions.window,
                half_life: interactions.half_life,
            }
        });
        CompiledPlan { plan: plan.clone(), windows, streams, items }
    }

    /// The expressions to scan in addition to the canonical columns: the conditions, followed by the inputs.
    pub fn select(&self) -> Vec<(String, Expression)> {
        let conditions =
            self.conditions.iter().enumerate().map(|(i, x)| (format!("c{i}"), x.clone()));
        let inputs = self.inputs.iter().enumerate().map(|(i, x)| (format!("i{i}"), x.clone()));
        conditions.chain(inputs).collect()
    }
}

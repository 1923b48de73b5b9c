//! The purchases that a model of lifetime value is trained on, gathered shard by shard.

use arrow_array::RecordBatch;

use crate::artifact::lifetime_value::to_date;
use crate::artifact::purchases::{self, Customer};
use crate::error::Result;
use crate::sources::SourcePlan;
use crate::spec::{LifetimeValue, LifetimeValueSpec};
use crate::sum::ExactSum;
use crate::time::{Duration, Instant};

/// The shortest holdout.
const LEAST_HOLDOUT: Duration = Duration::days(7);

/// The starts of the times that are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdouts {
    /// The start of the last holdout, which ends at the as-of and tests the model.
    pub last: Instant,
    /// The start of the holdout before it, which ends where the last one starts. It teaches the correction that is
    /// tested on the last one. `None` if the history is too short.
    pub earlier: Option<Instant>,
}

impl Holdouts {
    /// Finds the holdouts of a history that begins at `first`. A holdout is as long as the horizon, or half of
    /// the history before its end if that is shorter. Returns `None` if nothing is fitted, or if
    /// the last holdout would be shorter than 7 days.
    pub fn new(spec: &LifetimeValueSpec, as_of: Instant, first: Instant) -> Option<Self> {
        spec.method.family()?;
        let start = |end: Instant| {
            let half = Duration(end.0 - first.0).as_days() / 2.0;
            let length = Duration::days(spec.horizon.as_days().min(half).floor() as i64);
            (length >= LEAST_HOLDOUT).then(|| end.minus(length))
        };
        let last = start(as_of)?;
        Some(Self { last, earlier: start(last) })
    }
}

/// The purchases that a model of lifetime value is trained on. The buyers of each instant are sorted by the hash
/// of the key.
#[derive(Debug, Default)]
pub struct PurchaseData {
    /// Buyers at the as-of.
    pub now: Vec<Customer>,
    /// Buyers at the start of the last holdout.
    pub then: Vec<Customer>,
    /// Buyers at the start of the earlier holdout.
    pub earlier: Vec<Customer>,
    /// The revenue and the refunds to date, summed over all customers.
    pub totals: [ExactSum; 2],
}

impl PurchaseData {
    /// Adds the revenue and the refunds to date of rows computed at the as-of.
    pub(in crate::training) fn take_totals(
        &mut self,
        model: &LifetimeValue,
        rows: &RecordBatch,
        source: &SourcePlan,
    ) -> Result<()> {
        let money = to_date([&model.revenue, &model.refunds], rows, source.context.scale)?;
        for (total, money) in self.totals.iter_mut().zip(money) {
            money.into_iter().for_each(|money| total.add(money));
        }
        Ok(())
    }

    /// Adds the buyers of another shard and keeps about `most` of them.
    pub(in crate::training) fn add(&mut self, other: Self, most: usize) {
        self.totals.iter_mut().zip(&other.totals).for_each(|(own, more)| own.merge(more));
        let others = [other.now, other.then, other.earlier];
        for (own, more) in self.buyers().into_iter().zip(others) {
            own.extend(more);
            keep_least(own, most);
        }
    }

    /// Keeps `most` buyers, those with the smallest hashes of their keys.
    pub fn sample(&mut self, most: usize) {
        for buyers in self.buyers() {
            buyers.sort_unstable_by_key(|customer| customer.hash);
        }
        if let Some(first) = self.now.get(most).map(|customer| customer.hash) {
            for buyers in self.buyers() {
                buyers.retain(|customer| customer.hash < first);
            }
        }
    }

    fn buyers(&mut self) -> [&mut Vec<Customer>; 3] {
        [&mut self.now, &mut self.then, &mut self.earlier]
    }
}

/// Adds the buyers of rows computed at the instant `at`.
pub(in crate::training) fn take(
    buyers: &mut Vec<Customer>,
    model: &LifetimeValue,
    rows: &RecordBatch,
    source: &SourcePlan,
    at: Instant,
) -> Result<()> {
    let customers = purchases::read(rows, model.spec.cohort, source.context.zone, at)?;
    buyers.extend(customers.into_iter().flatten());
    keep_least(buyers, model.spec.max_customers);
    Ok(())
}

/// Keeps the `most` buyers with the smallest hashes once there are more than twice as many. The sample does
/// not depend on the order of the rows.
fn keep_least(buyers: &mut Vec<Customer>, most: usize) {
    if buyers.len() > 2 * most {
        buyers.sort_unstable_by_key(|customer| customer.hash);
        buyers.truncate(most);
    }
}

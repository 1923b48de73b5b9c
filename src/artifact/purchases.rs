//! Reads purchase histories from computed rows, in calendar days of the project's time zone.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};

use crate::error::{Error, Result};
use crate::features::read::column;
use crate::models::lifetime_value::{Buyer, Spend};
use crate::shard;
use crate::sources::profile::keys;
use crate::spec::{
    Cohort, FIRST_CHANNEL, FIRST_DAY_SPEND, FIRST_PURCHASE, LAST_PURCHASE, PURCHASE_DAYS, RECENT,
    SPEND,
};
use crate::time::{Instant, Zone};

/// What a customer purchased within some time, or is expected to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spending {
    /// The number of days with a purchase.
    pub purchases: f64,
    /// The spend, in major units.
    pub spend: f64,
}

/// The purchase history of a customer.
#[derive(Debug, Clone, PartialEq)]
pub struct Customer {
    /// The hash of the customer's key.
    pub hash: u64,
    /// The number of days with a purchase after the first one, and their times in days.
    pub buyer: Buyer,
    /// The spend of all purchases, in major units.
    pub spend: f64,
    /// The spend of the purchases on the first day, in major units.
    pub first_day_spend: f64,
    /// The purchases within the horizon before, within half of it and within a quarter of it. `None` for versions that
    /// were trained before the hurdle model.
    pub recent: Option<[Spending; RECENT.len()]>,
    /// The cohort; `None` if the spec has no cohorts.
    pub cohort: Option<Box<str>>,
}

impl Customer {
    /// The number of days with a purchase.
    pub fn purchases(&self) -> f64 {
        self.buyer.frequency + 1.0
    }

    /// The mean spend on a day with a purchase, without the first day. `None` if there is no other day,
    /// or if the spend on the other days is not above 0.
    pub fn repeat_spend(&self) -> Option<Spend> {
        let frequency = self.buyer.frequency;
        let mean = (self.spend - self.first_day_spend) / frequency;
        (frequency > 0.0 && mean > 0.0).then_some(Spend { frequency, mean })
    }
}

/// Reads the purchases of each row before `at`; `None` for a customer who has never bought.
pub fn read(
    rows: &RecordBatch,
    cohort: Option<Cohort>,
    zone: Zone,
    at: Instant,
) -> Result<Vec<Option<Customer>>> {
    let instants = |name: &str| {
        let array = rows.column_by_name(name);
        array.and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>()).ok_or_else(
            || Error::engine("reading purchases")(format!("{name} is no column of instants")),
        )
    };
    let (first, last) = (instants(FIRST_PURCHASE)?, instants(LAST_PURCHASE)?);
    let days = column(rows, PURCHASE_DAYS)?;
    let (spend, first_day_spend) = (column(rows, SPEND)?, column(rows, FIRST_DAY_SPEND)?);
    let has_recent = rows.column_by_name(RECENT[0].1).is_some();
    let recent = RECENT.into_iter().filter(|_| has_recent);
    let recent = recent.map(|(_, days, spend)| Ok([column(rows, days)?, column(rows, spend)?]));
    let recent: Vec<[Vec<f64>; 2]> = recent.collect::<Result<_>>()?;
    let channel = rows.column_by_name(FIRST_CHANNEL).and_then(|c| c.as_string_opt::<i32>());
    let today = zone.day(at.0 - 1);
    let customer = |(row, key): (usize, Option<&str>)| {
        if first.is_null(row) {
            return None;
        }
        let begin = zone.day(first.value(row));
        let buyer = Buyer {
            frequency: days[row] - 1.0,
            recency: f64::from(zone.day(last.value(row)) - begin),
            age: f64::from(today - begin),
        };
        let cohort = match cohort {
            None => None,
            Some(Cohort::FirstMonth) => Some(zone.month(first.value(row)).into()),
            Some(Cohort::FirstChannel) => {
                channel.filter(|c| c.is_valid(row)).map(|c| c.value(row).into())
            }
        };
        let hash = shard::hash(key.unwrap_or_default());
        let (spend, first_day_spend) = (spend[row], first_day_spend[row]);
        let recent: Vec<Spending> = recent
            .iter()
            .map(|[days, spend]| Spending { purchases: days[row], spend: spend[row] })
            .collect();
        let recent = recent.try_into().ok();
        Some(Customer { hash, buyer, spend, first_day_spend, recent, cohort })
    };
    Ok(keys(rows)?.iter().enumerate().map(customer).collect())
}

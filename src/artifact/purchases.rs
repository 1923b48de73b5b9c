//! Computed rows to purchase histories, in calendar days of the project's zone.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};

use crate::error::{Error, Result};
use crate::features::read::column;
use crate::models::lifetime_value::{Buyer, Spend};
use crate::shard;
use crate::sources::profile::keys;
use crate::spec::{
    Cohort, FIRST_CHANNEL, FIRST_DAY_SPEND, FIRST_PURCHASE, LAST_PURCHASE, PURCHASE_DAYS, SPEND,
};
use crate::time::{Instant, Zone};

/// What a customer has bought so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Customer {
    /// Of the key.
    pub hash: u64,
    /// Days with a purchase after the first, and when; in days.
    pub buyer: Buyer,
    /// What all purchases brought, in major units.
    pub spend: f64,
    /// What those of the first day brought.
    pub first_day_spend: f64,
    /// The cohort, where the spec has some.
    pub cohort: Option<Box<str>>,
}

impl Customer {
    /// Days with a purchase.
    pub fn purchases(&self) -> f64 {
        self.buyer.frequency + 1.0
    }

    /// What a day with a purchase brought, the first left out; None without another, or where they
    /// brought nothing.
    pub fn repeat_spend(&self) -> Option<Spend> {
        let frequency = self.buyer.frequency;
        let mean = (self.spend - self.first_day_spend) / frequency;
        (frequency > 0.0 && mean > 0.0).then_some(Spend { frequency, mean })
    }
}

/// The purchases of each row before `at`; None for who never bought.
pub fn read(
    rows: &RecordBatch,
    cohort: Option<Cohort>,
    zone: Zone,
    at: Instant,
) -> Result<Vec<Option<Customer>>> {
    let instants = |name: &str| {
        let array = rows.column_by_name(name);
        array.and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>()).ok_or_else(
            || Error::Engine {
                context: "reading purchases",
                message: format!("{name} is no column of instants"),
            },
        )
    };
    let (first, last) = (instants(FIRST_PURCHASE)?, instants(LAST_PURCHASE)?);
    let days = column(rows, PURCHASE_DAYS)?;
    let (spend, first_day_spend) = (column(rows, SPEND)?, column(rows, FIRST_DAY_SPEND)?);
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
        Some(Customer { hash, buyer, spend, first_day_spend, cohort })
    };
    Ok(keys(rows)?.iter().enumerate().map(customer).collect())
}

//! The artifact of RFM scores, and the recency, frequency and monetary value of computed rows, in
//! calendar days of the project's time zone.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::features::catalog::Aggregation;
use crate::features::read::column;
use crate::models::rfm::Rfm;
use crate::spec::{RFM_COLUMNS, RfmSpec};
use crate::time::{Instant, Zone};

/// Trained RFM scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RfmArtifact {
    /// The spec that the scores were trained with.
    pub spec: RfmSpec,
    /// The aggregations for recency, frequency, spend and refunds.
    pub aggregations: Vec<Aggregation>,
    /// The cut points over buyers.
    pub rfm: Rfm,
    /// The number of buyers.
    pub buyers: usize,
}

/// Reads the days since the last purchase, the days with a purchase and the spend net of refunds of each
/// row before `at`; `None` for a customer who has never bought.
pub fn read(rows: &RecordBatch, zone: Zone, at: Instant) -> Result<Vec<Option<[f64; 3]>>> {
    let [last, days, spend, refunds] = RFM_COLUMNS;
    let last = rows.column_by_name(last);
    let last = last.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let last = last.ok_or_else(|| {
        Error::engine("reading purchases")("there are no instants of the last ones; train again")
    })?;
    let (days, spend, refunds) =
        (column(rows, days)?, column(rows, spend)?, column(rows, refunds)?);
    let today = zone.day(at.0 - 1);
    let one = |row: usize| {
        let since = f64::from(today - zone.day(last.value(row)));
        last.is_valid(row).then(|| [since, days[row], spend[row] - refunds[row]])
    };
    Ok((0..rows.num_rows()).map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Float64Array, Int64Array, TimestampMicrosecondArray};
    use std::sync::Arc;

    /// Customers who bought on the same calendar day have the same recency, whatever the hour.
    #[test]
    fn recency_counts_calendar_days() {
        let at = |text: &str| text.parse::<Instant>().unwrap();
        let late = ["2024-06-28T22:30:00Z", "2024-06-29T01:00:00Z", "2024-06-29T21:59:00Z"];
        let last = late.map(|text| Some(at(text).0)).into_iter().chain([None]);
        let last: TimestampMicrosecondArray = last.collect();
        let columns: [(&str, ArrayRef); 4] = [
            (RFM_COLUMNS[0], Arc::new(last.with_timezone("UTC"))),
            (RFM_COLUMNS[1], Arc::new(Int64Array::from(vec![1; 4]))),
            (RFM_COLUMNS[2], Arc::new(Float64Array::from(vec![10.0; 4]))),
            (RFM_COLUMNS[3], Arc::new(Float64Array::from(vec![2.5; 4]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let recency = |zone: &str| -> Vec<Option<f64>> {
            let zone = Zone::try_from(zone.to_owned()).unwrap();
            let rows = read(&rows, zone, at("2024-07-01T00:00:00Z")).unwrap();
            rows.iter().map(|row| row.map(|[since, ..]| since)).collect()
        };
        assert_eq!(recency("UTC"), [Some(2.0), Some(1.0), Some(1.0), None]);
        // Berlin is two hours ahead: all three purchases are on 29 June, and the as-of is on 1 July.
        assert_eq!(recency("Europe/Berlin"), [Some(2.0), Some(2.0), Some(2.0), None]);
        let all = read(&rows, Zone::default(), at("2024-07-01T00:00:00Z")).unwrap();
        assert_eq!(all[0], Some([2.0, 1.0, 7.5]));
    }
}

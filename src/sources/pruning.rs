//! Row groups that need not be read: the least and greatest values of their columns say that no row is wanted.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;

use super::SourcePlan;
use super::profile::normalize;
use crate::expression::{Node, Type};
use crate::store::conform::reshape;
use crate::time::DAY;

/// Statistics of a column, in the type of expressions: of each row group the least and the greatest value, and whether
/// it has nulls.
struct Bounds {
    least: ArrayRef,
    greatest: ArrayRef,
    nulls: Vec<bool>,
}

/// The row groups of a file that may have rows which are wanted: of events before `before`, in microseconds since 1970,
/// and of the customers of the plan if it is restricted to some. Rows without a time are always wanted, because they are
/// counted.
pub(super) fn row_groups(
    source: &SourcePlan,
    metadata: &ArrowReaderMetadata,
    before: i64,
) -> Vec<usize> {
    let count = metadata.metadata().num_row_groups();
    let times = (before < i64::MAX).then(|| bounds(source, metadata, "event_ts", Type::Timestamp));
    let times = times.flatten();
    let only = source.only.as_ref();
    let keys = only.and_then(|_| bounds(source, metadata, "customer360_id", Type::Text));
    let is_late = |group: usize| {
        times.as_ref().is_some_and(|times| {
            let least = times.least.as_primitive::<TimestampMicrosecondType>();
            // The hours of a change of clocks are not in order.
            let known = !times.nulls[group] && least.is_valid(group);
            known && least.value(group).saturating_sub(DAY) >= before
        })
    };
    let is_of_others = |group: usize| match (only, &keys) {
        (Some(only), Some(keys)) => {
            let (least, greatest) = (keys.least.as_string::<i32>(), keys.greatest.as_string());
            let greatest: &arrow_array::StringArray = greatest;
            let known = least.is_valid(group) && greatest.is_valid(group);
            let is_within =
                |key: &String| (least.value(group)..=greatest.value(group)).contains(&key.as_str());
            known && !only.iter().any(is_within)
        }
        _ => false,
    };
    (0..count).filter(|group| !is_late(*group) && !is_of_others(*group)).collect()
}

/// The statistics of a canonical column that is a column of the files as it is. `None` if it is computed, or if there
/// are no statistics.
fn bounds(
    source: &SourcePlan,
    metadata: &ArrowReaderMetadata,
    canonical: &str,
    ty: Type,
) -> Option<Bounds> {
    let expression = source.mapping.get(canonical).filter(|expression| expression.ty == ty)?;
    let Node::Column(name) = &expression.node else { return None };
    let raw = source.table.get(name).filter(|raw| !raw.hive)?;
    let field = source.table.schema.field_with_name(name).ok()?;
    let own = source.table.name_in_file(name, metadata.schema().fields())?;
    let converter =
        StatisticsConverter::try_new(own, metadata.schema(), metadata.parquet_schema()).ok()?;
    let groups = metadata.metadata().row_groups();
    let in_type = |array: ArrayRef| {
        let array = reshape(&array, field.data_type(), field.data_type()).ok()?;
        normalize(&array, raw.ty, &source.context).ok()
    };
    let nulls = converter.row_group_null_counts(groups).ok()?;
    Some(Bounds {
        least: in_type(converter.row_group_mins(groups).ok()?)?,
        greatest: in_type(converter.row_group_maxes(groups).ok()?)?,
        nulls: nulls.iter().map(|count| count != Some(0)).collect(),
    })
}

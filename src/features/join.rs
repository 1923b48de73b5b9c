//! Point-in-time joins: add to each row of the user the features that were valid at its instant.
//!
//! The result has the same number of rows in the same order. In a join with stored snapshots, a row gets the
//! latest snapshot at or before its instant, unless the snapshot is older than the time to live of the view.
//! An exact join computes the features from the events before the instant itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{Field, Schema};
use arrow_select::interleave::interleave;
use rayon::prelude::*;

use super::FeatureProblem;
use super::plan::{AsOf, OwnAsOfs};
use crate::error::{Error, Result};
use crate::sources::entity_rows::EntityRows;
use crate::sources::profile::keys;
use crate::time::{Duration, Instant};

/// For each row, the location of its features as a batch and a row of it. None stands for nulls.
pub type Places = Vec<Option<(usize, usize)>>;

/// The rules that decide which snapshots may be used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Validity {
    /// The time to live: the maximum age of a snapshot. None allows any age.
    pub ttl: Option<Duration>,
    /// Whether a snapshot may be used only if its known-at is not after the instant of the row.
    pub known: bool,
}

/// Finds for each row the latest snapshot at or before its instant. Among snapshots of the same instant it is
/// the one with the latest known-at.
///
/// `read` gives the [`STAMPS`] of each of the `files`; a place is the index of a file and of a row in it. Of
/// what is read only the stamps of the entities' customers stay in memory.
///
/// # Errors
/// What `read` fails with, and a contract violation where its rows are not stamps.
pub fn latest<File: Sync>(
    entities: &EntityRows,
    files: &[File],
    read: impl Fn(&File) -> Result<Vec<RecordBatch>> + Sync,
    validity: Validity,
) -> Result<Places> {
    let mut codes: HashMap<&str, u32> = HashMap::new();
    let of_row: Vec<u32> = entities
        .keys
        .iter()
        .flatten()
        .map(|key| {
            let next = codes.len() as u32;
            *codes.entry(key).or_insert(next)
        })
        .collect();
    let of_file = |(file, path): (usize, &File)| {
        let (mut stamps, mut before) = (Vec::new(), 0);
        for rows in read(path)? {
            let (at, created) = (instants(&rows, "event_timestamp")?, instants(&rows, CREATED)?);
            let own = keys(&rows)?.iter().enumerate();
            let own = own.filter_map(|(row, key)| Some((row, *codes.get(key?)?)));
            stamps.extend(own.map(|(row, customer)| Stamp {
                customer,
                at: at[row],
                created: created[row],
                place: (file as u32, (before + row) as u32),
            }));
            before += rows.num_rows();
        }
        Ok(stamps)
    };
    let found: Vec<Vec<Stamp>> =
        files.par_iter().enumerate().map(of_file).collect::<Result<_>>()?;
    let mut found: Vec<Stamp> = found.into_iter().flatten().collect();
    found.par_sort_unstable();
    let mut starts = vec![0; codes.len() + 1];
    found.iter().for_each(|snapshot| starts[snapshot.customer as usize + 1] += 1);
    (0..codes.len()).for_each(|code| starts[code + 1] += starts[code]);
    let place = |(code, time): (&u32, &Instant)| {
        let own = &found[starts[*code as usize]..starts[*code as usize + 1]];
        let before = &own[..own.partition_point(|snapshot| snapshot.at <= time.0)];
        let oldest = validity.ttl.map_or(i64::MIN, |ttl| time.minus(ttl).0);
        let fresh = before.iter().rev().take_while(|snapshot| snapshot.at >= oldest);
        let mut known = fresh.filter(|snapshot| !validity.known || snapshot.created <= time.0);
        known.next().map(|snapshot| (snapshot.place.0 as usize, snapshot.place.1 as usize))
    };
    Ok(of_row.par_iter().zip(&entities.times).map(place).collect())
}

/// The columns of a snapshot before its features, which [`latest`] reads: the key, the as-of, and the
/// known-at.
pub const STAMPS: [&str; 3] = ["customer360_id", "event_timestamp", CREATED];

const CREATED: &str = "created_timestamp";

/// The files that any place names, each with the rows that are named, ascending; the places are then among
/// these files and rows alone.
pub fn compact(places: &mut Places) -> Vec<(usize, Vec<u32>)> {
    let mut wanted: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (batch, row) in places.iter().flatten() {
        wanted.entry(*batch).or_default().push(*row as u32);
    }
    for rows in wanted.values_mut() {
        rows.sort_unstable();
        rows.dedup();
    }
    let wanted: Vec<(usize, Vec<u32>)> = wanted.into_iter().collect();
    for (file, row) in places.iter_mut().flatten() {
        let kept = wanted.binary_search_by_key(file, |(file, _)| *file);
        *file = kept.unwrap_or_else(|_| unreachable!("every file was kept"));
        let kept = wanted[*file].1.binary_search(&(*row as u32));
        *row = kept.unwrap_or_else(|_| unreachable!("every row was kept"));
    }
    wanted
}

/// A row of a snapshot. Rows are ordered by customer, as-of and known-at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    customer: u32,
    at: i64,
    created: i64,
    place: (u32, u32),
}

fn instants(rows: &RecordBatch, name: &str) -> Result<Vec<i64>> {
    let column = rows.column_by_name(name);
    let column = column.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let column = column.ok_or_else(|| FeatureProblem::NotASnapshot { column: name.to_owned() })?;
    Ok(column.values().to_vec())
}

/// The as-ofs of each customer for an exact join.
///
/// The known-at is `known_at` if it is given, and otherwise the instant of the row.
pub fn own_as_ofs(entities: &EntityRows, known_at: Option<Instant>) -> OwnAsOfs {
    let mut own: OwnAsOfs = HashMap::new();
    for (key, at) in entities.keys.iter().flatten().zip(&entities.times) {
        let as_of = AsOf { at: *at, known_at: known_at.unwrap_or(*at) };
        match own.get_mut(key) {
            Some(list) => list.push(as_of),
            None => _ = own.insert(key.to_owned(), vec![as_of]),
        }
    }
    for list in own.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    own
}

/// Finds the rows of a plan that was computed at the as-ofs `own`. The rows of each customer are adjacent and
/// in the order of the as-ofs.
pub fn exact(entities: &EntityRows, own: &OwnAsOfs, parts: &[RecordBatch]) -> Result<Places> {
    let mut starts: HashMap<&str, (usize, usize)> = HashMap::new();
    for (batch, rows) in parts.iter().enumerate() {
        for (row, key) in keys(rows)?.iter().flatten().enumerate() {
            starts.entry(key).or_insert((batch, row));
        }
    }
    let place = |(key, at): (Option<&str>, &Instant)| {
        let key = key?;
        let (batch, first) = starts.get(key)?;
        let rank = own.get(key)?.binary_search_by_key(at, |as_of| as_of.at).ok()?;
        Some((*batch, first + rank))
    };
    Ok(entities.keys.iter().zip(&entities.times).map(place).collect())
}

/// Collects the given columns of `batches` in the order of `places`.
///
/// # Errors
/// A contract violation if a batch does not have a column or has it with another type.
pub fn gather(
    batches: &[RecordBatch],
    columns: &[(&str, Field)],
    places: &Places,
) -> Result<Vec<ArrayRef>> {
    // The first array has a single null, which is used for rows without features.
    let indices: Vec<(usize, usize)> =
        places.iter().map(|place| place.map_or((0, 0), |(batch, row)| (batch + 1, row))).collect();
    let gathered = columns.par_iter().map(|(name, field)| {
        let mut arrays = vec![new_null_array(field.data_type(), 1)];
        for rows in batches {
            let array = rows.column_by_name(name).ok_or_else(|| changed(name))?;
            if array.data_type() != field.data_type() {
                return Err(changed(name));
            }
            arrays.push(array.clone());
        }
        let arrays: Vec<&dyn Array> = arrays.iter().map(|array| array.as_ref()).collect();
        interleave(&arrays, &indices).map_err(Error::engine("joining features"))
    });
    gathered.collect()
}

fn changed(name: &str) -> Error {
    FeatureProblem::ChangedSnapshots { column: name.to_owned() }.into()
}

/// Appends columns to the rows of the user.
///
/// # Errors
/// A configuration error if the rows already have a column of the same name.
pub fn joined(
    entities: &EntityRows,
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
) -> Result<RecordBatch> {
    let mut all = entities.rows.schema().fields().to_vec();
    if let Some(taken) = fields.iter().find(|f| all.iter().any(|own| own.name() == f.name())) {
        return Err(FeatureProblem::EntityColumn { column: taken.name().clone() }.into());
    }
    all.extend(fields.into_iter().map(Arc::new));
    let columns = entities.rows.columns().iter().cloned().chain(arrays).collect();
    let schema = Schema::new_with_metadata(all, entities.rows.schema().metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns).map_err(Error::engine("joining features"))
}

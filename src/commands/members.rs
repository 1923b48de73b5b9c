//! The command `segments export`: the members of one segment as a file for the program that is to reach them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{Field, Schema, SchemaRef};
use serde_json::json;

use super::CommandProblem;
use super::published::ScoredAsOf;
use crate::config::Project;
use crate::engine;
use crate::error::{Error, Result};
use crate::report::{Output, Progress, thousands};
use crate::segments::Segments;
use crate::shard::Shard;
use crate::sources::consent::Consent;
use crate::sources::profile::keys;
use crate::store::parquet;
use crate::store::staged::Staged;
use crate::time::Instant;

/// The columns of a membership.
const MEMBERSHIP: [&str; 5] =
    ["customer360_id", "segment", "is_primary", "since", "previous_primary"];

/// The columns of the profile that help to choose among members. There are no names or addresses: the program that
/// reaches the customers has them, under the same key.
const PROFILE: [&str; 6] = [
    "customer360_id",
    "preferred_channel",
    "lifetime_value",
    "churn_risk_score",
    "propensity_to_buy_score",
    "engagement_score",
];

/// What `segments export` is asked for.
pub struct Members<'a> {
    /// The segment.
    pub segment: &'a str,
    /// The file, whose extension names the format: `csv` or `parquet`.
    pub out: &'a Path,
    /// The scope that a member must have consented to.
    pub consent: Option<&'a str>,
}

/// Writes the members of a segment at a scored as-of. Members who have opted out are left out, and so are those who
/// have not consented to the scope, if one is named.
///
/// # Errors
/// Returns a configuration error for an unknown segment or file format, and those of [`ScoredAsOf::open`].
pub fn export(
    project: &Project,
    asked: &Members,
    at: Option<Instant>,
    progress: &mut Progress,
) -> Result<Output> {
    let format = Format::of(asked.out)?;
    let scored = ScoredAsOf::open(project, at)?;
    is_known(&project.segments, asked.segment)?;
    progress.stage("writing");
    let staged = Staged::beside(asked.out)?;
    let mut file: Option<Table> = None;
    let (mut written, mut kept_back, mut unknown) = (0, 0, 0);
    let of_shard = |shard| of_shard(&scored, asked, shard);
    engine::run(scored.shards(), of_shard, |_, members| {
        let Some((rows, others)) = members else { return Ok(()) };
        written += rows.num_rows() as u64;
        kept_back += others.left_out;
        unknown += others.unknown;
        match &mut file {
            Some(file) => file.write(&rows),
            None => file.insert(Table::create(format, staged.path(), &rows.schema())?).write(&rows),
        }
    })?;
    match file {
        Some(file) => file.finish()?,
        None => {
            return Err(CommandProblem::NoCustomers { at: scored.as_of, first_event: None }.into());
        }
    }
    staged.publish()?;
    progress.finish();
    let Members { segment, out, consent } = asked;
    let reason = match consent {
        Some(scope) => format!("opted out or did not consent to {scope}"),
        None => "opted out".to_owned(),
    };
    let mut text = format!(
        "{} members of {segment} as of {} in {}; {} others are left out because they {reason}\n",
        thousands(written),
        scored.as_of,
        out.display(),
        thousands(kept_back),
    );
    if unknown > 0 {
        let unknown = thousands(unknown);
        text += &format!(
            "caution: of {unknown} members it is not known whether they may be contacted; --consent SCOPE leaves them out\n"
        );
    }
    let json = json!({
        "segment": segment,
        "as_of": scored.as_of,
        "file": out,
        "members": written,
        "left_out": kept_back,
        "consent_unknown": unknown,
    });
    Ok(Output { text, json })
}

fn is_known(segments: &Segments, name: &str) -> Result<()> {
    let names: Vec<&str> = segments.names().collect();
    match names.contains(&name) {
        true => Ok(()),
        false => Err(Error::unknown("segments export", "segment", name, names)),
    }
}

/// The members who are not simply written.
#[derive(Debug, Clone, Copy, Default)]
struct Others {
    /// The number who are left out.
    left_out: u64,
    /// The number who are written although their consent is not known.
    unknown: u64,
}

/// The members in a shard who are written, and how many others there are.
fn of_shard(
    scored: &ScoredAsOf<'_>,
    asked: &Members,
    shard: Shard,
) -> Result<Option<(RecordBatch, Others)>> {
    let columns = [&PROFILE[..], &Consent::COLUMNS].concat();
    let Some(profile) = scored.table("profile", &columns, shard)? else { return Ok(None) };
    let Some(memberships) = scored.table("segments", &MEMBERSHIP, shard)? else {
        return Ok(None);
    };
    let (customers, consent) = (keys(&profile)?, Consent::of(&profile));
    let (members, names) = (keys(&memberships)?, &memberships["segment"]);
    let names = names.as_string::<i32>();
    let (mut of_profile, mut of_segment, mut others) = (Vec::new(), Vec::new(), Others::default());
    // Both tables are in the order of the keys.
    let mut row = 0;
    for place in (0..names.len()).filter(|place| names.value(*place) == asked.segment) {
        while row < customers.len() && customers.value(row) < members.value(place) {
            row += 1;
        }
        if row == customers.len() || customers.value(row) != members.value(place) {
            continue;
        }
        let scope = asked.consent.is_none_or(|scope| consent.allows(row, scope));
        if consent.opted_out(row) || !scope {
            others.left_out += 1;
        } else {
            others.unknown += u64::from(asked.consent.is_none() && !consent.opted_in(row));
            of_profile.push(row as u32);
            of_segment.push(place as u32);
        }
    }
    let mut fields: Vec<Field> = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (rows, names, batch) in
        [(of_segment, &MEMBERSHIP[..], &memberships), (of_profile, &PROFILE[1..], &profile)]
    {
        let rows = parquet::take(batch, &UInt32Array::from(rows))?;
        for name in names {
            let Some((_, field)) = batch.schema_ref().column_with_name(name) else { continue };
            fields.push(field.clone());
            arrays.extend(rows.column_by_name(name).cloned());
        }
    }
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
    Ok(Some((rows.map_err(Error::engine("collecting the members"))?, others)))
}

/// The format of a file of members.
#[derive(Debug, Clone, Copy)]
enum Format {
    Csv,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Ok(Self::Csv),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(Error::setting(
                "segments export",
                "--out",
                path.display(),
                "a file that ends with .csv or .parquet",
                "--out members.csv",
            )),
        }
    }
}

/// A file that is being written.
enum Table {
    Csv(arrow_csv::Writer<File>),
    Parquet(parquet::Writer),
}

impl Table {
    fn create(format: Format, path: &Path, schema: &SchemaRef) -> Result<Self> {
        Ok(match format {
            Format::Csv => {
                let file = File::create(path).map_err(Error::io("write", path))?;
                Self::Csv(arrow_csv::Writer::new(file))
            }
            Format::Parquet => Self::Parquet(parquet::Writer::create(path, schema)?),
        })
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match self {
            Self::Csv(file) => file.write(rows).map_err(Error::engine("writing CSV")),
            Self::Parquet(file) => file.write(rows),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Csv(_) => Ok(()),
            Self::Parquet(file) => file.finish(),
        }
    }
}

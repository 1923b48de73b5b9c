//! Sources: the Parquet files of the profile and of the events, mapped to canonical columns.
//!
//! The specs name the files and the mapping expressions. A [`SourcePlan`] is the checked result: the files,
//! the raw columns with their types, and one expression over the raw columns per canonical column.

pub mod attributes;
pub mod consent;
pub mod contract;
pub mod delta;
pub mod entity_rows;
pub mod files;
pub mod fingerprint;
pub mod footers;
pub mod forgotten;
pub mod items;
pub mod look;
mod problem;
pub mod profile;
mod pruning;
pub mod scan;
pub mod widen;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::check::check;
use crate::expression::{Columns, Expression, Type};
use crate::money::Scale;
use crate::store::bucket::resolve;
use crate::time::Zone;
use files::{RawColumn, RawTable};
use footers::Footers;

use self::forgotten::Forgotten;
pub use self::problem::SourceProblem;

/// How `ingested_at` decides which events may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ingestion {
    /// An event counts only if it was ingested before the known-at.
    #[default]
    Respect,
    /// The column is ignored. This is meant for warehouses that were reloaded, so that the column does not
    /// hold the original times of ingestion.
    Ignore,
}

/// What to do with events of customers that are not in the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Orphans {
    /// Leave the events out and count them.
    #[default]
    Skip,
    /// Create a profile row for the customer.
    Create,
    /// Refuse to run.
    Fail,
}

/// A table that is joined to a source by key, so that a mapping may use its columns as `name.column`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LookupSpec {
    /// The path of a Parquet file, a folder or a glob, relative to the project, or a URL of these in a bucket (`s3://`,
    /// `gs://`, `az://`, `abfss://`).
    pub path: String,
    /// The key column of the lookup. Its values must be unique.
    pub key: String,
    /// The column of the source that holds the key.
    pub on: String,
}

/// The `[sources.profile]` table.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileSpec {
    /// The path of a Parquet file, a folder, a glob or a Delta table, relative to the project, or a URL of these in a
    /// bucket (`s3://`, `gs://`, `az://`, `abfss://`).
    pub path: String,
    /// The version of a Delta table that is read; without it, the latest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The mapping: for each canonical or additional column an expression over the raw columns.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
}

/// The `[sources.events]` table.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsSpec {
    /// The path of a Parquet file, a folder, a glob or a Delta table, relative to the project, or a URL of these in a
    /// bucket (`s3://`, `gs://`, `az://`, `abfss://`).
    pub path: String,
    /// The version of a Delta table that is read; without it, the latest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The mapping: for each canonical or additional column an expression over the raw and lookup columns.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// The tables that are joined by key.
    #[serde(default)]
    pub lookups: BTreeMap<String, LookupSpec>,
    /// Whether `ingested_at` is respected.
    #[serde(default)]
    pub ingestion: Ingestion,
    /// What to do with events of unknown customers. Without a profile, it is `create`.
    #[serde(default)]
    pub orphans: Orphans,
    /// The event types of the project in addition to the standard ones.
    #[serde(default)]
    pub event_types: Vec<String>,
    /// The maximum share of unusable rows, 0 to 1. A run refuses to continue if the share is higher.
    ///
    /// A row is unusable if its key, identifier, time or type is null or blank, if its time is before 1900 or after
    /// 2199, if its currency is not that of the project, or if a number is not finite or has too many digits.
    /// Unusable rows are left out and counted.
    #[serde(default)]
    pub max_rejected_share: f64,
}

/// The settings of the project that every source needs.
#[derive(Debug, Clone)]
pub struct SourceContext {
    /// The folder that relative paths are resolved against.
    pub root: PathBuf,
    /// The time zone of timestamps that have none.
    pub zone: Zone,
    /// The number of decimal places of money.
    pub scale: Scale,
    /// The only currency that amounts may have.
    pub currency: String,
    /// The footers of event files that the store knows.
    pub footers: Arc<Footers>,
    /// The customers whose rows are not read.
    pub forgotten: Arc<Forgotten>,
}

/// A checked lookup table.
#[derive(Debug, Clone)]
pub struct LookupPlan {
    /// The name of the lookup, which is the prefix of its columns.
    pub name: String,
    /// The files and raw columns of the lookup.
    pub table: RawTable,
    /// The key column of the lookup.
    pub key: String,
    /// The column of the source that holds the key.
    pub on: String,
}

/// A checked event source: files, raw columns, and one expression per canonical or additional column.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// The files and raw columns of the events.
    pub table: RawTable,
    /// The tables that are joined by key.
    pub lookups: Vec<LookupPlan>,
    /// Every column that can be used, as an expression over raw and lookup columns.
    pub mapping: BTreeMap<String, Expression>,
    /// Whether `ingested_at` is respected.
    pub ingestion: Ingestion,
    /// What to do with events of unknown customers.
    pub orphans: Orphans,
    /// The standard event types and those of the project.
    pub event_types: Vec<String>,
    /// The maximum share of unusable rows, 0 to 1.
    pub max_rejected_share: f64,
    /// The key of the only customer whose events are read, or None for all customers.
    pub only: Option<BTreeSet<String>>,
    /// The settings of the project.
    pub context: SourceContext,
}

/// The canonical event columns: name, type, and whether the column is required.
///
/// The type None stands for text or an integer, depending on the source.
const EVENT_COLUMNS: [(&str, Option<Type>, bool); 13] = [
    ("event_id", Some(Type::Text), true),
    ("customer360_id", Some(Type::Text), true),
    ("event_type", Some(Type::Text), true),
    ("event_ts", Some(Type::Timestamp), true),
    ("ingested_at", Some(Type::Timestamp), false),
    ("channel", Some(Type::Text), false),
    ("session_id", None, false),
    ("order_id", None, false),
    ("product_id", None, false),
    ("category", Some(Type::Text), false),
    ("quantity", Some(Type::Double), false),
    ("amount", Some(Type::Money), false),
    ("currency", Some(Type::Text), false),
];

/// When an event can have happened, in microseconds since 1970: from 1900 to 2199. What lies outside has another unit or
/// stands for an unknown time.
pub const POSSIBLE: std::ops::Range<i64> = -2_208_988_800_000_000..7_258_118_400_000_000;

/// Whether a text has nothing to read, so that it names nothing.
pub fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

impl SourcePlan {
    /// The same source, restricted to the events of some customers.
    pub fn of_customers(&self, keys: BTreeSet<String>) -> Self {
        Self { only: Some(keys), ..self.clone() }
    }

    /// Reads the footers of an event source and checks every mapping.
    ///
    /// # Errors
    /// A configuration error for a wrong setting or expression. A contract violation for a canonical column
    /// that is missing or has the wrong type, and for a lookup with repeated keys. The errors of
    /// [`RawTable::open`].
    pub fn events(spec: &EventsSpec, context: &SourceContext) -> Result<Self> {
        let place = "c360.toml [sources.events]";
        let table = RawTable::open(
            &resolve(&context.root, &spec.path),
            spec.version,
            place,
            &context.footers,
        )?;
        let mut raw = table.columns(context.scale);
        let mut lookups = Vec::new();
        for (name, lookup) in &spec.lookups {
            let place = format!("c360.toml [sources.events.lookups.{name}]");
            lookups.push(LookupPlan::open(name, lookup, &table, &mut raw, context, &place)?);
        }
        let mapping = event_mapping(&spec.columns, &table, &raw, place)?;
        if !(0.0..=1.0).contains(&spec.max_rejected_share) {
            let (setting, share) = ("max_rejected_share", spec.max_rejected_share);
            let required = "a share between 0 and 1";
            return Err(Error::setting(
                place,
                setting,
                share,
                required,
                "max_rejected_share = 0.01",
            ));
        }
        let standard = crate::schema::EVENT_TYPES.iter().map(|name| (*name).to_owned());
        Ok(Self {
            table,
            lookups,
            mapping,
            ingestion: spec.ingestion,
            orphans: spec.orphans,
            event_types: standard.chain(spec.event_types.iter().cloned()).collect(),
            max_rejected_share: spec.max_rejected_share,
            only: None,
            context: context.clone(),
        })
    }

    /// The columns that features and labels may use.
    pub fn columns(&self) -> Columns {
        let types = self.mapping.iter().map(|(name, x)| (name.clone(), x.ty));
        Columns::new(self.context.scale, types)
    }

    /// Rewrites `expression` over canonical columns as an expression over raw and lookup columns.
    pub fn raw(&self, expression: &Expression) -> Expression {
        expression.clone().substitute(&|name| self.mapping.get(name).cloned())
    }

    /// Whether the source has the column `ingested_at` and the column is respected.
    pub fn has_ingestion(&self) -> bool {
        self.ingestion == Ingestion::Respect && self.mapping.contains_key("ingested_at")
    }
}

impl LookupPlan {
    fn open(
        name: &str,
        spec: &LookupSpec,
        source: &RawTable,
        raw: &mut Columns,
        context: &SourceContext,
        place: &str,
    ) -> Result<Self> {
        let table =
            RawTable::open(&resolve(&context.root, &spec.path), None, place, &Footers::default())?;
        let columns = table.columns(context.scale);
        let key = columns.get(&spec.key).ok_or_else(|| {
            Error::unknown(format!("{place} key"), "column", &spec.key, columns.names())
        })?;
        let source_columns = source.columns(context.scale);
        let on = source_columns.get(&spec.on).ok_or_else(|| {
            Error::unknown(format!("{place} on"), "column", &spec.on, source_columns.names())
        })?;
        if key != on {
            let problem = SourceProblem::LookupTypes {
                place: place.to_owned(),
                key: spec.key.clone(),
                key_type: key.name(),
                on: spec.on.clone(),
                on_type: on.name(),
            };
            return Err(problem.into());
        }
        unique_keys(&table, &spec.key, place)?;
        for (column, ty) in columns.iter() {
            raw.insert(format!("{name}.{column}"), ty);
        }
        Ok(Self { name: name.to_owned(), table, key: spec.key.clone(), on: spec.on.clone() })
    }
}

/// Refuses a lookup that has two rows with the same key, because a join with it would duplicate events.
fn unique_keys(table: &RawTable, key: &str, place: &str) -> Result<()> {
    use arrow_array::cast::AsArray;
    let mut seen = std::collections::HashSet::new();
    for file in &table.files {
        for batch in table.batches(file, Some(&[key]), None)? {
            let batch = batch?;
            let Some(column) = batch.column_by_name(key) else { continue };
            let texts = arrow_cast::cast(column, &arrow_schema::DataType::Utf8)
                .map_err(Error::engine("reading a lookup's keys"))?;
            for text in texts.as_string::<i32>().iter().flatten() {
                if !seen.insert(text.to_owned()) {
                    let problem = SourceProblem::RepeatedKey {
                        file: file.clone(),
                        column: key.to_owned(),
                        key: text.to_owned(),
                        required: format!("{place} joins by key, which must be unique"),
                    };
                    return Err(problem.into());
                }
            }
        }
    }
    Ok(())
}

fn event_mapping(
    spec: &BTreeMap<String, String>,
    table: &RawTable,
    raw: &Columns,
    place: &str,
) -> Result<BTreeMap<String, Expression>> {
    let mut mapping = BTreeMap::new();
    // Raw columns can be used under their own names unless the mapping replaces them.
    for RawColumn { name, ty, .. } in &table.raw {
        if let Some(ty) = ty.logical(raw.scale) {
            mapping.insert(name.clone(), Expression::column(name.clone(), ty));
        }
    }
    for (name, sql) in spec {
        mapping.insert(name.clone(), check(sql, raw, &format!("{place} columns.{name}"))?);
    }
    for (name, ty, required) in EVENT_COLUMNS {
        match (mapping.remove(name), ty) {
            (Some(expression), Some(ty)) => {
                let expression = canonical(expression, ty, name, place)?;
                mapping.insert(name.to_owned(), expression);
            }
            (Some(expression), None) => {
                let ty = if expression.ty == Type::Text { Type::Text } else { Type::Integer };
                mapping.insert(name.to_owned(), canonical(expression, ty, name, place)?);
            }
            (None, _) if table.get(name).is_some() => {
                let ty =
                    table.schema.field_with_name(name).map(|field| field.data_type().to_string());
                let problem = SourceProblem::UnreadType {
                    file: table.files[0].clone(),
                    column: name.to_owned(),
                    ty: ty.unwrap_or_default(),
                    place: place.to_owned(),
                };
                return Err(problem.into());
            }
            (None, _) if required => {
                let problem = SourceProblem::Unmapped {
                    file: table.files[0].clone(),
                    column: name.to_owned(),
                    place: place.to_owned(),
                    found: raw.names().map(str::to_owned).collect(),
                };
                return Err(problem.into());
            }
            (None, _) => {}
        }
    }
    Ok(mapping)
}

/// Converts an expression to the type of its canonical column, if this is possible implicitly.
fn canonical(expression: Expression, ty: Type, name: &str, place: &str) -> Result<Expression> {
    match (expression.ty, ty) {
        (found, wanted) if found == wanted => Ok(expression),
        (Type::Integer, Type::Text | Type::Double | Type::Money)
        | (Type::Double, Type::Money)
        | (Type::Money, Type::Double)
        | (Type::Date, Type::Timestamp) => Ok(expression.cast(ty)),
        (found, wanted) => {
            let (place, column) = (place.to_owned(), name.to_owned());
            let (found, wanted) = (found.name(), wanted.name());
            Err(SourceProblem::EventType { place, column, found, wanted }.into())
        }
    }
}

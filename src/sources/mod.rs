//! Sources: the profile and event Parquet of a project, as they are, mapped to canonical columns.
//!
//! Specs name files and mapping expressions; a [`SourcePlan`] is the checked result: which files,
//! which raw columns of which types, and one expression over them per canonical column.

pub mod attributes;
pub mod consent;
pub mod contract;
pub mod entity_rows;
pub mod files;
pub mod items;
pub mod profile;
pub mod scan;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::check::check;
use crate::expression::{Columns, Expression, Type};
use crate::money::Scale;
use crate::time::Zone;
use files::{RawColumn, RawTable};

/// What `ingested_at` means for what may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ingestion {
    /// An event counts only if it was ingested before the known-at.
    #[default]
    Respect,
    /// The column is not looked at, for warehouses that were loaded anew.
    Ignore,
}

/// What to do with events of customers that the profile does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orphans {
    /// Leave them out, and count them.
    #[default]
    Skip,
    /// Make a profile row for the customer.
    Create,
    /// Refuse to run.
    Fail,
}

/// A table joined to a source by key, so that a mapping may use its columns as `name.column`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LookupSpec {
    /// File, folder or glob of Parquet, relative to the project.
    pub path: String,
    /// The lookup's key column; its values must be unique.
    pub key: String,
    /// The source's column that holds the key.
    pub on: String,
}

/// The `[sources.profile]` table.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileSpec {
    /// File, folder or glob of Parquet, relative to the project.
    pub path: String,
    /// Canonical or extra column = expression over the raw columns.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
}

/// The `[sources.events]` table.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventsSpec {
    /// File, folder or glob of Parquet, relative to the project.
    pub path: String,
    /// Canonical or own column = expression over the raw and lookup columns.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// Tables joined by key.
    #[serde(default)]
    pub lookups: BTreeMap<String, LookupSpec>,
    /// Whether `ingested_at` is respected.
    #[serde(default)]
    pub ingestion: Ingestion,
    /// What to do with events of unknown customers.
    #[serde(default)]
    pub orphans: Orphans,
    /// Event types of the project beside the standard ones.
    #[serde(default)]
    pub event_types: Vec<String>,
    /// The share of rows that may be unusable (null key, time or type, wrong currency, not finite)
    /// before the run refuses; such rows are left out and counted.
    #[serde(default)]
    pub max_rejected_share: f64,
}

/// What every source needs to know of its project.
#[derive(Debug, Clone)]
pub struct SourceContext {
    /// The folder that relative paths start from.
    pub root: PathBuf,
    /// The zone of timestamps without one.
    pub zone: Zone,
    /// Decimal places of money.
    pub scale: Scale,
    /// The only currency that amounts may have.
    pub currency: String,
}

/// A checked lookup table.
#[derive(Debug, Clone)]
pub struct LookupPlan {
    /// The prefix of its columns.
    pub name: String,
    /// Its files and raw columns.
    pub table: RawTable,
    /// Its key column.
    pub key: String,
    /// The source's column that holds the key.
    pub on: String,
}

/// A checked event source: files, raw columns, and one expression per canonical or own column.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// Files and raw columns.
    pub table: RawTable,
    /// Tables joined by key.
    pub lookups: Vec<LookupPlan>,
    /// Every usable column as an expression over raw and lookup columns.
    pub mapping: BTreeMap<String, Expression>,
    /// Whether `ingested_at` is respected.
    pub ingestion: Ingestion,
    /// What to do with events of unknown customers.
    pub orphans: Orphans,
    /// Known event types.
    pub event_types: Vec<String>,
    /// The share of rows that may be rejected.
    pub max_rejected_share: f64,
    /// The customer whose events alone are read; None for all.
    pub only: Option<String>,
    /// Zone, scale and currency.
    pub context: SourceContext,
}

/// A canonical event column: name, type (None: text or integer as it comes), whether required.
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

impl SourcePlan {
    /// The same source, of which only the events of one customer are read.
    pub fn of_customer(&self, key: &str) -> Self {
        Self { only: Some(key.to_owned()), ..self.clone() }
    }

    /// Reads footers and checks every mapping of an event source.
    pub fn events(spec: &EventsSpec, context: &SourceContext) -> Result<Self> {
        let place = "c360.toml [sources.events]";
        let table = RawTable::open(&context.root.join(&spec.path), place)?;
        let mut raw = table.columns(context.scale);
        let mut lookups = Vec::new();
        for (name, lookup) in &spec.lookups {
            let place = format!("c360.toml [sources.events.lookups.{name}]");
            lookups.push(LookupPlan::open(name, lookup, &table, &mut raw, context, &place)?);
        }
        let mapping = event_mapping(&spec.columns, &table, &raw, place)?;
        if !(0.0..=1.0).contains(&spec.max_rejected_share) {
            let message = format!("{place}: max_rejected_share = {}", spec.max_rejected_share);
            return Err(Error::configuration(message, "a share is between 0 and 1"));
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

    /// `expression` over canonical columns, rewritten over raw and lookup columns.
    pub fn raw(&self, expression: &Expression) -> Expression {
        expression.clone().substitute(&|name| self.mapping.get(name).cloned())
    }

    /// Whether `ingested_at` is there and respected.
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
        let table = RawTable::open(&context.root.join(&spec.path), place)?;
        let columns = table.columns(context.scale);
        let key = columns.get(&spec.key).ok_or_else(|| {
            Error::unknown(format!("{place} key"), "column", &spec.key, columns.names())
        })?;
        let source_columns = source.columns(context.scale);
        let on = source_columns.get(&spec.on).ok_or_else(|| {
            Error::unknown(format!("{place} on"), "column", &spec.on, source_columns.names())
        })?;
        if key != on {
            return Err(Error::configuration(
                format!(
                    "{place}: `{}` is {} but `{}` is {}",
                    spec.key,
                    key.name(),
                    spec.on,
                    on.name()
                ),
                "a lookup joins columns of one type",
            ));
        }
        unique_keys(&table, &spec.key, place)?;
        for (column, ty) in columns.iter() {
            raw.insert(format!("{name}.{column}"), ty);
        }
        Ok(Self { name: name.to_owned(), table, key: spec.key.clone(), on: spec.on.clone() })
    }
}

/// Refuses a lookup with two rows of one key: each would make two events of one.
fn unique_keys(table: &RawTable, key: &str, place: &str) -> Result<()> {
    use arrow_array::cast::AsArray;
    let mut seen = std::collections::HashSet::new();
    for file in &table.files {
        for batch in crate::store::parquet::read(file, Some(&[key]))? {
            let Some(column) = batch.column_by_name(key) else { continue };
            let texts = arrow_cast::cast(column, &arrow_schema::DataType::Utf8)
                .map_err(Error::engine("reading a lookup's keys"))?;
            for text in texts.as_string::<i32>().iter().flatten() {
                if !seen.insert(text.to_owned()) {
                    return Err(Error::contract(
                        format!("{}: column {key}: {text} is there twice", file.display()),
                        format!("{place} joins by key, which must be unique"),
                    ));
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
    // A user's own raw columns are usable under their own names unless mapped anew.
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
            (None, _) if required => {
                let found: Vec<&str> = raw.names().collect();
                return Err(Error::contract(
                    format!("{}: the column {name} is missing", table.files[0].display()),
                    format!(
                        "map it under {place} columns, {name} = \"…\"; found: {}",
                        found.join(", ")
                    ),
                ));
            }
            (None, _) => {}
        }
    }
    Ok(mapping)
}

/// The conversions that a canonical column makes by itself.
fn canonical(expression: Expression, ty: Type, name: &str, place: &str) -> Result<Expression> {
    match (expression.ty, ty) {
        (found, wanted) if found == wanted => Ok(expression),
        (Type::Integer, Type::Text | Type::Double | Type::Money)
        | (Type::Double, Type::Money)
        | (Type::Money, Type::Double)
        | (Type::Date, Type::Timestamp) => Ok(expression.cast(ty)),
        (found, wanted) => Err(Error::contract(
            format!("{place}: the column {name} has type {}, not {}", found.name(), wanted.name()),
            format!("map it: {name} = \"cast(… as {})\"", wanted.name()),
        )),
    }
}

//! The profile source: rows as they came, raw fields under canonical names, extra columns untouched.
//!
//! Columns are read and carried by arrow-rs, so that maps, nested lists and dictionaries survive.
//! Only columns that a mapping expression names are converted for it.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

use super::files::{RawTable, RawType};
use super::{ProfileSpec, SourceContext};
use crate::error::{Error, Result};
use crate::expression::check::check;
use crate::expression::polars::{arrow_type, evaluate};
use crate::expression::{Expression, Node};
use crate::schema::profile_field;
use crate::store::parquet;
use crate::time::Instant;

/// The customers that the profile source has.
#[derive(Debug, Clone, Default)]
pub struct Entities {
    /// Their keys.
    pub keys: Vec<String>,
    /// When each profile was created; None is always there.
    pub created_at: Vec<Option<Instant>>,
}

/// Where a column of the profile comes from.
#[derive(Debug, Clone)]
enum Origin {
    /// A raw column as it is.
    Raw(String),
    /// Computed.
    Expression(Expression),
}

/// A checked profile source.
#[derive(Debug, Clone)]
pub struct ProfilePlan {
    /// Files and raw columns.
    pub table: RawTable,
    columns: Vec<(String, Origin)>,
    context: SourceContext,
}

const KEY: &str = "customer360_id";
const CREATED: &str = "created_at";

impl ProfilePlan {
    /// Reads footers and checks the mapping.
    pub fn open(spec: &ProfileSpec, context: &SourceContext) -> Result<Self> {
        let place = "c360.toml [sources.profile]";
        let table = RawTable::open(&context.root.join(&spec.path), place)?;
        let raw = table.columns(context.scale);
        let mut columns = Vec::new();
        let mut renamed = Vec::new();
        for (name, sql) in &spec.columns {
            let name_of_raw = sql.trim().trim_matches('"');
            let origin = if table.get(name_of_raw).is_some_and(|column| !column.hive) {
                renamed.push(name_of_raw.to_owned());
                Origin::Raw(name_of_raw.to_owned())
            } else {
                let expression = check(sql, &raw, &format!("{place} columns.{name}"))?;
                match &expression.node {
                    Node::Cast(inner) if matches!(inner.node, Node::Column(_)) => {
                        renamed.extend(inner.columns().iter().map(|name| (*name).to_owned()));
                    }
                    _ => {}
                }
                Origin::Expression(expression)
            };
            columns.push((name.clone(), origin));
        }
        for field in table.schema.fields() {
            let name = field.name();
            if !spec.columns.contains_key(name) && !renamed.contains(name) {
                columns.push((name.clone(), Origin::Raw(name.clone())));
            }
        }
        if !columns.iter().any(|(name, _)| name == KEY) {
            let found: Vec<&str> = raw.names().collect();
            return Err(Error::contract(
                format!("{}: the column {KEY} is missing", table.files[0].display()),
                format!("map it under {place} columns, {KEY} = \"…\"; found: {}", found.join(", ")),
            ));
        }
        Ok(Self { table, columns, context: context.clone() })
    }

    /// Names of the columns that [`ProfilePlan::read`] gives.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// All rows sorted by key, raw fields in the types of the profile, extra columns as they came.
    ///
    /// # Errors
    /// A contract violation for a null or duplicate key, or a raw field that cannot have its type.
    pub fn read(&self) -> Result<RecordBatch> {
        self.read_columns(&|_| true)
    }

    /// Keys and creation times, sorted by key.
    pub fn entities(&self) -> Result<Entities> {
        let rows = self.read_columns(&|name| name == KEY || name == CREATED)?;
        let keys = rows.column_by_name(KEY).map(|keys| keys.as_string::<i32>().clone());
        let keys: Vec<String> = keys.iter().flatten().flatten().map(str::to_owned).collect();
        let created_at = match rows.column_by_name(CREATED) {
            Some(column) => column
                .as_primitive::<TimestampMicrosecondType>()
                .iter()
                .map(|micros| micros.map(Instant))
                .collect(),
            None => vec![None; keys.len()],
        };
        Ok(Entities { keys, created_at })
    }

    fn read_columns(&self, wanted: &dyn Fn(&str) -> bool) -> Result<RecordBatch> {
        let columns: Vec<&(String, Origin)> =
            self.columns.iter().filter(|(name, _)| wanted(name)).collect();
        let mut raw: Vec<&str> = Vec::new();
        for (_, origin) in &columns {
            match origin {
                Origin::Raw(name) => raw.push(name),
                Origin::Expression(expression) => raw.extend(expression.columns()),
            }
        }
        let mut batches = Vec::new();
        for file in &self.table.files {
            let row_base: usize = batches.iter().map(RecordBatch::num_rows).sum();
            for batch in parquet::read(file, Some(&raw))? {
                batches.push(self.map(&columns, &batch, file, row_base)?);
            }
        }
        let Some(rows) = parquet::concat(&batches)? else {
            return Err(Error::contract(
                format!("{} has no rows", self.table.files[0].display()),
                "a profile source needs at least one customer",
            ));
        };
        let rows = parquet::sort_by_key(&rows, KEY)?;
        let keys = rows.column(rows.schema().index_of(KEY).map_err(Error::engine("the key"))?);
        let keys = keys.as_string::<i32>();
        for i in 1..keys.len() {
            if keys.value(i - 1) == keys.value(i) {
                return Err(Error::contract(
                    format!(
                        "{}: column {KEY}: the customer {} is there twice",
                        self.table.files[0].display(),
                        keys.value(i)
                    ),
                    "a unified profile has one row per customer; merge them upstream",
                ));
            }
        }
        Ok(rows)
    }

    fn map(
        &self,
        columns: &[&(String, Origin)],
        batch: &RecordBatch,
        file: &Path,
        row_base: usize,
    ) -> Result<RecordBatch> {
        let expressions: Vec<(String, Expression)> = columns
            .iter()
            .filter_map(|(name, origin)| match origin {
                Origin::Expression(expression) => Some((name.clone(), expression.clone())),
                Origin::Raw(_) => None,
            })
            .collect();
        let computed = self.compute(&expressions, batch)?;
        let mut fields = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for (name, origin) in columns {
            let (array, nullable) = match origin {
                Origin::Raw(raw) => {
                    let index = batch.schema().index_of(raw).map_err(Error::engine("a profile"))?;
                    (batch.column(index).clone(), batch.schema().field(index).clone())
                }
                Origin::Expression(_) => {
                    let index = expressions.iter().position(|(made, _)| made == name);
                    let array = computed[index.unwrap_or_default()].clone();
                    let field = Field::new(name, array.data_type().clone(), true);
                    (array, field)
                }
            };
            let array = self.typed(name, array, file)?;
            if name == KEY && array.null_count() > 0 {
                let row = (0..array.len()).find(|row| array.is_null(*row)).unwrap_or_default();
                return Err(Error::contract(
                    format!("{}: column {KEY}: row {} is null", file.display(), row_base + row + 1),
                    "every customer needs a key",
                ));
            }
            fields.push(
                Field::new(
                    name,
                    array.data_type().clone(),
                    nullable.is_nullable() || name == CREATED,
                )
                .with_metadata(nullable.metadata().clone()),
            );
            arrays.push(array);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(Error::engine("a profile"))
    }

    fn compute(
        &self,
        expressions: &[(String, Expression)],
        batch: &RecordBatch,
    ) -> Result<Vec<ArrayRef>> {
        if expressions.is_empty() {
            return Ok(Vec::new());
        }
        let needed: std::collections::BTreeSet<&str> =
            expressions.iter().flat_map(|(_, x)| x.columns()).collect();
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for name in needed {
            let (Some(array), Some(column)) = (batch.column_by_name(name), self.table.get(name))
            else {
                continue;
            };
            let array = normalize(array, column.ty, &self.context)?;
            fields.push(Field::new(name, array.data_type().clone(), true));
            arrays.push(array);
        }
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let raw =
            RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
                .map_err(Error::engine("a profile"))?;
        // Names of mapped columns may equal raw ones; a prefix keeps them apart.
        let named: Vec<(String, Expression)> =
            expressions.iter().map(|(name, x)| (format!("\u{0}{name}"), x.clone())).collect();
        evaluate(&named, &raw, self.context.scale)
    }

    /// A raw field in its type of the profile; extra columns as they are.
    fn typed(&self, name: &str, array: ArrayRef, file: &Path) -> Result<ArrayRef> {
        let Some(field) = profile_field(name) else { return Ok(array) };
        let wanted = match (name, field.arrow_type()) {
            (KEY, _) if RawType::of(array.data_type()) == RawType::Integer => DataType::Utf8,
            ("date_of_birth", _) => match RawType::of(array.data_type()) {
                RawType::Text => DataType::Utf8,
                RawType::Date => DataType::Date32,
                _ => return Err(self.wrong_type(name, &array, "date32 or utf8", file)),
            },
            (_, None) => return Ok(array),
            (_, Some(wanted)) => wanted,
        };
        // Derived and modeled fields of the source are recomputed; their types do not matter.
        if field.origin != crate::schema::Origin::Raw || *array.data_type() == wanted {
            return Ok(array);
        }
        let raw = RawType::of(array.data_type());
        let converted = match &wanted {
            DataType::Timestamp(..) => match raw {
                RawType::Timestamp { .. } | RawType::Date => normalize(&array, raw, &self.context)?,
                _ => return Err(self.wrong_type(name, &array, "timestamp", file)),
            },
            DataType::Utf8 if raw != RawType::Text && name != KEY => {
                return Err(self.wrong_type(name, &array, "utf8", file));
            }
            DataType::Decimal128(..)
                if !matches!(raw, RawType::Integer | RawType::Double | RawType::Decimal(_)) =>
            {
                return Err(self.wrong_type(name, &array, "decimal", file));
            }
            wanted => arrow_cast::cast(&array, wanted)
                .map_err(|_| self.wrong_type(name, &array, &field.type_name(false), file))?,
        };
        match &wanted {
            DataType::Timestamp(..) => arrow_cast::cast(&converted, &wanted)
                .map_err(|_| self.wrong_type(name, &array, "timestamp", file)),
            _ => Ok(converted),
        }
    }

    fn wrong_type(&self, name: &str, array: &ArrayRef, wanted: &str, file: &Path) -> Error {
        Error::contract(
            format!(
                "{}: column {name} has type {}, not {wanted}",
                file.display(),
                crate::schema::type_name(array.data_type(), false)
            ),
            format!(
                "map it in c360.toml [sources.profile.columns], {name} = \"cast(… as …)\", or map it to another name"
            ),
        )
    }
}

/// A raw array in the Arrow type that expressions use for it.
fn normalize(array: &ArrayRef, ty: RawType, context: &SourceContext) -> Result<ArrayRef> {
    let Some(logical) = ty.logical(context.scale) else { return Ok(array.clone()) };
    let wanted = arrow_type(logical, context.scale);
    let failed = "converting a raw column";
    match ty {
        RawType::Timestamp { zoned: false } => {
            let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
            let naive = arrow_cast::cast(array, &micros).map_err(Error::engine(failed))?;
            let values = naive.as_primitive::<TimestampMicrosecondType>().iter();
            let utc = values.map(|v| v.and_then(|v| context.zone.utc(v)));
            Ok(Arc::new(utc.collect::<TimestampMicrosecondArray>().with_timezone("UTC")))
        }
        RawType::Timestamp { zoned: true } => {
            // The stored number is UTC whatever the zone's name; only the unit may differ.
            let zone = match array.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            let micros = DataType::Timestamp(TimeUnit::Microsecond, zone);
            let array = arrow_cast::cast(array, &micros).map_err(Error::engine(failed))?;
            let values = array.as_primitive::<TimestampMicrosecondType>().clone();
            Ok(Arc::new(values.with_timezone("UTC")))
        }
        RawType::Date if wanted != DataType::Date32 => Ok(array.clone()),
        _ => arrow_cast::cast(array, &wanted).map_err(Error::engine(failed)),
    }
}

/// Keys of a batch.
pub fn keys(rows: &RecordBatch) -> Result<&StringArray> {
    let column = rows.column_by_name(KEY).and_then(|column| column.as_string_opt::<i32>());
    column.ok_or_else(|| Error::Engine { context: "reading keys", message: format!("no {KEY}") })
}

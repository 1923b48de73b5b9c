//! The checked mapping of a profile source.
//!
//! Columns are read by arrow-rs and keep their Arrow types, so that maps, nested lists and dictionaries are
//! preserved. Only the columns that a mapping expression uses are converted for it.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

use super::rows::{CREATED, FILLED, KEY};
use crate::error::{Error, Result};
use crate::expression::check::check;
use crate::expression::polars::{arrow_type, evaluate};
use crate::expression::{Expression, Node};
use crate::schema::{Origin as FieldOrigin, list_of, profile_field, type_name};
use crate::sources::files::{RawTable, RawType, hive_columns};
use crate::sources::footers::Footers;
use crate::sources::{ProfileSpec, SourceContext, SourceProblem};
use crate::store::bucket::resolve;

/// Where a column of the profile comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A raw column, unchanged.
    Raw(String),
    /// An expression over the raw columns.
    Expression(Expression),
    /// The value of a `name=value` folder on the path of the file, as text.
    Folder(String),
}

impl Origin {
    fn data_type(&self, table: &RawTable, context: &SourceContext) -> Option<DataType> {
        match self {
            Self::Raw(raw) => {
                table.schema.field_with_name(raw).map(|field| field.data_type().clone()).ok()
            }
            Self::Expression(expression) => Some(arrow_type(expression.ty, context.scale)),
            Self::Folder(_) => Some(DataType::Utf8),
        }
    }
}

/// A checked profile source.
#[derive(Debug, Clone)]
pub struct ProfilePlan {
    /// The files and raw columns of the profile.
    pub table: RawTable,
    columns: Vec<(String, Origin)>,
    context: SourceContext,
}

impl ProfilePlan {
    /// The settings that the source was checked with.
    pub(super) fn context(&self) -> &SourceContext {
        &self.context
    }

    /// Reads the footers of the profile and checks its mapping.
    ///
    /// # Errors
    /// A configuration error for a wrong expression. A contract violation if the key column is missing, or if
    /// a column has a type that does not fit the profile field. The errors of [`RawTable::open`].
    pub fn open(spec: &ProfileSpec, context: &SourceContext) -> Result<Self> {
        let place = "c360.toml [sources.profile]";
        let mut table = RawTable::open(
            &resolve(&context.root, &spec.path),
            spec.version,
            place,
            &Footers::default(),
        )?;
        let folders: Vec<String> =
            table.raw.iter().filter(|column| column.hive).map(|c| c.name.clone()).collect();
        table.raw.retain(|column| !column.hive);
        let raw = table.columns(context.scale);
        let mut columns = Vec::new();
        let mut renamed = Vec::new();
        for (name, sql) in &spec.columns {
            let name_of_raw = sql.trim().trim_matches('"');
            let origin = if table.get(name_of_raw).is_some() {
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
        for name in folders.iter().filter(|name| !spec.columns.contains_key(*name)) {
            columns.push((name.clone(), Origin::Folder(name.clone())));
        }
        for field in table.schema.fields() {
            let name = field.name();
            if !spec.columns.contains_key(name) && !renamed.contains(name) {
                columns.push((name.clone(), Origin::Raw(name.clone())));
            }
        }
        for (name, origin) in &columns {
            let found = origin.data_type(&table, context);
            found.map_or(Ok(()), |found| check_type(name, &found, &table.files[0]))?;
        }
        if !columns.iter().any(|(name, _)| name == KEY) {
            let problem = SourceProblem::Unmapped {
                file: table.files[0].clone(),
                column: KEY.to_owned(),
                place: place.to_owned(),
                found: raw.names().map(str::to_owned).collect(),
            };
            return Err(problem.into());
        }
        Ok(Self { table, columns, context: context.clone() })
    }

    /// The plan of a project without a profile, whose customers are those of the events.
    pub fn none(context: &SourceContext) -> Self {
        let schema = Arc::new(Schema::new(vec![Field::new(KEY, DataType::Utf8, true)]));
        let table = RawTable {
            files: Vec::new(),
            schema,
            raw: Vec::new(),
            rows: 0,
            drifted: Vec::new(),
            delta: None,
            footers: Footers::default(),
        };
        let columns = vec![(KEY.to_owned(), Origin::Raw(KEY.to_owned()))];
        Self { table, columns, context: context.clone() }
    }

    /// Whether a source column of this name and type can stand in the profile without a mapping.
    pub fn takes(name: &str, found: &DataType) -> bool {
        written_type(name, found).is_none_or(|wanted| fits(name, found, &wanted))
    }

    /// The names of all columns of the mapped profile.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The columns of the files that a column of the mapped profile is made from, and how: as they are (`IDENTITY`), or
    /// by an expression (`TRANSFORMATION`).
    pub fn sources_of(&self, name: &str) -> (Vec<&str>, &'static str) {
        match self.columns.iter().find(|(column, _)| column == name) {
            Some((_, Origin::Raw(raw) | Origin::Folder(raw))) => (vec![raw], "IDENTITY"),
            Some((_, Origin::Expression(expression))) => {
                (expression.columns().into_iter().collect(), "TRANSFORMATION")
            }
            None => (Vec::new(), "IDENTITY"),
        }
    }

    /// The type of a column after mapping, before it is converted to the type of its profile field.
    pub fn type_of(&self, name: &str) -> Option<DataType> {
        let (_, origin) = self.columns.iter().find(|(column, _)| column == name)?;
        origin.data_type(&self.table, &self.context)
    }

    /// The columns for whose names `wanted` is true, with their origins.
    pub(super) fn wanted(&self, wanted: &dyn Fn(&str) -> bool) -> Vec<&(String, Origin)> {
        self.columns.iter().filter(|(name, _)| wanted(name)).collect()
    }

    pub(super) fn map(
        &self,
        columns: &[&(String, Origin)],
        batch: &RecordBatch,
        file: &Path,
    ) -> Result<RecordBatch> {
        let expressions: Vec<(String, Expression)> = columns
            .iter()
            .filter_map(|(name, origin)| match origin {
                Origin::Expression(expression) => Some((name.clone(), expression.clone())),
                Origin::Raw(_) | Origin::Folder(_) => None,
            })
            .collect();
        let computed = self.compute(&expressions, batch)?;
        let mut fields = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for (name, origin) in columns {
            let (array, nullable) = match origin {
                Origin::Raw(raw) => {
                    let index = batch
                        .schema()
                        .index_of(raw)
                        .map_err(Error::engine("reading the profile"))?;
                    (batch.column(index).clone(), batch.schema().field(index).clone())
                }
                Origin::Folder(name) => {
                    let value = hive_columns(file).into_iter().find(|(known, _)| known == name);
                    let value = value.map(|(_, value)| value).unwrap_or_default();
                    let values = std::iter::repeat_n(value, batch.num_rows());
                    let array: ArrayRef = Arc::new(StringArray::from_iter_values(values));
                    (array, Field::new(name, DataType::Utf8, true))
                }
                Origin::Expression(_) => {
                    let index = expressions.iter().position(|(made, _)| made == name);
                    let array = computed[index.unwrap_or_default()].clone();
                    let field = Field::new(name, array.data_type().clone(), true);
                    (array, field)
                }
            };
            let array = self.typed(name, array, file)?;
            fields.push(
                Field::new(
                    name,
                    array.data_type().clone(),
                    nullable.is_nullable() || name == CREATED || name == KEY,
                )
                .with_metadata(nullable.metadata().clone()),
            );
            arrays.push(array);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(Error::engine("reading the profile"))
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
                .map_err(Error::engine("reading the profile"))?;
        // A mapped column may have the same name as a raw one, so a prefix keeps them apart.
        let named: Vec<(String, Expression)> =
            expressions.iter().map(|(name, x)| (format!("\u{0}{name}"), x.clone())).collect();
        evaluate(&named, &raw, self.context.scale)
    }

    /// The names of the raw columns from which `columns` are computed.
    pub(super) fn raw_columns<'a>(columns: &[&'a (String, Origin)]) -> Vec<&'a str> {
        let mut raw: Vec<&str> = Vec::new();
        for (_, origin) in columns {
            match origin {
                Origin::Raw(name) => raw.push(name),
                Origin::Expression(expression) => raw.extend(expression.columns()),
                Origin::Folder(_) => {}
            }
        }
        raw
    }

    /// Converts a raw or derived field to its type in the profile. Additional columns are not converted.
    ///
    /// Modeled fields of the source are not converted either, because they are computed anew.
    fn typed(&self, name: &str, array: ArrayRef, file: &Path) -> Result<ArrayRef> {
        let Some(wanted) = written_type(name, array.data_type()) else { return Ok(array) };
        let raw = RawType::of(array.data_type());
        let array = match &wanted {
            DataType::Timestamp(..) => normalize(&array, raw, &self.context)?,
            _ => array,
        };
        arrow_cast::cast(&array, &wanted)
            .map_err(|_| wrong_type(name, array.data_type(), &wanted, file))
    }
}

/// The type in which a field of the source is written to the profile, or None if it is not converted.
fn written_type(name: &str, found: &DataType) -> Option<DataType> {
    if name == FILLED {
        let list = list_of(DataType::Utf8);
        return (*found != list).then_some(list);
    }
    let field = profile_field(name).filter(|field| field.origin != FieldOrigin::Modeled)?;
    let wanted = match name {
        "date_of_birth" if RawType::of(found) == RawType::Date => DataType::Date32,
        "date_of_birth" => DataType::Utf8,
        _ => field.arrow_type()?,
    };
    (*found != wanted).then_some(wanted)
}

/// Refuses a field whose type can be converted to that of the profile only by a mapping.
fn check_type(name: &str, found: &DataType, file: &Path) -> Result<()> {
    match written_type(name, found) {
        Some(wanted) if !fits(name, found, &wanted) => Err(wrong_type(name, found, &wanted, file)),
        _ => Ok(()),
    }
}

/// Whether a column of the type `found` can be converted to the type `wanted` of the field `name`.
fn fits(name: &str, found: &DataType, wanted: &DataType) -> bool {
    match (wanted, RawType::of(found)) {
        (DataType::Utf8, RawType::Text) => true,
        (DataType::Utf8, RawType::Integer) => name == KEY,
        (DataType::Timestamp(..), RawType::Timestamp { .. } | RawType::Date) => true,
        (DataType::Date32, RawType::Date) => true,
        (DataType::Int32 | DataType::Int64, RawType::Integer) => true,
        (DataType::Decimal128(..), RawType::Integer | RawType::Double | RawType::Decimal(_)) => {
            true
        }
        (DataType::List(_), _) => is_list_of_text(found),
        _ => false,
    }
}

fn is_list_of_text(ty: &DataType) -> bool {
    matches!(
        ty,
        DataType::List(item) | DataType::LargeList(item)
            if RawType::of(item.data_type()) == RawType::Text
    )
}

fn wrong_type(name: &str, found: &DataType, wanted: &DataType, file: &Path) -> Error {
    let (found, wanted) = (type_name(found, false), type_name(wanted, false));
    let (file, column) = (file.to_owned(), name.to_owned());
    SourceProblem::ProfileType { file, column, found, wanted }.into()
}

/// Converts a raw array to the Arrow type that expressions use for it.
pub(in crate::sources) fn normalize(
    array: &ArrayRef,
    ty: RawType,
    context: &SourceContext,
) -> Result<ArrayRef> {
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
            // The stored number is always UTC, whatever the name of the zone is. Only the unit may differ.
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

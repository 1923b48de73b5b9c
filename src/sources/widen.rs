//! Files of one source whose schemas differ: a column has the widest of its types, and is null in files without it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use super::SourceProblem;
use crate::error::Result;

/// A column that not all files of a source have, or not in the same type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drifted {
    /// The name of the column.
    pub column: String,
    /// Its types, each with the number of files that have it.
    pub types: Vec<(String, usize)>,
    /// The number of files without the column.
    pub missing: usize,
}

impl std::fmt::Display for Drifted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = |count: usize| format!("{count} file{}", if count == 1 { "" } else { "s" });
        let types = self.types.iter().map(|(ty, count)| format!("{ty} in {}", files(*count)));
        let missing = (self.missing > 0).then(|| format!("missing in {}", files(self.missing)));
        f.write_str(&types.chain(missing).collect::<Vec<_>>().join(", "))
    }
}

/// The schema that the files of a source have together.
#[derive(Debug, Default)]
pub struct Union<'a> {
    fields: Vec<Field>,
    /// For each field, the first file that has it, and the number of files by type.
    seen: Vec<(&'a Path, BTreeMap<String, usize>)>,
    files: usize,
}

impl<'a> Union<'a> {
    /// Adds the schema of a file.
    ///
    /// # Errors
    /// Returns a contract violation that names both files if a column has types of which none is the wider one.
    pub fn add(&mut self, file: &'a Path, schema: &Schema) -> Result<()> {
        self.files += 1;
        for field in schema.fields() {
            let ty = field.data_type().to_string();
            let place = self.fields.iter().position(|known| known.name() == field.name());
            let Some(place) = place else {
                self.fields.push(field.as_ref().clone());
                self.seen.push((file, [(ty, 1)].into()));
                continue;
            };
            let known = &self.fields[place];
            let Some(wider) = wider(known.data_type(), field.data_type()) else {
                return Err(SourceProblem::MixedTypes {
                    column: field.name().clone(),
                    file: self.seen[place].0.to_owned(),
                    ty: known.data_type().clone(),
                    other: file.to_owned(),
                    other_type: field.data_type().clone(),
                }
                .into());
            };
            let nullable = known.is_nullable() || field.is_nullable();
            let widened = known.clone().with_data_type(wider).with_nullable(nullable);
            self.fields[place] = widened;
            *self.seen[place].1.entry(ty).or_default() += 1;
        }
        Ok(())
    }

    /// The schema, and the columns that differ between files.
    pub fn finish(self) -> (SchemaRef, Vec<Drifted>) {
        let files = self.files;
        let mut drifted = Vec::new();
        let mut fields = Vec::new();
        for (field, (_, types)) in self.fields.into_iter().zip(self.seen) {
            let there: usize = types.values().sum();
            let missing = files - there;
            if missing > 0 || types.len() > 1 {
                let types = types.into_iter().collect();
                drifted.push(Drifted { column: field.name().clone(), types, missing });
            }
            let nullable = field.is_nullable() || missing > 0;
            fields.push(field.with_nullable(nullable));
        }
        (Arc::new(Schema::new(Fields::from(fields))), drifted)
    }
}

/// The type that holds all values of both types; `None` if there is none, or if it would change their meaning.
fn wider(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::*;
    if a == b {
        return Some(a.clone());
    }
    let is_text = |ty: &DataType| match ty {
        Utf8 | LargeUtf8 | Utf8View => true,
        Dictionary(_, value) => matches!(**value, Utf8 | LargeUtf8 | Utf8View),
        _ => false,
    };
    Some(match (a, b) {
        (Null, other) | (other, Null) => other.clone(),
        _ if is_text(a) && is_text(b) => Utf8,
        (Dictionary(_, value), other) | (other, Dictionary(_, value)) => wider(value, other)?,
        _ if a.is_binary() && b.is_binary() => Binary,
        (UInt64, other) | (other, UInt64) if other.is_integer() => {
            // Unsigned numbers beyond the signed ones are no identifiers or counts of anybody.
            if other.is_unsigned_integer() { UInt64 } else { Int64 }
        }
        _ if a.is_integer() && b.is_integer() => Int64,
        _ if a.is_floating() && b.is_floating() => Float64,
        (Decimal128(..) | Decimal256(..), Decimal128(..) | Decimal256(..)) => wider_decimal(a, b)?,
        (Timestamp(u, zone), Timestamp(v, other)) if zone.is_some() == other.is_some() => {
            let unit = if u == v { *u } else { TimeUnit::Microsecond };
            let zone = if zone == other { zone.clone() } else { Some("UTC".into()) };
            Timestamp(unit, zone)
        }
        (Date32, Date64) | (Date64, Date32) => Date32,
        (Struct(own), Struct(other)) => Struct(wider_fields(own, other)?),
        (Map(own, sorted), Map(other, other_sorted)) => {
            let (Struct(own_fields), Struct(fields)) = (own.data_type(), other.data_type()) else {
                return None;
            };
            // Keys and values have no names of their own.
            let pairs = own_fields.iter().zip(fields).map(|(own, other)| wider_field(own, other));
            let entries = Struct(pairs.collect::<Option<Fields>>()?);
            let own = own.as_ref().clone().with_data_type(entries);
            Map(Arc::new(own), *sorted && *other_sorted)
        }
        _ => List(wider_field(element(a)?, element(b)?)?),
    })
}

/// The decimal type with the places and the whole digits of both. Types of up to 38 digits stay as short as that.
fn wider_decimal(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Decimal128, Decimal256};
    let parts = |ty: &DataType| match ty {
        Decimal128(precision, scale) => Some((*precision as i8, *scale, 38)),
        Decimal256(precision, scale) => Some((*precision as i8, *scale, 76)),
        _ => None,
    };
    let ((p, s, most), (q, t, other_most)) = (parts(a)?, parts(b)?);
    let (scale, most) = (s.max(t), most.max(other_most));
    let precision = u8::try_from((p - s).max(q - t) + scale).ok().filter(|p| *p <= most)?;
    Some(if most == 38 { Decimal128(precision, scale) } else { Decimal256(precision, scale) })
}

/// The fields of both structs by their names, those of the first one first.
fn wider_fields(own: &Fields, other: &Fields) -> Option<Fields> {
    let in_own = |field: &&FieldRef| own.iter().any(|own| own.name() == field.name());
    let nullable = |field: &FieldRef| {
        let plain = field.as_ref().clone().with_metadata(HashMap::new());
        Arc::new(plain.with_nullable(true))
    };
    let both = own.iter().map(|field| match other.iter().find(|o| o.name() == field.name()) {
        Some(other) => wider_field(field, other),
        None => Some(nullable(field)),
    });
    let added = other.iter().filter(|field| !in_own(field)).map(|field| Some(nullable(field)));
    both.chain(added).collect()
}

fn wider_field(own: &FieldRef, other: &FieldRef) -> Option<FieldRef> {
    let ty = wider(own.data_type(), other.data_type())?;
    let nullable = own.is_nullable() || other.is_nullable();
    // IDs of fields are those of one file.
    let plain = own.as_ref().clone().with_metadata(HashMap::new());
    Some(Arc::new(plain.with_data_type(ty).with_nullable(nullable)))
}

/// The field of the elements of a list of any kind.
fn element(ty: &DataType) -> Option<&FieldRef> {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView};
    match ty {
        List(field)
        | LargeList(field)
        | FixedSizeList(field, _)
        | ListView(field)
        | LargeListView(field) => Some(field),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Array, ArrayRef, Int32Array, RecordBatch, StringArray};

    use super::*;
    use crate::store::conform::conform;

    fn schema(fields: &[(&str, DataType)]) -> Schema {
        let fields = fields.iter().map(|(name, ty)| Field::new(*name, ty.clone(), false));
        Schema::new(fields.collect::<Vec<_>>())
    }

    #[test]
    fn the_wider_type_holds_both() {
        use DataType::*;
        let text = || Box::new(Utf8);
        let field = |name: &str, ty: DataType| Arc::new(Field::new(name, ty, true));
        let list = |ty: DataType| List(field("item", ty));
        let micros = |zone: Option<&str>| Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        let nanos = |zone: Option<&str>| Timestamp(TimeUnit::Nanosecond, zone.map(Into::into));
        for (a, b, expected) in [
            (Int32, Int64, Some(Int64)),
            (Int8, UInt32, Some(Int64)),
            (UInt32, UInt64, Some(UInt64)),
            (Float32, Float64, Some(Float64)),
            (Decimal128(10, 2), Decimal128(12, 4), Some(Decimal128(12, 4))),
            (Decimal128(18, 2), Decimal128(12, 4), Some(Decimal128(20, 4))),
            (Decimal128(38, 0), Decimal128(38, 10), None),
            (nanos(None), micros(None), Some(micros(None))),
            (nanos(Some("UTC")), micros(Some("Europe/Berlin")), Some(micros(Some("UTC")))),
            (micros(None), micros(Some("UTC")), None),
            (LargeUtf8, Dictionary(Box::new(Int32), text()), Some(Utf8)),
            (Utf8View, Utf8, Some(Utf8)),
            (Date32, Date64, Some(Date32)),
            (Null, Float64, Some(Float64)),
            (Int64, Float64, None),
            (Int64, Utf8, None),
            (Boolean, Int32, None),
            (LargeBinary, Binary, Some(Binary)),
            (Dictionary(Box::new(Int32), Box::new(Int64)), Int32, Some(Int64)),
            (Decimal256(40, 2), Decimal128(18, 4), Some(Decimal256(42, 4))),
            (list(Utf8), LargeList(field("element", LargeUtf8)), Some(list(Utf8))),
            (list(Utf8), list(Int64), None),
            (list(Int64), Int64, None),
            (
                Struct(vec![field("a", Int32), field("b", Utf8)].into()),
                Struct(vec![field("a", Int64)].into()),
                Some(Struct(vec![field("a", Int64), field("b", Utf8)].into())),
            ),
            (
                Struct(vec![field("a", Int32)].into()),
                Struct(vec![field("a", Boolean)].into()),
                None,
            ),
        ] {
            assert_eq!(wider(&a, &b), expected, "{a} and {b}");
            let mirrored = wider(&b, &a);
            match &expected {
                // The names of elements are those of the first file, and they say nothing.
                Some(List(_)) => assert!(matches!(mirrored, Some(List(_))), "{b} and {a}"),
                _ => assert_eq!(mirrored, expected, "{b} and {a}"),
            }
        }
    }

    #[test]
    fn files_are_read_in_the_schema_that_they_have_together() {
        let (one, two) = (Path::new("1.parquet"), Path::new("2.parquet"));
        let mut union = Union::default();
        union.add(one, &schema(&[("a", DataType::Int32), ("b", DataType::Utf8)])).unwrap();
        union.add(two, &schema(&[("a", DataType::Int64), ("c", DataType::Boolean)])).unwrap();
        let (schema_of_all, drifted) = union.finish();
        let told: Vec<String> = drifted.iter().map(|d| format!("{}: {d}", d.column)).collect();
        assert_eq!(
            told,
            [
                "a: Int32 in 1 file, Int64 in 1 file",
                "b: Utf8 in 1 file, missing in 1 file",
                "c: Boolean in 1 file, missing in 1 file"
            ]
        );
        let rows = RecordBatch::try_from_iter([
            ("a", Arc::new(Int32Array::from(vec![7, 8])) as ArrayRef),
            ("b", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
        ])
        .unwrap();
        let rows = conform(&rows, &schema_of_all, Some(&["a", "c"])).unwrap();
        assert_eq!(rows.column(0).as_primitive::<Int64Type>().values(), &[7, 8]);
        assert_eq!((rows.num_columns(), rows.column(1).null_count()), (2, 2));
        let mut union = Union::default();
        union.add(one, &schema(&[("a", DataType::Int32)])).unwrap();
        let error = union.add(two, &schema(&[("a", DataType::Utf8)])).unwrap_err();
        assert!(error.to_string().contains("1.parquet") && error.to_string().contains("2.parquet"));
    }
}

//! The project as a Feast repository: its settings, its definitions, and the types of its Parquet files.
//!
//! Feast's file stores read every column by its Arrow type. They read large strings as JSON, and they do not
//! read decimals and dates at all. Money is therefore written as doubles in major units, and a date as the
//! instant of its midnight (UTC).

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use serde_json::json;

use crate::error::{Error, Result};
use crate::expression::Type;
use crate::features::catalog::{Catalog, Feature};
use crate::features::join::STAMPS;
use crate::spec::Models;
use crate::time::Duration;

/// Renders `feature_store.yaml`: an offline store of files that DuckDB reads, an online store in SQLite, and
/// a registry beside the definitions.
pub fn settings(project: &str) -> String {
    format!(
        "# Made once by `c360-ml export feast`; yours to change.\n\
         project: {}\n\
         provider: local\n\
         registry: registry.db\n\
         offline_store:\n  type: duckdb\n\
         online_store:\n  type: sqlite\n  path: online.db\n\
         entity_key_serialization_version: 3\n",
        name(project)
    )
}

/// Converts a project's name to letters, digits and underscores, as Feast requires.
fn name(project: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = project.chars().map(word).collect();
    match name.trim_start_matches('_') {
        "" => "c360".into(),
        name => name.to_owned(),
    }
}

/// Renders `definitions.py`: the customer, a feature view per view, and a feature service per classifier with
/// the features that it reads. `ttl` gives how long the snapshots of a view are valid. Snapshots of other
/// views are valid without limit.
pub fn definitions(
    project: &str,
    catalog: &Catalog,
    models: &Models,
    ttl: &[(String, Duration)],
) -> String {
    let mut text = format!(
        "\"\"\"The feature views of a project, written by `c360-ml export feast`: the next export replaces this\n\
         file.\"\"\"\n\n\
         from datetime import timedelta\nfrom pathlib import Path\n\n\
         from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType\n\
         from feast.types import Bool, Float64, Int64, String, UnixTimestamp\n\n\
         # Feast's DuckDB store reads a relative path from where it is called.\n\
         DATA = Path(__file__).resolve().parent / \"data\"\n\n\
         customer_entity = Entity(\n    name=\"customer\",\n    join_keys=[\"customer360_id\"],\n    \
         value_type=ValueType.STRING,\n    description={},\n)\n",
        python(&format!("A customer of {project}"))
    );
    for view in &catalog.views {
        let length = ttl.iter().find(|(name, _)| *name == view.name).map_or(0, |(_, ttl)| ttl.0);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{view}_source = FileSource(\n    name={snapshots},\n    path=str(DATA / {file}),\n    \
             timestamp_field=\"event_timestamp\",\n    created_timestamp_column=\"created_timestamp\",\n)\n\
             \n{view}_view = FeatureView(\n    name={name},\n    entities=[customer_entity],\n    \
             ttl=timedelta(microseconds={length}),\n    source={view}_source,\n    \
             description={description},\n    owner={owner},\n    schema=[\n",
            view = view.name,
            snapshots = python(&format!("{}_snapshots", view.name)),
            file = python(&file(&view.name)),
            name = python(&view.name),
            description = python(&view.description),
            owner = python(&view.owner),
        );
        for feature in catalog.of_view(&view.name) {
            let _ = writeln!(
                text,
                "        Field(name={}, dtype={}, description={}, tags={{\"version\": {}}}),",
                python(feature.column()),
                dtype(feature.ty()),
                python(&feature.description),
                python(&feature.version),
            );
        }
        text += "    ],\n)\n";
    }
    for model in &models.classifiers {
        let read = |feature: &&Feature| model.inputs.iter().any(|input| input == feature.column());
        let _ = write!(
            text,
            "\n{name}_service = FeatureService(\n    name={python},\n    features=[\n",
            name = model.spec.name,
            python = python(&model.spec.name),
        );
        for view in &catalog.views {
            let columns: Vec<&str> =
                catalog.of_view(&view.name).filter(read).map(Feature::column).collect();
            if !columns.is_empty() {
                let _ = writeln!(text, "        {}_view[{}],", view.name, json!(columns));
            }
        }
        text += "    ],\n)\n";
    }
    text
}

/// The name of a view's file in the folder `data/`.
pub fn file(view: &str) -> String {
    format!("{view}.parquet")
}

/// The schema of a view's file.
pub fn schema(catalog: &Catalog, view: &str) -> Schema {
    let stamps = STAMPS.into_iter().zip([Type::Text, Type::Timestamp, Type::Timestamp]);
    let stamps = stamps.map(|(name, ty)| Field::new(name, arrow_type(ty), false));
    let features = catalog.of_view(view);
    let features = features.map(|f| Field::new(f.column(), arrow_type(f.ty()), true));
    Schema::new(stamps.chain(features).collect::<Vec<_>>())
}

fn arrow_type(ty: Type) -> DataType {
    match ty {
        Type::Boolean => DataType::Boolean,
        Type::Integer => DataType::Int64,
        Type::Double | Type::Money => DataType::Float64,
        Type::Text => DataType::Utf8,
        Type::Timestamp | Type::Date => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
    }
}

/// Converts a column of a snapshot to the type of the column in the exported file.
pub fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let failed = "exporting features";
    let from = array.data_type();
    if *from == DataType::Date32 {
        // arrow-cast does not convert to a zone that has a name.
        let naive = DataType::Timestamp(TimeUnit::Microsecond, None);
        let midnight = arrow_cast::cast(array, &naive).map_err(Error::engine(failed))?;
        let midnight = midnight.as_primitive::<TimestampMicrosecondType>().clone();
        return Ok(Arc::new(midnight.with_timezone("UTC")));
    }
    arrow_cast::cast(array, to).map_err(Error::engine(failed))
}

fn dtype(ty: Type) -> &'static str {
    match ty {
        Type::Boolean => "Bool",
        Type::Integer => "Int64",
        Type::Double | Type::Money => "Float64",
        Type::Text => "String",
        Type::Timestamp | Type::Date => "UnixTimestamp",
    }
}

/// Renders a text as a Python literal. A JSON string is a valid Python literal.
fn python(text: &str) -> String {
    json!(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_project_has_a_name_that_feast_takes() {
        assert_eq!(name("fixtures"), "fixtures");
        assert_eq!(name("My shop (EU)"), "My_shop__EU_");
        assert_eq!(name("__x"), "x");
        assert_eq!(name("é"), "c360");
    }

    #[test]
    fn a_text_stays_one_literal() {
        assert_eq!(python("a \"b\"\n\\"), r#""a \"b\"\n\\""#);
    }
}

//! `explain`: one customer as a profile has them, with the reasons for their scores.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::DataType;
use serde_json::{Map, Value, json};

use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::embedded::EmbeddedEngine;
use crate::features::engine::Engine;
use crate::features::plan::{AsOf, FeaturePlan};
use crate::report::sentences::{ScoreRow, sentence};
use crate::report::{Output, Table, text};
use crate::scoring::Champions;
use crate::scoring::waterfall::Waterfall;
use crate::sources::attributes::Attributes;
use crate::sources::profile::{Entities, keys};
use crate::store::parquet::{concat, take};
use crate::store::{Root, Store};
use crate::time::Instant;
use crate::training::artifact::Artifact;

/// Scores that differ by no more are one.
const SAME: f64 = 1e-9;

/// Profile, scores with reasons, segments and recommendations of one customer, as of the current profile
/// or as of an instant that was scored.
pub fn explain(project: &Project, id: &str, at: Option<Instant>) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let as_of = scored_at(&root, at)?;
    let date = as_of.folder();
    let table = |name: &str| rows_of(&store, &root, &format!("{name}/as_of={date}"), id);
    let Some(row) = table("profile")? else {
        return Err(Error::configuration(
            format!("the profile as of {as_of} has no customer {id}"),
            "keys are case-sensitive; look one up in the written profile",
        ));
    };
    let (scores, segments, items) =
        (table("scores")?, table("segments")?, table("recommendations")?);
    let mut text = format!("{id} as of {as_of}\n\n");
    text += &profile_text(&row);
    let mut json = Map::new();
    json.insert("as_of".into(), json!(as_of));
    json.insert("profile".into(), json!(objects(&row).pop()));
    if let Some(scores) = &scores {
        let waterfalls = waterfalls(project, &store, id, as_of, scores)?;
        text += &scores_text(scores, &waterfalls);
        json.insert("scores".into(), json!(objects(scores)));
        json.insert("waterfalls".into(), json!(waterfalls));
    }
    if let Some(segments) = &segments {
        let names = ["segment", "is_primary", "since", "reason", "previous_primary"];
        text += &format!("\nsegments\n{}", columns_text(segments, &names));
        json.insert("segments".into(), json!(objects(segments)));
    }
    if let Some(items) = &items {
        text += &format!("\nrecommendations\n{}", columns_text(items, &["rank", "item", "score"]));
        json.insert("recommendations".into(), json!(objects(items)));
    }
    Ok(Output { text, json: Value::Object(json) })
}

/// The instant that is asked for, if it was scored; without one that of the current profile.
fn scored_at(root: &Root, at: Option<Instant>) -> Result<Instant> {
    let scored = root.as_ofs("profile");
    match (at, &root.profile) {
        (Some(at), _) if scored.contains(at.folder().as_str()) => Ok(at),
        (Some(at), _) => {
            let known: Vec<&str> = scored.into_iter().collect();
            Err(Error::not_enough(
                format!("{at} was not scored"),
                format!("run `c360-ml score --as-of {at}` first; scored are: {}", known.join(", ")),
            ))
        }
        (None, Some(profile)) => Ok(profile.as_of),
        (None, None) => {
            Err(Error::not_enough("the store has no profile yet", "run `c360-ml run` first"))
        }
    }
}

/// The rows of one customer in a table of the store; None where it has none.
fn rows_of(store: &Store, root: &Root, folder: &str, id: &str) -> Result<Option<RecordBatch>> {
    let mut found = Vec::new();
    for file in root.below(folder) {
        for batch in crate::store::parquet::read(&store.file(file), None)? {
            let own = keys(&batch)?.iter().enumerate().filter(|(_, key)| *key == Some(id));
            let own: Vec<u32> = own.map(|(row, _)| row as u32).collect();
            if !own.is_empty() {
                found.push(take(&batch, &own.into())?);
            }
        }
    }
    concat(&found)
}

/// By model how the logits of one customer came about: their features are computed anew from the
/// events, by the versions that scored. A version that is gone has none.
fn waterfalls(
    project: &Project,
    store: &Store,
    id: &str,
    at: Instant,
    scores: &RecordBatch,
) -> Result<BTreeMap<String, Waterfall>> {
    let text = |name: &str, row: usize| {
        scores.column_by_name(name).map_or_else(String::new, |column| cell(column, row))
    };
    let mut champions = Champions::default();
    for row in (0..scores.num_rows()).filter(|row| text("basis", *row) == "model") {
        if let Ok(artifact) = Artifact::load(store, &text("model", row), &text("version", row)) {
            champions.add(artifact);
        }
    }
    let of = champions.attributes(&project.profile);
    let attributes = match of.is_empty() {
        true => Attributes::default(),
        false => Attributes::of(&project.profile.read()?, &of)?,
    };
    let as_of = AsOf { at, known_at: project.known_at.unwrap_or(at) };
    let classifiers = champions.classifiers.iter();
    let now = || FeaturePlan { as_ofs: vec![as_of], ..FeaturePlan::default() };
    let plans: Vec<FeaturePlan> =
        classifiers.map(|(_, _, artifact)| artifact.plan(now())).collect();
    let entities = Entities { keys: vec![id.to_owned()], created_at: vec![None] };
    let scratch = tempfile::tempdir().map_err(Error::io("write", std::env::temp_dir()))?;
    let engine = EmbeddedEngine::new(project.memory, scratch.path().to_owned());
    let mut waterfalls = BTreeMap::new();
    if !plans.is_empty() {
        engine.build(&project.events.of_customer(id), &entities, &plans, &mut |part| {
            let (name, _, artifact) = &champions.classifiers[part.plan];
            let waterfall = Waterfall::of(artifact, &part.rows, &attributes)?;
            waterfalls.extend(waterfall.map(|waterfall| (name.clone(), waterfall)));
            Ok(())
        })?;
    }
    Ok(waterfalls)
}

fn cell(array: &ArrayRef, row: usize) -> String {
    if let Some(times) = array.as_primitive_opt::<TimestampMicrosecondType>() {
        let instant = (!times.is_null(row)).then(|| Instant(times.value(row)).to_string());
        return instant.unwrap_or_else(|| "-".into());
    }
    if let Some(numbers) = array.as_primitive_opt::<Float64Type>() {
        let number = (!numbers.is_null(row)).then(|| format!("{:.4}", numbers.value(row)));
        return number.unwrap_or_else(|| "-".into());
    }
    let options = FormatOptions::default().with_null("-");
    match ArrayFormatter::try_new(array.as_ref(), &options) {
        Ok(formatter) => formatter.value(row).to_string(),
        Err(_) => format!("<{}>", array.data_type()),
    }
}

fn profile_text(row: &RecordBatch) -> String {
    let mut table = Table::new(&["field", "value"]);
    for (field, column) in row.schema().fields().iter().zip(row.columns()) {
        let mut value = cell(column, 0);
        if value.chars().count() > 100 {
            value = value.chars().take(99).chain(['…']).collect();
        }
        table.row([field.name().clone(), value]);
    }
    table.render()
}

fn scores_text(scores: &RecordBatch, waterfalls: &BTreeMap<String, Waterfall>) -> String {
    let value = |name: &str, row: usize| {
        scores.column_by_name(name).map_or_else(|| "-".to_owned(), |column| cell(column, row))
    };
    let mut text = String::from("\nscores and what moves them\n");
    for row in 0..scores.num_rows() {
        text += &format!(
            "{} {} (basis {}, percentile {}, version {})\n",
            value("model", row),
            value("score", row),
            value("basis", row),
            value("percentile", row),
            value("version", row)
        );
        text += &format!("    {}\n", sentence(&score_row(scores, row)));
        match waterfalls.get(&value("model", row)) {
            Some(waterfall) => {
                text += &text::waterfall(waterfall);
                let score = scores.column_by_name("score");
                let score = score.and_then(|column| column.as_primitive_opt::<Float64Type>());
                if score.is_some_and(|s| (s.value(row) - waterfall.probability).abs() > SAME) {
                    text += "    the events or the profile have changed since they were scored, or --known-at was another\n";
                }
            }
            None => {
                for (feature, contribution) in pairs(scores, "reasons", row) {
                    text += &format!("    {contribution:+.3}  {feature}\n");
                }
            }
        }
    }
    text
}

/// One row of the scores, as sentences need it.
fn score_row(scores: &RecordBatch, row: usize) -> ScoreRow {
    let number = |name: &str| {
        let column = scores.column_by_name(name)?.as_primitive_opt::<Float64Type>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let basis = scores.column_by_name("basis").map_or_else(String::new, |c| cell(c, row));
    ScoreRow {
        score: number("score"),
        percentile: number("percentile"),
        basis,
        reasons: pairs(scores, "reasons", row),
        parts: pairs(scores, "parts", row).into_iter().collect(),
    }
}

/// A list of names with numbers.
fn pairs(scores: &RecordBatch, name: &str, row: usize) -> Vec<(String, f64)> {
    let list = scores.column_by_name(name).and_then(|column| column.as_list_opt::<i32>());
    let Some(list) = list else { return Vec::new() };
    let values = list.value(row);
    let Some(values) = values.as_struct_opt() else { return Vec::new() };
    let names = values.column(0).as_string::<i32>();
    let numbers = values.column(1).as_primitive::<Float64Type>();
    (0..values.len()).map(|i| (names.value(i).to_owned(), numbers.value(i))).collect()
}

fn columns_text(rows: &RecordBatch, names: &[&str]) -> String {
    let mut table = Table::new(names);
    for row in 0..rows.num_rows() {
        table.row(
            names
                .iter()
                .map(|name| rows.column_by_name(name).map_or_else(String::new, |c| cell(c, row))),
        );
    }
    table.render()
}

fn objects(rows: &RecordBatch) -> Vec<Value> {
    let names = || rows.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
    let object = |row: usize| {
        let values = rows.columns().iter().map(|column| value(column, row));
        names().into_iter().zip(values).collect::<Map<_, _>>().into()
    };
    (0..rows.num_rows()).map(object).collect()
}

/// One cell as JSON; what JSON has no type for, exact decimals among it, is text.
fn value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::Int32 => json!(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => json!(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => json!(array.as_primitive::<Float64Type>().value(row)),
        DataType::List(_) => values(&array.as_list::<i32>().value(row)),
        DataType::FixedSizeList(..) => values(&array.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let pairs = fields.iter().zip(columns);
            pairs.map(|(f, c)| (f.name().clone(), value(c, row))).collect::<Map<_, _>>().into()
        }
        _ => json!(cell(array, row)),
    }
}

fn values(array: &ArrayRef) -> Value {
    (0..array.len()).map(|row| value(array, row)).collect()
}

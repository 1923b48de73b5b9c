//! The command `explain`: one customer's profile, scores with reasons, segments and recommendations.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use serde_json::{Map, Value, json};

use super::published::{ScoredAsOf, rows_of, scored_at, unknown_customer};
use super::{reading, scattering, shards};
use crate::artifact::{Artifact, Trained};
use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::events::Events;
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::scanned::ScannedEvents;
use crate::report::rows::{cell, columns_text, objects};
use crate::report::sentences::{
    Membership, ScoreKind, ScoreRow, affinity, membership, recommendation, sentence,
};
use crate::report::{Output, Table, text};
use crate::scoring::champions::Champions;
use crate::scoring::tables::pairs;
use crate::scoring::waterfall::Waterfall;
use crate::shard::{self, Shard, Shards};
use crate::sources::attributes::Attributes;
use crate::sources::profile::{Entities, KEY};
use crate::store::{Root, Store, unless_damaged};
use crate::time::Instant;

/// Scores that differ by at most this much are considered equal.
const SAME: f64 = 1e-9;

/// Shows the profile, the scores with reasons, the segments and the recommendations of one customer. They are
/// those of the current profile, or those of `at` if that instant was scored.
pub fn explain(project: &Project, id: &str, at: Option<Instant>) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let as_of = scored_at(&root, at)?;
    let date = as_of.folder();
    let table = |name: &str| rows_of(&store, &root, &format!("{name}/as_of={date}"), id);
    let Some(row) = table("profile")? else {
        return Err(unknown_customer(as_of, id));
    };
    let (scores, segments, items) =
        (table("scores")?, table("segments")?, table("recommendations")?);
    let mut text = format!("{id} as of {as_of}\n\n");
    text += &profile_text(&row);
    let mut json = Map::new();
    json.insert("as_of".into(), json!(as_of));
    json.insert("profile".into(), json!(objects(&row).pop()));
    if let Some(scores) = &scores {
        let artifacts = artifacts(&store, &root, scores)?;
        let waterfalls = waterfalls(project, &store, id, as_of, scores, &artifacts)?;
        text += &scores_text(scores, &artifacts, &waterfalls);
        json.insert("scores".into(), json!(objects(scores)));
        json.insert("waterfalls".into(), json!(waterfalls));
    }
    if let Some(segments) = &segments {
        let names = ["segment", "is_primary", "since", "reason", "previous_primary"];
        text += &format!("\nsegments\n{}", columns_text(segments, &names));
        let reasons = memberships(project, id, as_of, segments)?;
        reasons.iter().for_each(|reason| text += &format!("{reason}\n"));
        json.insert("segments".into(), json!(objects(segments)));
        json.insert("segment_reasons".into(), json!(reasons));
    }
    if let Some(of_affinity) = of_affinity(&row) {
        text += &format!("\n{of_affinity}\n");
        json.insert("affinity".into(), json!(of_affinity));
    }
    if let Some(items) = &items {
        let names = ["rank", "item", "score", "percentile"];
        text += &format!("\nrecommendations\n{}", columns_text(items, &names));
        let reasons = recommended(items);
        reasons.iter().for_each(|reason| text += &format!("{reason}\n"));
        json.insert("recommendations".into(), json!(objects(items)));
        json.insert("recommendation_reasons".into(), json!(reasons));
    }
    Ok(Output { text, json: Value::Object(json) })
}

/// Renders a sentence for each segment of the customer. The values that decided are left out if the rule has
/// changed since the customer was scored.
fn memberships(
    project: &Project,
    id: &str,
    at: Instant,
    rows: &RecordBatch,
) -> Result<Vec<String>> {
    let scored = ScoredAsOf::open(project, Some(at));
    let seen = unless_damaged(scored.and_then(|scored| scored.customer(id)))?;
    let seen = seen.map(|published| published.frame);
    let text = |name: &str, row: usize| {
        rows.column_by_name(name).map_or_else(String::new, |column| cell(column, row))
    };
    let value = |name: &str| {
        let column = seen.as_ref()?.column_by_name(name)?;
        Some((name.to_owned(), cell(column, 0)))
    };
    let sentence = |row: usize| {
        let name = text("segment", row);
        let rule = project.segments.rules.iter().find(|rule| rule.spec.name == name);
        let known = rule.filter(|rule| rule.version == text("rule", row));
        let values = known.map_or_else(Vec::new, |rule| {
            let condition = if text("reason", row) == "enter" { &rule.enter } else { &rule.stay };
            condition.columns().into_iter().filter_map(value).collect()
        });
        membership(&Membership {
            name: &name,
            description: rule.map_or("", |rule| rule.spec.description.as_str()),
            otherwise: name == project.segments.otherwise,
            since: text("since", row).chars().take(10).collect(),
            reason: &text("reason", row),
            min_dwell: known.and_then(|rule| rule.spec.min_dwell),
            values,
        })
    };
    Ok((0..rows.num_rows()).map(sentence).collect())
}

/// Renders a sentence on the recommendation vector and the interests of a profile row.
fn of_affinity(row: &RecordBatch) -> Option<String> {
    let list = |name: &str| {
        let column = row.column_by_name(name).and_then(|column| column.as_list_opt::<i32>())?;
        column.is_valid(0).then(|| column.value(0))
    };
    let texts = |name: &str| -> Vec<String> {
        let values = list(name);
        let texts = values.as_ref().and_then(|values| values.as_string_opt::<i32>());
        texts.map_or_else(Vec::new, |t| t.iter().flatten().map(str::to_owned).collect())
    };
    let filled = texts("filled_fields").iter().any(|name| name == "interests");
    affinity(list("recommendation_vector").map_or(0, |v| v.len()), &texts("interests"), filled)
}

/// Renders a sentence for each recommendation.
fn recommended(rows: &RecordBatch) -> Vec<String> {
    let text = |name: &str, row: usize| {
        let column = rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
    };
    let percentile = |row: usize| {
        let column = rows.column_by_name("percentile")?.as_primitive_opt::<Float64Type>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let sentence = |row: usize| {
        recommendation(
            text("item", row)?,
            text("reason", row)?,
            text("because", row),
            percentile(row),
        )
    };
    (0..rows.num_rows()).filter_map(sentence).collect()
}

/// Loads the version that computed each row of scores. It is None where the version cannot be loaded.
///
/// # Errors
/// Returns an error if a version is damaged.
fn artifacts(store: &Store, root: &Root, scores: &RecordBatch) -> Result<Vec<Option<Artifact>>> {
    let text = |name: &str, row: usize| {
        scores.column_by_name(name).map_or_else(String::new, |column| cell(column, row))
    };
    let load = |row| {
        let (model, version) = (text("model", row), text("version", row));
        unless_damaged(Artifact::load(store, root, &model, &version))
    };
    (0..scores.num_rows()).map(load).collect()
}

/// Explains the logits of one customer, by model. The features are computed again from the events by the
/// versions that scored. A version that cannot be loaded has no explanation.
fn waterfalls(
    project: &Project,
    store: &Store,
    id: &str,
    at: Instant,
    scores: &RecordBatch,
    artifacts: &[Option<Artifact>],
) -> Result<BTreeMap<String, Waterfall>> {
    let mut champions = Champions::default();
    let basis = scores.column_by_name("basis");
    for (row, artifact) in artifacts.iter().enumerate() {
        if basis.is_some_and(|basis| cell(basis, row) == "model") {
            artifact.iter().for_each(|artifact| champions.add(artifact.clone()));
        }
    }
    let mut waterfalls = BTreeMap::new();
    if champions.classifiers.is_empty() {
        return Ok(waterfalls);
    }
    let scratch = tempfile::tempdir().map_err(Error::io("write", std::env::temp_dir()))?;
    let names = champions.attributes(&project.profile);
    let attributes = match names.is_empty() {
        true => Attributes::default(),
        false => {
            let shards = shards(project, &mut store.root()?);
            let scattering = scattering(project, shards, scratch.path(), &[]);
            let wanted = |name: &str| name == KEY || names.contains(&name);
            let profile = project.profile.scatter(scattering, &wanted)?;
            let own = shards.shard(shards.index(shard::hash(id)));
            Attributes::of(&profile.rows(own)?, &names)?
        }
    };
    let as_of = AsOf { at, known_at: project.known_at.unwrap_or(at) };
    let classifiers = champions.classifiers.iter();
    let plans: Vec<FeaturePlan> = classifiers
        .map(|c| c.artifact.plan(FeaturePlan::new(c.name.as_str(), vec![as_of])))
        .collect();
    let entities = Entities { keys: vec![id.to_owned()], created_at: vec![None] };
    let reading = reading(project, Shards::ONE, scratch.path());
    let source = project.events.of_customers([id.to_owned()].into());
    let events = ScannedEvents::read(&source, &plans, reading)?;
    let rows = events.shard(Shard::ALL, &entities)?;
    for champion in &champions.classifiers {
        let rows = rows.one(&champion.name)?;
        let waterfall = Waterfall::of(&champion.artifact, rows, &attributes)?;
        waterfalls.extend(waterfall.map(|waterfall| (champion.name.clone(), waterfall)));
    }
    Ok(waterfalls)
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

/// The kind of score that a version gives. It is None for an affinity model, which gives no score.
fn kind(artifact: &Artifact) -> Option<ScoreKind> {
    Some(match artifact.model {
        Trained::Classifier(_) => ScoreKind::Probability,
        Trained::Engagement(_) => ScoreKind::Engagement,
        Trained::Rfm(_) => ScoreKind::Rfm,
        Trained::LifetimeValue(_) => ScoreKind::LifetimeValue,
        Trained::Affinity(_) => return None,
    })
}

fn scores_text(
    scores: &RecordBatch,
    artifacts: &[Option<Artifact>],
    waterfalls: &BTreeMap<String, Waterfall>,
) -> String {
    let value = |name: &str, row: usize| {
        scores.column_by_name(name).map_or_else(|| "-".to_owned(), |column| cell(column, row))
    };
    let mut text = String::from("\nscores and what moves them\n");
    for (row, artifact) in artifacts.iter().enumerate() {
        text += &format!(
            "{} {} (basis {}, percentile {}, version {})\n",
            value("model", row),
            value("score", row),
            value("basis", row),
            value("percentile", row),
            value("version", row)
        );
        if let Some(kind) = artifact.as_ref().and_then(kind) {
            text += &format!("    {}\n", sentence(kind, &score_row(scores, row)));
        }
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
                let is_modeled = value("basis", row) == "model";
                for (feature, contribution) in pairs(scores, "reasons", row) {
                    text += &match is_modeled {
                        true => format!("    {contribution:+.3}  {feature}\n"),
                        false => format!("    {feature}\n"),
                    };
                }
            }
        }
    }
    text
}

/// Converts one row of the scores to the form that sentences need.
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

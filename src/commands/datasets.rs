//! The datasets that a run reads and writes, for lineage backends.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::lineage::raw_columns;
use crate::config::Project;
use crate::error::Result;
use crate::export::openlineage::Dataset;
use crate::expression::polars::arrow_type;
use crate::features::catalog::{Definition, Feature};
use crate::features::snapshot;
use crate::schema::{Origin, PROFILE, ProfileField, type_name};
use crate::scoring::summary::RunMetrics;
use crate::sources::contract::{Check, Status};
use crate::sources::files::RawTable;
use crate::store::bucket::resolve;
use crate::store::{Root, Store};
use crate::time::Instant;

/// The tables of an as-of that scoring writes.
const SCORED: [&str; 5] = ["profile", "scores", "segments", "segment_changes", "recommendations"];

/// The profile fields that are derived from other ones of the source.
const DERIVED: [(&str, &[&str]); 2] =
    [("full_name", &["first_name", "last_name"]), ("age", &["date_of_birth"])];

/// What a run reads and writes.
#[derive(Debug, Default)]
pub struct Datasets {
    /// The sources.
    pub inputs: Vec<Dataset>,
    /// The tables of the as-of that are live, and the versions in use, as far as the command writes them.
    pub outputs: Vec<Dataset>,
}

/// The sources of a project, which every run reads.
pub fn inputs(project: &Project) -> Vec<Dataset> {
    Sources { project }.inputs(&[])
}

/// The datasets of a project as of an instant, after a command has ended: its outputs are those that it writes.
///
/// # Errors
/// Returns an error if the store cannot be read.
pub fn datasets(project: &Project, command: &str, as_of: Instant) -> Result<Datasets> {
    let (scores, trains) = (["score", "run"], ["train", "run"]);
    let (scores, trains) = (scores.contains(&command), trains.contains(&command));
    let store = project.store()?;
    let root = store.root()?;
    let last = metrics(&store, &root, as_of)?;
    let checks = last.as_ref().map_or(&[][..], |metrics| &metrics.checks);
    let customers = last.as_ref().map(|metrics| metrics.customers as u64);
    let sources = Sources { project };
    let mut outputs = Vec::new();
    for table in SCORED.into_iter().filter(|_| scores) {
        let folder = format!("{table}/as_of={}", as_of.folder());
        let rows = customers.filter(|_| table == "profile");
        let Some(dataset) = written(&store, &root, table, &folder, rows)? else { continue };
        outputs.push(if table == "profile" { sources.profile(dataset) } else { dataset });
    }
    for view in project.catalog.views.iter().filter(|_| scores || !trains) {
        let (name, folder) =
            (format!("features/{}", view.name), snapshot::folder(&view.name, as_of));
        if let Some(dataset) = written(&store, &root, &name, &folder, None)? {
            outputs.push(sources.view(dataset, &view.name));
        }
    }
    for (model, version) in root.champions.iter().filter(|_| trains) {
        outputs.push(Dataset::at(&store.beside(&format!("models/{model}"))).version(version));
    }
    Ok(Datasets { inputs: sources.inputs(checks), outputs })
}

/// The numbers of the run that scored an as-of, if it was scored last.
fn metrics(store: &Store, root: &Root, as_of: Instant) -> Result<Option<RunMetrics>> {
    let current = root.profile.as_ref().filter(|profile| profile.as_of == as_of);
    let name = current.map(|profile| format!("runs/{}/metrics.json", profile.run));
    match name {
        Some(name) if store.has(root, &name)? => store.read_json(root, &name).map(Some),
        _ => Ok(None),
    }
}

/// A table of the store with what is live of it; `None` if nothing is.
fn written(
    store: &Store,
    root: &Root,
    name: &str,
    folder: &str,
    rows: Option<u64>,
) -> Result<Option<Dataset>> {
    let files = store.below(root, folder)?;
    let mut bytes = 0;
    for file in &files {
        bytes += store.live(root, file)?.map_or(0, |live| live.bytes);
    }
    let dataset = || {
        let dataset = Dataset::at(&store.beside(name)).version(&root.number.to_string());
        dataset.written(rows, bytes, files.len())
    };
    Ok((!files.is_empty()).then(dataset))
}

/// The sources of a project, as datasets.
struct Sources<'a> {
    project: &'a Project,
}

impl Sources<'_> {
    /// The dataset at a path of `c360.toml`. Of a glob it is the folder before the first wildcard.
    fn at(&self, path: &str) -> Dataset {
        let fixed = path.split('/').take_while(|part| !part.contains(['*', '?', '[']));
        let fixed = fixed.collect::<Vec<_>>().join("/");
        Dataset::at(&resolve(&self.project.root, Path::new(&fixed)))
    }

    fn events(&self) -> Dataset {
        self.at(&self.project.settings.sources.events.path)
    }

    fn inputs(&self, checks: &[Check]) -> Vec<Dataset> {
        let sources = &self.project.settings.sources;
        let read = |dataset: Dataset, table: &RawTable, source: &str| {
            let columns = table.schema.fields().iter();
            let columns =
                columns.map(|field| (field.name().clone(), type_name(field.data_type(), false)));
            let mut dataset = dataset.schema(columns).read(table.rows, table.files.len());
            if let Some(delta) = &table.delta {
                dataset = dataset.version(&delta.version.to_string());
            }
            let own = checks.iter().filter(|check| check.source == source);
            let own = own.map(|check| {
                let severity = if check.status == Status::Warning { "warn" } else { "error" };
                (&*check.check, check.status == Status::Ok, severity, &*check.found)
            });
            dataset.checked(own)
        };
        let mut inputs = vec![read(self.events(), &self.project.events.table, "events")];
        if let Some(profile) = &sources.profile {
            inputs.push(read(self.at(&profile.path), &self.project.profile.table, "profile"));
        }
        for lookup in &self.project.events.lookups {
            let path = &sources.events.lookups[&lookup.name].path;
            inputs.push(read(self.at(path), &lookup.table, ""));
        }
        inputs
    }

    /// The columns of event files and lookups that definitions are computed from.
    fn computed<'d>(&self, definitions: impl IntoIterator<Item = &'d Definition>) -> Vec<Value> {
        self.columns(raw_columns(self.project, definitions), "AGGREGATION")
    }

    fn columns(&self, columns: BTreeSet<String>, how: &str) -> Vec<Value> {
        let sources = &self.project.settings.sources;
        let of = |column: String| {
            let joined = column.split_once('.').and_then(|(lookup, column)| {
                Some(self.at(&sources.events.lookups.get(lookup)?.path).column(column, how))
            });
            joined.unwrap_or_else(|| self.events().column(&column, how))
        };
        columns.into_iter().map(of).collect()
    }

    /// The columns that features are computed from.
    fn features<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<Value> {
        let closure = self.project.catalog.closure(&names.into_iter().collect());
        self.computed(closure.into_iter().map(|feature| &feature.definition))
    }

    fn view(&self, dataset: Dataset, view: &str) -> Dataset {
        let features: Vec<&Feature> = self.project.catalog.of_view(view).collect();
        let scale = self.project.settings.project.money_scale;
        let typed = features.iter().map(|feature| {
            (feature.column().to_owned(), type_name(&arrow_type(feature.ty(), scale), false))
        });
        let from = features
            .iter()
            .map(|feature| (feature.column().to_owned(), self.features([feature.column()])));
        dataset.schema(typed).column_lineage(from)
    }

    fn profile(&self, dataset: Dataset) -> Dataset {
        let columns = PROFILE.iter().map(|field| (field.name.to_owned(), field.type_name(false)));
        let from = PROFILE.iter().map(|field| (field.name.to_owned(), self.field(field)));
        dataset.schema(columns).column_lineage(from)
    }

    /// The columns that a profile field is computed from.
    fn field(&self, field: &ProfileField) -> Vec<Value> {
        let (project, models) = (self.project, &self.project.models);
        let mut from = Vec::new();
        if let Some(profile) = &project.settings.sources.profile {
            let dataset = self.at(&profile.path);
            let (columns, how) = project.profile.sources_of(field.name);
            from.extend(columns.iter().map(|column| dataset.column(column, how)));
            let others = DERIVED.iter().filter(|(name, _)| *name == field.name);
            for other in others.flat_map(|(_, others)| *others) {
                let (columns, _) = project.profile.sources_of(other);
                let columns = columns.iter().map(|column| dataset.column(column, "TRANSFORMATION"));
                from.extend(columns);
            }
        }
        let writes = |feature: &&Feature| feature.writes.as_deref() == Some(field.name);
        from.extend(
            self.features(project.catalog.features.iter().filter(writes).map(Feature::column)),
        );
        for model in models.classifiers.iter().filter(|model| model.spec.writes == field.name) {
            from.extend(self.features(model.inputs.iter().map(String::as_str)));
        }
        match field.name {
            "lifetime_value" => {
                let definitions = models.lifetime_value.iter().flat_map(|model| &model.definitions);
                from.extend(self.computed(definitions));
            }
            "engagement_score" => {
                let sums = models.engagement.iter().flat_map(|model| &model.aggregations);
                let sums: Vec<Definition> = sums.cloned().map(Definition::Aggregation).collect();
                from.extend(self.computed(&sums));
            }
            "recommendation_vector" => {
                let read = models
                    .affinity
                    .iter()
                    .flat_map(|model| [&model.interactions.item, &model.interactions.weight]);
                let raw = read.flat_map(|expression| {
                    let raw = project.events.raw(expression);
                    raw.columns().into_iter().map(str::to_owned).collect::<Vec<_>>()
                });
                from.extend(self.columns(raw.collect(), "AGGREGATION"));
            }
            "segments" | "primary_segment" => {
                let rules = project.segments.rules.iter();
                let rules = rules.flat_map(|rule| [&rule.enter, &rule.stay]);
                let read: BTreeSet<&str> = rules.flat_map(|rule| rule.columns()).collect();
                from.extend(self.features(read.iter().copied()));
                // A rule over a score reads what the score is computed from.
                let scores = PROFILE
                    .iter()
                    .filter(|score| score.origin == Origin::Modeled && read.contains(score.name));
                from.extend(scores.flat_map(|score| self.field(score)));
            }
            _ => {}
        }
        let mut distinct: Vec<Value> = Vec::new();
        for column in from {
            if !distinct.contains(&column) {
                distinct.push(column);
            }
        }
        distinct
    }
}

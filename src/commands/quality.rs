//! Whether snapshots hold to the expectations of their views, and where they go.
//!
//! A snapshot of which any view breaks an expectation is not published: what was live at its as-of stays,
//! and what was computed is kept in quarantine until a later run publishes the as-of.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::RecordBatch;

use super::snapshot::{ComputedViews, LIVE, QUARANTINE, folder, write_views};
use crate::config::Project;
use crate::error::Result;
use crate::features::catalog::View;
use crate::features::drift::Drift;
use crate::features::expectation::{Against, Earlier, Expectation, Outcome, Rule, judge, numbers};
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::registry::{self, Snapshot};
use crate::report::{Table, thousands};
use crate::scoring::classifier::drifts;
use crate::sources::attributes::Attributes;
use crate::sources::contract::{Check, Checks, Status};
use crate::store::parquet::read;
use crate::store::{Root, Store, Transaction};
use crate::time::Instant;
use crate::training::artifact::{Artifact, ClassifierArtifact, Trained};

/// By column when a snapshot was, and its values, NaN for none.
type Columns = BTreeMap<String, (Instant, Vec<f64>)>;

/// Holds one snapshot after the other, in the order of their as-ofs, to its expectations, and writes it where
/// it then belongs.
#[derive(Debug, Default)]
pub struct Gate {
    /// By view what this run has published last of the columns that are compared.
    published: BTreeMap<String, (Instant, Columns)>,
    /// Of all snapshots so far.
    pub outcome: Outcome,
}

impl Gate {
    /// Judges and writes some views of a snapshot; `models` says how far the inputs of classifiers have
    /// moved. None where it went to quarantine.
    pub fn pass(
        &mut self,
        transaction: &mut Transaction,
        project: &Project,
        computed: ComputedViews<'_>,
        models: BTreeMap<String, Vec<Drift>>,
    ) -> Result<Option<Vec<Snapshot>>> {
        let ComputedViews { views: names, as_of, rows, .. } = computed;
        let views = || project.catalog.views.iter().filter(|v| names.contains(v.name.as_str()));
        let mut earlier = Earlier { models, ..Earlier::default() };
        let mut outcome = Outcome::default();
        for view in views() {
            earlier.previous = self.previous(transaction, project, view, as_of.at);
            let of_view = (view.name.as_str(), view.expectations.as_slice());
            outcome.add(judge(of_view, as_of.at, rows.batches(), &earlier)?);
        }
        let is_kept = outcome.breaches.is_empty();
        self.outcome.add(outcome);
        if !is_kept {
            write_views(transaction, project, computed, QUARANTINE)?;
            return Ok(None);
        }
        for view in views() {
            let own =
                |column: &str| Ok((column.to_owned(), (as_of.at, values(rows.batches(), column)?)));
            let columns = compared(view).map(own).collect::<Result<_>>()?;
            self.published.insert(view.name.clone(), (as_of.at, columns));
            transaction.replace(&format!("{QUARANTINE}{}", folder(&view.name, as_of)));
            transaction.remove(&format!("{QUARANTINE}{}", registry::path(&view.name, as_of.at)));
        }
        write_views(transaction, project, computed, LIVE).map(Some)
    }

    /// The columns of the latest snapshot before `at`, as far as the same definitions have computed them.
    fn previous(
        &self,
        transaction: &Transaction,
        project: &Project,
        view: &View,
        at: Instant,
    ) -> Columns {
        let columns: BTreeSet<&str> = compared(view).collect();
        if columns.is_empty() {
            return Columns::new();
        }
        let (store, root) = (transaction.store(), &transaction.root);
        let table = format!("features/{}", view.name);
        let as_ofs = root.as_ofs(&table).into_iter().filter_map(Instant::from_folder);
        let stored = as_ofs.filter(|then| *then < at).max();
        if let Some((then, own)) = self.published.get(&view.name)
            && stored.is_none_or(|stored| stored <= *then)
        {
            return own.clone();
        }
        let record = stored.map(|then| (then, registry::path(&view.name, then)));
        let Some((then, record)) = record.filter(|(_, path)| root.files.contains_key(path)) else {
            return Columns::new();
        };
        // Tonight's features are none the worse for a damaged snapshot of another night.
        read_columns(project, store, root, view, (then, &record), &columns).unwrap_or_else(
            |error| {
                tracing::warn!(
                    "nothing is compared with {} at {}: {error}",
                    view.name,
                    then.folder()
                );
                Columns::new()
            },
        )
    }
}

/// Some columns of a stored snapshot, as far as the definitions of now have computed them.
fn read_columns(
    project: &Project,
    store: &Store,
    root: &Root,
    view: &View,
    (then, record): (Instant, &str),
    columns: &BTreeSet<&str>,
) -> Result<Columns> {
    let record: Snapshot = store.read_json(record)?;
    let moved: BTreeSet<&str> = record.outdated(&project.catalog).map(|f| f.column()).collect();
    let columns: Vec<&str> = columns.difference(&moved).copied().collect();
    let mut batches: Vec<RecordBatch> = Vec::new();
    for file in root.below(&folder(&view.name, AsOf::at(then))) {
        batches.extend(read(&store.file(file), Some(&columns))?);
    }
    let column = |column: &str| Ok((column.to_owned(), (then, values(&batches, column)?)));
    columns.into_iter().map(column).collect()
}

/// Columns that are compared with the snapshot before.
fn compared(view: &View) -> impl Iterator<Item = &str> {
    view.expectations.iter().filter_map(|Expectation { column, rule }| match rule {
        Rule::MaxPsi { against: Against::Previous, .. } => Some(column.as_str()),
        _ => None,
    })
}

fn values(batches: &[RecordBatch], column: &str) -> Result<Vec<f64>> {
    let arrays = batches.iter().filter_map(|rows| rows.column_by_name(column));
    Ok(arrays.map(numbers).collect::<Result<Vec<_>>>()?.concat())
}

/// A version of a classifier that columns are compared with, and the as-ofs that it would score.
pub struct Reference {
    model: String,
    version: String,
    artifact: ClassifierArtifact,
    as_ofs: BTreeSet<AsOf>,
}

impl Reference {
    /// The versions of all classifiers that expectations name, for some as-ofs.
    pub fn find(project: &Project, store: &Store, as_ofs: &[AsOf]) -> Result<Vec<Self>> {
        let mut found: BTreeMap<(String, String), Self> = BTreeMap::new();
        let all = project.catalog.views.iter().flat_map(|view| &view.expectations);
        let models: BTreeSet<&str> = all
            .filter_map(|expectation| match &expectation.rule {
                Rule::MaxPsi { against: Against::Model(model), .. } => Some(model.as_str()),
                _ => None,
            })
            .collect();
        if models.is_empty() {
            return Ok(Vec::new());
        }
        let root = store.root()?;
        for model in models {
            for as_of in as_ofs {
                let Some(artifact) = Artifact::usable(store, &root, model, *as_of)? else {
                    continue;
                };
                let Trained::Classifier(trained) = artifact.model else { continue };
                let key = (model.to_owned(), artifact.version.clone());
                let new = || Self {
                    model: model.to_owned(),
                    version: artifact.version,
                    artifact: *trained,
                    as_ofs: BTreeSet::new(),
                };
                found.entry(key).or_insert_with(new).as_ofs.insert(*as_of);
            }
        }
        Ok(found.into_values().collect())
    }

    /// What must be computed for those of `as_ofs` that are its own.
    pub fn plan(&self, as_ofs: &[AsOf]) -> FeaturePlan {
        let own = as_ofs.iter().filter(|as_of| self.as_ofs.contains(as_of)).copied().collect();
        self.artifact.plan(FeaturePlan::new(self.plan_name(), own))
    }

    /// The name of its plan.
    pub fn plan_name(&self) -> String {
        format!("{} {}", self.model, self.version)
    }

    /// How far its inputs have moved, by what was computed for one as-of.
    pub fn drifts(&self, project: &Project, rows: &[RecordBatch]) -> Result<(String, Vec<Drift>)> {
        // Only features are compared, no attributes of the profile.
        let drifts = drifts(&self.artifact, rows, &Attributes::default(), &project.events)?;
        Ok((self.model.clone(), comparable(project, &self.artifact, &drifts)))
    }
}

/// The drifts of features that a version computes as the project does now: of others it says nothing.
pub fn comparable(
    project: &Project,
    artifact: &ClassifierArtifact,
    drifts: &[Drift],
) -> Vec<Drift> {
    let moved: BTreeSet<&str> = artifact.moved_definitions(&project.catalog).collect();
    let is_same = |drift: &&Drift| {
        let from = project.catalog.closure(&BTreeSet::from([drift.column.as_str()]));
        from.iter().all(|feature| !moved.contains(feature.column()))
    };
    drifts.iter().filter(is_same).cloned().collect()
}

/// What came of the expectations, for people; empty where there are none.
pub fn text(project: &Project, outcome: &Outcome) -> String {
    let Outcome { held, breaches, unchecked } = outcome;
    if breaches.is_empty() && unchecked.is_empty() && *held == 0 {
        return String::new();
    }
    let mut text = String::new();
    if !breaches.is_empty() {
        let names = ["as of", "view", "column", "expected", "found", "customers", "for example"];
        let mut table = Table::new(&names);
        for breach in breaches {
            table.row([
                &breach.as_of.folder(),
                &breach.view,
                &breach.column,
                &breach.expected,
                &breach.found,
                &breach.customers.map_or_else(|| "-".to_owned(), thousands),
                breach.example.as_deref().unwrap_or("-"),
            ]);
        }
        text += &format!("\n{}\n", table.render());
    }
    text += &format!(
        "expectations: {} hold, {} broken, {} could not be checked\n",
        thousands(*held),
        thousands(breaches.len() as u64),
        thousands(unchecked.len() as u64)
    );
    if let Some(first) = unchecked.first() {
        text += &format!("could not be checked, the first: {first}\n");
    }
    if !breaches.is_empty() {
        text += &format!(
            "what is broken was not published; it is in {}/{QUARANTINE}features/<view>/as_of=<as of>/\n",
            project.settings.project.store
        );
    }
    text
}

/// What came of the expectations, for the report of a run that keeps them; none where there are none.
pub fn checks(outcome: &Outcome) -> Vec<Check> {
    let mut checks = Checks::new("features");
    if outcome.held > 0 {
        checks.add("expectations of the views that hold", outcome.held, Status::Ok, "");
    }
    for unchecked in &outcome.unchecked {
        checks.add("an expectation that could not be checked", unchecked, Status::Warning, "");
    }
    checks.list
}

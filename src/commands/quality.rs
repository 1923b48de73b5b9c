//! Checks snapshots against the expectations of their views.
//!
//! If any view breaks an expectation at an as-of, none of the views is published there. The live snapshots of
//! the as-of stay as they are, and the computed ones are kept in quarantine until a later run publishes the
//! as-of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use arrow_array::{ArrayRef, RecordBatch};

use crate::artifact::{Artifact, ClassifierArtifact, Trained};
use crate::config::Project;
use crate::error::Result;
use crate::features::catalog::View;
use crate::features::drift::{Distribution, Drift, drift};
use crate::features::expectation::{
    Against, ComparedColumn, Earlier, Expectation, Judgement, Rule, Tally, judge,
};
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::registry::{self, SnapshotRecord};
use crate::features::snapshot::folder;
use crate::report::{Table, thousands};
use crate::scoring::classifier::{drifts, empty_bins};
use crate::shard::Shard;
use crate::sources::attributes::Attributes;
use crate::sources::contract::{Check, Checks, Status};
use crate::store::parquet::read;
use crate::store::{Store, Transaction};
use crate::time::Instant;

/// The prefix of quarantined files, in front of `features/` and `registry/`.
pub const QUARANTINE: &str = "quarantine/";

/// Checks snapshots against their expectations, in the order of their as-ofs.
pub struct ExpectationCheck<'a> {
    project: &'a Project,
    folder: PathBuf,
    /// The values that are compared with another snapshot, by view, as-of and column.
    compared: BTreeMap<(&'a str, Instant, &'a str), ComparedColumn>,
    /// The latest as-of that this run has published, by view.
    published: BTreeMap<&'a str, Instant>,
}

impl<'a> ExpectationCheck<'a> {
    /// Creates a check for the views that are `open`.
    pub fn new<'b>(
        project: &'a Project,
        transaction: &Transaction,
        open: impl Iterator<Item = (Instant, &'b BTreeSet<&'a str>)>,
    ) -> Result<Self>
    where
        'a: 'b,
    {
        let folder = transaction.scratch().to_owned();
        let shards = transaction.root.shards.map_or(1, |shards| shards.count());
        let mut compared = BTreeMap::new();
        for (at, views) in open {
            for view in project.catalog.views.iter().filter(|v| views.contains(v.name.as_str())) {
                for column in columns(view) {
                    let values = ComparedColumn::create(&folder, shards)?;
                    compared.insert((view.name.as_str(), at, column), values);
                }
            }
        }
        Ok(Self { project, folder, compared, published: BTreeMap::new() })
    }

    /// Collects from the rows of a view in one shard what its expectations need.
    pub fn look(
        &self,
        view: &View,
        as_of: AsOf,
        shard: Shard,
        rows: &RecordBatch,
    ) -> Result<Tally> {
        for column in columns(view) {
            let array: Vec<ArrayRef> = rows.column_by_name(column).cloned().into_iter().collect();
            self.compared[&(view.name.as_str(), as_of.at, column)].put(shard.place(), &array)?;
        }
        Tally::of(&view.expectations, rows)
    }

    /// Judges a view by its expectations. All shards of its as-of and of earlier as-ofs must have been passed
    /// to [`ExpectationCheck::look`].
    pub fn judge(
        &self,
        transaction: &Transaction,
        view: &View,
        as_of: AsOf,
        tally: &Tally,
        models: &BTreeMap<String, Vec<Drift>>,
    ) -> Result<Judgement> {
        let mut previous = BTreeMap::new();
        for (column, (then, before)) in self.previous(transaction, view, as_of.at)? {
            let now =
                self.compared[&(view.name.as_str(), as_of.at, column.as_str())].over(&before)?;
            let drift = drift(&column, &before, &now);
            previous.insert(column, (then, drift));
        }
        let earlier = Earlier { previous, models: models.clone() };
        Ok(judge((&view.name, &view.expectations), as_of.at, tally, &earlier))
    }

    /// Records that these views are published, so that later as-ofs are compared with them.
    pub fn published(&mut self, as_of: AsOf, views: &[&'a View]) {
        self.published.extend(views.iter().map(|view| (view.name.as_str(), as_of.at)));
    }

    /// Returns the distribution of each column in the latest snapshot before `at`, with the as-of of that
    /// snapshot. Columns that other definitions have computed are left out.
    fn previous(
        &self,
        transaction: &Transaction,
        view: &View,
        at: Instant,
    ) -> Result<BTreeMap<String, (Instant, Distribution)>> {
        let columns: BTreeSet<&str> = columns(view).collect();
        if columns.is_empty() {
            return Ok(BTreeMap::new());
        }
        let root = &transaction.root;
        let table = format!("features/{}", view.name);
        let as_ofs = root.as_ofs(&table).into_iter().filter_map(Instant::from_folder);
        let stored = as_ofs.filter(|then| *then < at).max();
        if let Some(then) = self.published.get(view.name.as_str()).copied()
            && stored.is_none_or(|stored| stored <= then)
        {
            let own = columns.into_iter().map(|column| {
                let values = &self.compared[&(view.name.as_str(), then, column)];
                Ok((column.to_owned(), (then, values.distribution()?)))
            });
            return own.collect();
        }
        let record = stored.map(|then| (then, registry::path(&view.name, then)));
        let Some((then, record)) = record else { return Ok(BTreeMap::new()) };
        if !transaction.store().has(root, &record)? {
            return Ok(BTreeMap::new());
        }
        // A damaged snapshot of another as-of is no fault of the features of this run.
        let read = self.read(transaction, view, (then, &record), &columns);
        Ok(read.unwrap_or_else(|error| {
            let date = then.folder();
            tracing::warn!("nothing is compared with {} at {date}: {error}", view.name);
            BTreeMap::new()
        }))
    }

    /// Reads some columns of a stored snapshot. Columns that other definitions have computed are left out.
    fn read(
        &self,
        transaction: &Transaction,
        view: &View,
        (then, record): (Instant, &str),
        columns: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, (Instant, Distribution)>> {
        let (store, root) = (transaction.store(), &transaction.root);
        let record: SnapshotRecord = store.read_json(root, record)?;
        let outdated = record.outdated(&self.project.catalog);
        let moved: BTreeSet<&str> = outdated.map(|feature| feature.column()).collect();
        let folder = folder(&view.name, then);
        let files = store.below(root, &folder)?;
        let names: Vec<&str> = columns.difference(&moved).copied().collect();
        let create = |_| ComparedColumn::create(&self.folder, files.len());
        let values = names.iter().map(create).collect::<Result<Vec<_>>>()?;
        for (run, file) in files.iter().enumerate() {
            let rows = read(&store.file(root, file)?, Some(&names))?;
            for (name, values) in names.iter().zip(&values) {
                let arrays = rows.iter().filter_map(|rows| rows.column_by_name(name).cloned());
                values.put(run, &arrays.collect::<Vec<_>>())?;
            }
        }
        let distributions = names.iter().zip(values);
        let of = |(name, values): (&&str, ComparedColumn)| {
            Ok(((*name).to_owned(), (then, values.distribution()?)))
        };
        distributions.map(of).collect()
    }
}

/// The columns of a view that are compared with the previous snapshot.
fn columns(view: &View) -> impl Iterator<Item = &str> {
    let compared = view.expectations.iter().filter_map(|Expectation { column, rule }| match rule {
        Rule::MaxPsi { against: Against::Previous, .. } => Some(column.as_str()),
        _ => None,
    });
    compared.collect::<BTreeSet<_>>().into_iter()
}

/// A version of a classifier that columns are compared with, and the as-ofs that it would score.
pub struct Reference {
    model: String,
    version: String,
    artifact: ClassifierArtifact,
    as_ofs: BTreeSet<AsOf>,
}

impl Reference {
    /// Finds the versions of all classifiers that expectations name, for some as-ofs.
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

    /// The plan of the version's features, for those of `as_ofs` that it would score.
    pub fn plan(&self, as_ofs: &[AsOf]) -> FeaturePlan {
        let own = as_ofs.iter().filter(|as_of| self.as_ofs.contains(as_of)).copied().collect();
        self.artifact.plan(FeaturePlan::new(self.plan_name(), own))
    }

    /// The name of the version's plan.
    pub fn plan_name(&self) -> String {
        format!("{} {}", self.model, self.version)
    }

    /// The index of an as-of among those of [`Reference::plan`], or None if another version scores it.
    pub fn place(&self, as_ofs: &[AsOf], as_of: AsOf) -> Option<usize> {
        let mut own = as_ofs.iter().filter(|as_of| self.as_ofs.contains(as_of));
        own.position(|own| *own == as_of)
    }

    /// Creates empty distributions of the version's inputs.
    pub fn empty(&self) -> Vec<Distribution> {
        empty_bins(&self.artifact)
    }

    /// Counts the version's inputs in the rows of a shard.
    pub fn count(&self, project: &Project, rows: &RecordBatch) -> Result<Vec<Distribution>> {
        // Only features are compared, not attributes of the profile.
        let scale = project.context().scale;
        crate::scoring::classifier::count(&self.artifact, rows, &Attributes::default(), scale)
    }

    /// Computes the drift of the version's inputs from the counts of all shards.
    pub fn drifts(&self, project: &Project, counted: &[Distribution]) -> (String, Vec<Drift>) {
        let drifts = drifts(&self.artifact, counted);
        (self.model.clone(), comparable(project, &self.artifact, &drifts))
    }
}

/// Selects the drifts of the features that the project still computes by the definitions of the version. The
/// other drifts say nothing about the project's features.
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

/// Renders the results of the expectations as text. The text is empty if there are no expectations.
pub fn text(project: &Project, verdict: &Judgement) -> String {
    let Judgement { held, breaches, unchecked } = verdict;
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
            "snapshots with broken expectations were not published; they are in {}/{QUARANTINE}features/<view>/as_of=<as of>/\n",
            project.settings.project.store
        );
    }
    text
}

/// The results of the expectations for the report of a run in which all of them hold.
pub fn checks(verdict: &Judgement) -> Vec<Check> {
    let mut checks = Checks::new("features");
    if verdict.held > 0 {
        checks.add("expectations of the views that hold", verdict.held, Status::Ok, "");
    }
    for unchecked in &verdict.unchecked {
        checks.add("an expectation that could not be checked", unchecked, Status::Warning, "");
    }
    checks.list
}

//! The command `audit`: computes features of some customers again in two other ways, and compares every file of the store
//! with its checksum.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{CommandProblem, now, pages, reading};
use crate::config::Project;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::expression::Value;
use crate::features::audit::{AuditRecord, AuditedView, Values, attacked, is_same, naive, values};
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::registry::{self, SnapshotRecord};
use crate::report::sentences::of_audit;
use crate::report::{Output, Progress, Table, thousands};
use crate::shard::Shards;
use crate::sources::entity_rows::KEY;
use crate::store::parquet::read;
use crate::store::{FORMAT_VERSION, Root, Store};
use crate::time::Instant;

/// The number of differences that are printed.
const SHOWN: usize = 20;

/// What to audit.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The as-of; by default that of the current profile.
    pub at: Option<Instant>,
    /// The number of customers.
    pub sample: usize,
    /// Another seed chooses other customers.
    pub seed: u64,
}

/// A value of a snapshot that is another one when it is computed again.
struct Difference {
    view: String,
    customer: String,
    column: String,
    /// How it was computed again.
    by: &'static str,
    stored: Value,
    computed: Value,
}

/// Audits the snapshots of all views at an as-of. The exit status says whether nothing differs.
///
/// # Errors
/// Returns [`CommandProblem::NothingToAudit`] if no view has a snapshot at the as-of.
pub fn audit(project: &Project, asked: Asked, progress: &mut Progress) -> Result<(Output, Exit)> {
    let store = project.store()?;
    let root = store.root()?;
    let at = asked.at.or(root.profile.as_ref().map(|profile| profile.as_of));
    let at = at.map_or_else(|| project.as_of(), Ok)?;
    progress.stage("comparing checksums");
    let whole = store.verify(&root)?;
    let mut snapshots = snapshots(project, &store, &root, at)?;
    // What is damaged is told, and not computed with.
    let is_damaged = |folder: &str| {
        whole.damaged.iter().any(|path| path.to_string_lossy().contains(&format!("{folder}/")))
    };
    snapshots.retain(|snapshot| !is_damaged(&folder(snapshot)));
    progress.stage("choosing customers");
    let customers = sample(&store, &root, &snapshots, asked)?;
    let mut record = AuditRecord {
        format_version: FORMAT_VERSION,
        as_of: at,
        audited_at: now(),
        seed: asked.seed,
        customers: customers.len() as u64,
        views: Vec::new(),
        other_definitions: 0,
        future: 0,
        late: 0,
        files: whole.files,
        bytes: whole.bytes,
        damaged: whole.damaged.len() as u64,
    };
    let mut differences = Vec::new();
    let audited = Audited { project, store: &store, root: &root, customers: &customers };
    for (as_of, snapshots) in by_as_of(&snapshots) {
        let again = audited.again(as_of, &snapshots, &mut record, progress)?;
        for snapshot in snapshots {
            let (view, found) = audited.compare(snapshot, &again)?;
            record.views.push(view);
            differences.extend(found);
        }
    }
    progress.finish();
    publish(project, &store, &record)?;
    let output = printed(&record, &differences, &whole.damaged);
    Ok((output, Exit::Contract.unless(record.is_right())))
}

/// The records of the views that have a snapshot at the as-of.
fn snapshots(
    project: &Project,
    store: &Store,
    root: &Root,
    at: Instant,
) -> Result<Vec<SnapshotRecord>> {
    let views = project.catalog.views.iter();
    let paths = views.map(|view| registry::path(&view.name, at));
    let mut found = Vec::new();
    for path in paths {
        if store.has(root, &path)? {
            found.push(store.read_json(root, &path)?);
        }
    }
    if found.is_empty() {
        let all = project.catalog.views.iter().flat_map(|view| {
            let table = format!("features/{}", view.name);
            root.as_ofs(&table).into_iter().map(str::to_owned).collect::<Vec<_>>()
        });
        let there = all.collect::<BTreeSet<String>>().into_iter().collect();
        return Err(CommandProblem::NothingToAudit { at, there }.into());
    }
    Ok(found)
}

/// The snapshots by their as-of with known-at, which is mostly one.
fn by_as_of(snapshots: &[SnapshotRecord]) -> BTreeMap<AsOf, Vec<&SnapshotRecord>> {
    let mut by: BTreeMap<AsOf, Vec<&SnapshotRecord>> = BTreeMap::new();
    snapshots.iter().for_each(|snapshot| by.entry(snapshot.as_of).or_default().push(snapshot));
    by
}

fn folder(snapshot: &SnapshotRecord) -> String {
    format!("features/{}/as_of={}", snapshot.view, snapshot.as_of.at.folder())
}

/// Customers of the snapshots, chosen by hashes of their keys.
fn sample(
    store: &Store,
    root: &Root,
    snapshots: &[SnapshotRecord],
    asked: Asked,
) -> Result<BTreeSet<String>> {
    let mut chosen: BTreeSet<(u64, String)> = BTreeSet::new();
    let Some(first) = snapshots.first() else { return Ok(BTreeSet::new()) };
    for file in store.below(root, &folder(first))? {
        for rows in read(&store.file(root, &file)?, Some(&[KEY]))? {
            let keys = rows.column(0).as_string_opt::<i32>();
            let keys = keys.ok_or_else(|| Error::engine("auditing")("a snapshot has no keys"))?;
            for key in keys.iter().flatten() {
                chosen.insert((xxh3_64_with_seed(key.as_bytes(), asked.seed), key.to_owned()));
                if chosen.len() > asked.sample {
                    chosen.pop_last();
                }
            }
        }
    }
    Ok(chosen.into_iter().map(|(_, key)| key).collect())
}

/// The customers whose snapshots are audited.
struct Audited<'a> {
    project: &'a Project,
    store: &'a Store,
    root: &'a Root,
    customers: &'a BTreeSet<String>,
}

/// The values of the snapshots of one as-of, computed again.
struct Again {
    /// The columns of each view that are compared.
    columns: BTreeMap<String, Vec<String>>,
    by_reference: Values,
    /// The values beside future and late events.
    beside: Values,
}

impl Audited<'_> {
    /// Computes the values of the snapshots of one as-of again in both ways, and counts what was added and left out.
    fn again(
        &self,
        as_of: AsOf,
        snapshots: &[&SnapshotRecord],
        record: &mut AuditRecord,
        progress: &mut Progress,
    ) -> Result<Again> {
        let catalog = &self.project.catalog;
        let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for snapshot in snapshots {
            let moved: BTreeSet<&str> =
                snapshot.outdated(catalog).map(|feature| feature.column()).collect();
            record.other_definitions += moved.len() as u64;
            let own = catalog.of_view(&snapshot.view).map(|feature| feature.column());
            let own = own.filter(|column| !moved.contains(column)).map(str::to_owned);
            columns.insert(snapshot.view.clone(), own.collect());
        }
        let all = columns.values().flatten().map(String::as_str);
        let plan = FeaturePlan::of_catalog("audit", catalog, all, vec![as_of]);
        let source = self.project.events.of_customers(self.customers.clone());
        progress.stage("computing by the naive reference");
        let by_reference = naive(&source, &plan, self.customers, as_of)?;
        progress.stage("computing beside future and late events");
        let scratch = tempfile::tempdir().map_err(Error::io("write", std::env::temp_dir()))?;
        let reading = reading(self.project, Shards::ONE, scratch.path());
        let (beside, added) = attacked(&source, &plan, self.customers, as_of, reading)?;
        record.future += added.future;
        record.late += added.late;
        Ok(Again { columns, by_reference, beside })
    }

    /// Compares a snapshot with what was computed again.
    fn compare(
        &self,
        snapshot: &SnapshotRecord,
        again: &Again,
    ) -> Result<(AuditedView, Vec<Difference>)> {
        let mut rows = Vec::new();
        for file in self.store.below(self.root, &folder(snapshot))? {
            rows.extend(read(&self.store.file(self.root, &file)?, None)?);
        }
        let stored = values(&rows, self.customers)?;
        let columns = &again.columns[&snapshot.view];
        let differ =
            |computed, by| differ(snapshot, columns, self.customers, &stored, computed, by);
        let mut found = differ(&again.by_reference, "the reference");
        let moved = differ(&again.beside, "the kernel, beside future and late events");
        let view = AuditedView {
            view: snapshot.view.clone(),
            values: (columns.len() * self.customers.len()) as u64,
            unlike_reference: found.len() as u64,
            moved: moved.len() as u64,
        };
        found.extend(moved);
        Ok((view, found))
    }
}

/// The values of a snapshot that differ from those that were computed again.
fn differ(
    snapshot: &SnapshotRecord,
    columns: &[String],
    customers: &BTreeSet<String>,
    stored: &Values,
    computed: &Values,
    by: &'static str,
) -> Vec<Difference> {
    let of = |values: &Values, customer: &String, column: &str| {
        values.get(customer).and_then(|own| own.get(column)).cloned().unwrap_or(Value::Null)
    };
    let pairs =
        customers.iter().flat_map(|customer| columns.iter().map(move |column| (customer, column)));
    let differ = pairs.filter_map(|(customer, column)| {
        let (stored, computed) = (of(stored, customer, column), of(computed, customer, column));
        (!is_same(&stored, &computed)).then(|| Difference {
            view: snapshot.view.clone(),
            customer: customer.clone(),
            column: column.clone(),
            by,
            stored,
            computed,
        })
    });
    differ.collect()
}

/// Keeps the record of the audit, and shows it on the page of the run that scored the as-of.
fn publish(project: &Project, store: &Store, record: &AuditRecord) -> Result<()> {
    let mut transaction = store.begin("audit", now)?;
    transaction.write_json(&AuditRecord::path(record.as_of), record)?;
    let runs: Vec<String> = transaction
        .root
        .folders_in("runs")
        .filter(|run| run.ends_with("-score"))
        .map(str::to_owned)
        .collect();
    for run in runs.iter().rev() {
        let metrics = pages::metrics(&transaction, run)?;
        if metrics.as_of == record.as_of {
            let name = &project.settings.project.name;
            pages::write_run(&mut transaction, name, &metrics, Some(record), pages::Form::Linked);
            break;
        }
    }
    transaction.commit().map(|_| ())
}

fn printed(
    record: &AuditRecord,
    differences: &[Difference],
    damaged: &[std::path::PathBuf],
) -> Output {
    let mut text = format!(
        "audit of {}: {} customers, seed {}\n\n",
        record.as_of,
        thousands(record.customers),
        record.seed
    );
    let mut table =
        Table::new(&["view", "values", "unlike the reference", "moved by future or late events"]);
    for view in &record.views {
        let counts = [view.values, view.unlike_reference, view.moved].map(thousands);
        table.row([vec![view.view.clone()], counts.to_vec()].concat());
    }
    text += &table.render();
    text += "\n";
    for sentence in of_audit(record) {
        text += &format!("{sentence}\n");
    }
    if !differences.is_empty() {
        let mut table =
            Table::new(&["view", "customer", "column", "in the snapshot", "computed", "by"]);
        for one in differences.iter().take(SHOWN) {
            let [stored, computed] = [&one.stored, &one.computed].map(|value| format!("{value:?}"));
            table.row([&one.view, &one.customer, &one.column, &stored, &computed, one.by]);
        }
        let count = thousands(differences.len() as u64);
        text +=
            &format!("\n{count} differences, of which these are the first:\n{}", table.render());
    }
    for path in damaged {
        text += &format!("damaged: {}\n", path.display());
    }
    let listed: Vec<_> = differences
        .iter()
        .map(|one| {
            json!({
                "view": one.view,
                "customer360_id": one.customer,
                "column": one.column,
                "stored": one.stored,
                "computed": one.computed,
                "by": one.by,
            })
        })
        .collect();
    let json = json!({ "audit": record, "differences": listed, "damaged": damaged });
    Output { text, json }
}

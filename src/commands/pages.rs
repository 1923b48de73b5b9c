//! Writes the pages of reports, and the plotting library that they refer to.

use crate::error::Result;
use crate::features::audit::AuditRecord;
use crate::report::html::page::{LIBRARY, Page};
use crate::report::html::{audience, run};
use crate::scoring::summary::RunMetrics;
use crate::store::Transaction;
use crate::time::Instant;

/// Whether pages contain the plotting library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Pages refer to one file of the store.
    Linked,
    /// Each page contains the library and can be sent away.
    SelfContained,
}

/// Writes a page with the transaction, and the library if the page refers to it and it is not there yet.
pub fn write(transaction: &mut Transaction, path: &str, page: &Page, form: Form) {
    if form == Form::SelfContained {
        return transaction.write_page(path, page.self_contained());
    }
    if !transaction.has_page(&LIBRARY.path) {
        transaction.write_page(&LIBRARY.path, LIBRARY.source.clone());
    }
    transaction.write_page(path, page.at(path));
}

/// Writes the pages of a scoring run: its report, with the audit of its as-of if there was one, and its segments for
/// marketers.
pub fn write_run(
    transaction: &mut Transaction,
    project: &str,
    metrics: &RunMetrics,
    audit: Option<&AuditRecord>,
    form: Form,
) {
    let run = &metrics.run;
    let report = run::render(project, metrics, audit);
    write(transaction, &format!("runs/{run}/report.html"), &report, form);
    write(transaction, &segments_page(run), &audience::render(project, metrics), form);
}

/// Writes the pages of a published scoring run if they are not there, because the run ended before it wrote them.
pub fn complete_run(transaction: &mut Transaction, project: &str, run: &str) -> Result<()> {
    if transaction.has_page(&segments_page(run)) {
        return Ok(());
    }
    let metrics = metrics(transaction, &format!("runs/{run}"))?;
    let audit = audit(transaction, metrics.as_of)?;
    write_run(transaction, project, &metrics, audit.as_ref(), Form::Linked);
    Ok(())
}

/// Reads the metrics of a scoring run by its folder.
pub fn metrics(transaction: &Transaction, folder: &str) -> Result<RunMetrics> {
    transaction.store().read_json(&transaction.root, &format!("{folder}/metrics.json"))
}

/// Reads the audit of an as-of; `None` if there was none.
pub fn audit(transaction: &Transaction, as_of: Instant) -> Result<Option<AuditRecord>> {
    let path = AuditRecord::path(as_of);
    let (store, root) = (transaction.store(), &transaction.root);
    store.has(root, &path)?.then(|| store.read_json(root, &path)).transpose()
}

/// The page of a run that is written last.
fn segments_page(run: &str) -> String {
    format!("runs/{run}/segments.html")
}

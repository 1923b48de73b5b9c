//! Writes the pages of reports, and the plotting library that they refer to.

use crate::error::Result;
use crate::report::html::page::{LIBRARY, Page};
use crate::store::Transaction;

/// Whether pages contain the plotting library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Pages refer to one file of the store.
    Linked,
    /// Each page contains the library and can be sent away.
    SelfContained,
}

/// Stages a page, and the library if the page refers to it and it is not there yet.
pub fn write(transaction: &mut Transaction, path: &str, page: &Page, form: Form) -> Result<()> {
    if form == Form::SelfContained {
        return transaction.write_text(path, &page.self_contained());
    }
    if !transaction.has(&LIBRARY.path) {
        transaction.write_text(&LIBRARY.path, &LIBRARY.source)?;
    }
    transaction.write_text(path, &page.at(path))
}

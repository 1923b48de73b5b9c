//! Writes the pages of reports, and the plotting library that they refer to.

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

//! Pushes of features and scores to an online store. A push sends one row per customer, as text, and only the
//! rows that have changed since the last push. Memory holds the rows of a few shards.
//!
//! The content of a store has a name, which is a hash of all its rows. The store keeps the name of its last
//! push, and the project keeps the hash of every row under that name. If the two names are the same, a push
//! sends the changes, and otherwise all rows. A store that was emptied, restored or written by another
//! project is therefore never mistaken for the store of the last push. A push that was interrupted leaves no
//! name.

mod content;
pub mod postgres;
mod pushed;
pub mod redis;

use arrow_array::RecordBatch;

pub use content::{Content, Source};
pub use pushed::Pushed;

use crate::error::Result;
use crate::shard::Shard;
use crate::time::Instant;

/// A database that serves features and scores.
pub trait OnlineStore {
    /// The name of the store, without credentials. The same store always has the same name.
    fn target(&self) -> &str;

    /// Returns what the store recorded at the last push, and whether it can still be true.
    fn holds(&mut self) -> Result<Held>;

    /// Brings the store to the content of `push` and returns the number of customers that were removed.
    /// `sent` is called with the number of customers of each batch that was sent.
    ///
    /// # Errors
    /// Returns [`Error::Locked`](crate::error::Error::Locked) if another push is under way, or has ended after
    /// [`OnlineStore::holds`] was called; a configuration error if the store has rows that no push has
    /// written; and [`Error::Service`](crate::error::Error::Service) if the store does not answer.
    fn push(&mut self, push: &Push, sent: &mut dyn FnMut(u64)) -> Result<u64>;
}

/// The record of the last push in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The name of the content that the last push left.
    pub name: Option<String>,
    /// Whether the store still has as many customers as that push.
    pub is_whole: bool,
}

/// The content that a push brings to an online store.
pub struct Push<'a> {
    /// The whole content.
    pub content: &'a Content<'a>,
    /// The as-of of the rows.
    pub as_of: Instant,
    /// The name that [`OnlineStore::holds`] returned.
    pub held: Option<String>,
    /// The content that the store has now. Without it, the present content of the store is unknown: all rows
    /// are sent, and all other rows of the store are removed.
    pub before: Option<Pushed>,
    /// The number of customers per batch.
    pub batch: usize,
    /// A text that no other push has.
    pub token: &'a str,
}

impl Push<'_> {
    /// Reads the differences of one shard from the present content of the store.
    pub fn changes(&self, shard: Shard) -> Result<Changes> {
        let difference = self.content.difference(shard, self.before.as_ref())?;
        let rows = match difference.rows.is_empty() {
            true => None,
            false => self.content.rows(shard, &difference.rows)?,
        };
        Ok(Changes { rows, gone: difference.gone })
    }
}

/// The differences of a shard between two contents of a store.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// The rows that are new or have changed.
    pub rows: Option<RecordBatch>,
    /// The keys of the customers that are not among the rows any more.
    pub gone: Vec<String>,
}

impl Changes {
    /// Renders the rows as text, column by column, in batches of `batch` rows at most.
    pub fn rendered(
        &self,
        batch: usize,
        lists: Lists,
    ) -> impl Iterator<Item = Result<Vec<Vec<Option<String>>>>> + '_ {
        let of_rows = move |rows: &'_ RecordBatch| {
            let rows = rows.clone();
            let starts = (0..rows.num_rows()).step_by(batch);
            starts.map(move |start| {
                let part = rows.slice(start, batch.min(rows.num_rows() - start));
                part.columns().iter().map(|column| content::cells(column, lists)).collect()
            })
        };
        self.rows.iter().flat_map(of_rows)
    }
}

/// The syntax of lists in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// A JSON array: `[0.5,"a"]`.
    Json,
    /// A PostgreSQL array: `{0.5,"a"}`.
    Postgres,
}

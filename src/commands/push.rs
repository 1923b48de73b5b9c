//! The commands `export redis | postgres`: send the features and scores of the current profile to an online
//! store.

use std::time::{Duration, Instant};

use rand::Rng;
use serde_json::json;

use super::published::ServedProfile;
use crate::config::Project;
use crate::error::{Error, Result};
use crate::export::online::postgres::Postgres;
use crate::export::online::redis::Redis;
use crate::export::online::{Content, OnlineStore, Push, Pushed, Source};
use crate::report::{Output, Progress, thousands};

/// The greatest number of customers per batch.
const BATCH: usize = 500;

/// Connects to a Redis database.
pub fn redis(url: &str, prefix: &str) -> Result<Box<dyn OnlineStore>> {
    Ok(Box::new(Redis::connect(url, prefix)?))
}

/// Connects to a table of a PostgreSQL database. The password is taken from the URL, or else from the
/// environment.
pub fn postgres(url: &str, table: &str) -> Result<Box<dyn OnlineStore>> {
    let password = std::env::var("PGPASSWORD").ok();
    Ok(Box::new(Postgres::connect(url, password.as_deref(), table)?))
}

/// What is asked of a push.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The views to push; all if there are none.
    pub views: &'a [String],
    /// The greatest number of customers per second.
    pub rate: Option<u64>,
    /// Whether every customer is sent, whatever the server is thought to hold.
    pub full: bool,
    /// Whether nothing is sent, and only said what would be.
    pub dry_run: bool,
}

/// Sends the customers that have changed since the last push. All customers are sent if that is asked for or if the
/// content of the store is unknown.
///
/// # Errors
/// A configuration error for an unknown view, and an error if the store cannot be reached or refuses what is sent.
pub fn push(
    project: &Project,
    Asked { views, rate, full, dry_run }: Asked<'_>,
    open: impl Fn() -> Result<Box<dyn OnlineStore>>,
    progress: &mut Progress,
) -> Result<Output> {
    let known: Vec<&str> = project.catalog.views.iter().map(|view| view.name.as_str()).collect();
    if let Some(view) = views.iter().find(|view| !known.contains(&view.as_str())) {
        return Err(Error::unknown("--views", "view", view, known));
    }
    let served = ServedProfile::open(project, views)?;
    progress.stage("reading the profile");
    progress.steps(served.shards().count() as u64);
    let done = || progress.advance(1, "shards");
    let content = Content::of(&served, &std::env::temp_dir(), done)?;
    progress.stage("connecting");
    let mut store = open()?;
    let (own, file) = (project.store()?, Pushed::file(store.target()));
    let held = store.holds()?;
    let holds = held.name.clone().filter(|_| held.is_whole && !full);
    let has_all = holds.as_deref() == Some(content.name());
    let before = Pushed::open(&own.beside(&file)).filter(|pushed| {
        holds.as_ref() == Some(&pushed.name)
            && pushed.columns == content.columns()
            && pushed.shards == content.shards()
    });
    let everything = before.is_none();
    let (mut sent, mut removed) = (0, 0);
    if !has_all {
        (sent, removed) = sizes(&content, before.as_ref())?;
    }
    if !has_all && !dry_run {
        progress.stage("pushing");
        progress.steps(sent + removed);
        let token = &format!("unfinished-{:016x}", rand::rng().random::<u64>());
        let batch = rate.map_or(BATCH, |rate| BATCH.min(rate as usize));
        let (as_of, held) = (served.as_of(), held.name);
        let push = Push { content: &content, as_of, held, before, batch, token };
        let mut pace = Pace { rate, begun: Instant::now(), sent: 0 };
        removed = store.push(&push, &mut |customers| {
            progress.advance(customers, "customers");
            pace.wait(customers);
        })?;
    }
    if !dry_run {
        own.write_beside(&file, |path| Pushed::write(path, &content))?;
    }
    progress.finish();
    let (columns, as_of) = (content.schema().fields().len() - 1, served.as_of());
    let text = format!(
        "{} of {} customers {} with {columns} values each, {} removed, as of {as_of}, to {}{}\n",
        thousands(sent),
        thousands(content.len() as u64),
        if dry_run { "would be sent" } else { "sent" },
        thousands(removed),
        store.target(),
        if sent + removed == 0 { ": it holds them already" } else { "" },
    );
    let json = json!({
        "target": store.target(), "as_of": as_of, "customers": content.len(), "columns": columns,
        "sent": sent, "removed": removed, "dry_run": dry_run, "everything": everything, "holds": content.name(),
    });
    Ok(Output { text, json })
}

/// Counts the customers that are new or have changed since an earlier content, and those that are gone.
fn sizes(content: &Content, before: Option<&Pushed>) -> Result<(u64, u64)> {
    let (mut changed, mut gone) = (0, 0);
    for shard in content.shards().all() {
        let difference = content.difference(shard, before)?;
        changed += difference.rows.len() as u64;
        gone += difference.gone.len() as u64;
    }
    Ok((changed, gone))
}

/// Limits a push to a number of customers per second.
struct Pace {
    rate: Option<u64>,
    begun: Instant,
    sent: u64,
}

impl Pace {
    /// Waits until `customers` more customers may be sent.
    fn wait(&mut self, customers: u64) {
        self.sent += customers;
        let Some(rate) = self.rate else { return };
        let due = Duration::from_secs_f64(self.sent as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
    }
}

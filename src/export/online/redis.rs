//! Redis, or a server that speaks its protocol, as an online store: a hash per customer.
//!
//! The hash `<prefix>customer:<id>` has a field per value and no field for a null. The hash `<prefix>push`
//! has the name of the content that the last finished push left, its as-of and its number of customers. While
//! a push is under way, its token replaces the name, and each batch is written only if the token is still
//! there. Of two simultaneous pushes, the one that began first therefore ends with an error.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::{Commands, Connection, ErrorKind, Pipeline, RedisError, RedisResult};

use super::content::Hashes;
use super::{Held, Lists, OnlineStore, Push};
use crate::error::{Error, Result};
use crate::export::ExportProblem;
use crate::shard::{self, Shards};
use crate::store::choose_cryptography;
use crate::store::spill::Spill;

/// The time limits for a connection and for a response.
const PATIENCE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

/// The number of bytes of identifiers of a shard that are put aside at a time.
const CHUNK: usize = 1 << 14;

/// A Redis database.
pub struct Redis {
    connection: Connection,
    target: String,
    prefix: String,
}

impl Redis {
    /// Connects to `redis://[user:password@]host[:port][/database]`, or to `rediss://` by TLS.
    ///
    /// # Errors
    /// Returns a configuration error if the URL is not such an address, and [`Error::Service`] if the server
    /// does not answer.
    pub fn connect(url: &str, prefix: &str) -> Result<Self> {
        choose_cryptography();
        if prefix.is_empty() {
            return Err(ExportProblem::EmptyPrefix.into());
        }
        let client =
            redis::Client::open(url).map_err(|source| ExportProblem::RedisUrl { source })?;
        let information = client.get_connection_info();
        let database = information.redis_settings().db();
        let target = format!("redis {}/{database} {prefix}", information.addr());
        let failed = |error| failed(&target, error);
        let connection = client.get_connection_with_timeout(PATIENCE[0]).map_err(failed)?;
        connection.set_read_timeout(Some(PATIENCE[1])).map_err(failed)?;
        connection.set_write_timeout(Some(PATIENCE[1])).map_err(failed)?;
        Ok(Self { connection, target, prefix: prefix.to_owned() })
    }

    fn failed(&self) -> impl Fn(RedisError) -> Error + use<> {
        let target = self.target.clone();
        move |error| failed(&target, error)
    }

    fn customer(&self, id: &str) -> String {
        format!("{}customer:{id}", self.prefix)
    }

    fn marker(&self) -> String {
        format!("{}push", self.prefix)
    }

    /// Runs the commands that `fill` adds as a transaction, if the name in the marker is still `name`.
    fn write(&mut self, name: Option<&str>, fill: impl Fn(&mut Pipeline)) -> Result<()> {
        let marker = self.marker();
        let run = |connection: &mut Connection| -> RedisResult<bool> {
            redis::cmd("WATCH").arg(&marker).exec(connection)?;
            let now: Option<String> = connection.hget(&marker, "name")?;
            if now.as_deref() != name {
                redis::cmd("UNWATCH").exec(connection)?;
                return Ok(false);
            }
            let mut transaction = redis::pipe();
            fill(transaction.atomic());
            // The reply is null if the marker has changed in the meantime.
            let done: Option<redis::Value> = transaction.query(connection)?;
            Ok(done.is_some())
        };
        match run(&mut self.connection).map_err(self.failed())? {
            true => Ok(()),
            false => Err(Error::Locked {
                path: self.target.clone().into(),
                holder: "another push, or someone who has removed its marker".into(),
            }),
        }
    }

    /// Calls `each` with the identifier of every customer that the database has.
    fn customers(&mut self, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let failed = self.failed();
        let start = self.customer("");
        // Characters that would be wildcards in a pattern are escaped.
        let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^').then_some('\\');
        let pattern: String =
            start.chars().flat_map(|c| special(c).into_iter().chain([c])).collect();
        let options =
            redis::ScanOptions::default().with_pattern(format!("{pattern}*")).with_count(1000);
        let found = self.connection.scan_options::<String>(options).map_err(&failed)?;
        for key in found {
            if let Some(id) = key.map_err(&failed)?.strip_prefix(&start) {
                each(id)?;
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<u64> {
        let mut customers = 0;
        self.customers(|_| {
            customers += 1;
            Ok(())
        })?;
        Ok(customers)
    }

    /// Puts the identifiers of all customers that the database has aside on disk, by shard.
    fn scattered(&mut self, shards: Shards) -> Result<Spill> {
        let folder = std::env::temp_dir();
        let spill = Spill::create(&folder, shards.count())?;
        let mut waiting: Vec<Vec<u8>> = vec![Vec::new(); shards.count()];
        self.customers(|id| {
            let place = shards.index(shard::hash(id));
            waiting[place].extend(id.bytes().chain([0]));
            if waiting[place].len() > CHUNK {
                spill.add(place, &std::mem::take(&mut waiting[place]))?;
            }
            Ok(())
        })?;
        for (place, rest) in waiting.iter().enumerate() {
            spill.add(place, rest)?;
        }
        Ok(spill)
    }

    /// Sends some rows, given as text column by column.
    fn send(
        &mut self,
        push: &Push,
        names: &[&String],
        columns: &[Vec<Option<String>>],
    ) -> Result<u64> {
        let keys = columns[0].iter().map(|key| self.customer(key.as_deref().unwrap_or_default()));
        let keys: Vec<String> = keys.collect();
        self.write(Some(push.token), |transaction| {
            for (row, key) in keys.iter().enumerate() {
                let values = names.iter().zip(columns).skip(1);
                let fields: Vec<(&str, &str)> = values
                    .filter_map(|(name, column)| Some((name.as_str(), column[row].as_deref()?)))
                    .collect();
                // A field that has become null is removed with the old hash.
                transaction.unlink(key).ignore();
                if !fields.is_empty() {
                    transaction.hset_multiple(key, &fields).ignore();
                }
            }
        })?;
        Ok(keys.len() as u64)
    }

    /// Removes some customers.
    fn remove(&mut self, push: &Push, ids: &[String]) -> Result<u64> {
        let keys: Vec<String> = ids.iter().map(|id| self.customer(id)).collect();
        self.write(Some(push.token), |transaction| _ = transaction.unlink(&keys).ignore())?;
        Ok(keys.len() as u64)
    }
}

impl OnlineStore for Redis {
    fn target(&self) -> &str {
        &self.target
    }

    fn holds(&mut self) -> Result<Held> {
        let marker = self.marker();
        let record: RedisResult<(Option<String>, Option<u64>)> =
            self.connection.hmget(marker, &["name", "customers"]);
        let (name, customers) = record.map_err(self.failed())?;
        // Keys may have been evicted, or deleted by hand.
        let is_whole = name.is_some() && customers == Some(self.count()?);
        Ok(Held { name, is_whole })
    }

    fn push(&mut self, push: &Push, sent: &mut dyn FnMut(u64)) -> Result<u64> {
        let marker = self.marker();
        if push.held.is_none() && self.count()? > 0 {
            return Err(ExportProblem::RedisKeys { keys: self.customer("") }.into());
        }
        self.write(push.held.as_deref(), |transaction| {
            _ = transaction.hset(&marker, "name", push.token).ignore();
        })?;
        let content = push.content;
        let names: Vec<&String> = content.schema().fields().iter().map(|f| f.name()).collect();
        for shard in content.shards().all() {
            for columns in push.changes(shard)?.rendered(push.batch, Lists::Json) {
                sent(self.send(push, &names, &columns?)?);
            }
        }
        let theirs = match push.before {
            Some(_) => None,
            None => Some(self.scattered(content.shards())?),
        };
        let mut removed = 0;
        for shard in content.shards().all() {
            let gone = match &theirs {
                None => content.difference(shard, push.before.as_ref())?.gone,
                Some(theirs) => strangers(&theirs.read(shard.place())?, &content.hashes(shard)?),
            };
            for ids in gone.chunks(push.batch) {
                let customers = self.remove(push, ids)?;
                sent(customers);
                removed += customers;
            }
        }
        let record = [
            ("name", content.name().to_owned()),
            ("as_of", push.as_of.to_string()),
            ("customers", content.len().to_string()),
        ];
        self.write(Some(push.token), |transaction| {
            _ = transaction.hset_multiple(&marker, &record).ignore()
        })?;
        Ok(removed)
    }
}

/// The identifiers in chunks of texts that each end with a zero byte which are not among the keys.
fn strangers(chunks: &[Vec<u8>], keys: &Hashes) -> Vec<String> {
    let ids = chunks.iter().flat_map(|chunk| chunk.split(|byte| *byte == 0));
    let ids = ids.map(String::from_utf8_lossy).filter(|id| !id.is_empty() && !keys.has(id));
    // A scan of Redis may give a key twice.
    ids.map(|id| id.into_owned()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn failed(target: &str, error: RedisError) -> Error {
    let hint = match error.kind() {
        ErrorKind::AuthenticationFailed => "is the password right? redis://user:password@host:port",
        ErrorKind::Io => "is the server up, and is this its address?",
        _ => "",
    };
    Error::Service { service: target.to_owned(), message: error.to_string(), hint: hint.into() }
}

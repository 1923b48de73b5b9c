//! Redis, or a server that speaks its protocol, as an online store: a hash per customer.
//!
//! The hash `<prefix>customer:<id>` has a field per value and no field for a null. The hash `<prefix>push`
//! has the name of the content that the last finished push left, its as-of and its number of customers. While
//! a push is under way, its token replaces the name, and each batch is written only if the token is still
//! there. Of two simultaneous pushes, the one that began first therefore ends with an error.

use std::collections::HashSet;
use std::time::Duration;

use redis::{Commands, Connection, ErrorKind, Pipeline, RedisError, RedisResult};

use super::{Held, Lists, OnlineStore, Push};
use crate::error::{Error, Result};

/// The time limits for a connection and for a response.
const PATIENCE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

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
        if prefix.is_empty() {
            return Err(Error::configuration(
                "--prefix is empty: the keys would be those of any other program",
                "--prefix c360:",
            ));
        }
        let client = redis::Client::open(url).map_err(|error| {
            Error::configuration(
                format!("--url is not the address of a Redis server: {error}"),
                "redis://127.0.0.1:6379/0, or rediss:// for TLS",
            )
        })?;
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

    /// Lists the identifiers of all customers that the database has.
    fn customers(&mut self) -> Result<Vec<String>> {
        let failed = self.failed();
        let start = self.customer("");
        // Characters that would be wildcards in a pattern are escaped.
        let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^').then_some('\\');
        let pattern: String =
            start.chars().flat_map(|c| special(c).into_iter().chain([c])).collect();
        let options =
            redis::ScanOptions::default().with_pattern(format!("{pattern}*")).with_count(1000);
        let found = self.connection.scan_options::<String>(options).map_err(&failed)?;
        let keys: RedisResult<Vec<String>> = found.collect();
        let keys = keys.map_err(failed)?;
        Ok(keys.iter().filter_map(|key| key.strip_prefix(&start)).map(str::to_owned).collect())
    }
}

impl OnlineStore for Redis {
    fn target(&self) -> &str {
        &self.target
    }

    fn holds(&mut self) -> Result<Held> {
        let marker = self.marker();
        let told: RedisResult<(Option<String>, Option<u64>)> =
            self.connection.hmget(marker, &["name", "customers"]);
        let (name, customers) = told.map_err(self.failed())?;
        // Keys may have been evicted, or deleted by hand.
        let is_whole = name.is_some() && customers == Some(self.customers()?.len() as u64);
        Ok(Held { name, is_whole })
    }

    fn push(&mut self, push: &Push, sent: &mut dyn FnMut(u64)) -> Result<u64> {
        let marker = self.marker();
        if push.held.is_none() && !self.customers()?.is_empty() {
            return Err(Error::configuration(
                format!("there are keys {}* that no push has written", self.customer("")),
                "choose another --prefix, or remove them",
            ));
        }
        self.write(push.held.as_deref(), |transaction| {
            _ = transaction.hset(&marker, "name", push.token).ignore();
        })?;
        let names: Vec<&str> =
            push.rows.schema().fields().iter().map(|f| f.name().as_str()).collect();
        for rows in push.changes.rows.chunks(push.batch) {
            let columns = push.rows.render(rows, Lists::Json)?;
            let keys: Vec<String> = columns[0]
                .iter()
                .map(|key| self.customer(key.as_deref().unwrap_or_default()))
                .collect();
            self.write(Some(push.token), |transaction| {
                for (row, key) in keys.iter().enumerate() {
                    let values = names.iter().zip(&columns).skip(1);
                    let fields: Vec<(&str, &str)> = values
                        .filter_map(|(name, column)| Some((*name, column[row].as_deref()?)))
                        .collect();
                    // A field that has become null is removed with the old hash.
                    transaction.unlink(key).ignore();
                    if !fields.is_empty() {
                        transaction.hset_multiple(key, &fields).ignore();
                    }
                }
            })?;
            sent(rows.len() as u64);
        }
        let gone = match push.everything {
            false => push.changes.gone.clone(),
            true => {
                let own: HashSet<&str> = push.rows.keys()?.iter().flatten().collect();
                self.customers()?.into_iter().filter(|id| !own.contains(id.as_str())).collect()
            }
        };
        for ids in gone.chunks(push.batch) {
            let keys: Vec<String> = ids.iter().map(|id| self.customer(id)).collect();
            self.write(Some(push.token), |transaction| _ = transaction.unlink(&keys).ignore())?;
            sent(ids.len() as u64);
        }
        let told = [
            ("name", push.rows.name()),
            ("as_of", push.as_of.to_string()),
            ("customers", push.rows.len().to_string()),
        ];
        self.write(Some(push.token), |transaction| {
            _ = transaction.hset_multiple(&marker, &told).ignore()
        })?;
        Ok(gone.len() as u64)
    }
}

fn failed(target: &str, error: RedisError) -> Error {
    let hint = match error.kind() {
        ErrorKind::AuthenticationFailed => "is the password right? redis://user:password@host:port",
        ErrorKind::Io => "is the server up, and is this its address?",
        _ => "",
    };
    Error::Service { service: target.to_owned(), message: error.to_string(), hint: hint.into() }
}

//! PostgreSQL as an online store: a row per customer.
//!
//! The table has a column per value, in the type that corresponds to the Arrow type, and the as-of of the
//! push that last changed the row. The table `<table>_push` has the name of the table's content. A push is
//! one transaction, so that other connections see either the state before it or the whole push.

use std::io::Write;

use ::postgres::config::{Host, SslMode};
use ::postgres::{Client, Config, NoTls, Transaction};
use arrow_schema::{DataType, Schema};

use super::{Held, Lists, OnlineStore, Push};
use crate::error::{Error, Result};
use crate::export::ExportProblem;
use crate::store::choose_cryptography;

/// The column that marks a staged customer who is to be removed.
const GONE: &str = "c360_gone";

/// A table of a PostgreSQL database.
pub struct Postgres {
    client: Client,
    target: String,
    table: Table,
}

/// The name of a table, with or without its schema.
#[derive(Debug, Clone)]
struct Table {
    schema: Option<String>,
    name: String,
}

impl Table {
    fn quoted(&self) -> String {
        self.beside("")
    }

    /// The quoted name of the table whose name has `suffix` at its end.
    fn beside(&self, suffix: &str) -> String {
        let name = quoted(&format!("{}{suffix}", self.name));
        self.schema.as_ref().map_or(name.clone(), |schema| format!("{}.{name}", quoted(schema)))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Postgres {
    /// Connects to `postgres://user@host[:port]/database`. `password` is used if the URL has none.
    ///
    /// # Errors
    /// Returns a configuration error if the URL is not such an address, and [`Error::Service`] if the server
    /// does not answer.
    pub fn connect(url: &str, password: Option<&str>, table: &str) -> Result<Self> {
        choose_cryptography();
        let named = Table::named(table)?;
        let mut config = address(url)?;
        if let (None, Some(password)) = (config.get_password(), password) {
            config.password(password);
        }
        let target = format!("postgres {} {table}", place(&config));
        let client = connect(&config).map_err(|error| failed(&target, error))?;
        Ok(Self { client, target, table: named })
    }
}

/// Parses the URL of a database. The error does not repeat the URL, because it may contain a password.
fn address(url: &str) -> Result<Config> {
    let is_url = ["postgres://", "postgresql://"].iter().any(|start| url.starts_with(start));
    let config: Option<Config> = if is_url { url.parse().ok() } else { None };
    // A host that contains an @ is the end of a password that contains one.
    let is_host = |host: &Host| !matches!(host, Host::Tcp(name) if name.contains('@'));
    let config = config.filter(|config| config.get_hosts().iter().all(is_host));
    config.ok_or_else(|| ExportProblem::PostgresUrl.into())
}

/// The hosts, ports and database of a connection, without the user and the password.
fn place(config: &Config) -> String {
    let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| {
        let ports = config.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(folder) => format!("{}:{port}", folder.display()),
        }
    });
    let hosts: Vec<String> = hosts.collect();
    format!("{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

impl Table {
    /// Parses `name` or `schema.name`.
    fn named(text: &str) -> Result<Self> {
        let table = match text.split_once('.') {
            Some((schema, name)) => Self { schema: Some(schema.into()), name: name.into() },
            None => Self { schema: None, name: text.into() },
        };
        let names = [table.schema.as_deref().unwrap_or("_"), &format!("{}_push", table.name)]
            .map(|name| !name.is_empty() && name.len() <= LONGEST);
        if names.contains(&false) || table.name.is_empty() {
            let (table, longest) = (text.to_owned(), LONGEST);
            return Err(ExportProblem::PostgresTable { table, longest }.into());
        }
        Ok(table)
    }
}

/// The greatest length of a name in bytes. PostgreSQL truncates longer names silently.
const LONGEST: usize = 63;

/// Checks that all names are valid columns of the table.
fn check_columns(schema: &Schema) -> Result<()> {
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    match names().find(|name| name.len() > LONGEST || *name == "as_of") {
        None => Ok(()),
        Some(name) => {
            let (column, longest) = (name.to_owned(), LONGEST);
            Err(ExportProblem::PostgresColumn { column, longest }.into())
        }
    }
}

/// Connects as PostgreSQL's own clients do for `sslmode=prefer`, the default: by TLS if that succeeds, and
/// otherwise without it.
fn connect(config: &Config) -> std::result::Result<Client, ::postgres::Error> {
    if config.get_ssl_mode() == SslMode::Disable {
        return config.connect(NoTls);
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tls = config.connect(tokio_postgres_rustls::MakeRustlsConnect::new(tls));
    match tls {
        Err(error) if config.get_ssl_mode() == SslMode::Prefer && error.as_db_error().is_none() => {
            let plain = config.connect(NoTls)?;
            tracing::warn!("the connection is not encrypted: {}", chain(&error));
            Ok(plain)
        }
        other => other,
    }
}

impl OnlineStore for Postgres {
    fn target(&self) -> &str {
        &self.target
    }

    fn holds(&mut self) -> Result<Held> {
        let (table, target) = (self.table.clone(), self.target.clone());
        let held = |client: &mut Client| -> std::result::Result<Held, ::postgres::Error> {
            let mut transaction = client.build_transaction().read_only(true).start()?;
            held(&mut transaction, &table)
        };
        held(&mut self.client).map_err(|error| failed(&target, error))
    }

    fn push(&mut self, push: &Push, sent: &mut dyn FnMut(u64)) -> Result<u64> {
        let (table, target) = (self.table.clone(), self.target.clone());
        let failed = |error| failed(&target, error);
        let schema = push.content.schema();
        check_columns(schema)?;
        let mut transaction = self.client.transaction().map_err(failed)?;
        make(&mut transaction, &table).map_err(failed)?;
        // The lock is on the table's identifier, because the table has more than one name.
        let lock = "select pg_try_advisory_xact_lock(to_regclass($1)::oid::bigint)";
        let own: bool = transaction.query_one(lock, &[&table.quoted()]).map_err(failed)?.get(0);
        let now = if own { Some(held(&mut transaction, &table).map_err(failed)?) } else { None };
        if now.as_ref().is_none_or(|now| now.name != push.held) {
            return Err(Error::Locked { path: target.into(), holder: "another push".into() });
        }
        let theirs = format!("select exists (select from {})", table.quoted());
        let theirs: bool = transaction.query_one(&theirs, &[]).map_err(failed)?.get(0);
        if push.held.is_none() && theirs {
            return Err(ExportProblem::PostgresRows { table: table.quoted() }.into());
        }
        let gone = match prepare(&mut transaction, &table, schema).map_err(failed)? {
            Ok(gone) => gone,
            Err((column, found, wanted)) => {
                let table = table.quoted();
                return Err(ExportProblem::PostgresType { table, column, found, wanted }.into());
            }
        };
        stage(&mut transaction, push, &target, sent)?;
        let removed = replace(&mut transaction, push, &table, &gone).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(removed)
    }
}

/// Reads the record of the last push to the table.
fn held(
    transaction: &mut Transaction,
    table: &Table,
) -> std::result::Result<Held, ::postgres::Error> {
    let (name, marker) = (table.quoted(), table.beside("_push"));
    let there = "select to_regclass($1) is not null and to_regclass($2) is not null";
    if !transaction.query_one(there, &[&name, &marker])?.get::<_, bool>(0) {
        return Ok(Held::default());
    }
    let ask = format!("select name, customers = (select count(*) from {name}) from {marker}");
    let row = transaction.query_opt(&ask, &[])?;
    let of_row = |row: ::postgres::Row| Held { name: Some(row.get(0)), is_whole: row.get(1) };
    Ok(row.map_or_else(Held::default, of_row))
}

/// Creates the tables that do not exist.
fn make(
    transaction: &mut Transaction,
    table: &Table,
) -> std::result::Result<(), ::postgres::Error> {
    let (name, marker) = (table.quoted(), table.beside("_push"));
    transaction.batch_execute(&format!(
        "set local client_min_messages = warning;
         create table if not exists {name} (customer360_id text primary key, as_of timestamptz not null);
         create table if not exists {marker} (
             name text not null, as_of timestamptz not null, customers bigint not null,
             pushed_at timestamptz not null, columns text[] not null);"
    ))
}

/// The name of a column, the type that it has and the type that it would need.
type Mismatch = (String, String, String);

/// Adds the columns that the table does not have. Returns the columns that an earlier push has filled and
/// that this push has no values for.
fn prepare(
    transaction: &mut Transaction,
    table: &Table,
    schema: &Schema,
) -> std::result::Result<std::result::Result<Vec<String>, Mismatch>, ::postgres::Error> {
    let name = table.quoted();
    let columns = transaction.query(
        "select attname::text, format_type(atttypid, atttypmod) from pg_attribute
         where attrelid = to_regclass($1) and attnum > 0 and not attisdropped",
        &[&name],
    )?;
    let mut there: Vec<(String, String)> =
        columns.iter().map(|row| (row.get(0), row.get(1))).collect();
    for field in schema.fields().iter().skip(1) {
        let ty = column_type(field.data_type());
        match there.iter().position(|(name, _)| name == field.name()) {
            Some(at) if there[at].1 == ty => _ = there.remove(at),
            Some(at) => return Ok(Err((there[at].0.clone(), there[at].1.clone(), ty))),
            None => {
                let column = quoted(field.name());
                transaction
                    .batch_execute(&format!("alter table {name} add column {column} {ty}"))?;
            }
        }
    }
    let filled = format!("select unnest(columns) from {}", table.beside("_push"));
    let filled = transaction.query(&filled, &[])?;
    let filled: Vec<String> = filled.iter().map(|row| row.get(0)).collect();
    there.retain(|(column, _)| filled.contains(column));
    Ok(Ok(there.into_iter().map(|(column, _)| column).collect()))
}

/// Sends the changes to a temporary table of this transaction.
fn stage(
    transaction: &mut Transaction,
    push: &Push,
    target: &str,
    sent: &mut dyn FnMut(u64),
) -> Result<()> {
    let failed = |error| failed(target, error);
    let content = push.content;
    let fields = content.schema().fields();
    let columns: Vec<String> = fields
        .iter()
        .map(|field| format!("{} {}", quoted(field.name()), column_type(field.data_type())))
        .collect();
    let create = format!(
        "create temp table c360_staged ({}, {GONE} boolean) on commit drop",
        columns.join(", ")
    );
    transaction.batch_execute(&create).map_err(failed)?;
    let mut copy = transaction.copy_in("copy c360_staged from stdin").map_err(failed)?;
    let mut write = |text: String| {
        let written = copy.write_all(text.as_bytes());
        written.map_err(|error| service_error(target, error.to_string(), ""))
    };
    for shard in content.shards().all() {
        let changes = push.changes(shard)?;
        for columns in changes.rendered(push.batch, Lists::Postgres) {
            let columns = columns?;
            let mut text = String::new();
            for row in 0..columns[0].len() {
                for (field, column) in fields.iter().zip(&columns) {
                    let customer = columns[0][row].as_deref().unwrap_or_default();
                    copied(column[row].as_deref(), field.name(), customer, &mut text)?;
                    text.push('\t');
                }
                text.push_str("f\n");
            }
            write(text)?;
            sent(columns[0].len() as u64);
        }
        let nothing = "\\N\t".repeat(fields.len() - 1);
        for ids in changes.gone.chunks(push.batch) {
            let mut text = String::new();
            for id in ids {
                copied(Some(id), "customer360_id", id, &mut text)?;
                text += &format!("\t{nothing}t\n");
            }
            write(text)?;
            sent(ids.len() as u64);
        }
    }
    copy.finish().map_err(failed)?;
    Ok(())
}

/// Adds a value of a customer to a line of COPY.
fn copied(value: Option<&str>, column: &str, customer: &str, text: &mut String) -> Result<()> {
    match value {
        None => text.push_str("\\N"),
        Some(value) if value.contains('\0') => {
            let (column, customer) = (column.to_owned(), customer.to_owned());
            return Err(ExportProblem::PostgresNul { column, customer }.into());
        }
        Some(value) => escape(value, text),
    }
    Ok(())
}

/// Escapes a value for the text format of COPY.
fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            other => text.push(other),
        }
    }
}

/// Merges the staged rows into the table and returns the number of customers that were removed.
fn replace(
    transaction: &mut Transaction,
    push: &Push,
    table: &Table,
    gone: &[String],
) -> std::result::Result<u64, ::postgres::Error> {
    let (name, marker) = (table.quoted(), table.beside("_push"));
    let columns: Vec<String> =
        push.content.schema().fields().iter().map(|field| quoted(field.name())).collect();
    let values = &columns[1..];
    let of = |prefix: &str| {
        values.iter().map(|column| format!("{prefix}.{column}")).collect::<Vec<_>>().join(", ")
    };
    let set: Vec<String> = values.iter().map(|c| format!("{c} = excluded.{c}")).collect();
    let as_of = push.as_of.to_string();
    let insert = format!(
        "insert into {name} as held (as_of, {columns}) select '{as_of}'::timestamptz, {columns} from c360_staged where not {GONE}
         on conflict (customer360_id) do update set as_of = excluded.as_of, {set}
         where row({held}) is distinct from row({new})",
        columns = columns.join(", "),
        set = set.join(", "),
        held = of("held"),
        new = of("excluded"),
    );
    transaction.execute(&insert, &[])?;
    let removed = if push.before.is_none() {
        let others = format!(
            "delete from {name} where not exists
             (select from c360_staged s where s.customer360_id = {name}.customer360_id)"
        );
        transaction.execute("create index on c360_staged (customer360_id)", &[])?;
        let removed = transaction.execute(&others, &[])?;
        // A column that is not computed any more has no values.
        for column in gone.iter().map(|column| quoted(column)) {
            let clear = format!("update {name} set {column} = null where {column} is not null");
            transaction.execute(&clear, &[])?;
        }
        removed
    } else {
        let delete = format!(
            "delete from {name} using c360_staged s
             where s.{GONE} and s.customer360_id = {name}.customer360_id"
        );
        transaction.execute(&delete, &[])?
    };
    let count = push.content.len() as i64;
    transaction.execute(&format!("delete from {marker}"), &[])?;
    let names: Vec<&str> =
        push.content.schema().fields().iter().skip(1).map(|field| field.name().as_str()).collect();
    let tell = format!(
        "insert into {marker} values ($1, '{as_of}'::timestamptz, $2, current_timestamp, $3)"
    );
    transaction.execute(&tell, &[&push.content.name(), &count, &names])?;
    Ok(removed)
}

/// PostgreSQL's own name of the type of a column.
fn column_type(ty: &DataType) -> String {
    match ty {
        DataType::Boolean => "boolean".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Float64 => "double precision".into(),
        DataType::Decimal128(precision, scale) => format!("numeric({precision},{scale})"),
        DataType::Timestamp(..) => "timestamp with time zone".into(),
        DataType::Date32 => "date".into(),
        DataType::List(item) if *item.data_type() == DataType::Float32 => "real[]".into(),
        DataType::List(_) => "text[]".into(),
        _ => "text".into(),
    }
}

fn failed(target: &str, error: ::postgres::Error) -> Error {
    let hint = match error.as_db_error() {
        None => {
            "is the server up, and is this its address? certificates are those of the system, or of SSL_CERT_FILE"
        }
        Some(_) => "",
    };
    service_error(target, chain(&error), hint)
}

fn service_error(target: &str, message: String, hint: &str) -> Error {
    Error::Service { service: target.to_owned(), message, hint: hint.into() }
}

/// Formats an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

//! PostgreSQL: a row per customer.
//!
//! The table has a column per value in the type that it has here, and the as-of of the push that changed the
//! row last; `<table>_push` has the name of what the table holds. A push is one transaction: others see what
//! was before, or all of it.

use std::io::Write;

use ::postgres::config::SslMode;
use ::postgres::{Client, Config, NoTls, Transaction};
use arrow_schema::{DataType, Schema};

use super::{Lists, OnlineStore, Push};
use crate::error::{Error, Result};

/// A table of a PostgreSQL database.
pub struct Postgres {
    client: Client,
    target: String,
    table: Table,
}

/// A table's name, with its schema or without.
#[derive(Debug, Clone)]
struct Table {
    schema: Option<String>,
    name: String,
}

impl Table {
    fn quoted(&self) -> String {
        self.beside("")
    }

    /// The table whose name has `suffix` at its end.
    fn beside(&self, suffix: &str) -> String {
        let name = quoted(&format!("{}{suffix}", self.name));
        self.schema.as_ref().map_or(name.clone(), |schema| format!("{}.{name}", quoted(schema)))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Postgres {
    /// Connects to `postgres://user@host[:port]/database`; `password` where the address has none.
    ///
    /// # Errors
    /// A configuration error for what is no such address, [`Error::Service`] where nobody answers.
    pub fn connect(url: &str, password: Option<&str>, table: &str) -> Result<Self> {
        let mut config: Config = url.parse().map_err(|error: ::postgres::Error| {
            let cause =
                std::error::Error::source(&error).map_or_else(String::new, |c| format!(": {c}"));
            Error::configuration(
                format!("--url is not the address of a PostgreSQL database: {error}{cause}"),
                "postgres://user@host:5432/database",
            )
        })?;
        if let (None, Some(password)) = (config.get_password(), password) {
            config.password(password);
        }
        let hosts: Vec<String> =
            config.get_hosts().iter().map(|host| format!("{host:?}")).collect();
        let target = format!(
            "postgres {} {:?} {} {table}",
            hosts.join(","),
            config.get_ports(),
            config.get_dbname().unwrap_or_default()
        );
        let client = connect(&config).map_err(|error| failed(&target, error))?;
        let table = match table.split_once('.') {
            Some((schema, name)) => Table { schema: Some(schema.into()), name: name.into() },
            None => Table { schema: None, name: table.into() },
        };
        Ok(Self { client, target, table })
    }
}

/// As PostgreSQL's own clients read `sslmode=prefer`, the default: by TLS if that succeeds, else without.
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

    fn holds(&mut self) -> Result<Option<String>> {
        let (table, target) = (self.table.beside("_push"), self.target.clone());
        let held = |client: &mut Client| -> std::result::Result<Option<String>, ::postgres::Error> {
            let there = client.query_one("select to_regclass($1) is not null", &[&table])?;
            if !there.get::<_, bool>(0) {
                return Ok(None);
            }
            let row = client.query_opt(&format!("select name from {table}"), &[])?;
            Ok(row.map(|row| row.get(0)))
        };
        held(&mut self.client).map_err(|error| failed(&target, error))
    }

    fn push(&mut self, push: &Push, sent: &mut dyn FnMut(u64)) -> Result<u64> {
        let (table, target) = (self.table.clone(), self.target.clone());
        let failed = |error| failed(&target, error);
        let mut transaction = self.client.transaction().map_err(failed)?;
        let lock = "select pg_try_advisory_xact_lock(hashtext($1))";
        let own: bool = transaction.query_one(lock, &[&table.quoted()]).map_err(failed)?.get(0);
        if !own {
            return Err(Error::Locked { path: target.into(), holder: "another push".into() });
        }
        let schema = push.rows.schema();
        let gone = prepare(&mut transaction, &table, schema).map_err(failed)?;
        let gone = match gone {
            Ok(gone) => gone,
            Err((column, is, would)) => {
                return Err(Error::configuration(
                    format!("{}: {column} is {is}, and would be {would}", table.quoted()),
                    "drop the column, or push to another table with --table",
                ));
            }
        };
        stage(&mut transaction, push, &target, sent)?;
        let removed = replace(&mut transaction, push, &table, &gone).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(removed)
    }
}

/// A column with the type that it has and the one that it would need.
type Mismatch = (String, String, String);

/// Makes the tables where they are not there, with all columns; gives the columns that this push has no
/// values for.
fn prepare(
    transaction: &mut Transaction,
    table: &Table,
    schema: &Schema,
) -> std::result::Result<std::result::Result<Vec<String>, Mismatch>, ::postgres::Error> {
    let (name, marker) = (table.quoted(), table.beside("_push"));
    transaction.batch_execute(&format!(
        "set local client_min_messages = warning;
         create table if not exists {name} (customer360_id text primary key, as_of timestamptz not null);
         create table if not exists {marker} (
             name text not null, as_of timestamptz not null, customers bigint not null,
             pushed_at timestamptz not null);"
    ))?;
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
    there.retain(|(column, _)| !["customer360_id", "as_of"].contains(&column.as_str()));
    Ok(Ok(there.into_iter().map(|(column, _)| column).collect()))
}

/// Sends the changes to a table of this transaction's own.
fn stage(
    transaction: &mut Transaction,
    push: &Push,
    target: &str,
    sent: &mut dyn FnMut(u64),
) -> Result<()> {
    let failed = |error| failed(target, error);
    let columns: Vec<String> = push
        .rows
        .schema()
        .fields()
        .iter()
        .map(|field| format!("{} {}", quoted(field.name()), column_type(field.data_type())))
        .collect();
    let create = format!("create temp table c360_staged ({}) on commit drop", columns.join(", "));
    transaction.batch_execute(&create).map_err(failed)?;
    let mut copy = transaction.copy_in("copy c360_staged from stdin").map_err(failed)?;
    for rows in push.changes.rows.chunks(push.batch) {
        let columns = push.rows.render(rows, Lists::Postgres)?;
        let mut text = String::new();
        for row in 0..rows.len() {
            for (at, column) in columns.iter().enumerate() {
                if at > 0 {
                    text.push('\t');
                }
                match &column[row] {
                    None => text.push_str("\\N"),
                    Some(value) => escape(value, &mut text),
                }
            }
            text.push('\n');
        }
        let written = copy.write_all(text.as_bytes());
        written.map_err(|error| told(target, error.to_string(), ""))?;
        sent(rows.len() as u64);
    }
    copy.finish().map_err(failed)?;
    Ok(())
}

/// A value in the text format of COPY.
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

/// Puts what was staged into the table; gives how many customers are gone from it.
fn replace(
    transaction: &mut Transaction,
    push: &Push,
    table: &Table,
    gone: &[String],
) -> std::result::Result<u64, ::postgres::Error> {
    let (name, marker) = (table.quoted(), table.beside("_push"));
    let columns: Vec<String> =
        push.rows.schema().fields().iter().map(|field| quoted(field.name())).collect();
    let values = &columns[1..];
    let of = |prefix: &str| {
        values.iter().map(|column| format!("{prefix}.{column}")).collect::<Vec<_>>().join(", ")
    };
    let set: Vec<String> = values.iter().map(|c| format!("{c} = excluded.{c}")).collect();
    let as_of = push.as_of.to_string();
    let insert = format!(
        "insert into {name} as held (as_of, {columns}) select '{as_of}'::timestamptz, {columns} from c360_staged
         on conflict (customer360_id) do update set as_of = excluded.as_of, {set}
         where row({held}) is distinct from row({new})",
        columns = columns.join(", "),
        set = set.join(", "),
        held = of("held"),
        new = of("excluded"),
    );
    transaction.execute(&insert, &[])?;
    let removed = if push.everything {
        let others = format!(
            "delete from {name} where not exists
             (select from c360_staged s where s.customer360_id = {name}.customer360_id)"
        );
        transaction.execute("create index on c360_staged (customer360_id)", &[])?;
        let removed = transaction.execute(&others, &[])?;
        // What is not computed any more has no value any more.
        for column in gone.iter().map(|column| quoted(column)) {
            let clear = format!("update {name} set {column} = null where {column} is not null");
            transaction.execute(&clear, &[])?;
        }
        removed
    } else {
        let delete = format!("delete from {name} where customer360_id = any($1)");
        transaction.execute(&delete, &[&push.changes.gone])?
    };
    let count = push.rows.len() as i64;
    transaction.execute(&format!("delete from {marker}"), &[])?;
    let tell =
        format!("insert into {marker} values ($1, '{as_of}'::timestamptz, $2, current_timestamp)");
    transaction.execute(&tell, &[&push.rows.name(), &count])?;
    Ok(removed)
}

/// PostgreSQL's own name of the type that a column gets.
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
    told(target, chain(&error), hint)
}

fn told(target: &str, message: String, hint: &str) -> Error {
    Error::Service { service: target.to_owned(), message, hint: hint.into() }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

//! The grammar of the command line: commands, options and their defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Parser, Subcommand, ValueEnum};
use serde_json::json;

use crate::commands;
use crate::config::{FileKind, Origin, Overrides};
use crate::expression::Number;
use crate::time::{Duration, Instant};

/// Point-in-time features, calibrated scores and segments, written back to the customer profile.
#[derive(Debug, Parser)]
#[command(name = "c360-ml", version, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// The project's folder, which has c360.toml
    #[arg(long, global = true, default_value = ".", env = "C360_PROJECT")]
    pub(super) project: PathBuf,
    /// The instant to compute for: a date (midnight UTC) or RFC 3339
    #[arg(long, global = true, env = "C360_AS_OF")]
    pub(super) as_of: Option<Instant>,
    /// Use only what had been ingested before this instant; default the as-of
    #[arg(long, global = true, env = "C360_KNOWN_AT")]
    pub(super) known_at: Option<Instant>,
    /// The store: a folder, or a URL in a bucket; instead of project.store
    #[arg(long, global = true, env = "C360_STORE")]
    pub(super) store: Option<PathBuf>,
    /// Read the store as of this root, as `history` numbers them; only for commands that do not write
    #[arg(long, global = true, value_name = "NUMBER", env = "C360_ROOT")]
    pub(super) root: Option<u64>,
    /// Memory that a run may use, instead of engine.memory
    #[arg(long, global = true, env = "C360_MEMORY")]
    pub(super) memory: Option<String>,
    /// How to print the result
    #[arg(long, global = true, value_enum, default_value = "text", env = "C360_FORMAT")]
    pub(super) format: Format,
    /// How to log to stderr
    #[arg(long, global = true, value_enum, default_value = "text", env = "C360_LOG_FORMAT")]
    pub(super) log_format: LogFormat,
    /// Write how the command ended to this file, for the textfile collector of Prometheus' node exporter
    #[arg(long, global = true, value_name = "FILE", env = "C360_PROMETHEUS")]
    pub(super) prometheus: Option<PathBuf>,
    /// Tell when train, score, run and features build begin and end, and what they read and write: a file to which
    /// OpenLineage events are added, or the http address of a backend
    #[arg(long, global = true, value_name = "FILE_OR_URL", env = "C360_OPENLINEAGE")]
    pub(super) openlineage: Option<String>,
    /// Log stages to stderr; RUST_LOG sets finer levels
    #[arg(long, short, global = true)]
    pub(super) verbose: bool,
    /// No progress on the terminal
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
}

/// The global options that the environment can set: the option, its flag, its variable, and the setting of c360.toml
/// that it overrides.
const GLOBAL: [(&str, &str, &str, Option<&str>); 10] = [
    ("project", "--project", "C360_PROJECT", None),
    ("as_of", "--as-of", "C360_AS_OF", Some("project.as_of")),
    ("known_at", "--known-at", "C360_KNOWN_AT", None),
    ("store", "--store", "C360_STORE", Some("project.store")),
    ("root", "--root", "C360_ROOT", None),
    ("memory", "--memory", "C360_MEMORY", Some("engine.memory")),
    ("format", "--format", "C360_FORMAT", None),
    ("log_format", "--log-format", "C360_LOG_FORMAT", None),
    ("prometheus", "--prometheus", "C360_PROMETHEUS", None),
    ("openlineage", "--openlineage", "C360_OPENLINEAGE", None),
];

impl Global {
    /// What overrides `c360.toml`.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            as_of: self.as_of,
            known_at: self.known_at,
            store: self.store.clone(),
            memory: self.memory.clone(),
            root: self.root,
            ..Overrides::default()
        }
    }
}

impl Command {
    /// Whether the command is one of those that a schedule calls, which compute and publish.
    pub(super) fn is_job(&self) -> bool {
        matches!(
            self,
            Self::Train { .. }
                | Self::Score(_)
                | Self::Run(_)
                | Self::Features(Features::Build { .. })
        )
    }

    /// Whether the command is such a job and only says what it would do.
    pub(super) fn is_dry_run(&self) -> bool {
        matches!(
            self,
            Self::Train { dry_run: true }
                | Self::Score(Scoring { dry_run: true, .. })
                | Self::Run(Scoring { dry_run: true, .. })
        )
    }
}

/// Where the values of the global options come from.
pub(super) struct Origins(Vec<(&'static str, Option<&'static str>, Origin)>);

impl Origins {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let of = |(option, flag, variable, setting): (&'static str, _, _, _)| {
            let origin = match matches.value_source(option) {
                Some(ValueSource::CommandLine) => Origin::Flag(flag),
                Some(ValueSource::EnvVariable) => Origin::Environment(variable),
                _ => Origin::Default,
            };
            (option, setting, origin)
        };
        Self(GLOBAL.into_iter().map(of).collect())
    }

    /// The origins of the settings of c360.toml that an option overrides.
    pub(super) fn settings(&self) -> BTreeMap<&'static str, Origin> {
        let set = self.0.iter().filter(|(_, _, origin)| *origin != Origin::Default);
        set.filter_map(|(_, setting, origin)| Some(((*setting)?, *origin))).collect()
    }

    /// The origin of an option.
    pub(super) fn option(&self, option: &str) -> Origin {
        let found = self.0.iter().find(|(known, ..)| *known == option);
        found.map_or(Origin::Default, |(.., origin)| *origin)
    }
}

impl Global {
    /// The options that c360.toml cannot set.
    pub(super) fn others(&self, origins: &Origins) -> commands::config::Others {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or(serde_json::Value::Null, |value| json!(value.get_name()))
        };
        let values = [
            ("project", json!(self.project)),
            ("known_at", json!(self.known_at)),
            ("root", json!(self.root)),
            ("format", name(self.format.to_possible_value())),
            ("log_format", name(self.log_format.to_possible_value())),
            ("prometheus", json!(self.prometheus)),
            ("openlineage", json!(self.openlineage)),
        ];
        values.map(|(option, value)| (option, value, origins.option(option))).into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
    /// Only for `schema`: a CREATE TABLE statement
    Sql,
    /// Only for `show`
    Csv,
    /// Only for `show`, to a file or a pipe
    Parquet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Look at Parquet files and write a project that fits them
    Init(Init),
    /// Check the contract of the sources; exit 3 where it is violated
    Validate,
    /// Print the 50 profile fields with type, origin and writer, or the JSON Schema of a file of a project
    Schema {
        /// The kind of file whose JSON Schema to print
        #[arg(long, value_name = "KIND", value_parser = file_kind())]
        of: Option<FileKind>,
    },
    /// Print every setting with its value and where the value comes from
    #[command(subcommand)]
    Config(Config),
    /// List, describe or build features
    #[command(subcommand)]
    Features(Features),
    /// Train every model and put in use the versions that pass their gate; exit 4 where one does not
    Train {
        /// Say what would be trained, and write nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Score every customer and write the profile
    Score(Scoring),
    /// Train where a model has no version that may score the as-of, then score
    Run(Scoring),
    /// List or show trained models
    #[command(subcommand)]
    Models(Models),
    /// List, test or try out segment rules, or show where one customer has been
    #[command(subcommand)]
    Segments(Segments),
    /// Write a version of a model, or the offline store, in another program's format
    #[command(subcommand)]
    Export(Export),
    /// Print one customer as of the current profile, or of --as-of: profile, scores with reasons,
    /// segments, recommendations
    Explain {
        /// The customer360_id
        id: String,
    },
    /// Render all reports and the page over them
    Report {
        /// Open that page in the browser
        #[arg(long)]
        open: bool,
        /// Write the plotting library into each page, so that it can be sent away
        #[arg(long)]
        self_contained: bool,
        /// Serve the reports on this port of 127.0.0.1 until interrupted; 0 for any that is free
        #[arg(long, value_name = "PORT")]
        serve: Option<u16>,
    },
    /// Print the first rows of a table at the as-of of the current profile, or at --as-of
    Show {
        /// profile, scores, segments, segment_changes, recommendations, or features/VIEW
        table: String,
        /// How many rows
        #[arg(long, value_name = "ROWS", default_value_t = 10)]
        head: usize,
    },
    /// List the roots of the store: what each run has published, and when
    History,
    /// Remove old roots of the store, and what no root names any more
    Gc {
        /// How many of the latest roots are kept
        #[arg(long, value_name = "ROOTS", default_value_t = 30)]
        keep: usize,
        /// Keep also what was written within this time, because a run may be at work with it
        #[arg(long, value_name = "DURATION", default_value = "1d")]
        grace: Duration,
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Compute features of some customers again in two other ways, and compare every file of the store with its checksum;
    /// exit 3 where anything differs
    Audit {
        /// How many customers
        #[arg(long, value_name = "CUSTOMERS", default_value_t = 100)]
        sample: usize,
        /// Another seed chooses other customers
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Remove customers from the store, keep them out from then on, and look whether a trace is left
    Forget {
        /// The customer360_ids
        ids: Vec<String>,
        /// A file with one customer360_id in each line; - for standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Generate customers and events with a known truth
    Simulate(Simulate),
    /// Print a script that completes commands and options in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one per command
    Man {
        /// The folder to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The folder of the new project; default that of --project
    #[arg(value_name = "DIR")]
    pub(super) folder: Option<PathBuf>,
    /// The events: a Parquet file, a folder or a glob, or a URL of these in a bucket
    #[arg(long, value_name = "PATH")]
    pub(super) events: PathBuf,
    /// The profile, likewise; without it the customers are those of the events
    #[arg(long, value_name = "PATH")]
    pub(super) profile: Option<PathBuf>,
    /// The currency of amounts where no column of the events names it
    #[arg(long, value_name = "CODE", default_value = "EUR")]
    pub(super) currency: String,
    /// Set a column of the events by hand, as an expression over the columns of the file; may be given again
    #[arg(long, value_name = "COLUMN=EXPRESSION", value_parser = assignment)]
    pub(super) map: Vec<(String, String)>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

fn assignment(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write COLUMN=EXPRESSION")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn file_kind() -> impl clap::builder::TypedValueParser<Value = FileKind> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    PossibleValuesParser::new(FileKind::ALL.map(FileKind::name))
        .try_map(|name| FileKind::named(&name).ok_or("no kind of file has this name"))
}

#[derive(Debug, Args)]
pub(super) struct Scoring {
    /// Score even if nothing has changed since the last time
    #[arg(long)]
    pub(super) force: bool,
    /// Say what would be done, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Settings of the command line, the environment, c360.toml, and the defaults of all others
    Show,
}

#[derive(Debug, Subcommand)]
pub(super) enum Features {
    /// Every feature of every view
    List,
    /// One view or one feature in full
    Describe {
        /// A view or a feature
        name: String,
    },
    /// Compute all views at the as-of, or at many, and write them to the offline store
    Build {
        /// Read all event files, and not only those that are new or have changed
        #[arg(long)]
        full: bool,
        /// The first of many as-ofs
        #[arg(long, value_name = "INSTANT")]
        from: Option<Instant>,
        /// The last of many as-ofs; default the as-of
        #[arg(long, value_name = "INSTANT", requires = "from")]
        to: Option<Instant>,
        /// From one of many as-ofs to the next
        #[arg(long, value_name = "DURATION", default_value = "7d", requires = "from")]
        every: Duration,
    },
    /// What changed definitions would compute again, and which models use it
    Plan,
    /// How the columns of stored snapshots differ between two as-ofs
    Diff {
        /// The other as-of
        #[arg(long, value_name = "INSTANT")]
        against: Instant,
    },
    /// Join features to rows of your own, each as of its own instant: as many rows, in their order
    Join {
        /// Parquet with customer360_id, event_timestamp and any columns of your own
        #[arg(long)]
        entities: PathBuf,
        /// The views to join, separated by commas; default all
        #[arg(long, value_delimiter = ',')]
        views: Vec<String>,
        /// The Parquet file to write
        #[arg(long)]
        out: PathBuf,
        /// Compute features from the events before each instant, instead of reading the latest snapshots
        #[arg(long)]
        exact: bool,
        /// How old a snapshot of a view may be, such as commerce=7d; may be repeated
        #[arg(long, value_name = "VIEW=DURATION", value_parser = time_to_live)]
        ttl: Vec<(String, Duration)>,
        /// Use a snapshot only if it had been created by the instant of the row
        #[arg(long)]
        known: bool,
    },
}

/// `view=duration`.
fn time_to_live(text: &str) -> std::result::Result<(String, Duration), String> {
    let (view, length) = text.split_once('=').ok_or("write VIEW=DURATION, such as commerce=7d")?;
    Ok((view.trim().to_owned(), length.trim().parse()?))
}

#[derive(Debug, Subcommand)]
pub(super) enum Models {
    /// Every version of every model
    List,
    /// One version of a model
    Show {
        /// The model
        name: String,
        /// The version; default the one in use
        version: Option<String>,
    },
    /// Two versions side by side, paired where both were tested on the same rows
    Compare {
        /// The model
        name: String,
        /// One version
        ours: String,
        /// The other
        theirs: String,
    },
    /// Put a version in use
    Promote {
        /// The model
        name: String,
        /// The version
        version: String,
    },
    /// Take in a model.json that was edited on purpose, as a new version that is not in use yet
    Adopt {
        /// The model
        name: String,
        /// The version whose file was edited
        version: String,
    },
    /// Put the version in use that was before
    Rollback {
        /// The model
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Segments {
    /// Every rule by priority with its size at the last scored as-of, or at --as-of
    List,
    /// Hold the rules to their examples and to what was scored; exit 3 where one fails
    Test,
    /// When one customer entered and left which segments, and why
    History {
        /// The customer360_id
        id: String,
    },
    /// The members of a segment who have not opted out, as CSV or Parquet, with their scores but without names or
    /// addresses; at the last scored as-of, or at --as-of
    Export {
        /// The segment
        name: String,
        /// The file to write, FILE.csv or FILE.parquet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Only members who have consented to this scope, such as email
        #[arg(long, value_name = "SCOPE")]
        consent: Option<String>,
    },
    /// Sizes and flows that other thresholds, or rules edited since, would give; writes nothing
    Simulate {
        /// A threshold of models/segments.toml and its value, such as churn_high=0.65; may be repeated
        #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
        set: Vec<(String, Number)>,
    },
}

/// `name=number`.
fn setting(text: &str) -> std::result::Result<(String, Number), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as churn_high=0.65")?;
    Ok((name.trim().to_owned(), value.trim().parse()?))
}

#[derive(Debug, Subcommand)]
pub(super) enum Export {
    /// Preprocessing, model and calibration as one ONNX graph
    Onnx {
        /// The model
        name: String,
        /// The version; default the one in use
        version: Option<String>,
        /// The file to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Params, metrics and files as a run of an MLflow tracking server; a name and password or a
    /// token are taken from MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN
    Mlflow {
        /// The model
        name: String,
        /// The version; default the one in use
        version: Option<String>,
        /// The server's address, such as http://127.0.0.1:5000
        #[arg(long, env = "MLFLOW_TRACKING_URI", hide_env_values = true)]
        tracking_uri: String,
        /// The experiment, created where there is none; default the project's name
        #[arg(long, env = "MLFLOW_EXPERIMENT_NAME")]
        experiment: Option<String>,
    },
    /// The snapshots of all views as a Feast repository: definitions with explicit schemas, and Parquet
    Feast {
        /// The repository's folder; feature_store.yaml is written only where there is none
        #[arg(long)]
        out: PathBuf,
        /// How long the snapshots of a view hold, such as commerce=7d; may be repeated; default for ever
        #[arg(long, value_name = "VIEW=DURATION", value_parser = time_to_live)]
        ttl: Vec<(String, Duration)>,
    },
    /// The current profile's features and scores to Redis, a hash per customer: what has changed since the
    /// last push
    Redis {
        /// redis://[user:password@]host[:port][/database], or rediss:// for TLS
        #[arg(long, env = "C360_REDIS_URL", hide_env_values = true)]
        url: String,
        /// Before every key
        #[arg(long, default_value = "c360:")]
        prefix: String,
        #[command(flatten)]
        push: Push,
    },
    /// The current profile's features and scores to PostgreSQL, a row per customer: what has changed since
    /// the last push, in one transaction
    Postgres {
        /// postgres://user@host[:port]/database; the password may be PGPASSWORD
        #[arg(long, env = "C360_POSTGRES_URL", hide_env_values = true)]
        url: String,
        /// The table, with its schema or without; made where it is not there
        #[arg(long, default_value = "c360_customers")]
        table: String,
        #[command(flatten)]
        push: Push,
    },
}

#[derive(Debug, Args)]
pub(super) struct Push {
    /// The views to push, separated by commas; default all
    #[arg(long, value_delimiter = ',')]
    pub(super) views: Vec<String>,
    /// Customers per second at most; default as fast as the server takes them
    #[arg(long, value_name = "CUSTOMERS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) rate: Option<u64>,
    /// Send every customer, whatever the server is thought to hold
    #[arg(long)]
    pub(super) full: bool,
    /// Ask the server what it holds, say how many customers would be sent, and send nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Customers
    #[arg(long, default_value_t = 2000)]
    pub(super) customers: u64,
    /// Days of history
    #[arg(long, default_value_t = 730)]
    pub(super) days: u32,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// The folder to write profile/, events/ and truth/ to
    #[arg(long)]
    pub(super) out: PathBuf,
    /// When the history ends
    #[arg(long, default_value = "2024-07-01")]
    pub(super) end: Instant,
    /// Gap of the outcome in the truth file
    #[arg(long, default_value = "7d")]
    pub(super) gap: Duration,
    /// Horizon of the outcome in the truth file
    #[arg(long, default_value = "90d")]
    pub(super) horizon: Duration,
    /// An instant that the truth file tells of; may be repeated; default the end
    #[arg(long = "truth-at")]
    pub(super) truth_at: Vec<Instant>,
}

//! The command line: parses the arguments, makes one call of the library and turns errors into exit codes.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde_json::json;

use crate::commands;
use crate::commands::build::Build;
use crate::commands::pages::Form;
use crate::commands::show::Layout;
use crate::config::{FileKind, Origin, Overrides, Project};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::export::online::OnlineStore;
use crate::expression::Number;
use crate::report::{Output, Progress};
use crate::simulate::Options;
use crate::time::{Duration, Instant};

/// Point-in-time features, calibrated scores and segments, written back to the customer profile.
#[derive(Debug, Parser)]
#[command(name = "c360-ml", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The project's folder, which has c360.toml
    #[arg(long, global = true, default_value = ".", env = "C360_PROJECT")]
    project: PathBuf,
    /// The instant to compute for: a date (midnight UTC) or RFC 3339
    #[arg(long, global = true, env = "C360_AS_OF")]
    as_of: Option<Instant>,
    /// Use only what had been ingested before this instant; default the as-of
    #[arg(long, global = true, env = "C360_KNOWN_AT")]
    known_at: Option<Instant>,
    /// The store's folder, instead of project.store
    #[arg(long, global = true, env = "C360_STORE")]
    store: Option<PathBuf>,
    /// Read the store as of this root, as `history` numbers them; only for commands that do not write
    #[arg(long, global = true, value_name = "NUMBER", env = "C360_ROOT")]
    root: Option<u64>,
    /// Memory that a run may use, instead of engine.memory
    #[arg(long, global = true, env = "C360_MEMORY")]
    memory: Option<String>,
    /// How to print the result
    #[arg(long, global = true, value_enum, default_value = "text", env = "C360_FORMAT")]
    format: Format,
    /// How to log to stderr
    #[arg(long, global = true, value_enum, default_value = "text", env = "C360_LOG_FORMAT")]
    log_format: LogFormat,
    /// Log stages to stderr; RUST_LOG sets finer levels
    #[arg(long, short, global = true)]
    verbose: bool,
    /// No progress on the terminal
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// The global options that the environment can set: the option, its flag, its variable, and the setting of c360.toml
/// that it overrides.
const GLOBAL: [(&str, &str, &str, Option<&str>); 8] = [
    ("project", "--project", "C360_PROJECT", None),
    ("as_of", "--as-of", "C360_AS_OF", Some("project.as_of")),
    ("known_at", "--known-at", "C360_KNOWN_AT", None),
    ("store", "--store", "C360_STORE", Some("project.store")),
    ("root", "--root", "C360_ROOT", None),
    ("memory", "--memory", "C360_MEMORY", Some("engine.memory")),
    ("format", "--format", "C360_FORMAT", None),
    ("log_format", "--log-format", "C360_LOG_FORMAT", None),
];

/// Where the values of the global options come from.
struct Origins(Vec<(&'static str, Option<&'static str>, Origin)>);

impl Origins {
    fn of(matches: &ArgMatches) -> Self {
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
    fn settings(&self) -> BTreeMap<&'static str, Origin> {
        let set = self.0.iter().filter(|(_, _, origin)| *origin != Origin::Default);
        set.filter_map(|(_, setting, origin)| Some(((*setting)?, *origin))).collect()
    }

    /// The origin of an option.
    fn option(&self, option: &str) -> Origin {
        let found = self.0.iter().find(|(known, ..)| *known == option);
        found.map_or(Origin::Default, |(.., origin)| *origin)
    }
}

impl Global {
    /// The options that c360.toml cannot set.
    fn others(&self, origins: &Origins) -> commands::config::Others {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or(serde_json::Value::Null, |value| json!(value.get_name()))
        };
        let values = [
            ("project", json!(self.project)),
            ("known_at", json!(self.known_at)),
            ("root", json!(self.root)),
            ("format", name(self.format.to_possible_value())),
            ("log_format", name(self.log_format.to_possible_value())),
        ];
        values.map(|(option, value)| (option, value, origins.option(option))).into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    /// Only for `schema`: a CREATE TABLE statement
    Sql,
    /// Only for `show`
    Csv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
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
struct Init {
    /// The folder of the new project; default that of --project
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The events: a Parquet file, a folder or a glob, or a URL of these in a bucket
    #[arg(long, value_name = "PATH")]
    events: PathBuf,
    /// The profile, likewise; without it the customers are those of the events
    #[arg(long, value_name = "PATH")]
    profile: Option<PathBuf>,
    /// The currency of amounts where no column of the events names it
    #[arg(long, value_name = "CODE", default_value = "EUR")]
    currency: String,
    /// Set a column of the events by hand, as an expression over the columns of the file; may be given again
    #[arg(long, value_name = "COLUMN=EXPRESSION", value_parser = assignment)]
    map: Vec<(String, String)>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
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
struct Scoring {
    /// Score even if nothing has changed since the last time
    #[arg(long)]
    force: bool,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum Config {
    /// Settings of the command line, the environment, c360.toml, and the defaults of all others
    Show,
}

#[derive(Debug, Subcommand)]
enum Features {
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
enum Models {
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
    /// Put the version in use that was before
    Rollback {
        /// The model
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum Segments {
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
enum Export {
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
struct Push {
    /// The views to push, separated by commas; default all
    #[arg(long, value_delimiter = ',')]
    views: Vec<String>,
    /// Customers per second at most; default as fast as the server takes them
    #[arg(long, value_name = "CUSTOMERS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Send every customer, whatever the server is thought to hold
    #[arg(long)]
    full: bool,
}

impl Push {
    fn to(
        &self,
        project: &Project,
        store: impl Fn() -> Result<Box<dyn OnlineStore>>,
        progress: &mut Progress,
    ) -> Result<Output> {
        commands::push::push(project, &self.views, self.rate, self.full, store, progress)
    }
}

#[derive(Debug, Args)]
struct Simulate {
    /// Customers
    #[arg(long, default_value_t = 2000)]
    customers: u64,
    /// Days of history
    #[arg(long, default_value_t = 730)]
    days: u32,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder to write profile/, events/ and truth/ to
    #[arg(long)]
    out: PathBuf,
    /// When the history ends
    #[arg(long, default_value = "2024-07-01")]
    end: Instant,
    /// Gap of the outcome in the truth file
    #[arg(long, default_value = "7d")]
    gap: Duration,
    /// Horizon of the outcome in the truth file
    #[arg(long, default_value = "90d")]
    horizon: Duration,
    /// An instant that the truth file tells of; may be repeated; default the end
    #[arg(long = "truth-at")]
    truth_at: Vec<Instant>,
}

/// Renders the reference of all commands and options as Markdown.
pub fn reference() -> String {
    let options = clap_markdown::MarkdownOptions::new().title("Commands".to_owned());
    let options = options.show_footer(false).show_table_of_contents(false);
    clap_markdown::help_markdown_custom::<Cli>(&options)
}

/// Renders the script that completes commands and options in a shell.
fn completions(shell: clap_complete::Shell) -> Output {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "c360-ml", &mut script);
    let text = String::from_utf8_lossy(&script).into_owned();
    let json = json!({ "shell": shell.to_string(), "script": text });
    Output { text, json }
}

/// Writes the manual pages of all commands to a folder.
fn man(folder: &std::path::Path) -> Result<Output> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(Error::io("write", folder))?;
    let text = format!("manual pages are in {}\n", folder.display());
    Ok(Output { text, json: json!({ "folder": folder }) })
}

/// Parses the arguments, runs the command, prints, and gives the exit code.
pub fn main() -> Exit {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!(
            "error: c360-ml has a defect\n  caused by: {panic}\n\nhint: please report it with the command"
        );
        std::process::exit(Exit::Unexpected.code().into());
    }));
    let parsed = Cli::command().try_get_matches();
    let parsed = parsed.and_then(|m| Ok((Cli::from_arg_matches(&m)?, Origins::of(&m))));
    let (cli, origins) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // A request for the help or the version is not an error.
            let is_error = error.exit_code() != 0;
            match is_error && asks_for_json() {
                true => eprintln!("{}", usage_json(&error)),
                false => drop(error.print()),
            }
            return Exit::Configuration.unless(!is_error);
        }
    };
    start_logging(&cli.global);
    match execute(&cli, &origins) {
        Ok((output, exit)) => {
            print(&output, cli.global.format);
            exit
        }
        Err(error) => {
            match cli.global.format {
                Format::Json => eprintln!("{}", error_json(&error)),
                _ => eprintln!("{}", render(&error)),
            }
            error.exit()
        }
    }
}

fn execute(cli: &Cli, origins: &Origins) -> Result<(Output, Exit)> {
    let global = &cli.global;
    let fits = match global.format {
        Format::Text | Format::Json => true,
        Format::Sql => matches!(cli.command, Command::Schema { of: None }),
        Format::Csv => matches!(cli.command, Command::Show { .. }),
    };
    if !fits {
        let given = global.format.to_possible_value();
        let given = given.as_ref().map_or("", |value| value.get_name()).to_owned();
        let required = "text or json for this command";
        return Err(Error::setting("command line", "--format", given, required, "--format json"));
    }
    let mut progress = Progress::new(global.quiet || !std::io::stderr().is_terminal());
    let overrides = Overrides {
        as_of: global.as_of,
        known_at: global.known_at,
        store: global.store.clone(),
        memory: global.memory.clone(),
        root: global.root,
        origins: origins.settings(),
    };
    let project = || Project::load(&global.project, &overrides);
    let output = match &cli.command {
        Command::Completions { shell } => completions(*shell),
        Command::Man { out } => man(out)?,
        Command::Init(Init { folder, events, profile, currency, map, dry_run }) => {
            let asked = commands::init::Init {
                folder: folder.as_deref().unwrap_or(&global.project),
                events,
                profile: profile.as_deref(),
                given: &map.iter().cloned().collect(),
                currency,
                dry_run: *dry_run,
            };
            commands::init::init(&asked, &mut progress)?
        }
        Command::Config(Config::Show) => {
            let project = project()?;
            commands::config::show(&project, global.others(origins))?
        }
        Command::Validate => {
            return commands::validate::validate(&project()?, &mut progress);
        }
        Command::Schema { of: Some(kind) } => commands::schema::of_file(*kind),
        Command::Schema { of: None } if global.project.join("c360.toml").exists() => {
            commands::schema::schema(Some(&project()?), global.format == Format::Sql)
        }
        Command::Schema { of: None } => {
            commands::schema::schema(None, global.format == Format::Sql)
        }
        Command::Features(Features::List) => commands::features::list(&project()?),
        Command::Features(Features::Describe { name }) => {
            commands::features::describe(&project()?, name)?
        }
        Command::Features(Features::Plan) => commands::registry::plan(&project()?)?,
        Command::Features(Features::Diff { against }) => {
            let project = project()?;
            commands::registry::diff(&project, project.as_of()?, *against)?
        }
        Command::Features(Features::Build { full, from, to, every }) => {
            let asked = Build { full: *full, from: *from, to: *to, every: *every };
            return commands::build::build(&project()?, asked, &mut progress);
        }
        Command::Features(Features::Join { entities, views, out, exact, ttl, known }) => {
            let join =
                commands::join::Join { entities, views, out, exact: *exact, ttl, known: *known };
            commands::join::join(&project()?, &join, &mut progress)?
        }
        Command::Train { dry_run: true } => {
            return commands::dry_run::train(&project()?, &mut progress);
        }
        Command::Train { dry_run: false } => {
            return commands::train::train(&project()?, &mut progress);
        }
        Command::Score(Scoring { force, dry_run: true }) => {
            return commands::dry_run::score(&project()?, *force, &mut progress);
        }
        Command::Score(Scoring { force, dry_run: false }) => {
            return commands::score::score(&project()?, *force, &mut progress);
        }
        Command::Run(Scoring { force, dry_run: true }) => {
            return commands::dry_run::run(&project()?, *force, &mut progress);
        }
        Command::Run(Scoring { force, dry_run: false }) => {
            return commands::run::run(&project()?, *force, &mut progress);
        }
        Command::Models(Models::List) => commands::models::list(&project()?)?,
        Command::Models(Models::Show { name, version }) => {
            commands::models::show(&project()?, name, version.as_deref())?
        }
        Command::Models(Models::Compare { name, ours, theirs }) => {
            commands::models::compare(&project()?, name, ours, theirs)?
        }
        Command::Models(Models::Promote { name, version }) => {
            commands::models::promote(&project()?, name, version)?
        }
        Command::Models(Models::Rollback { name }) => {
            commands::models::roll_back(&project()?, name)?
        }
        Command::Segments(Segments::List) => commands::segments::list(&project()?, global.as_of)?,
        Command::Segments(Segments::Test) => {
            return commands::segments::test(&project()?, global.as_of);
        }
        Command::Segments(Segments::History { id }) => {
            commands::segments::history(&project()?, id)?
        }
        Command::Segments(Segments::Simulate { set }) => {
            commands::segments::simulate(&project()?, set, global.as_of)?
        }
        Command::Segments(Segments::Export { name, out, consent }) => {
            let asked =
                commands::members::Members { segment: name, out, consent: consent.as_deref() };
            commands::members::export(&project()?, &asked, global.as_of, &mut progress)?
        }
        Command::Report { open, self_contained, serve } => {
            let project = project()?;
            let form = if *self_contained { Form::SelfContained } else { Form::Linked };
            let (output, index) = commands::report::report(&project, form, &mut progress)?;
            if *open {
                open::that(&index).map_err(Error::io("open", &index))?;
            }
            if let Some(port) = serve {
                print(&output, global.format);
                commands::report::serve(&project, *port)?;
                return Ok((
                    Output { text: String::new(), json: serde_json::Value::Null },
                    Exit::Ok,
                ));
            }
            output
        }
        Command::Export(Export::Onnx { name, version, out }) => {
            commands::export::onnx(&project()?, name, version.as_deref(), out)?
        }
        Command::Export(Export::Mlflow { name, version, tracking_uri, experiment }) => {
            let (version, experiment) = (version.as_deref(), experiment.as_deref());
            commands::export::mlflow(&project()?, name, version, tracking_uri, experiment)?
        }
        Command::Export(Export::Feast { out, ttl }) => {
            commands::export::feast(&project()?, out, ttl, &mut progress)?
        }
        Command::Export(Export::Redis { url, prefix, push }) => {
            push.to(&project()?, || commands::push::redis(url, prefix), &mut progress)?
        }
        Command::Export(Export::Postgres { url, table, push }) => {
            push.to(&project()?, || commands::push::postgres(url, table), &mut progress)?
        }
        Command::Show { table, head } => {
            let layout = if global.format == Format::Csv { Layout::Csv } else { Layout::Text };
            commands::show::show(&project()?, table, *head, global.as_of, layout)?
        }
        Command::History => commands::history::history(&project()?)?,
        Command::Gc { keep, grace, dry_run } => {
            commands::history::gc(&project()?, *keep, *grace, *dry_run)?
        }
        Command::Explain { id } => commands::explain::explain(&project()?, id, global.as_of)?,
        Command::Simulate(arguments) => {
            let truth_at = match arguments.truth_at.as_slice() {
                [] => vec![arguments.end],
                list => list.to_vec(),
            };
            let options = Options {
                customers: arguments.customers,
                days: arguments.days,
                seed: arguments.seed,
                end: arguments.end,
                gap: arguments.gap,
                horizon: arguments.horizon,
                truth_at,
            };
            commands::simulate::simulate(&options, &arguments.out, &mut progress)?
        }
    };
    Ok((output, Exit::Ok))
}

fn start_logging(global: &Global) {
    use tracing_subscriber::EnvFilter;
    let level = if global.verbose { "c360_ml=info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Logging is set up once per process; a second attempt changes nothing.
    let _ = match global.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn print(output: &Output, format: Format) {
    use std::io::Write;
    let text = match format {
        Format::Text | Format::Sql | Format::Csv => output.text.clone(),
        Format::Json => format!("{:#}\n", output.json),
    };
    // A failed write means that the reader has closed the pipe because it needs no more output.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Whether the command line or the environment asks for JSON, where the arguments as a whole are wrong.
fn asks_for_json() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let pair = arguments.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json");
    let asks = pair || arguments.iter().any(|argument| argument == "--format=json");
    asks || std::env::var("C360_FORMAT").is_ok_and(|format| format == "json")
}

/// An error in the arguments as JSON: the first line says what is wrong, the others help.
fn usage_json(error: &clap::Error) -> serde_json::Value {
    let text = error.render().to_string();
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let rest: Vec<&str> = rest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    json!({
        "error": first.trim_start_matches("error: "),
        "causes": [],
        "hint": rest.join("; "),
        "exit_code": Exit::Configuration.code(),
    })
}

/// The causes of an error, the nearest first.
fn causes(error: &Error) -> Vec<String> {
    use std::error::Error as _;
    let sources = std::iter::successors(error.source(), |&cause| cause.source());
    sources.map(ToString::to_string).collect()
}

/// `error: …`, `caused by: …`, a blank line, `hint: …`.
fn render(error: &Error) -> String {
    let mut text = format!("error: {error}");
    causes(error).iter().for_each(|cause| text += &format!("\ncaused by: {cause}"));
    if let Some(hint) = error.hint() {
        text += &format!("\n\nhint: {hint}");
    }
    text
}

/// The same as JSON, with the exit code.
fn error_json(error: &Error) -> serde_json::Value {
    json!({
        "error": error.to_string(),
        "causes": causes(error),
        "hint": error.hint(),
        "exit_code": error.exit_code(),
    })
}

//! The command line: parses the arguments, makes one call of the library and turns errors into exit codes.

mod arguments;
mod ended;
mod lineage;
mod log;

use std::io::{IsTerminal, Write};

use clap::{Arg, CommandFactory, FromArgMatches, ValueEnum};
use serde_json::json;

use self::arguments::{
    Cli, Command, Config, Export, Features, Format, Global, Init, LogFormat, Models, Origins, Push,
    Scoring, Segments,
};
use self::lineage::Told;
use crate::commands;
use crate::commands::build::Build;
use crate::commands::pages::Form;
use crate::commands::push::Asked;
use crate::commands::show::Layout;
use crate::config::{Access, Overrides, Project};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::export::online::OnlineStore;
use crate::report::identity::Identity;
use crate::report::{Output, Progress};
use crate::simulate::Options;
use crate::store::StoreProblem;

/// Renders the reference of all commands and options as Markdown.
pub fn reference() -> String {
    let options = clap_markdown::MarkdownOptions::new().title("Commands".to_owned());
    let options = options.show_footer(false).show_table_of_contents(false);
    clap_markdown::help_markdown_command_custom(&with_variables(Cli::command()), &options)
}

/// Adds to the help of each option the environment variable that sets it, which `clap_markdown` leaves out.
fn with_variables(command: clap::Command) -> clap::Command {
    let named = |argument: Arg| match (argument.get_env(), argument.get_help()) {
        (Some(variable), Some(help)) => {
            let help = format!("{help}. Environment variable: `{}`", variable.to_string_lossy());
            argument.help(help)
        }
        _ => argument,
    };
    command.mut_args(named).mut_subcommands(with_variables)
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
    let parsed =
        parsed.and_then(|m| Ok((Cli::from_arg_matches(&m)?, Origins::of(&m), ended::name_of(&m))));
    let (cli, origins, command) = match parsed {
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
    let traceparent = std::env::var("TRACEPARENT").ok();
    let identity = Identity::new(uuid::Uuid::now_v7().to_string(), traceparent.as_deref());
    start_logging(&cli.global, &identity);
    let begun = std::time::Instant::now();
    let is_quiet = cli.global.quiet || !std::io::stderr().is_terminal();
    let publishes = cli.command.is_job() && !cli.command.is_dry_run();
    let told = publishes.then(|| Told::begin(&cli.global, &command, &identity)).flatten();
    let mut progress = Progress::new(is_quiet, identity);
    let outcome = healed(&cli, &origins, &mut progress);
    if let Some(told) = told {
        told.end(&cli.global, &outcome);
    }
    if let Err(error) = &outcome
        && publishes
        && let Err(error) = ended::record_failure(&cli.global, &command, error, &mut progress)
    {
        tracing::warn!("the run was not recorded: {error}");
    }
    if let Some(file) = &cli.global.prometheus
        && let Err(error) = ended::write(file, &command, &outcome, begun.elapsed())
    {
        // The command has ended as it has, whether Prometheus hears of it or not.
        tracing::warn!("{error}");
    }
    match outcome {
        Ok((output, exit)) => {
            print(&output, cli.global.format);
            exit
        }
        Err(error) => {
            match cli.global.format {
                Format::Json => eprintln!("{}", error.json()),
                _ => eprintln!("{}", render(&error)),
            }
            error.exit()
        }
    }
}

impl Push {
    fn to(
        &self,
        project: &Project,
        store: impl Fn() -> Result<Box<dyn OnlineStore>>,
        progress: &mut Progress,
    ) -> Result<Output> {
        let Self { views, rate, full, dry_run } = self;
        let asked = Asked { views, rate: *rate, full: *full, dry_run: *dry_run };
        commands::push::push(project, asked, store, progress)
    }
}

/// Runs the command. Where the timelines that the store keeps are damaged, a command that writes them runs again and
/// reads all events.
fn healed(cli: &Cli, origins: &Origins, progress: &mut Progress) -> Result<(Output, Exit)> {
    match execute(cli, origins, false, progress) {
        Err(error)
            if cli.command.is_job()
                && matches!(error.problem(), Some(StoreProblem::DamagedTimelines { .. })) =>
        {
            tracing::warn!("{error}: all event files are read again, and it is written anew");
            execute(cli, origins, true, progress)
        }
        outcome => outcome,
    }
}

fn execute(
    cli: &Cli,
    origins: &Origins,
    reread: bool,
    progress: &mut Progress,
) -> Result<(Output, Exit)> {
    let global = &cli.global;
    let fits = match global.format {
        Format::Text | Format::Json => true,
        Format::Sql => matches!(cli.command, Command::Schema { of: None }),
        Format::Csv | Format::Parquet => matches!(cli.command, Command::Show { .. }),
    };
    if !fits {
        let given = global.format.to_possible_value();
        let given = given.as_ref().map_or("", |value| value.get_name()).to_owned();
        let required = "text or json for this command";
        return Err(Error::setting("command line", "--format", given, required, "--format json"));
    }
    let overrides = Overrides { reread, origins: origins.settings(), ..global.overrides() };
    let project = || {
        let project = Project::load(&global.project, &overrides)?;
        restrict(project.settings.project.access);
        Ok::<_, Error>(project)
    };
    let store = || {
        let (store, access) = Project::open_store(&global.project, &overrides)?;
        restrict(access);
        Ok::<_, Error>(store)
    };
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
            commands::init::init(&asked, progress)?
        }
        Command::Config(Config::Show) => {
            let project = project()?;
            commands::config::show(&project, global.others(origins))?
        }
        Command::Validate => {
            return commands::validate::validate(&project()?, progress);
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
            return commands::build::build(&project()?, asked, progress);
        }
        Command::Features(Features::Join { entities, views, out, exact, ttl, known }) => {
            let join =
                commands::join::Join { entities, views, out, exact: *exact, ttl, known: *known };
            commands::join::join(&project()?, &join, progress)?
        }
        Command::Train { dry_run: true } => {
            return commands::dry_run::train(&project()?, progress);
        }
        Command::Train { dry_run: false } => {
            return commands::train::train(&project()?, progress);
        }
        Command::Score(Scoring { force, dry_run: true }) => {
            return commands::dry_run::score(&project()?, *force, progress);
        }
        Command::Score(Scoring { force, dry_run: false }) => {
            return commands::score::score(&project()?, *force, progress);
        }
        Command::Run(Scoring { force, dry_run: true }) => {
            return commands::dry_run::run(&project()?, *force, progress);
        }
        Command::Run(Scoring { force, dry_run: false }) => {
            return commands::run::run(&project()?, *force, progress);
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
        Command::Models(Models::Adopt { name, version }) => {
            commands::adopt::adopt(&project()?, name, version)?
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
            commands::members::export(&project()?, &asked, global.as_of, progress)?
        }
        Command::Report { open, self_contained, serve } => {
            let project = project()?;
            let form = if *self_contained { Form::SelfContained } else { Form::Linked };
            let (output, index) = commands::report::report(&project, form, progress)?;
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
            commands::export::feast(&project()?, out, ttl, progress)?
        }
        Command::Export(Export::Redis { url, prefix, push }) => {
            push.to(&project()?, || commands::push::redis(url, prefix), progress)?
        }
        Command::Export(Export::Postgres { url, table, push }) => {
            push.to(&project()?, || commands::push::postgres(url, table), progress)?
        }
        Command::Show { table, head } if global.format == Format::Parquet => {
            if std::io::stdout().is_terminal() {
                let required = "a file or a pipe as its output";
                let hint = "c360-ml show profile --format parquet > profile.parquet";
                return Err(Error::setting("command line", "--format", "parquet", required, hint));
            }
            let bytes = commands::show::parquet(&store()?, table, *head, global.as_of)?;
            let written = std::io::stdout().write_all(&bytes);
            written.map_err(Error::io("write", std::path::Path::new("stdout")))?;
            Output { text: String::new(), json: serde_json::Value::Null }
        }
        Command::Show { table, head } => {
            let layout = if global.format == Format::Csv { Layout::Csv } else { Layout::Text };
            commands::show::show(&store()?, table, *head, global.as_of, layout)?
        }
        Command::History => commands::history::history(&store()?)?,
        Command::Gc { keep, grace, dry_run } => {
            commands::history::gc(&store()?, *keep, *grace, *dry_run)?
        }
        Command::Audit { sample, seed } => {
            let asked = commands::audit::Asked { at: global.as_of, sample: *sample, seed: *seed };
            return commands::audit::audit(&project()?, asked, progress);
        }
        Command::Forget { ids, file, dry_run } => {
            let mut keys = ids.clone();
            if let Some(file) = file {
                keys.extend(lines(file)?);
            }
            commands::forget::forget(&store()?, &keys, *dry_run)?
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
            commands::simulate::simulate(&options, &arguments.out, progress)?
        }
    };
    Ok((output, Exit::Ok))
}

/// Sets who may read the files that this process writes from now on.
#[cfg(unix)]
fn restrict(access: Access) {
    let mask = match access {
        Access::Owner => 0o077,
        Access::Group => 0o027,
        Access::Umask => return,
    };
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
}

/// Windows has no such mask; its files have the permissions of their folder.
#[cfg(not(unix))]
fn restrict(_: Access) {}

/// The lines of a file, or of standard input for `-`.
fn lines(file: &std::path::Path) -> Result<Vec<String>> {
    let text = match file.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    let text = text.map_err(Error::io("read", file))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn start_logging(global: &Global, identity: &Identity) {
    use tracing_subscriber::EnvFilter;
    let level = if global.verbose { "c360_ml=info" } else { "warn" };
    // What goes wrong with a Delta table is told by our own error, without a trace of calls.
    let level = format!("{level},delta_kernel=off,delta_kernel_default_engine=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Logging is set up once per process; a second attempt changes nothing.
    let _ = match global.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.event_format(log::JsonLines(identity.clone())).try_init(),
    };
}

fn print(output: &Output, format: Format) {
    let text = match format {
        Format::Text | Format::Sql | Format::Csv | Format::Parquet => output.text.clone(),
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

/// `error: …`, `caused by: …`, a blank line, `hint: …`.
fn render(error: &Error) -> String {
    let mut text = format!("error: {error}");
    error.causes().iter().for_each(|cause| text += &format!("\ncaused by: {cause}"));
    if let Some(hint) = error.hint() {
        text += &format!("\n\nhint: {hint}");
    }
    text
}

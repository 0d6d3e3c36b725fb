//! pgqrs beside other libraries: the same work for all, in turns, in one run.

#[path = "../../src/contest.rs"]
mod contest;
#[path = "../../src/cost.rs"]
mod cost;
#[path = "../../src/report.rs"]
mod report;

mod cases;
mod chart;
mod libraries;
mod page;
mod peers;
mod postgres;
mod results;
mod sqlite;

use std::{env, error::Error, fs, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use kit::{Call, serve};

use cases::Ground;
use libraries::Library;
use postgres::Postgres;
use report::Report;
use results::Results;
use sqlite::Sqlite;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Measures pgqrs beside other libraries, each set as its own documentation advises for throughput.
///
/// Each library works in a process of its own, on a fresh copy of a database that it has filled by
/// itself. Handlers do nothing; messages have 200 bytes. Rates run from the first to the last message
/// of a turn, and every turn is checked: nothing lost, nothing handled twice, nothing left unfinished.
/// All libraries have a turn in each round; the medians count. Programs that need a lock file of their
/// own are built first.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// What to measure; nothing, to make a page or charts of earlier results.
    #[arg(value_enum, required_unless_present = "from")]
    scenarios: Vec<Scenario>,

    /// Only these libraries beside pgqrs, by parts of their names.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    libraries: Vec<String>,

    /// How often each case is run.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How long a turn may take; what was done by then counts.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,

    /// How many messages there are to drain.
    #[arg(long, default_value_t = 50_000)]
    messages: usize,

    /// How many messages are picked up one by one.
    #[arg(long, default_value_t = 200)]
    pick_ups: usize,

    /// A Postgres server on which databases may be made and dropped; by default a throwaway server
    /// of its own, with its data in memory.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,

    /// Where SQLite's files are made.
    #[arg(long, value_name = "FOLDER", default_value = "/dev/shm")]
    sqlite: PathBuf,

    /// Takes the other programs as they have been built.
    #[arg(long)]
    built: bool,

    /// Where to write what was measured.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Results of earlier runs, for the page and the charts.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,

    /// Where to write the tables, as Markdown. Tables of an earlier run are replaced, and what
    /// stands around them is kept.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// The folder for the charts, peers-postgres.svg and peers-sqlite.svg.
    #[arg(long, value_name = "FOLDER")]
    charts: Option<PathBuf>,
}

/// A set of cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Everything.
    All,
    /// One by one from 1 and from 64 tasks, and in batches of 100.
    PostgresEnqueue,
    /// A filled queue, by workers with 64 handlers and by consumers with batches of 100, 10 and 1.
    PostgresDrain,
    /// The time from an enqueue to its handler.
    PostgresPickUp,
    /// As on Postgres.
    SqliteEnqueue,
    /// As on Postgres, with one consumer.
    SqliteDrain,
    /// As on Postgres.
    SqlitePickUp,
}

impl Options {
    fn millis(&self) -> u64 {
        (self.seconds * 1e3) as u64
    }

    fn wants(&self, library: &Library) -> bool {
        let named = |name: &String| library.name.contains(name.as_str());
        library.is_ours() || self.libraries.is_empty() || self.libraries.iter().any(named)
    }

    fn wanted(&self, scenario: Scenario) -> bool {
        self.scenarios.iter().any(|wanted| [scenario, Scenario::All].contains(wanted))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = env::args();
    if arguments.nth(1).as_deref() == Some("serve") {
        return kit::exit(serve_own(Call::parse_from(env::args().skip(1))).await);
    }
    kit::exit(run(&Options::parse()).await)
}

/// The libraries of this program.
async fn serve_own(Call { library, url, task }: Call) -> Result<()> {
    use peers::{apalis_postgres, apalis_sqlite, graphile, ours, pgmq};
    match library.as_str() {
        "ours" => serve::<ours::Ours<ours::AsItComes>>(&url, task).await,
        "ours-prefetch" => serve::<ours::Ours<ours::FiveHundred>>(&url, task).await,
        "graphile" => serve::<graphile::Graphile>(&url, task).await,
        "pgmq-delete" => serve::<pgmq::Pgmq<pgmq::Delete>>(&url, task).await,
        "pgmq-archive" => serve::<pgmq::Pgmq<pgmq::Archive>>(&url, task).await,
        "apalis-postgres" => serve::<apalis_postgres::ApalisPostgres>(&url, task).await,
        "apalis-sqlite" => serve::<apalis_sqlite::ApalisSqlite>(&url, task).await,
        other => Err(kit::unknown(other)),
    }
}

async fn run(options: &Options) -> Result<()> {
    let mut report = Report::default();
    if !options.scenarios.is_empty() {
        if !options.built {
            libraries::build().await?;
        }
        let outcome = measure(options, &mut report).await;
        if let Some(file) = &options.json {
            report.write(file)?;
        }
        outcome?;
    }
    let files = options.from.iter().chain(&options.json);
    let results = Results::read(files)?;
    if let Some(file) = &options.markdown {
        let page = fs::read_to_string(file).unwrap_or_default();
        fs::write(file, page::with_tables(&page, &page::markdown(&results)))?;
    }
    if let Some(folder) = &options.charts {
        for (ground, name) in [("postgres", "Postgres"), ("sqlite", "SQLite")] {
            let file = folder.join(format!("peers-{ground}.svg"));
            fs::write(file, chart::svg(&results, ground, name))?;
        }
    }
    Ok(())
}

async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    use Scenario::*;
    let on_postgres = [PostgresEnqueue, PostgresDrain, PostgresPickUp];
    if on_postgres.iter().any(|&scenario| options.wanted(scenario)) {
        let server = Postgres::start(options.postgres.as_deref()).await?;
        report.note(&server.describe().await?);
        on_ground(&server, on_postgres, options, report).await?;
    }
    let ground = Sqlite::new(&options.sqlite);
    on_ground(&ground, [SqliteEnqueue, SqliteDrain, SqlitePickUp], options, report).await
}

async fn on_ground<G: Ground>(
    ground: &G,
    [enqueue, drain, pick_up]: [Scenario; 3],
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    if options.wanted(enqueue) {
        cases::enqueue(ground, options, report).await?;
    }
    if options.wanted(drain) {
        cases::drain(ground, options, report).await?;
    }
    if options.wanted(pick_up) {
        cases::pick_up(ground, options, report).await?;
    }
    Ok(())
}

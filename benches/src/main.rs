//! The load generator: what the stores do, beside the best bare statements for the same work.

mod contest;
mod cost;
mod crew;
mod depth;
mod latency;
mod ours;
mod postgres;
mod report;
mod sqlite;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use tokio::task::JoinSet;

use depth::Depth;
use postgres::Postgres;
use report::Report;
use sqlite::{Place, Synchronous};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Measures pgqrs beside bare statements that do the same work.
///
/// Each case is run by ours and by its floors in turns, --rounds times; the table shows medians, the
/// ratio of ours to each, and, on Postgres, what a message cost the server: bytes of write-ahead log,
/// commits, and statements where pg_stat_statements is loaded. Payloads have 200 bytes. Other work on
/// the machine falsifies absolute figures; compare ratios, and look at the load beside each case.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// What to measure.
    #[arg(value_enum, required_unless_present_any = ["offer", "drain", "work"])]
    scenarios: Vec<Scenario>,

    /// Only the cases with this in their names.
    #[arg(long, value_name = "TEXT", default_value_t)]
    case: String,

    /// How often each case is run; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Multiplies the number of messages of each case.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,

    /// A Postgres server on which databases may be made and dropped; by default a throwaway server
    /// of its own, with its data in memory.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,

    /// A folder on a disk for SQLite's files; by default the system's temporary folder, unless
    /// --sqlite-memory is given.
    #[arg(long, value_name = "FOLDER")]
    sqlite: Option<PathBuf>,

    /// Also, or only, SQLite's files in memory, in /dev/shm.
    #[arg(long)]
    sqlite_memory: bool,

    /// How SQLite's commits are synced.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "normal,full")]
    synchronous: Vec<Synchronous>,

    /// How long snapshots are held; for 10 minutes say 600.
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    #[command(flatten)]
    depth: Depth,

    /// Where to write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// The child process of the latency cases: enqueues so many messages on `url`.
    #[arg(long, hide = true, requires = "url")]
    offer: Option<usize>,

    /// A process of the drain cases: claims and archives so many messages on `url`.
    #[arg(long, hide = true, requires = "url")]
    drain: Option<usize>,

    /// The child process of the cases with several processes: a run loop of so many handlers.
    #[arg(long, hide = true, requires = "url")]
    work: Option<usize>,

    #[arg(long, hide = true)]
    url: Option<String>,

    #[arg(long, hide = true)]
    bare: bool,
}

/// A set of cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Everything.
    All,
    /// Batches of 100 and 1,000; one by one by 32 and by 256 tasks.
    PostgresEnqueue,
    /// Claim and archive in batches of 100, 10 and 1; archive one by one; 1 to 256 consumers.
    PostgresDrain,
    /// Claims in a queue full of ready, leased, delayed and archived messages.
    PostgresFlat,
    /// What a snapshot that another session holds does to latency and to throughput.
    PostgresSnapshot,
    /// The run loop: throughput, and latency from another process.
    PostgresLoop,
    /// The run loop in 1, 2, 4 and 8 processes.
    PostgresProcesses,
    /// What an idle run loop costs, for --seconds.
    PostgresIdle,
    /// Batches of 100 and 1,000; one by one by 1, 64 and 512 tasks.
    SqliteEnqueue,
    /// Claim and archive in batches of 100, 10 and 1; one by one by 64 tasks.
    SqliteDrain,
    /// Claims in a queue full of ready, leased, delayed and archived messages.
    SqliteFlat,
    /// The run loop's throughput.
    SqliteLoop,
    /// The run loop in 1, 2, 4 and 8 processes.
    SqliteProcesses,
    /// The run loop's latency, from another process and from its own.
    SqliteWake,
    /// A million messages through one store with a retention: whether memory and file stay flat.
    SqliteSteady,
    /// What the thread costs that looks for other processes' commits; 70 seconds a turn.
    SqliteWatcher,
}

impl Options {
    fn scaled(&self, messages: usize) -> usize {
        ((messages as f64 * self.scale) as usize).max(1)
    }

    /// Where SQLite is measured.
    fn places(&self) -> Vec<Place> {
        let disk = match &self.sqlite {
            None if self.sqlite_memory => None,
            None => Some(std::env::temp_dir()),
            Some(folder) => Some(folder.clone()),
        };
        let memory = self.sqlite_memory.then(|| PathBuf::from("/dev/shm"));
        let folders = [("disk", disk), ("memory", memory)];
        let folders = folders.into_iter().filter_map(|(name, folder)| Some((name, folder?)));
        let places = folders.flat_map(|(name, folder)| {
            let place = move |&synchronous| Place { name, folder: folder.clone(), synchronous };
            self.synchronous.iter().map(place)
        });
        places.collect()
    }

    fn wants(&self, scenario: Scenario) -> bool {
        self.scenarios.iter().any(|wanted| [scenario, Scenario::All].contains(wanted))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if let (Some(messages), Some(url)) = (options.offer, &options.url) {
        return exit(offer(url, messages, options.bare).await);
    }
    if let (Some(messages), Some(url)) = (options.drain, &options.url) {
        return exit(postgres::drain_in_child(url, messages).await);
    }
    if let (Some(concurrency), Some(url)) = (options.work, &options.url) {
        return exit(work(url, concurrency).await);
    }
    let mut report = Report::of(&options.case);
    let outcome = measure(&options, &mut report).await;
    let written = options.json.as_ref().map_or(Ok(()), |file| report.write(file));
    exit(outcome.and(written))
}

fn exit(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn offer(url: &str, messages: usize, bare: bool) -> Result<()> {
    if url.starts_with("sqlite:") {
        if bare {
            return sqlite::offer_bare(url, messages).await;
        }
        latency::offer(&pgqrs_sqlite::connect(url).await?, messages).await
    } else if bare {
        postgres::offer_bare(url, messages).await
    } else {
        latency::offer(&pgqrs_postgres::connect(url).await?, messages).await
    }
}

async fn work(url: &str, concurrency: usize) -> Result<()> {
    if url.starts_with("sqlite:") {
        crew::work(&pgqrs_sqlite::connect(url).await?, concurrency).await
    } else {
        crew::work(&pgqrs_postgres::connect(url).await?, concurrency).await
    }
}

async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    use Scenario::*;
    let on_postgres = [
        PostgresEnqueue,
        PostgresDrain,
        PostgresFlat,
        PostgresSnapshot,
        PostgresLoop,
        PostgresProcesses,
        PostgresIdle,
    ];
    if on_postgres.iter().any(|&scenario| options.wants(scenario)) {
        let server = Postgres::start(options.postgres.as_deref()).await?;
        report.note(&server.describe().await?);
        if options.wants(PostgresEnqueue) {
            postgres::enqueue(&server, options, report).await?;
        }
        if options.wants(PostgresDrain) {
            postgres::drain(&server, options, report).await?;
        }
        if options.wants(PostgresFlat) {
            postgres::flat(&server, options, report).await?;
        }
        if options.wants(PostgresSnapshot) {
            postgres::snapshot(&server, options, report).await?;
        }
        if options.wants(PostgresLoop) {
            postgres::run_loop(&server, options, report).await?;
        }
        if options.wants(PostgresProcesses) {
            postgres::processes(&server, options, report).await?;
        }
        if options.wants(PostgresIdle) {
            postgres::idle(&server, options, report).await?;
        }
    }
    for place in options.places() {
        if options.wants(SqliteEnqueue) {
            sqlite::enqueue(&place, options, report).await?;
        }
        if options.wants(SqliteDrain) {
            sqlite::drain(&place, options, report).await?;
        }
        if options.wants(SqliteFlat) {
            sqlite::flat(&place, options, report).await?;
        }
        if options.wants(SqliteLoop) {
            sqlite::run_loop(&place, options, report).await?;
        }
        if options.wants(SqliteProcesses) {
            sqlite::processes(&place, options, report).await?;
        }
        if options.wants(SqliteWake) {
            sqlite::wake(&place, options, report).await?;
        }
        if options.wants(SqliteSteady) {
            sqlite::steady(&place, options, report).await?;
        }
        if options.wants(SqliteWatcher) {
            sqlite::watcher(&place, options, report).await?;
        }
    }
    Ok(())
}

/// Waits for all; the first failure ends the others.
async fn join<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(task) = tasks.join_next().await {
        done.push(task??);
    }
    Ok(done)
}

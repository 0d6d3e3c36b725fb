//! Checks what processes that are not Rust have written down about a queue; see
//! `pgqrs_testkit::history` for the form of the files.
//!
//! ```sh
//! cargo run -p pgqrs-bench --example check_history -- sqlite:///jobs.db tasks folder/*.jsonl
//! ```

use std::path::PathBuf;

use clap::Parser;
use pgqrs::{Backends, QueueName};
use pgqrs_testkit::history::{self, FinalState};

#[derive(Parser)]
struct Arguments {
    /// The database, which nobody may write to any more.
    url: String,
    queue: String,
    /// A file for each actor.
    #[arg(required = true)]
    logs: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { url, queue, logs } = Arguments::parse();
    let backends = Backends::new(&[&pgqrs_postgres::Postgres, &pgqrs_sqlite::Sqlite]);
    let (store, queue) = (backends.connect(&url).await?, QueueName::new(queue)?);
    let histories: Result<Vec<_>, _> = logs.iter().map(|log| history::read(log)).collect();
    let report = history::check(&histories?, &FinalState::read(&*store, &queue).await?);
    println!("{report}");
    for violation in &report.violations {
        eprintln!("{violation}");
    }
    if report.violations.is_empty() { Ok(()) } else { Err("the history is not clean".into()) }
}

//! A worker to start, flood, kill and stop by hand; docs/run-loop.md says what there is to see.
//!
//! ```sh
//! cargo run -p pgqrs-bench --example worker -- sqlite:///jobs.db work
//! cargo run -p pgqrs-bench --example worker -- sqlite:///jobs.db flood 1000
//! cargo run -p pgqrs-bench --example worker -- sqlite:///jobs.db show
//! ```
//!
//! With `postgresql://user@host/database` it works on Postgres.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process,
    time::Duration,
};

use clap::{Parser, Subcommand};
use pgqrs::{Backends, HandlerError, Message, Retry, WorkerFilter};

const QUEUE: &str = "demo";

#[derive(Parser)]
struct Arguments {
    /// The database: sqlite:///file.db or postgresql://user@host/database.
    url: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Handles messages until SIGINT (Ctrl-C) or SIGTERM.
    Work {
        /// How many handlers run at once.
        #[arg(long, default_value_t = 8)]
        concurrency: usize,
        /// How long handlers may go on after the signal, in seconds.
        #[arg(long, default_value_t = 30)]
        grace: u64,
    },
    /// Enqueues so many messages; each takes so long to handle.
    Flood {
        messages: usize,
        /// Milliseconds per message.
        #[arg(long, default_value_t = 100)]
        takes: u64,
    },
    /// Shows the queue's counts and its workers.
    Show,
}

#[tokio::main]
async fn main() -> Result<(), HandlerError> {
    let Arguments { url, command } = Arguments::parse();
    let backends = Backends::new(&[&pgqrs_postgres::Postgres, &pgqrs_sqlite::Sqlite]);
    let store = backends.connect(&url).await?;
    let admin = pgqrs::admin(&store);
    admin.install().await?;
    admin.create_queue(QUEUE).await?;
    match command {
        Command::Work { concurrency, grace } => {
            println!("process {} works; Ctrl-C stops it", process::id());
            let report = pgqrs::dequeue()
                .from(QUEUE)
                .handle(handle)
                .concurrency(concurrency)
                .grace(Duration::from_secs(grace))
                .until(pgqrs::shutdown_signal()?)
                .poll(&store)
                .await?;
            println!("{report}");
        }
        Command::Flood { messages, takes } => {
            for rest in (0..messages).step_by(1_000).map(|done| (messages - done).min(1_000)) {
                pgqrs::enqueue().messages(vec![takes; rest]).to(QUEUE).execute(&store).await?;
            }
            println!("{messages} messages enqueued");
        }
        Command::Show => {
            let mut shown = format!("{:#?}\n", admin.queue_metrics(QUEUE).await?);
            for worker in admin.workers(WorkerFilter::default()).await? {
                writeln!(shown, "worker {} {}: {}", worker.id, worker.host, worker.state)?;
            }
            // Whoever reads this, `head` for one, may have seen enough.
            let _ = io::stdout().write_all(shown.as_bytes());
        }
    }
    Ok(())
}

/// Works for as many milliseconds as the payload says.
async fn handle(message: Message) -> Result<(), HandlerError> {
    let takes = message.payload.as_u64().ok_or_else(|| Retry::never().because("no number"))?;
    println!("{} begins, attempt {}", message.id, message.attempts);
    tokio::time::sleep(Duration::from_millis(takes)).await;
    println!("{} ends", message.id);
    Ok(())
}

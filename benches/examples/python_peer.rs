//! The Rust side of `pgqrs-python/benchmarks/throughput.py`: the same work on a database that it
//! names. Prints messages per second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

const QUEUE: &str = "bench";

#[derive(Parser)]
struct Arguments {
    url: String,
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Handles so many messages, which wait already.
    Loop { messages: usize, concurrency: usize },
    /// Enqueues so many messages in batches, from so many tasks.
    Enqueue { messages: usize, batch: usize, tasks: usize },
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { url, work } = Arguments::parse();
    let store = pgqrs_postgres::connect(&url).await?;
    let began = Instant::now();
    let messages = match work {
        Work::Loop { messages, concurrency } => handle(&store, messages, concurrency).await?,
        Work::Enqueue { messages, batch, tasks } => enqueue(&store, messages, batch, tasks).await?,
    };
    println!("{:.0}", messages as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

async fn handle(
    store: &pgqrs_postgres::PostgresStore,
    messages: usize,
    concurrency: usize,
) -> Result<usize> {
    let (left, stop) = (Arc::new(AtomicUsize::new(messages)), CancellationToken::new());
    let done = stop.clone();
    pgqrs::dequeue()
        .from(QUEUE)
        .handle(move |_| {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                done.cancel();
            }
            async { Ok(()) }
        })
        .concurrency(concurrency)
        .until(stop)
        .poll(store)
        .await?;
    Ok(messages)
}

async fn enqueue(
    store: &pgqrs_postgres::PostgresStore,
    messages: usize,
    batch: usize,
    tasks: usize,
) -> Result<usize> {
    let calls = messages / batch / tasks;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let store = store.clone();
        running.spawn(async move {
            let payloads = vec!["x".repeat(198); batch];
            for _ in 0..calls {
                pgqrs::enqueue().messages(&payloads).to(QUEUE).execute(&store).await?;
            }
            Ok::<_, pgqrs::Error>(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(calls * batch * tasks)
}

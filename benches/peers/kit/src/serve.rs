//! The programs' command line.

use std::{
    error::Error,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{Message, Peer, Result, Tally};

/// Time between two messages: long enough for everything to be idle again.
const PAUSE: Duration = Duration::from_millis(25);

/// What a program is asked for.
#[derive(Debug, Clone, Parser)]
pub struct Call {
    /// The library.
    pub library: String,
    /// The database.
    pub url: String,
    /// What to do there.
    #[command(subcommand)]
    pub task: Task,
}

/// What a library can be asked to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Task {
    /// Make what the library needs.
    Install,
    /// Enqueue in batches by so many tasks, each awaiting its own, until there are so many messages
    /// or the time is over.
    Enqueue { batch: u64, tasks: u64, messages: u64, millis: u64 },
    /// Run the worker until so many messages are handled, or the time is over.
    Work { messages: usize, millis: u64 },
    /// Claim and finish in batches on so many consumers, likewise.
    Consume { batch: usize, consumers: usize, messages: usize, millis: u64 },
    /// Enqueue one message at a time, with pauses.
    Offer { messages: u64 },
    /// Run the worker while this very process offers so many messages.
    WorkAndOffer { messages: u64, millis: u64 },
    /// Count what is not finished.
    Unfinished,
}

/// What a program answers: a line of JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How many were enqueued, handled or counted.
    pub messages: usize,
    /// Handled before.
    pub repeated: usize,
    /// From the first to the last.
    pub seconds: f64,
    /// How old the messages were when they were handled, in the order of handling, where few were asked for.
    pub ages: Vec<f64>,
}

/// Does the task, and prints what it yielded.
pub async fn serve<P: Peer>(url: &str, task: Task) -> Result {
    let figures = perform::<P>(url, task).await?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

async fn perform<P: Peer>(url: &str, task: Task) -> Result<Figures> {
    if let Task::Install = task {
        P::install(url).await?;
        return Ok(Figures::default());
    }
    let peer = Arc::new(P::open(url).await?);
    let nothing = Figures::default();
    match task {
        Task::Install => Ok(nothing),
        Task::Enqueue { batch, tasks, messages, millis } => {
            enqueue(&peer, batch, tasks, messages, Duration::from_millis(millis)).await
        }
        Task::Work { messages, millis } => {
            let tally = tally(messages, millis);
            peer.work(&tally).await?;
            Ok(Figures::of(&tally))
        }
        Task::Consume { batch, consumers, messages, millis } => {
            let tally = tally(messages, millis);
            peer.consume(batch, consumers, &tally).await?;
            Ok(Figures::of(&tally))
        }
        Task::Offer { messages } => offer(&*peer, messages).await.map(|()| nothing),
        Task::WorkAndOffer { messages, millis } => {
            let tally = tally(usize::try_from(messages)?, millis);
            tokio::try_join!(peer.work(&tally), offer(&*peer, messages))?;
            Ok(Figures::of(&tally))
        }
        Task::Unfinished => {
            Ok(Figures { messages: usize::try_from(peer.unfinished().await?)?, ..nothing })
        }
    }
}

impl Figures {
    fn of(tally: &Tally) -> Self {
        /// Beyond that nobody asks for single ages.
        const FEW: usize = 2_000;
        let seen = tally.seen();
        let ages = if seen.count() <= FEW { seen.ages.as_slice() } else { &[] };
        Self {
            messages: seen.count(),
            repeated: seen.repeated(),
            seconds: seen.took().as_secs_f64(),
            ages: ages.iter().map(Duration::as_secs_f64).collect(),
        }
    }
}

/// A tally that is done after the time at the latest.
fn tally(messages: usize, millis: u64) -> Tally {
    let tally = Tally::new(messages);
    let late = tally.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        late.stop();
    });
    tally
}

async fn offer<P: Peer>(peer: &P, messages: u64) -> Result {
    for number in 0..messages {
        tokio::time::sleep(PAUSE).await;
        peer.enqueue(Message::new(number)).await?;
    }
    Ok(())
}

/// Enqueues until there are so many messages, or the time is over.
async fn enqueue<P: Peer>(
    peer: &Arc<P>,
    batch: u64,
    tasks: u64,
    most: u64,
    time: Duration,
) -> Result<Figures> {
    // Makes a connection, at least.
    peer.unfinished().await?;
    let (next, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let tasks = (0..tasks).map(|_| {
        let (peer, next, done) = (peer.clone(), next.clone(), done.clone());
        async move {
            while started.elapsed() < time
                && let from = next.fetch_add(batch, Ordering::Relaxed)
                && from < most
            {
                let numbers = from..most.min(from + batch);
                let count = numbers.end - numbers.start;
                if batch == 1 {
                    peer.enqueue(Message::new(from)).await?;
                } else {
                    peer.enqueue_batch(numbers.map(Message::new).collect()).await?;
                }
                done.fetch_add(count, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    join(tasks.collect()).await?;
    let seconds = started.elapsed().as_secs_f64();
    let messages = usize::try_from(done.load(Ordering::Relaxed))?;
    Ok(Figures { messages, seconds, ..Figures::default() })
}

/// Waits for all; the first failure ends the others.
async fn join(mut tasks: JoinSet<Result>) -> Result {
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
}

/// The error of a program that does not know a library.
pub fn unknown(library: &str) -> Box<dyn Error + Send + Sync> {
    format!("this program has no library {library}").into()
}

/// A program's end: the error, if there is one, goes to its standard error.
pub fn exit(outcome: Result) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

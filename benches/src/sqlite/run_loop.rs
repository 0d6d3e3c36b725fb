//! The run loop, in one process and in several.

use std::time::Instant;

use pgqrs::BatchSize;
use pgqrs_sqlite::bare;

use super::{DatabaseFile, Place, measured};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    crew::Crew,
    ours::{self, QUEUE},
    report::Report,
};

const CONCURRENCY: usize = 64;

pub(crate) async fn run_loop(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    let messages = options.scaled(100_000);
    Contest::new("sqlite-loop", format!("{place}: {CONCURRENCY} handlers"))
        .contender("ours", || ours(place, messages, None))
        .contender("ours, prefetch 500", || ours(place, messages, Some(500)))
        .contender("bare, our statements, 64", || same(place, messages, 64))
        .contender("bare, our statements, 500", || same(place, messages, 500))
        .run(options.rounds, report)
        .await
}

/// With 64 handlers in each of several processes.
pub(crate) async fn processes(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    let messages = options.scaled(100_000);
    let case = format!("{place}: {CONCURRENCY} handlers in each process");
    Contest::new("sqlite-processes", case)
        .contender("1 process", || crew(place, messages, 1))
        .contender("2 processes", || crew(place, messages, 2))
        .contender("4 processes", || crew(place, messages, 4))
        .contender("8 processes", || crew(place, messages, 8))
        .run(options.rounds, report)
        .await
}

async fn ours(place: &Place, messages: usize, prefetch: Option<usize>) -> Result<Sample> {
    let file = filled(place, messages).await?;
    let store = pgqrs_sqlite::connect(&file.url()).await?;
    let work = async {
        let took = ours::run_loop(&store, messages, CONCURRENCY, prefetch).await?;
        Ok(Sample::rate(messages, took))
    };
    measured(messages, work).await
}

/// The store's own statements on one connection, archive and next claim in one transaction.
async fn same(place: &Place, messages: usize, batch: usize) -> Result<Sample> {
    let file = filled(place, messages).await?;
    let store = pgqrs_sqlite::connect(&file.url()).await?;
    let consumer = pgqrs::consumer("bare", 0, QUEUE).create(&store).await?;
    let (queue, worker, batch) = (consumer.queue(), consumer.id(), BatchSize::new(batch)?);
    let work = async {
        let started = Instant::now();
        let done = bare::drain(&file.url(), queue.clone(), worker, batch)?;
        if done != messages {
            return Err("the queue is empty too early".into());
        }
        Ok(Sample::rate(messages, started.elapsed()))
    };
    measured(messages, work).await
}

async fn crew(place: &Place, messages: usize, size: usize) -> Result<Sample> {
    let file = filled(place, messages).await?;
    let crew = Crew::start(&file.url(), size, CONCURRENCY).await?;
    Ok(Sample::rate(messages, crew.drain(messages).await?))
}

async fn filled(place: &Place, messages: usize) -> Result<DatabaseFile> {
    let file = place.file()?;
    ours::fill(&file.store().await?, messages).await?;
    Ok(file)
}

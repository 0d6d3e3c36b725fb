//! Enqueue: batches, and one message per call.

use std::time::Instant;

use super::{Place, group::Group, measured};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    ours,
    report::Report,
};

const SCENARIO: &str = "sqlite-enqueue";

pub(crate) async fn enqueue(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    for batch in [100, 1_000] {
        let messages = options.scaled(200_000);
        Contest::new(SCENARIO, format!("{place}: batches of {batch}, one caller"))
            .contender("ours", || batches(place, messages, batch))
            .contender("bare", || bare(place, messages, batch))
            .run(options.rounds, report)
            .await?;
    }
    let messages = options.scaled(10_000);
    Contest::new(SCENARIO, format!("{place}: one by one, one caller"))
        .contender("ours", || batches(place, messages, 1))
        .contender("bare", || bare(place, messages, 1))
        .contender("bare group commit", || bare_group(place, messages, 1))
        .run(options.rounds, report)
        .await?;
    for tasks in [64, 512] {
        let messages = options.scaled(100_000);
        Contest::new(SCENARIO, format!("{place}: one by one, {tasks} tasks"))
            .contender("ours", || singly(place, messages, tasks))
            .contender("bare group commit", || bare_group(place, messages, tasks))
            .run(options.rounds, report)
            .await?;
    }
    Ok(())
}

async fn batches(place: &Place, messages: usize, batch: usize) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    let work = async {
        Ok(Sample::rate(messages, ours::enqueue_batches(&store, messages, batch, 1).await?))
    };
    measured(messages, work).await
}

async fn singly(place: &Place, messages: usize, tasks: usize) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    let work =
        async { Ok(Sample::rate(messages, ours::enqueue_singly(&store, messages, tasks).await?)) };
    measured(messages, work).await
}

async fn bare(place: &Place, messages: usize, batch: usize) -> Result<Sample> {
    let file = place.file()?;
    let mut floor = file.floor()?;
    let work = async {
        let payload = format!("\"{}\"", ours::payload());
        let started = Instant::now();
        for size in ours::batches(messages, batch) {
            floor.transaction(|floor| {
                (0..size).try_for_each(|_| floor.enqueue(&payload).map(drop))
            })?;
        }
        Ok(Sample::rate(messages, started.elapsed()))
    };
    measured(messages, work).await
}

async fn bare_group(place: &Place, messages: usize, tasks: usize) -> Result<Sample> {
    let file = place.file()?;
    let group = Group::start(file.floor()?);
    let work = async { Ok(Sample::rate(messages, group.enqueue_singly(messages, tasks).await?)) };
    measured(messages, work).await
}

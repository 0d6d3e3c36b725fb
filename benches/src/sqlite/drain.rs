//! Claim and archive through consumers.

use std::time::Instant;

use super::{DatabaseFile, Place, floor::Floor, group::Group, measured};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    ours,
    report::Report,
};

const SCENARIO: &str = "sqlite-drain";

pub(crate) async fn drain(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    for (batch, messages) in [(100, 100_000), (10, 50_000), (1, 5_000)] {
        let messages = options.scaled(messages);
        Contest::new(SCENARIO, format!("{place}: batches of {batch}, one consumer"))
            .contender("ours", || batches(place, messages, batch))
            .contender("bare", || bare(place, messages, batch))
            .run(options.rounds, report)
            .await?;
    }
    let messages = options.scaled(40_000);
    Contest::new(SCENARIO, format!("{place}: one by one, 64 tasks"))
        .contender("ours", || singly(place, messages, 64))
        .contender("bare group commit", || bare_group(place, messages, 64))
        .run(options.rounds, report)
        .await
}

async fn batches(place: &Place, messages: usize, batch: usize) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    ours::fill(&store, messages).await?;
    let work = async {
        let drained = ours::drain(&store, messages, batch, 1).await?;
        Ok(Sample::rate(messages, drained.took))
    };
    measured(messages, work).await
}

async fn singly(place: &Place, messages: usize, tasks: usize) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    ours::fill(&store, messages).await?;
    let work =
        async { Ok(Sample::rate(messages, ours::drain_singly(&store, messages, tasks).await?)) };
    measured(messages, work).await
}

async fn bare(place: &Place, messages: usize, batch: usize) -> Result<Sample> {
    let file = place.file()?;
    let mut floor = filled(&file, messages)?;
    let work = async {
        let started = Instant::now();
        for size in ours::batches(messages, batch) {
            let claimed = floor.transaction(|floor| floor.claim(size))?;
            if claimed.len() != size {
                return Err("the queue is empty too early".into());
            }
            floor.transaction(|floor| claimed.iter().try_for_each(|(id, _)| floor.archive(*id)))?;
        }
        Ok(Sample::rate(messages, started.elapsed()))
    };
    measured(messages, work).await
}

async fn bare_group(place: &Place, messages: usize, tasks: usize) -> Result<Sample> {
    let file = place.file()?;
    let group = Group::start(filled(&file, messages)?);
    let work = async { Ok(Sample::rate(messages, group.drain_singly(messages, tasks).await?)) };
    measured(messages, work).await
}

/// The floor with messages in it.
pub(super) fn filled(file: &DatabaseFile, messages: usize) -> Result<Floor> {
    let mut floor = file.floor()?;
    let payload = format!("\"{}\"", ours::payload());
    for size in ours::batches(messages, 10_000) {
        floor.transaction(|floor| (0..size).try_for_each(|_| floor.enqueue(&payload).map(drop)))?;
    }
    Ok(floor)
}

//! The run loop.

use super::{Place, drain::filled, group::Group, measured};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    ours,
    report::Report,
};

const SCENARIO: &str = "sqlite-loop";
const CONCURRENCY: usize = 64;

pub(crate) async fn run_loop(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    let messages = options.scaled(100_000);
    Contest::new(SCENARIO, format!("{place}: {CONCURRENCY} handlers"))
        .contender("ours", || ours(place, messages))
        .contender("bare group commit, 64 tasks", || bare(place, messages))
        .run(options.rounds, report)
        .await
}

async fn ours(place: &Place, messages: usize) -> Result<Sample> {
    let file = place.file()?;
    let store = file.store().await?;
    ours::fill(&store, messages).await?;
    let work =
        async { Ok(Sample::rate(messages, ours::run_loop(&store, messages, CONCURRENCY).await?)) };
    measured(messages, work).await
}

async fn bare(place: &Place, messages: usize) -> Result<Sample> {
    let file = place.file()?;
    let group = Group::start(filled(&file, messages)?);
    let work =
        async { Ok(Sample::rate(messages, group.relay_singly(messages, CONCURRENCY).await?)) };
    measured(messages, work).await
}

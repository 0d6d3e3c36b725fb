//! Claims in a deep queue.

use super::Place;
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    depth::drain_some,
    ours::{self, Ours},
    report::Report,
};

const SCENARIO: &str = "sqlite-flat";

pub(crate) async fn flat(place: &Place, options: &Options, report: &mut Report) -> Result<()> {
    let (deep_file, empty_file) = (place.file()?, place.file()?);
    let (deep, empty) = (deep_file.store().await?, empty_file.store().await?);
    options.depth.fill(&deep).await?;
    for (batch, messages) in [(100, 50_000), (1, 5_000)] {
        let messages = options.scaled(messages);
        let depth = options.depth.describe();
        Contest::new(SCENARIO, format!("{place}: batches of {batch}; deep: {depth}"))
            .contender("deep queue", || turn(&deep, messages, batch))
            .contender("empty queue", || turn(&empty, messages, batch))
            .run(options.rounds, report)
            .await?;
    }
    Ok(())
}

/// Drains as much as it enqueues before.
async fn turn<S: Ours>(store: &S, messages: usize, batch: usize) -> Result<Sample> {
    ours::fill(store, messages).await?;
    drain_some(store, messages, batch, 1).await
}

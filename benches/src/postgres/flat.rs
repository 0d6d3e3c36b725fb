//! Claims in a deep queue.

use super::{Database, Postgres};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    depth::drain_some,
    ours::{self, Ours},
    report::Report,
};

const SCENARIO: &str = "postgres-flat";

pub(crate) async fn flat(server: &Postgres, options: &Options, report: &mut Report) -> Result<()> {
    server
        .on_fresh_database(async |deep| {
            let deep_store = deep.store().await?;
            options.depth.fill(&deep_store).await?;
            vacuum(deep).await?;
            server
                .on_fresh_database(async |empty| {
                    let empty_store = empty.store().await?;
                    vacuum(empty).await?;
                    for batch in [100, 1] {
                        let messages = options.scaled(if batch == 1 { 8_000 } else { 50_000 });
                        let case =
                            format!("batches of {batch}; deep: {}", options.depth.describe());
                        let mut contest = Contest::new(SCENARIO, case);
                        contest =
                            contest.contender("deep queue", || turn(&deep_store, messages, batch));
                        contest = contest
                            .contender("empty queue", || turn(&empty_store, messages, batch));
                        contest.run(options.rounds, report).await?;
                    }
                    Ok(())
                })
                .await
        })
        .await
}

/// Drains as much as it enqueues before.
async fn turn<S: Ours>(store: &S, messages: usize, batch: usize) -> Result<Sample> {
    ours::fill(store, messages).await?;
    drain_some(store, messages, batch, 4).await
}

/// What autovacuum does sooner or later, so that it does not do it in one contender's turn.
async fn vacuum(database: &Database<'_>) -> Result<()> {
    Ok(database.client().await?.batch_execute("VACUUM (ANALYZE)").await?)
}

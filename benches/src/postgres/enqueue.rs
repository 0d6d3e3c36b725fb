//! Enqueue: batches, and one message per call.

use super::{
    Postgres, connections,
    floor::{Floor, IN_PLACE, RELAY},
};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    ours,
    report::Report,
};

const SCENARIO: &str = "postgres-enqueue";

pub(crate) async fn enqueue(
    server: &Postgres,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    for batch in [100, 1_000] {
        let messages = options.scaled(300_000);
        Contest::new(SCENARIO, format!("batches of {batch}, 4 callers"))
            .contender("ours", || batches(server, messages, batch))
            .contender("bare UNNEST, one table", || bare(server, IN_PLACE, messages, batch))
            .contender("bare UNNEST, two tables", || bare(server, RELAY, messages, batch))
            .run(options.rounds, report)
            .await?;
    }
    for tasks in [32, 256] {
        let messages = options.scaled(100_000);
        let case = format!("one by one, {tasks} tasks; bare: {} connections", connections());
        Contest::new(SCENARIO, case)
            .contender("ours", || singly(server, messages, tasks))
            .contender("bare, one table", || bare_singly(server, IN_PLACE, messages))
            .contender("bare, two tables", || bare_singly(server, RELAY, messages))
            .run(options.rounds, report)
            .await?;
    }
    Ok(())
}

async fn batches(server: &Postgres, messages: usize, batch: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            drop(database.store().await?);
            let work = async || {
                let store = database.warm_store().await?;
                let took = ours::enqueue_batches(&store, messages, batch, 4).await?;
                Ok(Sample::rate(messages, took))
            };
            database.measured(messages, work).await
        })
        .await
}

async fn singly(server: &Postgres, messages: usize, tasks: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            drop(database.store().await?);
            let work = async || {
                let store = database.warm_store().await?;
                let took = ours::enqueue_singly(&store, messages, tasks).await?;
                Ok(Sample::rate(messages, took))
            };
            database.measured(messages, work).await
        })
        .await
}

async fn bare(server: &Postgres, floor: Floor, messages: usize, batch: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            floor.create(&database.client().await?).await?;
            let work = async || {
                let clients = database.clients(4).await?;
                let took = floor.enqueue_batches(clients, messages, batch).await?;
                Ok(Sample::rate(messages, took))
            };
            database.measured(messages, work).await
        })
        .await
}

async fn bare_singly(server: &Postgres, floor: Floor, messages: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            floor.create(&database.client().await?).await?;
            let work = async || {
                let clients = database.clients(connections()).await?;
                let took = floor.enqueue_singly(clients, messages).await?;
                Ok(Sample::rate(messages, took))
            };
            database.measured(messages, work).await
        })
        .await
}

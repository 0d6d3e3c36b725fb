//! Claim and archive through consumers.

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

const SCENARIO: &str = "postgres-drain";

pub(crate) async fn drain(server: &Postgres, options: &Options, report: &mut Report) -> Result<()> {
    for (batch, messages) in [(100, 60_000), (10, 40_000), (1, 15_000)] {
        let messages = options.scaled(messages);
        Contest::new(SCENARIO, format!("batches of {batch}, 4 consumers"))
            .contender("ours", || batches(server, messages, batch, 4))
            .contender("bare, in place", || bare(server, IN_PLACE, messages, batch))
            .contender("bare relay, no archive", || bare(server, RELAY, messages, batch))
            .run(options.rounds, report)
            .await?;
    }
    let messages = options.scaled(40_000);
    let case = format!("archive one by one, 64 tasks; bare: {} connections", connections());
    Contest::new(SCENARIO, case)
        .contender("ours", || archive(server, messages))
        .contender("bare, in place", || bare_archive(server, IN_PLACE, messages))
        .contender("bare relay, no archive", || bare_archive(server, RELAY, messages))
        .run(options.rounds, report)
        .await?;
    let messages = options.scaled(60_000);
    Contest::new(SCENARIO, "batches of 100, many consumers on one store")
        .contender("4 consumers", || batches(server, messages, 100, 4))
        .contender("1 consumer", || batches(server, messages, 100, 1))
        .contender("16 consumers", || batches(server, messages, 100, 16))
        .contender("64 consumers", || batches(server, messages, 100, 64))
        .contender("256 consumers", || batches(server, messages, 100, 256))
        .run(options.rounds, report)
        .await
}

async fn batches(
    server: &Postgres,
    messages: usize,
    batch: usize,
    consumers: usize,
) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            ours::fill(&store, messages).await?;
            drop(store);
            let work = async || {
                let store = database.warm_store().await?;
                let drained = ours::drain(&store, messages, batch, consumers).await?;
                Ok(Sample::rate(messages, drained.took))
            };
            database.measured(messages, work).await
        })
        .await
}

async fn archive(server: &Postgres, messages: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            ours::fill(&store, messages).await?;
            let took = ours::archive_singly(&store, messages, 64).await?;
            Ok(Sample::rate(messages, took))
        })
        .await
}

async fn bare(server: &Postgres, floor: Floor, messages: usize, batch: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let client = database.client().await?;
            floor.create(&client).await?;
            floor.fill(&client, messages).await?;
            drop(client);
            let work = async || {
                let clients = database.clients(4).await?;
                let took = floor.drain(clients, messages, batch).await?;
                Ok(Sample::rate(messages, took))
            };
            database.measured(messages, work).await
        })
        .await
}

async fn bare_archive(server: &Postgres, floor: Floor, messages: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let clients = database.clients(connections()).await?;
            floor.create(&clients[0]).await?;
            floor.fill(&clients[0], messages).await?;
            let took = floor.finish_singly(clients, messages).await?;
            Ok(Sample::rate(messages, took))
        })
        .await
}

//! Claim and archive through consumers.

use std::{env, process::Stdio, time::Instant};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

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
        .await?;
    Contest::new(SCENARIO, "batches of 100, many processes of one consumer")
        .contender("2 processes", || processes(server, messages, 2))
        .contender("4 processes", || processes(server, messages, 4))
        .contender("8 processes", || processes(server, messages, 8))
        .contender("16 processes", || processes(server, messages, 16))
        .run(options.rounds, report)
        .await
}

/// Processes that each drain their share.
async fn processes(server: &Postgres, messages: usize, count: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            ours::fill(&database.store().await?, messages).await?;
            let mut children = Vec::new();
            for share in ours::shares(messages, count) {
                let mut command = Command::new(env::current_exe()?);
                command.args(["--drain", &share.to_string(), "--url", &database.url]);
                let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
                let mut child = pipes.kill_on_drop(true).spawn()?;
                let stdout = child.stdout.take().ok_or("no pipe")?;
                if BufReader::new(stdout).lines().next_line().await?.is_none() {
                    return Err("a process did not get ready".into());
                }
                children.push(child);
            }
            let started = Instant::now();
            children.iter_mut().for_each(|child| drop(child.stdin.take()));
            for mut child in children {
                let status = child.wait().await?;
                if !status.success() {
                    return Err(format!("a process ended with {status}").into());
                }
            }
            Ok(Sample::rate(messages, started.elapsed()))
        })
        .await
}

/// The child's side: tells that it is ready, and begins when its input ends.
pub(crate) async fn drain_in_child(url: &str, messages: usize) -> Result<()> {
    let store = pgqrs_postgres::connect(url).await?;
    ours::warm_up(&store).await?;
    println!("ready");
    std::io::read_to_string(std::io::stdin())?;
    ours::drain(&store, messages, 100, 1).await.map(drop)
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

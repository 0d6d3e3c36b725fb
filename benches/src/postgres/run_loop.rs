//! The run loop, and the latency of its wake-ups.

use std::{cell::Cell, time::Duration};

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};

use super::{
    Postgres,
    floor::{Floor, IN_PLACE, RELAY},
};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    latency::{
        Kind, Producer, WARM_UP, after_warm_up, age, ended, offer_from_child, paced, pick_up,
        stamped,
    },
    ours,
    report::Report,
};

const SCENARIO: &str = "postgres-loop";
const CONCURRENCY: usize = 64;
/// The loop has one claim and one settle on their way at once.
const CONNECTIONS: usize = 2;

pub(crate) async fn run_loop(
    server: &Postgres,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let (messages, batch) = (options.scaled(100_000), Cell::new(CONCURRENCY));
    let case =
        format!("{CONCURRENCY} handlers; bare: batches as the loop's, {CONNECTIONS} connections");
    Contest::new(SCENARIO, case)
        .contender("ours", || ours(server, messages, &batch))
        .contender("bare, in place", || bare(server, IN_PLACE, messages, &batch))
        .contender("bare relay, no archive", || bare(server, RELAY, messages, &batch))
        .run(options.rounds, report)
        .await?;
    report.note(&format!("the loop's batches had {} messages on average", batch.get()));
    let messages = WARM_UP + options.scaled(200);
    Contest::new(SCENARIO, "enqueue to handler, idle, another process")
        .contender("ours", || latency(server, messages))
        .contender("bare LISTEN/NOTIFY", || bare_latency(server, messages))
        .run(options.rounds, report)
        .await
}

async fn ours(server: &Postgres, messages: usize, batch: &Cell<usize>) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            ours::fill(&store, messages).await?;
            drop(store);
            let work = async || {
                let store = database.warm_store().await?;
                Ok(Sample::rate(messages, ours::run_loop(&store, messages, CONCURRENCY).await?))
            };
            let sample = database.measured(messages, work).await?;
            if let Some(statements) = sample.cost.statements {
                // Each message is in one claim and in one settle.
                batch.set((2.0 / statements).round().max(1.0) as usize);
            }
            Ok(sample)
        })
        .await
}

async fn bare(
    server: &Postgres,
    floor: Floor,
    messages: usize,
    batch: &Cell<usize>,
) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let client = database.client().await?;
            floor.create(&client).await?;
            floor.fill(&client, messages).await?;
            drop(client);
            let work = async || {
                let clients = database.clients(CONNECTIONS).await?;
                Ok(Sample::rate(messages, floor.drain(clients, messages, batch.get()).await?))
            };
            database.measured(messages, work).await
        })
        .await
}

async fn latency(server: &Postgres, messages: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            let ages = pick_up(&store, Producer::Process(&database.url), messages).await?;
            Ok(after_warm_up(ages))
        })
        .await
}

async fn bare_latency(server: &Postgres, messages: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let client = database.client().await?;
            IN_PLACE.create(&client).await?;
            let claim = client.prepare(IN_PLACE.claim_sql()).await?;
            let mut wakeups = listen(&database.url).await?;
            let child = offer_from_child(&database.url, Kind::Bare, messages)?;
            let mut ages: Vec<Duration> = Vec::new();
            while ages.len() < messages {
                wakeups.recv().await.ok_or("the listener has ended")?;
                for row in client.query(&claim, &[&1_i64]).await? {
                    ages.extend(age(&serde_json::from_str(row.try_get(1)?)?));
                }
            }
            ended(child).await?;
            Ok(after_warm_up(ages))
        })
        .await
}

async fn listen(url: &str) -> Result<mpsc::UnboundedReceiver<()>> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let (wake, wakeups) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let message = std::future::poll_fn(|context| connection.poll_message(context)).await;
            let sent = match message {
                Some(Ok(AsyncMessage::Notification(_))) => wake.send(()),
                Some(Ok(_)) => Ok(()),
                Some(Err(_)) | None => return,
            };
            if sent.is_err() {
                return;
            }
        }
    });
    client.batch_execute("LISTEN bench").await?;
    // The session lives as long as somebody can speak to it.
    tokio::spawn(async move {
        let _client = client;
        std::future::pending::<()>().await;
    });
    Ok(wakeups)
}

/// The child's side of the bare latency.
pub(crate) async fn offer_bare(url: &str, messages: usize) -> Result<()> {
    let client = super::connect(url).await?;
    let sql = "WITH m AS (INSERT INTO messages (queue_id, payload) VALUES (1, $1))
               SELECT pg_notify('bench', '')";
    let enqueue = client.prepare(sql).await?;
    paced(messages, async || {
        client.query(&enqueue, &[&stamped(Duration::ZERO).to_string()]).await?;
        Ok(())
    })
    .await
}

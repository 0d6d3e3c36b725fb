//! The run loop: throughput, in several processes as well, wake-ups, and what it costs when idle.

use std::{
    cell::Cell,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use pgqrs_postgres::bare::Bare;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_postgres::{AsyncMessage, NoTls};
use tokio_util::sync::CancellationToken;

use super::{
    Database, Postgres,
    floor::{Floor, IN_PLACE, RELAY},
};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    cost::processor_time,
    crew::Crew,
    join,
    latency::{
        Kind, Producer, WARM_UP, after_warm_up, age, ended, offer_from_child, paced, pick_up,
        stamped,
    },
    ours::{self, QUEUE, put_back, take},
    report::Report,
};

const SCENARIO: &str = "postgres-loop";
const CONCURRENCY: usize = 64;
/// The loop has two claims and one settle on their way at once.
const CONNECTIONS: usize = 3;

pub(crate) async fn run_loop(
    server: &Postgres,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let (messages, batch) = (options.scaled(100_000), Cell::new(CONCURRENCY));
    for prefetch in [None, Some(500)] {
        let ahead = prefetch.map_or("default prefetch".to_owned(), |n| format!("prefetch {n}"));
        let case = format!(
            "{CONCURRENCY} handlers, {ahead}; bare: batches as the loop's, {CONNECTIONS} connections"
        );
        Contest::new(SCENARIO, case)
            .contender("ours", || ours(server, messages, prefetch, &batch))
            .contender("bare, our statements", || same(server, messages, &batch))
            .contender("bare, in place", || bare(server, IN_PLACE, messages, &batch))
            .contender("bare relay, no archive", || bare(server, RELAY, messages, &batch))
            .run(options.rounds, report)
            .await?;
        report.note(&format!("the loop's batches had {} messages on average", batch.get()));
    }
    let messages = WARM_UP + options.scaled(200);
    Contest::new(SCENARIO, "enqueue to handler, idle, another process")
        .contender("ours", || latency(server, messages))
        .contender("bare LISTEN/NOTIFY", || bare_latency(server, messages))
        .run(options.rounds, report)
        .await
}

async fn ours(
    server: &Postgres,
    messages: usize,
    prefetch: Option<usize>,
    batch: &Cell<usize>,
) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            ours::fill(&store, messages).await?;
            drop(store);
            let work = async || {
                let store = database.warm_store().await?;
                let took = ours::run_loop(&store, messages, CONCURRENCY, prefetch).await?;
                Ok(Sample::rate(messages, took))
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

/// The store's own statements, in a plain loop on each connection.
async fn same(server: &Postgres, messages: usize, batch: &Cell<usize>) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            ours::fill(&store, messages).await?;
            drop(store);
            let work = async || {
                let sessions = sessions(database).await?;
                let left = Arc::new(AtomicUsize::new(messages));
                let started = Instant::now();
                let mut running = JoinSet::new();
                for session in sessions {
                    running.spawn(relay(session, left.clone(), batch.get()));
                }
                join(running).await?;
                Ok(Sample::rate(messages, started.elapsed()))
            };
            database.measured(messages, work).await
        })
        .await
}

async fn sessions(database: &Database<'_>) -> Result<Vec<Bare>> {
    let store = database.warm_store().await?;
    let consumer = pgqrs::consumer("bare", 0, QUEUE).create(&store).await?;
    let mut sessions = Vec::with_capacity(CONNECTIONS);
    for client in database.clients(CONNECTIONS).await? {
        sessions.push(Bare::new(&store, client, consumer.queue().clone(), consumer.id()).await?);
    }
    Ok(sessions)
}

async fn relay(session: Bare, left: Arc<AtomicUsize>, batch: usize) -> Result<()> {
    while let Some(size) = take(&left, batch) {
        let receipts = session.claim(size).await?;
        put_back(&left, size - receipts.len());
        if session.archive(&receipts).await? != receipts.len() {
            return Err("a lease was lost".into());
        }
    }
    Ok(())
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

/// With 64 handlers in each of several processes.
pub(crate) async fn processes(
    server: &Postgres,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let messages = options.scaled(100_000);
    Contest::new("postgres-processes", format!("{CONCURRENCY} handlers in each process"))
        .contender("1 process", || crew(server, messages, 1))
        .contender("2 processes", || crew(server, messages, 2))
        .contender("4 processes", || crew(server, messages, 4))
        .contender("8 processes", || crew(server, messages, 8))
        .run(options.rounds, report)
        .await
}

async fn crew(server: &Postgres, messages: usize, size: usize) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            ours::fill(&store, messages).await?;
            drop(store);
            let work = async || {
                let crew = Crew::start(&database.url, size, CONCURRENCY).await?;
                Ok(Sample::rate(messages, crew.drain(messages).await?))
            };
            database.measured(messages, work).await
        })
        .await
}

/// Of a loop in an empty queue, heartbeats and sweeps included.
pub(crate) async fn idle(server: &Postgres, options: &Options, report: &mut Report) -> Result<()> {
    let time = Duration::from_secs(options.seconds);
    Contest::new("postgres-idle", format!("a run loop in an empty queue, {time:?}"))
        .contender("ours", || idle_cost(server, time))
        .run(1, report)
        .await
}

async fn idle_cost(server: &Postgres, time: Duration) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            let stop = CancellationToken::new();
            let handle = pgqrs::dequeue().from(QUEUE).handle(|_| async { Ok(()) });
            let polling = handle.concurrency(CONCURRENCY).until(stop.clone()).poll(&store);
            let counting = async {
                // By then it is connected, registered, and listens.
                sleep(Duration::from_secs(5)).await;
                let before = database.statements().await?;
                let processor = processor_time("self");
                sleep(time).await;
                let (after, used) = (database.statements().await?, processor_time("self"));
                stop.cancel();
                let used =
                    used.zip(processor).map_or(f64::NAN, |(after, before)| after.0 - before.0);
                let per_second = |figure: f64| figure / time.as_secs_f64();
                let statements = ("statements/s", per_second(after - before));
                let figures = vec![statements, ("us/s of CPU", per_second(used))];
                Ok(Sample { figures, ..Sample::default() })
            };
            let polling = async { polling.await.map_err(Into::into) };
            futures::try_join!(counting, polling).map(|(sample, _)| sample)
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

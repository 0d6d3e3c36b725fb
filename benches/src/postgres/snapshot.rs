//! Another session holds a snapshot, so that nothing dead is removed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pgqrs::{Action, Consumer, Delay, Message, RetryDecision, Settlement};
use pgqrs_postgres::PostgresStore;
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};
use tokio_postgres::Client;

use super::{
    Database, Postgres,
    floor::{Floor, IN_PLACE, RELAY},
};
use crate::{
    Options, Result,
    contest::{Contest, Sample},
    latency::{age, stamped},
    ours::{self, QUEUE},
    report::Report,
};

const SCENARIO: &str = "postgres-snapshot";
/// The visibility timeout, in seconds.
const LEASE: u32 = 10;
const BATCH: usize = 100;
const CONSUMERS: usize = 4;
const DELAY: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(10);

pub(crate) async fn snapshot(
    server: &Postgres,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let held = Duration::from_secs(options.seconds);
    Contest::new(SCENARIO, format!("2,000 messages/s offered for {held:?}"))
        .contender("snapshot held", || offered(server, held, Hold::Snapshot))
        .contender("no snapshot", || offered(server, held, Hold::Nothing))
        .run(1, report)
        .await?;
    Contest::new(SCENARIO, format!("full churn, snapshot held for {held:?}"))
        .contender("ours", || churn(server, held))
        .contender("bare, in place", || bare_churn(server, IN_PLACE, held))
        .contender("bare relay, no archive", || bare_churn(server, RELAY, held))
        .run(1, report)
        .await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Snapshot,
    Nothing,
}

/// A session with an open transaction and its snapshot; ends when it is dropped.
async fn hold(database: &Database<'_>) -> Result<Client> {
    let client = database.client().await?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class").await?;
    Ok(client)
}

/// Latency from the enqueue, or the end of the delay, to the claim; the backlog at the end.
async fn offered(server: &Postgres, time: Duration, kind: Hold) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            let ages = Arc::new(Mutex::new(Vec::new()));
            let mut tasks = JoinSet::new();
            tasks.spawn(offer(store.clone()));
            for _ in 0..CONSUMERS {
                let consumer = pgqrs::consumer("bench", 0, QUEUE).create(&store).await?;
                tasks.spawn(consume(store.clone(), consumer, ages.clone()));
            }
            let _holder = match kind {
                Hold::Snapshot => Some(hold(database).await?),
                Hold::Nothing => None,
            };
            run_for(&mut tasks, time).await?;
            let backlog = pgqrs::admin(&store).queue_metrics(QUEUE).await?.ready;
            tasks.shutdown().await;
            let ages = std::mem::take(&mut *ages.lock().unwrap_or_else(PoisonError::into_inner));
            let mut sample = Sample::latencies(ages);
            sample.figures.push(("backlog", backlog as f64));
            Ok(sample)
        })
        .await
}

/// 10 messages every 5 ms, one of 20 delayed.
async fn offer(store: PostgresStore) -> Result<()> {
    let mut ticks = interval(Duration::from_millis(5));
    for tick in 0_u64.. {
        ticks.tick().await;
        let delayed = (tick % 2) as usize;
        let payloads = vec![stamped(Duration::ZERO); 10 - delayed];
        pgqrs::enqueue().messages(&payloads).to(QUEUE).execute(&store).await?;
        if delayed == 1 {
            let enqueue = pgqrs::enqueue().message(&stamped(DELAY)).with_delay(DELAY);
            enqueue.to(QUEUE).execute(&store).await?;
        }
    }
    Ok(())
}

async fn consume(
    store: PostgresStore,
    consumer: Arc<dyn Consumer>,
    ages: Arc<Mutex<Vec<Duration>>>,
) -> Result<()> {
    loop {
        let dequeue = pgqrs::dequeue().worker(&*consumer).batch(BATCH).vt_offset(LEASE);
        let claimed = dequeue.fetch_all(&store).await?;
        {
            let mut ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
            let first = claimed.iter().filter(|message| message.attempts == 1);
            ages.extend(first.filter_map(|message| age(&message.payload)));
        }
        if claimed.is_empty() {
            sleep(Duration::from_millis(5)).await;
        } else {
            settle(&*consumer, &claimed).await?;
        }
    }
}

/// Archives all but one of a hundred, which fails and is tried again after a second.
async fn settle(consumer: &dyn Consumer, messages: &[Message]) -> Result<()> {
    let retry = RetryDecision::RetryAfter(Delay::new(DELAY)?);
    let settlement = |message: &Message| {
        let fails = message.attempts == 1 && message.id.0 % 100 == 0;
        let failed = Action::Fail { error: "it failed".into(), retry };
        let action = if fails { failed } else { Action::Archive };
        Settlement { receipt: message.receipt, action }
    };
    consumer.settle(messages.iter().map(settlement).collect()).await?;
    Ok(())
}

async fn churn(server: &Postgres, held: Duration) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let store = database.store().await?;
            ours::fill(&store, 20_000).await?;
            let finished = Arc::new(AtomicUsize::new(0));
            let mut tasks = JoinSet::new();
            for _ in 0..CONSUMERS {
                let consumer = pgqrs::consumer("bench", 0, QUEUE).create(&store).await?;
                let (store, finished) = (store.clone(), finished.clone());
                tasks.spawn(async move {
                    let payloads = vec![ours::payload(); BATCH];
                    loop {
                        let dequeue = pgqrs::dequeue().worker(&*consumer).batch(BATCH);
                        let claimed = dequeue.vt_offset(LEASE).fetch_all(&store).await?;
                        settle(&*consumer, &claimed).await?;
                        finished.fetch_add(claimed.len(), Ordering::Relaxed);
                        let (now, later) = payloads.split_at(BATCH - BATCH / 20);
                        pgqrs::enqueue().messages(now).to(QUEUE).execute(&store).await?;
                        let delayed = pgqrs::enqueue().messages(later).with_delay(DELAY);
                        delayed.to(QUEUE).execute(&store).await?;
                    }
                });
            }
            collapse(database, tasks, &finished, held).await
        })
        .await
}

async fn bare_churn(server: &Postgres, floor: Floor, held: Duration) -> Result<Sample> {
    server
        .on_fresh_database(async |database| {
            let clients = database.clients(CONSUMERS).await?;
            floor.create(&clients[0]).await?;
            floor.fill(&clients[0], 20_000).await?;
            let finished = Arc::new(AtomicUsize::new(0));
            let mut tasks = JoinSet::new();
            for client in clients {
                let finished = finished.clone();
                tasks.spawn(async move { floor.churn(client, BATCH, &finished).await });
            }
            collapse(database, tasks, &finished, held).await
        })
        .await
}

/// The rate of the 10 s before the hold, and of its last 10 s.
async fn collapse(
    database: &Database<'_>,
    mut tasks: JoinSet<Result<()>>,
    finished: &AtomicUsize,
    held: Duration,
) -> Result<Sample> {
    let count = || finished.load(Ordering::Relaxed);
    run_for(&mut tasks, Duration::from_secs(3)).await?;
    let start = count();
    run_for(&mut tasks, WINDOW).await?;
    let before = count() - start;
    let holder = hold(database).await?;
    run_for(&mut tasks, held.saturating_sub(WINDOW)).await?;
    let start = count();
    run_for(&mut tasks, WINDOW).await?;
    let after = count() - start;
    tasks.shutdown().await;
    drop(holder);
    let rate = |count: usize| count as f64 / WINDOW.as_secs_f64();
    let share = after as f64 / before as f64;
    let figures =
        vec![("before, /s", rate(before)), ("held, /s", rate(after)), ("held/before", share)];
    Ok(Sample { figures, ..Sample::default() })
}

/// Lets the tasks run; they end only by failing.
async fn run_for(tasks: &mut JoinSet<Result<()>>, time: Duration) -> Result<()> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        Some(ended) = tasks.join_next() => ended?,
    }
}

//! Enqueue, claim and archive, one caller at a time, in batches of 1, 10 and 100, on every store.
//!
//! The SQLite file and the Postgres server stand on the disk of the temporary folder; the server
//! syncs nothing. Compare a store with itself from change to change, not stores with one another.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use pgqrs::{
    Action, BatchSize, Claim, CreateQueue, DeleteQueue, Enqueue, Json, LiveMessages, MemoryStore,
    NewMessage, QueueName, QueueSettings, Receipt, Settle, Settled, Settlement, Store,
    VisibilityTimeout,
};
use tokio::runtime::Runtime;

const BATCHES: [usize; 3] = [1, 10, 100];
const PAYLOAD_BYTES: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::new()?;
    let mut criterion = Criterion::default().configure_from_args();

    bench(&mut criterion, &runtime, "memory", Arc::new(MemoryStore::new()));

    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:///{}/bench.db", folder.path().display());
    let sqlite = runtime.block_on(pgqrs_sqlite::connect(&url))?;
    bench(&mut criterion, &runtime, "sqlite", Arc::new(sqlite));

    let database = runtime.block_on(pgqrs_testkit::server::database())?;
    let postgres = runtime.block_on(pgqrs_postgres::connect(database.url()))?;
    runtime.block_on(postgres.install())?;
    bench(&mut criterion, &runtime, "postgres", Arc::new(postgres));

    criterion.final_summary();
    Ok(())
}

fn bench(criterion: &mut Criterion, runtime: &Runtime, name: &str, store: Arc<dyn Store>) {
    for call in [Call::Enqueue, Call::Claim, Call::Archive] {
        let mut group = criterion.benchmark_group(format!("{name}/{call:?}").to_lowercase());
        for batch in BATCHES {
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
                bencher.to_async(runtime).iter_custom(|times| {
                    let store = store.clone();
                    async move {
                        let took = measure(&*store, call, times, batch).await;
                        took.unwrap_or_else(|error| panic!("{error}"))
                    }
                });
            });
        }
        group.finish();
    }
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Enqueue,
    Claim,
    Archive,
}

/// How long `times` calls take, each of `batch` messages, on a queue of their own.
async fn measure(
    store: &dyn Store,
    call: Call,
    times: u64,
    batch: usize,
) -> pgqrs::Result<Duration> {
    static QUEUES: AtomicU32 = AtomicU32::new(0);
    let queue = QueueName::new(format!("bench-{}", QUEUES.fetch_add(1, Ordering::Relaxed)))?;
    let settings = QueueSettings::default();
    store.create_queue(CreateQueue { queue: queue.clone(), settings, now: None }).await?;
    let took = match call {
        Call::Enqueue => enqueue(store, &queue, times, batch).await?,
        Call::Claim => {
            fill(store, &queue, times, batch).await?;
            claim(store, &queue, times, batch).await?.1
        }
        Call::Archive => {
            fill(store, &queue, times, batch).await?;
            let (leases, _) = claim(store, &queue, times, batch).await?;
            archive(store, leases).await?
        }
    };
    store.delete_queue(DeleteQueue { queue, live: LiveMessages::Delete }).await?;
    Ok(took)
}

async fn enqueue(
    store: &dyn Store,
    queue: &QueueName,
    times: u64,
    batch: usize,
) -> pgqrs::Result<Duration> {
    let start = Instant::now();
    for _ in 0..times {
        store.enqueue(messages(queue, batch)?).await?;
    }
    Ok(start.elapsed())
}

/// The messages of so many claims, in large batches.
async fn fill(store: &dyn Store, queue: &QueueName, times: u64, batch: usize) -> pgqrs::Result<()> {
    let mut missing = times as usize * batch;
    while missing > 0 {
        let chunk = missing.min(BatchSize::MAX.count());
        store.enqueue(messages(queue, chunk)?).await?;
        missing -= chunk;
    }
    Ok(())
}

/// The leases of each claim, and the time that all took.
async fn claim(
    store: &dyn Store,
    queue: &QueueName,
    times: u64,
    batch: usize,
) -> pgqrs::Result<(Vec<Vec<Receipt>>, Duration)> {
    let (queue, timeout) = (queue.clone(), Some(VisibilityTimeout::MAX));
    let claim = Claim { queue, worker: None, limit: BatchSize::new(batch)?, timeout, now: None };
    let mut leases = Vec::with_capacity(times as usize);
    let mut took = Duration::ZERO;
    for _ in 0..times {
        let start = Instant::now();
        let claimed = store.claim(claim.clone()).await?.messages;
        took += start.elapsed();
        assert_eq!(claimed.len(), batch);
        leases.push(claimed.into_iter().map(|message| message.receipt).collect());
    }
    Ok((leases, took))
}

async fn archive(store: &dyn Store, leases: Vec<Vec<Receipt>>) -> pgqrs::Result<Duration> {
    let settlement = |receipt| Settlement { receipt, action: Action::Archive };
    let mut took = Duration::ZERO;
    for receipts in leases {
        let settlements = receipts.into_iter().map(settlement).collect();
        let start = Instant::now();
        let outcomes = store.settle(Settle { settlements, now: None }).await?;
        took += start.elapsed();
        assert!(outcomes.into_iter().all(|outcome| outcome == Ok(Settled::Archived)));
    }
    Ok(took)
}

fn messages(queue: &QueueName, count: usize) -> pgqrs::Result<Enqueue> {
    let message = NewMessage::new(Json::new(&"x".repeat(PAYLOAD_BYTES))?);
    Ok(Enqueue { queue: queue.clone(), messages: vec![message; count], now: None })
}

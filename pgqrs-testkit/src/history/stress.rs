//! Many producers and consumers of one process on one store, and the check of their history.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use pgqrs::{CreateQueue, QueueName, QueueSettings, Store, Support};
use tokio::task::JoinSet;

use super::{
    FinalState, Log, Record, Report, Violation,
    actor::{Actor, Drained, Failure, Identity, few_are_left},
    check,
};

/// Expands to the test `stress`, which runs producers and consumers at once on a store of the
/// author's and checks their history. See [`history`](crate::history).
///
/// `fresh` is an async function that returns a store on an empty database, and a guard that drops
/// the database. `PGQRS_STRESS_MESSAGES` sets how many messages are enqueued.
///
/// ```
/// async fn fresh() -> (pgqrs::MemoryStore, ()) {
///     (pgqrs::MemoryStore::new(), ())
/// }
///
/// pgqrs_testkit::stress!(fresh);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! stress {
    ($fresh:path) => {
        #[test]
        fn stress() {
            $crate::history::check_stress($fresh, $crate::history::Stress::from_env());
        }
    };
}

/// How much stress. The store's own clock is used, and leases do expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stress {
    /// How many messages are enqueued.
    pub messages: usize,
    /// How many tasks enqueue.
    pub producers: usize,
    /// How many tasks consume: half of them registered, two of those under one identity.
    pub consumers: usize,
    /// The seed of their dice. Their interleaving differs all the same.
    pub seed: u64,
}

impl Stress {
    /// 3,000 messages, or as many as `PGQRS_STRESS_MESSAGES` says; 4 producers, 8 consumers.
    pub fn from_env() -> Self {
        let messages = std::env::var("PGQRS_STRESS_MESSAGES").ok();
        let messages = messages.and_then(|count| count.parse().ok()).unwrap_or(3_000);
        Self { messages, producers: 4, consumers: 8, seed: fastrand::u64(..) }
    }
}

/// Runs [`stress`](fn@stress) on a store from `fresh`.
///
/// # Panics
/// If its history shows a violation.
pub fn check_stress<S, G>(fresh: impl AsyncFnOnce() -> (S, G), options: Stress)
where
    S: Store + 'static,
{
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no tokio runtime: {error}"));
    let report = runtime.block_on(async {
        let (store, _guard) = fresh().await;
        store.install().await.unwrap_or_else(|error| panic!("install: {error}"));
        stress(Arc::new(store), options).await
    });
    println!("{report}");
    report.assert_clean();
}

/// Runs producers and consumers on the queue `stress`, which it creates, drains what they leave,
/// and checks the history. A call that fails is reported as [`Violation::Stuck`].
pub async fn stress(store: Arc<dyn Store>, options: Stress) -> Report {
    match run(store, options).await {
        Ok(report) => report,
        Err(failure) => {
            let violations = vec![Violation::Stuck(failure.to_string())];
            Report { violations, ..Report::default() }
        }
    }
}

async fn run(store: Arc<dyn Store>, options: Stress) -> Result<Report, Failure> {
    let Stress { messages, producers, consumers, seed } = options;
    let queue = QueueName::new("stress")?;
    let create =
        CreateQueue { queue: queue.clone(), settings: QueueSettings::default(), now: None };
    store.create_queue(create).await?;
    let mut dice = Rng::with_seed(seed);
    let stop = Arc::new(AtomicBool::new(false));
    let mut actor = || Actor {
        store: store.clone(),
        queue: queue.clone(),
        log: Log::in_memory(),
        rng: dice.fork(),
        stop: stop.clone(),
    };

    let mut consuming = JoinSet::new();
    for number in 0..consumers {
        let mut actor = actor();
        let identity = identity(&*store, number);
        consuming.spawn(async move {
            actor.consume(identity).await?;
            Ok::<_, Failure>(actor.log.into_records())
        });
    }
    let mut producing = JoinSet::new();
    for number in 0..producers {
        let mut actor = actor();
        let share = messages / producers + usize::from(number < messages % producers);
        producing.spawn(async move {
            actor.produce(share).await?;
            Ok::<_, Failure>(actor.log.into_records())
        });
    }
    let mut histories = ended(producing).await?;
    let few = (messages / 10).min(9_999);
    while !few_are_left(&*store, &queue, few).await? && !consuming.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    histories.extend(ended(consuming).await?);

    let mut last = actor();
    let drained = last.drain(Duration::from_secs(20)).await?;
    histories.push(last.log.into_records());
    let mut report = check(&histories, &FinalState::read(&*store, &queue).await?);
    if drained == Drained::GaveUp {
        let stuck = format!("{} messages are live and never delivered", report.live);
        report.violations.push(Violation::Stuck(stuck));
    }
    Ok(report)
}

/// Every other consumer is registered; the first two of them share an identity, so that one
/// replaces the other.
fn identity(store: &dyn Store, number: usize) -> Identity {
    match (store.capabilities().workers, number) {
        (Support::Full, 1 | 3) => Identity::Port(1),
        (Support::Full, number) if number % 2 == 1 => Identity::Port(number as u16),
        _ => Identity::Ephemeral,
    }
}

async fn ended(
    mut tasks: JoinSet<Result<Vec<Record>, Failure>>,
) -> Result<Vec<Vec<Record>>, Failure> {
    let mut histories = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        let panicked = |error: tokio::task::JoinError| Failure::Panic(error.to_string());
        histories.push(outcome.map_err(panicked)??);
    }
    Ok(histories)
}

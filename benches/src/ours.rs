//! Our side of the contests, the same for every store.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pgqrs::{Action, Consumer, MessageId, Settle, Settlement, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Result, join};

/// The queue that everything happens in.
pub(crate) const QUEUE: &str = "bench";

/// A payload of 200 bytes of JSON text.
pub(crate) fn payload() -> String {
    "x".repeat(198)
}

/// What the tests need of a store.
pub(crate) trait Ours: Store + Clone + 'static {}
impl<S: Store + Clone + 'static> Ours for S {}

/// Puts `messages` into the queue.
pub(crate) async fn fill<S: Ours>(store: &S, messages: usize) -> Result<()> {
    enqueue_batches(store, messages, 1_000, 4).await.map(drop)
}

/// Enqueues in batches, on so many callers.
pub(crate) async fn enqueue_batches<S: Ours>(
    store: &S,
    messages: usize,
    batch: usize,
    callers: usize,
) -> Result<Duration> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for share in shares(messages, callers) {
        let store = store.clone();
        tasks.spawn(async move {
            let payloads = vec![payload(); batch];
            let mut left = share;
            while left > 0 {
                let size = left.min(batch);
                pgqrs::enqueue().messages(&payloads[..size]).to(QUEUE).execute(&store).await?;
                left -= size;
            }
            Ok(())
        });
    }
    join(tasks).await?;
    Ok(started.elapsed())
}

/// Enqueues one message per call, each task awaiting its own.
pub(crate) async fn enqueue_singly<S: Ours>(
    store: &S,
    messages: usize,
    tasks: usize,
) -> Result<Duration> {
    enqueue_batches(store, messages, 1, tasks).await
}

/// Claims and archives in a queue of this process alone, on several connections at once: a worker that
/// stays up works with sessions that have all their plans.
pub(crate) async fn warm_up<S: Ours>(store: &S) -> Result<()> {
    let queue = format!("warm-up-{}", std::process::id());
    pgqrs::admin(store).create_queue(&queue).await?;
    let payloads = vec![payload(); 1_000];
    pgqrs::enqueue().messages(&payloads).to(queue.as_str()).execute(store).await?;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (store, queue) = (store.clone(), queue.clone());
        tasks.spawn(async move {
            loop {
                let dequeue = pgqrs::dequeue().from(queue.as_str()).batch(50);
                let claimed = dequeue.fetch_all(&store).await?;
                if claimed.is_empty() {
                    return Ok(());
                }
                let receipts = claimed.iter().map(|message| message.receipt);
                let archive = |receipt| Settlement { receipt, action: Action::Archive };
                let settlements = receipts.map(archive).collect();
                store.settle(Settle { settlements, now: None }).await?;
            }
        });
    }
    join(tasks).await.map(drop)
}

/// How long claims and archives took together, and how long the claims alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drained {
    pub(crate) took: Duration,
    /// Summed over the consumers and divided by their number.
    pub(crate) claiming: Duration,
}

/// Claims and archives `messages` in batches, by so many registered consumers.
pub(crate) async fn drain<S: Ours>(
    store: &S,
    messages: usize,
    batch: usize,
    consumers: usize,
) -> Result<Drained> {
    let handles = create_consumers(store, consumers).await?;
    let left = Arc::new(AtomicUsize::new(messages));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for consumer in handles {
        let (store, left) = (store.clone(), left.clone());
        tasks.spawn(async move {
            let (mut claiming, mut empty_claims) = (Duration::ZERO, 0);
            while let Some(size) = take(&left, batch) {
                let claim = Instant::now();
                let dequeue = pgqrs::dequeue().worker(&*consumer).batch(size);
                let claimed = dequeue.fetch_all(&store).await?;
                claiming += claim.elapsed();
                put_back(&left, size - claimed.len());
                // What others have locked for a moment is not to be had in that moment.
                empty_claims = if claimed.is_empty() { empty_claims + 1 } else { 0 };
                match empty_claims {
                    0 => {}
                    1..100 => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                    _ => return Err("the queue is empty too early".into()),
                }
                let ids: Vec<MessageId> = claimed.iter().map(|message| message.id).collect();
                if consumer.archive_many(&ids).await?.iter().any(std::result::Result::is_err) {
                    return Err("a lease was lost".into());
                }
            }
            Ok(claiming)
        });
    }
    let claiming = join(tasks).await?;
    let took = started.elapsed();
    Ok(Drained { took, claiming: claiming.iter().sum::<Duration>() / consumers as u32 })
}

/// Claims and archives message by message, each of so many tasks awaiting its own; they share a
/// consumer.
pub(crate) async fn drain_singly<S: Ours>(
    store: &S,
    messages: usize,
    tasks: usize,
) -> Result<Duration> {
    let consumer = pgqrs::consumer("bench", 0, QUEUE).create(store).await?;
    let left = Arc::new(AtomicUsize::new(messages));
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let (store, left, consumer) = (store.clone(), left.clone(), consumer.clone());
        running.spawn(async move {
            while take(&left, 1).is_some() {
                let claimed = pgqrs::dequeue().worker(&*consumer).fetch_one(&store).await?;
                let message = claimed.ok_or("the queue is empty too early")?;
                consumer.archive(message.id).await?;
            }
            Ok(())
        });
    }
    join(running).await?;
    Ok(started.elapsed())
}

/// Archives message by message what was claimed before, each of so many tasks awaiting its own.
pub(crate) async fn archive_singly<S: Ours>(
    store: &S,
    messages: usize,
    tasks: usize,
) -> Result<Duration> {
    // A consumer holds 10,000 receipts at most.
    let consumers = create_consumers(store, messages.div_ceil(10_000)).await?;
    let mut held: VecDeque<(Arc<dyn Consumer>, MessageId)> = VecDeque::new();
    for (consumer, share) in consumers.iter().zip(shares(messages, consumers.len())) {
        let mut missing = share;
        while missing > 0 {
            let dequeue = pgqrs::dequeue().worker(&**consumer).batch(missing.min(1_000));
            let claimed = dequeue.vt_offset(600).fetch_all(store).await?;
            if claimed.is_empty() {
                return Err("the queue is empty too early".into());
            }
            missing -= claimed.len();
            held.extend(claimed.iter().map(|message| (consumer.clone(), message.id)));
        }
    }
    let held = Arc::new(Mutex::new(held));
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let held = held.clone();
        running.spawn(async move {
            let next = || held.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some((consumer, id)) = next() {
                consumer.archive(id).await?;
            }
            Ok(())
        });
    }
    join(running).await?;
    Ok(started.elapsed())
}

/// Handles `messages` in a run loop with a handler that does nothing.
pub(crate) async fn run_loop<S: Ours>(
    store: &S,
    messages: usize,
    concurrency: usize,
    prefetch: Option<usize>,
) -> Result<Duration> {
    let (left, stop) = (Arc::new(AtomicUsize::new(messages)), CancellationToken::new());
    let done = stop.clone();
    let started = Instant::now();
    let handle = pgqrs::dequeue().from(QUEUE).handle(move |_| {
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            done.cancel();
        }
        async { Ok(()) }
    });
    let handle = prefetch.into_iter().fold(handle, |handle, ahead| handle.prefetch(ahead));
    let report = handle.concurrency(concurrency).until(stop).poll(store).await?;
    let took = started.elapsed();
    if report.handled != messages as u64 {
        return Err(format!("the run loop did something else: {report}").into());
    }
    Ok(took)
}

async fn create_consumers<S: Ours>(store: &S, count: usize) -> Result<Vec<Arc<dyn Consumer>>> {
    let mut consumers = Vec::with_capacity(count);
    for _ in 0..count {
        consumers.push(pgqrs::consumer("bench", 0, QUEUE).create(store).await?);
    }
    Ok(consumers)
}

/// `whole` in as equal parts as possible.
pub(crate) fn shares(whole: usize, parts: usize) -> impl Iterator<Item = usize> {
    (0..parts).map(move |nth| whole / parts + usize::from(nth < whole % parts))
}

/// `messages` in batches of `size`, the last one smaller.
pub(crate) fn batches(messages: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..messages).step_by(size).map(move |start| size.min(messages - start))
}

/// Takes up to `most` of what is left to do.
pub(crate) fn take(left: &AtomicUsize, most: usize) -> Option<usize> {
    let rest = |left: usize| (left > 0).then(|| left.saturating_sub(most));
    let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok()?;
    Some(before.min(most))
}

/// Puts back what was taken and not done.
pub(crate) fn put_back(left: &AtomicUsize, rest: usize) {
    left.fetch_add(rest, Ordering::Relaxed);
}

//! What holds for workers of every backend, whatever becomes of their processes.

#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::{collections::HashSet, time::Duration};

use chrono::{TimeDelta, Utc};
use pgqrs::{
    ArchiveFilter, ArchivedMessage, BatchSize, LiveMessage, MessageFilter, MessageState, Outcome,
    Page, Store, Sweep, WorkerFilter, WorkerState, admin, enqueue,
};
use tokio::time::Instant;

use super::{QUEUE, Signal, Told, Work, Worker};
use crate::chaos::Program;

const PATIENCE: Duration = Duration::from_secs(60);

/// Kills one of two workers with SIGKILL; the other one begins what the first one was at within 20
/// seconds, although its lease lasts an hour.
///
/// # Panics
/// If it does not hold.
pub async fn a_killed_workers_messages_are_handled_within_20_seconds<S: Store>(
    store: &S,
    program: Program,
) {
    let hour = Duration::from_secs(3600);
    let work = Work { concurrency: 2, takes: hour, lease: hour };
    add(store, 3).await;
    // Two in work and one in the buffer.
    let killed = Worker::start(&program, work);
    until("the first worker's start", PATIENCE, || (killed.told().began.len() == 2).then_some(()))
        .await;
    let other = Worker::start(&program, Work { concurrency: 3, ..work });
    loop {
        let workers = admin(store).workers(WorkerFilter::default()).await.unwrap();
        let silent = |since| Utc::now() - since > TimeDelta::seconds(2);
        if workers.len() == 2 && silent(workers[0].heartbeat_at) {
            break;
        }
        pause().await;
    }
    assert_eq!(other.told().began, []);
    killed.signal(Signal::KILL);
    let limit = Duration::from_secs(20);
    until("the others' messages", limit, || (other.told().began.len() == 3).then_some(())).await;
}

/// Freezes one of two workers for longer than its leases; when it goes on, the store refuses what it
/// settles late.
///
/// # Panics
/// If it does not hold.
pub async fn a_frozen_worker_settles_nothing_late<S: Store>(store: &S, program: Program) {
    let (takes, lease) = (Duration::from_millis(300), Duration::from_secs(2));
    let work = Work { concurrency: 4, takes, lease };
    add(store, 100).await;
    let (frozen, other) = (Worker::start(&program, work), Worker::start(&program, work));
    let begun = || (frozen.told().began.len() >= 8 && !other.told().began.is_empty()).then_some(());
    until("both workers' work", PATIENCE, begun).await;
    freeze(store, &frozen).await;
    // The other one takes over what the first one holds, once those leases have lapsed.
    all_archived(store, 100, PATIENCE).await;
    let before = archive(store).await;
    let settled: HashSet<_> = before.iter().filter_map(|message| message.receipt).collect();
    let late = frozen.told().began.iter().filter(|receipt| !settled.contains(receipt)).count();
    frozen.signal(Signal::CONT);
    let (frozen, other) = (frozen.stop().await, other.stop().await);
    let [_, _, _, _, lost, unsettled] = frozen.report.unwrap();
    assert!(late > 0 && lost as usize >= late, "{late} late: {frozen:?}");
    assert_eq!(unsettled, 0, "{frozen:?}");
    assert_eq!(archive(store).await, before);
    assert_adds_up(store, 100, &[frozen, other]).await;
}

/// Freezes a worker outside its transactions: a process that is frozen in the middle of a commit
/// keeps what it has locked, which on SQLite is the whole file, until it goes on.
async fn freeze<S: Store>(store: &S, worker: &Worker) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        worker.freeze();
        match store.sweep(Sweep::default()).await {
            Ok(_) => return,
            Err(error) => assert!(error.is_unavailable() && Instant::now() < deadline, "{error}"),
        }
        worker.signal(Signal::CONT);
        pause().await;
    }
}

/// Asks a worker with a full queue to stop: it ends soon, and nothing is leased then.
///
/// # Panics
/// If it does not hold.
pub async fn a_worker_asked_to_stop_under_load_leaves_nothing_leased<S: Store>(
    store: &S,
    program: Program,
) {
    let (takes, lease) = (Duration::from_millis(20), Duration::from_secs(3600));
    let work = Work { concurrency: 16, takes, lease };
    add(store, 5_000).await;
    let worker = Worker::start(&program, work);
    until("a hundred messages", PATIENCE, || (worker.told().ended.len() >= 100).then_some(()))
        .await;
    let asked = Instant::now();
    let told = worker.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
    assert_adds_up(store, 5_000, &[told]).await;
}

/// Every message is archived as done by one of these workers, or live and free, and the workers'
/// reports agree; every worker is stopped.
///
/// # Panics
/// If it does not hold.
pub async fn assert_adds_up<S: Store>(store: &S, enqueued: usize, workers: &[Told]) {
    let (archive, live) = (archive(store).await, live(store).await);
    assert_eq!(archive.len() + live.len(), enqueued);
    assert!(archive.iter().all(|message| message.outcome == Outcome::Done), "a dead letter");
    assert!(live.iter().all(|m| m.state != MessageState::Leased && m.receipt.is_none()), "a lease");
    let reports = || workers.iter().filter_map(|told| told.report);
    assert_eq!(reports().count(), workers.len());
    let handled: u64 = reports().map(|[handled, ..]| handled).sum();
    assert_eq!(handled as usize, archive.len(), "{:?}", reports().collect::<Vec<_>>());
    let ended: HashSet<_> = workers.iter().flat_map(|told| &told.ended).collect();
    let handled = |m: &ArchivedMessage| m.receipt.is_some_and(|receipt| ended.contains(&receipt));
    assert!(archive.iter().all(handled), "archived, and its handler did not end");
    let running = admin(store).workers(WorkerFilter::default()).await.unwrap();
    assert!(running.iter().all(|worker| worker.state == WorkerState::Stopped), "{running:?}");
}

/// Waits until so many messages are archived.
///
/// # Panics
/// If they are not in time.
pub async fn all_archived<S: Store>(store: &S, messages: u64, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        // The store may be away for a while.
        let archived = admin(store).queue_metrics(QUEUE).await.map(|metrics| metrics.archived);
        if archived.as_ref().is_ok_and(|archived| *archived == messages) {
            return;
        }
        assert!(Instant::now() < deadline, "{archived:?} of {messages} archived after {limit:?}");
        pause().await;
    }
}

/// Makes the queue, if need be, and enqueues so many messages.
///
/// # Panics
/// If that fails.
pub async fn add<S: Store>(store: &S, messages: usize) {
    admin(store).create_queue(QUEUE).await.unwrap();
    enqueue().messages(0..messages).to(QUEUE).execute(store).await.unwrap();
}

/// Waits until there is something, looking often.
///
/// # Panics
/// If there is nothing in time.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        pause().await;
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

async fn archive<S: Store>(store: &S) -> Vec<ArchivedMessage> {
    let page = Page::first(BatchSize::MAX);
    admin(store).archive(ArchiveFilter { page, ..ArchiveFilter::default() }).await.unwrap()
}

async fn live<S: Store>(store: &S) -> Vec<LiveMessage> {
    let page = Page::first(BatchSize::MAX);
    admin(store).messages(MessageFilter { page, ..MessageFilter::default() }).await.unwrap()
}

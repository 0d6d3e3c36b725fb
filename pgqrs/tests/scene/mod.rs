//! The queue `tasks` on a store in memory whose clock is the runtime's, and a loop that works on it.

use std::time::Duration;

use chrono::DateTime;
use pgqrs::*;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A store with so many messages in the queue.
pub(crate) async fn tasks(messages: usize) -> MemoryStore {
    let start = Instant::now();
    let store = MemoryStore::with_clock(move || DateTime::UNIX_EPOCH + start.elapsed());
    admin(&store).create_queue("tasks").await.unwrap();
    add(&store, messages).await;
    store
}

pub(crate) async fn add(store: &MemoryStore, messages: usize) {
    if messages > 0 {
        enqueue().messages(0..messages).to("tasks").execute(store).await.unwrap();
    }
}

pub(crate) async fn live(store: &MemoryStore) -> Vec<LiveMessage> {
    let filter = MessageFilter { page: Page::first(BatchSize::MAX), ..MessageFilter::default() };
    admin(store).messages(filter).await.unwrap()
}

/// What a handler does that takes its time.
pub(crate) async fn nap(duration: Duration) -> Result<(), HandlerError> {
    sleep(duration).await;
    Ok(())
}

/// A loop in a task of its own.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) task: JoinHandle<Report>,
    until: CancellationToken,
}

/// Starts a loop.
pub(crate) fn start<S, H>(store: &S, handle: Handle<'static, H>) -> Running
where
    S: Store + Clone + 'static,
    H: Handler + 'static,
{
    let (store, until) = (store.clone(), CancellationToken::new());
    let handle = handle.until(until.clone());
    Running { task: tokio::spawn(async move { handle.poll(&store).await.unwrap() }), until }
}

impl Running {
    /// Asks it to stop, and waits for its report.
    pub(crate) async fn stop(self) -> Report {
        self.until.cancel();
        self.task.await.unwrap()
    }
}

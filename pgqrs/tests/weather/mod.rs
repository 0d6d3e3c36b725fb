//! A store with weather: it refuses, hangs, or loses its answers, on command, and counts its calls.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use pgqrs::*;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Claim,
    /// A settle that ends a lease.
    Settle,
    /// A settle that only extends leases.
    Renew,
    /// Heartbeats and other changes of workers.
    Transition,
    Sweep,
    Other,
}

/// What becomes of calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    /// Nothing happens, and the answer says so.
    Refuse,
    /// It happens, and the answer is lost.
    LoseAnswer,
    /// It happens, and the answer takes so long.
    Slow(Duration),
    /// Nothing happens, and there is no answer ever.
    Hang,
    /// Settlements of this message are an error of the store.
    Choke(MessageId),
}

/// A `MemoryStore` whose calls meet their fates. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    pub(crate) store: MemoryStore,
    fates: Arc<Mutex<HashMap<Call, Fate>>>,
    counts: Arc<Mutex<HashMap<Call, usize>>>,
    wakes: bool,
}

impl Weather {
    pub(crate) fn over(store: MemoryStore) -> Self {
        Self { store, fates: Arc::default(), counts: Arc::default(), wakes: true }
    }

    /// The same store, and nothing tells of its messages.
    #[allow(dead_code, reason = "for one of the tests that use the weather")]
    pub(crate) fn without_wake_ups(self) -> Self {
        Self { wakes: false, ..self }
    }

    pub(crate) fn set(&self, call: Call, fate: Fate) {
        self.fates.lock().unwrap().insert(call, fate);
    }

    pub(crate) fn clear(&self) {
        self.fates.lock().unwrap().clear();
    }

    pub(crate) fn count(&self, call: Call) -> usize {
        self.counts.lock().unwrap().get(&call).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> usize {
        self.counts.lock().unwrap().values().sum()
    }

    fn fate(&self, call: Call) -> Option<Fate> {
        self.fates.lock().unwrap().get(&call).copied()
    }

    async fn pass<T>(&self, call: Call, work: impl Future<Output = Result<T>>) -> Result<T> {
        *self.counts.lock().unwrap().entry(call).or_default() += 1;
        match self.fate(call) {
            None | Some(Fate::Choke(_)) => work.await,
            Some(Fate::Refuse) => Err(unavailable()),
            Some(Fate::LoseAnswer) => {
                work.await?;
                Err(unavailable())
            }
            Some(Fate::Slow(delay)) => {
                let answer = work.await;
                tokio::time::sleep(delay).await;
                answer
            }
            Some(Fate::Hang) => pending().await,
        }
    }
}

fn unavailable() -> Error {
    Error::Unavailable { reason: "the weather".into(), source: None }
}

#[async_trait]
impl Store for Weather {
    fn wakeups(&self, queue: &QueueName) -> Option<Wakeups> {
        self.store.wakeups(queue).filter(|_| self.wakes)
    }
    async fn configure(&self, configure: Configure) -> Result<StoreSettings> {
        self.pass(Call::Other, self.store.configure(configure)).await
    }
    async fn create_queue(&self, create: CreateQueue) -> Result<Queue> {
        self.pass(Call::Other, self.store.create_queue(create)).await
    }
    async fn update_queue(&self, update: UpdateQueue) -> Result<Queue> {
        self.pass(Call::Other, self.store.update_queue(update)).await
    }
    async fn delete_queue(&self, delete: DeleteQueue) -> Result<()> {
        self.pass(Call::Other, self.store.delete_queue(delete)).await
    }
    async fn queues(&self, filter: QueueFilter) -> Result<Vec<Queue>> {
        self.pass(Call::Other, self.store.queues(filter)).await
    }
    async fn metrics(&self, filter: MetricsFilter) -> Result<Vec<QueueMetrics>> {
        self.pass(Call::Other, self.store.metrics(filter)).await
    }
    async fn enqueue(&self, enqueue: Enqueue) -> Result<Vec<MessageId>> {
        self.pass(Call::Other, self.store.enqueue(enqueue)).await
    }
    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        self.pass(Call::Claim, self.store.claim(claim)).await
    }
    async fn settle(&self, settle: Settle) -> Result<Vec<Result<Settled, LeaseLost>>> {
        let extends = |one: &Settlement| matches!(one.action, Action::Extend(_));
        let renews = settle.settlements.iter().all(extends);
        let chokes = self.fate(Call::Settle).is_some_and(|fate| {
            settle.settlements.iter().any(|one| fate == Fate::Choke(one.receipt.id))
        });
        if chokes {
            return Err(Error::Backend { reason: "the weather".into(), source: None });
        }
        let call = if renews { Call::Renew } else { Call::Settle };
        self.pass(call, self.store.settle(settle)).await
    }
    async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>> {
        self.pass(Call::Other, self.store.messages(filter)).await
    }
    async fn archive(&self, filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
        self.pass(Call::Other, self.store.archive(filter)).await
    }
    async fn redrive(&self, redrive: Redrive) -> Result<Vec<MessageId>> {
        self.pass(Call::Other, self.store.redrive(redrive)).await
    }
    async fn purge(&self, purge: Purge) -> Result<u64> {
        self.pass(Call::Other, self.store.purge(purge)).await
    }
    async fn register(&self, register: Register) -> Result<WorkerRecord> {
        self.pass(Call::Other, self.store.register(register)).await
    }
    async fn transition(&self, transition: Transition) -> Result<WorkerRecord> {
        self.pass(Call::Transition, self.store.transition(transition)).await
    }
    async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>> {
        self.pass(Call::Other, self.store.workers(filter)).await
    }
    async fn sweep(&self, sweep: Sweep) -> Result<Swept> {
        self.pass(Call::Sweep, self.store.sweep(sweep)).await
    }
}

//! The store: each command as a request to the writer, each read on a connection of its own.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pgqrs::{
    Action, ArchiveFilter, ArchivedMessage, Claim, Claimed, Configure, CreateQueue, DeleteQueue,
    Enqueue, Error, Finding, Handover, LeaseLost, LiveMessage, MessageFilter, MessageId,
    MetricsFilter, Purge, Queue, QueueFilter, QueueMetrics, QueueName, Redrive, Register, Result,
    RetryDecision, Settle, Settled, Settlement, Store, StoreSettings, Sweep, Swept, Transition,
    UpdateQueue, Wakeups, WorkerChange, WorkerFilter, WorkerRecord,
};

use crate::{
    checkpoint::Checkpoints,
    claim, connection, doctor, enqueue,
    error::Outcome,
    migrate, queues,
    reader::Readers,
    reads, settle, sweep,
    tx::Tx,
    url::{Place, Target},
    watch::Watch,
    workers,
    writer::Writer,
};

/// A queue in a SQLite database: a cheap handle, shared by its clones. Made by
/// [`connect`](crate::connect).
///
/// Every write takes its time, unless one is injected, from the host's clock when the writer begins
/// with it. A clock that is set back makes delays and leases longer by as much, and loses nothing.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: Writer,
    /// None for a database in memory: it has one connection.
    readers: Option<Arc<Readers>>,
    watch: Arc<Watch>,
}

impl SqliteStore {
    pub(crate) async fn open(target: Target) -> Result<Self> {
        let opening = tokio::task::spawn_blocking(move || {
            let connection = connection::open_writer(&target)?;
            let checkpoints = Checkpoints::start(target.clone());
            let (writer, _) = Writer::start(connection, target.busy_timeout, checkpoints)?;
            let watch = Watch::new(target.clone());
            let readers = (target.place != Place::Memory).then(|| Readers::new(target));
            Ok::<_, Error>(Self { writer, readers, watch })
        });
        let stopped =
            |_| Error::Unavailable { reason: "the runtime is shutting down".into(), source: None };
        let store = opening.await.map_err(stopped)??;
        store.install().await?;
        Ok(store)
    }

    /// What it was opened on.
    pub(crate) fn target(&self) -> &Target {
        &self.watch.target
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.write(work).await
    }

    /// A write that may make messages ready.
    async fn freeing<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.write(work).await?;
        self.watch.signals.notify_all();
        Ok(done)
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        match &self.readers {
            Some(readers) => readers.read(work).await,
            None => self.writer.write(work).await,
        }
    }

    /// Makes dead letters of what a claim took and could not parse (E5). Should the program die
    /// before, their leases expire and the next claim comes here again.
    async fn bury(
        &self,
        unreadable: Vec<claim::Unreadable>,
        now: Option<DateTime<Utc>>,
    ) -> Result<()> {
        let settlements = unreadable.into_iter().map(|message| {
            let action = Action::Fail { error: message.error, retry: RetryDecision::Dead };
            Settlement { receipt: message.receipt, action }
        });
        self.settle(Settle { settlements: settlements.collect(), now }).await.map(drop)
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn wakeups(&self, queue: &QueueName) -> Option<Wakeups> {
        Some(self.watch.subscribe(queue))
    }

    async fn install(&self) -> Result<()> {
        self.write(migrate::install).await
    }

    async fn verify(&self) -> Result<()> {
        self.read(migrate::verify).await
    }

    async fn doctor(&self) -> Result<Vec<Finding>> {
        let target = self.target().clone();
        self.read(move |tx| doctor::examine(tx, &target)).await
    }

    async fn configure(&self, configure: Configure) -> Result<StoreSettings> {
        self.write(move |tx| queues::configure(tx, &configure)).await
    }

    async fn create_queue(&self, create: CreateQueue) -> Result<Queue> {
        self.write(move |tx| queues::create(tx, &create)).await
    }

    async fn update_queue(&self, update: UpdateQueue) -> Result<Queue> {
        self.write(move |tx| queues::update(tx, &update)).await
    }

    async fn delete_queue(&self, delete: DeleteQueue) -> Result<()> {
        self.write(move |tx| queues::delete(tx, &delete)).await
    }

    async fn queues(&self, filter: QueueFilter) -> Result<Vec<Queue>> {
        self.read(move |tx| queues::queues(tx, &filter)).await
    }

    async fn metrics(&self, filter: MetricsFilter) -> Result<Vec<QueueMetrics>> {
        self.read(move |tx| queues::metrics(tx, &filter)).await
    }

    async fn enqueue(&self, enqueue: Enqueue) -> Result<Vec<MessageId>> {
        let queue = enqueue.queue.clone();
        let ids = self.write(move |tx| enqueue::enqueue(tx, &enqueue)).await?;
        self.watch.signals.notify(&queue);
        Ok(ids)
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        let (store, now) = (self.clone(), claim.now);
        Handover::of(self.clone(), now, async move {
            let leased = store.write(move |tx| claim::claim(tx, &claim)).await?;
            let (claimed, unreadable) = leased.parse();
            if !unreadable.is_empty()
                && let Err(error) = store.bury(unreadable, now).await
            {
                // It never fails the claim, whose other messages are leased already (E5).
                tracing::warn!(%error, "could not bury messages that do not parse");
            }
            Ok(claimed)
        })
        .await
    }

    async fn settle(&self, settle: Settle) -> Result<Vec<Result<Settled, LeaseLost>>> {
        let has_freed = settle.frees_messages();
        let outcomes = self.write(move |tx| settle::settle(tx, &settle)).await?;
        if has_freed {
            self.watch.signals.notify_all();
        }
        Ok(outcomes)
    }

    async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>> {
        self.read(move |tx| reads::messages(tx, &filter)).await
    }

    async fn archive(&self, filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
        self.read(move |tx| reads::archive(tx, &filter)).await
    }

    async fn redrive(&self, redrive: Redrive) -> Result<Vec<MessageId>> {
        self.freeing(move |tx| reads::redrive(tx, &redrive)).await
    }

    async fn purge(&self, purge: Purge) -> Result<u64> {
        self.write(move |tx| queues::purge(tx, &purge)).await
    }

    async fn register(&self, register: Register) -> Result<WorkerRecord> {
        self.freeing(move |tx| workers::register(tx, &register)).await
    }

    async fn transition(&self, transition: Transition) -> Result<WorkerRecord> {
        let stops = transition.change == WorkerChange::Stop;
        let record = self.write(move |tx| workers::transition(tx, &transition)).await?;
        if stops {
            self.watch.signals.notify_all();
        }
        Ok(record)
    }

    async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>> {
        self.read(move |tx| workers::workers(tx, &filter)).await
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Swept> {
        let swept = self.write(move |tx| sweep::sweep(tx, &sweep)).await?;
        if swept.released > 0 {
            self.watch.signals.notify_all();
        }
        Ok(swept)
    }
}

//! The operator's face of a store.

use std::fmt;

use crate::{
    ArchiveFilter, ArchivedMessage, BatchSize, Configure, CreateQueue, DeadLetters, DeleteQueue,
    Error, Finding, LiveMessage, LiveMessages, MessageFilter, MessageId, MetricsFilter, Outcome,
    Page, Purge, PurgeScope, Queue, QueueChanges, QueueFilter, QueueMetrics, QueueName,
    QueueSettings, QueueState, Redrive, Result, Retention, Store, StoreSettings, Sweep, Swept,
    Transition, UpdateQueue, WorkerChange, WorkerFilter, WorkerId, WorkerRecord,
};

/// The operator's face of `store`: schema, queues, metrics, workers, dead letters, retention.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let store = pgqrs::MemoryStore::new();
/// let admin = pgqrs::admin(&store);
/// admin.install().await?;
/// admin.create_queue("tasks").await?;
/// assert_eq!(admin.queue_metrics("tasks").await?.ready, 0);
/// # Ok::<_, pgqrs::Error>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn admin<S: Store + ?Sized>(store: &S) -> Admin<'_, S> {
    Admin { store }
}

/// See [`admin`].
pub struct Admin<'a, S: ?Sized> {
    store: &'a S,
}

impl<S: Store + ?Sized> Admin<'_, S> {
    /// Installs or upgrades the schema; idempotent.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`], [`Error::SchemaTooNew`], [`Error::Unavailable`].
    pub async fn install(&self) -> Result<()> {
        self.store.install().await
    }

    /// Checks that the schema is as installed.
    ///
    /// # Errors
    /// [`Error::SchemaMissing`], [`Error::SchemaTooNew`], [`Error::SchemaDrift`].
    pub async fn verify(&self) -> Result<()> {
        self.store.verify().await
    }

    /// Looks for what slows queues down or endangers them: long transactions, a log that grows,
    /// clocks apart. Every check is reported, also the good ones.
    ///
    /// # Errors
    /// Of the store. What could not be looked at is a finding, no error.
    pub async fn doctor(&self) -> Result<Vec<Finding>> {
        self.store.doctor().await
    }

    /// What holds for the whole store.
    ///
    /// # Errors
    /// Of the store.
    pub async fn settings(&self) -> Result<StoreSettings> {
        self.store.configure(Configure::default()).await
    }

    /// Sets the largest payload in bytes, 1 KiB to 256 MiB, for messages enqueued from now on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub async fn payload_limit(&self, bytes: usize) -> Result<StoreSettings> {
        self.store.configure(Configure { payload_limit: Some(bytes) }).await
    }

    /// Creates a queue with default settings; one that exists stays as it is.
    ///
    /// # Errors
    /// [`Error::InvalidQueueName`].
    pub async fn create_queue<Q: Name>(&self, name: Q) -> Result<Queue> {
        self.create_queue_with(name, QueueSettings::default()).await
    }

    /// Creates a queue with these settings; one that exists stays as it is.
    ///
    /// # Errors
    /// [`Error::InvalidQueueName`], [`Error::OutOfRange`].
    pub async fn create_queue_with<Q: Name>(
        &self,
        name: Q,
        settings: QueueSettings,
    ) -> Result<Queue> {
        self.store.create_queue(CreateQueue { queue: name.parse()?, settings, now: None }).await
    }

    /// Changes settings of a queue.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::OutOfRange`].
    pub async fn update_queue<Q: Name>(&self, name: Q, changes: QueueChanges) -> Result<Queue> {
        self.store.update_queue(UpdateQueue { queue: name.parse()?, changes }).await
    }

    /// Stops a queue from handing out messages; it goes on taking them.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`].
    pub async fn pause<Q: Name>(&self, name: Q) -> Result<Queue> {
        let state = Some(QueueState::Paused);
        self.update_queue(name, QueueChanges { state, ..QueueChanges::default() }).await
    }

    /// Lets a paused queue hand out messages again.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`].
    pub async fn resume<Q: Name>(&self, name: Q) -> Result<Queue> {
        let state = Some(QueueState::Active);
        self.update_queue(name, QueueChanges { state, ..QueueChanges::default() }).await
    }

    /// Sets how long a queue's archive is kept.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`].
    pub async fn retention<Q: Name>(&self, name: Q, retention: Retention) -> Result<Queue> {
        let retention = Some(retention);
        self.update_queue(name, QueueChanges { retention, ..QueueChanges::default() }).await
    }

    /// Deletes a queue with its archive and workers. With live messages it needs
    /// [`LiveMessages::Delete`].
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::QueueNotEmpty`].
    pub async fn delete_queue<Q: Name>(&self, name: Q, live: LiveMessages) -> Result<()> {
        self.store.delete_queue(DeleteQueue { queue: name.parse()?, live }).await
    }

    /// All queues, by name.
    ///
    /// # Errors
    /// Of the store.
    pub async fn queues(&self) -> Result<Vec<Queue>> {
        self.store.queues(QueueFilter::default()).await
    }

    /// One queue.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`].
    pub async fn queue<Q: Name>(&self, name: Q) -> Result<Queue> {
        let queue = name.parse()?;
        let found = self.store.queues(QueueFilter::named(queue.clone())).await?.pop();
        found.ok_or(Error::QueueNotFound { queue })
    }

    /// Counts of all queues, by name.
    ///
    /// # Errors
    /// Of the store.
    pub async fn metrics(&self) -> Result<Vec<QueueMetrics>> {
        self.store.metrics(MetricsFilter::default()).await
    }

    /// Counts of one queue.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`].
    pub async fn queue_metrics<Q: Name>(&self, name: Q) -> Result<QueueMetrics> {
        let queue = name.parse()?;
        let filter = MetricsFilter { queue: Some(queue.clone()), now: None };
        self.store.metrics(filter).await?.pop().ok_or(Error::QueueNotFound { queue })
    }

    /// Live messages.
    ///
    /// # Errors
    /// Of the store.
    pub async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>> {
        self.store.messages(filter).await
    }

    /// Archived messages.
    ///
    /// # Errors
    /// Of the store.
    pub async fn archive(&self, filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
        self.store.archive(filter).await
    }

    /// Dead letters of a queue, a page at a time.
    ///
    /// # Errors
    /// [`Error::InvalidQueueName`].
    pub async fn dead_letters<Q: Name>(
        &self,
        name: Q,
        page: Page<MessageId>,
    ) -> Result<Vec<ArchivedMessage>> {
        let (queue, outcome) = (Some(name.parse()?), Some(Outcome::Dead));
        self.store.archive(ArchiveFilter { queue, outcome, page, ..ArchiveFilter::default() }).await
    }

    /// Makes dead letters live again; returns their ids.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`].
    pub async fn redrive<Q: Name>(&self, name: Q, letters: DeadLetters) -> Result<Vec<MessageId>> {
        self.store.redrive(Redrive { queue: name.parse()?, letters, now: None }).await
    }

    /// Makes up to 10,000 of the oldest dead letters live again; returns how many.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`].
    pub async fn redrive_all<Q: Name>(&self, name: Q) -> Result<usize> {
        self.redrive(name, DeadLetters::Oldest(BatchSize::MAX)).await.map(|ids| ids.len())
    }

    /// Removes messages of a queue for good; returns how many.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`].
    pub async fn purge<Q: Name>(&self, name: Q, scope: PurgeScope) -> Result<u64> {
        self.store.purge(Purge { queue: name.parse()?, scope }).await
    }

    /// Registered workers.
    ///
    /// # Errors
    /// Of the store.
    pub async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>> {
        self.store.workers(filter).await
    }

    /// Changes a worker's state from elsewhere: suspend, resume or stop it.
    ///
    /// # Errors
    /// [`Error::WorkerNotFound`], [`Error::IllegalTransition`], [`Error::WorkerNotReady`].
    pub async fn transition(&self, worker: WorkerId, change: WorkerChange) -> Result<WorkerRecord> {
        let filter = WorkerFilter { id: Some(worker), ..WorkerFilter::default() };
        let found = self.store.workers(filter).await?.pop();
        let queue = found.ok_or(Error::WorkerNotFound { worker })?.queue;
        self.store.transition(Transition { worker, queue, change, now: None }).await
    }

    /// One maintenance pass; run loops make them by themselves.
    ///
    /// # Errors
    /// Of the store.
    pub async fn sweep(&self) -> Result<Swept> {
        self.store.sweep(Sweep::default()).await
    }
}

impl<S: Store + ?Sized> fmt::Debug for Admin<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("store", &self.store).finish()
    }
}

/// What names a queue: a [`QueueName`], or text that is parsed as one.
pub trait Name {
    /// The name.
    ///
    /// # Errors
    /// [`Error::InvalidQueueName`].
    fn parse(self) -> Result<QueueName>;
}

impl<Q> Name for Q
where
    Q: TryInto<QueueName>,
    Q::Error: Into<Error>,
{
    fn parse(self) -> Result<QueueName> {
        self.try_into().map_err(Into::into)
    }
}

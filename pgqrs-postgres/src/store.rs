//! The store: what it consists of, and where each call is done.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU8},
    },
    time::Instant,
};

use async_trait::async_trait;
use pgqrs::{
    ArchiveFilter, ArchivedMessage, Backend, Claim, Claimed, Configure, CreateQueue, DeleteQueue,
    Enqueue, Error, Finding, Handover, LeaseLost, LiveMessage, MessageFilter, MessageId,
    MetricsFilter, Purge, Queue, QueueFilter, QueueMetrics, QueueName, Redrive, Register, Result,
    Settle, Settled, Settlement, Store, StoreSettings, Sweep, Swept, Transition, UpdateQueue,
    Wakeups, WorkerChange, WorkerFilter, WorkerRecord,
};
use tokio_postgres::error::SqlState;

use crate::{
    Options,
    claim::{self, Claims},
    doctor, enqueue, error,
    group::{Callers, Group},
    known::{self, Known},
    listen::{self, Listener},
    migrate,
    pool::{Pool, only},
    queues, reads, settle,
    sql::Statements,
    sweep, url, workers,
};

/// A queue store in a Postgres database. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct PostgresStore {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones share.
pub(crate) struct Inner {
    pub(crate) pool: Pool,
    pub(crate) sql: Statements,
    pub(crate) schema: String,
    pub(crate) listener: Listener,
    pub(crate) started: Instant,
    /// So many of the next archives probably leave messages of the leases that they meet.
    pub(crate) archives_in_part: AtomicU8,
    known: Mutex<HashMap<QueueName, Known>>,
    enqueues: Arc<Group<Enqueue>>,
    claims: Mutex<HashMap<QueueName, Arc<Group<Claims>>>>,
    settles: Arc<Group<Vec<Settlement>>>,
    /// Of all queues: who has claimed is about to settle.
    claimers: Arc<Callers>,
    settlers: Arc<Callers>,
    /// The last number drawn when a sweep last saw to the archive's partitions.
    pub(crate) partitions_looked_at: AtomicI64,
}

/// Connects to the database that `url` names: [`PostgresStore::connect`] with default [`Options`].
///
/// # Errors
/// As [`PostgresStore::connect`].
pub async fn connect(url: &str) -> Result<PostgresStore> {
    PostgresStore::connect(url, Options::default()).await
}

impl PostgresStore {
    /// Connects to the database that `url` names: `postgresql://user:password@host:port/database`
    /// with libpq's parameters, `sslmode` (all of libpq's) and `sslrootcert` among them, and
    /// `pgqrs_schema`. A schema that is not yet installed is no error.
    ///
    /// # Errors
    /// `InvalidUrl`; `Unavailable` if the server cannot be reached; `PermissionDenied`;
    /// `SchemaTooNew`.
    pub async fn connect(url: &str, options: Options) -> Result<Self> {
        let target = url::parse(url)?;
        let schema = target.schema.clone().unwrap_or_else(|| options.schema.clone());
        if schema.is_empty() || schema.len() > 63 || schema.contains('\0') {
            return Err(url::invalid("a schema's name has 1 to 63 bytes"));
        }
        let listening = options.listen_url.as_deref().map_or(Ok(target.clone()), url::parse)?;
        let listener = Listener::new(listening, &schema, options.notifications)?;
        let (claimers, settlers) = <(Arc<Callers>, Arc<Callers>)>::default();
        let inner = Arc::new(Inner {
            pool: Pool::connect(target, &options).await?,
            sql: Statements::new(&schema),
            archives_in_part: AtomicU8::new(0),
            schema,
            listener,
            started: Instant::now(),
            known: Mutex::default(),
            enqueues: Group::repeating(),
            claims: Mutex::default(),
            // Flushes at once would meet at the leases of one claim, and one of them come again.
            settles: Group::following(&claimers, &settlers),
            claimers,
            settlers,
            partitions_looked_at: AtomicI64::new(0),
        });
        inner.repeat(|| migrate::check_version(&inner)).await?;
        Ok(Self { inner })
    }
}

impl PostgresStore {
    /// Wakes the run loops that wait for `queue`, in every process: for messages that were enqueued
    /// in a transaction of the caller's or by SQL, which nothing tells of. Call it after the commit;
    /// without it they are found by polling.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn notify(&self, queue: &QueueName) -> Result<()> {
        listen::wake(&self.inner, queue);
        listen::send(&self.inner, queue).await
    }
}

#[cfg(feature = "bare")]
impl PostgresStore {
    pub(crate) fn statements(&self) -> &Statements {
        &self.inner.sql
    }
}

impl Inner {
    pub(crate) fn schema_missing(&self) -> Error {
        Error::SchemaMissing { schema: self.schema.clone() }
    }

    /// What is known of each queue.
    pub(crate) fn known(&self) -> MutexGuard<'_, HashMap<QueueName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The claims of a queue. Whoever has settled is about to claim.
    fn claims(&self, queue: &QueueName) -> Arc<Group<Claims>> {
        let mut groups = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let group = || Group::following(&self.settlers, &self.claimers);
        groups.entry(queue.clone()).or_insert_with(group).clone()
    }

    /// Makes a call, again where the database undid it and asks for that.
    async fn repeat<T, F>(&self, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        const TRIES: u32 = 4;
        for _ in 1..TRIES {
            match call().await {
                Err(error) if self.pool.may_repeat(&error) => {
                    tracing::debug!(%error, "repeating a call that the database undid");
                }
                Err(error) => return Err(self.diagnose(error).await),
                done => return done,
            }
        }
        call().await
    }

    /// Tells a schema that is not installed from one that has drifted.
    pub(crate) async fn diagnose(&self, error: Error) -> Error {
        let missing =
            [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_COLUMN];
        match error::sqlstate(&error) {
            Some(code) if missing.contains(&code) => {
                migrate::verify(self).await.err().unwrap_or(error)
            }
            _ => error,
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("schema", &self.inner.schema)
            .field("pool", &self.inner.pool)
            .finish_non_exhaustive()
    }
}

/// The backend for [`pgqrs::Backends`]: `postgresql://` and `postgres://` URLs.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

#[async_trait]
impl Backend for Postgres {
    fn schemes(&self) -> &'static [&'static str] {
        &["postgresql", "postgres"]
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(connect(url).await?))
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn wakeups(&self, queue: &QueueName) -> Option<Wakeups> {
        Some(listen::subscribe(&self.inner, queue))
    }
    async fn install(&self) -> Result<()> {
        self.inner.repeat(|| migrate::install(&self.inner)).await
    }
    async fn verify(&self) -> Result<()> {
        self.inner.repeat(|| migrate::verify(&self.inner)).await
    }
    async fn doctor(&self) -> Result<Vec<Finding>> {
        doctor::examine(&self.inner).await
    }
    async fn configure(&self, configure: Configure) -> Result<StoreSettings> {
        self.inner.repeat(|| queues::configure(&self.inner, configure)).await
    }
    async fn create_queue(&self, create: CreateQueue) -> Result<Queue> {
        self.inner.repeat(|| queues::create(&self.inner, &create)).await
    }
    async fn update_queue(&self, update: UpdateQueue) -> Result<Queue> {
        self.inner.repeat(|| queues::update(&self.inner, &update)).await
    }
    async fn delete_queue(&self, delete: DeleteQueue) -> Result<()> {
        self.inner.repeat(|| queues::delete(&self.inner, &delete)).await
    }
    async fn queues(&self, filter: QueueFilter) -> Result<Vec<Queue>> {
        self.inner.repeat(|| queues::read(&self.inner, &filter)).await
    }
    async fn metrics(&self, filter: MetricsFilter) -> Result<Vec<QueueMetrics>> {
        self.inner.repeat(|| queues::metrics(&self.inner, &filter)).await
    }
    async fn enqueue(&self, enqueue: Enqueue) -> Result<Vec<MessageId>> {
        // The limit stands in the database; the statement looks at it.
        enqueue.check(usize::MAX)?;
        let store = self.inner.clone();
        if enqueue.now.is_some() {
            return store.repeat(|| enqueue::enqueue(&store, &enqueue)).await;
        }
        let run = move |enqueue: Enqueue| {
            let store = store.clone();
            async move { store.repeat(|| enqueue::enqueue(&store, &enqueue)).await }
        };
        self.inner.enqueues.call(enqueue, run).await
    }
    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        let (store, claims) = (self.inner.clone(), Claims::from(claim));
        Handover::of(self.clone(), claims.now, async move {
            let outcomes = if claims.now.is_some() {
                store.repeat(|| claim::claim(&store, &claims)).await?
            } else {
                let inner = store.clone();
                let run = move |claims: Claims| {
                    let store = inner.clone();
                    async move { store.repeat(|| claim::claim(&store, &claims)).await }
                };
                store.claims(&claims.queue).call(claims, run).await?
            };
            only(outcomes)?
        })
        .await
    }
    async fn settle(&self, settle: Settle) -> Result<Vec<Result<Settled, LeaseLost>>> {
        settle.check()?;
        let (has_freed, due_in) = (settle.frees_messages(), settle::due_in(&settle));
        let store = self.inner.clone();
        let outcomes = if settle.now.is_some() || settle.settlements.is_empty() {
            store.repeat(|| settle::settle(&store, &settle)).await?
        } else {
            let run = move |settlements: Vec<Settlement>| {
                let store = store.clone();
                let settle = Settle { settlements, now: None };
                async move { store.repeat(|| settle::settle(&store, &settle)).await }
            };
            self.inner.settles.call(settle.settlements, run).await?
        };
        if let Some(due_in) = due_in {
            known::due_in(&self.inner, due_in);
        }
        if has_freed {
            listen::notify_all(&self.inner);
        }
        Ok(outcomes)
    }
    async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>> {
        self.inner.repeat(|| reads::messages(&self.inner, &filter)).await
    }
    async fn archive(&self, filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
        self.inner.repeat(|| reads::archive(&self.inner, &filter)).await
    }
    async fn redrive(&self, redrive: Redrive) -> Result<Vec<MessageId>> {
        let ids = self.inner.repeat(|| reads::redrive(&self.inner, &redrive)).await?;
        listen::notify(&self.inner, &redrive.queue);
        Ok(ids)
    }
    async fn purge(&self, purge: Purge) -> Result<u64> {
        self.inner.repeat(|| queues::purge(&self.inner, &purge)).await
    }
    async fn register(&self, register: Register) -> Result<WorkerRecord> {
        let record = self.inner.repeat(|| workers::register(&self.inner, &register)).await?;
        if register.port != 0 {
            listen::notify(&self.inner, &register.queue);
        }
        Ok(record)
    }
    async fn transition(&self, transition: Transition) -> Result<WorkerRecord> {
        let record = self.inner.repeat(|| workers::transition(&self.inner, &transition)).await?;
        if transition.change == WorkerChange::Stop {
            listen::notify(&self.inner, &transition.queue);
        }
        Ok(record)
    }
    async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>> {
        self.inner.repeat(|| workers::read(&self.inner, &filter)).await
    }
    async fn sweep(&self, sweep: Sweep) -> Result<Swept> {
        let swept = self.inner.repeat(|| sweep::sweep(&self.inner, sweep)).await?;
        if swept.released > 0 {
            listen::notify_all(&self.inner);
        }
        Ok(swept)
    }
}

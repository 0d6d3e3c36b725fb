//! Workers: registered producers and consumers, and the behaviour that every handle shares.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Error, QueueName, Result, Store, Transition, WorkerChange, WorkerFilter};

/// The number of one registration: unique in its store, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub i64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<i64> for WorkerId {
    fn from(id: i64) -> Self {
        Self(id)
    }
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerKind {
    /// It enqueues.
    Producer,
    /// It dequeues.
    Consumer,
}

/// Where a registration stands: `ready <-> suspended`, `ready | suspended -> stopped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// It may claim.
    Ready,
    /// It claims nothing until it is resumed; what it holds it may settle.
    Suspended,
    /// Final.
    Stopped,
}

impl WorkerState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Suspended, Self::Stopped];

    /// The state that `change` leads to from here; `None` if it does not lead anywhere legal.
    pub fn after(self, change: WorkerChange) -> Option<Self> {
        match (self, change) {
            (Self::Ready | Self::Suspended, WorkerChange::Heartbeat) => Some(self),
            (Self::Ready, WorkerChange::Suspend) => Some(Self::Suspended),
            (Self::Suspended, WorkerChange::Resume) => Some(Self::Ready),
            (Self::Ready | Self::Suspended, WorkerChange::Stop) => Some(Self::Stopped),
            _ => None,
        }
    }

    /// The name, in lower case: as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Suspended => "suspended",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WorkerKind {
    /// The name, in lower case: as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

impl fmt::Display for WorkerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A registration as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The registration's number.
    pub id: WorkerId,
    /// What it does.
    pub kind: WorkerKind,
    /// The host it named.
    pub host: String,
    /// The port it named; 0 is no fixed identity.
    pub port: u16,
    /// The queue it serves.
    pub queue: QueueName,
    /// Where it stands.
    pub state: WorkerState,
    /// How long it may be silent before a sweep stops it; `None`: for ever, leases alone protect.
    pub heartbeat_timeout: Option<Duration>,
    /// When it was registered.
    pub registered_at: DateTime<Utc>,
    /// When it was last heard of.
    pub heartbeat_at: DateTime<Utc>,
    /// When it stopped.
    pub stopped_at: Option<DateTime<Utc>>,
    /// The registration that took over its identity.
    pub replaced_by: Option<WorkerId>,
}

impl WorkerRecord {
    /// Checks that `change` is legal for this registration, and returns the state it leads to.
    ///
    /// # Errors
    /// [`Error::WorkerNotReady`] for a heartbeat of a stopped worker and for every call of one that
    /// was replaced, [`Error::IllegalTransition`] for any other illegal move.
    pub fn transition(&self, change: WorkerChange) -> Result<WorkerState> {
        if let Some(state) = self.state.after(change) {
            return Ok(state);
        }
        let target = match change {
            WorkerChange::Suspend => WorkerState::Suspended,
            WorkerChange::Stop => WorkerState::Stopped,
            WorkerChange::Heartbeat | WorkerChange::Resume => WorkerState::Ready,
        };
        if self.replaced_by.is_some() || change == WorkerChange::Heartbeat {
            return Err(self.not_ready());
        }
        Err(Error::IllegalTransition { worker: self.id, from: self.state, to: target })
    }

    /// The error of a claim by this worker while it is not ready.
    pub fn not_ready(&self) -> Error {
        let Self { id, state, replaced_by, .. } = *self;
        Error::WorkerNotReady { worker: id, state, replaced_by }
    }
}

/// A handle of a registered worker. Implementors give the accessors; the behaviour is provided.
#[async_trait]
pub trait Worker: fmt::Debug + Send + Sync {
    /// The store it is registered in.
    fn store(&self) -> &Arc<dyn Store>;

    /// The registration as it was made: identity, queue, heartbeat timeout.
    fn registration(&self) -> &WorkerRecord;

    /// The registration's number.
    fn id(&self) -> WorkerId {
        self.registration().id
    }

    /// The queue it serves.
    fn queue(&self) -> &QueueName {
        &self.registration().queue
    }

    /// The registration as the store has it now.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`] if the queue was deleted, [`Error::WorkerNotFound`] if the
    /// registration was removed.
    async fn status(&self) -> Result<WorkerRecord> {
        let filter = WorkerFilter { id: Some(self.id()), ..WorkerFilter::default() };
        if let Some(record) = self.store().workers(filter).await?.pop() {
            return Ok(record);
        }
        let named = crate::QueueFilter::named(self.queue().clone());
        Err(match self.store().queues(named).await?.pop() {
            Some(_) => Error::WorkerNotFound { worker: self.id() },
            None => Error::QueueNotFound { queue: self.queue().clone() },
        })
    }

    /// Checks that the worker is ready.
    ///
    /// # Errors
    /// [`Error::WorkerNotReady`], and those of [`status`](Worker::status).
    async fn ensure_ready(&self) -> Result<()> {
        let record = self.status().await?;
        if record.state == WorkerState::Ready { Ok(()) } else { Err(record.not_ready()) }
    }

    /// Tells the store that the worker is alive.
    ///
    /// # Errors
    /// [`Error::WorkerNotReady`] once it is stopped, [`Error::QueueNotFound`] once its queue is gone.
    async fn heartbeat(&self) -> Result<()> {
        change(self, WorkerChange::Heartbeat).await
    }

    /// Stops it from claiming until [`resume`](Worker::resume); what it holds it keeps.
    ///
    /// # Errors
    /// [`Error::IllegalTransition`] unless it is ready.
    async fn suspend(&self) -> Result<()> {
        change(self, WorkerChange::Suspend).await
    }

    /// Lets a suspended worker claim again.
    ///
    /// # Errors
    /// [`Error::IllegalTransition`] unless it is suspended.
    async fn resume(&self) -> Result<()> {
        change(self, WorkerChange::Resume).await
    }

    /// Ends the registration and gives back at once what it still holds, attempts included.
    ///
    /// # Errors
    /// [`Error::IllegalTransition`] if it is stopped already, [`Error::WorkerNotReady`] if another
    /// registration has taken over its identity.
    async fn shutdown(&self) -> Result<()> {
        change(self, WorkerChange::Stop).await
    }
}

async fn change<W: Worker + ?Sized>(worker: &W, change: WorkerChange) -> Result<()> {
    let transition =
        Transition { worker: worker.id(), queue: worker.queue().clone(), change, now: None };
    worker.store().transition(transition).await.map(drop)
}

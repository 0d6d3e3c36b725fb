//! What a [`Store`](crate::Store) is asked for, and what it answers: a struct per call, so that a
//! new option is a field and not a method.
//!
//! `now` is the instant to act at: `None` is the store's own clock, see [`Store`](crate::Store).

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{
    BatchSize, DEFAULT_PAYLOAD_LIMIT, Delay, Message, MessageId, MessageState, NewMessage, Outcome,
    QueueChanges, QueueName, QueueSettings, Receipt, RetryDecision, VisibilityTimeout, WorkerId,
    WorkerKind, WorkerState,
};

/// What of the optional parts a store has. The test kit leaves out, and says so, the cases of what
/// is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// [`Store::redrive`](crate::Store::redrive) and [`Store::purge`](crate::Store::purge).
    pub redrive: Support,
    /// [`Store::metrics`](crate::Store::metrics).
    pub metrics: Support,
    /// Registration, transitions, heartbeats: managed workers.
    pub workers: Support,
    /// [`Retention`](crate::Retention) other than for ever.
    pub retention: Support,
}

/// Whether a store has an optional part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It has.
    Full,
    /// The calls answer [`Error::Unsupported`](crate::Error::Unsupported).
    Missing,
}

impl Default for Capabilities {
    fn default() -> Self {
        let all = Support::Full;
        Self { redrive: all, metrics: all, workers: all, retention: all }
    }
}

/// What holds for a whole store; it stands in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSettings {
    /// The largest payload, and the largest headers, in bytes of compact UTF-8.
    pub payload_limit: usize,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { payload_limit: DEFAULT_PAYLOAD_LIMIT }
    }
}

/// Changes what holds for the whole store; without changes it only reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Configure {
    /// A new payload limit in bytes, 1 KiB to 256 MiB, else `OutOfRange`.
    pub payload_limit: Option<usize>,
}

/// Creates a queue unless it exists.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateQueue {
    /// Its name.
    pub queue: QueueName,
    /// Its settings, if it does not exist.
    pub settings: QueueSettings,
    /// The instant to act at.
    pub now: Option<DateTime<Utc>>,
}

/// Changes a queue's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateQueue {
    /// The queue.
    pub queue: QueueName,
    /// What changes.
    pub changes: QueueChanges,
}

/// Deletes a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteQueue {
    /// The queue.
    pub queue: QueueName,
    /// What to do about live messages.
    pub live: LiveMessages,
}

/// What the deletion of a queue does about its live messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveMessages {
    /// Refuse: `QueueNotEmpty`.
    Keep,
    /// Delete them too: force.
    Delete,
}

/// Which queues to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueFilter {
    /// Only this one.
    pub queue: Option<QueueName>,
}

impl QueueFilter {
    /// Only the queue of this name.
    pub fn named(queue: QueueName) -> Self {
        Self { queue: Some(queue) }
    }
}

/// Which queues to count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricsFilter {
    /// Only this queue; `QueueNotFound` if it does not exist.
    pub queue: Option<QueueName>,
    /// The instant to count at.
    pub now: Option<DateTime<Utc>>,
}

/// Adds messages to a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Enqueue {
    /// The queue.
    pub queue: QueueName,
    /// 1 to 10,000 messages.
    pub messages: Vec<NewMessage>,
    /// The instant to act at.
    pub now: Option<DateTime<Utc>>,
}

/// Leases ready messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The queue.
    pub queue: QueueName,
    /// The worker to lease them to; `None` for an ephemeral consumer.
    pub worker: Option<WorkerId>,
    /// How many at most.
    pub limit: BatchSize,
    /// For how long; `None`: the queue's setting.
    pub timeout: Option<VisibilityTimeout>,
    /// The instant to act at.
    pub now: Option<DateTime<Utc>>,
}

/// What a claim brought.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claimed {
    /// The messages, in claim order.
    pub messages: Vec<Message>,
    /// If nothing was claimed: how long, by the store's clock, until the next message of the queue
    /// becomes ready by itself (end of a delay or a lease), if any will. A hint.
    pub due_in: Option<Duration>,
}

/// Ends or prolongs leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// At most 10,000.
    pub settlements: Vec<Settlement>,
    /// The instant to act at.
    pub now: Option<DateTime<Utc>>,
}

impl Settle {
    /// Whether it may make messages ready: then whoever waits for some is to be woken.
    pub fn frees_messages(&self) -> bool {
        let frees =
            |one: &Settlement| matches!(one.action, Action::Release(_) | Action::Fail { .. });
        self.settlements.iter().any(frees)
    }
}

/// What to do with one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Proof of the lease.
    pub receipt: Receipt,
    /// What to do.
    pub action: Action,
}

/// The ways to settle a lease, and its extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Move the message to the archive as done.
    Archive,
    /// Remove the message for good.
    Delete,
    /// Give it back, claimable after the delay; the attempt does not count.
    Release(Delay),
    /// Record a failed attempt.
    Fail {
        /// Why; cut to [`MAX_ERROR_BYTES`](crate::MAX_ERROR_BYTES).
        error: String,
        /// Whether and when it is tried again.
        retry: RetryDecision,
    },
    /// Hold it until `now + timeout`.
    Extend(VisibilityTimeout),
}

/// What a settlement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The message is in the archive.
    Archived,
    /// The message is gone.
    Deleted,
    /// The message is live and nobody holds it.
    Released,
    /// The attempt failed; the message will be tried again.
    Retrying,
    /// The attempt failed; the message is a dead letter.
    Dead,
    /// The lease lasts until this instant.
    Extended(DateTime<Utc>),
}

/// The receipt is not current; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost")]
pub struct LeaseLost;

/// Which live messages to read, and which page of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageFilter {
    /// Only of this queue.
    pub queue: Option<QueueName>,
    /// Only those in this state.
    pub state: Option<MessageState>,
    /// Only this one.
    pub id: Option<MessageId>,
    /// Only held by this worker.
    pub worker: Option<WorkerId>,
    /// Which page.
    pub page: Page<MessageId>,
    /// The instant that decides the state.
    pub now: Option<DateTime<Utc>>,
}

/// Which archived messages to read, and which page of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveFilter {
    /// Only of this queue.
    pub queue: Option<QueueName>,
    /// Only with this outcome.
    pub outcome: Option<Outcome>,
    /// Only this one.
    pub id: Option<MessageId>,
    /// Which page.
    pub page: Page<MessageId>,
    /// The instant that decides retention.
    pub now: Option<DateTime<Utc>>,
}

/// Which workers to read, and which page of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerFilter {
    /// Only of this queue.
    pub queue: Option<QueueName>,
    /// Only in this state.
    pub state: Option<WorkerState>,
    /// Only this one.
    pub id: Option<WorkerId>,
    /// Which page.
    pub page: Page<WorkerId>,
}

/// A page of a read in id order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<Id> {
    /// Only ids greater than this: the last one of the page before.
    pub after: Option<Id>,
    /// How many at most, 100 by default.
    pub limit: BatchSize,
}

impl<Id> Page<Id> {
    /// The first page of `limit` rows.
    pub fn first(limit: BatchSize) -> Self {
        Self { after: None, limit }
    }
}

impl<Id> Default for Page<Id> {
    fn default() -> Self {
        Self { after: None, limit: BatchSize::new(100).unwrap_or(BatchSize::ONE) }
    }
}

/// Makes dead letters live again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// The queue.
    pub queue: QueueName,
    /// Which of its dead letters.
    pub letters: DeadLetters,
    /// The instant to act at.
    pub now: Option<DateTime<Utc>>,
}

/// A choice of dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetters {
    /// The oldest, by id, at most this many.
    Oldest(BatchSize),
    /// These.
    Ids(Vec<MessageId>),
}

/// Removes messages of a queue for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// The queue.
    pub queue: QueueName,
    /// Which of its messages.
    pub scope: PurgeScope,
}

/// Which messages a purge removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeScope {
    /// All live ones, leased ones too.
    Live,
    /// The archived ones with this outcome.
    Archived(Outcome),
}

/// Registers a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// What it does.
    pub kind: WorkerKind,
    /// Its host, or any name: 1 to 255 bytes.
    pub host: String,
    /// Its port, or any number that tells it from others of its host; 0: no fixed identity.
    pub port: u16,
    /// The queue it serves.
    pub queue: QueueName,
    /// How long it may be silent before a sweep stops it; `None`: for ever. Any duration is fine.
    pub heartbeat_timeout: Option<Duration>,
    /// The instant to act at.
    pub now: Option<DateTime<Utc>>,
}

/// Moves a worker to another state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The worker.
    pub worker: WorkerId,
    /// The queue it serves.
    pub queue: QueueName,
    /// The move.
    pub change: WorkerChange,
    /// The instant to act at.
    pub now: Option<DateTime<Utc>>,
}

/// A worker's move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerChange {
    /// It is alive; the state stays.
    Heartbeat,
    /// `ready -> suspended`.
    Suspend,
    /// `suspended -> ready`.
    Resume,
    /// `ready | suspended -> stopped`.
    Stop,
}

/// The maintenance pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// How many rows of each kind at most; a dead worker is one row, whatever it holds.
    pub limit: BatchSize,
    /// The instant to act at.
    pub now: Option<DateTime<Utc>>,
}

impl Default for Sweep {
    /// At most 1,000 rows of each kind, at the store's own clock.
    fn default() -> Self {
        Self { limit: BatchSize::new(1_000).unwrap_or(BatchSize::MAX), now: None }
    }
}

/// What a sweep did. All zero: there was nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Messages that became dead letters.
    pub buried: u64,
    /// Messages released from dead workers.
    pub released: u64,
    /// Workers stopped for their silence.
    pub workers_stopped: u64,
    /// Stopped workers removed.
    pub workers_removed: u64,
    /// Archived messages removed.
    pub archive_removed: u64,
}

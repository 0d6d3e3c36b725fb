//! Errors: what went wrong, the limit, and what the caller can do.

use std::{convert::Infallible, error::Error as StdError};

use crate::{MessageId, QueueName, WorkerId, WorkerState};

/// The result of every call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a handler may fail with: any error. See [`Retry`](crate::Retry) for one with a say in it.
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// A backend's error, as the source of ours.
pub type Source = Box<dyn StdError + Send + Sync>;

/// What went wrong. Unless a variant says otherwise nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The queue does not exist.
    #[error("queue {queue:?} does not exist; create it with pgqrs::admin(&store).create_queue({queue:?})", queue = queue.as_str())]
    QueueNotFound {
        /// The queue asked for.
        queue: QueueName,
    },

    /// The queue still has live messages and deletion was not forced.
    #[error("queue {queue:?} still has {live} live messages; purge it first, or delete it with force", queue = queue.as_str())]
    QueueNotEmpty {
        /// The queue.
        queue: QueueName,
        /// How many messages it has.
        live: u64,
    },

    /// The name cannot be a queue's.
    #[error("{name:?} is no queue name: 1 to 63 characters of A-Z a-z 0-9 _ . - are allowed")]
    InvalidQueueName {
        /// The name given.
        name: String,
    },

    /// A builder was not told which queue.
    #[error("no queue was named; call {remedy}")]
    QueueMissing {
        /// The builder's call that names it.
        remedy: &'static str,
    },

    /// A builder was told of one queue, and given a worker of another.
    #[error("worker {worker} serves queue {serves:?}, not {asked:?}", serves = serves.as_str(), asked = asked.as_str())]
    WrongQueue {
        /// The worker.
        worker: WorkerId,
        /// The queue it is registered for.
        serves: QueueName,
        /// The queue asked for.
        asked: QueueName,
    },

    /// The payload, or the headers, are larger than the store's limit.
    #[error("message {index} of the batch has {size} bytes of JSON; this store allows {limit}")]
    PayloadTooLarge {
        /// Its position in the batch, from 0.
        index: usize,
        /// Its size in bytes of compact UTF-8.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// A number is outside what is allowed.
    #[error("{what} {value} is out of range: allowed are {allowed}")]
    OutOfRange {
        /// What the number is.
        what: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },

    /// A value does not serialise to JSON, or stored text does not parse as JSON.
    #[error("not JSON: {source}")]
    NotJson {
        /// What the serialiser or parser said.
        source: serde_json::Error,
    },

    /// The receipt is not current: the message was claimed again, settled, swept or deleted.
    #[error("the lease of message {id} is lost: it was claimed again, settled, swept or deleted")]
    LeaseLost {
        /// The message.
        id: MessageId,
    },

    /// The worker may not do this in its state; a stopped one registers anew.
    #[error("worker {worker} is {state}{}", replacement(*replaced_by))]
    WorkerNotReady {
        /// The worker.
        worker: WorkerId,
        /// Its state.
        state: WorkerState,
        /// The registration that took its identity over, if one did.
        replaced_by: Option<WorkerId>,
    },

    /// No such worker is registered: it never was, or it stopped over 7 days ago.
    #[error(
        "worker {worker} is not registered; register anew with pgqrs::consumer or pgqrs::producer"
    )]
    WorkerNotFound {
        /// The worker asked for.
        worker: WorkerId,
    },

    /// Workers do not go from this state to that one.
    #[error("worker {worker} cannot go from {from} to {to}")]
    IllegalTransition {
        /// The worker.
        worker: WorkerId,
        /// Its state.
        from: WorkerState,
        /// The state asked for.
        to: WorkerState,
    },

    /// The database has no schema of ours yet.
    #[error(
        "the schema {schema:?} is not installed; call pgqrs::admin(&store).install().await once"
    )]
    SchemaMissing {
        /// The schema looked for.
        schema: String,
    },

    /// The database's schema is newer than this program.
    #[error("the schema is at version {found}, this program knows {known}; update the program")]
    SchemaTooNew {
        /// The version found.
        found: i64,
        /// The newest version known.
        known: i64,
    },

    /// The schema is not as it was installed.
    #[error("the schema has drifted: {}", findings.join("; "))]
    SchemaDrift {
        /// What is missing or different, one finding each.
        findings: Vec<String>,
    },

    /// The URL cannot be used.
    #[error("bad URL: {reason}")]
    InvalidUrl {
        /// Why, and what is expected. Never contains the password.
        reason: String,
    },

    /// No backend serves URLs of this scheme.
    #[error("no backend serves {scheme:?} URLs; known schemes: {}", known.join(", "))]
    UnknownScheme {
        /// The scheme found.
        scheme: String,
        /// The schemes that are served.
        known: Vec<&'static str>,
    },

    /// The database refuses this user.
    #[error("permission denied: {reason}")]
    PermissionDenied {
        /// What was refused, and the remedy.
        reason: String,
        /// What the database said.
        source: Option<Source>,
    },

    /// The database cannot be reached or did not answer in time: try again. What was asked **may
    /// have happened**; repeating an archive is safe, repeating an enqueue may enqueue twice.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// What failed.
        reason: String,
        /// What the driver said.
        source: Option<Source>,
    },

    /// This store does not offer the call.
    #[error("this store does not support {what}")]
    Unsupported {
        /// The call.
        what: &'static str,
    },

    /// The database failed in a way that repeating does not mend.
    #[error("the store failed: {reason}")]
    Backend {
        /// What failed, and the remedy where one is known.
        reason: String,
        /// What the driver said.
        source: Option<Source>,
    },
}

impl Error {
    /// Whether the call may succeed when it is repeated later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn replacement(replaced_by: Option<WorkerId>) -> String {
    replaced_by.map(|id| format!(": worker {id} has taken over its identity")).unwrap_or_default()
}

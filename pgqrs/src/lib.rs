//! pgqrs

mod error;
mod limits;
mod message;
mod queue;
mod retry;
mod store;
mod worker;

pub use error::{Error, HandlerError, Result, Source};
pub use limits::{BatchSize, Delay, Priority, VisibilityTimeout, truncate_to_micros};
pub use message::{
    ArchivedMessage, Json, LiveMessage, Message, MessageId, MessageState, NewMessage, Outcome,
    Receipt,
};
pub use queue::{
    Queue, QueueChanges, QueueMetrics, QueueName, QueueSettings, QueueState, Retention,
    WorkerCounts,
};
pub use retry::{Backoff, Retry, RetryDecision};
pub use store::*;
pub use worker::{Worker, WorkerId, WorkerKind, WorkerRecord, WorkerState};

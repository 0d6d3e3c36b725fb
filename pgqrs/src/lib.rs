//! pgqrs turns the database that a team already runs into a reliable message queue.
//!
//! This crate is the core: the [`Store`] contract, the builders [`enqueue()`], [`dequeue()`],
//! [`consumer()`], [`producer()`] and [`admin()`], and a [`MemoryStore`]. It names no database;
//! `pgqrs-postgres` and `pgqrs-sqlite` are backends, and any other store becomes one by
//! implementing [`Store`] and passing `pgqrs-testkit`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = pgqrs::MemoryStore::new(); // or pgqrs_sqlite::connect(url), pgqrs_postgres::connect(url)
//! pgqrs::admin(&store).create_queue("tasks").await?;
//! pgqrs::enqueue().message(&"a job").to("tasks").execute(&store).await?;
//!
//! let archived = pgqrs::dequeue()
//!     .from("tasks")
//!     .handle(|msg| async move {
//!         println!("Processing: {:?}", msg.payload);
//!         Ok(())
//!     })
//!     .execute(&store)
//!     .await?;
//! assert_eq!(archived, 1);
//! # Ok(())
//! # }
//! ```
//!
//! Delivery is at least once: a message comes back until a consumer settles it, and a lease that
//! was lost can never settle the newer one.

mod admin;
mod backends;
mod check;
mod command;
mod consumer;
mod context;
mod dequeue;
mod doctor;
mod enqueue;
mod error;
mod handle;
mod handover;
mod held;
mod limits;
mod memory;
mod message;
mod producer;
mod queue;
mod registration;
mod retry;
mod run;
mod store;
mod stream;
pub mod telemetry;
mod trace;
mod wakeup;
mod worker;

pub use admin::{Admin, Name, admin};
pub use backends::{Backend, Backends};
pub use command::{
    Action, ArchiveFilter, Capabilities, Claim, Claimed, Configure, CreateQueue, DeadLetters,
    DeleteQueue, Enqueue, LeaseLost, LiveMessages, MessageFilter, MetricsFilter, Page, Purge,
    PurgeScope, QueueFilter, Redrive, Register, Settle, Settled, Settlement, StoreSettings,
    Support, Sweep, Swept, Transition, UpdateQueue, WorkerChange, WorkerFilter,
};
pub use consumer::{Consumer, ConsumerBuilder, consumer};
pub use context::Context;
pub use dequeue::{Dequeue, dequeue};
pub use doctor::{Finding, Health};
pub use enqueue::{EnqueueBuilder, enqueue};
pub use error::{Error, HandlerError, Result, Source};
pub use handle::{Handle, Handler};
pub use handover::Handover;
pub use held::Held;
pub use limits::{BatchSize, Delay, Priority, VisibilityTimeout, truncate_to_micros};
pub use memory::MemoryStore;
pub use message::{
    ArchivedMessage, Json, LiveMessage, Message, MessageId, MessageState, NewMessage, Outcome,
    Receipt, parse_stored,
};
pub use producer::{Producer, ProducerBuilder, producer};
pub use queue::{
    Queue, QueueChanges, QueueMetrics, QueueName, QueueSettings, QueueState, Retention,
    WorkerCounts,
};
pub use retry::{Backoff, Retry, RetryDecision};
pub use run::{RUN_HEARTBEAT_TIMEOUT, Report, shutdown_signal};
pub use store::{
    BURIED_PER_CLAIM, DEFAULT_PAYLOAD_LIMIT, DUE_PER_CLAIM, LEASE_EXPIRED, MAX_ERROR_BYTES,
    STOPPED_WORKERS_KEPT, Store, WORKER_DEAD, WORKER_REPLACED, cut_error,
};
pub use stream::{Deliveries, Delivery};
pub use trace::{InvalidTraceParent, TRACEPARENT, TRACESTATE, TraceParent};
pub use wakeup::{Reach, Signals, Wakeups};
pub use worker::{Worker, WorkerId, WorkerKind, WorkerRecord, WorkerState};

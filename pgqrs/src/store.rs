//! The contract of a backend: the writes that a database must do atomically, and one filtered read
//! per noun.
//!
//! A backend author implements [`Store`]; consumers, producers, builders, run loops and the admin
//! face come with it. `pgqrs-testkit` proves an implementation: every clause below (E1, V1, …) has
//! a named case there, and `docs/guarantees.md` lists them.
//!
//! **Time.** Every command carries `now`. `None` is the store's own clock (the database server's;
//! on an embedded database the host's), `Some` an instant the caller injects, in whole
//! microseconds: then the store takes it for the present, in every time it writes or compares.
//! Injected instants form one timeline per store: with a `now` earlier than one already used
//! nothing is promised but that no data is lost. The store's own clock is read inside the
//! transaction: a call that has waited for a lock does not act at an instant from before the wait.
//!
//! **Reads.** A read must write nothing, whatever it meets: an expired lease shows as what it is, and
//! waits for the next claim or sweep.
//!
//! **Sequence.** Message ids, claim tokens and worker ids must never be reused, not after deletion
//! and not after a crash.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    ArchiveFilter, ArchivedMessage, Capabilities, Claim, Claimed, Configure, CreateQueue,
    DeleteQueue, Enqueue, Finding, LeaseLost, LiveMessage, MessageFilter, MessageId, MetricsFilter,
    Purge, Queue, QueueFilter, QueueMetrics, QueueName, Redrive, Register, Result, Settle, Settled,
    StoreSettings, Sweep, Swept, Transition, UpdateQueue, Wakeups, WorkerFilter, WorkerRecord,
};

/// A message store: one database, one set of queues.
///
/// Stores are cheap, cloneable handles, shared between tasks and passed as `Arc<dyn Store>`. All
/// methods may be called concurrently, from any number of processes where the database allows
/// that. A call that is dropped half-way must have happened wholly or not at all.
///
/// Required are the methods without a body. The optional ones say in
/// [`capabilities`](Store::capabilities) whether they are there.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// What of the optional parts this store has. All of them by default.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Wake-ups for a queue, if the store has any: hints that spare run loops some of their polling.
    fn wakeups(&self, queue: &QueueName) -> Option<Wakeups> {
        let _ = queue;
        None
    }

    /// Installs or upgrades the schema. Idempotent; any number of installers may race. Nothing to
    /// do by default.
    async fn install(&self) -> Result<()> {
        Ok(())
    }

    /// Checks that the schema is as installed: [`Error::SchemaMissing`](crate::Error::SchemaMissing),
    /// [`Error::SchemaTooNew`](crate::Error::SchemaTooNew) or
    /// [`Error::SchemaDrift`](crate::Error::SchemaDrift), which names each finding.
    async fn verify(&self) -> Result<()> {
        Ok(())
    }

    /// Looks for what slows queues down or endangers them, as this database knows it; every check is
    /// reported, also the good ones. It writes nothing. Nothing is looked at by default.
    async fn doctor(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    /// Changes and returns what holds for the whole store. See [`Configure`].
    async fn configure(&self, configure: Configure) -> Result<StoreSettings>;

    /// Creates a queue and returns it; if it exists, returns it as it is.
    ///
    /// To be correct:
    /// - calls that race for one name **must** all succeed and leave one queue;
    /// - the settings of a queue that exists **must not** change.
    async fn create_queue(&self, create: CreateQueue) -> Result<Queue>;

    /// Changes settings of a queue and returns it as it is then.
    ///
    /// # Errors
    /// `QueueNotFound`; `OutOfRange` for `max_attempts` outside 1 to 32,767.
    async fn update_queue(&self, update: UpdateQueue) -> Result<Queue>;

    /// Deletes a queue with its messages, its archive and its workers (Q2).
    ///
    /// To be correct:
    /// - all of it **must** vanish in one transaction;
    /// - without `force` and with live messages nothing **must** change: `QueueNotEmpty`;
    /// - afterwards receipts **must** be `LeaseLost`, and calls of its workers `QueueNotFound`;
    /// - a concurrent enqueue **must** either precede it or get `QueueNotFound`;
    /// - a queue made anew under the name **must** be empty.
    async fn delete_queue(&self, delete: DeleteQueue) -> Result<()>;

    /// The queues, by name.
    async fn queues(&self, filter: QueueFilter) -> Result<Vec<Queue>>;

    /// Counts per queue, by name. Archived messages past their retention are not counted.
    ///
    /// # Errors
    /// `QueueNotFound` if a queue is named that does not exist.
    async fn metrics(&self, filter: MetricsFilter) -> Result<Vec<QueueMetrics>>;

    /// Adds messages to a queue and returns their ids, in input order.
    ///
    /// To be correct:
    /// - E1 a batch **must** be written wholly or not at all; ids grow within it;
    /// - E2 after `Ok` a killed program or server **must not** lose it (where the store is durable);
    /// - E3 a delayed message **must not** be claimable before `now + delay`, and is from then on;
    /// - E4 on an error nothing **must** be written: `QueueNotFound`, `PayloadTooLarge` (payload or
    ///   headers), `OutOfRange` (an empty batch, more than 10,000, `max_attempts`).
    async fn enqueue(&self, enqueue: Enqueue) -> Result<Vec<MessageId>>;

    /// Leases ready messages.
    ///
    /// To be correct:
    /// - V1 it **must** return at most `limit` messages; each was ready, its queue not paused (Q1:
    ///   a paused queue yields an empty claim), its attempts below its maximum;
    /// - V2 it **must** set `visible_at = now + timeout`, a new token, `attempts + 1`, the worker
    ///   and the time, in one atomic step;
    /// - V3 leases of one message **must never** overlap, whatever claims at the same time;
    /// - V4 an expired lease **must** make its message ready again by itself; with the store's own
    ///   clock that, and the end of a delay, may be noticed up to 1 s late, with an injected `now`
    ///   no time at all;
    /// - V5 with no other claim or enqueue in flight: a higher priority **must** come first; within
    ///   a priority, messages never delayed or leased **must** come in id order, and one that
    ///   became ready (due, released, failed, expired) **must not** come after one of its priority
    ///   that was enqueued later than that moment. When more than 1,000 became ready since the last
    ///   claim, they may be taken in earliest due first, 1,000 per claim. Within a priority nothing
    ///   **must** starve. The batch comes in claim order;
    /// - V7 it should cost O(batch), however many messages are delayed, leased, archived or dead;
    /// - W2 for a worker that is not ready it **must** claim nothing: `WorkerNotReady`;
    /// - A4 messages whose lease expired on their last attempt **must not** be returned; up to 100
    ///   of those that it meets become dead letters ([`LEASE_EXPIRED`]) in the same step;
    /// - E5 a message whose payload or headers do not parse **must not** fail it: that message
    ///   alone becomes a dead letter ("payload does not parse: …") and is left out. It was leased
    ///   like any other, so its attempt counts and its token is used; a claim of `limit` messages
    ///   may come back with fewer, or with none, while others are ready;
    /// - what it leases for a caller that has dropped it **must** be released: see
    ///   [`Handover`](crate::Handover).
    ///
    /// # Errors
    /// `QueueNotFound`, `WorkerNotReady`, `WorkerNotFound`.
    async fn claim(&self, claim: Claim) -> Result<Claimed>;

    /// Ends or prolongs leases; one outcome per settlement, in input order (S7).
    ///
    /// To be correct:
    /// - S1 every action **must** be refused with [`LeaseLost`], and change nothing, unless the
    ///   receipt is current: until its message is claimed again, settled, swept or deleted. The
    ///   holder of an expired lease whose message nobody has taken **must** succeed;
    /// - S2 at every instant a message **must** be live, archived or gone, exactly one of them;
    /// - S3 a repeated archive **must** answer `Archived` while the archive holds the message as
    ///   done under that token, within retention;
    /// - S4 a deleted message **must** be gone for good;
    /// - S5 a release **must** give the attempt back; its delay counts like that of an enqueue;
    /// - S6 a failure **must** record the error (cut to [`MAX_ERROR_BYTES`] at a character) and
    ///   keep the attempt; at the maximum, or with `Dead`, the message becomes a dead letter in the
    ///   same step;
    /// - V6 an extension **must** set `visible_at = now + timeout`;
    /// - S7 of several settlements of one receipt in one batch the first **must** act, the others
    ///   get what a later call would get.
    ///
    /// # Errors
    /// `OutOfRange` for more than 10,000 settlements. A lost lease is an outcome, not an error.
    async fn settle(&self, settle: Settle) -> Result<Vec<Result<Settled, LeaseLost>>>;

    /// Live messages by id.
    async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>>;

    /// Archived messages by id. Those older than their queue's retention **must not** show (A2).
    async fn archive(&self, filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>>;

    /// Makes dead letters live again (A3) and returns their ids, in id order: attempts 0, ready at
    /// once, the same id, priority and payload, the last error kept; old receipts **must** stay
    /// dead. The oldest are those with the smallest ids. Ids that are no dead letters of the queue
    /// are passed over.
    ///
    /// # Errors
    /// `QueueNotFound`.
    async fn redrive(&self, redrive: Redrive) -> Result<Vec<MessageId>>;

    /// Removes messages of a queue for good and returns how many. Receipts of purged messages are
    /// `LeaseLost` from then on.
    ///
    /// # Errors
    /// `QueueNotFound`.
    async fn purge(&self, purge: Purge) -> Result<u64>;

    /// Registers a worker, which is heard of at that moment. A heartbeat timeout beyond what the
    /// store can hold means for ever.
    ///
    /// To be correct, unless `port` is 0 (W5):
    /// - an earlier registration of the same kind, host, port and queue that has not stopped
    ///   **must** stop with `replaced_by` set, in the same transaction;
    /// - what it held **must** be released at once, its attempts counted: a message at its maximum
    ///   becomes a dead letter ([`WORKER_REPLACED`]); its receipts are dead;
    /// - no claim of the earlier registration **must** take effect afterwards.
    ///
    /// # Errors
    /// `QueueNotFound`; `OutOfRange` for a host longer than 255 bytes or empty.
    async fn register(&self, register: Register) -> Result<WorkerRecord>;

    /// Moves a worker to another state, or records its heartbeat, and returns the registration.
    ///
    /// To be correct:
    /// - W1 illegal moves **must** change nothing; [`WorkerRecord::transition`] names the error;
    /// - W4 of the changes only a heartbeat **must** change `heartbeat_at`: an operator who suspends
    ///   or resumes a dead worker does not bring it back to life;
    /// - W3 a stopped worker's messages **must** be ready at once, attempts given back, and its
    ///   receipts dead, in the same transaction.
    ///
    /// # Errors
    /// `QueueNotFound` if the queue is gone, `WorkerNotFound`, `WorkerNotReady`,
    /// `IllegalTransition`.
    async fn transition(&self, transition: Transition) -> Result<WorkerRecord>;

    /// Registered workers by id.
    async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>>;

    /// The maintenance pass: idempotent, safe when any number run at once.
    ///
    /// To be correct it **must**, each up to `limit` rows (of dead workers `limit` counts the workers,
    /// each of which is freed whole, however much it holds):
    /// - A4 turn messages whose lease expired on the last attempt into dead letters
    ///   ([`LEASE_EXPIRED`]);
    /// - W4 stop workers silent for longer than their heartbeat timeout and release what they hold
    ///   (attempts counted; at the maximum a dead letter, [`WORKER_DEAD`]);
    /// - A2 remove archived messages older than their queue's retention, and none younger;
    /// - remove workers that stopped over [`STOPPED_WORKERS_KEPT`] ago.
    async fn sweep(&self, sweep: Sweep) -> Result<Swept>;
}

/// The last error of a message whose lease expired on its last attempt.
pub const LEASE_EXPIRED: &str = "lease expired";
/// The last error of a message whose worker missed its heartbeats on the last attempt.
pub const WORKER_DEAD: &str = "worker missed its heartbeats";
/// The last error of a message whose worker was replaced on the last attempt.
pub const WORKER_REPLACED: &str = "worker was replaced";
/// Errors of failed attempts are cut to this many bytes, at a character.
pub const MAX_ERROR_BYTES: usize = 8 * 1024;
/// The default of [`StoreSettings::payload_limit`]: 1 MiB.
pub const DEFAULT_PAYLOAD_LIMIT: usize = 1024 * 1024;
/// How long the sweep keeps stopped workers: 7 days.
pub const STOPPED_WORKERS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many messages that became ready a claim takes in at least, before order may bend (V5).
pub const DUE_PER_CLAIM: usize = 1_000;
/// How many expired last attempts a claim buries at most (A4).
pub const BURIED_PER_CLAIM: usize = 100;

/// `error` cut to [`MAX_ERROR_BYTES`] at a character, and without NUL, which Postgres refuses.
pub fn cut_error(error: &str) -> String {
    let mut end = error.len().min(MAX_ERROR_BYTES);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error[..end].replace('\0', "\u{fffd}")
}

#[async_trait]
impl<T: Store + ?Sized> Store for Arc<T> {
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
    fn wakeups(&self, queue: &QueueName) -> Option<Wakeups> {
        (**self).wakeups(queue)
    }
    async fn install(&self) -> Result<()> {
        (**self).install().await
    }
    async fn verify(&self) -> Result<()> {
        (**self).verify().await
    }
    async fn doctor(&self) -> Result<Vec<Finding>> {
        (**self).doctor().await
    }
    async fn configure(&self, configure: Configure) -> Result<StoreSettings> {
        (**self).configure(configure).await
    }
    async fn create_queue(&self, create: CreateQueue) -> Result<Queue> {
        (**self).create_queue(create).await
    }
    async fn update_queue(&self, update: UpdateQueue) -> Result<Queue> {
        (**self).update_queue(update).await
    }
    async fn delete_queue(&self, delete: DeleteQueue) -> Result<()> {
        (**self).delete_queue(delete).await
    }
    async fn queues(&self, filter: QueueFilter) -> Result<Vec<Queue>> {
        (**self).queues(filter).await
    }
    async fn metrics(&self, filter: MetricsFilter) -> Result<Vec<QueueMetrics>> {
        (**self).metrics(filter).await
    }
    async fn enqueue(&self, enqueue: Enqueue) -> Result<Vec<MessageId>> {
        (**self).enqueue(enqueue).await
    }
    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        (**self).claim(claim).await
    }
    async fn settle(&self, settle: Settle) -> Result<Vec<Result<Settled, LeaseLost>>> {
        (**self).settle(settle).await
    }
    async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>> {
        (**self).messages(filter).await
    }
    async fn archive(&self, filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
        (**self).archive(filter).await
    }
    async fn redrive(&self, redrive: Redrive) -> Result<Vec<MessageId>> {
        (**self).redrive(redrive).await
    }
    async fn purge(&self, purge: Purge) -> Result<u64> {
        (**self).purge(purge).await
    }
    async fn register(&self, register: Register) -> Result<WorkerRecord> {
        (**self).register(register).await
    }
    async fn transition(&self, transition: Transition) -> Result<WorkerRecord> {
        (**self).transition(transition).await
    }
    async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>> {
        (**self).workers(filter).await
    }
    async fn sweep(&self, sweep: Sweep) -> Result<Swept> {
        (**self).sweep(sweep).await
    }
}

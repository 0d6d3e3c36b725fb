//! The builder that dequeues: fetch messages, or hand them to a handler.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;

use crate::{
    BatchSize, Claim, Consumer, Context, Error, HandlerError, Message, QueueName, Result, Store,
    VisibilityTimeout,
    consumer::attached,
    handle::{Batch, Each, EachJson, EachWith, Handle, Handler},
    truncate_to_micros,
};

/// Starts a dequeue: from a queue, as an ephemeral consumer, or by a registered worker.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// # let store = pgqrs::MemoryStore::new();
/// # pgqrs::admin(&store).create_queue("tasks").await?;
/// // Ephemeral consumer: dequeue, process, archive.
/// pgqrs::dequeue().from("tasks")
///     .handle(|msg| async move { println!("Processing: {:?}", msg.payload); Ok(()) })
///     .execute(&store).await?;
///
/// // Managed consumer: a registered worker.
/// let consumer = pgqrs::consumer("worker-1", 3001, "tasks").create(&store).await?;
/// let messages = pgqrs::dequeue().worker(&*consumer).batch(10).fetch_all(&store).await?;
/// for msg in messages {
///     consumer.archive(msg.id).await?;
/// }
/// # Ok::<_, pgqrs::Error>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn dequeue<'a>() -> Dequeue<'a> {
    Dequeue { queue: None, worker: None, batch: Ok(BatchSize::ONE), timeout: Ok(None), now: None }
}

/// A dequeue about to be made.
#[derive(Debug)]
#[must_use = "nothing is dequeued before fetch_all, fetch_one or execute"]
pub struct Dequeue<'a> {
    queue: Option<Result<QueueName>>,
    worker: Option<&'a dyn Consumer>,
    batch: Result<BatchSize>,
    timeout: Result<Option<VisibilityTimeout>>,
    now: Option<DateTime<Utc>>,
}

impl<'a> Dequeue<'a> {
    /// The queue to take messages from.
    pub fn from<Q>(mut self, queue: Q) -> Self
    where
        Q: TryInto<QueueName>,
        Q::Error: Into<Error>,
    {
        self.queue = Some(queue.try_into().map_err(Into::into));
        self
    }

    /// The registered consumer that takes them, from its own queue. It holds their receipts, so
    /// that [`Consumer::archive`] and the other calls by id settle these leases.
    pub fn worker(mut self, consumer: &'a dyn Consumer) -> Self {
        self.worker = Some(consumer);
        self
    }

    /// How many messages to take at most, 1 to 10,000; 1 by default.
    pub fn batch(mut self, size: usize) -> Self {
        self.batch = BatchSize::new(size);
        self
    }

    /// The visibility timeout in seconds, 1 to 43,200; by default the queue's setting.
    pub fn vt_offset(mut self, seconds: u32) -> Self {
        self.timeout = VisibilityTimeout::seconds(seconds).map(Some);
        self
    }

    /// The visibility timeout, 1 ms to 12 h; by default the queue's setting.
    pub fn with_vt(mut self, timeout: Duration) -> Self {
        self.timeout = VisibilityTimeout::new(timeout).map(Some);
        self
    }

    /// Dequeues, and settles what a handler leaves, at an instant of the caller's, for tests.
    pub fn at(mut self, now: DateTime<Utc>) -> Self {
        self.now = Some(truncate_to_micros(now));
        self
    }

    /// Takes up to a batch of messages; none if none is ready.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::WorkerNotReady`], [`Error::OutOfRange`] (batch, timeout),
    /// [`Error::QueueMissing`].
    pub async fn fetch_all<S: Store + ?Sized>(self, store: &S) -> Result<Vec<Message>> {
        let worker = self.worker;
        let messages = store.claim(self.claim()?).await?.messages;
        if let Some(consumer) = worker {
            consumer.held().note(&messages);
        }
        Ok(messages)
    }

    /// Takes one message; `None` if none is ready.
    ///
    /// # Errors
    /// As [`fetch_all`](Dequeue::fetch_all).
    pub async fn fetch_one<S: Store + ?Sized>(self, store: &S) -> Result<Option<Message>> {
        Ok(self.batch(1).fetch_all(store).await?.pop())
    }

    /// Handles each message by itself: archived after `Ok`, failed after an error or a panic.
    /// [`execute`](Handle::execute) handles one batch, [`poll`](Handle::poll) goes on.
    pub fn handle<F, Fut>(self, handler: F) -> Handle<'a, impl Handler + use<F, Fut>>
    where
        F: Fn(Message) -> Fut + Send + Sync,
        Fut: Future<Output = Result<(), HandlerError>> + Send,
    {
        Handle::new(self, Each(handler))
    }

    /// Like [`handle`](Dequeue::handle), with a [`Context`] that knows the attempt, can extend the
    /// lease, and says when the handler is given up.
    pub fn handle_with<F, Fut>(self, handler: F) -> Handle<'a, impl Handler + use<F, Fut>>
    where
        F: Fn(Message, Context) -> Fut + Send + Sync,
        Fut: Future<Output = Result<(), HandlerError>> + Send,
    {
        Handle::new(self, EachWith(handler))
    }

    /// Like [`handle`](Dequeue::handle), with the payload parsed as `T`. A payload that is no `T`
    /// fails the message; the error names the path to what does not fit.
    pub fn handle_json<T, F, Fut>(self, handler: F) -> Handle<'a, impl Handler + use<T, F, Fut>>
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T) -> Fut + Send + Sync,
        Fut: Future<Output = Result<(), HandlerError>> + Send,
    {
        Handle::new(self, EachJson::new(handler))
    }

    /// Handles the messages of a batch together: all archived after `Ok`, all failed after an error
    /// or a panic.
    pub fn handle_batch<F, Fut>(self, handler: F) -> Handle<'a, impl Handler + use<F, Fut>>
    where
        F: Fn(Vec<Message>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<(), HandlerError>> + Send,
    {
        let size = self.batch.as_ref().map_or(1, |size| size.count());
        Handle::new(self, Batch { handler, size })
    }

    /// A handle on the registered consumer, for the contexts of handlers.
    pub(crate) fn attached(&self) -> Option<Arc<dyn Consumer>> {
        self.worker.map(attached)
    }

    pub(crate) fn now(&self) -> Option<DateTime<Utc>> {
        self.now
    }

    pub(crate) fn claim(self) -> Result<Claim> {
        let queue = match (self.queue.transpose()?, self.worker) {
            (Some(asked), Some(consumer)) if asked != *consumer.queue() => {
                let (worker, serves) = (consumer.id(), consumer.queue().clone());
                return Err(Error::WrongQueue { worker, serves, asked });
            }
            (_, Some(consumer)) => consumer.queue().clone(),
            (Some(queue), None) => queue,
            (None, None) => {
                return Err(Error::QueueMissing { remedy: ".from(queue) or .worker(&*consumer)" });
            }
        };
        Ok(Claim {
            queue,
            worker: self.worker.map(|consumer| consumer.id()),
            limit: self.batch?,
            timeout: self.timeout?,
            now: self.now,
        })
    }
}

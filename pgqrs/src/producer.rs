//! Producers: registered workers that enqueue.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    Enqueue, Error, MessageId, NewMessage, QueueName, Result, Store, Worker, WorkerKind,
    WorkerRecord,
    registration::{Registered, Registration},
};

/// A registered producer. Implementors give the accessors of [`Worker`]; the behaviour is provided.
#[async_trait]
pub trait Producer: Worker {
    /// Enqueues to the producer's queue; ids come back in input order.
    ///
    /// It reads the registration first, so that an operator can suspend a producer;
    /// [`pgqrs::enqueue`](crate::enqueue()) without a producer saves that read.
    ///
    /// # Errors
    /// [`Error::WorkerNotReady`] unless it is ready, and those of [`Store::enqueue`].
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<MessageId>> {
        self.ensure_ready().await?;
        let enqueue = Enqueue { queue: self.queue().clone(), messages, now: None };
        self.store().enqueue(enqueue).await
    }
}

/// Starts the registration of a producer: `host` and `port` are its identity, `queue` where it
/// enqueues. Identities work as for [`consumer`](crate::consumer()).
pub fn producer<Q>(host: impl Into<String>, port: u16, queue: Q) -> ProducerBuilder
where
    Q: TryInto<QueueName>,
    Q::Error: Into<Error>,
{
    ProducerBuilder { registration: Registration::new(WorkerKind::Producer, host, port, queue) }
}

/// A producer about to be registered.
#[derive(Debug)]
#[must_use = "a producer is registered by create(&store)"]
pub struct ProducerBuilder {
    registration: Registration,
}

impl ProducerBuilder {
    /// Lets a sweep stop the producer when it has been silent for this long; a task of this process
    /// keeps it alive until the last handle is dropped.
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.registration.heartbeat_timeout = Some(timeout);
        self
    }

    /// Registers at an instant of the caller's, for tests.
    pub fn at(mut self, now: DateTime<Utc>) -> Self {
        self.registration.now = Some(now);
        self
    }

    /// Registers it.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::InvalidQueueName`], [`Error::OutOfRange`] (host, timeout).
    pub async fn create<S: Store + Clone + 'static>(self, store: &S) -> Result<Arc<dyn Producer>> {
        let registered = self.registration.register(Arc::new(store.clone())).await?;
        Ok(Arc::new(RegisteredProducer { registered }))
    }
}

#[derive(Debug)]
struct RegisteredProducer {
    registered: Registered,
}

impl Worker for RegisteredProducer {
    fn store(&self) -> &Arc<dyn Store> {
        self.registered.store()
    }

    fn registration(&self) -> &WorkerRecord {
        self.registered.record()
    }
}

impl Producer for RegisteredProducer {}

//! Consumers: registered workers that claim and settle.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    Action, Delay, Error, Held, LeaseLost, MessageId, Receipt, Result, RetryDecision, Settle,
    Settled, Settlement, Store, VisibilityTimeout, Worker, WorkerKind, WorkerRecord,
    registration::{Registered, Registration},
};

/// A registered consumer. Implementors give the accessors; the behaviour is provided.
///
/// Calls by id act on the newest lease that this handle holds of the message: it learns of leases
/// when messages are fetched with [`Dequeue::worker`](crate::Dequeue::worker). An id it does not
/// hold is [`Error::LeaseLost`].
#[async_trait]
pub trait Consumer: Worker {
    /// The receipts this handle holds.
    fn held(&self) -> &Held;

    /// Archives a message as done. Repeating it is safe.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    async fn archive(&self, id: MessageId) -> Result<()> {
        settle_one(self, id, Action::Archive).await.map(drop)
    }

    /// Archives messages; one outcome each, in input order.
    ///
    /// # Errors
    /// Of the whole call; a lost lease is an outcome.
    async fn archive_many(&self, ids: &[MessageId]) -> Result<Vec<Result<(), LeaseLost>>> {
        settle_many(self, ids, Action::Archive).await
    }

    /// Deletes a message for good.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    async fn delete(&self, id: MessageId) -> Result<()> {
        settle_one(self, id, Action::Delete).await.map(drop)
    }

    /// Deletes messages; one outcome each, in input order.
    ///
    /// # Errors
    /// Of the whole call; a lost lease is an outcome.
    async fn delete_many(&self, ids: &[MessageId]) -> Result<Vec<Result<(), LeaseLost>>> {
        settle_many(self, ids, Action::Delete).await
    }

    /// Gives a message back, claimable at once; the attempt does not count.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    async fn release(&self, id: MessageId) -> Result<()> {
        settle_one(self, id, Action::Release(Delay::ZERO)).await.map(drop)
    }

    /// Gives a message back, claimable after a delay; the attempt does not count.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::OutOfRange`].
    async fn release_after(&self, id: MessageId, delay: Duration) -> Result<()> {
        settle_one(self, id, Action::Release(Delay::new(delay)?)).await.map(drop)
    }

    /// Records a failed attempt. [`Settled`] says whether it is tried again.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    async fn fail(&self, id: MessageId, error: &str, retry: RetryDecision) -> Result<Settled> {
        settle_one(self, id, Action::Fail { error: error.to_owned(), retry }).await
    }

    /// Holds a message for `seconds` from now, 1 to 43,200.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::OutOfRange`].
    async fn extend_visibility(&self, id: MessageId, seconds: u32) -> Result<()> {
        settle_one(self, id, Action::Extend(VisibilityTimeout::seconds(seconds)?)).await.map(drop)
    }

    /// Settles by receipts, for callers that keep messages themselves.
    ///
    /// # Errors
    /// Of the whole call; a lost lease is an outcome.
    async fn settle(
        &self,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<Result<Settled, LeaseLost>>> {
        let receipts: Vec<_> = settlements.iter().map(|settlement| settlement.receipt).collect();
        let outcomes = self.store().settle(Settle { settlements, now: None }).await?;
        for (receipt, outcome) in receipts.into_iter().zip(&outcomes) {
            match outcome {
                Ok(Settled::Extended(_)) => {}
                Ok(Settled::Archived) => self.held().archived(receipt),
                Ok(_) | Err(LeaseLost) => self.held().ended(receipt),
            }
        }
        Ok(outcomes)
    }
}

/// Starts the registration of a consumer: `host` and `port` are its identity, `queue` what it
/// serves.
///
/// Registering an identity again replaces the earlier registration at once; port 0 means no fixed
/// identity and replaces nobody.
pub fn consumer<Q>(host: impl Into<String>, port: u16, queue: Q) -> ConsumerBuilder
where
    Q: TryInto<crate::QueueName>,
    Q::Error: Into<Error>,
{
    ConsumerBuilder { registration: Registration::new(WorkerKind::Consumer, host, port, queue) }
}

/// A consumer about to be registered.
#[derive(Debug)]
#[must_use = "a consumer is registered by create(&store)"]
pub struct ConsumerBuilder {
    registration: Registration,
}

impl ConsumerBuilder {
    /// Lets a sweep stop the consumer, and free what it holds, when it has been silent for this
    /// long. A task of this process keeps it alive with three heartbeats per timeout until the last
    /// handle is dropped. Without it only leases protect and free messages.
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
    pub async fn create<S: Store + Clone + 'static>(self, store: &S) -> Result<Arc<dyn Consumer>> {
        let registered = self.registration.register(Arc::new(store.clone())).await?;
        Ok(Arc::new(RegisteredConsumer { registered, held: Held::default() }))
    }
}

#[derive(Debug)]
struct RegisteredConsumer {
    registered: Registered,
    held: Held,
}

impl Worker for RegisteredConsumer {
    fn store(&self) -> &Arc<dyn Store> {
        self.registered.store()
    }

    fn registration(&self) -> &WorkerRecord {
        self.registered.record()
    }
}

impl Consumer for RegisteredConsumer {
    fn held(&self) -> &Held {
        &self.held
    }
}

/// A handle of its own on the registration of `consumer`, which keeps its own receipts.
pub(crate) fn attached(consumer: &dyn Consumer) -> Arc<dyn Consumer> {
    let registered = Registered::known(consumer.store().clone(), consumer.registration().clone());
    Arc::new(RegisteredConsumer { registered, held: Held::default() })
}

async fn settle_one<C>(consumer: &C, id: MessageId, action: Action) -> Result<Settled>
where
    C: Consumer + ?Sized,
{
    let lost = Error::LeaseLost { id };
    let Some(receipt) = consumer.held().receipt(id) else {
        return Err(lost);
    };
    let outcomes = consumer.settle(vec![Settlement { receipt, action }]).await?;
    outcomes.into_iter().next().and_then(Result::ok).ok_or(lost)
}

async fn settle_many<C>(
    consumer: &C,
    ids: &[MessageId],
    action: Action,
) -> Result<Vec<Result<(), LeaseLost>>>
where
    C: Consumer + ?Sized,
{
    let receipts: Vec<Option<Receipt>> =
        ids.iter().map(|id| consumer.held().receipt(*id)).collect();
    let known = receipts.iter().flatten();
    let settlements =
        known.map(|&receipt| Settlement { receipt, action: action.clone() }).collect();
    let mut outcomes = consumer.settle(settlements).await?.into_iter();
    let outcome = |receipt: Option<Receipt>| match receipt {
        Some(_) => outcomes.next().unwrap_or(Err(LeaseLost)).map(drop),
        None => Err(LeaseLost),
    };
    Ok(receipts.into_iter().map(outcome).collect())
}

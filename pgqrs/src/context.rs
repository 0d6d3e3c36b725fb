//! What a handler may know and do beside its message.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Action, Consumer, Error, Message, MessageId, Receipt, Result, Settle, Settled, Settlement,
    Store, VisibilityTimeout, WorkerId,
};

/// A handler's view of the attempt it makes.
#[derive(Debug, Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    consumer: Option<Arc<dyn Consumer>>,
    receipt: Receipt,
    attempt: u32,
    worker: Option<WorkerId>,
    cancelled: CancellationToken,
    wish: Mutex<Wish>,
}

/// What a handler has asked for its lease; its run loop heeds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// How long renewals are to hold the message: never shorter than the claim did.
    pub(crate) timeout: VisibilityTimeout,
    /// How long an extension holds it, by this process's clock.
    pub(crate) until: Option<Instant>,
    /// Whether it has asked for the consumer, and so may settle its message itself.
    has_consumer: bool,
}

impl Context {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        consumer: Option<Arc<dyn Consumer>>,
        message: &Message,
    ) -> Self {
        let Message { receipt, attempts, worker, .. } = *message;
        let wish = Wish { timeout: message.lease(), until: None, has_consumer: false };
        let (wish, cancelled) = (Mutex::new(wish), CancellationToken::new());
        let inner = Inner { store, consumer, receipt, attempt: attempts, worker, cancelled, wish };
        Self { inner: Arc::new(inner) }
    }

    /// Whether the handler has ended the lease itself, by the consumer.
    pub(crate) fn is_settled(&self) -> bool {
        let consumer = self.inner.consumer.as_ref().filter(|_| self.wish().has_consumer);
        consumer.is_some_and(|consumer| !consumer.held().holds(self.inner.receipt))
    }

    pub(crate) fn wish(&self) -> Wish {
        *self.locked()
    }

    /// Which attempt at the message this is, 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// The message.
    pub fn message_id(&self) -> MessageId {
        self.inner.receipt.id
    }

    /// The worker that runs the handler.
    pub fn worker(&self) -> Option<WorkerId> {
        self.inner.worker
    }

    /// The consumer that runs the handler, which holds the handler's message: a handler may archive,
    /// delete, release or fail it by its id, and what it returns counts no more then. `None` in an
    /// [`execute`](crate::Handle::execute) without a worker. To prolong the lease use
    /// [`extend`](Self::extend).
    pub fn consumer(&self) -> Option<Arc<dyn Consumer>> {
        let consumer = self.inner.consumer.as_ref()?;
        let mut wish = self.locked();
        if !wish.has_consumer {
            consumer.held().hold(self.inner.receipt);
            wish.has_consumer = true;
        }
        Some(consumer.clone())
    }

    /// The store the message came from.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// Cancelled when the handler is: its lease is about to lapse or was lost, or a shutdown's grace
    /// is over. The handler's own future ends at that moment; the token is for what it has started
    /// elsewhere.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.inner.cancelled
    }

    /// Holds the message for at least `timeout` from now, rounded up to whole microseconds, and
    /// returns until when. The run loop renews leases by itself; this is for a handler that is about
    /// to keep the runtime from doing so. Later renewals hold the message as long; a `timeout`
    /// shorter than the lease the message was claimed with changes nothing of that.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::OutOfRange`], [`Error::Unavailable`].
    pub async fn extend(&self, timeout: Duration) -> Result<DateTime<Utc>> {
        let timeout = {
            // Before it is sent: a renewal that follows must not shorten it.
            let mut wish = self.locked();
            wish.timeout = wish.timeout.max(VisibilityTimeout::new(timeout)?);
            wish.timeout
        };
        let sent = Instant::now();
        let settlement =
            Settlement { receipt: self.inner.receipt, action: Action::Extend(timeout) };
        let settle = Settle { settlements: vec![settlement], now: None };
        match self.inner.store.settle(settle).await?.into_iter().next() {
            Some(Ok(Settled::Extended(until))) => {
                self.locked().until = Some(sent + timeout.duration());
                Ok(until)
            }
            _ => Err(Error::LeaseLost { id: self.inner.receipt.id }),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Wish> {
        self.inner.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

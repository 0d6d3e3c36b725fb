//! What a handler may know and do beside its message.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::{
    Action, Error, Message, MessageId, Receipt, Result, Settle, Settled, Settlement, Store,
    VisibilityTimeout, WorkerId,
};

/// A handler's view of the attempt it makes.
#[derive(Debug, Clone)]
pub struct Context {
    store: Arc<dyn Store>,
    receipt: Receipt,
    attempt: u32,
    worker: Option<WorkerId>,
    cancelled: CancellationToken,
}

impl Context {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        message: &Message,
        cancelled: CancellationToken,
    ) -> Self {
        let Message { receipt, attempts, worker, .. } = *message;
        Self { store, receipt, attempt: attempts, worker, cancelled }
    }

    /// Which attempt at the message this is, 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The message.
    pub fn message_id(&self) -> MessageId {
        self.receipt.id
    }

    /// The worker that runs the handler.
    pub fn worker(&self) -> Option<WorkerId> {
        self.worker
    }

    /// The store the message came from.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Cancelled when the handler is: its lease is about to lapse or was lost, or a shutdown's grace
    /// is over. The handler's own future ends at that moment; the token is for what it has started
    /// elsewhere.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Holds the message for `timeout` from now, whole microseconds. The run loop renews leases by
    /// itself; this is for a handler that wants a longer one at once.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::OutOfRange`], [`Error::Unavailable`].
    pub async fn extend(&self, timeout: Duration) -> Result<DateTime<Utc>> {
        let action = Action::Extend(VisibilityTimeout::new(timeout)?);
        let settlements = vec![Settlement { receipt: self.receipt, action }];
        let outcomes = self.store.settle(Settle { settlements, now: None }).await?;
        match outcomes.into_iter().next() {
            Some(Ok(Settled::Extended(until))) => Ok(until),
            _ => Err(Error::LeaseLost { id: self.receipt.id }),
        }
    }
}

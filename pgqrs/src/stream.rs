//! A stream of messages, for consumers that would rather pull than be called.

use std::{
    fmt,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use async_trait::async_trait;
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Action, Context, Delay, Dequeue, Error, HandlerError, Message, Result, RetryDecision, Settle,
    Settled, Settlement, Store,
    handle::{Handler, SETTLE_TRIES, Verdict, sealed::Sealed},
    retry,
    run::{RunOptions, engine::Engine},
};

impl Dequeue<'_> {
    /// The messages of the queue, one after the other, for as long as the stream is held.
    ///
    /// Behind it works the run loop of [`poll`](crate::Handle::poll): it claims up to a
    /// [`batch`](Dequeue::batch) ahead and keeps all leases alive until their messages are settled.
    /// At most a batch is out at once: who holds on to that many deliveries gets no further one.
    /// Dropping the stream gives back what was not delivered; dropping a [`Delivery`] gives back
    /// that message. An error, such as a deleted queue, is the stream's last item.
    ///
    /// ```
    /// use futures::StreamExt;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
    /// # let store = pgqrs::MemoryStore::new();
    /// # pgqrs::admin(&store).create_queue("tasks").await?;
    /// # pgqrs::enqueue().message("hello").to("tasks").execute(&store).await?;
    /// let mut messages = pgqrs::dequeue().from("tasks").stream(&store);
    /// while let Some(message) = messages.next().await {
    ///     let message = message?;
    ///     println!("{}", message.payload);
    ///     message.archive().await?;
    /// #   break;
    /// }
    /// # Ok::<_, pgqrs::Error>(())
    /// # })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn stream<S: Store + Clone + 'static>(self, store: &S) -> Deliveries {
        let stop = CancellationToken::new();
        let (consumer, claim) = (self.attached(), self.claim());
        let ahead = claim.as_ref().map_or(1, |claim| claim.limit.count());
        let (sender, deliveries) = mpsc::channel(1);
        let options = RunOptions {
            concurrency: ahead,
            prefetch: Some(0),
            grace: std::time::Duration::MAX,
            until: stop.clone(),
            ..RunOptions::default()
        };
        let store: Arc<dyn Store> = Arc::new(store.clone());
        tokio::spawn(async move {
            let deliver = Deliver { sender: sender.clone(), stop: options.until.clone() };
            let run = async {
                Engine::start(store, consumer, claim?, deliver, options).await?.run().await
            };
            if let Err(error) = run.await {
                // Nobody listens when the stream was dropped.
                let _ = sender.send(Err(error)).await;
            }
        });
        Deliveries { deliveries, _stop: stop.drop_guard() }
    }
}

/// See [`Dequeue::stream`].
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct Deliveries {
    deliveries: mpsc::Receiver<Result<Delivery>>,
    _stop: DropGuard,
}

impl Stream for Deliveries {
    type Item = Result<Delivery>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        self.deliveries.poll_recv(context)
    }
}

/// A message out of a stream. It is leased, and its lease renewed, until it is settled or dropped.
#[must_use = "a delivery that is dropped is given back"]
pub struct Delivery {
    message: Message,
    store: Arc<dyn Store>,
    /// Tells the run loop that the message is settled; dropped, that it is to be given back.
    settled: oneshot::Sender<()>,
}

impl Delivery {
    /// Archives the message as done.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    pub async fn archive(self) -> Result<()> {
        self.settle(Action::Archive).await.map(drop)
    }

    /// Deletes the message for good.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    pub async fn delete(self) -> Result<()> {
        self.settle(Action::Delete).await.map(drop)
    }

    /// Gives the message back, claimable after `delay`; the attempt does not count.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    pub async fn release(self, delay: Delay) -> Result<()> {
        self.settle(Action::Release(delay)).await.map(drop)
    }

    /// Records a failed attempt. [`Settled`] says whether it is tried again.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    pub async fn fail(self, error: &str, retry: RetryDecision) -> Result<Settled> {
        self.settle(Action::Fail { error: error.to_owned(), retry }).await
    }

    async fn settle(self, action: Action) -> Result<Settled> {
        let receipt = self.message.receipt;
        let settle = || {
            let settlements = vec![Settlement { receipt, action: action.clone() }];
            self.store.settle(Settle { settlements, now: None })
        };
        let outcomes = retry::while_unavailable(SETTLE_TRIES, settle).await?;
        // The run loop may be gone already; then it holds nothing any more.
        let _ = self.settled.send(());
        let outcome = outcomes.into_iter().next().and_then(Result::ok);
        outcome.ok_or(Error::LeaseLost { id: receipt.id })
    }
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.message).finish()
    }
}

/// The handler behind a stream: it hands the message over and waits until it is settled.
struct Deliver {
    sender: mpsc::Sender<Result<Delivery>>,
    stop: CancellationToken,
}

impl Sealed for Deliver {}

#[async_trait]
impl Handler for Deliver {
    async fn handle(&self, group: Vec<Message>, context: Context) -> Result<Verdict, HandlerError> {
        for message in group {
            let (settled, is_settled) = oneshot::channel();
            let store = context.store().clone();
            let delivery = Delivery { message, store, settled };
            let sent = tokio::select! {
                sent = self.sender.send(Ok(delivery)) => sent.is_ok(),
                () = self.stop.cancelled() => false,
            };
            if !sent || is_settled.await.is_err() {
                return Ok(Verdict::Release);
            }
        }
        Ok(Verdict::Settled)
    }
}

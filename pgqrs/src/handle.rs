//! Handlers: one fetched batch, processed, settled, its leases kept alive meanwhile.

use std::{
    any::Any, collections::VecDeque, fmt, marker::PhantomData, panic::AssertUnwindSafe, pin::pin,
    sync::Arc,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use serde::de::DeserializeOwned;
use tracing::Instrument;

use crate::{
    Action, Backoff, Context, Delay, Dequeue, HandlerError, LeaseLost, Message, QueueFilter,
    QueueName, Receipt, Result, Settle, Settled, Settlement, Store, VisibilityTimeout, retry,
    run::RunOptions, telemetry::handle_span,
};

/// Tries of a settle that the store does not answer; repeating one is safe.
pub(crate) const SETTLE_TRIES: u32 = 5;

/// A dequeue with a handler.
#[must_use = "nothing is handled before execute(&store) or poll(&store)"]
pub struct Handle<'a, H> {
    pub(crate) dequeue: Dequeue<'a>,
    pub(crate) handler: H,
    pub(crate) options: RunOptions,
}

impl<'a, H> Handle<'a, H> {
    pub(crate) fn new(dequeue: Dequeue<'a>, handler: H) -> Self {
        Self { dequeue, handler, options: RunOptions::default() }
    }
}

impl<H: Handler> Handle<'_, H> {
    /// Takes one batch, handles it, and returns how many messages were archived.
    ///
    /// A message whose handler returns an error or panics is failed with the error's text: it is
    /// tried again after the queue's retry delay, or after what a [`Retry`](crate::Retry) error
    /// asks for, until its attempts are used up. Leases are renewed while the handler runs. A lease
    /// lost all the same is logged; the message is somebody else's then.
    ///
    /// # Errors
    /// As [`Dequeue::fetch_all`]; [`Error::Unavailable`](crate::Error::Unavailable) if the store did
    /// not take an outcome: that message comes back when its lease ends.
    pub async fn execute<S: Store + Clone + 'static>(self, store: &S) -> Result<usize> {
        let (now, consumer) = (self.dequeue.now(), self.dequeue.attached());
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let messages = self.dequeue.fetch_all(store).await?;
        let mut waiting = groups(&self.handler, messages);
        let mut archived = 0;
        while let Some(group) = waiting.pop_front() {
            let mut leases = Leases::of(&group, &waiting, now);
            let receipts: Vec<_> = group.iter().map(|message| message.receipt).collect();
            let Some(first) = group.first() else { continue };
            let (queue, attempts) = (first.queue.clone(), first.attempts);
            let context = Context::new(shared.clone(), consumer.clone(), first);
            let span = handle_span(&group);
            let handling = caught(self.handler.handle(group, context.clone())).instrument(span);
            let outcome = leases.kept_while(store, &context, handling).await;
            let action = match outcome {
                Ok(Verdict::Archive) => Action::Archive,
                Ok(Verdict::Release) => Action::Release(Delay::ZERO),
                Ok(Verdict::Settled) => continue,
                Err(error) => {
                    tracing::warn!(%queue, %error, "a handler failed");
                    let delay = match &self.options.backoff {
                        Some(delays) => delays.delay(attempts),
                        None => backoff(store, &queue).await?.delay(attempts),
                    };
                    retry::action(&error, || delay)
                }
            };
            archived += settle(store, &receipts, action, now).await?;
            waiting.retain(|group| leases.holds(group));
        }
        Ok(archived)
    }
}

impl<H> fmt::Debug for Handle<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("dequeue", &self.dequeue).finish_non_exhaustive()
    }
}

/// What processes the messages of a fetch, each by itself or a batch at once. Made by the builder's
/// [`handle`](Dequeue::handle), [`handle_with`](Dequeue::handle_with),
/// [`handle_json`](Dequeue::handle_json) and [`handle_batch`](Dequeue::handle_batch).
#[async_trait]
pub trait Handler: sealed::Sealed + Send + Sync {
    /// How many messages are handled together.
    #[doc(hidden)]
    fn group_size(&self) -> usize {
        1
    }

    /// Handles one group.
    #[doc(hidden)]
    async fn handle(&self, group: Vec<Message>, context: Context) -> Result<Verdict, HandlerError>;
}

/// What becomes of messages whose handler did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are archived.
    Archive,
    /// They are given back.
    Release,
    /// The handler has settled them itself.
    Settled,
}

/// The groups of messages that `handler` handles together.
pub(crate) fn groups<H: Handler>(handler: &H, messages: Vec<Message>) -> VecDeque<Vec<Message>> {
    let size = handler.group_size();
    let mut groups = VecDeque::with_capacity(messages.len().div_ceil(size.max(1)));
    let mut messages = messages.into_iter();
    loop {
        let group: Vec<_> = messages.by_ref().take(size).collect();
        if group.is_empty() {
            return groups;
        }
        groups.push_back(group);
    }
}

/// Handles each message by itself.
pub(crate) struct Each<F>(pub(crate) F);

/// Handles each message by itself, with a [`Context`].
pub(crate) struct EachWith<F>(pub(crate) F);

/// Handles each payload by itself, parsed as `T`.
pub(crate) struct EachJson<T, F> {
    handler: F,
    payload: PhantomData<fn() -> T>,
}

/// Handles the messages of a batch together.
pub(crate) struct Batch<F> {
    pub(crate) handler: F,
    pub(crate) size: usize,
}

impl<T, F> EachJson<T, F> {
    pub(crate) fn new(handler: F) -> Self {
        Self { handler, payload: PhantomData }
    }
}

#[async_trait]
impl<F, Fut> Handler for Each<F>
where
    F: Fn(Message) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    async fn handle(&self, group: Vec<Message>, _: Context) -> Result<Verdict, HandlerError> {
        for message in group {
            (self.0)(message).await?;
        }
        Ok(Verdict::Archive)
    }
}

#[async_trait]
impl<F, Fut> Handler for EachWith<F>
where
    F: Fn(Message, Context) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    async fn handle(&self, group: Vec<Message>, context: Context) -> Result<Verdict, HandlerError> {
        for message in group {
            let outcome = (self.0)(message, context.clone()).await;
            if context.is_settled() {
                let error = outcome.err();
                tracing::debug!(
                    error,
                    id = context.message_id().0,
                    "a handler settled its message"
                );
                return Ok(Verdict::Settled);
            }
            outcome?;
        }
        Ok(Verdict::Archive)
    }
}

#[async_trait]
impl<T, F, Fut> Handler for EachJson<T, F>
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(T) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    async fn handle(&self, group: Vec<Message>, _: Context) -> Result<Verdict, HandlerError> {
        for message in group {
            let payload = serde_path_to_error::deserialize(message.payload)
                .map_err(|error| format!("payload at {}: {}", error.path(), error.inner()))?;
            (self.handler)(payload).await?;
        }
        Ok(Verdict::Archive)
    }
}

#[async_trait]
impl<F, Fut> Handler for Batch<F>
where
    F: Fn(Vec<Message>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    fn group_size(&self) -> usize {
        self.size
    }

    async fn handle(&self, group: Vec<Message>, _: Context) -> Result<Verdict, HandlerError> {
        (self.handler)(group).await?;
        Ok(Verdict::Archive)
    }
}

pub(crate) mod sealed {
    #[allow(unnameable_types, reason = "keeps Handler closed to new implementations")]
    pub trait Sealed {}
    impl<F> Sealed for super::Each<F> {}
    impl<F> Sealed for super::EachWith<F> {}
    impl<T, F> Sealed for super::EachJson<T, F> {}
    impl<F> Sealed for super::Batch<F> {}
}

/// The leases of what is being handled and of what still waits its turn.
struct Leases {
    receipts: Vec<Receipt>,
    timeout: VisibilityTimeout,
    /// With an injected clock nothing is renewed: the caller owns the timeline.
    injected: Option<DateTime<Utc>>,
}

impl Leases {
    fn of<'m>(
        group: &'m [Message],
        waiting: impl IntoIterator<Item = &'m Vec<Message>>,
        injected: Option<DateTime<Utc>>,
    ) -> Self {
        let timeout = group.first().map(Message::lease).unwrap_or_default();
        let later = waiting.into_iter().flatten();
        Self {
            receipts: group.iter().chain(later).map(|message| message.receipt).collect(),
            timeout,
            injected,
        }
    }

    fn holds(&self, group: &[Message]) -> bool {
        group.iter().all(|message| self.receipts.contains(&message.receipt))
    }

    /// Renews the leases at a third of their timeout until `handling` is done.
    async fn kept_while<S, T>(
        &mut self,
        store: &S,
        context: &Context,
        handling: impl Future<Output = T>,
    ) -> T
    where
        S: Store + ?Sized,
    {
        let mut handling = pin!(handling);
        if self.injected.is_some() {
            return handling.await;
        }
        loop {
            let pause = tokio::time::sleep(self.timeout.duration() / 3);
            tokio::select! {
                done = &mut handling => return done,
                () = pause => {}
            }
            let renewal = self.renew(store, context.wish().timeout);
            tokio::select! {
                done = &mut handling => return done,
                () = renewal => {}
            }
        }
    }

    async fn renew<S: Store + ?Sized>(&mut self, store: &S, timeout: VisibilityTimeout) {
        let extend = |&receipt: &Receipt| Settlement { receipt, action: Action::Extend(timeout) };
        let settlements = self.receipts.iter().map(extend).collect();
        match store.settle(Settle { settlements, now: None }).await {
            Ok(outcomes) => {
                let mut outcomes = outcomes.into_iter();
                self.receipts.retain(|receipt| {
                    let kept = outcomes.next().is_some_and(|outcome| outcome.is_ok());
                    if !kept {
                        tracing::warn!(id = receipt.id.0, "lost the lease of a message in work");
                    }
                    kept
                });
            }
            Err(error) => tracing::warn!(%error, "could not renew leases; trying again"),
        }
    }
}

async fn settle<S: Store + ?Sized>(
    store: &S,
    receipts: &[Receipt],
    action: Action,
    now: Option<DateTime<Utc>>,
) -> Result<usize> {
    let settle = || {
        let settlement = |&receipt| Settlement { receipt, action: action.clone() };
        let settlements = receipts.iter().map(settlement).collect();
        store.settle(Settle { settlements, now })
    };
    let outcomes = retry::while_unavailable(SETTLE_TRIES, settle).await?;
    let mut archived = 0;
    for (receipt, outcome) in receipts.iter().zip(outcomes) {
        match outcome {
            Ok(Settled::Archived) => archived += 1,
            Ok(_) => {}
            Err(LeaseLost) => tracing::warn!(id = receipt.id.0, "settled too late: lease lost"),
        }
    }
    Ok(archived)
}

async fn backoff<S: Store + ?Sized>(store: &S, queue: &QueueName) -> Result<Backoff> {
    let read = || store.queues(QueueFilter::named(queue.clone()));
    let queue = retry::while_unavailable(SETTLE_TRIES, read).await?.pop();
    Ok(queue.map(|queue| queue.settings.retry).unwrap_or_default())
}

/// Turns a panic into an error, of whatever `handling` runs, its drops included.
pub(crate) async fn caught(
    handling: impl Future<Output = Result<Verdict, HandlerError>>,
) -> Result<Verdict, HandlerError> {
    match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err(format!("handler panicked: {}", panic_text(&*panic)).into()),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

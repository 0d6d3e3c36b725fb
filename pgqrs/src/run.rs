//! The run loop: a handler that goes on, with many messages in work at once.

mod crew;
mod crowd;
pub(crate) mod engine;
mod fetch;
mod leases;
mod wait;

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

use crate::{Error, Handle, Handler, Result, Store, limits::out_of_range, retry::Delays};
use engine::Engine;

/// How long a run loop's own registration may be silent before a sweep stops it.
pub const RUN_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

/// The options of a run loop; see the methods of [`Handle`].
#[derive(Debug, Clone)]
pub(crate) struct RunOptions {
    pub(crate) concurrency: usize,
    pub(crate) prefetch: Option<usize>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) until: CancellationToken,
    pub(crate) poll_interval: Duration,
    pub(crate) backoff: Option<Delays>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            concurrency: 1,
            prefetch: None,
            timeout: None,
            grace: Duration::from_secs(30),
            until: CancellationToken::new(),
            poll_interval: Duration::from_secs(1),
            backoff: None,
        }
    }
}

/// What a run loop did from its start to its stop. Each claimed message is counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Messages archived.
    pub handled: u64,
    /// Attempts that failed and will be retried.
    pub failed: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Messages given back: unhandled, as their handlers asked, or cancelled when the grace was over.
    pub released: u64,
    /// Messages that their handlers settled themselves.
    pub settled: u64,
    /// Leases lost: their handlers were cancelled before they lapsed, or they were settled too late.
    pub lost: u64,
    /// Outcomes that the store did not take before the loop gave up; those messages come back when
    /// their leases end.
    pub unsettled: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { handled, failed, dead, released, settled, lost, unsettled } = self;
        write!(
            f,
            "{handled} handled, {failed} failed, {dead} dead, {released} released, {settled} settled \
             by handlers, {lost} lost, {unsettled} unsettled"
        )
    }
}

/// Options of the run loop, and [`poll`](Handle::poll), which starts it.
impl<'a, H: Handler> Handle<'a, H> {
    /// How many handlers run at once, 1 by default. With
    /// [`handle_batch`](crate::Dequeue::handle_batch) a batch is one handler.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.options.concurrency = handlers;
        self
    }

    /// How many messages wait in memory, leased, for a free handler; by default as many as
    /// handlers work on at once. 0: a message is claimed when a handler is free for it.
    pub fn prefetch(mut self, messages: usize) -> Self {
        self.options.prefetch = Some(messages);
        self
    }

    /// Cancels a handler that takes longer than this and fails its message.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Stops the loop when the token is cancelled; see [`shutdown_signal`].
    pub fn until(mut self, stop: CancellationToken) -> Self {
        self.options.until = stop;
        self
    }

    /// How long handlers may go on once the loop is asked to stop, 30 s by default; then they are
    /// cancelled and their messages given back.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// The delay before a failed message is tried again, from the number of attempts so far, 1 after
    /// the first, instead of the queue's [`Backoff`](crate::Backoff); at most
    /// [`Delay::MAX`](crate::Delay::MAX). A [`Retry`](crate::Retry) error has its own.
    pub fn backoff(mut self, after: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        self.options.backoff = Some(Delays::new(after));
        self
    }

    /// How often the queue is looked at when nothing says that there is something, 1 s by default.
    /// Where a notifier is proven alive the loop looks half as often.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.options.poll_interval = interval;
        self
    }
}

impl<'a, H: Handler + 'static> Handle<'a, H> {
    /// Handles messages until [`until`](Handle::until) is cancelled, and says what it did.
    ///
    /// - One fetcher claims as many messages as there are free handlers and places in the buffer;
    ///   outcomes are settled together behind the handlers, one statement for many.
    /// - Leases are renewed for as long as handlers work. When renewal fails for too long, the
    ///   handler is cancelled before its lease lapses.
    /// - An error, a panic and a timeout fail the message: retried after the queue's backoff, this
    ///   loop's [`backoff`](Handle::backoff), or what a [`Retry`](crate::Retry) error asks for, until
    ///   its attempts are used up.
    /// - When the store is unavailable the loop backs off and goes on; outcomes that it did not
    ///   answer for are sent again, so no handler runs twice for them.
    /// - Without a worker the loop registers one of its own, which a sweep frees 15 s after the
    ///   process has died. Every loop sweeps now and then.
    /// - When it stops: no more fetching, buffered messages given back at once, handlers finish or
    ///   are cancelled after the grace, outcomes flushed, the worker stopped. To drop the future
    ///   instead is to crash: a sweep frees what it held.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`] if the queue does not exist or is deleted,
    /// [`Error::WorkerNotReady`] if another registration has taken over the worker's identity,
    /// [`Error::OutOfRange`] for options, [`Error::Unavailable`] only if the store cannot be
    /// reached when the loop starts.
    pub async fn poll<S: Store + Clone + 'static>(self, store: &S) -> Result<Report> {
        let Self { dequeue, handler, options } = self;
        let bounded = |what, value: usize, allowed| {
            if value > 10_000 {
                return Err(out_of_range(what, value.to_string(), allowed));
            }
            Ok(value)
        };
        bounded("concurrency", options.concurrency, "1 to 10000")?;
        NonZeroUsize::new(options.concurrency)
            .ok_or_else(|| out_of_range("concurrency", "0".to_owned(), "1 to 10000"))?;
        bounded("prefetch", options.prefetch.unwrap_or(0), "0 to 10000")?;
        if dequeue.now().is_some() {
            return Err(Error::Unsupported { what: ".at(now) in a run loop" });
        }
        let (store, consumer) = (Arc::new(store.clone()), dequeue.attached());
        let engine = Engine::start(store, consumer, dequeue.claim()?, handler, options).await?;
        // A task of its own: it and its handlers wake one another without waking a thread.
        let running = AbortOnDropHandle::new(tokio::spawn(engine.run().in_current_span()));
        running.await.unwrap_or_else(|ended| match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Unavailable {
                reason: "the runtime is shutting down".into(),
                source: None,
            }),
        })
    }
}

/// A token that is cancelled when the process is asked to stop: SIGTERM or SIGINT, on other systems
/// than Unix Ctrl-C. For [`Handle::until`].
///
/// # Errors
/// If the process cannot listen for signals.
pub fn shutdown_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let cancel = token.clone();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            cancel.cancel();
        });
    }
    #[cfg(not(unix))]
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancel();
        }
    });
    Ok(token)
}

//! Who a run loop claims as, and when it looks at the queue.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    Backoff, BatchSize, Claim, Claimed, Consumer, Error, QueueName, Reach, Result, Store,
    Transition, VisibilityTimeout, WorkerChange, consumer, run::RUN_HEARTBEAT_TIMEOUT, telemetry,
};

/// The shortest wait after a claim that found nothing.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// The worker of a run loop, and what its claims ask for.
#[derive(Debug)]
pub(super) struct Fetcher {
    store: Arc<dyn Store>,
    queue: QueueName,
    timeout: Option<VisibilityTimeout>,
    /// A handle on the caller's worker, or the loop's own registration, whose heartbeat ends with it.
    consumer: Arc<dyn Consumer>,
}

impl Fetcher {
    /// Takes the caller's worker, or registers one.
    pub(super) async fn new(
        store: Arc<dyn Store>,
        consumer: Option<Arc<dyn Consumer>>,
        claim: Claim,
    ) -> Result<Self> {
        let (queue, timeout) = (claim.queue, claim.timeout);
        let consumer = match consumer {
            Some(consumer) => consumer,
            None => register(store.clone(), queue.clone()).await?,
        };
        Ok(Self { store, queue, timeout, consumer })
    }

    pub(super) fn consumer(&self) -> &Arc<dyn Consumer> {
        &self.consumer
    }

    pub(super) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Registers a worker of the loop's own, as a future of its own. Without a fixed identity: one
    /// that was swept may have a successor by now, for which it must not speak.
    pub(super) fn register(
        &self,
    ) -> impl Future<Output = Result<Arc<dyn Consumer>>> + Send + use<> {
        register(self.store.clone(), self.queue.clone())
    }

    /// Claims as that worker from now on.
    pub(super) fn go_on_as(&mut self, own: Arc<dyn Consumer>) {
        self.consumer = own;
    }

    /// A claim, as a future of its own.
    pub(super) fn claim(&self, limit: BatchSize) -> impl Future<Output = Answered> + Send + use<> {
        let (store, sent) = (self.store.clone(), Instant::now());
        let claim = Claim {
            queue: self.queue.clone(),
            worker: Some(self.consumer.id()),
            limit,
            timeout: self.timeout,
            now: None,
        };
        let span = telemetry::claim_span(&self.queue, limit);
        let claiming = async move {
            Answered { sent, limit: limit.count(), claimed: store.claim(claim).await }
        };
        claiming.instrument(span)
    }

    /// Marks the worker stopped, which releases whatever it might still hold.
    pub(super) async fn stop(&self) -> Result<()> {
        let transition = Transition {
            worker: self.consumer.id(),
            queue: self.queue.clone(),
            change: WorkerChange::Stop,
            now: None,
        };
        match self.store.transition(transition).await {
            // Somebody else has stopped it, or removed it with its queue: that is what is wanted.
            Err(
                Error::IllegalTransition { .. }
                | Error::WorkerNotReady { .. }
                | Error::WorkerNotFound { .. }
                | Error::QueueNotFound { .. },
            ) => Ok(()),
            done => done.map(drop),
        }
    }
}

/// The answer to a claim.
#[derive(Debug)]
pub(super) struct Answered {
    /// When it was sent.
    pub(super) sent: Instant,
    pub(super) limit: usize,
    pub(super) claimed: Result<Claimed>,
}

/// When to look at the queue next.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    errors: u32,
    next: Instant,
    /// Whether a wake-up cuts the wait short. Not after an error, and not while suspended: then it
    /// would bring one useless claim after the other.
    wakes: bool,
    /// Whether the last claim brought all that it asked for.
    is_busy: bool,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        let (interval, next) = (interval.max(SHORTEST_WAIT), Instant::now());
        Self { interval, errors: 0, next, wakes: true, is_busy: false }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn is_due(&self) -> bool {
        self.next <= Instant::now()
    }

    /// Whether it waits for the next look, and a wake-up may cut that short.
    pub(super) fn listens(&self) -> bool {
        self.wakes && !self.is_due()
    }

    /// Whether the queue has plenty, as far as is known.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Something was claimed: look again at once.
    pub(super) fn found(&mut self, is_full: bool) {
        self.again();
        self.is_busy = is_full;
    }

    /// Something said that there may be more: look again at once.
    pub(super) fn again(&mut self) {
        (self.errors, self.wakes, self.next) = (0, true, Instant::now());
    }

    /// Nothing was there: look when the next message is due, at the latest after a jittered
    /// interval, so that idle loops do not fall into step.
    /// Where wake-ups reach everywhere the interval is twice as long.
    pub(super) fn idle(&mut self, due_in: Option<Duration>, reach: Reach) {
        let factor = if reach == Reach::Everywhere { 2.0 } else { 1.0 };
        let pause = self.interval.mul_f64(factor * (0.75 + fastrand::f64() / 2.0));
        // What is due and yet was not claimed is in other hands, or noticed a little later.
        let pause = due_in.map_or(pause, |due| due.max(SHORTEST_WAIT).min(pause));
        (self.errors, self.wakes, self.next) = (0, true, Instant::now() + pause);
        self.is_busy = false;
    }

    /// The worker may not claim at present: look whether that is still so.
    pub(super) fn suspended(&mut self) {
        self.idle(None, Reach::Process);
        self.wakes = false;
    }

    /// The store failed: back off.
    pub(super) fn failed(&mut self) {
        self.errors = self.errors.saturating_add(1);
        (self.wakes, self.next) = (false, Instant::now() + error_pause(self.errors));
        self.is_busy = false;
    }
}

/// The pause after so many errors in a row: full jitter between nothing and 0.1 s to 5 s, and
/// never less than 20 ms.
pub(super) fn error_pause(errors: u32) -> Duration {
    let (base, max) = (Duration::from_millis(100), Duration::from_secs(5));
    let jittered = Backoff::Exponential { base, max }.delay(errors).duration();
    jittered.max(Duration::from_millis(20))
}

async fn register(store: Arc<dyn Store>, queue: QueueName) -> Result<Arc<dyn Consumer>> {
    let builder = consumer(process_name(), 0, queue);
    builder.heartbeat_timeout(RUN_HEARTBEAT_TIMEOUT).create(&store).await
}

/// What names this process to an operator who reads the list of workers.
fn process_name() -> String {
    let host = gethostname::gethostname();
    let mut name = format!("{}:{}", host.to_string_lossy(), std::process::id());
    while name.len() > 255 {
        name.remove(0);
    }
    name
}

//! Who a run loop claims as, and when it looks at the queue.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    Backoff, BatchSize, Claim, Claimed, Consumer, Error, QueueName, Reach, Result, Store,
    Transition, VisibilityTimeout, WorkerChange, WorkerId, consumer, run::RUN_HEARTBEAT_TIMEOUT,
};

/// The worker of a run loop, and what its claims ask for.
#[derive(Debug)]
pub(super) struct Fetcher {
    store: Arc<dyn Store>,
    queue: QueueName,
    timeout: Option<VisibilityTimeout>,
    worker: WorkerId,
    /// The loop's own registration, whose heartbeat ends with it; `None` while the caller's serves.
    own: Option<Arc<dyn Consumer>>,
}

impl Fetcher {
    /// Takes the caller's worker, or registers one.
    pub(super) async fn new(store: Arc<dyn Store>, claim: Claim) -> Result<Self> {
        let (queue, timeout) = (claim.queue, claim.timeout);
        let mut fetcher = Self { store, queue, timeout, worker: WorkerId(0), own: None };
        match claim.worker {
            Some(worker) => fetcher.worker = worker,
            None => fetcher.register().await?,
        }
        Ok(fetcher)
    }

    pub(super) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Registers the loop anew: at its start, or when a sweep took its worker for dead.
    pub(super) async fn register(&mut self) -> Result<()> {
        let builder = consumer(process_name(), 0, self.queue.clone());
        let own = builder.heartbeat_timeout(RUN_HEARTBEAT_TIMEOUT).create(&self.store).await?;
        self.worker = own.id();
        self.own = Some(own);
        Ok(())
    }

    /// A claim, as a future of its own.
    pub(super) fn claim(
        &self,
        limit: BatchSize,
    ) -> impl Future<Output = (Instant, Result<Claimed>)> + Send + use<> {
        let (store, sent) = (self.store.clone(), Instant::now());
        let claim = Claim {
            queue: self.queue.clone(),
            worker: Some(self.worker),
            limit,
            timeout: self.timeout,
            now: None,
        };
        async move { (sent, store.claim(claim).await) }
    }

    /// Marks the worker stopped, which releases whatever it might still hold.
    pub(super) async fn stop(&self) -> Result<()> {
        let transition = Transition {
            worker: self.worker,
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

/// When to look at the queue next.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    errors: u32,
    next: Instant,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, errors: 0, next: Instant::now() }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn is_due(&self) -> bool {
        self.next <= Instant::now()
    }

    /// Whether the wait for the next look may be cut short by a wake-up: it waits, and not because
    /// the store failed.
    pub(super) fn is_idle(&self) -> bool {
        self.errors == 0
    }

    /// Something was claimed, or something said that there is more: look again at once.
    pub(super) fn again(&mut self) {
        self.errors = 0;
        self.next = Instant::now();
    }

    /// Nothing was there: look when the next message is due, at the latest after a jittered
    /// interval, so that idle loops do not fall into step.
    /// Where wake-ups reach everywhere the interval is twice as long.
    pub(super) fn idle(&mut self, due_in: Option<Duration>, reach: Reach) {
        self.errors = 0;
        let factor = if reach == Reach::Everywhere { 2.0 } else { 1.0 };
        let pause = self.interval.mul_f64(factor * (0.75 + fastrand::f64() / 2.0));
        self.next = Instant::now() + due_in.map_or(pause, |due| due.min(pause));
    }

    /// The store failed: back off.
    pub(super) fn failed(&mut self) {
        self.errors = self.errors.saturating_add(1);
        self.next = Instant::now() + error_pause(self.errors);
    }
}

/// The pause after so many errors in a row: full jitter between nothing and 0.1 s to 5 s, and
/// never less than 20 ms.
pub(super) fn error_pause(errors: u32) -> Duration {
    let (base, max) = (Duration::from_millis(100), Duration::from_secs(5));
    let jittered = Backoff::Exponential { base, max }.delay(errors).duration();
    jittered.max(Duration::from_millis(20))
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

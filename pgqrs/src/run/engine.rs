//! The engine of a run loop: one task that owns all state and waits for whatever happens next.
//!
//! Handlers run as tasks of their own. Claims, settlements, renewals and sweeps are each at most
//! one request in flight, so a slow one never holds up the others.

use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Report, RunOptions,
    fetch::{Fetcher, Pace, error_pause},
    leases::Leases,
};
use crate::{
    Action, Backoff, BatchSize, Claim, Claimed, Context, Delay, Error, Handler, HandlerError,
    LeaseLost, Message, QueueFilter, Reach, Receipt, Result, Settle, Settled, Settlement, Store,
    Sweep, Wakeups, WorkerState,
    handle::{Verdict, groups},
    retry,
    telemetry::Telemetry,
};

/// Settlements per statement at most.
const FLUSH: usize = 1_000;
/// Outcomes that may wait to be settled before claiming pauses.
const BACKLOG: usize = 4 * FLUSH;
/// How often a loop sweeps, on average. With heartbeats every 5 s and death after 15 s, what a
/// killed process held is free within 20 s.
const SWEEP_INTERVAL: Duration = Duration::from_secs(4);
/// How long a stopping loop tries to settle what is left after the grace.
const FLUSH_GRACE: Duration = Duration::from_secs(10);

type Outcomes = Result<Vec<Result<Settled, LeaseLost>>>;
type Request<T> = Option<BoxFuture<'static, T>>;

pub(crate) struct Engine<H> {
    store: Arc<dyn Store>,
    fetcher: Fetcher,
    handler: Arc<H>,
    options: RunOptions,
    report: Report,
    telemetry: Telemetry,
    backoff: Backoff,
    /// Whether a handler has failed since the backoff was read.
    backoff_used: bool,
    wakeups: Option<Wakeups>,
    pace: Pace,
    stopping: Stopping,

    /// Groups that wait for a free handler.
    buffer: VecDeque<Vec<Message>>,
    buffered: usize,
    working: JoinSet<Done>,
    in_work: usize,
    leases: Leases,
    /// Never later than the next event of `leases`.
    alarm: Option<Instant>,
    outbox: Vec<Settlement>,
    settle_after: Instant,
    settle_errors: u32,

    claiming: Request<(Instant, Result<Claimed>)>,
    settling: Request<(Vec<Settlement>, Outcomes)>,
    in_settling: usize,
    renewing: Request<(Instant, Vec<Receipt>, Outcomes)>,
    /// Answers with the queue's backoff if it is to be read again.
    sweeping: Request<Option<Backoff>>,
    next_sweep: Instant,
}

/// What a handler's task leaves.
struct Done {
    receipts: Vec<Receipt>,
    attempts: u32,
    outcome: Outcome,
    took: Duration,
}

enum Outcome {
    Ok(Verdict),
    Failed(HandlerError),
    /// Its leases were lost, or the grace was over.
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    /// Not asked to stop.
    No,
    /// Handlers may finish until then.
    Grace(Instant),
    /// Handlers are cancelled; outcomes are settled until then.
    Flush(Instant),
}

impl<H: Handler + 'static> Engine<H> {
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        claim: Claim,
        handler: H,
        options: RunOptions,
    ) -> Result<Self> {
        let fetcher = Fetcher::new(store.clone(), claim).await?;
        let filter = QueueFilter::named(fetcher.queue().clone());
        let queue = store.queues(filter).await?.pop();
        let missing = || Error::QueueNotFound { queue: fetcher.queue().clone() };
        let backoff = queue.ok_or_else(missing)?.settings.retry;
        let telemetry = Telemetry::new(fetcher.queue());
        let (wakeups, now) = (store.wakeups(fetcher.queue()), Instant::now());
        Ok(Self {
            pace: Pace::new(options.poll_interval),
            store,
            fetcher,
            handler: Arc::new(handler),
            options,
            report: Report::default(),
            telemetry,
            backoff,
            backoff_used: false,
            wakeups,
            stopping: Stopping::No,
            buffer: VecDeque::new(),
            buffered: 0,
            working: JoinSet::new(),
            in_work: 0,
            leases: Leases::default(),
            alarm: None,
            outbox: Vec::new(),
            settle_after: now,
            settle_errors: 0,
            claiming: None,
            settling: None,
            in_settling: 0,
            renewing: None,
            sweeping: None,
            next_sweep: now + sweep_pause(),
        })
    }

    pub(crate) async fn run(mut self) -> Result<Report> {
        let until = self.options.until.clone();
        let ended = loop {
            self.start_handlers();
            self.start_claim();
            self.start_settle();
            if self.is_drained() {
                break Ok(());
            }
            let (deadline, sweep) = (self.stop_deadline(), self.sweep_time());
            let retry = [self.next_settle(), self.next_claim()].into_iter().flatten().min();
            let idle = self.stopping == Stopping::No && self.pace.is_idle();
            tokio::select! {
                () = until.cancelled(), if self.stopping == Stopping::No => self.stop(),
                () = at(deadline) => if self.stop_harder() { break Ok(()) },
                Some(done) = self.working.join_next(), if !self.working.is_empty() => self.done(done),
                (sent, claimed) = take(&mut self.claiming) => {
                    if let Err(error) = self.claimed(sent, claimed).await { break Err(error) }
                }
                (settlements, outcomes) = take(&mut self.settling) => self.settled(settlements, outcomes),
                (sent, receipts, outcomes) = take(&mut self.renewing) => self.renewed(sent, receipts, outcomes),
                backoff = take(&mut self.sweeping) => self.swept(backoff),
                () = wake(&mut self.wakeups), if idle => self.pace.again(),
                () = at(self.alarm) => self.tend_leases(),
                () = at(retry) => {}
                () = at(sweep) => self.start_sweep(),
            }
        };
        self.report.unsettled += (self.outbox.len() + self.in_settling + self.leases.len()) as u64;
        self.working.shutdown().await;
        if let Err(error) = retry::while_unavailable(3, || self.fetcher.stop()).await {
            tracing::warn!(%error, "could not mark the worker stopped; its leases will run out");
        }
        tracing::info!(report = %self.report, "the run loop has stopped");
        ended.map(|()| self.report)
    }

    fn start_handlers(&mut self) {
        while self.working.len() < self.options.concurrency
            && let Some(group) = self.buffer.pop_front()
        {
            self.buffered -= group.len();
            let receipts: Vec<_> = group.iter().map(|message| message.receipt).collect();
            if !receipts.iter().all(|receipt| self.leases.is_held(*receipt)) {
                // A lease was lost in the buffer: the rest of the group goes back.
                self.give_back(receipts);
                continue;
            }
            let Some(first) = group.first() else { continue };
            let (attempts, cancel) = (first.attempts, CancellationToken::new());
            let context = Context::new(self.store.clone(), first, cancel.clone());
            self.leases.start(&receipts, &cancel);
            self.in_work += receipts.len();
            self.telemetry.started(receipts.len());
            let span =
                tracing::info_span!("handle", queue = %first.queue, id = first.id.0, attempts);
            let begin = Instant::now();
            let (handler, timeout) = (self.handler.clone(), self.options.timeout);
            self.working.spawn(
                async move {
                    let outcome = tokio::select! {
                        outcome = within(timeout, handler.handle(group, context)) => match outcome {
                            Ok(verdict) => Outcome::Ok(verdict),
                            Err(error) => Outcome::Failed(error),
                        },
                        () = cancel.cancelled() => Outcome::Cancelled,
                    };
                    Done { receipts, attempts, outcome, took: begin.elapsed() }
                }
                .instrument(span),
            );
        }
    }

    fn start_claim(&mut self) {
        let free = self.free();
        let worthwhile = self.buffer.is_empty() || free * 2 >= self.capacity();
        let may_claim = self.stopping == Stopping::No
            && self.claiming.is_none()
            && self.outbox.len() < BACKLOG
            && self.pace.is_due();
        if free > 0
            && worthwhile
            && may_claim
            && let Ok(limit) = BatchSize::new(free.min(BatchSize::MAX.count()))
        {
            // What wake-ups told of so far, this claim sees.
            self.wakeups.as_mut().map(Wakeups::forget);
            self.claiming = Some(Box::pin(self.fetcher.claim(limit)));
        }
    }

    async fn claimed(&mut self, sent: Instant, claimed: Result<Claimed>) -> Result<()> {
        match claimed {
            Ok(Claimed { messages, due_in }) if messages.is_empty() => {
                let reach = self.wakeups.as_ref().map_or(Reach::Process, Wakeups::reach);
                self.pace.idle(due_in, reach);
            }
            Ok(Claimed { messages, .. }) => {
                self.pace.again();
                self.telemetry.claimed(&messages);
                self.leases.hold(&messages, sent, &CancellationToken::new());
                self.alarm = self.alarm.or_else(|| self.leases.next_event());
                if self.stopping == Stopping::No {
                    self.buffered += messages.len();
                    self.buffer.extend(groups(&*self.handler, messages));
                } else {
                    self.give_back(messages.iter().map(|message| message.receipt).collect());
                }
            }
            Err(Error::WorkerNotReady { state: WorkerState::Suspended, .. }) => {
                self.pace.idle(None, Reach::Process);
            }
            Err(error @ Error::WorkerNotReady { replaced_by: Some(_), .. })
            | Err(error @ Error::QueueNotFound { .. }) => {
                tracing::error!(%error, "the run loop ends");
                return Err(error);
            }
            Err(error @ (Error::WorkerNotReady { .. } | Error::WorkerNotFound { .. })) => {
                tracing::warn!(%error, "taken for dead; registering anew");
                self.pace.failed();
                if let Err(error) = self.fetcher.register().await {
                    tracing::warn!(%error, "could not register anew; trying again");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not claim; trying again");
                self.pace.failed();
            }
        }
        Ok(())
    }

    fn done(&mut self, first: Result<Done, JoinError>) {
        let mut next = Some(first);
        while let Some(done) = next {
            match done {
                Ok(Done { receipts, attempts, outcome, took }) => {
                    self.telemetry.done(receipts.len(), took);
                    self.in_work -= receipts.len();
                    self.conclude(receipts, attempts, outcome);
                }
                // Panics of handlers are caught inside; only an abort ends a task early.
                Err(error) => tracing::error!(%error, "a handler's task was aborted"),
            }
            next = self.working.try_join_next();
        }
    }

    fn conclude(&mut self, receipts: Vec<Receipt>, attempts: u32, outcome: Outcome) {
        let action = match outcome {
            Outcome::Ok(Verdict::Archive) => Action::Archive,
            Outcome::Ok(Verdict::Release) | Outcome::Cancelled => Action::Release(Delay::ZERO),
            Outcome::Ok(Verdict::Settled) => {
                for receipt in receipts {
                    self.leases.drop(receipt);
                }
                return;
            }
            Outcome::Failed(error) => {
                tracing::warn!(queue = %self.fetcher.queue(), %error, "a handler failed");
                self.backoff_used = true;
                let retry = retry::decide(&error, &self.backoff, attempts);
                Action::Fail { error: error.to_string(), retry }
            }
        };
        self.settle_all(receipts, &action);
    }

    /// Releases what is still held of `receipts`, attempts given back.
    fn give_back(&mut self, receipts: Vec<Receipt>) {
        self.settle_all(receipts, &Action::Release(Delay::ZERO));
    }

    fn settle_all(&mut self, receipts: Vec<Receipt>, action: &Action) {
        for receipt in receipts {
            // What is no longer held was given up: it comes back by itself.
            if self.leases.drop(receipt) {
                self.outbox.push(Settlement { receipt, action: action.clone() });
            }
        }
    }

    fn start_settle(&mut self) {
        if self.settling.is_some() || self.outbox.is_empty() || self.settle_after > Instant::now() {
            return;
        }
        let rest = self.outbox.split_off(self.outbox.len().min(FLUSH));
        let settlements = std::mem::replace(&mut self.outbox, rest);
        self.in_settling = settlements.len();
        self.telemetry.settling(settlements.len());
        let store = self.store.clone();
        self.settling = Some(Box::pin(async move {
            let settle = Settle { settlements: settlements.clone(), now: None };
            (settlements, store.settle(settle).await)
        }));
    }

    fn settled(&mut self, settlements: Vec<Settlement>, outcomes: Outcomes) {
        self.in_settling = 0;
        match outcomes {
            Ok(outcomes) => {
                self.settle_errors = 0;
                for (settlement, outcome) in settlements.iter().zip(outcomes) {
                    outcome.into_iter().for_each(|settled| self.telemetry.settled(settled));
                    match outcome {
                        Ok(Settled::Archived) => self.report.handled += 1,
                        Ok(Settled::Retrying) => self.report.failed += 1,
                        Ok(Settled::Dead) => self.report.dead += 1,
                        Ok(Settled::Released | Settled::Deleted | Settled::Extended(_)) => {
                            self.report.released += 1;
                        }
                        Err(LeaseLost) => self.lost(settlement.receipt, "settled too late"),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, waiting = settlements.len(), "could not settle; repeating");
                self.settle_errors = self.settle_errors.saturating_add(1);
                self.settle_after = Instant::now() + error_pause(self.settle_errors);
                let later = std::mem::replace(&mut self.outbox, settlements);
                self.outbox.extend(later);
            }
        }
    }

    /// Renews leases that are due, and cancels the handlers of those about to lapse.
    fn tend_leases(&mut self) {
        let now = Instant::now();
        for receipt in self.leases.fence(now) {
            self.lost(receipt, "could not be renewed in time; its handler is cancelled");
        }
        self.alarm = self.leases.next_event();
        let settlements = self.leases.renewals(now);
        if self.renewing.is_none() && !settlements.is_empty() {
            let receipts = settlements.iter().map(|settlement| settlement.receipt).collect();
            let store = self.store.clone();
            self.renewing = Some(Box::pin(async move {
                (now, receipts, store.settle(Settle { settlements, now: None }).await)
            }));
        }
        // While a renewal is in flight, or after one has failed, the due ones stay due.
        self.alarm = self.alarm.map(|alarm| alarm.max(now + Duration::from_millis(1)));
        if self.renewing.is_some() {
            self.alarm = self.leases.next_fence();
        }
    }

    fn renewed(&mut self, sent: Instant, receipts: Vec<Receipt>, outcomes: Outcomes) {
        match outcomes {
            Ok(outcomes) => {
                for (receipt, outcome) in receipts.into_iter().zip(outcomes) {
                    if outcome.is_ok() {
                        self.leases.renewed(receipt, sent);
                    } else if self.leases.give_up(receipt) {
                        self.lost(receipt, "somebody else has taken it; its handler is cancelled");
                    }
                }
                self.alarm = self.leases.next_event();
            }
            Err(error) => {
                tracing::warn!(%error, "could not renew leases; trying again");
                let again = Instant::now() + error_pause(1);
                self.alarm = self.leases.next_fence().map(|fence| fence.min(again));
            }
        }
    }

    fn lost(&mut self, receipt: Receipt, why: &str) {
        self.report.lost += 1;
        self.telemetry.lost();
        tracing::warn!(id = receipt.id.0, why, "lost a lease");
    }

    fn start_sweep(&mut self) {
        let store = self.store.clone();
        let failed = std::mem::take(&mut self.backoff_used);
        let queue = failed.then(|| QueueFilter::named(self.fetcher.queue().clone()));
        self.sweeping = Some(Box::pin(async move {
            if let Err(error) = store.sweep(Sweep::default()).await {
                tracing::warn!(%error, "could not sweep; trying again later");
            }
            let queue = store.queues(queue?).await.ok()?.pop();
            queue.map(|queue| queue.settings.retry)
        }));
    }

    fn swept(&mut self, backoff: Option<Backoff>) {
        self.next_sweep = Instant::now() + sweep_pause();
        if let Some(backoff) = backoff {
            self.backoff = backoff;
        }
    }

    /// Begins to stop: nothing new is started, what waits goes back.
    fn stop(&mut self) {
        self.stopping = Stopping::Grace(far(self.options.grace));
        let waiting: Vec<_> = self.buffer.drain(..).flatten().map(|m| m.receipt).collect();
        self.buffered = 0;
        self.give_back(waiting);
    }

    /// The grace is over: handlers are cancelled; or the flush is: the loop ends.
    fn stop_harder(&mut self) -> bool {
        match self.stopping {
            Stopping::No => false,
            Stopping::Grace(_) => {
                self.stopping = Stopping::Flush(Instant::now() + FLUSH_GRACE);
                self.leases.cancel_all();
                false
            }
            Stopping::Flush(_) => true,
        }
    }

    fn is_drained(&self) -> bool {
        self.stopping != Stopping::No
            && self.working.is_empty()
            && self.claiming.is_none()
            && self.settling.is_none()
            && self.outbox.is_empty()
    }

    /// How many messages the loop may hold.
    fn capacity(&self) -> usize {
        let at_work = self.options.concurrency * self.handler.group_size();
        at_work + self.options.prefetch.unwrap_or(at_work)
    }

    fn free(&self) -> usize {
        self.capacity().saturating_sub(self.buffered + self.in_work)
    }

    fn stop_deadline(&self) -> Option<Instant> {
        match self.stopping {
            Stopping::No => None,
            Stopping::Grace(end) | Stopping::Flush(end) => Some(end),
        }
    }

    fn next_settle(&self) -> Option<Instant> {
        (self.settling.is_none() && !self.outbox.is_empty()).then_some(self.settle_after)
    }

    fn next_claim(&self) -> Option<Instant> {
        let waits = self.claiming.is_none() && self.stopping == Stopping::No && self.free() > 0;
        (waits && self.outbox.len() < BACKLOG && !self.pace.is_due()).then(|| self.pace.next())
    }

    fn sweep_time(&self) -> Option<Instant> {
        (self.sweeping.is_none() && self.stopping == Stopping::No).then_some(self.next_sweep)
    }
}

/// Waits for the request, if there is one, and takes it away when it is answered. Losing a race in
/// `select!` leaves it where it is.
async fn take<T>(request: &mut Request<T>) -> T {
    match request {
        Some(answer) => {
            let answer = answer.await;
            *request = None;
            answer
        }
        None => pending().await,
    }
}

async fn wake(wakeups: &mut Option<Wakeups>) {
    match wakeups {
        Some(wakeups) => wakeups.wait().await,
        None => pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

async fn within(
    timeout: Option<Duration>,
    handling: impl Future<Output = Result<Verdict, HandlerError>>,
) -> Result<Verdict, HandlerError> {
    match timeout {
        None => handling.await,
        Some(timeout) => tokio::time::timeout(timeout, handling)
            .await
            .unwrap_or_else(|_| Err(format!("handler timed out after {timeout:?}").into())),
    }
}

/// That far from now; a day stands for anything longer than a day.
fn far(grace: Duration) -> Instant {
    Instant::now() + grace.min(Duration::from_secs(24 * 60 * 60))
}

fn sweep_pause() -> Duration {
    SWEEP_INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0)
}

//! The engine of a run loop: one task that owns all state and waits for whatever happens next.
//!
//! Handlers run in tasks of their own (`crew`). Registrations, settlements, renewals and sweeps are
//! each at most one request in flight, claims two, so a slow one never holds up the others, and the
//! loop itself never awaits the store. What is due is started at the top of the loop; the bottom
//! waits for the next answer, event or due time.
//!
//! Every message claimed is counted once in the report: settled, lost, or left unsettled.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{task::yield_now, time::Instant};
use tracing::Instrument;

use super::{
    Report, RunOptions,
    crew::{Crew, Done, Job},
    crowd::Crowd,
    fetch::{Answered, Fetcher, Pace, error_pause},
    leases::Leases,
    wait::{Request, at, take, wake},
};
use crate::{
    Action, Backoff, BatchSize, Claim, Claimed, Consumer, Context, Delay, Error, Handler,
    LeaseLost, Message, QueueFilter, Reach, Receipt, Result, Settle, Settled, Settlement, Store,
    Sweep, Swept, VisibilityTimeout, Wakeups, WorkerState,
    handle::{Verdict, groups},
    retry,
    telemetry::{Telemetry, settle_span},
};

/// Settlements per statement at most.
const FLUSH: usize = 1_000;
/// Claims on their way at once, from a queue that has plenty: while one is answered and its messages
/// are begun, the store works on the other one.
const CLAIMS: usize = 2;
/// Outcomes that may wait to be settled before claiming pauses.
const BACKLOG: usize = 4 * FLUSH;
/// How often a loop sweeps, on average. With heartbeats every 5 s and death after 15 s, what a
/// killed process held is free within 20 s: 15 s and at most 1.2 pauses.
const SWEEP_INTERVAL: Duration = Duration::from_secs(4);
/// How long a stopping loop tries to settle what is left after the grace.
const FLUSH_GRACE: Duration = Duration::from_secs(10);

/// Ends a lease as its expiry would: the attempt counts.
const LAPSE: Action = Action::Extend(VisibilityTimeout::MIN);

type Outcomes = Result<Vec<Result<Settled, LeaseLost>>>;

pub(crate) struct Engine<H> {
    store: Arc<dyn Store>,
    fetcher: Fetcher,
    crew: Crew<H>,
    options: RunOptions,
    report: Report,
    telemetry: Arc<Telemetry>,
    backoff: Backoff,
    /// Whether a handler has failed since the backoff was read.
    backoff_used: bool,
    wakeups: Option<Wakeups>,
    pace: Pace,
    crowd: Crowd,
    stopping: Stopping,

    leases: Leases,
    /// Whether leases were lost of messages that may still wait.
    has_lost: bool,
    outbox: Vec<Settlement>,
    /// How many settlements go together at most.
    flush: usize,
    settle_after: Instant,
    settle_errors: u32,
    renew_after: Instant,
    renew_errors: u32,

    registering: Request<Result<Arc<dyn Consumer>>>,
    claiming: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// How many messages the claims on their way asked for.
    asked: usize,
    settling: Request<(Vec<Settlement>, Outcomes)>,
    in_settling: usize,
    renewing: Request<(Instant, Vec<Settlement>, Outcomes)>,
    sweeping: Request<Tidied>,
    next_sweep: Instant,
}

/// What a sweep brought.
struct Tidied {
    /// How many messages became ready.
    released: u64,
    /// The queue's backoff, if it was to be read again.
    backoff: Option<Backoff>,
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
        consumer: Option<Arc<dyn Consumer>>,
        claim: Claim,
        handler: H,
        options: RunOptions,
    ) -> Result<Self> {
        let queue = store.queues(QueueFilter::named(claim.queue.clone())).await?.pop();
        let missing = || Error::QueueNotFound { queue: claim.queue.clone() };
        let backoff = queue.ok_or_else(missing)?.settings.retry;
        let fetcher = Fetcher::new(store.clone(), consumer, claim).await?;
        let telemetry = Arc::new(Telemetry::new(fetcher.queue()));
        let (wakeups, now) = (store.wakeups(fetcher.queue()), Instant::now());
        Ok(Self {
            pace: Pace::new(options.poll_interval),
            crowd: Crowd::default(),
            store,
            fetcher,
            crew: Crew::new(handler, &options, telemetry.clone()),
            options,
            report: Report::default(),
            telemetry,
            backoff,
            backoff_used: false,
            wakeups,
            stopping: Stopping::No,
            leases: Leases::default(),
            has_lost: false,
            outbox: Vec::new(),
            flush: FLUSH,
            settle_after: now,
            settle_errors: 0,
            renew_after: now,
            renew_errors: 0,
            registering: None,
            claiming: FuturesUnordered::new(),
            asked: 0,
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
            self.fence();
            self.start_claims();
            self.start_settle();
            self.start_renewal();
            self.start_sweep();
            if self.is_drained() {
                break Ok(());
            }
            let (deadline, due) = (self.stop_deadline(), self.next_due());
            let listens = self.claims() && self.claiming.is_empty() && self.pace.listens();
            tokio::select! {
                () = until.cancelled(), if self.stopping == Stopping::No => self.stop(),
                () = at(deadline) => if self.stop_harder() { break Ok(()) },
                done = self.crew.done() => done.into_iter().for_each(|done| self.conclude(done)),
                Some(answered) = self.claiming.next() => {
                    if let Err(error) = self.claimed(answered) { break Err(error) }
                    // From a quiet queue: the handler is begun before the next claim.
                    if !self.pace.is_busy() { yield_now().await }
                }
                own = take(&mut self.registering) => self.registered(own),
                (settlements, outcomes) = take(&mut self.settling) => self.settled(settlements, outcomes),
                (sent, renewals, outcomes) = take(&mut self.renewing) => self.renewed(sent, &renewals, outcomes),
                tidied = take(&mut self.sweeping) => self.swept(tidied),
                // One that comes while a claim is in flight, which may have missed it, waits.
                () = wake(&mut self.wakeups), if listens => self.pace.again(),
                () = at(due) => {}
            }
        };
        self.end().await;
        ended.map(|()| self.report)
    }

    async fn end(&mut self) {
        self.report.unsettled +=
            (outcomes_in(&self.outbox) + self.in_settling + self.leases.len()) as u64;
        self.leases.cancel_all();
        self.crew.end().await;
        let stop = retry::while_unavailable(3, || self.fetcher.stop());
        if !matches!(tokio::time::timeout(FLUSH_GRACE, stop).await, Ok(Ok(()))) {
            tracing::warn!("could not mark the worker stopped; its leases will run out");
        }
        tracing::info!(report = %self.report, "the run loop has stopped");
    }

    fn start_claims(&mut self) {
        while let Some(limit) = self.next_claim() {
            // What wake-ups told of so far, this claim sees.
            self.wakeups.as_mut().map(Wakeups::forget);
            self.asked += limit.count();
            self.claiming.push(self.fetcher.claim(limit).boxed());
        }
    }

    /// How many messages to claim now, if any. From a queue that has plenty two claims of half of
    /// what the loop may hold are on their way at once, unless the store is crowded.
    fn next_claim(&self) -> Option<BatchSize> {
        let (free, capacity) = (self.free(), self.crew.capacity());
        let half = capacity.div_ceil(2).max(self.crew.handler().group_size());
        let is_alone = self.pace.is_busy() && !self.crowd.is_crowded();
        let (claims, most) = if is_alone { (CLAIMS, half) } else { (1, capacity) };
        let is_idle = self.crew.has_none_waiting() && self.claiming.is_empty();
        let is_worthwhile = is_idle || free * 2 >= capacity;
        if !self.claims() || !self.pace.is_due() || !is_worthwhile || self.claiming.len() >= claims
        {
            return None;
        }
        // None is free: no batch is so small.
        BatchSize::new(free.min(most).min(BatchSize::MAX.count())).ok()
    }

    fn claimed(&mut self, answered: Answered) -> Result<()> {
        let Answered { sent, limit, claimed } = answered;
        self.asked -= limit;
        match claimed {
            Ok(Claimed { messages, due_in }) if messages.is_empty() => {
                let reach = self.wakeups.as_ref().map_or(Reach::Process, Wakeups::reach);
                self.pace.idle(due_in, reach);
            }
            Ok(Claimed { messages, .. }) => {
                let is_full = messages.len() == limit;
                self.pace.found(is_full);
                if is_full {
                    self.crowd.claimed(limit, sent.elapsed());
                }
                self.telemetry.claimed(&messages);
                self.begin(messages, sent);
            }
            Err(Error::WorkerNotReady { state: WorkerState::Suspended, .. }) => {
                self.pace.suspended();
            }
            Err(error @ Error::WorkerNotReady { replaced_by: Some(_), .. })
            | Err(error @ Error::QueueNotFound { .. }) => {
                tracing::error!(%error, "the run loop ends");
                return Err(error);
            }
            // The other claim has told of it, and the loop goes on as somebody else.
            Err(Error::WorkerNotReady { worker, .. } | Error::WorkerNotFound { worker })
                if self.registering.is_some() || worker != self.fetcher.consumer().id() => {}
            Err(error @ (Error::WorkerNotReady { .. } | Error::WorkerNotFound { .. })) => {
                tracing::warn!(%error, "taken for dead; registering anew");
                for receipt in self.leases.give_up_all() {
                    self.lost(receipt, "its worker was taken for dead");
                }
                self.registering = Some(Box::pin(self.fetcher.register()));
            }
            Err(error) => {
                tracing::warn!(%error, "could not claim; trying again");
                self.pace.failed();
            }
        }
        Ok(())
    }

    /// Has messages handled that were claimed by a request sent at `sent`.
    fn begin(&mut self, messages: Vec<Message>, sent: Instant) {
        let mut jobs = Vec::with_capacity(messages.len());
        for messages in groups(self.crew.handler(), messages) {
            let Some(first) = messages.first() else { continue };
            let consumer = self.fetcher.consumer().clone();
            let context = Context::new(self.store.clone(), Some(consumer), first);
            let receipts = self.leases.hold(&messages, sent, &context);
            jobs.push(Job { messages, receipts, context });
        }
        // No handler begins under a lease that has lapsed on its way here.
        if self.fence() || self.stopping != Stopping::No {
            let is_wanted =
                |job: &Job| self.stopping == Stopping::No && self.leases.hold_all(&job.receipts);
            let (wanted, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_wanted);
            self.give_back(others.into_iter().flat_map(|job| job.receipts).collect());
            jobs = wanted;
        }
        self.crew.add(jobs);
    }

    fn registered(&mut self, own: Result<Arc<dyn Consumer>>) {
        match own {
            Ok(own) => {
                self.fetcher.go_on_as(own);
                self.pace.again();
            }
            // The next claim finds the worker stopped again, or the queue gone.
            Err(error) => {
                tracing::warn!(%error, "could not register anew; trying again");
                self.pace.failed();
            }
        }
    }

    fn conclude(&mut self, done: Done) {
        let Done { receipts, attempts, outcome } = done;
        let action = match outcome {
            Ok(Verdict::Archive) => Action::Archive,
            Ok(Verdict::Release) => Action::Release(Delay::ZERO),
            Ok(Verdict::Settled) => {
                for receipt in receipts {
                    self.report.settled += 1;
                    self.leases.drop(receipt);
                }
                return;
            }
            Err(error) => {
                let action = retry::action(&error, || match &self.options.backoff {
                    Some(delays) => delays.delay(attempts),
                    None => self.backoff.delay(attempts),
                });
                if let Action::Fail { .. } = action {
                    tracing::warn!(queue = %self.fetcher.queue(), %error, "a handler failed");
                    self.backoff_used = true;
                }
                action
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
            let held = self.leases.drop(receipt);
            // What is no longer held is lost. A renewal may have come through all the same: nobody
            // works on it now, so it is to lapse at once, unless somebody else has it.
            let action = if held { action.clone() } else { LAPSE };
            self.outbox.push(Settlement { receipt, action });
        }
    }

    fn start_settle(&mut self) {
        if self.settling.is_some() || self.outbox.is_empty() || self.settle_after > Instant::now() {
            return;
        }
        let rest = self.outbox.split_off(self.outbox.len().min(self.flush));
        let settlements = std::mem::replace(&mut self.outbox, rest);
        self.in_settling = outcomes_in(&settlements);
        self.telemetry.settling(settlements.len());
        let (store, span) =
            (self.store.clone(), settle_span(self.fetcher.queue(), settlements.len()));
        let settling = async move {
            let settle = Settle { settlements: settlements.clone(), now: None };
            (settlements, store.settle(settle).await)
        };
        self.settling = Some(Box::pin(settling.instrument(span)));
    }

    fn settled(&mut self, settlements: Vec<Settlement>, outcomes: Outcomes) {
        self.in_settling = 0;
        match outcomes {
            Ok(outcomes) => {
                (self.settle_errors, self.flush) = (0, FLUSH);
                for (settlement, outcome) in settlements.iter().zip(outcomes) {
                    outcome.into_iter().for_each(|settled| self.telemetry.settled(settled));
                    match outcome {
                        Ok(Settled::Archived) => self.report.handled += 1,
                        Ok(Settled::Retrying) => self.report.failed += 1,
                        Ok(Settled::Dead) => self.report.dead += 1,
                        Ok(Settled::Released) => self.report.released += 1,
                        // What lapses was counted when it was lost.
                        Ok(Settled::Deleted | Settled::Extended(_)) => {}
                        Err(LeaseLost) if settlement.action == LAPSE => {}
                        Err(LeaseLost) => self.lost(settlement.receipt, "settled too late"),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, waiting = settlements.len(), "could not settle; repeating");
                self.settle_errors = self.settle_errors.saturating_add(1);
                self.settle_after = Instant::now() + error_pause(self.settle_errors);
                if !error.is_unavailable() {
                    // One settlement that the store cannot take must not block the others.
                    self.flush = settlements.len().div_ceil(2);
                }
                self.outbox.extend(settlements);
            }
        }
    }

    /// Gives up the leases that are about to lapse, and cancels their handlers; whether there are
    /// any.
    fn fence(&mut self) -> bool {
        let lapsing = self.leases.give_up_lapsing(Instant::now());
        let are_some = !lapsing.is_empty();
        for receipt in lapsing {
            self.lost(receipt, "could not be renewed in time; its handler is cancelled");
        }
        if std::mem::take(&mut self.has_lost) {
            // What was lost while it waited; the rest of its group goes back.
            let receipts = self.crew.dismiss(|job| !self.leases.hold_all(&job.receipts));
            self.give_back(receipts);
        }
        are_some
    }

    fn start_renewal(&mut self) {
        let now = Instant::now();
        if self.next_renewal().is_none_or(|next| next > now) {
            return;
        }
        let settlements = self.leases.renewals(now);
        let timeouts = settlements.iter().filter_map(|renewal| extension(&renewal.action));
        let Some(shortest) = timeouts.map(VisibilityTimeout::duration).min() else { return };
        // One without an answer must leave time for another one.
        let limit = (shortest / 6).max(Duration::from_millis(100));
        let store = self.store.clone();
        self.renewing = Some(Box::pin(async move {
            let settle = Settle { settlements: settlements.clone(), now: None };
            let outcomes = tokio::time::timeout(limit, store.settle(settle)).await;
            let unanswered = || format!("no answer within {limit:?}");
            let outcomes = outcomes
                .unwrap_or_else(|_| Err(Error::Unavailable { reason: unanswered(), source: None }));
            (now, settlements, outcomes)
        }));
    }

    fn renewed(&mut self, sent: Instant, renewals: &[Settlement], outcomes: Outcomes) {
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(%error, "could not renew leases; trying again");
                self.renew_errors = self.renew_errors.saturating_add(1);
                self.renew_after = Instant::now() + error_pause(self.renew_errors);
                return;
            }
        };
        self.renew_errors = 0;
        let (kept, gone): (Vec<_>, Vec<_>) =
            renewals.iter().zip(outcomes).partition(|(_, outcome)| outcome.is_ok());
        for (Settlement { receipt, .. }, _) in gone {
            // What was settled meanwhile is not lost.
            if self.leases.give_up(*receipt) {
                self.lost(*receipt, "somebody else has taken it; its handler is cancelled");
            }
        }
        let kept = kept
            .into_iter()
            .filter_map(|(renewal, _)| Some((renewal.receipt, extension(&renewal.action)?)));
        self.leases.renewed(kept, sent);
    }

    fn lost(&mut self, receipt: Receipt, why: &str) {
        (self.report.lost, self.has_lost) = (self.report.lost + 1, true);
        self.telemetry.lost();
        tracing::warn!(id = receipt.id.0, why, "lost a lease");
    }

    fn start_sweep(&mut self) {
        if self.sweeping.is_some()
            || self.stopping != Stopping::No
            || self.next_sweep > Instant::now()
        {
            return;
        }
        let store = self.store.clone();
        let failed = std::mem::take(&mut self.backoff_used);
        let queue = failed.then(|| QueueFilter::named(self.fetcher.queue().clone()));
        self.sweeping = Some(Box::pin(async move {
            let swept = store.sweep(Sweep::default()).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "could not sweep; trying again later");
                Swept::default()
            });
            let queue = match queue {
                Some(queue) => store.queues(queue).await.ok().and_then(|mut queues| queues.pop()),
                None => None,
            };
            Tidied { released: swept.released, backoff: queue.map(|queue| queue.settings.retry) }
        }));
    }

    fn swept(&mut self, tidied: Tidied) {
        self.next_sweep = Instant::now() + sweep_pause();
        if tidied.released > 0 && self.pace.listens() {
            self.pace.again();
        }
        self.backoff = tidied.backoff.unwrap_or_else(|| self.backoff.clone());
    }

    /// Begins to stop: nothing new is started, what waits goes back.
    fn stop(&mut self) {
        self.stopping = Stopping::Grace(far(self.options.grace));
        let waiting = self.crew.dismiss(|_| true);
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
            && self.crew.len() == 0
            && self.claiming.is_empty()
            && self.settling.is_none()
            && self.outbox.is_empty()
    }

    /// How many messages it may still ask for.
    fn free(&self) -> usize {
        self.crew.capacity().saturating_sub(self.crew.len() + self.asked)
    }

    fn stop_deadline(&self) -> Option<Instant> {
        match self.stopping {
            Stopping::No => None,
            Stopping::Grace(end) | Stopping::Flush(end) => Some(end),
        }
    }

    /// Whether it wants messages at all at present.
    fn claims(&self) -> bool {
        self.stopping == Stopping::No && self.registering.is_none() && self.outbox.len() < BACKLOG
    }

    /// When something is to be started next. Nothing here is due already: the top of the loop has
    /// started it, or it waits for an answer.
    fn next_due(&self) -> Option<Instant> {
        let waits = self.claims() && self.claiming.is_empty() && !self.pace.is_due();
        let claim = (waits && self.free() > 0).then(|| self.pace.next());
        let settle =
            (self.settling.is_none() && !self.outbox.is_empty()).then_some(self.settle_after);
        let sweeps = self.sweeping.is_none() && self.stopping == Stopping::No;
        let sweep = sweeps.then_some(self.next_sweep);
        let times = [claim, settle, sweep, self.next_renewal(), self.leases.next_fence()];
        times.into_iter().flatten().min()
    }

    fn next_renewal(&self) -> Option<Instant> {
        let next = self.leases.next_renewal().filter(|_| self.renewing.is_none());
        next.map(|next| next.max(self.renew_after))
    }
}

/// How many of them are outcomes of messages.
fn outcomes_in(settlements: &[Settlement]) -> usize {
    settlements.iter().filter(|settlement| settlement.action != LAPSE).count()
}

fn extension(action: &Action) -> Option<VisibilityTimeout> {
    match action {
        Action::Extend(timeout) => Some(*timeout),
        _ => None,
    }
}

/// That far from now; a day stands for anything longer than a day.
fn far(grace: Duration) -> Instant {
    Instant::now() + grace.min(Duration::from_secs(24 * 60 * 60))
}

fn sweep_pause() -> Duration {
    SWEEP_INTERVAL.mul_f64(0.8 + fastrand::f64() * 0.4)
}

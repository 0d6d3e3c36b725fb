//! The handlers of a run loop at work, and the messages that wait for one.
//!
//! Handlers run in tasks, the runners. A runner goes on with the next message for as long as handlers
//! end without waiting for anything; when one waits, another runner is hired for what is left. So a
//! handler that waits has a task of its own, and many quick ones share one, with one wake-up of the
//! loop for all: the wake-ups of threads are what would cost most.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify, task::yield_now, time::Instant};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::{RunOptions, wait::within};
use crate::{
    Context, Handler, HandlerError, Message, Receipt, Result,
    handle::{Verdict, caught},
    telemetry::{Telemetry, handle_span},
};

/// How many outcomes a runner keeps to itself at most, and for how long.
const KEPT: usize = 64;
const KEPT_FOR: Duration = Duration::from_micros(200);
/// A handler that takes this long without waiting has kept others from the thread: they go first.
const LONG: Duration = Duration::from_millis(1);

/// Messages to be handled together.
pub(super) struct Job {
    pub(super) messages: Vec<Message>,
    pub(super) receipts: Vec<Receipt>,
    pub(super) context: Context,
}

/// What a handler leaves.
pub(super) struct Done {
    pub(super) receipts: Vec<Receipt>,
    pub(super) attempts: u32,
    pub(super) outcome: Result<Verdict, HandlerError>,
}

/// The runners, and what they share with their loop.
pub(super) struct Crew<H> {
    shared: Arc<Shared<H>>,
    prefetch: Option<usize>,
    /// So many runners begin at once, one per thread of the runtime, for handlers that keep theirs
    /// busy.
    eager: usize,
}

struct Shared<H> {
    handler: H,
    concurrency: usize,
    timeout: Option<Duration>,
    telemetry: Arc<Telemetry>,
    state: Mutex<State>,
    /// Told of outcomes.
    news: Notify,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// How many messages wait.
    buffered: usize,
    /// How many messages are in work, or done and not yet collected.
    in_work: usize,
    runners: usize,
    done: Vec<Done>,
}

impl<H: Handler + 'static> Crew<H> {
    pub(super) fn new(handler: H, options: &RunOptions, telemetry: Arc<Telemetry>) -> Self {
        let RunOptions { concurrency, prefetch, timeout, .. } = *options;
        let (state, news, tasks) = (Mutex::default(), Notify::new(), TaskTracker::new());
        let shared = Shared { handler, concurrency, timeout, telemetry, state, news, tasks };
        let eager = Handle::current().metrics().num_workers();
        Self { shared: Arc::new(shared), prefetch, eager }
    }

    pub(super) fn handler(&self) -> &H {
        &self.shared.handler
    }

    /// How many messages may be here.
    pub(super) fn capacity(&self) -> usize {
        let at_work = self.shared.concurrency * self.shared.handler.group_size();
        at_work + self.prefetch.unwrap_or(at_work)
    }

    /// How many messages are here.
    pub(super) fn len(&self) -> usize {
        let state = self.shared.state();
        state.buffered + state.in_work
    }

    /// Whether no message waits for a handler.
    pub(super) fn has_none_waiting(&self) -> bool {
        self.shared.state().waiting.is_empty()
    }

    /// Takes jobs in, to be begun in this order as handlers become free. Each ends when it is done,
    /// or with its context.
    pub(super) fn add(&self, jobs: Vec<Job>) {
        {
            let mut state = self.shared.state();
            state.buffered += jobs.iter().map(|job| job.messages.len()).sum::<usize>();
            state.waiting.extend(jobs);
        }
        self.shared.hire(self.eager);
    }

    /// Dismisses waiting jobs that are not wanted any more, and answers with their receipts.
    pub(super) fn dismiss(&self, unwanted: impl Fn(&Job) -> bool) -> Vec<Receipt> {
        let mut state = self.shared.state();
        let (dismissed, rest): (VecDeque<_>, _) = state.waiting.drain(..).partition(unwanted);
        state.waiting = rest;
        let receipts: Vec<_> = dismissed.into_iter().flat_map(|job| job.receipts).collect();
        state.buffered -= receipts.len();
        receipts
    }

    /// Waits for outcomes, and answers with all there are.
    pub(super) async fn done(&mut self) -> Vec<Done> {
        loop {
            {
                let mut state = self.shared.state();
                let done = std::mem::take(&mut state.done);
                if !done.is_empty() {
                    state.in_work -= done.iter().map(|done| done.receipts.len()).sum::<usize>();
                    return done;
                }
            }
            self.shared.news.notified().await;
        }
    }

    /// Waits until all runners have ended; contexts are to be cancelled before.
    pub(super) async fn end(&self) {
        self.dismiss(|_| true);
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl<H: Handler + 'static> Shared<H> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hires up to `most` runners, as far as there are jobs and handlers free.
    fn hire(self: &Arc<Self>, most: usize) {
        let hired = {
            let mut state = self.state();
            let free = self.concurrency - state.runners;
            let hired = most.min(free).min(state.waiting.len());
            state.runners += hired;
            hired
        };
        for _ in 0..hired {
            self.tasks.spawn(self.clone().run());
        }
    }

    /// The next job for a runner; without one it ends.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.state();
        let Some(job) = state.waiting.pop_front() else {
            state.runners -= 1;
            return None;
        };
        state.buffered -= job.messages.len();
        state.in_work += job.messages.len();
        Some(job)
    }

    async fn run(self: Arc<Self>) {
        let (mut kept, mut since) = (Vec::with_capacity(KEPT), Instant::now());
        while let Some(job) = self.next_job() {
            let Job { messages, receipts, context } = job;
            let (began, attempts) = (Instant::now(), context.attempt());
            self.telemetry.started(receipts.len());
            let span = handle_span(&messages);
            let mut handling = pin!(caught(self.handle(messages, context)).instrument(span));
            let (outcome, has_waited) = match futures::poll!(handling.as_mut()) {
                Poll::Ready(outcome) => (outcome, false),
                Poll::Pending => {
                    self.report(&mut kept);
                    self.hire(1);
                    (handling.await, true)
                }
            };
            let ended = Instant::now();
            self.telemetry.done(receipts.len(), ended - began);
            kept.push(Done { receipts, attempts, outcome });
            if has_waited || kept.len() >= KEPT || ended - since > KEPT_FOR {
                self.report(&mut kept);
                since = ended;
            }
            if !has_waited && ended - began > LONG {
                yield_now().await;
            }
            tokio::task::coop::consume_budget().await;
        }
        self.report(&mut kept);
    }

    async fn handle(
        &self,
        messages: Vec<Message>,
        context: Context,
    ) -> Result<Verdict, HandlerError> {
        if context.cancelled().is_cancelled() {
            return Ok(Verdict::Release);
        }
        let handling = within(self.timeout, self.handler.handle(messages, context.clone()));
        let mut handling = pin!(handling);
        // Most need not be waited for.
        if let Poll::Ready(outcome) = futures::poll!(handling.as_mut()) {
            return outcome;
        }
        tokio::select! {
            biased;
            outcome = handling => outcome,
            () = context.cancelled().cancelled() => Ok(Verdict::Release),
        }
    }

    /// Tells the loop of outcomes.
    fn report(&self, kept: &mut Vec<Done>) {
        if !kept.is_empty() {
            self.state().done.append(kept);
            self.news.notify_one();
        }
    }
}

//! Group commit: calls that are in flight at the same time share a statement and a commit.
//!
//! While one flush is on its way the next one gathers; an idle store flushes at once, so nothing
//! ever waits for a timer. Each caller's future resolves after the commit of its own rows. The
//! technique is the databases' own (D. Gawlick, "Processing 'hot spots' in high performance
//! systems", 1985), one level up.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pgqrs::{Error, Result};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

/// A call of so many rows runs by itself: it gains little by company, and several keep several of the
/// server's processors busy.
const ALONE: usize = 50;
/// Rows in one flush at most.
const ROWS: usize = 1_000;
/// Bytes of payload in one flush at most.
const BYTES: usize = 4 * 1024 * 1024;

/// How often a flush lets others run before it leaves.
const YIELDS: u32 = 4;
/// How long a flush waits for callers of another group at most.
const PATIENCE: Duration = Duration::from_millis(1);
/// For so long after a flush others may be about to call.
const LIVELY: Duration = Duration::from_millis(10);

/// What a caller hands in.
pub(crate) trait Call: Send + Sync + 'static {
    /// What it is answered.
    type Answer: Send;

    /// How many rows it adds to the statement.
    fn rows(&self) -> usize;

    /// How many bytes it adds, roughly.
    fn bytes(&self) -> usize;

    /// Whether it may share a statement with `first`.
    fn shares_with(&self, first: &Self) -> bool;

    /// One call for this and `others`, which share a statement with it.
    fn joined_by(&self, others: &[Self]) -> Self
    where
        Self: Sized;

    /// The answer of the joined call, for each of `calls`.
    fn split(calls: &[Self], answer: Self::Answer) -> Vec<Self::Answer>
    where
        Self: Sized;
}

/// Gathers calls and flushes them.
pub(crate) struct Group<C: Call> {
    waiting: Arc<Mutex<Waiting<C>>>,
    most_flushes: usize,
    turns: Arc<Turns>,
    /// Those of the group whose callers, once they are answered, are about to call here.
    followed: Option<Arc<Turns>>,
}

/// The turns of a group.
#[derive(Debug, Default)]
struct Turns {
    count: AtomicUsize,
    /// When the last flush landed.
    landed: Mutex<Option<Instant>>,
    /// A flush has landed and its callers are answered, or a turn is over.
    changed: Notify,
}

impl Turns {
    /// While there is a turn, waits for the next landing; for a moment at most.
    async fn land(&self) {
        let seen = self.landed();
        let landed = async {
            loop {
                let changed = self.changed.notified();
                let is_over = self.count.load(Ordering::SeqCst) == 0;
                if is_over || self.landed() != seen {
                    return;
                }
                changed.await;
            }
        };
        let _ = timeout(PATIENCE, landed).await;
    }

    fn landed(&self) -> Option<Instant> {
        *lock(&self.landed)
    }

    fn end(&self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

/// Calls, each with where its answer goes.
type Waiting<C> = Vec<(C, oneshot::Sender<Result<<C as Call>::Answer>>)>;

impl<C: Call> Group<C> {
    /// Up to so many flushes are on their way at once: while one waits for its commit another one is
    /// built.
    pub(crate) fn with_flushes(most_flushes: usize) -> Self {
        Self { waiting: Arc::default(), most_flushes, turns: Arc::default(), followed: None }
    }

    /// Callers of `other` are about to call here when they are answered: a flush waits for one of
    /// `other` that is on its way, so that they go together.
    pub(crate) fn following<D: Call>(self, other: &Group<D>) -> Self {
        Self { followed: Some(other.turns.clone()), ..self }
    }

    /// Hands in a call, and answers once it is committed. `run` runs one call, or several joined.
    ///
    /// A caller that is dropped leaves its call to happen wholly. If a shared statement fails by an
    /// error of the data, each call is run again by itself, so that only the guilty one gets the
    /// error; if its outcome is unknown all learn that, and nothing is repeated.
    pub(crate) async fn call<F, Fut>(&self, call: C, run: F) -> Result<C::Answer>
    where
        F: Fn(C) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C::Answer>> + Send,
    {
        if call.rows() >= ALONE {
            let alone = async move { run(call).await };
            return tokio::spawn(alone).await.unwrap_or_else(|_| Err(shutting_down()));
        }
        let (answer, answered) = oneshot::channel();
        let is_free = {
            let mut waiting = lock(&self.waiting);
            waiting.push((call, answer));
            let is_free = self.turns.count.load(Ordering::SeqCst) < self.most_flushes;
            self.turns.count.fetch_add(usize::from(is_free), Ordering::SeqCst);
            is_free
        };
        if is_free {
            let (waiting, all) = (self.waiting.clone(), self.turns.clone());
            let mut turn = Turn { waiting, all, is_over: false };
            let followed = self.followed.clone();
            tokio::spawn(async move {
                loop {
                    if let Some(followed) = &followed
                        && !lock(&turn.waiting).is_empty()
                    {
                        followed.land().await;
                    }
                    // Those who were answered together are about to call together; to let others run
                    // wakes another thread.
                    if turn.all.landed().is_some_and(|landed| landed.elapsed() < LIVELY) {
                        for _ in 0..YIELDS {
                            tokio::task::yield_now().await;
                        }
                    }
                    let Some((calls, answers)) = turn.next_flush() else { return };
                    let outcomes = flush(calls, &run).await;
                    *lock(&turn.all.landed) = Some(Instant::now());
                    for (answer, outcome) in answers.into_iter().zip(outcomes) {
                        // A caller that is gone wants no answer.
                        let _ = answer.send(outcome);
                    }
                    turn.all.changed.notify_waiters();
                }
            });
        }
        answered.await.unwrap_or_else(|_| Err(shutting_down()))
    }
}

fn shutting_down() -> Error {
    Error::Unavailable { reason: "the runtime is shutting down".into(), source: None }
}

async fn flush<C: Call, Fut>(mut calls: Vec<C>, run: &impl Fn(C) -> Fut) -> Vec<Result<C::Answer>>
where
    Fut: Future<Output = Result<C::Answer>>,
{
    if calls.len() == 1 {
        // Moved, not copied: it may be large.
        return vec![run(calls.remove(0)).await];
    }
    let [first, others @ ..] = calls.as_slice() else { return Vec::new() };
    match run(first.joined_by(others)).await {
        Ok(answer) => C::split(&calls, answer).into_iter().map(Ok).collect(),
        Err(Error::Unavailable { reason, .. }) => {
            let unknown = |_: &C| Err(Error::Unavailable { reason: reason.clone(), source: None });
            calls.iter().map(unknown).collect()
        }
        Err(_) => {
            let mut outcomes = Vec::with_capacity(calls.len());
            for call in calls {
                outcomes.push(run(call).await);
            }
            outcomes
        }
    }
}

impl<C: Call> fmt::Debug for Group<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

/// The right to flush, one of the few.
struct Turn<C: Call> {
    waiting: Arc<Mutex<Waiting<C>>>,
    all: Arc<Turns>,
    is_over: bool,
}

type Flush<C> = (Vec<C>, Vec<oneshot::Sender<Result<<C as Call>::Answer>>>);

impl<C: Call> Turn<C> {
    /// The calls that go together next: the first that waits, and those behind it that share with
    /// it. Without any the turn is over.
    fn next_flush(&mut self) -> Option<Flush<C>> {
        let mut waiting = lock(&self.waiting);
        let (mut calls, mut answers, mut later) = (Vec::<C>::new(), Vec::new(), Vec::new());
        let (mut rows, mut bytes) = (0, 0);
        for (call, answer) in waiting.drain(..) {
            let fits = rows + call.rows() <= ROWS && bytes + call.bytes() <= BYTES;
            if calls.first().is_none_or(|first| fits && call.shares_with(first)) {
                (rows, bytes) = (rows + call.rows(), bytes + call.bytes());
                calls.push(call);
                answers.push(answer);
            } else {
                later.push((call, answer));
            }
        }
        *waiting = later;
        if calls.is_empty() {
            self.all.end();
            self.is_over = true;
            return None;
        }
        Some((calls, answers))
    }
}

impl<C: Call> Drop for Turn<C> {
    /// A turn that ends in the middle, with its runtime or by a panic, is free for the next caller.
    fn drop(&mut self) {
        if !self.is_over {
            self.all.end();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

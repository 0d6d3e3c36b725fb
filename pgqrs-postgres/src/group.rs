//! Group commit: calls that are in flight at the same time share a statement and a commit.
//!
//! While one flush is on its way the next one gathers; an idle store flushes at once. Each caller's
//! future resolves after the commit of its own rows. The technique is the databases' own (D. Gawlick,
//! "Processing 'hot spots' in high performance systems", 1985), one level up.
//!
//! Producers enqueue and enqueue again, consumers claim and archive in turns, and a statement's start-up
//! is shared best by all of them. So a flush waits for those who are about to call, having been
//! answered, but only while they do come within a moment, all of them: each landing tells.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pgqrs::{Error, Result};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};

/// A call of so many rows runs by itself: it gains little by company, and several keep several of the
/// server's processors busy.
const ALONE: usize = 50;
/// Rows in one flush at most.
const ROWS: usize = 1_000;
/// Bytes of payload in one flush at most.
const BYTES: usize = 4 * 1024 * 1024;

/// So many callers share a start-up well: a flush waits for no more.
const ENOUGH: usize = 32;
/// How long a flush waits at most for callers that it expects, and how long one may be on its way
/// for the next one to wait.
const PATIENCE: Duration = Duration::from_millis(2);

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
    waiting: Mutex<Waiting<C>>,
    /// All who are expected have called.
    gathered: Notify,
    most_flushes: usize,
    callers: Arc<Callers>,
    coming: Coming,
}

/// Who is about to call.
enum Coming {
    /// The group's own callers, when they are answered.
    Again,
    /// Those of other groups, whose flush has left: they are answered soon.
    From(Arc<Callers>),
}

/// Counts the callers of a group, or of several.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    /// Whose flush has left.
    taken: AtomicUsize,
    answered: AtomicUsize,
}

/// Where the answer to a call goes.
type Answer<C> = oneshot::Sender<Result<<C as Call>::Answer>>;

/// What waits for the next flush.
struct Waiting<C: Call> {
    calls: Vec<(C, Answer<C>)>,
    flushes: usize,
    /// How many of those coming had been answered when the last flush left: they have called, or are
    /// expected no more.
    seen: usize,
    /// Whether all who were expected had called by the time that the last flush landed, soon after it
    /// left: only then the next one waits for those it expects.
    is_punctual: bool,
}

impl<C: Call> Group<C> {
    /// Callers call again when they are answered. Two flushes at a time: while one waits for its commit
    /// the other one is built.
    pub(crate) fn repeating() -> Arc<Self> {
        Self::new(2, Arc::default(), Coming::Again)
    }

    /// Those `coming` call here when they are answered elsewhere; here they are counted as `callers`.
    /// One flush at a time: they go together.
    pub(crate) fn following(coming: &Arc<Callers>, callers: &Arc<Callers>) -> Arc<Self> {
        Self::new(1, callers.clone(), Coming::From(coming.clone()))
    }

    fn new(most_flushes: usize, callers: Arc<Callers>, coming: Coming) -> Arc<Self> {
        let waiting = Waiting { calls: Vec::new(), flushes: 0, seen: 0, is_punctual: false };
        let (waiting, gathered) = (Mutex::new(waiting), Notify::new());
        Arc::new(Self { waiting, gathered, most_flushes, callers, coming })
    }

    /// Hands in a call, and answers once it is committed. `run` runs one call, or several joined.
    ///
    /// A caller that is dropped leaves its call to happen wholly. If a shared statement fails by an
    /// error of the data, each call is run again by itself, so that only the guilty one gets the
    /// error; if its outcome is unknown all learn that, and nothing is repeated.
    pub(crate) async fn call<F, Fut>(self: &Arc<Self>, call: C, run: F) -> Result<C::Answer>
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
            let mut waiting = self.waiting();
            waiting.calls.push((call, answer));
            if waiting.flushes > 0 && self.missing(&waiting) == 0 {
                self.gathered.notify_waiters();
            }
            let is_free = waiting.flushes < self.most_flushes;
            waiting.flushes += usize::from(is_free);
            is_free
        };
        if is_free {
            let mut turn = Turn { group: self.clone(), flush: None, is_over: false };
            tokio::spawn(async move {
                while let Some((calls, answers)) = turn.take_off().await {
                    let outcomes = flush(calls, &run).await;
                    turn.land();
                    for (answer, outcome) in answers.into_iter().zip(outcomes) {
                        // A caller that is gone wants no answer.
                        let _ = answer.send(outcome);
                    }
                }
            });
        }
        answered.await.unwrap_or_else(|_| Err(shutting_down()))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<C>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many callers there have been or will be soon, since the last flush left.
    fn expected(&self, waiting: &Waiting<C>) -> usize {
        let coming = match &self.coming {
            Coming::Again => &self.callers.answered,
            Coming::From(callers) => &callers.taken,
        };
        coming.load(Ordering::SeqCst).saturating_sub(waiting.seen)
    }

    /// For how many of them it is worth to wait.
    fn missing(&self, waiting: &Waiting<C>) -> usize {
        let calls = waiting.calls.len();
        let expected = if waiting.is_punctual && calls > 0 { self.expected(waiting) } else { 0 };
        expected.min(ENOUGH).saturating_sub(calls)
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
    group: Arc<Group<C>>,
    flush: Option<Flush>,
    is_over: bool,
}

/// A flush on its way.
struct Flush {
    calls: usize,
    /// How many were expected when it left.
    expected: usize,
    left: Instant,
}

impl<C: Call> Turn<C> {
    /// The calls of the next flush, and where their answers go. Without any the turn is over.
    async fn take_off(&mut self) -> Option<(Vec<C>, Vec<Answer<C>>)> {
        self.gather().await;
        let mut waiting = self.group.waiting();
        let expected = self.group.expected(&waiting);
        let (calls, answers) = waiting.next_flush();
        if calls.is_empty() {
            waiting.flushes -= 1;
            self.is_over = true;
            return None;
        }
        let coming = match &self.group.coming {
            Coming::Again => &self.group.callers,
            Coming::From(callers) => callers,
        };
        waiting.seen = coming.answered.load(Ordering::SeqCst);
        self.group.callers.taken.fetch_add(calls.len(), Ordering::SeqCst);
        self.flush = Some(Flush { calls: calls.len(), expected, left: Instant::now() });
        Some((calls, answers))
    }

    /// Waits for those who are about to call, for a moment at most.
    async fn gather(&self) {
        let all = async {
            loop {
                let gathered = self.group.gathered.notified();
                if self.group.missing(&self.group.waiting()) == 0 {
                    return;
                }
                gathered.await;
            }
        };
        let _ = timeout(PATIENCE, all).await;
    }

    /// Notes that the flush has landed: its callers are about to be answered.
    fn land(&mut self) {
        let Some(flush) = self.flush.take() else { return };
        let mut waiting = self.group.waiting();
        let have_come = flush.calls + waiting.calls.len() >= flush.expected;
        waiting.is_punctual = have_come && flush.left.elapsed() < PATIENCE;
        self.group.callers.answered.fetch_add(flush.calls, Ordering::SeqCst);
    }
}

impl<C: Call> Drop for Turn<C> {
    /// A turn that ends in the middle, with its runtime or by a panic, is free for the next caller.
    fn drop(&mut self) {
        if !self.is_over {
            self.land();
            self.group.waiting().flushes -= 1;
        }
    }
}

impl<C: Call> Waiting<C> {
    /// The calls that go together next: the first that waits, and those behind it that share with
    /// it.
    fn next_flush(&mut self) -> (Vec<C>, Vec<Answer<C>>) {
        let (mut calls, mut answers, mut later) = (Vec::<C>::new(), Vec::new(), Vec::new());
        let (mut rows, mut bytes) = (0, 0);
        for (call, answer) in self.calls.drain(..) {
            let fits = rows + call.rows() <= ROWS && bytes + call.bytes() <= BYTES;
            if calls.first().is_none_or(|first| fits && call.shares_with(first)) {
                (rows, bytes) = (rows + call.rows(), bytes + call.bytes());
                calls.push(call);
                answers.push(answer);
            } else {
                later.push((call, answer));
            }
        }
        self.calls = later;
        (calls, answers)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic fails the test")]

    use tokio::{
        task::{JoinHandle, yield_now},
        time::sleep,
    };

    use super::*;

    /// So many callers; each is answered how many shared its flush.
    struct Together(usize);

    impl Call for Together {
        type Answer = usize;

        fn rows(&self) -> usize {
            self.0
        }

        fn bytes(&self) -> usize {
            0
        }

        fn shares_with(&self, _: &Self) -> bool {
            true
        }

        fn joined_by(&self, others: &[Self]) -> Self {
            Self(self.0 + others.len())
        }

        fn split(calls: &[Self], answer: usize) -> Vec<usize> {
            vec![answer; calls.len()]
        }
    }

    fn call(group: &Arc<Group<Together>>, takes: Duration) -> JoinHandle<usize> {
        let group = group.clone();
        let run = move |call: Together| async move {
            sleep(takes).await;
            Ok(call.0)
        };
        tokio::spawn(async move { group.call(Together(1), run).await.unwrap() })
    }

    async fn others_run() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    /// Of a group to which two come who are answered elsewhere, and who did come before.
    async fn with_two_to_come(takes: Duration) -> Arc<Group<Together>> {
        let coming = Arc::<Callers>::default();
        let group = Group::following(&coming, &Arc::default());
        for _ in 0..2 {
            let both = [call(&group, takes), call(&group, takes)];
            for one in both {
                assert_eq!(one.await.unwrap(), 2);
            }
            coming.taken.fetch_add(2, Ordering::SeqCst);
            coming.answered.fetch_add(2, Ordering::SeqCst);
        }
        group
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_waits_for_those_who_are_answered_elsewhere() {
        let group = with_two_to_come(Duration::ZERO).await;
        let first = call(&group, Duration::ZERO);
        others_run().await;
        assert!(!first.is_finished());
        let second = call(&group, Duration::ZERO);
        assert_eq!([first.await.unwrap(), second.await.unwrap()], [2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_a_moment_only_and_the_next_one_does_not() {
        let group = with_two_to_come(Duration::ZERO).await;
        let began = Instant::now();
        assert_eq!(call(&group, Duration::ZERO).await.unwrap(), 1);
        assert!(began.elapsed() >= PATIENCE && began.elapsed() < 2 * PATIENCE);
        let Coming::From(coming) = &group.coming else { panic!("they come from elsewhere") };
        coming.taken.fetch_add(2, Ordering::SeqCst);
        let began = Instant::now();
        assert_eq!(call(&group, Duration::ZERO).await.unwrap(), 1);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_enough_of_them_and_not_for_all() {
        let group = with_two_to_come(Duration::ZERO).await;
        let Coming::From(coming) = &group.coming else { panic!("they come from elsewhere") };
        coming.taken.fetch_add(2 * ENOUGH, Ordering::SeqCst);
        let began = Instant::now();
        for one in [(); ENOUGH].map(|()| call(&group, Duration::ZERO)) {
            assert_eq!(one.await.unwrap(), ENOUGH);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_where_a_flush_takes_long() {
        let group = with_two_to_come(2 * PATIENCE).await;
        let began = Instant::now();
        assert_eq!(call(&group, Duration::ZERO).await.unwrap(), 1);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn producers_who_were_answered_together_go_together_again() {
        let group = Group::repeating();
        let pair = [call(&group, Duration::ZERO), call(&group, Duration::ZERO)];
        for one in pair {
            assert_eq!(one.await.unwrap(), 2);
        }
        let first = call(&group, Duration::ZERO);
        others_run().await;
        let second = call(&group, Duration::ZERO);
        assert_eq!([first.await.unwrap(), second.await.unwrap()], [2, 2]);
    }
}

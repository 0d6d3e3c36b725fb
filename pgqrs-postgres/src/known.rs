//! What a store knows of a queue: where its claims may begin, and when they look for what is due.
//!
//! Rows that are gone stay in the indexes until no snapshot needs them, and a claim that began at
//! the head of the queue would walk over all of them. So claims begin at a *mark*: nothing that was
//! committed by then stands before it. A message that commits late, with a lower id, stands behind
//! the mark and is found by a *full look*, which begins at the head: at once where the claim comes
//! back short, and once a second where it does not. Where a full look is dear, because a snapshot is
//! held somewhere, no claim waits for one: once a second a *scout*, apart from claims, looks whether
//! anything stands behind the marks, and where; there the next claim begins.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use pgqrs::{QueueName, Result};
use tokio_postgres::Row;

use crate::{claim::Step, enqueue, error::column, store::Inner};

/// With the database's clock, what is due is looked for at most this often per queue and store.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A claim that has found something leaves the look to the next one, for as long as what is due is
/// noticed within a second all the same (V4).
const LOOK_AT_LAST: Duration = Duration::from_millis(900);
/// A mark is where claims had come this long ago: most of what commits late has done so by then.
const MARK_AGE: Duration = Duration::from_millis(100);
/// How often a queue whose claims are never short is looked at from its head, and how often scouts are
/// sent: what became ready is noticed within a second (V4).
const FULL_LOOK_EVERY: Duration = Duration::from_secs(1);
/// A full look that takes longer is dear.
const DEAR: Duration = Duration::from_millis(5);
/// Most leases and delays that commit late have a time no earlier than this before the last look;
/// full looks find the others.
const DUE_SLACK: TimeDelta = TimeDelta::seconds(1);
/// What is due by what is known is looked for at most this often.
const DUE_EVERY: Duration = Duration::from_millis(5);

/// As many as there are priorities; the highest has rank 0.
pub(crate) const RANKS: usize = 10;

/// Where a claim begins, and from when on it looks at what is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// The position in each rank.
    pub(crate) marks: [i64; RANKS],
    /// Leases and delays of an earlier time are known to be gone.
    pub(crate) due_since: Option<DateTime<Utc>>,
}

impl Start {
    /// At the head, and from the beginning of time.
    pub(crate) const HEAD: Self = Self { marks: [0; RANKS], due_since: None };

    pub(crate) fn read(row: &Row) -> Result<Self> {
        let (found, mut marks): (Vec<i64>, _) = (column(row, "marks")?, [0; RANKS]);
        marks.iter_mut().zip(found).for_each(|(mark, found)| *mark = found);
        Ok(Self { marks, due_since: column(row, "due_since")? })
    }
}

/// The last full look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FullLook {
    /// When it began.
    at: Instant,
    took: Duration,
    /// Where the next claim is to begin, for a scout has found something there.
    found: Option<Start>,
}

impl FullLook {
    fn is_dear(self) -> bool {
        self.took > DEAR
    }

    fn is_due(self) -> bool {
        self.at.elapsed() > FULL_LOOK_EVERY
    }
}

/// What a store knows of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// When what is due was last looked for.
    looked: Instant,
    /// When the next message becomes ready by itself, if a look has said so.
    next_due: Option<Instant>,
    /// Since when a claim has been looking.
    looking: Option<Instant>,
    /// The last claim was full: the queue is busy, and claims do not see what is due behind it.
    pub(crate) is_busy: bool,
    pub(crate) start: Start,
    /// What the marks become next, and since when claims have been there.
    coming: [i64; RANKS],
    coming_since: Instant,
    /// How far claims have come.
    reached: [i64; RANKS],
    full_look: FullLook,
    /// How many messages a run held, by what the last claim found.
    run_size: usize,
    /// How many it left of its last run: the first that the next one meets.
    left: usize,
    /// Something has told of messages since a claim began.
    is_told: bool,
}

impl Known {
    /// What `store` knows of `queue`; nothing yet: everything may be due.
    pub(crate) fn of(store: &Inner, queue: &QueueName) -> Self {
        let never = Self {
            looked: store.started,
            next_due: None,
            looking: None,
            is_busy: true,
            start: Start::HEAD,
            coming: [0; RANKS],
            coming_since: store.started,
            reached: [0; RANKS],
            full_look: FullLook { at: store.started, took: Duration::ZERO, found: None },
            run_size: enqueue::RUN,
            left: 0,
            is_told: true,
        };
        store.known().get_mut(queue).map_or(never, |known| {
            let so_far = Self { looking: None, ..*known };
            known.is_told = false;
            so_far
        })
    }

    /// Whether there is probably nothing: then a glance is enough, in place of a claim and a look.
    pub(crate) fn expects_nothing(&self, start: Start) -> bool {
        !self.is_busy && !self.is_told && start == Start::HEAD
    }

    /// Notes a glance, which took so long and showed that there was nothing at this time of the
    /// database's.
    pub(crate) fn glanced(&mut self, took: Duration, now: DateTime<Utc>, due_in: Option<Duration>) {
        self.looked_fully(took);
        self.promoted(Some(now));
        self.looked(due_in);
    }

    /// Whether it is time to look for what is due, and no other claim does.
    pub(crate) fn begins_look(&mut self, store: &Inner, queue: &QueueName) -> bool {
        let is_first = self.looked == store.started;
        if !(is_first || self.looked.elapsed() > LOOK_EVERY || self.is_overdue()) {
            return false;
        }
        let mut all = store.known();
        let Some(known) = all.get_mut(queue) else { return true };
        let is_free = known.looking.is_none_or(|since| since.elapsed() > LOOK_EVERY);
        if is_free {
            known.looking = Some(Instant::now());
            self.looking = known.looking;
        }
        is_free
    }

    /// Whether something is due by what is known. A look may have found that it cannot be taken in.
    pub(crate) fn is_overdue(&self) -> bool {
        self.next_due.is_some_and(|due| due <= Instant::now()) && self.looked.elapsed() > DUE_EVERY
    }

    /// Whether the look must not be put off, not even by a claim that has found something.
    pub(crate) fn must_look(&self) -> bool {
        self.is_busy || self.looked.elapsed() > LOOK_AT_LAST
    }

    /// Where the next claim begins. Of claims at the same time one looks fully, if others need not.
    pub(crate) fn start(&mut self, store: &Inner, queue: &QueueName) -> Start {
        let mut all = store.known();
        let look = all.get_mut(queue).map_or(&mut self.full_look, |known| &mut known.full_look);
        if let Some(found) = look.found.take() {
            self.full_look = *look;
            if found.due_since < self.start.due_since {
                self.looked = store.started;
            }
            return found;
        }
        if look.is_dear() || self.is_busy && !look.is_due() {
            return self.start;
        }
        look.at = Instant::now();
        self.full_look = *look;
        Start::HEAD
    }

    /// Whether the caller is to send a scout.
    pub(crate) fn wants_scout(&mut self, store: &Inner, queue: &QueueName) -> bool {
        let mut all = store.known();
        let look = all.get_mut(queue).map(|known| &mut known.full_look);
        let Some(look) = look.filter(|look| look.is_dear() && look.is_due()) else { return false };
        look.at = Instant::now();
        self.full_look = *look;
        true
    }

    /// Where what a claim that begins at `start` takes in is put: not before the marks.
    pub(crate) fn promotion(&self, start: Start) -> Start {
        Start { due_since: start.due_since, ..self.start }
    }

    /// Whether a claim may wait for a full look.
    pub(crate) fn may_look_fully(&self) -> bool {
        !self.full_look.is_dear()
    }

    /// How many runs probably hold so many messages.
    pub(crate) fn runs(&self, messages: usize) -> usize {
        usize::from(self.left > 0) + messages.saturating_sub(self.left).div_ceil(self.run_size)
    }

    /// Notes what a statement that began at `start` has taken, and how long it took.
    pub(crate) fn claimed(&mut self, start: Start, step: &Step, took: Duration) {
        if start == Start::HEAD {
            self.looked_fully(took);
        }
        let whole = step.runs.saturating_sub(usize::from(self.left > 0));
        let run_size = step.held.saturating_sub(self.left).checked_div(whole);
        self.run_size = run_size.unwrap_or(self.run_size).clamp(1, enqueue::RUN);
        self.left = step.held.saturating_sub(step.messages);
        for (priority, pos) in &step.reached {
            let rank = RANKS - 1 - usize::from(priority.level());
            // What is left of a run keeps its place: the mark stands before it.
            self.reached[rank] = self.reached[rank].max(pos - 1);
        }
        if self.coming_since.elapsed() > MARK_AGE {
            self.start.marks = self.coming;
            self.coming = self.reached;
            self.coming_since = Instant::now();
        }
    }

    /// Notes that all that was due at this time of the database's has been taken in, if it has.
    pub(crate) fn promoted(&mut self, complete_at: Option<DateTime<Utc>>) {
        if let Some(now) = complete_at {
            self.start.due_since = now.checked_sub_signed(DUE_SLACK);
        }
    }

    /// Notes that what was known to be due has been taken in: what comes next is to be looked for.
    pub(crate) fn took_due(&mut self, store: &Inner) {
        (self.looked, self.next_due) = (store.started, None);
    }

    /// Notes a look just made, and what it said of the next message to become ready.
    pub(crate) fn looked(&mut self, due_in: Option<Duration>) {
        self.looked = Instant::now();
        self.next_due = due_in.and_then(|due_in| self.looked.checked_add(due_in));
    }

    /// How long until the next message becomes ready by itself; what is overdue is being looked for.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        let due_in = |next: Instant| next.checked_duration_since(Instant::now());
        self.next_due.map(|next| due_in(next).unwrap_or(DUE_EVERY))
    }

    /// Replaces what was known when the claim began, but for what others have learned meanwhile.
    pub(crate) fn remember(mut self, store: &Inner, queue: &QueueName, began_with: &Self) {
        let mut all = store.known();
        if let Some(known) = all.get(queue) {
            if known.looked < began_with.looked {
                self.looked = known.looked;
            }
            if known.next_due != began_with.next_due {
                self.next_due = self.next_due.into_iter().chain(known.next_due).min();
            }
            if known.full_look.at >= self.full_look.at {
                self.full_look = known.full_look;
            }
            self.is_told = known.is_told;
            self.looking = if self.looking.is_some() { None } else { known.looking };
            for rank in 0..RANKS {
                self.reached[rank] = self.reached[rank].max(known.reached[rank]);
            }
        }
        all.insert(queue.clone(), self);
    }

    fn looked_fully(&mut self, took: Duration) {
        self.full_look = FullLook { at: Instant::now(), took, found: None };
    }
}

/// Lets the next claim of `queue` begin at once, without a glance before.
pub(crate) fn told(store: &Inner, queue: &QueueName) {
    if let Some(known) = store.known().get_mut(queue) {
        known.is_told = true;
    }
}

/// Lets claims look after `delay`: this store has just made messages wait for so long.
pub(crate) fn due_in(store: &Inner, delay: Duration) {
    let Some(due) = Instant::now().checked_add(delay) else { return };
    for known in store.known().values_mut() {
        known.next_due = known.next_due.into_iter().chain([due]).min();
    }
}

/// Notes what a scout has found, and how long it took.
pub(crate) fn scouted(store: &Inner, queue: &QueueName, took: Duration, found: Option<Start>) {
    if let Some(known) = store.known().get_mut(queue) {
        known.full_look = FullLook { took, found, ..known.full_look };
    }
}

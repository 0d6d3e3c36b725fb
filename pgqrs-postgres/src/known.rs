//! What a store knows of a queue: where its claims may begin, and when they look for what is due.
//!
//! Rows that are gone stay in the indexes until no snapshot needs them, and a claim that began at
//! the head of the queue would walk over all of them. So claims begin at a *mark*: nothing that was
//! committed by then stands before it. A message that commits late, with a lower id, stands behind
//! the mark and is found by a *full look*, which begins at the head: at once where the claim comes
//! back short, and once a second where it does not; but looks that take long, because a snapshot is
//! held somewhere, are rationed.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use pgqrs::QueueName;

use crate::{claim::Step, enqueue, store::Inner};

/// With the database's clock, what is due is looked for at most this often per queue and store.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A claim that has found something leaves the look to the next one, for as long as what is due is
/// noticed within a second all the same (V4).
const LOOK_AT_LAST: Duration = Duration::from_millis(900);
/// A mark is where claims had come this long ago: most of what commits late has done so by then.
const MARK_AGE: Duration = Duration::from_millis(100);
/// How often a queue whose claims are never short is looked at from its head. Nor may a dear look be
/// put off for longer: what became ready is noticed within a second (V4).
const FULL_LOOK_EVERY: Duration = Duration::from_secs(1);
/// A full look that takes longer is dear: of the time then, one part in [`RATION`] goes to them, so
/// that few claims wait for one.
const DEAR: Duration = Duration::from_millis(5);
const RATION: u32 = 100;
/// Leases and delays that commit late have a time no earlier than this before the last look.
const DUE_SLACK: TimeDelta = TimeDelta::seconds(5);

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
}

/// What a store knows of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// When what is due was last looked for.
    looked: Instant,
    /// When the next message becomes ready by itself, if a look has said so.
    next_due: Option<Instant>,
    /// The last claim was full: the queue is busy, and claims do not see what is due behind it.
    pub(crate) is_busy: bool,
    start: Start,
    /// What the marks become next, and since when claims have been there.
    coming: [i64; RANKS],
    coming_since: Instant,
    /// How far claims have come.
    reached: [i64; RANKS],
    full_look: Instant,
    full_look_took: Duration,
    /// How many messages a run held, by what the last claim found.
    run_size: usize,
    /// Something has told of messages since a claim began.
    is_told: bool,
}

impl Known {
    /// What `store` knows of `queue`; nothing yet: everything may be due.
    pub(crate) fn of(store: &Inner, queue: &QueueName) -> Self {
        let never = Self {
            looked: store.started,
            next_due: None,
            is_busy: true,
            start: Start::HEAD,
            coming: [0; RANKS],
            coming_since: store.started,
            reached: [0; RANKS],
            full_look: store.started,
            full_look_took: Duration::ZERO,
            run_size: enqueue::RUN,
            is_told: true,
        };
        store.known().get_mut(queue).map_or(never, |known| {
            let so_far = *known;
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
        (self.full_look, self.full_look_took) = (Instant::now(), took);
        self.promoted(Some(now));
        self.looked(due_in);
    }

    /// Whether it is time to look for what is due.
    pub(crate) fn wants_look(&self, store: &Inner) -> bool {
        self.looked == store.started || self.looked.elapsed() > LOOK_EVERY
    }

    /// Whether the look must not be put off, not even by a claim that has found something.
    pub(crate) fn must_look(&self) -> bool {
        self.is_busy || self.looked.elapsed() > LOOK_AT_LAST
    }

    /// Where the next claim begins. Of claims at the same time one looks fully, if that is dear.
    pub(crate) fn start(&mut self, store: &Inner, queue: &QueueName) -> Start {
        let is_time = !self.is_busy || self.full_look.elapsed() > FULL_LOOK_EVERY;
        if !is_time || !self.may_look_fully() {
            return self.start;
        }
        self.full_look = Instant::now();
        if let Some(known) = store.known().get_mut(queue) {
            known.full_look = self.full_look;
        }
        Start::HEAD
    }

    /// Where what a claim that begins at `start` takes in is put: not before the marks.
    pub(crate) fn promotion(&self, start: Start) -> Start {
        Start { due_since: start.due_since, ..self.start }
    }

    /// Whether a full look is not too dear just now.
    pub(crate) fn may_look_fully(&self) -> bool {
        let pause = (self.full_look_took * RATION).min(FULL_LOOK_EVERY);
        self.full_look_took <= DEAR || self.full_look.elapsed() > pause
    }

    /// How many runs probably hold so many messages.
    pub(crate) fn runs(&self, messages: usize) -> usize {
        messages.div_ceil(self.run_size)
    }

    /// Notes what a statement that began at `start` has taken, and how long it took.
    pub(crate) fn claimed(&mut self, start: Start, step: &Step, took: Duration) {
        if start == Start::HEAD {
            (self.full_look, self.full_look_took) = (Instant::now(), took);
        }
        self.run_size = step.held.checked_div(step.runs).unwrap_or(self.run_size).max(1);
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

    /// Notes a look just made, and what it said of the next message to become ready.
    pub(crate) fn looked(&mut self, due_in: Option<Duration>) {
        self.looked = Instant::now();
        self.next_due = due_in.and_then(|due_in| self.looked.checked_add(due_in));
    }

    /// How long until the next message becomes ready by itself.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.next_due.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Replaces what was known when the claim began, unless another look was asked for meanwhile.
    pub(crate) fn remember(mut self, store: &Inner, queue: &QueueName, began_with: &Self) {
        let mut all = store.known();
        if let Some(known) = all.get(queue) {
            if known.looked < began_with.looked {
                self.looked = known.looked;
            }
            self.is_told = known.is_told;
            for rank in 0..RANKS {
                self.reached[rank] = self.reached[rank].max(known.reached[rank]);
            }
        }
        all.insert(queue.clone(), self);
    }
}

/// Lets the next claim of `queue` begin at once, without a glance before.
pub(crate) fn told(store: &Inner, queue: &QueueName) {
    if let Some(known) = store.known().get_mut(queue) {
        known.is_told = true;
    }
}

/// Lets the next claims look again: this store has just made messages wait for their time.
pub(crate) fn look_again(store: &Inner) {
    store.known().values_mut().for_each(|known| known.looked = store.started);
}

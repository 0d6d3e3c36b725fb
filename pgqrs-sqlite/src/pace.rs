//! When it is worth staying awake: a lone caller and the writer take turns faster than they wake.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

/// How long the thread looks for the next request, and a lone caller for its answer, before they go
/// to sleep: to be woken takes as long as a small transaction.
pub(crate) const AWAKE: Duration = Duration::from_micros(100);

/// What callers and thread know of each other.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// How many callers wait for an answer.
    waiting: AtomicUsize,
    /// The thread's last turn was over before a caller would have slept.
    is_quick: AtomicBool,
}

impl Pace {
    /// Takes note of how long a turn took.
    pub(crate) fn took(&self, turn: Duration) {
        self.is_quick.store(turn < AWAKE, Ordering::Relaxed);
    }
}

/// Counts a caller while it waits.
pub(crate) struct Waiting<'p>(&'p Pace);

impl<'p> Waiting<'p> {
    pub(crate) fn new(pace: &'p Pace) -> Self {
        pace.waiting.fetch_add(1, Ordering::Relaxed);
        Self(pace)
    }

    pub(crate) fn may_be_answered_soon(&self) -> bool {
        self.0.is_quick.load(Ordering::Relaxed) && self.0.waiting.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

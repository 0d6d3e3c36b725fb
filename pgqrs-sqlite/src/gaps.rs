//! Politeness towards the other processes on the file.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::connection::LONGEST_LOOK;

/// Gaps between transactions, for the other processes on the file. SQLite's lock has no queue:
/// they only see it free if it is free for longer than they sleep between two looks.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    held: Duration,
    contended: Option<Instant>,
}

impl Gaps {
    const GAP: Duration = LONGEST_LOOK.saturating_add(Duration::from_micros(200));
    /// How long the lock may be held without a gap when others have been seen lately, and when not.
    const HELD_AMONG_OTHERS: Duration = Duration::from_millis(5);
    const HELD_ALONE: Duration = Duration::from_millis(50);
    const LATELY: Duration = Duration::from_secs(1);

    pub(crate) fn held(&mut self, time: Duration) {
        self.held += time;
    }

    pub(crate) fn contended(&mut self) {
        self.contended = Some(Instant::now());
    }

    pub(crate) fn left(&mut self, time: Duration) {
        if time >= Self::GAP {
            self.held = Duration::ZERO;
        }
    }

    pub(crate) fn leave(&mut self) {
        let others = self.contended.is_some_and(|seen| seen.elapsed() < Self::LATELY);
        let allowed = if others { Self::HELD_AMONG_OTHERS } else { Self::HELD_ALONE };
        if self.held >= allowed {
            thread::sleep(Self::GAP);
            self.held = Duration::ZERO;
        }
    }
}

//! What handlers have seen.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::Message;

/// Counts what was handled, and says when that is enough. Clones count together.
#[derive(Clone)]
pub struct Tally {
    wanted: usize,
    seen: Arc<Mutex<Seen>>,
    done: Arc<watch::Sender<bool>>,
}

/// What was handled.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    numbers: Vec<u64>,
    /// How old each message was when its handler began.
    pub ages: Vec<Duration>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Tally {
    /// Is done when so many messages have been handled.
    pub fn new(wanted: usize) -> Self {
        let seen = Seen {
            numbers: Vec::with_capacity(wanted),
            ages: Vec::with_capacity(wanted),
            ..Seen::default()
        };
        Self { wanted, seen: Arc::new(Mutex::new(seen)), done: Arc::new(watch::Sender::new(false)) }
    }

    /// A message is in its handler.
    pub fn note(&self, message: &Message) {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.numbers.push(message.number());
        seen.ages.push(message.age());
        seen.first.get_or_insert(now);
        seen.last = Some(now);
        if seen.numbers.len() == self.wanted {
            self.stop();
        }
    }

    /// It is enough, whatever was handled.
    pub fn stop(&self) {
        self.done.send_replace(true);
    }

    /// Whether it is enough.
    pub fn is_done(&self) -> bool {
        *self.done.borrow()
    }

    /// Waits until it is enough.
    pub async fn done(&self) {
        // Fails only without a sender, and `self` is one.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    /// What was handled so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Seen {
    /// How many messages.
    pub fn count(&self) -> usize {
        self.numbers.len()
    }

    /// How many of them had been handled before.
    pub fn repeated(&self) -> usize {
        let distinct: HashSet<u64> = self.numbers.iter().copied().collect();
        self.numbers.len() - distinct.len()
    }

    /// From the first to the last.
    pub fn took(&self) -> Duration {
        self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

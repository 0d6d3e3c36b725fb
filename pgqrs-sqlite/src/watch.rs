//! Wake-ups between processes: a thread that looks at `PRAGMA data_version` while somebody waits.
//!
//! SQLite tells nobody of a commit, but the pragma answers from shared memory in microseconds and
//! changes with every commit of another connection.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pgqrs::{QueueName, Reach, Signals, Wakeups};
use rusqlite::Connection;

use crate::{
    connection::open_reader,
    url::{Place, Target},
};

/// Between two looks while something has changed lately: about 1 % of a core.
const ALERT: Duration = Duration::from_millis(2);
/// How long after a change that is.
const ALERT_FOR: Duration = Duration::from_secs(60);
/// Between two looks otherwise.
const DROWSY: Duration = Duration::from_millis(20);

/// The signals of a store, fed by this process's own commits and by the thread.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) signals: Signals,
    target: Target,
    is_watching: AtomicBool,
    /// Held while a thread begins or ends.
    turn: Mutex<()>,
}

impl Watch {
    pub(crate) fn new(target: Target) -> Arc<Self> {
        let signals = Signals::default();
        if target.place == Place::Memory {
            // Nobody else can write to it.
            signals.set_reach(Reach::Everywhere);
        }
        Arc::new(Self {
            signals,
            target,
            is_watching: AtomicBool::new(false),
            turn: Mutex::new(()),
        })
    }

    /// Wake-ups for `queue`; the thread runs while there are any.
    pub(crate) fn subscribe(self: &Arc<Self>, queue: &QueueName) -> Wakeups {
        let wakeups = self.signals.subscribe(queue);
        if self.target.place != Place::Memory {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.is_watching.swap(true, Ordering::Relaxed) {
                self.start();
            }
        }
        wakeups
    }

    fn start(self: &Arc<Self>) {
        let watch = Arc::downgrade(self);
        let thread = thread::Builder::new().name("pgqrs-sqlite-watch".into());
        // Without the thread the run loops poll.
        if thread.spawn(move || look(&watch)).is_err() {
            self.is_watching.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the thread is to end, because nobody waits.
    fn is_over(&self) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.signals.has_subscribers() {
            return false;
        }
        self.signals.set_reach(Reach::Process);
        self.is_watching.store(false, Ordering::Relaxed);
        true
    }
}

fn look(watch: &Weak<Watch>) {
    let mut connection: Option<Connection> = None;
    let (mut seen, mut changed) = (None, Instant::now());
    // Ends with the store, and when nobody waits.
    while let Some(watch) = watch.upgrade() {
        if watch.is_over() {
            return;
        }
        let opened = connection.take().or_else(|| open_reader(&watch.target).ok());
        let version = opened.as_ref().and_then(|connection| version(connection).ok());
        let reach = if version.is_some() { Reach::Everywhere } else { Reach::Process };
        watch.signals.set_reach(reach);
        if version != seen {
            (seen, changed) = (version, Instant::now());
            watch.signals.notify_all();
        }
        // A connection that fails is opened anew.
        connection = opened.filter(|_| version.is_some());
        drop(watch);
        thread::sleep(if changed.elapsed() < ALERT_FOR { ALERT } else { DROWSY });
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row((), |row| row.get(0))
}

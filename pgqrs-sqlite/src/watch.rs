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
use rusqlite::Statement;

use crate::{
    connection::open_reader,
    sql,
    url::{Place, Target},
};

/// Between two looks while something has changed lately: about 1 % of a core.
const ALERT: Duration = Duration::from_millis(2);
/// How long after a change that is.
const ALERT_FOR: Duration = Duration::from_secs(60);
/// Between two looks otherwise.
const DROWSY: Duration = Duration::from_millis(20);
/// So many looks later the thread asks whether anybody still waits.
const LOOKS: u32 = 25;

/// The signals of a store, fed by this process's own commits and by the thread.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) signals: Signals,
    pub(crate) target: Target,
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

/// What the thread has seen.
struct Seen {
    version: Option<i64>,
    changed: Instant,
}

/// Ends with the store, and when nobody waits.
fn look(watch: &Weak<Watch>) {
    let mut seen = Seen { version: None, changed: Instant::now() };
    while let Some(watching) = watch.upgrade() {
        if watching.is_over() {
            return;
        }
        let connection = open_reader(&watching.target).ok();
        let statement = connection.as_ref().and_then(|it| it.prepare(sql::DATA_VERSION).ok());
        let reach = if statement.is_some() { Reach::Everywhere } else { Reach::Process };
        watching.signals.set_reach(reach);
        drop(watching);
        match statement {
            Some(statement) => look_with(statement, watch, &mut seen),
            None => thread::sleep(DROWSY),
        }
    }
}

/// Returns when the connection fails, to be opened anew, or when nobody waits. Asks for that now and
/// then only: most of what a look costs is to fetch into the processor's caches what it touches.
fn look_with(mut statement: Statement<'_>, watch: &Weak<Watch>, seen: &mut Seen) {
    for look in 1_u32.. {
        let Ok(version) = statement.query_row((), |row| row.get(0)) else { return };
        let has_changed = seen.version.replace(version) != Some(version);
        if has_changed || look % LOOKS == 0 {
            let Some(watch) = watch.upgrade() else { return };
            if !watch.signals.has_subscribers() {
                return;
            }
            if has_changed {
                seen.changed = Instant::now();
                watch.signals.notify_all();
            }
        }
        thread::sleep(if seen.changed.elapsed() < ALERT_FOR { ALERT } else { DROWSY });
    }
}

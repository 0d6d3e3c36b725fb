//! The thread that copies the log into the database file, so that no commit has to.
//!
//! SQLite does it in the commit that makes the log too long: that call, and all behind it, wait for
//! megabytes to be written and synced. A passive checkpoint on a connection of its own holds no lock
//! that a writer or a reader wants. It leaves what is written meanwhile, so the writer's own
//! checkpoint stays as the last resort, with little left to do.

use std::{sync::mpsc, thread, time::Duration};

use rusqlite::Connection;

use crate::{
    connection::open_reader,
    error::Outcome,
    sql,
    tx::Tx,
    url::{Place, Target},
};

/// So many pages of the log are worth a checkpoint.
const PAGES: i64 = 1_000;
/// Between two looks at the log.
const PAUSE: Duration = Duration::from_millis(50);

/// The thread as the writer sees it. It ends with this handle.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    written: Option<mpsc::SyncSender<()>>,
}

impl Checkpoints {
    /// Starts the thread, unless nothing can be or has to be done: then the writer is on its own.
    pub(crate) fn start(target: Target) -> Self {
        let (written, news) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("pgqrs-sqlite-log".into());
        let is_started =
            target.place != Place::Memory && thread.spawn(move || copy_on(&target, &news)).is_ok();
        Self { written: is_started.then_some(written) }
    }

    /// Tells the thread that the log has grown.
    pub(crate) fn written(&self) {
        if let Some(written) = &self.written {
            // It has been told already if the channel is full.
            let _ = written.try_send(());
        }
    }
}

fn copy_on(target: &Target, news: &mpsc::Receiver<()>) {
    let mut connection = None;
    while news.recv().is_ok() {
        connection = connection.or_else(|| open_reader(target).ok());
        // What fails here is tried again by the writer, which reports it.
        connection = connection.filter(|connection| copy(connection).is_ok());
        thread::sleep(PAUSE);
    }
}

fn copy(connection: &Connection) -> Outcome<()> {
    let tx = Tx::new(connection);
    let missing =
        tx.first(sql::LOG, (), |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))?;
    if missing.is_some_and(|pages| pages >= PAGES) {
        tx.first(sql::CHECKPOINT, (), |_| Ok(()))?;
    }
    Ok(())
}

//! Opening a connection: every pragma's answer is read back.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use pgqrs::{Error, Result};
use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::{
    error::{Failure, Outcome},
    url::{Place, Synchronous, Target, invalid},
};

/// The longest sleep between two looks at a lock.
pub(crate) const LONGEST_LOOK: Duration = Duration::from_micros(800);

const CACHED_STATEMENTS: usize = 128;
/// In pages of 4 KiB: longer than SQLite's own 1,000, for a checkpoint syncs the database file.
pub(crate) const CHECKPOINT_AFTER: i64 = 4_000;
/// The log shrinks back to this many bytes after a long reader has let it grow.
const LOG_KEPT: i64 = 64 * 1024 * 1024;
/// What is hot is small. A larger cache costs more than it spares: SQLite walks over the whole of it
/// in each commit after a tree was rebalanced in a certain way, as that of the leases often is.
const CACHE_KIB: i64 = 4 * 1024;

/// Opens the connection that writes.
pub(crate) fn open_writer(target: &Target) -> Result<Connection> {
    let connection = open(target)?;
    if connection.is_readonly("main").map_err(Failure::from)? {
        return Err(Error::PermissionDenied {
            reason: "the database file is read-only; make it and its folder writable, or name \
                     another file"
                .into(),
            source: None,
        });
    }
    prepare(&connection, target)?;
    // The writer waits by itself, see `patiently`.
    connection.busy_timeout(Duration::ZERO).map_err(Failure::from)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(target: &Target) -> Result<Connection> {
    let connection = open(target)?;
    prepare(&connection, target)?;
    set(&connection, "query_only", 1, 1)?;
    Ok(connection)
}

/// Repeats `attempt` while other connections hold the lock, for `patience`. The sleeps are short
/// and jittered: SQLite's own grow to 100 ms, in which a busier process takes the lock many times.
pub(crate) fn patiently<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Outcome<T>,
) -> Outcome<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(failure) if failure.is_busy() && started.elapsed() < patience => {
                thread::sleep(LONGEST_LOOK.mul_f64(0.1 + 0.9 * fastrand::f64()));
            }
            outcome => return outcome,
        }
    }
}

fn open(target: &Target) -> Result<Connection> {
    let Place::File(path) = &target.place else {
        return Ok(Connection::open_in_memory().map_err(Failure::from)?);
    };
    check_folder(path)?;
    // Each connection is used by one thread at a time. Without SQLITE_OPEN_URI, a path is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(|error| Failure::from(error).into())
}

fn check_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        let folder = folder.display();
        return Err(invalid(format!("the folder {folder} does not exist; create it first")));
    }
    if path.is_dir() {
        return Err(invalid(format!("{} is a folder; name a file in it", path.display())));
    }
    Ok(())
}

fn prepare(connection: &Connection, target: &Target) -> Outcome<()> {
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Else the planner looks at bound values, and prepares most statements anew at each binding.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.busy_timeout(target.busy_timeout)?;
    // SQLite does not wait where a reader wants to become a writer, as here.
    let mode: String = patiently(target.busy_timeout, || {
        Ok(connection.query_row("PRAGMA journal_mode = wal", (), |row| row.get(0))?)
    })?;
    match (&target.place, mode.as_str()) {
        (Place::File(_), "wal") | (Place::Memory, "memory") => {}
        _ => {
            let reason = format!(
                "the file system refuses write-ahead logging (journal mode {mode:?}), as network \
                 file systems do; put the database on a local disk"
            );
            return Err(Error::Backend { reason, source: None }.into());
        }
    }
    let synchronous = match target.synchronous {
        Synchronous::Normal => 1,
        Synchronous::Full => 2,
    };
    set(connection, "synchronous", synchronous, synchronous)?;
    set(connection, "foreign_keys", 0, 0)?;
    set(connection, "temp_store", 2, 2)?;
    set(connection, "cache_size", -CACHE_KIB, -CACHE_KIB)?;
    set(connection, "wal_autocheckpoint", CHECKPOINT_AFTER, CHECKPOINT_AFTER)?;
    set(connection, "journal_size_limit", LOG_KEPT, LOG_KEPT)
}

/// Sets a pragma and reads it back: SQLite passes over a pragma that it does not know.
fn set(connection: &Connection, pragma: &str, value: i64, expected: i64) -> Outcome<()> {
    connection.pragma_update(None, pragma, value)?;
    let found: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
    if found == expected {
        return Ok(());
    }
    let reason = format!("SQLite answered {found} to PRAGMA {pragma} = {value}");
    Err(Error::Backend { reason, source: None }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This VFS of SQLite's own has no locks and no shared memory, like some network file systems.
    #[test]
    fn a_file_system_without_write_ahead_logging_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:///{}", folder.path().join("q.db").display());
        let target: Target = url.parse().unwrap();
        let Place::File(path) = &target.place else { panic!("{target:?}") };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = Connection::open_with_flags_and_vfs(path, flags, "unix-none").unwrap();
        let error = Error::from(prepare(&connection, &target).unwrap_err()).to_string();
        assert!(error.contains("refuses write-ahead logging"), "{error}");
        assert!(error.contains("local disk"), "{error}");
    }
}

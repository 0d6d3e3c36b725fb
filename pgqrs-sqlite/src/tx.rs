//! A transaction as the requests see it: cached statements, the clock, the sequence, queues by name.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt, ptr,
};

use chrono::{DateTime, Utc};
use pgqrs::{Error, QueueName, StoreSettings};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, Statement};

use crate::{
    error::{Outcome, stored_value},
    sql,
};

/// What requests need of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueRow {
    pub(crate) id: i64,
    pub(crate) paused: bool,
    pub(crate) visibility_timeout_us: i64,
    pub(crate) max_attempts: u32,
    pub(crate) retention_us: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    payload_limit: i64,
    /// The last number given out; as stored, the last that may be without storing it anew.
    sequence: i64,
}

/// The transactions of a connection, one after the other. What one of them has read of settings and
/// queues the next ones know, until another connection commits.
pub(crate) struct Tx<'c> {
    pub(crate) connection: &'c Connection,
    /// Changes when another connection has committed. None: nothing is known.
    version: Cell<Option<i64>>,
    /// As stored, and as they are.
    settings: Cell<Option<(Settings, Settings)>>,
    /// How many numbers the next write of the settings stores ahead.
    ahead: Cell<i64>,
    queues: RefCell<HashMap<QueueName, QueueRow>>,
    /// No message of the queue becomes due before this.
    due: RefCell<HashMap<i64, i64>>,
    /// Found by the address of their text: the connection's own cache hashes it.
    statements: RefCell<Vec<(&'static str, CachedStatement<'c>)>>,
}

impl<'c> Tx<'c> {
    /// Numbers that are stored ahead at most, and so skipped when the program is killed.
    const MOST_AHEAD: i64 = 10_000;

    pub(crate) fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            version: Cell::default(),
            settings: Cell::default(),
            ahead: Cell::default(),
            queues: RefCell::default(),
            due: RefCell::default(),
            statements: RefCell::default(),
        }
    }

    /// Must be called when a transaction has begun that may use what the one before knew.
    pub(crate) fn begun(&self) -> Outcome<()> {
        let version = self.first(sql::DATA_VERSION, (), |row| row.get(0))?;
        if self.version.get() != version {
            self.forget();
            self.version.set(version);
        }
        Ok(())
    }

    /// Must be called when what was written is undone.
    pub(crate) fn forget(&self) {
        self.version.set(None);
        self.settings.set(None);
        self.ahead.set(0);
        self.forget_queues();
    }

    /// Uses a statement, prepared once per connection.
    pub(crate) fn with<T>(
        &self,
        sql: &'static str,
        work: impl FnOnce(&mut Statement<'c>) -> Outcome<T>,
    ) -> Outcome<T> {
        let known = self.statements.borrow().iter().rposition(|(text, _)| ptr::eq(*text, sql));
        let mut statement = match known {
            Some(index) => self.statements.borrow_mut().swap_remove(index).1,
            None => self.connection.prepare_cached(sql)?,
        };
        let outcome = work(&mut statement);
        self.statements.borrow_mut().push((sql, statement));
        outcome
    }

    /// Runs a statement and returns how many rows it changed.
    pub(crate) fn run(&self, sql: &'static str, params: impl Params) -> Outcome<usize> {
        self.with(sql, |statement| Ok(statement.execute(params)?))
    }

    /// The first row, if there is one.
    pub(crate) fn first<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Outcome<Option<T>> {
        self.with(sql, |statement| Ok(statement.query_row(params, read).optional()?))
    }

    /// All rows.
    pub(crate) fn all<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Outcome<Vec<T>> {
        self.with(sql, |statement| {
            Ok(statement.query_map(params, read)?.collect::<Result<_, _>>()?)
        })
    }

    /// The present in microseconds: the injected instant, else the host's clock at this moment.
    pub(crate) fn now(&self, injected: Option<DateTime<Utc>>) -> i64 {
        injected.unwrap_or_else(Utc::now).timestamp_micros()
    }

    pub(crate) fn store_settings(&self) -> Outcome<StoreSettings> {
        let payload_limit = usize::try_from(self.settings()?.payload_limit)
            .map_err(|_| stored_value("the payload limit is negative"))?;
        Ok(StoreSettings { payload_limit })
    }

    pub(crate) fn set_payload_limit(&self, payload_limit: i64) -> Outcome<()> {
        let settings = self.settings()?;
        self.change(Settings { payload_limit, ..settings });
        Ok(())
    }

    /// Takes `count` numbers of the sequence and returns the first.
    pub(crate) fn take_numbers(&self, count: usize) -> Outcome<i64> {
        let settings = self.settings()?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.change(Settings { sequence: settings.sequence + count, ..settings });
        Ok(settings.sequence + 1)
    }

    /// Writes the settings back if they have changed. Must be called before the commit.
    ///
    /// The row has a page of its own, which each commit would write again: so numbers are stored
    /// ahead, the more of them the longer this connection has been the only one to write. Another
    /// one begins after all that are stored, and this one, once it sees that, after the other's.
    pub(crate) fn flush(&self) -> Outcome<()> {
        let Some((stored, now)) = self.settings.get() else { return Ok(()) };
        let is_ahead = now.sequence <= stored.sequence;
        if is_ahead && now.payload_limit == stored.payload_limit {
            return Ok(());
        }
        let sequence = now.sequence.max(stored.sequence);
        let next = Settings { sequence: sequence + self.ahead.get(), ..now };
        self.run(sql::UPDATE_SETTINGS, (next.payload_limit, next.sequence))?;
        self.settings.set(Some((next, now)));
        self.ahead.set((self.ahead.get() * 2 + 1).min(Self::MOST_AHEAD));
        Ok(())
    }

    /// # Errors
    /// `QueueNotFound`.
    pub(crate) fn queue(&self, name: &QueueName) -> Outcome<QueueRow> {
        if let Some(queue) = self.queues.borrow().get(name) {
            return Ok(*queue);
        }
        let queue = self.first(sql::QUEUE, [name.as_str()], |row| {
            Ok(QueueRow {
                id: row.get(0)?,
                paused: row.get(1)?,
                visibility_timeout_us: row.get(2)?,
                max_attempts: row.get(3)?,
                retention_us: row.get(4)?,
            })
        })?;
        let queue = queue.ok_or_else(|| Error::QueueNotFound { queue: name.clone() })?;
        self.queues.borrow_mut().insert(name.clone(), queue);
        Ok(queue)
    }

    /// Must be called when queues have changed.
    pub(crate) fn forget_queues(&self) {
        self.queues.borrow_mut().clear();
        self.due.borrow_mut().clear();
    }

    /// Whether a message of the queue may be due by `now`.
    pub(crate) fn may_be_due(&self, queue: i64, now: i64) -> bool {
        self.due.borrow().get(&queue).is_none_or(|due| *due <= now)
    }

    /// Takes note of when the next message of the queue becomes due, if any does.
    pub(crate) fn next_due(&self, queue: i64, at: Option<i64>) {
        self.due.borrow_mut().insert(queue, at.unwrap_or(i64::MAX));
    }

    /// Must be called when a message of the queue has been leased or delayed until `at`.
    pub(crate) fn becomes_due(&self, queue: i64, at: i64) {
        if let Some(due) = self.due.borrow_mut().get_mut(&queue) {
            *due = at.min(*due);
        }
    }

    fn settings(&self) -> Outcome<Settings> {
        if let Some((_, now)) = self.settings.get() {
            return Ok(now);
        }
        let read = self.first(sql::SETTINGS, (), |row| {
            Ok(Settings { payload_limit: row.get(0)?, sequence: row.get(1)? })
        })?;
        let read = read.ok_or_else(|| stored_value("pgqrs_settings is empty"))?;
        self.settings.set(Some((read, read)));
        Ok(read)
    }

    fn change(&self, settings: Settings) {
        if let Some((stored, _)) = self.settings.get() {
            self.settings.set(Some((stored, settings)));
        }
    }
}

impl fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

/// Reads a column of microseconds.
pub(crate) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<DateTime<Utc>> {
    instant(row.get(column)?, column)
}

/// Reads a column of microseconds that may be NULL.
pub(crate) fn maybe_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<DateTime<Utc>>> {
    let micros: Option<i64> = row.get(column)?;
    micros.map(|micros| instant(micros, column)).transpose()
}

/// Reads a column that is never negative.
pub(crate) fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// Reads a column by a conversion of the core's.
pub(crate) fn parsed<T: std::str::FromStr<Err = Error>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error: Error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
    })
}

/// Microseconds as a time. `column` is for the error.
pub(crate) fn instant(micros: i64, column: usize) -> rusqlite::Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(column, micros))
}

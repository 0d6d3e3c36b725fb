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

/// What requests need of a queue, read once per transaction.
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
    sequence: i64,
}

/// One transaction of a connection.
pub(crate) struct Tx<'c> {
    pub(crate) connection: &'c Connection,
    /// As read, and as it is to be written at the end.
    settings: Cell<Option<(Settings, Settings)>>,
    queues: RefCell<HashMap<QueueName, QueueRow>>,
    /// Found by the address of their text: the connection's own cache hashes it.
    statements: RefCell<Vec<(&'static str, CachedStatement<'c>)>>,
}

impl<'c> Tx<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            settings: Cell::default(),
            queues: RefCell::default(),
            statements: RefCell::default(),
        }
    }

    /// Uses a statement, prepared once per connection.
    pub(crate) fn with<T>(
        &self,
        sql: &'static str,
        work: impl FnOnce(&mut Statement<'c>) -> Outcome<T>,
    ) -> Outcome<T> {
        let known = self.statements.borrow().iter().position(|(text, _)| ptr::eq(*text, sql));
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

    /// Takes `count` numbers of the sequence and returns the first. What a request takes that is
    /// undone afterwards is not given out again.
    pub(crate) fn take_numbers(&self, count: usize) -> Outcome<i64> {
        let settings = self.settings()?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.change(Settings { sequence: settings.sequence + count, ..settings });
        Ok(settings.sequence + 1)
    }

    /// Writes the settings back if they have changed. Must be called before the commit.
    pub(crate) fn flush(&self) -> Outcome<()> {
        match self.settings.get() {
            Some((read, now)) if read != now => {
                self.run(sql::UPDATE_SETTINGS, (now.payload_limit, now.sequence))?;
                Ok(())
            }
            _ => Ok(()),
        }
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

    /// Must be called when queues have changed, or when changes of theirs were undone.
    pub(crate) fn forget_queues(&self) {
        self.queues.borrow_mut().clear();
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
        if let Some((read, _)) = self.settings.get() {
            self.settings.set(Some((read, settings)));
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

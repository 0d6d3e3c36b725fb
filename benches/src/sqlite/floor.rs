//! The floor: bare rusqlite, prepared statements, one thread.
//!
//! A ready message stands in a narrow table in claim order, its payload in another; a claim moves it
//! to the leases, an archive from there to the archive.

use std::{path::Path, time::SystemTime};

use rusqlite::{CachedStatement, Connection, params};

use super::Synchronous;
use crate::Result;

const SCHEMA: &str = "
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, enqueued_at INTEGER NOT NULL, payload TEXT NOT NULL) STRICT;
CREATE TABLE ready (
    queue_id INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (queue_id, id)) STRICT, WITHOUT ROWID;
CREATE TABLE leases (
    id INTEGER PRIMARY KEY, token INTEGER NOT NULL, visible_at INTEGER NOT NULL) STRICT;
CREATE TABLE archive (
    id INTEGER PRIMARY KEY, token INTEGER NOT NULL, archived_at INTEGER NOT NULL) STRICT;";

/// A connection to a database with the floor's tables.
pub(super) struct Floor {
    connection: Connection,
    token: i64,
}

impl Floor {
    /// Makes the tables.
    pub(super) fn create(path: &Path, synchronous: Synchronous) -> Result<Self> {
        let floor = Self::open(path, synchronous)?;
        floor.connection.execute_batch(SCHEMA)?;
        Ok(floor)
    }

    /// Opens a database with the tables, with the pragmas that ours has, and a larger cache.
    pub(super) fn open(path: &Path, synchronous: Synchronous) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = {synchronous};
             PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -16384;
             PRAGMA temp_store = memory; PRAGMA busy_timeout = 5000"
        ))?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Self { connection, token: 0 })
    }

    /// Does work in one transaction.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.statement("BEGIN IMMEDIATE")?.execute([])?;
        let outcome = work(self)?;
        self.statement("COMMIT")?.execute([])?;
        Ok(outcome)
    }

    pub(super) fn enqueue(&mut self, payload: &str) -> Result<i64> {
        let sql = "INSERT INTO messages (enqueued_at, payload) VALUES (?1, ?2)";
        self.statement(sql)?.execute(params![now(), payload])?;
        let id = self.connection.last_insert_rowid();
        self.statement("INSERT INTO ready VALUES (1, ?1)")?.execute([id])?;
        Ok(id)
    }

    /// Leases up to `limit` messages and returns their ids and payloads.
    pub(super) fn claim(&mut self, limit: usize) -> Result<Vec<(i64, String)>> {
        let sql = "SELECT r.id, m.payload FROM ready r CROSS JOIN messages m ON m.id = r.id
                   WHERE r.queue_id = 1 ORDER BY r.id LIMIT ?1";
        let mut select = self.statement(sql)?;
        let rows = select.query_map([limit as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let claimed: Vec<(i64, String)> = rows.collect::<rusqlite::Result<_>>()?;
        drop(select);
        let visible_at = now() + 30_000_000;
        for (id, _) in &claimed {
            self.token += 1;
            let lease = params![id, self.token, visible_at];
            self.statement("INSERT INTO leases VALUES (?1, ?2, ?3)")?.execute(lease)?;
        }
        if let Some((last, _)) = claimed.last() {
            let delete = "DELETE FROM ready WHERE queue_id = 1 AND id <= ?1";
            self.statement(delete)?.execute([last])?;
        }
        Ok(claimed)
    }

    /// Archives what is leased.
    pub(super) fn archive(&mut self, id: i64) -> Result<()> {
        let select = "SELECT token FROM leases WHERE id = ?1";
        let token: i64 = self.statement(select)?.query_row([id], |row| row.get(0))?;
        self.statement("DELETE FROM leases WHERE id = ?1")?.execute([id])?;
        let insert = "INSERT INTO archive VALUES (?1, ?2, ?3)";
        self.statement(insert)?.execute(params![id, token, now()])?;
        Ok(())
    }

    /// Changes whenever another connection has committed.
    pub(super) fn data_version(&self) -> Result<i64> {
        Ok(self.statement("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.connection.prepare_cached(sql)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as i64
}

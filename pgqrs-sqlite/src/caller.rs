//! Calls in a transaction of the caller's own, on a connection of the caller's own.

use std::{fs, path::Path};

use pgqrs::{
    Action, Enqueue, Error, LeaseLost, MessageId, Receipt, Result, Settle, Settled, Settlement,
};
use rusqlite::Connection;

use crate::{
    SqliteStore,
    connection::{self, patiently},
    enqueue::enqueue,
    error::Outcome,
    settle::settle,
    sql,
    tx::Tx,
    url::{Place, Target},
};

impl SqliteStore {
    /// Begins a transaction that writes, on another connection to the store's file, set up as the
    /// store's own are; `COMMIT` ends it, as does dropping the connection, which undoes it. Until
    /// then all other writers wait, this store's too. Blocks the thread.
    ///
    /// # Errors
    /// [`Backend`](Error::Backend) for a store in memory, which has one connection;
    /// [`Unavailable`](Error::Unavailable) if others write for longer than `busy_timeout`; as
    /// [`connect`](crate::connect).
    pub fn begin(&self) -> Result<Connection> {
        let target = self.target();
        if target.place == Place::Memory {
            return Err(refused(IN_MEMORY));
        }
        let connection = connection::open_writer(target)?;
        patiently(target.busy_timeout, || Ok(connection.execute_batch(sql::BEGIN)?))?;
        Ok(connection)
    }

    /// Enqueues in a transaction that the caller has begun on a connection of its own to the store's
    /// file: the messages are there with the caller's commit, and not at all after a rollback. The
    /// command comes from [`EnqueueBuilder::command`](pgqrs::EnqueueBuilder::command).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let store = pgqrs_sqlite::connect(&format!("sqlite:///{}", path.display())).await?;
    /// # pgqrs::admin(&store).create_queue("tasks").await?;
    /// use pgqrs_sqlite::rusqlite::{Connection, TransactionBehavior};
    ///
    /// let mut connection = Connection::open(&path)?;
    /// let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    /// tx.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY)")?;
    /// store.enqueue_in(&tx, pgqrs::enqueue().message(&"pack it").to("tasks").command()?)?;
    /// tx.commit()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It blocks as the connection's own statements do. An error undoes this call and leaves the
    /// transaction open, except where SQLite itself has rolled it back, as it does on a full disk.
    /// While the transaction is open nobody else writes to the file, and a call of the store that is
    /// awaited meanwhile waits for its end: commit first. Run loops, in every process, learn of the
    /// messages within 20 milliseconds of the commit.
    ///
    /// # Errors
    /// As [`Store::enqueue`](pgqrs::Store::enqueue); [`Backend`](Error::Backend) for a connection that is in no transaction
    /// or is to another database; [`Unavailable`](Error::Unavailable) if the transaction has only
    /// read so far and others have written since, or write now.
    pub fn enqueue_in(&self, connection: &Connection, command: Enqueue) -> Result<Vec<MessageId>> {
        run_in(connection, self.target(), |tx| enqueue(tx, &command))
    }

    /// Settles in a transaction of the caller's, on the terms of
    /// [`enqueue_in`](SqliteStore::enqueue_in): what a message brought about and its end are one
    /// commit.
    ///
    /// # Errors
    /// As [`Store::settle`](pgqrs::Store::settle), and those of [`enqueue_in`](SqliteStore::enqueue_in).
    pub fn settle_in(
        &self,
        connection: &Connection,
        command: Settle,
    ) -> Result<Vec<Result<Settled, LeaseLost>>> {
        run_in(connection, self.target(), |tx| settle(tx, &command))
    }

    /// Archives one message as done in a transaction of the caller's, see
    /// [`settle_in`](SqliteStore::settle_in). The receipt is the message's.
    ///
    /// # Errors
    /// [`LeaseLost`](Error::LeaseLost): roll back, for somebody else handles the message. And those
    /// of [`enqueue_in`](SqliteStore::enqueue_in).
    pub fn archive_in(&self, connection: &Connection, receipt: Receipt) -> Result<()> {
        let settlements = vec![Settlement { receipt, action: Action::Archive }];
        let outcomes = self.settle_in(connection, Settle { settlements, now: None })?;
        let lost = Error::LeaseLost { id: receipt.id };
        outcomes.into_iter().next().and_then(Result::ok).map(drop).ok_or(lost)
    }
}

const IN_MEMORY: &str =
    "the store is in memory, which no connection but its own reaches; use a file";

/// Runs `work` wholly or not at all in the transaction that `connection` has begun.
///
/// # Errors
/// `Backend` if it has begun none, or is one to another database.
fn run_in<T>(
    connection: &Connection,
    target: &Target,
    work: impl FnOnce(&Tx<'_>) -> Outcome<T>,
) -> Result<T> {
    check(connection, target)?;
    let tx = Tx::new(connection);
    tx.run(sql::SAVEPOINT, ())?;
    let outcome = work(&tx).and_then(|done| tx.flush().map(|()| done));
    if outcome.is_err() && !connection.is_autocommit() {
        tx.run(sql::ROLLBACK_TO_SAVEPOINT, ())?;
    }
    // A full disk and the like have undone the caller's transaction already.
    if !connection.is_autocommit() {
        tx.run(sql::RELEASE_SAVEPOINT, ())?;
    }
    Ok(outcome?)
}

fn check(connection: &Connection, target: &Target) -> Result<()> {
    let Place::File(ours) = &target.place else { return Err(refused(IN_MEMORY)) };
    let theirs = connection.path().unwrap_or_default();
    if !is_same_file(ours, Path::new(theirs)) {
        let theirs = if theirs.is_empty() { "a database without a file" } else { theirs };
        let ours = ours.display();
        return Err(refused(format!(
            "the connection is to {theirs}, the store is in {ours}; open the connection on the \
             store's file"
        )));
    }
    if connection.is_autocommit() {
        return Err(refused(
            "the connection is in no transaction; begin one, best with \
             TransactionBehavior::Immediate",
        ));
    }
    Ok(())
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Backend { reason: reason.into(), source: None }
}

/// By name: to open it would, on closing, drop the locks that this process holds on it.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

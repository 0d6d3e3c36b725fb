//! A lease whose receipt was current until it was taken, and the ways it ends.

use pgqrs::{Delay, Outcome as Ended, Receipt};
use rusqlite::{Params, Row};

use crate::{error::Outcome, sql, tx::Tx};

/// A live message taken out of the table it stood in: it must be put somewhere before the commit.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    pub(crate) queue: i64,
    pub(crate) rank: i64,
    pub(crate) token: i64,
    pub(crate) attempts: u32,
    pub(crate) max_attempts: u32,
    pub(crate) worker: Option<i64>,
    pub(crate) claimed_at: i64,
    pub(crate) last_error: Option<String>,
}

impl Lease {
    /// Takes the lease of a current receipt, expired or not.
    pub(crate) fn take(tx: &Tx<'_>, receipt: Receipt) -> Outcome<Option<Self>> {
        let key = (receipt.id.0, receipt.token);
        let read = |row: &Row<'_>| Ok((Self::read(row)?, row.get(9)?));
        let Some((lease, run_begins)) = tx.first(sql::CURRENT_LEASE, key, read)? else {
            return tx.first(sql::TAKE_EXPIRED, key, Self::read);
        };
        tx.run(sql::DELETE_LEASE, [lease.id])?;
        shorten_run(tx, run_begins, lease.id, lease.token - lease.id)?;
        Ok(Some(lease))
    }

    /// Takes up to `limit` leases of a queue that expired on their last attempt.
    pub(crate) fn take_spent(
        tx: &Tx<'_>,
        queue: i64,
        now: i64,
        limit: usize,
    ) -> Outcome<Vec<Self>> {
        Self::take_all(tx, sql::TAKE_SPENT, (queue, now, limit as i64))
    }

    /// Takes all that a worker holds, in the order it was claimed.
    pub(crate) fn take_of_worker(tx: &Tx<'_>, worker: i64) -> Outcome<Vec<Self>> {
        let mut leases = Self::take_all(tx, sql::TAKE_WORKERS_LEASES, [worker])?;
        leases.extend(Self::take_all(tx, sql::TAKE_WORKERS_EXPIRED, [worker])?);
        leases.sort_unstable_by_key(|lease| lease.token);
        Ok(leases)
    }

    /// Makes the message claimable after `delay`, behind all that is ready by now. The receipt is
    /// dead.
    pub(crate) fn give_back(&self, tx: &Tx<'_>, delay: Delay, now: i64) -> Outcome<()> {
        let pos = tx.take_numbers(1)?;
        let Self { id, queue, rank, attempts, max_attempts, last_error, .. } = self;
        let visible_at = now + delay.micros();
        let sql = if delay == Delay::ZERO {
            sql::READY
        } else {
            tx.becomes_due(*queue, visible_at);
            sql::DELAY
        };
        let row = (queue, rank, pos, id, attempts, max_attempts, visible_at, last_error);
        tx.run(sql, row).map(drop)
    }

    /// Moves the message to the archive.
    pub(crate) fn archive(&self, tx: &Tx<'_>, outcome: Ended, now: i64) -> Outcome<()> {
        let Self { id, queue, token, attempts, worker, claimed_at, last_error, .. } = self;
        let outcome = outcome_code(outcome);
        let row = (id, queue, outcome, token, attempts, worker, claimed_at, now, last_error);
        tx.run(sql::ARCHIVE, row).map(drop)
    }

    /// Makes the message a dead letter.
    pub(crate) fn bury(mut self, tx: &Tx<'_>, error: &str, now: i64) -> Outcome<()> {
        self.last_error = Some(error.to_owned());
        self.archive(tx, Ended::Dead, now)
    }

    /// Holds the message until `visible_at`, under the same receipt.
    pub(crate) fn hold(&self, tx: &Tx<'_>, visible_at: i64) -> Outcome<()> {
        let Self { id, queue, rank, token, attempts, max_attempts, worker, claimed_at, last_error } =
            self;
        let row = rusqlite::params![
            id,
            queue,
            rank,
            token,
            attempts,
            max_attempts,
            visible_at,
            claimed_at,
            worker,
            last_error
        ];
        tx.becomes_due(*queue, visible_at);
        tx.run(sql::LEASE, row).map(drop)
    }

    fn take_all(tx: &Tx<'_>, sql: &'static str, params: impl Params) -> Outcome<Vec<Self>> {
        tx.all(sql, params, Self::read)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            queue: row.get(1)?,
            rank: row.get(2)?,
            token: row.get(3)?,
            attempts: row.get(4)?,
            max_attempts: row.get(5)?,
            worker: row.get(6)?,
            claimed_at: row.get(7)?,
            last_error: row.get(8)?,
        })
    }
}

/// Gives what is left of a run before `taken` another last lease. `begins` is the run's first id if its
/// last lease is taken.
pub(crate) fn shorten_run(
    tx: &Tx<'_>,
    begins: Option<i64>,
    taken: i64,
    token_less_id: i64,
) -> Outcome<()> {
    match begins {
        Some(begins) if begins < taken => {
            tx.run(sql::SHORTEN_RUN, (begins, taken - 1, token_less_id)).map(drop)
        }
        _ => Ok(()),
    }
}

/// An outcome as it is stored.
pub(crate) fn outcome_code(outcome: Ended) -> i64 {
    match outcome {
        Ended::Done => 0,
        Ended::Dead => 1,
    }
}

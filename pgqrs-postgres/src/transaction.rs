//! Calls in a transaction of the caller's: the store's own statements, on the caller's connection.

use pgqrs::{
    Action, Enqueue, Error, LeaseLost, MessageId, Receipt, Result, Settle, Settled, Settlement,
};
use tokio::time::timeout;

use crate::{PostgresStore, connection::Connection, enqueue, error::unavailable, settle};

/// The caller's connection, with a transaction open:
///
/// - of tokio-postgres: `&transaction`, or any other `&impl GenericClient`;
/// - of deadpool-postgres: `&*transaction`, which is one of tokio-postgres;
/// - of sqlx 0.8 and 0.9: `&mut *transaction`, with the feature `sqlx-0_8` or `sqlx-0_9`.
///
/// Statements are sent unnamed, so that a transaction pooler may stand between.
pub trait Transaction: Connection {}

impl<C: Connection> Transaction for C {}

/// In the caller's own transaction: what happens to messages is committed with what the caller
/// writes, or not at all.
///
/// A call that fails has written nothing. After `QueueNotFound`, `PayloadTooLarge`, `OutOfRange`
/// and a lost lease the transaction may go on; after any other error the caller has to roll it
/// back. Each call waits for [`call_timeout`](crate::Options::call_timeout) at most. Without an
/// injected `now`, times count from the statement, not from the beginning of the transaction.
///
/// Nobody is told of the messages, since NOTIFY takes a lock on the whole server until the commit:
/// after it [`notify`](PostgresStore::notify) wakes the run loops, or else they find them by
/// polling. Keep the transaction short: the queue cannot be deleted, nor the messages that it
/// settles be taken, while it is open.
impl PostgresStore {
    /// Adds messages when the caller commits. [`EnqueueBuilder::command`] makes the command.
    ///
    /// ```no_run
    /// # async fn example(store: pgqrs_postgres::PostgresStore, client: &mut tokio_postgres::Client)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let transaction = client.transaction().await?;
    /// transaction.execute("INSERT INTO orders (id) VALUES (17)", &[]).await?;
    /// let command = pgqrs::enqueue().message(&17).to("orders").command()?;
    /// let queue = command.queue.clone();
    /// store.enqueue_in(&transaction, command).await?;
    /// transaction.commit().await?;
    /// store.notify(&queue).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Store::enqueue`](pgqrs::Store::enqueue).
    ///
    /// [`EnqueueBuilder::command`]: pgqrs::EnqueueBuilder::command
    pub async fn enqueue_in<T: Transaction>(
        &self,
        mut transaction: T,
        enqueue: Enqueue,
    ) -> Result<Vec<MessageId>> {
        // The limit stands in the database; the statement looks at it.
        enqueue.check(usize::MAX)?;
        self.in_time(enqueue::enqueue_with(&self.inner, &mut transaction, &enqueue)).await
    }

    /// Settles messages when the caller commits.
    ///
    /// Under REPEATABLE READ and SERIALIZABLE, begin the transaction after the claim: it does not
    /// see leases that are younger.
    ///
    /// # Errors
    /// As [`Store::settle`](pgqrs::Store::settle).
    pub async fn settle_in<T: Transaction>(
        &self,
        mut transaction: T,
        settle: Settle,
    ) -> Result<Vec<Result<Settled, LeaseLost>>> {
        settle.check()?;
        self.in_time(settle::settle_with(&self.inner, &mut transaction, &settle)).await
    }

    /// Archives a message when the caller commits: the effect of its handler and its end are one.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]: somebody else has the message, so roll back what was done for it; and
    /// as [`settle_in`](Self::settle_in).
    pub async fn archive_in<T: Transaction>(&self, transaction: T, receipt: Receipt) -> Result<()> {
        let settlements = vec![Settlement { receipt, action: Action::Archive }];
        let outcomes = self.settle_in(transaction, Settle { settlements, now: None }).await?;
        match outcomes.first() {
            Some(Ok(_)) => Ok(()),
            _ => Err(Error::LeaseLost { id: receipt.id }),
        }
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.inner.pool.call_timeout();
        let late = || unavailable(format!("the server did not answer within {limit:?}"));
        match timeout(limit, call).await.unwrap_or_else(|_| Err(late())) {
            Err(error) => Err(self.inner.diagnose(error).await),
            done => done,
        }
    }
}

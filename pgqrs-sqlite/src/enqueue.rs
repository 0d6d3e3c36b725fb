//! Enqueue.

use pgqrs::{Delay, Enqueue, Json, MessageId, Priority};
use rusqlite::params;

use crate::{
    error::Outcome,
    sql,
    tx::{QueueRow, Tx},
};

pub(crate) fn enqueue(tx: &Tx<'_>, enqueue: &Enqueue) -> Outcome<Vec<MessageId>> {
    let now = tx.now(enqueue.now);
    let queue = tx.queue(&enqueue.queue)?;
    enqueue.check(tx.store_settings()?.payload_limit)?;
    let first = tx.take_numbers(enqueue.messages.len())?;

    tx.with(sql::ENQUEUE_MESSAGE, |insert| {
        for (id, message) in (first..).zip(&enqueue.messages) {
            let max_attempts = message.max_attempts.unwrap_or(queue.max_attempts);
            let priority = message.priority.level();
            let headers = message.headers.as_ref().map(Json::as_str);
            let payload = message.payload.as_str();
            insert.execute(params![id, queue.id, priority, now, max_attempts, headers, payload])?;
        }
        Ok(())
    })?;
    make_claimable(tx, &queue, enqueue, first, now)?;
    Ok((first..).take(enqueue.messages.len()).map(MessageId).collect())
}

/// A row for each message, by one statement where many follow one another with the same delay.
fn make_claimable(
    tx: &Tx<'_>,
    queue: &QueueRow,
    enqueue: &Enqueue,
    mut first: i64,
    now: i64,
) -> Outcome<()> {
    for run in enqueue.messages.chunk_by(|one, next| one.delay == next.delay) {
        let Some(message) = run.first() else { continue };
        let is_ready = message.delay == Delay::ZERO;
        let visible_at = now + message.delay.micros();
        if !is_ready {
            tx.becomes_due(queue.id, visible_at);
        }
        if run.len() == 1 {
            let sql = if is_ready { sql::READY } else { sql::DELAY };
            let rank = Priority::HIGHEST.level() - message.priority.level();
            let max_attempts = message.max_attempts.unwrap_or(queue.max_attempts);
            let none = None::<&str>;
            let row = (queue.id, rank, first, first, 0, max_attempts, visible_at, none);
            tx.run(sql, row)?;
        } else {
            let sql = if is_ready { sql::ENQUEUE_READY } else { sql::ENQUEUE_DELAYED };
            let last = first + run.len() as i64 - 1;
            tx.run(sql, (first, last, visible_at))?;
        }
        first += run.len() as i64;
    }
    Ok(())
}

//! Enqueue.

use pgqrs::{Delay, Enqueue, Json, MessageId};
use rusqlite::params;

use crate::{error::Outcome, sql, tx::Tx};

pub(crate) fn enqueue(tx: &Tx<'_>, enqueue: &Enqueue) -> Outcome<Vec<MessageId>> {
    let now = tx.now(enqueue.now);
    let queue = tx.queue(&enqueue.queue)?;
    enqueue.check(tx.store_settings()?.payload_limit)?;
    let first = tx.take_numbers(enqueue.messages.len())?;

    let mut insert = tx.prepare(sql::ENQUEUE_MESSAGE)?;
    let mut ids = Vec::with_capacity(enqueue.messages.len());
    for (id, message) in (first..).zip(&enqueue.messages) {
        let max_attempts = message.max_attempts.unwrap_or(queue.max_attempts);
        let priority = message.priority.level();
        let headers = message.headers.as_ref().map(Json::as_str);
        let payload = message.payload.as_str();
        insert.execute(params![id, queue.id, priority, now, max_attempts, headers, payload])?;
        ids.push(MessageId(id));
    }
    let mut first = first;
    for run in enqueue.messages.chunk_by(|one, next| one.delay == next.delay) {
        let delay = run.first().map_or(Delay::ZERO, |message| message.delay);
        let sql = if delay == Delay::ZERO { sql::ENQUEUE_READY } else { sql::ENQUEUE_DELAYED };
        let after = first + run.len() as i64;
        tx.run(sql, (first, after - 1, now + delay.micros()))?;
        first = after;
    }
    Ok(ids)
}

//! Enqueue.

use pgqrs::{BatchSize, Delay, Enqueue, Error, Json, MessageId, Priority};
use rusqlite::params;

use crate::{error::Outcome, queues::check_max_attempts, sql, tx::Tx};

pub(crate) fn enqueue(tx: &Tx<'_>, enqueue: &Enqueue) -> Outcome<Vec<MessageId>> {
    let now = tx.now(enqueue.now);
    let queue = tx.queue(&enqueue.queue)?;
    check(tx, enqueue)?;
    let first = tx.take_numbers(enqueue.messages.len())?;

    let mut insert = tx.prepare(sql::ENQUEUE_MESSAGE)?;
    let mut make_ready = tx.prepare(sql::ENQUEUE_READY)?;
    let mut make_delayed = tx.prepare(sql::ENQUEUE_DELAYED)?;
    let mut ids = Vec::with_capacity(enqueue.messages.len());
    for (id, message) in (first..).zip(&enqueue.messages) {
        let max_attempts = message.max_attempts.unwrap_or(queue.max_attempts);
        let priority = message.priority.level();
        let headers = message.headers.as_ref().map(Json::as_str);
        let payload = message.payload.as_str();
        insert.execute(params![id, queue.id, priority, now, max_attempts, headers, payload])?;
        let place = if message.delay == Delay::ZERO { &mut make_ready } else { &mut make_delayed };
        let visible_at = now + message.delay.micros();
        let rank = rank(message.priority);
        place.execute(params![
            queue.id,
            rank,
            id,
            id,
            0,
            max_attempts,
            visible_at,
            None::<&str>
        ])?;
        ids.push(MessageId(id));
    }
    Ok(ids)
}

/// Where a priority stands among the ready messages: the most urgent first.
fn rank(priority: Priority) -> i64 {
    i64::from(Priority::HIGHEST.level() - priority.level())
}

fn check(tx: &Tx<'_>, enqueue: &Enqueue) -> Outcome<()> {
    BatchSize::new(enqueue.messages.len())?;
    let limit = tx.store_settings()?.payload_limit;
    for (index, message) in enqueue.messages.iter().enumerate() {
        let size = message.payload.size().max(message.headers.as_ref().map_or(0, Json::size));
        if size > limit {
            return Err(Error::PayloadTooLarge { index, size, limit }.into());
        }
        message.max_attempts.map_or(Ok(()), check_max_attempts)?;
    }
    Ok(())
}

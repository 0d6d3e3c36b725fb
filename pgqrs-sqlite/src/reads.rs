//! Reads of live and archived messages, and the way back from one to the other.

use pgqrs::{
    ArchiveFilter, ArchivedMessage, DeadLetters, Delay, Json, LiveMessage, MessageFilter,
    MessageId, MessageState, Outcome as Ended, Page, Priority, QueueName, Receipt, Redrive,
    WorkerId,
};
use rusqlite::{Row, params};

use crate::{
    error::Outcome,
    lease::{Lease, outcome_code},
    sql,
    tx::{Tx, maybe_time, parsed, time},
};

pub(crate) fn messages(tx: &Tx<'_>, filter: &MessageFilter) -> Outcome<Vec<LiveMessage>> {
    let after = filter.page.after.map(|id| id.0);
    let (first, last) = id_range(after, filter.id.map(|id| id.0));
    let params = params![
        filter.queue.as_ref().map(QueueName::as_str),
        first,
        last,
        limit(filter.page),
        tx.now(filter.now),
        filter.state.map(state_name),
        filter.worker.map(|worker| worker.0)
    ];
    tx.all(sql::MESSAGES, params, live)
}

pub(crate) fn archive(tx: &Tx<'_>, filter: &ArchiveFilter) -> Outcome<Vec<ArchivedMessage>> {
    let now = tx.now(filter.now);
    let queue = filter.queue.as_ref().map(QueueName::as_str);
    let after = filter.page.after.map(|id| id.0);
    let (first, last) = id_range(after, filter.id.map(|id| id.0));
    let limit = limit(filter.page);
    if let (Some(queue), Some(Ended::Dead)) = (queue, filter.outcome) {
        return tx.all(sql::DEAD_LETTERS_PAGE, (queue, first, last, limit, now), archived);
    }
    let outcome = filter.outcome.map(outcome_code);
    tx.all(sql::ARCHIVE_PAGE, (queue, first, last, limit, now, outcome), archived)
}

pub(crate) fn redrive(tx: &Tx<'_>, redrive: &Redrive) -> Outcome<Vec<MessageId>> {
    let now = tx.now(redrive.now);
    let queue = tx.queue(&redrive.queue)?;
    let younger_than = queue.retention_us.map_or(i64::MIN, |age| now.saturating_sub(age));
    let ids = match &redrive.letters {
        DeadLetters::Oldest(limit) => {
            let oldest = (queue.id, younger_than, limit.count() as i64);
            tx.all(sql::OLDEST_DEAD_LETTERS, oldest, |row| row.get(0))?
        }
        DeadLetters::Ids(ids) => {
            let mut ids: Vec<_> = ids.iter().map(|id| id.0).collect();
            ids.sort_unstable();
            ids
        }
    };
    let mut redriven = Vec::with_capacity(ids.len());
    for id in ids {
        let key = (queue.id, younger_than, id);
        let read = |row: &Row<'_>| row.get::<_, Option<String>>(0);
        let Some(last_error) = tx.first(sql::TAKE_DEAD_LETTER, key, read)? else {
            continue;
        };
        let lease = tx.first(sql::REDRIVEN, [id], |row| {
            Ok(Lease {
                id,
                queue: queue.id,
                rank: row.get(0)?,
                token: 0,
                attempts: 0,
                max_attempts: row.get(1)?,
                worker: None,
                claimed_at: now,
                last_error,
            })
        })?;
        if let Some(lease) = lease {
            lease.give_back(tx, Delay::ZERO, now)?;
            redriven.push(MessageId(id));
        }
    }
    Ok(redriven)
}

/// The ids that a page may show: those after the page before, and the only one asked for.
pub(crate) fn id_range(after: Option<i64>, only: Option<i64>) -> (i64, i64) {
    let first = after.map_or(i64::MIN, |after| after.saturating_add(1));
    match only {
        Some(id) if id >= first => (id, id),
        Some(_) => (1, 0),
        None => (first, i64::MAX),
    }
}

pub(crate) fn limit<Id>(page: Page<Id>) -> i64 {
    page.limit.count() as i64
}

/// The receipt of a message whose token may be NULL.
fn receipt(id: MessageId, token: Option<i64>) -> Option<Receipt> {
    token.map(|token| Receipt { id, token })
}

fn state_name(state: MessageState) -> &'static str {
    match state {
        MessageState::Delayed => "delayed",
        MessageState::Ready => "ready",
        MessageState::Leased => "leased",
    }
}

fn live(row: &Row<'_>) -> rusqlite::Result<LiveMessage> {
    let id = MessageId(row.get(0)?);
    Ok(LiveMessage {
        id,
        queue: parsed(row, 1)?,
        state: match row.get_ref(2)?.as_str()? {
            "delayed" => MessageState::Delayed,
            "ready" => MessageState::Ready,
            _ => MessageState::Leased,
        },
        payload: Json::from_stored(row.get::<_, String>(3)?),
        headers: row.get::<_, Option<String>>(4)?.map(Json::from_stored),
        priority: priority(row, 5)?,
        enqueued_at: time(row, 6)?,
        visible_at: time(row, 7)?,
        attempts: row.get(8)?,
        max_attempts: row.get(9)?,
        worker: row.get::<_, Option<i64>>(10)?.map(WorkerId),
        last_error: row.get(11)?,
        receipt: receipt(id, row.get(12)?),
    })
}

/// Reads a column that holds a priority.
fn priority(row: &Row<'_>, column: usize) -> rusqlite::Result<Priority> {
    let level: u8 = row.get(column)?;
    Priority::new(level).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, level.into()))
}

fn archived(row: &Row<'_>) -> rusqlite::Result<ArchivedMessage> {
    let id = MessageId(row.get(0)?);
    Ok(ArchivedMessage {
        id,
        queue: parsed(row, 1)?,
        outcome: if row.get::<_, i64>(2)? == 0 { Ended::Done } else { Ended::Dead },
        payload: Json::from_stored(row.get::<_, String>(3)?),
        headers: row.get::<_, Option<String>>(4)?.map(Json::from_stored),
        priority: priority(row, 5)?,
        enqueued_at: time(row, 6)?,
        claimed_at: maybe_time(row, 7)?,
        archived_at: time(row, 8)?,
        attempts: row.get(9)?,
        max_attempts: row.get(10)?,
        worker: row.get::<_, Option<i64>>(11)?.map(WorkerId),
        last_error: row.get(12)?,
        receipt: receipt(id, row.get(13)?),
    })
}

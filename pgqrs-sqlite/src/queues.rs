//! The store's settings, queues, and what an operator asks about them.

use pgqrs::{
    Backoff, Configure, CreateQueue, DeleteQueue, Error, LiveMessages, MetricsFilter,
    Outcome as Ended, Purge, PurgeScope, Queue, QueueFilter, QueueMetrics, QueueName,
    QueueSettings, QueueState, Retention, StoreSettings, UpdateQueue, VisibilityTimeout,
    WorkerCounts,
};
use rusqlite::{Row, params};

use crate::{
    error::{Outcome, stored_value},
    lease::outcome_code,
    sql,
    tx::{Tx, count, instant, maybe_time, parsed, time},
};

pub(crate) fn configure(tx: &Tx<'_>, configure: &Configure) -> Outcome<StoreSettings> {
    configure.check()?;
    if let Some(limit) = configure.payload_limit {
        tx.set_payload_limit(limit as i64)?;
    }
    tx.store_settings()
}

pub(crate) fn create(tx: &Tx<'_>, create: &CreateQueue) -> Outcome<Queue> {
    let settings = &create.settings;
    settings.check()?;
    tx.run(
        sql::CREATE_QUEUE,
        params![
            create.queue.as_str(),
            settings.state == QueueState::Paused,
            settings.visibility_timeout.micros(),
            settings.max_attempts,
            text(&settings.retry)?,
            settings.retention.micros(),
            tx.now(create.now)
        ],
    )?;
    find(tx, &create.queue)
}

pub(crate) fn update(tx: &Tx<'_>, update: &UpdateQueue) -> Outcome<Queue> {
    let queue = find(tx, &update.queue)?;
    let settings = update.changes.clone().applied_to(queue.settings);
    settings.check()?;
    tx.run(
        sql::UPDATE_QUEUE,
        params![
            update.queue.as_str(),
            settings.state == QueueState::Paused,
            settings.visibility_timeout.micros(),
            settings.max_attempts,
            text(&settings.retry)?,
            settings.retention.micros()
        ],
    )?;
    tx.forget_queues();
    Ok(Queue { settings, ..queue })
}

pub(crate) fn delete(tx: &Tx<'_>, delete: &DeleteQueue) -> Outcome<()> {
    let queue = tx.queue(&delete.queue)?.id;
    let live = tx.first(sql::COUNT_LIVE, [queue], |row| count(row, 0))?.unwrap_or(0);
    if live > 0 && delete.live == LiveMessages::Keep {
        return Err(Error::QueueNotEmpty { queue: delete.queue.clone(), live }.into());
    }
    let everything =
        [PurgeScope::Live, PurgeScope::Archived(Ended::Done), PurgeScope::Archived(Ended::Dead)];
    for scope in everything {
        purge(tx, &Purge { queue: delete.queue.clone(), scope })?;
    }
    tx.run(sql::DELETE_QUEUE_WORKERS, [queue])?;
    tx.run(sql::DELETE_QUEUE, [queue])?;
    tx.forget_queues();
    Ok(())
}

pub(crate) fn purge(tx: &Tx<'_>, purge: &Purge) -> Outcome<u64> {
    let queue = tx.queue(&purge.queue)?.id;
    let removed = match purge.scope {
        PurgeScope::Live => {
            let removed = tx.run(sql::DELETE_LIVE_MESSAGES, [queue])?;
            for sql in [sql::PURGE_READY, sql::PURGE_LEASES, sql::PURGE_DELAYED] {
                tx.run(sql, [queue])?;
            }
            removed
        }
        PurgeScope::Archived(outcome) => {
            let scope = (queue, outcome_code(outcome));
            tx.run(sql::DELETE_ARCHIVED_MESSAGES, scope)?;
            tx.run(sql::PURGE_ARCHIVE, scope)?
        }
    };
    Ok(removed as u64)
}

pub(crate) fn queues(tx: &Tx<'_>, filter: &QueueFilter) -> Outcome<Vec<Queue>> {
    let named = filter.queue.as_ref().map(QueueName::as_str);
    tx.with(sql::QUEUES, |statement| {
        let mut rows = statement.query([named])?;
        let mut queues = Vec::new();
        while let Some(row) = rows.next()? {
            queues.push(read(row)?);
        }
        Ok(queues)
    })
}

pub(crate) fn metrics(tx: &Tx<'_>, filter: &MetricsFilter) -> Outcome<Vec<QueueMetrics>> {
    let now = tx.now(filter.now);
    let named = filter.queue.as_ref().map(QueueName::as_str);
    let metrics = tx.all(sql::METRICS, (named, now), |row| {
        Ok(QueueMetrics {
            queue: parsed(row, 0)?,
            ready: count(row, 1)?,
            delayed: count(row, 2)?,
            leased: count(row, 3)?,
            archived: count(row, 4)?,
            dead: count(row, 5)?,
            oldest_ready_at: maybe_time(row, 6)?,
            now: instant(now, 0)?,
            workers: WorkerCounts {
                ready: count(row, 7)?,
                suspended: count(row, 8)?,
                stopped: count(row, 9)?,
            },
        })
    })?;
    match &filter.queue {
        Some(queue) if metrics.is_empty() => {
            Err(Error::QueueNotFound { queue: queue.clone() }.into())
        }
        _ => Ok(metrics),
    }
}

fn find(tx: &Tx<'_>, name: &QueueName) -> Outcome<Queue> {
    let found = queues(tx, &QueueFilter::named(name.clone()))?.pop();
    Ok(found.ok_or_else(|| Error::QueueNotFound { queue: name.clone() })?)
}

fn read(row: &Row<'_>) -> Outcome<Queue> {
    let timeout = std::time::Duration::from_micros(count(row, 2)?);
    let retry = row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?;
    let retry = serde_json::from_str(retry)
        .map_err(|error| stored_value(format!("a queue's retry is {retry:?}: {error}")))?;
    let settings = QueueSettings {
        state: if row.get(1)? { QueueState::Paused } else { QueueState::Active },
        visibility_timeout: VisibilityTimeout::new(timeout)?,
        max_attempts: row.get(3)?,
        retry,
        retention: Retention::from_micros(row.get(5)?),
    };
    Ok(Queue { name: parsed(row, 0)?, settings, created_at: time(row, 6)? })
}

fn text(retry: &Backoff) -> pgqrs::Result<String> {
    serde_json::to_string(retry).map_err(|source| Error::NotJson { source })
}

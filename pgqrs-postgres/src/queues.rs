//! The store's settings and its queues.

use pgqrs::{
    Configure, CreateQueue, DeleteQueue, Error, LiveMessages, MetricsFilter, Outcome, Purge,
    PurgeScope, Queue, QueueChanges, QueueFilter, QueueMetrics, QueueName, QueueSettings,
    QueueState, Result, Retention, StoreSettings, UpdateQueue, VisibilityTimeout, WorkerCounts,
};
use tokio_postgres::Row;

use crate::{
    error::{column, out_of_range},
    pool::{Session, params},
    store::Inner,
};

pub(crate) async fn configure(store: &Inner, configure: Configure) -> Result<StoreSettings> {
    if let Some(limit) = configure.payload_limit
        && !(1024..=256 * 1024 * 1024).contains(&limit)
    {
        return Err(out_of_range("payload limit", limit, "1 KiB to 256 MiB"));
    }
    let limit = configure.payload_limit.map(|limit| limit as i64);
    let row = store.pool.query_one(&store.sql.configure, params![limit]).await?;
    Ok(StoreSettings { payload_limit: column::<i64>(&row, "payload_limit")? as usize })
}

pub(crate) async fn create(store: &Inner, create: &CreateQueue) -> Result<Queue> {
    let QueueSettings { state, visibility_timeout, max_attempts, retry, retention } =
        &create.settings;
    let max_attempts = checked_attempts(*max_attempts)?;
    let parameters = params![
        create.queue.as_str(),
        *state == QueueState::Paused,
        visibility_timeout.micros(),
        max_attempts,
        json(retry)?,
        retention.micros(),
        create.now,
    ];
    store.pool.query(&store.sql.create_queue, parameters).await?;
    // Read in a statement of its own: the one above does not see what it lost a race to.
    let named = QueueFilter::named(create.queue.clone());
    read(store, &named).await?.pop().ok_or_else(|| not_found(&create.queue))
}

pub(crate) async fn update(store: &Inner, update: &UpdateQueue) -> Result<Queue> {
    let QueueChanges { state, visibility_timeout, max_attempts, retry, retention } =
        &update.changes;
    let parameters = params![
        update.queue.as_str(),
        state.map(|state| state == QueueState::Paused),
        visibility_timeout.map(VisibilityTimeout::micros),
        max_attempts.map(checked_attempts).transpose()?,
        retry.as_ref().map(json).transpose()?,
        retention.is_some(),
        retention.and_then(Retention::micros),
    ];
    let rows = store.pool.query(&store.sql.update_queue, parameters).await?;
    rows.first().map_or_else(|| Err(not_found(&update.queue)), queue)
}

pub(crate) async fn delete(store: &Inner, delete: &DeleteQueue) -> Result<()> {
    let mut tx = store.pool.begin_long().await?;
    let deleted = delete_in(store, &mut tx, delete).await;
    tx.end(deleted).await
}

pub(crate) async fn purge(store: &Inner, purge: &Purge) -> Result<u64> {
    let mut tx = store.pool.begin_long().await?;
    let purged = purge_in(store, &mut tx, purge).await;
    tx.end(purged).await
}

pub(crate) async fn read(store: &Inner, filter: &QueueFilter) -> Result<Vec<Queue>> {
    let name = filter.queue.as_ref().map(QueueName::as_str);
    store.pool.query(&store.sql.queues, params![name]).await?.iter().map(queue).collect()
}

pub(crate) async fn metrics(store: &Inner, filter: &MetricsFilter) -> Result<Vec<QueueMetrics>> {
    let name = filter.queue.as_ref().map(QueueName::as_str);
    let rows = store.pool.query(&store.sql.metrics, params![name, filter.now]).await?;
    match &filter.queue {
        Some(queue) if rows.is_empty() => Err(not_found(queue)),
        _ => rows.iter().map(queue_metrics).collect(),
    }
}

pub(crate) fn not_found(queue: &QueueName) -> Error {
    Error::QueueNotFound { queue: queue.clone() }
}

/// `max_attempts` as it is stored.
pub(crate) fn checked_attempts(max_attempts: u32) -> Result<i16> {
    match i16::try_from(max_attempts) {
        Ok(attempts) if attempts > 0 => Ok(attempts),
        _ => Err(out_of_range("max_attempts", max_attempts, "1 to 32767")),
    }
}

/// The name in a row.
pub(crate) fn name(row: &Row) -> Result<QueueName> {
    QueueName::new(column::<String>(row, "name")?)
}

async fn delete_in(store: &Inner, tx: &mut Session<'_>, delete: &DeleteQueue) -> Result<()> {
    let id = lock(store, tx, &delete.queue).await?;
    if delete.live == LiveMessages::Keep {
        let live: i64 = column(&tx.query_one(&store.sql.count_live, params![id]).await?, "live")?;
        if live > 0 {
            let queue = delete.queue.clone();
            return Err(Error::QueueNotEmpty { queue, live: live.cast_unsigned() });
        }
    }
    // Workers first: their moves lock them before the messages.
    tx.query(&store.sql.delete_workers, params![id]).await?;
    delete_live(store, tx, id).await?;
    tx.query(&store.sql.purge_archive, params![id, None::<&str>]).await?;
    tx.query(&store.sql.delete_queue, params![id]).await?;
    Ok(())
}

async fn purge_in(store: &Inner, tx: &mut Session<'_>, purge: &Purge) -> Result<u64> {
    let id = lock(store, tx, &purge.queue).await?;
    match purge.scope {
        PurgeScope::Live => delete_live(store, tx, id).await,
        PurgeScope::Archived(outcome) => {
            let outcome = Some(outcome_name(outcome));
            let row = tx.query_one(&store.sql.purge_archive, params![id, outcome]).await?;
            Ok(column::<i64>(&row, "deleted")?.cast_unsigned())
        }
    }
}

async fn lock(store: &Inner, tx: &mut Session<'_>, queue: &QueueName) -> Result<i32> {
    let rows = tx.query(&store.sql.lock_queue, params![queue.as_str()]).await?;
    rows.first().map_or_else(|| Err(not_found(queue)), |row| column(row, "id"))
}

async fn delete_live(store: &Inner, tx: &mut Session<'_>, queue: i32) -> Result<u64> {
    let mut deleted = 0;
    loop {
        let row = tx.query_one(&store.sql.delete_live, params![queue]).await?;
        deleted += column::<i64>(&row, "deleted")?.cast_unsigned();
        if column::<i64>(&row, "seen")? == 0 {
            return Ok(deleted);
        }
    }
}

pub(crate) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Dead => "dead",
    }
}

fn json(retry: &pgqrs::Backoff) -> Result<String> {
    serde_json::to_string(retry).map_err(|source| Error::NotJson { source })
}

fn queue(row: &Row) -> Result<Queue> {
    let timeout = column::<i64>(row, "visibility_timeout_us")?.unsigned_abs();
    let retry = column::<String>(row, "retry")?;
    let settings = QueueSettings {
        state: match column(row, "paused")? {
            true => QueueState::Paused,
            false => QueueState::Active,
        },
        visibility_timeout: VisibilityTimeout::new(std::time::Duration::from_micros(timeout))?,
        max_attempts: column::<i16>(row, "max_attempts")?.unsigned_abs().into(),
        retry: serde_json::from_str(&retry).map_err(|source| Error::NotJson { source })?,
        retention: Retention::from_micros(column(row, "retention_us")?),
    };
    Ok(Queue { name: name(row)?, settings, created_at: column(row, "created_at")? })
}

fn queue_metrics(row: &Row) -> Result<QueueMetrics> {
    let count = |name| column::<i64>(row, name).map(i64::cast_unsigned);
    Ok(QueueMetrics {
        queue: name(row)?,
        ready: count("ready")?,
        delayed: count("delayed")?,
        leased: count("leased")?,
        archived: count("archived")?,
        dead: count("dead")?,
        oldest_ready_at: column(row, "oldest_ready_at")?,
        now: column(row, "now")?,
        workers: WorkerCounts {
            ready: count("workers_ready")?,
            suspended: count("workers_suspended")?,
            stopped: count("workers_stopped")?,
        },
    })
}

//! The maintenance pass.

use std::sync::atomic::Ordering;

use pgqrs::{LEASE_EXPIRED, Result, STOPPED_WORKERS_KEPT, Sweep, Swept, WORKER_DEAD};

use crate::{
    error::column,
    partitions::{self, RANGE},
    pool::{Session, params},
    sql_partitions::REMOVE_ARCHIVED,
    store::Inner,
    workers::{Free, free},
};

pub(crate) async fn sweep(store: &Inner, sweep: Sweep) -> Result<Swept> {
    let (sql, pool) = (&store.sql, &store.pool);
    let (now, limit) = (sweep.now, sweep.limit.count() as i64);
    let kept = STOPPED_WORKERS_KEPT.as_micros() as i64;
    let mut swept = Swept::default();
    let looked = store.partitions_looked_at.load(Ordering::Relaxed);
    let due = pool.query_one(&sql.sweep_due, params![now, kept, RANGE / 8, looked]).await?;
    let count = |row, name| column::<i64>(&row, name).map(i64::cast_unsigned);
    if column(&due, "spent")? {
        let row = pool.query_one(&sql.bury_spent, params![now, limit, LEASE_EXPIRED]).await?;
        swept.buried = count(row, "buried")?;
    }
    if column(&due, "dead_workers")? {
        let mut tx = pool.begin().await?;
        let stopped = stop_dead(store, &mut tx, sweep, &mut swept).await;
        tx.end(stopped).await?;
    }
    if column(&due, "old_workers")? {
        let row = pool.query_one(&sql.remove_workers, params![now, limit, kept]).await?;
        swept.workers_removed = count(row, "removed")?;
    }
    if column(&due, "old_archive")? {
        let row = pool.query_one(&sql.render(REMOVE_ARCHIVED), params![now, limit]).await?;
        swept.archive_removed = count(row, "removed")?;
    }
    if column(&due, "partitions")? {
        swept.archive_removed += partitions::keep(store, now).await?;
        store.partitions_looked_at.store(column(&due, "last_value")?, Ordering::Relaxed);
    }
    Ok(swept)
}

/// Stops workers that have been silent for too long, and releases what they hold.
async fn stop_dead(
    store: &Inner,
    tx: &mut Session<'_>,
    sweep: Sweep,
    swept: &mut Swept,
) -> Result<()> {
    let (now, limit) = (sweep.now, sweep.limit.count() as i64);
    for row in tx.query(&store.sql.dead_workers, params![now, limit]).await? {
        let (worker, queue) = (column(&row, "id")?, column(&row, "queue_id")?);
        tx.query(&store.sql.stop_worker, params![worker, now, None::<i64>]).await?;
        let held = Free { queue, worker, given_back: 0, error: WORKER_DEAD, now };
        let (released, buried) = free(store, tx, held).await?;
        swept.workers_stopped += 1;
        swept.released += released;
        swept.buried += buried;
    }
    Ok(())
}

//! The maintenance pass.

use pgqrs::{LEASE_EXPIRED, Outcome as Ended, STOPPED_WORKERS_KEPT, Sweep, Swept, WORKER_DEAD};

use crate::{
    error::Outcome,
    lease::{Lease, outcome_code},
    sql,
    tx::Tx,
    workers,
};

pub(crate) fn sweep(tx: &Tx<'_>, sweep: &Sweep) -> Outcome<Swept> {
    let now = tx.now(sweep.now);
    let limit = sweep.limit.count();
    let mut swept = Swept::default();
    let queues: Vec<(i64, Option<i64>)> =
        tx.all(sql::QUEUE_IDS, (), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut spent = limit;
    let mut old = limit;
    for (queue, retention) in queues {
        let buried = bury_expired(tx, queue, now, spent)?;
        spent -= buried;
        swept.buried += buried as u64;
        if let Some(age) = retention {
            let removed = remove_archived(tx, queue, now.saturating_sub(age), old)?;
            old -= removed;
            swept.archive_removed += removed as u64;
        }
    }
    stop_dead_workers(tx, now, limit, &mut swept)?;
    let kept = i64::try_from(STOPPED_WORKERS_KEPT.as_micros()).unwrap_or(i64::MAX);
    swept.workers_removed = tx.run(sql::REMOVE_WORKERS, (now - kept, limit as i64))? as u64;
    Ok(swept)
}

fn bury_expired(tx: &Tx<'_>, queue: i64, now: i64, limit: usize) -> Outcome<usize> {
    let leases = Lease::take_spent(tx, queue, now, limit)?;
    let count = leases.len();
    for lease in leases {
        lease.bury(tx, LEASE_EXPIRED, now)?;
    }
    Ok(count)
}

fn stop_dead_workers(tx: &Tx<'_>, now: i64, limit: usize, swept: &mut Swept) -> Outcome<()> {
    let dead: Vec<i64> = tx.all(sql::DEAD_WORKERS, (now, limit as i64), |row| row.get(0))?;
    for worker in dead {
        tx.run(sql::STOP_WORKER, (worker, now, None::<i64>))?;
        let freed = workers::free(tx, worker, WORKER_DEAD, now)?;
        swept.workers_stopped += 1;
        swept.released += freed.released;
        swept.buried += freed.buried;
    }
    Ok(())
}

/// Removes what was archived at `oldest` or earlier.
fn remove_archived(tx: &Tx<'_>, queue: i64, oldest: i64, limit: usize) -> Outcome<usize> {
    let mut removed: Vec<i64> = Vec::new();
    for outcome in [Ended::Done, Ended::Dead] {
        let rest = (limit - removed.len()) as i64;
        let rows = (queue, outcome_code(outcome), oldest, rest);
        removed.extend(tx.all(sql::REMOVE_ARCHIVED, rows, |row| row.get::<_, i64>(0))?);
    }
    for id in &removed {
        tx.run(sql::DELETE_MESSAGE, [id])?;
    }
    Ok(removed.len())
}

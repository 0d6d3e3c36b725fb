//! Workers: registration, transitions, and what becomes of what they hold.

use std::time::Duration;

use pgqrs::{
    Delay, Error, QueueName, Register, Transition, WORKER_REPLACED, WorkerChange, WorkerFilter,
    WorkerId, WorkerKind, WorkerRecord, WorkerState,
};
use rusqlite::Row;

use crate::{
    error::Outcome,
    lease::Lease,
    reads::{id_range, limit},
    sql,
    tx::{Tx, count, instant, maybe_time, parsed, time},
};

/// What was freed from workers that ended without saying so.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    pub(crate) released: u64,
    pub(crate) buried: u64,
}

pub(crate) fn register(tx: &Tx<'_>, register: &Register) -> Outcome<WorkerRecord> {
    register.check()?;
    let now = tx.now(register.now);
    let queue = tx.queue(&register.queue)?.id;
    let Register { kind, host, port, heartbeat_timeout, .. } = register;
    let id = tx.take_numbers(1)?;

    let identity = (queue, kind.as_str(), host, port);
    if let Some(earlier) = tx.first(sql::PREDECESSOR, identity, |row| row.get(0))? {
        tx.run(sql::STOP_WORKER, (earlier, now, Some(id)))?;
        free(tx, earlier, WORKER_REPLACED, now)?;
    }
    // What would overflow with the time added is as good as for ever.
    let timeout = heartbeat_timeout.map(|timeout| i64::try_from(timeout.as_micros()));
    let timeout = timeout.map(|micros| micros.unwrap_or(i64::MAX).min(i64::MAX / 2));
    tx.run(sql::REGISTER, (id, kind.as_str(), host, port, queue, timeout, now))?;
    registered(tx, WorkerId(id), queue)
}

pub(crate) fn transition(tx: &Tx<'_>, transition: &Transition) -> Outcome<WorkerRecord> {
    let now = tx.now(transition.now);
    let queue = tx.queue(&transition.queue)?.id;
    let record = registered(tx, transition.worker, queue)?;
    let state = record.transition(transition.change)?;
    let (id, at) = (record.id.0, instant(now, 0)?);
    let record = WorkerRecord { state, ..record };
    match transition.change {
        WorkerChange::Heartbeat => {
            tx.run(sql::HEARTBEAT, (id, now))?;
            Ok(WorkerRecord { heartbeat_at: at, ..record })
        }
        WorkerChange::Suspend | WorkerChange::Resume => {
            tx.run(sql::SET_WORKER_STATE, (id, state.as_str()))?;
            Ok(record)
        }
        WorkerChange::Stop => {
            tx.run(sql::STOP_WORKER, (id, now, None::<i64>))?;
            for mut lease in Lease::take_of_worker(tx, id)? {
                lease.attempts = lease.attempts.saturating_sub(1);
                lease.give_back(tx, Delay::ZERO, now)?;
            }
            Ok(WorkerRecord { stopped_at: Some(at), ..record })
        }
    }
}

pub(crate) fn workers(tx: &Tx<'_>, filter: &WorkerFilter) -> Outcome<Vec<WorkerRecord>> {
    let (first, last) = id_range(filter.page.after.map(|id| id.0), filter.id.map(|id| id.0));
    let queue = filter.queue.as_ref().map(QueueName::as_str);
    let state = filter.state.map(WorkerState::as_str);
    tx.all(sql::WORKERS, (queue, first, last, limit(filter.page), state), read)
}

/// The registration of a worker of this queue.
///
/// # Errors
/// `WorkerNotFound`.
pub(crate) fn registered(tx: &Tx<'_>, id: WorkerId, queue: i64) -> Outcome<WorkerRecord> {
    let found = tx.first(sql::WORKER, (id.0, queue), read)?;
    Ok(found.ok_or(Error::WorkerNotFound { worker: id })?)
}

/// Frees what a dead or replaced worker holds: the attempts count.
pub(crate) fn free(tx: &Tx<'_>, worker: i64, error: &str, now: i64) -> Outcome<Freed> {
    let mut freed = Freed::default();
    for lease in Lease::take_of_worker(tx, worker)? {
        if lease.attempts < lease.max_attempts {
            lease.give_back(tx, Delay::ZERO, now)?;
            freed.released += 1;
        } else {
            lease.bury(tx, error, now)?;
            freed.buried += 1;
        }
    }
    Ok(freed)
}

fn read(row: &Row<'_>) -> rusqlite::Result<WorkerRecord> {
    let state = row.get_ref(5)?.as_str()?;
    let state = WorkerState::ALL.into_iter().find(|known| known.as_str() == state);
    let timeout = row.get::<_, Option<i64>>(6)?.map(|_| count(row, 6)).transpose()?;
    Ok(WorkerRecord {
        id: WorkerId(row.get(0)?),
        kind: match row.get_ref(1)?.as_str()? {
            "producer" => WorkerKind::Producer,
            _ => WorkerKind::Consumer,
        },
        host: row.get(2)?,
        port: row.get(3)?,
        queue: parsed(row, 4)?,
        state: state.unwrap_or(WorkerState::Stopped),
        heartbeat_timeout: timeout.map(Duration::from_micros),
        registered_at: time(row, 7)?,
        heartbeat_at: time(row, 8)?,
        stopped_at: maybe_time(row, 9)?,
        replaced_by: row.get::<_, Option<i64>>(10)?.map(WorkerId),
    })
}

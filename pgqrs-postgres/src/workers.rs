//! Registrations of workers, and what becomes of the messages they hold.

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgqrs::{
    Error, QueueName, Register, Result, Transition, WORKER_REPLACED, WorkerChange, WorkerFilter,
    WorkerId, WorkerKind, WorkerRecord, WorkerState,
};
use tokio_postgres::Row;

use crate::{
    error::{column, out_of_range},
    migrate::checksum,
    pool::{Session, params},
    queues::{name, not_found},
    store::Inner,
};

pub(crate) async fn register(store: &Inner, register: &Register) -> Result<WorkerRecord> {
    if !(1..=255).contains(&register.host.len()) {
        return Err(out_of_range("host length", register.host.len(), "1 to 255 bytes"));
    }
    let mut tx = store.pool.begin().await?;
    let registered = register_in(store, &mut tx, register).await;
    tx.end(registered).await
}

pub(crate) async fn transition(store: &Inner, transition: &Transition) -> Result<WorkerRecord> {
    let Transition { worker, queue, change, now } = transition;
    if *change == WorkerChange::Heartbeat {
        let parameters = params![worker.0, queue.as_str(), *now];
        let rows = store.pool.query(&store.sql.heartbeat, parameters).await?;
        if let Some(row) = rows.first() {
            return record(row);
        }
    }
    let mut tx = store.pool.begin().await?;
    let moved = transition_in(store, &mut tx, transition).await;
    tx.end(moved).await
}

pub(crate) async fn read(store: &Inner, filter: &WorkerFilter) -> Result<Vec<WorkerRecord>> {
    let parameters = params![
        filter.queue.as_ref().map(QueueName::as_str),
        filter.state.map(WorkerState::as_str),
        filter.id.map(|id| id.0),
        filter.page.after.map(|id| id.0),
        filter.page.limit.count() as i64,
    ];
    store.pool.query(&store.sql.workers, parameters).await?.iter().map(record).collect()
}

/// What a stop does with the messages held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Free {
    pub(crate) queue: i32,
    pub(crate) worker: i64,
    /// How many attempts are given back per message.
    pub(crate) given_back: i16,
    /// The error of those at their maximum.
    pub(crate) error: &'static str,
    pub(crate) now: Option<DateTime<Utc>>,
}

/// Releases what a worker holds, whose row is locked; returns how many were released, and buried.
pub(crate) async fn free(store: &Inner, tx: &mut Session<'_>, free: Free) -> Result<(u64, u64)> {
    let (mut released, mut buried) = (0, 0);
    loop {
        let parameters = params![free.queue, free.worker, free.now, free.given_back, free.error];
        let row = tx.query_one(&store.sql.free_held, parameters).await?;
        released += column::<i64>(&row, "released")?.cast_unsigned();
        buried += column::<i64>(&row, "buried")?.cast_unsigned();
        if column::<i64>(&row, "seen")? == 0 {
            return Ok((released, buried));
        }
    }
}

/// The state of this name.
pub(crate) fn state(name: &str) -> Result<WorkerState> {
    let state = WorkerState::ALL.into_iter().find(|state| state.as_str() == name);
    state.ok_or_else(|| Error::Backend { reason: format!("no worker is {name:?}"), source: None })
}

async fn register_in(
    store: &Inner,
    tx: &mut Session<'_>,
    register: &Register,
) -> Result<WorkerRecord> {
    let Register { kind, host, port, queue, heartbeat_timeout, now } = register;
    let (sql, port_number) = (&store.sql, i32::from(*port));
    let identity = format!("{} {kind} {host} {port} {queue}", store.schema);
    if *port != 0 {
        tx.query(&sql.lock_identity, params![checksum(&identity)]).await?;
    }
    let identity = params![queue.as_str(), kind.as_str(), host.as_str(), port_number];
    let rows = tx.query(&sql.predecessor, identity).await?;
    let Some(row) = rows.first() else {
        return Err(not_found(queue));
    };
    let (queue_id, id): (i32, i64) = (column(row, "queue_id")?, column(row, "id")?);
    if let Some(worker) = column(row, "earlier")? {
        tx.query(&sql.stop_worker, params![worker, *now, Some(id)]).await?;
        let held =
            Free { queue: queue_id, worker, given_back: 0, error: WORKER_REPLACED, now: *now };
        free(store, tx, held).await?;
    }
    let timeout =
        heartbeat_timeout.map(|timeout| i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX));
    let parameters =
        params![id, kind.as_str(), host.as_str(), port_number, queue_id, timeout, *now];
    let registered_at = column(&tx.query_one(&sql.register, parameters).await?, "registered_at")?;
    Ok(WorkerRecord {
        id: WorkerId(id),
        kind: *kind,
        host: host.clone(),
        port: *port,
        queue: queue.clone(),
        state: WorkerState::Ready,
        heartbeat_timeout: timeout.map(|timeout| Duration::from_micros(timeout.unsigned_abs())),
        registered_at,
        heartbeat_at: registered_at,
        stopped_at: None,
        replaced_by: None,
    })
}

async fn transition_in(
    store: &Inner,
    tx: &mut Session<'_>,
    transition: &Transition,
) -> Result<WorkerRecord> {
    let Transition { worker, queue, change, now } = transition;
    let rows = tx.query(&store.sql.lock_worker, params![worker.0, queue.as_str()]).await?;
    let Some(row) = rows.first() else {
        let queues = tx.query(&store.sql.queues, params![Some(queue.as_str())]).await?;
        return Err(match queues.is_empty() {
            true => not_found(queue),
            false => Error::WorkerNotFound { worker: *worker },
        });
    };
    let mut record = record(row)?;
    record.state = record.transition(*change)?;
    let parameters = params![worker.0, record.state.as_str(), *now];
    let moved = tx.query_one(&store.sql.move_worker, parameters).await?;
    record.stopped_at = column(&moved, "stopped_at")?;
    if *change == WorkerChange::Stop {
        let queue = column(row, "queue_id")?;
        let held = Free { queue, worker: worker.0, given_back: 1, error: "", now: *now };
        free(store, tx, held).await?;
    }
    Ok(record)
}

fn record(row: &Row) -> Result<WorkerRecord> {
    let timeout: Option<i64> = column(row, "heartbeat_timeout_us")?;
    Ok(WorkerRecord {
        id: WorkerId(column(row, "id")?),
        kind: match column::<String>(row, "kind")?.as_str() {
            "producer" => WorkerKind::Producer,
            _ => WorkerKind::Consumer,
        },
        host: column(row, "host")?,
        port: u16::try_from(column::<i32>(row, "port")?).unwrap_or_default(),
        queue: name(row)?,
        state: state(&column::<String>(row, "state")?)?,
        heartbeat_timeout: timeout.map(|timeout| Duration::from_micros(timeout.unsigned_abs())),
        registered_at: column(row, "registered_at")?,
        heartbeat_at: column(row, "heartbeat_at")?,
        stopped_at: column(row, "stopped_at")?,
        replaced_by: column::<Option<i64>>(row, "replaced_by")?.map(WorkerId),
    })
}

//! How workers register, and the heartbeat that lives as long as their handle.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Error, QueueName, Register, Result, Store, Transition, WorkerChange, WorkerKind, WorkerRecord,
    limits::out_of_range, truncate_to_micros,
};

/// What a builder gathers.
#[derive(Debug)]
pub(crate) struct Registration {
    kind: WorkerKind,
    host: String,
    port: u16,
    queue: Result<QueueName>,
    pub(crate) heartbeat_timeout: Option<Duration>,
    pub(crate) now: Option<DateTime<Utc>>,
}

impl Registration {
    pub(crate) fn new<Q>(kind: WorkerKind, host: impl Into<String>, port: u16, queue: Q) -> Self
    where
        Q: TryInto<QueueName>,
        Q::Error: Into<Error>,
    {
        let queue = queue.try_into().map_err(Into::into);
        Self { kind, host: host.into(), port, queue, heartbeat_timeout: None, now: None }
    }

    pub(crate) async fn register(self, store: Arc<dyn Store>) -> Result<Registered> {
        if let Some(timeout) = self.heartbeat_timeout
            && !(Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60)).contains(&timeout)
        {
            return Err(out_of_range(
                "heartbeat timeout",
                format!("{timeout:?}"),
                "100 ms to 24 h",
            ));
        }
        let register = Register {
            kind: self.kind,
            host: self.host,
            port: self.port,
            queue: self.queue?,
            heartbeat_timeout: self.heartbeat_timeout,
            now: self.now.map(truncate_to_micros),
        };
        let record = store.register(register).await?;
        let heartbeat = record.heartbeat_timeout.map(|timeout| {
            let stop = CancellationToken::new();
            tokio::spawn(beat(store.clone(), record.clone(), timeout / 3, stop.clone()));
            stop.drop_guard()
        });
        Ok(Registered { store, record, _heartbeat: heartbeat })
    }
}

/// A registration in its store. Dropping it ends its heartbeat.
#[derive(Debug)]
pub(crate) struct Registered {
    store: Arc<dyn Store>,
    record: WorkerRecord,
    _heartbeat: Option<DropGuard>,
}

impl Registered {
    /// A further handle of a registration that others keep alive.
    pub(crate) fn known(store: Arc<dyn Store>, record: WorkerRecord) -> Self {
        Self { store, record, _heartbeat: None }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) fn record(&self) -> &WorkerRecord {
        &self.record
    }
}

/// Sends a heartbeat every `interval`, sooner after one that failed, until it is stopped or the
/// worker is.
async fn beat(
    store: Arc<dyn Store>,
    worker: WorkerRecord,
    interval: Duration,
    stop: CancellationToken,
) {
    let mut pause = interval;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let transition = Transition {
            worker: worker.id,
            queue: worker.queue.clone(),
            change: WorkerChange::Heartbeat,
            now: None,
        };
        // One without an answer leaves time for three more until the worker is taken for dead.
        let beat = tokio::time::timeout(interval / 2, store.transition(transition));
        pause = match beat.await {
            Ok(Ok(_)) => interval,
            Ok(Err(error)) if !error.is_unavailable() => {
                tracing::info!(worker = worker.id.0, %error, "the heartbeat ends");
                return;
            }
            failed => {
                let error = failed.map(|answer| answer.err());
                tracing::warn!(worker = worker.id.0, ?error, "heartbeat failed; trying again");
                interval / 10
            }
        };
    }
}

//! The operator's face: schema, queues, reads, maintenance. Rows are the keywords of the records in
//! `pgqrs._records`.

use std::{sync::Arc, time::Duration};

use pgqrs::{
    ArchiveFilter, ArchivedMessage, Backoff, Configure, CreateQueue, DeadLetters, DeleteQueue,
    Finding, Health, LiveMessage, LiveMessages, MessageFilter, MessageState, MetricsFilter,
    Outcome, Page, Purge, PurgeScope, Queue, QueueChanges, QueueFilter, QueueMetrics, QueueName,
    QueueSettings, QueueState, Redrive, Retention, Store, Sweep, UpdateQueue, WorkerFilter,
    WorkerState,
};
use pyo3::{IntoPyObjectExt, exceptions::PyValueError, prelude::*, types::PyDict};

use crate::{
    bridge::Bridge,
    error::{out_of_range, raised},
    json,
    message::{duration, timeout},
    runtime::OfProcess,
    store::{PyStore, batch, name},
    worker,
};

/// A backoff as `(kind, delay, max)`, in microseconds.
type Retry = (String, i64, i64);

#[pyclass(frozen, module = "pgqrs._native")]
pub(crate) struct Admin(OfProcess<Arc<dyn Store>>);

#[pymethods]
impl Admin {
    #[new]
    fn new(store: &PyStore) -> PyResult<Self> {
        Ok(Self(OfProcess::new(store.store()?)))
    }

    fn install(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        let store = self.store()?;
        bridge.answer(call, async move { store.install().await }, |py, ()| Ok(py.None()))
    }

    fn verify(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        let store = self.store()?;
        bridge.answer(call, async move { store.verify().await }, |py, ()| Ok(py.None()))
    }

    fn doctor(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        let store = self.store()?;
        bridge.answer(call, async move { store.doctor().await }, |py, findings| {
            rows(py, findings, finding_row)
        })
    }

    fn payload_limit(&self, bridge: &Bridge, call: u64, limit: Option<usize>) -> PyResult<()> {
        let (store, configure) = (self.store()?, Configure { payload_limit: limit });
        bridge.answer(call, async move { store.configure(configure).await }, |py, settings| {
            settings.payload_limit.into_py_any(py)
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn create_queue(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: String,
        vt: Option<i64>,
        max_attempts: Option<i64>,
        retry: Option<Retry>,
        retention: Option<i64>,
    ) -> PyResult<()> {
        let (store, queue) = (self.store()?, name(queue)?);
        let retention = Some(self::retention(retention)?);
        let changes = QueueChanges { retention, ..changes(vt, max_attempts, retry)? };
        let settings = changes.applied_to(QueueSettings::default());
        let create = CreateQueue { queue, settings, now: None };
        bridge.answer(call, async move { store.create_queue(create).await }, queue_row)
    }

    fn update_queue(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: String,
        vt: Option<i64>,
        max_attempts: Option<i64>,
        retry: Option<Retry>,
    ) -> PyResult<()> {
        self.update(bridge, call, queue, changes(vt, max_attempts, retry)?)
    }

    fn pause(&self, bridge: &Bridge, call: u64, queue: String, paused: bool) -> PyResult<()> {
        let state = Some(if paused { QueueState::Paused } else { QueueState::Active });
        self.update(bridge, call, queue, QueueChanges { state, ..QueueChanges::default() })
    }

    fn retention(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: String,
        retention: Option<i64>,
    ) -> PyResult<()> {
        let retention = Some(self::retention(retention)?);
        self.update(bridge, call, queue, QueueChanges { retention, ..QueueChanges::default() })
    }

    fn delete_queue(&self, bridge: &Bridge, call: u64, queue: String, force: bool) -> PyResult<()> {
        let live = if force { LiveMessages::Delete } else { LiveMessages::Keep };
        let (store, delete) = (self.store()?, DeleteQueue { queue: name(queue)?, live });
        bridge.answer(call, async move { store.delete_queue(delete).await }, |py, ()| Ok(py.None()))
    }

    fn queues(&self, bridge: &Bridge, call: u64, queue: Option<String>) -> PyResult<()> {
        let (store, filter) = (self.store()?, QueueFilter { queue: optional_name(queue)? });
        bridge.answer(call, async move { store.queues(filter).await }, |py, queues| {
            rows(py, queues, queue_row)
        })
    }

    fn metrics(&self, bridge: &Bridge, call: u64, queue: Option<String>) -> PyResult<()> {
        let filter = MetricsFilter { queue: optional_name(queue)?, now: None };
        let store = self.store()?;
        bridge.answer(call, async move { store.metrics(filter).await }, |py, metrics| {
            rows(py, metrics, metrics_row)
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn messages(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: Option<String>,
        state: Option<&str>,
        worker: Option<i64>,
        id: Option<i64>,
        after: Option<i64>,
        limit: i64,
    ) -> PyResult<()> {
        let state = state.map(|state| match state {
            "delayed" => Ok(MessageState::Delayed),
            "ready" => Ok(MessageState::Ready),
            "leased" => Ok(MessageState::Leased),
            _ => Err(unknown("state", state, "delayed, ready, leased")),
        });
        let filter = MessageFilter {
            queue: optional_name(queue)?,
            state: state.transpose()?,
            id: id.map(Into::into),
            worker: worker.map(Into::into),
            page: page(after, limit)?,
            now: None,
        };
        let store = self.store()?;
        bridge.answer(call, async move { store.messages(filter).await }, |py, messages| {
            rows(py, messages, live_row)
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn archive(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: Option<String>,
        outcome: Option<&str>,
        id: Option<i64>,
        after: Option<i64>,
        limit: i64,
    ) -> PyResult<()> {
        let filter = ArchiveFilter {
            queue: optional_name(queue)?,
            outcome: outcome.map(self::outcome).transpose()?,
            id: id.map(Into::into),
            page: page(after, limit)?,
            now: None,
        };
        let store = self.store()?;
        bridge.answer(call, async move { store.archive(filter).await }, |py, messages| {
            rows(py, messages, archived_row)
        })
    }

    fn redrive(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: String,
        ids: Option<Vec<i64>>,
        limit: i64,
    ) -> PyResult<()> {
        let letters = match ids {
            Some(ids) => DeadLetters::Ids(ids.into_iter().map(Into::into).collect()),
            None => DeadLetters::Oldest(batch(limit)?),
        };
        let (store, redrive) = (self.store()?, Redrive { queue: name(queue)?, letters, now: None });
        bridge.answer(call, async move { store.redrive(redrive).await }, |py, ids| {
            let ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
            ids.into_py_any(py)
        })
    }

    fn purge(&self, bridge: &Bridge, call: u64, queue: String, what: &str) -> PyResult<()> {
        let scope = match what {
            "live" => PurgeScope::Live,
            "done" | "dead" => PurgeScope::Archived(outcome(what)?),
            _ => return Err(unknown("purge of", what, "live, done, dead")),
        };
        let (store, purge) = (self.store()?, Purge { queue: name(queue)?, scope });
        bridge.answer(call, async move { store.purge(purge).await }, |py, count| {
            count.into_py_any(py)
        })
    }

    fn workers(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: Option<String>,
        state: Option<&str>,
        after: Option<i64>,
        limit: i64,
    ) -> PyResult<()> {
        let known = |name: &str| {
            let found = WorkerState::ALL.into_iter().find(|state| state.as_str() == name);
            found.ok_or_else(|| unknown("state", name, "ready, suspended, stopped"))
        };
        let filter = WorkerFilter {
            queue: optional_name(queue)?,
            state: state.map(known).transpose()?,
            id: None,
            page: page(after, limit)?,
        };
        let store = self.store()?;
        bridge.answer(call, async move { store.workers(filter).await }, |py, workers| {
            rows(py, workers, worker::record)
        })
    }

    fn transition(&self, bridge: &Bridge, call: u64, id: i64, change: &str) -> PyResult<()> {
        let (store, change) = (self.store()?, worker::change(change)?);
        let work = async move { pgqrs::admin(&store).transition(id.into(), change).await };
        bridge.answer(call, work, worker::record)
    }

    fn sweep(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        let store = self.store()?;
        bridge.answer(call, async move { store.sweep(Sweep::default()).await }, |py, swept| {
            let row = PyDict::new(py);
            row.set_item("buried", swept.buried)?;
            row.set_item("released", swept.released)?;
            row.set_item("workers_stopped", swept.workers_stopped)?;
            row.set_item("workers_removed", swept.workers_removed)?;
            row.set_item("archive_removed", swept.archive_removed)?;
            row.into_py_any(py)
        })
    }
}

impl Admin {
    fn store(&self) -> PyResult<Arc<dyn Store>> {
        self.0.here().cloned()
    }

    fn update(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: String,
        changes: QueueChanges,
    ) -> PyResult<()> {
        let (store, update) = (self.store()?, UpdateQueue { queue: name(queue)?, changes });
        bridge.answer(call, async move { store.update_queue(update).await }, queue_row)
    }
}

fn changes(
    vt: Option<i64>,
    max_attempts: Option<i64>,
    retry: Option<Retry>,
) -> PyResult<QueueChanges> {
    let attempts = |attempts: i64| {
        let wrong = || raised(out_of_range("max_attempts", attempts.to_string(), "1 to 32767"));
        u32::try_from(attempts).map_err(|_| wrong())
    };
    Ok(QueueChanges {
        visibility_timeout: vt.map(timeout).transpose()?,
        max_attempts: max_attempts.map(attempts).transpose()?,
        retry: retry.map(backoff).transpose()?,
        ..QueueChanges::default()
    })
}

fn backoff((kind, delay, max): Retry) -> PyResult<Backoff> {
    let duration = |micros| duration("retry delay", micros, "0 to 10 years");
    let (delay, max) = (duration(delay)?, duration(max)?);
    match kind.as_str() {
        "fixed" => Ok(Backoff::Fixed(delay)),
        "linear" => Ok(Backoff::Linear { step: delay, max }),
        "exponential" => Ok(Backoff::Exponential { base: delay, max }),
        _ => Err(unknown("backoff", &kind, "fixed, linear, exponential")),
    }
}

fn retention(micros: Option<i64>) -> PyResult<Retention> {
    let age = micros.map(|micros| duration("retention", micros, "0 or more")).transpose()?;
    Ok(age.map_or(Retention::Forever, Retention::For))
}

fn outcome(name: &str) -> PyResult<Outcome> {
    match name {
        "done" => Ok(Outcome::Done),
        "dead" => Ok(Outcome::Dead),
        _ => Err(unknown("outcome", name, "done, dead")),
    }
}

fn unknown(what: &str, name: &str, known: &str) -> PyErr {
    PyValueError::new_err(format!("no {what} {name:?}; there are: {known}"))
}

fn optional_name(queue: Option<String>) -> PyResult<Option<QueueName>> {
    queue.map(name).transpose()
}

fn page<Id: From<i64>>(after: Option<i64>, limit: i64) -> PyResult<Page<Id>> {
    Ok(Page { after: after.map(Into::into), limit: batch(limit)? })
}

fn rows<T>(
    py: Python<'_>,
    values: Vec<T>,
    row: impl Fn(Python<'_>, T) -> PyResult<Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    let rows: PyResult<Vec<_>> = values.into_iter().map(|value| row(py, value)).collect();
    rows?.into_py_any(py)
}

fn queue_row(py: Python<'_>, queue: Queue) -> PyResult<Py<PyAny>> {
    let Queue { name, settings, created_at } = queue;
    let retry: (&str, Duration, Duration) = match settings.retry {
        Backoff::Fixed(delay) => ("fixed", delay, delay),
        Backoff::Linear { step, max } => ("linear", step, max),
        Backoff::Exponential { base, max } => ("exponential", base, max),
    };
    let retention = settings.retention.micros();
    let row = PyDict::new(py);
    row.set_item("name", name.as_str())?;
    row.set_item("paused", settings.state == QueueState::Paused)?;
    row.set_item("visibility_timeout", settings.visibility_timeout.duration())?;
    row.set_item("max_attempts", settings.max_attempts)?;
    row.set_item("retry", retry)?;
    row.set_item("retention", retention.map(chrono::TimeDelta::microseconds))?;
    row.set_item("created_at", created_at)?;
    row.into_py_any(py)
}

fn finding_row(py: Python<'_>, finding: Finding) -> PyResult<Py<PyAny>> {
    let row = PyDict::new(py);
    row.set_item("check", finding.check)?;
    row.set_item("detail", finding.detail)?;
    let (health, advice) = match finding.health {
        Health::Well => ("well", None),
        Health::Ailing { remedy } => ("ailing", Some(remedy)),
        Health::Unknown { reason } => ("unknown", Some(reason)),
    };
    row.set_item("health", health)?;
    row.set_item("advice", advice)?;
    row.into_py_any(py)
}

fn metrics_row(py: Python<'_>, metrics: QueueMetrics) -> PyResult<Py<PyAny>> {
    let row = PyDict::new(py);
    row.set_item("queue", metrics.queue.as_str())?;
    row.set_item("ready", metrics.ready)?;
    row.set_item("delayed", metrics.delayed)?;
    row.set_item("leased", metrics.leased)?;
    row.set_item("archived", metrics.archived)?;
    row.set_item("dead", metrics.dead)?;
    row.set_item("oldest_ready_at", metrics.oldest_ready_at)?;
    row.set_item("now", metrics.now)?;
    row.set_item("workers_ready", metrics.workers.ready)?;
    row.set_item("workers_suspended", metrics.workers.suspended)?;
    row.set_item("workers_stopped", metrics.workers.stopped)?;
    row.into_py_any(py)
}

fn live_row(py: Python<'_>, message: LiveMessage) -> PyResult<Py<PyAny>> {
    let state = match message.state {
        MessageState::Delayed => "delayed",
        MessageState::Ready => "ready",
        MessageState::Leased => "leased",
    };
    let row = PyDict::new(py);
    row.set_item("id", message.id.0)?;
    row.set_item("queue", message.queue.as_str())?;
    row.set_item("state", state)?;
    row.set_item("payload", json::decode_stored(py, message.payload.as_str())?)?;
    row.set_item("headers", headers(py, message.headers)?)?;
    row.set_item("priority", message.priority.level())?;
    row.set_item("enqueued_at", message.enqueued_at)?;
    row.set_item("visible_at", message.visible_at)?;
    row.set_item("attempts", message.attempts)?;
    row.set_item("max_attempts", message.max_attempts)?;
    row.set_item("worker", message.worker.map(|id| id.0))?;
    row.set_item("last_error", message.last_error)?;
    row.into_py_any(py)
}

fn archived_row(py: Python<'_>, message: ArchivedMessage) -> PyResult<Py<PyAny>> {
    let outcome = match message.outcome {
        Outcome::Done => "done",
        Outcome::Dead => "dead",
    };
    let row = PyDict::new(py);
    row.set_item("id", message.id.0)?;
    row.set_item("queue", message.queue.as_str())?;
    row.set_item("outcome", outcome)?;
    row.set_item("payload", json::decode_stored(py, message.payload.as_str())?)?;
    row.set_item("headers", headers(py, message.headers)?)?;
    row.set_item("priority", message.priority.level())?;
    row.set_item("enqueued_at", message.enqueued_at)?;
    row.set_item("claimed_at", message.claimed_at)?;
    row.set_item("archived_at", message.archived_at)?;
    row.set_item("attempts", message.attempts)?;
    row.set_item("max_attempts", message.max_attempts)?;
    row.set_item("worker", message.worker.map(|id| id.0))?;
    row.set_item("last_error", message.last_error)?;
    row.into_py_any(py)
}

fn headers(py: Python<'_>, headers: Option<pgqrs::Json>) -> PyResult<Py<PyAny>> {
    json::decode_stored(py, headers.as_ref().map_or("{}", pgqrs::Json::as_str))
}

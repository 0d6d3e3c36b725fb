//! Registered workers, and consumers.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use pgqrs::{
    Claim, Consumer, MessageId, Settlement, Transition, Worker, WorkerChange, WorkerRecord,
};
use pyo3::{IntoPyObjectExt, exceptions::PyValueError, prelude::*, types::PyDict};

use crate::{
    bridge::Bridge,
    message::{Leased, PyAction, duration, receipt, timeout},
    runtime::OfProcess,
    store::{PyStore, batch, name, outcomes},
};

/// A consumer, with the receipts of what it holds.
#[pyclass(frozen, module = "pgqrs._native", name = "Consumer")]
pub(crate) struct PyConsumer(OfProcess<Arc<dyn Consumer>>);

/// What consumers and producers have in common.
#[pyclass(frozen, module = "pgqrs._native", name = "Registration")]
pub(crate) struct PyWorker(pub(crate) OfProcess<Arc<dyn Worker>>);

#[pymethods]
impl PyConsumer {
    #[staticmethod]
    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn register(
        bridge: &Bridge,
        call: u64,
        store: &PyStore,
        queue: String,
        host: String,
        port: u16,
        heartbeat_timeout: Option<i64>,
        at: Option<DateTime<Utc>>,
    ) -> PyResult<()> {
        let (store, queue) = (store.store()?, name(queue)?);
        let mut builder = pgqrs::consumer(host, port, queue);
        if let Some(timeout) = heartbeat(heartbeat_timeout)? {
            builder = builder.heartbeat_timeout(timeout);
        }
        if let Some(now) = at {
            builder = builder.at(now);
        }
        bridge.answer(call, async move { builder.create(&store).await }, |py, consumer| {
            PyConsumer(OfProcess::new(consumer)).into_py_any(py)
        })
    }

    fn claim(
        &self,
        bridge: &Bridge,
        call: u64,
        limit: i64,
        vt: Option<i64>,
        at: Option<DateTime<Utc>>,
    ) -> PyResult<()> {
        let consumer = self.0.here()?.clone();
        let claim = Claim {
            queue: consumer.queue().clone(),
            worker: Some(consumer.id()),
            limit: batch(limit)?,
            timeout: vt.map(timeout).transpose()?,
            now: at,
        };
        let work = async move {
            let messages = consumer.store().claim(claim).await?.messages;
            consumer.held().note(&messages);
            Ok(Leased::new(consumer.store().clone(), messages, at))
        };
        bridge.answer(call, work, |py, leased| leased.into_python(py))
    }

    /// Settles by `(id, token, action)`; without a token by the newest receipt that it holds. See
    /// [`outcomes`].
    fn settle(
        &self,
        bridge: &Bridge,
        call: u64,
        settlements: Vec<(i64, Option<i64>, PyRef<'_, PyAction>)>,
    ) -> PyResult<()> {
        let consumer = self.0.here()?.clone();
        let known = settlements.iter().map(|(id, token, action)| {
            let held = || consumer.held().receipt(MessageId(*id));
            let receipt = token.map(|token| receipt(*id, token)).or_else(held);
            receipt.map(|receipt| Settlement { receipt, action: action.0.clone() })
        });
        let known: Vec<Option<Settlement>> = known.collect();
        let work = async move {
            let settled = consumer.settle(known.iter().flatten().cloned().collect()).await?;
            let mut settled = settled.into_iter();
            // What it does not hold was not sent: its lease is lost.
            let mut outcome = || settled.next().and_then(Result::ok);
            Ok(known.iter().map(|known| known.as_ref().and_then(|_| outcome())).collect())
        };
        bridge.answer(call, work, outcomes)
    }

    fn worker(&self) -> PyResult<PyWorker> {
        let worker: Arc<dyn Worker> = self.0.here()?.clone();
        Ok(PyWorker(OfProcess::new(worker)))
    }
}

#[pymethods]
impl PyWorker {
    fn status(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        let worker = self.0.here()?.clone();
        bridge.answer(call, async move { worker.status().await }, record)
    }

    fn transition(&self, bridge: &Bridge, call: u64, change: &str) -> PyResult<()> {
        let worker = self.0.here()?.clone();
        let change = self::change(change)?;
        bridge.answer(call, async move { transition(&*worker, change).await }, record)
    }

    /// As it was made.
    fn made(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        record(py, self.0.here()?.registration().clone())
    }
}

/// A registration, as the keywords of `WorkerRecord`.
pub(crate) fn record(py: Python<'_>, record: WorkerRecord) -> PyResult<Py<PyAny>> {
    let row = PyDict::new(py);
    row.set_item("id", record.id.0)?;
    row.set_item("kind", record.kind.as_str())?;
    row.set_item("host", record.host)?;
    row.set_item("port", record.port)?;
    row.set_item("queue", record.queue.as_str())?;
    row.set_item("state", record.state.as_str())?;
    row.set_item("heartbeat_timeout", record.heartbeat_timeout)?;
    row.set_item("registered_at", record.registered_at)?;
    row.set_item("heartbeat_at", record.heartbeat_at)?;
    row.set_item("stopped_at", record.stopped_at)?;
    row.set_item("replaced_by", record.replaced_by.map(|id| id.0))?;
    row.into_py_any(py)
}

/// A worker's move by name.
pub(crate) fn change(name: &str) -> PyResult<WorkerChange> {
    match name {
        "heartbeat" => Ok(WorkerChange::Heartbeat),
        "suspend" => Ok(WorkerChange::Suspend),
        "resume" => Ok(WorkerChange::Resume),
        "shutdown" => Ok(WorkerChange::Stop),
        _ => Err(PyValueError::new_err(format!("{name:?} is no move of a worker"))),
    }
}

async fn transition<W: Worker + ?Sized>(
    worker: &W,
    change: WorkerChange,
) -> pgqrs::Result<WorkerRecord> {
    let (id, queue) = (worker.id(), worker.queue().clone());
    worker.store().transition(Transition { worker: id, queue, change, now: None }).await
}

/// A heartbeat timeout of so many microseconds.
pub(crate) fn heartbeat(timeout: Option<i64>) -> PyResult<Option<Duration>> {
    timeout.map(|micros| duration("heartbeat timeout", micros, "100 ms to 24 h")).transpose()
}

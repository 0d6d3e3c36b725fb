//! Producers, whose calls share the reads of their registration.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, Utc};
use pgqrs::{Enqueue, Error, MessageId, NewMessage, Producer, Worker, WorkerState};
use pyo3::{IntoPyObjectExt, prelude::*, types::PyList};
use tokio::sync::Mutex;

use crate::{
    bridge::Bridge,
    runtime::OfProcess,
    store::{PyStore, name, new_messages},
    worker::{PyWorker, heartbeat},
};

/// A producer.
#[pyclass(frozen, module = "pgqrs._native", name = "Producer")]
pub(crate) struct PyProducer(OfProcess<Arc<Shared>>);

#[pymethods]
impl PyProducer {
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
        let mut builder = pgqrs::producer(host, port, queue);
        if let Some(timeout) = heartbeat(heartbeat_timeout)? {
            builder = builder.heartbeat_timeout(timeout);
        }
        if let Some(now) = at {
            builder = builder.at(now);
        }
        bridge.answer(call, async move { builder.create(&store).await }, |py, producer| {
            PyProducer(OfProcess::new(Arc::new(Shared::new(producer)))).into_py_any(py)
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn enqueue(
        &self,
        bridge: &Bridge,
        call: u64,
        payloads: &Bound<'_, PyList>,
        headers: Option<&Bound<'_, PyAny>>,
        priority: i64,
        delay: i64,
        max_attempts: Option<i64>,
    ) -> PyResult<()> {
        let producer = self.0.here()?.clone();
        let messages = new_messages(payloads, headers, priority, delay, max_attempts)?;
        bridge.answer(call, async move { producer.enqueue(messages).await }, |py, ids| {
            let ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
            ids.into_py_any(py)
        })
    }

    fn worker(&self) -> PyResult<PyWorker> {
        let worker: Arc<dyn Worker> = self.0.here()?.producer.clone();
        Ok(PyWorker(OfProcess::new(worker)))
    }
}

/// Before each enqueue a producer reads its registration, for an operator may have suspended it. Calls
/// that come while a read is under way share the next one.
struct Shared {
    producer: Arc<dyn Producer>,
    /// How many reads have begun.
    begun: AtomicU64,
    /// The number of the last read, and what it found. Locked while one is under way.
    last: Mutex<Option<(u64, Found)>>,
}

#[derive(Clone)]
enum Found {
    Ready,
    NotReady { state: WorkerState, replaced_by: Option<pgqrs::WorkerId> },
    Unavailable(String),
}

impl Shared {
    fn new(producer: Arc<dyn Producer>) -> Self {
        Self { producer, begun: AtomicU64::new(0), last: Mutex::default() }
    }

    async fn enqueue(&self, messages: Vec<NewMessage>) -> pgqrs::Result<Vec<MessageId>> {
        match self.found().await? {
            Found::Ready => {}
            Found::NotReady { state, replaced_by } => {
                let worker = self.producer.id();
                return Err(Error::WorkerNotReady { worker, state, replaced_by });
            }
            Found::Unavailable(reason) => return Err(Error::Unavailable { reason, source: None }),
        }
        let enqueue = Enqueue { queue: self.producer.queue().clone(), messages, now: None };
        self.producer.store().enqueue(enqueue).await
    }

    /// What a read finds that begins after this call has.
    async fn found(&self) -> pgqrs::Result<Found> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((number, found)) = &*last
            && *number > before
        {
            return Ok(found.clone());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let found = match self.producer.status().await {
            Ok(record) if record.state == WorkerState::Ready => Found::Ready,
            Ok(record) => Found::NotReady { state: record.state, replaced_by: record.replaced_by },
            Err(error) if error.is_unavailable() => Found::Unavailable(error.to_string()),
            Err(error) => return Err(error),
        };
        *last = Some((number, found.clone()));
        Ok(found)
    }
}

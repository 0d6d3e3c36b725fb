//! Messages as consumers see them, and what they do with a lease.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use pgqrs::{Action, Delay, Receipt, RetryDecision, Settle, Settlement, Store, VisibilityTimeout};
use pyo3::{IntoPyObjectExt, prelude::*, types::PyDict};

use crate::{error, json, runtime};

/// A message that a claim has leased.
#[pyclass(frozen, get_all, module = "pgqrs", name = "Message")]
pub(crate) struct PyMessage {
    id: i64,
    token: i64,
    queue: String,
    payload: Py<PyAny>,
    headers: Py<PyDict>,
    priority: u8,
    enqueued_at: DateTime<Utc>,
    claimed_at: DateTime<Utc>,
    visible_at: DateTime<Utc>,
    attempts: u32,
    max_attempts: u32,
    worker: Option<i64>,
    last_error: Option<String>,
}

impl PyMessage {
    pub(crate) fn new(py: Python<'_>, message: pgqrs::Message) -> PyResult<Self> {
        Ok(Self {
            id: message.id.0,
            token: message.receipt.token,
            payload: json::decode(py, &message.payload)?,
            headers: json::decode_object(py, &message.headers)?.unbind(),
            queue: message.queue.into(),
            priority: message.priority.level(),
            enqueued_at: message.enqueued_at,
            claimed_at: message.claimed_at,
            visible_at: message.visible_at,
            attempts: message.attempts,
            max_attempts: message.max_attempts,
            worker: message.worker.map(|id| id.0),
            last_error: message.last_error,
        })
    }
}

#[pymethods]
impl PyMessage {
    fn with_payload(&self, py: Python<'_>, payload: Py<PyAny>) -> Self {
        Self {
            payload,
            headers: self.headers.clone_ref(py),
            queue: self.queue.clone(),
            last_error: self.last_error.clone(),
            ..*self
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let Self { id, queue, attempts, max_attempts, .. } = self;
        let payload = self.payload.bind(py).repr()?;
        Ok(format!(
            "Message(id={id}, queue={queue:?}, payload={payload}, attempts={attempts}/{max_attempts})"
        ))
    }
}

/// Messages on their way to whoever asked for them: given back if nobody takes them.
#[derive(Debug)]
pub(crate) struct Leased {
    store: Arc<dyn Store>,
    messages: Vec<pgqrs::Message>,
    now: Option<DateTime<Utc>>,
}

impl Leased {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        messages: Vec<pgqrs::Message>,
        now: Option<DateTime<Utc>>,
    ) -> Self {
        Self { store, messages, now }
    }

    pub(crate) fn into_python(mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let messages = std::mem::take(&mut self.messages);
        let messages: PyResult<Vec<_>> =
            messages.into_iter().map(|message| PyMessage::new(py, message)).collect();
        messages?.into_py_any(py)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let give_back = |message: &pgqrs::Message| Settlement {
            receipt: message.receipt,
            action: Action::Release(Delay::ZERO),
        };
        let settlements = self.messages.iter().map(give_back).collect();
        let (store, now) = (self.store.clone(), self.now);
        if let Some(runtime) = runtime::current() {
            // If it fails the leases run out by themselves.
            runtime.spawn(async move { store.settle(Settle { settlements, now }).await });
        }
    }
}

/// What to do with a lease.
#[pyclass(frozen, module = "pgqrs._native", name = "Action")]
#[derive(Clone)]
pub(crate) struct PyAction(pub(crate) Action);

#[pymethods]
impl PyAction {
    #[staticmethod]
    fn archive() -> Self {
        Self(Action::Archive)
    }

    #[staticmethod]
    fn delete() -> Self {
        Self(Action::Delete)
    }

    #[staticmethod]
    fn release(delay: i64) -> PyResult<Self> {
        Ok(Self(Action::Release(self::delay(delay)?)))
    }

    /// Tried again after `delay`, never if it is `None`.
    #[staticmethod]
    fn fail(error: String, delay: Option<i64>) -> PyResult<Self> {
        let retry = match delay {
            Some(delay) => RetryDecision::RetryAfter(self::delay(delay)?),
            None => RetryDecision::Dead,
        };
        Ok(Self(Action::Fail { error, retry }))
    }

    /// For how many microseconds it extends the lease, if that is what it does.
    #[getter]
    fn extends(&self) -> Option<i64> {
        match self.0 {
            Action::Extend(timeout) => Some(timeout.micros()),
            _ => None,
        }
    }

    #[staticmethod]
    fn extend(timeout: i64) -> PyResult<Self> {
        Ok(Self(Action::Extend(self::timeout(timeout)?)))
    }
}

/// The receipt of message `id` under `token`.
pub(crate) fn receipt(id: i64, token: i64) -> Receipt {
    Receipt { id: id.into(), token }
}

/// A delay of so many microseconds.
pub(crate) fn delay(micros: i64) -> PyResult<Delay> {
    let delay = duration("delay", micros, "0 to 10 years")?;
    Delay::new(delay).map_err(error::raised)
}

/// A visibility timeout of so many microseconds.
pub(crate) fn timeout(micros: i64) -> PyResult<VisibilityTimeout> {
    let timeout = duration("visibility timeout", micros, "1 ms to 12 h")?;
    VisibilityTimeout::new(timeout).map_err(error::raised)
}

/// So many microseconds, unless they are negative.
pub(crate) fn duration(
    what: &'static str,
    micros: i64,
    allowed: &'static str,
) -> PyResult<Duration> {
    u64::try_from(micros).map(Duration::from_micros).map_err(|_| {
        let value = format!("-{:?}", Duration::from_micros(micros.unsigned_abs()));
        error::raised(error::out_of_range(what, value, allowed))
    })
}

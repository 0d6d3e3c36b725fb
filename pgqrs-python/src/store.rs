//! A store: enqueue, claim, settle, and what else hangs on it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use pgqrs::{
    Backends, BatchSize, Claim, Enqueue, Error, Json, NewMessage, Priority, QueueFilter, QueueName,
    Settle, Settled, Settlement, Store,
};
use pyo3::{IntoPyObjectExt, prelude::*, types::PyList};

use crate::{
    bridge::Bridge,
    error::{out_of_range, raised},
    json,
    leases::Leases,
    message::{Leased, PyAction, delay, receipt, timeout},
    runtime::OfProcess,
    wakeups::Wakeups,
};

/// Opens the store that `url` names.
#[pyfunction]
pub(crate) fn connect(bridge: &Bridge, call: u64, url: String) -> PyResult<()> {
    let open = async move {
        Backends::new(&[&pgqrs_postgres::Postgres, &pgqrs_sqlite::Sqlite]).connect(&url).await
    };
    bridge.answer(call, open, |py, store| PyStore(OfProcess::new(store)).into_py_any(py))
}

#[pyclass(frozen, module = "pgqrs._native", name = "Store")]
pub(crate) struct PyStore(OfProcess<Arc<dyn Store>>);

impl PyStore {
    pub(crate) fn store(&self) -> PyResult<Arc<dyn Store>> {
        self.0.here().cloned()
    }
}

#[pymethods]
impl PyStore {
    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn enqueue(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: String,
        payloads: &Bound<'_, PyList>,
        headers: Option<&Bound<'_, PyAny>>,
        priority: i64,
        delay: i64,
        max_attempts: Option<i64>,
        at: Option<DateTime<Utc>>,
    ) -> PyResult<()> {
        let (store, queue) = (self.store()?, name(queue)?);
        let messages = new_messages(payloads, headers, priority, delay, max_attempts)?;
        let enqueue = Enqueue { queue, messages, now: at };
        bridge.answer(call, async move { store.enqueue(enqueue).await }, |py, ids| {
            let ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
            ids.into_py_any(py)
        })
    }

    /// The claimed messages, and how long until the next one is due if there are none.
    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn claim(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: String,
        limit: i64,
        vt: Option<i64>,
        at: Option<DateTime<Utc>>,
    ) -> PyResult<()> {
        let store = self.store()?;
        let claim = Claim {
            queue: name(queue)?,
            worker: None,
            limit: batch(limit)?,
            timeout: vt.map(timeout).transpose()?,
            now: at,
        };
        let work = async move {
            let claimed = store.claim(claim).await?;
            Ok((Leased::new(store, claimed.messages, at), claimed.due_in))
        };
        bridge
            .answer(call, work, |py, (leased, due)| (leased.into_python(py)?, due).into_py_any(py))
    }

    /// Settles by `(id, token, action)`; see [`outcomes`].
    fn settle(
        &self,
        bridge: &Bridge,
        call: u64,
        settlements: Vec<(i64, i64, PyRef<'_, PyAction>)>,
        at: Option<DateTime<Utc>>,
    ) -> PyResult<()> {
        let store = self.store()?;
        let settlement = |(id, token, action): &(i64, i64, PyRef<'_, PyAction>)| Settlement {
            receipt: receipt(*id, *token),
            action: action.0.clone(),
        };
        let settlements = settlements.iter().map(settlement).collect();
        let work = async move { store.settle(Settle { settlements, now: at }).await };
        bridge.answer(call, work, |py, settled| {
            outcomes(py, settled.into_iter().map(Result::ok).collect())
        })
    }

    /// The queue's retry delay after so many attempts, in microseconds.
    fn retry_delay(
        &self,
        bridge: &Bridge,
        call: u64,
        queue: String,
        attempts: u32,
    ) -> PyResult<()> {
        let (store, queue) = (self.store()?, name(queue)?);
        let work = async move {
            let found = store.queues(QueueFilter::named(queue.clone())).await?.pop();
            let retry = found.ok_or(Error::QueueNotFound { queue })?.settings.retry;
            Ok(retry.delay(attempts).micros())
        };
        bridge.answer(call, work, |py, delay| delay.into_py_any(py))
    }

    fn leases(&self) -> PyResult<Leases> {
        Leases::new(self.store()?)
    }

    fn wakeups(&self, queue: String) -> PyResult<Wakeups> {
        Ok(Wakeups::new(self.store()?.wakeups(&name(queue)?)))
    }
}

/// A queue's name.
pub(crate) fn name(queue: String) -> PyResult<QueueName> {
    QueueName::new(queue).map_err(raised)
}

/// A batch size.
pub(crate) fn batch(size: i64) -> PyResult<BatchSize> {
    let fits = usize::try_from(size).ok().and_then(|size| BatchSize::new(size).ok());
    fits.ok_or_else(|| raised(out_of_range("batch size", size.to_string(), "1 to 10000")))
}

/// Messages with the same options, each with one of `payloads`.
pub(crate) fn new_messages(
    payloads: &Bound<'_, PyList>,
    headers: Option<&Bound<'_, PyAny>>,
    priority: i64,
    delay: i64,
    max_attempts: Option<i64>,
) -> PyResult<Vec<NewMessage>> {
    let level = u8::try_from(priority).ok().and_then(|level| Priority::new(level).ok());
    let priority =
        level.ok_or_else(|| raised(out_of_range("priority", priority.to_string(), "0 to 9")))?;
    let headers = headers.map(json::encode).transpose()?.map(Json::from_stored);
    let max_attempts = max_attempts
        .map(|attempts| {
            u32::try_from(attempts).map_err(|_| {
                raised(out_of_range("max_attempts", attempts.to_string(), "1 to 32767"))
            })
        })
        .transpose()?;
    let delay = self::delay(delay)?;
    let message = |payload: Bound<'_, PyAny>| {
        let payload = Json::from_stored(json::encode(&payload)?);
        Ok(NewMessage { payload, headers: headers.clone(), priority, delay, max_attempts })
    };
    payloads.iter().map(message).collect()
}

/// What settlements did, one each: how the message stands now, the new end of an extended lease, or
/// `None` where the lease is lost.
pub(crate) fn outcomes(py: Python<'_>, settled: Vec<Option<Settled>>) -> PyResult<Py<PyAny>> {
    let outcome = |settled| match settled {
        None => Ok(py.None()),
        Some(Settled::Archived) => "archived".into_py_any(py),
        Some(Settled::Deleted) => "deleted".into_py_any(py),
        Some(Settled::Released) => "released".into_py_any(py),
        Some(Settled::Retrying) => "retrying".into_py_any(py),
        Some(Settled::Dead) => "dead".into_py_any(py),
        Some(Settled::Extended(until)) => until.into_py_any(py),
    };
    settled.into_iter().map(outcome).collect::<PyResult<Vec<_>>>()?.into_py_any(py)
}

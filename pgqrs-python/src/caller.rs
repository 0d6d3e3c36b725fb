//! Calls in a transaction on a Postgres connection of the caller's own: the store says which
//! statements to run, the friendly half knows the drivers.

use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use chrono::{DateTime, Utc};
use pgqrs::{Action, Enqueue, Error, Settle, Settlement};
use pgqrs_postgres::{PostgresStore, Remote, RemoteAnswer, RemoteStatement, RemoteValue};
use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyRuntimeError, PyTypeError, PyValueError},
    prelude::*,
    types::{PyBool, PyInt, PyList, PyString},
};

use crate::{
    error::raised,
    message::receipt,
    runtime::{self, OfProcess},
    store::{PyStore, name, new_messages},
};

type Work = Pin<Box<dyn Future<Output = pgqrs::Result<Vec<i64>>> + Send>>;

/// One call. It goes from statement to statement.
#[pyclass(frozen, module = "pgqrs._native")]
pub(crate) struct CallerCall(OfProcess<Mutex<Progress>>);

struct Progress {
    remote: Remote,
    /// None when it is done.
    work: Option<Work>,
}

/// The names of the columns, and the rows.
type Answer<'py> = (Vec<String>, Vec<Vec<Bound<'py, PyAny>>>);

#[pymethods]
impl CallerCall {
    /// Its result is the ids.
    #[staticmethod]
    fn enqueue(
        store: &PyStore,
        queue: String,
        payloads: &Bound<'_, PyList>,
        headers: Option<&Bound<'_, PyAny>>,
        priority: i64,
        delay: i64,
        max_attempts: Option<i64>,
    ) -> PyResult<Self> {
        let store = store.postgres()?.clone();
        let messages = new_messages(payloads, headers, priority, delay, max_attempts)?;
        let enqueue = Enqueue { queue: name(queue)?, messages, now: None };
        Ok(Self::new(|remote| {
            Box::pin(async move {
                let ids = store.enqueue_in(remote, enqueue).await?;
                Ok(ids.into_iter().map(|id| id.0).collect())
            })
        }))
    }

    /// Its result is empty.
    #[staticmethod]
    fn archive(store: &PyStore, id: i64, token: i64) -> PyResult<Self> {
        let store = store.postgres()?.clone();
        let archive = Settlement { receipt: receipt(id, token), action: Action::Archive };
        Ok(Self::new(|remote| Box::pin(settle(store, remote, archive))))
    }

    /// The next statement as `(sql, parameters)`, after the answer to the one before; at the end
    /// `(None, result)`. Placeholders are `$1` (`numeric`), `%(p1)s` (`pyformat`) or `:p1` (`named`).
    #[pyo3(signature = (placeholders, answer))]
    fn next(
        &self,
        py: Python<'_>,
        placeholders: &str,
        answer: Option<Answer<'_>>,
    ) -> PyResult<(Option<String>, Py<PyAny>)> {
        let mut progress = self.0.here()?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((columns, rows)) = answer {
            let row = |values: Vec<Bound<'_, PyAny>>| values.iter().map(value).collect();
            let rows = rows.into_iter().map(row).collect::<PyResult<_>>()?;
            progress.remote.answer(RemoteAnswer { columns, rows });
        }
        let over = || PyRuntimeError::new_err("the call is done");
        let runtime = runtime::handle()?;
        // Of the runtime it takes the clock alone.
        let _clock = runtime.enter();
        let work = progress.work.as_mut().ok_or_else(over)?;
        if let Poll::Ready(outcome) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            progress.work = None;
            return Ok((None, outcome.map_err(raised)?.into_py_any(py)?));
        }
        let statement = progress.remote.take_statement().ok_or_else(over)?;
        let parameters = statement.parameters.iter().map(|value| python(py, value));
        let parameters = parameters.collect::<PyResult<Vec<_>>>()?;
        Ok((Some(rendered(&statement, placeholders)?), parameters.into_py_any(py)?))
    }
}

impl CallerCall {
    fn new(work: impl FnOnce(Remote) -> Work) -> Self {
        let remote = Remote::default();
        let work = Some(work(remote.clone()));
        Self(OfProcess::new(Mutex::new(Progress { remote, work })))
    }
}

/// The error of a store whose schema is not installed, for a driver's error that says so.
#[pyfunction]
pub(crate) fn schema_missing(store: &PyStore) -> PyResult<()> {
    let schema = store.postgres()?.schema().to_owned();
    Err(raised(Error::SchemaMissing { schema }))
}

async fn settle(
    store: PostgresStore,
    remote: Remote,
    settlement: Settlement,
) -> pgqrs::Result<Vec<i64>> {
    let id = settlement.receipt.id;
    let settle = Settle { settlements: vec![settlement], now: None };
    match store.settle_in(remote, settle).await?.first() {
        Some(Ok(_)) => Ok(Vec::new()),
        _ => Err(Error::LeaseLost { id }),
    }
}

fn rendered(statement: &RemoteStatement, placeholders: &str) -> PyResult<String> {
    match placeholders {
        "numeric" => Ok(statement.render(str::to_owned, |n| format!("${n}"))),
        "pyformat" => Ok(statement.render(|text| text.replace('%', "%%"), |n| format!("%(p{n})s"))),
        "named" => Ok(statement.render(|text| text.replace(':', "\\:"), |n| format!(":p{n}"))),
        _ => Err(PyValueError::new_err(format!("no placeholders {placeholders:?}"))),
    }
}

/// A parameter as drivers take it.
fn python(py: Python<'_>, value: &RemoteValue) -> PyResult<Py<PyAny>> {
    match value {
        RemoteValue::Null => Ok(py.None()),
        RemoteValue::Bool(value) => value.into_py_any(py),
        RemoteValue::Int(value) => value.into_py_any(py),
        RemoteValue::Text(value) => value.into_py_any(py),
        RemoteValue::Time(value) => value.into_py_any(py),
        RemoteValue::Bools(values) => values.into_py_any(py),
        RemoteValue::Ints(values) => values.into_py_any(py),
        RemoteValue::Texts(values) => values.into_py_any(py),
    }
}

/// What a driver made of a column.
fn value(value: &Bound<'_, PyAny>) -> PyResult<RemoteValue> {
    let Ok(list) = value.cast::<PyList>() else { return one(value) };
    if list.iter().all(|item| item.is_none() || item.is_instance_of::<PyBool>()) {
        return Ok(RemoteValue::Bools(list.extract()?));
    }
    if list.iter().all(|item| item.is_none() || item.is_instance_of::<PyInt>()) {
        return Ok(RemoteValue::Ints(list.extract()?));
    }
    Ok(RemoteValue::Texts(list.extract()?))
}

fn one(value: &Bound<'_, PyAny>) -> PyResult<RemoteValue> {
    if value.is_none() {
        Ok(RemoteValue::Null)
    } else if let Ok(truth) = value.cast::<PyBool>() {
        Ok(RemoteValue::Bool(truth.is_true()))
    } else if value.is_instance_of::<PyInt>() {
        Ok(RemoteValue::Int(value.extract()?))
    } else if value.is_instance_of::<PyString>() {
        Ok(RemoteValue::Text(value.extract()?))
    } else if let Ok(time) = value.extract::<DateTime<Utc>>() {
        Ok(RemoteValue::Time(time))
    } else {
        let kind = value.get_type().name()?;
        Err(PyTypeError::new_err(format!("the driver answered with a {kind}")))
    }
}

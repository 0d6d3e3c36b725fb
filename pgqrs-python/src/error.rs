//! Errors of the core as the exceptions of `pgqrs._errors`, with their attributes.

use std::{error::Error as _, time::Duration};

use pgqrs::Error;
use pyo3::{IntoPyObjectExt, exceptions::PyRuntimeError, prelude::*, types::PyDict};

/// The exception that stands for `error`. Needs the GIL only when it is raised.
pub(crate) fn raised(error: Error) -> PyErr {
    Python::attach(|py| exception(py, &error).unwrap_or_else(|failure| failure))
}

/// `PayloadError`: the value is not JSON.
pub(crate) fn payload(why: &str) -> PyErr {
    Python::attach(|py| {
        new(py, "PayloadError", why, PyDict::new(py)).unwrap_or_else(|failure| failure)
    })
}

/// `ForkedError`: the value belongs to another process.
pub(crate) fn forked(process: u32) -> PyErr {
    let why = format!(
        "this object was made by process {process}, and a fork does not bring its threads and \
         connections along; call pgqrs.connect in the child"
    );
    Python::attach(|py| {
        new(py, "ForkedError", &why, PyDict::new(py)).unwrap_or_else(|failure| failure)
    })
}

/// `TransactionExpiredError`: it was open for longer than `timeout`.
pub(crate) fn expired(timeout: Duration) -> PyErr {
    let why = format!(
        "the transaction was open for longer than {timeout:?} and was rolled back, for it keeps all \
         other writers waiting; do slow work before it, or give store.transaction a timeout"
    );
    Python::attach(|py| {
        let attributes = PyDict::new(py);
        let made = attributes.set_item("timeout", timeout.as_secs_f64());
        made.and_then(|()| new(py, "TransactionExpiredError", &why, attributes))
            .unwrap_or_else(|failure| failure)
    })
}

/// `StatementError`: SQLite refuses a statement of the caller's.
pub(crate) fn sql_failed(error: &rusqlite::Error) -> PyErr {
    let code = error.sqlite_error().map(|error| error.extended_code);
    Python::attach(|py| {
        let attributes = PyDict::new(py);
        let made = attributes.set_item("code", code);
        made.and_then(|()| new(py, "StatementError", &error.to_string(), attributes))
            .unwrap_or_else(|failure| failure)
    })
}

/// A panic of ours or of a driver's: a defect, not something that a caller can handle.
pub(crate) fn panicked() -> PyErr {
    PyRuntimeError::new_err("pgqrs panicked; please report it with what stands on stderr")
}

/// `what` is outside the range of the core's types.
pub(crate) fn out_of_range(what: &'static str, value: String, allowed: &'static str) -> Error {
    Error::OutOfRange { what, value, allowed }
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let mut text = error.to_string();
    let attributes = PyDict::new(py);
    macro_rules! with {
        ($($name:literal: $value:expr),*) => { $(attributes.set_item($name, $value)?;)* };
    }
    let class = match error {
        Error::QueueNotFound { queue } => {
            let queue = queue.as_str();
            with!("queue": queue);
            text = format!(
                "queue {queue:?} does not exist; create it with await store.create_queue({queue:?})"
            );
            "QueueNotFoundError"
        }
        Error::QueueNotEmpty { queue, live } => {
            with!("queue": queue.as_str(), "live": *live);
            "QueueNotEmptyError"
        }
        Error::InvalidQueueName { name } => {
            with!("name": name);
            "InvalidQueueNameError"
        }
        Error::WrongQueue { worker, serves, asked } => {
            with!("worker": worker.0, "serves": serves.as_str(), "asked": asked.as_str());
            "WrongQueueError"
        }
        Error::PayloadTooLarge { index, size, limit } => {
            with!("index": *index, "size": *size, "limit": *limit);
            "PayloadTooLargeError"
        }
        Error::OutOfRange { what, value, allowed } => {
            with!("what": *what, "value": value, "allowed": *allowed);
            "OutOfRangeError"
        }
        Error::NotJson { .. } => "PayloadError",
        Error::LeaseLost { id } => {
            with!("id": id.0);
            "LeaseLostError"
        }
        Error::WorkerNotReady { worker, state, replaced_by } => {
            with!("worker": worker.0, "state": state.as_str(),
                  "replaced_by": replaced_by.map(|id| id.0));
            "WorkerNotReadyError"
        }
        Error::WorkerNotFound { worker } => {
            with!("worker": worker.0);
            text = format!("worker {worker} is not registered; register anew with store.consumer");
            "WorkerNotFoundError"
        }
        Error::IllegalTransition { worker, from, to } => {
            with!("worker": worker.0, "state": from.as_str(), "target": to.as_str());
            "IllegalTransitionError"
        }
        Error::SchemaMissing { schema } => {
            with!("schema": schema);
            text = format!(
                "the schema {schema:?} is not installed; call await pgqrs.admin(store).install() once"
            );
            "SchemaMissingError"
        }
        Error::SchemaTooNew { found, known } => {
            with!("found": *found, "known": *known);
            "SchemaTooNewError"
        }
        Error::SchemaDrift { findings } => {
            with!("findings": findings.clone());
            "SchemaDriftError"
        }
        Error::InvalidUrl { .. } => "InvalidUrlError",
        Error::UnknownScheme { scheme, known } => {
            with!("scheme": scheme, "known": known.clone());
            "UnknownSchemeError"
        }
        Error::PermissionDenied { .. } => "PermissionDeniedError",
        Error::Unavailable { .. } => "UnavailableError",
        Error::Unsupported { .. } => "UnsupportedError",
        _ => "BackendError",
    };
    // What the driver said, unless the text has it already.
    if let Some(source) = error.source().map(ToString::to_string)
        && !text.contains(&source)
    {
        text = format!("{text}: {source}");
    }
    new(py, class, &text, attributes)
}

fn new(py: Python<'_>, class: &str, text: &str, attributes: Bound<'_, PyDict>) -> PyResult<PyErr> {
    let class = py.import("pgqrs._errors")?.getattr(class)?;
    let exception = class.call((text.into_bound_py_any(py)?,), Some(&attributes))?;
    Ok(PyErr::from_value(exception))
}

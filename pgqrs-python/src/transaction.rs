//! A transaction of the caller's on SQLite: a connection of its own, on a thread that takes one step
//! after the other, for as long as the write lock may be held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use pgqrs::{Action, Enqueue, Error, Settle, Settlement};
use pyo3::{IntoPyObjectExt, prelude::*, types::PyList};
use rusqlite::{Connection, Statement, types::Value};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    bridge::Bridge,
    error::{expired, raised, sql_failed},
    message::{duration, receipt},
    runtime::OfProcess,
    store::{PyStore, name, new_messages, outcomes},
    values::{Parameters, row},
};

/// Rolled back when it is dropped, or when its time is up.
#[pyclass(frozen, module = "pgqrs._native")]
pub(crate) struct Transaction {
    steps: OfProcess<Sender<Step>>,
    timeout: Duration,
    is_expired: Arc<AtomicBool>,
}

type Step = Box<dyn FnOnce(&Connection) + Send>;

enum Failure {
    Store(Error),
    Statement(rusqlite::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Statement(error)
    }
}

#[pymethods]
impl Transaction {
    /// Waits for the write lock, and begins one that lasts so many microseconds at most.
    #[staticmethod]
    fn begin(bridge: &Bridge, call: u64, store: &PyStore, timeout: i64) -> PyResult<()> {
        let (store, timeout) =
            (store.sqlite()?.clone(), duration("timeout", timeout, "0 or more")?);
        let is_expired = Arc::new(AtomicBool::new(false));
        let expires = is_expired.clone();
        let begin = async move {
            let (steps, waiting) = mpsc::channel();
            let (begun, beginning) = oneshot::channel();
            tokio::task::spawn_blocking(move || match store.begin() {
                Ok(connection) => {
                    let ends = Instant::now() + timeout;
                    let interrupt = connection.get_interrupt_handle();
                    let _interrupt = AbortOnDropHandle::new(tokio::spawn(async move {
                        tokio::time::sleep(timeout).await;
                        interrupt.interrupt();
                    }));
                    if begun.send(Ok(())).is_ok() {
                        expires.store(!take(&connection, &waiting, ends), Ordering::SeqCst);
                    }
                }
                Err(error) => drop(begun.send(Err(error))),
            });
            let stopped = |_| unavailable("the runtime is shutting down");
            beginning.await.map_err(stopped)??;
            Ok(steps)
        };
        bridge.answer(call, begin, move |py, steps| {
            Self { steps: OfProcess::new(steps), timeout, is_expired }.into_py_any(py)
        })
    }

    /// Runs a statement; how many rows it changed.
    fn execute(&self, bridge: &Bridge, call: u64, sql: String, values: Parameters) -> PyResult<()> {
        let work = move |connection: &Connection| {
            let mut statement = prepared(connection, &sql, values)?;
            let changed = statement.raw_execute()?;
            still_open(connection)?;
            Ok(changed)
        };
        self.step(bridge, call, work, |py, changed| changed.into_py_any(py))
    }

    /// Runs a statement that answers with rows.
    fn fetch(&self, bridge: &Bridge, call: u64, sql: String, values: Parameters) -> PyResult<()> {
        let work = move |connection: &Connection| {
            let mut statement = prepared(connection, &sql, values)?;
            let columns = statement.column_count();
            let (mut rows, mut found) = (statement.raw_query(), Vec::new());
            while let Some(row) = rows.next()? {
                let values: rusqlite::Result<Vec<Value>> =
                    (0..columns).map(|n| row.get(n)).collect();
                found.push(values?);
            }
            drop(rows);
            still_open(connection)?;
            Ok(found)
        };
        self.step(bridge, call, work, |py, rows| {
            let rows: PyResult<Vec<_>> = rows.into_iter().map(|values| row(py, values)).collect();
            rows?.into_py_any(py)
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn enqueue(
        &self,
        bridge: &Bridge,
        call: u64,
        store: &PyStore,
        queue: String,
        payloads: &Bound<'_, PyList>,
        headers: Option<&Bound<'_, PyAny>>,
        priority: i64,
        delay: i64,
        max_attempts: Option<i64>,
    ) -> PyResult<()> {
        let (store, queue) = (store.sqlite()?.clone(), name(queue)?);
        let messages = new_messages(payloads, headers, priority, delay, max_attempts)?;
        let enqueue = Enqueue { queue, messages, now: None };
        let work = move |connection: &Connection| Ok(store.enqueue_in(connection, enqueue)?);
        self.step(bridge, call, work, |py, ids| {
            let ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
            ids.into_py_any(py)
        })
    }

    /// Archives by `(id, token)`; see [`outcomes`].
    fn archive(
        &self,
        bridge: &Bridge,
        call: u64,
        store: &PyStore,
        receipts: Vec<(i64, i64)>,
    ) -> PyResult<()> {
        let store = store.sqlite()?.clone();
        let archive =
            |(id, token)| Settlement { receipt: receipt(id, token), action: Action::Archive };
        let settle = Settle { settlements: receipts.into_iter().map(archive).collect(), now: None };
        let work = move |connection: &Connection| Ok(store.settle_in(connection, settle)?);
        self.step(bridge, call, work, |py, settled| {
            outcomes(py, settled.into_iter().map(Result::ok).collect())
        })
    }

    fn commit(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        self.end(bridge, call, "COMMIT")
    }

    fn rollback(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        self.end(bridge, call, "ROLLBACK")
    }
}

impl Transaction {
    fn end(&self, bridge: &Bridge, call: u64, sql: &'static str) -> PyResult<()> {
        let work = move |connection: &Connection| Ok(connection.execute_batch(sql)?);
        self.step(bridge, call, work, |py, ()| Ok(py.None()))
    }

    /// Has the thread do `work`. A step that it does not take any more is an error.
    fn step<T: Send + 'static>(
        &self,
        bridge: &Bridge,
        call: u64,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<()> {
        let (answer, answered) = oneshot::channel();
        let step: Step = Box::new(move |connection| drop(answer.send(work(connection))));
        // Without the thread the answer is dropped with the step.
        drop(self.steps.here()?.send(step));
        let (timeout, is_expired) = (self.timeout, self.is_expired.clone());
        bridge.answer(
            call,
            async move { Ok(answered.await.ok()) },
            move |py, outcome| match outcome {
                Some(Ok(value)) => convert(py, value),
                _ if is_expired.load(Ordering::SeqCst) => Err(expired(timeout)),
                Some(Err(Failure::Statement(error))) if is_interrupted(&error) => {
                    Err(expired(timeout))
                }
                Some(Err(Failure::Store(error))) => Err(raised(error)),
                Some(Err(Failure::Statement(error))) => Err(sql_failed(&error)),
                None => Err(raised(unavailable("the transaction has ended"))),
            },
        )
    }
}

/// Takes steps until one ends the transaction. Rolls it back when nobody is there to do that, and
/// when its time is up: then `false`.
fn take(connection: &Connection, steps: &Receiver<Step>, ends: Instant) -> bool {
    while !connection.is_autocommit() {
        match steps.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            Ok(step) => step(connection),
            Err(reason) => {
                // One that fails is done when the connection is closed.
                drop(connection.execute_batch("ROLLBACK"));
                return reason == RecvTimeoutError::Disconnected;
            }
        }
    }
    true
}

fn prepared<'c>(
    connection: &'c Connection,
    sql: &str,
    values: Parameters,
) -> rusqlite::Result<Statement<'c>> {
    let mut statement = connection.prepare(sql)?;
    values.bind(&mut statement)?;
    Ok(statement)
}

fn still_open(connection: &Connection) -> Result<(), Failure> {
    if connection.is_autocommit() {
        let reason =
            "the statement ended the transaction; leave the block to commit, raise to roll back";
        return Err(Error::Backend { reason: reason.into(), source: None }.into());
    }
    Ok(())
}

fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
}

fn unavailable(reason: &str) -> Error {
    Error::Unavailable { reason: reason.into(), source: None }
}

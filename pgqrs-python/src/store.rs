//! A store: enqueue, claim, settle, and what else hangs on it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use pgqrs::{
    Backend, BatchSize, Claim, Enqueue, Error, Json, NewMessage, Priority, QueueFilter, QueueName,
    Settle, Settled, Settlement, Store,
};
use pgqrs_postgres::{Postgres, PostgresStore};
use pgqrs_sqlite::{Sqlite, SqliteStore};
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
    bridge
        .answer(call, Opened::open(url), |py, store| PyStore(OfProcess::new(store)).into_py_any(py))
}

#[pyclass(frozen, module = "pgqrs._native", name = "Store")]
pub(crate) struct PyStore(OfProcess<Opened>);

/// The backends: each can do what the others cannot.
#[derive(Debug)]
enum Opened {
    Postgres(Arc<PostgresStore>),
    Sqlite(Arc<SqliteStore>),
}

impl Opened {
    async fn open(url: String) -> pgqrs::Result<Self> {
        let scheme = url.split_once(':').map_or(&*url, |(scheme, _)| scheme);
        let serves = |backend: &dyn Backend| {
            backend.schemes().iter().any(|known| known.eq_ignore_ascii_case(scheme))
        };
        if serves(&Postgres) {
            return Ok(Self::Postgres(Arc::new(pgqrs_postgres::connect(&url).await?)));
        }
        if serves(&Sqlite) {
            return Ok(Self::Sqlite(Arc::new(pgqrs_sqlite::connect(&url).await?)));
        }
        let known = [Postgres.schemes(), Sqlite.schemes()].concat();
        Err(Error::UnknownScheme { scheme: scheme.chars().take(32).collect(), known })
    }
}

impl PyStore {
    pub(crate) fn store(&self) -> PyResult<Arc<dyn Store>> {
        Ok(match self.0.here()? {
            Opened::Postgres(store) => store.clone(),
            Opened::Sqlite(store) => store.clone(),
        })
    }

    /// For what only Postgres offers.
    pub(crate) fn postgres(&self) -> PyResult<&PostgresStore> {
        match self.0.here()? {
            Opened::Postgres(store) => Ok(store),
            Opened::Sqlite(_) => Err(raised(Error::Unsupported {
                what: "transactions on a connection of yours: SQLite's are store.transaction()",
            })),
        }
    }

    /// For what only SQLite offers.
    pub(crate) fn sqlite(&self) -> PyResult<&Arc<SqliteStore>> {
        match self.0.here()? {
            Opened::Sqlite(store) => Ok(store),
            Opened::Postgres(_) => Err(raised(Error::Unsupported {
                what: "store.transaction(): on Postgres give the connection that your transaction \
                       is on to store.enqueue_in and store.archive_in",
            })),
        }
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

    /// SQLite tells of every commit by itself.
    fn notify(&self, bridge: &Bridge, call: u64, queue: String) -> PyResult<()> {
        let queue = name(queue)?;
        let postgres = match self.0.here()? {
            Opened::Postgres(store) => Some(store.clone()),
            Opened::Sqlite(_) => None,
        };
        let work = async move {
            match postgres {
                Some(store) => store.notify(&queue).await,
                None => Ok(()),
            }
        };
        bridge.answer(call, work, |py, ()| Ok(py.None()))
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

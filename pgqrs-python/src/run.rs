//! The run loop with handlers in Python: messages cross to the event loop in lists, as many as have
//! gathered, and so do verdicts on their way back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use pgqrs::{
    Delay, HandlerError, Message, QueueFilter, QueueName, RUN_HEARTBEAT_TIMEOUT, Report, Retry,
    Store, VisibilityTimeout,
};
use pyo3::{
    IntoPyObjectExt, exceptions::PyValueError, prelude::*, pybacked::PyBackedStr, types::PyDict,
};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    bridge::Bridge,
    error::{out_of_range, raised},
    message::{PyMessage, delay, duration, timeout},
    runtime::OfProcess,
    store::{PyStore, name},
};

/// A run loop, for one run.
#[pyclass(frozen, module = "pgqrs._native")]
pub(crate) struct RunLoop {
    crossing: OfProcess<Arc<Crossing>>,
    options: Options,
}

#[derive(Clone)]
struct Options {
    identity: Option<(String, u16)>,
    concurrency: usize,
    prefetch: Option<usize>,
    vt: Option<VisibilityTimeout>,
    timeout: Option<Duration>,
    grace: Duration,
    poll_interval: Duration,
}

/// What becomes of a message.
enum Verdict {
    Archive,
    /// Released after the queue's retry delay.
    GiveBack,
    /// Released at once: nobody handles it.
    Release,
    /// Failed, and tried again after the delay or else the queue's.
    Fail(String, Option<Delay>),
    Bury(String),
}

enum Event {
    Start(u64, Box<Message>),
    /// Its lease is lost, or the loop's grace is over.
    Cancel(u64),
}

/// Where the run loop and the event loop meet.
struct Crossing {
    store: Arc<dyn Store>,
    queue: QueueName,
    stop: CancellationToken,
    events: Mutex<Vec<Event>>,
    arrived: Notify,
    in_work: Mutex<HashMap<u64, oneshot::Sender<Verdict>>>,
    last_number: AtomicU64,
    /// Nobody handles messages any more.
    closed: AtomicBool,
}

#[pymethods]
impl RunLoop {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "the friendly layer names them")]
    fn new(
        store: &PyStore,
        queue: String,
        identity: Option<(String, u16)>,
        concurrency: i64,
        prefetch: Option<i64>,
        vt: Option<i64>,
        timeout: Option<i64>,
        grace: i64,
        poll_interval: i64,
    ) -> PyResult<Self> {
        let count = |what, value: i64, least, allowed| {
            let fits = usize::try_from(value).ok().filter(|n| (least..=10_000).contains(n));
            fits.ok_or_else(|| raised(out_of_range(what, value.to_string(), allowed)))
        };
        let options = Options {
            identity,
            concurrency: count("concurrency", concurrency, 1, "1 to 10000")?,
            prefetch: prefetch.map(|n| count("prefetch", n, 0, "0 to 10000")).transpose()?,
            vt: vt.map(self::timeout).transpose()?,
            timeout: timeout.map(|micros| duration("timeout", micros, "0 or more")).transpose()?,
            grace: duration("grace", grace, "0 or more")?,
            poll_interval: duration("poll interval", poll_interval, "0 or more")?,
        };
        let crossing = Crossing {
            store: store.store()?,
            queue: name(queue)?,
            stop: CancellationToken::new(),
            events: Mutex::default(),
            arrived: Notify::new(),
            in_work: Mutex::default(),
            last_number: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        Ok(Self { crossing: OfProcess::new(Arc::new(crossing)), options })
    }

    /// Runs it; the answer is its report.
    fn run(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        let (crossing, options) = (self.crossing.here()?.clone(), self.options.clone());
        let work = async move {
            let report = run(&crossing, options).await;
            crossing.close();
            report
        };
        bridge.answer(call, work, report_row)
    }

    /// What has come since the last call, at least one event: `(number, message)`, or
    /// `(number, None)` for a handler to cancel. Empty once the loop has ended.
    fn events(&self, bridge: &Bridge, call: u64) -> PyResult<()> {
        let crossing = self.crossing.here()?.clone();
        bridge.answer(call, async move { Ok(crossing.next_events().await) }, |py, events| {
            let event = |event| match event {
                Event::Start(number, message) => {
                    Ok((number, Some(Py::new(py, PyMessage::new(py, *message)?)?)))
                }
                Event::Cancel(number) => Ok((number, None)),
            };
            events.into_iter().map(event).collect::<PyResult<Vec<_>>>()?.into_py_any(py)
        })
    }

    /// Takes verdicts: the numbers of messages to archive, and others as `(number, kind, error,
    /// delay)`; see [`verdict`].
    fn settle(
        &self,
        archived: Vec<u64>,
        others: Vec<(u64, PyBackedStr, Option<String>, Option<i64>)>,
    ) -> PyResult<()> {
        let archived = archived.into_iter().map(|number| Ok((number, Verdict::Archive)));
        let others = others
            .into_iter()
            .map(|(number, kind, error, delay)| Ok((number, verdict(&kind, error, delay)?)));
        let verdicts = archived.chain(others).collect::<PyResult<Vec<_>>>()?;
        let mut in_work = lock(&self.crossing.here()?.in_work);
        for (number, verdict) in verdicts {
            if let Some(handling) = in_work.remove(&number) {
                // A handler that was cancelled meanwhile does not listen any more.
                let _ = handling.send(verdict);
            }
        }
        Ok(())
    }

    /// Stops it: handlers may finish within the grace.
    fn stop(&self) -> PyResult<()> {
        self.crossing.here()?.stop.cancel();
        Ok(())
    }

    /// Stops it, and gives back at once what is in work.
    fn abandon(&self) -> PyResult<()> {
        let crossing = self.crossing.here()?;
        crossing.stop.cancel();
        crossing.close();
        Ok(())
    }
}

impl Crossing {
    /// A handler's whole life, as the run loop sees it.
    async fn handle(self: Arc<Self>, message: Message) -> Result<(), HandlerError> {
        let attempts = message.attempts;
        let (handling, verdict) = oneshot::channel();
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.in_work).insert(number, handling);
        let _cancel = CancelOnDrop { crossing: &self, number };
        self.push(Event::Start(number, Box::new(message)));
        if self.closed.load(Ordering::SeqCst) {
            lock(&self.in_work).remove(&number);
        }
        match verdict.await.unwrap_or(Verdict::Release) {
            Verdict::Archive => Ok(()),
            Verdict::GiveBack => {
                Err(Retry::release(self.retry_delay(attempts).await.duration()).into())
            }
            Verdict::Release => Err(Retry::release(Duration::ZERO).into()),
            Verdict::Fail(error, None) => Err(error.into()),
            Verdict::Fail(error, Some(delay)) => {
                Err(Retry::after(delay.duration()).because(error).into())
            }
            Verdict::Bury(error) => Err(Retry::never().because(error).into()),
        }
    }

    async fn retry_delay(&self, attempts: u32) -> Delay {
        let queues = self.store.queues(QueueFilter::named(self.queue.clone())).await;
        let queue = queues.ok().and_then(|mut queues| queues.pop());
        queue.map(|queue| queue.settings.retry).unwrap_or_default().delay(attempts)
    }

    async fn next_events(&self) -> Vec<Event> {
        loop {
            let events = std::mem::take(&mut *lock(&self.events));
            if !events.is_empty() || self.closed.load(Ordering::SeqCst) {
                return events;
            }
            self.arrived.notified().await;
        }
    }

    fn push(&self, event: Event) {
        lock(&self.events).push(event);
        self.arrived.notify_one();
    }

    /// Releases what is in work, and whatever may still come.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        lock(&self.in_work).clear();
        self.arrived.notify_one();
    }
}

/// Tells the event loop when the run loop drops a handler that has not come to a verdict.
struct CancelOnDrop<'a> {
    crossing: &'a Crossing,
    number: u64,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if lock(&self.crossing.in_work).remove(&self.number).is_some() {
            self.crossing.push(Event::Cancel(self.number));
        }
    }
}

async fn run(crossing: &Arc<Crossing>, options: Options) -> pgqrs::Result<Report> {
    let store = &crossing.store;
    let consumer = match options.identity {
        Some((host, port)) => {
            let builder = pgqrs::consumer(host, port, crossing.queue.clone());
            Some(builder.heartbeat_timeout(RUN_HEARTBEAT_TIMEOUT).create(store).await?)
        }
        None => None,
    };
    let mut dequeue = pgqrs::dequeue().from(crossing.queue.clone());
    if let Some(consumer) = &consumer {
        dequeue = dequeue.worker(&**consumer);
    }
    if let Some(timeout) = options.vt {
        dequeue = dequeue.with_vt(timeout.duration());
    }
    let handler = crossing.clone();
    let mut handle = dequeue
        .handle_with(move |message, _| handler.clone().handle(message))
        .concurrency(options.concurrency)
        .grace(options.grace)
        .poll_interval(options.poll_interval)
        .until(crossing.stop.clone());
    if let Some(prefetch) = options.prefetch {
        handle = handle.prefetch(prefetch);
    }
    if let Some(timeout) = options.timeout {
        handle = handle.timeout(timeout);
    }
    handle.poll(store).await
}

fn verdict(kind: &str, error: Option<String>, delay: Option<i64>) -> PyResult<Verdict> {
    let error = error.unwrap_or_default();
    match kind {
        "give back" => Ok(Verdict::GiveBack),
        "release" => Ok(Verdict::Release),
        "fail" => Ok(Verdict::Fail(error, delay.map(self::delay).transpose()?)),
        "bury" => Ok(Verdict::Bury(error)),
        _ => Err(PyValueError::new_err(format!("no verdict {kind:?}"))),
    }
}

/// The report as the keywords of `Report`.
fn report_row(py: Python<'_>, report: Report) -> PyResult<Py<PyAny>> {
    let row = PyDict::new(py);
    row.set_item("handled", report.handled)?;
    row.set_item("failed", report.failed)?;
    row.set_item("dead", report.dead)?;
    row.set_item("released", report.released)?;
    row.set_item("lost", report.lost)?;
    row.set_item("unsettled", report.unsettled)?;
    row.into_py_any(py)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

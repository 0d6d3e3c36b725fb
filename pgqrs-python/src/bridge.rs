//! How answers get from tokio's threads to an event loop: they gather in a list, and one byte on a
//! socket wakes the loop, which takes all that is there. No thread of ours ever waits for the GIL,
//! so none can hold up a fork or the interpreter's exit.

use std::{
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt;
use pyo3::{intern, prelude::*, types::PyDict};

use crate::{error, runtime};

/// Makes the Python value of an answer. Dropped uncalled when nobody waits for it any more.
type Answer = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// The answers for one event loop.
#[pyclass(frozen)]
pub(crate) struct Bridge {
    answers: Arc<Answers>,
    wakes: UnixStream,
}

struct Answers {
    /// With the number of the call that each belongs to.
    waiting: Mutex<Vec<(u64, Answer)>>,
    wake: UnixStream,
}

impl Bridge {
    /// Runs `work` on tokio, and answers call `number` with what `convert` makes of its outcome.
    pub(crate) fn answer<T: Send + 'static>(
        &self,
        number: u64,
        work: impl Future<Output = pgqrs::Result<T>> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<()> {
        let answers = self.answers.clone();
        runtime::handle()?.spawn(async move {
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            answers.push(
                number,
                Box::new(move |py| match outcome {
                    Ok(Ok(value)) => convert(py, value),
                    Ok(Err(failure)) => Err(error::raised(failure)),
                    Err(_) => Err(error::panicked()),
                }),
            );
        });
        Ok(())
    }
}

#[pymethods]
impl Bridge {
    #[new]
    fn new() -> PyResult<Self> {
        let (wake, wakes) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        wakes.set_nonblocking(true)?;
        Ok(Self { answers: Arc::new(Answers { waiting: Mutex::default(), wake }), wakes })
    }

    /// Becomes readable when there are answers.
    fn fileno(&self) -> i32 {
        self.wakes.as_raw_fd()
    }

    /// Resolves the futures of all calls that have been answered. An answer to a future that was
    /// cancelled is dropped, which gives back what it has leased.
    fn resolve(&self, py: Python<'_>, pending: &Bound<'_, PyDict>) -> PyResult<()> {
        let _ = (&self.wakes).read(&mut [0; 64]);
        for (number, answer) in self.answers.take() {
            let Some(future) = pending.get_item(number)? else { continue };
            pending.del_item(number)?;
            if future.call_method0(intern!(py, "done"))?.is_truthy()? {
                continue;
            }
            match answer(py) {
                Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
                Err(error) => {
                    future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?
                }
            };
        }
        Ok(())
    }
}

impl Answers {
    fn push(&self, number: u64, answer: Answer) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((number, answer));
        if waiting.len() == 1 {
            // A full socket wakes the loop as well.
            let _ = (&self.wake).write(&[0]);
        }
    }

    fn take(&self) -> Vec<(u64, Answer)> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

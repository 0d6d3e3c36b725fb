//! Waiting for messages without asking for them.

use std::{sync::Arc, time::Duration};

use pyo3::prelude::*;
use tokio::sync::Mutex;

use crate::{bridge::Bridge, runtime::OfProcess};

/// Wake-ups of one queue.
#[pyclass(frozen, module = "pgqrs._native")]
pub(crate) struct Wakeups(OfProcess<Option<Arc<Mutex<pgqrs::Wakeups>>>>);

impl Wakeups {
    pub(crate) fn new(wakeups: Option<pgqrs::Wakeups>) -> Self {
        Self(OfProcess::new(wakeups.map(|wakeups| Arc::new(Mutex::new(wakeups)))))
    }
}

#[pymethods]
impl Wakeups {
    /// Waits for the next wake-up, at most so many microseconds.
    fn wait(&self, bridge: &Bridge, call: u64, micros: u64) -> PyResult<()> {
        let wakeups = self.0.here()?.clone();
        let work = async move {
            let woken = async {
                match wakeups {
                    Some(wakeups) => wakeups.lock().await.wait().await,
                    None => std::future::pending().await,
                }
            };
            // Which of the two it was does not matter: the caller looks either way.
            let _ = tokio::time::timeout(Duration::from_micros(micros), woken).await;
            Ok(())
        };
        bridge.answer(call, work, |py, ()| Ok(py.None()))
    }
}

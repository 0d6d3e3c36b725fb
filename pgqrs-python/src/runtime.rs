//! The tokio runtime of this process, and values that must not outlive it in a forked child.

use std::{
    mem,
    process::id,
    sync::{Mutex, PoisonError},
};

use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::error;

/// The runtime and the process that started it. It is never shut down: the process's end ends it.
static RUNTIME: Mutex<Option<(u32, Runtime)>> = Mutex::new(None);

/// The runtime of this process, started when it is first wanted.
///
/// Called with the GIL held and never gives it up meanwhile, so that no fork sees the lock taken.
pub(crate) fn handle() -> PyResult<Handle> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    match &*runtime {
        Some((process, runtime)) if *process == id() => return Ok(runtime.handle().clone()),
        _ => {}
    }
    // Of the parent's runtime a forked child has no threads: to drop it would wait for them.
    mem::forget(runtime.take());
    let started = Builder::new_multi_thread().thread_name("pgqrs").enable_all().build()?;
    let handle = started.handle().clone();
    *runtime = Some((id(), started));
    Ok(handle)
}

/// The runtime of this process, if it was started: for threads that do not hold the GIL.
pub(crate) fn current() -> Option<Handle> {
    if let Ok(handle) = Handle::try_current() {
        return Some(handle);
    }
    let runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    runtime.as_ref().filter(|(process, _)| *process == id()).map(|(_, it)| it.handle().clone())
}

/// A value of the process that made it: in a forked child it is refused, and never dropped.
#[derive(Debug)]
pub(crate) struct OfProcess<T: Send + 'static> {
    process: u32,
    value: Option<T>,
}

impl<T: Send + 'static> OfProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { process: id(), value: Some(value) }
    }

    /// The value.
    ///
    /// # Errors
    /// `ForkedError` in another process than the one that made it.
    pub(crate) fn here(&self) -> PyResult<&T> {
        match &self.value {
            Some(value) if self.process == id() => Ok(value),
            _ => Err(error::forked(self.process)),
        }
    }
}

impl<T: Send + 'static> Drop for OfProcess<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        match current() {
            // The last handle of a store may have to wait for its threads and connections.
            Some(runtime) if self.process == id() => drop(runtime.spawn_blocking(|| drop(value))),
            _ => mem::forget(value),
        }
    }
}

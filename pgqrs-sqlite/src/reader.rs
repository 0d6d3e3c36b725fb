//! Connections that read, beside the writer.

use std::sync::{Arc, Mutex, PoisonError};

use pgqrs::{Error, Result};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::{
    connection::open_reader,
    error::{Failure, Outcome},
    tx::Tx,
    url::Target,
};

/// Up to four connections, opened as they are needed.
#[derive(Debug)]
pub(crate) struct Readers {
    target: Target,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    const MOST: usize = 4;

    pub(crate) fn new(target: Target) -> Arc<Self> {
        let idle = Mutex::default();
        Arc::new(Self { target, idle, permits: Semaphore::new(Self::MOST) })
    }

    /// Runs `work` on a connection, on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let _permit = self.permits.acquire().await.map_err(|_| stopped())?;
        let readers = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open_reader(&readers.target)?,
            };
            let outcome = work(&Tx::new(&connection)).map_err(Error::from);
            // One that failed may be the connection's fault.
            if outcome.is_ok() {
                readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            outcome
        });
        reading.await.map_err(|_| stopped())?
    }
}

fn stopped() -> Error {
    Error::from(Failure::Queue(Error::Unavailable {
        reason: "the runtime is shutting down".into(),
        source: None,
    }))
}

//! Waits of the engine for what there may not be.

use std::{future::pending, time::Duration};

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use crate::{HandlerError, Result, Wakeups, handle::Verdict};

/// A call of the store that is on its way, if one is.
pub(super) type Request<T> = Option<BoxFuture<'static, T>>;

/// Waits for the request, if there is one, and takes it away when it is answered. Losing a race in
/// `select!` leaves it where it is.
pub(super) async fn take<T>(request: &mut Request<T>) -> T {
    match request {
        Some(answer) => {
            let answer = answer.await;
            *request = None;
            answer
        }
        None => pending().await,
    }
}

/// Waits for a wake-up, if the store has any.
pub(super) async fn wake(wakeups: &mut Option<Wakeups>) {
    match wakeups {
        Some(wakeups) => wakeups.wait().await,
        None => pending().await,
    }
}

/// Waits until then, if there is a then.
pub(super) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// A handler that has so long, if there is a limit.
pub(super) async fn within(
    timeout: Option<Duration>,
    handling: impl Future<Output = Result<Verdict, HandlerError>>,
) -> Result<Verdict, HandlerError> {
    match timeout {
        None => handling.await,
        Some(timeout) => tokio::time::timeout(timeout, handling)
            .await
            .unwrap_or_else(|_| Err(format!("handler timed out after {timeout:?}").into())),
    }
}

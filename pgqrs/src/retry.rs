//! When a failed message is tried again: a queue's backoff, and what a handler asks for itself.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Action, Delay, HandlerError, Result};

/// What becomes of a message whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// It is tried again after the delay, unless this was its last attempt.
    RetryAfter(Delay),
    /// It becomes a dead letter at once.
    Dead,
}

/// The delay between a failed attempt and the next one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// Always the same delay.
    Fixed(Duration),
    /// `step`, `2 * step`, `3 * step`, … up to `max`.
    Linear {
        /// The delay after the first attempt, and what each further attempt adds.
        step: Duration,
        /// The longest delay.
        max: Duration,
    },
    /// A random delay between 0 and `min(base * 2^(attempts - 1), max)`: "full jitter" (M. Brooker,
    /// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    Exponential {
        /// The upper bound after the first attempt; it doubles with each further one.
        base: Duration,
        /// The longest delay.
        max: Duration,
    },
}

impl Backoff {
    /// The delay after `attempts` attempts, 1 after the first. At most [`Delay::MAX`].
    pub fn delay(&self, attempts: u32) -> Delay {
        let delay = match *self {
            Self::Fixed(delay) => delay,
            Self::Linear { step, max } => step.saturating_mul(attempts.max(1)).min(max),
            Self::Exponential { base, max } => {
                let factor = 2u32.saturating_pow(attempts.saturating_sub(1));
                base.saturating_mul(factor).min(max).mul_f64(fastrand::f64())
            }
        };
        bounded(delay)
    }
}

impl Default for Backoff {
    /// Exponential with full jitter: at most 1 s after the first attempt, at most 10 minutes.
    fn default() -> Self {
        Self::Exponential { base: Duration::from_secs(1), max: Duration::from_secs(600) }
    }
}

/// The delays of a loop whose [`Handle::backoff`](crate::Handle::backoff) replaces its queue's.
#[derive(Clone)]
pub(crate) struct Delays(Arc<dyn Fn(u32) -> Duration + Send + Sync>);

impl Delays {
    pub(crate) fn new(after: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(after))
    }

    /// The delay after `attempts` attempts, 1 after the first. At most [`Delay::MAX`].
    pub(crate) fn delay(&self, attempts: u32) -> Delay {
        bounded((self.0)(attempts))
    }
}

impl fmt::Debug for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delays").finish_non_exhaustive()
    }
}

/// An error with which a handler says itself when its message is tried again.
///
/// ```
/// use std::time::Duration;
/// use pgqrs::{HandlerError, Retry};
///
/// fn handle(busy: bool) -> Result<(), HandlerError> {
///     if busy {
///         return Err(Retry::after(Duration::from_secs(10)).because("the printer is busy").into());
///     }
///     Err(Retry::never().because("no such printer").into())
/// }
/// # assert_eq!(handle(true).unwrap_err().to_string(), "the printer is busy");
/// # assert_eq!(handle(false).unwrap_err().to_string(), "no such printer");
/// ```
#[derive(Debug)]
pub struct Retry {
    wish: Wish,
    because: Option<HandlerError>,
}

/// What becomes of the message.
#[derive(Debug, Clone, Copy)]
enum Wish {
    After(Duration),
    Never,
    Release(Duration),
}

impl Retry {
    /// Try again after `delay`, at most [`Delay::MAX`].
    pub fn after(delay: Duration) -> Self {
        Self { wish: Wish::After(delay), because: None }
    }

    /// Do not try again: the message becomes a dead letter at once.
    pub fn never() -> Self {
        Self { wish: Wish::Never, because: None }
    }

    /// Give the message back, claimable after `delay`, at most [`Delay::MAX`]: this was no failure,
    /// and the attempt does not count. For what cannot be done yet; nothing bounds how often.
    pub fn release(delay: Duration) -> Self {
        Self { wish: Wish::Release(delay), because: None }
    }

    /// Adds the reason, which becomes the message's last error; after a
    /// [`release`](Self::release) it is not kept.
    pub fn because(mut self, reason: impl Into<HandlerError>) -> Self {
        self.because = Some(reason.into());
        self
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.because, self.wish) {
            (Some(reason), _) => reason.fmt(f),
            (None, Wish::After(delay)) => write!(f, "retry after {delay:?}"),
            (None, Wish::Never) => f.write_str("never retry"),
            (None, Wish::Release(delay)) => write!(f, "released for {delay:?}"),
        }
    }
}

impl StdError for Retry {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.because.as_ref().map(|reason| &**reason as &(dyn StdError + 'static))
    }
}

/// What `error` asks for, or else a retry after what `delay` says.
pub(crate) fn action(error: &HandlerError, delay: impl FnOnce() -> Delay) -> Action {
    let retry = match error.downcast_ref::<Retry>().map(|retry| retry.wish) {
        Some(Wish::Release(delay)) => return Action::Release(bounded(delay)),
        Some(Wish::Never) => RetryDecision::Dead,
        Some(Wish::After(delay)) => RetryDecision::RetryAfter(bounded(delay)),
        None => RetryDecision::RetryAfter(delay()),
    };
    Action::Fail { error: error.to_string(), retry }
}

/// Repeats an idempotent call while it answers [`Error::Unavailable`](crate::Error::Unavailable):
/// at most `tries` times, 50 ms to 2 s apart with full jitter.
pub(crate) async fn while_unavailable<T, F>(tries: u32, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let pauses =
        Backoff::Exponential { base: Duration::from_millis(50), max: Duration::from_secs(2) };
    let mut attempts = 1;
    loop {
        match call().await {
            Err(error) if error.is_unavailable() && attempts < tries => {
                tracing::warn!(%error, attempts, "the store is unavailable; trying again");
                tokio::time::sleep(pauses.delay(attempts).duration()).await;
                attempts += 1;
            }
            outcome => return outcome,
        }
    }
}

fn bounded(delay: Duration) -> Delay {
    Delay::new(delay).unwrap_or(Delay::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_stays_below_its_bound_and_never_overflows() {
        let backoff = Backoff::default();
        for attempts in [0, 1, 2, 10, 1_000, u32::MAX] {
            assert!(backoff.delay(attempts).duration() <= Duration::from_secs(600));
        }
        assert!(backoff.delay(1).duration() <= Duration::from_secs(1));
    }

    #[test]
    fn linear_grows_by_its_step_up_to_its_maximum() {
        let backoff = Backoff::Linear { step: Duration::from_secs(2), max: Duration::from_secs(5) };
        let delays: Vec<_> = (1..=3).map(|n| backoff.delay(n).duration().as_secs()).collect();
        assert_eq!(delays, [2, 4, 5]);
    }
}

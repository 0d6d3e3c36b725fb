//! Queues: names, settings, and what an operator asks first about them.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Backoff, Error, Result, VisibilityTimeout};

/// The name of a queue: 1 to 63 characters of `A-Z a-z 0-9 _ . -`. Clones share it: every message
/// carries one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// The longest name, in characters.
    pub const MAX_LEN: usize = 63;

    /// Parses a name.
    ///
    /// # Errors
    /// [`Error::InvalidQueueName`] says what is allowed.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
        if name.is_empty() || name.len() > Self::MAX_LEN || !name.bytes().all(allowed) {
            return Err(Error::InvalidQueueName { name });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for QueueName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<&str> for QueueName {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for QueueName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<&String> for QueueName {
    type Error = Error;

    fn try_from(name: &String) -> Result<Self> {
        Self::new(name.as_str())
    }
}

impl TryFrom<&QueueName> for QueueName {
    type Error = Error;

    fn try_from(name: &QueueName) -> Result<Self> {
        Ok(name.clone())
    }
}

impl From<QueueName> for String {
    fn from(name: QueueName) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// Whether a queue hands out messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueState {
    /// It takes and hands out messages.
    #[default]
    Active,
    /// It takes messages and hands out none.
    Paused,
}

/// How long the archive keeps a message, counted from the moment it was archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Retention {
    /// For ever.
    #[default]
    Forever,
    /// For this long, whole microseconds.
    For(Duration),
}

impl Retention {
    /// The retention in microseconds; `None` for ever.
    pub fn micros(self) -> Option<i64> {
        match self {
            Self::Forever => None,
            Self::For(age) => Some(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)),
        }
    }

    /// The inverse of [`Retention::micros`]; negative ages count as zero.
    pub fn from_micros(micros: Option<i64>) -> Self {
        match micros {
            None => Self::Forever,
            Some(age) => Self::For(Duration::from_micros(u64::try_from(age).unwrap_or(0))),
        }
    }
}

/// What a queue does where a command leaves it open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueSettings {
    /// Whether it hands out messages.
    pub state: QueueState,
    /// The timeout of claims that name none; 30 seconds by default.
    #[serde(with = "timeout_micros")]
    pub visibility_timeout: VisibilityTimeout,
    /// Attempts after which a message becomes a dead letter, 1 to 32,767; 5 by default. A message
    /// takes the value in force when it is enqueued.
    pub max_attempts: u32,
    /// The delay before a failed message is retried.
    pub retry: Backoff,
    /// How long the archive keeps messages.
    pub retention: Retention,
}

impl QueueSettings {
    /// The largest `max_attempts`.
    pub const MAX_ATTEMPTS: u32 = i16::MAX as u32;
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            state: QueueState::default(),
            visibility_timeout: VisibilityTimeout::default(),
            max_attempts: 5,
            retry: Backoff::default(),
            retention: Retention::default(),
        }
    }
}

/// Changes to a queue's settings; `None` leaves a setting as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueueChanges {
    /// Pause or resume.
    pub state: Option<QueueState>,
    /// The timeout of claims that name none.
    pub visibility_timeout: Option<VisibilityTimeout>,
    /// Attempts allowed to messages enqueued from now on.
    pub max_attempts: Option<u32>,
    /// The delay before a failed message is retried.
    pub retry: Option<Backoff>,
    /// How long the archive keeps messages.
    pub retention: Option<Retention>,
}

impl QueueChanges {
    /// `settings` with these changes made.
    pub fn applied_to(self, settings: QueueSettings) -> QueueSettings {
        QueueSettings {
            state: self.state.unwrap_or(settings.state),
            visibility_timeout: self.visibility_timeout.unwrap_or(settings.visibility_timeout),
            max_attempts: self.max_attempts.unwrap_or(settings.max_attempts),
            retry: self.retry.unwrap_or(settings.retry),
            retention: self.retention.unwrap_or(settings.retention),
        }
    }
}

/// A queue and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// Its settings.
    pub settings: QueueSettings,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// What a queue holds at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueMetrics {
    /// The queue.
    pub queue: QueueName,
    /// Messages claimable now.
    pub ready: u64,
    /// Messages whose `visible_at` lies in the future and that nobody holds.
    pub delayed: u64,
    /// Messages that consumers hold.
    pub leased: u64,
    /// Archived messages with outcome `done`, within retention.
    pub archived: u64,
    /// Dead letters, within retention.
    pub dead: u64,
    /// Since when the longest-waiting ready message has been claimable; `None` if none is ready.
    pub oldest_ready_at: Option<DateTime<Utc>>,
    /// The store's clock at the read.
    pub now: DateTime<Utc>,
    /// Registered workers by state.
    pub workers: WorkerCounts,
}

impl QueueMetrics {
    /// How long the longest-waiting ready message has been claimable.
    pub fn oldest_ready_age(&self) -> Option<Duration> {
        let age = self.now - self.oldest_ready_at?;
        Some(age.to_std().unwrap_or_default())
    }

    /// Messages that are not yet archived or deleted.
    pub fn live(&self) -> u64 {
        self.ready + self.delayed + self.leased
    }
}

/// Registered workers of a queue, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct WorkerCounts {
    /// Workers that are ready.
    pub ready: u64,
    /// Workers that are suspended.
    pub suspended: u64,
    /// Workers that have stopped.
    pub stopped: u64,
}

mod timeout_micros {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::VisibilityTimeout;

    pub(super) fn serialize<S: Serializer>(
        timeout: &VisibilityTimeout,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(timeout.micros())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<VisibilityTimeout, D::Error> {
        let micros = u64::deserialize(deserializer)?;
        VisibilityTimeout::new(std::time::Duration::from_micros(micros)).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_1_to_63_of_the_allowed_characters() {
        assert!(QueueName::new("a.B-9_").is_ok());
        assert!(QueueName::new("x".repeat(63)).is_ok());
        for bad in ["", &"x".repeat(64), "a b", "é", "a/b", "a\0"] {
            assert!(QueueName::new(bad).is_err(), "{bad:?}");
        }
    }
}

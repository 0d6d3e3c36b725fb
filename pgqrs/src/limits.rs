//! Numbers that commands carry, right by construction: each type holds its range and its unit.

use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How long a message waits before it may be claimed: 0 to 10 years, whole microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Delay(Duration);

impl Delay {
    /// No delay: claimable at once.
    pub const ZERO: Self = Self(Duration::ZERO);
    /// The longest delay: ten years of 365 days.
    pub const MAX: Self = Self(Duration::from_secs(10 * 365 * 24 * 60 * 60));

    /// A delay, rounded up to whole microseconds.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] above [`Delay::MAX`].
    pub fn new(delay: Duration) -> Result<Self> {
        let delay = round_up(delay);
        if delay > Self::MAX.0 {
            return Err(out_of_range("delay", format!("{delay:?}"), "0 to 10 years"));
        }
        Ok(Self(delay))
    }

    /// A delay in seconds.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] above [`Delay::MAX`].
    pub fn seconds(seconds: u64) -> Result<Self> {
        Self::new(Duration::from_secs(seconds))
    }

    /// The delay as a [`Duration`] of whole microseconds.
    pub fn duration(self) -> Duration {
        self.0
    }

    /// The delay in microseconds.
    pub fn micros(self) -> i64 {
        whole_micros(self.0)
    }
}

/// How long a claim holds its messages: 1 millisecond to 12 hours, whole microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VisibilityTimeout(Duration);

impl VisibilityTimeout {
    /// The shortest timeout: 1 millisecond.
    pub const MIN: Self = Self(Duration::from_millis(1));
    /// The longest timeout: 12 hours.
    pub const MAX: Self = Self(Duration::from_secs(12 * 60 * 60));

    /// A timeout, rounded up to whole microseconds.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] below 1 ms or above 12 hours.
    pub fn new(timeout: Duration) -> Result<Self> {
        let timeout = round_up(timeout);
        if timeout < Self::MIN.0 || timeout > Self::MAX.0 {
            let allowed = "1 ms to 12 h (1 to 43200 in whole seconds)";
            return Err(out_of_range("visibility timeout", format!("{timeout:?}"), allowed));
        }
        Ok(Self(timeout))
    }

    /// A timeout in seconds, 1 to 43,200.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for 0 or more than 43,200 seconds.
    pub fn seconds(seconds: u32) -> Result<Self> {
        Self::new(Duration::from_secs(seconds.into()))
    }

    /// The timeout as a [`Duration`] of whole microseconds.
    pub fn duration(self) -> Duration {
        self.0
    }

    /// The timeout in microseconds.
    pub fn micros(self) -> i64 {
        whole_micros(self.0)
    }
}

impl Default for VisibilityTimeout {
    /// 30 seconds.
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

/// How many messages one command handles at most: 1 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchSize(u32);

impl BatchSize {
    /// One message.
    pub const ONE: Self = Self(1);
    /// The largest batch: 10,000 messages.
    pub const MAX: Self = Self(10_000);

    /// A batch size.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for 0 or more than 10,000.
    pub fn new(size: usize) -> Result<Self> {
        match u32::try_from(size) {
            Ok(size) if (1..=Self::MAX.0).contains(&size) => Ok(Self(size)),
            _ => Err(out_of_range("batch size", size.to_string(), "1 to 10000")),
        }
    }

    /// The size, for collections.
    pub fn count(self) -> usize {
        self.0 as usize
    }
}

/// How urgent a message is: 0 to 9, 4 by default, higher first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// The least urgent.
    pub const LOWEST: Self = Self(0);
    /// The most urgent.
    pub const HIGHEST: Self = Self(9);

    /// A priority.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] above 9.
    pub fn new(priority: u8) -> Result<Self> {
        if priority > Self::HIGHEST.0 {
            return Err(out_of_range("priority", priority.to_string(), "0 to 9"));
        }
        Ok(Self(priority))
    }

    /// The number, 0 to 9.
    pub fn level(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    /// 4.
    fn default() -> Self {
        Self(4)
    }
}

impl TryFrom<u8> for Priority {
    type Error = Error;

    fn try_from(priority: u8) -> Result<Self> {
        Self::new(priority)
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// `time` without what is finer than a microsecond: every instant that enters a store passes here.
pub fn truncate_to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    // Fails only outside the years 1677 to 2262, where databases' own ranges end first.
    time.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(time)
}

pub(crate) fn out_of_range(what: &'static str, value: String, allowed: &'static str) -> Error {
    Error::OutOfRange { what, value, allowed }
}

fn round_up(duration: Duration) -> Duration {
    match duration.subsec_nanos() % 1_000 {
        0 => duration,
        rest => duration.saturating_add(Duration::from_nanos(u64::from(1_000 - rest))),
    }
}

fn whole_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_round_up_to_whole_microseconds() {
        let timeout = VisibilityTimeout::new(Duration::from_nanos(1_000_001)).unwrap();
        assert_eq!(timeout.micros(), 1_001);
    }

    #[test]
    fn out_of_range_says_what_is_allowed() {
        let error = VisibilityTimeout::seconds(0).unwrap_err().to_string();
        assert!(error.contains("1 ms to 12 h"), "{error}");
        assert!(BatchSize::new(0).is_err() && BatchSize::new(10_001).is_err());
        assert!(Priority::new(10).is_err());
        assert!(Delay::new(Delay::MAX.duration() + Duration::from_micros(1)).is_err());
    }

    #[test]
    fn now_is_truncated_to_microseconds() {
        let time = DateTime::from_timestamp(1, 1_999).unwrap();
        assert_eq!(truncate_to_micros(time), DateTime::from_timestamp(1, 1_000).unwrap());
    }
}

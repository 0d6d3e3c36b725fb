//! What is enqueued.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A message of about 200 bytes of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    number: u64,
    /// When it was made, in microseconds since 1970.
    at: u64,
    filler: String,
}

impl Message {
    /// A message made now.
    pub fn new(number: u64) -> Self {
        Self { number, at: micros(SystemTime::now()), filler: "x".repeat(140) }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn age(&self) -> Duration {
        Duration::from_micros(micros(SystemTime::now()).saturating_sub(self.at))
    }
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

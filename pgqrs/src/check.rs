//! What every store checks in the same way: the ranges that no type holds, and what filters match.

use chrono::{DateTime, Utc};

use crate::{
    ArchiveFilter, ArchivedMessage, BatchSize, Configure, Enqueue, Error, Json, LiveMessage,
    MessageFilter, Queue, QueueFilter, QueueSettings, Register, Result, Settle, WorkerFilter,
    WorkerId, WorkerRecord, WorkerState, limits::out_of_range,
};

impl Configure {
    /// Checks the payload limit.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] outside 1 KiB to 256 MiB.
    pub fn check(&self) -> Result<()> {
        match self.payload_limit {
            Some(limit) if !(1024..=256 * 1024 * 1024).contains(&limit) => {
                Err(out_of_range("payload limit", limit.to_string(), "1 KiB to 256 MiB"))
            }
            _ => Ok(()),
        }
    }
}

impl QueueSettings {
    /// Checks `max_attempts`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] outside 1 to 32,767.
    pub fn check(&self) -> Result<()> {
        check_max_attempts(self.max_attempts)
    }
}

impl Enqueue {
    /// Checks the batch (E4), against the store's `payload_limit` in bytes.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a batch not of 1 to 10,000 messages, or a message's `max_attempts`
    /// outside 1 to 32,767; [`Error::PayloadTooLarge`] for payload or headers over the limit.
    pub fn check(&self, payload_limit: usize) -> Result<()> {
        BatchSize::new(self.messages.len())?;
        for (index, message) in self.messages.iter().enumerate() {
            let headers = message.headers.as_ref().map_or(0, Json::size);
            let size = message.payload.size().max(headers);
            if size > payload_limit {
                return Err(Error::PayloadTooLarge { index, size, limit: payload_limit });
            }
            message.max_attempts.map_or(Ok(()), check_max_attempts)?;
        }
        Ok(())
    }
}

impl Settle {
    /// Checks how many settlements there are.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for more than 10,000.
    pub fn check(&self) -> Result<()> {
        let count = self.settlements.len();
        if count > BatchSize::MAX.count() {
            return Err(out_of_range("settlements", count.to_string(), "0 to 10000"));
        }
        Ok(())
    }
}

impl Register {
    /// Checks the host.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] outside 1 to 255 bytes.
    pub fn check(&self) -> Result<()> {
        let length = self.host.len();
        if !(1..=255).contains(&length) {
            return Err(out_of_range("host length", length.to_string(), "1 to 255 bytes"));
        }
        Ok(())
    }

    /// Whether this registration takes over the identity of `earlier`, which then stops (W5).
    pub fn replaces(&self, earlier: &WorkerRecord) -> bool {
        self.port != 0
            && earlier.state != WorkerState::Stopped
            && earlier.kind == self.kind
            && earlier.host == self.host
            && earlier.port == self.port
            && earlier.queue == self.queue
    }

    /// The registration as it starts, under the number `id`.
    pub fn into_record(self, id: WorkerId, now: DateTime<Utc>) -> WorkerRecord {
        WorkerRecord {
            id,
            kind: self.kind,
            host: self.host,
            port: self.port,
            queue: self.queue,
            state: WorkerState::Ready,
            heartbeat_timeout: self.heartbeat_timeout,
            registered_at: now,
            heartbeat_at: now,
            stopped_at: None,
            replaced_by: None,
        }
    }
}

impl QueueFilter {
    /// Whether the filter lets `queue` through.
    pub fn matches(&self, queue: &Queue) -> bool {
        is_open_or(&self.queue, &queue.name)
    }
}

impl MessageFilter {
    /// Whether the filter lets `message` through, and it comes after the page before.
    pub fn matches(&self, message: &LiveMessage) -> bool {
        self.page.after < Some(message.id)
            && is_open_or(&self.queue, &message.queue)
            && is_open_or(&self.state, &message.state)
            && is_open_or(&self.id, &message.id)
            && (self.worker.is_none() || self.worker == message.worker)
    }
}

impl ArchiveFilter {
    /// Whether the filter lets `message` through, and it comes after the page before.
    pub fn matches(&self, message: &ArchivedMessage) -> bool {
        self.page.after < Some(message.id)
            && is_open_or(&self.queue, &message.queue)
            && is_open_or(&self.outcome, &message.outcome)
            && is_open_or(&self.id, &message.id)
    }
}

impl WorkerFilter {
    /// Whether the filter lets `worker` through, and it comes after the page before.
    pub fn matches(&self, worker: &WorkerRecord) -> bool {
        self.page.after < Some(worker.id)
            && is_open_or(&self.queue, &worker.queue)
            && is_open_or(&self.state, &worker.state)
            && is_open_or(&self.id, &worker.id)
    }
}

fn is_open_or<T: PartialEq>(wanted: &Option<T>, value: &T) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted == value)
}

fn check_max_attempts(attempts: u32) -> Result<()> {
    if !(1..=QueueSettings::MAX_ATTEMPTS).contains(&attempts) {
        return Err(out_of_range("max_attempts", attempts.to_string(), "1 to 32767"));
    }
    Ok(())
}

//! Producers and consumers that behave at random and write everything down: the tasks of a stress,
//! the processes of a chaos.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use pgqrs::{
    Action, BatchSize, Claim, Delay, Enqueue, Error, Json, Message, MessageFilter, NewMessage,
    Page, Priority, QueueName, Receipt, Register, RetryDecision, Settle, Settlement, Store, Sweep,
    VisibilityTimeout, WorkerId, WorkerKind,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Event, Lease, Log};

/// A lease that is long enough for whom is not interrupted, and short enough to wait for.
const LONG_LEASE: Duration = Duration::from_millis(500);
/// How many receipts of the past a consumer keeps, to try them again.
const OLD_RECEIPTS: usize = 200;

/// One actor: where it works, what it writes to, and its dice.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: QueueName,
    pub(crate) log: Log,
    pub(crate) rng: Rng,
    /// Ends it, between two calls.
    pub(crate) stop: Arc<AtomicBool>,
}

/// How a consumer presents itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Identity {
    /// Not registered.
    Ephemeral,
    /// Registered, under this port.
    Port(u16),
}

impl Actor {
    /// Enqueues `count` messages in batches of random size. A batch that gets no answer is not
    /// repeated, and does not count.
    pub(crate) async fn produce(&mut self, count: usize) -> Result<(), Failure> {
        let mut left = count;
        while left > 0 && !self.is_stopped() {
            let size = self.rng.usize(1..=20).min(left);
            let messages = (0..size).map(|_| self.message()).collect();
            let command = Enqueue { queue: self.queue.clone(), messages, now: None };
            self.log.write(Event::Enqueuing(size))?;
            if let Some(ids) = answered(self.store.enqueue(command).await)? {
                self.log.write(Event::Enqueued(ids))?;
                left -= size;
            }
        }
        Ok(())
    }

    fn message(&mut self) -> NewMessage {
        let delay = match self.rng.u8(..10) {
            0 => Duration::from_micros(self.rng.u64(..100_000)),
            _ => Duration::ZERO,
        };
        NewMessage {
            priority: Priority::new(self.rng.u8(..10)).unwrap_or_default(),
            delay: Delay::new(delay).unwrap_or_default(),
            ..NewMessage::new(Json::from_stored(self.rng.u32(..).to_string()))
        }
    }

    /// Claims and settles until it is stopped. Some leases are left to expire and settled late; old
    /// receipts are tried again. A registered consumer that is replaced goes on all the same, as a
    /// zombie would.
    pub(crate) async fn consume(&mut self, identity: Identity) -> Result<(), Failure> {
        let mut worker = self.register(identity).await?;
        let mut old: Vec<Receipt> = Vec::new();
        while !self.is_stopped() {
            let timeout = match self.rng.u8(..4) {
                0 => Duration::from_millis(self.rng.u64(1..50)),
                _ => LONG_LEASE,
            };
            let limit = self.rng.usize(1..=20);
            let claimed = match self.claim(worker, limit, VisibilityTimeout::new(timeout)?).await {
                Err(Failure::Store(Error::WorkerNotReady {
                    worker: refused, replaced_by, ..
                })) => {
                    self.log.write(Event::Fenced(refused))?;
                    if replaced_by.is_none() {
                        worker = self.register(identity).await?;
                    }
                    Vec::new()
                }
                other => other?,
            };
            if claimed.is_empty() && old.is_empty() {
                tokio::time::sleep(Duration::from_millis(self.rng.u64(1..=5))).await;
                continue;
            }
            let late = if claimed.is_empty() { 3 } else { usize::from(self.rng.u8(..10) == 0) };
            let mut settlements: Vec<_> =
                claimed.iter().filter_map(|message| self.settlement(message.receipt)).collect();
            old.extend(claimed.iter().map(|message| message.receipt));
            for _ in 0..late.min(old.len()) {
                let receipt = old.swap_remove(self.rng.usize(..old.len()));
                settlements.push(Settlement { receipt, action: self.action() });
            }
            old.drain(..old.len().saturating_sub(OLD_RECEIPTS));
            self.rng.shuffle(&mut settlements);
            self.settle(settlements).await?;
        }
        Ok(())
    }

    /// What to do with a new lease at once: one in 30 is left to expire or to be settled late, one
    /// in 30 extended first.
    fn settlement(&mut self, receipt: Receipt) -> Option<Settlement> {
        let action = match self.rng.u8(..30) {
            0 => return None,
            1 => Action::Extend(VisibilityTimeout::new(LONG_LEASE).ok()?),
            _ => self.action(),
        };
        Some(Settlement { receipt, action })
    }

    /// Archives whatever comes, until the queue has no live message; gives up after `patience`
    /// without any.
    pub(crate) async fn drain(&mut self, patience: Duration) -> Result<Drained, Failure> {
        let mut last_seen = Instant::now();
        while !few_are_left(&*self.store, &self.queue, 0).await? {
            let claimed = self.claim(None, 500, VisibilityTimeout::default()).await?;
            if claimed.is_empty() {
                if last_seen.elapsed() > patience {
                    return Ok(Drained::GaveUp);
                }
                answered(self.store.sweep(Sweep::default()).await)?;
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            last_seen = Instant::now();
            let archive = |message: &Message| Settlement {
                receipt: message.receipt,
                action: Action::Archive,
            };
            self.settle(claimed.iter().map(archive).collect()).await?;
        }
        Ok(Drained::Empty)
    }

    async fn claim(
        &mut self,
        worker: Option<WorkerId>,
        limit: usize,
        timeout: VisibilityTimeout,
    ) -> Result<Vec<Message>, Failure> {
        let (queue, limit, timeout) = (self.queue.clone(), BatchSize::new(limit)?, Some(timeout));
        let command = Claim { queue, worker, limit, timeout, now: None };
        let claimed = answered(self.store.claim(command).await)?.unwrap_or_default();
        if !claimed.messages.is_empty() {
            self.log.write(Event::Claimed(claimed.messages.iter().map(Lease::from).collect()))?;
        }
        Ok(claimed.messages)
    }

    async fn register(&mut self, identity: Identity) -> Result<Option<WorkerId>, Failure> {
        let Identity::Port(port) = identity else { return Ok(None) };
        loop {
            let command = Register {
                kind: WorkerKind::Consumer,
                host: "actor".to_owned(),
                port,
                queue: self.queue.clone(),
                heartbeat_timeout: None,
                now: None,
            };
            if let Some(record) = answered(self.store.register(command).await)? {
                return Ok(Some(record.id));
            }
        }
    }

    async fn settle(&mut self, settlements: Vec<Settlement>) -> Result<(), Failure> {
        if settlements.is_empty() {
            return Ok(());
        }
        self.log.write(Event::settling(&settlements))?;
        let command = Settle { settlements: settlements.clone(), now: None };
        if let Some(outcomes) = answered(self.store.settle(command).await)? {
            self.log.write(Event::settled(&settlements, &outcomes))?;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn action(&mut self) -> Action {
        let soon = Delay::new(Duration::from_micros(self.rng.u64(..20_000))).unwrap_or_default();
        let delay = if self.rng.bool() { Delay::ZERO } else { soon };
        match self.rng.u8(..100) {
            0..75 => Action::Archive,
            75..83 => Action::Delete,
            83..90 => Action::Release(delay),
            90..99 => Action::Fail {
                error: "as planned".to_owned(),
                retry: RetryDecision::RetryAfter(delay),
            },
            _ => Action::Fail { error: "poison".to_owned(), retry: RetryDecision::Dead },
        }
    }
}

/// Whether at most `count` live messages are left; at most 9,999.
pub(crate) async fn few_are_left(
    store: &dyn Store,
    queue: &QueueName,
    count: usize,
) -> pgqrs::Result<bool> {
    let filter = MessageFilter {
        queue: Some(queue.clone()),
        page: Page::first(BatchSize::new(count + 1)?),
        ..MessageFilter::default()
    };
    Ok(store.messages(filter).await?.len() <= count)
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// The queue has no live message.
    Empty,
    /// Live messages remain that do not come.
    GaveUp,
}

/// Why an actor could not go on.
#[derive(Debug)]
pub(crate) enum Failure {
    Store(Error),
    Log(io::Error),
    Panic(String),
    Process(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Log(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "the store failed: {error:?}"),
            Self::Log(error) => write!(f, "the log failed: {error}"),
            Self::Process(failure) => f.write_str(failure),
            Self::Panic(panic) => write!(f, "the store panicked: {panic}"),
        }
    }
}

/// The answer of a call, or `None` if there was none: then what was asked may have happened.
fn answered<T>(outcome: pgqrs::Result<T>) -> Result<Option<T>, Failure> {
    match outcome {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_unavailable() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

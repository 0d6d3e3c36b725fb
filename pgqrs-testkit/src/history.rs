//! Recorded histories of concurrent runs, and the checker of what no interleaving may do.
//!
//! Every actor (a task, a process) appends its [`Event`]s to a [`Log`] of its own: what it is about
//! to do before a call, what it was told after it. So an actor may be killed at any moment, and the
//! history is still honest: a call that was begun and not answered may or may not have happened.
//!
//! [`check`] reads the histories of all actors together with the rows that are left in the end, and
//! reports every [`Violation`].

pub(crate) mod actor;
mod check;
mod log;
mod stress;

use std::fmt;

use chrono::{DateTime, Utc};
use pgqrs::{
    Action, ArchiveFilter, ArchivedMessage, BatchSize, LeaseLost, LiveMessage, Message,
    MessageFilter, MessageId, Page, QueueName, Receipt, Result, Settled, Settlement, Store,
    Support, WorkerFilter, WorkerId, WorkerRecord,
};
use serde::{Deserialize, Serialize};

pub use check::check;
pub use log::{Log, Record, read};
pub use stress::{Stress, check_stress, stress};

/// What an actor did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It is about to enqueue a batch of so many messages.
    Enqueuing(usize),
    /// The batch has these ids.
    Enqueued(Vec<MessageId>),
    /// A claim brought these leases.
    Claimed(Vec<Lease>),
    /// It is about to settle.
    Settling(Vec<(Receipt, Act)>),
    /// What came of it, in the same order.
    Settled(Vec<(Receipt, Act, Answer)>),
    /// Its registration was refused as no longer ready: it has stopped or been replaced.
    Fenced(WorkerId),
}

/// A lease, by the store's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its receipt.
    pub receipt: Receipt,
    /// Who holds it, if a registered worker.
    pub worker: Option<WorkerId>,
    /// When it began.
    pub from: DateTime<Utc>,
    /// When it ends, unless it is settled or extended.
    pub until: DateTime<Utc>,
}

impl From<&Message> for Lease {
    fn from(message: &Message) -> Self {
        let &Message { receipt, worker, claimed_at, visible_at, .. } = message;
        Self { receipt, worker, from: claimed_at, until: visible_at }
    }
}

/// What a settlement asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Act {
    /// Archive as done.
    Archive,
    /// Delete.
    Delete,
    /// Release.
    Release,
    /// Fail: retried or dead, as the answer says.
    Fail,
    /// Extend.
    Extend,
}

impl From<&Action> for Act {
    fn from(action: &Action) -> Self {
        match action {
            Action::Archive => Self::Archive,
            Action::Delete => Self::Delete,
            Action::Release(_) => Self::Release,
            Action::Fail { .. } => Self::Fail,
            Action::Extend(_) => Self::Extend,
        }
    }
}

/// What a settlement was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// `LeaseLost`: nothing changed.
    Lost,
    /// The message is in the archive as done.
    Archived,
    /// The message is gone.
    Deleted,
    /// Nobody holds the message any more; it will be delivered again.
    GivenBack,
    /// The message is a dead letter.
    Dead,
    /// The lease lasts until this instant.
    Extended(DateTime<Utc>),
}

impl From<&Result<Settled, LeaseLost>> for Answer {
    fn from(outcome: &Result<Settled, LeaseLost>) -> Self {
        match *outcome {
            Err(LeaseLost) => Self::Lost,
            Ok(Settled::Archived) => Self::Archived,
            Ok(Settled::Deleted) => Self::Deleted,
            Ok(Settled::Released | Settled::Retrying) => Self::GivenBack,
            Ok(Settled::Dead) => Self::Dead,
            Ok(Settled::Extended(until)) => Self::Extended(until),
        }
    }
}

impl Event {
    /// The event before a settle.
    pub fn settling(settlements: &[Settlement]) -> Self {
        Self::Settling(
            settlements.iter().map(|one| (one.receipt, Act::from(&one.action))).collect(),
        )
    }

    /// The event after a settle.
    pub fn settled(settlements: &[Settlement], outcomes: &[Result<Settled, LeaseLost>]) -> Self {
        let both = settlements.iter().zip(outcomes);
        let answer = |(one, outcome): (&Settlement, _)| {
            (one.receipt, Act::from(&one.action), Answer::from(outcome))
        };
        Self::Settled(both.map(answer).collect())
    }
}

/// The rows that are left when all actors have ended.
#[derive(Debug, Clone, Default)]
pub struct FinalState {
    /// Live messages.
    pub live: Vec<LiveMessage>,
    /// Archived messages.
    pub archive: Vec<ArchivedMessage>,
    /// Workers.
    pub workers: Vec<WorkerRecord>,
}

impl FinalState {
    /// Reads all rows of `queue`, which nobody may change meanwhile.
    ///
    /// # Errors
    /// Those of the reads.
    pub async fn read(store: &dyn Store, queue: &QueueName) -> Result<Self> {
        let mut state = Self::default();
        let queue = Some(queue.clone());
        let mut page = Page::first(BatchSize::MAX);
        loop {
            let filter = MessageFilter { queue: queue.clone(), page, ..MessageFilter::default() };
            let rows = store.messages(filter).await?;
            let Some(last) = rows.last() else { break };
            page.after = Some(last.id);
            state.live.extend(rows);
        }
        let mut page = Page::first(BatchSize::MAX);
        loop {
            let filter = ArchiveFilter { queue: queue.clone(), page, ..ArchiveFilter::default() };
            let rows = store.archive(filter).await?;
            let Some(last) = rows.last() else { break };
            page.after = Some(last.id);
            state.archive.extend(rows);
        }
        if store.capabilities().workers == Support::Full {
            let page = Page::first(BatchSize::MAX);
            let filter = WorkerFilter { queue, page, ..WorkerFilter::default() };
            state.workers = store.workers(filter).await?;
        }
        Ok(state)
    }
}

/// What a history shows: `enqueued = done + dead + deleted + live`, unless something is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages that are known to have been enqueued, by an answer or because they are there.
    pub enqueued: usize,
    /// Of those, archived as done.
    pub done: usize,
    /// Dead letters.
    pub dead: usize,
    /// Deleted.
    pub deleted: usize,
    /// Still live.
    pub live: usize,
    /// Leases taken.
    pub leases: usize,
    /// Settlements that were refused as `LeaseLost`.
    pub lost_leases: usize,
    /// What must not have happened.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Fails the test if there is a violation.
    ///
    /// # Panics
    /// With the first violations.
    pub fn assert_clean(&self) {
        let first: Vec<_> = self.violations.iter().take(10).map(ToString::to_string).collect();
        let count = self.violations.len();
        assert!(count == 0, "{count} violations:\n{}\n{self}", first.join("\n"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { enqueued, done, dead, deleted, live, leases, lost_leases, .. } = self;
        write!(
            f,
            "{enqueued} enqueued = {done} done + {dead} dead + {deleted} deleted + {live} live; \
             {leases} leases, {lost_leases} settlements refused"
        )
    }
}

/// Something that must not have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// V3: two leases of one message overlap.
    Overlap {
        /// The lease that still held.
        first: Lease,
        /// The lease that was taken meanwhile.
        second: Lease,
    },
    /// V2: one receipt was handed out twice.
    ReceiptRepeated(Receipt),
    /// V2: of two leases of one message the later one has the smaller token.
    TokenWentBack {
        /// The lease that began first.
        first: Lease,
        /// The lease that began later.
        second: Lease,
    },
    /// S1: a settlement was accepted although its receipt was no longer current.
    StaleSettled {
        /// The receipt.
        receipt: Receipt,
        /// What was asked.
        act: Act,
        /// What was answered.
        answer: Answer,
        /// The receipt, its own or a newer one, that had ended it.
        ended_by: Receipt,
    },
    /// W2, W5: a registration that had been refused was served afterwards.
    FencedWorkerServed(WorkerId),
    /// E1: an id was given to two messages.
    IdRepeated(MessageId),
    /// S2: a message shows twice in the end.
    ShownTwice(MessageId),
    /// A message is not where its history says.
    Misplaced {
        /// The message.
        id: MessageId,
        /// Where it must be.
        expected: &'static str,
        /// Where it is.
        found: &'static str,
    },
    /// There are more messages that nobody was told of than batches without an answer explain.
    Unexplained {
        /// How many there are.
        found: usize,
        /// How many there may be.
        allowed: usize,
    },
    /// The run did not come to its end.
    Stuck(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { first, second } => write!(
                f,
                "V3: lease {second:?} began while lease {first:?} of the same message held"
            ),
            Self::ReceiptRepeated(receipt) => write!(f, "V2: {receipt:?} was handed out twice"),
            Self::TokenWentBack { first, second } => {
                write!(f, "V2: lease {second:?} is later than {first:?}, its token is smaller")
            }
            Self::StaleSettled { receipt, act, answer, ended_by } => write!(
                f,
                "S1: {act:?} by {receipt:?} was accepted ({answer:?}) after {ended_by:?} ended it"
            ),
            Self::FencedWorkerServed(worker) => {
                write!(f, "W2: worker {worker} was refused once, and served afterwards")
            }
            Self::IdRepeated(id) => write!(f, "E1: id {id} was given twice"),
            Self::ShownTwice(id) => write!(f, "S2: message {id} shows twice"),
            Self::Misplaced { id, expected, found } => {
                write!(f, "message {id} must be {expected}; it is {found}")
            }
            Self::Unexplained { found, allowed } => {
                write!(f, "E1: {found} messages nobody was told of, at most {allowed} explained")
            }
            Self::Stuck(why) => write!(f, "the run got stuck: {why}"),
        }
    }
}

//! Random programs: the steps, how they are drawn, and how they print.

use std::{fmt, time::Duration};

use pgqrs::{
    Action, BatchSize, Delay, Outcome, Priority, PurgeScope, Retention, RetryDecision,
    VisibilityTimeout, WorkerChange,
};
use proptest::{collection::vec, option, prelude::*};

/// How many identities the workers of a program share. The last one has port 0: no fixed identity.
pub const SLOTS: usize = 4;

/// A sequence of steps, run on a queue of its own.
#[derive(Debug, Clone)]
pub struct Program {
    /// The steps, in order.
    pub steps: Vec<Step>,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "{number:>4}. {step:?}")?;
        }
        Ok(())
    }
}

/// One step. Numbers that choose among things that exist count modulo how many there are; a step
/// with nothing to choose from does nothing.
#[derive(Debug, Clone)]
pub enum Step {
    /// Enqueue a batch.
    Enqueue(Vec<Draft>),
    /// Enqueue a batch whose last message is allowed no attempt: all of it is refused.
    EnqueueBad(Vec<Draft>),
    /// Claim a batch.
    Claim {
        /// Who claims.
        by: Claimant,
        /// How many at most.
        limit: BatchSize,
        /// For how long; `None`: the queue's setting.
        timeout: Option<VisibilityTimeout>,
    },
    /// Settle several receipts in one call.
    Settle(Vec<(Pick, Action)>),
    /// Let time pass.
    Advance(Advance),
    /// Register a worker under the identity of a slot, which replaces the earlier one.
    Register {
        /// The slot.
        slot: usize,
        /// Its heartbeat timeout.
        heartbeat_timeout: Option<Duration>,
    },
    /// The worker of a slot dies without a word: nobody acts for it any more.
    Crash {
        /// The slot.
        slot: usize,
    },
    /// Move a worker to another state, or let it send a heartbeat.
    Change {
        /// Which of all registrations so far, from the newest.
        registration: usize,
        /// The move.
        change: WorkerChange,
    },
    /// Pause the queue.
    Pause,
    /// Let the queue hand out messages again.
    Unpause,
    /// Sweep, `limit` rows at a time, until there is nothing left to do.
    Sweep {
        /// Rows of each kind at a time.
        limit: BatchSize,
    },
    /// Redrive the oldest dead letters.
    RedriveOldest(BatchSize),
    /// Redrive one archived message, dead letter or not, and one that does not exist.
    RedriveOne(usize),
    /// Purge.
    Purge(PurgeScope),
    /// Change the queue's retention.
    Retain(Retention),
}

/// A message to enqueue.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its priority.
    pub priority: Priority,
    /// Its delay.
    pub delay: Delay,
    /// Its attempts; `None`: the queue's setting.
    pub max_attempts: Option<u32>,
}

/// Who claims.
#[derive(Debug, Clone, Copy)]
pub enum Claimant {
    /// A consumer that is not registered.
    Ephemeral,
    /// The worker of this slot; registers first if there is none.
    Slot(usize),
    /// Any registration so far, from the newest: stopped, replaced and suspended ones too.
    Registration(usize),
}

/// Which receipt to settle by.
#[derive(Debug, Clone, Copy)]
pub enum Pick {
    /// One that is current.
    Current(usize),
    /// Any one ever issued, from the newest: mostly used, lost or superseded ones.
    Issued(usize),
    /// The token after that of a current one.
    Forged(usize),
}

/// How far time advances.
#[derive(Debug, Clone, Copy)]
pub enum Advance {
    /// So much.
    Micros(u64),
    /// To one of the instants ahead at which something changes by itself (a due message, the end
    /// of a lease, of a retention, of a heartbeat timeout), counted from the nearest …
    To {
        /// … which one …
        instant: usize,
        /// … plus so many microseconds: -1, 0 or 1.
        offset: i64,
    },
}

/// Steps, weighted so that programs meet the rare states often.
pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec(draft(), 1..=8).prop_map(Step::Enqueue),
        1 => vec(draft(), 1..=3).prop_map(Step::EnqueueBad),
        9 => (claimant(), batch(6), option::weighted(0.7, timeout()))
            .prop_map(|(by, limit, timeout)| Step::Claim { by, limit, timeout }),
        8 => vec((pick(), action()), 1..=4).prop_map(Step::Settle),
        9 => advance().prop_map(Step::Advance),
        2 => (0..SLOTS, option::weighted(0.5, heartbeat_timeout()))
            .prop_map(|(slot, heartbeat_timeout)| Step::Register { slot, heartbeat_timeout }),
        1 => (0..SLOTS).prop_map(|slot| Step::Crash { slot }),
        3 => (0..6usize, change())
            .prop_map(|(registration, change)| Step::Change { registration, change }),
        1 => Just(Step::Pause),
        2 => Just(Step::Unpause),
        2 => prop_oneof![batch(3), Just(BatchSize::MAX)].prop_map(|limit| Step::Sweep { limit }),
        1 => batch(4).prop_map(Step::RedriveOldest),
        1 => (0..8usize).prop_map(Step::RedriveOne),
        1 => purge(),
        1 => retention().prop_map(Step::Retain),
    ]
}

fn draft() -> impl Strategy<Value = Draft> {
    let priority = prop_oneof![3 => Just(4), 2 => 0..=9u8];
    let delay = prop_oneof![3 => Just(Delay::ZERO), 1 => delay()];
    (priority, delay, option::of(1..=4u32)).prop_map(|(priority, delay, max_attempts)| Draft {
        priority: Priority::new(priority).unwrap_or_default(),
        delay,
        max_attempts,
    })
}

fn claimant() -> impl Strategy<Value = Claimant> {
    prop_oneof![
        3 => Just(Claimant::Ephemeral),
        3 => (0..SLOTS).prop_map(Claimant::Slot),
        1 => (0..6usize).prop_map(Claimant::Registration),
    ]
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        6 => (0..8usize).prop_map(Pick::Current),
        3 => (0..12usize).prop_map(Pick::Issued),
        1 => (0..8usize).prop_map(Pick::Forged),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let retry = prop_oneof![
        2 => Just(RetryDecision::RetryAfter(Delay::ZERO)),
        2 => delay().prop_map(RetryDecision::RetryAfter),
        1 => Just(RetryDecision::Dead),
    ];
    prop_oneof![
        3 => Just(Action::Archive),
        1 => Just(Action::Delete),
        2 => prop_oneof![Just(Delay::ZERO), delay()].prop_map(Action::Release),
        3 => (error(), retry).prop_map(|(error, retry)| Action::Fail { error, retry }),
        1 => timeout().prop_map(Action::Extend),
    ]
}

/// Short ones; and sometimes one whose cut falls inside a character.
fn error() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => (0..100u32).prop_map(|code| format!("error {code}")),
        1 => Just(format!("x{}", "é".repeat(pgqrs::MAX_ERROR_BYTES / 2))),
    ]
}

fn advance() -> impl Strategy<Value = Advance> {
    prop_oneof![
        1 => Just(Advance::Micros(1)),
        2 => (1..3_000_000u64).prop_map(Advance::Micros),
        4 => (0..4usize, -1..=1i64)
            .prop_map(|(instant, offset)| Advance::To { instant, offset }),
    ]
}

fn change() -> impl Strategy<Value = WorkerChange> {
    prop_oneof![
        Just(WorkerChange::Heartbeat),
        Just(WorkerChange::Suspend),
        Just(WorkerChange::Resume),
        Just(WorkerChange::Stop),
    ]
}

fn purge() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(PurgeScope::Live),
        Just(PurgeScope::Archived(Outcome::Done)),
        Just(PurgeScope::Archived(Outcome::Dead)),
    ]
    .prop_map(Step::Purge)
}

fn retention() -> impl Strategy<Value = Retention> {
    prop_oneof![
        1 => Just(Retention::Forever),
        1 => Just(Retention::For(Duration::ZERO)),
        2 => (1..10_000_000u64).prop_map(|age| Retention::For(Duration::from_micros(age))),
    ]
}

fn delay() -> impl Strategy<Value = Delay> {
    prop_oneof![1..1_000u64, 1..5_000_000u64, Just(1_000_000)]
        .prop_map(|micros| Delay::new(Duration::from_micros(micros)).unwrap_or_default())
}

fn timeout() -> impl Strategy<Value = VisibilityTimeout> {
    prop_oneof![1_000..2_000u64, 1_000..5_000_000u64, Just(1_000_000)].prop_map(|micros| {
        VisibilityTimeout::new(Duration::from_micros(micros)).unwrap_or_default()
    })
}

fn heartbeat_timeout() -> impl Strategy<Value = Duration> {
    (1_000..5_000_000u64).prop_map(Duration::from_micros)
}

fn batch(most: usize) -> impl Strategy<Value = BatchSize> {
    (1..=most).prop_map(|size| BatchSize::new(size).unwrap_or(BatchSize::ONE))
}

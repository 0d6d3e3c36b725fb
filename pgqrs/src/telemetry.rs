//! The names of everything that pgqrs tells of itself, and the instruments behind them.
//!
//! Counters and histograms go to whatever recorder the program installs for the `metrics` facade,
//! each with the label `queue`; without a recorder they cost next to nothing.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use tracing::{Span, field::Empty};

use crate::{BatchSize, Message, QueueName, Settled, TraceParent};

/// Counter: messages claimed by run loops.
pub const CLAIMED: &str = "pgqrs.claimed";
/// Counter, label `outcome` (`archived`, `retrying`, `dead`, `released`): settled by run loops.
pub const SETTLED: &str = "pgqrs.settled";
/// Counter: leases that run loops lost: cancelled before they lapsed, or settled too late.
pub const LEASE_LOST: &str = "pgqrs.lease_lost";
/// Histogram, seconds: how long handlers took.
pub const HANDLER_SECONDS: &str = "pgqrs.handler_seconds";
/// Histogram, seconds by the store's clock: from the enqueue to the claim of its first attempt.
pub const WAIT_SECONDS: &str = "pgqrs.wait_seconds";
/// Gauge: messages that handlers of this process work on.
pub const IN_WORK: &str = "pgqrs.in_work";
/// Histogram: messages per claim that brought any.
pub const CLAIM_BATCH: &str = "pgqrs.claim_batch";
/// Histogram: settlements per request.
pub const SETTLE_BATCH: &str = "pgqrs.settle_batch";

/// The span around a handler, at level info: queue, id and attempt of the first message, how many
/// there are, and the trace that a lone message was enqueued in. It continues that trace where the
/// feature `otel` is on.
pub(crate) fn handle_span(group: &[Message]) -> Span {
    let Some(first) = group.first() else { return Span::none() };
    let span = tracing::info_span!(
        "handle",
        otel.kind = "consumer",
        queue = %first.queue,
        id = first.id.0,
        attempt = first.attempts,
        messages = group.len(),
        trace_id = Empty,
        parent_id = Empty,
    );
    if group.len() == 1
        && !span.is_disabled()
        && let Some(parent) = TraceParent::of(&first.headers)
    {
        span.record("trace_id", format_args!("{:032x}", parent.trace_id()));
        span.record("parent_id", format_args!("{:016x}", parent.parent_id()));
    }
    #[cfg(feature = "otel")]
    crate::trace::continue_in(&span, group);
    span
}

/// The span around a claim, at level debug.
pub(crate) fn claim_span(queue: &QueueName, limit: BatchSize) -> Span {
    tracing::debug_span!("claim", otel.kind = "client", %queue, limit = limit.count())
}

/// The span around a settle, at level debug.
pub(crate) fn settle_span(queue: &QueueName, settlements: usize) -> Span {
    tracing::debug_span!("settle", otel.kind = "client", %queue, settlements)
}

/// The instruments of one run loop.
pub(crate) struct Telemetry {
    claimed: Counter,
    archived: Counter,
    retrying: Counter,
    dead: Counter,
    released: Counter,
    lease_lost: Counter,
    handler_seconds: Histogram,
    wait_seconds: Histogram,
    in_work: Gauge,
    claim_batch: Histogram,
    settle_batch: Histogram,
}

impl Telemetry {
    pub(crate) fn new(queue: &QueueName) -> Self {
        let queue = queue.to_string();
        let settled =
            |outcome| metrics::counter!(SETTLED, "queue" => queue.clone(), "outcome" => outcome);
        Self {
            claimed: metrics::counter!(CLAIMED, "queue" => queue.clone()),
            archived: settled("archived"),
            retrying: settled("retrying"),
            dead: settled("dead"),
            released: settled("released"),
            lease_lost: metrics::counter!(LEASE_LOST, "queue" => queue.clone()),
            handler_seconds: metrics::histogram!(HANDLER_SECONDS, "queue" => queue.clone()),
            wait_seconds: metrics::histogram!(WAIT_SECONDS, "queue" => queue.clone()),
            in_work: metrics::gauge!(IN_WORK, "queue" => queue.clone()),
            claim_batch: metrics::histogram!(CLAIM_BATCH, "queue" => queue.clone()),
            settle_batch: metrics::histogram!(SETTLE_BATCH, "queue" => queue),
        }
    }

    pub(crate) fn claimed(&self, messages: &[Message]) {
        self.claimed.increment(messages.len() as u64);
        self.claim_batch.record(messages.len() as f64);
        for message in messages.iter().filter(|message| message.attempts == 1) {
            let wait = message.claimed_at - message.enqueued_at;
            self.wait_seconds.record(wait.to_std().unwrap_or_default());
        }
    }

    pub(crate) fn started(&self, messages: usize) {
        self.in_work.increment(messages as f64);
    }

    pub(crate) fn done(&self, messages: usize, took: Duration) {
        self.in_work.decrement(messages as f64);
        self.handler_seconds.record(took);
    }

    pub(crate) fn settling(&self, settlements: usize) {
        self.settle_batch.record(settlements as f64);
    }

    pub(crate) fn settled(&self, settled: Settled) {
        match settled {
            Settled::Archived => self.archived.increment(1),
            Settled::Retrying => self.retrying.increment(1),
            Settled::Dead => self.dead.increment(1),
            Settled::Released => self.released.increment(1),
            Settled::Deleted | Settled::Extended(_) => {}
        }
    }

    pub(crate) fn lost(&self) {
        self.lease_lost.increment(1);
    }
}

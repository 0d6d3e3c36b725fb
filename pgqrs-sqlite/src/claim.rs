//! The claim: take in what became due, bury what is spent, lease from the front.

use std::time::Duration;

use pgqrs::{
    BURIED_PER_CLAIM, Claim, Claimed, DUE_PER_CLAIM, Error, LEASE_EXPIRED, Message, MessageId,
    Priority, Receipt, WorkerId, parse_stored,
};
use rusqlite::params;

use crate::{
    error::Outcome,
    lease::Lease,
    sql,
    tx::{QueueRow, Tx, instant, time},
    workers,
};

/// What a claim leased, the texts not parsed: that is work for the caller's thread, not for the
/// writer's, which everybody waits for.
#[derive(Debug, Default)]
pub(crate) struct Leased {
    messages: Vec<Unparsed>,
    due_in: Option<Duration>,
}

/// What is left out of a claim because it does not parse, and why.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) receipt: Receipt,
    pub(crate) error: String,
}

#[derive(Debug)]
struct Unparsed {
    rank: i64,
    pos: i64,
    payload: String,
    headers: Option<String>,
    message: Message,
}

pub(crate) fn claim(tx: &Tx<'_>, claim: &Claim) -> Outcome<Leased> {
    let queue = tx.queue(&claim.queue)?;
    if let Some(worker) = claim.worker {
        check_worker(tx, worker, queue.id)?;
    }
    if queue.paused {
        return Ok(Leased::default());
    }
    let now = tx.now(claim.now);
    take_in(tx, queue.id, now)?;
    let messages = lease(tx, claim, &queue, now)?;
    let next_due = if messages.is_empty() { NextDue::read(tx, queue.id)?.ready() } else { None };
    let due_in = next_due.map(|due| Duration::from_micros(due.saturating_sub(now).max(0) as u64));
    Ok(Leased { messages, due_in })
}

impl Leased {
    pub(crate) fn parse(self) -> (Claimed, Vec<Unreadable>) {
        let mut messages = Vec::with_capacity(self.messages.len());
        let mut unreadable = Vec::new();
        for Unparsed { payload, headers, message, .. } in self.messages {
            match parse_stored(&payload, headers.as_deref()) {
                Ok((payload, headers)) => messages.push(Message { payload, headers, ..message }),
                Err(error) => unreadable.push(Unreadable { receipt: message.receipt, error }),
            }
        }
        (Claimed { messages, due_in: self.due_in }, unreadable)
    }
}

#[cfg(feature = "bare")]
impl Leased {
    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        self.messages.iter().map(|unparsed| unparsed.message.receipt).collect()
    }
}

fn check_worker(tx: &Tx<'_>, id: WorkerId, queue: i64) -> Outcome<()> {
    match tx.first(sql::IS_READY, (id.0, queue), |row| row.get(0))? {
        Some(true) => Ok(()),
        _ => Err(workers::registered(tx, id, queue)?.not_ready().into()),
    }
}

/// The earliest end of a delay, of a lease, and of a lease on its last attempt.
#[derive(Debug, Default)]
struct NextDue {
    delayed: Option<i64>,
    leased: Option<i64>,
    spent: Option<i64>,
}

impl NextDue {
    fn read(tx: &Tx<'_>, queue: i64) -> Outcome<Self> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Self { delayed: row.get(0)?, leased: row.get(1)?, spent: row.get(2)? })
        };
        let next = tx.first(sql::NEXT_DUE, [queue], read)?.unwrap_or_default();
        tx.next_due(queue, next.ready().into_iter().chain(next.spent).min());
        Ok(next)
    }

    /// When the next message becomes ready.
    fn ready(&self) -> Option<i64> {
        self.delayed.into_iter().chain(self.leased).min()
    }
}

/// Makes ready what is due by now. Looks before it writes: an idle poll changes nothing and syncs
/// nothing.
fn take_in(tx: &Tx<'_>, queue: i64, now: i64) -> Outcome<()> {
    if !tx.may_be_due(queue, now) {
        return Ok(());
    }
    let next = NextDue::read(tx, queue)?;
    let is_due = |at: Option<i64>| at.is_some_and(|at| at <= now);
    let due = (queue, now, DUE_PER_CLAIM as i64);
    if is_due(next.delayed) {
        tx.run(sql::PROMOTE_DELAYED, due)?;
        tx.run(sql::DELETE_PROMOTED_DELAYED, due)?;
    }
    if is_due(next.leased) {
        tx.run(sql::PROMOTE_LEASES, due)?;
        tx.run(sql::DELETE_PROMOTED_LEASES, due)?;
    }
    if is_due(next.spent) {
        for lease in Lease::take_spent(tx, queue, now, BURIED_PER_CLAIM)? {
            lease.bury(tx, LEASE_EXPIRED, now)?;
        }
    }
    Ok(())
}

fn lease(tx: &Tx<'_>, claim: &Claim, queue: &QueueRow, now: i64) -> Outcome<Vec<Unparsed>> {
    let timeout = claim.timeout.map_or(queue.visibility_timeout_us, |timeout| timeout.micros());
    let visible_at = now + timeout;
    let (claimed_at, ends_at) = (instant(now, 0)?, instant(visible_at, 0)?);
    let mut messages = tx.all(sql::CLAIM, (queue.id, claim.limit.count() as i64), |row| {
        let id = MessageId(row.get(0)?);
        let rank = row.get(1)?;
        let message = Message {
            id,
            queue: claim.queue.clone(),
            payload: serde_json::Value::Null,
            headers: serde_json::Map::new(),
            priority: priority(rank),
            enqueued_at: time(row, 6)?,
            claimed_at,
            visible_at: ends_at,
            attempts: row.get::<_, u32>(3)? + 1,
            max_attempts: row.get(4)?,
            worker: claim.worker,
            last_error: row.get(5)?,
            receipt: Receipt { id, token: 0 },
        };
        let (headers, payload) = (row.get(7)?, row.get(8)?);
        Ok(Unparsed { rank, pos: row.get(2)?, payload, headers, message })
    })?;
    let Some((rank, pos)) = messages.last().map(|last| (last.rank, last.pos)) else {
        return Ok(messages);
    };
    let first = tx.take_numbers(messages.len())?;
    tx.becomes_due(queue.id, visible_at);
    for (token, Unparsed { message, .. }) in (first..).zip(&mut messages) {
        message.receipt.token = token;
    }
    let worker = claim.worker.map(|worker| worker.0);
    if let Some((first_id, token_less_id)) = as_run(&messages) {
        let run = (queue.id, rank, pos, token_less_id, visible_at, now, worker, first_id);
        tx.run(sql::LEASE_RUN, run)?;
    } else {
        lease_each(tx, queue.id, &messages, visible_at, now)?;
    }
    if tx.run(sql::DELETE_CLAIMED, (queue.id, rank, pos))? != messages.len() {
        let reason = "a ready message has no row in pgqrs_messages".into();
        return Err(Error::SchemaDrift { findings: vec![reason] }.into());
    }
    Ok(messages)
}

/// The first id, and token - id, where that is the same for all, and all are on their last attempt or
/// none is.
fn as_run(messages: &[Unparsed]) -> Option<(i64, i64)> {
    let distance = |message: &Message| message.receipt.token - message.id.0;
    let is_last_attempt = |message: &Message| message.attempts >= message.max_attempts;
    let kind = |message: &Message| (distance(message), is_last_attempt(message));
    let (Unparsed { message: first, .. }, rest) = messages.split_first()?;
    let is_run = rest.iter().all(|Unparsed { message, .. }| kind(message) == kind(first));
    (is_run && !rest.is_empty()).then(|| (first.id.0, distance(first)))
}

fn lease_each(
    tx: &Tx<'_>,
    queue: i64,
    messages: &[Unparsed],
    visible_at: i64,
    now: i64,
) -> Outcome<()> {
    tx.with(sql::LEASE, |insert| {
        for Unparsed { rank, message, .. } in messages {
            let Message { attempts, max_attempts, receipt, worker, last_error, .. } = message;
            insert.execute(params![
                receipt.id.0,
                queue,
                rank,
                receipt.token,
                attempts,
                max_attempts,
                visible_at,
                now,
                worker.map(|worker| worker.0),
                last_error
            ])?;
        }
        Ok(())
    })
}

fn priority(rank: i64) -> Priority {
    let level = i64::from(Priority::HIGHEST.level()) - rank;
    u8::try_from(level).ok().and_then(|level| Priority::new(level).ok()).unwrap_or_default()
}

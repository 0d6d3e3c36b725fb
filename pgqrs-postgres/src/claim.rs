//! Leasing ready messages.

use std::{
    collections::HashMap,
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pgqrs::{
    Action, BURIED_PER_CLAIM, Claim, Claimed, DUE_PER_CLAIM, Error, LEASE_EXPIRED, Message,
    MessageId, Priority, QueueName, Receipt, Result, RetryDecision, Settle, Settlement,
    VisibilityTimeout, WorkerId, WorkerState,
};
use serde_json::{Map, Value};
use tokio_postgres::Row;

use crate::{error::column, pool::params, queues::not_found, settle, store::Inner, workers};

/// With the database's clock, what is due is taken in at most this often per queue.
const PROMOTE_EVERY: Duration = Duration::from_millis(100);
/// … and again when a claim comes back short, unless this fresh.
const PROMOTE_AGAIN_AFTER: Duration = Duration::from_millis(10);

pub(crate) async fn claim(store: &Inner, claim: &Claim) -> Result<Claimed> {
    let limit = claim.limit.count();
    if claim.now.is_some() || is_promotion_older_than(store, claim, PROMOTE_EVERY) {
        promote(store, claim).await?;
    }
    let mut claimed = take(store, claim, limit).await?;
    let is_short = claimed.messages.len() < limit && claim.now.is_none();
    if is_short
        && is_promotion_older_than(store, claim, PROMOTE_AGAIN_AFTER)
        && promote(store, claim).await? > 0
    {
        let more = take(store, claim, limit - claimed.messages.len()).await?;
        claimed.messages.extend(more.messages);
        claimed.due_in = more.due_in.filter(|_| claimed.messages.is_empty());
    }
    Ok(claimed)
}

/// Takes into the ready messages of the queue what has become due; returns how many.
async fn promote(store: &Inner, claim: &Claim) -> Result<i64> {
    let begun = Instant::now();
    let parameters = params![
        claim.queue.as_str(),
        claim.now,
        DUE_PER_CLAIM as i64,
        BURIED_PER_CLAIM as i64,
        LEASE_EXPIRED,
        claim.worker.map(|worker| worker.0),
    ];
    let row = store.pool.query_one(&store.sql.promote_due, parameters).await?;
    promotions(store).insert(claim.queue.clone(), begun);
    column(&row, "promoted")
}

fn is_promotion_older_than(store: &Inner, claim: &Claim, age: Duration) -> bool {
    promotions(store).get(&claim.queue).is_none_or(|last| last.elapsed() > age)
}

fn promotions(store: &Inner) -> MutexGuard<'_, HashMap<QueueName, Instant>> {
    store.promoted.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(store: &Inner, claim: &Claim, limit: usize) -> Result<Claimed> {
    let parameters = params![
        claim.queue.as_str(),
        claim.worker.map(|worker| worker.0),
        limit as i64,
        claim.timeout.map(VisibilityTimeout::micros),
        claim.now,
    ];
    let rows = store.pool.query(&store.sql.claim, parameters).await?;
    let Some(first) = rows.first() else {
        return Ok(Claimed::default());
    };
    if !column::<bool>(first, "found")? {
        return Err(not_found(&claim.queue));
    }
    if let Some(worker) = claim.worker {
        check(worker, first)?;
    }
    let due_in_us: Option<i64> = column(first, "due_in_us")?;
    let due_in = due_in_us.map(|us| Duration::from_micros(us.unsigned_abs()));
    let mut claimed = Claimed { messages: Vec::new(), due_in };
    let mut unreadable = Vec::new();
    for row in &rows {
        let Some(id) = column::<Option<i64>>(row, "id")? else {
            continue;
        };
        let receipt = Receipt { id: MessageId(id), token: column(row, "token")? };
        match contents(row)? {
            Ok(contents) => claimed.messages.push(message(claim, row, receipt, contents)?),
            Err(error) => unreadable.push(Settlement {
                receipt,
                action: Action::Fail { error, retry: RetryDecision::Dead },
            }),
        }
    }
    if !unreadable.is_empty() {
        let settle = Settle { settlements: unreadable, now: claim.now };
        settle::settle(store, &settle).await?;
    }
    Ok(claimed)
}

fn check(worker: WorkerId, row: &Row) -> Result<()> {
    match column::<Option<String>>(row, "worker_state")? {
        None => Err(Error::WorkerNotFound { worker }),
        Some(state) => match workers::state(&state)? {
            WorkerState::Ready => Ok(()),
            state => {
                let replaced_by = column::<Option<i64>>(row, "replaced_by")?.map(WorkerId);
                Err(Error::WorkerNotReady { worker, state, replaced_by })
            }
        },
    }
}

type Contents = (Value, Map<String, Value>);

/// Payload and headers, or what does not parse.
fn contents(row: &Row) -> Result<Result<Contents, String>> {
    let payload: String = column(row, "payload")?;
    let headers: Option<String> = column(row, "headers")?;
    let parse = || {
        let payload = serde_json::from_str(&payload)
            .map_err(|error| format!("payload does not parse: {error}"))?;
        let headers = headers.as_deref().map_or_else(|| Ok(Map::new()), serde_json::from_str);
        Ok((payload, headers.map_err(|error| format!("headers do not parse: {error}"))?))
    };
    Ok(parse())
}

fn message(claim: &Claim, row: &Row, receipt: Receipt, contents: Contents) -> Result<Message> {
    let (payload, headers) = contents;
    Ok(Message {
        id: receipt.id,
        queue: claim.queue.clone(),
        payload,
        headers,
        priority: priority(row)?,
        enqueued_at: column(row, "enqueued_at")?,
        claimed_at: column(row, "claimed_at")?,
        visible_at: column(row, "visible_at")?,
        attempts: attempts(row, "attempts")?,
        max_attempts: attempts(row, "max_attempts")?,
        worker: claim.worker,
        last_error: column(row, "last_error")?,
        receipt,
    })
}

/// The priority in a row.
pub(crate) fn priority(row: &Row) -> Result<Priority> {
    Priority::new(u8::try_from(column::<i16>(row, "priority")?).unwrap_or(u8::MAX))
}

/// A count of attempts in a row.
pub(crate) fn attempts(row: &Row, name: &str) -> Result<u32> {
    Ok(column::<i16>(row, name)?.unsigned_abs().into())
}

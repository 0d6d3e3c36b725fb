//! Leasing ready messages.

use std::time::{Duration, Instant};

use pgqrs::{
    Action, BURIED_PER_CLAIM, Claim, Claimed, DUE_PER_CLAIM, Error, LEASE_EXPIRED, Message,
    MessageId, Priority, QueueName, Receipt, Result, RetryDecision, Settle, Settlement,
    VisibilityTimeout, WorkerId, WorkerState, parse_stored,
};
use serde_json::{Map, Value};
use tokio_postgres::Row;

use crate::{error::column, pool::params, queues::not_found, settle, store::Inner, workers};

/// With the database's clock, what is due is looked for at most this often per queue and store: a
/// long transaction elsewhere makes each look walk over what has become dead since it began.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a store knows of the messages of a queue that become ready by themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    looked: Instant,
    next: Option<Instant>,
    /// The last claim was full: the queue is busy, and claims do not see what is due behind it.
    is_busy: bool,
}

impl Due {
    /// What it knows of `queue`; nothing yet: everything may be due.
    fn of(store: &Inner, queue: &QueueName) -> Self {
        let never = Self { looked: store.started, next: None, is_busy: true };
        store.due().get(queue).copied().unwrap_or(never)
    }

    /// Replaces what was known when the claim began, unless another look was asked for meanwhile.
    fn remember(mut self, store: &Inner, queue: &QueueName, began_with: Self) {
        let mut all = store.due();
        let looked = all.get(queue).map_or(began_with.looked, |known| known.looked);
        if looked < began_with.looked {
            self.looked = looked;
        }
        all.insert(queue.clone(), self);
    }
}

/// Lets the next claims look again: this store has just made messages wait for their time.
pub(crate) fn look_again(store: &Inner) {
    store.due().values_mut().for_each(|due| due.looked = store.started);
}

pub(crate) async fn claim(store: &Inner, claim: &Claim) -> Result<Claimed> {
    let limit = claim.limit.count();
    if claim.now.is_some() {
        promote(store, claim).await?;
        return Ok(take(store, claim, limit, true).await?.claimed);
    }
    let known = Due::of(store, &claim.queue);
    let mut due = known;
    let look = due.looked.elapsed() > LOOK_EVERY || due.looked == store.started;
    if look && due.is_busy {
        promote(store, claim).await?;
    }
    let mut taken = take(store, claim, limit, look).await?;
    if taken.is_overdue {
        match take_overdue(store, claim, limit - taken.claimed.messages.len()).await {
            Ok(more) => {
                taken.claimed.messages.extend(more.messages);
                taken.claimed.due_in = more.due_in;
            }
            Err(error) if taken.claimed.messages.is_empty() => return Err(error),
            // What is leased already must reach its consumer.
            Err(error) => {
                tracing::warn!(%error, "could not take what is overdue; the next claim will")
            }
        }
    }
    let Taken { claimed: Claimed { messages, due_in }, .. } = taken;
    due.is_busy = messages.len() == limit;
    if look {
        due.looked = Instant::now();
        due.next = due_in.and_then(|due_in| due.looked.checked_add(due_in));
    }
    due.remember(store, &claim.queue, known);
    let due_in = due.next.map(|next| next.saturating_duration_since(Instant::now()));
    Ok(Claimed { due_in: due_in.filter(|_| messages.is_empty()), messages })
}

async fn take_overdue(store: &Inner, claim: &Claim, limit: usize) -> Result<Claimed> {
    promote(store, claim).await?;
    Ok(take(store, claim, limit, true).await?.claimed)
}

/// Takes into the ready messages of the queue what has become due.
async fn promote(store: &Inner, claim: &Claim) -> Result<()> {
    let parameters = params![
        claim.queue.as_str(),
        claim.now,
        DUE_PER_CLAIM as i64,
        BURIED_PER_CLAIM as i64,
        LEASE_EXPIRED,
        claim.worker.map(|worker| worker.0),
    ];
    store.pool.query(&store.sql.promote_due, parameters).await.map(drop)
}

/// What one statement claimed, and whether promotion would bring more.
#[derive(Debug, Default)]
struct Taken {
    claimed: Claimed,
    is_overdue: bool,
}

async fn take(store: &Inner, claim: &Claim, limit: usize, look: bool) -> Result<Taken> {
    let parameters = params![
        claim.queue.as_str(),
        claim.worker.map(|worker| worker.0),
        limit as i64,
        claim.timeout.map(VisibilityTimeout::micros),
        claim.now,
        look,
    ];
    let rows = store.pool.query(&store.sql.claim, parameters).await?;
    let Some(first) = rows.first() else {
        return Ok(Taken::default());
    };
    if !column::<bool>(first, "found")? {
        return Err(not_found(&claim.queue));
    }
    if let Some(worker) = claim.worker {
        check(worker, first)?;
    }
    let due_in_us: Option<i64> = column(first, "due_in_us")?;
    let is_overdue = due_in_us.is_some_and(|us| us <= 0)
        || column::<Option<bool>>(first, "spent")?.unwrap_or_default();
    let due_in = due_in_us.map(|us| Duration::from_micros(us.max(0).unsigned_abs()));
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
        if let Err(error) = settle::settle(store, &settle).await {
            // It never fails the claim: the leases expire, and a later claim comes here again (E5).
            tracing::warn!(%error, "could not bury messages that do not parse");
        }
    }
    claimed.due_in = claimed.due_in.filter(|_| claim.now.is_none() || claimed.messages.is_empty());
    Ok(Taken { claimed, is_overdue })
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
    let headers: Option<&str> = column(row, "headers")?;
    Ok(parse_stored(column(row, "payload")?, headers))
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

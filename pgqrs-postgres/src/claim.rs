//! Leasing ready messages.

use std::{
    fmt, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use pgqrs::{
    Action, BURIED_PER_CLAIM, Claim, Claimed, DUE_PER_CLAIM, Delay, Error, LEASE_EXPIRED, Message,
    MessageId, Priority, QueueName, Receipt, Result, RetryDecision, Settle, Settlement,
    VisibilityTimeout, WorkerId, WorkerState, parse_stored,
};
use tokio_postgres::Row;

use crate::{
    error::{at, column},
    group::Call,
    known::{Known, Start},
    pool::params,
    queues::not_found,
    settle,
    sql_operations::GLANCE,
    store::Inner,
    workers,
};

/// Claims of one queue that share a statement.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    queue: QueueName,
    timeout: Option<VisibilityTimeout>,
    now: Option<DateTime<Utc>>,
    /// Who claims, and how many at most.
    callers: Vec<(Option<WorkerId>, usize)>,
}

impl From<Claim> for Claims {
    fn from(claim: Claim) -> Self {
        let Claim { queue, worker, limit, timeout, now } = claim;
        Self { queue, timeout, now, callers: vec![(worker, limit.count())] }
    }
}

impl Claims {
    /// Whether the caller says what time it is.
    pub(crate) fn is_at_given_time(&self) -> bool {
        self.now.is_some()
    }
}

impl Call for Claims {
    type Answer = Vec<Handover>;
    const ENDS_WITH_CALLERS: bool = true;

    fn rows(&self) -> usize {
        self.callers.iter().map(|(_, limit)| limit).sum()
    }

    fn bytes(&self) -> usize {
        0
    }

    fn shares_with(&self, first: &Self) -> bool {
        self.queue == first.queue && self.timeout == first.timeout
    }

    fn joined_by(&self, others: &[Self]) -> Self {
        let callers = others.iter().flat_map(|claims| claims.callers.iter().copied());
        Self { callers: self.callers.iter().copied().chain(callers).collect(), ..self.clone() }
    }

    fn split(calls: &[Self], answer: Vec<Handover>) -> Vec<Vec<Handover>> {
        let mut handovers = answer.into_iter();
        calls.iter().map(|call| handovers.by_ref().take(call.callers.len()).collect()).collect()
    }
}

/// What a claim brought, on its way to its caller. If that is gone, its messages are released.
pub(crate) struct Handover {
    store: Arc<Inner>,
    outcome: Result<Claimed>,
}

impl Handover {
    /// Hands it over.
    pub(crate) fn take(mut self) -> Result<Claimed> {
        mem::replace(&mut self.outcome, Ok(Claimed::default()))
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let Ok(Claimed { messages, .. }) = &self.outcome else { return };
        let release = |message: &Message| Settlement {
            receipt: message.receipt,
            action: Action::Release(Delay::ZERO),
        };
        let settlements: Vec<_> = messages.iter().map(release).collect();
        if !settlements.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (store, settle) = (self.store.clone(), Settle { settlements, now: None });
            runtime.spawn(async move {
                if let Err(error) = settle::settle(&store, &settle).await {
                    tracing::warn!(%error, "could not release what nobody waits for any more");
                }
            });
        }
    }
}

/// Claims for all callers; what went wrong for one of them alone is its own answer.
pub(crate) async fn claim(store: &Arc<Inner>, claims: &Claims) -> Result<Vec<Handover>> {
    let mut taken = Taken::nothing(claims);
    let mut known = Known::of(store, &claims.queue);
    match claim_into(&mut taken, store, claims, &mut known).await {
        Err(error) if taken.count() == 0 => return Err(error),
        // What is leased already must reach its consumer.
        Err(error) => tracing::warn!(%error, "could not take all there is; the next claim will"),
        Ok(()) => {}
    }
    for claimed in taken.outcomes.iter_mut().flatten() {
        claimed.due_in = taken.due_in.filter(|_| claimed.messages.is_empty());
    }
    let handover = |outcome| Handover { store: store.clone(), outcome };
    Ok(taken.outcomes.into_iter().map(handover).collect())
}

async fn claim_into(
    taken: &mut Taken,
    store: &Inner,
    claims: &Claims,
    known: &mut Known,
) -> Result<()> {
    if claims.now.is_some() {
        promote(store, claims, Start::HEAD).await?;
        take(taken, store, claims, Start::HEAD, known).await?;
        if taken.is_short(claims) {
            taken.due_in = look(store, claims, Start::HEAD).await?.due_in;
        }
        return Ok(());
    }
    let before = *known;
    let look_for_due = known.wants_look(store);
    let mut start = known.start(store, &claims.queue);
    if look_for_due && known.expects_nothing(start) && glance(store, claims, known).await? {
        taken.due_in = known.due_in();
        known.remember(store, &claims.queue, &before);
        return Ok(());
    }
    if look_for_due && known.is_busy {
        known.promoted(promote(store, claims, known.promotion(start)).await?);
    }
    take(taken, store, claims, start, known).await?;
    // What was found goes to its consumer first; a later claim looks.
    let look_for_due = look_for_due && (taken.count() == 0 || known.must_look());
    let mut is_overdue = false;
    if taken.is_short(claims) && look_for_due {
        let ahead = look(store, claims, start).await?;
        is_overdue = ahead.has_spent || ahead.due_in.is_some_and(|due_in| due_in.is_zero());
        known.promoted(match is_overdue {
            true => promote(store, claims, known.promotion(start)).await?,
            false => ahead.now,
        });
        known.looked(ahead.due_in);
    } else if look_for_due {
        known.looked(None);
    }
    let is_hidden = start != Start::HEAD && known.may_look_fully();
    if taken.is_short(claims) && (is_overdue || is_hidden) {
        if is_hidden {
            start = Start::HEAD;
        }
        take(taken, store, claims, start, known).await?;
    }
    known.is_busy = !taken.is_short(claims);
    taken.due_in = known.due_in();
    known.remember(store, &claims.queue, &before);
    Ok(())
}

/// Whether there is nothing to claim, to take in and to refuse: one statement for a queue that is
/// empty, as it most probably is.
async fn glance(store: &Inner, claims: &Claims, known: &mut Known) -> Result<bool> {
    let (sql, began) = (store.sql.render(GLANCE), Instant::now());
    let row = store.pool.query_one(&sql, params![claims.queue.as_str(), workers(claims)]).await?;
    let is_quiet: bool = column(&row, "is_quiet")?;
    if is_quiet {
        let due_in_us: Option<i64> = column(&row, "due_in_us")?;
        let due_in = due_in_us.map(|us| Duration::from_micros(us.max(0).unsigned_abs()));
        known.glanced(began.elapsed(), column(&row, "now")?, due_in);
    }
    Ok(is_quiet)
}

/// What a look says.
struct Ahead {
    /// The database's time, if the queue is not paused: else nothing is looked at.
    now: Option<DateTime<Utc>>,
    /// When the next message becomes ready by itself.
    due_in: Option<Duration>,
    /// There is something to bury.
    has_spent: bool,
}

async fn look(store: &Inner, claims: &Claims, start: Start) -> Result<Ahead> {
    let parameters = params![claims.queue.as_str(), claims.now, start.due_since];
    let row = store.pool.query_one(&store.sql.look, parameters).await?;
    let due_in_us: Option<i64> = column(&row, "due_in_us")?;
    let due_in = due_in_us.map(|us| Duration::from_micros(us.max(0).unsigned_abs()));
    Ok(Ahead { now: column(&row, "now")?, due_in, has_spent: column(&row, "spent")? })
}

/// Takes into the ready messages of the queue what has become due; answers with the time, if that
/// was all of it.
async fn promote(store: &Inner, claims: &Claims, start: Start) -> Result<Option<DateTime<Utc>>> {
    let parameters = params![
        claims.queue.as_str(),
        claims.now,
        DUE_PER_CLAIM as i64,
        BURIED_PER_CLAIM as i64,
        LEASE_EXPIRED,
        workers(claims),
        start.marks.to_vec(),
        start.due_since,
    ];
    let row = store.pool.query_one(&store.sql.promote_due, parameters).await?;
    let is_complete: bool = column(&row, "is_complete")?;
    Ok(if is_complete { Some(column(&row, "now")?) } else { None })
}

fn workers(claims: &Claims) -> Vec<Option<i64>> {
    claims.callers.iter().map(|(worker, _)| worker.map(|worker| worker.0)).collect()
}

/// What was claimed so far, for each caller.
struct Taken {
    outcomes: Vec<Result<Claimed>>,
    due_in: Option<Duration>,
}

impl Taken {
    fn nothing(claims: &Claims) -> Self {
        let outcomes = claims.callers.iter().map(|_| Ok(Claimed::default())).collect();
        Self { outcomes, due_in: None }
    }

    fn count(&self) -> usize {
        self.outcomes.iter().flatten().map(|claimed| claimed.messages.len()).sum()
    }

    /// How many messages each caller still wants, with its number; those that may not claim nothing.
    fn wants(&self, claims: &Claims) -> Vec<(usize, usize)> {
        let both = self.outcomes.iter().zip(&claims.callers).enumerate();
        both.filter_map(|(nth, (outcome, (_, limit)))| {
            let got = outcome.as_ref().ok()?.messages.len();
            (got < *limit).then(|| (nth, limit - got))
        })
        .collect()
    }

    fn is_short(&self, claims: &Claims) -> bool {
        !self.wants(claims).is_empty()
    }
}

/// The columns of the statement `claim`, read by number: by name each is a search.
mod columns {
    pub(super) const CALLER: usize = 0;
    pub(super) const FOUND: usize = 1;
    pub(super) const STATE: usize = 2;
    pub(super) const REPLACED_BY: usize = 3;
    pub(super) const RUNS: usize = 4;
    pub(super) const HELD: usize = 5;
    pub(super) const ID: usize = 6;
    pub(super) const TOKEN: usize = 7;
    pub(super) const ATTEMPTS: usize = 8;
    pub(super) const MAX_ATTEMPTS: usize = 9;
    pub(super) const VISIBLE_AT: usize = 10;
    pub(super) const CLAIMED_AT: usize = 11;
    pub(super) const LAST_ERROR: usize = 12;
    pub(super) const PRIORITY: usize = 13;
    pub(super) const ENQUEUED_AT: usize = 14;
    pub(super) const PAYLOAD: usize = 15;
    pub(super) const HEADERS: usize = 16;
    pub(super) const POS: usize = 17;
}

/// Takes what the callers still want, in as many statements as it needs: mostly one. How many runs
/// hold so many messages is a guess.
async fn take(
    taken: &mut Taken,
    store: &Inner,
    claims: &Claims,
    start: Start,
    known: &mut Known,
) -> Result<()> {
    loop {
        let wants = taken.wants(claims);
        let wanted = wants.iter().map(|(_, wanted)| wanted).sum::<usize>();
        if wanted == 0 {
            return Ok(());
        }
        let runs = known.runs(wanted);
        let began = Instant::now();
        let claimed = take_runs(taken, store, claims, start, &wants, runs).await?;
        let messages: usize = claimed.reached.len();
        known.claimed(start, &claimed, began.elapsed());
        if claimed.runs < runs && !claimed.was_refused || messages >= wanted {
            return Ok(());
        }
    }
}

/// What one statement took.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// How many runs, and how many messages they held.
    pub(crate) runs: usize,
    pub(crate) held: usize,
    /// The messages' priorities and positions.
    pub(crate) reached: Vec<(Priority, i64)>,
    /// Somebody may not claim, and so nobody did.
    was_refused: bool,
}

async fn take_runs(
    taken: &mut Taken,
    store: &Inner,
    claims: &Claims,
    start: Start,
    wants: &[(usize, usize)],
    runs: usize,
) -> Result<Step> {
    let worker = |nth: usize| claims.callers[nth].0;
    let mut wanted = 0;
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for (_, limit) in wants {
        firsts.push(wanted as i32);
        wanted += limit;
        lasts.push(wanted as i32);
    }
    let parameters = params![
        claims.queue.as_str(),
        wants.iter().map(|(nth, _)| worker(*nth).map(|worker| worker.0)).collect::<Vec<_>>(),
        firsts,
        lasts,
        runs as i64,
        claims.timeout.map(VisibilityTimeout::micros),
        claims.now,
        start.marks.to_vec(),
    ];
    let rows = store.pool.query(&store.sql.claim, parameters).await?;
    let mut step = Step::default();
    let mut unreadable = Vec::new();
    for row in &rows {
        let nth = wants[at::<i64>(row, columns::CALLER)? as usize - 1].0;
        step.runs = at::<i64>(row, columns::RUNS)? as usize;
        step.held = at::<Option<i32>>(row, columns::HELD)?.unwrap_or_default() as usize;
        let Some(id) = at::<Option<i64>>(row, columns::ID)? else {
            if !at::<bool>(row, columns::FOUND)? {
                return Err(not_found(&claims.queue));
            }
            if let Some(worker) = worker(nth)
                && let Err(error) = check(worker, row)?
            {
                step.was_refused = true;
                taken.outcomes[nth] = Err(error);
            }
            continue;
        };
        let receipt = Receipt { id: MessageId(id), token: at(row, columns::TOKEN)? };
        let priority = Priority::new(at::<i16>(row, columns::PRIORITY)?.unsigned_abs() as u8)?;
        step.reached.push((priority, at(row, columns::POS)?));
        let headers: Option<&str> = at(row, columns::HEADERS)?;
        let (payload, headers) = match parse_stored(at(row, columns::PAYLOAD)?, headers) {
            Ok(contents) => contents,
            Err(error) => {
                let action = Action::Fail { error, retry: RetryDecision::Dead };
                unreadable.push(Settlement { receipt, action });
                continue;
            }
        };
        let message = Message {
            id: receipt.id,
            queue: claims.queue.clone(),
            payload,
            headers,
            priority,
            enqueued_at: at(row, columns::ENQUEUED_AT)?,
            claimed_at: at(row, columns::CLAIMED_AT)?,
            visible_at: at(row, columns::VISIBLE_AT)?,
            attempts: at::<i16>(row, columns::ATTEMPTS)?.unsigned_abs().into(),
            max_attempts: at::<i16>(row, columns::MAX_ATTEMPTS)?.unsigned_abs().into(),
            worker: worker(nth),
            last_error: at(row, columns::LAST_ERROR)?,
            receipt,
        };
        if let Ok(claimed) = &mut taken.outcomes[nth] {
            claimed.messages.push(message);
        }
    }
    if !unreadable.is_empty() {
        let settle = Settle { settlements: unreadable, now: claims.now };
        if let Err(error) = settle::settle(store, &settle).await {
            // It never fails the claim: the leases expire, and a later claim comes here again (E5).
            tracing::warn!(%error, "could not bury messages that do not parse");
        }
    }
    Ok(step)
}

/// Whether the worker may claim.
fn check(worker: WorkerId, row: &Row) -> Result<Result<()>> {
    let Some(state) = at::<Option<&str>>(row, columns::STATE)? else {
        return Ok(Err(Error::WorkerNotFound { worker }));
    };
    Ok(match workers::state(state)? {
        WorkerState::Ready => Ok(()),
        state => {
            let replaced_by = at::<Option<i64>>(row, columns::REPLACED_BY)?.map(WorkerId);
            Err(Error::WorkerNotReady { worker, state, replaced_by })
        }
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

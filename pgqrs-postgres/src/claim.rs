//! Leasing ready messages.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use pgqrs::{
    Action, BURIED_PER_CLAIM, Claim, Claimed, DUE_PER_CLAIM, Error, LEASE_EXPIRED, Message,
    MessageId, Priority, QueueName, Receipt, Result, RetryDecision, Settle, Settlement,
    VisibilityTimeout, WorkerId, WorkerState, parse_stored,
};
use tokio_postgres::Row;

use crate::{
    error::column,
    group::Call,
    known::{self, Known, Start},
    pool::params,
    queues::not_found,
    settle,
    store::Inner,
    workers,
};

/// How far ahead a look for the next due message sees that does not begin at the head: longer than
/// a run loop sleeps.
const HORIZON: Duration = Duration::from_secs(3);

/// Claims of one queue that share a statement.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    pub(crate) queue: QueueName,
    timeout: Option<VisibilityTimeout>,
    pub(crate) now: Option<DateTime<Utc>>,
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
    fn worker(&self, caller: usize) -> Option<i64> {
        self.callers[caller].0.map(|worker| worker.0)
    }

    fn workers(&self) -> Vec<Option<i64>> {
        (0..self.callers.len()).map(|nth| self.worker(nth)).collect()
    }
}

impl Call for Claims {
    type Answer = Vec<Result<Claimed>>;

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

    fn split(calls: &[Self], answer: Vec<Result<Claimed>>) -> Vec<Vec<Result<Claimed>>> {
        let mut outcomes = answer.into_iter();
        calls.iter().map(|call| outcomes.by_ref().take(call.callers.len()).collect()).collect()
    }
}

/// Claims for all callers; what went wrong for one of them alone is its own answer.
pub(crate) async fn claim(store: &Arc<Inner>, claims: &Claims) -> Result<Vec<Result<Claimed>>> {
    let mut taken = Taken::nothing(claims);
    let mut known = Known::of(store, &claims.queue);
    if claims.now.is_none() && known.wants_scout(store, &claims.queue) {
        tokio::spawn(scout(store.clone(), claims.queue.clone(), known.start));
    }
    match claim_into(&mut taken, store, claims, &mut known).await {
        Err(error) if taken.count() == 0 => return Err(error),
        // What is leased already must reach its consumer.
        Err(error) => tracing::warn!(%error, "could not take all there is; the next claim will"),
        Ok(()) => {}
    }
    for claimed in taken.outcomes.iter_mut().flatten() {
        claimed.due_in = taken.due_in.filter(|_| claimed.messages.is_empty());
    }
    Ok(taken.outcomes)
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
    let mut start = known.start(store, &claims.queue);
    let look_for_due = known.begins_look(store, &claims.queue);
    if look_for_due && known.expects_nothing(start) && glance(store, claims, known).await? {
        taken.due_in = known.due_in();
        known.remember(store, &claims.queue, &before);
        return Ok(());
    }
    let must_look = known.must_look();
    if look_for_due && (known.is_busy || known.is_overdue()) {
        known.promoted(promote(store, claims, known.promotion(start)).await?);
        known.took_due(store);
    }
    take(taken, store, claims, start, known).await?;
    // What was found goes to its consumer first; a later claim looks.
    let look_for_due = look_for_due && (taken.count() == 0 || must_look);
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
    let (parameters, began) = (params![claims.queue.as_str(), claims.workers()], Instant::now());
    let row = store.pool.query_one(&store.sql.glance, parameters).await?;
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

/// Looks whether anything stands behind the marks, which no claim waits for.
async fn scout(store: Arc<Inner>, queue: QueueName, marks: Start) {
    let began = Instant::now();
    let parameters = params![queue.as_str(), marks.marks.to_vec(), marks.due_since];
    let row = store.pool.query_one(&store.sql.scout, parameters).await;
    let found = row.and_then(|row| Start::read(&row));
    match found {
        Ok(found) => {
            known::scouted(&store, &queue, began.elapsed(), (found != marks).then_some(found))
        }
        Err(error) => tracing::debug!(%error, "could not look behind the marks; the next one will"),
    }
}

async fn look(store: &Inner, claims: &Claims, start: Start) -> Result<Ahead> {
    // Farther ahead may stand all that died since some snapshot was taken.
    let horizon = start.due_since.map(|_| HORIZON.as_micros() as i64);
    let parameters = params![claims.queue.as_str(), claims.now, start.due_since, horizon];
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
        claims.workers(),
        start.marks.to_vec(),
        start.due_since,
    ];
    let row = store.pool.query_one(&store.sql.promote_due, parameters).await?;
    let is_complete: bool = column(&row, "is_complete")?;
    Ok(if is_complete { Some(column(&row, "now")?) } else { None })
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
        known.claimed(start, &claimed, began.elapsed());
        if claimed.runs < runs && !claimed.was_refused || claimed.messages >= wanted {
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
    /// How many of those it leased.
    pub(crate) messages: usize,
    /// The runs' priorities and positions.
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
    let mut wanted = 0;
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for (_, limit) in wants {
        firsts.push(wanted as i32);
        wanted += limit;
        lasts.push(wanted as i32);
    }
    let workers: Vec<_> = wants.iter().map(|(nth, _)| claims.worker(*nth)).collect();
    let parameters = params![
        claims.queue.as_str(),
        workers,
        firsts,
        lasts,
        runs as i64,
        claims.timeout.map(VisibilityTimeout::micros),
        claims.now,
        start.marks.to_vec(),
        workers.iter().flatten().collect::<HashSet<_>>().len() as i64,
        wanted as i32,
    ];
    let rows = store.pool.query(&store.sql.claim, parameters).await?;
    if rows.is_empty() {
        let was_refused = refuse(taken, store, claims, wants, workers).await?;
        return Ok(Step { was_refused, ..Step::default() });
    }
    let mut step = Step::default();
    let mut unreadable = Vec::new();
    let mut sizes = BTreeMap::new();
    for row in &rows {
        let nth = wants[column::<i64>(row, "n")? as usize - 1].0;
        let priority = Priority::new(9 - column::<i16>(row, "rank")?.unsigned_abs() as u8)?;
        step.reached.push((priority, column(row, "pos")?));
        sizes.insert(column::<i32>(row, "upto")?, column::<i32>(row, "size")? as usize);
        let (token, worker) = (column(row, "token")?, claims.callers[nth].0);
        let (claimed_at, visible_at) = (column(row, "since")?, column(row, "until")?);
        let enqueued_at = column(row, "enqueued_at")?;
        let (attempts, max_attempts) = (attempts(row, "attempts")?, attempts(row, "max_attempts")?);
        let last_error: Option<&str> = column(row, "last_error")?;
        let ids: Vec<i64> = column(row, "ids")?;
        let payloads: Vec<&str> = column(row, "payloads")?;
        let headers: Vec<Option<&str>> = column(row, "headers")?;
        let mut contents: Vec<_> = ids.into_iter().zip(payloads.into_iter().zip(headers)).collect();
        // In no order by the statement, and in that of ids in a run.
        contents.sort_unstable_by_key(|(id, _)| *id);
        step.messages += contents.len();
        for (id, (payload, headers)) in contents {
            let receipt = Receipt { id: MessageId(id), token };
            let (payload, headers) = match parse_stored(payload, headers) {
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
                enqueued_at,
                claimed_at,
                visible_at,
                attempts,
                max_attempts,
                worker,
                last_error: last_error.map(str::to_owned),
                receipt,
            };
            if let Ok(claimed) = &mut taken.outcomes[nth] {
                claimed.messages.push(message);
            }
        }
    }
    (step.runs, step.held) = (sizes.len(), sizes.values().sum());
    if !unreadable.is_empty() {
        let settle = Settle { settlements: unreadable, now: claims.now };
        if let Err(error) = settle::settle(store, &settle).await {
            // It never fails the claim: the leases expire, and a later claim comes here again (E5).
            tracing::warn!(%error, "could not bury messages that do not parse");
        }
    }
    Ok(step)
}

/// Tells those callers who may not claim, and whether there are any.
async fn refuse(
    taken: &mut Taken,
    store: &Inner,
    claims: &Claims,
    wants: &[(usize, usize)],
    workers: Vec<Option<i64>>,
) -> Result<bool> {
    let parameters = params![claims.queue.as_str(), workers];
    let rows = store.pool.query(&store.sql.standing, parameters).await?;
    if rows.is_empty() {
        return Err(not_found(&claims.queue));
    }
    let mut has_refused = false;
    for row in &rows {
        let nth = wants[column::<i64>(row, "n")? as usize - 1].0;
        if let Some(worker) = claims.callers[nth].0
            && let Err(error) = check(worker, row)?
        {
            taken.outcomes[nth] = Err(error);
            has_refused = true;
        }
    }
    Ok(has_refused)
}

/// Whether the worker may claim.
fn check(worker: WorkerId, row: &Row) -> Result<Result<()>> {
    let Some(state) = column::<Option<&str>>(row, "state")? else {
        return Ok(Err(Error::WorkerNotFound { worker }));
    };
    Ok(match workers::state(state)? {
        WorkerState::Ready => Ok(()),
        state => {
            let replaced_by = column::<Option<i64>>(row, "replaced_by")?.map(WorkerId);
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

//! Ending and prolonging leases.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use pgqrs::{
    Action, Delay, LeaseLost, MessageId, Receipt, Result, RetryDecision, Settle, Settled,
    Settlement, cut_error,
};

use crate::{
    connection::{Connection, Record},
    error::column,
    group::Call,
    pool::params,
    store::Inner,
};

type Outcomes = Vec<Result<Settled, LeaseLost>>;

/// Archives come in whole leases, or, as where handlers end one by one, in parts, which take a
/// statement that does more. After one in part so many are expected to be as well.
const IN_PART: u8 = 32;

pub(crate) async fn settle(store: &Inner, settle: &Settle) -> Result<Outcomes> {
    // One statement that writes, or statements that may be repeated, need no transaction.
    if settle.settlements.len() <= 1 || is_repeatable(settle) {
        let mut session = store.pool.session().await?;
        let settled = settle_with(store, &mut session, settle).await;
        session.finish();
        return settled;
    }
    let mut tx = store.pool.begin().await?;
    let settled = settle_with(store, &mut tx, settle).await;
    tx.end(settled).await
}

/// Whether all of it is archives, or all extensions: done again they answer the same.
fn is_repeatable(settle: &Settle) -> bool {
    let mut actions = settle.settlements.iter().map(|settlement| &settlement.action);
    actions.clone().all(|action| matches!(action, Action::Archive))
        || actions.all(|action| matches!(action, Action::Extend(_)))
}

/// After how long the first of the messages that are to wait becomes ready.
pub(crate) fn due_in(settle: &Settle) -> Option<Duration> {
    let delays = settle.settlements.iter().filter_map(|settlement| micros(&settlement.action));
    delays.filter(|micros| *micros > 0).min().map(|us| Duration::from_micros(us.unsigned_abs()))
}

/// What shares a statement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Archive,
    Delete,
    GiveBack,
    /// By so many microseconds.
    Extend(i64),
}

impl Kind {
    fn of(action: &Action) -> Self {
        match action {
            Action::Archive => Self::Archive,
            Action::Delete => Self::Delete,
            Action::Release(_) | Action::Fail { .. } => Self::GiveBack,
            Action::Extend(timeout) => Self::Extend(timeout.micros()),
        }
    }
}

impl Call for Vec<Settlement> {
    type Answer = Outcomes;

    fn rows(&self) -> usize {
        self.len()
    }

    fn bytes(&self) -> usize {
        let bytes = |settlement: &Settlement| match &settlement.action {
            Action::Fail { error, .. } => error.len(),
            _ => 0,
        };
        self.iter().map(bytes).sum()
    }

    fn shares_with(&self, first: &Self) -> bool {
        let mut kinds = self.iter().chain(first).map(|settlement| Kind::of(&settlement.action));
        let kind = kinds.next();
        kinds.all(|other| Some(other) == kind)
    }

    fn joined_by(&self, others: &[Self]) -> Self {
        self.iter().chain(others.iter().flatten()).cloned().collect()
    }

    fn split(calls: &[Self], answer: Outcomes) -> Vec<Outcomes> {
        let mut outcomes = answer.into_iter();
        calls.iter().map(|call| outcomes.by_ref().take(call.len()).collect()).collect()
    }
}

/// Settlements of one kind, at most one for each receipt, in the order of ids: batches that meet
/// do not deadlock.
type Group<'s> = BTreeMap<Receipt, (usize, &'s Action)>;

/// Settles one kind after the other, on a given connection.
pub(crate) async fn settle_with(
    store: &Inner,
    session: &mut impl Connection,
    settle: &Settle,
) -> Result<Outcomes> {
    let mut outcomes = vec![Err(LeaseLost); settle.settlements.len()];
    let mut rest: Vec<_> = settle.settlements.iter().enumerate().collect();
    while !rest.is_empty() {
        let (round, later) = next_round(rest);
        for (kind, group) in &round {
            let mut missed = act(store, session, settle, *kind, group, &mut outcomes).await?;
            if missed.is_empty() {
                continue;
            }
            // Each time that others have changed a run in between; and archives, tried first as
            // if they were of whole leases, if they are not.
            while !missed.is_empty() {
                let (ids, tokens) = columns(&missed);
                let row = session.query_one(&store.sql.retake, params![ids, tokens]).await?;
                let again = receipts(&row)?;
                if again.is_empty() {
                    break;
                }
                if *kind == Kind::Archive {
                    store.archives_in_part.store(IN_PART, Ordering::Relaxed);
                }
                missed.retain(|receipt| !again.contains(receipt));
                let again = group.iter().filter(|(receipt, _)| again.contains(*receipt));
                let again = again.map(|(receipt, one)| (*receipt, *one)).collect();
                missed.extend(act(store, session, settle, *kind, &again, &mut outcomes).await?);
            }
            if *kind == Kind::Archive && !missed.is_empty() {
                let (ids, tokens) = columns(&missed);
                let parameters = params![ids, tokens, settle.now];
                let row = session.query_one(&store.sql.archived, parameters).await?;
                for receipt in receipts(&row)? {
                    outcomes[group[&receipt].0] = Ok(Settled::Archived);
                }
            }
        }
        // An archive that is lost stays lost; what else is lost may have been archived before.
        let archives = round.get(&Kind::Archive).into_iter().flatten();
        let lost: HashSet<_> = archives
            .filter(|(_, (index, _))| outcomes[*index].is_err())
            .map(|(receipt, _)| *receipt)
            .collect();
        rest = later;
        rest.retain(|(_, settlement)| !lost.contains(&settlement.receipt));
    }
    Ok(outcomes)
}

type Numbered<'s> = Vec<(usize, &'s Settlement)>;

/// The first settlement of each receipt by kind, and the others.
fn next_round(settlements: Numbered<'_>) -> (BTreeMap<Kind, Group<'_>>, Numbered<'_>) {
    let (mut round, mut later, mut seen) =
        (BTreeMap::<_, Group<'_>>::new(), Vec::new(), HashSet::new());
    for (index, settlement) in settlements {
        if !seen.insert(settlement.receipt) {
            later.push((index, settlement));
            continue;
        }
        round
            .entry(Kind::of(&settlement.action))
            .or_default()
            .insert(settlement.receipt, (index, &settlement.action));
    }
    (round, later)
}

/// Runs the statement of `kind`, notes the outcomes, and returns the receipts that it missed.
async fn act(
    store: &Inner,
    session: &mut impl Connection,
    settle: &Settle,
    kind: Kind,
    group: &Group<'_>,
    outcomes: &mut Outcomes,
) -> Result<BTreeSet<Receipt>> {
    let mut missed: BTreeSet<_> = group.keys().copied().collect();
    let (ids, tokens) = columns(&missed);
    let actions = || group.values().map(|(_, action)| *action);
    let (sql, now) = (&store.sql, settle.now);
    let row = match kind {
        Kind::Archive if store.archives_in_part.load(Ordering::Relaxed) == 0 => {
            let (ids, tokens, firsts, lasts) = leases(&missed);
            let parameters = params![ids, tokens, firsts, lasts, now];
            session.query_one(&sql.archive_whole, parameters).await?
        }
        Kind::Archive => {
            let row = session.query_one(&sql.archive, params![ids, tokens, now]).await?;
            let expected = match column(&row, "in_part")? {
                true => IN_PART,
                false => store.archives_in_part.load(Ordering::Relaxed).saturating_sub(1),
            };
            store.archives_in_part.store(expected, Ordering::Relaxed);
            row
        }
        Kind::Delete => session.query_one(&sql.delete, params![ids, tokens]).await?,
        Kind::GiveBack => {
            let delays: Vec<_> = actions().map(micros).collect();
            let errors: Vec<_> = actions().map(error).collect();
            // What is no failure gives its attempt back.
            let returned: Vec<_> = errors.iter().map(|error| i16::from(error.is_none())).collect();
            let parameters = params![ids, tokens, now, delays, errors, returned];
            session.query_one(&sql.give_back, parameters).await?
        }
        Kind::Extend(timeout) => {
            session.query_one(&sql.extend, params![ids, tokens, now, timeout]).await?
        }
    };
    let mut dead = HashSet::new();
    if kind == Kind::GiveBack {
        dead.extend(column::<Option<Vec<i64>>>(&row, "dead")?.unwrap_or_default());
    }
    for receipt in receipts(&row)? {
        missed.remove(&receipt);
        let Some((index, action)) = group.get(&receipt) else {
            continue;
        };
        outcomes[*index] = Ok(match kind {
            Kind::Archive => Settled::Archived,
            Kind::Delete => Settled::Deleted,
            Kind::GiveBack if matches!(action, Action::Release(_)) => Settled::Released,
            Kind::GiveBack if dead.contains(&receipt.id.0) => Settled::Dead,
            Kind::GiveBack => Settled::Retrying,
            Kind::Extend(_) => Settled::Extended(column(&row, "visible_at")?),
        });
    }
    Ok(missed)
}

/// The delay of an action, if it has one.
fn micros(action: &Action) -> Option<i64> {
    match action {
        Action::Release(delay) => Some(delay.micros()),
        Action::Fail { retry: RetryDecision::RetryAfter(delay), .. } => Some(Delay::micros(*delay)),
        Action::Archive | Action::Delete | Action::Extend(_) | Action::Fail { .. } => None,
    }
}

fn error(action: &Action) -> Option<String> {
    match action {
        Action::Fail { error, .. } => Some(cut_error(error)),
        _ => None,
    }
}

/// Ids, ordered by tokens; the tokens, and the places of the first and the last id of each.
pub(crate) fn leases(receipts: &BTreeSet<Receipt>) -> (Vec<i64>, Vec<i64>, Vec<i32>, Vec<i32>) {
    let mut leases = BTreeMap::<i64, Vec<i64>>::new();
    receipts.iter().for_each(|receipt| leases.entry(receipt.token).or_default().push(receipt.id.0));
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for ids in leases.values() {
        firsts.push(lasts.last().map_or(1, |last| last + 1));
        lasts.push(firsts[lasts.len()] + ids.len() as i32 - 1);
    }
    (leases.values().flatten().copied().collect(), leases.into_keys().collect(), firsts, lasts)
}

fn columns(receipts: &BTreeSet<Receipt>) -> (Vec<i64>, Vec<i64>) {
    receipts.iter().map(|receipt| (receipt.id.0, receipt.token)).unzip()
}

/// The receipts in the row that statements on leases answer with.
fn receipts(row: &impl Record) -> Result<Vec<Receipt>> {
    let ids: Option<Vec<i64>> = column(row, "ids")?;
    let tokens: Option<Vec<i64>> = column(row, "tokens")?;
    let pairs = ids.unwrap_or_default().into_iter().zip(tokens.unwrap_or_default());
    Ok(pairs.map(|(id, token)| Receipt { id: MessageId(id), token }).collect())
}

//! Settling: each settlement acts on the lease of a current receipt, or not at all.

use pgqrs::{
    Action, LeaseLost, MessageId, Outcome as Ended, Receipt, RetryDecision, Settle, Settled,
    Settlement, cut_error,
};

use crate::{
    error::Outcome,
    lease::{Lease, shorten_run},
    sql,
    tx::{Tx, count, instant},
};

pub(crate) fn settle(tx: &Tx<'_>, settle: &Settle) -> Outcome<Vec<Result<Settled, LeaseLost>>> {
    settle.check()?;
    let now = tx.now(settle.now);
    let mut outcomes = Vec::with_capacity(settle.settlements.len());
    let mut rest = settle.settlements.as_slice();
    while !rest.is_empty() {
        let (run, after) = rest.split_at(archives_in_a_row(rest).max(1));
        rest = after;
        if run.len() > 1 && archive_run(tx, run, now)? {
            outcomes.resize(outcomes.len() + run.len(), Ok(Settled::Archived));
            continue;
        }
        for settlement in run {
            let is_archived =
                settlement.action == Action::Archive && archive_one(tx, settlement.receipt, now)?;
            let archived = is_archived.then_some(Ok(Settled::Archived));
            outcomes.push(archived.map_or_else(|| settle_one(tx, settlement, now), Ok)?);
        }
    }
    Ok(outcomes)
}

/// How many archives stand at the front whose ids and tokens follow one another, as those of a
/// claim do.
fn archives_in_a_row(settlements: &[Settlement]) -> usize {
    let Some(Receipt { id, token }) = settlements.first().map(|first| first.receipt) else {
        return 0;
    };
    let follows = |(nth, settlement): (i64, &Settlement)| {
        let expected = Receipt { id: MessageId(id.0 + nth), token: token + nth };
        settlement.action == Action::Archive && settlement.receipt == expected
    };
    (0..).zip(settlements).take_while(|one| follows(*one)).count()
}

/// Archives all, or none if one of the receipts is not of a lease that stands in its table.
fn archive_run(tx: &Tx<'_>, run: &[Settlement], now: i64) -> Outcome<bool> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(false) };
    let (first, last) = (first.receipt, last.receipt);
    let (first_id, last_id, token_less_id) = (first.id.0, last.id.0, first.token - first.id.0);
    let known = (first_id, last_id, token_less_id);
    let read = |row: &rusqlite::Row<'_>| Ok((count(row, 0)?, row.get(1)?));
    let current = tx.first(sql::CURRENT_LEASES, known, read)?;
    let Some((_, run_begins)) = current.filter(|(count, _)| *count == run.len() as u64) else {
        return Ok(false);
    };
    tx.run(sql::ARCHIVE_LEASES, (first_id, last_id, now))?;
    tx.run(sql::DELETE_LEASES, (first_id, last_id))?;
    shorten_run(tx, run_begins, first_id, token_less_id)?;
    Ok(true)
}

/// The usual case; the others need more statements.
fn archive_one(tx: &Tx<'_>, Receipt { id, token }: Receipt, now: i64) -> Outcome<bool> {
    Ok(tx.run(sql::ARCHIVE_LEASE, (id.0, token, now))? == 1
        && tx.run(sql::DELETE_LEASE, [id.0])? == 1)
}

fn settle_one(
    tx: &Tx<'_>,
    settlement: &Settlement,
    now: i64,
) -> Outcome<Result<Settled, LeaseLost>> {
    let Settlement { receipt, action } = settlement;
    let Some(mut lease) = Lease::take(tx, *receipt)? else {
        let is_repeated = *action == Action::Archive && is_archived(tx, *receipt, now)?;
        return Ok(if is_repeated { Ok(Settled::Archived) } else { Err(LeaseLost) });
    };
    let settled = match action {
        Action::Archive => {
            lease.archive(tx, Ended::Done, now)?;
            Settled::Archived
        }
        Action::Delete => {
            tx.run(sql::DELETE_MESSAGE, [lease.id])?;
            Settled::Deleted
        }
        Action::Release(delay) => {
            lease.attempts = lease.attempts.saturating_sub(1);
            lease.give_back(tx, *delay, now)?;
            Settled::Released
        }
        Action::Fail { error, retry } => {
            lease.last_error = Some(cut_error(error));
            match retry {
                RetryDecision::RetryAfter(delay) if lease.attempts < lease.max_attempts => {
                    lease.give_back(tx, *delay, now)?;
                    Settled::Retrying
                }
                _ => {
                    lease.archive(tx, Ended::Dead, now)?;
                    Settled::Dead
                }
            }
        }
        Action::Extend(timeout) => {
            let visible_at = now + timeout.micros();
            lease.hold(tx, visible_at)?;
            Settled::Extended(instant(visible_at, 0)?)
        }
    };
    Ok(Ok(settled))
}

/// Whether an earlier call has archived the message under this receipt (S3).
fn is_archived(tx: &Tx<'_>, receipt: Receipt, now: i64) -> Outcome<bool> {
    let found = tx.first(sql::ARCHIVED, (receipt.id.0, receipt.token, now), |_| Ok(()))?;
    Ok(found.is_some())
}

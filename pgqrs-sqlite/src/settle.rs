//! Settling: each settlement acts on the lease of a current receipt, or not at all.

use pgqrs::{
    Action, LeaseLost, Outcome as Ended, Receipt, RetryDecision, Settle, Settled, Settlement,
    cut_error,
};

use crate::{
    error::Outcome,
    lease::Lease,
    sql,
    tx::{Tx, instant},
};

pub(crate) fn settle(tx: &Tx<'_>, settle: &Settle) -> Outcome<Vec<Result<Settled, LeaseLost>>> {
    settle.check()?;
    let now = tx.now(settle.now);
    let outcomes = settle.settlements.iter().map(|settlement| {
        let Receipt { id, token } = settlement.receipt;
        // The usual case; the others need more statements.
        let is_archived = settlement.action == Action::Archive
            && tx.run(sql::ARCHIVE_LEASE, (id.0, token, now))? == 1
            && tx.run(sql::DELETE_LEASE, [id.0])? == 1;
        if is_archived { Ok(Ok(Settled::Archived)) } else { settle_one(tx, settlement, now) }
    });
    outcomes.collect()
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

//! Bugs of settling.

use chrono::{DateTime, Utc};
use pgqrs::{Action, LeaseLost, Receipt, Result, RetryDecision, Settle, Settled, Settlement};

use super::{Mutant, Mutated};

type Outcome = Result<Settled, LeaseLost>;

impl Mutated {
    pub(super) async fn buggy_settle(
        &self,
        mut one: Settlement,
        now: Option<DateTime<Utc>>,
    ) -> Result<Outcome> {
        let receipt = one.receipt;
        match (self.mutant, one.action.clone()) {
            (Mutant::StaleSettled, _) => {
                let current = self.live(receipt.id).await?.and_then(|live| live.receipt);
                one.receipt = current.unwrap_or(receipt);
                self.settle_one(one, now).await
            }
            (Mutant::ExtensionIgnored, Action::Extend(timeout)) => {
                let current = self.live(receipt.id).await?.and_then(|live| live.receipt);
                let until = now.unwrap_or_else(Utc::now) + timeout.duration();
                let held = current == Some(receipt);
                Ok(if held { Ok(Settled::Extended(until)) } else { Err(LeaseLost) })
            }
            (Mutant::ArchivedStaysLive, Action::Archive) => {
                let live = self.live(receipt.id).await?;
                let outcome = self.settle_one(one, now).await?;
                if let (Ok(_), Some(live)) = (outcome, live) {
                    self.memory().archived.insert(live.id, live);
                }
                Ok(outcome)
            }
            (Mutant::RepeatedArchiveRefused, Action::Archive) => {
                if !self.memory().archives.insert(receipt) {
                    return Ok(Err(LeaseLost));
                }
                self.settle_one(one, now).await
            }
            (Mutant::DeletedIsArchived, Action::Delete) => {
                one.action = Action::Archive;
                Ok(self.settle_one(one, now).await?.map(|_| Settled::Deleted))
            }
            (Mutant::ReleaseCounts, Action::Release(delay)) => {
                let error = self.live(receipt.id).await?.and_then(|live| live.last_error);
                let (error, retry) = (error.unwrap_or_default(), RetryDecision::RetryAfter(delay));
                one.action = Action::Fail { error, retry };
                Ok(self.settle_one(one, now).await?.map(|_| Settled::Released))
            }
            (Mutant::RetriedBeyondMaximum, Action::Fail { retry, .. }) => {
                let live = self.live(receipt.id).await?;
                let last = live.is_some_and(|live| live.attempts >= live.max_attempts);
                match retry {
                    RetryDecision::RetryAfter(delay) if last => {
                        one.action = Action::Release(delay);
                        Ok(self.settle_one(one, now).await?.map(|_| Settled::Retrying))
                    }
                    _ => self.settle_one(one, now).await,
                }
            }
            (Mutant::ErrorNotCut, Action::Fail { error, .. }) => {
                let outcome = self.settle_one(one, now).await?;
                if outcome.is_ok() {
                    self.memory().errors.insert(receipt.id, error);
                }
                Ok(outcome)
            }
            (Mutant::RedriveKeepsReceipt, _) if self.was_redriven(receipt) => {
                Ok(Ok(Settled::Released))
            }
            _ => self.settle_one(one, now).await,
        }
    }

    async fn settle_one(&self, one: Settlement, now: Option<DateTime<Utc>>) -> Result<Outcome> {
        let outcomes = self.store.settle(Settle { settlements: vec![one], now }).await?;
        Ok(outcomes.into_iter().next().unwrap_or(Err(LeaseLost)))
    }

    fn was_redriven(&self, receipt: Receipt) -> bool {
        self.memory().redriven.contains(&receipt)
    }
}

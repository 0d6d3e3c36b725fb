//! Bugs of claims.

use std::time::Duration;

use pgqrs::{
    BatchSize, Claim, Claimed, Error, QueueChanges, QueueFilter, QueueState, Result, UpdateQueue,
    VisibilityTimeout, WorkerState,
};

use super::{Mutant, Mutated};

impl Mutated {
    pub(super) async fn buggy_claim(&self, mut claim: Claim) -> Result<Claimed> {
        match self.mutant {
            Mutant::LimitExceeded => {
                claim.limit = BatchSize::new(claim.limit.count() + 1).unwrap_or(claim.limit);
                self.store.claim(claim).await
            }
            Mutant::LeasesOverlap => self.claim_again(claim).await,
            Mutant::NeverRedelivered => {
                let asked = claim.timeout.unwrap_or_default().duration();
                claim.timeout = Some(VisibilityTimeout::MAX);
                let mut claimed = self.store.claim(claim).await?;
                for message in &mut claimed.messages {
                    message.visible_at = message.claimed_at + asked;
                }
                Ok(claimed)
            }
            Mutant::ExpiryTruncated => {
                let seconds = claim.timeout.unwrap_or_default().duration().as_secs();
                let whole = VisibilityTimeout::new(Duration::from_secs(seconds));
                claim.timeout = Some(whole.unwrap_or(VisibilityTimeout::MIN));
                self.store.claim(claim).await
            }
            Mutant::OrderIgnored => {
                let mut claimed = self.store.claim(claim).await?;
                claimed.messages.reverse();
                Ok(claimed)
            }
            Mutant::PriorityIgnored => {
                let mut claimed = self.store.claim(claim).await?;
                claimed.messages.sort_unstable_by_key(|message| message.id);
                Ok(claimed)
            }
            Mutant::SuspendedServed | Mutant::ZombieServed => self.claim_unready(claim).await,
            Mutant::PausedServes => self.claim_paused(claim).await,
            _ => self.store.claim(claim).await,
        }
    }

    async fn claim_again(&self, claim: Claim) -> Result<Claimed> {
        let queue = claim.queue.clone();
        let mut claimed = self.store.claim(claim).await?;
        let mut memory = self.memory();
        match claimed.messages.last() {
            Some(last) => memory.claimed = Some(last.clone()),
            None => {
                let last = memory.claimed.take().filter(|last| last.queue == queue);
                claimed.messages.extend(last);
            }
        }
        Ok(claimed)
    }

    async fn claim_unready(&self, mut claim: Claim) -> Result<Claimed> {
        let refused = match self.store.claim(claim.clone()).await {
            Err(refused @ Error::WorkerNotReady { .. }) => refused,
            answer => return answer,
        };
        let worker = claim.worker;
        match refused {
            Error::WorkerNotReady { state: WorkerState::Suspended, .. }
                if self.mutant == Mutant::SuspendedServed =>
            {
                claim.worker = None;
            }
            Error::WorkerNotReady { replaced_by: Some(successor), .. }
                if self.mutant == Mutant::ZombieServed =>
            {
                claim.worker = Some(successor);
            }
            refused => return Err(refused),
        }
        let mut claimed = self.store.claim(claim).await?;
        claimed.messages.iter_mut().for_each(|message| message.worker = worker);
        Ok(claimed)
    }

    async fn claim_paused(&self, claim: Claim) -> Result<Claimed> {
        let queue = claim.queue.clone();
        let found = self.store.queues(QueueFilter::named(queue.clone())).await?.pop();
        let Some(QueueState::Paused) = found.map(|queue| queue.settings.state) else {
            return self.store.claim(claim).await;
        };
        self.set_state(&queue, QueueState::Active).await?;
        let claimed = self.store.claim(claim).await;
        self.set_state(&queue, QueueState::Paused).await?;
        claimed
    }

    async fn set_state(&self, queue: &pgqrs::QueueName, state: QueueState) -> Result<()> {
        let changes = QueueChanges { state: Some(state), ..QueueChanges::default() };
        self.store.update_queue(UpdateQueue { queue: queue.clone(), changes }).await.map(drop)
    }
}

//! The model's claims: the store chooses, the rules V1, V2, V5 and A4 judge, the model adopts.

use std::collections::HashSet;

use pgqrs::{
    BURIED_PER_CLAIM, BatchSize, Claim, Claimed, LEASE_EXPIRED, Message, MessageFilter, MessageId,
    MessageState, Page, Support, VisibilityTimeout, WorkerId, WorkerState,
};

use super::{
    order::{self, Candidate, Past},
    program::Claimant,
    run::{Check, Run, nth_newest, refused, refused_as_not_ready, same, unexpected},
};

impl Run<'_> {
    pub(super) async fn claim(
        &mut self,
        by: Claimant,
        limit: BatchSize,
        timeout: Option<VisibilityTimeout>,
    ) -> Check {
        let worker = self.claimant(by).await?;
        let command =
            Claim { queue: self.queue.clone(), worker, limit, timeout, now: Some(self.now) };
        let answer = self.store.claim(command).await;
        if let Some(id) = worker {
            let Some(record) = self.spec.workers.get(&id) else {
                return refused(
                    "WorkerNotFound",
                    answer,
                    |error| matches!(error, pgqrs::Error::WorkerNotFound { worker } if *worker == id),
                );
            };
            if record.state != WorkerState::Ready {
                return refused_as_not_ready(record, answer);
            }
        }
        let claimed = answer.map_err(unexpected("claim"))?;
        if self.spec.is_paused() {
            same("Q1: a paused queue hands out", &0, &claimed.messages.len())?;
        } else {
            self.judge(&claimed, limit)?;
        }
        let timeout = timeout.unwrap_or(self.spec.settings.visibility_timeout);
        for message in &claimed.messages {
            self.adopt(message, worker, timeout)?;
        }
        self.adopt_buried().await
    }

    async fn claimant(&mut self, by: Claimant) -> Check<Option<WorkerId>> {
        if self.store.capabilities().workers == Support::Missing {
            return Ok(None);
        }
        match by {
            Claimant::Ephemeral => Ok(None),
            Claimant::Registration(place) => Ok(nth_newest(&self.registrations, place)),
            Claimant::Slot(slot) => match self.slots[slot] {
                Some(worker) => Ok(Some(worker)),
                None => self.register(slot, None).await.map(Some),
            },
        }
    }

    /// V1 and V5: as many as are ready, up to the limit, ready ones only, in order.
    fn judge(&self, claimed: &Claimed, limit: BatchSize) -> Check {
        let ready = self.candidates();
        let batch: Vec<_> = claimed.messages.iter().map(|message| message.id).collect();
        let known: HashSet<_> = ready.iter().map(|candidate| candidate.id).collect();
        let mut seen = HashSet::new();
        for id in &batch {
            if !known.contains(id) || !seen.insert(*id) {
                return Err(format!("V1, V3: message {id} of {batch:?} was not ready"));
            }
        }
        let most = limit.count().min(ready.len());
        same("V1, V4, E3: how many were claimed", &most, &batch.len())?;
        order::check(&ready, &batch)?;
        let next = self.next_due();
        match claimed.due_in {
            Some(due) if !batch.is_empty() || Some(self.now + due) != next => {
                Err(format!("due_in is {due:?}, expected {next:?} at {}", self.now))
            }
            _ => Ok(()),
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let live = self.spec.live.values();
        let ready = live.filter(|live| live.state(self.now) == MessageState::Ready);
        let candidate = |live: &super::spec::Live| Candidate {
            id: live.row.id,
            priority: live.row.priority,
            enqueued_at: live.row.enqueued_at,
            ready_at: live.row.visible_at,
            past: live.past,
        };
        ready.map(candidate).collect()
    }

    /// The next moment at which a message becomes ready by itself.
    fn next_due(&self) -> Option<chrono::DateTime<chrono::Utc>> {
        let waiting = self.spec.live.values().map(|live| &live.row).filter(|row| {
            row.visible_at > self.now && (row.receipt.is_none() || row.attempts < row.max_attempts)
        });
        waiting.map(|row| row.visible_at).min()
    }

    /// V2: the message as claimed; then it is the model's too.
    fn adopt(
        &mut self,
        message: &Message,
        worker: Option<WorkerId>,
        timeout: VisibilityTimeout,
    ) -> Check {
        let Some(live) = self.spec.live.get_mut(&message.id) else {
            return Err(format!("V1: message {} is not live", message.id));
        };
        let row = &mut live.row;
        row.attempts += 1;
        row.visible_at = self.now + timeout.duration();
        row.worker = worker;
        row.receipt = Some(message.receipt);
        live.claimed_at = Some(self.now);
        live.past = Past::Leased(self.now);
        let parse = |error: pgqrs::Error| error.to_string();
        let expected = Message {
            id: row.id,
            queue: row.queue.clone(),
            payload: row.payload.parse().map_err(parse)?,
            headers: match &row.headers {
                Some(headers) => headers.parse().map_err(parse)?,
                None => serde_json::Map::new(),
            },
            priority: row.priority,
            enqueued_at: row.enqueued_at,
            claimed_at: self.now,
            visible_at: row.visible_at,
            attempts: row.attempts,
            max_attempts: row.max_attempts,
            worker,
            last_error: row.last_error.clone(),
            receipt: message.receipt,
        };
        same("V2: a claimed message", &expected, message)?;
        same("V2: whose receipt", &message.id, &message.receipt.id)?;
        let earlier = self.spec.tokens.insert(message.id, message.receipt.token);
        if earlier.is_some_and(|earlier| earlier >= message.receipt.token) {
            return Err(format!("V2: token {:?} is not above {earlier:?}", message.receipt));
        }
        self.spec.receipts.push(message.receipt);
        Ok(())
    }

    /// A4: a claim may bury some of the messages whose last attempt has expired.
    async fn adopt_buried(&mut self) -> Check {
        let spent = self.spec.spent(self.now);
        if spent.is_empty() {
            return Ok(());
        }
        let filter = MessageFilter {
            queue: Some(self.queue.clone()),
            page: Page::first(BatchSize::MAX),
            now: Some(self.now),
            ..MessageFilter::default()
        };
        let live = self.store.messages(filter).await.map_err(unexpected("messages"))?;
        let live: HashSet<MessageId> = live.iter().map(|row| row.id).collect();
        let buried: Vec<_> = spent.into_iter().filter(|id| !live.contains(id)).collect();
        if buried.len() > BURIED_PER_CLAIM {
            return Err(format!("A4: a claim buried {} messages", buried.len()));
        }
        buried.into_iter().for_each(|id| self.spec.bury(id, LEASE_EXPIRED, self.now));
        Ok(())
    }
}

//! The claim: take in what became ready, then lease from the front.

use chrono::{DateTime, Utc};

use super::state::{Lease, Live, State, elapsed};
use crate::{
    BURIED_PER_CLAIM, Claim, Claimed, Json, LEASE_EXPIRED, Message, MessageId, QueueName,
    QueueState, Receipt, Result, WorkerState, parse_stored,
};

impl State {
    pub(super) fn claim(&mut self, claim: &Claim, now: DateTime<Utc>) -> Result<Claimed> {
        let settings = self.queue(&claim.queue)?.queue.settings.clone();
        if let Some(id) = claim.worker {
            let worker = self.worker(id, &claim.queue)?;
            if worker.state != WorkerState::Ready {
                return Err(worker.not_ready());
            }
        }
        if settings.state == QueueState::Paused {
            return Ok(Claimed::default());
        }
        self.take_in(&claim.queue, now)?;
        let timeout = claim.timeout.unwrap_or(settings.visibility_timeout);
        let ready = &self.queue(&claim.queue)?.ready;
        let first: Vec<_> = ready.iter().take(claim.limit.count()).map(|(_, _, id)| *id).collect();
        let mut messages = Vec::with_capacity(first.len());
        for id in first {
            let token = self.next();
            let Some(mut live) = self.take(id) else {
                continue;
            };
            live.attempts += 1;
            live.visible_at = now + timeout.duration();
            live.pos = token;
            live.lease = Some(Lease { token, worker: claim.worker, claimed_at: now });
            let message = parse(id, &live, token, now);
            self.place(id, live, now);
            match message {
                Ok(message) => messages.push(message),
                Err(error) => self.bury_with(id, &error, now),
            }
        }
        let next_due = if messages.is_empty() { self.next_due(&claim.queue, now) } else { None };
        let due_in = next_due.map(|due| elapsed(now, due));
        Ok(Claimed { messages, due_in })
    }

    /// Moves what is due from the waiting to the ready ones, and buries spent leases.
    fn take_in(&mut self, queue: &QueueName, now: DateTime<Utc>) -> Result<()> {
        let waiting = &self.queue(queue)?.waiting;
        let due: Vec<_> = waiting.range(..=(now, MessageId(i64::MAX))).map(|(_, id)| *id).collect();
        let mut buried = 0;
        for id in due {
            let is_spent = |live: &Live| live.lease.is_some() && live.attempts >= live.max_attempts;
            if !self.live.get(&id).is_some_and(is_spent) {
                if let Some(live) = self.take(id) {
                    self.place(id, live, now);
                }
            } else if buried < BURIED_PER_CLAIM {
                self.bury_with(id, LEASE_EXPIRED, now);
                buried += 1;
            }
        }
        Ok(())
    }

    fn next_due(&self, queue: &QueueName, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let waiting = &self.queues.get(queue)?.waiting;
        let later = waiting.range((now, MessageId(i64::MAX))..);
        let wakes = |id: &MessageId| {
            let live = self.live.get(id);
            live.is_some_and(|live| live.lease.is_none() || live.attempts < live.max_attempts)
        };
        later.filter(|(_, id)| wakes(id)).map(|(at, _)| *at).next()
    }
}

/// The message as its consumer sees it, or why it cannot be read (E5).
fn parse(id: MessageId, live: &Live, token: i64, now: DateTime<Utc>) -> Result<Message, String> {
    let headers = live.headers.as_ref().map(Json::as_str);
    let (payload, headers) = parse_stored(live.payload.as_str(), headers)?;
    Ok(Message {
        id,
        queue: live.queue.clone(),
        payload,
        headers,
        priority: live.priority,
        enqueued_at: live.enqueued_at,
        claimed_at: now,
        visible_at: live.visible_at,
        attempts: live.attempts,
        max_attempts: live.max_attempts,
        worker: live.lease.and_then(|lease| lease.worker),
        last_error: live.last_error.clone(),
        receipt: Receipt { id, token },
    })
}

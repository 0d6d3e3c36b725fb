//! What the in-memory store holds, and the moves of a message between ready, waiting and archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};

use crate::{
    Action, ArchivedMessage, DeadLetters, Enqueue, Error, Json, LEASE_EXPIRED, LeaseLost,
    LiveMessage, MessageId, MessageState, Outcome, Priority, Queue, QueueMetrics, QueueName,
    Receipt, Redrive, Result, Retention, RetryDecision, Settled, Settlement, StoreSettings,
    WorkerCounts, WorkerId, WorkerRecord, WorkerState, cut_error,
};

#[derive(Debug, Default)]
pub(super) struct State {
    /// The last number given out: message ids, claim tokens and worker ids share one sequence.
    sequence: i64,
    pub(super) settings: StoreSettings,
    pub(super) queues: BTreeMap<QueueName, QueueData>,
    pub(super) live: BTreeMap<MessageId, Live>,
    pub(super) archive: BTreeMap<MessageId, ArchivedMessage>,
    pub(super) workers: BTreeMap<WorkerId, WorkerRecord>,
}

/// A queue, and its live messages in the two orders that claims need. A live message stands in
/// exactly one of them.
#[derive(Debug)]
pub(super) struct QueueData {
    pub(super) queue: Queue,
    /// What claims walk: most urgent first, then by position.
    pub(super) ready: BTreeSet<(std::cmp::Reverse<Priority>, i64, MessageId)>,
    /// Delayed and leased messages by the end of their delay or lease.
    pub(super) waiting: BTreeSet<(DateTime<Utc>, MessageId)>,
}

#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) queue: QueueName,
    pub(super) payload: Json,
    pub(super) headers: Option<Json>,
    pub(super) priority: Priority,
    pub(super) enqueued_at: DateTime<Utc>,
    pub(super) visible_at: DateTime<Utc>,
    pub(super) attempts: u32,
    pub(super) max_attempts: u32,
    pub(super) last_error: Option<String>,
    /// The order among ready messages of one priority.
    pub(super) pos: i64,
    /// The lease whose receipt is current, expired or not.
    pub(super) lease: Option<Lease>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) token: i64,
    pub(super) worker: Option<WorkerId>,
    pub(super) claimed_at: DateTime<Utc>,
}

#[derive(Debug, Default)]
pub(super) struct Freed {
    pub(super) released: u64,
    pub(super) buried: u64,
}

impl State {
    pub(super) fn next(&mut self) -> i64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn queue(&self, name: &QueueName) -> Result<&QueueData> {
        self.queues.get(name).ok_or_else(|| Error::QueueNotFound { queue: name.clone() })
    }

    pub(super) fn queue_mut(&mut self, name: &QueueName) -> Result<&mut QueueData> {
        self.queues.get_mut(name).ok_or_else(|| Error::QueueNotFound { queue: name.clone() })
    }

    pub(super) fn worker(&self, id: WorkerId, queue: &QueueName) -> Result<&WorkerRecord> {
        self.queue(queue)?;
        let worker = self.workers.get(&id).filter(|worker| worker.queue == *queue);
        worker.ok_or(Error::WorkerNotFound { worker: id })
    }

    pub(super) fn enqueue(
        &mut self,
        enqueue: Enqueue,
        now: DateTime<Utc>,
    ) -> Result<Vec<MessageId>> {
        let settings = self.queue(&enqueue.queue)?.queue.settings.clone();
        enqueue.check(self.settings.payload_limit)?;
        let mut ids = Vec::with_capacity(enqueue.messages.len());
        for message in enqueue.messages {
            let id = MessageId(self.next());
            let live = Live {
                queue: enqueue.queue.clone(),
                payload: message.payload,
                headers: message.headers,
                priority: message.priority,
                enqueued_at: now,
                visible_at: now + message.delay.duration(),
                attempts: 0,
                max_attempts: message.max_attempts.unwrap_or(settings.max_attempts),
                last_error: None,
                pos: id.0,
                lease: None,
            };
            self.place(id, live, now);
            ids.push(id);
        }
        Ok(ids)
    }

    pub(super) fn settle(
        &mut self,
        settlement: Settlement,
        now: DateTime<Utc>,
    ) -> Result<Settled, LeaseLost> {
        let Settlement { receipt, action } = settlement;
        let id = receipt.id;
        let held = self.live.get(&id).and_then(|live| live.lease);
        if held.is_none_or(|lease| lease.token != receipt.token) {
            return match action {
                Action::Archive if self.is_archived_as(receipt, now) => Ok(Settled::Archived),
                _ => Err(LeaseLost),
            };
        }
        let Some(mut live) = self.take(id) else {
            return Err(LeaseLost);
        };
        Ok(match action {
            Action::Archive => {
                self.bury(id, live, Outcome::Done, now);
                Settled::Archived
            }
            Action::Delete => Settled::Deleted,
            Action::Release(delay) => {
                live.attempts -= 1;
                self.let_go(id, live, now + delay.duration(), now);
                Settled::Released
            }
            Action::Fail { error, retry } => {
                live.last_error = Some(cut_error(&error));
                match retry {
                    RetryDecision::RetryAfter(delay) if live.attempts < live.max_attempts => {
                        self.let_go(id, live, now + delay.duration(), now);
                        Settled::Retrying
                    }
                    _ => {
                        self.bury(id, live, Outcome::Dead, now);
                        Settled::Dead
                    }
                }
            }
            Action::Extend(timeout) => {
                live.visible_at = now + timeout.duration();
                let visible_at = live.visible_at;
                self.place(id, live, now);
                Settled::Extended(visible_at)
            }
        })
    }

    pub(super) fn redrive(
        &mut self,
        redrive: &Redrive,
        now: DateTime<Utc>,
    ) -> Result<Vec<MessageId>> {
        self.queue(&redrive.queue)?;
        let is_letter = |message: &&ArchivedMessage| {
            message.queue == redrive.queue
                && message.outcome == Outcome::Dead
                && self.is_retained(message, now)
        };
        let mut ids: Vec<_> = match &redrive.letters {
            DeadLetters::Oldest(limit) => {
                let letters = self.archive.values().filter(is_letter);
                letters.map(|message| message.id).take(limit.count()).collect()
            }
            DeadLetters::Ids(ids) => {
                let letters = ids.iter().filter_map(|id| self.archive.get(id));
                letters.filter(is_letter).map(|message| message.id).collect()
            }
        };
        ids.sort_unstable();
        ids.dedup();
        for id in &ids {
            let Some(letter) = self.archive.remove(id) else {
                continue;
            };
            let live = Live {
                queue: letter.queue,
                payload: letter.payload,
                headers: letter.headers,
                priority: letter.priority,
                enqueued_at: letter.enqueued_at,
                visible_at: now,
                attempts: 0,
                max_attempts: letter.max_attempts,
                last_error: letter.last_error,
                pos: 0,
                lease: None,
            };
            self.let_go(*id, live, now, now);
        }
        Ok(ids)
    }

    /// Turns up to `limit` messages whose lease expired on the last attempt into dead letters.
    pub(super) fn bury_expired(&mut self, limit: usize, now: DateTime<Utc>) -> u64 {
        let is_spent = |(_, live): &(&MessageId, &Live)| {
            live.lease.is_some() && live.visible_at <= now && live.attempts >= live.max_attempts
        };
        let spent = self.live.iter().filter(is_spent).map(|(id, _)| *id);
        let spent: Vec<_> = spent.take(limit).collect();
        for id in &spent {
            self.bury_with(*id, LEASE_EXPIRED, now);
        }
        spent.len() as u64
    }

    pub(super) fn bury_with(&mut self, id: MessageId, error: &str, now: DateTime<Utc>) {
        if let Some(mut live) = self.take(id) {
            live.last_error = Some(cut_error(error));
            self.bury(id, live, Outcome::Dead, now);
        }
    }

    pub(super) fn stop(&mut self, worker: WorkerId, now: DateTime<Utc>) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.state = WorkerState::Stopped;
            worker.stopped_at = Some(now);
        }
    }

    /// Gives back what a worker holds, attempts included: a graceful stop.
    pub(super) fn release_held(&mut self, worker: WorkerId, now: DateTime<Utc>) {
        for id in self.held_by(worker) {
            if let Some(mut live) = self.take(id) {
                live.attempts -= 1;
                self.let_go(id, live, now, now);
            }
        }
    }

    /// Frees what a dead or replaced worker holds; the attempts count.
    pub(super) fn free_counted(
        &mut self,
        worker: WorkerId,
        error: &str,
        now: DateTime<Utc>,
    ) -> Freed {
        let mut freed = Freed::default();
        for id in self.held_by(worker) {
            let Some(live) = self.take(id) else { continue };
            if live.attempts >= live.max_attempts {
                let live = Live { last_error: Some(error.to_owned()), ..live };
                self.bury(id, live, Outcome::Dead, now);
                freed.buried += 1;
            } else {
                self.let_go(id, live, now, now);
                freed.released += 1;
            }
        }
        freed
    }

    pub(super) fn is_retained(&self, message: &ArchivedMessage, now: DateTime<Utc>) -> bool {
        let settings = self.queues.get(&message.queue).map(|data| &data.queue.settings);
        match settings.map(|settings| settings.retention) {
            Some(Retention::For(age)) => elapsed(message.archived_at, now) < age,
            _ => true,
        }
    }

    pub(super) fn metrics(&self, data: &QueueData, now: DateTime<Utc>) -> QueueMetrics {
        let name = &data.queue.name;
        let mut metrics = QueueMetrics {
            queue: name.clone(),
            ready: 0,
            delayed: 0,
            leased: 0,
            archived: 0,
            dead: 0,
            oldest_ready_at: None,
            now,
            workers: WorkerCounts::default(),
        };
        for live in self.live.values().filter(|live| live.queue == *name) {
            match live.state(now) {
                MessageState::Delayed => metrics.delayed += 1,
                MessageState::Leased => metrics.leased += 1,
                MessageState::Ready => {
                    metrics.ready += 1;
                    let oldest = metrics.oldest_ready_at.unwrap_or(live.visible_at);
                    metrics.oldest_ready_at = Some(oldest.min(live.visible_at));
                }
            }
        }
        let archive = self.archive.values().filter(|message| message.queue == *name);
        for message in archive.filter(|message| self.is_retained(message, now)) {
            match message.outcome {
                Outcome::Done => metrics.archived += 1,
                Outcome::Dead => metrics.dead += 1,
            }
        }
        for worker in self.workers.values().filter(|worker| worker.queue == *name) {
            match worker.state {
                WorkerState::Ready => metrics.workers.ready += 1,
                WorkerState::Suspended => metrics.workers.suspended += 1,
                WorkerState::Stopped => metrics.workers.stopped += 1,
            }
        }
        metrics
    }

    /// Puts a message among the ready or the waiting ones.
    pub(super) fn place(&mut self, id: MessageId, live: Live, now: DateTime<Utc>) {
        if let Some(data) = self.queues.get_mut(&live.queue) {
            if live.visible_at > now {
                data.waiting.insert((live.visible_at, id));
            } else {
                data.ready.insert((std::cmp::Reverse(live.priority), live.pos, id));
            }
        }
        self.live.insert(id, live);
    }

    /// Takes a message out of `live` and its queue's orders.
    pub(super) fn take(&mut self, id: MessageId) -> Option<Live> {
        let live = self.live.remove(&id)?;
        if let Some(data) = self.queues.get_mut(&live.queue) {
            data.waiting.remove(&(live.visible_at, id));
            data.ready.remove(&(std::cmp::Reverse(live.priority), live.pos, id));
        }
        Some(live)
    }

    fn let_go(&mut self, id: MessageId, live: Live, visible_at: DateTime<Utc>, now: DateTime<Utc>) {
        let pos = self.next();
        self.place(id, Live { visible_at, pos, lease: None, ..live }, now);
    }

    fn bury(&mut self, id: MessageId, live: Live, outcome: Outcome, now: DateTime<Utc>) {
        let claimed_at = live.lease.map(|lease| lease.claimed_at);
        self.archive.insert(id, live.into_row(id, now).into_archived(outcome, claimed_at, now));
    }

    fn is_archived_as(&self, receipt: Receipt, now: DateTime<Utc>) -> bool {
        self.archive.get(&receipt.id).is_some_and(|message| {
            message.outcome == Outcome::Done
                && message.receipt == Some(receipt)
                && self.is_retained(message, now)
        })
    }

    fn held_by(&self, worker: WorkerId) -> Vec<MessageId> {
        let is_held = |live: &Live| live.lease.is_some_and(|lease| lease.worker == Some(worker));
        self.live.iter().filter(|(_, live)| is_held(live)).map(|(id, _)| *id).collect()
    }
}

impl QueueData {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue, ready: BTreeSet::new(), waiting: BTreeSet::new() }
    }

    pub(super) fn forget_live(&mut self) {
        self.ready.clear();
        self.waiting.clear();
    }
}

impl Live {
    pub(super) fn state(&self, now: DateTime<Utc>) -> MessageState {
        let is_waiting = self.visible_at > now;
        match self.lease {
            Some(_) if is_waiting || self.attempts >= self.max_attempts => MessageState::Leased,
            None if is_waiting => MessageState::Delayed,
            _ => MessageState::Ready,
        }
    }

    pub(super) fn read(&self, id: MessageId, now: DateTime<Utc>) -> LiveMessage {
        self.clone().into_row(id, now)
    }

    fn into_row(self, id: MessageId, now: DateTime<Utc>) -> LiveMessage {
        LiveMessage {
            id,
            state: self.state(now),
            queue: self.queue,
            payload: self.payload,
            headers: self.headers,
            priority: self.priority,
            enqueued_at: self.enqueued_at,
            visible_at: self.visible_at,
            attempts: self.attempts,
            max_attempts: self.max_attempts,
            worker: self.lease.and_then(|lease| lease.worker),
            last_error: self.last_error,
            receipt: self.lease.map(|lease| Receipt { id, token: lease.token }),
        }
    }
}

/// The time from `since` to `now`; zero if `since` lies ahead.
pub(super) fn elapsed(since: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - since).to_std().unwrap_or_default()
}

//! The model: what a queue, its messages and its workers must look like after each command.
//!
//! It says nothing of how a store works; it holds the rows that reads must show, and one rule per
//! clause of the contract.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use pgqrs::{
    Action, ArchivedMessage, LEASE_EXPIRED, LeaseLost, LiveMessage, MAX_ERROR_BYTES, MessageId,
    MessageState, Outcome, PurgeScope, QueueMetrics, QueueName, QueueSettings, QueueState, Receipt,
    RetryDecision, STOPPED_WORKERS_KEPT, Settled, Settlement, Swept, WORKER_DEAD, WorkerCounts,
    WorkerId, WorkerRecord, WorkerState,
};

use super::order::Past;

/// One queue.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) queue: QueueName,
    pub(super) settings: QueueSettings,
    pub(super) live: BTreeMap<MessageId, Live>,
    pub(super) archive: BTreeMap<MessageId, ArchivedMessage>,
    pub(super) workers: BTreeMap<WorkerId, WorkerRecord>,
    /// The newest message id.
    pub(super) newest: Option<MessageId>,
    /// Every receipt ever issued, in order.
    pub(super) receipts: Vec<Receipt>,
    /// The newest token of every message ever claimed.
    pub(super) tokens: HashMap<MessageId, i64>,
    /// Dead letters buried by a sweep that had two reasons to; either may be named.
    pub(super) two_reasons: HashSet<MessageId>,
}

/// A live message.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// The row, except for `state`, which depends on the moment of the read.
    pub(super) row: LiveMessage,
    pub(super) claimed_at: Option<DateTime<Utc>>,
    pub(super) past: Past,
}

/// What becomes of the attempt when a worker's message is freed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attempt {
    /// It does not count.
    GivenBack,
    /// It counts; at the maximum the message becomes a dead letter with this error.
    Counted(&'static str),
}

/// What was freed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Freed {
    pub(super) released: u64,
    pub(super) buried: u64,
}

impl Live {
    pub(super) fn state(&self, now: DateTime<Utc>) -> MessageState {
        let row = &self.row;
        match (row.receipt, row.visible_at > now) {
            (Some(_), true) => MessageState::Leased,
            (Some(_), false) if row.attempts >= row.max_attempts => MessageState::Leased,
            (None, true) => MessageState::Delayed,
            (_, false) => MessageState::Ready,
        }
    }

    /// Its lease has expired on its last attempt, and nobody has buried it yet.
    pub(super) fn is_spent(&self, now: DateTime<Utc>) -> bool {
        self.state(now) == MessageState::Leased && self.row.visible_at <= now
    }

    /// Nobody holds it any more; it is claimable from `visible_at` on.
    fn let_go(&mut self, visible_at: DateTime<Utc>) {
        self.row.receipt = None;
        self.row.worker = None;
        self.row.visible_at = visible_at;
    }
}

impl Spec {
    pub(super) fn new(queue: QueueName, settings: QueueSettings) -> Self {
        Self {
            queue,
            settings,
            live: BTreeMap::new(),
            archive: BTreeMap::new(),
            workers: BTreeMap::new(),
            newest: None,
            receipts: Vec::new(),
            tokens: HashMap::new(),
            two_reasons: HashSet::new(),
        }
    }

    /// The live rows as a read at `now` shows them.
    pub(super) fn messages(&self, now: DateTime<Utc>) -> Vec<LiveMessage> {
        let row = |live: &Live| LiveMessage { state: live.state(now), ..live.row.clone() };
        self.live.values().map(row).collect()
    }

    /// The archived rows as a read at `now` shows them.
    pub(super) fn archived(&self, now: DateTime<Utc>) -> Vec<ArchivedMessage> {
        self.archive.values().filter(|row| self.is_retained(row, now)).cloned().collect()
    }

    pub(super) fn metrics(&self, now: DateTime<Utc>) -> QueueMetrics {
        let live = self.messages(now);
        let archived = self.archived(now);
        let in_state = |state| live.iter().filter(|row| row.state == state).count() as u64;
        let ended = |outcome| archived.iter().filter(|row| row.outcome == outcome).count() as u64;
        let working =
            |state| self.workers.values().filter(|worker| worker.state == state).count() as u64;
        let ready = live.iter().filter(|row| row.state == MessageState::Ready);
        QueueMetrics {
            queue: self.queue.clone(),
            ready: in_state(MessageState::Ready),
            delayed: in_state(MessageState::Delayed),
            leased: in_state(MessageState::Leased),
            archived: ended(Outcome::Done),
            dead: ended(Outcome::Dead),
            oldest_ready_at: ready.map(|row| row.visible_at).min(),
            now,
            workers: WorkerCounts {
                ready: working(WorkerState::Ready),
                suspended: working(WorkerState::Suspended),
                stopped: working(WorkerState::Stopped),
            },
        }
    }

    /// A2: whether a read at `now` shows it.
    pub(super) fn is_retained(&self, row: &ArchivedMessage, now: DateTime<Utc>) -> bool {
        self.settings.retention.micros().is_none_or(|age| row.archived_at > now - micros(age))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.settings.state == QueueState::Paused
    }

    /// Instants after `now` at which something changes by itself, in order.
    pub(super) fn instants(&self, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let visible = self.live.values().map(|live| live.row.visible_at);
        let age = self.settings.retention.micros();
        let kept = self.archive.values().filter_map(|row| Some(row.archived_at + micros(age?)));
        let silent = self.workers.values().filter(|worker| worker.state != WorkerState::Stopped);
        let silent =
            silent.filter_map(|worker| Some(worker.heartbeat_at + worker.heartbeat_timeout?));
        let stopped = self.workers.values().filter_map(|worker| worker.stopped_at);
        let stopped = stopped.map(|at| at + STOPPED_WORKERS_KEPT);
        let mut all: Vec<_> = visible.chain(kept).chain(silent).chain(stopped).collect();
        all.retain(|instant| *instant > now);
        all.sort_unstable();
        all.dedup();
        all
    }

    /// S1 to S7, one settlement.
    pub(super) fn settle(
        &mut self,
        settlement: &Settlement,
        now: DateTime<Utc>,
    ) -> Result<Settled, LeaseLost> {
        let Receipt { id, .. } = settlement.receipt;
        let current = |live: &&mut Live| live.row.receipt == Some(settlement.receipt);
        let Some(live) = self.live.get_mut(&id).filter(current) else {
            return self.settle_again(settlement, now);
        };
        Ok(match &settlement.action {
            Action::Archive => {
                let error = live.row.last_error.clone();
                self.end(id, Outcome::Done, error, now);
                Settled::Archived
            }
            Action::Delete => {
                self.live.remove(&id);
                Settled::Deleted
            }
            Action::Release(delay) => {
                live.row.attempts -= 1;
                live.let_go(now + delay.duration());
                Settled::Released
            }
            Action::Fail { error, retry } => {
                let error = Some(cut(error));
                match retry {
                    RetryDecision::RetryAfter(delay)
                        if live.row.attempts < live.row.max_attempts =>
                    {
                        live.row.last_error = error;
                        live.let_go(now + delay.duration());
                        Settled::Retrying
                    }
                    _ => {
                        self.end(id, Outcome::Dead, error, now);
                        Settled::Dead
                    }
                }
            }
            Action::Extend(timeout) => {
                live.row.visible_at = now + timeout.duration();
                Settled::Extended(live.row.visible_at)
            }
        })
    }

    /// S3: an archive may be repeated while the archive holds the message under that token.
    fn settle_again(
        &self,
        settlement: &Settlement,
        now: DateTime<Utc>,
    ) -> Result<Settled, LeaseLost> {
        let row = self.archive.get(&settlement.receipt.id).ok_or(LeaseLost)?;
        let same = row.receipt == Some(settlement.receipt) && row.outcome == Outcome::Done;
        match settlement.action {
            Action::Archive if same && self.is_retained(row, now) => Ok(Settled::Archived),
            _ => Err(LeaseLost),
        }
    }

    /// Moves a live message to the archive as a dead letter.
    pub(super) fn bury(&mut self, id: MessageId, error: &str, now: DateTime<Utc>) {
        self.end(id, Outcome::Dead, Some(error.to_owned()), now);
    }

    fn end(&mut self, id: MessageId, outcome: Outcome, error: Option<String>, now: DateTime<Utc>) {
        let Some(Live { row, claimed_at, .. }) = self.live.remove(&id) else { return };
        let ended = ArchivedMessage {
            id,
            queue: row.queue,
            outcome,
            payload: row.payload,
            headers: row.headers,
            priority: row.priority,
            enqueued_at: row.enqueued_at,
            claimed_at,
            archived_at: now,
            attempts: row.attempts,
            max_attempts: row.max_attempts,
            worker: row.worker,
            last_error: error,
            receipt: row.receipt,
        };
        self.archive.insert(id, ended);
    }

    /// A3: makes a dead letter live again.
    pub(super) fn redrive(&mut self, id: MessageId, now: DateTime<Utc>) {
        let Some(row) = self.archive.remove(&id) else { return };
        self.two_reasons.remove(&id);
        let past = row.claimed_at.map_or(Past::Due, Past::Leased);
        let live = LiveMessage {
            id,
            queue: row.queue,
            state: MessageState::Ready,
            payload: row.payload,
            headers: row.headers,
            priority: row.priority,
            enqueued_at: row.enqueued_at,
            visible_at: now,
            attempts: 0,
            max_attempts: row.max_attempts,
            worker: None,
            last_error: row.last_error,
            receipt: None,
        };
        self.live.insert(id, Live { row: live, claimed_at: row.claimed_at, past });
    }

    /// Removes what `scope` names; returns how many of them reads showed, and how many not.
    pub(super) fn purge(&mut self, scope: PurgeScope, now: DateTime<Utc>) -> (u64, u64) {
        let PurgeScope::Archived(outcome) = scope else {
            let count = self.live.len() as u64;
            self.live.clear();
            return (count, 0);
        };
        let gone: Vec<_> =
            self.archive.values().filter(|row| row.outcome == outcome).cloned().collect();
        let shown = gone.iter().filter(|row| self.is_retained(row, now)).count() as u64;
        self.archive.retain(|_, row| row.outcome != outcome);
        (shown, gone.len() as u64 - shown)
    }

    /// Stops a worker and frees what it holds (W3, W4, W5).
    pub(super) fn stop(&mut self, id: WorkerId, attempt: Attempt, now: DateTime<Utc>) -> Freed {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.state = WorkerState::Stopped;
            worker.stopped_at = Some(now);
        }
        let held = self.live.values().filter(|live| live.row.worker == Some(id));
        let held: Vec<_> = held.map(|live| live.row.id).collect();
        let mut freed = Freed::default();
        for id in held {
            let Some(live) = self.live.get_mut(&id) else { continue };
            match attempt {
                Attempt::Counted(error) if live.row.attempts >= live.row.max_attempts => {
                    self.bury(id, error, now);
                    freed.buried += 1;
                    continue;
                }
                Attempt::Counted(_) => {}
                Attempt::GivenBack => live.row.attempts -= 1,
            }
            live.let_go(now);
            freed.released += 1;
        }
        freed
    }

    /// What a sweep does that goes on until there is nothing left to do.
    pub(super) fn sweep(&mut self, now: DateTime<Utc>) -> Swept {
        let mut swept = Swept::default();
        let dead = self.workers.values().filter(|worker| {
            let silent = worker.heartbeat_timeout.map(|timeout| worker.heartbeat_at + timeout);
            worker.state != WorkerState::Stopped && silent.is_some_and(|until| until < now)
        });
        let dead: Vec<_> = dead.map(|worker| worker.id).collect();

        let spent: Vec<_> = self.spent(now);
        for id in &spent {
            let holder = self.live.get(id).and_then(|live| live.row.worker);
            if holder.is_some_and(|worker| dead.contains(&worker)) {
                self.two_reasons.insert(*id);
            }
            self.bury(*id, LEASE_EXPIRED, now);
        }
        swept.buried = spent.len() as u64;
        for worker in dead {
            let freed = self.stop(worker, Attempt::Counted(WORKER_DEAD), now);
            swept.workers_stopped += 1;
            swept.released += freed.released;
            swept.buried += freed.buried;
        }

        let kept: BTreeMap<_, _> =
            self.archived(now).into_iter().map(|row| (row.id, row)).collect();
        swept.archive_removed = (self.archive.len() - kept.len()) as u64;
        self.archive = kept;

        let before = self.workers.len();
        self.workers.retain(|_, worker| {
            worker.stopped_at.is_none_or(|stopped| stopped + STOPPED_WORKERS_KEPT > now)
        });
        swept.workers_removed = (before - self.workers.len()) as u64;
        swept
    }

    /// The messages whose lease has expired on the last attempt (A4).
    pub(super) fn spent(&self, now: DateTime<Utc>) -> Vec<MessageId> {
        self.live.values().filter(|live| live.is_spent(now)).map(|live| live.row.id).collect()
    }

    /// The receipts that are current.
    pub(super) fn current(&self) -> Vec<Receipt> {
        self.live.values().filter_map(|live| live.row.receipt).collect()
    }
}

fn micros(micros: i64) -> TimeDelta {
    TimeDelta::microseconds(micros)
}

/// S6: the longest prefix of whole characters within the limit.
fn cut(error: &str) -> String {
    let fits = |end: &usize| *end <= MAX_ERROR_BYTES;
    let ends = error.char_indices().map(|(start, c)| start + c.len_utf8());
    let end = ends.take_while(fits).last().unwrap_or(0);
    error[..end].to_owned()
}

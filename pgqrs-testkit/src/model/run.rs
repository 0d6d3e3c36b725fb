//! Runs a program on a store and on the model, and compares the two after every step.

use std::{fmt::Debug, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use pgqrs::{
    ArchiveFilter, ArchivedMessage, BatchSize, CreateQueue, DeadLetters, DeleteQueue, Enqueue,
    Error, Json, LEASE_EXPIRED, LiveMessage, LiveMessages, MessageFilter, MessageId, MessageState,
    MetricsFilter, NewMessage, Outcome, Page, Purge, PurgeScope, QueueChanges, QueueName,
    QueueSettings, QueueState, Receipt, Redrive, Register, Settle, Settlement, Store, Support,
    Sweep, Swept, Transition, UpdateQueue, WORKER_DEAD, WORKER_REPLACED, WorkerChange,
    WorkerFilter, WorkerId, WorkerKind, WorkerRecord, WorkerState,
};

use super::{
    order::Past,
    program::{Advance, Draft, Pick, SLOTS, Step},
    spec::{Attempt, Live, Spec},
};

/// A difference between store and model, or an error where none is due.
pub(super) type Check<T = ()> = Result<T, String>;

/// One program under way.
pub(super) struct Run<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) queue: QueueName,
    pub(super) now: DateTime<Utc>,
    pub(super) spec: Spec,
    pub(super) slots: [Option<WorkerId>; SLOTS],
    /// Every registration so far.
    pub(super) registrations: Vec<WorkerId>,
    enqueued: u64,
}

impl<'a> Run<'a> {
    pub(super) async fn begin(
        store: &'a Arc<dyn Store>,
        queue: QueueName,
        now: DateTime<Utc>,
    ) -> Check<Self> {
        let settings = QueueSettings { max_attempts: 3, ..QueueSettings::default() };
        let create =
            CreateQueue { queue: queue.clone(), settings: settings.clone(), now: Some(now) };
        store.create_queue(create).await.map_err(unexpected("create_queue"))?;
        Ok(Self {
            store: &**store,
            now,
            slots: [None; SLOTS],
            registrations: Vec::new(),
            enqueued: 0,
            spec: Spec::new(queue.clone(), settings),
            queue,
        })
    }

    /// Leaves nothing behind, so that the next program's sweeps meet only its own rows.
    pub(super) async fn end(&self) -> Check {
        let delete = DeleteQueue { queue: self.queue.clone(), live: LiveMessages::Delete };
        self.store.delete_queue(delete).await.map_err(unexpected("delete_queue"))
    }

    pub(super) async fn step(&mut self, step: &Step) -> Check {
        let can = self.store.capabilities();
        let (workers, redrive) = (can.workers == Support::Full, can.redrive == Support::Full);
        match step {
            Step::Enqueue(drafts) => self.enqueue(drafts).await,
            Step::EnqueueBad(drafts) => self.enqueue_bad(drafts).await,
            Step::Claim { by, limit, timeout } => self.claim(*by, *limit, *timeout).await,
            Step::Settle(settlements) => self.settle(settlements).await,
            Step::Advance(advance) => {
                self.advance(*advance);
                Ok(())
            }
            Step::Register { slot, heartbeat_timeout } if workers => {
                self.register(*slot, *heartbeat_timeout).await.map(drop)
            }
            Step::Crash { slot } => {
                self.slots[*slot] = None;
                Ok(())
            }
            Step::Change { registration, change } if workers => {
                self.change(*registration, *change).await
            }
            Step::Pause => self.update(Some(QueueState::Paused), None).await,
            Step::Unpause => self.update(Some(QueueState::Active), None).await,
            Step::Sweep { limit } => self.sweep(*limit).await,
            Step::RedriveOldest(count) if redrive => self.redrive_oldest(*count).await,
            Step::RedriveOne(place) if redrive => self.redrive_one(*place).await,
            Step::Purge(scope) if redrive => self.purge(*scope).await,
            Step::Retain(retention) if can.retention == Support::Full => {
                self.update(None, Some(*retention)).await
            }
            _ => Ok(()),
        }
    }

    async fn enqueue(&mut self, drafts: &[Draft]) -> Check {
        let messages: Vec<_> = drafts.iter().map(|draft| self.message(draft)).collect();
        let command =
            Enqueue { queue: self.queue.clone(), messages: messages.clone(), now: Some(self.now) };
        let ids = self.store.enqueue(command).await.map_err(unexpected("enqueue"))?;
        same("E1: how many ids", &messages.len(), &ids.len())?;
        for (id, message) in ids.into_iter().zip(messages) {
            let newest = self.spec.newest.replace(id);
            if newest.is_some_and(|newest| newest >= id) {
                return Err(format!("E1: ids must grow; {id} came after {newest:?}"));
            }
            let past = if message.delay == Default::default() { Past::Fresh } else { Past::Due };
            let row = LiveMessage {
                id,
                queue: self.queue.clone(),
                state: MessageState::Ready,
                payload: message.payload,
                headers: message.headers,
                priority: message.priority,
                enqueued_at: self.now,
                visible_at: self.now + message.delay.duration(),
                attempts: 0,
                max_attempts: message.max_attempts.unwrap_or(self.spec.settings.max_attempts),
                worker: None,
                last_error: None,
                receipt: None,
            };
            self.spec.live.insert(id, Live { row, claimed_at: None, past });
        }
        Ok(())
    }

    async fn enqueue_bad(&mut self, drafts: &[Draft]) -> Check {
        let mut messages: Vec<_> = drafts.iter().map(|draft| self.message(draft)).collect();
        if let Some(last) = messages.last_mut() {
            last.max_attempts = Some(0);
        }
        let command = Enqueue { queue: self.queue.clone(), messages, now: Some(self.now) };
        refused("OutOfRange", self.store.enqueue(command).await, |error| {
            matches!(error, Error::OutOfRange { .. })
        })
    }

    fn message(&mut self, draft: &Draft) -> NewMessage {
        self.enqueued += 1;
        let n = self.enqueued;
        let payload = match n % 3 {
            0 => format!(r#"{{"z":{n},"a":"\u0000é"}}"#),
            1 => format!("[{n}]"),
            _ => n.to_string(),
        };
        let headers =
            n.is_multiple_of(4).then(|| Json::from_stored(format!(r#"{{"trace":"{n}"}}"#)));
        NewMessage {
            headers,
            priority: draft.priority,
            delay: draft.delay,
            max_attempts: draft.max_attempts,
            ..NewMessage::new(Json::from_stored(payload))
        }
    }

    async fn settle(&mut self, picks: &[(Pick, pgqrs::Action)]) -> Check {
        let settlement = |(pick, action): &(Pick, pgqrs::Action)| {
            Some(Settlement { receipt: self.receipt(*pick)?, action: action.clone() })
        };
        let settlements: Vec<_> = picks.iter().filter_map(settlement).collect();
        let command = Settle { settlements: settlements.clone(), now: Some(self.now) };
        let answers = self.store.settle(command).await.map_err(unexpected("settle"))?;
        let expected: Vec<_> =
            settlements.iter().map(|one| self.spec.settle(one, self.now)).collect();
        same("S1, S3, S6, S7: the outcomes of a settle", &expected, &answers)
    }

    fn receipt(&self, pick: Pick) -> Option<Receipt> {
        let current = self.spec.current();
        let issued = &self.spec.receipts;
        match pick {
            Pick::Current(place) => nth(&current, place),
            Pick::Issued(place) => nth_newest(issued, place),
            Pick::Forged(place) => {
                let Receipt { id, token } = nth(&current, place)?;
                Some(Receipt { id, token: token + 1 })
            }
        }
    }

    fn advance(&mut self, advance: Advance) {
        let to = match advance {
            Advance::Micros(micros) => self.now + TimeDelta::microseconds(micros as i64),
            Advance::To { instant, offset } => match nth(&self.spec.instants(self.now), instant) {
                Some(instant) => instant + TimeDelta::microseconds(offset),
                None => return,
            },
        };
        self.now = self.now.max(to);
    }

    pub(super) async fn register(
        &mut self,
        slot: usize,
        heartbeat_timeout: Option<std::time::Duration>,
    ) -> Check<WorkerId> {
        let port = if slot + 1 == SLOTS { 0 } else { slot as u16 + 1 };
        let command = Register {
            kind: WorkerKind::Consumer,
            host: "model".to_owned(),
            port,
            queue: self.queue.clone(),
            heartbeat_timeout,
            now: Some(self.now),
        };
        let record = self.store.register(command).await.map_err(unexpected("register"))?;
        let expected = WorkerRecord {
            id: record.id,
            kind: WorkerKind::Consumer,
            host: "model".to_owned(),
            port,
            queue: self.queue.clone(),
            state: WorkerState::Ready,
            heartbeat_timeout,
            registered_at: self.now,
            heartbeat_at: self.now,
            stopped_at: None,
            replaced_by: None,
        };
        same("a registration", &expected, &record)?;
        if self.registrations.iter().any(|earlier| *earlier >= record.id) {
            return Err(format!("W5: registration {} is not a new number", record.id));
        }
        let same_identity = self.spec.workers.values_mut().filter(|worker| {
            port != 0 && worker.port == port && worker.state != WorkerState::Stopped
        });
        let mut replaced = Vec::new();
        for worker in same_identity {
            worker.replaced_by = Some(record.id);
            replaced.push(worker.id);
        }
        for worker in replaced {
            self.spec.stop(worker, Attempt::Counted(WORKER_REPLACED), self.now);
        }
        self.slots[slot] = Some(record.id);
        self.registrations.push(record.id);
        self.spec.workers.insert(record.id, record.clone());
        Ok(record.id)
    }

    async fn change(&mut self, registration: usize, change: WorkerChange) -> Check {
        let Some(id) = nth_newest(&self.registrations, registration) else { return Ok(()) };
        let command =
            Transition { worker: id, queue: self.queue.clone(), change, now: Some(self.now) };
        let answer = self.store.transition(command).await;
        let Some(worker) = self.spec.workers.get_mut(&id) else {
            return refused(
                "WorkerNotFound",
                answer,
                |error| matches!(error, Error::WorkerNotFound { worker } if *worker == id),
            );
        };
        use {WorkerChange as C, WorkerState as W};
        let next = match (worker.state, change) {
            (W::Ready | W::Suspended, C::Heartbeat) => worker.state,
            (W::Ready, C::Suspend) => W::Suspended,
            (W::Suspended, C::Resume) => W::Ready,
            (W::Ready | W::Suspended, C::Stop) => W::Stopped,
            (W::Stopped, C::Heartbeat) => return refused_as_not_ready(worker, answer),
            _ if worker.replaced_by.is_some() => return refused_as_not_ready(worker, answer),
            (state, C::Suspend) => return refused_move(id, state, W::Suspended, answer),
            (state, C::Resume) => return refused_move(id, state, W::Ready, answer),
            (state, C::Stop) => return refused_move(id, state, W::Stopped, answer),
        };
        let answer = answer.map_err(unexpected("transition"))?;
        worker.state = next;
        if change == WorkerChange::Heartbeat {
            worker.heartbeat_at = self.now;
        }
        if change == WorkerChange::Stop {
            self.spec.stop(id, Attempt::GivenBack, self.now);
        }
        same("W1: a worker after its move", &self.spec.workers[&id], &answer)
    }

    async fn update(
        &mut self,
        state: Option<QueueState>,
        retention: Option<pgqrs::Retention>,
    ) -> Check {
        let changes = QueueChanges { state, retention, ..QueueChanges::default() };
        let command = UpdateQueue { queue: self.queue.clone(), changes: changes.clone() };
        let queue = self.store.update_queue(command).await.map_err(unexpected("update_queue"))?;
        self.spec.settings = changes.applied_to(self.spec.settings.clone());
        same("the queue's settings", &self.spec.settings, &queue.settings)
    }

    async fn sweep(&mut self, limit: BatchSize) -> Check {
        let expected = self.spec.sweep(self.now);
        let mut sum = Swept::default();
        // Every row can be buried or released, then removed: more passes find nothing.
        for _ in 0..=2 * (self.enqueued as usize + self.registrations.len()) {
            let command = Sweep { limit, now: Some(self.now) };
            let swept = self.store.sweep(command).await.map_err(unexpected("sweep"))?;
            if swept == Swept::default() {
                return same("W4, A2, A4: what sweeps did", &expected, &sum);
            }
            let most = limit.count() as u64;
            for rows in [swept.workers_stopped, swept.workers_removed, swept.archive_removed] {
                if rows > most {
                    return Err(format!("a sweep of {most} rows of each kind did {swept:?}"));
                }
            }
            sum.buried += swept.buried;
            sum.released += swept.released;
            sum.workers_stopped += swept.workers_stopped;
            sum.workers_removed += swept.workers_removed;
            sum.archive_removed += swept.archive_removed;
        }
        Err(format!("sweeps never end: {sum:?}, expected {expected:?}"))
    }

    async fn redrive_oldest(&mut self, count: BatchSize) -> Check {
        let ids = self.redrive(DeadLetters::Oldest(count)).await?;
        let letters = self.dead_letters();
        let oldest: Vec<_> = letters.iter().map(|row| row.id).take(count.count()).collect();
        same("A3: the oldest dead letters", &oldest, &ids)?;
        ids.into_iter().for_each(|id| self.spec.redrive(id, self.now));
        Ok(())
    }

    async fn redrive_one(&mut self, place: usize) -> Check {
        let archived: Vec<_> = self.spec.archive.keys().copied().collect();
        let Some(id) = nth(&archived, place) else { return Ok(()) };
        let nobody = MessageId(i64::MAX);
        let ids = self.redrive(DeadLetters::Ids(vec![nobody, id])).await?;
        let is_dead = self.dead_letters().iter().any(|row| row.id == id);
        let expected: Vec<_> = is_dead.then_some(id).into_iter().collect();
        same("A3: what was redriven", &expected, &ids)?;
        ids.into_iter().for_each(|id| self.spec.redrive(id, self.now));
        Ok(())
    }

    async fn redrive(&self, letters: DeadLetters) -> Check<Vec<MessageId>> {
        let command = Redrive { queue: self.queue.clone(), letters, now: Some(self.now) };
        self.store.redrive(command).await.map_err(unexpected("redrive"))
    }

    fn dead_letters(&self) -> Vec<ArchivedMessage> {
        let mut letters = self.spec.archived(self.now);
        letters.retain(|row| row.outcome == Outcome::Dead);
        letters
    }

    async fn purge(&mut self, scope: PurgeScope) -> Check {
        let command = Purge { queue: self.queue.clone(), scope };
        let count = self.store.purge(command).await.map_err(unexpected("purge"))?;
        let (shown, hidden) = self.spec.purge(scope, self.now);
        if (shown..=shown + hidden).contains(&count) {
            return Ok(());
        }
        Err(format!("a purge of {scope:?} said {count} instead of {shown}"))
    }

    /// Compares every observable.
    pub(super) async fn compare(&mut self) -> Check {
        let (queue, now, can) = (Some(&self.queue), Some(self.now), self.store.capabilities());
        let page = Page::first(BatchSize::MAX);
        let filter = MessageFilter { queue: queue.cloned(), page, now, ..Default::default() };
        let live = self.store.messages(filter);
        let filter = ArchiveFilter { queue: queue.cloned(), page, now, ..Default::default() };
        let archive = self.store.archive(filter);
        let workers = async {
            let page = Page::first(BatchSize::MAX);
            let filter = WorkerFilter { queue: queue.cloned(), page, ..Default::default() };
            match can.workers {
                Support::Full => self.store.workers(filter).await.map(Some),
                Support::Missing => Ok(None),
            }
        };
        let metrics = async {
            let filter = MetricsFilter { queue: queue.cloned(), now };
            match can.metrics {
                Support::Full => self.store.metrics(filter).await.map(Some),
                Support::Missing => Ok(None),
            }
        };
        let (live, archive, workers, metrics) =
            futures::try_join!(live, archive, workers, metrics).map_err(unexpected("a read"))?;

        same_rows("live messages", &self.spec.messages(self.now), &live)?;
        self.adopt_reasons(&archive);
        same_rows("archived messages", &self.spec.archived(self.now), &archive)?;
        if let Some(workers) = workers {
            let expected: Vec<_> = self.spec.workers.values().cloned().collect();
            same_rows("workers", &expected, &workers)?;
        }
        if let Some(metrics) = metrics {
            same_rows("metrics", &[self.spec.metrics(self.now)], &metrics)?;
        }
        Ok(())
    }

    /// A sweep that meets an expired last attempt of a dead worker may name either reason.
    fn adopt_reasons(&mut self, archive: &[ArchivedMessage]) {
        for row in archive.iter().filter(|row| self.spec.two_reasons.contains(&row.id)) {
            let either = [LEASE_EXPIRED, WORKER_DEAD];
            let reason = row.last_error.as_deref().filter(|reason| either.contains(reason));
            if let (Some(reason), Some(ours)) = (reason, self.spec.archive.get_mut(&row.id)) {
                ours.last_error = Some(reason.to_owned());
            }
        }
    }
}

pub(super) fn same<T: PartialEq + Debug>(what: &str, expected: &T, found: &T) -> Check {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}:\n  expected {expected:?}\n  found    {found:?}"))
}

/// Like [`same`], but names only the first row that differs.
fn same_rows<T: PartialEq + Debug>(what: &str, expected: &[T], found: &[T]) -> Check {
    let rows = expected.len().max(found.len());
    for row in 0..rows {
        same(&format!("{what}, row {} of {rows}", row + 1), &expected.get(row), &found.get(row))?;
    }
    Ok(())
}

pub(super) fn unexpected(call: &'static str) -> impl Fn(Error) -> String {
    move |error| format!("{call} failed: {error}")
}

/// Checks that a call answered the error that `is` recognises.
pub(super) fn refused<T: Debug>(
    expected: &str,
    answer: pgqrs::Result<T>,
    is: impl Fn(&Error) -> bool,
) -> Check {
    match answer {
        Err(error) if is(&error) => Ok(()),
        other => Err(format!("expected {expected}, found {other:?}")),
    }
}

pub(super) fn refused_as_not_ready<T: Debug>(
    record: &WorkerRecord,
    answer: pgqrs::Result<T>,
) -> Check {
    let expected = (record.id, record.state, record.replaced_by);
    refused(&format!("W1, W2: WorkerNotReady {expected:?}"), answer, |error| {
        let &Error::WorkerNotReady { worker, state, replaced_by } = error else { return false };
        (worker, state, replaced_by) == expected
    })
}

fn refused_move<T: Debug>(
    id: WorkerId,
    state: WorkerState,
    target: WorkerState,
    answer: pgqrs::Result<T>,
) -> Check {
    refused(&format!("W1: no move from {state} to {target}"), answer, |error| {
        let &Error::IllegalTransition { worker, from, to } = error else { return false };
        (worker, from, to) == (id, state, target)
    })
}

fn nth<T: Copy>(all: &[T], place: usize) -> Option<T> {
    all.get(place % all.len().max(1)).copied()
}

pub(super) fn nth_newest<T: Copy>(all: &[T], place: usize) -> Option<T> {
    let len = all.len();
    all.get(len.checked_sub(1 + place % len.max(1))?).copied()
}

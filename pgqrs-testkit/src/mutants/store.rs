//! The wrapper: it hands every call on, and some of them changed.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use pgqrs::{
    ArchiveFilter, ArchivedMessage, Capabilities, Claim, Claimed, Configure, CreateQueue, Delay,
    DeleteQueue, Enqueue, LeaseLost, LiveMessage, MessageFilter, MessageId, MetricsFilter, Outcome,
    Page, Purge, PurgeScope, Queue, QueueFilter, QueueMetrics, QueueName, Redrive, Register,
    Result, Settle, Settled, Store, StoreSettings, Sweep, Swept, Transition, UpdateQueue, Wakeups,
    WorkerChange, WorkerFilter, WorkerRecord, WorkerState,
};

use super::{Mutant, Mutated};

const SECOND: TimeDelta = TimeDelta::seconds(1);

#[async_trait]
impl Store for Mutated {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn wakeups(&self, queue: &QueueName) -> Option<Wakeups> {
        self.store.wakeups(queue)
    }

    async fn install(&self) -> Result<()> {
        self.store.install().await
    }

    async fn verify(&self) -> Result<()> {
        self.store.verify().await
    }

    async fn configure(&self, configure: Configure) -> Result<StoreSettings> {
        self.store.configure(configure).await
    }

    async fn create_queue(&self, create: CreateQueue) -> Result<Queue> {
        self.store.create_queue(create).await
    }

    async fn update_queue(&self, update: UpdateQueue) -> Result<Queue> {
        self.store.update_queue(update).await
    }

    async fn delete_queue(&self, delete: DeleteQueue) -> Result<()> {
        self.store.delete_queue(delete).await
    }

    async fn queues(&self, filter: QueueFilter) -> Result<Vec<Queue>> {
        self.store.queues(filter).await
    }

    async fn metrics(&self, filter: MetricsFilter) -> Result<Vec<QueueMetrics>> {
        self.store.metrics(filter).await
    }

    async fn enqueue(&self, mut enqueue: Enqueue) -> Result<Vec<MessageId>> {
        if self.mutant == Mutant::DeliveredEarly {
            for message in &mut enqueue.messages {
                let early = message.delay.duration().saturating_sub(Duration::from_micros(1));
                message.delay = Delay::new(early)?;
            }
        }
        let answer = self.store.enqueue(enqueue.clone()).await;
        if answer.is_err() && self.mutant == Mutant::BatchHalfWritten {
            let Enqueue { queue, messages, now } = enqueue;
            for message in messages {
                let (queue, messages) = (queue.clone(), vec![message]);
                self.store.enqueue(Enqueue { queue, messages, now }).await?;
            }
        }
        answer
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        self.buggy_claim(claim).await
    }

    async fn settle(&self, settle: Settle) -> Result<Vec<Result<Settled, LeaseLost>>> {
        if settle.settlements.len() > 10_000 {
            return self.store.settle(settle).await;
        }
        let mut outcomes = Vec::new();
        for one in settle.settlements {
            outcomes.push(self.buggy_settle(one, settle.now).await?);
        }
        Ok(outcomes)
    }

    async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>> {
        let mut rows = self.store.messages(filter.clone()).await?;
        let memory = self.memory();
        rows.extend(memory.archived.values().filter(|row| asked_for(row, &filter)).cloned());
        rows.sort_unstable_by_key(|row| row.id);
        for row in &mut rows {
            if let Some(error) = memory.errors.get(&row.id) {
                row.last_error = Some(error.clone());
            }
        }
        Ok(rows)
    }

    async fn archive(&self, mut filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
        if self.mutant == Mutant::RetentionTooEager {
            filter.now = filter.now.map(|now| now + SECOND);
        }
        let mut rows = self.store.archive(filter).await?;
        let memory = self.memory();
        for row in &mut rows {
            if let Some(error) = memory.errors.get(&row.id) {
                row.last_error = Some(error.clone());
            }
        }
        Ok(rows)
    }

    async fn redrive(&self, redrive: Redrive) -> Result<Vec<MessageId>> {
        let filter = ArchiveFilter {
            queue: Some(redrive.queue.clone()),
            outcome: Some(Outcome::Dead),
            page: Page::first(pgqrs::BatchSize::MAX),
            now: redrive.now,
            ..ArchiveFilter::default()
        };
        let letters = self.store.archive(filter).await?;
        let ids = self.store.redrive(redrive).await?;
        let redriven = letters.into_iter().filter(|letter| ids.contains(&letter.id));
        self.memory().redriven.extend(redriven.filter_map(|letter| letter.receipt));
        Ok(ids)
    }

    async fn purge(&self, purge: Purge) -> Result<u64> {
        if self.mutant == Mutant::PurgeTooMuch && purge.scope == PurgeScope::Live {
            let scope = PurgeScope::Archived(Outcome::Dead);
            self.store.purge(Purge { scope, ..purge.clone() }).await?;
        }
        self.store.purge(purge).await
    }

    async fn register(&self, register: Register) -> Result<WorkerRecord> {
        if self.mutant == Mutant::ReplacementForgives && register.port != 0 {
            let filter =
                WorkerFilter { queue: Some(register.queue.clone()), ..WorkerFilter::default() };
            for worker in self.store.workers(filter).await? {
                let same = (worker.kind, worker.port, &worker.host)
                    == (register.kind, register.port, &register.host);
                if same && worker.state != WorkerState::Stopped {
                    let (worker, queue, now) = (worker.id, register.queue.clone(), register.now);
                    let change = WorkerChange::Stop;
                    self.store.transition(Transition { worker, queue, change, now }).await?;
                }
            }
        }
        self.store.register(register).await
    }

    async fn transition(&self, transition: Transition) -> Result<WorkerRecord> {
        self.store.transition(transition).await
    }

    async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>> {
        self.store.workers(filter).await
    }

    async fn sweep(&self, mut sweep: Sweep) -> Result<Swept> {
        if self.mutant == Mutant::RetentionTooEager {
            sweep.now = sweep.now.map(|now| now + SECOND);
        }
        self.store.sweep(sweep).await
    }
}

fn asked_for(row: &LiveMessage, filter: &MessageFilter) -> bool {
    filter.queue.as_ref().is_none_or(|queue| *queue == row.queue)
        && filter.id.is_none_or(|id| id == row.id)
        && filter.state.is_none_or(|state| state == row.state)
}

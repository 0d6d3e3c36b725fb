//! The in-memory store: complete, the reference for backend authors, and quick to test against.

mod claim;
mod state;

use std::{
    collections::{BTreeMap, btree_map::Range},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    ArchiveFilter, ArchivedMessage, Claim, Claimed, Configure, CreateQueue, DeleteQueue, Enqueue,
    Error, LeaseLost, LiveMessage, LiveMessages, MessageFilter, MessageId, MetricsFilter, Page,
    Purge, PurgeScope, Queue, QueueFilter, QueueMetrics, QueueName, Reach, Redrive, Register,
    Result, STOPPED_WORKERS_KEPT, Settle, Settled, Signals, Store, StoreSettings, Sweep, Swept,
    Transition, UpdateQueue, WORKER_DEAD, WORKER_REPLACED, Wakeups, WorkerChange, WorkerFilter,
    WorkerRecord, WorkerState, truncate_to_micros,
};
use state::State;

/// A store in this process's memory. Clones share it; it is gone with the last one.
///
/// It keeps the whole contract except that nothing survives the process (E2).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let store = pgqrs::MemoryStore::new();
/// pgqrs::admin(&store).create_queue("tasks").await?;
/// pgqrs::enqueue().message("hello").to("tasks").execute(&store).await?;
/// let message = pgqrs::dequeue().from("tasks").fetch_one(&store).await?;
/// assert_eq!(message.map(|m| m.payload), Some("hello".into()));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    signals: Arc<Signals>,
}

impl MemoryStore {
    /// An empty store on the host's clock.
    pub fn new() -> Self {
        Self::with_clock(Utc::now)
    }

    /// An empty store on a clock of the caller's, read once per command that injects no `now`.
    ///
    /// In a test whose tokio runtime is paused, a clock driven by `tokio::time::Instant` lets
    /// leases expire as the test advances time:
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
    /// let (epoch, start) = (chrono::DateTime::UNIX_EPOCH, tokio::time::Instant::now());
    /// let store = pgqrs::MemoryStore::with_clock(move || epoch + start.elapsed());
    /// # });
    /// # Ok::<_, std::io::Error>(())
    /// ```
    pub fn with_clock(clock: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        let signals = Signals::default();
        // The process is everywhere that this store is.
        signals.set_reach(Reach::Everywhere);
        Self { state: Arc::default(), clock: Arc::new(clock), signals: Arc::new(signals) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state, and then reads the clock: a command that has waited for the lock must not act
    /// at an instant from before, or its lease would begin before the one that it found expired.
    fn begin(&self, injected: Option<DateTime<Utc>>) -> (MutexGuard<'_, State>, DateTime<Utc>) {
        let state = self.state();
        (state, truncate_to_micros(injected.unwrap_or_else(|| (self.clock)())))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn wakeups(&self, queue: &QueueName) -> Option<Wakeups> {
        Some(self.signals.subscribe(queue))
    }

    async fn configure(&self, configure: Configure) -> Result<StoreSettings> {
        configure.check()?;
        let settings = &mut self.state().settings;
        settings.payload_limit = configure.payload_limit.unwrap_or(settings.payload_limit);
        Ok(*settings)
    }

    async fn create_queue(&self, create: CreateQueue) -> Result<Queue> {
        create.settings.check()?;
        let (mut state, now) = self.begin(create.now);
        let queue = state.queues.entry(create.queue.clone()).or_insert_with(|| {
            state::QueueData::new(Queue {
                name: create.queue,
                settings: create.settings,
                created_at: now,
            })
        });
        Ok(queue.queue.clone())
    }

    async fn update_queue(&self, update: UpdateQueue) -> Result<Queue> {
        let mut state = self.state();
        let queue = &mut state.queue_mut(&update.queue)?.queue;
        let settings = update.changes.applied_to(queue.settings.clone());
        settings.check()?;
        queue.settings = settings;
        Ok(queue.clone())
    }

    async fn delete_queue(&self, delete: DeleteQueue) -> Result<()> {
        let mut state = self.state();
        state.queue(&delete.queue)?;
        let live = state.live.values().filter(|live| live.queue == delete.queue).count() as u64;
        if live > 0 && delete.live == LiveMessages::Keep {
            return Err(Error::QueueNotEmpty { queue: delete.queue, live });
        }
        state.live.retain(|_, live| live.queue != delete.queue);
        state.archive.retain(|_, archived| archived.queue != delete.queue);
        state.workers.retain(|_, worker| worker.queue != delete.queue);
        state.queues.remove(&delete.queue);
        Ok(())
    }

    async fn queues(&self, filter: QueueFilter) -> Result<Vec<Queue>> {
        let state = self.state();
        let queues = state.queues.values().map(|data| &data.queue);
        Ok(queues.filter(|queue| filter.matches(queue)).cloned().collect())
    }

    async fn metrics(&self, filter: MetricsFilter) -> Result<Vec<QueueMetrics>> {
        let (state, now) = self.begin(filter.now);
        match &filter.queue {
            Some(name) => state.queue(name).map(|data| vec![state.metrics(data, now)]),
            None => Ok(state.queues.values().map(|data| state.metrics(data, now)).collect()),
        }
    }

    async fn enqueue(&self, enqueue: Enqueue) -> Result<Vec<MessageId>> {
        let queue = enqueue.queue.clone();
        let ids = {
            let (mut state, now) = self.begin(enqueue.now);
            state.enqueue(enqueue, now)?
        };
        self.signals.notify(&queue);
        Ok(ids)
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        let (mut state, now) = self.begin(claim.now);
        state.claim(&claim, now)
    }

    async fn settle(&self, settle: Settle) -> Result<Vec<Result<Settled, LeaseLost>>> {
        settle.check()?;
        let has_freed = settle.frees_messages();
        let (mut state, now) = self.begin(settle.now);
        let outcomes = settle.settlements.into_iter().map(|one| state.settle(one, now)).collect();
        drop(state);
        if has_freed {
            self.signals.notify_all();
        }
        Ok(outcomes)
    }

    async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>> {
        let (state, now) = self.begin(filter.now);
        let page = after(&state.live, filter.page).map(|(id, live)| live.read(*id, now));
        Ok(page.filter(|row| filter.matches(row)).take(filter.page.limit.count()).collect())
    }

    async fn archive(&self, filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
        let (state, now) = self.begin(filter.now);
        let shows = |row: &&ArchivedMessage| filter.matches(row) && state.is_retained(row, now);
        let page = after(&state.archive, filter.page).map(|(_, row)| row).filter(shows);
        Ok(page.take(filter.page.limit.count()).cloned().collect())
    }

    async fn redrive(&self, redrive: Redrive) -> Result<Vec<MessageId>> {
        let ids = {
            let (mut state, now) = self.begin(redrive.now);
            state.redrive(&redrive, now)?
        };
        self.signals.notify(&redrive.queue);
        Ok(ids)
    }

    async fn purge(&self, purge: Purge) -> Result<u64> {
        let mut state = self.state();
        state.queue(&purge.queue)?;
        let before = state.live.len() + state.archive.len();
        match purge.scope {
            PurgeScope::Live => {
                state.live.retain(|_, live| live.queue != purge.queue);
                state.queue_mut(&purge.queue)?.forget_live();
            }
            PurgeScope::Archived(outcome) => state
                .archive
                .retain(|_, archived| archived.queue != purge.queue || archived.outcome != outcome),
        }
        Ok((before - state.live.len() - state.archive.len()) as u64)
    }

    async fn register(&self, register: Register) -> Result<WorkerRecord> {
        register.check()?;
        let (mut state, now) = self.begin(register.now);
        state.queue(&register.queue)?;
        let id = crate::WorkerId(state.next());
        let same = |worker: &&WorkerRecord| register.replaces(worker);
        let earlier: Vec<_> = state.workers.values().filter(same).map(|worker| worker.id).collect();
        for replaced in earlier {
            if let Some(worker) = state.workers.get_mut(&replaced) {
                worker.replaced_by = Some(id);
            }
            state.stop(replaced, now);
            state.free_counted(replaced, WORKER_REPLACED, now);
            self.signals.notify_all();
        }
        let record = register.into_record(id, now);
        state.workers.insert(id, record.clone());
        Ok(record)
    }

    async fn transition(&self, transition: Transition) -> Result<WorkerRecord> {
        let (mut state, now) = self.begin(transition.now);
        let mut record = state.worker(transition.worker, &transition.queue)?.clone();
        record.state = record.transition(transition.change)?;
        match transition.change {
            WorkerChange::Heartbeat => record.heartbeat_at = now,
            WorkerChange::Stop => {
                record.stopped_at = Some(now);
                state.release_held(record.id, now);
                self.signals.notify_all();
            }
            WorkerChange::Suspend | WorkerChange::Resume => {}
        }
        state.workers.insert(record.id, record.clone());
        Ok(record)
    }

    async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>> {
        let state = self.state();
        let page = after(&state.workers, filter.page).map(|(_, worker)| worker);
        let chosen = page.filter(|worker| filter.matches(worker));
        Ok(chosen.take(filter.page.limit.count()).cloned().collect())
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Swept> {
        let limit = sweep.limit.count();
        let (mut state, now) = self.begin(sweep.now);
        let mut swept = Swept { buried: state.bury_expired(limit, now), ..Swept::default() };

        let is_dead = |worker: &&WorkerRecord| {
            worker.state != WorkerState::Stopped
                && worker
                    .heartbeat_timeout
                    .is_some_and(|timeout| state::elapsed(worker.heartbeat_at, now) > timeout)
        };
        let workers = state.workers.values();
        let dead: Vec<_> = workers.filter(is_dead).map(|worker| worker.id).take(limit).collect();
        for worker in dead {
            state.stop(worker, now);
            swept.workers_stopped += 1;
            let freed = state.free_counted(worker, WORKER_DEAD, now);
            swept.released += freed.released;
            swept.buried += freed.buried;
            self.signals.notify_all();
        }

        let is_old = |message: &&ArchivedMessage| !state.is_retained(message, now);
        let archive = state.archive.values();
        let old: Vec<_> = archive.filter(is_old).map(|message| message.id).take(limit).collect();
        swept.archive_removed = old.len() as u64;
        for id in old {
            state.archive.remove(&id);
        }

        let is_gone = |worker: &&WorkerRecord| {
            let old = |stopped| state::elapsed(stopped, now) >= STOPPED_WORKERS_KEPT;
            worker.stopped_at.is_some_and(old)
        };
        let workers = state.workers.values();
        let gone: Vec<_> = workers.filter(is_gone).map(|worker| worker.id).take(limit).collect();
        swept.workers_removed = gone.len() as u64;
        for id in gone {
            state.workers.remove(&id);
        }
        Ok(swept)
    }
}

/// The rows that a page may show.
fn after<Id: Ord + Copy, Row>(rows: &BTreeMap<Id, Row>, page: Page<Id>) -> Range<'_, Id, Row> {
    let start = page.after.map_or(Bound::Unbounded, Bound::Excluded);
    rows.range((start, Bound::Unbounded))
}

#[cfg(test)]
mod tests {
    use std::sync::{OnceLock, TryLockError};

    use super::*;

    #[tokio::test]
    async fn the_clock_is_read_by_the_command_whose_turn_it_is() {
        let known: Arc<OnceLock<MemoryStore>> = Arc::default();
        let clock = {
            let known = known.clone();
            move || {
                let state = known.get().map(|store: &MemoryStore| store.state.try_lock());
                assert!(matches!(state, Some(Err(TryLockError::WouldBlock))));
                Utc::now()
            }
        };
        let store = known.get_or_init(|| MemoryStore::with_clock(clock));
        crate::admin(store).create_queue("tasks").await.unwrap();
        crate::enqueue().message("a").to("tasks").execute(store).await.unwrap();
        let claimed = crate::dequeue().from("tasks").fetch_all(store).await.unwrap();
        assert_eq!(claimed.len(), 1);
        store.sweep(Sweep::default()).await.unwrap();
    }
}

//! The stage of a case: one queue of one store at one moment, with the calls that cases make.
//!
//! A scene fails the case when a call fails that should not; calls whose errors matter to some
//! case are called `try_…` or return the store's own result.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use pgqrs::*;
use serde_json::json;

/// Fails the case, with what was there instead, unless the value matches the pattern.
macro_rules! assert_matches {
    ($value:expr, $pattern:pat $(if $guard:expr)?) => {
        match $value {
            $pattern $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern $(if $guard)?)),
        }
    };
}

pub(super) use assert_matches;

/// One queue of one store at one moment.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub(super) store: Arc<dyn Store>,
    pub(super) queue: QueueName,
    pub(super) now: DateTime<Utc>,
    worker: Option<WorkerId>,
}

/// Setting up and moving about.
impl Scene {
    /// The queue `tasks` with default settings (leases of 30 s, 5 attempts), at the first instant.
    pub(super) async fn new(store: &Arc<dyn Store>) -> Self {
        Self::with(store, QueueSettings::default()).await
    }

    /// The queue `tasks` with these settings, at the first instant.
    pub(super) async fn with(store: &Arc<dyn Store>, settings: QueueSettings) -> Self {
        let scene = Self::nowhere(store);
        scene.create(settings).await;
        scene
    }

    /// The queue `tasks`, not created.
    pub(super) fn nowhere(store: &Arc<dyn Store>) -> Self {
        Self { store: store.clone(), queue: name("tasks"), now: instant(0), worker: None }
    }

    /// Another queue of the store, created with default settings.
    pub(super) async fn queue(&self, other: &str) -> Self {
        let scene = self.absent(other);
        scene.create(QueueSettings::default()).await;
        scene
    }

    /// Another queue of the store, not created.
    pub(super) fn absent(&self, other: &str) -> Self {
        Self { queue: name(other), ..self.clone() }
    }

    /// The scene so many seconds after the first instant.
    pub(super) fn at(&self, seconds: i64) -> Self {
        Self { now: instant(seconds), ..self.clone() }
    }

    /// The scene one microsecond before [`at`](Self::at).
    pub(super) fn just_before(&self, seconds: i64) -> Self {
        Self { now: instant(seconds) - MICROSECOND, ..self.clone() }
    }

    /// The scene one microsecond after [`at`](Self::at).
    pub(super) fn just_after(&self, seconds: i64) -> Self {
        Self { now: instant(seconds) + MICROSECOND, ..self.clone() }
    }

    /// The scene so many microseconds after the first instant.
    pub(super) fn at_micros(&self, micros: i64) -> Self {
        Self { now: instant(0) + TimeDelta::microseconds(micros), ..self.clone() }
    }

    /// The scene with claims made by this worker.
    pub(super) fn by(&self, worker: &WorkerRecord) -> Self {
        Self { worker: Some(worker.id), ..self.clone() }
    }
}

/// Queues.
impl Scene {
    pub(super) async fn create(&self, settings: QueueSettings) -> Queue {
        self.try_create(settings).await.unwrap()
    }

    pub(super) async fn try_create(&self, settings: QueueSettings) -> Result<Queue> {
        let create = CreateQueue { queue: self.queue.clone(), settings, now: Some(self.now) };
        self.store.create_queue(create).await
    }

    pub(super) async fn update(&self, changes: QueueChanges) -> Result<Queue> {
        self.store.update_queue(UpdateQueue { queue: self.queue.clone(), changes }).await
    }

    pub(super) async fn set_state(&self, state: QueueState) {
        self.update(QueueChanges { state: Some(state), ..QueueChanges::default() }).await.unwrap();
    }

    /// Sets the retention of the archive: seconds, or for ever.
    pub(super) async fn retain(&self, seconds: Option<u64>) {
        let age = seconds.map(Duration::from_secs);
        let retention = Some(age.map_or(Retention::Forever, Retention::For));
        self.update(QueueChanges { retention, ..QueueChanges::default() }).await.unwrap();
    }

    pub(super) async fn delete_queue(&self, live: LiveMessages) -> Result<()> {
        self.store.delete_queue(DeleteQueue { queue: self.queue.clone(), live }).await
    }

    pub(super) async fn limit_payloads(&self, bytes: usize) {
        self.store.configure(Configure { payload_limit: Some(bytes) }).await.unwrap();
    }

    /// The metrics of this queue.
    pub(super) async fn metrics(&self) -> QueueMetrics {
        let filter = MetricsFilter { queue: Some(self.queue.clone()), now: Some(self.now) };
        let mut found = self.store.metrics(filter).await.unwrap();
        assert_eq!(found.len(), 1, "metrics of one queue");
        found.remove(0)
    }
}

/// Producing and consuming.
impl Scene {
    /// Enqueues `count` messages.
    pub(super) async fn enqueue(&self, count: usize) -> Vec<MessageId> {
        self.send_all((0..count).map(message).collect()).await
    }

    pub(super) async fn send(&self, message: NewMessage) -> MessageId {
        self.send_all(vec![message]).await[0]
    }

    pub(super) async fn send_all(&self, messages: Vec<NewMessage>) -> Vec<MessageId> {
        self.try_send(messages).await.unwrap()
    }

    pub(super) async fn try_send(&self, messages: Vec<NewMessage>) -> Result<Vec<MessageId>> {
        let enqueue = Enqueue { queue: self.queue.clone(), messages, now: Some(self.now) };
        self.store.enqueue(enqueue).await
    }

    /// Claims up to `limit` messages under the queue's own timeout.
    pub(super) async fn claim(&self, limit: usize) -> Vec<Message> {
        self.try_claim(limit).await.unwrap().messages
    }

    /// Claims one message, which must be there.
    pub(super) async fn claim_one(&self) -> Message {
        let mut claimed = self.claim(1).await;
        assert_eq!(claimed.len(), 1, "one message was to be claimed");
        claimed.remove(0)
    }

    pub(super) async fn claim_for(&self, limit: usize, timeout: VisibilityTimeout) -> Vec<Message> {
        let claim = Claim { timeout: Some(timeout), ..self.claim_command(limit) };
        self.store.claim(claim).await.unwrap().messages
    }

    pub(super) async fn try_claim(&self, limit: usize) -> Result<Claimed> {
        self.store.claim(self.claim_command(limit)).await
    }

    /// Claims until nothing is left.
    pub(super) async fn claim_all(&self) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            let claimed = self.claim(BatchSize::MAX.count()).await;
            if claimed.is_empty() {
                return all;
            }
            all.extend(claimed);
        }
    }

    /// Enqueues `count` messages and leases them all.
    pub(super) async fn lease(&self, count: usize) -> Vec<Message> {
        self.lease_all((0..count).map(message).collect()).await
    }

    /// Enqueues these messages and leases them all.
    pub(super) async fn lease_all(&self, messages: Vec<NewMessage>) -> Vec<Message> {
        let count = self.send_all(messages).await.len();
        let claimed = self.claim(count).await;
        assert_eq!(claimed.len(), count, "all of them were to be claimed");
        claimed
    }

    fn claim_command(&self, limit: usize) -> Claim {
        let (queue, limit) = (self.queue.clone(), BatchSize::new(limit).unwrap());
        Claim { queue, worker: self.worker, limit, timeout: None, now: Some(self.now) }
    }
}

/// Settling.
impl Scene {
    pub(super) async fn settle(&self, receipt: Receipt, action: Action) -> Answer {
        let mut outcomes = self.settle_all(vec![Settlement { receipt, action }]).await;
        assert_eq!(outcomes.len(), 1, "one outcome per settlement");
        outcomes.remove(0)
    }

    pub(super) async fn settle_all(&self, settlements: Vec<Settlement>) -> Vec<Answer> {
        self.store.settle(Settle { settlements, now: Some(self.now) }).await.unwrap()
    }

    pub(super) async fn archive(&self, message: &Message) -> Answer {
        self.settle(message.receipt, Action::Archive).await
    }

    pub(super) async fn delete(&self, message: &Message) -> Answer {
        self.settle(message.receipt, Action::Delete).await
    }

    pub(super) async fn release(&self, message: &Message, delay: u64) -> Answer {
        self.settle(message.receipt, Action::Release(seconds(delay))).await
    }

    /// Fails the attempt, to be tried again after `delay` seconds.
    pub(super) async fn fail(&self, message: &Message, error: &str, delay: u64) -> Answer {
        let retry = RetryDecision::RetryAfter(seconds(delay));
        self.settle(message.receipt, Action::Fail { error: error.into(), retry }).await
    }

    /// Fails the attempt for good.
    pub(super) async fn bury(&self, message: &Message, error: &str) -> Answer {
        let retry = RetryDecision::Dead;
        self.settle(message.receipt, Action::Fail { error: error.into(), retry }).await
    }

    pub(super) async fn extend(&self, message: &Message, timeout: u32) -> Answer {
        self.settle(message.receipt, Action::Extend(lease_of(timeout))).await
    }

    /// Fails the case unless every action on `receipt` is refused and changes nothing.
    pub(super) async fn assert_lost(&self, receipt: Receipt) {
        let before = self.everything().await;
        for action in actions() {
            let outcome = self.settle(receipt, action.clone()).await;
            assert_eq!(outcome, Err(LeaseLost), "{action:?} under {receipt:?}");
            assert_eq!(self.everything().await, before, "after {action:?}");
        }
    }
}

/// Reading and maintenance.
impl Scene {
    /// The live messages of this queue.
    pub(super) async fn live(&self) -> Vec<LiveMessage> {
        let filter = MessageFilter { queue: Some(self.queue.clone()), ..self.all_live() };
        self.store.messages(filter).await.unwrap()
    }

    /// The live message `id`, which must be there.
    pub(super) async fn live_one(&self, id: MessageId) -> LiveMessage {
        let filter = MessageFilter { id: Some(id), ..self.all_live() };
        let found = self.store.messages(filter).await.unwrap().pop();
        found.unwrap_or_else(|| panic!("message {id} is not live"))
    }

    /// The archived messages of this queue.
    pub(super) async fn history(&self) -> Vec<ArchivedMessage> {
        let filter = ArchiveFilter { queue: Some(self.queue.clone()), ..self.all_archived() };
        self.store.archive(filter).await.unwrap()
    }

    /// The archived message `id`, which must be there.
    pub(super) async fn archived_one(&self, id: MessageId) -> ArchivedMessage {
        let filter = ArchiveFilter { id: Some(id), ..self.all_archived() };
        let found = self.store.archive(filter).await.unwrap().pop();
        found.unwrap_or_else(|| panic!("message {id} is not in the archive"))
    }

    /// Live messages and archive of the whole store.
    pub(super) async fn everything(&self) -> (Vec<LiveMessage>, Vec<ArchivedMessage>) {
        let live = self.store.messages(self.all_live()).await.unwrap();
        (live, self.store.archive(self.all_archived()).await.unwrap())
    }

    /// The filter of all live messages, on one page.
    pub(super) fn all_live(&self) -> MessageFilter {
        let page = Page::first(BatchSize::MAX);
        MessageFilter { page, now: Some(self.now), ..MessageFilter::default() }
    }

    /// The filter of all archived messages, on one page.
    pub(super) fn all_archived(&self) -> ArchiveFilter {
        let page = Page::first(BatchSize::MAX);
        ArchiveFilter { page, now: Some(self.now), ..ArchiveFilter::default() }
    }

    pub(super) async fn redrive(&self, letters: DeadLetters) -> Vec<MessageId> {
        let redrive = Redrive { queue: self.queue.clone(), letters, now: Some(self.now) };
        self.store.redrive(redrive).await.unwrap()
    }

    pub(super) async fn purge(&self, scope: PurgeScope) -> u64 {
        self.store.purge(Purge { queue: self.queue.clone(), scope }).await.unwrap()
    }

    pub(super) async fn sweep(&self) -> Swept {
        self.store.sweep(Sweep { now: Some(self.now), ..Sweep::default() }).await.unwrap()
    }
}

/// Workers.
impl Scene {
    /// Registers a consumer that bears the identity (`host`, 1).
    pub(super) async fn register(&self, host: &str) -> WorkerRecord {
        self.try_register(self.consumer(host)).await.unwrap()
    }

    /// Registers a consumer that is dead after `timeout` seconds of silence.
    pub(super) async fn register_mortal(&self, host: &str, timeout: u64) -> WorkerRecord {
        let heartbeat_timeout = Some(Duration::from_secs(timeout));
        let register = Register { heartbeat_timeout, ..self.consumer(host) };
        self.try_register(register).await.unwrap()
    }

    pub(super) async fn try_register(&self, register: Register) -> Result<WorkerRecord> {
        self.store.register(register).await
    }

    /// The registration of the consumer (`host`, 1) that is never taken for dead.
    pub(super) fn consumer(&self, host: &str) -> Register {
        Register {
            kind: WorkerKind::Consumer,
            host: host.into(),
            port: 1,
            queue: self.queue.clone(),
            heartbeat_timeout: None,
            now: Some(self.now),
        }
    }

    pub(super) async fn change(
        &self,
        worker: &WorkerRecord,
        change: WorkerChange,
    ) -> Result<WorkerRecord> {
        let (worker, queue) = (worker.id, self.queue.clone());
        self.store.transition(Transition { worker, queue, change, now: Some(self.now) }).await
    }

    /// The registration as it is now, which must be there.
    pub(super) async fn worker(&self, worker: &WorkerRecord) -> WorkerRecord {
        let filter = WorkerFilter { id: Some(worker.id), ..WorkerFilter::default() };
        let found = self.store.workers(filter).await.unwrap().pop();
        found.unwrap_or_else(|| panic!("worker {} is not registered", worker.id))
    }

    /// All registrations of this queue.
    pub(super) async fn workers(&self) -> Vec<WorkerRecord> {
        let filter = WorkerFilter { queue: Some(self.queue.clone()), ..WorkerFilter::default() };
        self.store.workers(filter).await.unwrap()
    }
}

/// What one settlement came to.
pub(super) type Answer = std::result::Result<Settled, LeaseLost>;

const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);

/// So many seconds after the first instant, which has microseconds so that a store that cuts them
/// off is caught.
pub(super) fn instant(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_772_368_496_789_012).unwrap() + TimeDelta::seconds(seconds)
}

pub(super) fn name(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(super) fn seconds(seconds: u64) -> Delay {
    Delay::seconds(seconds).unwrap()
}

pub(super) fn lease_of(seconds: u32) -> VisibilityTimeout {
    VisibilityTimeout::seconds(seconds).unwrap()
}

/// A message whose payload tells it from others.
pub(super) fn message(number: usize) -> NewMessage {
    NewMessage::new(Json::new(&json!({ "number": number })).unwrap())
}

/// A message whose payload is this text, JSON or not.
pub(super) fn text(payload: &str) -> NewMessage {
    NewMessage::new(Json::from_stored(payload))
}

/// A message whose payload has so many bytes.
pub(super) fn sized(bytes: usize) -> NewMessage {
    text(&format!("\"{}\"", "x".repeat(bytes - 2)))
}

/// A message of this priority.
pub(super) fn urgent(priority: u8) -> NewMessage {
    NewMessage { priority: Priority::new(priority).unwrap(), ..message(0) }
}

/// A message that is due after so many seconds.
pub(super) fn delayed(delay: u64) -> NewMessage {
    NewMessage { delay: seconds(delay), ..message(0) }
}

/// A message with so many attempts.
pub(super) fn tries(attempts: u32) -> NewMessage {
    NewMessage { max_attempts: Some(attempts), ..message(0) }
}

/// One action of every sort.
pub(super) fn actions() -> [Action; 5] {
    let failed = || String::from("failed");
    [
        Action::Archive,
        Action::Delete,
        Action::Release(Delay::ZERO),
        Action::Fail { error: failed(), retry: RetryDecision::RetryAfter(Delay::ZERO) },
        Action::Extend(lease_of(60)),
    ]
}

pub(super) fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

pub(super) fn live_ids(messages: &[LiveMessage]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

pub(super) fn archived_ids(messages: &[ArchivedMessage]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

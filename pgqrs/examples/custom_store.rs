//! A backend of your own, in one file: pgqrs on [redb](https://docs.rs/redb), an embedded store.
//!
//! The tutorial for backend authors; `docs/backends.md` is its text. Codes in comments (E1, V4, …)
//! are clauses of the contract in the documentation of [`Store`]. To run it, and to prove it:
//! `cargo run -p pgqrs --example custom_store`, `cargo test -p pgqrs --example custom_store`.

use std::collections::{BTreeMap, BTreeSet};
use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pgqrs::*;
use redb::{Database, Key, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned as Load};

#[tokio::main]
async fn main() -> Result<(), HandlerError> {
    let store = RedbStore::open(std::env::temp_dir().join("pgqrs-custom-store.redb"))?;
    pgqrs::admin(&store).create_queue("greetings").await?;
    pgqrs::enqueue().messages(["Ada", "Grace", "Barbara"]).to("greetings").execute(&store).await?;
    let greet = |msg: Message| async move {
        println!("Hello, {}!", msg.payload);
        Ok(())
    };
    let done = pgqrs::dequeue().from("greetings").batch(3).handle(greet).execute(&store).await?;
    println!("{done} handled: {:#?}", pgqrs::admin(&store).metrics().await?);
    Ok(())
}

// --- 1. The layout -------------------------------------------------------------------------------

/// Rows as JSON text, by key.
type Rows<K> = TableDefinition<'static, K, &'static str>;

/// Live messages and archived ones: each message is in one of the two (S2). History stands apart,
/// so that it is in nobody's way.
const LIVE: Rows<i64> = Rows::new("live");
const ARCHIVE: Rows<i64> = Rows::new("archive");
const WORKERS: Rows<i64> = Rows::new("workers");
const QUEUES: Rows<&str> = Rows::new("queues");

/// What claims walk: (queue, lane, place in the lane, id) of each live message. A claim must cost
/// the same however many messages it may not take (V7): so what it may take stands in the lanes 0
/// to 9, one per priority, in the order in which it takes it, and nothing else does.
const LANES: TableDefinition<(&str, u8, i64, i64), ()> = TableDefinition::new("lanes");
/// The lane of delayed and leased messages, by the moment they become ready.
const WAITING: u8 = 10;
/// The lane of those that will not: leases on the last attempt, by their end (A4).
const ENDING: u8 = 11;
/// From one (lane, place) to another.
type Span = [(u8, i64); 2];
const READY: Span = [(0, i64::MIN), (9, i64::MAX)];

const NUMBERS: TableDefinition<&str, i64> = TableDefinition::new("numbers");
/// The number given out last, to messages, leases and workers alike. It is stored, so that not
/// even a crash lets one come twice: an old receipt could then settle somebody else's lease.
const SEQUENCE: &str = "sequence";
const PAYLOAD_LIMIT: &str = "payload limit";

// --- 2. What we keep of a message ----------------------------------------------------------------

#[derive(Serialize, Deserialize)]
struct Row {
    id: MessageId,
    queue: QueueName,
    /// The text it came as (E5): a parsed value would lose the order of keys and long numbers, and
    /// what does not parse could not be kept at all.
    payload: String,
    headers: Option<String>,
    priority: Priority,
    enqueued_at: DateTime<Utc>,
    visible_at: DateTime<Utc>,
    attempts: u32,
    max_attempts: u32,
    last_error: Option<String>,
    /// The order among ready messages of one priority (V5): the id, then the token of the lease,
    /// then a fresh number each time the message is given back. What is enqueued after a message
    /// became ready thus stands behind it, and nothing starves.
    position: i64,
    lane: (u8, i64),
    /// Current while there is one. It outlives its lease (S1): until somebody else takes the
    /// message, the holder may still settle it.
    receipt: Option<Receipt>,
    worker: Option<WorkerId>,
    claimed_at: Option<DateTime<Utc>>,
    outcome: Option<Outcome>,
    archived_at: Option<DateTime<Utc>>,
}

impl Row {
    /// Computed from the clock at every read and stored nowhere: so an expired lease is ready
    /// again without anybody doing anything (V4).
    fn state(&self, now: DateTime<Utc>) -> MessageState {
        match self.receipt {
            Some(_) if self.visible_at > now || self.is_last_attempt() => MessageState::Leased,
            None if self.visible_at > now => MessageState::Delayed,
            _ => MessageState::Ready,
        }
    }

    fn is_last_attempt(&self) -> bool {
        self.receipt.is_some() && self.attempts >= self.max_attempts
    }

    fn into_live(self, now: DateTime<Utc>) -> LiveMessage {
        LiveMessage {
            state: self.state(now),
            id: self.id,
            queue: self.queue,
            payload: Json::from_stored(self.payload),
            headers: self.headers.map(Json::from_stored),
            priority: self.priority,
            enqueued_at: self.enqueued_at,
            visible_at: self.visible_at,
            attempts: self.attempts,
            max_attempts: self.max_attempts,
            worker: self.worker,
            last_error: self.last_error,
            receipt: self.receipt,
        }
    }

    fn into_archived(self) -> Option<ArchivedMessage> {
        let (outcome, claimed_at, archived_at) =
            (self.outcome?, self.claimed_at, self.archived_at?);
        Some(self.into_live(archived_at).into_archived(outcome, claimed_at, archived_at))
    }
}

// --- 3. Transactions -----------------------------------------------------------------------------

/// A store in one redb file, which one process at a time may open. Clones share it.
#[derive(Debug, Clone)]
pub struct RedbStore {
    db: Arc<Database>,
}

/// Why a transaction ends early: an [`Error`] of the contract, or whatever the engine said.
type Failure = Source;
type Now = Option<DateTime<Utc>>;
type Done = Result<(), Failure>;
type Found<T> = Result<Vec<T>, Failure>;
type Keep<'a, T> = &'a dyn Fn(&T) -> bool;
const ALL: usize = usize::MAX;

impl RedbStore {
    /// Opens the file, or makes it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { db: Arc::new(Database::create(path).map_err(|error| explain(error.into()))?) })
    }

    /// Runs a command, durably when it returns (E2); a failure rolls it back.
    ///
    /// One command, one transaction: all that the contract calls atomic (E1, V2, S2, A4, W5, Q2)
    /// follows from this, and V3 too, because redb runs one write transaction at a time. It blocks
    /// its thread for the milliseconds of a commit, where a busier store would `spawn_blocking`;
    /// but without an `await` inside, no call can be dropped half-way. Reads run the same way;
    /// redb's read transactions would not make them wait for writes.
    fn run<T>(&self, now: Now, command: impl FnOnce(&Tx) -> Result<T, Failure>) -> Result<T> {
        let in_transaction = || {
            let tables = self.db.begin_write()?;
            // The clock is read once it is our turn: a claim at an instant from before the wait
            // would lease for too short, and pass over what has become due meanwhile.
            let tx = Tx { tables, now: truncate_to_micros(now.unwrap_or_else(Utc::now)) };
            let answer = command(&tx)?;
            tx.tables.commit()?;
            Ok(answer)
        };
        in_transaction().map_err(explain)
    }
}

/// The contract's errors pass; the engine's become the source of one. An engine behind a network
/// must also tell what is worth another try: `Error::Unavailable`.
fn explain(failure: Failure) -> Error {
    match failure.downcast() {
        Ok(error) => *error,
        Err(source) => Error::Backend { reason: source.to_string(), source: Some(source) },
    }
}

/// A transaction, and the instant it acts at.
struct Tx {
    tables: WriteTransaction,
    now: DateTime<Utc>,
}

impl Tx {
    fn next_number(&self) -> Result<i64, Failure> {
        let mut numbers = self.tables.open_table(NUMBERS)?;
        let next = numbers.get(SEQUENCE)?.map_or(0, |last| last.value()) + 1;
        numbers.insert(SEQUENCE, next)?;
        Ok(next)
    }

    fn payload_limit(&self) -> Result<usize, Failure> {
        let limit = self.tables.open_table(NUMBERS)?.get(PAYLOAD_LIMIT)?.map(|limit| limit.value());
        Ok(limit.map_or(Ok(DEFAULT_PAYLOAD_LIMIT), usize::try_from)?)
    }

    fn find<T: Load>(&self, table: Rows<i64>, id: i64) -> Result<Option<T>, Failure> {
        let table = self.tables.open_table(table)?;
        let row = table.get(id)?;
        Ok(row.map(|row| serde_json::from_str(row.value())).transpose()?)
    }

    fn save<K: Key, T: Serialize>(&self, rows: Rows<K>, key: K::SelfType<'_>, row: &T) -> Done {
        self.tables.open_table(rows)?.insert(key, serde_json::to_string(row)?.as_str())?;
        Ok(())
    }

    /// Up to `limit` rows that `keep` wants, in the order of their keys.
    fn select<K: Key, T: Load>(&self, rows: Rows<K>, limit: usize, keep: Keep<T>) -> Found<T> {
        let table = self.tables.open_table(rows)?;
        let rows = table.iter()?.map(|entry| Ok(serde_json::from_str(entry?.1.value())?));
        rows.filter(|row| row.as_ref().map_or(true, keep)).take(limit).collect()
    }

    fn queue(&self, name: &QueueName) -> Result<Queue, Failure> {
        let found = self.select(QUEUES, 1, &|queue: &Queue| queue.name == *name)?.pop();
        Ok(found.ok_or_else(|| Error::QueueNotFound { queue: name.clone() })?)
    }

    fn worker(&self, id: WorkerId, queue: &QueueName) -> Result<WorkerRecord, Failure> {
        self.queue(queue)?;
        let found = self.find::<WorkerRecord>(WORKERS, id.0)?.filter(|it| it.queue == *queue);
        Ok(found.ok_or(Error::WorkerNotFound { worker: id })?)
    }

    /// Tells whether its queue's retention spares an archived message (A2). Reads ask too, so that
    /// nobody can see whether a sweep has come by.
    fn retention(&self) -> Result<impl Fn(&Row) -> bool + use<>, Failure> {
        let queues = self.select(QUEUES, ALL, &|_: &Queue| true)?.into_iter();
        let longest = queues.map(|queue| (queue.name, queue.settings.retention.micros()));
        let (longest, now) = (longest.collect::<BTreeMap<_, _>>(), self.now);
        Ok(move |row: &Row| match (row.archived_at, longest.get(&row.queue)) {
            (Some(at), Some(Some(longest))) => (now - at).num_microseconds() < Some(*longest),
            _ => true,
        })
    }
}

// --- 4. The moves of a message -------------------------------------------------------------------
//
// Take a message out of its table and its lane, change it, put it back: nothing else writes lanes.

impl Tx {
    fn take(&self, table: Rows<i64>, id: MessageId) -> Result<Row, Failure> {
        let row: Row = self.find(table, id.0)?.ok_or("an index entry without its row")?;
        self.tables.open_table(table)?.remove(id.0)?;
        let (lane, place) = row.lane;
        self.tables.open_table(LANES)?.remove((row.queue.as_str(), lane, place, id.0))?;
        Ok(row)
    }

    fn put(&self, mut row: Row) -> Done {
        // `visible_at == now` is ready: a delay ends at its end, not after it (E3).
        row.lane = match row.visible_at > self.now {
            true if row.is_last_attempt() => (ENDING, row.visible_at.timestamp_micros()),
            true => (WAITING, row.visible_at.timestamp_micros()),
            false => (Priority::HIGHEST.level() - row.priority.level(), row.position),
        };
        let key = (row.queue.as_str(), row.lane.0, row.lane.1, row.id.0);
        self.tables.open_table(LANES)?.insert(key, ())?;
        self.save(LIVE, row.id.0, &row)
    }

    /// Ends the lease and keeps the message live. Without a lease no receipt is current.
    fn let_go(&self, row: Row, delay: Delay) -> Done {
        let (visible_at, position) = (self.now + delay.duration(), self.next_number()?);
        self.put(Row { visible_at, position, receipt: None, worker: None, claimed_at: None, ..row })
    }

    /// Puts a message into the archive, its receipt with it: S3 asks for that.
    fn end(&self, row: Row, outcome: Outcome) -> Done {
        let row = Row { outcome: Some(outcome), archived_at: Some(self.now), ..row };
        self.save(ARCHIVE, row.id.0, &row)
    }

    fn bury(&self, row: Row, error: &str) -> Done {
        self.end(Row { last_error: Some(cut_error(error)), ..row }, Outcome::Dead)
    }

    /// Up to `limit` messages of a queue's lanes, and their places.
    fn walk(&self, queue: &QueueName, [from, to]: Span, limit: usize) -> Found<(i64, MessageId)> {
        let queue = queue.as_str();
        let range = (queue, from.0, from.1, i64::MIN)..=(queue, to.0, to.1, i64::MAX);
        let mut found = Vec::new();
        for entry in self.tables.open_table(LANES)?.range(range)?.take(limit) {
            let (_, _, place, id) = entry?.0.value();
            found.push((place, MessageId(id)));
        }
        Ok(found)
    }

    /// Buries up to `limit` messages of a queue whose lease expired on the last attempt (A4).
    fn bury_expired(&self, queue: &QueueName, limit: usize) -> Result<u64, Failure> {
        let now = self.now.timestamp_micros();
        let expired = self.walk(queue, [(ENDING, i64::MIN), (ENDING, now)], limit)?;
        for (_, id) in &expired {
            self.bury(self.take(LIVE, *id)?, LEASE_EXPIRED)?;
        }
        Ok(expired.len() as u64)
    }

    /// Stops a worker and frees what it holds in the same transaction, expired leases included.
    /// Without a reason the attempts do not count (W3); with one they do, and at the maximum the
    /// message dies of it (W4, W5, W6). Returns how many were released, and how many died.
    fn stop(&self, worker: &mut WorkerRecord, reason: Option<&str>) -> Result<(u64, u64), Failure> {
        worker.state = WorkerState::Stopped;
        worker.stopped_at = Some(self.now);
        self.save(WORKERS, worker.id.0, worker)?;
        let (mut released, mut buried) = (0, 0);
        let is_held = |row: &Row| row.worker == Some(worker.id);
        for mut row in self.select(LIVE, ALL, &is_held)? {
            self.take(LIVE, row.id)?;
            if let Some(reason) = reason.filter(|_| row.is_last_attempt()) {
                self.bury(row, reason)?;
                buried += 1;
            } else {
                row.attempts -= u32::from(reason.is_none());
                self.let_go(row, Delay::ZERO)?;
                released += 1;
            }
        }
        Ok((released, buried))
    }

    fn settle(&self, settlement: Settlement) -> Result<Result<Settled, LeaseLost>, Failure> {
        let Settlement { receipt, action } = settlement;
        // The fence (S1): the receipt and nothing else. Not the clock: an expired lease that nobody
        // took is still its holder's.
        let is_under = |row: &Row| row.receipt == Some(receipt);
        let Some(row) = self.find(LIVE, receipt.id.0)?.filter(is_under) else {
            // An archive may come again if its answer was lost on the way (S3).
            let archived = self.find(ARCHIVE, receipt.id.0)?.filter(is_under);
            let archived = archived.filter(self.retention()?).filter(|_| action == Action::Archive);
            let is_done = archived.is_some_and(|row| row.outcome == Some(Outcome::Done));
            return Ok(if is_done { Ok(Settled::Archived) } else { Err(LeaseLost) });
        };
        self.take(LIVE, row.id)?;
        let settled = match action {
            Action::Archive => self.end(row, Outcome::Done).map(|()| Settled::Archived),
            Action::Delete => Ok(Settled::Deleted),
            Action::Release(delay) => {
                let row = Row { attempts: row.attempts - 1, ..row };
                self.let_go(row, delay).map(|()| Settled::Released)
            }
            Action::Fail { error, retry: RetryDecision::RetryAfter(delay) }
                if !row.is_last_attempt() =>
            {
                let row = Row { last_error: Some(cut_error(&error)), ..row };
                self.let_go(row, delay).map(|()| Settled::Retrying)
            }
            Action::Fail { error, .. } => self.bury(row, &error).map(|()| Settled::Dead),
            Action::Extend(timeout) => {
                let visible_at = self.now + timeout.duration();
                self.put(Row { visible_at, ..row }).map(|()| Settled::Extended(visible_at))
            }
        };
        settled.map(Ok)
    }

    /// Removes messages for good.
    fn purge(&self, table: Rows<i64>, limit: usize, goes: Keep<Row>) -> Result<u64, Failure> {
        let rows = self.select(table, limit, goes)?;
        rows.iter().try_for_each(|row| self.take(table, row.id).map(drop))?;
        Ok(rows.len() as u64)
    }
}

// --- 5. The commands -----------------------------------------------------------------------------

#[async_trait]
impl Store for RedbStore {
    async fn configure(&self, configure: Configure) -> Result<StoreSettings> {
        self.run(None, |tx| {
            configure.check()?;
            if let Some(limit) = configure.payload_limit {
                tx.tables.open_table(NUMBERS)?.insert(PAYLOAD_LIMIT, limit as i64)?;
            }
            Ok(StoreSettings { payload_limit: tx.payload_limit()? })
        })
    }

    async fn create_queue(&self, create: CreateQueue) -> Result<Queue> {
        self.run(create.now, |tx| {
            let CreateQueue { queue: name, settings, .. } = create;
            settings.check()?;
            if let Some(queue) = tx.select(QUEUES, 1, &|queue: &Queue| queue.name == name)?.pop() {
                return Ok(queue);
            }
            let queue = Queue { name, settings, created_at: tx.now };
            tx.save(QUEUES, queue.name.as_str(), &queue)?;
            Ok(queue)
        })
    }

    async fn update_queue(&self, update: UpdateQueue) -> Result<Queue> {
        self.run(None, |tx| {
            let mut queue = tx.queue(&update.queue)?;
            queue.settings = update.changes.applied_to(queue.settings);
            queue.settings.check()?;
            tx.save(QUEUES, queue.name.as_str(), &queue)?;
            Ok(queue)
        })
    }

    async fn delete_queue(&self, delete: DeleteQueue) -> Result<()> {
        self.run(None, |tx| {
            let queue = tx.queue(&delete.queue)?.name;
            let live = tx.purge(LIVE, ALL, &|row| row.queue == queue)?;
            if live > 0 && delete.live == LiveMessages::Keep {
                return Err(Error::QueueNotEmpty { queue, live }.into()); // rolls the purge back
            }
            tx.purge(ARCHIVE, ALL, &|row| row.queue == queue)?;
            for worker in tx.select(WORKERS, ALL, &|worker: &WorkerRecord| worker.queue == queue)? {
                tx.tables.open_table(WORKERS)?.remove(worker.id.0)?;
            }
            tx.tables.open_table(QUEUES)?.remove(queue.as_str())?;
            Ok(())
        })
    }

    async fn queues(&self, filter: QueueFilter) -> Result<Vec<Queue>> {
        self.run(None, |tx| tx.select(QUEUES, ALL, &|queue| filter.matches(queue)))
    }

    /// Counts by looking at everything; a large store would keep counters.
    async fn metrics(&self, filter: MetricsFilter) -> Result<Vec<QueueMetrics>> {
        self.run(filter.now, |tx| {
            let queues = match filter.queue {
                Some(name) => vec![tx.queue(&name)?],
                None => tx.select(QUEUES, ALL, &|_: &Queue| true)?,
            };
            let live = tx.select(LIVE, ALL, &|_: &Row| true)?;
            let archive = tx.select(ARCHIVE, ALL, &tx.retention()?)?;
            let workers = tx.select(WORKERS, ALL, &|_: &WorkerRecord| true)?;
            let count = |Queue { name: queue, .. }| {
                let is = |row: &&Row, state| row.queue == queue && row.state(tx.now) == state;
                let live = |state| live.iter().filter(move |row| is(row, state));
                let is = |row: &&Row, end| row.queue == queue && row.outcome == Some(end);
                let ended = |outcome| archive.iter().filter(|row| is(row, outcome)).count() as u64;
                let is = |w: &&WorkerRecord, state| w.queue == queue && w.state == state;
                let workers = |state| workers.iter().filter(|w| is(w, state)).count() as u64;
                QueueMetrics {
                    ready: live(MessageState::Ready).count() as u64,
                    delayed: live(MessageState::Delayed).count() as u64,
                    leased: live(MessageState::Leased).count() as u64,
                    archived: ended(Outcome::Done),
                    dead: ended(Outcome::Dead),
                    oldest_ready_at: live(MessageState::Ready).map(|row| row.visible_at).min(),
                    now: tx.now,
                    workers: WorkerCounts {
                        ready: workers(WorkerState::Ready),
                        suspended: workers(WorkerState::Suspended),
                        stopped: workers(WorkerState::Stopped),
                    },
                    queue: queue.clone(),
                }
            };
            Ok(queues.into_iter().map(count).collect())
        })
    }

    async fn enqueue(&self, enqueue: Enqueue) -> Result<Vec<MessageId>> {
        self.run(enqueue.now, |tx| {
            let max_attempts = tx.queue(&enqueue.queue)?.settings.max_attempts;
            enqueue.check(tx.payload_limit()?)?;
            let messages = enqueue.messages.into_iter().map(|message| {
                let id = MessageId(tx.next_number()?);
                tx.put(Row {
                    id,
                    queue: enqueue.queue.clone(),
                    payload: message.payload.to_string(),
                    headers: message.headers.map(|headers| headers.to_string()),
                    priority: message.priority,
                    enqueued_at: tx.now,
                    visible_at: tx.now + message.delay.duration(),
                    attempts: 0,
                    max_attempts: message.max_attempts.unwrap_or(max_attempts),
                    last_error: None,
                    position: id.0,
                    lane: (WAITING, 0),
                    receipt: None,
                    worker: None,
                    claimed_at: None,
                    outcome: None,
                    archived_at: None,
                })?;
                Ok(id)
            });
            messages.collect()
        })
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        self.run(claim.now, |tx| {
            let Claim { queue, worker, limit, timeout, .. } = claim;
            let (now, settings) = (tx.now.timestamp_micros(), tx.queue(&queue)?.settings);
            // In this very transaction: a worker that somebody suspended or replaced a moment ago
            // claims nothing (W2, W5).
            if let Some(id) = worker {
                let worker = tx.worker(id, &queue)?;
                if worker.state != WorkerState::Ready {
                    return Err(worker.not_ready().into());
                }
            }
            if settings.state == QueueState::Paused {
                return Ok(Claimed::default());
            }
            tx.bury_expired(&queue, BURIED_PER_CLAIM)?;
            // What became ready moves to the lane of its priority, its receipt still current (S1).
            for (_, id) in tx.walk(&queue, [(WAITING, i64::MIN), (WAITING, now)], DUE_PER_CLAIM)? {
                tx.put(tx.take(LIVE, id)?)?;
            }
            let visible_at = tx.now + timeout.unwrap_or(settings.visibility_timeout).duration();
            let mut messages = Vec::new();
            while messages.len() < limit.count()
                && let Some((_, id)) = tx.walk(&queue, READY, 1)?.pop()
            {
                let mut row = tx.take(LIVE, id)?;
                // A number of its own and never `attempts`, which a release gives back (V2, S5).
                let receipt = Receipt { id, token: tx.next_number()? };
                (row.receipt, row.position) = (Some(receipt), receipt.token);
                (row.worker, row.claimed_at) = (worker, Some(tx.now));
                (row.attempts, row.visible_at) = (row.attempts + 1, visible_at);
                match parse_stored(&row.payload, row.headers.as_deref()) {
                    // Otherwise one bad row would fail every claim that meets it (E5).
                    Err(error) => tx.bury(row, &error)?,
                    Ok((payload, headers)) => {
                        messages.push(Message {
                            id,
                            queue: queue.clone(),
                            payload,
                            headers,
                            priority: row.priority,
                            enqueued_at: row.enqueued_at,
                            claimed_at: tx.now,
                            visible_at,
                            attempts: row.attempts,
                            max_attempts: row.max_attempts,
                            worker,
                            last_error: row.last_error.clone(),
                            receipt,
                        });
                        tx.put(row)?;
                    }
                }
            }
            let next = tx.walk(&queue, [(WAITING, now + 1), (WAITING, i64::MAX)], 1)?.pop();
            let next = next.filter(|_| messages.is_empty());
            let due_in = next.map(|(at, _)| Duration::from_micros((at - now).unsigned_abs()));
            Ok(Claimed { messages, due_in })
        })
    }

    async fn settle(&self, settle: Settle) -> Result<Vec<Result<Settled, LeaseLost>>> {
        settle.check()?;
        // One after the other: of two with one receipt the second meets what the first left (S7).
        let settle_all = |tx: &Tx| settle.settlements.into_iter().map(|s| tx.settle(s)).collect();
        self.run(settle.now, settle_all)
    }

    async fn messages(&self, filter: MessageFilter) -> Result<Vec<LiveMessage>> {
        self.run(filter.now, |tx| {
            let rows = tx.select(LIVE, ALL, &|_: &Row| true)?.into_iter();
            let messages = rows.map(|row| row.into_live(tx.now)).filter(|row| filter.matches(row));
            Ok(messages.take(filter.page.limit.count()).collect())
        })
    }

    async fn archive(&self, filter: ArchiveFilter) -> Result<Vec<ArchivedMessage>> {
        self.run(filter.now, |tx| {
            let rows = tx.select(ARCHIVE, ALL, &tx.retention()?)?.into_iter();
            let messages = rows.filter_map(Row::into_archived).filter(|row| filter.matches(row));
            Ok(messages.take(filter.page.limit.count()).collect())
        })
    }

    async fn redrive(&self, redrive: Redrive) -> Result<Vec<MessageId>> {
        self.run(redrive.now, |tx| {
            let (queue, is_retained) = (tx.queue(&redrive.queue)?.name, tx.retention()?);
            let (limit, ids) = match redrive.letters {
                DeadLetters::Oldest(limit) => (limit.count(), None),
                DeadLetters::Ids(ids) => (ALL, Some(BTreeSet::from_iter(ids))),
            };
            let is_chosen = |row: &Row| ids.as_ref().is_none_or(|ids| ids.contains(&row.id));
            let letters = tx.select(ARCHIVE, limit, &|row: &Row| {
                let is_dead = row.queue == queue && row.outcome == Some(Outcome::Dead);
                is_dead && is_retained(row) && is_chosen(row)
            })?;
            let ids = letters.iter().map(|row| row.id).collect();
            for row in letters {
                tx.take(ARCHIVE, row.id)?;
                tx.let_go(
                    Row { attempts: 0, outcome: None, archived_at: None, ..row },
                    Delay::ZERO,
                )?;
            }
            Ok(ids)
        })
    }

    async fn purge(&self, purge: Purge) -> Result<u64> {
        self.run(None, |tx| {
            let queue = tx.queue(&purge.queue)?.name;
            let (table, outcome) = match purge.scope {
                PurgeScope::Live => (LIVE, None),
                PurgeScope::Archived(outcome) => (ARCHIVE, Some(outcome)),
            };
            tx.purge(table, ALL, &|row| row.queue == queue && row.outcome == outcome)
        })
    }

    async fn register(&self, register: Register) -> Result<WorkerRecord> {
        self.run(register.now, |tx| {
            register.check()?;
            tx.queue(&register.queue)?;
            let id = WorkerId(tx.next_number()?);
            for mut earlier in tx.select(WORKERS, ALL, &|earlier| register.replaces(earlier))? {
                earlier.replaced_by = Some(id);
                tx.stop(&mut earlier, Some(WORKER_REPLACED))?;
            }
            let worker = register.into_record(id, tx.now);
            tx.save(WORKERS, id.0, &worker)?;
            Ok(worker)
        })
    }

    async fn transition(&self, transition: Transition) -> Result<WorkerRecord> {
        self.run(transition.now, |tx| {
            let mut worker = tx.worker(transition.worker, &transition.queue)?;
            // The core knows which moves are legal, and the error of each that is not (W1).
            worker.state = worker.transition(transition.change)?;
            match transition.change {
                WorkerChange::Heartbeat => worker.heartbeat_at = tx.now,
                WorkerChange::Stop => drop(tx.stop(&mut worker, None)?),
                WorkerChange::Suspend | WorkerChange::Resume => {}
            }
            tx.save(WORKERS, worker.id.0, &worker)?;
            Ok(worker)
        })
    }

    async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>> {
        let limit = filter.page.limit.count();
        self.run(None, |tx| tx.select(WORKERS, limit, &|worker| filter.matches(worker)))
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Swept> {
        self.run(sweep.now, |tx| {
            let (limit, mut swept) = (sweep.limit.count(), Swept::default());
            for queue in tx.select(QUEUES, ALL, &|_: &Queue| true)? {
                swept.buried += tx.bury_expired(&queue.name, limit - swept.buried as usize)?;
            }
            let age = |at: DateTime<Utc>| (tx.now - at).to_std().unwrap_or_default();
            let is_silent = |worker: &WorkerRecord| {
                let is_late = |timeout| age(worker.heartbeat_at) > timeout;
                worker.state != WorkerState::Stopped
                    && worker.heartbeat_timeout.is_some_and(is_late)
            };
            for mut worker in tx.select(WORKERS, limit, &is_silent)? {
                let (released, buried) = tx.stop(&mut worker, Some(WORKER_DEAD))?;
                swept.workers_stopped += 1;
                swept.released += released;
                swept.buried += buried;
            }
            let is_over = |worker: &WorkerRecord| {
                worker.stopped_at.is_some_and(|at| age(at) >= STOPPED_WORKERS_KEPT)
            };
            for worker in tx.select(WORKERS, limit, &is_over)? {
                tx.tables.open_table(WORKERS)?.remove(worker.id.0)?;
                swept.workers_removed += 1;
            }
            let is_retained = tx.retention()?;
            swept.archive_removed = tx.purge(ARCHIVE, limit, &|row| !is_retained(row))?;
            Ok(swept)
        })
    }
}

// --- The proof -----------------------------------------------------------------------------------

#[cfg(test)]
mod tests {
    use super::*;

    /// A store on an empty database, and a guard that removes it: of memory nothing is left.
    async fn fresh() -> (RedbStore, ()) {
        let memory = redb::backends::InMemoryBackend::new();
        let db = Database::builder().create_with_backend(memory).unwrap();
        (RedbStore { db: Arc::new(db) }, ())
    }

    pgqrs_testkit::conformance!(fresh);
    pgqrs_testkit::model!(fresh);
    pgqrs_testkit::stress!(fresh);
}

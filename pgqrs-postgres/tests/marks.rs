//! Claims that begin at a mark instead of the head of the queue miss nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

mod scene;

use std::time::{Duration, Instant};

use pgqrs::{
    Action, BatchSize, Claim, Delay, Enqueue, Json, LiveMessages, Message, MessageId, NewMessage,
    Priority, QueueName, Settle, Settlement, Store, VisibilityTimeout,
};
use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::Database;
use tokio_postgres::{Client, NoTls};

use scene::store;

/// Longer than it takes a mark to move on twice.
const BUSY: Duration = Duration::from_millis(600);
/// Long enough for everybody, also on a machine that does other work.
const PATIENCE: Duration = Duration::from_secs(30);

/// Adds a message; answers with its id.
const ENQUEUE: &str = "
WITH m AS (
    INSERT INTO pgqrs.messages (id, queue_id, priority, max_attempts, enqueued_at, payload)
    SELECT nextval('pgqrs.sequence'), id, 4, 5, now(), '0' FROM pgqrs.queues RETURNING *
)
INSERT INTO pgqrs.ready (ids, queue_id, pos, visible_at, rank, attempts, max_attempts)
SELECT ARRAY[id], queue_id, id, now(), 9 - priority, 0, max_attempts FROM m
RETURNING pos";

/// Leaves dead rows at the head of the queue, too many to walk over in 5 ms.
const DIE: &str = "
INSERT INTO pgqrs.ready (ids, queue_id, pos, visible_at, rank, attempts, max_attempts)
SELECT '{}', id, nextval('pgqrs.sequence'), now(), 5, 0, 5
FROM pgqrs.queues, generate_series(1, 300000);
DELETE FROM pgqrs.ready";

/// A lower id that its transaction commits when marks are beyond it: found while claims are never
/// short.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_commits_late_is_found_by_busy_claims() {
    let (store, database) = store().await;
    let mut client = client(&database).await;
    let late = client.transaction().await.unwrap();
    let id = MessageId(late.query_one(ENQUEUE, &[]).await.unwrap().get(0));
    fill(&store, 200).await;
    churn(&store, BUSY, |_| false).await;
    late.commit().await.unwrap();
    assert!(churn(&store, PATIENCE, |message| message.id == id).await, "it is hidden for ever");
}

/// The same where another session holds a snapshot, and claims do not begin at the head: full and
/// short ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_commits_late_is_found_though_a_full_look_is_dear() {
    let (store, database) = store().await;
    let (holder, mut client) = (client(&database).await, client(&database).await);
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT").await.unwrap();
    client.batch_execute(DIE).await.unwrap();
    for backlog in [200, 0] {
        let late = client.transaction().await.unwrap();
        let id = MessageId(late.query_one(ENQUEUE, &[]).await.unwrap().get(0));
        fill(&store, backlog + 1).await;
        churn(&store, BUSY, |_| false).await;
        late.commit().await.unwrap();
        let is_found = churn(&store, PATIENCE, |message| message.id == id).await;
        assert!(is_found, "it is hidden for ever behind {backlog} messages");
    }
}

/// What one store has taken in, because its time had come, stands at that store's mark: another
/// store's may be beyond.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_store_has_promoted_is_found_by_busy_claims() {
    let (one, database) = store().await;
    let other = pgqrs_postgres::connect(database.url()).await.unwrap();
    let mut delayed = message(Priority::default());
    delayed.delay = Delay::new(Duration::from_millis(1)).unwrap();
    let ids = one.enqueue(enqueue(vec![delayed])).await.unwrap();
    // Enough that claims of the one are full, and see nothing of what is due behind.
    fill(&other, 2_000).await;
    churn(&other, BUSY, |message| message.id == ids[0]).await;
    let other_found = settled(&one, ids[0]).await;
    assert!(other_found || churn(&one, PATIENCE, |message| message.id == ids[0]).await);
}

/// A mark in one priority hides nothing in the others.
#[tokio::test(flavor = "multi_thread")]
async fn marks_of_one_priority_hide_no_other() {
    let (store, _database) = store().await;
    let priorities = [Priority::LOWEST, Priority::default(), Priority::HIGHEST];
    let low = store.enqueue(enqueue(vec![message(Priority::LOWEST)])).await.unwrap();
    fill(&store, 200).await;
    churn(&store, BUSY, |_| false).await;
    let ids = store.enqueue(enqueue(priorities.map(message).to_vec())).await.unwrap();
    let mut claimed = Vec::new();
    while let messages @ [_, ..] = store.claim(claim(100)).await.unwrap().messages.as_slice() {
        claimed.extend(messages.iter().map(|message| message.id));
    }
    for id in low.iter().chain(&ids) {
        assert!(claimed.contains(id), "{id} is missing");
    }
    let place = |id| claimed.iter().position(|claimed| *claimed == id).unwrap();
    assert!(place(ids[2]) < place(ids[1]) && place(ids[1]) < place(low[0]));
}

/// A queue deleted and made anew under the same name is claimed from its head.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_made_anew_is_claimed_from_its_head() {
    let (store, _database) = store().await;
    fill(&store, 200).await;
    churn(&store, BUSY, |_| false).await;
    pgqrs::admin(&store).delete_queue("q", LiveMessages::Delete).await.unwrap();
    pgqrs::admin(&store).create_queue("q").await.unwrap();
    fill(&store, 25).await;
    assert_eq!(store.claim(claim(100)).await.unwrap().messages.len(), 25);
}

/// Claims, archives and enqueues as much again, so that no claim is short; until a message is
/// claimed that is `wanted`, or the time is over.
async fn churn(store: &PostgresStore, time: Duration, wanted: impl Fn(&Message) -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < time {
        let messages = store.claim(claim(20)).await.unwrap().messages;
        if messages.iter().any(&wanted) {
            return true;
        }
        let settlements = messages
            .iter()
            .map(|message| Settlement { receipt: message.receipt, action: Action::Archive })
            .collect();
        store.settle(Settle { settlements, now: None }).await.unwrap();
        fill(store, messages.len()).await;
    }
    false
}

async fn settled(store: &PostgresStore, id: MessageId) -> bool {
    let filter = pgqrs::MessageFilter { id: Some(id), ..pgqrs::MessageFilter::default() };
    store.messages(filter).await.unwrap().iter().all(|message| message.receipt.is_some())
}

async fn fill(store: &PostgresStore, count: usize) {
    let messages = (0..count).map(|_| message(Priority::default())).collect();
    store.enqueue(enqueue(messages)).await.unwrap();
}

fn message(priority: Priority) -> NewMessage {
    NewMessage { priority, ..NewMessage::new(Json::new(&0).unwrap()) }
}

fn enqueue(messages: Vec<NewMessage>) -> Enqueue {
    Enqueue { queue: QueueName::new("q").unwrap(), messages, now: None }
}

fn claim(limit: usize) -> Claim {
    Claim {
        queue: QueueName::new("q").unwrap(),
        worker: None,
        limit: BatchSize::new(limit).unwrap(),
        timeout: Some(VisibilityTimeout::seconds(600).unwrap()),
        now: None,
    }
}

async fn client(database: &Database) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

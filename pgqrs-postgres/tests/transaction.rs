//! Calls in a transaction of the caller's, by tokio-postgres and deadpool-postgres.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgqrs::{
    Action, Delay, Enqueue, Error, Json, LeaseLost, Message, MessageFilter, MetricsFilter,
    NewMessage, QueueMetrics, QueueName, RetryDecision, Settle, Settled, Settlement, Store,
};
use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::{Database, bouncer, database};
use tokio_postgres::{Client, NoTls};

#[tokio::test]
async fn a_message_appears_when_the_caller_commits() {
    let (store, mut client, _database) = scene().await;
    let transaction = client.transaction().await.unwrap();
    let ids = store.enqueue_in(&transaction, one("first")).await.unwrap();
    assert_eq!(metrics(&store).await.live(), 0, "it was seen before the commit");
    transaction.commit().await.unwrap();
    let messages = claim(&store).await;
    assert_eq!(messages.iter().map(|message| message.id).collect::<Vec<_>>(), ids);
    assert_eq!(messages[0].payload, "first");
}

#[tokio::test]
async fn a_message_vanishes_when_the_caller_rolls_back() {
    let (store, mut client, _database) = scene().await;
    let transaction = client.transaction().await.unwrap();
    store.enqueue_in(&transaction, one("never")).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(metrics(&store).await.live(), 0);
}

#[tokio::test]
async fn an_effect_and_its_archive_are_one_commit() {
    let (store, mut client, _database) = scene().await;
    store.enqueue(one("work")).await.unwrap();
    let message = claim(&store).await.remove(0);
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO effects VALUES (1)", &[]).await.unwrap();
    store.archive_in(&transaction, message.receipt).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!((effects(&client).await, metrics(&store).await.archived), (0, 0));

    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO effects VALUES (1)", &[]).await.unwrap();
    store.archive_in(&transaction, message.receipt).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!((effects(&client).await, metrics(&store).await.archived), (1, 1));
}

#[tokio::test]
async fn every_way_to_settle_waits_for_the_commit() {
    let (store, mut client, _database) = scene().await;
    let messages: Vec<_> = (0..5).map(|_| message("work")).collect();
    store.enqueue(Enqueue { messages, ..one("") }).await.unwrap();
    let messages = claim(&store).await;
    let retry = RetryDecision::RetryAfter(Delay::seconds(60).unwrap());
    let actions = [
        Action::Archive,
        Action::Delete,
        Action::Release(Delay::ZERO),
        Action::Fail { error: "once".into(), retry },
        Action::Fail { error: "enough".into(), retry: RetryDecision::Dead },
    ];
    let settlements = messages.iter().zip(actions);
    let settlements = settlements.map(|(message, action)| settlement(message, action)).collect();
    let transaction = client.transaction().await.unwrap();
    let settle = Settle { settlements, now: None };
    let outcomes = store.settle_in(&transaction, settle).await.unwrap();
    let expected =
        [Settled::Archived, Settled::Deleted, Settled::Released, Settled::Retrying, Settled::Dead];
    assert_eq!(outcomes, expected.map(Ok));
    assert_eq!(metrics(&store).await.leased, 5, "it was seen before the commit");
    transaction.commit().await.unwrap();
    let after = metrics(&store).await;
    assert_eq!((after.leased, after.ready, after.delayed), (0, 1, 1));
    assert_eq!((after.archived, after.dead), (1, 1));
}

#[tokio::test]
async fn an_expired_lease_that_a_claim_passed_by_still_settles() {
    let (store, mut client, _database) = scene().await;
    store.enqueue(one("slow")).await.unwrap();
    let message = claim(&store).await.remove(0);
    let later = message.visible_at + Duration::from_secs(1);
    pgqrs::admin(&store).pause("q").await.unwrap();
    assert!(pgqrs::dequeue().from("q").at(later).fetch_all(&store).await.unwrap().is_empty());
    let transaction = client.transaction().await.unwrap();
    store.archive_in(&transaction, message.receipt).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(metrics(&store).await.archived, 1);
}

#[tokio::test]
async fn a_lost_lease_leaves_the_transaction_usable() {
    let (store, mut client, _database) = scene().await;
    store.enqueue(one("work")).await.unwrap();
    let message = claim(&store).await.remove(0);
    let release =
        Settle { settlements: vec![settlement(&message, Action::Release(Delay::ZERO))], now: None };
    assert_eq!(store.settle(release).await.unwrap(), [Ok(Settled::Released)]);
    let transaction = client.transaction().await.unwrap();
    let error = store.archive_in(&transaction, message.receipt).await.unwrap_err();
    assert!(matches!(error, Error::LeaseLost { id } if id == message.id), "{error:?}");
    let extend = Action::Extend(pgqrs::VisibilityTimeout::seconds(30).unwrap());
    let settle = Settle { settlements: vec![settlement(&message, extend)], now: None };
    assert_eq!(store.settle_in(&transaction, settle).await.unwrap(), [Err(LeaseLost)]);
    store.enqueue_in(&transaction, one("instead")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(metrics(&store).await.ready, 2);
}

#[tokio::test]
async fn what_is_refused_leaves_the_transaction_usable() {
    let (store, mut client, _database) = scene().await;
    let transaction = client.transaction().await.unwrap();
    let nowhere = Enqueue { queue: QueueName::new("nowhere").unwrap(), ..one("x") };
    let error = store.enqueue_in(&transaction, nowhere).await.unwrap_err();
    assert!(matches!(&error, Error::QueueNotFound { queue } if queue.as_str() == "nowhere"));
    let large = one(&"x".repeat(pgqrs::DEFAULT_PAYLOAD_LIMIT));
    let error = store.enqueue_in(&transaction, large).await.unwrap_err();
    assert!(matches!(error, Error::PayloadTooLarge { index: 0, .. }), "{error:?}");
    let none = Enqueue { messages: Vec::new(), ..one("") };
    let error = store.enqueue_in(&transaction, none).await.unwrap_err();
    assert!(matches!(error, Error::OutOfRange { .. }), "{error:?}");
    store.enqueue_in(&transaction, one("taken")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(metrics(&store).await.live(), 1);
}

#[tokio::test]
async fn a_missing_schema_is_named() {
    let database = database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    let mut client = client(database.url()).await;
    let transaction = client.transaction().await.unwrap();
    let error = store.enqueue_in(&transaction, one("x")).await.unwrap_err();
    assert!(matches!(error, Error::SchemaMissing { .. }), "{error:?}");
}

#[tokio::test]
async fn delays_count_from_the_call_and_not_from_the_transactions_beginning() {
    let (store, mut client, _database) = scene().await;
    let transaction = client.transaction().await.unwrap();
    let began: DateTime<Utc> = transaction.query_one("SELECT now()", &[]).await.unwrap().get(0);
    let command = pgqrs::enqueue().message(&1).to("q").delay(30).command().unwrap();
    store.enqueue_in(&transaction, command).await.unwrap();
    transaction.commit().await.unwrap();
    let message = store.messages(MessageFilter::default()).await.unwrap().remove(0);
    assert!(message.enqueued_at > began, "{} {began}", message.enqueued_at);
    assert_eq!(message.visible_at, message.enqueued_at + Duration::from_secs(30));
}

#[tokio::test]
async fn a_lower_id_that_commits_late_is_found() {
    let (store, mut client, _database) = scene().await;
    let transaction = client.transaction().await.unwrap();
    let late = store.enqueue_in(&transaction, one("late")).await.unwrap();
    for _ in 0..20 {
        let ids = store.enqueue(one("early")).await.unwrap();
        let claimed = claim(&store).await;
        assert_eq!(claimed.iter().map(|message| message.id).collect::<Vec<_>>(), ids);
        assert!(claim(&store).await.is_empty());
    }
    transaction.commit().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let found = claim(&store).await;
        if let [message] = &found[..] {
            assert_eq!(message.id, late[0]);
            return;
        }
        assert!(Instant::now() < deadline, "it is not found");
    }
}

#[tokio::test]
async fn a_transaction_of_deadpool_serves() {
    let (store, _client, database) = scene().await;
    let manager = deadpool_postgres::Manager::new(database.url().parse().unwrap(), NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).build().unwrap();
    let mut object = pool.get().await.unwrap();
    let transaction = object.transaction().await.unwrap();
    store.enqueue_in(&*transaction, one("pooled")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(claim(&store).await[0].payload, "pooled");
}

#[tokio::test]
async fn a_transaction_through_a_pooler_serves() {
    let (store, _client, database) = scene().await;
    let bouncer = bouncer(database.url()).await.unwrap();
    // Named statements would meet on the pooler's four connections.
    for round in 0..10 {
        let mut client = client(bouncer.url()).await;
        let transaction = client.transaction().await.unwrap();
        store.enqueue_in(&transaction, one("through")).await.unwrap();
        transaction.commit().await.unwrap();
        let message = claim(&store).await.remove(0);
        let transaction = client.transaction().await.unwrap();
        store.archive_in(&transaction, message.receipt).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(metrics(&store).await.archived, round + 1);
    }
}

/// A store with the queue `q`, and a client of the same database with a table `effects`.
async fn scene() -> (PostgresStore, Client, Database) {
    let database = database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    pgqrs::admin(&store).create_queue("q").await.unwrap();
    let client = client(database.url()).await;
    client.batch_execute("CREATE TABLE effects (n int)").await.unwrap();
    (store, client, database)
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn effects(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM effects", &[]).await.unwrap().get(0)
}

async fn claim(store: &PostgresStore) -> Vec<Message> {
    pgqrs::dequeue().from("q").batch(10).fetch_all(store).await.unwrap()
}

async fn metrics(store: &PostgresStore) -> QueueMetrics {
    store.metrics(MetricsFilter::default()).await.unwrap().remove(0)
}

fn settlement(message: &Message, action: Action) -> Settlement {
    Settlement { receipt: message.receipt, action }
}

fn queue() -> QueueName {
    QueueName::new("q").unwrap()
}

fn message(payload: &str) -> NewMessage {
    NewMessage::new(Json::new(payload).unwrap())
}

fn one(payload: &str) -> Enqueue {
    Enqueue { queue: queue(), messages: vec![message(payload)], now: None }
}

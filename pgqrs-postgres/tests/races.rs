//! What concurrent callers may do to each other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

mod scene;

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use pgqrs::{
    Action, BatchSize, Claim, DeleteQueue, Enqueue, Error, Json, LeaseLost, LiveMessages,
    MessageFilter, MessageState, NewMessage, QueueName, Settle, Settled, Settlement, Store,
    VisibilityTimeout,
};
use pgqrs_testkit::server::Database;

use scene::store;

#[tokio::test(flavor = "multi_thread")]
async fn eight_claimers_get_each_message_once() {
    const MESSAGES: u32 = 2_000;
    let (store, _database) = store().await;
    for _ in 0..2 {
        store.enqueue(batch(MESSAGES / 2, None)).await.unwrap();
    }
    let claimers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            loop {
                let claimed = store.claim(claim(7, None)).await.unwrap().messages;
                if claimed.is_empty() {
                    return ids;
                }
                ids.extend(claimed.iter().map(|message| message.id));
            }
        })
    });
    let ids: Vec<_> = join_all(claimers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "a message came twice");
    // SKIP LOCKED lets a claim come back empty while others hold the last rows.
    let rest = store.claim(claim(10_000, None)).await.unwrap().messages.len();
    assert_eq!(ids.len() + rest, MESSAGES as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enqueue_precedes_the_deletion_of_its_queue_or_finds_none() {
    let (store, database) = store().await;
    for _ in 0..20 {
        let enqueues = (0..8).map(|_| store.enqueue(batch(20, None)));
        let (enqueued, deleted) = tokio::join!(join_all(enqueues), store.delete_queue(force()));
        deleted.unwrap();
        for result in enqueued {
            let is_expected = matches!(result, Ok(_) | Err(Error::QueueNotFound { .. }));
            assert!(is_expected, "{result:?}");
        }
        assert_eq!(rows_of_messages(&database).await, 0, "a message outlived its queue");
        pgqrs::admin(&store).create_queue("q").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_deleted_whole_while_messages_move() {
    let (store, database) = store().await;
    for _ in 0..20 {
        store.enqueue(batch(200, None)).await.unwrap();
        let held = store.claim(claim(50, None)).await.unwrap().messages;
        let archive = held.iter().map(|message| settlement(message.receipt, Action::Archive));
        let settle = Settle { settlements: archive.collect(), now: None };
        let claims = (0..4).map(|_| store.claim(claim(20, None)));
        let (claimed, settled, deleted) =
            tokio::join!(join_all(claims), store.settle(settle), store.delete_queue(force()));
        deleted.unwrap();
        for result in settled.unwrap() {
            assert!(matches!(result, Ok(Settled::Archived) | Err(LeaseLost)), "{result:?}");
        }
        for result in claimed {
            assert!(matches!(result, Ok(_) | Err(Error::QueueNotFound { .. })), "{result:?}");
        }
        assert_eq!(rows_of_messages(&database).await, 0, "a message outlived its queue");
        pgqrs::admin(&store).create_queue("q").await.unwrap();
    }
}

#[tokio::test]
async fn an_expired_lease_that_is_ready_again_still_settles() {
    let (store, _database) = store().await;
    let at = |seconds| Some(DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(seconds));
    let actions = [
        Action::Archive,
        Action::Delete,
        Action::Release(pgqrs::Delay::ZERO),
        Action::Extend(VisibilityTimeout::seconds(60).unwrap()),
    ];
    let lower = |n: usize| NewMessage::new(Json::new(&n).unwrap());
    let enqueue = Enqueue { messages: (0..4).map(lower).collect(), ..batch(0, at(0)) };
    store.enqueue(enqueue).await.unwrap();
    let held = store.claim(claim(4, at(0))).await.unwrap().messages;
    assert_eq!(held.len(), 4);
    // Something more urgent lets a later claim take in the expired leases without taking them.
    let mut urgent = batch(1, at(100));
    urgent.messages[0].priority = pgqrs::Priority::HIGHEST;
    store.enqueue(urgent).await.unwrap();
    store.claim(claim(1, at(100))).await.unwrap();

    let settlements =
        held.iter().zip(actions).map(|(message, action)| settlement(message.receipt, action));
    let settle = Settle { settlements: settlements.collect(), now: at(101) };
    let settled = store.settle(settle).await.unwrap();
    assert_eq!(settled[..3], [Ok(Settled::Archived), Ok(Settled::Deleted), Ok(Settled::Released)]);
    assert_eq!(settled[3], Ok(Settled::Extended(at(161).unwrap())));
    let filter = MessageFilter { id: Some(held[3].id), now: at(102), ..MessageFilter::default() };
    assert_eq!(store.messages(filter).await.unwrap()[0].state, MessageState::Leased);
}

fn batch(size: u32, now: Option<DateTime<Utc>>) -> Enqueue {
    let messages = (0..size).map(|n| NewMessage::new(Json::new(&n).unwrap())).collect();
    Enqueue { queue: QueueName::new("q").unwrap(), messages, now }
}

fn claim(limit: usize, now: Option<DateTime<Utc>>) -> Claim {
    let queue = QueueName::new("q").unwrap();
    Claim { queue, worker: None, limit: BatchSize::new(limit).unwrap(), timeout: None, now }
}

fn settlement(receipt: pgqrs::Receipt, action: Action) -> Settlement {
    Settlement { receipt, action }
}

fn force() -> DeleteQueue {
    DeleteQueue { queue: QueueName::new("q").unwrap(), live: LiveMessages::Delete }
}

/// Rows in any table that holds messages.
async fn rows_of_messages(database: &Database) -> i64 {
    let count = "SELECT (SELECT count(*) FROM pgqrs.messages) + (SELECT count(*) FROM pgqrs.ready)
                      + (SELECT count(*) FROM pgqrs.leases) + (SELECT count(*) FROM pgqrs.delayed)
                      + (SELECT count(*) FROM pgqrs.archive)";
    let (client, connection) =
        tokio_postgres::connect(database.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one(count, &[]).await.unwrap().get(0)
}

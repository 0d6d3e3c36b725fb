//! Calls that share a statement: each is answered as if it had been alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

mod scene;

use std::collections::BTreeSet;

use chrono::TimeDelta;
use futures::future::join_all;
use pgqrs::{
    Action, ArchiveFilter, BatchSize, Claim, Enqueue, Error, Json, LeaseLost, Message, MessageId,
    NewMessage, Page, QueueName, Receipt, Settle, Settled, Settlement, Store, VisibilityTimeout,
};
use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::Database;
use tokio_postgres::{Client, NoTls};

use scene::store;

#[tokio::test]
async fn small_claims_at_once_are_one_statement_and_get_no_more_than_they_want() {
    let (store, database) = store().await;
    let counted = count_statements(&database, "BEFORE DELETE ON pgqrs.ready").await;
    enqueue(&store, 40).await;
    let claimed = join_all((1..=8).map(|limit| claim(&store, limit))).await;
    assert_eq!(claimed.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(claimed.iter().flatten().map(|m| m.id).collect::<BTreeSet<_>>().len(), 36);
    assert_eq!(statements(&counted).await, 1);
}

#[tokio::test]
async fn a_claim_reckons_with_what_the_last_one_left_of_a_run() {
    let (store, database) = store().await;
    let counted = count_statements(&database, "BEFORE DELETE ON pgqrs.ready").await;
    enqueue(&store, 100).await;
    for (limit, expected) in [(10, 1), (40, 2), (25, 3), (5, 4), (20, 5)] {
        assert_eq!(claim(&store, limit).await.len(), limit);
        assert_eq!(statements(&counted).await, expected, "{limit} messages");
    }
}

#[tokio::test]
async fn claims_at_once_keep_their_own_timeouts() {
    let (store, _database) = store().await;
    enqueue(&store, 20).await;
    let seconds = [10, 20, 10, 20];
    let claims = seconds.map(|seconds| {
        let timeout = Some(VisibilityTimeout::seconds(seconds).unwrap());
        store.claim(Claim { timeout, ..command(2) })
    });
    for (claimed, seconds) in join_all(claims).await.into_iter().zip(seconds) {
        let messages = claimed.unwrap().messages;
        assert_eq!(messages.len(), 2);
        for message in messages {
            let lease = message.visible_at - message.claimed_at;
            assert_eq!(lease.num_seconds(), i64::from(seconds));
        }
    }
}

#[tokio::test]
async fn a_worker_that_may_not_claim_leaves_the_claims_beside_its_own_alone() {
    let (store, _database) = store().await;
    enqueue(&store, 4).await;
    let consumer = |host| pgqrs::consumer(host, 0, "q").create(&store);
    let (ready, suspended) = (consumer("ready").await.unwrap(), consumer("not").await.unwrap());
    suspended.suspend().await.unwrap();
    let (ready, suspended) = (ready.id(), suspended.id());
    let workers = [Some(suspended), Some(ready), None];
    let claims = workers.map(|worker| store.claim(Claim { worker, ..command(2) }));
    let [refused, registered, ephemeral] = join_all(claims).await.try_into().unwrap();
    let error = refused.unwrap_err();
    assert!(
        matches!(error, Error::WorkerNotReady { worker, .. } if worker == suspended),
        "{error:?}"
    );
    for (claimed, worker) in [(registered, Some(ready)), (ephemeral, None)] {
        let messages = claimed.unwrap().messages;
        assert_eq!(messages.iter().map(|m| m.worker).collect::<Vec<_>>(), [worker; 2]);
    }
}

/// An archive is tried as one of whole leases; the statement for parts takes what that leaves.
#[tokio::test]
async fn a_batch_of_whole_leases_of_parts_and_of_what_is_archived_is_answered_in_its_order() {
    let (store, _database) = store().await;
    enqueue(&store, 20).await;
    let [whole, part, before] = [3, 4, 2].map(|limit| claim(&store, limit));
    let (whole, part, before) = (whole.await, part.await, before.await);
    archive(&store, &before).await;
    let forged = Receipt { token: part[3].receipt.token, ..whole[0].receipt };
    let receipts = [&part[2], &before[1], &whole[1], &part[0], &whole[2], &before[0], &whole[0]];
    let mut receipts = receipts.map(|message| message.receipt).to_vec();
    receipts.insert(2, forged);
    let mut expected = [Ok(Settled::Archived); 8];
    expected[2] = Err(LeaseLost);
    // The second time all of it is archived, and the statement for parts comes first.
    for _ in 0..2 {
        assert_eq!(settle(&store, &receipts).await, expected);
        let archived = [&part[..1], &part[2..3], &whole, &before].concat();
        assert_eq!(archived_ids(&store).await, ids(&archived));
    }
    let rest = [part[3].receipt, part[1].receipt];
    assert_eq!(settle(&store, &rest).await, [Ok(Settled::Archived); 2]);
    assert_eq!(archived_ids(&store).await, ids(&[whole, part, before].concat()));
}

#[tokio::test]
async fn whole_leases_are_one_statement_and_parts_are_tried_as_whole_once() {
    let (store, database) = store().await;
    enqueue(&store, 20).await;
    let (whole, part) = (claim(&store, 5).await, claim(&store, 3).await);
    let counted = count_statements(&database, "BEFORE INSERT ON pgqrs.archive").await;
    archive(&store, &whole).await;
    assert_eq!(statements(&counted).await, 1);
    for (message, expected) in part.iter().zip([3, 4, 5]) {
        archive(&store, std::slice::from_ref(message)).await;
        assert_eq!(statements(&counted).await, expected);
    }
}

/// The extension writes their row anew, in which a claim counts on the order of ids.
#[tokio::test]
async fn messages_that_were_extended_together_are_claimed_again_together() {
    let (store, _database) = store().await;
    enqueue(&store, 20).await;
    let messages = claim(&store, 20).await;
    let action = Action::Extend(VisibilityTimeout::seconds(60).unwrap());
    let extend =
        |message: &Message| Settlement { receipt: message.receipt, action: action.clone() };
    let settlements = messages.iter().rev().map(extend).collect();
    let outcomes = store.settle(Settle { settlements, now: None }).await.unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
    let now = messages[0].claimed_at + TimeDelta::hours(1);
    let claimed = store.claim(Claim { now: Some(now), ..command(20) }).await.unwrap().messages;
    assert_eq!(ids(&claimed), ids(&messages));
}

/// Each writes the messages of the other's anew, which the other's statement then misses.
#[tokio::test(flavor = "multi_thread")]
async fn stores_that_archive_parts_of_one_lease_at_once_lose_none() {
    let (store, database) = store().await;
    let other = pgqrs_postgres::connect(database.url()).await.unwrap();
    for _ in 0..20 {
        enqueue(&store, 10).await;
        let messages = claim(&store, 10).await;
        let stores = [&store, &other].into_iter().cycle();
        let archives = messages.iter().zip(stores).map(|(message, store)| {
            let (store, receipt) = (store.clone(), message.receipt);
            tokio::spawn(async move { settle(&store, &[receipt]).await })
        });
        for outcome in join_all(archives).await {
            assert_eq!(outcome.unwrap(), [Ok(Settled::Archived)]);
        }
    }
    assert_eq!(archived_ids(&store).await.len(), 200);
}

async fn enqueue(store: &PostgresStore, count: u32) {
    let messages = (0..count).map(|n| NewMessage::new(Json::new(&n).unwrap())).collect();
    store.enqueue(Enqueue { queue: queue(), messages, now: None }).await.unwrap();
}

async fn claim(store: &PostgresStore, limit: usize) -> Vec<Message> {
    store.claim(command(limit)).await.unwrap().messages
}

fn command(limit: usize) -> Claim {
    let limit = BatchSize::new(limit).unwrap();
    Claim { queue: queue(), worker: None, limit, timeout: None, now: None }
}

async fn archive(store: &PostgresStore, messages: &[Message]) {
    let receipts: Vec<_> = messages.iter().map(|message| message.receipt).collect();
    assert!(settle(store, &receipts).await.iter().all(Result::is_ok));
}

async fn settle(store: &PostgresStore, receipts: &[Receipt]) -> Vec<Result<Settled, LeaseLost>> {
    let archive = |receipt: &Receipt| Settlement { receipt: *receipt, action: Action::Archive };
    let settlements = receipts.iter().map(archive).collect();
    store.settle(Settle { settlements, now: None }).await.unwrap()
}

async fn archived_ids(store: &PostgresStore) -> BTreeSet<MessageId> {
    let page = Page::first(BatchSize::new(1_000).unwrap());
    let filter = ArchiveFilter { page, ..ArchiveFilter::default() };
    store.archive(filter).await.unwrap().iter().map(|message| message.id).collect()
}

fn ids(messages: &[Message]) -> BTreeSet<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

fn queue() -> QueueName {
    QueueName::new("q").unwrap()
}

/// Counts the statements that do so from now on.
async fn count_statements(database: &Database, event: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = format!(
        "CREATE SEQUENCE counted;
         CREATE FUNCTION count_one() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN PERFORM nextval(''public.counted''); RETURN NULL; END';
         CREATE TRIGGER count {event} FOR EACH STATEMENT EXECUTE FUNCTION count_one()"
    );
    client.batch_execute(&sql).await.unwrap();
    client
}

async fn statements(client: &Client) -> i64 {
    let sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM counted";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

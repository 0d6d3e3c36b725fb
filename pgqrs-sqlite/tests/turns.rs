//! What one store knows from its last transaction, and others change behind its back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;

use pgqrs::{Error, LiveMessages, QueueChanges, QueueName, QueueState, Store, UpdateQueue};
use pgqrs_sqlite::SqliteStore;

async fn connect(path: &Path) -> SqliteStore {
    let url = format!("sqlite:///{}?synchronous=normal", path.display());
    pgqrs_sqlite::connect(&url).await.unwrap()
}

async fn enqueue(store: &SqliteStore) -> pgqrs::Result<i64> {
    let ids = pgqrs::enqueue().message(&"a message").to("tasks").execute(store).await?;
    Ok(ids[0].0)
}

async fn set_state(store: &SqliteStore, state: QueueState) {
    let queue = QueueName::new("tasks").unwrap();
    let changes = QueueChanges { state: Some(state), ..QueueChanges::default() };
    store.update_queue(UpdateQueue { queue, changes }).await.unwrap();
}

/// A store that is alone for longer stores more numbers ahead.
#[tokio::test]
async fn numbers_grow_whichever_store_gives_them_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let stores = [connect(&path).await, connect(&path).await];
    pgqrs::admin(&stores[0]).create_queue("tasks").await.unwrap();
    let mut last = 0;
    for turn in 1..30 {
        for _ in 0..turn {
            let id = enqueue(&stores[turn % 2]).await.unwrap();
            assert!(id > last, "{id} came after {last}");
            last = id;
        }
    }
}

#[tokio::test]
async fn a_program_that_writes_once_skips_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    pgqrs::admin(&connect(&path).await).create_queue("tasks").await.unwrap();
    for expected in 1..5 {
        assert_eq!(enqueue(&connect(&path).await).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_queue_that_another_store_pauses_or_deletes_is_seen_so_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let (store, other) = (connect(&path).await, connect(&path).await);
    let fetch = async || pgqrs::dequeue().from("tasks").fetch_one(&store).await.unwrap();
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    enqueue(&store).await.unwrap();
    set_state(&other, QueueState::Paused).await;
    assert_eq!(fetch().await, None);
    set_state(&other, QueueState::Active).await;
    assert!(fetch().await.is_some());
    pgqrs::admin(&other).delete_queue("tasks", LiveMessages::Delete).await.unwrap();
    let error = enqueue(&store).await.unwrap_err();
    assert!(matches!(error, Error::QueueNotFound { .. }), "{error:?}");
}

/// The store knows that nothing of its own is due, until another one has put something off.
#[tokio::test]
async fn what_another_store_puts_off_becomes_due_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let (store, other) = (connect(&path).await, connect(&path).await);
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    let start = chrono::Utc::now();
    let at = |seconds| start + std::time::Duration::from_secs(seconds);
    let fetch = async |seconds| {
        let dequeue = pgqrs::dequeue().from("tasks").at(at(seconds));
        dequeue.fetch_one(&store).await.unwrap().map(|message| message.payload)
    };
    assert_eq!(fetch(0).await, None);
    let late = pgqrs::enqueue().message(&"late").to("tasks").delay(5).at(at(0));
    late.execute(&other).await.unwrap();
    pgqrs::enqueue().message(&"early").to("tasks").at(at(0)).execute(&store).await.unwrap();
    assert_eq!(fetch(4).await, Some("early".into()));
    assert_eq!(fetch(5).await, Some("late".into()));
}

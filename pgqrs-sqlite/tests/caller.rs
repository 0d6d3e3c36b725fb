//! Enqueue and settle in a transaction of the caller's own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use pgqrs::{ArchiveFilter, Enqueue, Error, MetricsFilter, QueueName, Store};
use pgqrs_sqlite::{
    SqliteStore,
    rusqlite::{Connection, Transaction, TransactionBehavior},
};
use tempfile::TempDir;

struct Application {
    store: SqliteStore,
    connection: Connection,
    folder: TempDir,
}

impl Application {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let url = format!("sqlite:///{}?busy_timeout=200", path.display());
        let store = pgqrs_sqlite::connect(&url).await.unwrap();
        pgqrs::admin(&store).create_queue("tasks").await.unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE effects (x)").unwrap();
        Self { store, connection, folder }
    }

    fn begin(&mut self) -> Transaction<'_> {
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap()
    }

    fn effects(&self) -> i64 {
        self.connection.query_row("SELECT count(*) FROM effects", (), |row| row.get(0)).unwrap()
    }

    /// How many messages are live, and how many archived.
    async fn counts(&self) -> (u64, u64) {
        let metrics = self.store.metrics(MetricsFilter::default()).await.unwrap();
        (metrics[0].live(), metrics[0].archived)
    }
}

fn order() -> Enqueue {
    pgqrs::enqueue().messages(["pick", "pack"]).to("tasks").command().unwrap()
}

#[tokio::test]
async fn messages_are_there_with_the_callers_commit() {
    let mut app = Application::new().await;
    let store = app.store.clone();
    let tx = app.begin();
    let ids = store.enqueue_in(&tx, order()).unwrap();
    tx.execute("INSERT INTO effects VALUES (1)", ()).unwrap();
    tx.commit().unwrap();
    assert_eq!((app.effects(), app.counts().await), (1, (2, 0)));

    // The store goes on after the numbers that the caller's transaction took.
    let next = store.enqueue(order()).await.unwrap();
    assert!(ids[0] < ids[1] && ids[1] < next[0], "{ids:?} {next:?}");
    let claimed = pgqrs::dequeue().from("tasks").batch(10).fetch_all(&store).await.unwrap();
    let claimed: Vec<_> = claimed.iter().map(|message| message.id).collect();
    assert_eq!(claimed, [ids, next].concat());
}

#[tokio::test]
async fn a_rollback_takes_the_messages_along() {
    let mut app = Application::new().await;
    let store = app.store.clone();
    let tx = app.begin();
    store.enqueue_in(&tx, order()).unwrap();
    tx.rollback().unwrap();
    assert_eq!(app.counts().await, (0, 0));
    store.enqueue(order()).await.unwrap();
    assert_eq!(app.counts().await, (2, 0));
}

#[tokio::test]
async fn effect_and_archive_are_one_commit() {
    let mut app = Application::new().await;
    let store = app.store.clone();
    store.enqueue(order()).await.unwrap();
    let claimed = pgqrs::dequeue().from("tasks").batch(2).fetch_all(&store).await.unwrap();
    for (message, is_kept) in claimed.iter().zip([false, true]) {
        let tx = app.begin();
        tx.execute("INSERT INTO effects VALUES (1)", ()).unwrap();
        store.archive_in(&tx, message.receipt).unwrap();
        if is_kept { tx.commit() } else { tx.rollback() }.unwrap();
    }
    assert_eq!((app.effects(), app.counts().await), (1, (1, 1)));
    let done = store.archive(ArchiveFilter::default()).await.unwrap();
    assert_eq!(done[0].id, claimed[1].id);
}

#[tokio::test]
async fn a_receipt_that_is_lost_is_told_in_time_for_a_rollback() {
    let mut app = Application::new().await;
    let store = app.store.clone();
    store.enqueue(order()).await.unwrap();
    let message = pgqrs::dequeue().from("tasks").fetch_one(&store).await.unwrap().unwrap();
    let mut receipt = message.receipt;
    receipt.token += 1;
    let tx = app.begin();
    let error = store.archive_in(&tx, receipt).unwrap_err();
    assert!(matches!(error, Error::LeaseLost { id } if id == message.id), "{error:?}");
}

#[tokio::test]
async fn an_error_undoes_the_call_and_leaves_the_transaction() {
    let mut app = Application::new().await;
    let store = app.store.clone();
    let tx = app.begin();
    tx.execute("INSERT INTO effects VALUES (1)", ()).unwrap();
    let unknown = Enqueue { queue: QueueName::new("unknown").unwrap(), ..order() };
    let error = store.enqueue_in(&tx, unknown).unwrap_err();
    assert!(matches!(error, Error::QueueNotFound { .. }), "{error:?}");
    store.enqueue_in(&tx, order()).unwrap();
    tx.commit().unwrap();
    assert_eq!((app.effects(), app.counts().await), (1, (2, 0)));
}

#[tokio::test]
async fn another_database_or_no_transaction_is_refused_and_named() {
    let app = Application::new().await;
    let refused = |connection: &Connection| {
        app.store.enqueue_in(connection, order()).unwrap_err().to_string()
    };
    let other = Connection::open(app.folder.path().join("other.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = refused(&other);
    assert!(error.contains("other.db") && error.contains("app.db"), "{error}");
    let error = refused(&Connection::open_in_memory().unwrap());
    assert!(error.contains("without a file"), "{error}");
    let error = refused(&app.connection);
    assert!(error.contains("in no transaction"), "{error}");

    let memory = pgqrs_sqlite::connect("sqlite::memory:").await.unwrap();
    let error = memory.enqueue_in(&app.connection, order()).unwrap_err().to_string();
    assert!(error.contains("in memory"), "{error}");
    assert_eq!(app.counts().await, (0, 0));
}

#[tokio::test]
async fn a_connection_of_the_stores_own_kind_begins_a_transaction() {
    let app = Application::new().await;
    let store = app.store.clone();
    let connection = store.begin().unwrap();
    store.enqueue_in(&connection, order()).unwrap();
    drop(connection);
    assert_eq!(app.counts().await, (0, 0));
    let connection = store.begin().unwrap();
    store.enqueue_in(&connection, order()).unwrap();
    connection.execute_batch("COMMIT").unwrap();
    assert_eq!(app.counts().await, (2, 0));
}

/// A transaction that began by reading cannot write once others have: SQLite says busy at once.
#[tokio::test]
async fn a_transaction_that_reads_the_past_is_told_to_begin_anew() {
    let mut app = Application::new().await;
    let store = app.store.clone();
    let tx = app.connection.transaction().unwrap();
    let _: i64 = tx.query_row("SELECT count(*) FROM effects", (), |row| row.get(0)).unwrap();
    store.enqueue(order()).await.unwrap();
    let error = store.enqueue_in(&tx, order()).unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("BEGIN IMMEDIATE"), "{error}");
}

/// Nothing tells the store of the commit but `PRAGMA data_version`.
#[tokio::test]
async fn a_run_loop_of_this_process_is_woken_by_the_callers_commit() {
    let mut app = Application::new().await;
    let store = app.store.clone();
    let mut wakeups = store.wakeups(&QueueName::new("tasks").unwrap()).unwrap();
    wakeups.wait().await;
    wakeups.forget();
    let tx = app.begin();
    store.enqueue_in(&tx, order()).unwrap();
    tx.commit().unwrap();
    tokio::time::timeout(Duration::from_secs(10), wakeups.wait()).await.unwrap();
}

//! What `connect` accepts, makes and refuses, each error with its remedy.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, time::Duration};

use pgqrs::{Backends, Error, MetricsFilter, QueueName, Store};
use pgqrs_sqlite::{Sqlite, SqliteStore};
use rusqlite::Connection;

fn url(path: &Path) -> String {
    format!("sqlite:///{}", path.display())
}

async fn refused(path: &Path) -> Error {
    pgqrs_sqlite::connect(&url(path)).await.unwrap_err()
}

async fn enqueue(store: &SqliteStore, count: usize) -> pgqrs::Result<()> {
    let messages = vec!["x".repeat(200); count];
    pgqrs::enqueue().messages(&messages).to("tasks").execute(store).await.map(drop)
}

async fn ready(store: &SqliteStore) -> u64 {
    let filter = MetricsFilter { queue: Some(QueueName::new("tasks").unwrap()), now: None };
    store.metrics(filter).await.unwrap()[0].ready
}

#[tokio::test]
async fn a_missing_file_is_made_and_keeps_what_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b?.db");
    let url = format!("sqlite:///{}/a%20b%3F.db", folder.path().display());
    let store = pgqrs_sqlite::connect(&url).await.unwrap();
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    enqueue(&store, 3).await.unwrap();
    drop(store);

    assert!(path.is_file());
    let store = Backends::new(&[&Sqlite]).connect(&url).await.unwrap();
    store.verify().await.unwrap();
    let metrics = store.metrics(MetricsFilter::default()).await.unwrap();
    assert_eq!(metrics[0].ready, 3);
}

#[tokio::test]
async fn each_memory_database_is_one_stores_own() {
    let first = pgqrs_sqlite::connect("sqlite::memory:").await.unwrap();
    let second = pgqrs_sqlite::connect("sqlite::memory:").await.unwrap();
    pgqrs::admin(&first).create_queue("tasks").await.unwrap();
    enqueue(&first.clone(), 1).await.unwrap();
    assert_eq!(ready(&first).await, 1);
    assert!(matches!(enqueue(&second, 1).await, Err(Error::QueueNotFound { .. })));
}

#[tokio::test]
async fn two_stores_on_one_file_see_each_others_messages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let first = pgqrs_sqlite::connect(&url(&path)).await.unwrap();
    let second = pgqrs_sqlite::connect(&url(&path)).await.unwrap();
    pgqrs::admin(&first).create_queue("tasks").await.unwrap();
    enqueue(&first, 2).await.unwrap();
    assert_eq!(ready(&second).await, 2);
    let message = pgqrs::dequeue().from("tasks").fetch_one(&second).await.unwrap();
    assert!(message.is_some());
    assert_eq!(ready(&first).await, 1);
}

#[tokio::test]
async fn the_folder_must_exist_and_the_path_be_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(&folder.path().join("missing/q.db")).await;
    assert!(matches!(error, Error::InvalidUrl { .. }), "{error:?}");
    assert!(error.to_string().contains("missing does not exist; create it first"), "{error}");
    let error = refused(folder.path()).await;
    assert!(error.to_string().contains("is a folder; name a file in it"), "{error}");
}

#[tokio::test]
async fn a_foreign_file_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let notes = "not a database\n".repeat(100);
    fs::write(&path, &notes).unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert!(error.to_string().contains("no SQLite database"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), notes);
}

#[tokio::test]
async fn a_damaged_file_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = pgqrs_sqlite::connect(&url(&path)).await.unwrap();
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    enqueue(&store, 1_000).await.unwrap();
    drop(store);
    // The log goes into the file here at the latest.
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(truncate)").unwrap();
    drop(connection);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xff);
    fs::write(&path, bytes).unwrap();

    let error = refused(&path).await;
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert!(error.to_string().contains("integrity_check"), "{error}");
}

#[tokio::test]
async fn the_applications_own_tables_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE messages (x); INSERT INTO messages VALUES (7)").unwrap();
    let store = pgqrs_sqlite::connect(&url(&path)).await.unwrap();
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    enqueue(&store, 1).await.unwrap();
    let kept: i64 = connection.query_row("SELECT x FROM messages", (), |row| row.get(0)).unwrap();
    assert_eq!(kept, 7);
}

#[tokio::test]
async fn a_newer_schema_and_a_changed_one_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = pgqrs_sqlite::connect(&url(&path)).await.unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("INSERT INTO pgqrs_migrations VALUES (99, 'later', 'x')").unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, Error::SchemaTooNew { found: 99, known: 1 }), "{error:?}");
    assert!(matches!(store.verify().await, Err(Error::SchemaTooNew { .. })));

    connection
        .execute_batch(
            "DELETE FROM pgqrs_migrations WHERE version = 99;
             UPDATE pgqrs_migrations SET checksum = 'other'",
        )
        .unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, Error::SchemaDrift { .. }), "{error:?}");
}

#[tokio::test]
async fn verify_names_what_has_drifted_or_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let store = pgqrs_sqlite::connect(&url(&path)).await.unwrap();
    store.verify().await.unwrap();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "DROP INDEX pgqrs_leases_due; ALTER TABLE pgqrs_workers ADD COLUMN note TEXT",
        )
        .unwrap();
    let error = store.verify().await.unwrap_err().to_string();
    assert!(error.contains("index pgqrs_leases_due is missing"), "{error}");
    assert!(error.contains("table pgqrs_workers is different"), "{error}");

    connection.execute_batch("DROP TABLE pgqrs_migrations").unwrap();
    assert!(matches!(store.verify().await, Err(Error::SchemaMissing { .. })));
    connection.execute_batch("DROP TABLE pgqrs_queues").unwrap();
    assert!(matches!(enqueue(&store, 1).await, Err(Error::SchemaMissing { .. })));
}

#[tokio::test]
async fn a_writer_that_stays_is_waited_for_up_to_busy_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let impatient = format!("{}?busy_timeout=20", url(&path));
    let store = pgqrs_sqlite::connect(&impatient).await.unwrap();
    let patient = pgqrs_sqlite::connect(&url(&path)).await.unwrap();
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let error = enqueue(&store, 1).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("busy_timeout"), "{error}");
    assert_eq!(ready(&store).await, 0, "reads go on");

    let (waiting, ()) = tokio::join!(enqueue(&patient, 1), async {
        tokio::task::yield_now().await;
        other.execute_batch("COMMIT").unwrap();
    });
    waiting.unwrap();
    enqueue(&store, 1).await.unwrap();
    assert_eq!(ready(&store).await, 2);
}

/// The runtime and the process end while the writer still waits for a lock.
#[test]
fn a_runtime_ends_without_waiting_for_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(pgqrs_sqlite::connect(&url(&path))).unwrap();
    runtime.block_on(pgqrs::admin(&store).create_queue("tasks")).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = std::time::Instant::now();
    runtime.spawn(async move { enqueue(&store, 1).await });
    drop(runtime);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

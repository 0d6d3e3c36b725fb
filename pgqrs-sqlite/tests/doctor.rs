//! What the doctor finds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use pgqrs::{Finding, QueueName, Store};
use pgqrs_sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

async fn fresh() -> (SqliteStore, PathBuf, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let url = format!("sqlite:///{}?synchronous=normal", path.display());
    let store = pgqrs_sqlite::connect(&url).await.unwrap();
    pgqrs::admin(&store).create_queue("tasks").await.unwrap();
    (store, path, folder)
}

async fn fill(store: &SqliteStore, mebibytes: usize) {
    let messages = vec!["x".repeat(8 * 1024); 128];
    for _ in 0..mebibytes {
        pgqrs::enqueue().messages(&messages).to("tasks").execute(store).await.unwrap();
    }
}

async fn finding(store: &SqliteStore, check: &str) -> Finding {
    let findings = store.doctor().await.unwrap();
    findings.into_iter().find(|finding| finding.check == check).expect("the check is made")
}

#[tokio::test]
async fn a_new_file_is_well() {
    let (store, _, _folder) = fresh().await;
    let findings = store.doctor().await.unwrap();
    let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    let expected = ["durability", "free space", "log size", "write lock", "file system"];
    assert_eq!(checks, expected);
    assert!(!findings.iter().any(Finding::is_ailing), "{findings:#?}");
    assert!(findings[0].detail.contains("synchronous=normal"), "{findings:#?}");
}

#[tokio::test]
async fn a_store_in_memory_is_well() {
    let store = pgqrs_sqlite::connect("sqlite::memory:").await.unwrap();
    let findings = store.doctor().await.unwrap();
    assert!(!findings.iter().any(Finding::is_ailing), "{findings:#?}");
    assert!(findings[0].detail.contains("in memory"), "{findings:#?}");
}

#[tokio::test]
async fn a_long_reader_is_found_by_the_log_that_it_keeps() {
    let (store, path, _folder) = fresh().await;
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM pgqrs_queues").unwrap();
    fill(&store, 40).await;
    let found = finding(&store, "log size").await;
    assert!(found.is_ailing(), "{found}");
    assert!(found.to_string().contains("read transaction"), "{found}");

    reader.execute_batch("COMMIT").unwrap();
    // The next commits empty the log, and begin it anew.
    fill(&store, 1).await;
    let found = finding(&store, "log size").await;
    assert!(!found.is_ailing(), "{found}");
}

#[tokio::test]
async fn a_write_lock_that_somebody_keeps_is_found() {
    let (store, path, _folder) = fresh().await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let found = finding(&store, "write lock").await;
    assert!(found.is_ailing(), "{found}");
    other.execute_batch("ROLLBACK").unwrap();
    let found = finding(&store, "write lock").await;
    assert!(!found.is_ailing(), "{found}");
}

#[tokio::test]
async fn much_free_space_is_found() {
    let (store, _, _folder) = fresh().await;
    fill(&store, 24).await;
    let queue = QueueName::new("tasks").unwrap();
    store.purge(pgqrs::Purge { queue, scope: pgqrs::PurgeScope::Live }).await.unwrap();
    let found = finding(&store, "free space").await;
    assert!(found.is_ailing(), "{found}");
    assert!(found.to_string().contains("VACUUM"), "{found}");
}

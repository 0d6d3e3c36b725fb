//! Run loops in processes of their own, on one file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]
#![cfg(unix)]

use pgqrs_sqlite::SqliteStore;
use pgqrs_testkit::{chaos::Program, workers};
use tempfile::TempDir;

#[tokio::test]
async fn a_killed_workers_messages_are_handled_within_20_seconds() {
    let (store, program, _folder) = fresh().await;
    workers::a_killed_workers_messages_are_handled_within_20_seconds(&store, program).await;
}

#[tokio::test]
async fn a_frozen_worker_settles_nothing_late() {
    let (store, program, _folder) = fresh().await;
    workers::a_frozen_worker_settles_nothing_late(&store, program).await;
}

#[tokio::test]
async fn a_worker_asked_to_stop_under_load_leaves_nothing_leased() {
    let (store, program, _folder) = fresh().await;
    workers::a_worker_asked_to_stop_under_load_leaves_nothing_leased(&store, program).await;
}

#[test]
#[ignore = "the body of the workers that the other tests start"]
fn worker() {
    workers::child(connect);
}

async fn fresh() -> (SqliteStore, Program, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:///{}", folder.path().join("q.db").display());
    (connect(url.clone()).await, Program { test: "worker", url }, folder)
}

async fn connect(url: String) -> SqliteStore {
    pgqrs_sqlite::connect(&url).await.unwrap()
}

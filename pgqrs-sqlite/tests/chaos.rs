//! Four processes on one file, 20,000 messages, processes killed with SIGKILL at random, and one
//! replaced under its own identity while it still runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pgqrs_sqlite::SqliteStore;
use pgqrs_testkit::chaos::{self, Plan, Program};

#[test]
fn four_processes_that_are_killed_at_random_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:///{}?synchronous=normal", folder.path().join("q.db").display());
    chaos::check(Plan::of(4), Program { test: "child_of_the_chaos", url }, connect);
}

#[test]
#[ignore = "the body of the processes that the test above starts"]
fn child_of_the_chaos() {
    chaos::child(connect);
}

async fn connect(url: String) -> SqliteStore {
    pgqrs_sqlite::connect(&url).await.unwrap()
}

//! Four processes on one file, 20,000 messages, processes killed with SIGKILL at random, and one
//! replaced under its own identity while it still runs. `PGQRS_CHAOS_MESSAGES=50000` and
//! `PGQRS_CHAOS_KILLS=200` make it larger.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pgqrs_sqlite::SqliteStore;
use pgqrs_testkit::chaos::{self, Plan, Program};
use rusqlite::Connection;

#[test]
fn four_processes_that_are_killed_at_random_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let url = format!("sqlite:///{}?synchronous=normal", path.display());
    let program = Program { test: "child_of_the_chaos", url };
    chaos::check_after_each_kill(Plan::of(4), program, connect, || {
        let connection = Connection::open(&path).unwrap();
        let check = "PRAGMA integrity_check";
        let answer: String = connection.query_row(check, (), |row| row.get(0)).unwrap();
        assert_eq!(answer, "ok");
    });
}

#[test]
#[ignore = "the body of the processes that the test above starts"]
fn child_of_the_chaos() {
    chaos::child(connect);
}

async fn connect(url: String) -> SqliteStore {
    pgqrs_sqlite::connect(&url).await.unwrap()
}

//! Eight processes on one server, 20,000 messages, processes killed with SIGKILL at random, and one
//! replaced under its own identity while it still runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::{
    chaos::{self, Plan, Program},
    server,
};

#[test]
fn eight_processes_that_are_killed_at_random_lose_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(server::database()).unwrap();
    let url = database.url().to_owned();
    chaos::check(Plan::of(8), Program { test: "child_of_the_chaos", url }, connect);
}

#[test]
#[ignore = "the body of the processes that the test above starts"]
fn child_of_the_chaos() {
    chaos::child(connect);
}

async fn connect(url: String) -> PostgresStore {
    pgqrs_postgres::connect(&url).await.unwrap()
}

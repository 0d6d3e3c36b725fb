//! The contract, on Postgres: case by case, by random programs, and under concurrent stress.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::Database;

async fn fresh() -> (PostgresStore, Database) {
    let database = pgqrs_testkit::server::database().await.unwrap();
    (pgqrs_postgres::connect(database.url()).await.unwrap(), database)
}

pgqrs_testkit::conformance!(fresh);
pgqrs_testkit::model!(fresh);
pgqrs_testkit::stress!(fresh);

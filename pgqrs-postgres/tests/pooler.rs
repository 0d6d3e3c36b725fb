//! The contract through PgBouncer in transaction mode, which the default options have to notice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::{Bouncer, Database, bouncer, database};

async fn fresh() -> (PostgresStore, (Bouncer, Database)) {
    let database = database().await.unwrap();
    let bouncer = bouncer(database.url()).await.unwrap();
    (pgqrs_postgres::connect(bouncer.url()).await.unwrap(), (bouncer, database))
}

pgqrs_testkit::conformance!(fresh);

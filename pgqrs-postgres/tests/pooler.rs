//! The contract through PgBouncer in transaction mode, which the default options have to notice.

use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::{Bouncer, Database, bouncer, database};

async fn fresh() -> (PostgresStore, (Bouncer, Database)) {
    let database = database().await.unwrap();
    let bouncer = bouncer(database.url()).await.unwrap();
    (pgqrs_postgres::connect(bouncer.url()).await.unwrap(), (bouncer, database))
}

pgqrs_testkit::conformance!(fresh);

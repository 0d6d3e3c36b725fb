//! A store on a database of its own, with the queue `q`.

use pgqrs::Store;
use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::{Database, database};

pub(crate) async fn store() -> (PostgresStore, Database) {
    let database = database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    pgqrs::admin(&store).create_queue("q").await.unwrap();
    (store, database)
}

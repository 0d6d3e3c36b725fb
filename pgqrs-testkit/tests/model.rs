//! The model on the in-memory store.

use pgqrs::MemoryStore;

async fn fresh() -> (MemoryStore, ()) {
    (MemoryStore::new(), ())
}

pgqrs_testkit::model!(fresh);

//! The stress on the in-memory store.

use pgqrs::MemoryStore;

async fn fresh() -> (MemoryStore, ()) {
    (MemoryStore::new(), ())
}

pgqrs_testkit::stress!(fresh);

//! The in-memory store keeps the whole contract.

async fn fresh() -> (pgqrs::MemoryStore, ()) {
    (pgqrs::MemoryStore::new(), ())
}

pgqrs_testkit::conformance!(fresh);

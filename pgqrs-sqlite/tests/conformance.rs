//! The contract, on a file and in memory: case by case, and on the file by random programs and
//! under concurrent stress.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod file {
    use pgqrs_sqlite::SqliteStore;
    use tempfile::TempDir;

    async fn fresh() -> (SqliteStore, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:///{}?synchronous=normal", folder.path().join("q.db").display());
        (pgqrs_sqlite::connect(&url).await.unwrap(), folder)
    }

    pgqrs_testkit::conformance!(fresh);
    pgqrs_testkit::model!(fresh);
    pgqrs_testkit::stress!(fresh);
}

mod memory {
    use pgqrs_sqlite::SqliteStore;

    async fn fresh() -> (SqliteStore, ()) {
        (pgqrs_sqlite::connect("sqlite::memory:").await.unwrap(), ())
    }

    pgqrs_testkit::conformance!(fresh);
}

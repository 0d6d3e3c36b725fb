//! Every statement of the hot path runs by index alone: no walk over what a claim must skip, no
//! sort of the backlog, with 200,000 ready, 100,000 delayed and 100,000 leased messages.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "reads and administration are not asserted here")]
#[path = "../src/sql.rs"]
mod sql;

use pgqrs::CreateQueue;
use pgqrs::Store;
use rusqlite::Connection;

const HOT: &[(&str, &str)] = &[
    ("QUEUE", sql::QUEUE),
    ("NEXT_DUE", sql::NEXT_DUE),
    ("PROMOTE_DELAYED", sql::PROMOTE_DELAYED),
    ("DELETE_PROMOTED_DELAYED", sql::DELETE_PROMOTED_DELAYED),
    ("PROMOTE_LEASES", sql::PROMOTE_LEASES),
    ("DELETE_PROMOTED_LEASES", sql::DELETE_PROMOTED_LEASES),
    ("TAKE_SPENT", sql::TAKE_SPENT),
    ("CLAIM", sql::CLAIM),
    ("LEASE_RUN", sql::LEASE_RUN),
    ("DELETE_CLAIMED", sql::DELETE_CLAIMED),
    ("CURRENT_LEASE", sql::CURRENT_LEASE),
    ("DELETE_LEASE", sql::DELETE_LEASE),
    ("ARCHIVE_LEASE", sql::ARCHIVE_LEASE),
    ("SHORTEN_RUN", sql::SHORTEN_RUN),
    ("CURRENT_LEASES", sql::CURRENT_LEASES),
    ("ARCHIVE_LEASES", sql::ARCHIVE_LEASES),
    ("DELETE_LEASES", sql::DELETE_LEASES),
    ("TAKE_EXPIRED", sql::TAKE_EXPIRED),
    ("ARCHIVED", sql::ARCHIVED),
    ("DELETE_MESSAGE", sql::DELETE_MESSAGE),
    ("ARCHIVE_PAGE", sql::ARCHIVE_PAGE),
    ("DEAD_LETTERS_PAGE", sql::DEAD_LETTERS_PAGE),
    ("OLDEST_DEAD_LETTERS", sql::OLDEST_DEAD_LETTERS),
    ("TAKE_DEAD_LETTER", sql::TAKE_DEAD_LETTER),
    ("REDRIVEN", sql::REDRIVEN),
    ("DELETE_ARCHIVED_MESSAGES", sql::DELETE_ARCHIVED_MESSAGES),
    ("PURGE_READY", sql::PURGE_READY),
    ("PURGE_DELAYED", sql::PURGE_DELAYED),
    ("PURGE_ARCHIVE", sql::PURGE_ARCHIVE),
    ("PREDECESSOR", sql::PREDECESSOR),
    ("WORKER", sql::WORKER),
    ("REMOVE_ARCHIVED", sql::REMOVE_ARCHIVED),
];

const FILL: &str = "
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000)
INSERT INTO pgqrs_messages (id, queue_id, priority, enqueued_at, max_attempts, payload)
SELECT i, 1, 3 + i % 3, i, 5, '{}' FROM n;
INSERT INTO pgqrs_leases
    (id, first_id, queue_id, rank, token, attempts, max_attempts, visible_at, claimed_at)
SELECT id, id, 1, 9 - priority, id, 1 + (id % 10 = 0) * 4, 5, id, id
FROM pgqrs_messages WHERE id <= 100000;
INSERT INTO pgqrs_delayed (id, queue_id, rank, pos, attempts, max_attempts, visible_at)
SELECT id, 1, 9 - priority, id, 0, 5, id
FROM pgqrs_messages WHERE id BETWEEN 100001 AND 200000;
INSERT INTO pgqrs_ready (queue_id, rank, pos, id, attempts, max_attempts, visible_at)
SELECT 1, 9 - priority, id, id, 0, 5, id
FROM pgqrs_messages WHERE id BETWEEN 200001 AND 400000;
INSERT INTO pgqrs_archive (id, queue_id, outcome, token, attempts, claimed_at, archived_at)
SELECT id, 1, id % 100 = 0, id, 1, id, id
FROM pgqrs_messages WHERE id > 400000;";

fn plan(connection: &Connection, sql: &str) -> String {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let nulls = vec![rusqlite::types::Null; statement.parameter_count()];
    let read = |row: &rusqlite::Row<'_>| row.get::<_, String>(3);
    let lines = statement.query_map(rusqlite::params_from_iter(nulls), read).unwrap();
    lines.collect::<Result<Vec<_>, _>>().unwrap().join("\n")
}

fn assert_plans(connection: &Connection) {
    for (name, sql) in HOT {
        let plan = plan(connection, sql);
        for table in ["messages", "ready", "leases", "delayed", "archive"] {
            for alias in [format!("pgqrs_{table}"), table[..1].to_owned()] {
                let scans = plan.lines().any(|line| {
                    line.trim_start() == format!("SCAN {alias}")
                        || line.trim_start().starts_with(&format!("SCAN {alias} "))
                });
                assert!(!scans, "{name} scans {alias}:\n{plan}");
            }
        }
        assert!(!plan.contains("TEMP B-TREE"), "{name} sorts:\n{plan}");
    }
    let claim = plan(connection, sql::CLAIM);
    assert!(claim.contains("SEARCH r USING PRIMARY KEY (queue_id=?)"), "{claim}");
    for taken in [sql::LEASE_RUN, sql::DELETE_CLAIMED] {
        let plan = plan(connection, taken);
        assert!(plan.contains("(queue_id=? AND (rank,pos)<(?,?))"), "{plan}");
    }
}

#[tokio::test]
async fn hot_statements_run_by_index_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    let url = format!("sqlite:///{}?synchronous=normal", path.display());
    let store = pgqrs_sqlite::connect(&url).await.unwrap();
    let queue = pgqrs::QueueName::new("tasks").unwrap();
    let settings = pgqrs::QueueSettings::default();
    store.create_queue(CreateQueue { queue, settings, now: None }).await.unwrap();

    let connection = Connection::open(&path).unwrap();
    assert_plans(&connection);
    connection.execute_batch(FILL).unwrap();
    assert_plans(&connection);
    // Statistics, which an application may gather, change no plan for the worse.
    connection.execute_batch("ANALYZE").unwrap();
    assert_plans(&connection);
}

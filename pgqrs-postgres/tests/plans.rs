//! The plans of the statements that consumers run all the time, on a deep queue: 200,000 ready,
//! 100,000 delayed and 100,000 leased messages of three priorities. With statistics and without,
//! planned for any parameters and for the ones given, and planned in one of the store's sessions when
//! the tables were empty, no statement may walk over or sort more than it takes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use pgqrs::Store as _;
use serde_json::Value;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

#[allow(unreachable_pub, reason = "what sql.rs is written with")]
#[path = "../src/parts.rs"]
mod parts;
#[allow(unreachable_pub, reason = "the settings of the store's sessions, not a copy")]
#[path = "../src/session.rs"]
mod session;
#[allow(dead_code, unreachable_pub, reason = "the text the store runs, not a copy")]
#[path = "../src/sql.rs"]
mod sql;
#[allow(unreachable_pub, reason = "what sql.rs is written with")]
#[path = "../src/sql_claim.rs"]
mod sql_claim;
#[allow(unreachable_pub, reason = "what sql.rs is written with")]
#[path = "../src/statements.rs"]
mod statements;

const BACKLOG: &str = "
INSERT INTO {schema}.messages (id, queue_id, priority, max_attempts, enqueued_at, payload)
SELECT n, 1, 3 + n % 3, 5, now(), '{}' FROM generate_series(1, 400000) n;
INSERT INTO {schema}.ready (ids, queue_id, pos, visible_at, rank, attempts, max_attempts)
SELECT ARRAY[n, n + 1], 1, n, now(), 6 - n % 3, 0, 5 FROM generate_series(1, 200000, 2) n;
INSERT INTO {schema}.delayed (ids, queue_id, pos, visible_at, rank, attempts, max_attempts)
SELECT ARRAY[n], 1, n, now() + n * interval '1 s', 6 - n % 3, 0, 5
FROM generate_series(200001, 300000) n;
INSERT INTO {schema}.leases
    (ids, token, queue_id, rank, attempts, max_attempts, visible_at, claimed_at, worker_id)
SELECT ARRAY[n], n + 1000000, 1, 6 - n % 3, 1 + n % 5, 5, now() + n * interval '1 s', now(), n % 8
FROM generate_series(300001, 400000) n;
UPDATE {schema}.delayed SET visible_at = now() WHERE ids[1] % 1000 = 0;
UPDATE {schema}.leases SET visible_at = now() WHERE ids[1] % 1000 IN (0, 4);
SELECT setval('{schema}.sequence', 2000000);";

/// An archive in eight ranges, the last of them empty, and the default.
const ARCHIVE: &str = "
DO $do$ BEGIN
    FOR n IN 1..8 LOOP
        EXECUTE format('CREATE TABLE {schema}.archive_%s PARTITION OF {schema}.archive
                        FOR VALUES FROM (%s) TO (%s)', n, n * 5000, (n + 1) * 5000);
    END LOOP;
END $do$;
INSERT INTO {schema}.messages (id, queue_id, priority, max_attempts, enqueued_at, payload)
SELECT n, 1, 4, 5, now(), '{}' FROM generate_series(1, 40000) n;
INSERT INTO {schema}.archive (id, token, archived_at, queue_id, attempts, outcome)
SELECT n, n, now(), 1, 1, CASE n % 2 WHEN 0 THEN 'dead' ELSE 'done' END
FROM generate_series(1, 40000) n";

/// What a statement of a batch of 100 may read of one table: the batch, and what else is due.
const MAY_READ: f64 = 1_000.0;

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_walks_over_or_sorts_the_backlog() {
    let database = pgqrs_testkit::server::database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    pgqrs::admin(&store).create_queue("deep").await.unwrap();
    pgqrs::admin(&store).create_queue("empty").await.unwrap();
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = sql::Statements::new("pgqrs");

    // No statistics may come in between.
    for table in ["messages", "ready", "delayed", "leases"] {
        let off = format!("ALTER TABLE pgqrs.{table} SET (autovacuum_enabled = off)");
        client.batch_execute(&off).await.unwrap();
    }

    let array = |item: &dyn Fn(u32) -> String| {
        format!("'{{{}}}'", (101..=200).map(item).collect::<Vec<_>>().join(","))
    };
    let ids = array(&|n| (300_000 + n).to_string());
    let tokens = array(&|n| (1_300_000 + n).to_string());
    let places = array(&|n| (n - 100).to_string());
    let delays = array(&|_| "0".into());
    let errors = array(&|_| "error".into());
    let held = "int8[], int8[]";
    let claim = "text, int8[], int4[], int4[], int8, int8, timestamptz, int8[], int8, int4";
    let head = "'{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}'";
    let statements = [
        (
            &sql.claim,
            claim.into(),
            format!(
                "'deep', '{{null, null}}', '{{0, 50}}', '{{50, 100}}', 50, NULL, NULL, {head}, 0, 100"
            ),
        ),
        (
            &sql.claim,
            claim.into(),
            format!("'empty', '{{null}}', '{{0}}', '{{100}}', 10, NULL, NULL, {head}, 0, 100"),
        ),
        (
            &sql.look,
            "text, timestamptz, timestamptz, int8".into(),
            "'deep', NULL, NULL, NULL".into(),
        ),
        (&sql.scout, "text, int8[], timestamptz".into(), format!("'deep', {head}, '2000-01-01'")),
        (
            &sql.promote_due,
            "text, timestamptz, int8, int8, text, int8[], int8[], timestamptz".into(),
            format!("'deep', NULL, 1000, 100, 'x', '{{null}}', {head}, NULL"),
        ),
        (&sql.standing, "text, int8[]".into(), "'deep', '{1, null}'".into()),
        (
            &sql.archive_whole,
            "int8[], int8[], int4[], int4[], timestamptz".into(),
            format!("{ids}, {tokens}, {places}, {places}, NULL"),
        ),
        (&sql.archive, format!("{held}, timestamptz"), format!("{ids}, {tokens}, NULL")),
        (&sql.delete, held.into(), format!("{ids}, {tokens}")),
        (
            &sql.give_back,
            format!("{held}, timestamptz, int8[], text[], int2[]"),
            format!("{ids}, {tokens}, NULL, {delays}, {errors}, {delays}"),
        ),
        (
            &sql.extend,
            format!("{held}, timestamptz, int8"),
            format!("{ids}, {tokens}, NULL, 60000000"),
        ),
        (&sql.retake, held.into(), format!("{ids}, {tokens}")),
        (&sql.archived, format!("{held}, timestamptz"), format!("{ids}, {tokens}, NULL")),
        (&sql.bury_spent, "timestamptz, int8, text".into(), "NULL, 100, 'x'".into()),
    ];
    let statements: [(&String, String, String); 14] = statements;

    // One of the store's sessions plans while there is nothing.
    client.batch_execute("VACUUM pgqrs.ready, pgqrs.leases, pgqrs.delayed").await.unwrap();
    client.batch_execute(session::SESSION).await.unwrap();
    for (nth, (statement, types, values)) in statements.iter().enumerate() {
        let first =
            format!("PREPARE early_{nth} ({types}) AS {statement}; EXECUTE early_{nth} ({values})");
        client.batch_execute(&first).await.unwrap();
    }
    client.batch_execute(&sql.render(BACKLOG)).await.unwrap();
    for (nth, (statement, _, values)) in statements.iter().enumerate() {
        let script = format!(
            "BEGIN; EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE early_{nth} ({values}); ROLLBACK"
        );
        let plan = plan(&client, &script).await;
        let mut findings = Vec::new();
        inspect(&plan, &mut findings);
        assert!(findings.is_empty(), "planned early: {findings:#?}\n{statement}\n{plan:#}");
    }
    client.batch_execute("RESET ALL").await.unwrap();
    for statistics in ["", "ANALYZE pgqrs.messages, pgqrs.ready, pgqrs.delayed, pgqrs.leases"] {
        client.batch_execute(statistics).await.unwrap();
        for mode in ["force_generic_plan", "force_custom_plan"] {
            for (statement, types, values) in &statements {
                let plan = explain(&client, mode, statement, types, values).await;
                let mut findings = Vec::new();
                inspect(&plan, &mut findings);
                assert!(
                    findings.is_empty(),
                    "{mode}, {statistics:?}: {findings:#?}\n{statement}\n{plan:#}"
                );
            }
        }
    }
}

/// Planned in a session like the store's and in one that is not, with statistics and without, for
/// any parameters and for the ones given.
#[tokio::test]
async fn what_goes_by_id_reads_one_row_of_one_partition() {
    let database = pgqrs_testkit::server::database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    pgqrs::admin(&store).create_queue("q").await.unwrap();
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = sql::Statements::new("pgqrs");
    client.batch_execute(&sql.render(ARCHIVE)).await.unwrap();
    let page = "text, text, int8, int8, int8, timestamptz";
    let statements = [
        (&sql.archived, "int8[], int8[], timestamptz", "'{20001}', '{20001}', NULL"),
        (&sql.archived_message, page, "NULL, NULL, 20001, NULL, 50, NULL"),
        (&sql.redrive, "text, int8[], int8, timestamptz", "'q', '{20002}', 1000000, NULL"),
    ];
    for setting in [session::SESSION, "RESET ALL", "ANALYZE"] {
        client.batch_execute(setting).await.unwrap();
        for mode in ["force_generic_plan", "force_custom_plan"] {
            for (statement, types, values) in statements {
                let plan = explain(&client, mode, statement, types, values).await;
                let mut reads = Vec::new();
                archive_reads(&plan, &mut reads);
                let expected = [("archive_4".to_owned(), 1.0)];
                assert_eq!(reads, expected, "{mode}, {setting}: {statement}\n{plan:#}");
            }
        }
    }
}

/// The partitions that were looked into, and how many rows were read of each. What a redrive deletes
/// is left out: for that Postgres 13 looks into the index of every one.
fn archive_reads(plan: &Value, reads: &mut Vec<(String, f64)>) {
    let number = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    let rows = number("Actual Rows") + number("Rows Removed by Filter");
    let table = plan["Relation Name"].as_str().unwrap_or_default();
    if plan["Node Type"] == "ModifyTable" && plan["Operation"] == "Delete" {
        return;
    }
    if table.starts_with("archive_") && number("Actual Loops") > 0.0 {
        reads.push((table.to_owned(), rows * number("Actual Loops")));
    }
    for child in plan["Plans"].as_array().unwrap_or(&Vec::new()) {
        archive_reads(child, reads);
    }
}

/// Runs a statement in a transaction that is rolled back, and returns its plan with the counts.
async fn explain(client: &Client, mode: &str, sql: &str, types: &str, values: &str) -> Value {
    let script = format!(
        "BEGIN; SET LOCAL plan_cache_mode = {mode};
         PREPARE statement ({types}) AS {sql};
         EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE statement ({values});
         DEALLOCATE statement; ROLLBACK"
    );
    plan(client, &script).await
}

async fn plan(client: &Client, script: &str) -> Value {
    let messages = client.simple_query(script).await.unwrap();
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let explained: Value = serde_json::from_str(row.unwrap()).unwrap();
    explained[0]["Plan"].clone()
}

fn inspect(plan: &Value, findings: &mut Vec<String>) {
    let node = plan["Node Type"].as_str().unwrap();
    let number = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    let removed = number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
    let rows = (number("Actual Rows") + removed) * number("Actual Loops");
    let table = plan["Relation Name"].as_str().unwrap_or_default();
    let is_big = ["messages", "ready", "delayed", "leases"].contains(&table);
    if node == "Seq Scan" && is_big {
        findings.push(format!("{node} on {table}"));
    }
    if (is_big || node.contains("Sort")) && rows > MAY_READ {
        findings.push(format!("{node} of {rows} rows {table}"));
    }
    for child in plan["Plans"].as_array().unwrap_or(&Vec::new()) {
        inspect(child, findings);
    }
}

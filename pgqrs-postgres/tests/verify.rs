//! Each kind of drift, made by hand: `verify` names it with the remedy, and the remedy mends it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::{env, fs, path::Path};

use pgqrs::{Error, Store};
use pgqrs_postgres::{Options, PostgresStore};
use pgqrs_testkit::server::{Database, database};
use tokio_postgres::{Client, NoTls};

#[path = "../src/sql_operations.rs"]
#[allow(dead_code, reason = "doctor's statements")]
mod sql_operations;

#[tokio::test]
async fn a_missing_table_is_named() {
    let (store, client, _database) = scene("pgqrs").await;
    client.batch_execute("DROP TABLE pgqrs.delayed").await.unwrap();
    let findings = findings(&store).await;
    assert!(findings.contains("table delayed is missing: restore"), "{findings}");
    assert!(findings.contains("index delayed_due is missing"), "{findings}");
}

#[tokio::test]
async fn a_missing_column_is_named() {
    let (store, client, _database) = scene("pgqrs").await;
    client.batch_execute("ALTER TABLE pgqrs.workers DROP COLUMN replaced_by").await.unwrap();
    let findings = findings(&store).await;
    assert!(findings.contains("column workers.replaced_by is missing"), "{findings}");
}

#[tokio::test]
async fn a_column_of_another_type_is_named() {
    let (store, client, _database) = scene("pgqrs").await;
    let sql = "ALTER TABLE pgqrs.messages ALTER COLUMN payload TYPE jsonb USING payload::jsonb";
    client.batch_execute(sql).await.unwrap();
    let findings = findings(&store).await;
    let expected = "column messages.payload is jsonb NOT NULL, not text NOT NULL: ALTER TABLE";
    assert!(findings.contains(expected), "{findings}");
}

#[tokio::test]
async fn a_missing_index_is_named_and_its_remedy_mends_it() {
    let (store, client, _database) = scene("pgqrs").await;
    client.batch_execute("DROP INDEX pgqrs.workers_identity").await.unwrap();
    let finding = only(&findings(&store).await, "index workers_identity is missing: ");
    assert!(finding.starts_with("CREATE UNIQUE INDEX CONCURRENTLY workers_identity"), "{finding}");
    client.batch_execute(&finding).await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn an_index_on_other_columns_is_named() {
    let (store, client, _database) = scene("pgqrs").await;
    let sql =
        "DROP INDEX pgqrs.delayed_due; CREATE INDEX delayed_due ON pgqrs.delayed (visible_at)";
    client.batch_execute(sql).await.unwrap();
    let findings = findings(&store).await;
    assert!(findings.contains("index delayed_due is CREATE INDEX"), "{findings}");
    assert!(findings.contains("(visible_at), not CREATE INDEX"), "{findings}");
    assert!(findings.contains("DROP INDEX \"pgqrs\".delayed_due, then CREATE INDEX"), "{findings}");
}

/// What CREATE INDEX CONCURRENTLY leaves when it fails.
#[tokio::test]
async fn an_invalid_index_is_named() {
    let (store, client, _database) = scene("pgqrs").await;
    let sql = "DROP INDEX pgqrs.queues_name;
               INSERT INTO pgqrs.queues
                   (name, paused, visibility_timeout_us, max_attempts, retry, created_at)
               SELECT 'twice', false, 1, 1, '', now() FROM generate_series(1, 2)";
    client.batch_execute(sql).await.unwrap();
    let sql = "CREATE UNIQUE INDEX CONCURRENTLY queues_name ON pgqrs.queues (name)";
    client.batch_execute(sql).await.unwrap_err();
    let findings = findings(&store).await;
    assert!(
        findings.contains("index queues_name is") && findings.contains("(invalid)"),
        "{findings}"
    );
}

#[tokio::test]
async fn a_missing_function_is_named_and_put_back_by_install() {
    let (store, client, _database) = scene("pgqrs").await;
    let sql = "DROP FUNCTION pgqrs.enqueue(text, text, text, integer, interval, integer)";
    client.batch_execute(sql).await.unwrap();
    let findings = findings(&store).await;
    assert!(findings.contains("function enqueue(queue text, payload text,"), "{findings}");
    assert!(findings.contains("is missing: call pgqrs::admin(&store).install()"), "{findings}");
    store.install().await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_function_that_was_changed_is_named_and_put_back_by_install() {
    let (store, client, _database) = scene("pgqrs").await;
    let sql = "CREATE OR REPLACE FUNCTION pgqrs.enqueue(queue text, payload text,
                   headers text DEFAULT NULL, priority integer DEFAULT 4,
                   delay interval DEFAULT '0', max_attempts integer DEFAULT NULL)
               RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'";
    client.batch_execute(sql).await.unwrap();
    let findings = findings(&store).await;
    assert!(findings.contains("max_attempts integer) is another one"), "{findings}");
    store.install().await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_sequence_with_a_cache_is_named_and_its_remedy_mends_it() {
    let (store, client, _database) = scene("pgqrs").await;
    client.batch_execute("ALTER SEQUENCE pgqrs.sequence CACHE 32 CYCLE").await.unwrap();
    let found = "sequence sequence is AS bigint INCREMENT 1 CACHE 32 CYCLE, not AS bigint \
                 INCREMENT 1 CACHE 1 NO CYCLE: ";
    let remedy = only(&findings(&store).await, found);
    client.batch_execute(&remedy).await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_setting_of_a_table_is_named_and_its_remedy_mends_it() {
    let (store, client, _database) = scene("pgqrs").await;
    let sql = "ALTER TABLE pgqrs.ready SET (autovacuum_vacuum_cost_delay = 20)";
    client.batch_execute(sql).await.unwrap();
    let found = "setting ready.autovacuum_vacuum_cost_delay is 20, not 0: ";
    let remedy = only(&findings(&store).await, found);
    client.batch_execute(&remedy).await.unwrap();
    store.verify().await.unwrap();

    client.batch_execute("ALTER TABLE pgqrs.workers RESET (fillfactor)").await.unwrap();
    let remedy = only(&findings(&store).await, "setting workers.fillfactor is missing: ");
    client.batch_execute(&remedy).await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_table_without_autovacuum_is_named_and_its_remedy_mends_it() {
    let (store, client, _database) = scene("pgqrs").await;
    let sql = "ALTER TABLE pgqrs.archive_default SET (autovacuum_enabled = off)";
    client.batch_execute(sql).await.unwrap();
    let remedy = only(&findings(&store).await, "autovacuum is off for table archive_default: ");
    client.batch_execute(&remedy).await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_missing_default_partition_is_named_and_its_remedy_mends_it() {
    let (store, client, _database) = scene("pgqrs").await;
    client.batch_execute("DROP TABLE pgqrs.archive_default").await.unwrap();
    let remedy = only(&findings(&store).await, "partition archive_default is missing: ");
    client.batch_execute(&remedy).await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_missing_index_of_the_archive_is_named_and_its_remedy_mends_it_in_every_partition() {
    let (store, client, _database) = scene("pgqrs").await;
    // At an instant of the caller's a sweep sees to the partitions in any case.
    let sweep = pgqrs::Sweep { now: Some(chrono::Utc::now()), ..pgqrs::Sweep::default() };
    store.sweep(sweep).await.unwrap();
    store.verify().await.unwrap();
    client.batch_execute("DROP INDEX pgqrs.archive_dead").await.unwrap();
    let remedy = only(&findings(&store).await, "index archive_dead is missing: ");
    client.batch_execute(&remedy).await.unwrap();
    store.verify().await.unwrap();
    let sql = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'pgqrs.archive_dead'::regclass";
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'pgqrs.archive'::regclass";
    let count = async |sql| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!((count(sql).await, count(partitions).await), (2, 2));
}

#[tokio::test]
async fn what_others_add_is_no_drift() {
    let (store, client, _database) = scene("pgqrs").await;
    let sql = "CREATE TABLE pgqrs.mine (n int); CREATE INDEX my_index ON pgqrs.archive (worker_id);
               CREATE FUNCTION pgqrs.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
               ALTER TABLE pgqrs.messages SET (parallel_workers = 2, autovacuum_enabled = on)";
    client.batch_execute(sql).await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_schema_of_any_name_is_as_installed() {
    for name in ["Mixed Case", "it's \"quoted\"", "e", "$1"] {
        let (store, _client, _database) = scene(name).await;
        store.verify().await.unwrap();
    }
}

/// `migrations/catalogue.txt` is what an installation leaves.
#[tokio::test]
async fn the_catalogue_is_up_to_date() {
    let (_store, client, _database) = scene("pgqrs").await;
    let remedy = "cargo test -p pgqrs-postgres --test verify -- --ignored write_the_catalogue";
    let path = catalogue_path();
    let (expected, found) = (fs::read_to_string(path).unwrap(), catalogue(&client).await);
    assert_eq!(expected, found, "after a change of the migrations run {remedy}");
}

#[tokio::test]
#[ignore = "writes migrations/catalogue.txt, after a change of the migrations"]
async fn write_the_catalogue() {
    let (_store, client, _database) = scene("pgqrs").await;
    fs::write(catalogue_path(), catalogue(&client).await).unwrap();
}

async fn scene(schema: &str) -> (PostgresStore, Client, Database) {
    let database = database().await.unwrap();
    let options = Options { schema: schema.into(), ..Options::default() };
    let store = PostgresStore::connect(database.url(), options).await.unwrap();
    store.install().await.unwrap();
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    (store, client, database)
}

async fn findings(store: &PostgresStore) -> String {
    match store.verify().await {
        Err(Error::SchemaDrift { findings }) => findings.join("\n"),
        other => panic!("no drift: {other:?}"),
    }
}

/// What follows `found` in the one finding there is.
fn only(findings: &str, found: &str) -> String {
    assert_eq!(findings.lines().count(), 1, "{findings}");
    findings.strip_prefix(found).unwrap_or_else(|| panic!("{found} in {findings}")).to_owned()
}

fn catalogue_path() -> std::path::PathBuf {
    Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("migrations/catalogue.txt")
}

/// The lines of the statement that `verify` uses.
async fn catalogue(client: &Client) -> String {
    let rows = client.query(sql_operations::CATALOGUE, &[&"pgqrs"]).await.unwrap();
    let line = |row: &tokio_postgres::Row| {
        format!("{}: {}\n", row.get::<_, &str>(0), row.get::<_, &str>(1))
    };
    rows.iter().map(line).collect()
}

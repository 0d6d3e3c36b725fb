//! What `doctor` reports, each cause made by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use pgqrs::{Finding, Health, Store};
use pgqrs_postgres::{Notifications, Options, PostgresStore, StatementMode};
use pgqrs_testkit::server::{self, Cluster, Database, Durability, bouncer, database};
use tokio_postgres::{Client, NoTls};

#[tokio::test]
async fn all_is_well_on_a_fresh_server() {
    let options = server::Options { durability: Durability::Durable, ..Default::default() };
    let cluster = Cluster::start(options).await.unwrap();
    let database = cluster.database().await.unwrap();
    let store = installed(database.url(), Options::default()).await;
    for finding in store.doctor().await.unwrap() {
        assert_eq!(finding.health, Health::Well, "{finding}");
    }
}

#[tokio::test]
async fn the_session_with_the_oldest_snapshot_is_named() {
    let (store, mut client, _database) = scene().await;
    client.batch_execute("SET application_name = 'nightly report'").await.unwrap();
    let pid = pid(&client).await;
    let transaction = client.build_transaction();
    let isolation = tokio_postgres::IsolationLevel::RepeatableRead;
    let transaction = transaction.isolation_level(isolation).start().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    let finding = find(&store, "oldest snapshot").await;
    let expected = format!("session pid {pid} (nightly report, idle in transaction) holds one");
    assert!(finding.detail.contains(&expected), "{finding}");
    transaction.rollback().await.unwrap();
    let finding = find(&store, "oldest snapshot").await;
    assert!(!finding.detail.contains(&expected), "{finding}");
}

#[tokio::test]
async fn a_prepared_transaction_is_named() {
    let settings = vec!["max_prepared_transactions = 2".into()];
    let options = server::Options { settings, ..Default::default() };
    let cluster = Cluster::start(options).await.unwrap();
    let database = cluster.database().await.unwrap();
    let store = installed(database.url(), Options::default()).await;
    let sql = "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'forgotten'";
    client(database.url()).await.batch_execute(sql).await.unwrap();
    let finding = find(&store, "oldest snapshot").await;
    let expected = "prepared transaction 'forgotten' (postgres) holds one";
    assert!(finding.detail.contains(expected), "{finding}");
}

#[tokio::test]
async fn sessions_that_this_user_may_not_see_are_unknown() {
    let (_store, admin, database) = scene().await;
    let role = database.name();
    let sql = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgqrs TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA pgqrs TO {role}"
    );
    admin.batch_execute(&sql).await.unwrap();
    admin.batch_execute("BEGIN; SELECT FROM pgqrs.ready").await.unwrap();
    let url = database.url().replace("//postgres@", &format!("//{role}@"));
    let store = PostgresStore::connect(&url, Options::default()).await.unwrap();
    let findings = store.doctor().await.unwrap();
    drop(store);
    let sql = format!("ROLLBACK; DROP OWNED BY {role}; DROP ROLE {role}");
    admin.batch_execute(&sql).await.unwrap();
    let reason = |check: &str| match &one(&findings, check).health {
        Health::Unknown { reason } => reason.clone(),
        health => panic!("{check}: {health:?}"),
    };
    let remedy = format!("GRANT pg_read_all_stats TO \"{role}\"");
    assert!(reason("oldest snapshot").contains(&remedy), "{findings:#?}");
    assert!(reason("open transactions").contains(&remedy), "{findings:#?}");
    // No right was given on the sequence.
    assert!(reason("sequence").contains("permission denied"), "{findings:#?}");
    assert_eq!(one(&findings, "autovacuum").health, Health::Well);
}

#[tokio::test]
async fn a_transaction_on_our_tables_is_named() {
    let (store, mut client, _database) = scene().await;
    let pid = pid(&client).await;
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("SELECT FROM pgqrs.archive").await.unwrap();
    let finding = find(&store, "open transactions").await;
    assert!(finding.detail.contains(&format!("pid {pid} (\"\", idle in")), "{finding}");
    transaction.commit().await.unwrap();
    let finding = find(&store, "open transactions").await;
    assert_eq!(finding.detail, "none on the tables of this schema");
}

#[tokio::test]
async fn dead_rows_that_nobody_vacuums_are_ailing() {
    let (store, client, _database) = scene().await;
    let sql = "ALTER TABLE pgqrs.workers SET (autovacuum_enabled = off);
               INSERT INTO pgqrs.workers
                   (id, kind, host, port, queue_id, state, registered_at, heartbeat_at)
               SELECT n, 'consumer', 'h', 0, 1, 'stopped', now(), now()
               FROM generate_series(1, 100001) AS n;
               DELETE FROM pgqrs.workers";
    client.batch_execute(sql).await.unwrap();
    // The session's end hands its statistics over, sooner or later.
    drop(client);
    let finding = loop {
        let finding = find(&store, "dead rows").await;
        if finding.is_ailing() {
            break finding;
        }
    };
    assert!(finding.detail.starts_with("workers 100001 (never vacuumed)"), "{finding}");
    assert!(finding.to_string().contains("VACUUM \"pgqrs\".workers"), "{finding}");
}

#[tokio::test]
async fn a_table_without_autovacuum_is_ailing() {
    let (store, client, _database) = scene().await;
    assert_eq!(find(&store, "autovacuum").await.health, Health::Well);
    let sql = "ALTER TABLE pgqrs.ready SET (autovacuum_enabled = false);
               ALTER TABLE pgqrs.leases SET (autovacuum_enabled = off)";
    client.batch_execute(sql).await.unwrap();
    let finding = find(&store, "autovacuum").await;
    assert!(finding.is_ailing() && finding.detail == "off for leases, ready", "{finding}");
}

#[tokio::test]
async fn a_server_that_is_set_up_badly_is_ailing() {
    let settings = ["autovacuum = off", "synchronous_commit = off", "max_connections = 10"];
    let settings = settings.map(String::from).to_vec();
    let options = server::Options { settings, ..Default::default() };
    let cluster = Cluster::start(options).await.unwrap();
    let database = cluster.database().await.unwrap();
    let store = installed(database.url(), Options { pool_size: 1, ..Options::default() }).await;
    let finding = find(&store, "autovacuum").await;
    assert!(finding.is_ailing() && finding.detail.contains("off on this server"), "{finding}");
    let finding = find(&store, "durability").await;
    assert!(finding.is_ailing() && finding.detail.contains("synchronous_commit"), "{finding}");
    assert_eq!(find(&store, "connections").await.health, Health::Well);
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(client(database.url()).await);
    }
    let finding = find(&store, "connections").await;
    assert!(finding.is_ailing() && finding.detail.ends_with("of 7 in use"), "{finding}");
}

#[tokio::test]
async fn a_sequence_that_is_half_used_is_ailing() {
    let (store, client, _database) = scene().await;
    assert_eq!(find(&store, "sequence").await.health, Health::Well);
    let sql = "SELECT setval('pgqrs.sequence', 4700000000000000000)";
    client.batch_execute(sql).await.unwrap();
    let finding = find(&store, "sequence").await;
    assert!(finding.is_ailing() && finding.detail.contains(", 50 % of all"), "{finding}");
}

#[tokio::test]
async fn an_archive_that_has_left_its_ranges_behind_is_ailing() {
    let (store, client, _database) = scene().await;
    for (reached, is_ailing) in [(3, false), (524_287, false), (524_288, true)] {
        let sql = format!(
            "INSERT INTO pgqrs.archive (id, archived_at, queue_id, attempts, outcome)
             VALUES ({reached}, now(), 1, 1, 'done'); SELECT setval('pgqrs.sequence', {reached})"
        );
        client.batch_execute(&sql).await.unwrap();
        assert_eq!(find(&store, "archive").await.is_ailing(), is_ailing, "{reached}");
    }
    let finding = find(&store, "archive").await;
    let remedy = "then VACUUM FULL \"pgqrs\".archive_default";
    assert!(finding.to_string().ends_with(remedy), "{finding}");
    let sweep = pgqrs::Sweep { now: Some(chrono::Utc::now()), ..Default::default() };
    store.sweep(sweep).await.unwrap();
    let finding = find(&store, "archive").await;
    assert!(!finding.is_ailing(), "{finding}");
    assert!(finding.detail.starts_with("1 ranges end at id 1048576, 524288"), "{finding}");
}

#[tokio::test]
async fn the_clock_of_this_host_is_the_servers() {
    let (store, _client, _database) = scene().await;
    let finding = find(&store, "clock").await;
    assert!(finding.health == Health::Well && finding.detail.contains("give or take"), "{finding}");
}

#[tokio::test]
async fn a_schema_of_another_version_or_none_is_ailing() {
    let (store, client, _database) = scene().await;
    assert_eq!(find(&store, "versions").await.health, Health::Well);
    client.batch_execute("DROP INDEX pgqrs.delayed_due").await.unwrap();
    let finding = find(&store, "versions").await;
    assert!(finding.to_string().contains("index delayed_due is missing"), "{finding}");
    let newer = "INSERT INTO pgqrs.schema_migrations VALUES (99, 'x', 0, now())";
    client.batch_execute(newer).await.unwrap();
    let finding = find(&store, "versions").await;
    assert!(finding.is_ailing() && finding.detail.contains("version 99"), "{finding}");
    client.batch_execute("DROP SCHEMA pgqrs CASCADE").await.unwrap();
    let finding = find(&store, "versions").await;
    assert!(finding.is_ailing() && finding.detail.contains("not installed"), "{finding}");
}

#[tokio::test]
async fn a_direct_connection_hears_and_prepares() {
    let (store, _client, _database) = scene().await;
    let finding = find(&store, "pooler").await;
    assert_eq!(finding.detail, "none; statements are prepared");
    let finding = find(&store, "wake-ups").await;
    assert!(finding.health == Health::Well && finding.detail.contains("came back"), "{finding}");
}

#[tokio::test]
async fn a_transaction_pooler_is_told_by_its_mode_and_its_silence() {
    let (_store, _client, database) = scene().await;
    let bouncer = bouncer(database.url()).await.unwrap();
    let store = pgqrs_postgres::connect(bouncer.url()).await.unwrap();
    let findings = store.doctor().await.unwrap();
    let finding = one(&findings, "pooler");
    assert_eq!(finding.detail, "one in transaction mode; statements are unnamed");
    assert_eq!(finding.health, Health::Well);
    let finding = one(&findings, "wake-ups");
    assert!(finding.is_ailing() && finding.to_string().contains("listen_url"), "{finding}");

    let options = Options {
        statements: StatementMode::Prepared,
        listen_url: Some(database.url().to_owned()),
        ..Options::default()
    };
    let store = PostgresStore::connect(bouncer.url(), options).await.unwrap();
    let findings = store.doctor().await.unwrap();
    let finding = one(&findings, "wake-ups");
    assert_eq!(finding.health, Health::Well, "{finding}");
    let finding = one(&findings, "pooler");
    assert!(finding.is_ailing() && finding.to_string().contains("Unnamed"), "{finding}");
}

#[tokio::test]
async fn wake_ups_that_are_off_are_no_ailment() {
    let (_store, _client, database) = scene().await;
    let options = Options { notifications: Notifications::Off, ..Options::default() };
    let store = PostgresStore::connect(database.url(), options).await.unwrap();
    let finding = find(&store, "wake-ups").await;
    assert!(finding.health == Health::Well && finding.detail.contains("off by"), "{finding}");
}

#[tokio::test]
async fn a_server_that_is_down_is_an_error() {
    let cluster = Cluster::start(server::Options::default()).await.unwrap();
    let store = pgqrs_postgres::connect(&cluster.url()).await.unwrap();
    cluster.stop().await.unwrap();
    assert!(store.doctor().await.unwrap_err().is_unavailable());
}

async fn scene() -> (PostgresStore, Client, Database) {
    let database = database().await.unwrap();
    let store = installed(database.url(), Options::default()).await;
    let client = client(database.url()).await;
    (store, client, database)
}

async fn installed(url: &str, options: Options) -> PostgresStore {
    let store = PostgresStore::connect(url, options).await.unwrap();
    store.install().await.unwrap();
    store
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

async fn find(store: &PostgresStore, check: &str) -> Finding {
    one(&store.doctor().await.unwrap(), check).clone()
}

fn one<'f>(findings: &'f [Finding], check: &str) -> &'f Finding {
    let finding = findings.iter().find(|finding| finding.check == check);
    finding.unwrap_or_else(|| panic!("no {check} in {findings:#?}"))
}

//! Installing, verifying, and what calls say before and after.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::{env, process::Stdio};

use futures::future::join_all;
use pgqrs::{Error, QueueFilter, Store};
use pgqrs_postgres::{Options, PostgresStore};
use pgqrs_testkit::server::database;
use tokio::process::Command;
use tokio_postgres::NoTls;

const CHILD_URL: &str = "PGQRS_CHILD_URL";

#[tokio::test]
async fn every_call_before_install_names_it() {
    let database = database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    let error = store.queues(QueueFilter::default()).await.unwrap_err();
    assert!(matches!(error, Error::SchemaMissing { .. }), "{error:?}");
    assert!(error.to_string().contains("install()"), "{error}");
    let error = pgqrs::admin(&store).create_queue("q").await.unwrap_err();
    assert!(matches!(error, Error::SchemaMissing { .. }), "{error:?}");
    let error = store.sweep(pgqrs::Sweep::default()).await.unwrap_err();
    assert!(matches!(error, Error::SchemaMissing { .. }), "{error:?}");
    let error = store.verify().await.unwrap_err();
    assert!(matches!(error, Error::SchemaMissing { .. }), "{error:?}");
    store.install().await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_installers_leave_one_schema() {
    let database = database().await.unwrap();
    let url = database.url();
    let stores = join_all((0..8).map(|_| pgqrs_postgres::connect(url))).await;
    let stores: Vec<_> = stores.into_iter().map(Result::unwrap).collect();
    for installed in join_all(stores.iter().map(|store| store.install())).await {
        installed.unwrap();
    }
    stores[0].verify().await.unwrap();
    stores[0].install().await.unwrap();
    assert_eq!(query(url, "SELECT count(*) FROM pgqrs.schema_migrations").await, 1);
}

#[tokio::test]
async fn eight_processes_that_install_at_once_leave_one_schema() {
    let database = database().await.unwrap();
    let child = || {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "child_installs", "--ignored", "--nocapture"]);
        command.env(CHILD_URL, database.url()).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    let mut children: Vec<_> = (0..8).map(|_| child()).collect();
    for ended in join_all(children.iter_mut().map(|child| child.wait())).await {
        assert!(ended.unwrap().success());
    }
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.verify().await.unwrap();
    assert_eq!(query(database.url(), "SELECT count(*) FROM pgqrs.schema_migrations").await, 1);
}

#[tokio::test]
#[ignore = "a child of eight_processes_that_install_at_once_leave_one_schema"]
async fn child_installs() {
    let url = env::var(CHILD_URL).expect("run by a test of this file only");
    let store = pgqrs_postgres::connect(&url).await.unwrap();
    store.install().await.unwrap();
    store.verify().await.unwrap();
}

#[tokio::test]
async fn any_name_is_a_schema() {
    let database = database().await.unwrap();
    for name in ["Mixed Case", "it's \"quoted\"", "select", "ünï", "a.b", "$1"] {
        let options = Options { schema: name.into(), ..Options::default() };
        let store = PostgresStore::connect(database.url(), options).await.unwrap();
        store.install().await.unwrap();
        store.verify().await.unwrap();
        pgqrs::admin(&store).create_queue("q").await.unwrap();
        pgqrs::enqueue().message(&name).to("q").execute(&store).await.unwrap();
        let messages = pgqrs::dequeue().from("q").fetch_all(&store).await.unwrap();
        assert_eq!(messages[0].payload, name);
    }
    let url = format!("{}?pgqrs_schema=Mixed%20Case", database.url());
    let store = pgqrs_postgres::connect(&url).await.unwrap();
    assert_eq!(store.queues(QueueFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_newer_schema_is_told_at_connect() {
    let database = database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    execute(database.url(), "INSERT INTO pgqrs.schema_migrations VALUES (99, 'x', 0, now())").await;
    for result in [
        pgqrs_postgres::connect(database.url()).await.map(drop),
        store.install().await,
        store.verify().await,
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::SchemaTooNew { found: 99, .. }), "{error:?}");
        assert!(error.to_string().contains("update the program"), "{error}");
    }
}

#[tokio::test]
async fn drift_is_found_and_named() {
    let database = database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    let drift = "DROP INDEX pgqrs.ready_worker; ALTER TABLE pgqrs.workers DROP COLUMN port;
                 DROP TABLE pgqrs.delayed; UPDATE pgqrs.schema_migrations SET checksum = 0";
    execute(database.url(), drift).await;
    let Err(Error::SchemaDrift { findings }) = store.verify().await else { panic!("no drift") };
    let findings = findings.join("\n");
    for name in ["ready_worker", "workers.port", "delayed", "migration 1"] {
        assert!(findings.contains(name), "{name} in {findings}");
    }
    let error = store.metrics(pgqrs::MetricsFilter::default()).await.unwrap_err();
    assert!(matches!(error, Error::SchemaDrift { .. }), "a missing table: {error:?}");
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
}

async fn query(url: &str, sql: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one(sql, &[]).await.unwrap().get(0)
}

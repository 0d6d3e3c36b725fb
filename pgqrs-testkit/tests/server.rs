//! The throwaway Postgres, with real processes.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    env,
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pgqrs_testkit::server::{Cluster, Durability, Mode, Options, bouncer, database, proxy};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, error::SqlState};

/// Set in a process that a test starts from its own executable.
const CHILD: &str = "PGQRS_TEST_CHILD";

const STARTED: &str = "SELECT pg_postmaster_start_time()::text";

#[tokio::test]
async fn databases_are_empty_and_apart_on_one_server() {
    let (one, two) = (database().await.unwrap(), database().await.unwrap());
    assert_ne!(one.name(), two.name());
    let (in_one, in_two) = (connect(one.url()).await, connect(two.url()).await);
    in_one.batch_execute("CREATE TABLE t ()").await.unwrap();
    let tables = "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(value(&in_one, tables).await, "1");
    assert_eq!(value(&in_two, tables).await, "0");
    assert_eq!(value(&in_one, STARTED).await, value(&in_two, STARTED).await);
}

#[tokio::test]
async fn processes_share_one_server() {
    let database = database().await.unwrap();
    let started = value(&connect(database.url()).await, STARTED).await;
    if env::var_os(CHILD).is_some() {
        println!("\n{started}");
        return;
    }
    let mut child = child("processes_share_one_server");
    let lines: Vec<String> = lines(&mut child).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    assert!(lines.contains(&started), "{lines:?}");
}

#[tokio::test]
async fn a_database_is_dropped_with_its_guard() {
    let (kept, dropped) = (database().await.unwrap(), database().await.unwrap());
    let _still_connected = connect(dropped.url()).await;
    let name = dropped.name().to_owned();
    let count = format!("SELECT count(*)::text FROM pg_database WHERE datname = '{name}'");
    let client = connect(kept.url()).await;
    assert_eq!(value(&client, &count).await, "1");
    drop(dropped);
    assert_eq!(value(&client, &count).await, "0");
}

#[tokio::test]
async fn a_killed_cluster_comes_back_with_what_was_committed() {
    let durable = Options { durability: Durability::Durable, ..Options::default() };
    let cluster = Cluster::start(durable).await.unwrap();
    let database = cluster.database().await.unwrap();
    let client = connect(database.url()).await;
    assert_eq!(value(&client, "SHOW fsync").await, "on");
    client.batch_execute("CREATE TABLE t AS SELECT 'kept' AS v").await.unwrap();

    cluster.kill().await.unwrap();
    assert!(client.batch_execute("SELECT 1").await.is_err());
    assert!(tokio_postgres::connect(database.url(), NoTls).await.is_err());

    cluster.restart().await.unwrap();
    assert_eq!(value(&connect(database.url()).await, "SELECT v FROM t").await, "kept");

    cluster.stop().await.unwrap();
    assert!(tokio_postgres::connect(database.url(), NoTls).await.is_err());
    cluster.restart().await.unwrap();
    assert_eq!(value(&connect(database.url()).await, "SELECT v FROM t").await, "kept");
}

#[tokio::test]
async fn options_reach_the_server() {
    let settings = vec!["max_connections = 17".to_owned()];
    let cluster = Cluster::start(Options { settings, ..Options::default() }).await.unwrap();
    let client = connect(&cluster.url()).await;
    assert_eq!(value(&client, "SHOW max_connections").await, "17");
    assert_eq!(value(&client, "SHOW fsync").await, "off");
}

#[tokio::test]
async fn a_server_ends_with_its_killed_user() {
    if env::var_os(CHILD).is_some() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        println!("\nport {}", cluster.port());
        std::future::pending::<()>().await;
    }
    let mut child = child("a_server_ends_with_its_killed_user");
    let port = lines(&mut child).find_map(|line| line.strip_prefix("port ")?.parse().ok());
    let port: u16 = port.unwrap();
    let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(listens());
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while listens() {
        assert!(Instant::now() < deadline, "the server outlives its user");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_bouncer_gives_clients_other_server_connections_between_transactions() {
    let database = database().await.unwrap();
    let bouncer = bouncer(database.url()).await.unwrap();
    let clients = futures::future::join_all((0..8).map(|_| connect(bouncer.url()))).await;
    assert_eq!(value(&clients[0], "SELECT current_database()::text").await, database.name());

    // A transaction keeps its connection to itself; another client's statements go elsewhere.
    clients[0].batch_execute("BEGIN").await.unwrap();
    let own = server_process(&clients[0]).await;
    clients[1].batch_execute("BEGIN").await.unwrap();
    assert_ne!(server_process(&clients[1]).await, own);
    clients[1].batch_execute("COMMIT").await.unwrap();
    clients[0].batch_execute("COMMIT").await.unwrap();

    // Eight clients, four connections.
    let mut processes = Vec::new();
    for client in &clients {
        client.batch_execute("BEGIN").await.unwrap();
        processes.push(server_process(client).await);
        client.batch_execute("COMMIT").await.unwrap();
    }
    processes.sort();
    processes.dedup();
    assert!(processes.len() <= 4, "{processes:?}");
}

#[tokio::test]
async fn named_prepared_statements_fail_through_the_bouncer() {
    let database = database().await.unwrap();
    let bouncer = bouncer(database.url()).await.unwrap();
    let (one, two) = (connect(bouncer.url()).await, connect(bouncer.url()).await);
    let statement = one.prepare("SELECT 1").await.unwrap();
    // The other client takes the server connection that knows the statement.
    two.batch_execute("BEGIN").await.unwrap();
    let refused = one.query(&statement, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_SQL_STATEMENT_NAME));
}

#[tokio::test]
async fn the_bouncer_ends_with_its_guard() {
    let database = database().await.unwrap();
    let bouncer = bouncer(database.url()).await.unwrap();
    let url = bouncer.url().to_owned();
    drop(bouncer);
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
}

#[tokio::test]
async fn the_proxy_passes_stalls_and_cuts() {
    let database = database().await.unwrap();
    let proxy = proxy(database.url()).await.unwrap();
    let client = connect(proxy.url()).await;
    assert_eq!(value(&client, "SELECT 'through'").await, "through");

    proxy.set(Mode::Stall);
    let mut answer = Box::pin(value(&client, "SELECT 'late'"));
    let patience = Duration::from_millis(100);
    assert!(timeout(patience, &mut answer).await.is_err(), "answered through a stalled proxy");
    let connecting = tokio_postgres::connect(proxy.url(), NoTls);
    assert!(timeout(patience, connecting).await.is_err(), "connected through a stalled proxy");
    proxy.set(Mode::Pass);
    assert_eq!(answer.await, "late");

    proxy.set(Mode::Cut);
    assert!(client.batch_execute("SELECT 1").await.is_err());
    assert!(tokio_postgres::connect(proxy.url(), NoTls).await.is_err());
    proxy.set(Mode::Pass);
    assert_eq!(value(&connect(proxy.url()).await, "SELECT 'again'").await, "again");
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The first value of the first row, which is text. The statement has no name.
async fn value(client: &Client, sql: &str) -> String {
    client.query_typed(sql, &[]).await.unwrap()[0].get(0)
}

async fn server_process(client: &Client) -> String {
    value(client, "SELECT pg_backend_pid()::text").await
}

/// This executable again, with one test.
fn child(test: &str) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(CHILD, "1");
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> {
    BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap)
}

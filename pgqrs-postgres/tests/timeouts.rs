//! The server's own limits on statements and locks, and the fall-back from prepared statements.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::time::Duration;

use pgqrs::{
    Action, Delay, Enqueue, Json, NewMessage, PurgeScope, QueueName, Settle, Settlement, Store,
};
use pgqrs_postgres::{Options, PostgresStore};
use pgqrs_testkit::server::{Database, bouncer, database};
use tokio_postgres::{Client, NoTls};

#[tokio::test]
async fn the_server_ends_a_statement_that_takes_too_long() {
    let database = database().await.unwrap();
    let limit = Some(Duration::from_millis(50));
    let options = Options { statement_timeout: limit, pool_size: 1, ..Options::default() };
    let store = installed(database.url(), options).await;
    let lock = locked(&database, "messages").await;
    let error = store.enqueue(one_message()).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("57014"), "{error}");
    lock.batch_execute("ROLLBACK").await.unwrap();
    store.enqueue(one_message()).await.unwrap();
}

#[tokio::test]
async fn the_server_ends_a_wait_for_a_lock_that_takes_too_long() {
    let database = database().await.unwrap();
    let limit = Some(Duration::from_millis(50));
    let options = Options { lock_timeout: limit, pool_size: 1, ..Options::default() };
    let store = installed(database.url(), options).await;
    let lock = locked(&database, "messages").await;
    let error = store.enqueue(one_message()).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("55P03"), "{error}");
    assert!(error.to_string().contains("doctor()"), "{error}");
    lock.batch_execute("ROLLBACK").await.unwrap();
    store.enqueue(one_message()).await.unwrap();
}

#[tokio::test]
async fn a_long_call_may_take_ten_times_as_long() {
    let database = database().await.unwrap();
    let limit = Some(Duration::from_secs(1));
    let options = Options { statement_timeout: limit, ..Options::default() };
    let store = installed(database.url(), options).await;
    let spied = spy(&database, "queues", "statement_timeout").await;
    pgqrs::admin(&store).purge("q", PurgeScope::Live).await.unwrap();
    pgqrs::admin(&store).delete_queue("q", pgqrs::LiveMessages::Delete).await.unwrap();
    assert_eq!(seen(&spied).await, ["10s"]);
}

#[tokio::test]
async fn limits_are_settings_of_a_direct_session() {
    let database = database().await.unwrap();
    let options = Options {
        statement_timeout: Some(Duration::from_secs(7)),
        lock_timeout: Some(Duration::from_micros(1)),
        ..Options::default()
    };
    let store = installed(database.url(), options).await;
    for (setting, value) in [("statement_timeout", "7s"), ("lock_timeout", "1ms")] {
        let spied = spy(&database, "messages", setting).await;
        store.enqueue(one_message()).await.unwrap();
        assert_eq!(seen(&spied).await, [value]);
        spied.batch_execute("DROP TABLE spied CASCADE; DROP FUNCTION spy() CASCADE").await.unwrap();
    }
}

#[tokio::test]
async fn through_a_pooler_limits_hold_in_transactions_and_leave_no_trace() {
    let database = database().await.unwrap();
    let bouncer = bouncer(database.url()).await.unwrap();
    let limit = Some(Duration::from_secs(7));
    let options = Options { statement_timeout: limit, lock_timeout: limit, ..Options::default() };
    let store = installed(bouncer.url(), options).await;
    store.enqueue(one_message()).await.unwrap();
    store.enqueue(one_message()).await.unwrap();
    let messages = pgqrs::dequeue().from("q").batch(2).fetch_all(&store).await.unwrap();
    let spied = spy(&database, "leases", "lock_timeout").await;
    let actions = [Action::Archive, Action::Release(Delay::ZERO)];
    let settlements = messages.iter().zip(actions);
    let settlements = settlements
        .map(|(message, action)| Settlement { receipt: message.receipt, action })
        .collect();
    store.settle(Settle { settlements, now: None }).await.unwrap();
    let seen = seen(&spied).await;
    assert!(seen.len() >= 2 && seen.iter().all(|limit| limit == "7s"), "{seen:?}");
    // Every session of the pooler is as it was.
    let mut others = Vec::new();
    for _ in 0..4 {
        let client = client(bouncer.url()).await;
        client.batch_execute("BEGIN").await.unwrap();
        let show = client.simple_query("SHOW lock_timeout").await.unwrap();
        let shown = show.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(String::from),
            _ => None,
        });
        assert_eq!(shown.as_deref(), Some("0"));
        others.push(client);
    }
}

/// As through a pooler that could not be told at connect.
#[tokio::test]
async fn lost_prepared_statements_turn_to_unnamed_ones() {
    let database = database().await.unwrap();
    let store = installed(database.url(), Options { pool_size: 1, ..Options::default() }).await;
    store.enqueue(one_message()).await.unwrap();
    let sql = "CREATE TABLE spied (n bigserial, value text);
               CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN
                    INSERT INTO spied (value) SELECT least(count(*), 1) FROM pg_prepared_statements
                    WHERE statement LIKE ''%INSERT INTO%'' AND NOT from_sql;
                    DEALLOCATE ALL;
                    RETURN NULL;
                END';
               CREATE TRIGGER spy AFTER INSERT ON pgqrs.messages EXECUTE FUNCTION spy()";
    let client = client(database.url()).await;
    client.batch_execute(sql).await.unwrap();
    // The first loses what is prepared, the second meets the loss and goes on without.
    for _ in 0..3 {
        store.enqueue(one_message()).await.unwrap();
    }
    assert_eq!(seen(&client).await, ["1", "0", "0"]);
    let finding = store.doctor().await.unwrap().into_iter().find(|one| one.check == "pooler");
    assert_eq!(finding.unwrap().detail, "none; statements are unnamed");
}

async fn installed(url: &str, options: Options) -> PostgresStore {
    let store = PostgresStore::connect(url, options).await.unwrap();
    store.install().await.unwrap();
    pgqrs::admin(&store).create_queue("q").await.unwrap();
    store
}

/// A session that holds a lock on the table until it rolls back.
async fn locked(database: &Database, table: &str) -> Client {
    let client = client(database.url()).await;
    client.batch_execute(&format!("BEGIN; LOCK TABLE pgqrs.{table}")).await.unwrap();
    client
}

/// Notes the setting as the sessions have it that write to the table.
async fn spy(database: &Database, table: &str, setting: &str) -> Client {
    let client = client(database.url()).await;
    let sql = format!(
        "CREATE TABLE spied (n bigserial, value text);
         CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN
              INSERT INTO spied (value) VALUES (current_setting(''{setting}''));
              RETURN NULL;
          END';
         CREATE TRIGGER spy AFTER INSERT OR DELETE ON pgqrs.{table} EXECUTE FUNCTION spy()"
    );
    client.batch_execute(&sql).await.unwrap();
    client
}

async fn seen(client: &Client) -> Vec<String> {
    let rows = client.query("SELECT value FROM spied ORDER BY n", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn one_message() -> Enqueue {
    let queue = QueueName::new("q").unwrap();
    Enqueue { queue, messages: vec![NewMessage::new(Json::new(&1).unwrap())], now: None }
}

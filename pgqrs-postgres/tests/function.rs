//! The SQL function `enqueue`: what it writes, and what it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::time::Duration;

use pgqrs::{LiveMessage, MessageFilter, MessageState, Store};
use pgqrs_postgres::PostgresStore;
use pgqrs_testkit::server::{Database, database};
use tokio_postgres::{Client, NoTls};

/// What both have written, number of the message and times apart.
const ROWS: &str = "
SELECT ((to_jsonb(m) - 'id' - 'enqueued_at') || jsonb_build_object(
    'ready', (SELECT to_jsonb(r) - 'ids' - 'pos' - 'visible_at' || jsonb_build_object(
        'position', r.pos - m.id, 'after', r.visible_at - m.enqueued_at)
        FROM pgqrs.ready r WHERE r.ids = ARRAY[m.id]),
    'delayed', (SELECT to_jsonb(d) - 'ids' - 'pos' - 'visible_at' || jsonb_build_object(
        'position', d.pos - m.id, 'after', d.visible_at - m.enqueued_at)
        FROM pgqrs.delayed d WHERE d.ids = ARRAY[m.id])))::text
FROM pgqrs.messages m WHERE id = $1";

#[tokio::test]
async fn it_writes_the_rows_that_the_store_writes() {
    let (store, client, _database) = scene().await;
    let plain = pgqrs::enqueue().message(&"x").to("q");
    let full = pgqrs::enqueue()
        .message(&serde_json::json!({"a": [1, null]}))
        .headers(&serde_json::json!({"k": "v"}))
        .to("q")
        .priority(9)
        .delay(90)
        .max_attempts(3);
    let pairs = [
        (plain, r#"SELECT pgqrs.enqueue('q', '"x"')"#),
        (
            full,
            r#"SELECT pgqrs.enqueue('q', '{"a":[1,null]}', headers => '{"k":"v"}', priority => 9,
                                    delay => '90 s', max_attempts => 3)"#,
        ),
    ];
    for (builder, sql) in pairs {
        let ours = builder.execute(&store).await.unwrap()[0];
        let theirs: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        let (ours, theirs) = (rows(&client, ours.0).await, rows(&client, theirs).await);
        assert_eq!(ours, theirs);
        assert!(ours.contains(r#""position": 0"#), "{ours}");
    }
}

#[tokio::test]
async fn a_message_of_a_trigger_is_claimed() {
    let (store, client, _database) = scene().await;
    let sql = "
        CREATE TABLE orders (id int, item text);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pgqrs.enqueue('q', to_json(NEW), priority => 7);
            RETURN NEW;
        END $$;
        CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell();
        INSERT INTO orders VALUES (17, E'a \"quoted\" \\\\ item')";
    client.batch_execute(sql).await.unwrap();
    let message = pgqrs::dequeue().from("q").fetch_one(&store).await.unwrap().unwrap();
    assert_eq!(message.payload["item"], "a \"quoted\" \\ item");
    assert_eq!(message.priority.level(), 7);
}

#[tokio::test]
async fn a_delay_counts_from_the_statement() {
    let (store, client, _database) = scene().await;
    let sql = "SELECT pgqrs.enqueue('q', '1', delay => '1 day 30 seconds')";
    client.batch_execute(sql).await.unwrap();
    let message = only_message(&store).await;
    assert_eq!(message.state, MessageState::Delayed);
    let delay = message.visible_at - message.enqueued_at;
    assert_eq!(delay.to_std().unwrap(), Duration::from_secs(24 * 60 * 60 + 30));
}

#[tokio::test]
async fn a_message_at_the_limit_is_taken() {
    let (store, client, _database) = scene().await;
    let quotes = r#"length('""')"#;
    let sql = format!("SELECT pgqrs.enqueue('q', to_json(repeat('x', 1048576 - {quotes})))");
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(only_message(&store).await.payload.size(), pgqrs::DEFAULT_PAYLOAD_LIMIT);
}

#[tokio::test]
async fn what_it_refuses_has_a_code_and_a_remedy() {
    let (store, client, _database) = scene().await;
    let cases = [
        ("'no', '1'", "42704", r#"queue "no" does not exist"#, r#"create_queue("no")"#),
        ("'q', NULL::text", "22004", "payload", "'null'"),
        ("NULL, '1'", "22004", "queue", "null"),
        ("'q', '{oops'", "22P02", "payload is not JSON", "to_json(value)"),
        ("'q', '1', '{oops'", "22P02", "headers is not JSON", "to_json(value)"),
        ("'q', '1', '[1]'", "22023", "JSON array", r#"{"name": "value"}"#),
        ("'q', '1', priority => 10", "22003", "priority 10", "leave it out"),
        ("'q', '1', priority => -1", "22003", "0 to 9", "leave it out"),
        ("'q', '1', delay => '-1 s'", "22003", "0 to 10 years", "leave it out"),
        ("'q', '1', delay => '3651 days'", "22003", "delay 3651 days", "interval"),
        ("'q', '1', max_attempts => 0", "22003", "1 to 32767", "setting of the queue"),
        ("'q', '1', max_attempts => 32768", "22003", "max_attempts 32768", "queue"),
        ("'q', to_json(repeat('x', 1048576))", "54000", "1048578 bytes", "payload_limit"),
        (
            "'q', '1', json_build_object('k', repeat('x', 1048576))::text",
            "54000",
            "headers has",
            "this store",
        ),
    ];
    for (arguments, code, said, remedy) in cases {
        let sql = format!("SELECT pgqrs.enqueue({arguments})");
        let error = client.batch_execute(&sql).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), code, "{arguments}: {error:?}");
        assert!(error.message().contains(said), "{arguments}: {error:?}");
        let hint = format!("{} {}", error.message(), error.hint().unwrap()).to_lowercase();
        assert!(hint.contains(&remedy.to_lowercase()), "{arguments}: {error:?}");
    }
    assert!(store.messages(MessageFilter::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn it_finds_its_tables_whatever_the_search_path() {
    let (store, client, _database) = scene().await;
    let sql = "CREATE SCHEMA other; CREATE TABLE other.messages (); CREATE TABLE other.queues ();
               SET search_path = other, public; SELECT pgqrs.enqueue('q', '1')";
    client.batch_execute(sql).await.unwrap();
    assert_eq!(only_message(&store).await.payload.as_str(), "1");
}

#[tokio::test]
async fn a_paused_queue_takes_messages_and_a_rollback_takes_them_back() {
    let (store, client, _database) = scene().await;
    pgqrs::admin(&store).pause("q").await.unwrap();
    client.batch_execute("BEGIN; SELECT pgqrs.enqueue('q', '1'); ROLLBACK").await.unwrap();
    assert!(store.messages(MessageFilter::default()).await.unwrap().is_empty());
    client.batch_execute("BEGIN; SELECT pgqrs.enqueue('q', '2'); COMMIT").await.unwrap();
    assert_eq!(only_message(&store).await.payload.as_str(), "2");
}

async fn scene() -> (PostgresStore, Client, Database) {
    let database = database().await.unwrap();
    let store = pgqrs_postgres::connect(database.url()).await.unwrap();
    store.install().await.unwrap();
    pgqrs::admin(&store).create_queue("q").await.unwrap();
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    (store, client, database)
}

async fn rows(client: &Client, id: i64) -> String {
    client.query_one(ROWS, &[&id]).await.unwrap().get(0)
}

async fn only_message(store: &PostgresStore) -> LiveMessage {
    let messages = store.messages(MessageFilter::default());
    let [message] = <[LiveMessage; 1]>::try_from(messages.await.unwrap()).unwrap();
    message
}

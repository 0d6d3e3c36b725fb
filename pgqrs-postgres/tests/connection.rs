//! Connections: errors that name the remedy, timeouts, and no connection reused after a cut call.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]

use std::time::Duration;

use pgqrs::{
    BatchSize, Claim, DeadLetters, Enqueue, Error, Json, Message, MessageFilter, MetricsFilter,
    NewMessage, QueueFilter, QueueName, Redrive, Store,
};
use pgqrs_postgres::{Options, PostgresStore, StatementMode};
use pgqrs_testkit::server::{self, Cluster, Database, database};
use tokio_postgres::{Client, NoTls};

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_and_named() {
    // Port 1 of this machine: nothing listens there.
    let error = pgqrs_postgres::connect("postgresql://u:secret@127.0.0.1:1/db").await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("check that the server runs") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unavailable() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgresql://u@{}/db", silent.local_addr().unwrap());
    let options = Options { connect_timeout: Duration::from_millis(50), ..Options::default() };
    let error = PostgresStore::connect(&url, options).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("in time"), "{error}");
}

#[tokio::test]
async fn a_bad_url_is_named_without_its_password() {
    let error = pgqrs_postgres::connect("postgresql://u:secret@h:port/db").await.unwrap_err();
    assert!(matches!(error, Error::InvalidUrl { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn a_missing_database_is_named_with_the_remedy() {
    let database = database().await.unwrap();
    let url = database.url().replace(database.name(), "no_such_database");
    let error = pgqrs_postgres::connect(&url).await.unwrap_err().to_string();
    assert!(error.contains("no_such_database") && error.contains("CREATE DATABASE"), "{error}");
}

#[tokio::test]
async fn a_user_without_rights_is_told_which_grant_is_missing() {
    let database = database().await.unwrap();
    let admin = client(&database).await;
    let role = database.name();
    admin.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let url = database.url().replace("//postgres@", &format!("//{role}@"));
    assert_ne!(url, database.url(), "the test's server is used as postgres, without password");
    let store = pgqrs_postgres::connect(&url).await.unwrap();
    let error = store.install().await.unwrap_err();
    let dropped = admin.batch_execute(&format!("DROP ROLE {role}")).await;
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("GRANT CREATE ON DATABASE"), "{error}");
    dropped.unwrap();
}

#[tokio::test]
async fn a_role_that_does_not_exist_is_refused() {
    let database = database().await.unwrap();
    let url = database.url().replace("//postgres@", "//nobody_knows_me@");
    let error = pgqrs_postgres::connect(&url).await.unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("check user and password"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_never_shown() {
    let hba = vec!["host all guarded 127.0.0.1/32 scram-sha-256".into()];
    let cluster = Cluster::start(server::Options { hba, ..Default::default() }).await.unwrap();
    let database = cluster.database().await.unwrap();
    let role = "CREATE ROLE guarded LOGIN PASSWORD 'open sesame'";
    client(&database).await.batch_execute(role).await.unwrap();
    let url = |login: &str| database.url().replace("//postgres@", &format!("//guarded{login}@"));
    pgqrs_postgres::connect(&url(":open%20sesame")).await.unwrap();
    for login in [":open%20barley", ""] {
        let error = pgqrs_postgres::connect(&url(login)).await.unwrap_err();
        assert!(matches!(error, Error::PermissionDenied { .. }), "{login}: {error:?}");
        assert!(error.to_string().contains("check user and password"), "{login}: {error}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("barley"), "{text}");
    }
}

#[tokio::test]
async fn a_stuck_call_times_out_and_its_connection_is_not_reused() {
    let database = database().await.unwrap();
    let options =
        Options { pool_size: 1, call_timeout: Duration::from_millis(200), ..Options::default() };
    let store = installed(&database, options).await;
    let mut blocker = client(&database).await;
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE pgqrs.messages").await.unwrap();

    let error = store.enqueue(one_message()).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("200ms"), "{error}");
    // The only connection of the pool is another one by now, and free.
    assert_eq!(store.queues(QueueFilter::default()).await.unwrap().len(), 1);

    lock.rollback().await.unwrap();
    until_idle(&database).await;
    assert_eq!(live(&store).await, 0, "the cancelled enqueue took effect");
    store.enqueue(one_message()).await.unwrap();
    assert_eq!(live(&store).await, 1);
}

#[tokio::test]
async fn a_dropped_read_is_cancelled_and_its_connection_is_not_reused() {
    let database = database().await.unwrap();
    let store = installed(&database, Options { pool_size: 1, ..Options::default() }).await;
    let mut blocker = client(&database).await;
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE pgqrs.leases").await.unwrap();
    let call = tokio::spawn({
        let store = store.clone();
        async move { store.messages(MessageFilter::default()).await }
    });
    until_blocked(&database).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(store.queues(QueueFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_dropped_claim_goes_on_and_gives_back() {
    let database = database().await.unwrap();
    let store = installed(&database, Options::default()).await;
    store.enqueue(one_message()).await.unwrap();
    let mut blocker = client(&database).await;
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE pgqrs.leases").await.unwrap();
    let call = tokio::spawn({
        let store = store.clone();
        async move { store.claim(one_claim()).await }
    });
    until_blocked(&database).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    lock.rollback().await.unwrap();
    let [message] = loop {
        let claimed = store.claim(one_claim()).await.unwrap();
        if let Ok(message) = <[Message; 1]>::try_from(claimed.messages) {
            break message;
        }
    };
    // Of the two claims one was given back.
    assert_eq!(message.attempts, 1);
}

#[tokio::test]
async fn a_dropped_enqueue_happens_wholly() {
    let database = database().await.unwrap();
    let store = installed(&database, Options::default()).await;
    let mut blocker = client(&database).await;
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE pgqrs.messages").await.unwrap();
    let call = tokio::spawn({
        let store = store.clone();
        async move { store.enqueue(one_message()).await }
    });
    until_blocked(&database).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    lock.rollback().await.unwrap();
    until_idle(&database).await;
    assert_eq!(live(&store).await, 1);
}

/// Q2: what adds live messages waits for a deletion of the queue in flight.
#[tokio::test]
async fn a_redrive_waits_for_a_deletion_of_its_queue() {
    let database = database().await.unwrap();
    let store = installed(&database, Options::default()).await;
    let mut blocker = client(&database).await;
    let deletion = blocker.transaction().await.unwrap();
    deletion.batch_execute("SELECT FROM pgqrs.queues FOR UPDATE").await.unwrap();
    let redrive = Redrive {
        queue: one_message().queue,
        letters: DeadLetters::Oldest(BatchSize::ONE),
        now: None,
    };
    let mut redriving = std::pin::pin!(store.redrive(redrive));
    tokio::select! {
        done = &mut redriving => panic!("it did not wait: {done:?}"),
        () = until_blocked(&database) => {}
    }
    deletion.batch_execute("DELETE FROM pgqrs.queues").await.unwrap();
    deletion.commit().await.unwrap();
    assert!(matches!(redriving.await, Err(Error::QueueNotFound { .. })));
}

/// Calls that share a statement: the error goes to the one whose data it is.
#[tokio::test]
async fn a_message_that_is_too_large_sinks_no_other() {
    let database = database().await.unwrap();
    let store = installed(&database, Options { pool_size: 1, ..Options::default() }).await;
    let mut blocker = client(&database).await;
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE pgqrs.messages").await.unwrap();
    let mut calls = Vec::new();
    for number in 0..20 {
        let size = if number == 7 { pgqrs::DEFAULT_PAYLOAD_LIMIT } else { 10 };
        let payload = Json::new(&"x".repeat(size)).unwrap();
        let enqueue = Enqueue { messages: vec![NewMessage::new(payload)], ..one_message() };
        let store = store.clone();
        calls.push(tokio::spawn(async move { store.enqueue(enqueue).await }));
    }
    // The first ones wait for the lock, the others for them: these share a statement.
    until_blocked(&database).await;
    lock.rollback().await.unwrap();
    for (number, call) in calls.into_iter().enumerate() {
        match (number, call.await.unwrap()) {
            (7, Err(Error::PayloadTooLarge { index: 0, .. })) => {}
            (7, other) => panic!("{other:?}"),
            (_, outcome) => assert_eq!(outcome.unwrap().len(), 1),
        }
    }
    assert_eq!(live(&store).await, 19);
}

#[tokio::test]
async fn connections_that_the_server_closed_are_replaced() {
    let database = database().await.unwrap();
    let store = installed(&database, Options { pool_size: 1, ..Options::default() }).await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let killed: i64 = client(&database).await.query_one(kill, &[]).await.unwrap().get(0);
    assert!(killed >= 1);
    // The first call may find its connection closed before the pool has noticed.
    let first = store.queues(QueueFilter::default()).await;
    assert!(first.as_ref().err().is_none_or(Error::is_unavailable), "{first:?}");
    assert_eq!(store.queues(QueueFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn unnamed_statements_leave_no_prepared_ones_behind() {
    for (statements, expected) in [(StatementMode::Unnamed, 0), (StatementMode::Prepared, 1)] {
        let database = database().await.unwrap();
        let options = Options { pool_size: 1, statements, ..Options::default() };
        let store = installed(&database, options).await;
        // A trigger runs in the store's own session: it counts what is prepared there.
        let spy = "CREATE TABLE spied (n bigint);
                   CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS
                   'BEGIN INSERT INTO spied SELECT count(*) FROM pg_prepared_statements
                    WHERE NOT from_sql; RETURN NULL; END';
                   CREATE TRIGGER spy AFTER INSERT ON pgqrs.messages EXECUTE FUNCTION spy()";
        let client = client(&database).await;
        client.batch_execute(spy).await.unwrap();
        store.enqueue(one_message()).await.unwrap();
        let claim = Claim {
            queue: QueueName::new("q").unwrap(),
            worker: None,
            limit: BatchSize::ONE,
            timeout: None,
            now: None,
        };
        assert_eq!(store.claim(claim).await.unwrap().messages.len(), 1);
        let prepared: i64 = client.query_one("SELECT n FROM spied", &[]).await.unwrap().get(0);
        assert_eq!(prepared.min(1), expected, "{statements:?}");
    }
}

async fn installed(database: &Database, options: Options) -> PostgresStore {
    let store = PostgresStore::connect(database.url(), options).await.unwrap();
    store.install().await.unwrap();
    pgqrs::admin(&store).create_queue("q").await.unwrap();
    store
}

fn one_message() -> Enqueue {
    let queue = QueueName::new("q").unwrap();
    Enqueue { queue, messages: vec![NewMessage::new(Json::new(&1).unwrap())], now: None }
}

async fn live(store: &PostgresStore) -> u64 {
    store.metrics(MetricsFilter::default()).await.unwrap()[0].live()
}

async fn client(database: &Database) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Waits until no statement runs in the database but this one.
async fn until_idle(database: &Database) {
    let busy = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state = 'active'
                  AND pid <> pg_backend_pid()";
    let observer = client(database).await;
    while observer.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
}

fn one_claim() -> Claim {
    let queue = one_message().queue;
    Claim { queue, worker: None, limit: BatchSize::ONE, timeout: None, now: None }
}

/// Waits until a statement waits for a lock.
async fn until_blocked(database: &Database) {
    let observer = client(database).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
}

//! Run loops in processes of their own, while the server and the network fail.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic fails the test")]
#![cfg(unix)]

use std::{env, time::Duration};

use pgqrs::{QueueFilter, Reach, Store};
use pgqrs_postgres::{Notifications, Options, PostgresStore};
use pgqrs_testkit::{
    chaos::Program,
    server::{self, Cluster, Database, Mode, bouncer, database, proxy},
    workers::{self, Work, Worker, add, all_archived, assert_adds_up, until},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::NoTls;

/// Enough for the outages to fall into the middle of it.
const MESSAGES: usize = 3_000;
const WORK: Work =
    Work { concurrency: 8, takes: Duration::from_millis(30), lease: Duration::from_secs(4) };
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_killed_workers_messages_are_handled_within_20_seconds() {
    let (store, program, _database) = fresh().await;
    workers::a_killed_workers_messages_are_handled_within_20_seconds(&store, program).await;
}

#[tokio::test]
async fn a_frozen_worker_settles_nothing_late() {
    let (store, program, _database) = fresh().await;
    workers::a_frozen_worker_settles_nothing_late(&store, program).await;
}

#[tokio::test]
async fn a_worker_asked_to_stop_under_load_leaves_nothing_leased() {
    let (store, program, _database) = fresh().await;
    workers::a_worker_asked_to_stop_under_load_leaves_nothing_leased(&store, program).await;
}

/// For 10 seconds, or as many as `PGQRS_WEATHER_SECONDS` says.
#[tokio::test]
async fn connections_terminated_every_2_seconds_lose_nothing() {
    let (store, program, database) = fresh().await;
    let seconds = env::var("PGQRS_WEATHER_SECONDS").ok().and_then(|text| text.parse().ok());
    let rounds = seconds.unwrap_or(10) / 2;
    let messages = MESSAGES * 2 * rounds / 5;
    for chunk in (0..messages).collect::<Vec<_>>().chunks(5_000) {
        add(&store, chunk.len()).await;
    }
    let crew = [Worker::start(&program, WORK), Worker::start(&program, WORK)];
    all_begun(&crew).await;
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for _ in 0..rounds {
        let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let terminated: i64 = client.query_one(terminate, &[]).await.unwrap().get(0);
        assert!(terminated >= 2, "{terminated} connections");
        sleep(Duration::from_secs(2)).await;
    }
    end(&store, messages, crew).await;
}

#[tokio::test]
async fn a_server_stopped_killed_and_started_again_loses_nothing() {
    let cluster = Cluster::start(server::Options::default()).await.unwrap();
    let database = cluster.database().await.unwrap();
    let (store, program) = on(database.url()).await;
    add(&store, MESSAGES).await;
    let crew = [Worker::start(&program, WORK), Worker::start(&program, WORK)];
    all_begun(&crew).await;
    outage(&cluster, async |cluster| cluster.stop().await.unwrap()).await;
    all_begun(&crew).await;
    outage(&cluster, async |cluster| cluster.kill().await.unwrap()).await;
    end(&store, MESSAGES, crew).await;
}

/// How long the server is away: longer than a lease lasts.
async fn outage(cluster: &Cluster, fell: impl AsyncFnOnce(&Cluster)) {
    fell(cluster).await;
    sleep(WORK.lease + Duration::from_secs(1)).await;
    cluster.restart().await.unwrap();
}

#[tokio::test]
async fn a_network_that_stalls_and_cuts_loses_nothing() {
    let database = database().await.unwrap();
    let (store, _) = on(database.url()).await;
    let proxy = proxy(database.url()).await.unwrap();
    let program = Program { test: "worker", url: proxy.url().to_owned() };
    add(&store, MESSAGES).await;
    let crew = [Worker::start(&program, WORK), Worker::start(&program, WORK)];
    all_begun(&crew).await;
    // A short stall, one longer than leases last, a cut, and a black hole that ends in a cut.
    for (mode, seconds) in [(Mode::Stall, 1), (Mode::Stall, 6), (Mode::Cut, 2), (Mode::Stall, 3)] {
        proxy.set(mode);
        sleep(Duration::from_secs(seconds)).await;
        proxy.set(if seconds == 3 { Mode::Cut } else { Mode::Pass });
        sleep(Duration::from_millis(500)).await;
    }
    proxy.set(Mode::Pass);
    end(&store, MESSAGES, crew).await;
}

#[tokio::test]
async fn another_processs_enqueue_is_picked_up_far_before_the_next_look() {
    let (store, program, _database) = fresh().await;
    add(&store, 1).await;
    let worker = Worker::start(&program, WORK);
    all_begun(std::slice::from_ref(&worker)).await;
    // The listener may not have proved itself yet, so the first ones may come by polling.
    let mut waits = Vec::new();
    for round in 1..=15 {
        // By now the loop waits for its next look.
        until("its end", PATIENCE, || (worker.told().ended.len() == round).then_some(())).await;
        sleep(Duration::from_millis(100)).await;
        let enqueued = Instant::now();
        add(&store, 1).await;
        until("the pick-up", PATIENCE, || (worker.told().began.len() > round).then_some(())).await;
        waits.push(enqueued.elapsed());
    }
    let mut late = waits.split_off(5);
    late.sort();
    assert!(late[late.len() / 2] < Duration::from_millis(200), "{late:?}");
    worker.stop().await;
}

#[tokio::test]
async fn an_enqueue_right_after_another_is_told_of_too() {
    let (store, _, database) = fresh().await;
    add(&store, 1).await;
    let other = connect(database.url(), Notifications::On).await;
    let queue = store.queues(QueueFilter::default()).await.unwrap().remove(0).name;
    let mut wakeups = store.wakeups(&queue).unwrap();
    until("the listener", PATIENCE, || (wakeups.reach() == Reach::Everywhere).then_some(())).await;
    for _ in 0..10 {
        add(&other, 1).await;
        timeout(PATIENCE, wakeups.wait()).await.unwrap();
        // Within the time in which no other notification goes out.
        wakeups.forget();
        add(&other, 1).await;
        timeout(PATIENCE, wakeups.wait()).await.unwrap();
    }
}

#[tokio::test]
async fn without_notifications_messages_arrive_by_polling() {
    let (store, program, _database) = fresh().await;
    add(&store, 1).await;
    let worker = Worker::start(&Program { test: "polling_worker", ..program }, WORK);
    all_begun(std::slice::from_ref(&worker)).await;
    for round in 2..5 {
        add(&store, 1).await;
        until("a look", PATIENCE, || (worker.told().began.len() == round).then_some(())).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn through_a_transaction_pooler_messages_arrive_by_polling() {
    let (store, program, database) = fresh().await;
    let bouncer = bouncer(database.url()).await.unwrap();
    add(&store, 1).await;
    let worker = Worker::start(&Program { url: bouncer.url().to_owned(), ..program }, WORK);
    all_begun(std::slice::from_ref(&worker)).await;
    for round in 2..5 {
        add(&store, 1).await;
        until("a look", PATIENCE, || (worker.told().began.len() == round).then_some(())).await;
    }
    worker.stop().await;
}

#[test]
#[ignore = "the body of the workers that the other tests start"]
fn worker() {
    workers::child(async |url| connect(&url, Notifications::On).await);
}

#[test]
#[ignore = "the body of the workers that the other tests start"]
fn polling_worker() {
    workers::child(async |url| connect(&url, Notifications::Off).await);
}

/// All is archived in time, the workers stop, and the counts add up.
async fn end(store: &PostgresStore, messages: usize, crew: [Worker; 2]) {
    all_archived(store, messages as u64, PATIENCE).await;
    let mut told = Vec::new();
    for worker in crew {
        told.push(worker.stop().await);
    }
    assert_adds_up(store, messages, &told).await;
}

/// Each worker has begun something since now.
async fn all_begun(crew: &[Worker]) {
    for worker in crew {
        let before = worker.told().began.len();
        until("its work", PATIENCE, || (worker.told().began.len() > before).then_some(())).await;
    }
}

async fn fresh() -> (PostgresStore, Program, Database) {
    let database = database().await.unwrap();
    let (store, program) = on(database.url()).await;
    (store, program, database)
}

async fn on(url: &str) -> (PostgresStore, Program) {
    let store = connect(url, Notifications::On).await;
    store.install().await.unwrap();
    (store, Program { test: "worker", url: url.to_owned() })
}

/// With a timeout that notices a stalled network within the tests' patience.
async fn connect(url: &str, notifications: Notifications) -> PostgresStore {
    let call_timeout = Duration::from_secs(2);
    let connect_timeout = Duration::from_secs(2);
    let options = Options { notifications, call_timeout, connect_timeout, ..Options::default() };
    PostgresStore::connect(url, options).await.unwrap()
}
